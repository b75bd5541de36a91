# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The two architectures that are generated: their dimensions for a wanted size, their metadata and tensors.

Names and shapes are those that llama.cpp reads. `deepseek2` is written in the layout of early 2025, with one
`attn_kv_b` where later converters write `attn_k_b` and `attn_v_b`: Ollama 0.5.11 knows only that one, today's
llama.cpp reads both.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np

from testbed.models.vocabulary import vocabulary

CONTEXT_LENGTH = 8192
RMS_EPSILON = 1e-6
ROPE_BASE = 10000.0

Role = Literal["matrix", "writer", "embedding", "output", "norm", "bias"]
Metadata = dict[str, int | float | bool]


@dataclass(frozen=True)
class Tensor:
    """One tensor.

    :ivar shape: rows first, as numpy counts: (..., outputs, inputs).
    :ivar role: what the values must be; ``writer`` is a matrix whose result is added to the residual stream.
    """

    name: str
    shape: tuple[int, ...]
    role: Role = "matrix"

    @property
    def dtype(self) -> np.dtype[np.float16] | np.dtype[np.float32]:
        """Matrices have 16 bits. Vectors have 32: llama.cpp multiplies and adds them to 32-bit activations."""
        return np.dtype(np.float32) if len(self.shape) == 1 else np.dtype(np.float16)

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


@dataclass(frozen=True)
class Model:
    """What there is to know of a model but its numbers.

    :ivar metadata: GGUF keys without the leading ``<architecture>.``.
    """

    architecture: str
    width: int
    layers: int
    metadata: Metadata
    tensors: tuple[Tensor, ...]


def model_of(architecture: str, size: int) -> Model:
    """The model of about `size` bytes of weights, at least 1.1 MB for ``llama`` and 1.5 MB for ``deepseek2``.

    :raises ValueError: for an architecture that is not generated here.
    """
    try:
        build, least_layers = _BUILDERS[architecture]
    except KeyError:
        raise ValueError(f"architecture {architecture!r}: expected one of {', '.join(_BUILDERS)}") from None
    width = 128 if size < 16_000_000 else 512 if size < 1_000_000_000 else 2048
    smallest = build(width, least_layers)
    per_layer = _nbytes(build(width, least_layers + 1)) - _nbytes(smallest)
    return build(width, least_layers + max(0, round((size - _nbytes(smallest)) / per_layer)))


def _nbytes(model: Model) -> int:
    return sum(tensor.nbytes for tensor in model.tensors)


def _common(width: int, layers: int, heads: int, kv_heads: int) -> Metadata:
    return {
        "context_length": CONTEXT_LENGTH,
        "embedding_length": width,
        "block_count": layers,
        "attention.head_count": heads,
        "attention.head_count_kv": kv_heads,
        "attention.layer_norm_rms_epsilon": RMS_EPSILON,
        "rope.freq_base": ROPE_BASE,
        "vocab_size": len(vocabulary().tokens),
    }


def _around(width: int, blocks: Iterator[Tensor]) -> tuple[Tensor, ...]:
    words = len(vocabulary().tokens)
    return (
        Tensor("token_embd.weight", (words, width), "embedding"),
        *blocks,
        Tensor("output_norm.weight", (width,), "norm"),
        Tensor("output.weight", (words, width), "output"),
    )


def _feed_forward(prefix: str, width: int, hidden: int, suffix: str = "") -> Iterator[Tensor]:
    yield Tensor(f"{prefix}ffn_gate{suffix}.weight", (hidden, width))
    yield Tensor(f"{prefix}ffn_up{suffix}.weight", (hidden, width))
    yield Tensor(f"{prefix}ffn_down{suffix}.weight", (width, hidden), "writer")


def _llama(width: int, layers: int) -> Model:
    head, heads = 64, width // 64
    kv_heads = heads // 2
    hidden = 3 * width

    def blocks() -> Iterator[Tensor]:
        for layer in range(layers):
            prefix = f"blk.{layer}."
            yield Tensor(f"{prefix}attn_norm.weight", (width,), "norm")
            yield Tensor(f"{prefix}attn_q.weight", (heads * head, width))
            yield Tensor(f"{prefix}attn_k.weight", (kv_heads * head, width))
            yield Tensor(f"{prefix}attn_v.weight", (kv_heads * head, width))
            yield Tensor(f"{prefix}attn_output.weight", (width, heads * head), "writer")
            yield Tensor(f"{prefix}ffn_norm.weight", (width,), "norm")
            yield from _feed_forward(prefix, width, hidden)

    metadata = {**_common(width, layers, heads, kv_heads), "feed_forward_length": hidden, "rope.dimension_count": head}
    return Model("llama", width, layers, metadata, _around(width, blocks()))


def _deepseek2(width: int, layers: int) -> Model:
    heads = width // 64
    nope, rope, value = 64, 32, 64
    q_rank = kv_rank = width // 4
    hidden, expert_hidden = 2 * width, width // 2
    experts = 4
    dense_layers = 1

    def blocks() -> Iterator[Tensor]:
        for layer in range(layers):
            prefix = f"blk.{layer}."
            yield Tensor(f"{prefix}attn_norm.weight", (width,), "norm")
            yield Tensor(f"{prefix}attn_q_a.weight", (q_rank, width))
            yield Tensor(f"{prefix}attn_q_a_norm.weight", (q_rank,), "norm")
            yield Tensor(f"{prefix}attn_q_b.weight", (heads * (nope + rope), q_rank))
            yield Tensor(f"{prefix}attn_kv_a_mqa.weight", (kv_rank + rope, width))
            yield Tensor(f"{prefix}attn_kv_a_norm.weight", (kv_rank,), "norm")
            yield Tensor(f"{prefix}attn_kv_b.weight", (heads * (nope + value), kv_rank))
            yield Tensor(f"{prefix}attn_output.weight", (width, heads * value), "writer")
            yield Tensor(f"{prefix}ffn_norm.weight", (width,), "norm")
            if layer < dense_layers:
                yield from _feed_forward(prefix, width, hidden)
            else:
                yield Tensor(f"{prefix}ffn_gate_inp.weight", (experts, width))
                yield Tensor(f"{prefix}exp_probs_b.bias", (experts,), "bias")
                yield Tensor(f"{prefix}ffn_gate_exps.weight", (experts, expert_hidden, width))
                yield Tensor(f"{prefix}ffn_up_exps.weight", (experts, expert_hidden, width))
                yield Tensor(f"{prefix}ffn_down_exps.weight", (experts, width, expert_hidden), "writer")
                yield from _feed_forward(prefix, width, expert_hidden, "_shexp")

    metadata: Metadata = {
        **_common(width, layers, heads, heads),
        "feed_forward_length": hidden,
        "leading_dense_block_count": dense_layers,
        "rope.dimension_count": rope,
        # Required by early readers even where the context is not stretched.
        "rope.scaling.yarn_log_multiplier": 0.1,
        "attention.q_lora_rank": q_rank,
        "attention.kv_lora_rank": kv_rank,
        "attention.key_length": nope + rope,
        "attention.value_length": value,
        "expert_count": experts,
        "expert_used_count": 2,
        "expert_shared_count": 1,
        "expert_feed_forward_length": expert_hidden,
        "expert_weights_scale": 1.0,
        "expert_weights_norm": True,
        # 2 is the sigmoid, as DeepSeek-V3 and R1 have it.
        "expert_gating_func": 2,
    }
    return Model("deepseek2", width, layers, metadata, _around(width, blocks()))


# The least number of layers makes the smallest deepseek2 fit for nine shards.
_BUILDERS: dict[str, tuple[Callable[[int, int], Model], int]] = {"llama": (_llama, 2), "deepseek2": (_deepseek2, 4)}
