# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""host_report returns what a host is and has on record, and what the gate says of it, and changes nothing."""

from __future__ import annotations

import platform

import pytest

from ansible_collections.llmfleet.serving.plugins.module_utils._report import Found, build
from ansible_collections.llmfleet.serving.plugins.modules import host_report


@pytest.fixture
def ask(run_module, tmp_path, monkeypatch):
    """ask(systemctl=..., **options): the result on a host without a driver, whose systemctl is that script."""

    def run(systemctl="exit 0", **options):
        (tmp_path / "systemctl").write_text(f"#!/bin/sh\n{systemctl}\n")
        (tmp_path / "systemctl").chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
        wanted = {"profile": "h800", "source": "nvidia-smi", "model_directory": str(tmp_path / "no")}
        return run_module(host_report, **{**wanted, "record": str(tmp_path / "none"), **options})

    return run


@pytest.mark.parametrize("check", [False, True])
def test_a_host_without_anything(ask, check):
    result = ask(check=check)
    assert set(result) == {"changed", "identity", "gate", "records"}
    assert result["changed"] is False
    assert result["records"] == {"models": [], "units": [], "figures": {}}


def test_a_refusal_is_a_finding(ask):
    result = ask()
    assert "failed" not in result
    assert (result["gate"]["verdict"], result["gate"]["facts"]) == ("fail", None)
    assert [one["rule"] for one in result["gate"]["findings"]] == ["driver-answers"]


def test_the_report_has_a_use_for_every_fact(ask):
    facts = ask()["identity"]
    assert facts["ansible_kernel"] == platform.release()
    assert set(facts) <= {f"ansible_{name}" for name in host_report._FACTS}
    told = {f"ansible_{name}": ["0", "maker", "word"] if name == "processor" else "word" for name in host_report._FACTS}
    (host,) = build({"host": Found(identity=told)}, generated="", title="", stack="")["hosts"]
    assert set(host["identity"].values()) == {"word", "word word"}


def test_a_host_without_systemd_has_told_the_rest(ask):
    result = ask("echo System has not been booted >&2; exit 1")
    assert result["failed"]
    assert "System has not been booted" in result["msg"]
    assert result["gate"]["verdict"] == "fail"
    assert "ansible_kernel" in result["identity"]
    assert "records" not in result


def test_an_option_that_is_refused(ask):
    result = ask(driver_version_min="new")
    assert (result["failed"], "gate" in result) == (True, False)
    assert "'new' is not a version" in result["msg"]


def test_a_directory_that_is_none(ask, tmp_path):
    (tmp_path / "file").write_text("")
    result = ask(model_directory=str(tmp_path / "file"))
    assert result["failed"]
    assert str(tmp_path / "file") in result["msg"]


def test_somebody_has_to_say_what_is_expected(run_module):
    assert "profile, baseline" in run_module(host_report)["msg"]
