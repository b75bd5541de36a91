# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import hf_models
import model_headers
import pytest
import yaml

from ansible_collections.llmfleet.serving.plugins.module_utils._gate_profiles import PROFILES
from ansible_collections.llmfleet.serving.plugins.modules import model_fit

COMMIT = "0" * 40


@pytest.fixture
def gguf(tmp_path):
    return str(model_headers.dense(tmp_path / "m.gguf", layers=4, words=1000))


@pytest.fixture
def repository(tmp_path):
    shape = {"layers": 4, "width": 1024, "heads": 8, "kv_heads": 4, "hidden": 2048, "words": 8000}
    return str(hf_models.write_repository(tmp_path / "acme" / "model", *hf_models.dense(**shape)))


def facts(*memory):
    return {"gpus": [{"index": index, "memory_total": size} for index, size in enumerate(memory)]}


def test_a_gguf_file_on_the_gpus_of_a_profile(run_module, gguf):
    result = run_module(model_fit, src=gguf, engine="ollama", profile="h800", context=4096, parallel=2)
    assert result["fits"] is True
    assert result["changed"] is False
    assert result["reasons"] == []
    assert result["recommendation"] == {"num_gpu": 5, "num_ctx": 4096, "num_parallel": 2}
    assert [gpu["memory"] for gpu in result["gpus"]] == [81559 << 20] * 8
    assert sum(gpu["cache"] for gpu in result["gpus"]) == 2 * 4096 * 4 * 2 * 256 * 2
    assert result["model"]["architecture"] == "llama"


def test_a_repository_on_the_gpus_of_a_host(run_module, repository):
    result = run_module(model_fit, src=repository, engine="vllm", gpu_facts=facts(40960, 40960), context=1024)
    assert result["fits"] is True
    assert result["recommendation"]["tensor_parallel_size"] == 2
    assert [gpu["memory"] for gpu in result["gpus"]] == [40960 << 20] * 2


def test_returns_what_is_documented(run_module, gguf, repository):
    documented = yaml.safe_load(model_fit.RETURN)
    for src, engine in ((gguf, "llama_cpp"), (repository, "sglang")):
        result = run_module(model_fit, src=src, engine=engine, profile="h100", count=2)
        assert set(result) == {"changed", *documented}
        assert set(result["model"]) == set(documented["model"]["contains"])
        assert set(result["gpus"][0]) == set(documented["gpus"]["sample"][0])
        assert set(result["host"]) == set(documented["host"]["sample"])


def test_profiles_are_those_that_are_documented():
    assert yaml.safe_load(model_fit.DOCUMENTATION)["options"]["profile"]["choices"] == sorted(PROFILES)


def test_check_mode_tells_the_same(run_module, gguf):
    asked = {"src": gguf, "engine": "ollama", "profile": "h200"}
    assert run_module(model_fit, check=True, **asked) == run_module(model_fit, **asked)


def test_what_does_not_fit_is_an_answer(run_module, gguf):
    result = run_module(model_fit, src=gguf, engine="ollama", gpu_facts=facts(100), memory=1, disk=1)
    assert "failed" not in result
    assert result["fits"] is False
    assert [reason.partition(" has")[0] for reason in result["reasons"]] == ["GPU 0", "The host", "The host"]


def test_settings_of_the_engine_are_heard(run_module, gguf, repository):
    result = run_module(model_fit, src=gguf, engine="ollama", profile="h800", num_gpu=2, kv_type="q8_0")
    assert result["notes"]
    assert "in q8_0 = " in result["arithmetic"][1]
    flash = run_module(model_fit, src=gguf, engine="ollama", profile="h800", flash_attention=False)
    assert flash["gpus"][0]["reserve"] > result["gpus"][0]["reserve"]
    sizes = {"tensor_parallel_size": 2, "pipeline_parallel_size": 2, "gpu_memory_utilization": 0.5}
    result = run_module(model_fit, src=repository, engine="vllm", profile="h800", **sizes)
    assert sizes.items() <= result["recommendation"].items()


def test_several_hosts_count_all_their_gpus(run_module, repository):
    asked = {"src": repository, "engine": "vllm", "profile": "h800", "count": 2, "context": 1024}
    result = run_module(model_fit, **asked, hosts=2)
    assert result["fits"]
    assert len(result["gpus"]) == 4
    assert {name: result["recommendation"][name] for name in ("tensor_parallel_size", "pipeline_parallel_size")} == {
        "tensor_parallel_size": 2,
        "pipeline_parallel_size": 2,
    }


def test_engines_of_one_host_are_refused_on_several(run_module, gguf):
    result = run_module(model_fit, src=gguf, engine="ollama", profile="h800", hosts=2)
    assert result["failed"]
    assert result["msg"] == "ollama serves a model from one host; found 2 hosts. Name vllm or sglang."


def test_gpus_can_be_chosen(run_module, gguf):
    result = run_module(model_fit, src=gguf, engine="ollama", gpu_facts=facts(1000, 40960, 40960), gpus=[1, 2])
    assert len(result["gpus"]) == 2
    assert result["fits"] is True


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"gpu_facts": facts(1000), "gpus": [1]}, "GPU 1 is not there or does not answer; known are GPUs [0]."),
        ({"gpu_facts": facts(None)}, "GPU 0 is not there or does not answer; known are GPUs [0]."),
        ({"gpu_facts": {}}, "There is no GPU to plan for; known are GPUs []."),
        ({"profile": "h800", "count": 0}, "There is no GPU to plan for; known are GPUs []."),
    ],
)
def test_gpus_that_are_not_there_are_an_error(run_module, gguf, asked, message):
    result = run_module(model_fit, src=gguf, engine="ollama", **asked)
    assert result["failed"]
    assert result["msg"] == f"{message} Look at the host with gpu_info."


def test_a_directory_of_repositories_is_a_hub(run_module, repository, tmp_path):
    asked = {"engine": "vllm", "profile": "h800", "allow_floating_revision": True, "revision": "main"}
    result = run_module(model_fit, hub=str(tmp_path), repo="acme/model", **asked)
    assert result["model"] == run_module(model_fit, src=repository, engine="vllm", profile="h800")["model"]


def test_a_branch_is_refused(run_module):
    result = run_module(model_fit, repo="acme/model", revision="main", engine="vllm", profile="h800")
    assert result["failed"]
    assert "The revision 'main' is refused" in result["msg"]
