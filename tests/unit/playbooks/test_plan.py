# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""playbooks/plan.yml, as one runs it: for hosts that are not there, and on a host."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import hf_models
import model_headers
import pytest

from ansible_collections.llmfleet.serving.plugins.module_utils._hub import source
from testbed import hosts
from testbed.engine import docker
from testbed.hub import Hub

ROOT = Path(__file__).parents[3]
HOST = "llmfleet-plan"
COMMIT = "0" * 40
R1 = {"name": "deepseek-r1", "engine": "ollama", "model": "r1", "args": {"num_gpu": 16, "num_ctx": 8192}}
ODD = {"name": "odd-one", "engine": "vllm", "model": "odd", "args": {"tensor-parallel-size": 8, "max-model-len": 4096}}


def plan(inventory, *options, **variables):
    """Exit status and output of the playbook."""
    playbook = Path(sys.executable).with_name("ansible-playbook")
    argv = map(str, [playbook, "-i", inventory, ROOT / "playbooks/plan.yml", "-e", json.dumps(variables), *options])
    env = {**os.environ, "ANSIBLE_NOCOLOR": "1", "ANSIBLE_CALLBACK_RESULT_FORMAT": "yaml"}
    done = subprocess.run(
        [*map(str, argv)], cwd=ROOT, env=env, capture_output=True, text=True, timeout=300, check=False
    )
    return done.returncode, done.stdout + done.stderr


@pytest.fixture
def hub(tmp_path):
    """A model with the layers of R1, and one whose heads are in nobody's interest."""
    folder = tmp_path / "unsloth" / "DeepSeek-R1-GGUF"
    folder.mkdir(parents=True)
    model_headers.dense(folder / "small.gguf", layers=61, width=256, words=1000)
    shape = {"layers": 4, "width": 256, "heads": 10, "kv_heads": 5, "hidden": 1000, "words": 1000}
    hf_models.write_repository(tmp_path / "acme" / "odd", *hf_models.dense(**shape))
    with Hub(tmp_path) as hub:
        yield hub


def away(hub, *services, **variables):
    """The playbook for eight H800 that are not there, or fewer."""
    models = [
        {"name": "r1", "hub": "modelscope", "repo": "unsloth/DeepSeek-R1-GGUF", "files": "*.gguf"},
        {"name": "odd", "hub": "huggingface", "repo": "acme/odd", "format": "safetensors"},
    ]
    for model in models:
        model["revision"] = source(model["hub"], model["repo"], endpoint=hub.url).commit("main")
    mirrors = {"modelscope": hub.url, "huggingface": hub.url}
    return plan(
        "inventories/h800",
        llmfleet_plan_profile="h800",
        llmfleet_mirrors=mirrors,
        llmfleet_models=models,
        llmfleet_services=services,
        **variables,
    )


def test_hosts_that_are_not_there_are_planned_for(hub):
    status, said = away(hub, R1)
    assert status == 0, said
    assert "deepseek-r1: r1 fits" in said
    assert "layers on GPUs: 16 of 62, the output counted as one" in said
    assert "! 46 of 62 layers with" in said
    assert "recommended: num_gpu 62, num_ctx 8192, num_parallel 1" in said
    assert "gpu-02.example.com" in said
    assert "unreachable=1" not in said


@pytest.mark.parametrize("together", [2, ["gpu-01.example.com", "gpu-02.example.com"]])
def test_a_service_on_several_hosts_is_planned_over_all_their_gpus(hub, together):
    shared = {**ODD, "hosts": together, "args": {"max-model-len": 4096}}
    status, said = away(hub, shared, llmfleet_plan_count=5)
    assert status == 0, said
    assert "layout: tensor_parallel_size 5 x pipeline_parallel_size 2" in said
    assert "host 1, GPU 0-4: weights" in said
    assert "host 2, GPU 0-4: weights" in said
    assert "each of 2 hosts, disk space:" in said


def test_sizes_of_a_service_on_several_hosts_go_by_each_engines_names(hub):
    shared = {**ODD, "engine": "sglang", "hosts": 2, "args": {"tp-size": 5, "pp_size": 2}}
    status, said = away(hub, shared, llmfleet_plan_count=5)
    assert status == 0, said
    assert "layout: tensor_parallel_size 5 x pipeline_parallel_size 2" in said


def test_what_does_not_fit_fails_after_all_is_shown(hub):
    status, said = away(hub, ODD, R1, llmfleet_plan_count=4)
    assert status != 0
    assert "odd-one: odd does not fit" in said
    assert "! 10 attention heads cannot be cut into 8 equal parts." in said
    assert "deepseek-r1: r1 fits" in said
    assert said.index("deepseek-r1: r1 fits") < said.index("These services do not fit")


def test_the_number_of_requests_counts(hub):
    one, many = (away(hub, R1, llmfleet_plan_parallel=count)[1] for count in (1, 3))
    assert "KV cache: 1 x 8192 tokens" in one
    assert "KV cache: 3 x 8192 tokens" in many


def test_another_engine_is_planned_for(hub):
    status, said = away(hub, R1, llmfleet_plan_engine="llama_cpp")
    assert status == 0, said
    assert "recommended: n_gpu_layers 62, ctx_size 8192, parallel 1" in said


@pytest.fixture
def inventory(tmp_path):
    hosts.up([HOST])
    try:
        folder = tmp_path / "models" / "acme" / "model"
        folder.mkdir(parents=True)
        model_headers.dense(folder / "model.gguf", layers=4, width=256, words=1000)
        docker("cp", str(tmp_path / "models"), f"{HOST}:/srv/models")
        path = tmp_path / "hosts.json"
        facts = {"ansible_connection": "community.docker.docker", "ansible_python_interpreter": "/usr/bin/python3"}
        path.write_text(json.dumps({"llmfleet": {"hosts": {HOST: facts}}}))
        yield path
    finally:
        hosts.down([HOST])


@pytest.mark.bed
def test_a_host_is_planned_for_with_its_own_gpus(inventory):
    model = {"name": "m", "hub": "/srv/models", "repo": "acme/model", "revision": COMMIT}
    services = [
        {"name": "all", "engine": "ollama", "model": "m"},
        {"name": "two", "engine": "llama_cpp", "model": "m", "gpus": [6, 7], "args": {"ctx-size": 4096}},
    ]
    status, said = plan(inventory, llmfleet_models=[model], llmfleet_services=services)
    assert status == 0, said
    assert "of 79.65 GiB" in said
    assert "all: m fits" in said
    assert "recommended: n_gpu_layers 5, ctx_size 4096, parallel 1" in said
    assert f"{HOST}" in said
    assert "changed=0" in said
