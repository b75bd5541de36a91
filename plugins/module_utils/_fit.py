# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Does a model fit on a host, and with which settings? Private to this collection.

Two families of engines lay a model out differently: llama.cpp gives whole layers to each GPU (`_fit_layers`), vLLM and
SGLang cut each layer into ranks (`_fit_ranks`). Here is what they share: the question, the host, the answer.
"""

from __future__ import annotations

import typing as t
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from ansible_collections.llmfleet.serving.plugins.module_utils._errors import LlmError
from ansible_collections.llmfleet.serving.plugins.module_utils._fit_model import Model

MIB = 1 << 20
GIB = 1 << 30

# The types that each engine can keep its KV cache in, by the engine's own names.
ENGINES = {
    "ollama": ("f16", "q8_0", "q4_0"),
    "llama_cpp": ("f16", "bf16", "q8_0", "q4_0"),
    "vllm": ("f16", "bf16", "fp8"),
    "sglang": ("f16", "bf16", "fp8"),
}
# The format of model files that each of them serves here.
FORMATS = {"ollama": "gguf", "llama_cpp": "gguf", "vllm": "safetensors", "sglang": "safetensors"}


@dataclass(frozen=True)
class Wish:
    """What an engine is to do with a model. Where a setting of the engine is None, the best one is looked for.

    :ivar context: tokens of one request, question and answer together.
    :ivar parallel: requests at the same time, each of that many tokens.
    :ivar cache_type: type of the KV cache, one of ENGINES[engine].
    :ivar layers: layers on GPUs, the output counted as one (Ollama's num_gpu).
    :ivar tensor_parallel, pipeline_parallel: vLLM's and SGLang's settings of these names.
    :ivar utilization: share of a GPU's memory that the engine may use (vLLM's gpu_memory_utilization), or use for
        weights and cache (SGLang's mem_fraction_static).
    :ivar flash_attention: whether the engine computes attention without keeping all scores. None: it does where K and
        V have heads of one size, because older versions of these engines can do that only then.
    """

    engine: str
    context: int
    parallel: int = 1
    cache_type: str = "f16"
    layers: int | None = None
    tensor_parallel: int | None = None
    pipeline_parallel: int | None = None
    utilization: float | None = None
    flash_attention: bool | None = None

    def require_sound(self, model: Model) -> None:
        """:raises LlmError: for what no engine can be asked."""
        if self.cache_type not in ENGINES[self.engine]:
            known = ", ".join(ENGINES[self.engine])
            raise LlmError(f"{self.engine} has no KV cache of type {self.cache_type!r}; expected {known}.")
        if model.format != FORMATS[self.engine]:
            raise LlmError(f"{self.engine} serves {FORMATS[self.engine]} here, but the model is in {model.format}.")
        for name in ("context", "parallel", "layers", "tensor_parallel", "pipeline_parallel"):
            value, least = getattr(self, name), 0 if name == "layers" else 1
            if value is not None and value < least:
                raise LlmError(f"{name} is {value}; expected {least} or more.")
        if self.utilization is not None and not 0 < self.utilization <= 1:
            raise LlmError(f"The share of a GPU's memory is {self.utilization}; expected more than 0 and at most 1.")


@dataclass(frozen=True)
class Host:
    """What there is, in bytes.

    :ivar gpus: memory of each GPU, as nvidia-smi calls its total.
    :ivar ram, disk: memory of the host, free space for the model; None where it is not known, and then not judged.
    :ivar hosts: how many such hosts, alike, serve the model as one. Each keeps the whole model on its disk.
    """

    gpus: tuple[int, ...]
    ram: int | None = None
    disk: int | None = None
    hosts: int = 1

    def __post_init__(self) -> None:
        if self.hosts < 1:
            raise LlmError(f"hosts is {self.hosts}; expected 1 or more.")


@dataclass(frozen=True)
class Load:
    """What one GPU, or the host's memory, has to hold, in bytes.

    :ivar reserve: for everything that is neither weights nor cache.
    """

    weights: int
    cache: int
    reserve: int

    @property
    def total(self) -> int:
        return self.weights + self.cache + self.reserve


@dataclass
class Fit:
    """The answer.

    :ivar reasons: why it does not fit; empty where it does.
    :ivar notes: what else one should know.
    :ivar arithmetic: the way to the answer, one step a line.
    :ivar recommendation: settings that work, by the engine's names for them; empty where nothing does.
    :ivar layouts: for engines that can use several hosts, what works on more of the same hosts.
    """

    arithmetic: list[str]
    gpus: list[Load]
    host: Load
    recommendation: dict[str, t.Any] = field(default_factory=dict)
    reasons: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    layouts: list[dict[str, t.Any]] = field(default_factory=list)

    @property
    def fits(self) -> bool:
        return not self.reasons

    def judge_host(self, host: Host, disk: int) -> None:
        """Add what the host's own memory and its disk have to say."""
        each = f"each of {host.hosts} hosts" if host.hosts > 1 else "host"
        for what, need, there in (("memory", self.host.total, host.ram), ("disk space", disk, host.disk)):
            known = "" if there is None else f" of {shown(there)}"
            self.arithmetic.append(f"{each}, {what}: {shown(need)}{known}")
            if there is not None and need > there:
                self.reasons.append(f"The host has {shown(there)} of {what}; needed are {shown(need)}.")


def shown(size: float) -> str:
    """Bytes for people, in binary units."""
    for unit, name in ((GIB, "GiB"), (MIB, "MiB"), (1 << 10, "KiB")):
        if abs(size) >= unit:
            return f"{size / unit:.2f} {name}"
    return f"{size:.0f} B"


def gpu_lines(loads: Sequence[Load], memory: Sequence[int]) -> list[str]:
    """One line for each GPU, with GPUs that are alike on one line."""
    rows: dict[str, list[int]] = {}
    for index, (load, there) in enumerate(zip(loads, memory)):
        text = (
            f"weights {shown(load.weights)} + KV cache {shown(load.cache)} + reserve {shown(load.reserve)}"
            f" = {shown(load.total)} of {shown(there)}"
        )
        rows.setdefault(text, []).append(index)
    return [f"GPU {_ranges(indices)}: {text}" for text, indices in rows.items()]


def _ranges(indices: Iterable[int]) -> str:
    numbers = list(indices)
    if len(numbers) > 2 and numbers == list(range(numbers[0], numbers[-1] + 1)):
        return f"{numbers[0]}-{numbers[-1]}"
    return ", ".join(str(number) for number in numbers)


def largest(most: int, works: t.Callable[[int], bool]) -> int:
    """The largest number up to `most` that works, where all below one that works do too; 0 if none does."""
    low, high = 0, most
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if works(middle) else (low, middle - 1)
    return low
