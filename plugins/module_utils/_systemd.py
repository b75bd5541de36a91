# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Services as systemd runs them: their state, what they compute, and what they were started with. Private.

What a service runs on (its unit, its files) is compared with what it was started with, by a checksum that is kept at
each start. A change that was written and never put to use, because its run was cut off, is found so.
"""

from __future__ import annotations

import hashlib
import os
import re
import time
import typing as t
from dataclasses import dataclass
from pathlib import Path

from ansible_collections.llmfleet.serving.plugins.module_utils._errors import LlmError
from ansible_collections.llmfleet.serving.plugins.module_utils._files import os_errors
from ansible_collections.llmfleet.serving.plugins.module_utils._gpu_facts import RunCommand
from ansible_collections.llmfleet.serving.plugins.module_utils._gpu_host import systemd_unit

_PROC = Path("/proc")


@dataclass(frozen=True)
class Unit:
    """What systemd says of a unit.

    :ivar active: systemd's ActiveState, like "active", "activating" or "failed".
    :ivar job: whether it is about to be started or stopped.
    :ivar run: names the current run, with systemd's InvocationID.
    :ivar uptime: seconds since it became active.
    :ivar reload: whether its file has changed since systemd read it.
    :ivar result: why it ended, "success" where it did not fail.
    """

    active: str
    job: bool
    run: str
    uptime: float
    reload: bool
    result: str


def read_unit(run: RunCommand, name: str, clock: t.Callable[[], float] = time.monotonic) -> Unit:
    """Ask systemd.

    :raises LlmError: when it does not answer, or does not know the unit.
    """
    wanted = "LoadState,ActiveState,Job,InvocationID,ActiveEnterTimestampMonotonic,NeedDaemonReload,Result"
    status, said, complaint = run(["systemctl", "show", f"--property={wanted}", name], environ_update={"LC_ALL": "C"})
    told = dict(re.findall(r"^(\w+)=(.*)$", said, re.MULTILINE))
    if status or told.get("LoadState") != "loaded":
        raise LlmError(f"systemd has no unit {name}: {complaint.strip() or told.get('LoadState', 'no answer')}.")
    return Unit(
        active=told["ActiveState"],
        # A unit without a job has the property, with nothing in it.
        job=told.get("Job", "") not in ("", "0"),
        run=told.get("InvocationID", ""),
        uptime=max(0.0, clock() - int(told.get("ActiveEnterTimestampMonotonic", "0")) / 1e6),
        reload=told.get("NeedDaemonReload") == "yes",
        result=told.get("Result", "success"),
    )


def cpu_seconds(unit: str, proc: Path = _PROC) -> float:
    """Seconds that all processes of a service have computed, or have waited for a processor, so far.

    The waiting counts, because a host that has too much to do lets a busy engine hardly compute.
    """
    pids = (int(folder.name) for folder in proc.glob("[0-9]*"))
    return sum(_cpu_seconds(proc / str(pid)) for pid in pids if systemd_unit(pid) == unit)


def _cpu_seconds(process: Path) -> float:
    threads = [_words(thread / "schedstat") for thread in process.glob("task/[0-9]*")]
    if any(threads):
        return sum(int(ran) + int(waited) for ran, waited, *_rest in filter(None, threads)) / 1e9
    # A kernel without these figures. The name in brackets may hold anything, brackets too.
    fields = " ".join(_words(process / "stat")).rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK") if fields else 0.0


def _words(file: Path) -> list[str]:
    """Nothing when the process has just ended."""
    try:
        return file.read_text(encoding="utf-8", errors="replace").split()
    except OSError:
        return []


def checksum(files: t.Iterable[Path]) -> str:
    """Of what a service runs on. The files may hold secrets; one that is not there counts as empty."""
    digest = hashlib.sha256()
    for file in files:
        with os_errors(f"Reading {file}"):
            content = file.read_bytes() if file.exists() else b""
        digest.update(f"{file}\0{len(content)}\0".encode() + content)
    return digest.hexdigest()
