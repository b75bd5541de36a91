# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A stand-in for the PCI bus of the reference host: eight H800 and their NVSwitches. README.md says what it is not."""

from __future__ import annotations

import configparser
import tempfile
from pathlib import Path

from testbed.cache import cache_dir, key_of, locked

_PROFILE = Path(__file__).parents[1] / "nvml" / "profiles" / "h800.ini"
_VENDOR = "0x10de"
# "3D controller", as a GPU without display outputs is classed, and "bridge, other", as NVSwitches are.
_GPU_CLASS = "0x030200"
_NVSWITCH_CLASS = "0x068000"
# Third generation, of which HGX boards for Hopper have four. The public PCI ID list: "GH100 [H100 NVSwitch]".
_NVSWITCH = "0x22a3"
_NVSWITCHES = ("0000:05:00.0", "0000:06:00.0", "0000:07:00.0", "0000:08:00.0")


def ensure(root: Path | None = None) -> Path:
    """A folder that stands for ``/sys/bus/pci/devices`` of the host in ``nvml/profiles/h800.ini``, made if missing.

    :param root: where to keep it; the bed's cache by default. The folder returned lies below and is named after what
        it was made from.
    """
    store = root or cache_dir() / "pci"
    bus = store / key_of(Path(__file__), _PROFILE)
    store.mkdir(parents=True, exist_ok=True)
    with locked("pci"):
        if not bus.is_dir():
            with tempfile.TemporaryDirectory(dir=store) as unfinished:
                _fill(Path(unfinished, "bus"))
                Path(unfinished, "bus").rename(bus)
    return bus


def _fill(bus: Path) -> None:
    profile = configparser.ConfigParser()
    profile.read_string(_PROFILE.read_text())
    gpus = [profile[f"gpu {index}"] for index in range(profile.getint("system", "gpus"))]
    # NVML puts the device in the upper half of one number with the vendor, and gives the domain four digits more.
    device = f"0x{int(profile['gpu']['pci_device_id'], 16) >> 16:04x}"
    for gpu in gpus:
        _add(bus, gpu["pci_bus_id"].lower()[4:], device, _GPU_CLASS, near=gpu)
    for address in _NVSWITCHES:
        _add(bus, address, _NVSWITCH, _NVSWITCH_CLASS, near=gpus[0])


def _add(bus: Path, address: str, device: str, kind: str, near: configparser.SectionProxy) -> None:
    """Put a device on the bus, on the NUMA node of a GPU."""
    folder = bus / address
    folder.mkdir(parents=True)
    files = {"numa_node": near["numa_node"], "local_cpulist": near["cpu_affinity"]}
    for name, value in {"vendor": _VENDOR, "device": device, "class": kind, **files}.items():
        (folder / name).write_text(f"{value}\n")
