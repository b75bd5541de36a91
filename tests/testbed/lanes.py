# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Run jobs side by side, keep what each of them says apart, and tell at the end which have failed.

Most checks wait: for package archives, for systemd, for one task of a playbook after the other. Side by side they need
half of the time, but nobody can read what several print at once. So each has a log of its own. A line tells when one
starts and ends, and every minute which ones run. The log of one that failed is shown whole, and its end once more in
the last lines of all.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

# None takes a quarter of this on a machine of its own. One shared with many others has needed two thirds.
LIMIT_S = 3600
_HEARTBEAT_S = 60
_POLL_S = 0.2
_GRACE_S = 10
# What is shown of a log: of a job that has ended well, and at the very end of one that has not.
_GOOD_LINES = 3
_BAD_LINES = 120


@dataclass
class Job:
    """A command, and once it has ended what came of it.

    :ivar status: exit status; 124 if it was ended because it took too long.
    :ivar seconds: how long it took.
    :ivar cpu_seconds: the time of processors that it and its children used; what ran in containers does not count.
    """

    name: str
    argv: tuple[str, ...]
    status: int | None = None
    seconds: float = 0
    cpu_seconds: float = 0
    log: Path = field(default_factory=Path)


def run(jobs: Iterable[Job], lanes: int, logs: Path, limit_s: float = LIMIT_S) -> list[Job]:
    """Run all jobs, in their order and as many at a time as there are lanes. A failure stops no other job.

    :param logs: folder for what each prints.
    :param limit_s: a job that takes longer is ended, and counts as failed.
    :return: those that have failed.
    """
    queue = deque(jobs)
    total, ended = len(queue), list[Job]()
    running: list[_Running] = []
    logs.mkdir(parents=True, exist_ok=True)
    begin = spoken = time.monotonic()
    try:
        while queue or running:
            while queue and len(running) < lanes:
                running.append(_Running(queue.popleft(), logs))
            time.sleep(_POLL_S)
            for each in [each for each in running if each.has_ended(limit_s)]:
                running.remove(each)
                ended.append(each.job)
                _tell(each.job, f"{len(ended)} of {total}")
            if time.monotonic() - spoken > _HEARTBEAT_S:
                spoken = time.monotonic()
                names = ", ".join(f"{each.job.name} ({spoken - each.start:.0f} s)" for each in running)
                _say(f"{(spoken - begin) / 60:.0f} min: {len(ended)} of {total} have ended; running: {names}")
    finally:
        for each in running:
            each.kill()
    return _summary(ended, time.monotonic() - begin)


class _Running:
    """A job that has been started, in a session of its own so that its children can be ended with it."""

    def __init__(self, job: Job, logs: Path) -> None:
        self.job = job
        self.start = time.monotonic()
        job.log = logs / f"{''.join(letter if letter.isalnum() else '-' for letter in job.name).strip('-')}.log"
        with job.log.open("wb") as log:
            self._process = subprocess.Popen(
                job.argv, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
            )
        _say(f"{job.name} starts")

    def has_ended(self, limit_s: float) -> bool:
        """Whether it has, with what came of it then written to the job."""
        pid, status, used = os.wait4(self._process.pid, os.WNOHANG)
        self.job.seconds = time.monotonic() - self.start
        if pid:
            self._process.returncode = self.job.status = os.waitstatus_to_exitcode(status)
            self.job.cpu_seconds = used.ru_utime + used.ru_stime
        elif self.job.seconds > limit_s:
            self.kill()
            self.job.status = 124
            with self.job.log.open("a") as log:
                log.write(f"\nEnded after {limit_s:.0f} s, the limit of a job.\n")
        return self.job.status is not None

    def kill(self) -> None:
        """End it with its children, gently first."""
        for number in (signal.SIGTERM, signal.SIGKILL):
            try:
                os.killpg(self._process.pid, number)
                self._process.wait(_GRACE_S)
            except (ProcessLookupError, subprocess.TimeoutExpired):
                continue


def _say(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')}  {text}", flush=True)


def _tell(job: Job, count: str) -> None:
    if job.status == 0:
        _say(f"{job.name} is good, after {job.seconds:.0f} s ({count})")
        print("".join(f"    {line}\n" for line in _lines(job)[-_GOOD_LINES:]), end="", flush=True)
    else:
        _say(f"{job.name} HAS FAILED, after {job.seconds:.0f} s ({count}). All that it said:")
        print("\n".join(_lines(job)), flush=True)
        _say(f"This was {job.name}.")


def _lines(job: Job) -> list[str]:
    return job.log.read_text(errors="replace").rstrip().splitlines()


def _summary(ended: list[Job], seconds: float) -> list[Job]:
    """Show the end of each log that tells of a failure, then one line for each job, the failed ones last."""
    failed = [job for job in ended if job.status != 0]
    for job in failed:
        print(f"\n--- {job.name}: the end of {job.log}\n" + "\n".join(_lines(job)[-_BAD_LINES:]))
    print(f"\n{'seconds':>8}{'of CPUs':>9}")
    for job in sorted(ended, key=lambda job: (job.status != 0, -job.seconds)):
        outcome = "" if job.status == 0 else f"   FAILED with status {job.status}, see {job.log}"
        print(f"{job.seconds:8.0f}{job.cpu_seconds:9.0f}  {job.name}{outcome}")
    print(f"{len(ended) - len(failed)} of {len(ended)} jobs are good, after {seconds / 60:.1f} minutes.", flush=True)
    return failed
