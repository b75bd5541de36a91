"""llm_bench against a server that answers as a test scripts it; molecule/acceptance runs it against a real engine."""

from __future__ import annotations

import itertools
import json

import pytest

from ansible_collections.llmfleet.serving.plugins.modules import llm_bench

LISTED = {"data": [{"id": "tiny"}, {"id": "other"}]}
CHAT = "POST /v1/chat/completions"
ANSWER = [
    b'data: {"model": "tiny", "choices": [{"delta": {"reasoning_content": "Hm. "}}]}\n\n',
    b'data: {"model": "tiny", "choices": [{"delta": {"content": "Rayleigh"}, "finish_reason": "length"}]}\n\n',
    b'data: {"model": "tiny", "choices": [], "usage": {"prompt_tokens": 4, "completion_tokens": 6}}\n\n',
    b"data: [DONE]\n\n",
]
OLLAMA_ANSWER = [
    b'{"model": "tiny:latest", "message": {"content": "Ray"}, "done": false}\n',
    b'{"model": "tiny:latest", "message": {"content": "leigh"}, "done": false}\n',
    b'{"model": "tiny:latest", "message": {"content": ""}, "done": true, "eval_count": 6, "prompt_eval_count": 4}\n',
]
FAST = 1e9


@pytest.fixture
def engine(scripted):
    scripted.routes = {"GET /v1/models": LISTED, CHAT: ANSWER}
    return scripted


@pytest.fixture
def ollama(scripted):
    blob = "ab" * 32
    scripted.routes = {
        "GET /api/tags": {"models": [{"name": "tiny:latest"}]},
        "GET /api/version": {"version": "0.5.11"},
        "POST /api/show": {"modelfile": f"FROM /models/blobs/sha256-{blob}\n"},
        "POST /api/chat": OLLAMA_ANSWER,
    }
    return scripted


@pytest.fixture
def bench(run_module, scripted):
    def run(**options):
        options = {"concurrencies": [1, 2], "requests": 2, "warmup": 1, "model": "tiny", "timeout": 20, **options}
        return run_module(llm_bench, url=scripted.url, **options)

    return run


def asked(server):
    return sum("chat" in line for line, _dummy, _dummy in server.seen)


def test_figures_of_each_concurrency(bench, engine):
    result = bench()
    assert (result["changed"], result["measured"], result["engine_version"]) == (False, True, None)
    assert [(row["concurrency"], row["requests"], row["failures"]) for row in result["results"]] == [
        (1, 2, 0),
        (2, 4, 0),
    ]
    assert [row["output_tokens"] for row in result["results"]] == [12, 24]
    assert {row["tokens_from"] for row in result["results"]} == {"usage"}
    assert asked(engine) == 3 + 6
    assert engine.seen[-1][2]["messages"][0]["content"].endswith("] Why is the sky blue?")
    assert engine.seen[-1][2]["max_tokens"] == 128


def test_ollamas_own_api(bench, ollama):
    result = bench(api="ollama")
    assert (result["engine_version"], result["model_sha256"]) == ("0.5.11", "ab" * 32)
    assert [row["output_tokens"] for row in result["results"]] == [12, 24]
    assert ollama.seen[-1][2]["options"] == {"num_predict": 128}


def test_check_mode_asks_nothing_and_says_so(bench, engine):
    result = bench(check=True)
    assert (result["changed"], result["measured"], result["results"]) == (False, False, [])
    assert result["msg"] == "Check mode: no load is put on the engine."
    assert asked(engine) == 0


def test_check_mode_before_there_is_an_engine(run_module, tmp_path):
    options = {"url": "http://127.0.0.1:9", "model": "tiny", "concurrencies": [1], "record": str(tmp_path / "record")}
    key = str(tmp_path / "key")
    predicted = run_module(llm_bench, check=True, api_key_file=key, **options)
    assert (predicted["changed"], predicted["measured"]) == (True, False)
    assert "127.0.0.1:9" in run_module(llm_bench, **options)["msg"]
    assert key in run_module(llm_bench, api_key_file=key, **options)["msg"]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("check", [False, True])
def test_bad_options_are_refused_in_check_mode_too(bench, engine, check):
    result = bench(concurrencies=[0], check=check)
    assert "expected concurrencies from 1 to 1024" in result["msg"]
    assert engine.seen == []


def test_check_real_check_real(bench, ollama, tmp_path):
    record = tmp_path / "lib" / "acceptance.json"
    options = {"api": "ollama", "record": str(record)}
    assert bench(check=True, **options)["changed"] is True
    assert not record.parent.exists()
    assert asked(ollama) == 0

    first = bench(**options)
    assert (first["changed"], first["measured"]) == (True, True)
    assert json.loads(record.read_text())["services"]["tiny"]["accepted"]["results"] == first["results"]

    written, questions = record.read_bytes(), asked(ollama)
    for check in (True, False):
        again = bench(check=check, **options)
        assert (again["changed"], again["measured"]) == (False, False)
        assert (again["date"], again["results"]) == (first["date"], first["results"])
    assert (record.read_bytes(), asked(ollama)) == (written, questions)


@pytest.mark.parametrize("other", ["engine", "model", "fingerprint", "load", "streams", "force"])
def test_what_is_another_service_or_load_is_measured_again(bench, ollama, tmp_path, other):
    options = {"api": "ollama", "record": str(tmp_path / "record"), "drop_max": 100}
    bench(**options)
    if other == "engine":
        ollama.routes["GET /api/version"] = {"version": "0.34.0"}
    if other == "model":
        ollama.routes["POST /api/show"] = {"modelfile": f"FROM /models/blobs/sha256-{'cd' * 32}\n"}
    more = {
        "fingerprint": {"fingerprint": "num_gpu: 16"},
        "load": {"max_tokens": 64},
        "streams": {"concurrencies": [1]},
        "force": {"force": True},
    }
    options.update(more.get(other, {}))
    assert bench(check=True, **options)["changed"] is True
    result = bench(**options)
    assert (result["changed"], result["measured"]) == (True, True)


def test_a_drop_is_refused_and_accepted_on_purpose(bench, ollama, tmp_path):
    """Whatever this machine delivers, it is less than what is written into the record here."""
    file = tmp_path / "record"
    options = {"api": "ollama", "record": str(file)}
    bench(**options)
    record = json.loads(file.read_text())
    for row in record["services"]["tiny"]["accepted"]["results"]:
        row["output_tokens_per_second"] = FAST
    file.write_text(json.dumps(record))
    ollama.routes["GET /api/version"] = {"version": "0.34.0"}

    refused = bench(**options)
    assert refused["failed"]
    assert refused["msg"].startswith("tiny (engine 0.34.0) delivers less than what was accepted: ")
    for row in refused["results"]:
        now, streams = row["output_tokens_per_second"], row["concurrency"]
        assert f"{now:g} tokens/s at concurrency {streams}, 100.0 percent less" in refused["msg"]
    assert f"than {FAST:g} on {record['services']['tiny']['accepted']['date']} (engine 0.5.11)" in refused["msg"]
    service = json.loads(file.read_text())["services"]["tiny"]
    assert service["accepted"] == record["services"]["tiny"]["accepted"]
    assert service["current"]["results"] == refused["results"]
    assert bench(**options)["failed"]

    assert bench(drop_max=100, **options)["changed"] is True
    assert bench(**options)["changed"] is False


def test_what_was_measured_is_not_lost_when_the_engine_fails(bench, engine, tmp_path):
    answers = itertools.chain([ANSWER] * 3, itertools.repeat((500, {"error": "CUDA error"})))
    engine.routes[CHAT] = lambda _headers: next(answers)
    record = tmp_path / "record"
    result = bench(warmup=0, record=str(record))
    assert result["failed"]
    assert "2 of 4 requests to tiny failed at concurrency 2, 1 were answered" in result["msg"]
    assert result["msg"].endswith("CUDA error.")
    assert [(row["requests"], row["failures"], row["output_tokens"]) for row in result["results"]] == [
        (2, 0, 12),
        (3, 2, 6),
    ]
    assert not record.exists()


def test_what_was_measured_is_not_lost_when_it_cannot_be_written(bench, engine):
    result = bench(record="/proc/llmfleet/acceptance.json")
    assert result["failed"]
    assert "Writing /proc/llmfleet/acceptance.json failed" in result["msg"]
    assert len(result["results"]) == 2


def test_what_is_no_record_is_refused_before_the_load(bench, engine, tmp_path):
    (tmp_path / "record").write_text("{}")
    assert "is no record of llm_bench" in bench(record=str(tmp_path / "record"))["msg"]
    assert engine.seen == []


def test_missing_model_is_refused_before_the_load(bench, engine):
    assert "has no model big; it has other, tiny." in bench(model="big")["msg"]
    assert asked(engine) == 0


def test_key_goes_to_the_engine_and_not_into_messages(bench, engine, tmp_path):
    key = "sk-canary-1234"
    (tmp_path / "key").write_text(f"{key}\n")
    options = {"api_key_file": str(tmp_path / "key"), "record": str(tmp_path / "record")}
    result = bench(**options)
    assert result["measured"]
    assert {headers["Authorization"] for _dummy, headers, _dummy in engine.seen} == {f"Bearer {key}"}
    assert key not in json.dumps(result) + (tmp_path / "record").read_text()

    for path in ("GET /v1/models", CHAT):
        engine.routes[path] = (401, {"error": f"key {key} is unknown"})
        result = bench(force=True, **options)
        assert result["failed"]
        assert "answered 401" in result["msg"]
        assert "The token was not accepted" in result["msg"]
        assert key not in json.dumps(result)
        engine.routes["GET /v1/models"] = LISTED
