# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""gpu_gate passes or refuses a host, with all reasons, in check mode too."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import yaml
from ansible.module_utils.basic import AnsibleModule
from run_command import run_command

from ansible_collections.llmfleet.serving.plugins.module_utils import _gates, _gpu
from ansible_collections.llmfleet.serving.plugins.modules import gpu_gate

H200 = Path(__file__).parents[4] / "tests/fixtures/recordings/h200-x2-driver580"
KEYS = {"changed", "facts", "verdict", "findings", "rules"}


@pytest.fixture
def two_h200(tmp_path, monkeypatch):
    """two_h200(old=new, ...): a host whose nvidia-smi answers what was recorded from two H200, some words replaced."""
    program = tmp_path / "nvidia-smi"
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")

    def install(replaced: dict[str, str] | None = None) -> None:
        xml = (H200 / "smi-q.xml").read_text()
        for old, new in (replaced or {}).items():
            assert old in xml
            xml = xml.replace(old, new)
        (tmp_path / "smi-q.xml").write_text(xml)
        answers = f'case "$1" in -q) cat {tmp_path}/smi-q.xml ;; nvlink) cat {H200}/topo.txt ;; esac'
        program.write_text(f"#!/bin/sh\n{answers}\n")
        program.chmod(0o755)

    return install


@pytest.fixture
def warnings(monkeypatch):
    said: list[str] = []
    monkeypatch.setattr(AnsibleModule, "warn", lambda _self, warning: said.append(warning))
    return said


@pytest.mark.parametrize("check", [False, True])
def test_passes_a_host_that_is_fit(run_module, two_h200, warnings, check):
    two_h200()
    result = run_module(gpu_gate, profile="h200", count=2, source="nvidia-smi", check=check)
    assert set(result) == KEYS
    assert (result["changed"], result["verdict"], result["findings"]) == (False, "pass", [])
    assert result["facts"] == _gpu.read_facts(run_command, "nvidia-smi", 60)
    assert warnings == []


@pytest.mark.parametrize("check", [False, True])
def test_refuses_with_all_reasons_at_once(run_module, two_h200, warnings, check):
    two_h200(
        {"<current_mig>Disabled": "<current_mig>Enabled", "<persistence_mode>Enabled": "<persistence_mode>Disabled"}
    )
    result = run_module(gpu_gate, profile="h800", source="nvidia-smi", driver_version_min="600", check=check)
    assert set(result) == {"failed", "findings", "msg", "rules", "verdict"}
    assert (result["failed"], result["verdict"]) == (True, "fail")
    assert [line.split(". ")[0] for line in result["msg"].splitlines()] == [
        "The GPUs are not fit for the profile h800:",
        "gpu-count: expected 8 GPUs, found 2",
        "gpu-name (GPUs 0, 1): expected NVIDIA H800, found NVIDIA H200",
        "driver-version: expected driver 600 or newer, found 580.159.04",
        "mig-mode (GPUs 0, 1): expected MIG off, found on",
    ]
    assert [(one["rule"], one["gpu"]) for one in result["findings"]] == [
        ("gpu-count", None),
        ("gpu-name", 0),
        ("gpu-name", 1),
        ("driver-version", None),
        ("mig-mode", 0),
        ("mig-mode", 1),
        ("persistence-mode", 0),
        ("persistence-mode", 1),
    ]
    assert [one["rule"] for one in result["rules"]] == ["driver-answers", *(rule.id for rule in _gates.RULES)]
    assert [one.split(". ")[0] for one in warnings] == [
        "persistence-mode (GPUs 0, 1): expected persistence mode on, found off"
    ]


def test_warns_but_passes(run_module, two_h200, warnings):
    two_h200({"<persistence_mode>Enabled": "<persistence_mode>Disabled"})
    result = run_module(gpu_gate, profile="h200", count=2, source="nvidia-smi")
    assert result["verdict"] == "pass"
    assert len(result["findings"]) == 2
    assert len(warnings) == 1


def test_a_driver_that_hangs_is_a_verdict(run_module, tmp_path, monkeypatch):
    (tmp_path / "nvidia-smi").write_text("#!/bin/sh\nexec sleep 600\n")
    (tmp_path / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    result = run_module(gpu_gate, profile="h800", source="nvidia-smi", timeout=1)
    assert result["verdict"] == "fail"
    assert [one["rule"] for one in result["findings"]] == ["driver-answers"]
    assert "did not answer nvidia-smi within 1 s" in result["msg"]


@pytest.mark.parametrize(
    ("option", "fit", "unfit", "rule"),
    [
        ("count", 2, 3, "gpu-count"),
        ("nvlinks", 18, 19, "nvlink-count"),
        ("driver_version_min", "580.159.04", "580.159.05", "driver-version"),
        ("cuda_version_min", "13.0", "13.1", "cuda-version"),
        ("idle_memory_max", 0, -1, "idle"),
        ("idle_utilization_max", 0, -1, "idle"),
    ],
)
def test_each_option_sets_its_limit(run_module, two_h200, option, fit, unfit, rule):
    two_h200()
    options = {"profile": "h200", "count": 2, "source": "nvidia-smi"}
    assert run_module(gpu_gate, **{**options, option: fit})["verdict"] == "pass"
    refused = run_module(gpu_gate, **{**options, option: unfit})
    assert {one["rule"] for one in refused["findings"]} == {rule}


def test_a_host_that_already_serves_passes_with_its_unit_allowed(run_module, two_h200, monkeypatch):
    process = """<processes><process_info><pid>4242</pid><process_name>ollama</process_name>
        <used_memory>90000 MiB</used_memory></process_info>"""
    two_h200({"<processes>": process, "<used>0 MiB": "<used>90000 MiB"})
    monkeypatch.setattr(_gpu, "systemd_unit", {4242: "ollama.service"}.get)
    options = {"profile": "h200", "count": 2, "source": "nvidia-smi"}
    assert run_module(gpu_gate, **options, allowed_units=["ollama.service"])["verdict"] == "pass"
    refused = run_module(gpu_gate, **options)
    assert {one["rule"] for one in refused["findings"]} == {"processes", "idle"}


@pytest.mark.parametrize(
    ("options", "msg"),
    [
        ({"count": 0}, "A count of 0 GPUs is refused: expected at least 1."),
        (
            {"driver_version_min": "new"},
            "'new' is not a version: expected numbers with dots between them, like 550.90.12.",
        ),
        ({"timeout": 0}, "A time limit of 0 s is refused: expected 1 to 3600."),
    ],
)
def test_an_option_that_makes_no_sense_is_refused_without_a_verdict(run_module, options, msg):
    assert run_module(gpu_gate, profile="h800", **options) == {"failed": True, "msg": msg}


def test_defaults_and_rules_are_documented_as_they_are():
    options = yaml.safe_load(gpu_gate.DOCUMENTATION)["options"]
    fields = {field.name: field.default for field in dataclasses.fields(_gates.Expectation)}
    shared = {name: options[name]["default"] for name in options if "default" in options[name] and name in fields}
    assert shared == {name: list(fields[name]) if name == "allowed_units" else fields[name] for name in shared}
    assert set(shared) == {"count", "idle_memory_max", "idle_utilization_max", "allowed_units"}
    for rule in ("driver-answers", *(rule.id for rule in _gates.RULES)):
        assert f"C({rule})" in gpu_gate.DOCUMENTATION


def test_figures_of_the_profiles_are_documented():
    text = " ".join(" ".join(yaml.safe_load(gpu_gate.DOCUMENTATION)["options"]["profile"]["description"]).split())
    for name, profile in _gates.PROFILES.items():
        described = text.split(f"V({name})", 1)[1]
        assert described.index(f"{profile.memory_min} MiB and {profile.nvlinks} NVLinks") < 40
        assert f"{profile.nvlink_speed_min} MB/s" in text
