# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Closed-loop load on an engine, and what it amounts to. Private to this collection.

So many streams ask at the same time, and each asks again as soon as it has its answer. The figures are defined as
vLLM's own benchmark defines them (`calculate_metrics` in vllm/benchmarks/serve.py).
"""

from __future__ import annotations

import hashlib
import json
import math
import secrets
import time
import typing as t
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace

from ansible_collections.llmfleet.serving.plugins.module_utils._errors import LlmError
from ansible_collections.llmfleet.serving.plugins.module_utils._probe import Answer, Question, converse

Figures = dict[str, t.Any]

# One thread each. Far beyond what an engine decodes together, and what one Python process reads.
_STREAMS_MAX = 1024
_PERCENTILES = (50, 90, 99)


@dataclass(frozen=True)
class Load:
    """What an engine is asked.

    :ivar question: whom to ask; its prompt is not used, and its timeout is the seconds for all requests together.
    :ivar concurrencies: numbers of streams, one after another.
    :ivar requests: requests of each stream, one after another.
    :ivar warmup: requests of each stream before those, which do not count.
    :ivar prompts: asked in turn.
    :ivar unique: whether each prompt begins with a word of its own, so that no prefix cache knows it.
    :raises LlmError: for a load that is none.
    """

    question: Question
    concurrencies: Sequence[int]
    requests: int
    warmup: int
    prompts: Sequence[str]
    unique: bool

    def __post_init__(self) -> None:
        wanted = {
            f"concurrencies from 1 to {_STREAMS_MAX}, each once": bool(self.concurrencies)
            and all(1 <= concurrency <= _STREAMS_MAX for concurrency in self.concurrencies)
            and len(set(self.concurrencies)) == len(self.concurrencies),
            "requests of at least 1": self.requests >= 1,
            "warmup of at least 0": self.warmup >= 0,
            "prompts with text": bool(self.prompts) and all(prompt.strip() for prompt in self.prompts),
            "max_tokens of at least 2, for one token has no speed": self.question.max_tokens >= 2,
        }
        broken = [text for text, kept in wanted.items() if not kept]
        if broken:
            raise LlmError(f"This is no load: expected {'; '.join(broken)}. Correct these options.")

    def prompt(self, number: int) -> str:
        """What the request of this number asks, counted from 0 in the order in which they are made."""
        prefix = f"[{secrets.token_hex(8)}] " if self.unique else ""
        return prefix + self.prompts[number % len(self.prompts)]

    def each(self) -> dict[str, t.Any]:
        """What each stream is asked, fit to be compared: only figures of the same load are comparable."""
        prompts = hashlib.sha256(json.dumps(list(self.prompts)).encode()).hexdigest()
        return {
            "api": self.question.api,
            "max_tokens": self.question.max_tokens,
            "prompts_sha256": prompts,
            "requests": self.requests,
            "unique_prompts": self.unique,
            "warmup": self.warmup,
        }


@dataclass
class Round:
    """What has come of one number of streams.

    :ivar planned: requests that were to be made.
    :ivar errors: of the requests that failed; `answers` has the others.
    :ivar seconds: from the first request to the last answer.
    """

    concurrency: int
    planned: int
    answers: list[Answer] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    seconds: float = 0.0


def measure(load: Load, clock: Callable[[], float] = time.monotonic) -> Iterator[Figures]:
    """The figures of one concurrency after another.

    :param clock: seconds, in any thread.
    :raises LlmError: after the figures of the concurrency at which a request has failed, or the time was over. A stream
        whose request has failed makes no more, and no greater concurrency is tried.
    """
    deadline = clock() + load.question.timeout
    for concurrency in load.concurrencies:
        warm_up(load, concurrency, deadline, clock)
        made = _ask(load, concurrency, load.requests, deadline, clock)
        yield figures(made)
        _require_whole(made, load)


def warm_up(load: Load, concurrency: int, deadline: float, clock: Callable[[], float]) -> None:
    """Make the requests that do not count.

    :raises LlmError: when one has failed, or the time was over.
    """
    if load.warmup:
        _require_whole(_ask(load, concurrency, load.warmup, deadline, clock), load, " while warming up")


def _ask(load: Load, concurrency: int, requests: int, deadline: float, clock: Callable[[], float]) -> Round:
    made = Round(concurrency, concurrency * requests)

    def stream(number: int) -> None:
        for turn in range(requests):
            left = deadline - clock()
            if left <= 0:
                return
            # Whole seconds, for they are shown when they are over.
            question = replace(load.question, timeout=math.ceil(left))
            prompt = load.prompt(number + turn * concurrency)
            try:
                made.answers.append(converse(replace(question, prompt=prompt), clock))
            except LlmError as exc:
                made.errors.append(str(exc))
                return

    start = clock()
    with ThreadPoolExecutor(concurrency) as streams:
        # Taken, so that an error that is none of ours does not stay in its thread.
        list(streams.map(stream, range(concurrency)))
    made.seconds = clock() - start
    return made


def _require_whole(made: Round, load: Load, when: str = "") -> None:
    """Refuse a round that lacks answers."""
    model, timeout = load.question.model, load.question.timeout
    at = f"at concurrency {made.concurrency}{when}"
    if made.errors:
        raise failed(len(made.errors), made.planned, len(made.answers), f"{model} failed {at}", made.errors[0])
    if len(made.answers) < made.planned:
        raise LlmError(
            f"{timeout:g} s were over when {len(made.answers)} of {made.planned} requests to {model} had been answered "
            f"{at}. Allow more time, or ask for less."
        )


def failed(failures: int, planned: int, answered: int, which: str, first: str) -> LlmError:
    """What is said of requests that have failed."""
    return LlmError(
        f"{failures} of {planned} requests to {which}, {answered} were answered. The first failure: {first}"
    )


def figures(made: Round) -> Figures:
    """What a round amounts to: seconds, tokens, and tokens per second. None for what cannot be known."""
    counts = [answer.chunks if answer.tokens is None else answer.tokens for answer in made.answers]
    prompts = [answer.prompt_tokens for answer in made.answers]
    told = all(answer.tokens is not None for answer in made.answers)
    tokens = sum(counts)
    total = tokens + sum(t.cast("list[int]", prompts)) if told and None not in prompts else None
    paces = (answer.seconds_per_token(count) for answer, count in zip(made.answers, counts))
    speed = _rate(tokens, made)
    return {
        "concurrency": made.concurrency,
        "requests": len(made.answers) + len(made.errors),
        "failures": len(made.errors),
        "seconds": round(made.seconds, 6),
        "output_tokens": tokens,
        "tokens_from": "usage" if told else "chunks",
        "output_tokens_per_second": speed,
        "output_tokens_per_second_stream": None if speed is None else round(speed / made.concurrency, 2),
        "total_tokens_per_second": _rate(total, made),
        "ttft_seconds": spread(answer.first for answer in made.answers),
        "tpot_seconds": spread(paces),
        "latency_seconds": spread(answer.end for answer in made.answers),
    }


def _rate(tokens: int | None, made: Round) -> float | None:
    return round(tokens / made.seconds, 2) if tokens is not None and made.answers and made.seconds > 0 else None


def spread(values: Iterable[float | None]) -> dict[str, float] | None:
    """Mean and percentiles of the values that are known; None if none is.

    A percentile between two values is interpolated, as NumPy does it by default.
    """
    known = sorted(value for value in values if value is not None)
    if not known:
        return None
    return {
        "mean": round(math.fsum(known) / len(known), 6),
        **{f"p{percent}": round(_percentile(known, percent), 6) for percent in _PERCENTILES},
    }


def _percentile(ordered: Sequence[float], percent: int) -> float:
    place = (len(ordered) - 1) * percent / 100
    below = int(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (place - below)
