# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""host_report returns what a host has on record, and changes nothing."""

from __future__ import annotations

from ansible_collections.llmfleet.serving.plugins.modules import host_report


def test_a_host_without_anything(run_module, tmp_path, monkeypatch):
    (tmp_path / "systemctl").write_text("#!/bin/sh\nexit 0\n")
    (tmp_path / "systemctl").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    for check in (False, True):
        result = run_module(
            host_report, check=check, model_directory=str(tmp_path / "no"), record=str(tmp_path / "none")
        )
        assert result == {"changed": False, "models": [], "units": [], "figures": {}}


def test_a_host_without_systemd(run_module, tmp_path, monkeypatch):
    (tmp_path / "systemctl").write_text("#!/bin/sh\necho System has not been booted >&2\nexit 1\n")
    (tmp_path / "systemctl").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    result = run_module(host_report, model_directory=str(tmp_path), record=str(tmp_path / "none"))
    assert result["failed"]
    assert "System has not been booted" in result["msg"]


def test_a_directory_that_is_none(run_module, tmp_path):
    (tmp_path / "file").write_text("")
    result = run_module(host_report, model_directory=str(tmp_path / "file"), record=str(tmp_path / "none"))
    assert result["failed"]
    assert str(tmp_path / "file") in result["msg"]
