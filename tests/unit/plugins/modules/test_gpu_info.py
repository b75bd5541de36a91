# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""gpu_info tells the facts as they are documented, in check mode too, and ends clearly when there are none."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from run_command import run_command

from ansible_collections.llmfleet.serving.plugins.module_utils import _gpu, _gpu_facts
from ansible_collections.llmfleet.serving.plugins.modules import gpu_info

H200 = Path(__file__).parents[4] / "tests/fixtures/recordings/h200-x2-driver580"


@pytest.fixture
def nvidia_smi(tmp_path, monkeypatch):
    """A host whose nvidia-smi answers what was recorded from two H200."""
    program = tmp_path / "nvidia-smi"
    answers = f'case "$*" in "-q -x") cat {H200}/smi-q.xml ;; "nvlink -s" | "topo -m") cat {H200}/topo.txt ;; esac'
    program.write_text(f"#!/bin/sh\n{answers}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")


@pytest.mark.parametrize("check", [False, True])
def test_tells_the_facts_and_changes_nothing(run_module, nvidia_smi, check):
    result = run_module(gpu_info, source="nvidia-smi", check=check)
    assert result.pop("changed") is False
    assert result == _gpu.read_facts(run_command, "nvidia-smi", 60)
    assert [gpu["name"] for gpu in result["gpus"]] == ["NVIDIA H200", "NVIDIA H200"]


def test_every_key_is_documented():
    documented = yaml.safe_load(gpu_info.RETURN)
    gpu = documented["gpus"]["contains"]
    assert list(documented) == list(_gpu_facts.Facts.__annotations__)
    assert list(gpu) == list(_gpu_facts.Gpu.__annotations__)
    assert list(gpu["nvlinks"]["contains"]) == list(_gpu_facts.NvLink.__annotations__)
    assert list(gpu["processes"]["contains"]) == list(_gpu_facts.Process.__annotations__)
    assert list(documented["fabric_manager"]["contains"]) == list(_gpu_facts.FabricManager.__annotations__)
    assert list(documented["xids"]["contains"]) == list(_gpu_facts.XidEvents.__annotations__)
    assert documented["schema"]["sample"] == _gpu_facts.SCHEMA


def test_without_a_driver_it_fails_clearly(run_module, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    result = run_module(gpu_info, source="nvidia-smi")
    assert result["failed"]
    assert result["msg"].startswith("nvidia-smi cannot be run: No such file or directory. Install")


def test_a_time_limit_that_is_none_is_refused(run_module):
    assert run_module(gpu_info, timeout=0)["msg"] == "A time limit of 0 s is refused: expected 1 to 3600."


def test_a_time_that_is_none_is_refused(run_module):
    assert run_module(gpu_info, xid_since="yesterday")["msg"].startswith("'yesterday' is not a time: expected one like")


def test_xids_before_a_time_are_left_out(run_module, nvidia_smi, tmp_path):
    log = "1795443369.0 host kernel: NVRM: Xid (PCI:0000:00:06): 79, GPU has fallen off the bus."
    (tmp_path / "journalctl").write_text(f"#!/bin/sh\necho '{log}'\n")
    (tmp_path / "journalctl").chmod(0o755)
    xids = {
        since: run_module(gpu_info, source="nvidia-smi", xid_since=since)["xids"]
        for since in ("2026-11-23T14:16:09Z", "2026-11-23T14:16:10Z")
    }
    assert [[event["code"] for event in events] for events in xids.values()] == [[79], []]
