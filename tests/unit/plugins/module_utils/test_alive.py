"""The smallest question: who answers it is alive, who refuses it too, and it leaves everything as it was."""

from __future__ import annotations

import time

import pytest

from ansible_collections.llmfleet.serving.plugins.module_utils import _alive
from ansible_collections.llmfleet.serving.plugins.module_utils._probe import Question

CHAT, GENERATE, RUNNING = "POST /v1/chat/completions", "POST /api/generate", "GET /api/ps"


def ask(scripted, api, timeout=5.0, key=None):
    return _alive.complaint(Question(f"{scripted.url}/v1", api, "tiny", "1", 1, timeout, key))


def test_question_for_one_token(scripted):
    scripted.routes = {CHAT: {"choices": []}}
    assert ask(scripted, "openai", key="sk-1") is None
    _path, headers, body = scripted.seen[-1]
    assert headers["Authorization"] == "Bearer sk-1"
    assert body == {"model": "tiny", "messages": [{"role": "user", "content": "1"}], "max_tokens": 1}


@pytest.mark.parametrize("status", [400, 401, 404, 429, 503])
def test_refusal_is_an_answer(scripted, status):
    scripted.routes = {CHAT: (status, {"error": "no"})}
    assert ask(scripted, "openai") is None


def test_failure_is_none(scripted):
    scripted.routes = {CHAT: (500, {"error": "engine is dead"})}
    assert ask(scripted, "openai").endswith("answered 500 Internal Server Error: engine is dead")


def test_silence_is_none(scripted):
    scripted.routes = {CHAT: lambda _headers: time.sleep(1) or {}}
    assert "was silent for 0.5 s" in ask(scripted, "openai", timeout=0.5)


def test_ollama_without_a_model_in_memory_is_not_made_to_load_one(scripted):
    scripted.routes = {RUNNING: {"models": []}}
    assert ask(scripted, "ollama") is None
    assert len(scripted.seen) == 1


@pytest.mark.parametrize("context", [None, 8192])
def test_ollama_is_asked_as_it_is_loaded(scripted, context):
    loaded = {"name": "r1:latest", **({"context_length": context} if context else {})}
    scripted.routes = {RUNNING: {"models": [loaded, {"name": "other"}]}, GENERATE: {"done": True}}
    assert ask(scripted, "ollama") is None
    options = {"num_predict": 1, **({"num_ctx": context} if context else {})}
    assert scripted.seen[-1][2] == {"model": "r1:latest", "prompt": "1", "stream": False, "options": options}


def test_address_that_answers_or_does_not(scripted):
    scripted.routes = {"GET /health": {}, "GET /ready": (503, {})}
    assert _alive.silence(f"{scripted.url}/health") is None
    assert "answered 503" in _alive.silence(f"{scripted.url}/ready")
    assert "Connection refused" in _alive.silence("http://127.0.0.1:9/")
