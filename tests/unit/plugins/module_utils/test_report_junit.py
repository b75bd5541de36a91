# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A report as JUnit XML has a case for everything that can be wrong."""

from __future__ import annotations

from xml.etree import ElementTree

import report_fleet

from ansible_collections.llmfleet.serving.plugins.module_utils import _report
from ansible_collections.llmfleet.serving.plugins.module_utils._report_junit import junit


def suites(hosts):
    found = {name: _report.Found.of(one) for name, one in hosts.items()}
    document = _report.build(found, generated="2026-11-30T02:30:00Z", title="Fleet", stack="x")
    return ElementTree.fromstring(junit(document))  # noqa: S314 -- our own


def test_a_fleet_with_troubles():
    root = suites(report_fleet.fleet(12))
    assert [suite.get("name") for suite in root] == [f"gpu{number:02d}" for number in range(1, 13)]
    failed = {
        (case.get("classname"), case.get("name")) for case in root.iter("testcase") if case.find("failure") is not None
    }
    assert failed == {("gpu03.host", "answers"), ("gpu07.gate", "ecc-volatile"), ("gpu12.service", "deepseek-r1")}
    assert root.get("failures") == "3"
    assert int(root.get("tests")) == sum(len(suite) for suite in root)
    assert [suite.get("tests") for suite in root if suite.get("name") == "gpu03"] == ["1"]


def test_a_warning_passes_with_its_words():
    root = suites({"gpu01": report_fleet.host("gpu01")})
    said = {
        case.get("name"): case.findtext("system-out")
        for case in root.iter("testcase")
        if case.find("system-out") is not None
    }
    assert "nvidia-persistenced" in said["persistence-mode"]
    assert root.get("failures") == "0"
    assert root.get("skipped") == str(len(list(root.iter("skipped"))))


def test_what_xml_cannot_hold_and_what_it_would_take_for_markup():
    root = suites({"<gpu>&\x07": {"unreachable": True, "msg": "</failure>\x00 & <b>"}})
    assert root[0].get("name") == "<gpu>&\ufffd"
    assert root.find(".//failure").text == "It did not answer: </failure>\ufffd & <b>."
