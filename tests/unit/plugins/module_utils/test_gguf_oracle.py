# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the real llama.cpp says of the same files: its bytes of a merge, and which headers it loads."""

from __future__ import annotations

import contextlib
import random
import shutil
from pathlib import Path

import gguf_build as build
import pytest
from gguf_cases import LLAMA_CPP_BAD, LLAMA_CPP_GOOD

from ansible_collections.llmfleet.serving.plugins.module_utils._errors import LlmError
from ansible_collections.llmfleet.serving.plugins.module_utils._files import sha256_file
from ansible_collections.llmfleet.serving.plugins.module_utils._gguf import TENSOR_TYPES, ValueType, read_header
from ansible_collections.llmfleet.serving.plugins.module_utils._gguf_files import LocalMerge, open_gguf
from testbed import models
from testbed.tools import tool

MODELS = 240
MUTATIONS = 400

# One shell for all files: starting a container for each would take minutes.
MERGE_ALL = """
set -e
for whole in whole/*.gguf; do
    number=$(basename "$whole" .gguf)
    mkdir "shards/$number"
    llama-gguf-split --split $(cat "whole/$number.options") "$whole" "shards/$number/model" >>log 2>&1
done
for folder in shards/*; do
    number=$(basename "$folder")
    llama-gguf-split --merge "$folder"/model-00001-of-*.gguf "real/$number.gguf" >>log 2>&1
done
"""

# Planning a split loads the header and writes nothing.
LOAD_ALL = """
for file in *; do
    llama-gguf-split --split --dry-run "$file" out >/dev/null 2>&1 && echo "$file"
done
"""


def loadable(folder: Path) -> set[str]:
    """Names of the files that llama.cpp loads the header of."""
    return set(tool(folder, "sh", "-c", LOAD_ALL, check=False).stdout.split())


def write_model(folder: Path, seed: int) -> None:
    """Half of the models are split by the real tool, half by our own writer, which keeps what the tool normalises."""
    rng = random.Random(seed)
    keys = build.random_keys(rng)
    tensors = build.random_tensors(rng, rng.randrange(1, 41))
    shards = rng.randrange(1, 21)
    version = rng.choice((2, 3))
    if seed % 2:
        parts = build.random_parts(rng, tensors, shards)
        target = folder / "shards" / f"{seed:03d}"
        target.mkdir()
        build.write_shards(target, build.shards(keys, parts, version=version))
        return
    per_shard = -(-len(tensors) // shards)
    options = f"--split-max-tensors {per_shard}" + rng.choice(("", " --no-tensor-first-split"))
    (folder / "whole" / f"{seed:03d}.options").write_text(options)
    (folder / "whole" / f"{seed:03d}.gguf").write_bytes(build.whole(keys, tensors, version=version))


@pytest.mark.bed
def test_same_bytes_as_the_real_tool_on_random_models(tmp_path):
    for name in ("whole", "shards", "real", "ours"):
        (tmp_path / name).mkdir()
    for seed in range(MODELS):
        write_model(tmp_path, seed)
    tool(tmp_path, "sh", "-c", MERGE_ALL)

    shard_counts, kinds, types = set(), set(), set()
    for seed in range(MODELS):
        folder = tmp_path / "shards" / f"{seed:03d}"
        ours = tmp_path / "ours" / f"{seed:03d}.gguf"
        merge = LocalMerge(sorted(folder.iterdir()), ours)
        merge.write(finish=lambda _unused: None)
        assert sha256_file(ours) == sha256_file(tmp_path / "real" / f"{seed:03d}.gguf"), f"model {seed}"
        shard_counts.add(len(merge.shards))
        kinds |= {item.type for shard in merge.shards for item in shard.header.keys}
        types |= {tensor.type for shard in merge.shards for tensor in shard.header.tensors}

    # The comparison means something only if the models were as varied as they should be.
    assert shard_counts >= set(range(1, 21))
    assert kinds == set(ValueType) - {ValueType.ARRAY}
    assert types == set(TENSOR_TYPES)


@pytest.mark.bed
@pytest.mark.parametrize("pattern", ["unsloth/DeepSeek-R1-GGUF/*/*.gguf", "bed/tiny-llama-GGUF/*.gguf"])
def test_same_bytes_as_the_real_tool_on_models_that_load(tmp_path, pattern):
    shards = [Path(shutil.copy(path, tmp_path)) for path in sorted(models.ensure().glob(pattern))]
    tool(tmp_path, "llama-gguf-split", "--merge", shards[0].name, "real")
    LocalMerge(shards, tmp_path / "ours").write(finish=lambda _unused: None)
    assert sha256_file(tmp_path / "ours") == sha256_file(tmp_path / "real")


@pytest.mark.bed
def test_another_alignment_loads_where_the_real_merge_does_not(tmp_path):
    keys, parts = build.small_model()
    first = build.write_shards(tmp_path, build.shards(keys, parts, alignment=64))[0]
    tool(tmp_path, "llama-gguf-split", "--merge", first.name, "real")
    LocalMerge([first], tmp_path / "ours").write(finish=lambda _unused: None)
    assert {"real", "ours"} & loadable(tmp_path) == {"ours"}


@pytest.mark.bed
def test_llama_cpp_agrees_on_handcrafted_headers(tmp_path):
    files = {**LLAMA_CPP_GOOD, **{name: data for name, (data, _unused) in LLAMA_CPP_BAD.items()}}
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    # The size of a tensor is unsigned there: only memory for the data would fail, which the dry run does not ask for.
    assert loadable(tmp_path) - {"DATA_MEM_SIZE_OVERFLOW"} == set(LLAMA_CPP_GOOD)


@pytest.mark.bed
def test_llama_cpp_loads_whatever_we_accept(tmp_path):
    rng = random.Random(0)
    sound = build.whole(build.random_keys(rng), build.random_tensors(rng, 3))
    size = read_header(lambda offset, count: sound[offset : offset + count], len(sound), "x").data_offset
    accepted = set()
    for number in range(MUTATIONS):
        content = bytearray(sound)
        for _unused in range(rng.randrange(1, 3)):
            content[rng.randrange(size)] = rng.choice((0, 1, 2, 255, rng.randrange(256)))
        (tmp_path / str(number)).write_bytes(content)
        with contextlib.suppress(LlmError):
            open_gguf(tmp_path / str(number))
            accepted.add(str(number))
    assert accepted <= loadable(tmp_path)
    assert MUTATIONS / 10 < len(accepted) < MUTATIONS
