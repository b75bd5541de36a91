# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the real llama.cpp plans for the same files, on hosts with several devices, without loading any of them."""

from __future__ import annotations

import itertools
import re
import shlex
from collections.abc import Callable
from pathlib import Path

import model_headers
import pytest

from ansible_collections.llmfleet.serving.plugins.module_utils._fit import MIB, Host, Load, Wish
from ansible_collections.llmfleet.serving.plugins.module_utils._fit_layers import plan_layers
from ansible_collections.llmfleet.serving.plugins.module_utils._fit_model import Model, gguf_model
from ansible_collections.llmfleet.serving.plugins.module_utils._gguf_files import open_gguf
from testbed import models
from testbed.tools import tool

pytestmark = pytest.mark.bed

# What is reserved for CUDA, and on the host for the process.
MARGIN = 1024 * MIB
PORT = 50052

# llama.cpp counts each server of its RPC backend as a GPU. The device that they compute on does not matter here.
DEVICES = """
import ctypes, os, sys
libraries = "/usr/lib/x86_64-linux-gnu"
ctypes.CDLL(f"{libraries}/libggml-base.so.0", mode=ctypes.RTLD_GLOBAL)
ggml = ctypes.CDLL(f"{libraries}/libggml.so.0", mode=ctypes.RTLD_GLOBAL)
ggml.ggml_backend_load_all()
ggml.ggml_backend_dev_by_type.restype = ctypes.c_void_p
cpu = (ctypes.c_void_p * 1)(ggml.ggml_backend_dev_by_type(0))
rpc = ctypes.CDLL(f"{libraries}/ggml/backends0/libggml-rpc.so")
for port in sys.argv[1:]:
    if os.fork() == 0:
        one = ctypes.c_size_t(1)
        rpc.ggml_backend_rpc_start_server(f"127.0.0.1:{port}".encode(), None, one, one, cpu)
os.wait()
"""

# One container for all questions. The first line of an answer is its number.
ASK_ALL = """
python3 devices.py {ports} >devices.log 2>&1 &
for port in {ports}; do
    until (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; do sleep 0.1; done
done
while read -r number options; do
    echo "== $number"
    eval "llama-fit-params --fit off --fit-print on $options" 2>"$number.log" || grep " E " "$number.log"
done <questions
"""

QWEN3 = ("attn_q_norm", "attn_k_norm")
BIASES = [("attn_q.bias", (1024,), 0), ("attn_k.bias", (256,), 0), ("attn_v.bias", (256,), 0)]
EXPERTS = {"expert_count": 16, "expert_used_count": 4, "expert_feed_forward_length": 3072}
GPT_OSS = [
    *BIASES,
    ("attn_output.bias", (1024,), 0),
    ("attn_sinks.weight", (8,), 0),
    ("ffn_gate_inp.bias", (16,), 0),
    ("ffn_gate_exps.bias", (3072, 16), 0),
    ("ffn_up_exps.bias", (3072, 16), 0),
    ("ffn_down_exps.bias", (1024, 16), 0),
]
SANDWICH = ("post_attention_norm", "post_ffw_norm")
MAKERS: dict[str, Callable[[Path], Path]] = {
    "mha": lambda path: model_headers.dense(path, kv_heads=8),
    "gqa": model_headers.dense,
    "tied": lambda path: model_headers.dense(path, tied=True),
    "gemma": lambda path: model_headers.dense(path, "gemma", tied=True),
    "qwen2": lambda path: model_headers.dense(path, "qwen2", more=BIASES),
    "qwen3": lambda path: model_headers.dense(path, "qwen3", norms=QWEN3),
    "qwen3moe": lambda path: model_headers.dense(path, "qwen3moe", norms=QWEN3, keys=EXPERTS, experts=16),
    "mixtral": lambda path: model_headers.dense(path, "llama", keys=EXPERTS, experts=16),
    "gpt-oss": lambda path: model_headers.dense(
        path,
        "gpt-oss",
        keys={**EXPERTS, "attention.sliding_window": 128},
        norms=("post_attention_norm",),
        experts=16,
        more=GPT_OSS,
        without=("ffn_norm.weight",),
    ),
    "gemma2": lambda path: model_headers.dense(
        path,
        "gemma2",
        tied=True,
        keys={"attention.sliding_window": 4096, "attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0},
        norms=SANDWICH,
    ),
    "gemma3": lambda path: model_headers.dense(
        path,
        "gemma3",
        layers=14,
        tied=True,
        keys={"attention.sliding_window": 1024},
        norms=(*QWEN3, *SANDWICH),
    ),
    "r1": model_headers.deepseek_r1,
    "r1-mla": lambda path: model_headers.deepseek_r1(path, latent=True),
    "bed-llama": lambda path: models.make(path.parent, path.stem, architecture="llama", size=128_000_000)[0],
    "bed-deepseek2": lambda path: models.make(path.parent, path.stem, architecture="deepseek2", size=128_000_000)[0],
}

# Devices, layers on them, tokens and requests, type of the cache, flash attention. None: all layers.
SETTINGS: dict[str, tuple[int, int | None, int, int, str, bool]] = {
    "all-on-eight": (8, None, 8192, 1, "f16", True),
    "no-flash": (8, None, 8192, 1, "f16", False),
    "four-requests": (3, None, 5000, 4, "f16", True),
    "quantized-cache": (2, None, 8192, 1, "q8_0", True),
    "small-cache": (1, None, 8192, 2, "q4_0", True),
    "bf16-cache": (3, None, 16384, 1, "bf16", True),
    "some-layers": (8, 7, 8192, 1, "f16", True),
    "sixteen-layers": (8, 16, 8192, 1, "f16", False),
    "one-layer": (2, 1, 8192, 1, "f16", True),
}
CASES = [*itertools.product(MAKERS, SETTINGS)]

# What llama.cpp says of one device, or at last of the host, in MiB: model, context, compute.
Answer = tuple[int, int, int]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fit")


@pytest.fixture(scope="module")
def paths(folder: Path) -> dict[str, Path]:
    return {name: make(folder / f"{name}.gguf") for name, make in MAKERS.items()}


@pytest.fixture(scope="module")
def answers(folder: Path, paths: dict[str, Path]) -> dict[tuple[str, str], list[Answer]]:
    """What llama.cpp plans for each case, device by device."""
    (folder / "devices.py").write_text(DEVICES)
    questions = [f"{number} {options(paths[model], *SETTINGS[name])}" for number, (model, name) in enumerate(CASES)]
    (folder / "questions").write_text("\n".join(questions) + "\n")
    ports = " ".join(str(PORT + device) for device in range(8))
    said = tool(folder, "bash", "-c", ASK_ALL.format(ports=ports)).stdout
    parts = re.split(r"^== \d+\n", said, flags=re.MULTILINE)[1:]
    rows = [re.findall(r"^(?:RPC\d+|Host) (\d+) (\d+) (\d+)", part, re.MULTILINE) for part in parts]
    assert all(rows), said
    return {case: [tuple(map(int, row)) for row in found] for case, found in zip(CASES, rows, strict=True)}


def options(
    path: Path, devices: int, layers: int | None, context: int, parallel: int, cache_type: str, flash: bool
) -> str:
    servers = ",".join(f"127.0.0.1:{PORT + device}" for device in range(devices))
    # In equal parts: the devices' memory is that of this machine, at the moment of asking.
    words = ["--model", path.name, "--rpc", servers, "--tensor-split", ",".join("1" * devices)]
    words += ["--n-gpu-layers", str(99 if layers is None else layers), "--parallel", str(parallel)]
    words += ["--ctx-size", str(context * parallel), "--flash-attn", "on" if flash else "off"]
    words += ["--cache-type-k", cache_type, "--cache-type-v", cache_type]
    return shlex.join(words)


def planned(model: Model, setting: str) -> tuple[list[Load], Load]:
    devices, layers, context, parallel, cache_type, flash = SETTINGS[setting]
    wish = Wish("llama_cpp", context, parallel, cache_type, layers=layers, flash_attention=flash)
    fit = plan_layers(model, Host((80 << 30,) * devices), wish)
    return fit.gpus, fit.host


@pytest.fixture(scope="module")
def sources(paths: dict[str, Path]) -> dict[str, Model]:
    return {name: gguf_model([open_gguf(path).header]) for name, path in paths.items()}


@pytest.mark.parametrize(("name", "setting"), CASES)
def test_plans_what_llama_cpp_plans(name, setting, answers, sources):
    (loads, host), (*devices, rest) = planned(sources[name], setting), answers[name, setting]
    assert [(load.weights // MIB, load.cache // MIB) for load in loads] == [answer[:2] for answer in devices]
    # The host's weights are listed by the ways in which its processor wants them, but its cache is not.
    assert host.cache // MIB == rest[1]
    for load, (_weights, _cache, compute) in zip([*loads, host], [*devices, rest], strict=True):
        if load.weights:
            assert compute * MIB <= load.reserve - MARGIN, "the reserve must cover llama.cpp's compute buffer"
