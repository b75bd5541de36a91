"""playbooks/gate.yml, as one runs it: fit hosts beside one that is refused, and beside one that does not answer."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]


@pytest.fixture
def gate(tmp_path, two_h200):
    """gate(*hosts, **variables): exit status, verdicts by host, hosts that are marked, and output.

    Every host is this machine with two H200, of which "refused" is to have eight; "silent" does not answer.
    """

    def run(*names, options=(), **variables):
        settled = {
            "ansible_python_interpreter": sys.executable,
            "gpu_gate_profile": "h200",
            "__gpu_gate_marker": f"{tmp_path}/facts.d/{{{{ inventory_hostname }}}}.fact",
        }
        hosts = {
            name: {
                "ansible_connection": "silent" if name == "silent" else "local",
                "gpu_gate_count": 8 if name == "refused" else 2,
            }
            for name in names
        }
        (tmp_path / "hosts.yml").write_text(json.dumps({"llmfleet": {"hosts": hosts}}))
        program = Path(sys.executable).with_name("ansible-playbook")
        argv = [program, ROOT / "playbooks/gate.yml", "-i", tmp_path / "hosts.yml", *options]
        argv += ["-e", json.dumps({**settled, **variables})]
        environment = {**two_h200, "ANSIBLE_SHOW_CUSTOM_STATS": "1", "COLUMNS": "1000"}
        done = subprocess.run(
            [*map(str, argv)], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300, check=False
        )
        told = done.stdout.partition("CUSTOM STATS")[2].partition("RUN: ")[2]
        verdicts = json.loads(told or "{}").get("llmfleet_gate")
        marked = {path.stem for path in tmp_path.glob("facts.d/*")}
        return done.returncode, verdicts, marked, done.stdout + done.stderr

    return run


def test_a_refused_host_is_marked_and_those_beside_it_are_not(gate):
    status, verdicts, marked, output = gate("fit", "refused", "fit-too")
    assert (status, marked) == (2, {"refused"}), output
    assert verdicts == {"fit": "pass", "refused": "fail", "fit-too": "pass"}
    assert "gpu-count: expected 8 GPUs, found 2." in output
    (looked,) = [task for task in output.split("TASK [") if "Look for the unit of the gate" in task.partition("]")[0]]
    assert "ok: [refused]" in looked
    assert "ok: [fit" not in looked
    assert gate("fit", "refused", gpu_gate_count=2)[:3] == (0, {"fit": "pass", "refused": "pass"}, set())


@pytest.mark.parametrize("names", [("fit", "silent"), ("silent", "fit")])
def test_a_silent_host_is_told_apart_from_a_fit_one_and_fences_nobody(gate, names):
    status, verdicts, marked, output = gate(*names)
    assert status != 0
    assert (verdicts, marked) == ({"fit": "pass"}, set()), output
    assert "These hosts were expected to pass the gate and did not answer: silent. Repair them" in output
    assert "Look for the unit of the gate" not in output


def test_who_only_asks_marks_and_releases_nobody(gate):
    status, verdicts, marked, output = gate("refused", gpu_gate_fence=False)
    assert (status, verdicts, marked) == (2, {"refused": "fail"}, set()), output
    gate("refused")
    for options, variables in (["--check"], {}), ([], {"gpu_gate_fence": False}):
        assert gate("refused", options=options, gpu_gate_count=2, **variables)[:3] == (
            0,
            {"refused": "pass"},
            {"refused"},
        )
