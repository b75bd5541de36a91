# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Ollama and llama.cpp. Whether llama.cpp plans the same is asked in test_fit_oracle.py."""

from __future__ import annotations

import math
from pathlib import Path

import gguf_build as build
import model_headers
import pytest

from ansible_collections.llmfleet.serving.plugins.module_utils._errors import LlmError
from ansible_collections.llmfleet.serving.plugins.module_utils._fit import GIB, MIB, Host, Wish
from ansible_collections.llmfleet.serving.plugins.module_utils._fit_layers import plan_layers
from ansible_collections.llmfleet.serving.plugins.module_utils._fit_model import INPUT, Cache, gguf_model
from ansible_collections.llmfleet.serving.plugins.module_utils._gguf import ValueType
from ansible_collections.llmfleet.serving.plugins.module_utils._gguf_files import open_gguf

# The host of the original procedure.
H800 = Host((81559 * MIB,) * 8, 2048 * GIB, 3200 * 10**9)
# The nine shards that it downloaded.
SHARDS = (
    48339779936,
    49429396320,
    49527312640,
    48272509536,
    49422027488,
    48272509536,
    49429396320,
    46938773696,
    14798482144,
)


def model_at(path):
    return gguf_model([open_gguf(path).header])


@pytest.fixture(scope="module")
def r1(tmp_path_factory):
    return model_at(model_headers.deepseek_r1(tmp_path_factory.mktemp("r1") / "r1.gguf"))


@pytest.fixture(scope="module")
def r1_latent(tmp_path_factory):
    return model_at(model_headers.deepseek_r1(tmp_path_factory.mktemp("r1") / "r1.gguf", latent=True))


def ollama(**wish):
    return Wish("ollama", **{"context": 8192, **wish})


def test_r1_has_the_weights_of_the_published_shards(r1):
    headers = sum(SHARDS) - r1.size
    assert 0 < headers < 8 * MIB


def test_r1_takes_4_77_mib_of_cache_for_each_token(r1):
    assert r1.caches == (Cache(128 * 192, 128 * 128),) * 61
    assert sum(2 * (cache.key + cache.value) for cache in r1.caches) == round(4.765625 * MIB)


def test_r1_with_latents_takes_68_6_kib(r1_latent):
    assert sum(2 * (cache.key + cache.value) for cache in r1_latent.caches) == 61 * 576 * 2 == 70272


def test_all_layers_of_r1_fit_on_eight_h800(r1):
    fit = plan_layers(r1, H800, ollama(layers=62))
    assert fit.fits
    assert fit.notes == []
    assert fit.recommendation == {"num_gpu": 62, "num_ctx": 8192, "num_parallel": 1}
    assert "KV cache: 1 x 8192 tokens = 38.12 GiB" in fit.arithmetic
    assert sum(load.cache for load in fit.gpus) == 8192 * 61 * 40960 * 2


def test_with_sixteen_layers_on_gpus_most_of_r1_is_left_to_the_cpus(r1):
    fit = plan_layers(r1, H800, ollama(layers=16))
    assert fit.fits
    assert fit.notes == [
        "46 of 62 layers with 74% of the bytes are left to the CPUs, which then set the pace of every token."
    ]
    assert fit.recommendation["num_gpu"] == 62
    assert fit.host.weights > 270 * GIB


def ollama_estimate(model, num_gpu, gpus=8, context=8192):
    """What `ollama ps` of v0.5.11 shows: its size and how much of it is on CPUs (llm/memory.go, EstimateGPULayers).

    It counts the first layers, which are the small ones, and every layer that it leaves out as large as the last one.
    """
    sizes = {weight.layer: weight.size for weight in model.weights}
    cache = context * 61 * (192 + 128) * 128 * 2 // 61
    batch, width, head, heads = 512, 7168, 192, 128
    graph = (
        4 * batch * (2 * width + 1 + 2 * head * heads + context + context * heads)
        + 4 * head * context * heads
        + width * head * heads * 9 // 16
    )
    there = sum(sizes[layer] + cache for layer in range(num_gpu))
    there += gpus * (457 * MIB + sizes[0] + cache + graph)
    left = (61 - num_gpu) * (sizes[60] + cache)
    return (there + left) / 1e9, round(100 * left / (there + left))


def test_what_ollama_said_of_the_original_procedure(r1):
    """It showed 510 GB and 84 % CPU. That is its estimate for eight layers; for sixteen it would have been 72 %."""
    size, cpu = ollama_estimate(r1, 8)
    assert (math.floor(size), cpu) == (510, 84)
    size, cpu = ollama_estimate(r1, 16)
    assert (math.floor(size), cpu) == (506, 72)


def test_r1_does_not_fit_with_four_times_the_cache(r1):
    """OLLAMA_NUM_PARALLEL was 4 by default when it was not set."""
    fit = plan_layers(r1, H800, ollama(parallel=4))
    assert not fit.fits
    assert fit.reasons[0] == "GPU 1 has 79.65 GiB; its part of 62 layers takes 81.18 GiB."
    fitting = fit.recommendation["num_ctx"]
    assert fit.recommendation == {"num_gpu": 62, "num_ctx": fitting, "num_parallel": 4}
    assert plan_layers(r1, H800, ollama(parallel=4, context=fitting)).fits
    assert not plan_layers(r1, H800, ollama(parallel=4, context=fitting + 256)).fits


def test_r1_with_latents_fits_at_its_full_context(r1_latent):
    assert plan_layers(r1_latent, H800, ollama(context=163840, parallel=4)).fits


def test_what_fits_nowhere_whole_is_recommended_in_part(r1):
    fit = plan_layers(r1, Host((81559 * MIB,) * 2, 2048 * GIB), ollama())
    assert not fit.fits
    layers = fit.recommendation["num_gpu"]
    assert 0 < layers < 62
    assert plan_layers(r1, Host((81559 * MIB,) * 2, 2048 * GIB), ollama(layers=layers)).fits
    assert not plan_layers(r1, Host((81559 * MIB,) * 2, 2048 * GIB), ollama(layers=layers + 1)).fits


def test_nothing_is_recommended_where_nothing_works(r1):
    fit = plan_layers(r1, Host((8 * GIB,), 16 * GIB), ollama())
    assert not fit.fits
    assert fit.recommendation == {}


def test_llama_cpp_counts_the_tokens_of_all_requests(r1_latent):
    fit = plan_layers(r1_latent, H800, Wish("llama_cpp", 4096, 3))
    assert fit.recommendation == {"n_gpu_layers": 62, "ctx_size": 12288, "parallel": 3}


def test_the_host_must_hold_what_is_not_on_gpus(r1):
    fit = plan_layers(r1, Host(H800.gpus, 256 * GIB, 100 * GIB), ollama(layers=16))
    assert fit.reasons == [
        "The host has 256.00 GiB of memory; needed are 309.12 GiB.",
        "The host has 100.00 GiB of disk space; needed are 376.65 GiB.",
    ]


def test_no_layer_on_gpus_is_a_plan_too(r1):
    fit = plan_layers(r1, H800, ollama(layers=0))
    assert fit.fits
    assert {(load.weights, load.cache) for load in fit.gpus} == {(0, 0)}
    assert fit.host.weights == r1.size


def test_an_input_on_the_host_is_not_left_to_the_cpus(tmp_path):
    model = model_at(model_headers.dense(tmp_path / "m.gguf", layers=4))
    fit = plan_layers(model, Host((80 * GIB,)), ollama())
    assert fit.host.weights == 32000 * 1024 * 2
    assert "of the layers and their cache, 100% lie on the GPUs and 0% on the CPUs" in fit.arithmetic


def test_gpus_of_different_sizes_get_layers_in_proportion(tmp_path):
    model = model_at(model_headers.dense(tmp_path / "m.gguf", layers=29))
    fit = plan_layers(model, Host((80 * GIB, 40 * GIB)), ollama())
    layer = next(weight.size for weight in model.weights if weight.layer == 0)
    assert fit.gpus[0].weights == 20 * layer


def test_a_quantized_cache_needs_flash_attention(r1):
    with pytest.raises(LlmError, match=r"q8_0 takes flash attention, .* heads of 192 and 128 elements"):
        plan_layers(r1, H800, ollama(cache_type="q8_0"))
    half = plan_layers(r1, H800, ollama(cache_type="q8_0", flash_attention=True))
    assert half.gpus[0].cache == 8192 * 8 * 40960 // 32 * 34


def test_a_context_that_the_model_was_not_made_for_is_said(r1_latent):
    fit = plan_layers(r1_latent, H800, ollama(context=200000))
    assert fit.fits
    assert fit.notes == ["The model was made for 163840 tokens; 200000 are asked for."]
    assert fit.recommendation["num_ctx"] == 163840


def test_windows_bound_the_cache(tmp_path):
    path = model_headers.dense(tmp_path / "m.gguf", "gemma3", layers=12, keys={"attention.sliding_window": 1024})
    model = model_at(path)
    assert [cache.window for cache in model.caches] == [1024] * 5 + [0] + [1024] * 5 + [0]
    fit = plan_layers(model, Host((80 * GIB,)), ollama(context=32768))
    assert fit.gpus[0].cache == (10 * (1024 + 512) + 2 * 32768) * 2 * 2 * 128 * 2


@pytest.mark.parametrize(
    ("wish", "message"),
    [
        (ollama(cache_type="bf16"), "ollama has no KV cache of type 'bf16'; expected f16, q8_0, q4_0."),
        (Wish("vllm", 8192), "vllm serves safetensors here, but the model is in gguf."),
        (ollama(parallel=0), "parallel is 0; expected 1 or more."),
        (ollama(context=0), "context is 0; expected 1 or more."),
        (ollama(layers=-1), "layers is -1; expected 0 or more."),
    ],
)
def test_refuses_what_cannot_be_asked(r1, wish, message):
    with pytest.raises(LlmError) as error:
        plan_layers(r1, H800, wish)
    assert str(error.value) == message


def test_refuses_heads_that_do_not_go_into_blocks(tmp_path):
    model = model_at(model_headers.dense(tmp_path / "m.gguf", head=80, kv_heads=1))
    with pytest.raises(LlmError, match="has blocks of 32 elements, into which the 80 of this model do not go"):
        plan_layers(model, H800, ollama(cache_type="q8_0"))


def header_of(tmp_path: Path, keys, tensors=("blk.0.ffn_up.weight",)):
    path = tmp_path / "bad.gguf"
    path.write_bytes(build.whole(keys, [build.weights(name, (32, 2)) for name in tensors]))
    return open_gguf(path).header


def number(name, value):
    return build.key(name, ValueType.UINT32, value)


LLAMA = [
    build.key("general.architecture", ValueType.STRING, "llama"),
    number("llama.block_count", 1),
    number("llama.context_length", 4096),
    number("llama.embedding_length", 32),
    number("llama.feed_forward_length", 64),
    number("llama.attention.head_count", 4),
    number("llama.attention.head_count_kv", 2),
    build.array("tokenizer.ggml.tokens", ValueType.STRING, ["a", "b"]),
]


def test_an_unknown_architecture_is_named(tmp_path):
    header = header_of(tmp_path, [build.key("general.architecture", ValueType.STRING, "mamba")])
    with pytest.raises(LlmError, match=r"has the architecture 'mamba', unknown here\. Known: deepseek2, .*, qwen3moe"):
        gguf_model([header])


@pytest.mark.parametrize("missing", range(1, len(LLAMA)))
def test_a_missing_key_is_named(tmp_path, missing):
    keys = [key for index, key in enumerate(LLAMA) if index != missing]
    name = LLAMA[missing][8:].split(b"\x04\x00\x00\x00")[0].split(b"\x09\x00\x00\x00")[0].decode()
    with pytest.raises(LlmError, match=f"{tmp_path}/bad.gguf has no.*{name}.* cannot be known"):
        gguf_model([header_of(tmp_path, keys)])


def test_a_key_may_differ_from_layer_to_layer(tmp_path):
    keys = [*LLAMA[:6], build.array("llama.attention.head_count_kv", ValueType.INT32, [1]), LLAMA[7]]
    assert gguf_model([header_of(tmp_path, keys)]).caches == (Cache(8, 8),)


def test_a_layer_too_many_is_an_error(tmp_path):
    with pytest.raises(LlmError, match=r"has the tensor 'blk\.1\.ffn_up\.weight', but only 1 layers"):
        gguf_model([header_of(tmp_path, LLAMA, ["blk.1.ffn_up.weight"])])


def test_an_embedding_that_is_the_output_counts_twice(tmp_path):
    model = gguf_model([header_of(tmp_path, LLAMA, ["token_embd.weight", "blk.0.ffn_up.weight"])])
    assert {weight.layer: weight.size for weight in model.weights} == {INPUT: 256, 0: 256, 1: 256}
