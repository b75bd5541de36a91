# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Headers of GGUF models of any size, real shapes and no data: what plans are made from, and llama.cpp's own too.

A file is sparse: it has the size that its header speaks of and takes a few megabytes of the disk.
"""

from __future__ import annotations

import struct
import typing as t
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import gguf_build as build

from ansible_collections.llmfleet.serving.plugins.module_utils._gguf import KeyValue, Tensor, ValueType, padded
from ansible_collections.llmfleet.serving.plugins.module_utils._gguf_files import open_gguf

F32, F16, Q4_K, Q6_K = 0, 1, 12, 14

# Name, shape (fastest first) and type.
Row = tuple[str, tuple[int, ...], int]


def write_sparse(path: Path, architecture: str, keys: Mapping[str, t.Any], rows: Sequence[Row], words: int) -> Path:
    """A GGUF file of these tensors, whose data is a hole, with a vocabulary of `words` tokens.

    :param keys: without the leading architecture; numbers only.
    """
    entries = [build.key("general.architecture", ValueType.STRING, architecture)]
    entries += [_key(f"{architecture}.{name}", value) for name, value in keys.items()]
    return _write(path, entries + _tokenizer(words), rows)


def split(whole: Path, parts: int) -> list[Path]:
    """A sparse file as the shards of a model, beside it: ``part-00001-of-0000N.gguf`` and so on."""
    header = open_gguf(whole).header
    each = -(-len(header.tensors) // parts)
    paths = []
    for no in range(parts):
        path = whole.with_name(f"part-{no + 1:05d}-of-{parts:05d}.gguf")
        keys = [_raw(item) for item in header.keys] if no == 0 else []
        rows = [(tensor.name, tensor.shape, tensor.type) for tensor in header.tensors[no * each : (no + 1) * each]]
        paths.append(_write(path, keys + build.split_keys(no, parts, len(header.tensors)), rows))
    return paths


def _raw(item: KeyValue) -> bytes:
    kind = (
        struct.pack("<i", item.type) if item.count is None else struct.pack("<iiQ", build.ARRAY, item.type, item.count)
    )
    return build.string(item.key) + kind + item.raw


def _write(path: Path, entries: Sequence[bytes], rows: Sequence[Row]) -> Path:
    infos, offset = [], 0
    for name, shape, kind in rows:
        infos.append(build.info(name, shape, kind, offset))
        offset += padded(Tensor(name, shape, kind, 0).size, 32)
    header = build.gguf(entries, infos)
    path.write_bytes(header)
    with path.open("r+b") as file:
        file.truncate(len(header) + offset)
    return path


def deepseek_r1(path: Path, *, latent: bool = False) -> Path:
    """DeepSeek-R1 671B as unsloth published it in January 2025, Q4_K_M: 1025 tensors.

    Which tensors are Q6_K follows from llama-quantize's rule; that all of them together are exactly what the nine
    published shards hold is a test of its own.

    :param latent: with the tensors attn_k_b and attn_v_b of the files made since April 2025, which store MLA's latents.
    """
    keys = {
        "block_count": 61,
        "context_length": 163840,
        "embedding_length": 7168,
        "feed_forward_length": 18432,
        "attention.head_count": 128,
        "attention.head_count_kv": 1 if latent else 128,
        "attention.layer_norm_rms_epsilon": 1e-6,
        "attention.q_lora_rank": 1536,
        "attention.kv_lora_rank": 512,
        "attention.key_length": 576 if latent else 192,
        "attention.value_length": 512 if latent else 128,
        "rope.dimension_count": 64,
        "rope.freq_base": 10000.0,
        "rope.scaling.yarn_log_multiplier": 0.1,
        "leading_dense_block_count": 3,
        "vocab_size": 129280,
        "expert_count": 256,
        "expert_used_count": 8,
        "expert_shared_count": 1,
        "expert_feed_forward_length": 2048,
        "expert_weights_scale": 2.5,
        "expert_weights_norm": True,
        "expert_gating_func": 2,
    }
    if latent:
        keys |= {"attention.key_length_mla": 192, "attention.value_length_mla": 128}
    return write_sparse(path, "deepseek2", keys, [*_deepseek_r1_rows(latent)], 129280)


def _deepseek_r1_rows(latent: bool) -> Iterator[Row]:
    width, layers, words, hidden, expert = 7168, 61, 129280, 18432, 2048
    yield "token_embd.weight", (width, words), Q4_K
    yield "output_norm.weight", (width,), F32
    yield "output.weight", (width, words), Q6_K
    for layer in range(layers):
        more = layer < layers // 8 or layer >= 7 * layers // 8 or (layer - layers // 8) % 3 == 2
        down = Q6_K if more else Q4_K
        tensors: list[Row] = [
            ("attn_norm.weight", (width,), F32),
            ("attn_q_a.weight", (width, 1536), Q4_K),
            ("attn_q_a_norm.weight", (1536,), F32),
            ("attn_q_b.weight", (1536, 128 * 192), Q4_K),
            ("attn_kv_a_mqa.weight", (width, 576), Q4_K),
            ("attn_kv_a_norm.weight", (512,), F32),
            ("attn_output.weight", (128 * 128, width), Q4_K),
            ("ffn_norm.weight", (width,), F32),
        ]
        if latent:
            # Rows of 128 elements do not fit the blocks of Q4_K.
            tensors += [("attn_k_b.weight", (128, 512, 128), F16), ("attn_v_b.weight", (512, 128, 128), Q4_K)]
        else:
            tensors += [("attn_kv_b.weight", (512, 128 * 256), Q4_K)]
        if layer < 3:
            tensors += _feed_forward((width, hidden), down)
        else:
            tensors += [("ffn_gate_inp.weight", (width, 256), F32), ("exp_probs_b.bias", (256,), F32)]
            tensors += _feed_forward((width, expert, 256), down, "_exps")
            tensors += _feed_forward((width, expert), down, "_shexp")
        yield from ((f"blk.{layer}.{name}", shape, kind) for name, shape, kind in tensors)


def dense(
    path: Path,
    architecture: str = "llama",
    *,
    layers: int = 10,
    width: int = 1024,
    heads: int = 8,
    kv_heads: int = 2,
    head: int = 128,
    words: int = 32000,
    tied: bool = False,
    keys: Mapping[str, t.Any] | None = None,
    norms: Sequence[str] = (),
    experts: int = 0,
    more: Sequence[Row] = (),
    without: Sequence[str] = (),
) -> Path:
    """A model of one of the architectures with the layers of Llama.

    :param tied: without an output of its own: the embedding is that too.
    :param keys: further ones, or others.
    :param norms: further norms of each layer; those of Q and K have the width of a head.
    :param experts: how many, in place of one feed-forward block.
    :param more: further tensors of each layer, such as biases.
    :param without: tensors that its layers lack.
    """
    hidden = 3 * width
    all_keys = {
        "block_count": layers,
        "context_length": 32768,
        "embedding_length": width,
        "feed_forward_length": hidden,
        "attention.head_count": heads,
        "attention.head_count_kv": kv_heads,
        "attention.key_length": head,
        "attention.value_length": head,
        "attention.layer_norm_rms_epsilon": 1e-6,
        "rope.dimension_count": head,
        "rope.freq_base": 10000.0,
        "vocab_size": words,
        **(keys or {}),
    }
    rows: list[Row] = [("token_embd.weight", (width, words), F16), ("output_norm.weight", (width,), F32)]
    rows += [] if tied else [("output.weight", (width, words), F16)]
    for layer in range(layers):
        tensors: list[Row] = [
            ("attn_norm.weight", (width,), F32),
            ("attn_q.weight", (width, heads * head), F16),
            ("attn_k.weight", (width, kv_heads * head), F16),
            ("attn_v.weight", (width, kv_heads * head), F16),
            ("attn_output.weight", (heads * head, width), F16),
            ("ffn_norm.weight", (width,), F32),
            *more,
            *((f"{norm}.weight", (head if norm in ("attn_q_norm", "attn_k_norm") else width,), F32) for norm in norms),
        ]
        if experts:
            tensors += [("ffn_gate_inp.weight", (width, experts), F32)]
            tensors += _feed_forward((width, hidden, experts), F16, "_exps", F16)
        else:
            tensors += _feed_forward((width, hidden), F16, "", F16)
        rows += [(f"blk.{layer}.{name}", shape, kind) for name, shape, kind in tensors if name not in without]
    return write_sparse(path, architecture, all_keys, rows, words)


def _feed_forward(shape: tuple[int, ...], down: int, suffix: str = "", kind: int = Q4_K) -> list[Row]:
    turned = (shape[1], shape[0], *shape[2:])
    return [
        (f"ffn_gate{suffix}.weight", shape, kind),
        (f"ffn_up{suffix}.weight", shape, kind),
        (f"ffn_down{suffix}.weight", turned, down),
    ]


def _key(name: str, value: t.Any) -> bytes:
    kinds = {bool: ValueType.BOOL, int: ValueType.UINT32, float: ValueType.FLOAT32}
    return build.key(name, kinds[type(value)], value)


def _tokenizer(words: int) -> list[bytes]:
    tokens = [f"t{number}" for number in range(words)]
    return [
        build.key("tokenizer.ggml.model", ValueType.STRING, "gpt2"),
        build.key("tokenizer.ggml.pre", ValueType.STRING, "gpt-2"),
        build.array("tokenizer.ggml.tokens", ValueType.STRING, tokens),
        build.array("tokenizer.ggml.token_type", ValueType.INT32, [1] * words),
        build.array("tokenizer.ggml.merges", ValueType.STRING, ["t 0"]),
        build.key("tokenizer.ggml.bos_token_id", ValueType.UINT32, 0),
        build.key("tokenizer.ggml.eos_token_id", ValueType.UINT32, 1),
    ]
