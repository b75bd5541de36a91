# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Drift under the real ansible-playbook: what is wanted is found out on the controller, and no secret leaves it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[3]
CANARY = "c4n4ry-0123456789abcdef"
WANTED = {
    "llmfleet_models": [{"name": "m", "repo": "a/b", "token": "{{ secret }}"}],
    "edge_certificate": "pair.pem",
    "secret": CANARY,
}
# As site.yml does it: compared at the beginning, recorded at the end, with variables of the run's own in between.
PLAY = [
    {
        "hosts": "all",
        "gather_facts": False,
        "vars_files": [str(ROOT / "playbooks" / "vars" / f"{name}.yml") for name in ("resolved", "drift")],
        "module_defaults": {
            "llmfleet.serving.host_drift": {
                "record": "{{ playbook_dir }}/drift.json",
                "trees": ["{{ playbook_dir }}/tree"],
                "about": "{{ __llmfleet_about }}",
            }
        },
        "tasks": [
            {"name": "Compare", "llmfleet.serving.host_drift": {"ignore": ["llmfleet_days"]}, "register": "drift"},
            {"name": "Run", "ansible.builtin.set_fact": {"gpu_gate_result": {"verdict": "pass"}}},
            {
                "name": "Record",
                "llmfleet.serving.host_drift": {"state": "recorded", "wanted": "{{ drift.wanted }}"},
                "when": ["drift.drifted", "__llmfleet_whole"],
            },
        ],
    }
]


@pytest.fixture
def play(tmp_path, silent_plugin):
    """play(variables, *options): the output of a run on this machine, with a systemctl that knows no unit.

    `silent` are the variables of a further host, which does not answer.
    """
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "systemctl").write_text("#!/bin/sh\n")
    (tmp_path / "bin" / "systemctl").chmod(0o755)
    (tmp_path / "play.yml").write_text(yaml.safe_dump(PLAY, sort_keys=False))
    environment = {
        **os.environ,
        "PATH": f"{tmp_path}/bin:{os.environ['PATH']}",
        "ANSIBLE_CONNECTION_PLUGINS": str(silent_plugin),
        "ANSIBLE_NOCOLOR": "1",
        "ANSIBLE_LOCALHOST_WARNING": "false",
    }

    def run(variables=None, *options, playbook=tmp_path / "play.yml", silent=None):
        hosts = {"here": {"ansible_connection": "local", "ansible_python_interpreter": sys.executable}}
        hosts |= {} if silent is None else {"away": {"ansible_connection": "silent", **silent}}
        group = {"hosts": hosts, "vars": {**WANTED, **(variables or {})}}
        (tmp_path / "hosts.yml").write_text(json.dumps({"llmfleet": group}))
        argv = [Path(sys.executable).with_name("ansible-playbook"), playbook, "-i", tmp_path / "hosts.yml", *options]
        done = subprocess.run(
            [*map(str, argv)], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300, check=False
        )
        assert silent == {} or done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr

    return run


def changes(output):
    return int(re.search(r"changed=(\d+)", output).group(1))


def test_a_second_run_finds_what_the_first_one_has_left(play):
    first = play(None, "-vvv")
    assert "no run has come to its end" in first
    assert changes(first) == 1
    second = play(None, "-vvv")
    assert '"drifted": false' in second
    assert changes(second) == 0
    assert CANARY not in first + second


@pytest.mark.parametrize(
    "variables", [{"secret": "another"}, {"llmfleet_models": []}, {"vllm_version": "1"}], ids=["nested", "own", "new"]
)
def test_something_else_is_wanted(play, variables):
    play()
    output = play(variables, "-v")
    assert "what is wanted of the host has changed" in output
    assert changes(output) == 1
    assert changes(play(variables)) == 0


@pytest.mark.parametrize("variables", [{"llmfleet_days": 1}, {"my_own": 1}])
def test_variables_that_do_not_count(play, variables):
    play()
    assert changes(play(variables)) == 0


def test_a_file_that_a_variable_names(play, tmp_path):
    play()
    (tmp_path / "pair.pem").write_text("another")
    assert "what is wanted of the host has changed" in play(None, "-v")


def test_a_variable_that_comes_to_nothing_is_named_and_nothing_is_recorded(play, tmp_path):
    variables = {"vllm_args": {"api-key": "{{ nobody_knows }}", "x": CANARY}}
    for _again in range(2):
        output = play(variables, "-v")
        assert "the variable vllm_args comes to nothing" in output
        assert CANARY not in output
        assert changes(output) == 0
    assert not (tmp_path / "drift.json").exists()


def test_what_comes_to_nothing_at_the_end_of_a_run_is_told_and_not_recorded(play, tmp_path):
    output = play({"vllm_version": "{{ nobody_knows if gpu_gate_result is defined else 1 }}"}, "-v")
    assert "no run has come to its end" in output
    assert "Not recorded: the variable vllm_version comes to nothing" in output
    assert not (tmp_path / "drift.json").exists()


@pytest.mark.parametrize(("service", "changed"), [({"hosts": 2}, 1), ({"hosts": "all"}, 1), ({"hosts": 1}, 0), ({}, 0)])
def test_addresses_of_others_count_where_hosts_share_a_service(play, service, changed):
    variables = {"llmfleet_services": [{"name": "r1", "engine": "vllm", **service}]}
    play(variables, "--limit=here", silent={"llmfleet_node_address": "10.0.0.1"})
    assert changes(play(variables, "--limit=here", silent={"llmfleet_node_address": "10.0.0.2"})) == changed


@pytest.mark.parametrize("options", [["--skip-tags=x"], ["--tags=always,untagged"]])
def test_a_run_that_leaves_something_out_remembers_nothing(play, tmp_path, options):
    assert "no run has come to its end" in play(None, "-v", *options)
    assert not (tmp_path / "drift.json").exists()


def test_check_mode_writes_nothing(play, tmp_path):
    assert changes(play(None, "--check")) == 1
    assert not (tmp_path / "drift.json").exists()


def test_the_playbook_asks_each_host_and_changes_none(play):
    output = play(None, "-v", playbook=ROOT / "playbooks" / "drift.yml", silent={})
    assert "no run has come to its end on this host" in output
    assert re.search(r"here\s+: ok=4\s+changed=0", output)
    assert '"llmfleet_drift": {"here": ["no run has come to its end on this host' in " ".join(output.split())
    assert re.search(r"away\s+: ok=0\s+changed=0\s+unreachable=1", output)
    assert '"llmfleet_settled": false' in output
