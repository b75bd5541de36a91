"""llm_bench against a server that answers as a test scripts it; molecule/acceptance runs it against a real engine."""

from __future__ import annotations

import itertools
import json
import os
import sys
from pathlib import Path

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
# What vLLM's own client has written: 4 requests of 16 tokens by 2 streams.
WRITTEN = Path(__file__).parents[1] / "module_utils" / "fixtures" / "vllm-bench" / "0.32.0.json"
VLLM = """#!{python}
import pathlib, sys
if "-c" in sys.argv:
    print("0.32.0")
    raise SystemExit
options = dict(zip(sys.argv, sys.argv[1:]))
written = pathlib.Path("{written}").read_text()
pathlib.Path(options["--result-dir"], options["--result-filename"]).write_text(written)
"""


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
    assert result["client"] == "own"
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


@pytest.fixture
def vllm(engine, tmp_path, monkeypatch):
    """A host with a unit of systemd that runs from an environment with vLLM. Options that name the client."""
    python, systemctl = tmp_path / "env" / "bin" / "python", tmp_path / "bin" / "systemctl"
    started = f"{{ path={python} ; argv[]={python} serve.py vllm serve /data/models/tiny ; ignore_errors=no }}"
    for path, text in (
        (python, VLLM.format(python=sys.executable, written=WRITTEN)),
        (systemctl, f"#!/bin/sh\n[ \"$4\" = llmfleet-tiny.service ] && echo '{started}'\n"),
    ):
        path.parent.mkdir(parents=True)
        path.write_text(text)
        path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{systemctl.parent}:{os.environ['PATH']}")
    engine.routes["GET /v1/models"] = {"data": [{"id": "tiny", "root": str(tmp_path)}]}
    return {"client": "vllm", "unit": "llmfleet-tiny.service", "concurrencies": [2], "max_tokens": 16}


def test_vllms_own_client_measures(bench, vllm, engine, tmp_path):
    record = tmp_path / "lib" / "acceptance.json"
    options = {**vllm, "record": str(record)}
    predicted = bench(check=True, **options)
    assert (predicted["changed"], predicted["measured"], predicted["client"]) == (True, False, "vllm 0.32.0")
    assert asked(engine) == 0

    first = bench(**options)
    assert (first["changed"], first["measured"], first["client"]) == (True, True, "vllm 0.32.0")
    assert [(row["concurrency"], row["requests"], row["output_tokens"]) for row in first["results"]] == [(2, 4, 64)]
    assert asked(engine) == 2  # to warm up
    accepted = json.loads(record.read_text())["services"]["tiny"]["accepted"]
    assert (accepted["client"], accepted["results"]) == ("vllm 0.32.0", first["results"])

    for check in (True, False):
        again = bench(check=check, **options)
        assert (again["changed"], again["measured"], again["client"]) == (False, False, "vllm 0.32.0")
        assert again["results"] == first["results"]


def test_figures_of_the_other_client_are_neither_taken_nor_held_against(bench, vllm, tmp_path):
    options = {**vllm, "record": str(tmp_path / "record")}
    bench(**options)
    record = json.loads((tmp_path / "record").read_text())
    record["services"]["tiny"]["accepted"]["results"][0]["output_tokens_per_second"] = FAST
    (tmp_path / "record").write_text(json.dumps(record))
    assert bench(force=True, **options)["failed"]
    own = bench(**{**options, "client": "own"})
    assert (own["changed"], own["measured"], own["client"]) == (True, True, "own")


@pytest.mark.parametrize("check", [False, True])
def test_vllms_own_client_of_a_unit_that_is_not_there(bench, vllm, engine, check):
    result = bench(check=check, **{**vllm, "unit": "llmfleet-other.service"})
    if check:
        assert (result["measured"], result["results"]) == (False, [])
    else:
        assert "llmfleet-other.service was expected to start a Python environment of vLLM" in result["msg"]
    assert asked(engine) == 0


def test_vllms_own_client_needs_the_unit(bench, engine):
    assert "unit" in bench(client="vllm")["msg"]
    assert engine.seen == []
