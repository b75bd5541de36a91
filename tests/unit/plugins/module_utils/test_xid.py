# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Xids are read from the kernel's log, and each says what NVIDIA's catalogue says."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.llmfleet.serving.plugins.module_utils import _xid
from ansible_collections.llmfleet.serving.plugins.module_utils._xid import is_unknown, parse_log, remedy

LOG = """\
1795443300.000001 gpu-host kernel: Linux version 6.8.0-60-generic
1795443369.123456 gpu-host kernel: NVRM: Xid (PCI:0000:5c:00): 79, pid=4242, name=python3, GPU has fallen off the bus.
1795443370.000000 kernel: [ 12.5] NVRM: Xid (PCI:0000:5c:00): 45, pid=4242, name=python3, Ch 00000008
1795443371.000000 gpu-host kernel: NVRM: Xid (PCI:0000:5C:00.0): 45, pid=4243, name=python3, Ch 00000009
1795443372.000000 gpu-host kernel: nvidia-nvswitch0: SXid (PCI:0000:07:00.0): 20034, Fatal, Link 30 LTSSM Fault Up
1795443373.000000 gpu-host kernel: NVRM: GPU at PCI:0000:5c:00: GPU-00000000-0000-4000-8000-800000000003
"""


def event(code, message="", kind="Xid"):
    return {"kind": kind, "code": code, "pci_bus_id": "", "count": 1, "first": 0.0, "last": 0.0, "message": message}


def test_events_are_gathered_by_device_and_number():
    assert parse_log(LOG) == [
        {
            "kind": "Xid",
            "code": 79,
            "pci_bus_id": "00000000:5C:00.0",
            "count": 1,
            "first": 1795443369.123456,
            "last": 1795443369.123456,
            "message": "Xid (PCI:0000:5c:00): 79, pid=4242, name=python3, GPU has fallen off the bus.",
        },
        {
            "kind": "Xid",
            "code": 45,
            "pci_bus_id": "00000000:5C:00.0",
            "count": 2,
            "first": 1795443370.0,
            "last": 1795443371.0,
            "message": "Xid (PCI:0000:5C:00.0): 45, pid=4243, name=python3, Ch 00000009",
        },
        {
            "kind": "SXid",
            "code": 20034,
            "pci_bus_id": "00000000:07:00.0",
            "count": 1,
            "first": 1795443372.0,
            "last": 1795443372.0,
            "message": "SXid (PCI:0000:07:00.0): 20034, Fatal, Link 30 LTSSM Fault Up",
        },
    ]


def test_what_lies_before_the_marker_is_left_out():
    assert [(one["code"], one["count"]) for one in parse_log(LOG, since=1795443371.0)] == [(45, 1), (20034, 1)]


@given(st.text(), st.text())
def test_other_lines_never_crash(before, after):
    parse_log(f"{before}\n1.5 kernel: NVRM: Xid (PCI:0000:5c:00): {after}\n{after}")


# The actions of NVIDIA's catalogue for Hopper, as the issue tracker of this collection has them written down.
FAIL = [46, 48, 54, 62, 64, 74, 79, 95, 109, 110, 119, 120, 136, 140, 143, 156, 158, 167, 169, 171, 172]
HARMLESS = [8, 13, 31, 43, 45, 60, *range(68, 73), *range(75, 78), 80, *range(82, 87), 88, 89, 94, *range(96, 106)]
COUNTED = [63, 66, 67, 92, 106, 107, 108, 137, 141, 157]


@pytest.mark.parametrize("code", FAIL)
def test_a_fault_of_the_host_has_a_remedy(code):
    assert remedy(event(code))
    assert not is_unknown(event(code))


@pytest.mark.parametrize("code", [*HARMLESS, *COUNTED])
def test_a_fault_of_a_program_or_a_count_says_nothing_against_the_host(code):
    assert remedy(event(code)) is None
    assert not is_unknown(event(code))


@pytest.mark.parametrize("code", [1, 56, 57, 58, 65, 73, 81, 144, 155, 999])
def test_a_number_that_hopper_does_not_have_is_unknown(code):
    assert remedy(event(code)) is None
    assert is_unknown(event(code))


def test_every_number_is_in_one_place():
    assert sorted(_xid.REMEDIES) == FAIL
    assert not set(FAIL) & {*HARMLESS, *COUNTED}


@pytest.mark.parametrize(
    ("text", "action"),
    [
        (
            "Xid (PCI:0): 154, GPU recovery action changed from 0x0 (None) to 0x2 (Node Reboot Required)",
            "Node Reboot Required",
        ),
        ("Xid (PCI:0): 154, GPU recovery action changed from 0x1 (GPU Reset Required) to 0x0 (None)", None),
        ("Xid (PCI:0): 154, something new", "Xid (PCI:0): 154, something new"),
    ],
)
def test_154_says_itself_what_to_do(text, action):
    assert remedy(event(154, text)) == action
    assert not is_unknown(event(154, text))


@pytest.mark.parametrize(
    ("text", "wrong"),
    [("SXid (PCI:0): 20034, Fatal, Link 30", True), ("SXid (PCI:0): 10003, Non-fatal, Link 30", False)],
)
def test_nvswitch_says_itself_whether_it_is_fatal(text, wrong):
    assert bool(remedy(event(20034, text, kind="SXid"))) == wrong
    assert not is_unknown(event(99999, text, kind="SXid"))
