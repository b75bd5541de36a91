"""What is known of a host becomes text that Prometheus reads, whatever names there are."""

from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.llmfleet.serving.plugins.module_utils._host_metrics import (
    Family,
    Sample,
    gate,
    render,
    store,
    watchdog,
)
from ansible_collections.llmfleet.serving.plugins.module_utils._watchdog import State

FINDING = {"rule": "throttling", "severity": "fail", "gpu": 3, "expected": "none", "found": "some", "advice": "cool it"}
MODEL = {
    "name": "r1-q4",
    "source": "",
    "repo": "a/b",
    "commit": "0" * 40,
    "files": 1,
    "bytes": 404,
    "sha256": "0" * 64,
    "written": None,
    "seconds": None,
    "intact": True,
}


def test_a_broken_rule_is_told_once_for_each_gpu_and_for_the_host():
    host = {**FINDING, "rule": "fabric-manager", "gpu": None}
    told = render(gate({"verdict": "fail", "findings": [FINDING, FINDING, host]}, fenced=True, checked=12.5))
    assert [line for line in told.splitlines() if not line.startswith("#")] == [
        "llmfleet_gpu_gate_fenced 1",
        "llmfleet_gpu_gate_pass 0",
        "llmfleet_gpu_gate_checked_timestamp_seconds 12.5",
        'llmfleet_gpu_gate_rule_broken{rule="fabric-manager",severity="fail",gpu=""} 1',
        'llmfleet_gpu_gate_rule_broken{rule="throttling",severity="fail",gpu="3"} 1',
    ]


def test_a_host_without_the_gate_tells_only_whether_it_is_fenced():
    assert [family.name for family in gate(None, fenced=False, checked=1)] == ["llmfleet_gpu_gate_fenced"]


def test_restarts_of_more_than_an_hour_ago_do_not_count():
    state = State(verdict="idle", checked=9000, restarts=(1000.0, 8000.0, 8999.0))
    told = render(watchdog({"r1": state}, 9000))
    assert 'llmfleet_watchdog_restarts{service="r1"} 2\n' in told
    assert 'llmfleet_watchdog_verdict{service="r1",verdict="idle"} 1\n' in told
    assert 'llmfleet_watchdog_checked_timestamp_seconds{service="r1"} 9000\n' in told


def test_a_watchdog_that_has_not_looked_yet_has_no_verdict():
    assert "verdict" not in render(watchdog({"r1": State()}, 1))


def test_models_are_told_with_what_was_verified_and_what_is_free():
    told = render(store([MODEL, {**MODEL, "name": "v3", "intact": False}], 2, 1000, 40))
    assert 'llmfleet_model_bytes{model="r1-q4"} 404\n' in told
    assert 'llmfleet_model_intact{model="r1-q4"} 1\nllmfleet_model_intact{model="v3"} 0\n' in told
    assert "llmfleet_model_store_quarantined_files 2\n" in told
    assert "llmfleet_model_store_avail_bytes 40\n" in told


def test_a_family_without_samples_is_left_out():
    assert render([Family("llmfleet_x", "Nothing.", [])]) == ""


@given(st.text(st.characters(exclude_categories=["Cs"])), st.floats(0, 1e15))
def test_any_name_of_a_model_is_one_line_that_gives_it_back(name, value):
    told = render([Family("llmfleet_x", "A thing.", [Sample(value, {"model": name})])])
    line = told.removeprefix("# HELP llmfleet_x A thing.\n# TYPE llmfleet_x gauge\n")
    found = re.fullmatch(r'llmfleet_x\{model="((?:[^"\\\n]|\\[\\n"])*)"\} (\S+)\n', line)
    assert found
    assert re.sub(r"\\(.)", lambda one: {"n": "\n"}.get(one[1], one[1]), found[1]) == name
    assert float(found[2]) == value
