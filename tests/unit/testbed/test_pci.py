# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The stand-in for the PCI bus: the GPUs that the mock NVML tells of, and NVSwitches, as the kernel would show them."""

from __future__ import annotations

import os

import pytest

from ansible_collections.llmfleet.serving.plugins.module_utils._gpu_host import pci_gpus
from testbed import hosts, pci
from testbed.engine import docker


@pytest.fixture
def bus(tmp_path, monkeypatch):
    monkeypatch.setenv("LLMFLEET_BED_CACHE", str(tmp_path / "cache"))
    return pci.ensure(tmp_path / "pci")


def devices(bus, kind):
    """Names of the devices of one class."""
    return [device.name for device in sorted(bus.iterdir()) if (device / "class").read_text() == f"{kind}\n"]


def test_eight_gpus_are_where_the_original_host_had_them(bus):
    slots = ("18", "3a", "4b", "5c", "84", "ac", "b3", "b9")
    assert devices(bus, "0x030200") == [f"0000:{slot}:00.0" for slot in slots]
    assert pci_gpus(bus) == 8


def test_four_nvswitches_are_bridges(bus):
    switches = devices(bus, "0x068000")
    assert len(switches) == 4
    assert {(bus / switch / "device").read_text() for switch in switches} == {"0x22a3\n"}


def test_each_device_is_nvidias_and_near_its_processors(bus):
    read = {name: {(device / name).read_text() for device in bus.iterdir()} for name in ("vendor", "local_cpulist")}
    assert read == {"vendor": {"0x10de\n"}, "local_cpulist": {"0-55,112-167\n", "56-111,168-223\n"}}
    assert [(bus / gpu / "numa_node").read_text().strip() for gpu in devices(bus, "0x030200")] == list("00001111")


def test_it_is_made_once(bus, tmp_path):
    (bus / "mark").touch()
    assert pci.ensure(tmp_path / "pci") == bus
    assert (bus / "mark").exists()
    assert [path.name for path in (tmp_path / "pci").iterdir()] == [bus.name]


@pytest.fixture(scope="module")
def host():
    name = f"pcitest-{os.getpid()}"
    hosts.up([name])
    yield name
    hosts.down([name])


@pytest.mark.bed
def test_nvidia_smi_shows_the_gpus_of_the_bus(host):
    query = ("nvidia-smi", "--query-gpu=pci.bus_id,pci.device_id", "--format=csv,noheader")
    shown = docker("exec", host, *query).stdout.lower().splitlines()
    assert len(shown) == 8
    for line in shown:
        address, device = line.removeprefix("0000").split(", ")
        on_bus = docker("exec", host, "cat", f"/sys/bus/pci/devices/{address}/device").stdout.strip()
        # NVML puts the vendor behind the device.
        assert device == f"{on_bus}10de"


@pytest.mark.bed
def test_lspci_knows_the_devices_by_name(host):
    listed = docker("exec", host, "lspci", "-d", "10de:").stdout
    assert listed.count("3D controller: NVIDIA Corporation GH100 [H800]") == 8
    assert listed.count("Bridge: NVIDIA Corporation GH100 [H100 NVSwitch]") == 4
    assert len(listed.splitlines()) == len(docker("exec", host, "lspci").stdout.splitlines())


@pytest.mark.bed
def test_nothing_on_a_host_changes_the_bus(host):
    refused = docker("exec", host, "touch", "/sys/bus/pci/devices/new", check=False)
    assert "Read-only file system" in refused.stderr
