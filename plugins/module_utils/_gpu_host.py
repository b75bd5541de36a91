# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a host itself tells of its GPUs: systemd, the kernel's log and the PCI bus. Private to this collection."""

from __future__ import annotations

import re
from pathlib import Path

from ansible_collections.llmfleet.serving.plugins.module_utils._gpu_facts import FabricManager, RunCommand, XidEvents
from ansible_collections.llmfleet.serving.plugins.module_utils._xid import parse_log

_FABRIC_MANAGER = "nvidia-fabricmanager.service"
_PCI_DEVICES = Path("/sys/bus/pci/devices")
_NVIDIA = "0x10de"
# Base classes of PCI: a display controller. NVSwitches are bridges.
_DISPLAY = "0x03"
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


def pci_gpus(devices: Path = _PCI_DEVICES) -> int | None:
    """NVIDIA GPUs on the PCI bus, without those given to virtual machines; None where /sys shows none at all."""
    found = [device for device in devices.glob("*") if _word(device / "vendor") == _NVIDIA]
    gpus = [device for device in found if _word(device / "class").startswith(_DISPLAY)]
    return sum((gpu / "driver").resolve().name not in _GIVEN_AWAY for gpu in gpus) if gpus else None


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
    log = _output(run, "journalctl", "--dmesg", "--no-pager", "--quiet", "--output=short-unix")
    return parse_log(log, since) if log else None


def read_fabric_manager(run: RunCommand) -> FabricManager | None:
    """The fabric manager's unit and version; None where systemd knows no such unit."""
    said = _output(run, "systemctl", "show", "--property=LoadState,ActiveState", _FABRIC_MANAGER)
    states = dict(re.findall(r"^(\w+)=(.*)$", said, re.MULTILINE))
    if states.get("LoadState", "not-found") == "not-found":
        return None
    version = re.search(r"\b[0-9]{3,4}(?:\.[0-9]+)+\b", _output(run, "nv-fabricmanager", "--version"))
    return {"state": states.get("ActiveState", "unknown"), "version": version[0] if version else None}


def _output(run: RunCommand, *command: str) -> str:
    """What a command says on its standard output; nothing when it cannot be run."""
    try:
        return run(list(command), environ_update={"LC_ALL": "C"}, handle_exceptions=False)[1]
    except OSError:
        return ""
