# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a host tells of its GPUs beside the driver: units of processes, the PCI bus, the kernel's log, systemd."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from ansible_collections.llmfleet.serving.plugins.module_utils._gpu_host import (
    PciDevice,
    pci_devices,
    pci_gpus,
    read_fabric_manager,
    read_xids,
    systemd_unit,
)


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
        assert systemd_unit(1) == unit

    def test_of_a_process_that_has_ended_is_none(self):
        ended = subprocess.Popen(["true"])
        ended.wait()
        assert systemd_unit(ended.pid) is None


class TestPciGpus:
    def device(self, root: Path, name: str, vendor: str, kind: str, driver: str | None = "nvidia") -> None:
        folder = root / "devices" / name
        folder.mkdir(parents=True)
        (folder / "device").write_text("0x2324\n")
        (folder / "vendor").write_text(f"{vendor}\n")
        (folder / "class").write_text(f"{kind}\n")
        if driver:
            (root / "drivers" / driver).mkdir(parents=True, exist_ok=True)
            (folder / "driver").symlink_to(root / "drivers" / driver)

    def test_counts_gpus_but_no_switches_and_no_others(self, tmp_path):
        self.device(tmp_path, "0000:18:00.0", "0x10de", "0x030200")
        self.device(tmp_path, "0000:3a:00.0", "0x10de", "0x030000", driver=None)
        self.device(tmp_path, "0000:05:00.0", "0x10de", "0x068000", driver="nvidia-nvswitch")
        self.device(tmp_path, "0000:02:00.0", "0x1a03", "0x030000", driver="ast")
        assert pci_gpus(tmp_path / "devices") == 2

    def test_are_told_with_the_switches_and_what_has_them(self, tmp_path):
        self.device(tmp_path, "0000:18:00.0", "0x10de", "0x030200", driver=None)
        self.device(tmp_path, "0000:05:00.0", "0x10de", "0x068000", driver="nvidia-nvswitch")
        self.device(tmp_path, "0000:3a:00.0", "0x10de", "0x030200", driver="vfio-pci")
        self.device(tmp_path, "0000:03:00.0", "0x10de", "0x020700")
        self.device(tmp_path, "0000:02:00.0", "0x15b3", "0x068000")
        found = pci_devices(tmp_path / "devices")
        assert found == [
            PciDevice("0000:05:00.0", "0x2324", "nvidia-nvswitch", switch=True),
            PciDevice("0000:18:00.0", "0x2324", None),
            PciDevice("0000:3a:00.0", "0x2324", "vfio-pci"),
        ]
        assert [device.given_away for device in found] == [False, False, True]

    def test_leaves_out_those_given_to_virtual_machines(self, tmp_path):
        self.device(tmp_path, "0000:18:00.0", "0x10de", "0x030200", driver="vfio-pci")
        self.device(tmp_path, "0000:3a:00.0", "0x10de", "0x030200")
        assert pci_gpus(tmp_path / "devices") == 1

    def test_is_none_where_the_bus_shows_none(self, tmp_path):
        self.device(tmp_path, "0000:02:00.0", "0x1a03", "0x030000", driver="ast")
        assert pci_gpus(tmp_path / "devices") is None
        assert pci_gpus(tmp_path / "nowhere") is None


def answering(**answers: str):
    """A run_command that knows some programs, by their name with - as _, and has not the others."""

    def run(argv, *, environ_update, handle_exceptions):
        assert environ_update == {"LC_ALL": "C"}
        assert not handle_exceptions
        if argv[0].replace("-", "_") not in answers:
            raise FileNotFoundError(2, "No such file or directory")
        return 0, answers[argv[0].replace("-", "_")], ""

    return run


class TestXids:
    LOG = "1.5 host kernel: Linux\n2.5 host kernel: NVRM: Xid (PCI:0000:5c:00): 79, GPU has fallen off the bus.\n"

    def test_are_read_from_the_journal(self):
        assert [one["code"] for one in read_xids(answering(journalctl=self.LOG), 0)] == [79]

    def test_before_the_marker_are_left_out_which_is_not_as_if_nothing_could_be_read(self):
        assert read_xids(answering(journalctl=self.LOG), 3) == []

    @pytest.mark.parametrize("run", [answering(journalctl=""), answering()])
    def test_are_none_when_the_log_cannot_be_read(self, run):
        assert read_xids(run, 0) is None


class TestFabricManager:
    @pytest.mark.parametrize("said", ["LoadState=not-found\nActiveState=inactive\n", "", "Failed to connect to bus"])
    def test_without_a_unit_there_is_none(self, said):
        assert read_fabric_manager(answering(systemctl=said)) is None

    def test_without_systemd_there_is_none(self):
        assert read_fabric_manager(answering()) is None

    def test_state_and_version_are_told(self):
        run = answering(
            systemctl="LoadState=loaded\nActiveState=active\n",
            nv_fabricmanager="Fabric Manager version is : 550.90.12\n",
        )
        assert read_fabric_manager(run) == {"state": "active", "version": "550.90.12"}

    def test_a_program_that_tells_no_version_has_none(self):
        run = answering(systemctl="LoadState=loaded\nActiveState=failed\n")
        assert read_fabric_manager(run) == {"state": "failed", "version": None}
