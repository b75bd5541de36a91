"""What a load amounts to: definitions on answers made by hand, and whole rounds under a clock of the test."""

from __future__ import annotations

import itertools
import json
import random
import statistics
import threading
from dataclasses import replace

import pytest

from ansible_collections.llmfleet.serving.plugins.module_utils._bench import Load, Round, figures, measure, spread
from ansible_collections.llmfleet.serving.plugins.module_utils._errors import LlmError
from ansible_collections.llmfleet.serving.plugins.module_utils._probe import Answer, Question

DONE = b"data: [DONE]\n\n"
USAGE = b'data: {"model": "tiny", "choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": 5}}\n\n'
CHAT = "POST /v1/chat/completions"


def event(**delta):
    return b"data: " + json.dumps({"model": "tiny", "choices": [{"delta": delta}]}).encode() + b"\n\n"


THREE = [event(role="assistant", content=""), event(reasoning_content="Hm"), event(content="A"), event(content="ha")]


def load_on(url, **options):
    question = Question(url, "openai", "tiny", "", 8, options.pop("timeout", 600))
    options = {"concurrencies": [1], "requests": 1, "warmup": 0, "prompts": ["Why?"], "unique": False, **options}
    return Load(question, **options)


def ticking():
    """A clock that has gone on by a second each time it is looked at."""
    return itertools.count().__next__


def answer(first, end, **more):
    return Answer(text="text", first=first, end=end, complete=True, **more)


def test_figures_are_what_their_names_say():
    made = Round(
        2,
        3,
        answers=[
            answer(1.0, 5.0, tokens=9, prompt_tokens=10, chunks=4),
            answer(2.0, 4.0, tokens=3, prompt_tokens=20, chunks=3),
            answer(3.0, 3.0, tokens=1, prompt_tokens=30, chunks=1),
        ],
        seconds=10.0,
    )
    assert figures(made) == {
        "concurrency": 2,
        "requests": 3,
        "failures": 0,
        "seconds": 10.0,
        "output_tokens": 13,
        "tokens_from": "usage",
        "output_tokens_per_second": 1.3,
        "output_tokens_per_second_stream": 0.65,
        "total_tokens_per_second": 7.3,
        "ttft_seconds": {"mean": 2.0, "p50": 2.0, "p90": 2.8, "p99": 2.98},
        # 4 s for 8 tokens, 2 s for 2; an answer of one token has no time between tokens
        "tpot_seconds": {"mean": 0.75, "p50": 0.75, "p90": 0.95, "p99": 0.995},
        "latency_seconds": {"mean": 4.0, "p50": 4.0, "p90": 4.8, "p99": 4.98},
    }


def test_tokens_that_nobody_counted_are_counted_as_chunks_and_that_is_said():
    answers = [answer(1.0, 3.0, chunks=5), answer(1.0, 3.0, tokens=7, prompt_tokens=2, chunks=3)]
    found = figures(Round(1, 2, answers, seconds=4.0))
    assert (found["output_tokens"], found["tokens_from"], found["output_tokens_per_second"]) == (12, "chunks", 3.0)
    assert found["total_tokens_per_second"] is None
    assert found["tpot_seconds"]["mean"] == round((2 / 4 + 2 / 6) / 2, 6)


def test_prompts_that_nobody_counted_have_no_total():
    found = figures(Round(1, 1, [answer(1.0, 3.0, tokens=5)], seconds=4.0))
    assert (found["tokens_from"], found["total_tokens_per_second"]) == ("usage", None)


def test_nothing_is_invented_where_nothing_was_answered():
    found = figures(Round(4, 4, errors=["The engine is gone."] * 4, seconds=1.0))
    assert (found["requests"], found["failures"], found["output_tokens"]) == (4, 4, 0)
    assert [name for name, value in found.items() if value is None] == [
        "output_tokens_per_second",
        "output_tokens_per_second_stream",
        "total_tokens_per_second",
        "ttft_seconds",
        "tpot_seconds",
        "latency_seconds",
    ]


def test_answers_in_one_burst_have_no_time_per_token():
    found = figures(Round(1, 1, [answer(2.0, 2.0, tokens=8)], seconds=4.0))
    assert found["tpot_seconds"] is None
    assert found["latency_seconds"]["mean"] == 2.0


@pytest.mark.parametrize("count", [2, 3, 10, 101, 640])
def test_percentiles_are_those_of_the_standard_library(count):
    values = [random.Random(count + no).expovariate(1) for no in range(count)]
    cuts = statistics.quantiles(values, n=100, method="inclusive")
    expected = {"mean": statistics.fmean(values), "p50": cuts[49], "p90": cuts[89], "p99": cuts[98]}
    assert spread(values) == pytest.approx(expected, abs=1e-6)


def test_spread_of_one_value_and_of_none():
    assert spread([None, 2.0]) == {"mean": 2.0, "p50": 2.0, "p90": 2.0, "p99": 2.0}
    assert spread([None]) is None


def test_a_round_under_a_clock(scripted):
    scripted.routes = {CHAT: [*THREE, USAGE, DONE]}
    [found] = measure(load_on(scripted.url, requests=2), ticking())
    # Each request looks at the clock for the time left, at its start and at each of its six messages.
    assert found["seconds"] == 2 * 8 + 1
    assert found["ttft_seconds"] == {"mean": 2.0, "p50": 2.0, "p90": 2.0, "p99": 2.0}
    assert found["latency_seconds"]["p99"] == 4.0
    assert found["tpot_seconds"]["p99"] == 0.5
    assert (found["output_tokens"], found["tokens_from"]) == (10, "usage")
    assert found["output_tokens_per_second"] == round(10 / 17, 2)
    assert found["total_tokens_per_second"] == round((10 + 14) / 17, 2)


@pytest.mark.parametrize("concurrencies", [[1, 2, 8]])
def test_so_many_streams_are_open_at_the_same_time(scripted, concurrencies):
    lock, asked = threading.Lock(), []
    peaks, open_now = [], set()
    meeting = {"of": threading.Barrier(1)}

    def chat(_headers):
        with lock:
            open_now.add(threading.get_ident())
            peaks.append(len(open_now))
        # Nobody is answered before all streams have asked: with one too few, this breaks.
        meeting["of"].wait(10)
        with lock:
            open_now.discard(threading.get_ident())
            asked.append(1)
        return [*THREE, DONE]

    scripted.routes = {CHAT: chat}
    for concurrency in concurrencies:
        meeting["of"] = threading.Barrier(concurrency)
        asked.clear()
        peaks.clear()
        [found] = measure(load_on(scripted.url, concurrencies=[concurrency], requests=2, warmup=1))
        assert (found["concurrency"], found["requests"], found["failures"]) == (concurrency, 2 * concurrency, 0)
        assert max(peaks) == concurrency
        assert len(asked) == 3 * concurrency


def test_warm_up_does_not_count(scripted):
    scripted.routes = {CHAT: [*THREE, USAGE, DONE]}
    [found] = measure(load_on(scripted.url, concurrencies=[2], requests=3, warmup=2))
    assert (found["requests"], found["output_tokens"]) == (6, 30)
    assert len(scripted.seen) == 2 * (2 + 3)


def test_prompts_are_asked_in_turn(scripted):
    scripted.routes = {CHAT: [*THREE, DONE]}
    list(measure(load_on(scripted.url, requests=5, prompts=["Why?", "How?"])))
    prompts = [body["messages"][0]["content"] for _dummy, _dummy, body in scripted.seen]
    assert prompts == ["Why?", "How?", "Why?", "How?", "Why?"]


def test_unique_prompts_have_no_common_prefix_that_a_cache_could_use(scripted):
    scripted.routes = {CHAT: [*THREE, DONE]}
    list(measure(load_on(scripted.url, concurrencies=[3], requests=4, unique=True)))
    prompts = [body["messages"][0]["content"] for _dummy, _dummy, body in scripted.seen]
    assert all(prompt.endswith("] Why?") for prompt in prompts)
    assert len({prompt[:8] for prompt in prompts}) == 12


FAULTS = {
    "refused": ((500, {"error": "llama runner process has terminated"}), "llama runner process has terminated"),
    "cut": ([*THREE, None], "The answer of tiny broke off; 5 characters had come"),
    "without an end": (THREE, "ended without its last message"),
    "without text": ([event(content=""), DONE], "answered without any text"),
    "error inside": ([event(content="A"), b'data: {"error": "out of memory"}\n\n'], "out of memory"),
}


@pytest.mark.parametrize(("fault", "reason"), FAULTS.values(), ids=FAULTS)
def test_what_was_measured_before_a_failure_is_not_lost(scripted, fault, reason):
    answers = itertools.chain([[*THREE, USAGE, DONE]] * 4, itertools.repeat(fault))
    scripted.routes = {CHAT: lambda _headers: next(answers)}
    rounds = measure(load_on(scripted.url, concurrencies=[1, 2, 4], requests=3))
    whole, partial = next(rounds), next(rounds)
    assert (whole["requests"], whole["failures"], whole["output_tokens"]) == (3, 0, 15)
    # One of two streams was answered once. Both stop at their first failure.
    assert (partial["concurrency"], partial["requests"], partial["failures"]) == (2, 3, 2)
    assert partial["output_tokens"] == 5
    expected = r"2 of 6 requests to tiny failed at concurrency 2, 1 were answered\. The first failure: .*"
    with pytest.raises(LlmError, match=expected + reason):
        next(rounds)


def test_failure_while_warming_up(scripted):
    scripted.routes = {CHAT: (503, {"error": "loading"})}
    with pytest.raises(LlmError, match="2 of 2 requests to tiny failed at concurrency 2 while warming up, 0 were"):
        list(measure(load_on(scripted.url, concurrencies=[2], warmup=1)))
    assert len(scripted.seen) == 2


def test_one_deadline_for_all(scripted):
    scripted.routes = {CHAT: [*THREE, USAGE, DONE]}
    rounds = measure(load_on(scripted.url, requests=5, timeout=18), ticking())
    assert next(rounds)["requests"] == 2
    with pytest.raises(
        LlmError, match=r"18 s were over when 2 of 5 requests to tiny had been answered at concurrency 1"
    ):
        next(rounds)
    assert len(scripted.seen) == 2


def test_engine_that_falls_silent_ends_with_the_deadline(scripted):
    scripted.routes = {CHAT: [event(content="Today"), 3.0, DONE]}
    with pytest.raises(LlmError, match=r"1 of 1 requests .* did not finish its answer in 1 s; 5 characters had come"):
        list(measure(load_on(scripted.url, timeout=1)))


@pytest.mark.parametrize(
    ("option", "reason"),
    [
        ({"concurrencies": []}, "concurrencies from 1 to 1024"),
        ({"concurrencies": [1, 0]}, "concurrencies from 1 to 1024"),
        ({"concurrencies": [2000]}, "concurrencies from 1 to 1024"),
        ({"concurrencies": [8, 8]}, "each once"),
        ({"requests": 0}, "requests of at least 1"),
        ({"warmup": -1}, "warmup of at least 0"),
        ({"prompts": []}, "prompts with text"),
        ({"prompts": ["Why?", " "]}, "prompts with text"),
    ],
)
def test_a_load_that_is_none_is_refused(option, reason):
    with pytest.raises(LlmError, match=reason):
        load_on("http://engine", **option)


def test_everything_wrong_with_a_load_is_said_at_once():
    question = Question("http://engine", "openai", "tiny", "", 1, 600)
    with pytest.raises(LlmError, match=r"requests of at least 1; max_tokens of at least 2, .*Correct these options"):
        replace(load_on("http://engine"), question=question, requests=0)
