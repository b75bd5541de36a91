# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""host_drift compares a host with its record, and writes it."""

from __future__ import annotations

import pytest

from ansible_collections.llmfleet.serving.plugins.modules import host_drift


@pytest.fixture
def asked(run_module, tmp_path, monkeypatch):
    """asked(**options): what the module returns on this machine, with a systemctl of our own."""

    def ask(status=0, check=False, **options):
        (tmp_path / "systemctl").write_text(f"#!/bin/sh\nexit {status}\n")
        (tmp_path / "systemctl").chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
        record, tree = str(tmp_path / "drift.json"), tmp_path / "tree"
        tree.mkdir(exist_ok=True)
        return run_module(host_drift, check=check, record=record, trees=[str(tree)], inputs="x", **options)

    return ask


def test_a_host_is_compared_recorded_and_compared(asked, tmp_path):
    first = asked()
    assert first == {"changed": False, "drifted": True, "reasons": ["no run has come to its end on this host"]}
    assert asked(check=True, state="recorded") == {"changed": True}
    assert not (tmp_path / "drift.json").exists()
    assert asked(state="recorded") == {"changed": True}
    assert asked() == {"changed": False, "drifted": False, "reasons": []}
    assert asked(state="recorded") == {"changed": False}
    assert asked(days_max=0)["drifted"]


def test_reasons_are_bounded(asked, tmp_path):
    asked(state="recorded")
    for number in range(30):
        (tmp_path / "tree" / f"{number:02}").touch()
    reasons = asked()["reasons"]
    assert len(reasons) == 21
    assert reasons[0] == f"tree {tmp_path}/tree/00 is new"
    assert reasons[-1] == "and 10 more"


def test_a_host_that_cannot_be_looked_at_has_drifted(asked):
    asked(state="recorded")
    result = asked(status=1)
    assert result["drifted"]
    assert "systemctl cannot tell" in result["reasons"][0]


def test_a_host_that_cannot_be_looked_at_is_not_recorded(asked):
    result = asked(status=1, state="recorded")
    assert result["failed"]
    assert "systemctl cannot tell" in result["msg"]
