# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a host is like, in a form that can be compared with what it was like before. Private to this collection.

Not only what roles have written is looked at, but all of /etc, all packages, and whole trees: that a role looks at one
more file need not be known here. What is found to differ without need costs a run of the roles, and nothing else.
"""

from __future__ import annotations

import fnmatch
import hashlib
import os
import stat
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from ansible_collections.llmfleet.serving.plugins.module_utils._errors import LlmError
from ansible_collections.llmfleet.serving.plugins.module_utils._files import os_errors, read_json, write_json
from ansible_collections.llmfleet.serving.plugins.module_utils._gpu_facts import RunCommand

SCHEMA = 1
# What something is, by its name: "file /etc/hosts", "unit haproxy.service".
Footprint = dict[str, str]

# Programs of the system write these by themselves.
_RESTLESS = (
    *("/etc/.pwd.lock", "/etc/.updated", "/etc/adjtime", "/etc/ld.so.cache", "/etc/mtab", "/etc/resolv.conf"),
    *("/etc/lvm/archive/*", "/etc/lvm/backup/*", "/etc/cups/*"),
    *("/etc/passwd-", "/etc/group-", "/etc/shadow-", "/etc/gshadow-", "/etc/subuid-", "/etc/subgid-"),
    *("/var/lib/llmfleet/acceptance.json", "/var/lib/llmfleet/watchdog*", "/var/lib/llmfleet/drift.json"),
)
# Each file by itself, by its content; below the others, what lies so deep as one, by sizes and times.
_BY_CONTENT = ("/etc", "/var/lib/llmfleet")
_BY_TIMES = {"/opt/llmfleet": 2, "/usr/local": 2, "/boot": 1, "/lib/modules": 1}
# Somebody has removed it between two looks.
_VANISHED = "vanished"
# A file larger than this is not read, but taken for the same at the same size and time.
_READ_MAX = 1 << 20
_KERNEL = ("/proc/sys/kernel/osrelease", "/proc/sys/kernel/random/boot_id", "/proc/driver/nvidia/version")
_DPKG = "/var/lib/dpkg/status"
_RPM = ["rpm", "--query", "--all", "--queryformat", "%{NEVRA} %{INSTALLTIME}\\n"]


def footprint(run: RunCommand, units: Sequence[str], trees: Iterable[str], root: Path = Path("/")) -> Footprint:
    """What the host is like now.

    :param run: AnsibleModule's.
    :param units: patterns of the units of systemd that count.
    :param trees: further directories, each file of which counts by its size and time.
    :param root: where paths begin.
    :raises LlmError: when something cannot be read: what is not known is not the same.
    """
    with os_errors("Reading what the host is like"):
        found = {f"host {path}": _text(root / path[1:]) for path in _KERNEL}
        found["host packages"] = _packages(run, root)
        for tree in _BY_CONTENT:
            found.update((f"file {path}", _content(entry)) for path, entry in _entries(root, tree))
        for tree, depth in {**_BY_TIMES, **dict.fromkeys(trees, 1)}.items():
            found.update(_by_times(root, tree.rstrip("/"), depth))
    return {**found, **_units(run, units)}


def differences(before: Footprint, now: Footprint) -> list[str]:
    """What has come, gone and changed, a line each."""
    lines = []
    for name in sorted(before.keys() | now.keys()):
        if before.get(name) != now.get(name):
            lines.append(f"{name} {_difference(before.get(name), now.get(name), name.startswith('unit '))}")
    return lines


def remember(path: Path, inputs: str, found: Footprint, *, dry: bool = False) -> bool:
    """Write down what the host is like, and what was wanted of it. Returns whether that is something else than before.

    :param dry: write nothing.
    """
    kept = {"schema": SCHEMA, "inputs": inputs, "footprint": found}
    same = read_json(path) == kept
    if dry:
        return not same
    with os_errors(f"Writing {path}"):
        if same:
            os.utime(path)  # it counts from now on
            return False
        path.parent.mkdir(parents=True, exist_ok=True)
        # It has digests of files that only root may read.
        write_json(path, kept, mode=0o600)
    return True


def drift(path: Path, inputs: str, found: Footprint, seconds_max: float) -> list[str]:
    """Why a host is not what the last run has left, a line for each reason; none when it is.

    :param seconds_max: how old the record may be.
    """
    kept = read_json(path)
    if kept.get("schema") != SCHEMA:
        return ["no run has come to its end on this host" if not kept else "another version has written the record"]
    age = time.time() - path.stat().st_mtime
    reasons = []
    if not 0 <= age <= seconds_max:
        reasons.append(f"the last run that looked at everything was {age / 86400:.1f} days ago")
    if kept.get("inputs") != inputs:
        reasons.append("what is wanted of the host has changed")
    return reasons + differences(kept.get("footprint", {}), found)


def _difference(before: str | None, now: str | None, is_unit: bool) -> str:
    if is_unit:
        return f"was {before or 'inactive'}, is {now or 'inactive'}"
    return "is new" if before is None else "is gone" if now is None else "has changed"


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except FileNotFoundError:
        return ""


def _packages(run: RunCommand, root: Path) -> str:
    status = root / _DPKG[1:]
    if status.exists():
        return hashlib.sha256(status.read_bytes()).hexdigest()
    code, out, err = run(_RPM, handle_exceptions=False)
    if code:
        raise LlmError(f"rpm cannot list the packages: {err.strip()}")
    return hashlib.sha256("\n".join(sorted(out.splitlines())).encode()).hexdigest()


def _entries(root: Path, tree: str) -> Iterator[tuple[str, os.DirEntry[str]]]:
    """Everything below a tree that does not change by itself, without following symbolic links."""
    folders = [tree]
    while folders:
        folder = folders.pop()
        try:
            entries = sorted(os.scandir(root / folder[1:]), key=lambda entry: entry.name)
        except (FileNotFoundError, NotADirectoryError):
            continue
        for entry in entries:
            path = f"{folder}/{entry.name}"
            if any(fnmatch.fnmatchcase(path, pattern) for pattern in _RESTLESS):
                continue
            yield path, entry
            if entry.is_dir(follow_symlinks=False):
                folders.append(path)


def _owned(status: os.stat_result) -> str:
    return f"{stat.filemode(status.st_mode)} {status.st_uid}:{status.st_gid}"


def _content(entry: os.DirEntry[str]) -> str:
    try:
        status = entry.stat(follow_symlinks=False)
        if not stat.S_ISREG(status.st_mode) or status.st_size > _READ_MAX:
            return _times(entry)
        return f"{_owned(status)} {hashlib.sha256(Path(entry.path).read_bytes()).hexdigest()}"
    except FileNotFoundError:
        return _VANISHED


def _times(entry: os.DirEntry[str]) -> str:
    try:
        status = entry.stat(follow_symlinks=False)
        if stat.S_ISLNK(status.st_mode):
            return f"{_owned(status)} {Path(entry.path).readlink()}"
        if stat.S_ISREG(status.st_mode):
            return f"{_owned(status)} {status.st_size} {status.st_mtime_ns}"
        return _owned(status)
    except FileNotFoundError:
        return _VANISHED


def _by_times(root: Path, tree: str, depth: int) -> Footprint:
    """What lies `depth` names below a tree, with everything below it."""
    sums: dict[str, hashlib._Hash] = {}
    level = tree.count("/") + depth
    for path, entry in _entries(root, tree):
        top = "/".join(path.split("/")[: level + 1])
        line = f"{path} {_times(entry)}\n"
        sums.setdefault(top, hashlib.sha256()).update(line.encode(errors="surrogateescape"))
    return {f"tree {path}": digest.hexdigest() for path, digest in sums.items()}


def _units(run: RunCommand, patterns: Sequence[str]) -> Footprint:
    properties = "--property=Id,Type,ActiveState,NeedDaemonReload,FragmentPath"
    code, out, err = run(["systemctl", "show", "--all", properties, "--", *patterns], handle_exceptions=False)
    if code:
        raise LlmError(f"systemctl cannot tell of the units: {err.strip()}")
    found = {}
    for block in out.split("\n\n"):
        unit = dict(line.split("=", 1) for line in block.splitlines() if "=" in line)
        state = unit.get("ActiveState", "inactive")
        # Whether systemd knows of one that does not run is chance; one that is to end by itself may just be at it; what
        # lies in /run is made for a while by a run of its own.
        ending = unit.get("Type") == "oneshot" and state in ("activating", "deactivating")
        if state == "inactive" or ending or unit.get("FragmentPath", "").startswith("/run/"):
            continue
        found[f"unit {unit['Id']}"] = state + (", not as its file is now" if unit["NeedDaemonReload"] == "yes" else "")
    return found
