#!/usr/bin/python
# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: model_fit
short_description: Tell whether a model fits on GPUs, and with which settings of its engine
version_added: 0.2.0
description:
  - Reads the headers of a model's files, on the host or at a hub, and computes what weights, KV cache and computing
    take on each GPU, for the engine that is to serve it. Of a hub's files a few megabytes are read, and none is kept.
  - The GPUs are those of the host, as M(llmfleet.serving.gpu_info) tells them, or those of a profile, for hosts that
    are not bought yet.
  - A model that does not fit is an answer, not a failure. See RV(fits).
author:
  - llmfleet.serving maintainers (@llmfleet)
extends_documentation_fragment:
  - ansible.builtin.action_common_attributes
attributes:
  check_mode:
    support: full
    details: This module never changes anything.
  diff_mode:
    support: none
  platform:
    platforms: posix
requirements:
  - requests, for a model at a hub
options:
  src:
    description:
      - The model on the host. A GGUF file, the first of its shards, or a directory with C(config.json) and safetensors.
      - Either this or O(repo).
    type: path
  hub:
    description:
      - Where O(repo) is published. V(huggingface), V(modelscope), the address of a server with the API of Hugging Face,
        the absolute path of a directory in which O(repo) is a subdirectory, or V(url), a web server with such a
        directory at O(endpoint).
    type: str
    default: huggingface
  endpoint:
    description:
      - Address of a mirror that answers like the O(hub).
    type: str
  repo:
    description:
      - The repository, as V(OWNER/NAME).
    type: str
  revision:
    description:
      - The commit, 40 hexadecimal digits, or with O(allow_floating_revision) a branch or a tag.
    type: str
  allow_floating_revision:
    description:
      - Accept a branch or a tag as O(revision).
    type: bool
    default: false
  files:
    description:
      - Shell pattern of the files that are the model, such as V(Q4_K_M/*.gguf). V(*) matches V(/) too.
      - With O(hub=url), the path of a GGUF file or of the first of its shards.
    type: str
    default: "*"
  token:
    description:
      - Token for the hub, for gated repositories. It is sent to no other host. Prefer O(token_file).
    type: str
  token_file:
    description:
      - File on the host that holds the token and nothing else.
    type: path
  timeout:
    description:
      - Seconds without data after which a connection to the hub is given up and made again.
    type: int
    default: 60
  deadline:
    description:
      - Seconds after which reading headers fails.
    type: int
    default: 600
  engine:
    description:
      - What is to serve the model. V(ollama) and V(llama_cpp) take GGUF files, V(vllm) and V(sglang) safetensors.
    type: str
    choices: [ollama, llama_cpp, vllm, sglang]
    required: true
  gpu_facts:
    description:
      - The GPUs of a host, as M(llmfleet.serving.gpu_info) returns them. Their whole memory counts, whoever uses it.
      - Either this or O(profile).
    type: dict
  profile:
    description:
      - The GPUs of a host that is not there, by their class.
    type: str
    choices: [a100, h100, h20, h200, h800]
  count:
    description:
      - With O(profile), how many GPUs the host has.
    type: int
    default: 8
  hosts:
    description:
      - With O(engine=vllm) and O(engine=sglang), how many such hosts serve the model as one. All are taken to be like
        this one, so ask on each. GPUs are counted over all of them, O(memory) and O(disk) are those of each.
      - O(tensor_parallel_size) and O(pipeline_parallel_size), where they are not given, are those that a service on
        several hosts gets from this collection.
    type: int
    default: 1
  gpus:
    description:
      - Numbers of the GPUs that the engine may use. By default all.
    type: list
    elements: int
  memory:
    description:
      - Memory of the host in MiB. Not judged when it is not given.
    type: int
  disk:
    description:
      - Free space for the model in MiB. Not judged when it is not given.
    type: int
  context:
    description:
      - Tokens of one request, question and answer together.
    type: int
    default: 8192
  parallel:
    description:
      - How many such requests are to be served at the same time.
    type: int
    default: 1
  kv_type:
    description:
      - In which type the KV cache is kept. Ollama knows V(f16), V(q8_0) and V(q4_0), llama.cpp V(bf16) besides, vLLM
        and SGLang V(f16), V(bf16) and V(fp8).
    type: str
    choices: [f16, bf16, q8_0, q4_0, fp8]
    default: f16
  flash_attention:
    description:
      - With O(engine=ollama) and O(engine=llama_cpp), whether attention is computed without keeping all scores.
      - By default it is taken for granted where K and V have heads of one size, because older versions of these engines
        can do it only then.
    type: bool
  num_gpu:
    description:
      - With O(engine=ollama) and O(engine=llama_cpp), how many layers are to be on GPUs, the output counted as one. By
        default all.
    type: int
  tensor_parallel_size:
    description:
      - With O(engine=vllm) and O(engine=sglang), into how many parts each layer is cut. By default as many as there are
        GPUs and the model allows.
    type: int
  pipeline_parallel_size:
    description:
      - With O(engine=vllm) and O(engine=sglang), into how many stages the layers are cut.
    type: int
  gpu_memory_utilization:
    description:
      - With O(engine=vllm), the share of each GPU's memory that it may use, V(0.9) by default. With O(engine=sglang),
        the share for weights and KV cache (C(mem_fraction_static)), by default what the reserve leaves.
    type: float
notes:
  - The proxy and the CA certificates of the environment are used (E(HTTPS_PROXY), E(NO_PROXY), E(REQUESTS_CA_BUNDLE)).
seealso:
  - module: llmfleet.serving.gpu_info
  - module: llmfleet.serving.gguf_info
"""

EXAMPLES = r"""
---
- name: Ask before 404 GB are downloaded, for hosts that are not there yet
  llmfleet.serving.model_fit:
    hub: modelscope
    repo: unsloth/DeepSeek-R1-GGUF
    revision: 0123456789abcdef0123456789abcdef01234567
    files: DeepSeek-R1-Q4_K_M/*.gguf
    engine: ollama
    profile: h800
    context: 8192
  register: fit

- name: Read the host's GPUs
  llmfleet.serving.gpu_info:
  register: gpu

- name: Plan vLLM for sixteen requests at once on this host
  llmfleet.serving.model_fit:
    src: /srv/models/DeepSeek-R1-AWQ
    engine: vllm
    gpu_facts: "{{ gpu }}"
    context: 32768
    parallel: 16
"""

RETURN = r"""
fits:
  description: Whether everything that was asked for has room.
  returned: success
  type: bool
  sample: true
reasons:
  description: Why it does not fit, one sentence each.
  returned: success
  type: list
  elements: str
  sample: []
notes:
  description: What else one should know, such as how much is left to the CPUs.
  returned: success
  type: list
  elements: str
  sample: []
arithmetic:
  description: The way to the answer, one step a line.
  returned: success
  type: list
  elements: str
  sample:
    - "KV cache: 1 x 8192 tokens = 38.12 GiB"
recommendation:
  description:
    - Settings that work, by the engine's own names for them. Empty when none do on this host.
    - They are what was asked for where that fits, else what comes nearest to it.
  returned: success
  type: dict
  sample:
    num_gpu: 62
    num_ctx: 8192
    num_parallel: 1
layouts:
  description:
    - For vLLM and SGLang, where the model does not fit on one host, what works on the fewest of the same hosts.
  returned: success
  type: list
  elements: dict
  sample:
    - hosts: 2
      tensor_parallel_size: 8
      pipeline_parallel_size: 2
      max_model_len: 8192
      gpu_memory_utilization: 0.9
      max_num_seqs: 1
model:
  description: What the files say of the model.
  returned: success
  type: dict
  contains:
    format:
      description: V(gguf) or V(safetensors).
      type: str
    architecture:
      description: The architecture, by the file's name for it.
      type: str
    quantization:
      description: How most weights are stored, V("") where the files do not tell.
      type: str
    layers:
      description: Number of layers, without the output.
      type: int
    context:
      description: Tokens that the model was made for.
      type: int
    weights:
      description: Bytes of all weights that are loaded.
      type: int
    disk:
      description: Bytes of all files.
      type: int
  sample:
    format: gguf
    architecture: deepseek2
    quantization: Q4_K_M
    layers: 61
    context: 163840
    weights: 404424884224
    disk: 404430187616
gpus:
  description: What each GPU has to hold, and its memory, in bytes; with O(hosts), those of the first host first.
  returned: success
  type: list
  elements: dict
  sample:
    - weights: 37373476864
      cache: 5368709120
      reserve: 4259676160
      memory: 85520809984
host:
  description: What the host's memory has to hold, in bytes.
  returned: success
  type: dict
  sample:
    weights: 521256960
    cache: 0
    reserve: 4259676160
"""

import time
import typing as t
from dataclasses import asdict
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.llmfleet.serving.plugins.module_utils._errors import LlmError
from ansible_collections.llmfleet.serving.plugins.module_utils._fit import ENGINES, FORMATS, MIB, Host, Wish
from ansible_collections.llmfleet.serving.plugins.module_utils._fit_files import hub_model, local_model
from ansible_collections.llmfleet.serving.plugins.module_utils._fit_layers import plan_layers
from ansible_collections.llmfleet.serving.plugins.module_utils._fit_model import Model
from ansible_collections.llmfleet.serving.plugins.module_utils._fit_ranks import plan_ranks
from ansible_collections.llmfleet.serving.plugins.module_utils._gate_profiles import PROFILES
from ansible_collections.llmfleet.serving.plugins.module_utils._http import Retries
from ansible_collections.llmfleet.serving.plugins.module_utils._hub import pinned, read_token, source


def read_model(params: dict[str, t.Any]) -> Model:
    if params["src"]:
        return local_model(Path(params["src"]))
    deadline = time.monotonic() + params["deadline"]
    token = read_token(Path(params["token_file"])) if params["token_file"] else params["token"]
    hub = source(params["hub"], params["repo"], endpoint=params["endpoint"], token=token, timeout=params["timeout"])
    floating = params["allow_floating_revision"]
    commit = pinned(hub, params["revision"], floating=floating, retries=Retries(deadline))
    return hub_model(hub, commit, params["files"], deadline)


def read_host(params: dict[str, t.Any]) -> Host:
    if params["profile"]:
        memory = dict.fromkeys(range(params["count"]), PROFILES[params["profile"]].memory_min)
    else:
        memory = {gpu["index"]: gpu["memory_total"] for gpu in params["gpu_facts"].get("gpus", [])}
    chosen = params["gpus"] or sorted(memory)
    unknown = [index for index in chosen if not memory.get(index)]
    if unknown or not chosen:
        what = f"GPU {unknown[0]} is not there or does not answer" if unknown else "There is no GPU to plan for"
        raise LlmError(f"{what}; known are GPUs {sorted(memory)}. Look at the host with gpu_info.")
    gpus = tuple(memory[index] * MIB for index in chosen)
    ram, disk = (params[name] and params[name] * MIB for name in ("memory", "disk"))
    return Host(gpus, ram, disk, params["hosts"])


def run(module: AnsibleModule) -> dict[str, t.Any]:
    params = module.params
    wish = Wish(
        engine=params["engine"],
        context=params["context"],
        parallel=params["parallel"],
        cache_type=params["kv_type"],
        layers=params["num_gpu"],
        tensor_parallel=params["tensor_parallel_size"],
        pipeline_parallel=params["pipeline_parallel_size"],
        utilization=params["gpu_memory_utilization"],
        flash_attention=params["flash_attention"],
    )
    host = read_host(params)
    if host.hosts > 1 and FORMATS[wish.engine] == "gguf":
        raise LlmError(f"{wish.engine} serves a model from one host; found {host.hosts} hosts. Name vllm or sglang.")
    model = read_model(params)
    fit = (plan_layers if model.format == "gguf" else plan_ranks)(model, host, wish)
    return {
        "changed": False,
        "fits": fit.fits,
        "reasons": fit.reasons,
        "notes": fit.notes,
        "arithmetic": fit.arithmetic,
        "recommendation": fit.recommendation,
        "layouts": fit.layouts,
        "model": {
            **{name: getattr(model, name) for name in ("format", "architecture", "quantization", "layers", "context")},
            "weights": model.size,
            "disk": model.disk,
        },
        "gpus": [{**asdict(load), "memory": memory} for load, memory in zip(fit.gpus, host.gpus * host.hosts)],
        "host": asdict(fit.host),
    }


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "src": {"type": "path"},
            "hub": {"type": "str", "default": "huggingface"},
            "endpoint": {"type": "str"},
            "repo": {"type": "str"},
            "revision": {"type": "str"},
            "allow_floating_revision": {"type": "bool", "default": False},
            "files": {"type": "str", "default": "*"},
            "token": {"type": "str", "no_log": True},
            "token_file": {"type": "path", "no_log": False},
            "timeout": {"type": "int", "default": 60},
            "deadline": {"type": "int", "default": 600},
            "engine": {"type": "str", "choices": list(ENGINES), "required": True},
            "gpu_facts": {"type": "dict"},
            "profile": {"type": "str", "choices": sorted(PROFILES)},
            "count": {"type": "int", "default": 8},
            "hosts": {"type": "int", "default": 1},
            "gpus": {"type": "list", "elements": "int"},
            "memory": {"type": "int"},
            "disk": {"type": "int"},
            "context": {"type": "int", "default": 8192},
            "parallel": {"type": "int", "default": 1},
            "kv_type": {"type": "str", "choices": ["f16", "bf16", "q8_0", "q4_0", "fp8"], "default": "f16"},
            "flash_attention": {"type": "bool"},
            "num_gpu": {"type": "int"},
            "tensor_parallel_size": {"type": "int"},
            "pipeline_parallel_size": {"type": "int"},
            "gpu_memory_utilization": {"type": "float"},
        },
        mutually_exclusive=[("src", "repo"), ("gpu_facts", "profile"), ("token", "token_file")],
        required_one_of=[("src", "repo"), ("gpu_facts", "profile")],
        required_by={"repo": ("revision",)},
        supports_check_mode=True,
    )
    try:
        module.exit_json(**run(module))
    except LlmError as exc:
        module.fail_json(msg=str(exc))


if __name__ == "__main__":
    main()
