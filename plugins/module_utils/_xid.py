# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Xids: the error numbers that the NVIDIA driver writes to the kernel's log. Private to this collection.

What each number asks for is NVIDIA's own catalogue for Hopper (docs.nvidia.com/deploy/xid-errors, "Analyzing Xid
Errors with the Xid Catalog"), as read in November 2026. Numbers of faults of a program, or of events that are only
counted, say nothing against a host.
"""

from __future__ import annotations

import re
import typing as t

from ansible_collections.llmfleet.serving.plugins.module_utils._gpu_facts import XidEvents, bus_id

_RESET = "reset the GPU"
_RESTART = "restart the host"
# What a host is refused for, and what to do about it.
REMEDIES = {
    **dict.fromkeys((46, 62, 64, 95, 109, 110, 119, 120, 136, 140, 143, 156, 158), _RESET),
    79: _RESTART,
    48: "reset the GPU; if it is SRAM and over the threshold, have the GPU replaced",
    74: "look at the NVLink that it names, then reset the GPU",
    54: "check the power cables",
    # New numbers, for which the catalogue's column of immediate actions is blank.
    **dict.fromkeys((167, 169, 171, 172), "ask NVIDIA's support"),
}
# Programs end with these, by their own fault or together with the memory that they used.
_OF_PROGRAMS = {8, 13, 31, 43, 45, 60, *range(68, 73), 75, 76, 77, 80, *range(82, 87), 88, 89, 94, *range(96, 106)}
# These are counted, or only say what was done: 63 is a row that was remapped.
_COUNTED = {63, 66, 67, 92, 106, 107, 108, 137, 141, 157}
# Its text says what has to be done: "GPU recovery action changed from 0x0 (None) to 0x2 (Node Reboot Required)".
_RECOVERY_ACTION = 154
_HARMLESS = _OF_PROGRAMS | _COUNTED

_LINE = re.compile(
    r"^(?P<time>[0-9]{1,12}\.[0-9]{1,9}) .*?"
    r"(?P<message>(?P<kind>S?Xid) \((?:PCI:)?(?P<address>[0-9A-Fa-f]{1,8}:[0-9A-Fa-f]{2}:[0-9A-Fa-f]{2}(?:\.[0-9])?)\)"
    r": (?P<code>[0-9]{1,6})\b.*)$",
    re.MULTILINE,
)
_CHANGED = re.compile(r"changed from .*? to [^(]*\((?P<action>[^)]*)\)")


def parse_log(log: str, since: float = 0) -> list[XidEvents]:
    """The Xids and SXids in what `journalctl --dmesg --output=short-unix` prints, one entry for each device and number.

    :param since: seconds since 1970; earlier ones are left out.
    """
    events: dict[tuple[str, str, int], XidEvents] = {}
    for line in _LINE.finditer(log):
        seconds = float(line["time"])
        if seconds < since:
            continue
        event = _event(line, seconds)
        known = events.setdefault((event["pci_bus_id"], event["kind"], event["code"]), event)
        if known is not event:
            known["count"] += 1
            known["last"], known["message"] = seconds, event["message"]
    return list(events.values())


def _event(line: re.Match[str], seconds: float) -> XidEvents:
    address = line["address"] if "." in line["address"] else f"{line['address']}.0"
    return {
        "kind": line["kind"],
        "code": int(line["code"]),
        "pci_bus_id": t.cast(str, bus_id(address)),
        "count": 1,
        "first": seconds,
        "last": seconds,
        "message": line["message"][:500],
    }


def remedy(event: XidEvents) -> str | None:
    """What the host has to be refused for until it is done; None when the event says nothing against the host."""
    if event["kind"] == "SXid":
        # NVSwitch says itself what it is: ", Non-fatal, " or ", Fatal, ".
        return "restart the host, and watch that NVSwitch" if ", Fatal" in event["message"] else None
    if event["code"] == _RECOVERY_ACTION:
        changed = _CHANGED.search(event["message"])
        action = changed["action"] if changed else event["message"]
        return None if action == "None" else action
    return REMEDIES.get(event["code"])


def is_unknown(event: XidEvents) -> bool:
    """Whether the catalogue has no entry for this number on Hopper."""
    known = _HARMLESS | REMEDIES.keys() | {_RECOVERY_ACTION}
    return event["kind"] == "Xid" and event["code"] not in known
