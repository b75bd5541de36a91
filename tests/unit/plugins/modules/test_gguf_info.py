# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import gguf_build as build
import pytest
import yaml

from ansible_collections.llmfleet.serving.plugins.modules import gguf_info


@pytest.fixture
def shards(tmp_path):
    return build.write_shards(tmp_path, build.shards(*build.small_model()))


def test_tells_what_the_first_shard_says(run_module, shards):
    result = run_module(gguf_info, src=str(shards[0]))
    sizes = result.pop("size")
    assert result == {
        "changed": False,
        "architecture": "llama",
        "name": "Small",
        "quantization": "Q4_K_M",
        "parameters": 5 + 256 * 3,
        "context_length": 4096,
        "block_count": 3,
        "tokenizer": "gpt2",
        "version": 3,
        "alignment": 32,
        "tensors": 2,
        "tensor_types": {"F32": 1, "Q4_K": 1},
        "split": {"no": 0, "count": 3, "tensors": 6},
        "complete": True,
    }
    assert sizes["file"] == shards[0].stat().st_size == sizes["header"] + sizes["data"]


def test_tells_nothing_that_a_later_shard_does_not_say(run_module, shards):
    result = run_module(gguf_info, src=str(shards[1]))
    unknown = ("architecture", "name", "quantization", "context_length", "block_count", "tokenizer")
    assert [result[name] for name in unknown] == [None] * len(unknown)
    assert result["split"] == {"no": 1, "count": 3, "tensors": 6}


def test_a_file_that_is_no_shard_has_no_split(run_module, tmp_path):
    keys, parts = build.small_model(1)
    (tmp_path / "x.gguf").write_bytes(build.whole(keys, parts[0]))
    assert run_module(gguf_info, src=str(tmp_path / "x.gguf"))["split"] is None


def test_returns_what_is_documented(run_module, shards):
    result = run_module(gguf_info, src=str(shards[0]))
    documented = yaml.safe_load(gguf_info.RETURN)
    assert set(result) == {"changed", *documented}
    for name in ("size", "split"):
        assert set(result[name]) == set(documented[name]["contains"])


def test_check_mode_tells_the_same(run_module, shards):
    assert run_module(gguf_info, src=str(shards[0]), check=True) == run_module(gguf_info, src=str(shards[0]))


@pytest.mark.parametrize("cut", [1, 400])
def test_a_truncated_file_is_not_complete(run_module, shards, cut):
    with shards[0].open("r+b") as file:
        file.truncate(shards[0].stat().st_size - cut)
    assert run_module(gguf_info, src=str(shards[0]))["complete"] is False


def test_what_is_no_gguf_file_is_an_error(run_module, tmp_path):
    (tmp_path / "x.gguf").write_bytes(b"PK\3\4" + bytes(100))
    result = run_module(gguf_info, src=str(tmp_path / "x.gguf"))
    assert result["failed"]
    assert result["msg"] == (
        f"{tmp_path}/x.gguf is not a usable GGUF file: it starts with b'PK\\x03\\x04'; expected b'GGUF'. "
        "Get it again from its origin."
    )


def test_an_absent_file_is_an_error(run_module, tmp_path):
    assert run_module(gguf_info, src=str(tmp_path / "x.gguf"))["msg"] == (
        f"Reading {tmp_path}/x.gguf failed: No such file or directory (ENOENT)."
    )
