"""Jobs run side by side, each with a log of its own, and what failed is told last."""

import sys
import time
from pathlib import Path

import pytest

from testbed import lanes
from testbed.lanes import Job

# Ends when the other of two has begun too, which it cannot while that one waits for it to end.
MEET = """
import pathlib, sys, time
own, other = map(pathlib.Path, sys.argv[1:])
own.touch()
while not other.exists():
    time.sleep(0.05)
"""


def job(name, script, *args):
    return Job(name, (sys.executable, "-c", script, *map(str, args)))


def test_side_by_side(tmp_path):
    one, two = tmp_path / "1", tmp_path / "2"
    assert lanes.run([job("a", MEET, one, two), job("b", MEET, two, one)], 2, tmp_path, limit_s=60) == []


def test_never_more_than_there_are_lanes(tmp_path):
    write = "import sys; print(sys.argv[1], file=open(sys.argv[2], 'a'), flush=True)"
    script = f"{write}; import time; time.sleep(0.3); {write}"
    jobs = [job(name, script, name, tmp_path / "order") for name in "abc"]
    assert lanes.run(jobs, 1, tmp_path) == []
    assert (tmp_path / "order").read_text().split() == ["a", "a", "b", "b", "c", "c"]


def test_a_failure_stops_no_other_and_is_told_last(tmp_path, capfd):
    bad = job("it (really) fails", "print('line of the bad one'); raise SystemExit(3)")
    good = job("it works", "for number in range(9): print('line', number)")
    assert lanes.run([bad, good], 1, tmp_path / "logs") == [bad]
    assert bad.status == 3
    assert good.status == 0
    assert (tmp_path / "logs/it--really--fails.log").read_text() == "line of the bad one\n"
    said = capfd.readouterr().out
    # Whole when it ends, and at the very end; of a good one nobody needs more than the last lines.
    assert said.count("line of the bad one") == 2
    assert "line 5" not in said
    assert "line 8" in said
    assert "FAILED with status 3" in said.splitlines()[-2]
    assert said.splitlines()[-1].startswith("1 of 2 jobs are good")


def test_one_that_hangs_is_ended_with_its_children(tmp_path, monkeypatch):
    monkeypatch.setattr(lanes, "_GRACE_S", 0.2)
    # It does not end when it is asked to, and neither does its child.
    script = (
        "import os, signal, sys, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); os.fork();"
        "print(os.getpid(), file=open(sys.argv[1], 'a'), flush=True); time.sleep(600)"
    )
    (hung,) = lanes.run([job("hangs", script, tmp_path / "pids")], 1, tmp_path, limit_s=2)
    assert hung.status == 124
    assert "Ended after 2 s" in hung.log.read_text()
    pids = [int(word) for word in (tmp_path / "pids").read_text().split()]
    assert len(pids) == 2
    deadline = time.monotonic() + 20
    while any(alive(pid) for pid in pids):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_nothing_is_left_running_after_an_interrupt(tmp_path, monkeypatch):
    def interrupt(_seconds):
        # Once only: the wait for the job's end, which follows, sleeps too.
        monkeypatch.undo()
        raise KeyboardInterrupt

    monkeypatch.setattr(lanes.time, "sleep", interrupt)
    slow = job("slow", "import time; time.sleep(600)")
    with pytest.raises(KeyboardInterrupt):
        lanes.run([slow], 1, tmp_path)
    pids = [int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()]
    assert not [pid for pid in pids if alive(pid, tmp_path / "slow.log")]


def test_what_runs_is_told_from_time_to_time(tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(lanes, "_HEARTBEAT_S", 0.3)
    assert lanes.run([job("slow", "import time; time.sleep(1)")], 1, tmp_path) == []
    assert "0 of 1 have ended; running: slow (" in capfd.readouterr().out


def alive(pid, output=None):
    """Whether a process lives, and writes where it is asked about."""
    try:
        if "\nState:\tZ" in Path(f"/proc/{pid}/status").read_text():
            return False
        return output is None or Path(f"/proc/{pid}/fd/1").readlink() == output
    except OSError:
        return False
