# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Every rule of the GPU gate: silent on two real H200, firing on what it is for and on what is not told.

One table has the cases; no rule may be without one, and no comparison may be turned round without breaking one.
"""

from __future__ import annotations

import copy
import dataclasses
import typing as t
from pathlib import Path
from xml.etree import ElementTree

import pytest
from mutants import comparisons, mutant

from ansible_collections.llmfleet.serving.plugins.module_utils import _gate_checks, _gate_rules, _gate_verdict
from ansible_collections.llmfleet.serving.plugins.module_utils._errors import LlmError
from ansible_collections.llmfleet.serving.plugins.module_utils._gate_profiles import PROFILES, Expectation
from ansible_collections.llmfleet.serving.plugins.module_utils._gate_rules import RULES
from ansible_collections.llmfleet.serving.plugins.module_utils._gate_verdict import evaluate
from ansible_collections.llmfleet.serving.plugins.module_utils._gpu_facts import Facts, Gpu
from ansible_collections.llmfleet.serving.plugins.module_utils._gpu_smi import (
    LINK_STATES,
    QUERY,
    TABLE,
    TOPOLOGY,
    facts_of,
)

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
HOST, GPU = None, 1  # GPU is the second one, which has the trouble


def facts_from(xml: str) -> Facts:
    """What nvidia-smi told of two H200, and a host beside them on which every rule has something to judge."""
    answers = {QUERY: xml, LINK_STATES: LINKS, TOPOLOGY: LINKS, TABLE: "Driver Version: 580.159.04"}
    told = facts_of({question: (0, output, "") for question, output in answers.items()})
    for gpu in told["gpus"]:
        gpu["fabric_health"] = gpu["fabric_health"] or []
    manager = {"state": "active", "version": told["driver_version"]}
    return t.cast(
        Facts,
        {
            "schema": 2,
            "source": "nvidia-smi",
            **told,
            "pci_gpus": told["attached_gpus"],
            "xids": [],
            "fabric_manager": manager,
        },
    )


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
    return facts_from(ElementTree.tostring(root, encoding="unicode"))


def with_values(**values: t.Any) -> Facts:
    """The two H200 with other facts about the second."""
    facts = facts_from(XML)
    facts["gpus"][1].update(copy.deepcopy(values))
    return facts


def with_host(**values: t.Any) -> Facts:
    return t.cast(Facts, {**facts_from(XML), **copy.deepcopy(values)})


def broken(facts: Facts, expectation: Expectation = TWO_H200) -> list[tuple[str, int | None, str]]:
    return [(one["rule"], one["gpu"], one["found"]) for one in evaluate(facts, expectation)["findings"]]


def process(unit: str | None, memory: int | None = 40930) -> dict[str, t.Any]:
    return {"pid": 4242, "name": "python3", "memory": memory, "unit": unit}


def links(up: int, of: int = 18, speed: int | None = 26562, **last: int) -> list[dict[str, t.Any]]:
    """`last` are errors of the last link."""
    none = {"replay_errors": 0, "recovery_errors": 0, "crc_errors": 0}
    found = [{"link": n, "active": n < up, "speed": speed if n < up else None, "peer": None, **none} for n in range(of)]
    found[-1].update(last)
    return found


def xid(code: int, message: str = "", kind: str = "Xid", address: str = "00000000:00:07.0") -> dict[str, t.Any]:
    times = {"count": 2, "first": 1.0, "last": 2.0}
    return {"kind": kind, "code": code, "pci_bus_id": address, **times, "message": message or f"Xid: {code}"}


# --- One element of nvidia-smi's output each: (rule, GPU, element, a text that breaks it, what is found then)

HISTOGRAM = "remapped_rows/row_remapper_histogram/row_remapper_histogram"
ELEMENTS = [
    ("gpu-count", HOST, "attached_gpus", "1", "1"),
    ("gpu-name", GPU, "product_name", "NVIDIA H200 NVL", "NVIDIA H200 NVL"),
    ("gpu-memory", GPU, "fb_memory_usage/total", "143770 MiB", "143770 MiB"),
    ("driver-version", HOST, "driver_version", "550.90.11", "550.90.11"),
    ("cuda-version", HOST, "cuda_version", "12.3", "12.3"),
    ("vbios", HOST, "vbios_version", "96.00.A5.00.1B", "96.00.A5.00.1A, 96.00.A5.00.1B"),
    ("ecc-mode", GPU, "ecc_mode/current_ecc", "Disabled", "off"),
    ("ecc-pending", GPU, "ecc_mode/pending_ecc", "Disabled", "off"),
    ("ecc-volatile", GPU, "ecc_errors/volatile/dram_uncorrectable", "1", "1"),
    ("ecc-aggregate", GPU, "ecc_errors/aggregate/dram_uncorrectable", "1", "1"),
    ("ecc-sram-threshold", GPU, "ecc_errors/aggregate/sram_threshold_exceeded", "Yes", "more"),
    ("row-remap-pending", GPU, "remapped_rows/remapped_row_pending", "Yes", "one waits"),
    ("row-remap-failure", GPU, "remapped_rows/remapped_row_failure", "Yes", "one has failed"),
    ("mig-mode", GPU, "mig_mode/current_mig", "Enabled", "on"),
    ("mig-pending", GPU, "mig_mode/pending_mig", "Enabled", "on"),
    ("compute-mode", GPU, "compute_mode", "Prohibited", "Prohibited"),
    ("persistence-mode", GPU, "persistence_mode", "Disabled", "off"),
    ("temperature", GPU, "temperature/gpu_temp", "90 C", "90 C"),
    ("pcie-width", GPU, "pci/pci_gpu_link_info/link_widths/current_link_width", "15x", "15"),
    ("pcie-gen", GPU, "pci/pci_gpu_link_info/pcie_gen/max_link_gen", "4", "4"),
    ("fabric", GPU, "fabric/state", "In Progress", "In Progress, Success"),
    ("idle", GPU, "fb_memory_usage/used", "257 MiB", "257 MiB and 0 %"),
    ("idle", GPU, "utilization/gpu_util", "6 %", "0 MiB and 6 %"),
]
# The same, of what a GPU, a driver or nvidia-smi may lack.
OPTIONAL_ELEMENTS = [
    ("ecc-corrected", GPU, "ecc_errors/volatile/sram_correctable", "10001", "10001 and 0"),
    ("ecc-corrected", GPU, "ecc_errors/volatile/dram_correctable", "20000001", "0 and 20000001"),
    (
        "row-remap-spare",
        GPU,
        f"{HISTOGRAM}_none",
        "1 bank(s)",
        "1 without",
    ),
    ("memory-repair", GPU, "ecc_errors/channel_repair_pending", "Yes", "one waits"),
    ("memory-unrepairable", GPU, "ecc_errors/unrepairable_memory", "Yes", "some"),
    ("recovery-action", GPU, "gpu_recovery_action", "Drain and Reset", "Drain and Reset"),
    ("temperature", GPU, "temperature/gpu_temp_tlimit", "-2 C", "36 C, -2 C left"),
    ("temperature-warm", GPU, "temperature/gpu_temp", "83 C", "83 C"),
    ("power-limit", GPU, "gpu_power_readings/current_power_limit", "350.00 W", "350 W instead of 700 W"),
    ("pcie-replays", GPU, "pci/replay_counter", "201", "201"),
    ("fabric-health", GPU, "fabric/health/bandwidth", "Degraded", "bandwidth"),
]


@pytest.mark.parametrize(("rule", "gpu", "path", "text", "found"), [*ELEMENTS, *OPTIONAL_ELEMENTS])
def test_a_bad_value_breaks_its_rule_and_no_other(rule, gpu, path, text, found):
    assert broken(with_element(path, text)) == [(rule, gpu, found)]


@pytest.mark.parametrize("text", ["N/A", "garbage", "", "[Unknown Error]", None])
@pytest.mark.parametrize(("rule", "gpu", "path"), [case[:3] for case in ELEMENTS])
def test_a_value_that_is_not_told_breaks_its_rule_too(rule, gpu, path, text):
    if text is None and path.startswith("ecc_errors/") and path.endswith("able"):
        path = path.rsplit("/", 1)[0]  # drivers differ in the counters that they have, but they have some
    assert (rule, gpu) in [(one[0], one[1]) for one in broken(with_element(path, text))]


@pytest.mark.parametrize("text", ["N/A", "", None])
@pytest.mark.parametrize("path", [case[2] for case in OPTIONAL_ELEMENTS if case[0] != "temperature-warm"])
def test_what_a_gpu_may_lack_breaks_no_rule(path, text):
    assert broken(with_element(path, text)) == []


@pytest.mark.parametrize("rule", ["memory-unrepairable", "recovery-action", "power-limit", "pcie-replays"])
def test_an_error_of_the_driver_breaks_the_rule_even_so(rule):
    path = next(case[2] for case in OPTIONAL_ELEMENTS if case[0] == rule)
    assert broken(with_element(path, "[Unknown Error]")) == [(rule, GPU, "Unknown Error")]


@pytest.mark.parametrize(
    ("text", "found"), [("N/A", "N/A"), (None, "missing"), ("[Unknown Error]", "Unknown Error"), ("soon", "soon")]
)
def test_what_is_not_told_is_quoted(text, found):
    assert broken(with_element("mig_mode/current_mig", text)) == [("mig-mode", GPU, found)]


# --- Facts that are more than one element: (rule, facts of the second GPU that break it, what is found then)

ALL_DOWN = f"0 up, down: {', '.join(map(str, range(18)))}"
VALUES = [
    ("inforom", {"inforom_valid": False}, "a damaged one"),
    ("inforom", {"inforom_valid": None, "unanswered": {"inforom_valid": "Timeout"}}, "Timeout"),
    ("ecc-aggregate", {"ecc_uncorrected_aggregate": 2}, "2"),
    ("throttling", {"clocks_event_reasons": ["gpu_idle", "hw_slowdown"]}, "hw_slowdown"),
    ("throttling", {"clocks_event_reasons": ["hw_thermal_slowdown"]}, "hw_thermal_slowdown"),
    ("throttling", {"clocks_event_reasons": ["hw_power_brake_slowdown"]}, "hw_power_brake_slowdown"),
    ("throttling", {"clocks_event_reasons": ["sw_thermal_slowdown"]}, "sw_thermal_slowdown"),
    ("throttling", {"clocks_event_reasons": None}, "N/A"),
    ("throttling", {"clocks_event_reasons": None, "unanswered": {"clocks_event_reasons": "missing"}}, "missing"),
    ("temperature", {"temperature": 85, "temperature_slowdown": 85}, "85 C"),
    ("temperature-warm", {"temperature": 84, "temperature_slowdown": 85}, "84 C"),
    ("temperature-warm", {"temperature": 89, "temperature_margin": -1}, "89 C"),
    ("nvlink-count", {"nvlinks": links(17)}, "17 up, down: 17"),
    ("nvlink-count", {"nvlinks": links(17, of=17)}, "17 up"),
    ("nvlink-count", {"nvlinks": links(0)}, ALL_DOWN),
    ("nvlink-count", {"nvlinks": None}, "0 up"),
    ("nvlink-speed", {"nvlinks": [*links(18), {**links(1)[0], "link": 18, "speed": 26561}]}, "26561 on link 18"),
    ("nvlink-speed", {"nvlinks": [*links(18), {**links(1)[0], "link": 18, "speed": None}]}, "N/A on link 18"),
    ("nvlink-errors", {"nvlinks": links(18, replay_errors=1)}, "1 replays on link 17"),
    ("nvlink-errors", {"nvlinks": links(18, recovery_errors=2)}, "2 recoveries on link 17"),
    ("nvlink-errors", {"nvlinks": links(18, crc_errors=3)}, "3 CRC errors on link 17"),
    ("fabric", {"fabric_status": "Unknown Error"}, "Completed, Unknown Error"),
    ("fabric", {"fabric_state": None, "fabric_status": None}, "N/A, N/A"),
    ("fabric-health", {"fabric_health": ["route_unhealthy", "bandwidth"]}, "route unhealthy, bandwidth"),
    ("processes", {"processes": [process(None)]}, "python3 (pid 4242, no unit, memory 40930 MiB)"),
    ("processes", {"processes": [process("x.service", None)]}, "python3 (pid 4242, x.service, memory N/A)"),
    ("processes", {"processes": None}, "N/A"),
]


@pytest.mark.parametrize(("rule", "values", "found"), VALUES)
def test_bad_facts_break_their_rule_and_no_other(rule, values, found):
    assert broken(with_values(**values)) == [(rule, GPU, found)]


ALLOWED = [
    {"clocks_event_reasons": ["sw_power_cap", "applications_clocks_setting", "sync_boost"]},
    {"clocks_event_reasons": []},
    {"memory_used": 256, "utilization": 5},
    {"nvlinks": links(18, of=20)},
    {"processes": [process("ollama.service")], "memory_used": 140000, "utilization": 100},
    {"ecc_sram_corrected_volatile": 10000, "ecc_dram_corrected_volatile": 20000000},
    {"temperature": 82, "temperature_margin": -1, "temperature_slowdown": 83},
    {"pcie_replays": 200},
    {"power_limit": 350.0, "power_limit_default": None},
]


@pytest.mark.parametrize("values", ALLOWED)
def test_what_is_allowed_breaks_no_rule(values):
    assert broken(with_values(**values)) == []


NO_COUNTERS = dict.fromkeys(fact for fact in Gpu.__annotations__ if fact.startswith("ecc_") and "mode" not in fact)
ONE_BANK_WITHOUT = {"max": 3071, "high": 0, "partial": 0, "low": 0, "none": 1}
# Facts that could break several rules, and the one that they break.
ONE_OF_SEVERAL = [
    ({"ecc_uncorrected_volatile": 2, "ecc_uncorrected_aggregate": 2}, "ecc-volatile", "2"),
    ({**NO_COUNTERS, "ecc_mode": False}, "ecc-mode", "off"),
    (
        {"remapped_rows_failure": True, "remapped_rows_histogram": ONE_BANK_WITHOUT},
        "row-remap-failure",
        "one has failed",
    ),
    ({"mig_mode": True, "utilization": None, "memory_used": 900}, "mig-mode", "on"),
    ({"temperature": 91}, "temperature", "91 C"),
    ({"processes": [process(None)], "memory_used": 40930}, "processes", VALUES[-3][2]),
]


@pytest.mark.parametrize(("values", "rule", "found"), ONE_OF_SEVERAL)
def test_one_trouble_is_told_once(values, rule, found):
    assert broken(with_values(**values)) == [(rule, GPU, found)]


# --- The host as a whole: (rule, GPU, facts of the host that break it, what is found then)

MATRIX = [["X", "NV18"], ["SYS", "X"]]
FELL_OFF = "Xid (PCI:0000:00:07): 79, GPU has fallen off the bus."
HOSTS = [
    ("gpu-on-bus", HOST, {"pci_gpus": 3}, "2"),
    ("topology", GPU, {"topology": MATRIX}, "SYS to GPU 0"),
    ("topology", GPU, {"topology": [["X", "NV18"], [None, "X"]]}, "N/A to GPU 0"),
    ("topology", HOST, {"topology": None}, "N/A"),
    ("fabric-manager", HOST, {"fabric_manager": {"state": "failed", "version": None}}, "failed, version N/A"),
    ("fabric-manager", HOST, {"fabric_manager": {"state": "active", "version": "580.1"}}, "active, version 580.1"),
    ("kernel-log", HOST, {"xids": None}, "none that may be read"),
    ("xid", GPU, {"xids": [xid(79, FELL_OFF)]}, f"{FELL_OFF} (2 times)"),
    ("xid", HOST, {"xids": [xid(20034, "SXid: 20034, Fatal, Link 30", "SXid", "00000000:05:00.0")]},
     "SXid: 20034, Fatal, Link 30 (2 times)"),
    ("xid-unknown", GPU, {"xids": [xid(999)]}, "Xid: 999 (2 times)"),
]  # fmt: skip


@pytest.mark.parametrize(("rule", "gpu", "values", "found"), HOSTS)
def test_a_bad_host_breaks_its_rule_and_no_other(rule, gpu, values, found):
    assert broken(with_host(**values)) == [(rule, gpu, found)]


ALLOWED_HOSTS = [
    {"pci_gpus": 1},
    {"topology": [["X", "NV6"], ["NV18", "X"]]},
    {"fabric_manager": {"state": "active", "version": None}},
    {"xids": [xid(63), xid(43), xid(94)]},
]


@pytest.mark.parametrize("values", ALLOWED_HOSTS)
def test_what_is_allowed_on_a_host_breaks_no_rule(values):
    assert broken(with_host(**values)) == []


def test_the_topology_is_as_it_was_measured():
    measured = dataclasses.replace(TWO_H200, topology=MATRIX)
    assert broken(with_host(topology=MATRIX), measured) == []
    assert broken(facts_from(XML), measured) == [("topology", GPU, "NV18 to GPU 0")]


def test_the_vbios_is_the_one_that_was_measured():
    found = "96.00.A5.00.1A"
    assert broken(facts_from(XML), dataclasses.replace(TWO_H200, vbios_version=found)) == []
    assert broken(facts_from(XML), dataclasses.replace(TWO_H200, vbios_version="1")) == [("vbios", HOST, found)]


# --- GPUs that do not answer


def lost(facts: Facts) -> Facts:
    silent = {**dict.fromkeys(facts["gpus"][1]), "index": 1, "error": "GPU is lost", "unanswered": {}}
    facts["gpus"][1] = t.cast("t.Any", silent)
    facts["topology"] = [["X", None], [None, "X"]]
    return facts


def test_a_lost_gpu_breaks_one_rule():
    facts = lost(facts_from(XML))
    assert broken(facts) == [("gpu-answers", GPU, "GPU is lost")]
    assert broken({**facts, "topology": None}) == [("gpu-answers", GPU, "GPU is lost")]


def test_a_gpu_that_is_left_out_breaks_one_rule():
    facts = facts_from(XML)
    del facts["gpus"][1]
    facts["topology"] = [["X"]]
    assert broken(facts) == [("gpu-answers", HOST, "answers of 1")]


def test_seven_of_eight():
    facts = facts_from(XML)
    facts["gpus"] = [copy.deepcopy(facts["gpus"][0]) for _dummy in range(7)]
    facts["attached_gpus"] = 7
    assert broken(facts, dataclasses.replace(TWO_H200, count=8)) == [("gpu-count", HOST, "7")]


def test_a_host_without_gpus():
    facts = with_host(attached_gpus=0, gpus=[], topology=[], pci_gpus=None)
    assert broken(facts) == [("gpu-count", HOST, "0")]


# --- When rules apply


def outcomes(facts: Facts, expectation: Expectation) -> dict[str, str]:
    return {one["rule"]: one["outcome"] for one in evaluate(facts, expectation)["rules"]}


def skipped(facts: Facts, expectation: Expectation) -> set[str]:
    return {rule for rule, outcome in outcomes(facts, expectation).items() if outcome == "skip"}


def test_healthy_gpus_break_no_rule_and_all_are_evaluated():
    verdict = evaluate(facts_from(XML), TWO_H200)
    assert (verdict["verdict"], verdict["findings"]) == ("pass", [])
    assert outcomes(facts_from(XML), TWO_H200) == {rule.id: "pass" for rule in RULES}


def test_what_is_right_is_told_too():
    rules = evaluate(with_values(temperature=41), TWO_H200)["rules"]
    told = {one["rule"]: (one["expected"], one["found"]) for one in rules}
    assert all(expected and found for expected, found in told.values())
    assert told["gpu-memory"] == ("at least 143771 MiB", "143771 MiB")
    assert told["driver-version"] == ("driver 550.90.12 or newer", "580.159.04")
    assert told["temperature"] == ("less than 90 C and than its own limit", "38 C; 41 C")
    assert told["nvlink-count"] == ("18 NVLinks up", "18 up")
    assert told["topology"] == ("NVLinks to each other GPU", "NV18")
    assert told["power-limit"] == ("the default power limit", "700 W")


def test_what_is_wrong_is_told_of_those_that_are():
    (rule,) = (one for one in evaluate(with_values(temperature=95), TWO_H200)["rules"] if one["rule"] == "temperature")
    assert rule["found"] == "95 C"


def test_what_is_not_judged_has_nothing_to_tell():
    rules = evaluate(facts_from(XML), dataclasses.replace(TWO_H200, cuda_version_min=None))["rules"]
    (rule,) = (one for one in rules if one["rule"] == "cuda-version")
    assert (rule["outcome"], rule["expected"], rule["found"]) == ("skip", "", "")


def test_what_need_not_be_told_and_is_not():
    rules = evaluate(with_values(power_limit=None), TWO_H200)["rules"]
    (rule,) = (one for one in rules if one["rule"] == "power-limit")
    assert (rule["outcome"], rule["found"]) == ("pass", "700 W; not told")


def test_versions_are_not_judged_without_a_floor():
    expectation = dataclasses.replace(TWO_H200, driver_version_min=None, cuda_version_min=None)
    assert skipped(facts_from(XML), expectation) == {"driver-version", "cuda-version"}


def test_a_host_that_tells_less_is_judged_by_what_it_tells():
    facts = with_host(pci_gpus=None, fabric_manager=None, xids=None)
    for gpu in facts["gpus"]:
        gpu.update(fabric_health=None, inforom_valid=None, repair_pending=None, unrepairable_memory=None)
        gpu.update(recovery_action=None, pcie_replays=None, remapped_rows_histogram=None, power_limit=None)
        gpu.update(ecc_sram_corrected_volatile=None, ecc_dram_corrected_volatile=None)
    assert broken(facts) == [("kernel-log", HOST, "none that may be read")]
    assert skipped(facts, TWO_H200) == {
        "gpu-on-bus", "inforom", "ecc-corrected", "row-remap-spare", "memory-repair", "memory-unrepairable",
        "recovery-action", "power-limit", "pcie-replays", "fabric-health", "fabric-manager", "xid", "xid-unknown",
    }  # fmt: skip


def test_one_real_h100_needs_no_links_and_no_fabric():
    xml = (RECORDINGS / "h100-x1-driver580/smi-q.xml").read_text()
    topology = (RECORDINGS / "h100-x1-driver580/topo.txt").read_text()
    told = facts_of({QUERY: (0, xml, ""), TOPOLOGY: (0, topology, "")})
    facts = t.cast(Facts, {**told, "pci_gpus": 1, "xids": [], "fabric_manager": None})
    expectation = dataclasses.replace(PROFILES["h100"], count=1)
    assert broken(facts, expectation) == []
    assert skipped(facts, expectation) == {
        "driver-version", "cuda-version", "inforom", "nvlink-count", "nvlink-speed", "nvlink-errors", "topology",
        "fabric", "fabric-health", "fabric-manager",
    }  # fmt: skip


def test_a_class_of_gpus_may_lack_what_others_must_have():
    path = "ecc_errors/aggregate/sram_threshold_exceeded"
    lacking = dataclasses.replace(TWO_H200, absent=("ecc_sram_threshold_exceeded",))
    assert broken(with_element(path, "N/A"), lacking) == []
    assert broken(with_element(path, "Unknown Error"), lacking) == [("ecc-sram-threshold", GPU, "Unknown Error")]
    assert broken(with_element(path, "Yes"), lacking) == [("ecc-sram-threshold", GPU, "more")]


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
    facts = with_host(driver_version=found, fabric_manager=None)
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
    assert rules == (set() if allowed else {"processes"})


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


def test_every_finding_says_where_its_threshold_comes_from():
    assert all(rule.source and rule.advice.endswith(".") for rule in RULES)
    assert evaluate(with_host(xids=None), TWO_H200)["findings"] == [
        {
            "rule": "kernel-log",
            "severity": "warn",
            "gpu": None,
            "expected": "the kernel's messages of this boot",
            "found": "none that may be read",
            "advice": "Run as root, or as a member of the group systemd-journal: Xids cannot be judged otherwise.",
            "source": "what is not read is not known",
        }
    ]


@pytest.mark.parametrize(
    ("profile", "name", "memory", "nvlinks", "speed"),
    [
        ("h800", "NVIDIA H800", 81559, 8, 26562),
        ("h100", "NVIDIA H100 80GB HBM3", 81559, 18, 26562),
        ("h200", "NVIDIA H200", 143771, 18, 26562),
        ("h20", "NVIDIA H20", 97871, 18, 26562),
        ("a100", "NVIDIA A100-SXM4-80GB", 81920, 12, 25000),
    ],
)
def test_a_profile_knows_its_gpu(profile, name, memory, nvlinks, speed):
    matrix = [["X" if a == b else f"NV{nvlinks}" for a in range(8)] for b in range(8)]
    facts = with_host(attached_gpus=8, topology=matrix)
    own = {"name": name, "memory_total": memory, "nvlinks": links(nvlinks, of=nvlinks, speed=speed)}
    facts["gpus"] = [{**facts["gpus"][0], "index": n, **own} for n in range(8)]
    assert {other for other in PROFILES if not broken(facts, PROFILES[other])} == {profile}


# --- The tables are whole

NO_LINKS = dataclasses.replace(TWO_H200, nvlinks=0)
ONE_GPU = dataclasses.replace(TWO_H200, count=1)
AT_THE_FLOOR = dataclasses.replace(TWO_H200, driver_version_min="580.159.04", cuda_version_min="13.0")
MEASURED_ON_ONE = dataclasses.replace(TWO_H200, topology=[["X"]])
MEASURED = dataclasses.replace(TWO_H200, topology=MATRIX)
# Every case as (facts, expectation, findings).
CASES = [
    (facts_from(XML), TWO_H200, []),
    *((with_element(path, text), TWO_H200, [(rule, gpu, found)])
      for rule, gpu, path, text, found in (*ELEMENTS, *OPTIONAL_ELEMENTS)),
    *((with_element(case[2], None), TWO_H200, []) for case in OPTIONAL_ELEMENTS if case[0] != "temperature-warm"),
    *((with_values(**values), TWO_H200, [(rule, GPU, found)]) for rule, values, found in VALUES),
    *((with_values(**values), TWO_H200, [(rule, GPU, found)]) for values, rule, found in ONE_OF_SEVERAL),
    *((with_values(**values), TWO_H200, []) for values in ALLOWED),
    *((with_host(**values), TWO_H200, [(rule, gpu, found)]) for rule, gpu, values, found in HOSTS),
    *((with_host(**values), TWO_H200, []) for values in ALLOWED_HOSTS),
    (lost(facts_from(XML)), TWO_H200, [("gpu-answers", GPU, "GPU is lost")]),
    (facts_from(XML), MEASURED, [("topology", GPU, "NV18 to GPU 0")]),
    (with_host(topology=MATRIX), NO_LINKS, []),
    (facts_from(XML), AT_THE_FLOOR, []),
    (facts_from(XML), MEASURED_ON_ONE, [("topology", 0, "NV18 to GPU 1"), ("topology", 1, "NV18 to GPU 0")]),
    (with_host(attached_gpus=1, pci_gpus=1, gpus=with_values(nvlinks=None)["gpus"][1:]), ONE_GPU, []),
]  # fmt: skip

# What has a test of its own above.
OF_THEIR_OWN = {"driver-answers", "gpu-answers"}


def test_no_rule_is_without_a_case_in_which_it_fires():
    firing = {case[0] for table in (ELEMENTS, OPTIONAL_ELEMENTS, VALUES, HOSTS) for case in table} | OF_THEIR_OWN
    assert firing == {rule.id for rule in RULES}
    assert len({rule.id for rule in RULES}) == len(RULES)


@pytest.mark.parametrize("case", CASES)
def test_the_cases_are_right(case):
    assert not noticed(*case)


@pytest.mark.parametrize("comparison", comparisons(_gate_checks))
def test_a_turned_comparison_is_noticed(comparison, monkeypatch):
    """A proof of the tables: what they do not notice, they do not test."""
    rules = mutant(_gate_rules, _gate_checks, comparison, monkeypatch)
    monkeypatch.setattr(_gate_verdict, "RULES", rules.RULES)
    assert any(noticed(*case) for case in CASES)


def noticed(facts: Facts, expectation: Expectation, findings: list[tuple[str, int | None, str]]) -> bool:
    try:
        return broken(facts, expectation) != findings
    except (TypeError, AttributeError, KeyError, IndexError):
        return True
