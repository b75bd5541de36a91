# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""One question to an engine, its answer and how fast it came. Private to this collection.

Engines answer in one of two dialects: lines of JSON (Ollama's own API) or server-sent events (the API that OpenAI
introduced; vLLM, SGLang, llama.cpp and Ollama speak it). Both become a stream of `Delta`.
"""

from __future__ import annotations

import json
import re
import time
import typing as t
from dataclasses import dataclass, field
from pathlib import Path

from ansible_collections.llmfleet.serving.plugins.module_utils._errors import LlmError
from ansible_collections.llmfleet.serving.plugins.module_utils._http import HttpError, request_json, stream_lines

# No engine decodes one answer that fast. Where it seems so, the text was held up on its way and then came all at once.
_INCREDIBLE_SECONDS_PER_TOKEN = 1 / 10_000
# Where engines with OpenAI's API tell their version: vLLM, SGLang, SGLang before it renamed that, llama.cpp.
_VERSIONS = (
    ("/version", "version"),
    ("/server_info", "version"),
    ("/get_server_info", "version"),
    ("/props", "build_info"),
)
_VERSION_TIMEOUT_S = 10


@dataclass(frozen=True)
class Delta:
    """One message of a streamed answer. `None` stands for what the message does not say.

    :ivar reasoning: text that the engine's parser took for thinking.
    :ivar speed: tokens per second of decoding, as the engine measured it.
    :ivar last: whether this is the message after which nothing is missing.
    """

    text: str = ""
    reasoning: str = ""
    model: str | None = None
    finish_reason: str | None = None
    prompt_tokens: int | None = None
    tokens: int | None = None
    speed: float | None = None
    last: bool = False


@dataclass
class Answer:
    """An answer as it grows. `ask` returns it whole: then `first` and `end` are known.

    :ivar model: the name under which the engine says it answered.
    :ivar first: seconds from the question to the first text; `end` to the last text. Reasoning counts as text.
    :ivar tokens: tokens of the answer as the engine counted them, None if it did not; `speed` as in `Delta`.
    :ivar chunks: messages with text, which are the tokens where the engine sends each by itself.
    """

    text: str = ""
    reasoning: str = ""
    model: str | None = None
    finish_reason: str | None = None
    prompt_tokens: int | None = None
    tokens: int | None = None
    speed: float | None = None
    first: float | None = None
    end: float | None = None
    chunks: int = 0
    complete: bool = False

    def add(self, delta: Delta, now: float) -> None:
        """Take in a message that arrived `now`, in seconds since the question."""
        if delta.text or delta.reasoning:
            self.first = now if self.first is None else self.first
            self.end = now
            self.chunks += 1
        self.text += delta.text
        self.reasoning += delta.reasoning
        self.complete = self.complete or delta.last
        for name in ("model", "finish_reason", "prompt_tokens", "tokens", "speed"):
            said = getattr(delta, name)
            if said is not None:
                setattr(self, name, said)

    @property
    def tokens_per_second(self) -> float | None:
        """Speed of decoding: the engine's own measure, else that of the tokens after the first, as they arrived.

        None where it cannot be known.
        """
        if self.speed is not None:
            return round(self.speed, 2)
        seconds = self.seconds_per_token(self.tokens)
        return None if seconds is None else round(1 / seconds, 2)

    def seconds_per_token(self, tokens: int | None) -> float | None:
        """Mean seconds that each of so many tokens took after the first, as they arrived.

        None where it cannot be known: no token count, one token only, or all text in one burst.
        """
        if self.first is None or self.end is None or tokens is None or tokens < 2:
            return None
        seconds = (self.end - self.first) / (tokens - 1)
        return seconds if seconds > _INCREDIBLE_SECONDS_PER_TOKEN else None


def parse_ollama(line: bytes) -> Delta:
    """A line of /api/chat."""
    message = _object(line)
    said = message.get("message") or {}
    nanoseconds = message.get("eval_duration")
    return Delta(
        text=said.get("content") or "",
        reasoning=said.get("thinking") or "",
        model=message.get("model"),
        finish_reason=message.get("done_reason"),
        prompt_tokens=message.get("prompt_eval_count"),
        tokens=message.get("eval_count"),
        speed=message.get("eval_count", 0) * 1e9 / nanoseconds if nanoseconds else None,
        last=bool(message.get("done")),
    )


def parse_openai(line: bytes) -> Delta:
    """A line of /v1/chat/completions. Comments and other fields of server-sent events say nothing."""
    name, _dummy, data = line.partition(b":")
    if name != b"data":
        return Delta()
    if data.strip() == b"[DONE]":
        return Delta(last=True)
    message = _object(data)
    choice = (message.get("choices") or [{}])[0]
    said = choice.get("delta") or {}
    usage = message.get("usage") or {}
    return Delta(
        text=said.get("content") or "",
        # SGLang uses the longer name; vLLM changed from it to the shorter one and sends both from 0.11.1 to 0.15.
        reasoning=said.get("reasoning_content") or said.get("reasoning") or "",
        model=message.get("model"),
        finish_reason=choice.get("finish_reason"),
        prompt_tokens=usage.get("prompt_tokens"),
        tokens=usage.get("completion_tokens"),
        # Only llama.cpp tells.
        speed=(message.get("timings") or {}).get("predicted_per_second"),
    )


def _object(data: bytes) -> dict[str, t.Any]:
    try:
        message = json.loads(data)
    except ValueError:
        message = None
    if not isinstance(message, dict):
        raise LlmError(f"The engine sent {data[:80]!r} in its answer; expected a JSON object. Check url and api.")
    error = message.get("error")
    if error:
        text = error.get("message", error) if isinstance(error, dict) else error
        raise LlmError(f"The engine failed while it answered: {text}")
    return message


@dataclass(frozen=True)
class Api:
    """A dialect: where the models are listed and the chat is, how a question is put and an answer is read."""

    list_path: str
    list_key: str
    name_key: str
    chat_path: str
    limit: t.Callable[[int], dict[str, t.Any]]
    parse: t.Callable[[bytes], Delta]


APIS = {
    "ollama": Api(
        "/api/tags", "models", "name", "/api/chat", lambda count: {"options": {"num_predict": count}}, parse_ollama
    ),
    "openai": Api(
        "/v1/models",
        "data",
        "id",
        "/v1/chat/completions",
        lambda count: {"max_tokens": count, "stream_options": {"include_usage": True}},
        parse_openai,
    ),
}


def read_key(file: str) -> str:
    """The API key that a file holds, and nothing else.

    :raises LlmError: if the file cannot be read or holds something else. Its content is not shown.
    """
    try:
        words = Path(file).read_text().split()
    except (OSError, UnicodeError) as exc:
        raise LlmError(f"The API key file {file} cannot be read: {exc}.") from exc
    if len(words) != 1:
        raise LlmError(f"The API key file {file} holds {len(words)} words; expected the key and nothing else.")
    return words[0]


@dataclass(frozen=True)
class Question:
    """What to ask whom.

    :ivar url: address of the engine, with or without /v1.
    :ivar timeout: seconds in which the whole answer must be here.
    :ivar key: the engine's API key, which is sent as a bearer token.
    """

    url: str
    api: str
    model: str
    prompt: str
    max_tokens: int
    timeout: float
    key: str | None = field(default=None, repr=False)

    @property
    def base(self) -> str:
        """The address below which both APIs lie."""
        return self.url.rstrip("/").removesuffix("/v1")


def ask(question: Question, clock: t.Callable[[], float] = time.monotonic) -> Answer:
    """Ask, read the answer to its end, and accept nothing less than an answer of this very model.

    :raises LlmError: if the engine does not answer, does not have the model, or gives no, another or half an answer.
    """
    require_model(question)
    return converse(question, clock)


def converse(question: Question, clock: t.Callable[[], float] = time.monotonic) -> Answer:
    """`ask` of an engine that is known to have the model. The time to connect is part of the answer's times.

    :raises LlmError: if the engine does not answer, or gives no, another or half an answer.
    """
    api = APIS[question.api]
    body = {
        "model": question.model,
        "messages": [{"role": "user", "content": question.prompt}],
        "stream": True,
        **api.limit(question.max_tokens),
    }
    url = question.base + api.chat_path
    lines = stream_lines("POST", url, body=body, token=question.key, timeout=question.timeout)
    answer = read_answer(map(api.parse, lines), question, clock)
    if not (answer.text.strip() or answer.reasoning.strip()):
        raise LlmError(
            f"{question.model} at {question.url} answered without any text (finish reason: {answer.finish_reason}). "
            "Check the model's chat template and its stop words."
        )
    if answer.model is not None and not _same(answer.model, question.model):
        raise LlmError(f"{question.url} was asked for the model {question.model}, and {answer.model} answered.")
    return answer


def identify(question: Question) -> tuple[str | None, str | None]:
    """Version of the engine, and SHA-256 of the file that it made the model from. None for what it does not tell.

    Only Ollama's own API tells the latter: the Modelfile that it shows begins with the blob, which is named by its
    digest.

    :raises LlmError: if Ollama has stopped answering.
    """
    if question.api != "ollama":
        return _version(question), None
    url, key, timeout = question.base, question.key, question.timeout
    version = request_json("GET", f"{url}/api/version", token=key, timeout=timeout).get("version")
    shown = request_json("POST", f"{url}/api/show", body={"model": question.model}, token=key, timeout=timeout)
    modelfile = shown.get("modelfile", "")
    blob = re.search(r"^FROM .*sha256-([0-9a-f]{64})$", modelfile, re.MULTILINE)
    return version, blob.group(1) if blob else None


def _version(question: Question) -> str | None:
    """The version, from the first of these places that tells one."""
    for path, name in _VERSIONS:
        try:
            told = request_json("GET", f"{question.base}{path}", token=question.key, timeout=_VERSION_TIMEOUT_S)
        except HttpError:
            continue
        if isinstance(told, dict) and told.get(name):
            return str(told[name])
    return None


def gpu_percent(question: Question) -> int | None:
    """How much of the loaded model lies in the memory of GPUs, in percent, rounded down. None for what does not tell.

    Only Ollama's own API tells, and only while the model is loaded.

    :raises LlmError: if the engine has stopped answering.
    """
    if question.api != "ollama":
        return None
    url, key, timeout = question.base, question.key, question.timeout
    running = request_json("GET", f"{url}/api/ps", token=key, timeout=timeout).get("models") or []
    for model in running:
        if _same(str(model.get("name")), question.model) and model.get("size"):
            return int(model.get("size_vram", 0) * 100 // model["size"])
    return None


def read_answer(deltas: t.Iterable[Delta], question: Question, clock: t.Callable[[], float]) -> Answer:
    """Put an answer together and take its times, which start now.

    :raises LlmError: if it breaks off, or is not complete in time.
    """
    answer = Answer()
    start = clock()

    def late() -> LlmError:
        return LlmError(
            f"{question.model} at {question.url} did not finish its answer in {question.timeout:g} s; "
            f"{_so_far(answer)}. Allow more time or ask for fewer tokens."
        )

    try:
        for delta in deltas:
            now = round(clock() - start, 6)
            answer.add(delta, now)
            if now > question.timeout:
                raise late()
    except HttpError as exc:
        if clock() - start >= question.timeout:
            raise late() from exc
        if answer.first is None:
            raise
        raise LlmError(f"The answer of {question.model} broke off; {_so_far(answer)}. {exc}") from exc
    if not answer.complete:
        raise LlmError(
            f"The answer of {question.model} at {question.url} ended without its last message; {_so_far(answer)}. "
            "See the engine's log."
        )
    return answer


def _so_far(answer: Answer) -> str:
    return f"{len(answer.text) + len(answer.reasoning)} characters had come"


def require_model(question: Question) -> None:
    """Refuse a name that the engine does not list: some engines answer to any name.

    :raises LlmError: also if the engine does not answer, or does not accept the key.
    """
    api = APIS[question.api]
    list_url = question.base + api.list_path
    listed = request_json("GET", list_url, token=question.key, timeout=question.timeout)
    try:
        names = [str(model[api.name_key]) for model in listed[api.list_key]]
    except (KeyError, TypeError) as exc:
        raise LlmError(f"{list_url} does not list models as the {question.api} API does. Check url and api.") from exc
    if not any(_same(name, question.model) for name in names):
        raise LlmError(
            f"{question.url} has no model {question.model}; it has {', '.join(sorted(names)) or 'none at all'}."
        )


def _same(name: str, other: str) -> bool:
    """Whether two names mean one model; Ollama adds the tag 'latest' in some answers and leaves it out in others."""
    return name.removesuffix(":latest") == other.removesuffix(":latest")
