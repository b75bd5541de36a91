# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the benchmark of fleets counts: tasks, their kinds, memory of a whole tree, masters of ssh, what a host adds."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time

import pytest

from bench import fleet
from bench._ssh import Ssh, cpu_of
from testbed import BedError

RECAP = """PLAY RECAP ****
fleet-01                   : ok=119  changed=0    unreachable=0    failed=0    skipped=62   rescued=0    ignored=0
fleet-02                   : ok=109  changed=2    unreachable=0    failed=0    skipped=60   rescued=0    ignored=0
"""
# A process and its child, each with 30 MB of its own.
PROGRAM = """
import subprocess, sys, time
memory = bytearray(b"1") * 30_000_000
if len(sys.argv) > 1:
    subprocess.Popen([sys.executable, *sys.argv[1:]])
time.sleep(60)
"""


def event(action, results=None, *, skipped=False, host="h1"):
    result = {"action": action} | ({"results": results} if results else {})
    return json.dumps({"_event": f"v2_runner_on_{'skipped' if skipped else 'ok'}", "hosts": {host: result}})


def test_recap():
    counted = [(line["host"], line["ok"], line["changed"], line["skipped"]) for line in fleet._RECAP.finditer(RECAP)]
    assert counted == [("fleet-01", "119", "0", "62"), ("fleet-02", "109", "2", "60")]


def test_kinds(tmp_path):
    log = tmp_path / "log"
    log.write_text(
        "\n".join(
            [
                "a warning",
                event("ansible.builtin.validate_argument_spec"),
                event("ansible.builtin.file", [{}, {}, {}]),
                event("ansible.builtin.apt"),
                event("llmfleet.serving.gpu_gate"),
                event("ansible.builtin.apt", skipped=True),
                event("ansible.builtin.apt", host="h2"),
            ]
        )
    )
    assert sorted(fleet._kinds(log, "h1")) == sorted(
        [
            "controller: argument specs",
            "host: files",
            "host: packages",
            "host: modules of this collection",
            *["host: modules started, one for each item of a loop"] * 5,
        ]
    )


def test_memory_of_a_tree(tmp_path):
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    with subprocess.Popen([sys.executable, program, program]) as process:
        try:
            deadline = time.monotonic() + 60
            while (found := sum(map(fleet._share, fleet.with_children(process.pid)))) < 60_000_000:
                assert time.monotonic() < deadline, found
                time.sleep(0.1)
            assert found < 120_000_000
        finally:
            for pid in reversed(list(fleet.with_children(process.pid))):
                subprocess.run(["kill", str(pid)], check=False)


def test_masters_are_found_by_their_sockets_and_ended(tmp_path):
    ssh = Ssh(tmp_path)
    own, other = (
        subprocess.Popen([f"ssh: {folder}/0123456789 [mux]", "60"], executable="/bin/sleep")
        for folder in (tmp_path / "ssh", tmp_path / "ssh-of-others")
    )
    try:
        deadline = time.monotonic() + 60
        while not ssh.masters():  # it has this program's title until it is another
            assert time.monotonic() < deadline
        assert ssh.masters() == [own.pid]
        assert fleet._share(own.pid) > 0
        ssh.close()
        assert ssh.masters() == []
        assert other.poll() is None
    finally:
        for process in (own, other):
            process.kill()
            process.wait()


def test_processor_time_of_a_process_that_has_used_some():
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as process:
        try:
            deadline = time.monotonic() + 60
            while cpu_of(process.pid) < 0.2:
                assert time.monotonic() < deadline
                time.sleep(0.05)
        finally:
            process.kill()
    assert cpu_of(process.pid) == 0


def test_folder_that_is_too_long_for_sockets(tmp_path):
    folder = tmp_path / ("x" * 100)
    folder.mkdir()
    with pytest.raises(BedError, match="--folder"):
        Ssh(folder)


def test_machine_that_cannot_boot_so_many_hosts(tmp_path, monkeypatch):
    monkeypatch.setattr(fleet, "_INOTIFY_MOST", tmp_path / "most")
    (tmp_path / "most").write_text("128\n")
    fleet.check_inotify(8)
    with pytest.raises(BedError, match="max_user_instances=252"):
        fleet.check_inotify(32)


def test_settings_are_those_that_the_page_advises():
    advised = fleet.recommended()
    for setting in ("forks = ", "pipelining = True", "ControlPersist="):
        assert setting in advised


def test_slope_is_from_the_smallest_fleet_to_the_largest():
    def row(count, figure):
        own = {"host-tasks": 9 * count, "seconds": figure, "CPU s": 2 * figure, "memory, MiB": 100.0 + figure}
        return [{"hosts": count, "playbook": way} | own for way in fleet.PLAYBOOKS]

    for found in fleet.slopes(row(2, 10.0) + row(8, 99.0) + row(32, 70.0)):
        assert (found["from"], found["to"]) == (2, 32)
        assert found["host-tasks, a further host"] == 9.0
        assert found["seconds, a further host"] == 2.0
        assert found["CPU s, a further host"] == 4.0
        assert found["memory, MiB, a further host"] == 2.0


def test_one_size_has_no_slope():
    own = {"host-tasks": 1, "seconds": 1.0, "CPU s": 1.0, "memory, MiB": 1.0}
    assert fleet.slopes([{"hosts": 2, "playbook": fleet.SITE} | own]) == []


class StandIn:
    """A fleet without hosts, which writes down what it is told to do."""

    def __init__(self, folder, changed=0):
        self.said = []
        self.names = ["h1"]
        self.log = folder / "log"
        self.log.write_text(event("ansible.builtin.apt"))
        self._changed, self._there = changed, ()

    def up(self, count, tag):
        before, self._there = self._there, (count, tag)
        return before != self._there

    def settle(self, _settings):
        self.said.append("settle")

    def play(self, way, settings, *, callback="default"):
        self.said.append((way, settings.forks, callback))
        return fleet.Run(1.0, 2.0, 3 << 20, 0.1, 1 << 20, 10, self._changed, 1)


@pytest.fixture
def steps(tmp_path, monkeypatch):
    def make(changed=0):
        stand_in = StandIn(tmp_path, changed)
        monkeypatch.setattr(fleet, "Fleet", lambda _folder: stand_in)
        monkeypatch.setattr(fleet, "machine", lambda _folder: {})
        options = argparse.Namespace(steps=[], hosts=[(2, 2), (32, 1)], forks=32, json=tmp_path / "found.json")
        return fleet.Steps(options, tmp_path), stand_in

    return make


def test_converged_runs_all_of_it_once_and_not_on_large_fleets(steps):
    made, stand_in = steps()
    made.converged()
    plays = [said[0] for said in stand_in.said if said[0] in fleet.PLAYBOOKS]
    assert plays == [*[fleet.SITE] * 2, fleet.ALL, *[fleet.NAIVE] * 2, fleet.SITE, fleet.NAIVE]
    assert stand_in.said.count("settle") == 2


def test_converged_refuses_a_site_that_changes_finished_hosts(steps):
    made, _stand_in = steps(changed=1)
    with pytest.raises(BedError, match="have changed 4 things"):
        made.converged()


def test_kinds_and_settings_fill_their_tables(steps, tmp_path):
    made, stand_in = steps()
    made.kinds()
    made.settings()
    found = json.loads((tmp_path / "found.json").read_text())
    assert {"Host-tasks by kind, one host", "Settings"} == set(found)
    assert found["Host-tasks by kind, one host"]["rows"][0] == {
        "kind": "host: modules started, one for each item of a loop"
    } | dict.fromkeys(fleet.PLAYBOOKS, 1)
    assert [row["forks"] for row in found["Settings"]["rows"]] == [2, 5, 16, 32, 32, 32, 32]
    assert (fleet.NAIVE, 32, "ansible.posix.jsonl") in stand_in.said
