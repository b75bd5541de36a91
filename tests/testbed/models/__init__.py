# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Real, loadable models with random weights, the same bytes for the same seed.

They answer every prompt with a short readable story (see :mod:`testbed.models.vocabulary`), in llama.cpp, in every
Ollama since v0.5.11 and, as Hugging Face folders, in transformers and what is built on it.
"""

from __future__ import annotations

import importlib.metadata
import tempfile
from pathlib import Path

from testbed.cache import cache_dir, key_of, locked
from testbed.models.architectures import model_of
from testbed.models.gguf_files import write_gguf, write_shards
from testbed.models.hf_files import write_safetensors

TINY = 1_000_000

_CARD = """\
# {repository}

Random weights of the llmfleet.serving test bed. The files are real and load in real engines; the answers mean nothing.
"""


def make(
    folder: Path, name: str, *, architecture: str = "deepseek2", size: int = TINY, shards: int = 1, seed: int = 0
) -> list[Path]:
    """Write one GGUF model and return its files in order: ``NAME.gguf``, or with several shards
    ``NAME-00001-of-0000N.gguf`` and so on, split by llama-gguf-split.

    :param folder: made if it is missing.
    :param architecture: ``llama`` or ``deepseek2``.
    :param size: bytes of weights, met within half a layer. At most one tensor (50 MB at 4 GB) is in memory at a time.
    :raises ValueError: for an unknown architecture, or a number of shards that this model cannot be split into.
    :raises BedError: if llama-gguf-split fails or there is no Docker engine to run it.
    """
    if shards < 1:
        raise ValueError(f"{name}: expected at least 1 shard, found {shards}")
    model = model_of(architecture, size)
    folder.mkdir(parents=True, exist_ok=True)
    if shards > 1:
        return write_shards(folder, name, model, shards, seed)
    path = folder / f"{name}.gguf"
    write_gguf(path, model, seed)
    return [path]


def ensure(root: Path | None = None) -> Path:
    """Return a folder of model repositories, ``<owner>/<name>/...`` as the hub serves them; made at the first call.

    - ``unsloth/DeepSeek-R1-GGUF``: deepseek2 in the nine shards of the original procedure, ``DeepSeek-R1-Q4_K_M/...``.
    - ``bed/tiny-llama-GGUF``: llama in three shards.
    - ``bed/tiny-llama``: llama as a Hugging Face folder.
    - ``bed/gated-GGUF``: llama in two shards, with the marker of a repository that asks for a token.

    :param root: where to keep it; the bed's cache by default. The folder returned lies below and is named after what
        it was made from.
    """
    store = root or cache_dir() / "models"
    hub = store / key_of(Path(__file__).parent, importlib.metadata.version("gguf"))
    store.mkdir(parents=True, exist_ok=True)
    with locked("models"):
        if not hub.is_dir():
            with tempfile.TemporaryDirectory(dir=store) as unfinished:
                _fill(Path(unfinished, "hub"))
                Path(unfinished, "hub").rename(hub)
    return hub


def _fill(hub: Path) -> None:
    r1 = "DeepSeek-R1-Q4_K_M"
    make(_repository(hub, "unsloth/DeepSeek-R1-GGUF") / r1, r1, shards=9)
    make(_repository(hub, "bed/tiny-llama-GGUF"), "tiny-llama", architecture="llama", shards=3)
    make(_repository(hub, "bed/gated-GGUF"), "gated", architecture="llama", shards=2, seed=1)
    (hub / "bed/gated-GGUF/.gated").touch()
    write_safetensors(_repository(hub, "bed/tiny-llama"), model_of("llama", TINY), seed=0)


def _repository(hub: Path, name: str) -> Path:
    folder = hub / name
    folder.mkdir(parents=True)
    (folder / "README.md").write_text(_CARD.format(repository=name))
    return folder
