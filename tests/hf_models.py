# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Published models as repositories of safetensors: config.json and the sizes of their tensors, without any data."""

from __future__ import annotations

import json
import struct
import typing as t
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from ansible_collections.llmfleet.serving.plugins.module_utils._config import StoredTensor

Linear = Callable[[str, int, int], Iterator[StoredTensor]]

# deepseek-ai/DeepSeek-R1, config.json, as far as it has to do with sizes.
DEEPSEEK_R1: dict[str, t.Any] = {
    "model_type": "deepseek_v3",
    "num_hidden_layers": 61,
    "num_nextn_predict_layers": 1,
    "first_k_dense_replace": 3,
    "num_attention_heads": 128,
    "num_key_value_heads": 128,
    "hidden_size": 7168,
    "intermediate_size": 18432,
    "moe_intermediate_size": 2048,
    "n_routed_experts": 256,
    "num_experts_per_tok": 8,
    "max_position_embeddings": 163840,
    "vocab_size": 129280,
    "q_lora_rank": 1536,
    "kv_lora_rank": 512,
    "qk_rope_head_dim": 64,
    "qk_nope_head_dim": 128,
    "v_head_dim": 128,
    "quantization_config": {"quant_method": "fp8", "fmt": "e4m3", "weight_block_size": [128, 128]},
}


def deepseek_r1() -> Iterator[StoredTensor]:
    """The 91991 tensors of DeepSeek-R1 in FP8, with the layer for speculation."""
    width, words = 7168, 129280
    yield from deepseek_layers(62, dense=3, words=words, linear=fp8)
    speculation = "model.layers.61"
    for norm in ("enorm", "hnorm", "shared_head.norm"):
        yield StoredTensor(f"{speculation}.{norm}.weight", 2 * width)
    yield StoredTensor(f"{speculation}.eh_proj.weight", 2 * width * 2 * width)
    yield StoredTensor(f"{speculation}.embed_tokens.weight", 2 * words * width)
    yield StoredTensor(f"{speculation}.shared_head.head.weight", 2 * words * width)


def deepseek_layers(layers: int, *, dense: int, words: int, linear: Linear) -> Iterator[StoredTensor]:
    """DeepSeek-R1 with so many layers, of which the first are dense, and so many words.

    :param linear: tensors of a matrix, by its name, rows and columns.
    """
    width = 7168
    yield StoredTensor("model.embed_tokens.weight", 2 * words * width)
    yield StoredTensor("model.norm.weight", 2 * width)
    yield StoredTensor("lm_head.weight", 2 * words * width)
    for layer in range(layers):
        prefix = f"model.layers.{layer}"
        attention = f"{prefix}.self_attn"
        yield from linear(f"{attention}.q_a_proj", 1536, width)
        yield from linear(f"{attention}.q_b_proj", 128 * 192, 1536)
        yield from linear(f"{attention}.kv_a_proj_with_mqa", 576, width)
        yield from linear(f"{attention}.kv_b_proj", 128 * 256, 512)
        yield from linear(f"{attention}.o_proj", width, 128 * 128)
        yield StoredTensor(f"{attention}.q_a_layernorm.weight", 2 * 1536)
        yield StoredTensor(f"{attention}.kv_a_layernorm.weight", 2 * 512)
        yield StoredTensor(f"{prefix}.input_layernorm.weight", 2 * width)
        yield StoredTensor(f"{prefix}.post_attention_layernorm.weight", 2 * width)
        if layer < dense:
            yield from _mlp(f"{prefix}.mlp", width, 18432, linear)
            continue
        yield StoredTensor(f"{prefix}.mlp.gate.weight", 2 * 256 * width)
        yield StoredTensor(f"{prefix}.mlp.gate.e_score_correction_bias", 4 * 256)
        for expert in (*(f"experts.{number}" for number in range(256)), "shared_experts"):
            yield from _mlp(f"{prefix}.mlp.{expert}", width, 2048, linear)


def _mlp(name: str, width: int, hidden: int, linear: Linear) -> Iterator[StoredTensor]:
    yield from linear(f"{name}.gate_proj", hidden, width)
    yield from linear(f"{name}.up_proj", hidden, width)
    yield from linear(f"{name}.down_proj", width, hidden)


def fp8(name: str, rows: int, columns: int) -> Iterator[StoredTensor]:
    """FP8 in blocks of 128 x 128, as DeepSeek has it."""
    yield StoredTensor(f"{name}.weight", rows * columns)
    yield StoredTensor(f"{name}.weight_scale_inv", 4 * -(-rows // 128) * -(-columns // 128))


def awq(name: str, rows: int, columns: int) -> Iterator[StoredTensor]:
    """AWQ with 4 bits and groups of 128."""
    yield StoredTensor(f"{name}.qweight", rows * columns // 2)
    yield StoredTensor(f"{name}.qzeros", rows * columns // 128 // 2)
    yield StoredTensor(f"{name}.scales", 2 * rows * columns // 128)


def dense(
    *,
    layers: int,
    width: int,
    heads: int,
    kv_heads: int,
    hidden: int,
    words: int,
    head: int = 128,
    kind: str = "llama",
    biases: bool = False,
    **keys: t.Any,
) -> tuple[dict[str, t.Any], list[StoredTensor]]:
    """config.json and tensors of a dense model in 16 bits."""
    config = {
        "model_type": kind,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "head_dim": head,
        "hidden_size": width,
        "intermediate_size": hidden,
        "vocab_size": words,
        "max_position_embeddings": 131072,
        **keys,
    }
    sizes = {
        "self_attn.q_proj.weight": heads * head * width,
        "self_attn.k_proj.weight": kv_heads * head * width,
        "self_attn.v_proj.weight": kv_heads * head * width,
        "self_attn.o_proj.weight": heads * head * width,
        "mlp.gate_proj.weight": hidden * width,
        "mlp.up_proj.weight": hidden * width,
        "mlp.down_proj.weight": hidden * width,
        "input_layernorm.weight": width,
        "post_attention_layernorm.weight": width,
    }
    if biases:
        sizes |= {
            f"self_attn.{name}_proj.bias": count * head for name, count in zip("qkv", (heads, kv_heads, kv_heads))
        }
    tensors = [
        StoredTensor("model.embed_tokens.weight", 2 * words * width),
        StoredTensor("model.norm.weight", 2 * width),
    ]
    if not keys.get("tie_word_embeddings"):
        tensors.append(StoredTensor("lm_head.weight", 2 * words * width))
    for layer in range(layers):
        tensors += [StoredTensor(f"model.layers.{layer}.{name}", 2 * size) for name, size in sizes.items()]
    return config, tensors


def write_repository(folder: Path, config: dict[str, t.Any], tensors: Iterable[StoredTensor], shards: int = 2) -> Path:
    """The files of a model, of which the weights are holes."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    tensors = list(tensors)
    places = {}
    for number in range(shards):
        name = f"model-{number + 1:05d}-of-{shards:05d}.safetensors"
        part = tensors[number::shards]
        places |= {tensor.name: name for tensor in part}
        write_safetensors(folder / name, part)
    index = {"metadata": {"total_size": sum(tensor.size for tensor in tensors)}, "weight_map": places}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder


def write_safetensors(path: Path, tensors: Iterable[StoredTensor]) -> None:
    header: dict[str, t.Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for tensor in tensors:
        header[tensor.name] = {"dtype": "U8", "shape": [tensor.size], "data_offsets": [end, end + tensor.size]}
        end += tensor.size
    content = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(content)) + content)
        file.truncate(8 + len(content) + end)
