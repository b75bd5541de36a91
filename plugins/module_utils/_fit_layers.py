# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""How llama.cpp, and Ollama with it, lay a model out: whole layers on each GPU. Private to this collection.

Weights and KV cache are what llama.cpp 0.7.0 (build b11669) itself plans for the same files, to the byte; a test asks
it. The reserve is an upper bound of what it plans for its graphs, and a margin.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from itertools import accumulate

from ansible_collections.llmfleet.serving.plugins.module_utils._errors import LlmError
from ansible_collections.llmfleet.serving.plugins.module_utils._fit import (
    GIB,
    Fit,
    Host,
    Load,
    Wish,
    gpu_lines,
    largest,
    shown,
)
from ansible_collections.llmfleet.serving.plugins.module_utils._fit_model import INPUT, Cache, Model
from ansible_collections.llmfleet.serving.plugins.module_utils._gguf import TENSOR_TYPES, padded

# Tokens that llama.cpp computes at once (--ubatch-size), and the step in which it sizes its cache.
_BATCH = 512
_CELLS = 256
# CUDA context and memory pools. llama.cpp leaves as much on each device when it fits a model itself (--fit-target).
_MARGIN = GIB
# An allowance for the process itself: code, vocabulary, requests.
_PROCESS = GIB
_TYPES = {kind.name.lower(): kind for kind in TENSOR_TYPES.values()}
_NAMES = {
    "ollama": ("num_gpu", "num_ctx", "num_parallel"),
    "llama_cpp": ("n_gpu_layers", "ctx_size", "parallel"),
}


def plan_layers(model: Model, host: Host, wish: Wish) -> Fit:
    """Plan a model for Ollama or llama.cpp.

    It fits when each GPU holds its layers, and the host's memory holds the others: none, unless the wish has some.
    """
    wish.require_sound(model)
    layout = _Layout(model, host, wish)
    layout.require_flash()
    every = model.layers + 1
    asked = every if wish.layers is None else min(wish.layers, every)
    gpus, rest = layout.place(asked, wish.context)
    fit = Fit(_arithmetic(layout, asked), gpus, rest)
    fit.arithmetic += gpu_lines(gpus, host.gpus)
    fit.reasons += [
        f"GPU {index} has {shown(memory)}; its part of {asked} layers takes {shown(load.total)}."
        for index, (load, memory) in enumerate(zip(gpus, host.gpus))
        if load.total > memory
    ]
    fit.judge_host(host, model.disk)
    share = _share(gpus, rest, model)
    fit.arithmetic.append(f"of the layers and their cache, {share:.0%} lie on the GPUs and {1 - share:.0%} on the CPUs")
    if asked < every:
        fit.notes.append(
            f"{every - asked} of {every} layers with {1 - share:.0%} of the bytes are left to the CPUs, which then set "
            "the pace of every token."
        )
    if wish.context > model.context:
        fit.notes.append(f"The model was made for {model.context} tokens; {wish.context} are asked for.")
    _recommend(fit, layout)
    return fit


@dataclass(frozen=True)
class _Layout:
    model: Model
    host: Host
    wish: Wish

    def place(self, layers: int, context: int) -> tuple[list[Load], Load]:
        """What each GPU and the host hold when the last `layers` layers are on GPUs.

        As llama_model::load_tensors has it: layers in order, to each GPU in proportion to its memory. Layers before
        them stay on the host, as the input always does.
        """
        model = self.model
        first = model.layers + 1 - layers
        shares = list(accumulate(memory / sum(self.host.gpus) for memory in self.host.gpus))
        sizes = {weight.layer: weight.size for weight in model.weights}
        weights, caches = [0] * (len(shares) + 1), [0] * (len(shares) + 1)
        for layer in range(INPUT, model.layers + 1):
            place = bisect_right(shares, (layer - first) / layers) if layer >= max(first, 0) else len(shares)
            weights[place] += sizes[layer]
            if layer in range(model.layers):
                caches[place] += self.cache_size(model.caches[layer], context)
        graph = self.graph(context)
        gpus = [Load(weights[gpu], caches[gpu], (graph if weights[gpu] else 0) + _MARGIN) for gpu in range(len(shares))]
        return gpus, Load(weights[-1], caches[-1], graph + _PROCESS)

    def cells(self, cache: Cache, context: int) -> int:
        """Tokens that a layer's cache has room for: whole steps for each request, as llama_kv_cache_iswa has it."""
        whole = padded(context, _CELLS)
        part = min(whole, cache.window + _BATCH) if cache.window else whole
        return self.wish.parallel * padded(part, _CELLS)

    def cache_size(self, cache: Cache, context: int) -> int:
        """Bytes of one layer's cache."""
        return self.cells(cache, context) * (self.row(cache.key) + self.row(cache.value))

    def row(self, elements: int) -> int:
        """Bytes of one token's K or V in one layer."""
        kind = _TYPES[self.wish.cache_type]
        if elements % kind.block:
            raise LlmError(
                f"A KV cache of type {self.wish.cache_type} has blocks of {kind.block} elements, into which the "
                f"{elements} of this model do not go. Use f16."
            )
        return elements // kind.block * kind.size

    @property
    def flash(self) -> bool:
        """Whether the engine is taken to compute attention without keeping all scores."""
        asked = self.wish.flash_attention
        return self.model.latent or self.model.head[0] == self.model.head[1] if asked is None else asked

    def require_flash(self) -> None:
        """:raises LlmError: when V cannot be kept in this type (llama_init_from_model refuses it)."""
        if _TYPES[self.wish.cache_type].block > 1 and not self.flash:
            raise LlmError(
                f"A KV cache of type {self.wish.cache_type} takes flash attention, which older engines do not have for "
                f"heads of {self.model.head[0]} and {self.model.head[1]} elements. Set flash_attention if yours has "
                "it, or use f16."
            )

    def graph(self, context: int) -> int:
        """What computing takes besides weights and cache: an upper bound of llama.cpp's compute buffers."""
        model = self.model
        feed_forward = max(1, model.experts) * 3 * model.hidden + 2 * model.experts * model.width
        # MLA's queries and results are as wide as the latents they are compared with.
        attention = 2 * model.heads * sum(model.head if not model.latent else (model.caches[0].key,) * 2)
        numbers = model.vocabulary + 16 * model.width + feed_forward + attention
        # For each token of the batch and each one of the cache: four copies of a mask, and the scores of all heads.
        scores = 0 if self.flash else 4 * model.heads
        return _BATCH * (4 * numbers + padded(context, _CELLS) * self.wish.parallel * (scores + 16))

    def holds(self, layers: int, context: int) -> bool:
        """Whether GPUs and host hold a model laid out like this."""
        gpus, rest = self.place(layers, context)
        host = self.host.ram is None or rest.total <= self.host.ram
        return host and all(load.total <= memory for load, memory in zip(gpus, self.host.gpus))


def _recommend(fit: Fit, layout: _Layout) -> None:
    """Everything on the GPUs, with a shorter context if need be; else as many layers as go."""
    model, wish = layout.model, layout.wish
    every = model.layers + 1
    longest = _CELLS * largest(model.context // _CELLS, lambda steps: layout.holds(every, steps * _CELLS))
    layers, context = every, min(wish.context, longest)
    if longest:
        fit.arithmetic.append(f"with all {every} layers on the GPUs, contexts of up to {longest} tokens fit")
    else:
        layers, context = largest(every, lambda count: layout.holds(count, wish.context)), wish.context
        if layers:
            fit.arithmetic.append(f"with contexts of {context} tokens, up to {layers} of {every} layers fit")
    if not layers:
        return
    count, size, parallel = _NAMES[wish.engine]
    # llama.cpp's own setting counts the tokens of all requests together, Ollama's those of one.
    total = context if wish.engine == "ollama" else context * wish.parallel
    fit.recommendation = {count: layers, size: total, parallel: wish.parallel}


def _share(gpus: list[Load], rest: Load, model: Model) -> float:
    """Which part of what is read for every token lies on GPUs: all but the input, of which a token is one row."""
    there = sum(load.weights + load.cache for load in gpus)
    inputs = sum(weight.size for weight in model.weights if weight.layer == INPUT)
    return there / (there + rest.weights + rest.cache - inputs)


def _arithmetic(layout: _Layout, asked: int) -> list[str]:
    model, wish = layout.model, layout.wish
    cache = model.caches[-1]
    each = layout.row(cache.key) + layout.row(cache.value)
    per_token = sum(layout.row(one.key) + layout.row(one.value) for one in model.caches)
    whole = sum(layout.cache_size(one, wish.context) for one in model.caches)
    attention = "with" if layout.flash else "without"
    latent = " (MLA, V is a part of K)" if model.latent else ""
    return [
        f"weights: {shown(model.size)} in {model.layers} layers, input and output",
        f"KV cache of a token in a layer: {cache.key} elements of K and {cache.value} of V{latent} in "
        f"{wish.cache_type} = {each} bytes; in {model.layers} layers {shown(per_token)}",
        f"KV cache: {wish.parallel} x {wish.context} tokens = {shown(whole)}",
        f"reserve of a GPU: {shown(layout.graph(wish.context))} for graphs of {_BATCH} tokens {attention} flash "
        f"attention + {shown(_MARGIN)} for CUDA",
        f"layers on GPUs: {asked} of {model.layers + 1}, the output counted as one",
    ]
