# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""GPU facts from both sources: tools that misbehave, a library that crashes, times and limits."""

from __future__ import annotations

import os
import shutil
import signal
import time
from pathlib import Path

import pytest
from run_command import run_command

from ansible_collections.llmfleet.serving.plugins.module_utils import _gpu_facts, _gpu_nvml
from ansible_collections.llmfleet.serving.plugins.module_utils._errors import LlmError
from ansible_collections.llmfleet.serving.plugins.module_utils._gpu import parse_time, read_facts
from ansible_collections.llmfleet.serving.plugins.module_utils._gpu_facts import DriverError

H200 = Path(__file__).parents[4] / "tests/fixtures/recordings/h200-x2-driver580"


@pytest.fixture
def nvidia_smi(tmp_path, monkeypatch):
    """nvidia_smi(script): put a shell script with this name, and nothing else of that name, on PATH."""
    for name in ("smi-q.xml", "topo.txt"):
        shutil.copy(H200 / name, tmp_path)
    (tmp_path / "bin").mkdir()

    def install(script: str) -> None:
        program = tmp_path / "bin/nvidia-smi"
        program.write_text(f"#!/bin/sh\ncd {tmp_path}\n{script}\n")
        program.chmod(0o755)

    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    return install


# -q -x, nvlink -s, -e and -p, topo -m, and the table.
ANSWERS = """case "$*" in
    "-q -x") cat smi-q.xml ;;
    "nvlink -s" | "topo -m") cat topo.txt ;;
    "") echo "Driver Version: 580.159.04"; echo "WARNING: infoROM is corrupted at gpu 0000:00:07.0" ;;
esac"""


class TestNvidiaSmi:
    def facts(self):
        return read_facts(run_command, "nvidia-smi", 30)

    def test_all_answers_make_the_facts(self, nvidia_smi):
        nvidia_smi(ANSWERS)
        facts = self.facts()
        told = {name: facts[name] for name in ("schema", "source", "driver_version", "attached_gpus", "topology")}
        assert told == {
            "schema": 2,
            "source": "nvidia-smi",
            "driver_version": "580.159.04",
            "attached_gpus": 2,
            "topology": [["X", "NV18"], ["NV18", "X"]],
        }
        assert [gpu["name"] for gpu in facts["gpus"]] == ["NVIDIA H200", "NVIDIA H200"]
        assert [gpu["numa_node"] for gpu in facts["gpus"]] == [0, 0]
        assert [gpu["inforom_valid"] for gpu in facts["gpus"]] == [True, False]
        assert [[link["speed"] for link in gpu["nvlinks"]] for gpu in facts["gpus"]] == [[26562] * 18] * 2
        assert set(facts) == set(_gpu_facts.Facts.__annotations__)
        assert all(set(gpu) == set(_gpu_facts.Gpu.__annotations__) for gpu in facts["gpus"])

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

    def test_what_else_cannot_be_read_is_none(self, nvidia_smi):
        nvidia_smi('test "$1" = -q && cat smi-q.xml')
        facts = self.facts()
        assert facts["topology"] is None
        for fact in ("nvlinks", "numa_node", "inforom_valid"):
            assert [gpu[fact] for gpu in facts["gpus"]] == [None, None]

    def test_what_else_hangs_is_none(self, nvidia_smi):
        nvidia_smi(f'test "$1" = topo && exec sleep 600\n{ANSWERS}')
        facts = read_facts(run_command, "nvidia-smi", 3)
        assert facts["topology"] is None
        assert len(facts["gpus"][0]["nvlinks"]) == 18

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
        with pytest.raises(DriverError) as caught:
            self.facts()
        assert f"nvidia-smi ended with status {status}: {said}. " in str(caught.value)
        assert next_step in str(caught.value)

    def test_what_is_left_of_a_host_with_a_lost_gpu_is_told(self, nvidia_smi):
        nvidia_smi(f"{ANSWERS}\nexit 15")
        assert len(self.facts()["gpus"]) == 2

    def test_missing(self, tmp_path, monkeypatch):
        monkeypatch.setenv("PATH", str(tmp_path))
        with pytest.raises(DriverError, match=r"nvidia-smi cannot be run: No such file or directory. Install"):
            self.facts()

    def test_that_hangs_is_killed(self, nvidia_smi, tmp_path):
        nvidia_smi('test "$1" = -q && echo $$ > pid; exec sleep 600')
        with pytest.raises(DriverError, match=r"did not answer nvidia-smi within 1 s.*Then reboot"):
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
        monkeypatch.setattr(_gpu_nvml, "pynvml", None)
        nvidia_smi(ANSWERS)
        assert read_facts(run_command)["source"] == "nvidia-smi"

    def test_auto_is_nvml_with_pynvml(self, monkeypatch):
        monkeypatch.setattr(_gpu_nvml, "read_nvml", lambda: {"gpus": []})
        assert read_facts(run_command)["source"] == "nvml"

    def test_nvml_without_pynvml_names_the_packages(self, monkeypatch):
        monkeypatch.setattr(_gpu_nvml, "pynvml", None)
        with pytest.raises(DriverError, match=r"pynvml is not installed. Install the package python3-pynvml"):
            read_facts(run_command, "nvml")

    def test_a_library_that_crashes_is_an_error(self, monkeypatch):
        monkeypatch.setattr(_gpu_nvml, "read_nvml", lambda: os.kill(os.getpid(), signal.SIGKILL))
        with pytest.raises(DriverError, match="Reading the GPUs through nvml ended with signal 9"):
            read_facts(run_command, "nvml")

    @pytest.mark.parametrize("timeout", [-1, 0, 3601])
    def test_a_time_limit_that_is_none_is_refused(self, timeout):
        with pytest.raises(LlmError, match=f"A time limit of {timeout} s is refused: expected 1 to 3600"):
            read_facts(run_command, "nvml", timeout)

    @pytest.mark.parametrize("time", ["", "now", "2026-11-23", "2026-11-23T14:05:00", "1795443369"])
    def test_a_time_without_its_offset_is_refused(self, time):
        with pytest.raises(LlmError, match="is not a time: expected one like 2026-11-23T14:05:00Z"):
            parse_time(time)

    @pytest.mark.parametrize("time", ["2026-11-23T14:05:00Z", "2026-11-23T22:05:00+08:00", "2026-11-23 14:05:00+00:00"])
    def test_a_time_is_read_with_its_offset(self, time):
        assert parse_time(time) == 1795442700

    def test_no_time_is_the_beginning(self):
        assert parse_time(None) == 0
