# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""playbooks/stacks: the data keeps to its form, and a playbook can use it."""

from __future__ import annotations

import datetime
import itertools
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from ansible_collections.llmfleet.serving.plugins.module_utils._stack import ENGINES, version
from ansible_collections.llmfleet.serving.plugins.module_utils._stack_rules import Affected
from ansible_collections.llmfleet.serving.plugins.plugin_utils import _stacks

ROOT = Path(__file__).parents[3]
ENGINE_DATA = _stacks.read(_stacks.FOLDER / "engines.yml")
ADVISORIES = _stacks.read(_stacks.FOLDER / "advisories.yml")


def lines():
    yield from ((f"toolkit {name}", entry) for name, entry in ENGINE_DATA["toolkits"].items())
    for engine, lanes in ENGINE_DATA["engines"].items():
        yield from ((f"{engine} {lane['versions'][0]}", lane) for lane in lanes)
    yield from ((entry["id"], entry) for entry in ADVISORIES)


@pytest.mark.parametrize("entry", [pytest.param(entry, id=name) for name, entry in lines()])
def test_every_line_says_where_it_comes_from_and_when_it_was_looked_up(entry):
    assert entry["source"].strip()
    assert datetime.date(2026, 11, 1) <= entry["checked"]


def test_lanes_rise_without_overlap():
    assert set(ENGINE_DATA["engines"]) == set(ENGINES)
    for lanes in ENGINE_DATA["engines"].values():
        ends = [version(end) for lane in lanes for end in lane["versions"]]
        assert ends == sorted(ends)
        assert all(one["versions"][1] != other["versions"][0] for one, other in itertools.pairwise(lanes))


def test_a_lane_says_what_it_needs_or_why_it_is_unusable():
    lanes = [lane for lanes in ENGINE_DATA["engines"].values() for lane in lanes]
    assert all(("unusable" in lane) != ({"cuda", "driver_min"} <= set(lane)) for lane in lanes)


def test_advisories_are_told_apart():
    assert len({entry["id"] for entry in ADVISORIES}) == len(ADVISORIES)
    assert {entry["component"] for entry in ADVISORIES} <= {"driver", *ENGINES}
    assert {entry["effect"] for entry in ADVISORIES} == {"refuse", "warn"}


@pytest.mark.parametrize("name", _stacks.rows())
def test_a_stack_accepts_what_would_refuse_it_and_nothing_else(name):
    row = _stacks.row(name)
    accepted = [advisory for entry in row["accepts"] for advisory in entry["advisories"]]
    versions = {"driver": row["driver"]["version"]} | {name: entry["version"] for name, entry in row["engines"].items()}
    refusing = [
        entry["id"]
        for entry in ADVISORIES
        if entry["effect"] == "refuse"
        and any(Affected(**affected).holds(versions[entry["component"]]) for affected in entry["affected"])
    ]
    assert sorted(accepted) == sorted(refusing)


def test_the_documentation_has_every_rule_and_every_stack():
    said = (ROOT / "docs" / "stacks.md").read_text()
    source = (ROOT / "plugins" / "module_utils" / "_stack_rules.py").read_text()
    rules = {word for word in source.split('"') if word.startswith(("engine-", "toolkit-"))}
    assert {"engine-driver", "toolkit-driver"} < rules
    assert [name for name in sorted({*rules, *_stacks.rows()}) if f"`{name}`" not in said] == []


PLAYBOOK = """
- hosts: localhost
  gather_facts: false
  vars:
    services: [{name: chat, engine: vllm, model: r1}]
    models: [{name: r1, repo: acme/R1-AWQ}]
    stack: "{{ lookup('llmfleet.serving.stack', llmfleet_stack) }}"
  tasks:
    - ansible.builtin.copy:
        dest: "{{ playbook_dir }}/result.json"
        mode: "0644"
        content: "{{ {'driver': stack.driver.version, 'findings': findings} | to_json }}"
      vars:
        findings: "{{ stack | llmfleet.serving.stack_findings(services, models, driver_version='550.163.01') }}"
"""


@pytest.mark.parametrize("given", ["name", "path", "dictionary"])
def test_a_playbook_uses_a_stack(tmp_path, given):
    (tmp_path / "play.yml").write_text(PLAYBOOK)
    (tmp_path / "mine.yml").write_text(yaml.safe_dump(_stacks.row("current")))
    stack = {"name": "current", "path": "mine.yml", "dictionary": _stacks.row("current")}[given]
    playbook = Path(sys.executable).with_name("ansible-playbook")
    variables = json.dumps({"llmfleet_stack": stack, "ansible_python_interpreter": sys.executable})
    argv = [str(playbook), "-i", "localhost,", "-c", "local", "play.yml", "-e", variables]
    env = {**os.environ, "ANSIBLE_NOCOLOR": "1"}
    done = subprocess.run(argv, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["driver"] == "580.178.04"
    assert [finding["id"] for finding in result["findings"] if finding["severity"] == "fail"] == [
        "toolkit-driver",
        "engine-driver",
    ]
