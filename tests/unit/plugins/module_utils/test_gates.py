# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Every rule of the GPU gate: silent on two real H200, firing on what it is for and on what is not told."""

from __future__ import annotations

import copy
import dataclasses
import typing as t
from pathlib import Path
from xml.etree import ElementTree

import pytest

from ansible_collections.llmfleet.serving.plugins.module_utils._errors import LlmError
from ansible_collections.llmfleet.serving.plugins.module_utils._gates import (
    PROFILES,
    RULES,
    Expectation,
    describe,
    evaluate,
    no_answer,
)
from ansible_collections.llmfleet.serving.plugins.module_utils._gpu import Facts, parse_nvlinks, parse_smi

RECORDINGS = Path(__file__).parents[4] / "tests/fixtures/recordings"
XML = (RECORDINGS / "h200-x2-driver580/smi-q.xml").read_text()
LINKS = (RECORDINGS / "h200-x2-driver580/topo.txt").read_text()
TWO_H200 = dataclasses.replace(
    PROFILES["h200"],
    count=2,
    driver_version_min="550.90.12",
    cuda_version_min="12.4",
    allowed_units=("ollama.service",),
)
ALL_RULES = ["driver-answers", *(rule.id for rule in RULES)]


def facts_of(xml: str) -> Facts:
    facts = parse_smi(xml)
    links = parse_nvlinks(LINKS)
    for gpu in facts["gpus"]:
        gpu["nvlinks"] = links.get(gpu["uuid"] or "")
    return facts


def with_element(path: str, text: str | None) -> Facts:
    """The two H200 with another text in one element of the second, or of the host; None takes the element away."""
    root = ElementTree.fromstring(XML)  # noqa: S314 - a recording of ours
    parent = root if "/" not in path and root.find(path) is not None else root.findall("gpu")[1]
    *above, name = path.split("/")
    for step in above:
        parent = parent.find(step)
    element = parent.find(name)
    if text is None:
        parent.remove(element)
    else:
        element.text = text
    return facts_of(ElementTree.tostring(root, encoding="unicode"))


def with_values(**values: t.Any) -> Facts:
    """The two H200 with other facts about the second."""
    facts = facts_of(XML)
    facts["gpus"][1].update(copy.deepcopy(values))
    return facts


def broken(facts: Facts, expectation: Expectation = TWO_H200) -> list[tuple[str, int | None, str]]:
    return [(one["rule"], one["gpu"], one["found"]) for one in evaluate(facts, expectation)["findings"]]


def process(unit: str | None, memory: int | None = 40930) -> dict[str, t.Any]:
    return {"pid": 4242, "name": "python3", "memory": memory, "unit": unit}


def links(up: int, of: int = 18, speed: int | None = 26562) -> list[dict[str, t.Any]]:
    return [{"link": n, "active": n < up, "speed": speed if n < up else None} for n in range(of)]


# --- One element of nvidia-smi's output each: (rule, element, a text that breaks it, what is found then)

HOST, GPU = None, 1
ELEMENTS = [
    ("gpu-count", HOST, "attached_gpus", "1", "1"),
    ("gpu-name", GPU, "product_name", "NVIDIA H200 NVL", "NVIDIA H200 NVL"),
    ("gpu-memory", GPU, "fb_memory_usage/total", "143770 MiB", "143770 MiB"),
    ("driver-version", HOST, "driver_version", "550.90.11", "550.90.11"),
    ("cuda-version", HOST, "cuda_version", "12.3", "12.3"),
    ("ecc-mode", GPU, "ecc_mode/current_ecc", "Disabled", "off"),
    ("ecc-volatile", GPU, "ecc_errors/volatile/dram_uncorrectable", "1", "1"),
    ("ecc-aggregate", GPU, "ecc_errors/aggregate/dram_uncorrectable", "1", "1"),
    ("row-remap-pending", GPU, "remapped_rows/remapped_row_pending", "Yes", "one waits"),
    ("row-remap-failure", GPU, "remapped_rows/remapped_row_failure", "Yes", "one has failed"),
    ("mig-mode", GPU, "mig_mode/current_mig", "Enabled", "on"),
    ("fabric", GPU, "fabric/state", "In Progress", "In Progress, Success"),
    ("idle", GPU, "fb_memory_usage/used", "257 MiB", "257 MiB and 0 %"),
    ("idle", GPU, "utilization/gpu_util", "6 %", "0 MiB and 6 %"),
    ("persistence-mode", GPU, "persistence_mode", "Disabled", "off"),
]


def test_healthy_gpus_break_no_rule_and_all_are_evaluated():
    verdict = evaluate(facts_of(XML), TWO_H200)
    assert (verdict["verdict"], verdict["findings"]) == ("pass", [])
    assert [(one["rule"], one["outcome"]) for one in verdict["rules"]] == [(rule, "pass") for rule in ALL_RULES]


@pytest.mark.parametrize(("rule", "gpu", "path", "text", "found"), ELEMENTS)
def test_a_bad_value_breaks_its_rule_and_no_other(rule, gpu, path, text, found):
    assert broken(with_element(path, text)) == [(rule, gpu, found)]


@pytest.mark.parametrize("text", ["N/A", "garbage", "", "[Unknown Error]", None])
@pytest.mark.parametrize(("rule", "gpu", "path"), [case[:3] for case in ELEMENTS])
def test_a_value_that_is_not_told_breaks_its_rule_too(rule, gpu, path, text):
    if text is None and path.startswith("ecc_errors/"):
        path = path.rsplit("/", 1)[0]  # drivers differ in the counters that they have, but they have some
    assert (rule, gpu) in [(one[0], one[1]) for one in broken(with_element(path, text))]


# --- Facts that are more than one element: (rule, facts of the second GPU that break it, what is found then)

VALUES = [
    ("throttling", {"clocks_event_reasons": ["gpu_idle", "hw_slowdown"]}, "hw_slowdown"),
    ("throttling", {"clocks_event_reasons": ["hw_thermal_slowdown"]}, "hw_thermal_slowdown"),
    ("throttling", {"clocks_event_reasons": ["hw_power_brake_slowdown"]}, "hw_power_brake_slowdown"),
    ("throttling", {"clocks_event_reasons": ["sw_thermal_slowdown"]}, "sw_thermal_slowdown"),
    ("throttling", {"clocks_event_reasons": None}, "no answer"),
    ("nvlink-count", {"nvlinks": links(17)}, "17 up, down: 17"),
    ("nvlink-count", {"nvlinks": links(17, of=17)}, "17 up"),
    ("nvlink-count", {"nvlinks": links(0)}, f"0 up, down: {', '.join(map(str, range(18)))}"),
    ("nvlink-count", {"nvlinks": None}, "0 up"),
    ("nvlink-speed", {"nvlinks": [*links(18), {"link": 18, "active": True, "speed": 26561}]}, "26561 on link 18"),
    ("nvlink-speed", {"nvlinks": [*links(18), {"link": 18, "active": True, "speed": None}]}, "no answer on link 18"),
    ("fabric", {"fabric_status": "Unknown Error"}, "Completed, Unknown Error"),
    ("fabric", {"fabric_state": None, "fabric_status": None}, "no answer, no answer"),
    ("processes", {"processes": [process(None)]}, "python3 (pid 4242, no unit, memory 40930 MiB)"),
    ("processes", {"processes": [process("x.service", None)]}, "python3 (pid 4242, x.service, memory no answer)"),
    ("processes", {"processes": None}, "no answer"),
]


@pytest.mark.parametrize(("rule", "values", "found"), VALUES)
def test_bad_facts_break_their_rule_and_no_other(rule, values, found):
    assert broken(with_values(**values)) == [(rule, GPU, found)]


@pytest.mark.parametrize(
    "values",
    [
        {"clocks_event_reasons": ["sw_power_cap", "applications_clocks_setting", "sync_boost"]},
        {"clocks_event_reasons": []},
        {"memory_used": 256, "utilization": 5},
        {"nvlinks": links(18, of=20)},
        {"processes": [process("ollama.service")], "memory_used": 140000, "utilization": 100},
    ],
)
def test_what_is_allowed_breaks_no_rule(values):
    assert broken(with_values(**values)) == []


# --- Rules on GPUs that do not answer


def lost(facts: Facts) -> Facts:
    facts["gpus"][1] = t.cast("t.Any", {**dict.fromkeys(facts["gpus"][1]), "index": 1, "error": "GPU is lost"})
    return facts


def test_a_lost_gpu_breaks_one_rule():
    assert broken(lost(facts_of(XML))) == [("gpu-answers", GPU, "GPU is lost")]


def test_a_gpu_that_is_left_out_breaks_one_rule():
    facts = facts_of(XML)
    del facts["gpus"][1]
    assert broken(facts) == [("gpu-answers", HOST, "answers of 1")]


def test_seven_of_eight():
    facts = facts_of(XML)
    facts["gpus"] = [copy.deepcopy(facts["gpus"][0]) for _dummy in range(7)]
    facts["attached_gpus"] = 7
    assert broken(facts, dataclasses.replace(TWO_H200, count=8)) == [("gpu-count", HOST, "7")]


def test_a_host_without_gpus():
    assert broken({**facts_of(XML), "attached_gpus": 0, "gpus": []}) == [("gpu-count", HOST, "0")]


def test_no_rule_is_without_a_case_in_which_it_fires():
    firing = {case[0] for case in ELEMENTS} | {case[0] for case in VALUES} | {"gpu-answers"}
    assert firing == {rule.id for rule in RULES}


# --- When a rule does not apply


def skipped(facts: Facts, expectation: Expectation) -> set[str]:
    return {one["rule"] for one in evaluate(facts, expectation)["rules"] if one["outcome"] == "skip"}


def test_versions_are_not_judged_without_a_floor():
    expectation = dataclasses.replace(TWO_H200, driver_version_min=None, cuda_version_min=None)
    assert skipped(facts_of(XML), expectation) == {"driver-version", "cuda-version"}


def test_one_real_h100_needs_no_links_and_no_fabric():
    facts = parse_smi((RECORDINGS / "h100-x1-driver580/smi-q.xml").read_text())
    expectation = dataclasses.replace(PROFILES["h100"], count=1)
    verdict = evaluate(facts, expectation)
    assert (verdict["verdict"], verdict["findings"]) == ("pass", [])
    assert skipped(facts, expectation) == {"nvlink-count", "nvlink-speed", "fabric", "driver-version", "cuda-version"}


# --- Versions, units, severities


@pytest.mark.parametrize(
    ("found", "floor", "fine"),
    [
        ("550.90.12", "550.90.12", True),
        ("550.163.01", "550.90.12", True),
        ("550.90", "550.90.12", False),
        ("535.261.03", "550", False),
        ("1000.1", "550.90.12", True),
        ("550.90.12-beta", "550", False),
    ],
)
def test_driver_versions_are_compared_as_numbers(found, floor, fine):
    facts = {**facts_of(XML), "driver_version": found}
    expectation = dataclasses.replace(TWO_H200, driver_version_min=floor)
    assert broken(facts, expectation) == ([] if fine else [("driver-version", HOST, found)])


@pytest.mark.parametrize("option", ["driver_version_min", "cuda_version_min"])
@pytest.mark.parametrize("version", ["", "newest", "550.", "550.90.12-1", "-1", "5" * 5000])
def test_a_floor_that_is_no_version_is_refused(option, version):
    with pytest.raises(LlmError, match="is not a version: expected numbers with dots"):
        dataclasses.replace(TWO_H200, **{option: version})


@pytest.mark.parametrize("count", [0, -1])
def test_a_count_of_nothing_is_refused(count):
    with pytest.raises(LlmError, match=f"A count of {count} GPUs is refused: expected at least 1"):
        dataclasses.replace(TWO_H200, count=count)


@pytest.mark.parametrize(
    ("unit", "patterns", "allowed"),
    [
        ("ollama.service", ["ollama.service"], True),
        ("vllm-r1.service", ["ollama.service", "vllm-*.service"], True),
        ("ollama.service", ["ollama"], False),
        ("Ollama.service", ["ollama.service"], False),
        ("ollama.service", [], False),
        (None, ["*"], False),
    ],
)
def test_processes_are_allowed_by_their_unit(unit, patterns, allowed):
    facts = with_values(processes=[process(unit)], memory_used=40930)
    rules = {one[0] for one in broken(facts, dataclasses.replace(TWO_H200, allowed_units=patterns))}
    assert rules == (set() if allowed else {"processes", "idle"})


def test_a_foreign_process_beside_an_allowed_one_is_found():
    facts = with_values(processes=[process("ollama.service"), process("miner.service")], memory_used=81860)
    assert broken(facts) == [("processes", GPU, "python3 (pid 4242, miner.service, memory 40930 MiB)")]


@pytest.mark.parametrize(
    ("values", "verdict", "outcome"),
    [({"persistence_mode": False}, "pass", "warn"), ({"mig_mode": True}, "fail", "fail")],
)
def test_only_broken_rules_of_severity_fail_fail(values, verdict, outcome):
    result = evaluate(with_values(**values), TWO_H200)
    assert result["verdict"] == verdict
    assert [one["outcome"] for one in result["rules"] if one["outcome"] != "pass"] == [outcome]


def test_warnings_are_these():
    assert {rule.id for rule in RULES if rule.severity != "fail"} == {
        "ecc-aggregate",
        "nvlink-speed",
        "persistence-mode",
    }


def test_without_facts_nothing_passes():
    verdict = no_answer("It hangs.")
    assert verdict["verdict"] == "fail"
    assert describe(verdict["findings"]) == [
        "driver-answers: expected facts about the GPUs, found It hangs. "
        "Nothing else can be judged until the driver answers."
    ]
    assert [(one["rule"], one["outcome"]) for one in verdict["rules"]] == [
        ("driver-answers", "fail"),
        *((rule.id, "skip") for rule in RULES),
    ]


def test_gpus_with_the_same_trouble_share_a_line():
    facts = with_values(name="NVIDIA H200 NVL")
    findings = evaluate(facts, dataclasses.replace(TWO_H200, count=8, memory_min=143772))["findings"]
    assert [line.split(". ")[0] for line in describe(findings)] == [
        "gpu-count: expected 8 GPUs, found 2",
        "gpu-name (GPU 1): expected NVIDIA H200, found NVIDIA H200 NVL",
        "gpu-memory (GPUs 0, 1): expected at least 143772 MiB, found 143771 MiB",
    ]


@pytest.mark.parametrize(
    ("profile", "name", "memory", "nvlinks"),
    [
        ("h800", "NVIDIA H800", 81559, 8),
        ("h100", "NVIDIA H100 80GB HBM3", 81559, 18),
        ("h200", "NVIDIA H200", 143771, 18),
    ],
)
def test_a_profile_knows_its_gpu(profile, name, memory, nvlinks):
    facts = facts_of(XML)
    facts["attached_gpus"] = 8
    facts["gpus"] = [
        {**facts["gpus"][0], "index": n, "name": name, "memory_total": memory, "nvlinks": links(nvlinks)}
        for n in range(8)
    ]
    assert {other for other in PROFILES if not broken(facts, PROFILES[other])} == {profile}
