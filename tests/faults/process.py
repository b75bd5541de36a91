# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Cases of the process: it is killed, the power fails, others work on the same file, its notes do not fit the data."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import shutil
import subprocess
import sys
import time
import typing as t

from power_loss import Recorder

from ansible_collections.llmfleet.serving.plugins.module_utils import _output
from ansible_collections.llmfleet.serving.plugins.module_utils._files import companion
from ansible_collections.llmfleet.serving.plugins.modules import gguf_fetch
from faults.bench import EARLY, HEADERS, LATE, OLD, SHARD, Bench, Check, Refusal, command, small_shards
from faults.killer import killer


def started(bench: Bench, **params: t.Any) -> subprocess.Popen[str]:
    process = subprocess.Popen(command(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    process.stdin.write(json.dumps({"ANSIBLE_MODULE_ARGS": bench.arguments(timeout=60, deadline=60, **params)}))
    process.stdin.close()
    return process


def stuck(bench: Bench) -> subprocess.Popen[str]:
    """A process that has got most of the model, has written that down, and waits for the rest."""
    # Each time that it is asked for, so that it waits for longer than one silent connection is waited for.
    bench.hub.fault("stall", path="*00003*", after=LATE)
    process = started(bench)
    deadline = time.monotonic() + 60
    while not noted(bench) >= 4_000_000:
        assert time.monotonic() < deadline
        assert process.poll() is None, process.stdout.read()
        time.sleep(0.05)
    return process


def noted(bench: Bench) -> int:
    """Bytes that a run has said to be there, on the disk or until the host is started anew."""
    said = [0]
    for path in (bench.journal, companion(bench.dest, "note")):
        with contextlib.suppress(FileNotFoundError):
            said.append(sum(stop - start for start, stop in json.loads(path.read_text())["ranges"]))
    return max(said)


def ended_by(number: int) -> Check:
    def run(bench: Bench) -> None:
        process = stuck(bench)
        safe = noted(bench)
        process.send_signal(number)
        assert process.wait(timeout=60) != 0
        assert "Traceback" not in process.stdout.read()
        process.stdout.close()
        assert not bench.dest.exists()
        bench.hub.clear_faults()
        bench.hub.clear_stats()
        again = bench.got()
        assert bench.sent() <= bench.published.size - safe + HEADERS
        assert again["bytes_fetched"] <= bench.sent()

    return run


def killed_at_any_change(bench: Bench) -> None:
    merged = small_shards(bench)
    arguments = bench.arguments(force=True, mode="0640")
    with killer(gguf_fetch) as stopped:
        for number in itertools.count():
            shutil.rmtree(bench.dest.parent, ignore_errors=True)
            bench.has_old()
            killed = stopped(arguments, number)["killed"]
            assert bench.dest.read_bytes() in (OLD, merged)
            result = bench.fetch(force=True, mode="0640")
            assert "failed" not in result, (number, result)
            assert bench.dest.read_bytes() == merged
            kept = {path.name.rpartition(".")[2] for path in bench.dest.parent.iterdir()}
            assert kept - {"lock"} == {"json", "manifest", "gguf"}  # what is in a lock file means nothing
            if not killed:
                break
    assert number > 10


def the_power_fails(old: bytes | None) -> Check:
    """At any moment of a run: the destination is absent, old or new, and the next run makes it new."""

    def run(bench: Bench) -> None:
        merged = small_shards(bench)
        bench.dest.parent.mkdir()
        if old is not None:
            bench.dest.write_bytes(old)
        for name in ("_JOURNAL_MIN", "_NOTE_MIN"):  # a step for each piece, as there are in a large file
            bench.monkeypatch.setattr(_output, name, 1)
        with Recorder(bench.dest.parent) as recorder:
            assert bench.fetch(force=True)["changed"] is True
        outcomes = list(recorder.outcomes(r"\.new|\.lock$|\.progress$"))
        assert len(outcomes) > 10
        bench.monkeypatch.setattr(_output, "_boot_id", lambda: "the next")
        for files in outcomes:
            assert files.get("model.gguf") in (old, merged)
            _restore(bench, files, merged)
            result = bench.fetch(force=True)
            assert "failed" not in result, (files, result)
            assert bench.dest.read_bytes() == merged

    return run


def _restore(bench: Bench, files: dict[str, bytes], merged: bytes) -> None:
    """Put the files there that the power loss left, and check that the journal says no more than is true."""
    shutil.rmtree(bench.dest.parent)
    bench.dest.parent.mkdir()
    for name, content in files.items():
        (bench.dest.parent / name).write_bytes(content)
    with contextlib.suppress(ValueError, FileNotFoundError):
        journal = json.loads(bench.journal.read_text())
        part = bench.part.read_bytes()
        for start, stop in journal["ranges"]:
            assert part[start:stop] == merged[start:stop]
        if journal["front"]:
            assert journal["front"]["offset"] <= journal["safe"]
        # A copy has another inode; a file that has come through a power loss has not.
        bench.journal.write_text(json.dumps({**journal, "inode": bench.part.stat().st_ino}))


def interrupted(bench: Bench) -> None:
    """Leave a file in the making, with its journal: one shard could not be had to its end."""
    bench.hub.fault("reset", path=SHARD, times=1, after=LATE)
    bench.hub.fault("error-404", path=SHARD, host="cdn", after=EARLY)
    assert bench.fetch(force=True)["failed"] is True
    bench.hub.clear_faults()
    assert noted(bench) > 500_000


def part_becomes(content: bytes | None) -> Check:
    """The file in the making is not any more what its journal says."""

    def run(bench: Bench) -> None:
        interrupted(bench)
        bench.part.unlink()
        if content is not None:
            bench.part.write_bytes(content)
        bench.got()

    return run


def zeros(journal: bool) -> Check:
    """A file of the full size without content, as a crash after its preallocation leaves it."""

    def run(bench: Bench) -> None:
        interrupted(bench)
        size = bench.part.stat().st_size
        assert size == len(bench.published.merged)
        bench.part.unlink()
        bench.part.write_bytes(bytes(size))
        if not journal:
            bench.journal.unlink()
        bench.got()

    return run


def journal_becomes(content: str) -> Check:
    def run(bench: Bench) -> None:
        interrupted(bench)
        bench.journal.write_text(content)
        bench.got()

    return run


def two_runs(bench: Bench) -> None:
    process = stuck(bench)
    try:
        result = bench.fetch()
        bench.refused(Refusal(str(bench.dest), f"process {process.pid}", "Wait until it has ended"), result)
        assert bench.fetch(check=True)["changed"] is True
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
    bench.hub.clear_faults()
    bench.got()


UNLOCKED = f"""
import fcntl, runpy
fcntl.flock = lambda *_args: None
runpy.run_module({gguf_fetch.__name__!r}, run_name="__main__")
"""


def two_hosts(bench: Bench) -> None:
    """Where flock(2) keeps nobody out, as on some network file systems, work is done twice, and nothing is spoiled."""
    bench.hub.fault("slow", path=SHARD, times=2, after=EARLY, rate=2_000_000)
    arguments = json.dumps({"ANSIBLE_MODULE_ARGS": bench.arguments(timeout=20, deadline=60)})
    running = [
        subprocess.Popen([sys.executable, "-c", UNLOCKED], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _dummy in range(2)
    ]
    for process in running:
        process.stdin.write(arguments)
        process.stdin.close()
    results = [json.loads(process.stdout.read()) for process in running]
    for process in running:
        process.wait()
        process.stdout.close()
    assert any(result.get("changed") for result in results), results
    for result in results:
        assert "Traceback" not in result.get("msg", "")
    assert bench.dest.read_bytes() == bench.published.merged
    bench.got()


def stale_lock(bench: Bench) -> None:
    bench.dest.parent.mkdir()
    companion(bench.dest, "lock").write_text("process 1 of long ago")
    bench.got()
    assert not companion(bench.dest, "lock").exists()


def wrong_clock(bench: Bench) -> None:
    interrupted(bench)
    for path in bench.dest.parent.iterdir():
        os.utime(path, (2**32, 2**32))
    bench.hub.clear_stats()
    bench.got()
    assert bench.sent() < bench.published.size
    for when in (0, 2**32):
        os.utime(companion(bench.dest, "json"), (when, when))
        os.utime(bench.dest, (when, when))
        assert bench.got()["changed"] is False
