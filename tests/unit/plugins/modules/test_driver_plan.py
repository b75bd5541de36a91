# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""driver_plan on a Debian 13 whose apt answers as it was recorded: it tells, refuses, and never changes anything."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from ansible.module_utils.basic import AnsibleModule

from ansible_collections.llmfleet.serving.plugins.module_utils._driver_names import System
from ansible_collections.llmfleet.serving.plugins.module_utils._gpu_host import PciDevice
from ansible_collections.llmfleet.serving.plugins.modules import driver_plan

SESSION = Path(__file__).parents[1] / "module_utils/fixtures/apt-3.0-debian13/session.json"
SWITCH = PciDevice("0000:05:00.0", "0x22a3", None, switch=True)
PRESENT = {"source": "distribution", "version": "550"}


@pytest.fixture(autouse=True)
def asked(monkeypatch):
    """The commands that were run; each must be one that was recorded."""
    session = json.loads(SESSION.read_text())
    asked = []

    def run_command(_self, argv, **_options):
        asked.append(argv)
        return tuple(session[" ".join(argv)])

    monkeypatch.setattr(AnsibleModule, "run_command", run_command)
    monkeypatch.setattr(System, "read", lambda: System("debian", "13"))
    monkeypatch.setattr(driver_plan, "pci_devices", list)
    return asked


@pytest.mark.parametrize("check", [True, False])
def test_tells_which_packages_make_a_driver(run_module, asked, check):
    result = run_module(driver_plan, check=check, **PRESENT)
    assert result["changed"] is False
    assert result["version"] == "550.163.01"
    assert result["origin"] == {"origin": "Debian", "label": "Debian", "site": "deb.debian.org"}
    assert {"libcuda1=550.163.01-2", "nvidia-open-kernel-support=550.163.01-2"} < set(result["packages"])
    assert result["kernel_packages"] == ["nvidia-open-kernel-dkms=550.163.01-2"]
    assert result["changed_needed"] is True
    new = {change["name"]: change for change in result["transaction"]["install"]}
    assert new["dkms"] == {"name": "dkms", "from": None, "to": "3.2.2-1~deb13u1", "origin": "Debian:13.8/stable"}
    assert {argv[0] for argv in asked} == {"apt-cache", "apt-get", "dpkg-query"}
    assert [argv[1] for argv in asked if argv[0] == "apt-get"] == ["--simulate"]


def test_tells_which_packages_would_go(run_module):
    result = run_module(driver_plan, state="absent")
    assert result["changed"] is False
    assert result["names"] == ["libnvidia-ml1", "nvidia-alternative", "nvidia-legacy-check", "nvidia-smi"]
    assert [change["to"] for change in result["transaction"]["remove"]] == [None] * 4


def test_returns_what_it_documents(run_module):
    documented = set(yaml.safe_load(driver_plan.RETURN))
    for wanted in (PRESENT, {"state": "absent"}):
        assert set(run_module(driver_plan, **wanted)) - {"changed"} == documented


@pytest.mark.parametrize(
    ("fabric_manager", "devices", "wanted"),
    [("auto", [SWITCH], True), ("auto", [], False), (True, [], True), (False, [SWITCH], False)],
)
def test_wants_a_fabric_manager_where_there_are_switches(run_module, monkeypatch, fabric_manager, devices, wanted):
    monkeypatch.setattr(driver_plan, "pci_devices", lambda: devices)
    result = run_module(driver_plan, fabric_manager=fabric_manager, **PRESENT)
    assert ("Debian has none" in result.get("msg", "")) is wanted
    assert result.get("failed", False) is wanted


def test_fails_with_all_reasons(run_module):
    result = run_module(driver_plan, source="distribution", version="550.144.03")
    assert result["failed"] is True
    assert "Driver 550.144.03 cannot be put together from Debian, and nothing was changed:\n- " in result["msg"]
    assert "libcuda1 has 550.163.01; " in result["msg"]


def test_wants_a_version(run_module):
    assert "version" in run_module(driver_plan, source="distribution")["msg"]


def test_asks_dnf_on_rhel(run_module, asked, monkeypatch):
    monkeypatch.setattr(System, "read", lambda: System("rhel", "9"))
    with pytest.raises(KeyError, match=r"rpm --query --all"):
        run_module(driver_plan, version="580")
    assert [argv[0] for argv in asked] == ["rpm"]
