# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A report as JUnit XML: a suite for each host, a case for all that can be wrong. Private to this collection."""

from __future__ import annotations

import typing as t
from collections.abc import Iterator
from xml.etree import ElementTree

from ansible_collections.llmfleet.serving.plugins.module_utils._gate_verdict import xml_text
from ansible_collections.llmfleet.serving.plugins.module_utils._report import Document, Json


class _Case(t.NamedTuple):
    """:ivar failure: why it is wrong, "" when it is not; `said` is what else there is to say."""

    group: str
    name: str
    failure: str = ""
    skipped: bool = False
    said: str = ""


def junit(document: Document) -> str:
    """The document as JUnit XML. A host that did not answer is a suite in which that has failed."""
    suites = [(host["name"], list(_cases(host))) for host in document["hosts"]]
    root = ElementTree.Element(
        "testsuites",
        {"name": xml_text(document["title"]), **_counts(case for _name, cases in suites for case in cases)},
    )
    for name, cases in suites:
        attributes = {"name": xml_text(name), "timestamp": document["generated"], **_counts(cases)}
        suite = ElementTree.SubElement(root, "testsuite", attributes)
        for case in cases:
            _add(suite, f"{name}.{case.group}", case)
    return ElementTree.tostring(root, encoding="unicode", xml_declaration=True) + "\n"


def _counts(cases: t.Iterable[_Case]) -> dict[str, str]:
    all_cases = list(cases)
    return {
        "tests": str(len(all_cases)),
        "failures": str(sum(bool(case.failure) for case in all_cases)),
        "skipped": str(sum(case.skipped for case in all_cases)),
    }


def _add(suite: ElementTree.Element, group: str, case: _Case) -> None:
    element = ElementTree.SubElement(suite, "testcase", {"classname": xml_text(group), "name": xml_text(case.name)})
    if case.failure:
        text = xml_text(case.failure)
        ElementTree.SubElement(element, "failure", {"message": text}).text = text
    elif case.skipped:
        ElementTree.SubElement(element, "skipped")
    elif case.said:
        ElementTree.SubElement(element, "system-out").text = xml_text(case.said)


def _cases(host: Json) -> Iterator[_Case]:
    yield _Case("host", "answers", _why(host, "silent"))
    if host["verdict"] == "silent":
        return
    yield _Case("host", "read", _why(host, "unread"))
    for rule in host["gate"]["rules"]:
        broken = (f"expected {one['expected']}, found {one['found']}. {one['advice']}" for one in rule["findings"])
        passed = f"expected {rule['expected']}, found {rule['found']}." if rule["expected"] else ""
        said = "; ".join(broken) or passed
        yield _Case("gate", rule["rule"], _why(host, "gate", rule["rule"]), rule["outcome"] == "skip", said)
    for kind, things in (("model", host["models"]), ("service", host["services"])):
        for thing in things:
            if thing["wanted"]:
                yield _Case(kind, thing["name"], _why(host, kind, thing["name"]))
    for figure in host["figures"]:
        yield _Case("figures", figure["service"], _why(host, "figures", figure["service"]))


def _why(host: Json, code: str, subject: str = "") -> str:
    found = (one for one in host["reasons"] if one["code"] == code and subject in ("", one["subject"]))
    return "\n".join(one["text"] for one in found)
