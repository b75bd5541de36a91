"""What a host's record accepts, and what it refuses."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from ansible_collections.llmfleet.serving.plugins.module_utils._bench_record import Record, Subject
from ansible_collections.llmfleet.serving.plugins.module_utils._errors import LlmError

OLD = Subject("0.5.11", "ab" * 32, "f1", {"max_tokens": 64, "requests": 4}, [1, 8])
NEW = replace(OLD, engine_version="0.34.0")


def rows(*speeds):
    streams = (1, 8, 64)
    return [{"concurrency": no, "output_tokens_per_second": speed} for no, speed in zip(streams, speeds)]


@pytest.fixture
def path(tmp_path):
    """A record in which the old engine's 20 and 100 tokens/s were accepted."""
    path = tmp_path / "lib" / "acceptance.json"
    Record(path, "r1").keep(OLD, rows(20.0, 100.0), "2026-11-01T00:00:00Z", 10)
    return path


def kept(path):
    return json.loads(path.read_text())["services"]["r1"]


def test_first_figures_are_accepted(path):
    assert kept(path)["current"] == kept(path)["accepted"]
    assert kept(path)["accepted"] == {
        "date": "2026-11-01T00:00:00Z",
        "engine_version": "0.5.11",
        "model_sha256": "ab" * 32,
        "fingerprint": "f1",
        "load": {"max_tokens": 64, "requests": 4},
        "concurrencies": [1, 8],
        "client": "own",
        "results": rows(20.0, 100.0),
        "refused": [],
    }


def test_figures_of_the_very_same_subject_stand(path):
    record = Record(path, "r1")
    assert record.has(OLD)
    for other in (
        NEW,
        replace(OLD, model_sha256="cd" * 32),
        replace(OLD, fingerprint="f2"),
        replace(OLD, load={"max_tokens": 32, "requests": 4}),
        replace(OLD, concurrencies=[1]),
        replace(OLD, client="vllm 0.32.0"),
    ):
        assert not record.has(other)
    assert not Record(path, "v3").has(OLD)


def test_a_drop_is_refused_with_both_figures_and_what_was_accepted_stays(path):
    with pytest.raises(LlmError) as refusal:
        Record(path, "r1").keep(NEW, rows(17.9, 100.0), "2026-11-23T00:00:00Z", 10)
    assert str(refusal.value).startswith(
        "r1 (engine 0.34.0) delivers less than what was accepted: 17.9 tokens/s at concurrency 1, 10.5 percent less "
        "than 20 on 2026-11-01T00:00:00Z (engine 0.5.11). drop_max is 10 percent."
    )
    assert kept(path)["accepted"]["results"] == rows(20.0, 100.0)
    assert kept(path)["current"]["results"] == rows(17.9, 100.0)
    [reason] = kept(path)["current"]["refused"]
    assert "17.9 tokens/s at concurrency 1" in reason
    assert Record(path, "r1").has(OLD)


def test_an_engine_that_does_not_tell_its_version(tmp_path):
    untold = replace(OLD, engine_version=None)
    Record(tmp_path / "record", "r1").keep(untold, rows(20.0), "2026-11-01T00:00:00Z", 10)
    with pytest.raises(LlmError, match=r"^r1 delivers less .* than 20 on 2026-11-01T00:00:00Z\. drop_max"):
        Record(tmp_path / "record", "r1").keep(untold, rows(1.0), "2026-11-23T00:00:00Z", 10)


def test_all_drops_are_told_at_once(path):
    with pytest.raises(LlmError, match=r"1 tokens/s at concurrency 1, .*; 2 tokens/s at concurrency 8, "):
        Record(path, "r1").keep(NEW, rows(1.0, 2.0), "2026-11-23T00:00:00Z", 10)


@pytest.mark.parametrize(
    ("subject", "results", "drop_max"),
    [
        (NEW, rows(18.0, 90.0), 10),
        (NEW, rows(200.0, 1000.0), 0),
        (NEW, rows(0.1, 0.1), 100),
        (replace(NEW, concurrencies=[64]), rows(20.0, 100.0, 1.0)[2:], 10),
        (replace(NEW, load={"max_tokens": 8, "requests": 4}), rows(1.0, 1.0), 10),
        (replace(NEW, model_sha256="cd" * 32), rows(1.0, 1.0), 10),
        (replace(NEW, client="vllm 0.32.0"), rows(1.0, 1.0), 10),
    ],
    ids=[
        "as far as allowed",
        "faster",
        "on purpose",
        "other streams",
        "another load",
        "another model",
        "another client",
    ],
)
def test_what_is_no_drop_is_accepted(path, subject, results, drop_max):
    Record(path, "r1").keep(subject, results, "2026-11-23T00:00:00Z", drop_max)
    assert kept(path)["accepted"] == kept(path)["current"]
    assert kept(path)["accepted"]["results"] == results
    assert Record(path, "r1").has(subject)


def test_a_client_of_another_version_measures_again_and_is_compared(tmp_path):
    """vLLM's own client comes with vLLM, whose versions are what is compared."""
    path, subject = tmp_path / "record", replace(OLD, engine_version=None, client="vllm 0.11.0")
    Record(path, "r1").keep(subject, rows(20.0), "2026-11-01T00:00:00Z", 10)
    assert Record(path, "r1").has(subject)
    newer = replace(subject, client="vllm 0.32.0")
    assert not Record(path, "r1").has(newer)
    with pytest.raises(LlmError, match="1 tokens/s at concurrency 1"):
        Record(path, "r1").keep(newer, rows(1.0), "2026-11-23T00:00:00Z", 10)


def test_a_record_that_does_not_tell_the_client_is_of_our_own(path):
    content = json.loads(path.read_text())
    for figures in content["services"]["r1"].values():
        del figures["client"]
    path.write_text(json.dumps(content))
    assert Record(path, "r1").has(OLD)
    assert not Record(path, "r1").has(replace(OLD, client="vllm 0.32.0"))
    with pytest.raises(LlmError, match="delivers less"):
        Record(path, "r1").keep(NEW, rows(1.0), "2026-11-23T00:00:00Z", 10)


def test_services_do_not_disturb_each_other(path):
    before = kept(path)
    Record(path, "v3").keep(NEW, rows(1.0, 1.0), "2026-11-23T00:00:00Z", 10)
    assert kept(path) == before
    assert Record(path, "v3").has(NEW)


@pytest.mark.parametrize("content", ["", "{", "[]", '{"schema": 7, "services": {}}', '{"schema": 1, "services": []}'])
def test_what_is_no_record_is_refused_and_not_replaced(path, content):
    path.write_text(content)
    with pytest.raises(LlmError, match=r"acceptance\.json is no record of llm_bench: expected its JSON \(schema 1\)"):
        Record(path, "r1")
    assert path.read_text() == content


def test_a_record_that_cannot_be_used_is_refused_before_anything_is_measured(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(LlmError, match="is a symbolic link; expected a regular file"):
        Record(tmp_path / "link", "r1")
