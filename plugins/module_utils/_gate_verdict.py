# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The verdict on a host's GPUs, also in words, as a table and as JUnit. Private to this collection."""

from __future__ import annotations

import re
import typing as t
from xml.etree import ElementTree

from ansible_collections.llmfleet.serving.plugins.module_utils._gate_checks import Reading
from ansible_collections.llmfleet.serving.plugins.module_utils._gate_profiles import Expectation
from ansible_collections.llmfleet.serving.plugins.module_utils._gate_rules import RULES, Rule
from ansible_collections.llmfleet.serving.plugins.module_utils._gpu_facts import Facts


class Finding(t.TypedDict):
    """One broken rule on one GPU, or on the host as a whole when `gpu` is None."""

    rule: str
    severity: str
    gpu: int | None
    expected: str
    found: str
    advice: str


class RuleFinding(Finding):
    """The same, with where the rule's threshold comes from."""

    source: str


class Outcome(t.TypedDict):
    """What became of one rule: pass, warn, fail, or skip where it does not apply."""

    rule: str
    severity: str
    outcome: str


class RuleOutcome(Outcome):
    """The same, with what was expected and found on all GPUs, of a broken rule on those that break it.

    Both are "" where nothing was judged.
    """

    expected: str
    found: str


class Verdict(t.TypedDict):
    """`verdict` is "fail" when a rule of severity "fail" is broken, else "pass"."""

    verdict: str
    findings: list[RuleFinding]
    rules: list[RuleOutcome]


def evaluate(facts: Facts, expectation: Expectation) -> Verdict:
    """All rules on a host's facts."""
    findings: list[RuleFinding] = []
    rules: list[RuleOutcome] = []
    for rule in RULES:
        readings = rule.check(facts, expectation) if rule.applies(facts, expectation) else None
        broken = [reading for reading in readings or [] if not reading.right]
        findings += [_finding(rule, reading.gpu, reading.expected, reading.found) for reading in broken]
        outcome = "skip" if readings is None else rule.severity if broken else "pass"
        rules.append(_outcome(rule, outcome, broken or readings or []))
    failed = any(finding["severity"] == "fail" for finding in findings)
    return {"verdict": "fail" if failed else "pass", "findings": findings, "rules": rules}


def refuse(broken: Rule, expected: str, found: str) -> Verdict:
    """The verdict on a host that cannot be evaluated because of one rule: what cannot be known is not fit."""
    return {
        "verdict": "fail",
        "findings": [_finding(broken, None, expected, found.rstrip("."))],
        "rules": [
            _outcome(rule, "fail", [Reading(None, expected, found.rstrip("."), False)])
            if rule is broken
            else _outcome(rule, "skip", [])
            for rule in RULES
        ],
    }


def _outcome(rule: Rule, outcome: str, readings: t.Sequence[Reading]) -> RuleOutcome:
    return {
        "rule": rule.id,
        "severity": rule.severity,
        "outcome": outcome,
        "expected": _together(reading.expected for reading in readings),
        "found": _together(reading.found for reading in readings),
    }


# As many different values are told one by one.
_VALUES_MAX = 3
_NUMBER = re.compile(r"(-?[0-9]+(?:\.[0-9]+)?)( .*)?")


def _together(texts: t.Iterable[str]) -> str:
    """What several GPUs have said, each text once: "34 C to 41 C" where they are many numbers."""
    found = list(dict.fromkeys(texts))
    if len(found) <= _VALUES_MAX:
        return "; ".join(found)
    numbers = [_NUMBER.fullmatch(text) for text in found]
    if all(numbers) and len({match[2] for match in numbers if match}) == 1:
        found.sort(key=lambda text: float(text.partition(" ")[0]))
        return f"{found[0]} to {found[-1]}"
    return "; ".join([*found[:_VALUES_MAX], f"and {len(found) - _VALUES_MAX} more"])


def _finding(rule: Rule, gpu: int | None, expected: str, found: str) -> RuleFinding:
    return {
        "rule": rule.id,
        "severity": rule.severity,
        "gpu": gpu,
        "expected": expected,
        "found": found,
        "advice": rule.advice,
        "source": rule.source,
    }


# --- For people


class _Trouble(t.NamedTuple):
    """One thing that is wrong, with all GPUs on which it is."""

    rule: str
    severity: str
    gpus: list[int]
    expected: str
    found: str
    advice: str


def _troubles(findings: t.Iterable[Finding]) -> list[_Trouble]:
    found: dict[tuple[str, str, str], _Trouble] = {}
    for one in findings:
        key = (one["rule"], one["expected"], one["found"])
        trouble = found.setdefault(
            key, _Trouble(one["rule"], one["severity"], [], one["expected"], one["found"], one["advice"])
        )
        trouble.gpus.extend([] if one["gpu"] is None else [one["gpu"]])
    return list(found.values())


def describe(findings: t.Iterable[Finding]) -> list[str]:
    """Findings for people: one line for each thing that is wrong, with all GPUs on which it is."""
    return [
        f"{trouble.rule}{_named(trouble.gpus)}: expected {trouble.expected}, found {trouble.found}. {trouble.advice}"
        for trouble in _troubles(findings)
    ]


def _named(gpus: list[int]) -> str:
    return f" (GPU{'s' * (len(gpus) > 1)} {_joined(gpus)})" if gpus else ""


def _joined(gpus: list[int]) -> str:
    return ", ".join(str(gpu) for gpu in gpus)


_TITLES = ("RESULT", "RULE", "GPU", "EXPECTED", "FOUND")


def table(verdict: Verdict) -> str:
    """All rules, one line each or one for each trouble, the broken ones first."""
    troubles = _troubles(verdict["findings"])
    rows = [(one.severity, one.rule, _joined(one.gpus), one.expected, one.found) for one in troubles]
    rows.sort(key=lambda row: row[0])
    for outcome in ("pass", "skip"):
        rules = [one for one in verdict["rules"] if one["outcome"] == outcome]
        rows += [(outcome, one["rule"], "", one["expected"], one["found"]) for one in rules]
    lines = [_TITLES, *(tuple(" ".join(cell.split()) for cell in row) for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(_TITLES))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(line, widths)).rstrip() for line in lines)


# --- For machines

# What XML 1.0 cannot hold, and programs or damaged firmware can say.
_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def junit(verdict: Verdict, name: str) -> str:
    """The verdict as JUnit XML: a test case for each rule. A rule that only warns passes, with its words as output.

    :param name: name of the test suite.
    """
    count = [one["outcome"] for one in verdict["rules"]].count
    attributes = {"tests": str(len(verdict["rules"])), "failures": str(count("fail")), "skipped": str(count("skip"))}
    suite = ElementTree.Element("testsuite", {"name": xml_text(name), **attributes})
    for outcome in verdict["rules"]:
        case = ElementTree.SubElement(suite, "testcase", {"classname": "gpu_gate", "name": outcome["rule"]})
        said = xml_text("\n".join(describe(one for one in verdict["findings"] if one["rule"] == outcome["rule"])))
        if outcome["outcome"] == "fail":
            ElementTree.SubElement(case, "failure", {"message": said}).text = said
        elif outcome["outcome"] == "skip":
            ElementTree.SubElement(case, "skipped")
        elif said:
            ElementTree.SubElement(case, "system-out").text = said
    return ElementTree.tostring(suite, encoding="unicode", xml_declaration=True) + "\n"


def xml_text(text: str) -> str:
    """A text without the characters that XML 1.0 cannot hold."""
    return _NOT_XML.sub("\ufffd", text)
