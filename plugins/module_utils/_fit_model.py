# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What of a model decides how much memory it takes, read from GGUF headers. Private to this collection.

`_config` reads the same from a repository of safetensors.
"""

from __future__ import annotations

import re
import typing as t
from collections.abc import Sequence
from dataclasses import dataclass

from ansible_collections.llmfleet.serving.plugins.module_utils._errors import LlmError
from ansible_collections.llmfleet.serving.plugins.module_utils._gguf import FILE_TYPES, Header

INPUT = -1
# Known models have at most 126 layers (Llama 3.1 405B). What claims more than this is not worth the memory to count it.
MAX_LAYERS = 4096


class Cache(t.NamedTuple):
    """What one token leaves in the KV cache of one layer.

    :ivar key: elements of K, of all heads.
    :ivar value: elements of V, of all heads; 0 where V is a part of K (MLA).
    :ivar window: tokens that a layer with a sliding window looks back; 0 for all of them.
    """

    key: int
    value: int
    window: int = 0


class Weight(t.NamedTuple):
    """Weights that are placed alike.

    :ivar layer: number of their layer; INPUT for what comes before the first, the number of layers for what comes
        behind the last.
    :ivar ways: into how many equal parts tensor parallelism can cut them; 0 for any number, 1 for whole copies.
    :ivar size: bytes.
    """

    layer: int
    ways: int
    size: int


class Cut(t.NamedTuple):
    """A dimension that tensor parallelism cuts: each part must be a multiple of `unit`.

    :ivar key: the key of config.json that has the dimension.
    """

    key: str
    size: int
    unit: int


@dataclass(frozen=True)
class Model:
    """A model as a plan sees it. Sizes are in bytes.

    :ivar format: "gguf" or "safetensors".
    :ivar quantization: how most weights are stored, "" where the files do not tell.
    :ivar layers: repeating layers, without an embedding, an output or a layer for speculation.
    :ivar context: tokens that the model was made for.
    :ivar width: elements of a token between layers.
    :ivar vocabulary: tokens that the output chooses from.
    :ivar heads: attention heads.
    :ivar cache_heads: how many ways tensor parallelism cuts the KV cache at most; 1 for MLA, whose latents have no
        heads.
    :ivar head: elements that K and V of one head have while attention is computed.
    :ivar experts: routed experts that one token uses; 0 for a dense model.
    :ivar hidden: the widest inner dimension of a feed-forward block, of an expert where there are experts.
    :ivar caches: one for each layer.
    :ivar weights: what is loaded.
    :ivar disk: bytes of all files.
    :ivar cuts: what else tensor parallelism must divide evenly.
    :ivar shared: bytes of an embedding that is the output too: a pipeline needs it on both ends.
    """

    format: str
    architecture: str
    quantization: str
    layers: int
    context: int
    width: int
    vocabulary: int
    heads: int
    cache_heads: int
    head: tuple[int, int]
    experts: int
    hidden: int
    caches: tuple[Cache, ...]
    weights: tuple[Weight, ...]
    disk: int
    cuts: tuple[Cut, ...] = ()
    shared: int = 0

    @property
    def size(self) -> int:
        """Bytes of all weights that are loaded."""
        return sum(weight.size for weight in self.weights)

    @property
    def latent(self) -> bool:
        """Whether the cache holds MLA's latents, from which the values of all heads are made."""
        return any(cache.value == 0 for cache in self.caches)


# Architectures whose layers all have a KV cache of this form, as llama.cpp knows them. Of those with sliding windows:
# every how many layers one looks at everything, which their headers do not tell (llama.cpp, load_arch_hparams).
_PLAIN = ("deepseek2", "gemma", "llama", "qwen2", "qwen3", "qwen3moe")
_WINDOWED = {"gemma2": 2, "gemma3": 6, "gpt-oss": 2}
_BLOCK = re.compile(r"blk\.(\d+)\.")


def gguf_model(headers: Sequence[Header]) -> Model:
    """The model that GGUF files hold, with sizes as llama.cpp gives them to its buffers.

    :param headers: of the only file, or of all shards in order.
    :raises LlmError: for an architecture that is not known here, or a key that is missing.
    """
    first = headers[0]
    architecture = str(first.value("general.architecture"))
    if architecture not in _PLAIN and architecture not in _WINDOWED:
        known = ", ".join(sorted([*_PLAIN, *_WINDOWED]))
        raise LlmError(f"{first.name} has the architecture {architecture!r}, unknown here. Known: {known}.")
    keys = _Keys(first, architecture)
    layers = keys.number("block_count", most=MAX_LAYERS)
    experts = keys.number("expert_used_count", 0)
    caches = _caches(keys, layers, architecture)
    return Model(
        format="gguf",
        architecture=architecture,
        quantization=FILE_TYPES.get(first.value("general.file_type"), ""),
        layers=layers,
        context=keys.number("context_length"),
        width=keys.number("embedding_length"),
        vocabulary=_vocabulary(first),
        heads=max(keys.each("attention.head_count", layers)),
        cache_heads=1 if caches[0].value == 0 else max(keys.each("attention.head_count_kv", layers)),
        head=_head(keys),
        experts=experts,
        hidden=keys.number("expert_feed_forward_length", 0) or keys.number("feed_forward_length"),
        caches=caches,
        weights=_weights(headers, layers),
        disk=sum(header.file_size for header in headers),
    )


def no_number(subject: str, key: str, value: t.Any, least: int, most: int) -> LlmError:
    """The error for a key that has no number, or none that a model could have."""
    found = "nothing" if value is None else repr(value)[:40]
    return LlmError(
        f"{subject} has {found} under {key}; expected a number from {least} to {most}, without which its memory cannot "
        "be known."
    )


class _Keys:
    """The keys of one architecture in a GGUF header."""

    def __init__(self, header: Header, architecture: str) -> None:
        self._header = header
        self._architecture = architecture

    def number(self, name: str, default: int | None = None, most: int = 1 << 40) -> int:
        """A number, the largest one where the file has one for each layer; at least 1 where there is no default."""
        value = self._header.value(f"{self._architecture}.{name}")
        values = [default] if value is None else value if isinstance(value, list) else [value]
        least = 1 if default is None else 0
        if not values or not all(isinstance(item, int) and 0 <= item <= most for item in values) or max(values) < least:
            raise no_number(self._header.name, f"{self._architecture}.{name}", value, least, most)
        return int(max(values))

    def each(self, name: str, layers: int) -> list[int]:
        """The value for each layer, whether the file has one for all or one for each."""
        value = self._header.value(f"{self._architecture}.{name}")
        largest = self.number(name)
        return value if isinstance(value, list) and len(value) == layers else [largest] * layers


def _head(keys: _Keys) -> tuple[int, int]:
    even = keys.number("embedding_length") // keys.number("attention.head_count")
    return keys.number("attention.key_length", even), keys.number("attention.value_length", even)


def _caches(keys: _Keys, layers: int, architecture: str) -> tuple[Cache, ...]:
    key, value = _head(keys)
    if keys.number("attention.key_length_mla", 0):
        # K is the latent with the rotated part behind it, V is the latent again: llama.cpp stores it once.
        return (Cache(key, 0),) * layers
    window = keys.number("attention.sliding_window", 0) if architecture in _WINDOWED else 0
    period = _WINDOWED.get(architecture, 1)
    return tuple(
        Cache(heads * key, heads * value, 0 if layer % period == period - 1 else window)
        for layer, heads in enumerate(keys.each("attention.head_count_kv", layers))
    )


def _vocabulary(header: Header) -> int:
    tokens = next((item.count for item in header.keys if item.key == "tokenizer.ggml.tokens"), None)
    if not tokens:
        raise LlmError(f"{header.name} has no tokenizer.ggml.tokens, so the size of its output cannot be known.")
    return tokens


def _weights(headers: Sequence[Header], layers: int) -> tuple[Weight, ...]:
    sizes = dict.fromkeys(range(INPUT, layers + 1), 0)
    embedding = 0
    for header in headers:
        for tensor in header.tensors:
            block = _BLOCK.match(tensor.name)
            layer = int(block[1]) if block else layers
            if tensor.name.startswith("token_embd"):
                layer, embedding = INPUT, embedding + tensor.size
            if block and layer >= layers:
                raise LlmError(f"{header.name} has the tensor {tensor.name!r}, but only {layers} layers.")
            sizes[layer] += tensor.size
    names = {tensor.name for header in headers for tensor in header.tensors}
    if "output.weight" not in names:
        # Such a model uses the embedding as its output, and llama.cpp loads it into both places.
        sizes[layers] += embedding
    return tuple(Weight(layer, 0, size) for layer, size in sizes.items())
