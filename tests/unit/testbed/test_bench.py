# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What benchmarks measure with: figures that are not right here are not right in their tables."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import time

import pytest

from bench import _harness, supply
from bench._harness import Running, gguf_split, in_turns
from testbed import BedError
from testbed.models import make

MB = 10**6
GBIT = 10**9

# Writes 8 MB, removes them, writes 4 MB more, with 50 MB in memory; a child of it writes 2 MB.
SCRIPT = """
import os, subprocess, sys, time
memory = bytearray(50_000_000)
with open("first", "wb") as file:
    file.write(os.urandom(8_000_000))
time.sleep(0.3)
os.unlink("first")
with open("second", "wb") as file:
    file.write(os.urandom(4_000_000))
subprocess.run([sys.executable, "-c", "open('third', 'wb').write(bytes(2_000_000))"], check=True)
time.sleep(0.3)
"""


def state_of(pid):
    return subprocess.run(["ps", "-o", "state=", "-p", pid], capture_output=True, text=True, check=False).stdout.strip()


def test_a_run_is_counted_with_what_its_children_do(tmp_path):
    with Running([sys.executable, "-c", SCRIPT], tmp_path) as running:
        sample = running.wait()
    assert 14 * MB <= sample.written < 14.5 * MB
    assert 8 * MB <= sample.peak_disk < 8.5 * MB
    assert 50 * MB < sample.peak_memory < 100 * MB
    assert sample.seconds > 0.6
    assert 0 < sample.cpu < sample.seconds * (os.cpu_count() or 1)


def test_a_run_that_fails_is_no_figure(tmp_path):
    with Running(["sh", "-c", "echo why; exit 3"], tmp_path) as running, pytest.raises(BedError, match="why"):
        running.wait()


def test_a_killed_run_takes_its_children_along(tmp_path):
    with Running(["sh", "-c", "sleep 60 & echo $! >pid; wait"], tmp_path) as running:
        while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text():
            time.sleep(0.01)
        assert running.alive()
    child = (tmp_path / "pid").read_text().strip()
    deadline = time.monotonic() + 60  # the kernel ends the others of a group in its own time
    while state_of(child) not in ("", "Z"):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_each_round_begins_with_another_way():
    order = []
    ways = {name: lambda name=name: order.append(name) or len(order) for name in "abc"}
    assert in_turns(ways, 4) == {"a": [1, 6, 8, 10], "b": [2, 4, 9, 11], "c": [3, 5, 7, 12]}
    assert "".join(order) == "abcbcacababc"


def test_a_missing_program_is_named_with_its_package():
    with pytest.raises(BedError, match="apt install the-package"):
        _harness.need("no-such-program", "the-package")


@pytest.mark.parametrize(("text", "number"), [("256M", 256 * MB), ("4G", 4000 * MB), ("2.5G", 2500 * MB)])
def test_sizes_and_rates_are_powers_of_ten(text, number):
    assert _harness.parse_size(text) == number


def test_one_host_has_only_the_hub_to_ask():
    assert supply._fleet_ways(1, ["peers"]) == [("from the hub", False)]
    assert supply._fleet_ways(2, ["peers"]) == [("from each other", True)]
    assert supply._fleet_ways(8, ["peers", "hub"]) == [("all from the hub", False), ("from each other", True)]


def test_results_of_other_runs_are_kept(tmp_path):
    path = tmp_path / "new/found.json"
    _harness.write_json(path, {"fetch": 1, "links": 1})
    _harness.write_json(path, {"fetch": 2})
    assert json.loads(path.read_text()) == {"fetch": 2, "links": 1}


@pytest.mark.bed
def test_the_real_merge_is_counted(tmp_path):
    first, *_others = make(tmp_path, "model", size=20 * MB, shards=3)
    dest = tmp_path / "merged"
    with gguf_split(tmp_path) as tool:
        sample = tool.merge(first, dest)
        assert "version" in tool.version
    size = dest.stat().st_size
    assert size <= sample.written < 1.1 * size
    assert 2 * size * 0.95 < sample.peak_disk < 2 * size * 1.1
    assert sample.on_disk >= sample.seconds > 0
    assert hashlib.sha256(dest.read_bytes()).hexdigest() == _harness.sha256_of(dest)


@pytest.mark.bed
def test_a_fleet_takes_no_docker_engine_once_the_model_is_made(tmp_path, monkeypatch):
    size = 20 * MB
    made = _harness.model(size, 3)
    for name in ("ensure_engine", "docker"):
        monkeypatch.setattr(_harness, name, lambda *_args, **_options: pytest.fail("Docker is asked for"))
    bench = supply.Bench(_harness.model(size, 3), 1, tmp_path, fleets=[1, 2], fleet_rate=GBIT, fleet_ways=["peers"])
    rows = supply.fan_out(bench)
    assert [(row["hosts"], row["way"]) for row in rows] == [(1, "from the hub"), (2, "from each other")]
    assert all(1 <= row["hub's bytes / model"] < 1.05 for row in rows)
    assert all(made.size * 8 / GBIT < row["fastest"] <= row["seconds"] <= row["slowest"] for row in rows)
