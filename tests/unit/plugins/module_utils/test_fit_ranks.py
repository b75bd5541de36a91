# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""vLLM and SGLang, held against what they said at their start on GPUs of others: the source stands at each row."""

from __future__ import annotations

import re

import hf_models
import pytest

from ansible_collections.llmfleet.serving.plugins.module_utils._config import config_model
from ansible_collections.llmfleet.serving.plugins.module_utils._errors import LlmError
from ansible_collections.llmfleet.serving.plugins.module_utils._fit import GIB, MIB, Host, Wish
from ansible_collections.llmfleet.serving.plugins.module_utils._fit_ranks import plan_ranks

H100 = 81559 * MIB
H800 = Host((H100,) * 8, 2048 * GIB, 3200 * 10**9)


def dense(**shape):
    config, tensors = hf_models.dense(**shape)
    return config_model(config, tensors, sum(tensor.size for tensor in tensors), "config.json")


@pytest.fixture(scope="module")
def r1():
    tensors = list(hf_models.deepseek_r1())
    return config_model(hf_models.DEEPSEEK_R1, tensors, sum(tensor.size for tensor in tensors), "config.json")


LLAMA_3_8B = {"layers": 32, "width": 4096, "heads": 32, "kv_heads": 8, "hidden": 14336, "words": 128256}
QWEN_1_5B = {
    "layers": 28,
    "width": 1536,
    "heads": 12,
    "kv_heads": 2,
    "hidden": 8960,
    "words": 151936,
    "kind": "qwen2",
    "biases": True,
    "tie_word_embeddings": True,
}
QWEN3_8B = {"layers": 36, "width": 4096, "heads": 32, "kv_heads": 8, "hidden": 12288, "words": 151936, "kind": "qwen3"}
QWEN3_235B_KV = {"layers": 94, "width": 64, "heads": 64, "kv_heads": 4, "hidden": 64, "words": 64}
QWEN_32B = {
    "layers": 64,
    "width": 5120,
    "heads": 40,
    "kv_heads": 8,
    "hidden": 27648,
    "words": 152064,
    "kind": "qwen2",
    "biases": True,
}
QWEN_72B = {
    "layers": 80,
    "width": 8192,
    "heads": 64,
    "kv_heads": 8,
    "hidden": 29568,
    "words": 152064,
    "kind": "qwen2",
    "biases": True,
}


def plan(model, gpus, engine="vllm", memory=H100, **wish):
    return plan_ranks(model, Host((memory,) * gpus), Wish(engine, **{"context": 8192, **wish}))


# GiB of weights on one GPU.
@pytest.mark.parametrize(
    ("shape", "gpus", "reported"),
    [
        (LLAMA_3_8B, 1, 14.96),  # vllm-project/vllm#10511, Meta-Llama-3-8B
        (LLAMA_3_8B, 2, 7.48),  # the same, -tp 2
        (QWEN_1_5B, 1, 2.89),  # a notebook's log of vLLM on a T4, Qwen2.5-1.5B-Instruct
        (QWEN3_8B, 4, 3.85),  # a report of vLLM 0.8.5 with DeepSeek-R1-0528-Qwen3-8B on four 22 GB GPUs
    ],
)
def test_weights_are_what_vllm_reported(shape, gpus, reported):
    fit = plan(dense(**shape), gpus, tensor_parallel=gpus)
    assert fit.gpus[0].weights / GIB == pytest.approx(reported, rel=0.01)


def test_the_first_stage_of_r1_is_what_vllm_reported(r1):
    """deepseek-ai/DeepSeek-V3#205: TP 8 x PP 4, 16.96 GiB on the GPUs of the first stage (vLLM 0.6.6)."""
    fit = plan(r1, 32, tensor_parallel=8, pipeline_parallel=4)
    assert fit.gpus[0].weights / GIB == pytest.approx(16.96, rel=0.02)


def test_two_stages_of_r1_are_what_vllm_reported(r1):
    """vllm-project/vllm#13074: TP 8 x PP 2 on 16 GPUs, 39.66 GiB; which of the two stages is not said."""
    fit = plan(r1, 16, tensor_parallel=8, pipeline_parallel=2)
    assert fit.gpus[0].weights / GIB < 39.66 < fit.gpus[-1].weights / GIB


# What one token takes on one GPU: GiB of cache by the tokens that had room.
@pytest.mark.parametrize(
    ("shape", "gpus", "gib", "tokens"),
    [
        (LLAMA_3_8B, 1, 4.60, 2356 * 16),  # a log of vLLM on an L4: 4.60 GiB, 2356 blocks
        (QWEN_1_5B, 1, 2.36, 5519 * 16),  # as above: 2.36 GiB, 5519 blocks
        (QWEN3_8B, 4, 14.49, 6.44 * 65536),  # as above: 14.49 GiB, 6.44 requests of 65536 tokens
        (QWEN3_235B_KV, 4, 2 * 8.23, 367404),  # vllm-project/vllm#21348, SGLang: K and V 8.23 GiB each
        (QWEN3_235B_KV, 4, 8.11, 178880),  # the same, vLLM: whose figure is that of another rank
    ],
)
def test_the_cache_takes_what_vllm_and_sglang_reported(shape, gpus, gib, tokens):
    fit = plan(dense(**shape), gpus, tensor_parallel=gpus, context=64)
    assert fit.gpus[0].cache / 64 == pytest.approx(gib * GIB / tokens, rel=0.015)


# vLLM 0.32.0 itself, on a CPU with VLLM_CPU_KVCACHE_SPACE=1 (GiB): "CPU KV cache size: N tokens", in blocks of 128.
@pytest.mark.parametrize(
    ("shape", "tokens"),
    [
        ({"layers": 2, "width": 128, "heads": 2, "kv_heads": 1, "hidden": 384, "words": 444, "head": 64}, 2097152),
        ({"layers": 7, "width": 512, "heads": 8, "kv_heads": 2, "hidden": 1024, "words": 512, "head": 64}, 299520),
    ],
)
def test_the_cache_has_room_for_what_vllm_said_here(shape, tokens):
    fit = plan(dense(**shape), 1, context=64)
    assert GIB // (fit.gpus[0].cache // 64) // 128 * 128 == tokens


def test_the_cache_of_mla_has_room_for_what_vllm_said_here():
    """As above, a DeepSeek-V3 of five layers with R1's latents: 186,400 tokens, in blocks of 16."""
    config = {**hf_models.DEEPSEEK_R1, "num_hidden_layers": 5, "num_attention_heads": 16}
    model = config_model(config, hf_models.deepseek_r1(), 1, "config.json")
    token = plan(model, 1, memory=10**12, context=64).gpus[0].cache // 64
    assert GIB // token // 16 * 16 == 186400


def test_the_cache_of_mla_is_the_same_on_every_gpu(r1):
    """68.6 KiB a token, which is what makes 512,000 tokens fit where there was room for 54,560."""
    one, eight = (plan(r1, gpus, memory=2 * 10**12, tensor_parallel=gpus) for gpus in (1, 8))
    assert one.gpus[0].cache == eight.gpus[7].cache == 8192 * 61 * 576 * 2


# GiB of activations and of what is outside of PyTorch.
@pytest.mark.parametrize(
    ("shape", "gpus", "reported"),
    [
        (LLAMA_3_8B, 1, 1.26 + 1.79),  # vllm-project/vllm#10511
        (LLAMA_3_8B, 2, 1.26 + 3.58),  # the same, -tp 2
        (QWEN_1_5B, 1, 2.02 + 0.01),
        (QWEN3_8B, 4, 1.45 + 0.20),
    ],
)
def test_the_reserve_is_not_below_what_vllm_reported(shape, gpus, reported):
    assert plan(dense(**shape), gpus, tensor_parallel=gpus).gpus[0].reserve / GIB >= reported


H200 = 143771 * MIB
FP8 = hf_models.DEEPSEEK_R1["quantization_config"]
AWQ = {"quant_method": "awq", "bits": 4, "group_size": 128}


# The test bed's llama of 2.4 GB.
STORY = {"layers": 24, "width": 2048, "heads": 32, "kv_heads": 16, "hidden": 6144, "words": 448, "head": 64}


def r1_of(layers, words, linear, quantization):
    """R1 with fewer layers, of which one is dense, and another vocabulary."""
    keys = {"num_hidden_layers": layers, "num_nextn_predict_layers": 0, "first_k_dense_replace": 1, "vocab_size": words}
    config = {**hf_models.DEEPSEEK_R1, **keys, "quantization_config": quantization}
    tensors = list(hf_models.deepseek_layers(layers, dense=1, words=words, linear=linear))
    return config_model(config, tensors, sum(tensor.size for tensor in tensors), "config.json")


# vLLM 0.26.0 with PyTorch 2.11 (CUDA 13.0) on H200, gpu_memory_utilization 0.92: "Model loading took", in GiB.
@pytest.mark.parametrize(
    ("model", "gpus", "reported"),
    [
        (lambda: dense(**LLAMA_3_8B), 1, 15.0),
        (lambda: dense(**STORY), 1, 2.26),
        (lambda: r1_of(5, 129280, hf_models.fp8, FP8), 1, 47.1),
        (lambda: r1_of(9, 448, hf_models.awq, AWQ), 1, 45.26),
        (lambda: r1_of(9, 448, hf_models.awq, AWQ), 2, 22.71),
    ],
)
def test_weights_are_those_that_vllm_loaded_on_an_h200(model, gpus, reported):
    load = plan(model(), gpus, memory=H200, tensor_parallel=gpus).gpus[0]
    assert load.weights / GIB == pytest.approx(reported, rel=0.011)


# The same runs: "GPU KV cache size", with CUDA graphs and a batch of 8192 tokens behind it.
@pytest.mark.parametrize(
    ("model", "reported", "least"),
    [
        (lambda: dense(**LLAMA_3_8B), 919824, 0.96),
        (lambda: dense(**STORY), 1372672, 0.96),
        (lambda: r1_of(9, 448, hf_models.awq, AWQ), 7493584, 0.99),
        (lambda: r1_of(5, 129280, hf_models.fp8, FP8), 13139552, 0.99),
    ],
)
def test_room_for_tokens_is_a_little_less_than_vllm_found_on_an_h200(model, reported, least):
    fit = plan(model(), 1, memory=H200, tensor_parallel=1, utilization=0.92, cache_type="bf16")
    (room,) = (int(found[1]) for line in fit.arithmetic if (found := re.search(r"room for (\d+) tokens", line)))
    assert least * reported <= room <= reported


def test_r1_in_fp8_has_the_size_that_is_published(r1):
    """deepseek-ai/DeepSeek-R1: 91991 tensors, 688,586,727,753 bytes in 163 files."""
    tensors = list(hf_models.deepseek_r1())
    assert len(tensors) == 91991
    assert r1.disk == pytest.approx(688_586_727_753, rel=0.0001)
    # Without the layer for speculation, which is not loaded.
    assert r1.size == pytest.approx(673e9, rel=0.001)


@pytest.mark.parametrize(
    ("engine", "share", "length", "requests"),
    [
        ("vllm", {"gpu_memory_utilization": 0.9}, "max_model_len", "max_num_seqs"),
        ("sglang", {"mem_fraction_static": 0.91}, "context_length", "max_running_requests"),
    ],
)
def test_r1_in_fp8_needs_two_hosts(r1, engine, share, length, requests):
    fit = plan_ranks(r1, H800, Wish(engine, 8192, 4))
    assert not fit.fits
    assert re.fullmatch(r"A GPU has 7\d\.\d\d GiB for .*; weights .* take [89]\d\.\d\d GiB\.", fit.reasons[0])
    assert fit.recommendation == {}
    both = {length: 8192, **share, requests: 4}
    assert fit.layouts == [
        {"hosts": 2, "tensor_parallel_size": 8, "pipeline_parallel_size": 2, **both},
        {"hosts": 2, "tensor_parallel_size": 16, "pipeline_parallel_size": 1, **both},
    ]


def test_r1_in_fp8_fits_on_eight_h200(r1):
    fit = plan(r1, 8, memory=143771 * MIB, context=32768, parallel=8)
    assert fit.fits
    assert fit.layouts == []
    assert fit.recommendation["tensor_parallel_size"] == 8


def test_a_cache_that_is_too_small_says_what_would_fit(r1):
    fit = plan(r1, 8, memory=143771 * MIB, context=163840, parallel=64)
    assert not fit.fits
    longest = fit.recommendation["max_model_len"]
    assert 4096 < longest < 163840
    assert plan(r1, 8, memory=143771 * MIB, context=longest, parallel=64).fits
    assert not plan(r1, 8, memory=143771 * MIB, context=longest + 64, parallel=64).fits


def test_fp8_halves_the_cache(r1):
    half, whole = (plan(r1, 8, cache_type=kind).gpus[0].cache for kind in ("fp8", "bf16"))
    assert 2 * half == whole


def test_a_higher_utilization_leaves_more_room():
    model = dense(**QWEN_72B)
    small, large = (plan(model, 8, context=131072, parallel=8, utilization=share) for share in (0.6, 0.95))
    assert not small.fits
    assert large.fits


@pytest.mark.parametrize(
    ("shape", "tensor", "reason"),
    [
        ({**QWEN_1_5B}, 8, "12 attention heads cannot be cut into 8 equal parts."),
        ({**QWEN_1_5B, "kv_heads": 6, "heads": 24}, 8, "6 KV heads and 8 parts do not divide one another."),
        # Known from Qwen2.5-72B-Instruct-AWQ: its successors have a wider feed-forward block for this reason.
        (
            {**QWEN_72B, "quantization_config": {"quant_method": "awq", "group_size": 128}},
            8,
            "intermediate_size 29568 cannot be cut into 8 equal parts of whole groups of 128.",
        ),
        ({**LLAMA_3_8B, "hidden": 14337}, 2, "intermediate_size 14337 cannot be cut into 2 equal parts."),
    ],
)
def test_refuses_what_cannot_be_cut(shape, tensor, reason):
    fit = plan(dense(**shape), 8, tensor_parallel=tensor)
    assert fit.reasons == [reason]
    assert fit.recommendation == {}


def test_the_blocks_of_fp8_bound_tensor_parallelism(r1):
    assert not plan(r1, 16, tensor_parallel=16, memory=143771 * MIB).reasons
    fit = plan(r1, 32, tensor_parallel=32)
    assert "moe_intermediate_size 2048 cannot be cut into 32 equal parts of whole groups of 128." in fit.reasons


def test_layers_left_over_go_to_stages_before_the_last():
    """vLLM, distributed/utils.py, get_pp_indices: the last stage has the output as well."""
    model = dense(**{**LLAMA_3_8B, "layers": 11})
    fit = plan(model, 4, tensor_parallel=1, pipeline_parallel=4, context=64)
    assert [load.cache // (64 * 2 * 8 * 128 * 2) for load in fit.gpus] == [3, 3, 3, 2]


def test_an_embedding_that_is_the_output_is_on_both_ends_of_a_pipeline():
    model = dense(**{**QWEN_1_5B, "layers": 2})
    one, two = (plan(model, 2, tensor_parallel=1, pipeline_parallel=stages) for stages in (1, 2))
    embedding = 2 * 151936 * 1536
    assert sum(load.weights for load in two.gpus) - sum(load.weights for load in one.gpus) == embedding


def test_sglang_counts_its_share_without_the_reserve():
    model = dense(**QWEN_72B)
    rooms = {}
    for engine in ("vllm", "sglang"):
        line = plan(model, 8, engine=engine, utilization=0.8).arithmetic[5]
        rooms[engine] = int(re.search(r"room for (\d+) tokens", line)[1])
    token = 80 * 2 * 128 * 2
    reserve = plan(model, 8).gpus[0].reserve
    assert rooms["sglang"] - rooms["vllm"] == pytest.approx(reserve / token, abs=64)


def test_more_stages_than_layers_are_refused():
    fit = plan(dense(**{**LLAMA_3_8B, "layers": 4}), 8, tensor_parallel=1, pipeline_parallel=8)
    assert fit.reasons == ["4 layers cannot be cut into 8 stages."]


def test_a_context_that_the_model_was_not_made_for_is_refused(r1):
    fit = plan(r1, 8, memory=143771 * MIB, context=163841)
    assert fit.reasons == ["The model was made for 163840 tokens; 163841 are asked for."]


def test_a_host_with_too_little_memory_is_no_reason_for_more_hosts(r1):
    fit = plan_ranks(r1, Host((143771 * MIB,) * 8, 32 * GIB), Wish("vllm", 8192))
    assert fit.reasons == ["The host has 32.00 GiB of memory; needed are 40.00 GiB."]
    assert fit.layouts == []


def test_heads_that_do_not_divide_get_stages_instead():
    fit = plan(dense(**{**QWEN_32B, "heads": 28, "kv_heads": 4}), 8)
    assert fit.recommendation["tensor_parallel_size"] == 4
    assert fit.recommendation["pipeline_parallel_size"] == 2


def test_kv_heads_that_are_fewer_than_gpus_are_copied():
    two, four = (plan(dense(**QWEN_1_5B), 4, tensor_parallel=tensor).gpus[0].cache for tensor in (2, 4))
    assert two == four


def test_more_ranks_than_gpus_are_refused(r1):
    fit = plan_ranks(r1, H800, Wish("vllm", 8192, tensor_parallel=8, pipeline_parallel=2))
    assert fit.reasons == ["8 x 2 ranks need 16 GPUs, and there are 8."]
    assert fit.layouts[0]["hosts"] == 2


def test_a_share_above_the_whole_is_an_error(r1):
    with pytest.raises(LlmError, match=r"memory is 1\.5; expected more than 0 and at most 1"):
        plan_ranks(r1, H800, Wish("vllm", 8192, utilization=1.5))


def several(hosts, **changes):
    return Host(**{"gpus": (H100,) * 8, "ram": 2048 * GIB, "disk": 3200 * 10**9, "hosts": hosts, **changes})


@pytest.mark.parametrize(("engine", "tensor", "pipeline"), [("vllm", 8, 2), ("sglang", 16, 1)])
def test_two_hosts_serve_what_one_cannot(r1, engine, tensor, pipeline):
    wish = Wish(engine, 8192)
    assert not plan_ranks(r1, several(1), wish).fits
    fit = plan_ranks(r1, several(2), wish)
    assert fit.reasons == []
    assert fit.recommendation["tensor_parallel_size"] == tensor
    assert fit.recommendation["pipeline_parallel_size"] == pipeline
    assert len(fit.gpus) == 16
    # What hangs on a rank is the same as on one host with all GPUs.
    same = plan_ranks(r1, Host((H100,) * 16), Wish(engine, 8192, tensor_parallel=tensor, pipeline_parallel=pipeline))
    assert fit.gpus == same.gpus
    assert fit.recommendation == same.recommendation
    lines = [line for line in fit.arithmetic if line.startswith("host ")]
    assert [line.partition(":")[0] for line in lines] == ["host 1, GPU 0-7", "host 2, GPU 0-7"]


def test_each_of_several_hosts_has_its_own_memory_and_the_whole_model(r1):
    fit = plan_ranks(r1, several(2), Wish("vllm", 8192))
    assert fit.host.total == 8 * 5 * GIB
    assert f"each of 2 hosts, disk space: {r1.disk / GIB:.2f} GiB of {3200 * 10**9 / GIB:.2f} GiB" in fit.arithmetic
    short = plan_ranks(r1, several(2, ram=39 * GIB, disk=r1.disk - 1), Wish("vllm", 8192))
    assert [reason.split(" of ")[1].split(";")[0] for reason in short.reasons] == ["memory", "disk space"]


def test_sizes_that_are_asked_for_count_over_all_hosts(r1):
    fit = plan_ranks(r1, several(2), Wish("vllm", 8192, tensor_parallel=16, pipeline_parallel=1))
    assert (fit.fits, fit.recommendation["tensor_parallel_size"]) == (True, 16)
    fit = plan_ranks(r1, several(2), Wish("vllm", 8192, tensor_parallel=16))
    # As the engine is told: the other one stays what it is without the args.
    assert fit.reasons == ["16 x 2 ranks need 32 GPUs, and there are 16."]


def test_too_few_hosts_name_more(r1):
    small = several(2, gpus=(H100,) * 2)
    fit = plan_ranks(r1, small, Wish("vllm", 8192))
    assert not fit.fits
    assert fit.layouts
    assert fit.layouts[0]["hosts"] > 2


def test_no_host_at_all_is_refused():
    with pytest.raises(LlmError, match="hosts is 0; expected 1 or more"):
        several(0)
