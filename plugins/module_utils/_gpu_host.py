# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a host itself tells of its GPUs: systemd, the kernel's log and the PCI bus. Private to this collection."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

from ansible_collections.llmfleet.serving.plugins.module_utils._gpu_facts import FabricManager, RunCommand, XidEvents
from ansible_collections.llmfleet.serving.plugins.module_utils._xid import parse_log

_FABRIC_MANAGER = "nvidia-fabricmanager.service"
_PCI_DEVICES = Path("/sys/bus/pci/devices")
_NVIDIA = "0x10de"
# Classes of PCI: a display controller, and "bridge, other", which of NVIDIA's devices only NVSwitches are.
_DISPLAY = "0x03"
_BRIDGE = "0x0680"
# What a GPU is given to on purpose, so that the NVIDIA driver does not have it.
_GIVEN_AWAY = {"vfio-pci"}


def systemd_unit(pid: int) -> str | None:
    """The innermost systemd service or scope that a process runs in; None when there is none or it has ended."""
    try:
        cgroups = Path(f"/proc/{pid}/cgroup").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    units = re.findall(r"[^/\n]+\.(?:service|scope)(?=/|$)", cgroups, re.MULTILINE)
    return units[-1] if units else None


@dataclasses.dataclass(frozen=True)
class PciDevice:
    """An NVIDIA GPU or NVSwitch on the PCI bus, which is there without a driver too.

    :ivar address: like 0000:18:00.0.
    :ivar device: the device id, like 0x2324 (see `_pci_ids`).
    :ivar driver: the kernel's driver that has it, None when none has.
    """

    address: str
    device: str
    driver: str | None
    switch: bool = False

    @property
    def given_away(self) -> bool:
        """Whether it is a virtual machine's, so that NVIDIA's driver cannot have it."""
        return self.driver in _GIVEN_AWAY


def pci_devices(devices: Path = _PCI_DEVICES) -> list[PciDevice]:
    """NVIDIA's GPUs and NVSwitches on the PCI bus, in the order of their addresses."""
    found = []
    for folder in sorted(devices.glob("*")):
        kind = _word(folder / "class")
        if _word(folder / "vendor") == _NVIDIA and kind.startswith((_DISPLAY, _BRIDGE)):
            driver = (folder / "driver").resolve().name if (folder / "driver").exists() else None
            found.append(PciDevice(folder.name, _word(folder / "device"), driver, kind.startswith(_BRIDGE)))
    return found


def pci_gpus(devices: Path = _PCI_DEVICES) -> int | None:
    """NVIDIA GPUs on the PCI bus, without those given to virtual machines; None where /sys shows none at all."""
    gpus = [device for device in pci_devices(devices) if not device.switch]
    return sum(not gpu.given_away for gpu in gpus) if gpus else None


def _word(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii", errors="replace").strip()
    except OSError:
        return ""


def read_xids(run: RunCommand, since: float) -> list[XidEvents] | None:
    """Xids and SXids in the kernel's log of this boot; None when the log cannot be read.

    :param since: seconds since 1970; earlier ones are left out.
    """
    # All lines, not `--grep`: a log without Xids and a log that this account may not read must not look alike.
    log = output_of(run, "journalctl", "--dmesg", "--no-pager", "--quiet", "--output=short-unix")
    return parse_log(log, since) if log else None


def read_fabric_manager(run: RunCommand) -> FabricManager | None:
    """The fabric manager's unit and version; None where systemd knows no such unit."""
    said = output_of(run, "systemctl", "show", "--property=LoadState,ActiveState", _FABRIC_MANAGER)
    states = dict(re.findall(r"^(\w+)=(.*)$", said, re.MULTILINE))
    if states.get("LoadState", "not-found") == "not-found":
        return None
    version = re.search(r"\b[0-9]{3,4}(?:\.[0-9]+)+\b", output_of(run, "nv-fabricmanager", "--version"))
    return {"state": states.get("ActiveState", "unknown"), "version": version[0] if version else None}


def output_of(run: RunCommand, *command: str) -> str:
    """What a command says on its standard output; nothing when it cannot be run."""
    try:
        return run(list(command), environ_update={"LC_ALL": "C"}, handle_exceptions=False)[1]
    except OSError:
        return ""
