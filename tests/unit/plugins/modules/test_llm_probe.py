"""llm_probe against real engines, and against a server that answers as none should."""

from __future__ import annotations

import json

import pytest
from ansible.module_utils.basic import AnsibleModule

from ansible_collections.llmfleet.serving.plugins.module_utils._files import sha256_file
from ansible_collections.llmfleet.serving.plugins.modules import llm_probe, ollama_model
from testbed.models import make
from testbed.ollama import VERSIONS
from testbed.ollama_server import serve


@pytest.fixture(scope="module", params=VERSIONS)
def ollama(request, tmp_path_factory):
    with serve(request.param, tmp_path_factory.mktemp("ollama")) as server:
        yield server


@pytest.fixture
def model(ollama, run_module):
    [src] = make(ollama.models_dir.parent, "tiny", architecture="llama")
    wish = {"name": "tiny", "models_dir": str(ollama.models_dir), "url": ollama.url}
    assert "msg" not in run_module(ollama_model, src=str(src), parameters={"top_k": 1}, **wish)
    return ollama


@pytest.mark.bed
@pytest.mark.parametrize("api", ["ollama", "openai"])
@pytest.mark.parametrize("check", [False, True])
def test_real_answers(run_module, model, api, check):
    result = run_module(llm_probe, check=check, url=model.url, api=api, model="tiny", max_tokens=16)
    assert result["changed"] is False
    assert result["text"].split()[0] == "Today"
    assert result["reasoning"] == ""
    assert (result["model"], result["finish_reason"], result["tokens"]) == ("tiny", "length", 16)
    assert result["prompt_tokens"] > 0
    told = (result["engine_version"], result["model_sha256"])
    served = (model.get("/api/version")["version"], sha256_file(model.models_dir.parent / "tiny.gguf"))
    assert told == (served if api == "ollama" else (None, None))
    assert 0 < result["ttft_seconds"] <= result["total_seconds"]
    # Through the other API, what the tiny model says may come in one burst.
    assert result["tokens_per_second"] or api == "openai"


@pytest.mark.bed
@pytest.mark.parametrize("api", ["ollama", "openai"])
def test_answer_that_ends_by_itself(run_module, model, api):
    result = run_module(llm_probe, url=f"{model.url}/v1/", api=api, model="tiny:latest", max_tokens=500)
    assert result["finish_reason"] == "stop"
    assert result["text"].rstrip().endswith(".")


@pytest.mark.bed
@pytest.mark.parametrize("api", ["ollama", "openai"])
def test_missing_model_is_refused_with_those_that_exist(run_module, model, api):
    result = run_module(llm_probe, url=model.url, api=api, model="tiny:8b")
    assert result["failed"]
    assert result["msg"] == f"{model.url} has no model tiny:8b; it has tiny:latest."


def event(content="", **more):
    message = {"model": "tiny", "choices": [{"delta": {"content": content}, **more}]}
    return b"data: " + json.dumps(message).encode() + b"\n\n"


DONE = b"data: [DONE]\n\n"
LISTED = {"data": [{"id": "tiny"}, {"id": "other"}]}

FAULTS = {
    "empty": ([event(), event(finish_reason="stop"), DONE], "answered without any text (finish reason: stop)"),
    "blank": ([event(" \n"), DONE], "answered without any text"),
    "broken": ([event("Today"), event(" the"), None], "The answer of tiny broke off; 9 characters had come"),
    "broken before the first text": ([event(), None], "cannot be reached"),
    "unfinished": ([event("Today")], "ended without its last message; 5 characters had come"),
    "error inside": (
        [event("Today"), b'data: {"error": {"message": "CUDA error"}}\n\n'],
        "failed while it answered: CUDA",
    ),
    "not events": ([b'{"done": true}\n'], "ended without its last message"),
    "another model": (
        [b'data: {"model": "other", "choices": [{"delta": {"content": "Hi"}}]}\n\n', DONE],
        "was asked for the model tiny, and other answered",
    ),
    "no chat": ((404, {"error": {"message": "no such route"}}), "answered 404"),
    "server error": ((500, {"error": "llama runner process has terminated"}), "llama runner process has terminated"),
}


@pytest.mark.parametrize(("stream", "reason"), FAULTS.values(), ids=FAULTS)
def test_faults_of_the_answer(run_module, scripted, stream, reason):
    scripted.routes = {"GET /v1/models": LISTED, "POST /v1/chat/completions": stream}
    result = run_module(llm_probe, url=scripted.url, model="tiny", timeout=5)
    assert result["failed"]
    assert reason in result["msg"]


def test_engine_that_falls_silent_is_refused(run_module, scripted):
    scripted.routes = {"GET /v1/models": LISTED, "POST /v1/chat/completions": [event("Today"), 3.0, DONE]}
    result = run_module(llm_probe, url=scripted.url, model="tiny", timeout=1)
    assert result["failed"]
    assert "did not finish its answer in 1 s; 5 characters had come" in result["msg"]


def test_nobody_there(run_module):
    result = run_module(llm_probe, url="http://127.0.0.1:9", model="tiny")
    assert result["failed"]
    assert "http://127.0.0.1:9" in result["msg"]
    assert "Connection refused" in result["msg"]


@pytest.mark.parametrize("models", [{"object": "list"}, {"data": 7}, {"data": [7]}, None])
def test_other_kind_of_server_is_refused(run_module, scripted, models):
    scripted.routes = {"GET /v1/models": models}
    result = run_module(llm_probe, url=scripted.url, model="tiny")
    assert result["failed"]
    assert "does not list models as the openai API does" in result["msg"]


def test_key_goes_to_the_engine_and_not_into_messages(run_module, scripted, tmp_path):
    key = "sk-canary-1234"
    (tmp_path / "key").write_text(f"{key}\n")
    scripted.routes = {
        "GET /v1/models": LISTED,
        "POST /v1/chat/completions": [event("Today", finish_reason="stop"), DONE],
        "GET /version": {"version": "0.32.0"},
    }
    for source in ({"api_key": key}, {"api_key_file": str(tmp_path / "key")}):
        result = run_module(llm_probe, url=scripted.url, model="tiny", **source)
        assert (result["text"], result["tokens"], result["tokens_per_second"]) == ("Today", None, None)
        assert result["engine_version"] == "0.32.0"
    assert {headers["Authorization"] for _dummy, headers, _dummy in scripted.seen} == {f"Bearer {key}"}
    assert len(scripted.seen) == 6

    scripted.routes = {"GET /v1/models": (401, {"error": f"key {key} is unknown"})}
    result = run_module(llm_probe, url=scripted.url, model="tiny", api_key=key)
    assert result["failed"]
    assert "answered 401" in result["msg"]
    assert key not in json.dumps(result)


def test_question_is_put_as_the_apis_want_it(run_module, scripted):
    scripted.routes = {"GET /v1/models": LISTED, "POST /v1/chat/completions": [event("Today"), DONE]}
    run_module(llm_probe, url=scripted.url, model="tiny", prompt="How?", max_tokens=5)
    [body] = [body for line, _headers, body in scripted.seen if line.startswith("POST")]
    assert body == {
        "model": "tiny",
        "messages": [{"role": "user", "content": "How?"}],
        "stream": True,
        "max_tokens": 5,
        "stream_options": {"include_usage": True},
    }


@pytest.mark.parametrize(
    ("content", "reason"), [("", "holds 0 words"), ("a b", "holds 2 words"), (None, "cannot be read")]
)
def test_bad_key_file_is_refused(run_module, tmp_path, content, reason):
    file = tmp_path / "key"
    if content is not None:
        file.write_text(content)
    result = run_module(llm_probe, url="http://127.0.0.1:9", model="tiny", api_key_file=str(file))
    assert result["failed"]
    assert str(file) in result["msg"]
    assert reason in result["msg"]


LINE = b'{"model": "tiny", "message": {"content": "Today"}, "done": true}\n'


@pytest.mark.parametrize(
    ("loaded", "least", "percent", "warned"),
    [
        ([{"name": "tiny:latest", "size": 1000, "size_vram": 169}], 100, 16, True),
        ([{"name": "tiny:latest", "size": 1000, "size_vram": 169}], None, 16, False),
        ([{"name": "tiny:latest", "size": 1000}], 100, 0, True),
        ([{"name": "tiny:latest", "size": 1000, "size_vram": 1000}], 100, 100, False),
        ([{"name": "other:latest", "size": 1000}], 100, None, False),
        ([], 100, None, False),
    ],
)
def test_model_in_the_memory_of_processors_is_warned_of(
    run_module, scripted, monkeypatch, loaded, least, percent, warned
):
    warnings = []
    monkeypatch.setattr(AnsibleModule, "warn", lambda _self, warning: warnings.append(warning))
    scripted.routes = {
        "GET /api/tags": {"models": [{"name": "tiny:latest"}]},
        "POST /api/chat": [LINE],
        "GET /api/version": {"version": "0.5.11"},
        "POST /api/show": {},
        "GET /api/ps": {"models": loaded},
    }
    options = {} if least is None else {"gpu_percent_min": least}
    result = run_module(llm_probe, url=scripted.url, api="ollama", model="tiny", **options)
    assert result["gpu_percent"] == percent
    assert bool(warnings) is warned
    if warned:
        assert f"of the processors by {100 - percent} %, and of the GPUs by {percent} %; expected 100 %" in str(
            warnings
        )
