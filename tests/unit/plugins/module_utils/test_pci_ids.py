# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The names by PCI device id are those that drivers told, and find every profile."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from ansible_collections.llmfleet.serving.plugins.module_utils._gate_profiles import PROFILES
from ansible_collections.llmfleet.serving.plugins.module_utils._pci_ids import GPUS, NVSWITCHES

RECORDINGS = sorted((Path(__file__).parents[4] / "tests/fixtures/recordings").glob("*/smi-q.xml"))


def test_every_profile_is_found_by_one_id():
    for profile in PROFILES.values():
        assert list(GPUS.values()).count(profile.name) == 1


@pytest.mark.parametrize("recording", RECORDINGS, ids=lambda path: path.parent.name)
def test_recorded_hosts_have_the_same_names(recording):
    xml = recording.read_text()
    [device] = set(re.findall(r"<pci_device_id>(\w{4})10DE</pci_device_id>", xml))
    [name] = set(re.findall(r"<product_name>(.*)</product_name>", xml))
    assert GPUS[f"0x{device.lower()}"] == name


def test_ids_are_as_the_kernel_writes_them():
    assert all(re.fullmatch("0x[0-9a-f]{4}", device) for device in [*GPUS, *NVSWITCHES])
