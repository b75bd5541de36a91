# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The document says of each host what was found, and why it is not as it should be."""

from __future__ import annotations

import json

import pytest
import report_fleet

from ansible_collections.llmfleet.serving.plugins.module_utils import _report
from ansible_collections.llmfleet.serving.plugins.module_utils._errors import LlmError

WHEN = {"generated": "2026-11-30T02:30:00Z", "title": "Fleet", "stack": "cuda-12.4"}


def build(**hosts):
    return _report.build({name: _report.Found.of(found) for name, found in hosts.items()}, **WHEN)


def one(found):
    return build(gpu01=found)["hosts"][0]


@pytest.fixture
def found():
    return report_fleet.fit(report_fleet.host("gpu01"))


def codes(host):
    return [(reason["code"], reason["subject"]) for reason in host["reasons"]]


def test_a_fit_host(found):
    host = one(found)
    assert (host["verdict"], host["reasons"]) == ("pass", [])
    assert host["identity"]["system"] == "Debian 13.8"
    assert host["identity"]["processor"] == "Intel(R) Xeon(R) Platinum 8468"
    assert (host["driver"]["version"], host["driver"]["cuda"]) == ("550.163.01", "12.4")
    assert [gpu["nvlinks"] for gpu in host["gpus"]] == [8] * 8
    assert len(host["gate"]["rules"]) == 45
    assert all(rule["source"] for rule in host["gate"]["rules"])
    (model,) = host["models"]
    assert (model["wanted"], model["intact"], model["bytes"]) == (True, True, 404430188519)
    (service,) = host["services"]
    assert (service["version"], service["running"], service["score"], service["port"]) == ("0.5.11", True, 1.6, 11434)
    assert [unit["name"] for unit in host["units"]] == ["llmfleet-gpu-ready.service"]
    assert [row["concurrency"] for row in host["figures"][0]["current"]["results"]] == [1, 4]


def test_a_warning_is_no_reason(found):
    host = one(report_fleet.host("gpu01"))
    assert (host["verdict"], host["reasons"]) == ("warn", [])
    assert [rule["findings"][0]["gpus"] for rule in host["gate"]["rules"] if rule["rule"] == "persistence-mode"] == [
        list(range(8))
    ]


def test_a_refused_host_says_every_reason(found):
    host = one(report_fleet.stopped(report_fleet.refused(found)))
    assert host["verdict"] == "fail"
    assert codes(host) == [("gate", "ecc-volatile"), ("service", "deepseek-r1")]
    assert host["reasons"][0]["text"] == (
        "ecc-volatile (GPUs 2, 5): expected no uncorrectable memory error since the driver was loaded, found 2 of "
        "them. Reset the GPU or reboot, then test its memory."
    )
    assert "found it failed (failed)" in host["reasons"][1]["text"]


def test_a_silent_host_is_there_and_fails_the_fleet(found):
    document = build(gpu01=found, gpu02=report_fleet.silent(found))
    assert [host["verdict"] for host in document["hosts"]] == ["pass", "silent"]
    assert document["verdict"] == "fail"
    assert _report.reasons(document) == [
        "gpu02: It did not answer: Failed to connect to the host via ssh: connect to host port 22: No route to host."
    ]
    summary = document["summary"]
    assert (summary["hosts"], summary["silent"], summary["pass"], summary["services_running"], summary["services"]) == (
        2,
        1,
        1,
        1,
        2,
    )
    assert (summary["models_intact"], summary["models"]) == (1, 2)


def test_a_silent_host_is_the_same_the_next_time():
    said = "Failed to create temporary directory. Failed command was: mkdir tmp-{}"
    first, second = (build(gpu01={"unreachable": True, "msg": said.format(number)}) for number in (1, 2))
    assert first == second
    assert _report.reasons(first) == ["gpu01: It did not answer: Failed to create temporary directory."]


def test_a_host_that_cannot_be_read(found):
    host = one(
        {"failed": True, "msg": "No python.\nAt all", "services": report_fleet.SERVICES, "models": report_fleet.MODELS}
    )
    assert (host["verdict"], codes(host)) == ("fail", [("unread", "gpu01")])
    assert host["reasons"][0]["text"] == "Not everything could be read: No python. At all."
    assert host["gate"] == {"verdict": None, "profile": None, "rules": []}


@pytest.mark.parametrize(("sha256", "says"), [("", "are not there"), ("0" * 64, "are not what was verified any more")])
def test_a_model_that_is_not_as_it_should_be(found, sha256, says):
    found["records"]["models"] = (
        [{**found["records"]["models"][0], "intact": False, "sha256": sha256}] if sha256 else []
    )
    host = one(found)
    assert codes(host) == [("model", "deepseek-r1-q4")]
    assert says in host["reasons"][0]["text"]


def test_a_model_that_is_to_be_absent_is_not_missed(found):
    found["models"] = [*found["models"], {"name": "old", "state": "absent"}]
    assert one(found)["verdict"] == "pass"


def test_a_service_without_a_unit(found):
    found["records"]["units"] = []
    host = one(found)
    assert codes(host) == [("service", "deepseek-r1")]
    assert host["services"][0]["state"] == "not installed"
    assert host["reasons"][0]["text"].endswith("found it not installed. Run site.yml.")


def test_an_engine_that_nobody_has_asked_for(found):
    found["services"] = []
    host = one(found)
    assert (host["verdict"], host["services"][0]["wanted"], host["services"][0]["engine"]) == ("pass", False, "ollama")


def test_refused_figures(found):
    found["records"]["figures"]["deepseek-r1"]["current"]["refused"] = ["3 tokens/s at concurrency 1"]
    host = one(found)
    assert codes(host) == [("figures", "deepseek-r1")]
    assert "3 tokens/s" in host["reasons"][0]["text"]


def test_figures_tell_who_has_measured(found):
    """A record that does not tell is from before there was another client than our own."""
    found["records"]["figures"]["deepseek-r1"]["current"]["client"] = "vllm 0.32.0"
    [figure] = one(found)["figures"]
    assert (figure["accepted"]["client"], figure["current"]["client"]) == ("own", "vllm 0.32.0")


def test_hosts_are_sorted_as_people_count(found):
    names = [host["name"] for host in build(node10=found, node2=found, node1=found)["hosts"]]
    assert names == ["node1", "node2", "node10"]


def test_no_secret(found):
    found.update(failed=True, msg="GET https://user:c4n4ry-1@hub/x failed")
    found["services"][0]["args"]["hf_token"] = "c4n4ry-2"  # noqa: S105 -- a canary
    text = json.dumps(build(gpu01=found))
    assert "c4n4ry" not in text
    assert report_fleet.CANARY not in text
    assert "(hidden)" in text


def test_parse_takes_what_was_built(found):
    document = build(gpu01=found)
    assert _report.parse(json.dumps(document), "report.json") == document


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"schema": "llmfleet-report", "version": 99}'])
def test_parse_refuses_anything_else(text):
    with pytest.raises(LlmError, match=r"^report.json is no report of version 1: .* Move it away"):
        _report.parse(text, "report.json")


def test_settled_leaves_out_what_always_differs(found):
    first, second = build(gpu01=found), build(gpu01={**found, "answers": {}})
    second["generated"] = "2027-01-01T00:00:00Z"
    right = next(rule for rule in second["hosts"][0]["gate"]["rules"] if rule["outcome"] == "pass")
    right["found"] = "41 C"
    assert first != second
    assert _report.settled(first) == _report.settled(second)
    second["stack"] = "current"
    assert _report.settled(first) != _report.settled(second)
