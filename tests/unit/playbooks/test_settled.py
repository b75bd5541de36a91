"""playbooks/settled.yml: what a host costs on which there is nothing to do, and that it is asked then only."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]


@pytest.fixture
def settled(tmp_path, two_h200):
    """settled(**variables): the output of a run on two hosts, both this machine with two H200 and without a service."""

    def run(**variables):
        here = {"ansible_connection": "local", "ansible_python_interpreter": sys.executable}
        (tmp_path / "hosts.yml").write_text(json.dumps({"llmfleet": {"hosts": {"first": here, "second": here}}}))
        wanted = {"gpu_gate_profile": "h200", "gpu_gate_count": 2, "llmfleet_services": [], **variables}
        wanted["__gpu_gate_marker"] = str(tmp_path / "facts.d/gate.fact")
        wanted["model_store_directory"] = str(tmp_path / "models")
        program = Path(sys.executable).with_name("ansible-playbook")
        argv = [program, ROOT / "playbooks/settled.yml", "-i", tmp_path / "hosts.yml", "-e", json.dumps(wanted)]
        done = subprocess.run(
            [*map(str, argv)], cwd=tmp_path, env=two_h200, capture_output=True, text=True, timeout=300, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    return run


def test_a_further_host_costs_a_task_for_the_gate_and_one_for_the_report(settled, tmp_path):
    output = settled(llmfleet_settled=True)
    assert "Validating arguments" not in output
    assert re.search(r"second\s+: ok=2\s+changed=0", output), output
    document = json.loads((tmp_path / "llmfleet-report/report.json").read_text())
    assert [host["verdict"] for host in document["hosts"]] == ["pass", "pass"]
    assert "gate      pass" in output


def test_hosts_on_which_there_is_something_to_do_are_asked_elsewhere(settled):
    assert "ok=" not in settled()
