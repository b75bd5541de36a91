# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""How vLLM and SGLang lay a model out: each layer cut into ranks, layers in stages. Private to this collection.

Weights and the size of a token in the cache follow from shapes; tests hold them against published start-up reports.
What computing takes is an estimate that is not below any of those reports.
"""

from __future__ import annotations

import math
import typing as t
from collections.abc import Iterator
from dataclasses import dataclass

from ansible_collections.llmfleet.serving.plugins.module_utils._fit import GIB, Fit, Host, Load, Wish, gpu_lines, shown
from ansible_collections.llmfleet.serving.plugins.module_utils._fit_model import INPUT, Model
from ansible_collections.llmfleet.serving.plugins.module_utils._gguf import padded
from ansible_collections.llmfleet.serving.plugins.module_utils._pairs import sizes

_BYTES = {"f16": 2, "bf16": 2, "fp8": 1}
# Tokens of a page of the cache: the largest that either engine chooses by itself on Hopper (FlashMLA).
_PAGE = 64
# vLLM's max_num_batched_tokens on GPUs of this class (usage context "API server"), and requests sampled at once.
_BATCH = 8192
_SAMPLED = 256
# Of a rank: CUDA, NCCL and libraries. vLLM's own reports of `non_torch_memory` on Hopper: 1.79 GiB on one GPU, 3.58 GiB
# on two (vllm-project/vllm#10511), 2.57 GiB on 16 (#13074).
_LIBRARIES = 4 * GIB
# CUDA graphs that vLLM keeps of a model with experts: 4.28 GiB of R1 with 5 of its layers, measured with vLLM 0.26.0 on
# an H200 (docs/fit.md); 10 GiB have been reported of all 61. Those of dense models, 0.98 GiB there, are in _LIBRARIES.
_GRAPHS, _GRAPHS_OF_LAYER = 9 * GIB // 2, GIB // 10
# Memory of the host that loading takes for each rank: 4.7 GiB in HabanaAI/vllm-fork#809, with R1 in 163 files.
_PROCESS = 5 * GIB
# vLLM's default up to 0.19; newer ones take 0.92.
_UTILIZATION = 0.9
_MOST_HOSTS = 8
_NAMES = {
    "vllm": ("max_model_len", "gpu_memory_utilization", "max_num_seqs"),
    "sglang": ("context_length", "mem_fraction_static", "max_running_requests"),
}


def plan_ranks(model: Model, host: Host, wish: Wish) -> Fit:
    """Plan a model for vLLM or SGLang; where it does not fit, name layouts over other numbers of such hosts that work.

    It fits when the cache that is left has room for all requests at their full length at once.
    """
    wish.require_sound(model)
    layout = _chosen(model, host, wish)
    problems = layout.problems()
    if problems:
        return Fit(layout.shape(), [], Load(0, 0, 0), reasons=problems, layouts=_elsewhere(model, host, wish))
    loads = list(layout.loads())
    local = len(host.gpus)
    ranks = Load(0, 0, _PROCESS * min(local, len(loads)))
    fit = Fit(layout.shape() + layout.room(), loads, ranks, reasons=layout.lacks())
    for index in range(host.hosts):
        # The engines number the ranks host by host.
        lines = gpu_lines(loads[index * local : (index + 1) * local], host.gpus)
        fit.arithmetic += [f"host {index + 1}, {line}" for line in lines] if host.hosts > 1 else lines
    fit.judge_host(host, model.disk)
    if layout.tokens >= wish.parallel * _PAGE:
        fit.recommendation = layout.settings()
    if layout.lacks():
        fit.layouts = _elsewhere(model, host, wish)
    return fit


@dataclass(frozen=True)
class _Layout:
    """Each layer cut for `tensor` GPUs, and all layers in `pipeline` stages.

    :ivar count: GPUs that there are.
    :ivar memory: bytes of the smallest of them.
    """

    model: Model
    wish: Wish
    count: int
    memory: int
    tensor: int
    pipeline: int

    def problems(self) -> list[str]:
        """Why the engine would refuse to start."""
        model, tensor = self.model, self.tensor
        found = []
        if model.heads % tensor:
            found.append(f"{model.heads} attention heads cannot be cut into {tensor} equal parts")
        if model.cache_heads > 1 and model.cache_heads % tensor and tensor % model.cache_heads:
            found.append(f"{model.cache_heads} KV heads and {tensor} parts do not divide one another")
        for cut in model.cuts:
            if cut.size % (tensor * cut.unit):
                whole = f" of whole groups of {cut.unit}" if cut.unit > 1 else ""
                found.append(f"{cut.key} {cut.size} cannot be cut into {tensor} equal parts{whole}")
        if tensor * self.pipeline > self.count:
            found.append(
                f"{tensor} x {self.pipeline} ranks need {tensor * self.pipeline} GPUs, and there are {self.count}"
            )
        if self.wish.context > model.context:
            found.append(f"The model was made for {model.context} tokens; {self.wish.context} are asked for")
        if self.pipeline > model.layers:
            found.append(f"{model.layers} layers cannot be cut into {self.pipeline} stages")
        return [f"{problem}." for problem in found]

    def lacks(self) -> list[str]:
        """Why the requests would not have room."""
        if self.free < 0:
            return [
                f"A GPU has {shown(self.usable)} for the engine; weights and reserve of its rank take "
                f"{shown(self.usable - self.free)}."
            ]
        if self.tokens < self.wanted:
            return [
                f"The KV cache has room for {self.tokens} tokens; {self.wish.parallel} requests of "
                f"{self.wish.context} tokens need {self.wanted}."
            ]
        return []

    @property
    def works(self) -> bool:
        return not self.problems() and not self.lacks()

    @property
    def wanted(self) -> int:
        """Tokens that the cache must have room for: whole pages for each request."""
        return self.wish.parallel * padded(self.wish.context, _PAGE)

    def stages(self) -> Iterator[range]:
        """Layers of each stage: equal parts, and what is left over to stages before the last, which has the output."""
        least, over = divmod(self.model.layers, self.pipeline)
        sizes = [least] * self.pipeline
        for index in range(over):
            sizes[-2 - index] += 1
        start = 0
        for size in sizes:
            yield range(start, start + size)
            start += size

    def weights(self, stage: range) -> int:
        """Bytes of one rank: of each tensor its part, rounded up, and what every rank has whole."""
        last = self.model.layers
        inside = {INPUT: stage.start == 0, last: stage.stop == last}
        copied = self.model.shared if stage.stop == last and self.pipeline > 1 else 0
        return -(-copied // self.tensor) + sum(
            -(-weight.size // min(self.tensor, weight.ways or self.tensor))
            for weight in self.model.weights
            if inside.get(weight.layer, weight.layer in stage)
        )

    def token(self, stage: range) -> int:
        """Bytes that one token takes in one rank's cache."""
        ways = min(self.tensor, self.model.cache_heads)
        caches = self.model.caches[stage.start : stage.stop]
        return sum(cache.key + cache.value for cache in caches) * _BYTES[self.wish.cache_type] // ways

    @property
    def reserve(self) -> int:
        """What computing a full batch takes, as an estimate, and libraries."""
        model = self.model
        experts = model.experts * (model.width + -(-3 * model.hidden // self.tensor))
        dense = 4 * model.hidden if not model.experts else 4 * model.width
        elements = _BATCH * (8 * model.width + dense + experts)
        return 2 * elements + 8 * _SAMPLED * model.vocabulary + self.graphs + _LIBRARIES

    @property
    def graphs(self) -> int:
        """What vLLM keeps CUDA graphs in. Since 0.21 it counts them in its share of the memory, before on top of it."""
        if self.wish.engine != "vllm" or not self.model.experts:
            return 0
        return _GRAPHS + _GRAPHS_OF_LAYER * max(len(stage) for stage in self.stages())

    @property
    def share(self) -> float:
        """Of a GPU's memory: all that vLLM may use, or what SGLang uses for weights and cache."""
        if self.wish.utilization is not None:
            return self.wish.utilization
        if self.wish.engine == "vllm":
            return _UTILIZATION
        return math.floor(100 * (self.memory - self.reserve) / self.memory) / 100

    @property
    def usable(self) -> int:
        """Bytes for weights, cache and, where the engine counts it in, the reserve."""
        return int(self.memory * self.share) + (self.reserve if self.wish.engine == "sglang" else 0)

    @property
    def free(self) -> int:
        """Bytes for the cache on the GPU that has the least."""
        return self.usable - self.reserve - max(self.weights(stage) for stage in self.stages())

    @property
    def tokens(self) -> int:
        """Tokens that the cache has room for, by the stage that has the least."""
        rooms = [(self.usable - self.reserve - self.weights(stage)) // self.token(stage) for stage in self.stages()]
        return max(0, min(rooms)) // _PAGE * _PAGE

    def loads(self) -> Iterator[Load]:
        """What each GPU holds when all requests are there."""
        for stage in self.stages():
            load = Load(self.weights(stage), self.wanted * self.token(stage), self.reserve)
            yield from [load] * self.tensor

    def settings(self) -> dict[str, t.Any]:
        """The engine's own settings, with the longest context that the requests can all have."""
        length, share, requests = _NAMES[self.wish.engine]
        longest = self.tokens // self.wish.parallel // _PAGE * _PAGE
        return {
            "tensor_parallel_size": self.tensor,
            "pipeline_parallel_size": self.pipeline,
            length: min(self.model.context, self.wish.context if self.works else longest),
            share: round(self.share, 2),
            requests: self.wish.parallel,
        }

    def shape(self) -> list[str]:
        """What is laid out, and how."""
        return [
            f"weights: {shown(self.model.size)} in {self.model.layers} layers, input and output",
            f"layout: tensor_parallel_size {self.tensor} x pipeline_parallel_size {self.pipeline}",
        ]

    def room(self) -> list[str]:
        """What the cache takes, and what there is for it."""
        model, wish = self.model, self.wish
        cache = model.caches[-1]
        latent = " (MLA: the same on every rank)" if model.latent else ""
        most = max(self.token(stage) for stage in self.stages())
        return [
            f"KV cache of a token in a layer: {cache.key} + {cache.value} elements{latent} of "
            f"{_BYTES[wish.cache_type]} bytes; on one GPU {shown(most)}",
            f"KV cache: {wish.parallel} x {wish.context} tokens = {self.wanted} in pages of {_PAGE}",
            f"reserve of a GPU: {shown(self.reserve - self.graphs - _LIBRARIES)} for batches of {_BATCH} tokens + "
            + (f"{shown(self.graphs)} for CUDA graphs + " if self.graphs else "")
            + f"{shown(_LIBRARIES)} for CUDA and NCCL (estimates)",
            f"of {shown(self.memory)} the engine gets {shown(self.usable)}; room for {self.tokens} tokens is left",
        ]


def _chosen(model: Model, host: Host, wish: Wish) -> _Layout:
    """The layout that is asked for, else all GPUs of the host with as much tensor parallelism as the model allows.

    Over several hosts, what is not asked for is what this collection tells the engine then.
    """
    local, memory = len(host.gpus), min(host.gpus)
    count = local * host.hosts
    if host.hosts > 1:
        told = sizes(wish.engine, local, host.hosts)
        tensor = wish.tensor_parallel or told["tensor-parallel-size"]
        return _Layout(model, wish, count, memory, tensor, wish.pipeline_parallel or told["pipeline-parallel-size"])
    if wish.tensor_parallel or wish.pipeline_parallel:
        pipeline = wish.pipeline_parallel or 1
        return _Layout(model, wish, count, memory, wish.tensor_parallel or max(1, count // pipeline), pipeline)
    layouts = [_Layout(model, wish, count, memory, tensor, count // tensor) for tensor in _divisors(count)]
    return next((layout for layout in layouts if not layout.problems()), layouts[0])


def _divisors(count: int) -> list[int]:
    return [number for number in range(count, 0, -1) if count % number == 0]


def _elsewhere(model: Model, host: Host, wish: Wish) -> list[dict[str, t.Any]]:
    """What works on the fewest of such hosts: a stage for each, or all their GPUs as one set of ranks."""
    count = len(host.gpus)
    # That it fits on one of several hosts is not asked here.
    for hosts in (number for number in range(2, _MOST_HOSTS + 1) if number != host.hosts):
        pairs = ((count, hosts), (count * hosts, 1))
        layouts = [_Layout(model, wish, count * hosts, min(host.gpus), *pair) for pair in pairs]
        working = [{"hosts": hosts, **layout.settings()} for layout in layouts if layout.works]
        if working:
            return working
    return []
