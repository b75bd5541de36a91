# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""GPU facts: from recordings of real GPUs, from damaged output, from tools that misbehave, and in the test bed."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import signal
import subprocess
import time
from pathlib import Path
from xml.etree import ElementTree

import pynvml
import pytest
from hypothesis import given
from hypothesis import strategies as st
from run_command import run_command

from ansible_collections.llmfleet.serving.plugins.module_utils import _gates, _gpu
from ansible_collections.llmfleet.serving.plugins.module_utils._errors import LlmError
from ansible_collections.llmfleet.serving.plugins.module_utils._gpu import parse_nvlinks, parse_smi, read_facts

REPOSITORY = Path(__file__).parents[4]
RECORDINGS = REPOSITORY / "tests/fixtures/recordings"
H100 = (RECORDINGS / "h100-x1-driver580/smi-q.xml").read_text()
H200 = (RECORDINGS / "h200-x2-driver580/smi-q.xml").read_text()
H200_LINKS = (RECORDINGS / "h200-x2-driver580/topo.txt").read_text()

H100_GPU = {
    "index": 0,
    "error": None,
    "name": "NVIDIA H100 80GB HBM3",
    "uuid": "GPU-00000000-0000-0000-0000-000000000000",
    "serial": "0000000000000",
    "pci_bus_id": "00000000:00:06.0",
    "memory_total": 81559,
    "memory_used": 0,
    "utilization": 0,
    "temperature": 36,
    "power_draw": 76.86,
    "power_limit": 700.0,
    "persistence_mode": True,
    "compute_mode": "Default",
    "mig_mode": False,
    "ecc_mode": True,
    "ecc_uncorrected_volatile": 0,
    "ecc_uncorrected_aggregate": 0,
    "remapped_rows_pending": False,
    "remapped_rows_failure": False,
    "clocks_event_reasons": ["gpu_idle"],
    "pcie_gen": 5,
    "pcie_gen_max": 5,
    "pcie_width": 16,
    "pcie_width_max": 16,
    "nvlinks": None,
    "fabric_state": None,
    "fabric_status": None,
    "processes": [],
}
HOST_580 = {
    "schema": 1,
    "source": "nvidia-smi",
    "driver_version": "580.159.04",
    "cuda_version": "13.0",
    "nvml_version": None,
}
H200_GPU = {
    **H100_GPU,
    "name": "NVIDIA H200",
    "memory_total": 143771,
    "temperature": 38,
    "power_draw": 83.55,
    "fabric_state": "Completed",
    "fabric_status": "Success",
}
H200_GPU_1 = {
    **H200_GPU,
    "index": 1,
    "uuid": "GPU-00000000-0000-0000-0000-000000000001",
    "pci_bus_id": "00000000:00:07.0",
    "temperature": 36,
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


class TestParseSmi:
    def test_one_real_h100(self):
        assert parse_smi(H100) == {**HOST_580, "attached_gpus": 1, "gpus": [H100_GPU]}

    def test_two_real_h200(self):
        assert parse_smi(H200) == {**HOST_580, "attached_gpus": 2, "gpus": [H200_GPU, H200_GPU_1]}

    @pytest.mark.parametrize(
        ("fact", "path", "text", "value"),
        [
            ("pci_bus_id", "pci/pci_bus_id", "00000000:5d:00.0", "00000000:5D:00.0"),
            ("persistence_mode", "persistence_mode", "Disabled", False),
            ("mig_mode", "mig_mode/current_mig", "Enabled", True),
            ("ecc_mode", "ecc_mode/current_ecc", "Disabled", False),
            ("ecc_uncorrected_volatile", "ecc_errors/volatile/sram_uncorrectable_parity", "3", 3),
            ("ecc_uncorrected_volatile", "ecc_errors/volatile/sram_uncorrectable_secded", "3", 3),
            ("ecc_uncorrected_volatile", "ecc_errors/volatile/dram_uncorrectable", "3", 3),
            ("ecc_uncorrected_volatile", "ecc_errors/volatile/dram_correctable", "3", 0),
            ("ecc_uncorrected_aggregate", "ecc_errors/aggregate/dram_uncorrectable", "3", 3),
            ("remapped_rows_pending", "remapped_rows/remapped_row_pending", "Yes", True),
            ("remapped_rows_failure", "remapped_rows/remapped_row_failure", "Yes", True),
            ("compute_mode", "compute_mode", "Exclusive_Process", "Exclusive_Process"),
            ("pcie_gen", "pci/pci_gpu_link_info/pcie_gen/current_link_gen", "1", 1),
            ("pcie_gen_max", "pci/pci_gpu_link_info/pcie_gen/max_link_gen", "4", 4),
            ("pcie_width", "pci/pci_gpu_link_info/link_widths/current_link_width", "8x", 8),
            ("pcie_width_max", "pci/pci_gpu_link_info/link_widths/max_link_width", "8x", 8),
            ("memory_used", "fb_memory_usage/used", "40934 MiB", 40934),
            ("utilization", "utilization/gpu_util", "97 %", 97),
            ("power_limit", "gpu_power_readings/current_power_limit", "350.50 W", 350.5),
        ],
    )
    def test_each_fact_comes_from_its_element(self, fact, path, text, value):
        facts = parse_smi(edited(H100, path, text))
        assert facts["gpus"] == [{**H100_GPU, fact: value}]

    @pytest.mark.parametrize("text", ["N/A", "[N/A]", "", None])
    @pytest.mark.parametrize(
        ("fact", "path"),
        [
            ("name", "product_name"),
            ("serial", "serial"),
            ("pci_bus_id", "pci/pci_bus_id"),
            ("compute_mode", "compute_mode"),
            ("memory_total", "fb_memory_usage/total"),
            ("temperature", "temperature/gpu_temp"),
            ("power_draw", "gpu_power_readings/average_power_draw"),
            ("ecc_mode", "ecc_mode/current_ecc"),
            ("mig_mode", "mig_mode/current_mig"),
        ],
    )
    def test_what_a_gpu_does_not_have_is_none(self, fact, path, text):
        assert parse_smi(edited(H100, path, text))["gpus"] == [{**H100_GPU, fact: None}]

    @pytest.mark.parametrize("text", ["N/A", "Unknown Error", "many", "-", "1e3"])
    def test_a_sum_of_errors_without_one_of_its_parts_is_none(self, text):
        xml = edited(H100, "ecc_errors/volatile/dram_uncorrectable", text)
        assert parse_smi(xml)["gpus"] == [{**H100_GPU, "ecc_uncorrected_volatile": None}]

    def test_drivers_that_say_throttle_reasons(self):
        assert parse_smi(H100.replace("clocks_event_reason", "clocks_throttle_reason"))["gpus"] == [H100_GPU]

    def test_clock_reasons_that_are_not_told_are_none(self):
        xml = H100.replace(">Active<", ">N/A<").replace(">Not Active<", ">N/A<")
        assert parse_smi(xml)["gpus"][0]["clocks_event_reasons"] is None

    def test_drivers_before_545_have_one_power_reading(self):
        xml = H100.replace("average_power_draw", "power_draw").replace("current_power_limit", "power_limit")
        assert parse_smi(xml)["gpus"] == [H100_GPU]

    def test_processes(self):
        listed = """<processes>
            <process_info><pid>4242</pid><type>C</type><process_name>/opt/other/python3</process_name>
                <used_memory>40930 MiB</used_memory></process_info>
            <process_info><pid>7</pid><type>C</type><process_name>N/A</process_name>
                <used_memory>N/A</used_memory></process_info>
            </processes>"""
        xml, replaced = re.subn(r"<processes>\s*</processes>", listed, H100)
        assert replaced == 1
        assert parse_smi(xml)["gpus"][0]["processes"] == [
            {"pid": 7, "name": None, "memory": None, "unit": None},
            {"pid": 4242, "name": "/opt/other/python3", "memory": 40930, "unit": None},
        ]

    def test_a_gpu_left_out_takes_the_numbers_of_the_others_with_it(self):
        root = tree(H200)
        root.remove(root.find("gpu"))
        facts = parse_smi(ElementTree.tostring(root, encoding="unicode"))
        assert (facts["attached_gpus"], facts["gpus"]) == (2, [{**H200_GPU_1, "index": None}])

    def test_a_lost_gpu_that_is_listed_is_marked(self):
        facts = parse_smi(edited(H200, "uuid", "GPU is lost", gpu=1))
        assert facts["gpus"][0] == H200_GPU
        assert facts["gpus"][1] == {**dict.fromkeys(H100_GPU), "index": 1, "error": "GPU is lost"}

    @pytest.mark.parametrize("text", [None, "N/A"])
    def test_a_gpu_without_uuid_is_marked(self, text):
        assert parse_smi(edited(H100, "uuid", text))["gpus"][0]["error"] == "nvidia-smi tells no UUID"

    @pytest.mark.parametrize(
        "xml", ["", "No devices were found", "<a><b></a>", H100[: len(H100) // 2], H100[:-5], "\0"]
    )
    def test_output_that_is_not_whole_is_refused(self, xml):
        with pytest.raises(LlmError, match="is not whole XML"):
            parse_smi(xml)

    def test_other_xml_is_refused(self):
        with pytest.raises(LlmError, match="begins with <html>; expected <nvidia_smi_log>"):
            parse_smi("<html/>")

    @given(st.data())
    def test_damaged_output_gives_facts_or_one_clear_error(self, data):
        start = data.draw(st.integers(0, len(H100)))
        end = data.draw(st.integers(start, min(len(H100), start + 2000)))
        damaged = H100[:start] + data.draw(st.text(max_size=20)) + H100[end:]
        try:
            facts = parse_smi(damaged)
        except LlmError:
            return
        assert set(facts) == set(_gpu.Facts.__annotations__)
        assert all(set(gpu) == set(H100_GPU) for gpu in facts["gpus"])

    @given(path=st.sampled_from(sorted({element.tag for element in tree(H100).iter()})), text=st.text())
    def test_strange_texts_never_crash(self, path, text):
        root = tree(H100)
        for element in root.iter(path):
            element.text = text
        try:
            facts = parse_smi(ElementTree.tostring(root, encoding="unicode"))
        except LlmError:
            return  # a character that XML cannot hold
        assert json.loads(json.dumps(facts)) == facts


class TestParseNvlinks:
    def test_two_real_h200(self):
        links = [{"link": link, "active": True, "speed": 26562} for link in range(18)]
        assert parse_nvlinks(H200_LINKS) == {H200_GPU["uuid"]: links, H200_GPU_1["uuid"]: links}

    def test_a_link_that_is_down_has_no_speed(self):
        links = parse_nvlinks(H200_LINKS.replace("Link 3: 26.562 GB/s", "Link 3: <inactive>"))
        assert links[H200_GPU["uuid"]][3] == {"link": 3, "active": False, "speed": None}

    @pytest.mark.parametrize("text", ["", "NVML: Unable to retrieve NVLink information", "GPU 0: x (UUID: GPU-1)\n"])
    def test_no_links_are_no_entry(self, text):
        assert parse_nvlinks(text) == {}

    @given(st.text())
    def test_other_text_never_crashes(self, text):
        parse_nvlinks("GPU 0: x (UUID: GPU-1)\n\t Link 0: " + text)


class TestSystemdUnit:
    @pytest.mark.parametrize(
        ("cgroup", "unit"),
        [
            ("0::/system.slice/ollama.service\n", "ollama.service"),
            ("1:name=systemd:/docker/c0ffee/system.slice/ollama.service\n0::/\n", "ollama.service"),
            ("0::/system.slice/vllm@r1.service/worker\n", "vllm@r1.service"),
            ("0::/user.slice/user-0.slice/user@0.service/app.slice/engine.service\n", "engine.service"),
            ("0::/system.slice/docker-c0ffee.scope\n", "docker-c0ffee.scope"),
            ("0::/system.slice\n", None),
            ("0::/a.servicex\n", None),
            ("", None),
        ],
    )
    def test_is_read_from_the_control_group(self, cgroup, unit, monkeypatch):
        monkeypatch.setattr(Path, "read_text", lambda *_args, **_kwargs: cgroup)
        assert _gpu.systemd_unit(1) == unit

    def test_of_a_process_that_has_ended_is_none(self):
        ended = subprocess.Popen(["true"])
        ended.wait()
        assert _gpu.systemd_unit(ended.pid) is None


@pytest.fixture
def nvidia_smi(tmp_path, monkeypatch):
    """nvidia_smi(script): put a shell script with this name, and nothing else of that name, on PATH."""
    for name, text in {"query.xml": H200, "nvlink.txt": H200_LINKS}.items():
        (tmp_path / name).write_text(text)
    (tmp_path / "bin").mkdir()

    def install(script: str) -> None:
        program = tmp_path / "bin/nvidia-smi"
        program.write_text(f"#!/bin/sh\ncd {tmp_path}\n{script}\n")
        program.chmod(0o755)

    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    return install


ANSWERS = 'case "$1" in -q) cat query.xml ;; nvlink) cat nvlink.txt ;; esac'
LINKS = [{"link": link, "active": True, "speed": 26562} for link in range(18)]


class TestNvidiaSmi:
    def facts(self):
        return read_facts(run_command, "nvidia-smi", 30)

    def test_two_commands_make_the_facts(self, nvidia_smi):
        nvidia_smi(ANSWERS)
        expected = [{**gpu, "nvlinks": LINKS} for gpu in (H200_GPU, H200_GPU_1)]
        assert self.facts() == {**HOST_580, "attached_gpus": 2, "gpus": expected}

    def test_error_output_beside_a_good_answer_does_no_harm(self, nvidia_smi):
        nvidia_smi(f"echo 'WARNING: infoROM is corrupted at gpu 0' >&2\n{ANSWERS}")
        assert self.facts()["attached_gpus"] == 2

    def test_error_output_instead_of_an_answer_is_quoted_though_the_status_is_0(self, nvidia_smi):
        nvidia_smi("echo 'some   trouble' >&2")
        with pytest.raises(LlmError, match=r"not whole XML.*Its error output: some trouble\."):
            self.facts()

    def test_it_runs_in_the_c_locale(self, nvidia_smi, monkeypatch):
        monkeypatch.setenv("LC_ALL", "de_DE.UTF-8")
        nvidia_smi(f'test "$LC_ALL" = C || exit 77\n{ANSWERS}')
        assert self.facts()["attached_gpus"] == 2

    def test_links_that_cannot_be_read_are_none(self, nvidia_smi):
        nvidia_smi('test "$1" = -q && cat query.xml')
        assert [gpu["nvlinks"] for gpu in self.facts()["gpus"]] == [None, None]

    @pytest.mark.parametrize(
        ("status", "said", "next_step"),
        [
            (4, "Insufficient Permissions", "Run as root"),
            (6, "No devices were found", "lspci"),
            (9, "couldn't communicate with the NVIDIA driver", "modprobe nvidia"),
            (12, "couldn't find libnvidia-ml.so library in your system", "library package"),
            (15, "Unable to determine the device handle for GPU0000:5C:00.0: GPU is lost", "power-cycle"),
            (18, "Failed to initialize NVML: Driver/library version mismatch", "reboot, or reload the module"),
            (255, "Unknown Error", "journalctl -k"),
        ],
    )
    def test_a_driver_that_does_not_work_names_the_next_step(self, nvidia_smi, status, said, next_step):
        nvidia_smi(f'echo "{said}."; exit {status}')
        with pytest.raises(_gpu.DriverError) as caught:
            self.facts()
        assert f"nvidia-smi ended with status {status}: {said}. " in str(caught.value)
        assert next_step in str(caught.value)

    def test_what_is_left_of_a_host_with_a_lost_gpu_is_told(self, nvidia_smi):
        nvidia_smi(f"{ANSWERS}\nexit 15")
        assert len(self.facts()["gpus"]) == 2

    def test_missing(self, tmp_path, monkeypatch):
        monkeypatch.setenv("PATH", str(tmp_path))
        with pytest.raises(_gpu.DriverError, match=r"nvidia-smi cannot be run: No such file or directory. Install"):
            self.facts()

    def test_that_hangs_is_killed(self, nvidia_smi, tmp_path):
        nvidia_smi("echo $$ > pid; exec sleep 600")
        with pytest.raises(_gpu.DriverError, match=r"did not answer nvidia-smi within 1 s.*Then reboot"):
            read_facts(run_command, "nvidia-smi", 1)
        stat = Path(f"/proc/{(tmp_path / 'pid').read_text().strip()}/stat")
        for _dummy in range(500):
            if not stat.exists() or ") Z" in stat.read_text():
                break
            time.sleep(0.01)
        else:
            pytest.fail("nvidia-smi still runs")


class TestSources:
    def test_auto_is_nvidia_smi_without_pynvml(self, nvidia_smi, monkeypatch):
        monkeypatch.setattr(_gpu, "pynvml", None)
        nvidia_smi(ANSWERS)
        assert read_facts(run_command)["source"] == "nvidia-smi"

    def test_auto_is_nvml_with_pynvml(self, monkeypatch):
        monkeypatch.setattr(_gpu, "_read_nvml", lambda: {"source": "nvml"})
        assert read_facts(run_command) == {"source": "nvml"}

    def test_nvml_without_pynvml_names_the_packages(self, monkeypatch):
        monkeypatch.setattr(_gpu, "pynvml", None)
        with pytest.raises(_gpu.DriverError, match=r"pynvml is not installed. Install the package python3-pynvml"):
            read_facts(run_command, "nvml")

    def test_a_library_that_crashes_is_an_error(self, monkeypatch):
        monkeypatch.setattr(_gpu, "_read_nvml", lambda: os.kill(os.getpid(), signal.SIGKILL))
        with pytest.raises(_gpu.DriverError, match="Reading the GPUs through nvml ended with signal 9"):
            read_facts(run_command, "nvml")

    @pytest.mark.parametrize("timeout", [-1, 0, 3601])
    def test_a_time_limit_that_is_none_is_refused(self, timeout):
        with pytest.raises(LlmError, match=f"A time limit of {timeout} s is refused: expected 1 to 3600"):
            read_facts(run_command, "nvml", timeout)


# --- In the test bed: the real nvidia-smi and the real binding over the bed's NVML

PROBE = """
import json
from ansible_collections.llmfleet.serving.plugins.module_utils._gpu import DriverError, read_facts
from run_command import run_command
answers = {}
for source in ("nvml", "nvidia-smi"):
    try:
        answers[source] = read_facts(run_command, source, 5)
    except DriverError as exc:
        answers[source] = str(exc)
print(json.dumps(answers))
"""


class Bed:
    """A simulated host of eight GPUs, on which the collection reads facts."""

    def __init__(self, name: str) -> None:
        self.name = name

    def run(self, *argv: str) -> str:
        from testbed.engine import docker

        return docker("exec", "--env=PYTHONPATH=/opt/llmfleet", self.name, *argv).stdout

    def facts(self, *fault: str) -> dict:
        """What both sources tell with a fault: facts, or the error."""
        self.run("gpu-fault", *fault)
        return json.loads(self.run("python3", "-c", PROBE))


@pytest.fixture(scope="module")
def bed():
    from testbed import hosts
    from testbed.engine import docker

    name = "llmfleet-test-gpu"
    collection = "/opt/llmfleet/ansible_collections/llmfleet/serving/plugins"
    hosts.up([name])
    try:
        docker("exec", name, "mkdir", "-p", collection)
        docker("cp", str(REPOSITORY / "plugins/module_utils"), f"{name}:{collection}/")
        for file in (pynvml.__file__, str(REPOSITORY / "tests/run_command.py")):
            docker("cp", file, f"{name}:/opt/llmfleet/")
        yield Bed(name)
    finally:
        hosts.down([name])


HEALTHY = {"h800": (81559, 8), "h100": (81559, 18), "h200": (143771, 18)}
# Which rules a named fault on GPU 3 breaks, through NVML.
FIRES = {
    "lost-gpu": {"gpu-answers"},
    "lost-gpu-silent": {"gpu-answers"},
    "wrong-name": {"gpu-name"},
    "ecc-uncorrectable": {"ecc-volatile", "ecc-aggregate"},
    "row-remap-pending": {"row-remap-pending"},
    "row-remap-failed": {"row-remap-failure"},
    "nvlink-down": {"nvlink-count"},
    "fabric-not-completed": {"fabric"},
    "throttling": {"throttling"},
    "foreign-process": {"processes", "idle"},
    "mig-on": {"mig-mode"},
}
# Faults with which a source gives no facts, and what it says instead.
SILENT = {
    "driver-mismatch": {
        "nvml": "version mismatch. The loaded kernel",
        "nvidia-smi": "version mismatch. The loaded kernel",
    },
    "nvidia-smi-hangs": {
        "nvml": "did not answer nvml within 5 s",
        "nvidia-smi": "did not answer nvidia-smi within 5 s",
    },
    "nvidia-smi-missing": {"nvidia-smi": "nvidia-smi cannot be run: No such file"},
    "lost-gpu": {"nvidia-smi": "GPU is lost"},
}


def same(answers: dict) -> dict:
    """The facts through NVML, once they are proved to be those of nvidia-smi, which has no version of NVML."""
    nvml, smi = answers["nvml"], answers["nvidia-smi"]
    assert smi == {**nvml, "source": "nvidia-smi", "nvml_version": None}
    return nvml


@pytest.mark.bed
class TestBed:
    @pytest.mark.parametrize("profile", HEALTHY)
    def test_both_sources_tell_the_same_and_it_passes(self, bed, profile):
        facts = same(bed.facts("profile", profile))
        memory, links = HEALTHY[profile]
        assert facts["nvml_version"] == "12.550.163.01"
        assert (facts["driver_version"], facts["cuda_version"]) == ("550.163.01", "12.4")
        assert [gpu["index"] for gpu in facts["gpus"]] == list(range(8))
        for gpu in facts["gpus"]:
            assert gpu["memory_total"] == memory
            assert gpu["nvlinks"] == [{"link": link, "active": True, "speed": 26562} for link in range(links)]
            assert None not in gpu.values() or [key for key, value in gpu.items() if value is None] == ["error"]
        assert _gates.evaluate(facts, _gates.PROFILES[profile])["verdict"] == "pass"

    @pytest.mark.parametrize("fault", FIRES)
    def test_a_fault_breaks_its_rules_on_its_gpu(self, bed, fault):
        bed.run("gpu-fault", "profile", "h800")
        answers = bed.facts(fault, "3")
        facts = answers["nvml"] if fault in SILENT else same(answers)
        findings = _gates.evaluate(facts, _gates.PROFILES["h800"])["findings"]
        # The reference host runs without persistence mode, and is warned about it.
        broken = [finding for finding in findings if finding["rule"] != "persistence-mode"]
        assert {one["rule"] for one in broken} == FIRES[fault]
        assert {one["gpu"] for one in broken} == {3}

    @pytest.mark.parametrize("fault", SILENT)
    def test_a_driver_or_tool_that_does_not_work_is_told(self, bed, fault):
        bed.run("gpu-fault", "profile", "h800")
        answers = bed.facts(fault)
        for source, said in SILENT[fault].items():
            assert said in answers[source]
        for source in set(answers) - set(SILENT[fault]):
            assert answers[source]["attached_gpus"] == 8

    def test_no_fault_is_forgotten(self):
        from testbed.nvml.faults import FAULTS

        assert set(FIRES) | set(SILENT) == set(FAULTS)

    def test_nothing_is_left_of_what_asked_a_driver_that_hangs(self, bed):
        before = bed.run("ps", "--no-headers", "-eo", "comm").split().count("python3")
        bed.facts("nvidia-smi-hangs")
        running = bed.run("ps", "--no-headers", "-eo", "comm").split()
        assert (running.count("nvidia-smi"), running.count("python3")) == (0, before)

    def test_a_service_is_known_by_its_unit_and_may_be_allowed(self, bed):
        bed.run("gpu-fault", "profile", "h800")
        bed.run("systemd-run", "--unit=engine", "sleep", "600")
        pid = int(bed.run("systemctl", "show", "--property=MainPID", "--value", "engine.service"))
        busy = f"\n[gpu 3]\nprocess = {pid} 40930 /usr/bin/sleep\nmemory_used_mib = 40934\nutilization_gpu = 90\n"
        bed.run("sh", "-c", f"printf '%s' '{busy}' >> /etc/nvml-mock/profile.ini")
        facts = same(json.loads(bed.run("python3", "-c", PROBE)))
        bed.run("systemctl", "stop", "engine.service")
        assert facts["gpus"][3]["processes"] == [
            {"pid": pid, "name": "/usr/bin/sleep", "memory": 40930, "unit": "engine.service"}
        ]
        h800 = _gates.PROFILES["h800"]
        allowing = dataclasses.replace(h800, allowed_units=["engine.service"])
        assert _gates.evaluate(facts, allowing)["verdict"] == "pass"
        broken = {one["rule"] for one in _gates.evaluate(facts, h800)["findings"] if one["severity"] == "fail"}
        assert broken == {"processes", "idle"}
