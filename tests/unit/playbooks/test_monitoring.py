"""What playbooks/monitoring.yml makes of an inventory for Prometheus."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]
PLAY = """
- hosts: watchers
  gather_facts: false
  tasks:
    - ansible.builtin.copy:
        content: "{{{{ lookup('ansible.builtin.template', '{root}/playbooks/templates/monitoring.json.j2') }}}}"
        dest: "{{{{ out }}}}"
        mode: "0644"
"""
CHAT = {"name": "chat", "engine": "vllm", "model": "m", "port": 8000}
SMALL = {"name": "small", "engine": "ollama", "model": "s", "port": 11434, "edge": {"port": 8443}}
PAIR = {"name": "pair", "engine": "sglang", "model": "p", "port": 30000, "hosts": ["a", "b"]}


def targets(tmp_path, hosts):
    """The hosts that Prometheus is told of, by name, for a fleet of hosts with these variables."""
    fleet = {"hosts": hosts}
    local = {"ansible_connection": "local", "ansible_python_interpreter": sys.executable}
    inventory = {"llmfleet": fleet, "watchers": {"hosts": {"eyes": local}}}
    (tmp_path / "hosts.yml").write_text(json.dumps(inventory))
    (tmp_path / "play.yml").write_text(PLAY.format(root=ROOT))
    out = tmp_path / "out.json"
    argv = [Path(sys.executable).with_name("ansible-playbook"), tmp_path / "play.yml", "-i", tmp_path / "hosts.yml"]
    done = subprocess.run(
        [*map(str, argv), "-e", f"out={out}"],
        env={**os.environ, "ANSIBLE_NOCOLOR": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return {host.pop("name"): host for host in json.loads(out.read_text())}


def test_each_service_is_asked_at_the_port_of_its_edge(tmp_path):
    found = targets(tmp_path, {"a": {"llmfleet_services": [CHAT, SMALL], "llmfleet_edge_address": "a.example.com"}})
    assert found == {
        "a": {
            "address": "a.example.com",
            "services": [
                {"name": "chat", "engine": "vllm", "port": 443},
                {"name": "small", "engine": "ollama", "port": 8443},
            ],
        }
    }


def test_only_the_head_of_a_shared_service_is_asked_for_it(tmp_path):
    both = {"llmfleet_services": [PAIR]}
    found = targets(tmp_path, {"a": both, "b": both})
    assert [service["name"] for service in found["a"]["services"]] == ["pair"]
    assert found["b"] == {"address": "b", "services": []}


def test_a_host_without_services_is_known(tmp_path):
    assert targets(tmp_path, {"a": {}}) == {"a": {"address": "a", "services": []}}
