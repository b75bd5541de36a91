"""The role acceptance sums up all hosts in one task, with what the gate has found on each, for the report to read."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[3]
SERVICE = {"name": "r1", "engine": "ollama", "model": "r1-q4", "port": 1}
ANSWER = {
    "__acceptance_service": SERVICE,
    "engine_version": "0.5.11",
    "model_sha256": None,
    "text": "It is \"blue\": {{ 'no' }}{% template %}.\n'Yes'",
    "tokens": 8,
    "tokens_per_second": 4.59,
    "ttft_seconds": 0.5,
}
SPREAD = {"mean": 0.5, "p50": 0.4, "p90": 0.8, "p99": 0.9}
ROW = {"concurrency": 8, "output_tokens_per_second": 20.5, "ttft_seconds": SPREAD, "tpot_seconds": SPREAD}
GATE = {"verdict": "pass", "facts": {"gpus": [{"name": "NVIDIA H200"}, {"name": "NVIDIA H200"}]}}
# What the tasks before have registered on both hosts; on the second one there was no gate and no load.
PLAY = """
- hosts: llmfleet
  gather_facts: false
  vars_files: [ROOT/playbooks/vars/resolved.yml, ROOT/playbooks/vars/asked.yml]
  tasks:
    - ansible.builtin.set_fact:
        __acceptance_answers: "{{ lookup('ansible.builtin.file', 'answers.json') | from_json }}"
        __acceptance_loads: {results: [{skipped: true}]}
    - ansible.builtin.set_fact:
        gpu_gate_result: GATE
        __acceptance_loads: {results: [{date: "2026-11-30", client: vllm 0.32.0, results: [ROW]}]}
      when: inventory_hostname == 'first'
    - ansible.builtin.import_role:
        name: llmfleet.serving.acceptance
        tasks_from: report
      vars:
        acceptance_report: "{{ playbook_dir }}/results.json"
    - ansible.builtin.copy:
        content: "{{ report_answers | to_json }}"
        dest: "{{ playbook_dir }}/{{ inventory_hostname }}.json"
        mode: "0644"
"""


@pytest.fixture
def summed(tmp_path):
    """The results of two hosts in the file of the controller, and what the report would be told of each; the output."""
    here = {"ansible_connection": "local", "ansible_python_interpreter": sys.executable}
    hosts = {"first": here, "second": {**here, "acceptance_question": "Who?"}}
    (tmp_path / "hosts.yml").write_text(json.dumps({"llmfleet": {"hosts": hosts}}))
    (tmp_path / "answers.json").write_text(json.dumps({"results": [ANSWER]}))
    play = PLAY.replace("ROOT", str(ROOT)).replace("GATE", json.dumps(GATE)).replace("ROW", json.dumps(ROW))
    assert yaml.safe_load(play)
    (tmp_path / "play.yml").write_text(play)
    argv = [Path(sys.executable).with_name("ansible-playbook"), "play.yml", "-i", "hosts.yml"]
    done = subprocess.run([*map(str, argv)], cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    told = {name: json.loads((tmp_path / f"{name}.json").read_text()) for name in hosts}
    return json.loads((tmp_path / "results.json").read_text()), told, done.stdout


def test_each_host_has_its_own(summed):
    results, told, output = summed
    assert told == results
    assert [result["gate"] for result in results.values()] == ["pass", "not asked"]
    assert [result["gpus"] for result in results.values()] == [["NVIDIA H200"] * 2, []]
    assert [result["question"] for result in results.values()] == ["Why is the sky blue?", "Who?"]
    (first,), (second,) = (result["services"] for result in results.values())
    assert (first["load_date"], second["load_date"]) == ("2026-11-30", None)
    assert (first["load_client"], second["load_client"]) == ("vllm 0.32.0", None)
    assert (first["load"], second["load"]) == ([ROW], [])
    assert "8 x: 20.5 tokens/s, first token after 0.400 s (p99 0.900 s), 400.0 ms per token" in output
    assert "2026-11-30, by vllm 0.32.0" in output
    kept = {name: value for name, value in ANSWER.items() if name not in ("text", "__acceptance_service")}
    assert {**kept, "answer": ANSWER["text"]}.items() <= first.items()
    assert (first["name"], first["engine"], first["model"]) == ("r1", "ollama", "r1-q4")
    assert "2 x NVIDIA H200" in output
    assert "0 x none" in output
