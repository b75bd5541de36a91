"""Reading streamed answers. The streams in `fixtures/probe` were recorded from the engines that their names tell."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from ansible_collections.llmfleet.serving.plugins.module_utils._errors import LlmError
from ansible_collections.llmfleet.serving.plugins.module_utils._http import HttpError
from ansible_collections.llmfleet.serving.plugins.module_utils._probe import (
    APIS,
    Answer,
    Delta,
    Question,
    identify,
    parse_ollama,
    parse_openai,
    read_answer,
)

RECORDINGS = sorted((Path(__file__).parent / "fixtures" / "probe").iterdir())
# 8 tokens in the nanoseconds that Ollama tells; what llama-server tells; else the clock of the test.
SPEEDS = {
    "ollama-ollama-0.5.11.ndjson": 9.71,
    "ollama-ollama-0.34.0.ndjson": 270.79,
    "openai-llama-server-b11669.sse": 218.91,
    "openai-ollama-0.5.11.sse": 1.0,
    "openai-ollama-0.34.0.sse": 1.0,
}


def question(api="openai", timeout=60):
    return Question("http://engine", api, "tiny", "Hello", 8, timeout)


def ticking(step=1.0):
    """A clock that has gone on by `step` seconds each time it is looked at."""
    return itertools.count(0, step).__next__


@pytest.mark.parametrize("recording", RECORDINGS, ids=lambda path: path.name)
def test_recorded_streams(recording):
    api = recording.name.split("-")[0]
    lines = filter(None, recording.read_bytes().splitlines())
    answer = read_answer(map(APIS[api].parse, lines), question(api), ticking())
    assert answer.complete
    assert answer.text == "Today the brave river carries a silver feather,"
    assert (answer.model, answer.finish_reason, answer.tokens) == ("tiny", "length", 8)
    assert answer.prompt_tokens > 0
    assert answer.tokens_per_second == SPEEDS[recording.name]


@pytest.mark.parametrize("field", ["reasoning_content", "reasoning"])
def test_reasoning_of_both_names_is_read_and_counts_as_the_first_text(field):
    lines = [
        b'data: {"model": "r1", "choices": [{"delta": {"role": "assistant", "content": ""}}]}',
        b'data: {"model": "r1", "choices": [{"delta": {"%s": "Hm. "}}]}' % field.encode(),
        b'data: {"model": "r1", "choices": [{"delta": {"%s": "So:", "content": null}}]}' % field.encode(),
        b'data: {"model": "r1", "choices": [{"delta": {"content": "Eight."}, "finish_reason": "stop"}]}',
        b": a comment that keeps the connection alive",
        b'data: {"model": "r1", "choices": [], "usage": {"prompt_tokens": 5, "completion_tokens": 9}}',
        b"data: [DONE]",
    ]
    answer = read_answer(map(parse_openai, lines), question(), ticking(0.5))
    assert (answer.reasoning, answer.text, answer.finish_reason) == ("Hm. So:", "Eight.", "stop")
    assert (answer.prompt_tokens, answer.tokens) == (5, 9)
    assert (answer.first, answer.end) == (1.0, 2.0)
    assert answer.tokens_per_second == 8.0


def test_both_names_in_one_message_are_one_text():
    assert (
        parse_openai(b'data: {"choices": [{"delta": {"reasoning_content": "Hm", "reasoning": "Hm"}}]}').reasoning
        == "Hm"
    )


def test_thinking_of_ollama_is_read():
    assert parse_ollama(b'{"message": {"content": "", "thinking": "Hm"}, "done": false}').reasoning == "Hm"


@pytest.mark.parametrize(
    "answer",
    [
        Answer(tokens=8),
        Answer(tokens=None, first=1.0, end=2.0),
        Answer(tokens=1, first=1.0, end=2.0),
        Answer(tokens=8, first=1.0, end=1.0),
        Answer(tokens=8, first=1.0, end=1.0001),
    ],
    ids=["no text", "no count", "one token", "one piece", "one burst"],
)
def test_speed_that_cannot_be_known_is_not_invented(answer):
    assert answer.tokens_per_second is None


def test_answer_without_its_last_message_is_refused():
    with pytest.raises(LlmError, match=r"tiny at http://engine ended without its last message; 5 characters had come"):
        read_answer([Delta(text="Today")], question(), ticking())


def test_answer_that_takes_too_long_is_refused():
    with pytest.raises(LlmError, match=r"did not finish its answer in 3 s; 4 characters had come"):
        read_answer(itertools.repeat(Delta(text="a")), question(timeout=3), ticking())


def test_answer_that_breaks_off_is_refused_with_the_reason():
    def breaking():
        yield Delta(text="Today")
        raise HttpError("The connection broke.")

    with pytest.raises(LlmError, match=r"The answer of tiny broke off; 5 characters had come\. The connection broke\."):
        read_answer(breaking(), question(), ticking())


@pytest.mark.parametrize(
    ("parse", "line", "reason"),
    [
        (parse_ollama, b'{"error": "model runner has crashed"}', "failed while it answered: model runner has crashed"),
        (
            parse_openai,
            b'data: {"error": {"message": "CUDA error", "code": 500}}',
            "failed while it answered: CUDA error",
        ),
        (parse_openai, b'data: {"error": "out of memory"}', "failed while it answered: out of memory"),
        (parse_ollama, b"<html>", "expected a JSON object"),
        (parse_openai, b"data: 7", "expected a JSON object"),
    ],
)
def test_errors_in_the_stream_are_told(parse, line, reason):
    with pytest.raises(LlmError, match=reason):
        parse(line)


def test_a_key_is_not_shown_with_its_question():
    assert "secret" not in repr(Question("http://engine", "openai", "tiny", "Hello", 8, 60, key="secret"))


@pytest.mark.parametrize(
    ("path", "told", "version"),
    [
        ("/version", {"version": "0.32.0"}, "0.32.0"),  # vLLM
        ("/server_info", {"version": "0.5.23", "tp_size": 8}, "0.5.23"),  # SGLang
        ("/get_server_info", {"version": "0.4.3.post2"}, "0.4.3.post2"),  # SGLang, once
        ("/props", {"build_info": "b11669-c1c354f"}, "b11669-c1c354f"),  # llama.cpp
        ("/version", ["0.32.0"], None),
        ("/version", b"<html></html>", None),
        ("/models", {}, None),
    ],
)
def test_version_of_an_engine_is_told_beside_openais_api(scripted, path, told, version):
    scripted.routes[f"GET {path}"] = told
    asked = Question(f"{scripted.url}/v1", "openai", "tiny", "Hello", 8, 60, key="sesame")
    assert identify(asked) == (version, None)
    assert {headers["Authorization"] for _line, headers, _body in scripted.seen} == {"Bearer sesame"}
