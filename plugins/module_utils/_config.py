# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a repository of safetensors says of its model: config.json, and the headers of its files. Private."""

from __future__ import annotations

import json
import re
import struct
import typing as t
from collections import Counter
from collections.abc import Iterable

from ansible_collections.llmfleet.serving.plugins.module_utils._errors import LlmError
from ansible_collections.llmfleet.serving.plugins.module_utils._fit_model import (
    INPUT,
    MAX_LAYERS,
    Cache,
    Cut,
    Model,
    Weight,
    no_number,
)
from ansible_collections.llmfleet.serving.plugins.module_utils._gguf import Read

# The format's own limit (safetensors, README).
_MAX_HEADER_BYTES = 100_000_000
_FIRST_READ_BYTES = 64 << 10
_LENGTH = struct.Struct("<Q")


class StoredTensor(t.NamedTuple):
    """A tensor of a safetensors file; `size` is in bytes."""

    name: str
    size: int


def read_json(read: Read, size: int, name: str) -> dict[str, t.Any]:
    """A small JSON object, such as config.json."""
    if size > _MAX_HEADER_BYTES:
        raise LlmError(f"{name} has {size} bytes; expected a JSON file of at most {_MAX_HEADER_BYTES}.")
    return _json_object(read(0, size), name)


def read_tensors(read: Read, size: int, name: str) -> list[StoredTensor]:
    """The tensors of a safetensors file, by its header; the data is not read.

    :raises LlmError: for anything that is not a sound header.
    """
    first = read(0, min(size, _FIRST_READ_BYTES))
    length = _LENGTH.unpack_from(first)[0] if len(first) >= _LENGTH.size else size
    end = _LENGTH.size + length
    if length > _MAX_HEADER_BYTES or end > size:
        raise LlmError(f"{name} is not a safetensors file: its header would take {length} of {size} bytes.")
    rest = read(len(first), end - len(first)) if end > len(first) else b""
    entries = _json_object((first + rest)[_LENGTH.size : end], name)
    entries.pop("__metadata__", None)
    return [StoredTensor(tensor, _data_size(entry, size - end, name)) for tensor, entry in entries.items()]


def _data_size(entry: t.Any, data: int, name: str) -> int:
    offsets = entry.get("data_offsets") if isinstance(entry, dict) else None
    if not (isinstance(offsets, list) and len(offsets) == 2 and all(isinstance(offset, int) for offset in offsets)):
        raise LlmError(f"{name} is not a safetensors file: a tensor has no data_offsets.")
    start, stop = offsets
    if not 0 <= start <= stop <= data:
        raise LlmError(f"{name} is damaged: a tensor lies at {start} to {stop} of {data} bytes of data.")
    return int(stop - start)


def _json_object(content: bytes, name: str) -> dict[str, t.Any]:
    try:
        value = json.loads(content)
    except ValueError as exc:
        raise LlmError(f"{name} is not JSON ({exc}). Get it again from its origin.") from exc
    if not isinstance(value, dict):
        raise LlmError(f"{name} holds no JSON object. Get it again from its origin.")
    return value


# `model_type` of the models whose layers are known here, with the key of what is inside a feed-forward block.
_DENSE = ("gemma", "gemma2", "llama", "mistral", "phi3", "qwen2", "qwen3")
_EXPERTS = {
    "deepseek_v2": "moe_intermediate_size",
    "deepseek_v3": "moe_intermediate_size",
    "mixtral": "intermediate_size",
    "qwen2_moe": "moe_intermediate_size",
    "qwen3_moe": "moe_intermediate_size",
}


def config_model(config: dict[str, t.Any], tensors: Iterable[StoredTensor], disk: int, name: str) -> Model:
    """The model of a repository.

    :param config: content of config.json.
    :param tensors: of all safetensors files.
    :param disk: bytes of all files.
    :param name: what messages call the configuration.
    :raises LlmError: for a model type that is not known here, or a key that is missing.
    """
    keys = _Keys(config, name)
    kind = str(config.get("model_type"))
    if kind not in _DENSE and kind not in _EXPERTS:
        known = ", ".join(sorted([*_DENSE, *_EXPERTS]))
        raise LlmError(f"{name} has the model_type {kind!r}, unknown here. Known: {known}.")
    layers = keys.number("num_hidden_layers", most=MAX_LAYERS)
    heads = keys.number("num_attention_heads")
    cache_heads = keys.number("num_key_value_heads", heads)
    caches = _caches(keys, layers, cache_heads)
    latent = caches[0].value == 0
    weights, shared = _weights(tensors, layers, cache_heads, latent)
    return Model(
        format="safetensors",
        architecture=kind,
        quantization=str(_quantization(config).get("quant_method", "")),
        layers=layers,
        context=keys.number("max_position_embeddings"),
        width=keys.number("hidden_size"),
        vocabulary=keys.number("vocab_size"),
        heads=heads,
        cache_heads=1 if latent else cache_heads,
        head=_head(keys),
        experts=keys.number("num_experts_per_tok") if kind in _EXPERTS else 0,
        hidden=keys.number(_EXPERTS.get(kind, "intermediate_size")),
        caches=caches,
        weights=weights,
        disk=disk,
        cuts=_cuts(keys, config, kind),
        shared=shared,
    )


class _Keys:
    def __init__(self, config: dict[str, t.Any], name: str) -> None:
        self._config = config
        self._name = name

    def number(self, key: str, default: int | None = None, most: int = 1 << 40) -> int:
        value = self._config.get(key)
        # Keys that do not apply to a model are often there, as null.
        if value is None:
            value = default
        if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= most:
            raise no_number(self._name, key, value, 1, most)
        return value

    def has(self, key: str) -> bool:
        return self._config.get(key) is not None


def _quantization(config: dict[str, t.Any]) -> dict[str, t.Any]:
    value = config.get("quantization_config")
    return value if isinstance(value, dict) else {}


def _head(keys: _Keys) -> tuple[int, int]:
    if keys.has("kv_lora_rank"):
        return keys.number("qk_nope_head_dim") + keys.number("qk_rope_head_dim"), keys.number("v_head_dim")
    head = keys.number("head_dim", keys.number("hidden_size") // keys.number("num_attention_heads"))
    return head, head


def _caches(keys: _Keys, layers: int, cache_heads: int) -> tuple[Cache, ...]:
    if keys.has("kv_lora_rank"):
        return (Cache(keys.number("kv_lora_rank") + keys.number("qk_rope_head_dim"), 0),) * layers
    key, value = _head(keys)
    # Windows are left aside: whether an engine frees what lies behind them depends on its version and its settings.
    return (Cache(cache_heads * key, cache_heads * value),) * layers


# What each GPU has a whole copy of in vLLM and SGLang: norms, routers, and what makes MLA's latents.
_COPIED = re.compile(r"norm|mlp\.gate\.|shared_expert_gate|block_sparse_moe\.gate\.|q_a_proj|kv_a_proj_with_mqa")
_PER_CACHE_HEAD = re.compile(r"\.[kv]_proj\.")
_LAYER = re.compile(r"model\.layers\.(\d+)\.")


def _weights(
    tensors: Iterable[StoredTensor], layers: int, cache_heads: int, latent: bool
) -> tuple[tuple[Weight, ...], int]:
    """Tensors added up by place, and bytes of an embedding that is the output too.

    Layers behind the last one are for speculation, and not loaded unless asked for.
    """
    sizes: Counter[tuple[int, int]] = Counter()
    names = set()
    for tensor in tensors:
        names.add(tensor.name)
        match = _LAYER.match(tensor.name)
        layer = int(match[1]) if match else INPUT if "embed_tokens" in tensor.name else layers
        if match is None or layer < layers:
            sizes[layer, _ways(tensor.name, cache_heads, latent)] += tensor.size
    shared = 0 if "lm_head.weight" in names else sizes[INPUT, 0]
    return tuple(Weight(layer, ways, size) for (layer, ways), size in sorted(sizes.items())), shared


def _ways(name: str, cache_heads: int, latent: bool) -> int:
    if _COPIED.search(name):
        return 1
    return cache_heads if not latent and _PER_CACHE_HEAD.search(name) else 0


def _cuts(keys: _Keys, config: dict[str, t.Any], kind: str) -> tuple[Cut, ...]:
    """What tensor parallelism cuts inside of rows that are quantized in groups: a part must be whole groups."""
    quantization = _quantization(config)
    blocks = quantization.get("weight_block_size")
    sizes = [quantization.get("group_size"), *(blocks if isinstance(blocks, list) else [])]
    unit = max((size for size in sizes if isinstance(size, int) and size > 0), default=1)
    dense = kind in _DENSE or config.get("first_k_dense_replace")
    names = [*(["intermediate_size"] if dense else []), *([_EXPERTS[kind]] if kind in _EXPERTS else [])]
    return tuple(Cut(key, keys.number(key), unit) for key in names)
