# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Two reports are compared thing by thing."""

from __future__ import annotations

import copy

import pytest
import report_fleet

from ansible_collections.llmfleet.serving.plugins.module_utils import _report
from ansible_collections.llmfleet.serving.plugins.module_utils._report_diff import changes


def build(**hosts):
    found = {name: _report.Found.of(one) for name, one in hosts.items()}
    return _report.build(found, generated="2026-11-30T02:30:00Z", title="Fleet", stack="cuda-12.4")


@pytest.fixture
def found():
    return report_fleet.fit(report_fleet.host("gpu01"))


def differences(before, after):
    rows = changes(build(gpu01=before), build(gpu01=after))["items"]
    return [(row["kind"], row["subject"], row["what"], row["before"], row["after"], row["better"]) for row in rows]


def test_the_first_report_has_nothing_to_compare_with(found):
    assert changes(None, build(gpu01=found)) == {"since": None, "items": []}


def test_the_same_is_no_change(found):
    document = build(gpu01=found)
    assert changes(document, document) == {"since": "2026-11-30T02:30:00Z", "items": []}


def test_a_rule_that_is_broken_now_and_mended_again(found):
    broken = report_fleet.refused(copy.deepcopy(found))
    assert differences(found, broken) == [
        ("host", "gpu01", "verdict", "pass", "fail", False),
        ("rule", "ecc-volatile", "", "pass", "fail", False),
    ]
    assert [row[-1] for row in differences(broken, found)] == [True, True]


def test_a_replaced_gpu(found):
    after = copy.deepcopy(found)
    after["gate"]["facts"]["gpus"][3]["uuid"] = "GPU-new"
    assert [row[:3] + row[4:] for row in differences(found, after)] == [("gpu", "3", "uuid", "GPU-new", None)]


def test_a_gpu_that_is_gone_is_one_row(found):
    after = copy.deepcopy(found)
    del after["gate"]["facts"]["gpus"][7]
    assert differences(found, after) == [("gpu", "7", "", "NVIDIA H800", None, None)]


def test_an_upgraded_service_and_its_figures(found):
    after = copy.deepcopy(found)
    after["records"]["units"][0]["version"] = "0.34.0"
    current = copy.deepcopy(after["records"]["figures"]["deepseek-r1"]["current"])
    current["results"][0]["output_tokens_per_second"] = 99.0
    del current["results"][1]
    after["records"]["figures"]["deepseek-r1"]["current"] = current
    assert [row[:3] + row[4:] for row in differences(found, after)] == [
        ("service", "deepseek-r1", "version", "0.34.0", None),
        ("figures", "deepseek-r1", "1", 99.0, True),
        ("figures", "deepseek-r1", "4", None, None),
    ]


def test_a_service_that_has_stopped(found):
    after = report_fleet.stopped(copy.deepcopy(found))
    assert ("service", "deepseek-r1", "state", "active (running)", "failed (failed)", False) in differences(
        found, after
    )


def test_a_lower_exposure_is_better(found):
    after = copy.deepcopy(found)
    after["records"]["units"][0]["score"] = 1.2
    assert differences(found, after) == [("service", "deepseek-r1", "score", 1.6, 1.2, True)]


def test_a_new_model_is_one_row(found):
    after = copy.deepcopy(found)
    after["records"]["models"].append({**after["records"]["models"][0], "name": "new", "commit": "c" * 40})
    assert differences(found, after) == [("model", "new", "", None, "c" * 40, None)]


def test_a_model_that_is_not_intact_any_more(found):
    after = copy.deepcopy(found)
    after["records"]["models"][0]["intact"] = False
    assert ("model", "deepseek-r1-q4", "intact", True, False, False) in differences(found, after)


def test_of_a_silent_host_only_that_is_told(found):
    silent = report_fleet.silent(found)
    assert differences(found, silent) == [("host", "gpu01", "verdict", "pass", "silent", False)]
    assert differences(silent, found) == [("host", "gpu01", "verdict", "silent", "pass", True)]


def test_what_was_not_read_before_is_not_new(found):
    unread = {**copy.deepcopy(found), "gate": {}, "identity": {}, "failed": True, "msg": "no reason"}
    assert differences(unread, found) == [("host", "gpu01", "verdict", "fail", "pass", True)]


def test_hosts_that_come_and_go(found):
    rows = changes(build(gpu01=found), build(gpu02=found))["items"]
    assert [(row["host"], row["before"], row["after"]) for row in rows] == [
        ("gpu02", None, "pass"),
        ("gpu01", "pass", None),
    ]


def test_another_stack(found):
    before, after = build(gpu01=found), {**build(gpu01=found), "stack": "current"}
    (row,) = changes(before, after)["items"]
    assert (row["host"], row["kind"], row["before"], row["after"]) == ("", "fleet", "cuda-12.4", "current")
