# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""GPU facts from what nvidia-smi prints: recordings of real GPUs, both names of things that drivers had, and damage."""

from __future__ import annotations

import json
import re
from pathlib import Path
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.llmfleet.serving.plugins.module_utils import _gpu_facts
from ansible_collections.llmfleet.serving.plugins.module_utils._errors import LlmError
from ansible_collections.llmfleet.serving.plugins.module_utils._gpu_smi import (
    parse_nvlinks,
    parse_query,
    parse_topology,
)

RECORDINGS = Path(__file__).parents[4] / "tests/fixtures/recordings"
H100 = (RECORDINGS / "h100-x1-driver580/smi-q.xml").read_text()
H100_TOPOLOGY = (RECORDINGS / "h100-x1-driver580/topo.txt").read_text()
H200 = (RECORDINGS / "h200-x2-driver580/smi-q.xml").read_text()
H200_LINKS = (RECORDINGS / "h200-x2-driver580/topo.txt").read_text()

NO_ERRORS = {
    f"ecc_{memory}_{kind}_{period}": 0
    for period in ("volatile", "aggregate")
    for memory in ("sram", "dram")
    for kind in ("corrected", "uncorrected")
}
H100_GPU = {
    "index": 0,
    "error": None,
    "unanswered": {"temperature_slowdown": "missing", "temperature_shutdown": "missing"},
    "name": "NVIDIA H100 80GB HBM3",
    "uuid": "GPU-00000000-0000-0000-0000-000000000000",
    "serial": "0000000000000",
    "part_number": "695-2G520-0200-000",
    "pci_bus_id": "00000000:00:06.0",
    "vbios_version": "96.00.DA.00.0C",
    "inforom_version": "G520.0200.00.05",
    "memory_total": 81559,
    "memory_used": 0,
    "memory_reserved": 480,
    "utilization": 0,
    "temperature": 36,
    "temperature_memory": 40,
    "temperature_slowdown": None,
    "temperature_shutdown": None,
    "temperature_margin": 51,
    "temperature_margin_slowdown": -2,
    "temperature_margin_shutdown": -8,
    "power_draw": 76.86,
    "power_limit": 700.0,
    "power_limit_default": 700.0,
    "power_limit_min": 200.0,
    "power_limit_max": 700.0,
    "performance_state": "P0",
    "clock_graphics": 345,
    "clock_memory": 2619,
    "clock_graphics_max": 1980,
    "clock_memory_max": 2619,
    "clocks_event_reasons": ["gpu_idle"],
    "persistence_mode": True,
    "compute_mode": "Default",
    "mig_mode": False,
    "mig_mode_pending": False,
    "ecc_mode": True,
    "ecc_mode_pending": True,
    "ecc_uncorrected_volatile": 0,
    "ecc_uncorrected_aggregate": 0,
    **NO_ERRORS,
    "ecc_sram_threshold_exceeded": False,
    "remapped_rows_corrected": 0,
    "remapped_rows_uncorrected": 0,
    "remapped_rows_pending": False,
    "remapped_rows_failure": False,
    "remapped_rows_histogram": {"max": 2560, "high": 0, "partial": 0, "low": 0, "none": 0},
    "repair_pending": False,
    "unrepairable_memory": False,
    "recovery_action": "None",
    "pcie_gen": 5,
    "pcie_gen_max": 5,
    "pcie_width": 16,
    "pcie_width_max": 16,
    "pcie_replays": 0,
    "fabric_state": None,
    "fabric_status": None,
    "fabric_clique": None,
    "fabric_cluster": None,
    "fabric_health": None,
    "processes": [],
    # These are in other answers of nvidia-smi.
    "inforom_valid": None,
    "numa_node": None,
    "nvlinks": None,
}
HOST_580 = {"driver_version": "580.159.04", "cuda_version": "13.0", "nvml_version": None}
H200_GPU = {
    **H100_GPU,
    "name": "NVIDIA H200",
    "part_number": "692-2G520-0282-001",
    "vbios_version": "96.00.A5.00.1A",
    "inforom_version": "G520.0282.02.02",
    "memory_total": 143771,
    "memory_reserved": 616,
    "temperature": 38,
    "temperature_margin": 49,
    "power_draw": 83.55,
    "clock_memory": 3201,
    "clock_memory_max": 3201,
    "remapped_rows_histogram": {"max": 3072, "high": 0, "partial": 0, "low": 0, "none": 0},
    "fabric_state": "Completed",
    "fabric_status": "Success",
    "fabric_clique": 0,
    "fabric_cluster": "00000000-0000-0000-0000-000000000000",
}
H200_GPU_1 = {
    **H200_GPU,
    "index": 1,
    "uuid": "GPU-00000000-0000-0000-0000-000000000001",
    "pci_bus_id": "00000000:00:07.0",
    "temperature": 36,
    "temperature_memory": 39,
    "temperature_margin": 51,
    "power_draw": 79.58,
}


def tree(xml: str) -> ElementTree.Element:
    return ElementTree.fromstring(xml)  # noqa: S314 - a recording of ours


def edited(xml: str, path: str, text: str | None, gpu: int = 0) -> str:
    """The XML with another text in one element of one GPU, or without that element when the text is None."""
    root = tree(xml)
    parent = root.findall("gpu")[gpu]
    *above, name = path.split("/")
    for step in above:
        parent = parent.find(step)
    element = parent.find(name)
    if text is None:
        parent.remove(element)
    else:
        element.text = text
    return ElementTree.tostring(root, encoding="unicode")


def different(xml: str) -> dict:
    """What differs from the recorded H100."""
    (gpu,) = parse_query(xml)["gpus"]
    assert gpu.keys() == H100_GPU.keys()
    return {fact: value for fact, value in gpu.items() if value != H100_GPU[fact]}


LINK_INFO = "pci/pci_gpu_link_info"
READINGS = [
    ("pci_bus_id", "pci/pci_bus_id", "00000000:5d:00.0", "00000000:5D:00.0"),
    ("persistence_mode", "persistence_mode", "Disabled", False),
    ("mig_mode", "mig_mode/current_mig", "Enabled", True),
    ("mig_mode_pending", "mig_mode/pending_mig", "Enabled", True),
    ("ecc_mode", "ecc_mode/current_ecc", "Disabled", False),
    ("ecc_mode_pending", "ecc_mode/pending_ecc", "Disabled", False),
    ("ecc_sram_threshold_exceeded", "ecc_errors/aggregate/sram_threshold_exceeded", "Yes", True),
    ("repair_pending", "ecc_errors/channel_repair_pending", "Yes", True),
    ("repair_pending", "ecc_errors/tpc_repair_pending", "Yes", True),
    ("unrepairable_memory", "ecc_errors/unrepairable_memory", "Yes", True),
    ("recovery_action", "gpu_recovery_action", "Drain and Reset", "Drain and Reset"),
    ("remapped_rows_pending", "remapped_rows/remapped_row_pending", "Yes", True),
    ("remapped_rows_failure", "remapped_rows/remapped_row_failure", "Yes", True),
    ("remapped_rows_corrected", "remapped_rows/remapped_row_corr", "7", 7),
    ("remapped_rows_uncorrected", "remapped_rows/remapped_row_unc", "7", 7),
    ("compute_mode", "compute_mode", "Exclusive_Process", "Exclusive_Process"),
    ("pcie_gen", f"{LINK_INFO}/pcie_gen/current_link_gen", "1", 1),
    ("pcie_gen_max", f"{LINK_INFO}/pcie_gen/max_link_gen", "4", 4),
    ("pcie_width", f"{LINK_INFO}/link_widths/current_link_width", "8x", 8),
    ("pcie_width_max", f"{LINK_INFO}/link_widths/max_link_width", "8x", 8),
    ("pcie_replays", "pci/replay_counter", "12", 12),
    ("memory_used", "fb_memory_usage/used", "40934 MiB", 40934),
    ("utilization", "utilization/gpu_util", "97 %", 97),
    ("temperature_margin", "temperature/gpu_temp_tlimit", "-3 C", -3),
    ("power_limit", "gpu_power_readings/current_power_limit", "350.50 W", 350.5),
    ("clock_graphics", "clocks/graphics_clock", "1980 MHz", 1980),
    ("fabric_state", "fabric/state", "In Progress", "In Progress"),
    ("fabric_clique", "fabric/cliqueId", "3", 3),
    ("fabric_health", "fabric/health/bandwidth", "Full", []),
    ("fabric_health", "fabric/health/bandwidth", "Degraded", ["bandwidth"]),
    ("fabric_health", "fabric/health/route_unhealthy", "True", ["route_unhealthy"]),
]
# A counter, and the sums that it is part of.
COUNTERS = [
    ("volatile/sram_correctable", {"ecc_sram_corrected_volatile"}),
    ("volatile/dram_correctable", {"ecc_dram_corrected_volatile"}),
    ("volatile/sram_uncorrectable_parity", {"ecc_sram_uncorrected_volatile", "ecc_uncorrected_volatile"}),
    ("volatile/sram_uncorrectable_secded", {"ecc_sram_uncorrected_volatile", "ecc_uncorrected_volatile"}),
    ("volatile/dram_uncorrectable", {"ecc_dram_uncorrected_volatile", "ecc_uncorrected_volatile"}),
    ("aggregate/sram_correctable", {"ecc_sram_corrected_aggregate"}),
    ("aggregate/sram_uncorrectable_parity", {"ecc_sram_uncorrected_aggregate", "ecc_uncorrected_aggregate"}),
    ("aggregate/dram_uncorrectable", {"ecc_dram_uncorrected_aggregate", "ecc_uncorrected_aggregate"}),
]


class TestParseQuery:
    def test_one_real_h100(self):
        assert parse_query(H100) == {**HOST_580, "attached_gpus": 1, "gpus": [H100_GPU]}

    def test_two_real_h200(self):
        assert parse_query(H200) == {**HOST_580, "attached_gpus": 2, "gpus": [H200_GPU, H200_GPU_1]}

    def test_every_fact_is_there(self):
        assert H100_GPU.keys() == _gpu_facts.Gpu.__annotations__.keys()

    @pytest.mark.parametrize(("fact", "path", "text", "value"), READINGS)
    def test_each_fact_comes_from_its_element(self, fact, path, text, value):
        assert different(edited(H100, path, text)) == {fact: value}

    @pytest.mark.parametrize(("path", "sums"), COUNTERS)
    def test_counters_are_added_up(self, path, sums):
        assert different(edited(H100, f"ecc_errors/{path}", "3")) == dict.fromkeys(sums, 3)

    @pytest.mark.parametrize("text", ["N/A", "[N/A]", "[Not Supported]", ""])
    @pytest.mark.parametrize(
        ("fact", "path"), sorted({(one[0], one[1]) for one in READINGS if one[0] != "repair_pending"})
    )
    def test_what_a_gpu_does_not_have_is_none(self, fact, path, text):
        assert different(edited(H100, path, text)) == ({} if H100_GPU[fact] is None else {fact: None})

    @pytest.mark.parametrize("text", ["Unknown Error", "[Unknown Error]", "GPU requires reset"])
    @pytest.mark.parametrize(("fact", "path"), sorted({(one[0], one[1]) for one in READINGS}))
    def test_what_the_driver_says_instead_is_kept(self, fact, path, text):
        changed = different(edited(H100, path, text))
        assert changed.pop("unanswered") == {**H100_GPU["unanswered"], fact: text.strip("[]")}
        # The other half of a repair is told.
        assert changed == ({} if H100_GPU[fact] is None or fact == "repair_pending" else {fact: None})

    @pytest.mark.parametrize(
        ("fact", "path"), [("name", "product_name"), ("mig_mode", "mig_mode"), ("pcie_gen", LINK_INFO)]
    )
    def test_what_the_driver_does_not_know_is_missing(self, fact, path):
        changed = different(edited(H100, path, None))
        assert changed["unanswered"][fact] == "missing"
        assert changed[fact] is None

    @pytest.mark.parametrize(
        ("path", "facts"),
        [
            ("remapped_rows", {fact for fact in H100_GPU if fact.startswith("remapped_rows_")}),
            ("remapped_rows/row_remapper_histogram", {"remapped_rows_histogram"}),
            ("ecc_mode", {"ecc_mode", "ecc_mode_pending"}),
            ("ecc_errors/volatile", {fact for fact in H100_GPU if fact.endswith("_volatile")}),
            ("clocks_event_reasons", {"clocks_event_reasons"}),
        ],
    )
    def test_an_error_can_stand_in_the_place_of_a_group(self, path, facts):
        root = tree(H100)
        group = root.find(f"gpu/{path}")
        group[:] = []
        group.text = "Unknown Error"
        changed = different(ElementTree.tostring(root, encoding="unicode"))
        told = changed.pop("unanswered")
        assert changed == dict.fromkeys(facts)
        assert {fact for fact, text in told.items() if text == "Unknown Error"} == facts

    @pytest.mark.parametrize("text", ["many", "-", "1e3", "0x10"])
    def test_garbage_is_no_figure(self, text):
        changed = different(edited(H100, "temperature/gpu_temp", text))
        assert changed == {"temperature": None, "unanswered": {**H100_GPU["unanswered"], "temperature": text}}

    @pytest.mark.parametrize("text", ["N/A", "Unknown Error", "many"])
    def test_a_sum_of_errors_without_one_of_its_parts_is_none(self, text):
        changed = different(edited(H100, "ecc_errors/volatile/dram_uncorrectable", text))
        changed.pop("unanswered", None)
        assert changed == {"ecc_uncorrected_volatile": None, "ecc_dram_uncorrected_volatile": None}

    def test_drivers_that_say_throttle_reasons(self):
        assert different(H100.replace("clocks_event_reason", "clocks_throttle_reason")) == {}

    def test_clock_reasons_that_are_not_told_are_none(self):
        xml = H100.replace(">Active<", ">N/A<").replace(">Not Active<", ">N/A<")
        assert different(xml) == {"clocks_event_reasons": None}

    def test_clock_reasons_that_are_not_there_are_missing(self):
        changed = different(edited(H100, "clocks_event_reasons", None))
        assert changed["unanswered"]["clocks_event_reasons"] == "missing"

    def test_drivers_before_545_have_one_power_reading(self):
        xml = H100.replace("average_power_draw", "power_draw").replace("current_power_limit", "power_limit")
        assert different(xml.replace("gpu_power_readings", "power_readings")) == {}

    @pytest.mark.parametrize(
        ("reset", "drain", "action"),
        [("No", "No", "None"), ("Yes", "No", "Reset"), ("Yes", "Yes", "Drain and Reset"), ("N/A", "N/A", None)],
    )
    def test_drivers_before_560_have_a_reset_status(self, reset, drain, action):
        status = (
            f"<gpu_reset_status><reset_required>{reset}</reset_required>"
            f"<drain_and_reset_recommended>{drain}</drain_and_reset_recommended></gpu_reset_status>"
        )
        xml, replaced = re.subn("<gpu_recovery_action>None</gpu_recovery_action>", status, H100)
        assert replaced == 1
        assert parse_query(xml)["gpus"][0]["recovery_action"] == action

    def test_older_gpus_have_limits_in_degrees(self):
        shutdown = "<gpu_temp_max_threshold>92 C</gpu_temp_max_threshold>"
        degrees = f"{shutdown}<gpu_temp_slow_threshold>89 C</gpu_temp_slow_threshold>"
        changed = different(H100.replace("<gpu_temp_tlimit>", f"{degrees}<gpu_temp_tlimit>"))
        assert changed == {"temperature_slowdown": 89, "temperature_shutdown": 92, "unanswered": {}}

    def test_processes(self):
        listed = """<processes>
            <process_info><pid>4242</pid><type>C</type><process_name>/opt/other/python3</process_name>
                <used_memory>40930 MiB</used_memory></process_info>
            <process_info><pid>7</pid><type>C</type><process_name>N/A</process_name>
                <used_memory>N/A</used_memory></process_info>
            </processes>"""
        xml, replaced = re.subn(r"<processes>\s*</processes>", listed, H100)
        assert replaced == 1
        assert different(xml) == {
            "processes": [
                {"pid": 7, "name": None, "memory": None, "unit": None},
                {"pid": 4242, "name": "/opt/other/python3", "memory": 40930, "unit": None},
            ]
        }

    def test_a_gpu_left_out_takes_the_numbers_of_the_others_with_it(self):
        root = tree(H200)
        root.remove(root.find("gpu"))
        facts = parse_query(ElementTree.tostring(root, encoding="unicode"))
        assert (facts["attached_gpus"], facts["gpus"]) == (2, [{**H200_GPU_1, "index": None}])

    def test_a_lost_gpu_that_is_listed_is_marked(self):
        facts = parse_query(edited(H200, "uuid", "GPU is lost", gpu=1))
        assert facts["gpus"][0] == H200_GPU
        silent = {**dict.fromkeys(H100_GPU), "index": 1, "error": "GPU is lost", "unanswered": {}}
        assert facts["gpus"][1] == silent

    @pytest.mark.parametrize("text", [None, "N/A"])
    def test_a_gpu_without_uuid_is_marked(self, text):
        assert parse_query(edited(H100, "uuid", text))["gpus"][0]["error"] == "nvidia-smi tells no UUID"

    @pytest.mark.parametrize(
        "xml", ["", "No devices were found", "<a><b></a>", H100[: len(H100) // 2], H100[:-5], "\0"]
    )
    def test_output_that_is_not_whole_is_refused(self, xml):
        with pytest.raises(LlmError, match="is not whole XML"):
            parse_query(xml)

    def test_other_xml_is_refused(self):
        with pytest.raises(LlmError, match="begins with <html>; expected <nvidia_smi_log>"):
            parse_query("<html/>")

    @given(st.data())
    def test_damaged_output_gives_facts_or_one_clear_error(self, data):
        start = data.draw(st.integers(0, len(H100)))
        end = data.draw(st.integers(start, min(len(H100), start + 2000)))
        damaged = H100[:start] + data.draw(st.text(max_size=20)) + H100[end:]
        try:
            facts = parse_query(damaged)
        except LlmError:
            return
        assert all(set(gpu) == set(H100_GPU) for gpu in facts["gpus"])

    @given(path=st.sampled_from(sorted({element.tag for element in tree(H100).iter()})), text=st.text())
    def test_strange_texts_never_crash(self, path, text):
        root = tree(H100)
        for element in root.iter(path):
            element.text = text
        try:
            facts = parse_query(ElementTree.tostring(root, encoding="unicode"))
        except LlmError:
            return  # a character that XML cannot hold
        assert json.loads(json.dumps(facts)) == facts


def link(number: int, speed: int | None = 26562, peer: str | None = None, errors: int | None = None) -> dict:
    return {
        "link": number,
        "active": speed is not None,
        "speed": speed,
        "peer": peer,
        "replay_errors": errors,
        "recovery_errors": errors,
        "crc_errors": errors,
    }


GPU_LINE = "GPU 0: NVIDIA H200 (UUID: GPU-00000000-0000-0000-0000-000000000000)\n"
ERRORS = GPU_LINE + "".join(
    f"\t Link {n}: Replay Errors: {n}\n\t Link {n}: Recovery Errors: {n}\n\t Link {n}: CRC Errors: {n}\n\n"
    for n in range(3)
)
PEERS = GPU_LINE + "".join(f"\t Link {n}: 00000000:0{n + 5}:00.0\n" for n in range(3))


class TestParseNvlinks:
    def test_two_real_h200(self):
        links = [link(number) for number in range(18)]
        assert parse_nvlinks(H200_LINKS) == {H200_GPU["uuid"]: links, H200_GPU_1["uuid"]: links}

    def test_errors_and_peers_are_added(self):
        links = parse_nvlinks(H200_LINKS, ERRORS, PEERS)
        assert links[H200_GPU["uuid"]][:4] == [
            *(link(n, peer=f"00000000:0{n + 5}:00.0", errors=n) for n in range(3)),
            link(3),
        ]
        assert links[H200_GPU_1["uuid"]][0] == link(0)

    def test_a_link_that_is_down_has_neither_speed_nor_peer(self):
        links = parse_nvlinks(H200_LINKS.replace("Link 1: 26.562 GB/s", "Link 1: <inactive>"), ERRORS, PEERS)
        assert links[H200_GPU["uuid"]][1] == link(1, speed=None, errors=1)

    def test_whole_gigabytes(self):
        assert parse_nvlinks(f"{GPU_LINE}\t Link 0: 25 GB/s\n") == {H200_GPU["uuid"]: [link(0, speed=25000)]}

    @pytest.mark.parametrize("text", ["", "NVML: Unable to retrieve NVLink information", "GPU 0: x (UUID: GPU-1)\n"])
    def test_no_links_are_no_entry(self, text):
        assert parse_nvlinks(text, ERRORS, PEERS) == {}

    @given(st.text(), st.text(), st.text())
    def test_other_text_never_crashes(self, states, errors, peers):
        head = f"{GPU_LINE}\t Link 0: "
        parse_nvlinks(head + states, head + errors, head + peers)


class TestParseTopology:
    def test_recordings(self):
        assert parse_topology(H200_LINKS, 2) == ([["X", "NV18"], ["NV18", "X"]], [0, 0])
        assert parse_topology(H100_TOPOLOGY, 1) == ([["X"]], [0])

    def test_network_cards_are_left_out(self):
        text = (
            "\tGPU0\tGPU1\tNIC0\tCPU Affinity\tNUMA Affinity\tGPU NUMA ID\n"
            "GPU0\t X \tSYS\tPIX\t0-55\t0\t\tN/A\nGPU1\tSYS\t X \tSYS\t56-111\t1-2\t\tN/A\nNIC0\tPIX\tSYS\t X \n"
        )
        assert parse_topology(text, 2) == ([["X", "SYS"], ["SYS", "X"]], [0, 1])

    def test_a_node_that_is_not_told_is_none(self):
        text = "\tGPU0\tCPU Affinity\tNUMA Affinity\nGPU0\t X \t0-55\tN/A\n"
        assert parse_topology(text, 1) == ([["X"]], [None])

    @pytest.mark.parametrize("text", ["", "Failed to create topology", "\tGPU0\tGPU1\nGPU0\t X \tSYS\n"])
    def test_what_is_not_whole_is_none(self, text):
        assert parse_topology(text, 2) == (None, [])

    @given(st.text())
    def test_other_text_never_crashes(self, text):
        parse_topology(f"\tGPU0\tNUMA Affinity\nGPU0\t X \t{text}", 1)
        parse_topology(text, 1)
