"""playbooks/report.yml, as one runs it: with hosts that do not answer, and on a host that is fit."""

from __future__ import annotations

import json
import platform
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
FIRST = f"""
- hosts: llmfleet
  gather_facts: false
  tasks:
    - ansible.builtin.fail:
      when: inventory_hostname == 'here-too'
- ansible.builtin.import_playbook: {ROOT}/playbooks/report.yml
"""


@pytest.fixture
def report(tmp_path, two_h200):
    """report(*hosts, **variables): exit status, changes and what is in report.json, of a run with these hosts.

    Hosts of the names "here" and "here-too" are this machine with the GPUs of a recording, any other one is silent, and
    the second has failed in a play before.
    """

    def run(*names, options=(), **variables):
        connections = {name: "local" if name.startswith("here") else "silent" for name in names}
        hosts = {
            name: {"ansible_connection": kind, "ansible_python_interpreter": sys.executable}
            for name, kind in connections.items()
        }
        (tmp_path / "hosts.yml").write_text(json.dumps({"llmfleet": {"hosts": hosts}}))
        settled = {"gpu_gate_profile": "h200", "gpu_gate_count": 2, "model_store_directory": str(tmp_path / "models")}
        (tmp_path / "first.yml").write_text(FIRST)
        playbook = tmp_path / "first.yml" if "here-too" in names else ROOT / "playbooks/report.yml"
        argv = [
            Path(sys.executable).with_name("ansible-playbook"),
            playbook,
            "-i",
            tmp_path / "hosts.yml",
            "-e",
            json.dumps({**settled, **variables}),
            *options,
        ]
        done = subprocess.run(
            [*map(str, argv)], cwd=tmp_path, env=two_h200, capture_output=True, text=True, timeout=300, check=False
        )
        file = tmp_path / "llmfleet-report/report.json"
        document = json.loads(file.read_text()) if file.exists() else None
        changed = sum(map(int, re.findall(r"changed=(\d+)", done.stdout)))
        return done.returncode, changed, document, done.stdout + done.stderr

    return run


def test_a_fit_host_and_again(report, tmp_path):
    status, predicted, document, output = report("here", options=["--check"])
    assert (status, document) == (0, None), output
    status, changed, document, output = report("here")
    assert (status, changed) == (0, predicted), output
    assert changed == 2  # the directory, and the files
    assert [host["verdict"] for host in document["hosts"]] == ["pass"]
    assert document["hosts"][0]["gpus"][0]["name"] == "NVIDIA H200"
    assert {path.name for path in (tmp_path / "llmfleet-report").iterdir()} == {
        "report.html",
        "report.json",
        "report.xml",
    }
    assert report("here")[:3] == (0, 0, document)
    status, changed, again, output = report("here", report_again=True)
    assert (status, changed) == (0, 2), output
    assert again["changes"] == {"since": document["generated"], "items": []}
    assert json.loads((tmp_path / "llmfleet-report/previous.json").read_text()) == document


def test_a_silent_host_is_a_row_and_fails_at_the_end(report, tmp_path):
    status, _changed, document, output = report("here", "gone")
    assert status == 2
    assert "gone: It did not answer: " in output
    assert {host["name"]: host["verdict"] for host in document["hosts"]} == {"here": "pass", "gone": "silent"}
    page = (tmp_path / "llmfleet-report/report.html").read_text()
    assert '<tr class="silent">' in page
    assert "No route to &lt;b&gt;host&lt;/b&gt;" in page
    status, _changed, document, output = report("here")
    assert status == 0, output
    assert [(row["subject"], row["before"], row["after"]) for row in document["changes"]["items"]] == [
        ("gone", "silent", None)
    ]


def test_what_a_silent_host_is_to_have_counts(report):
    service = {"name": "r1", "engine": "ollama", "model": "r1", "port": 1}
    _status, _changed, document, output = report("gone", llmfleet_services=[service], llmfleet_models=[{"name": "r1"}])
    assert [document["summary"][name] for name in ("services", "models", "models_intact")] == [1, 1, 0], output


def test_a_fleet_of_which_nobody_answers(report):
    status, _changed, document, output = report("gone1", "gone2")
    assert status == 2
    assert document["summary"]["silent"] == 2, output


def test_a_refused_host_and_one_whose_service_is_not_there(report):
    secret = {"name": "r1", "engine": "ollama", "model": "r1", "port": 1, "args": {"api_key": "c4n4ry-77"}}
    status, _changed, document, output = report(
        "here", gpu_gate_count=8, llmfleet_services=[secret], llmfleet_models=[{"name": "r1"}]
    )
    assert status == 2
    reasons = [(reason["code"], reason["subject"]) for reason in document["hosts"][0]["reasons"]]
    assert reasons == [("gate", "gpu-count"), ("model", "r1"), ("service", "r1")]
    assert "here: gpu-count: expected 8 GPUs, found 2." in output
    assert "c4n4ry" not in json.dumps(document)
    assert len(document["hosts"][0]["gpus"]) == 2
    assert document["hosts"][0]["identity"]["kernel"] == platform.release()


def test_a_host_that_cannot_be_read_and_one_that_has_dropped_out(report, tmp_path):
    (tmp_path / "systemctl").write_text("#!/bin/sh\necho System has not been booted with systemd >&2\nexit 1\n")
    status, _changed, document, output = report("here", "here-too")
    assert status == 2
    assert "here-too: It did not answer: It dropped out before it was asked." in output
    (reason,) = document["hosts"][0]["reasons"]
    assert reason["code"] == "unread"
    assert "System has not been booted" in reason["text"], output
    assert len(document["hosts"][0]["gpus"]) == 2


def test_an_earlier_report_that_is_none_is_not_written_over(report, tmp_path):
    (tmp_path / "llmfleet-report").mkdir()
    (tmp_path / "llmfleet-report/report.json").write_text("{}")
    status, _changed, document, output = report("here")
    assert (status, document) == (2, {})
    assert "is no report of version 1" in output
