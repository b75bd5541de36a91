# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The verdict in words, as a table and as JUnit XML."""

from __future__ import annotations

import typing as t
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.llmfleet.serving.plugins.module_utils._gate_rules import DRIVER_ANSWERS, RULES
from ansible_collections.llmfleet.serving.plugins.module_utils._gate_verdict import (
    RuleFinding,
    Verdict,
    _together,
    describe,
    junit,
    refuse,
    table,
)


def finding(rule: str, gpu: int | None = None, severity: str = "fail", found: str = "on") -> RuleFinding:
    return {
        "rule": rule,
        "severity": severity,
        "gpu": gpu,
        "expected": "off",
        "found": found,
        "advice": "Do it.",
        "source": "us",
    }


def verdict(*findings: RuleFinding) -> Verdict:
    broken = {one["rule"]: one["severity"] for one in findings}
    rules = [("mig-mode", "fail"), ("vbios", "warn"), ("idle", "fail"), ("fabric", "fail")]
    return {
        "verdict": "fail" if "fail" in broken.values() else "pass",
        "findings": list(findings),
        "rules": [
            {
                "rule": rule,
                "severity": severity,
                "outcome": "skip" if rule == "fabric" else broken.get(rule, "pass"),
                "expected": "" if rule == "fabric" else "off",
                "found": "" if rule == "fabric" else "off, all",
            }
            for rule, severity in rules
        ],
    }


BAD = verdict(finding("vbios", severity="warn", found="1,\n 2"), finding("mig-mode", 0), finding("mig-mode", 3))


def test_without_facts_nothing_passes():
    refused = refuse(DRIVER_ANSWERS, "facts about the GPUs", "It hangs.")
    assert refused["verdict"] == "fail"
    assert describe(refused["findings"]) == [
        "driver-answers: expected facts about the GPUs, found It hangs. "
        "Nothing else can be judged until the driver answers."
    ]
    outcomes = {one["rule"]: one["outcome"] for one in refused["rules"]}
    assert outcomes == {rule.id: "fail" if rule is DRIVER_ANSWERS else "skip" for rule in RULES}


def test_gpus_with_the_same_trouble_share_a_line():
    findings = [finding("mig-mode", 0), finding("mig-mode", 1), finding("mig-mode", 2, found="N/A"), finding("x")]
    assert describe(findings) == [
        "mig-mode (GPUs 0, 1): expected off, found on. Do it.",
        "mig-mode (GPU 2): expected off, found N/A. Do it.",
        "x: expected off, found on. Do it.",
    ]


@pytest.mark.parametrize(
    ("found", "told"),
    [
        ([], ""),
        (["0"] * 8, "0"),
        (["38 C", "36 C", "38 C"], "38 C; 36 C"),
        (["38 C", "36 C", "101 C", "40 C"], "36 C to 101 C"),
        (["1", "2", "3.5", "-4"], "-4 to 3.5"),
        (["1 C", "2", "3 C", "4 C"], "1 C; 2; 3 C; and 1 more"),
        (["a", "b", "c", "d", "e"], "a; b; c; and 2 more"),
    ],
)
def test_what_several_gpus_say_is_told_together(found, told):
    assert _together(found) == told


def test_the_table_has_the_worst_first():
    assert table(BAD).splitlines() == [
        "RESULT  RULE      GPU   EXPECTED  FOUND",
        "fail    mig-mode  0, 3  off       on",
        "warn    vbios           off       1, 2",
        "pass    idle            off       off, all",
        "skip    fabric",
    ]


def cases(xml: str) -> dict[str, tuple[str, str | None]]:
    """What stands in each test case."""
    suite = ElementTree.fromstring(xml)  # noqa: S314 - of our own making
    assert suite.tag == "testsuite"
    counts = {name: suite.get(name) for name in ("tests", "failures", "skipped")}
    found = {}
    for case in suite:
        assert (case.tag, case.get("classname")) == ("testcase", "gpu_gate")
        assert len(case) <= 1
        found[case.get("name")] = (case[0].tag, case[0].text) if len(case) else ("passed", None)
    tags = [tag for tag, _text in found.values()]
    assert counts == {
        "tests": str(len(found)),
        "failures": str(tags.count("failure")),
        "skipped": str(tags.count("skipped")),
    }
    return found


def test_junit_has_a_case_for_each_rule():
    assert cases(junit(BAD, "gate")) == {
        "mig-mode": ("failure", "mig-mode (GPUs 0, 3): expected off, found on. Do it."),
        "vbios": ("system-out", "vbios: expected off, found 1,\n 2. Do it."),
        "idle": ("passed", None),
        "fabric": ("skipped", None),
    }


@pytest.mark.parametrize("name", ["gate", '<&>"', "\0"])
def test_the_suite_has_a_name(name):
    assert ElementTree.fromstring(junit(BAD, name)).get("name") == name.replace("\0", "\ufffd")  # noqa: S314


@given(st.text())
def test_whatever_was_found_the_xml_is_whole(found: str):
    tag, text = t.cast("tuple[str, str]", cases(junit(verdict(finding("idle", 1, found=found)), "gate"))["idle"])
    assert tag == "failure"
    assert text.startswith("idle (GPU 1): expected off, found ")
    table(verdict(finding("idle", 1, found=found)))
