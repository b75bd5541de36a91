# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What models need is known from their manifest or from what is there; else a table guesses it from their name."""

from __future__ import annotations

from pathlib import Path

import pytest

from ansible_collections.llmfleet.serving.plugins.module_utils._files import companion
from ansible_collections.llmfleet.serving.plugins.module_utils._host_models import Need, Size, needs

MANIFEST = (
    f"# repo: acme/model\n{'0' * 64}  70000  Q4/a.gguf\n{'1' * 64}  30000  Q4/b.gguf\n{'2' * 64}  5000  README.md\n"
)


def size(parameters: float, *names: str) -> Size:
    return {"parameters": parameters, "cores": 1, "gpu_memory": 1, "memory": 1, "disk": 1, "names": list(names)}


SIZES = [size(1.5), size(7), size(14), size(32), size(70), size(671, "deepseek-r1", "deepseek-v3")]


def need(store: Path, **model: object) -> Need:
    return needs([{"name": "big", "repo": "acme/model", "files": "Q4/*", **model}], store, SIZES)[0]


@pytest.fixture
def manifest(tmp_path):
    path = tmp_path / "manifest"
    path.write_text(MANIFEST)
    return str(path)


@pytest.fixture
def store(tmp_path):
    (tmp_path / "models").mkdir()
    return tmp_path / "models"


class TestSize:
    def test_is_that_of_the_files_in_the_manifest(self, store, manifest):
        assert need(store, manifest=manifest) == Need("big", 100_000, 100_000, False, None)

    def test_of_what_is_there_is_its_own(self, store):
        (store / "big.gguf").write_bytes(bytes(100_000))
        assert need(store) == Need("big", 100_000, 0, True, None)

    def test_of_a_merged_file_counts_as_all_that_the_manifest_lists(self, store, manifest):
        # Headers of shards are not in it.
        (store / "big.gguf").write_bytes(bytes(90_000))
        assert need(store, manifest=manifest) == Need("big", 100_000, 0, True, None)

    @pytest.mark.parametrize("manifest", [None, "/nowhere/manifest"])
    def test_is_not_known_otherwise(self, store, manifest):
        assert need(store, manifest=manifest) == Need("big", None, None, False, None)

    @pytest.mark.parametrize("shape", [{"format": "safetensors"}, {"merge": False}])
    def test_of_a_directory_is_not_known_from_what_is_there(self, store, shape):
        (store / "big").mkdir()
        (store / "big/part.safetensors").write_bytes(bytes(40_960))
        assert need(store, **shape) == Need("big", None, None, True, None)

    @pytest.mark.parametrize("shape", [{"format": "safetensors"}, {"merge": False}])
    def test_of_a_part_is_not_missing_any_more(self, store, manifest, shape):
        (store / "big").mkdir()
        (store / "big/part").write_bytes(bytes(40_960))
        assert need(store, manifest=manifest, **shape).missing == 100_000 - 40_960

    def test_of_a_file_in_the_making_is_not_missing_any_more(self, store, manifest):
        companion(store / "big.gguf", "part").write_bytes(bytes(40_960))
        companion(store / "other.gguf", "part").write_bytes(bytes(40_960))
        assert need(store, manifest=manifest) == Need("big", 100_000, 100_000 - 40_960, True, None)

    def test_of_a_manifest_that_cannot_be_read_is_not_known_and_the_reason_is(self, store, manifest):
        Path(manifest).write_text("nonsense")
        told = need(store, manifest=manifest)
        assert told.files is None
        assert "is no line of a manifest" in (told.unreadable or "")

    def test_of_no_file_of_a_manifest_is_not_known_and_the_reason_is(self, store, manifest):
        assert "No file of the repository matches" in (need(store, manifest=manifest, files="Q8/*").unreadable or "")


def test_absent_models_need_nothing(store):
    assert needs([{"name": "old", "state": "absent"}], store, SIZES) == []


def test_store_need_not_be_there(tmp_path):
    assert need(tmp_path / "nowhere") == Need("big", None, None, False, None)


@pytest.mark.parametrize(
    ("repo", "parameters"),
    [
        ("Qwen/Qwen2.5-72B-Instruct", 70),
        ("deepseek-ai/DeepSeek-R1-Distill-Qwen-32B", 32),
        ("Qwen/Qwen2.5-1.5B", 1.5),
        ("acme/tiny-0.5b", 1.5),
        ("meta/Llama-3.1-405B", 671),
        ("meta/Llama-3.1-8B-GGUF", 7),
        ("acme/solar-10.7b", 14),
        ("Qwen/Qwen3-235B-A22B", 671),
        ("unsloth/DeepSeek-R1-GGUF", 671),
        ("deepseek-ai/DeepSeek-V3", 671),
        ("mistralai/Mixtral-8x7B", None),
        ("acme/model-bf16-3bit", None),
        ("acme/zero-0b", None),
    ],
)
def test_row_of_the_table(store, repo, parameters):
    row = need(store, repo=repo).size
    assert (row and row["parameters"]) == parameters


def test_no_table_no_row(store):
    assert needs([{"name": "llama-70b"}], store, [])[0].size is None
