# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the benchmark of fleets counts: tasks, their kinds, memory of a whole tree, and what a further host costs."""

from __future__ import annotations

import json
import subprocess
import sys
import time

from bench import fleet

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


def test_slope_is_from_the_smallest_fleet_to_the_largest():
    def row(count, figure):
        own = {"seconds": figure, "CPU s": 2 * figure, "memory, MiB": 100.0 + figure}
        return [{"hosts": count, "playbook": way} | own for way in fleet.PLAYBOOKS]

    for found in fleet.slopes(row(2, 10.0) + row(8, 99.0) + row(32, 70.0)):
        assert (found["from"], found["to"]) == (2, 32)
        assert found["seconds, a further host"] == 2.0
        assert found["CPU s, a further host"] == 4.0
        assert found["memory, MiB, a further host"] == 2.0
