# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""host_check passes or refuses a bare host with all reasons, in check mode too, and leaves no trace on it."""

from __future__ import annotations

import functools
import json
import re
from pathlib import Path

import bare_host
import pytest
import yaml
from ansible.module_utils.basic import AnsibleModule

from ansible_collections.llmfleet.serving.plugins.module_utils import _host
from ansible_collections.llmfleet.serving.plugins.module_utils._host_rules import RULES
from ansible_collections.llmfleet.serving.plugins.modules import host_check

FLEET = {
    "gpu_profile": "h800",
    "kernel_module": True,
    "disk": [{"path": "/", "free": 0}],
    "models": [{"name": "tiny", "repo": "acme/tiny", "revision": "0" * 40}],
    "services": [{"name": "chat", "engine": "ollama", "model": "tiny", "port": 11434}],
}
MADE_ELSEWHERE = {
    "id": "lane",
    "object": "service chat",
    "expected": "driver 550 or newer",
    "found": "driver 535",
    "advice": "Choose another stack.",
}


@pytest.fixture
def host(tmp_path, monkeypatch):
    """The reference host, which the module takes for the one that it runs on."""
    root = bare_host.build(tmp_path / "host")
    monkeypatch.setattr(host_check, "read_host", functools.partial(_host.read_host, root=root))
    monkeypatch.setattr(AnsibleModule, "run_command", lambda _self, _argv, **_options: (0, "yes\n", ""))
    return root


@pytest.fixture
def warnings(monkeypatch):
    said: list[str] = []
    monkeypatch.setattr(AnsibleModule, "warn", lambda _self, warning: said.append(warning))
    return said


def tree(root: Path) -> list[tuple[str, float]]:
    return sorted((str(path), path.stat().st_mtime) for path in root.rglob("*"))


@pytest.mark.parametrize("check", [False, True])
def test_passes_a_host_that_is_fit(run_module, host, warnings, check):
    before = tree(host)
    result = run_module(host_check, **FLEET, check=check)
    assert set(result) == {"changed", "facts", "findings", "needs", "verdict"}
    assert (result["changed"], result["verdict"], result["findings"], warnings) == (False, "pass", [], [])
    assert result["facts"]["kernel"]["running"] == bare_host.KERNEL
    assert result["needs"][0]["name"] == "tiny"
    assert tree(host) == before
    json.dumps(result)


@pytest.mark.parametrize("check", [False, True])
def test_refuses_with_all_reasons_at_once(run_module, host, warnings, check):
    bare_host.write(host, {"etc/os-release": "ID=ubuntu\nVERSION_ID=20.04\n", bare_host.SECURE_BOOT: b"\0\0\0\0\1"})
    (host / "sys/bus/pci/devices/0000:05:00.0/class").write_text("0x060400\n")
    found = [{**MADE_ELSEWHERE, "severity": severity} for severity in ("fail", "warn")]
    result = run_module(host_check, **FLEET, findings=found, check=check)
    assert set(result) == {"failed", "facts", "findings", "msg", "needs", "verdict"}
    assert result["verdict"] == "fail"
    assert [line.split(" (")[0] for line in result["msg"].splitlines()] == [
        "This host cannot do the job:",
        "- operating-system",
        "- secure-boot",
        "- lane",
    ]
    assert [line.split(" (")[0] for line in warnings] == ["nvswitch", "lane"]
    assert [one["id"] for one in result["findings"]] == ["operating-system", "secure-boot", "nvswitch", "lane", "lane"]
    assert (
        "- lane (service chat): expected driver 550 or newer, found driver 535. Choose another stack." in result["msg"]
    )


def test_warnings_alone_refuse_nobody(run_module, host, warnings):
    result = run_module(host_check, **FLEET, findings=[{**MADE_ELSEWHERE, "severity": "warn"}])
    assert (result["verdict"], len(warnings)) == ("pass", 1)


def test_disk_is_asked_for_where_it_is_wanted(run_module, host, warnings):
    result = run_module(host_check, **{**FLEET, "disk": [{"path": "/opt/engines", "free": 1 << 30}]})
    assert (
        result["msg"].splitlines()[1].startswith(f"- disk (/opt/engines): expected {1 << 30} GiB free or more, found ")
    )


def test_table_of_sizes_warns(run_module, host, warnings):
    bare_host.write(host, {"proc/cpuinfo": bare_host.cpuinfo(cores=1)})
    row = {"parameters": 70, "cores": 16, "gpu_memory": 160, "memory": 128, "disk": 0}
    model = {"name": "llama", "repo": "meta/Llama-3-70B", "revision": "0" * 40}
    result = run_module(host_check, **{**FLEET, "models": [*FLEET["models"], model]}, sizes=[row])
    assert result["verdict"] == "pass"
    assert warnings[0].startswith("size-cores (model llama): expected 16 cores, by the table of sizes, found 2. ")


def test_what_cannot_be_looked_at_is_one_clear_error(run_module, host, monkeypatch):
    def refuse(*_args, **_options):
        raise PermissionError(13, "Permission denied", "/data/models")

    monkeypatch.setattr(host_check, "needs", refuse)
    assert run_module(host_check)["msg"] == "Looking at the host failed at /data/models: Permission denied (EACCES)."


@pytest.mark.parametrize(
    ("option", "value"),
    [("gpu_profile", "h900"), ("findings", [{"id": "x"}]), ("sizes", [{}]), ("disk", [{"path": "/"}])],
)
def test_wrong_options_are_refused(run_module, host, option, value):
    result = run_module(host_check, **{option: value})
    assert result["failed"]
    assert "verdict" not in result


@pytest.mark.parametrize("severity", ["fail", "warn"])
def test_documentation_names_every_rule(severity):
    described = yaml.safe_load(host_check.DOCUMENTATION)["description"][{"fail": 1, "warn": 2}[severity]]
    assert re.findall(r"C\(([\w-]+)\)", described) == [rule.id for rule in RULES if rule.severity == severity]
