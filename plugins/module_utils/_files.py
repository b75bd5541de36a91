# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Files that are never half there: staging, commit, locks, checksums, records. Private to this collection."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import shutil
import stat
import typing as t
from pathlib import Path, PurePosixPath

from ansible_collections.llmfleet.serving.plugins.module_utils._errors import LlmError

# 1 MiB is where hashlib reaches its full speed; smaller reads only cost system calls.
_CHUNK = 1 << 20
_RECORD_SCHEMA = 1


@contextlib.contextmanager
def os_errors(action: str) -> t.Iterator[None]:
    """Turn an operating system error of the block into an LlmError: what was done, to which file, what went wrong."""
    try:
        yield
    except OSError as exc:
        name = errno.errorcode.get(exc.errno or 0, "no error number")
        where = f" at {exc.filename}" if exc.filename and str(exc.filename) not in action else ""
        raise LlmError(f"{action} failed{where}: {exc.strerror} ({name}).") from exc


def companion(dest: Path, suffix: str) -> Path:
    """The hidden file `.<name>.llmfleet.<suffix>` beside `dest`: its stage, its lock or its record."""
    return dest.with_name(f".{dest.name}.llmfleet.{suffix}")


def sha256_file(path: Path) -> str:
    """SHA-256 of a file's content, as 64 lower-case hexadecimal digits, in constant memory."""
    digest = hashlib.sha256()
    buffer = bytearray(_CHUNK)
    view = memoryview(buffer)
    with path.open("rb", buffering=0) as file:
        while size := file.readinto(buffer):
            digest.update(view[:size])
    return digest.hexdigest()


def safe_relative(name: str) -> PurePosixPath:
    """A file name from a repository or a manifest, once it is proved to stay below the directory it is put in."""
    path = PurePosixPath(name)
    if not name or path.is_absolute() or name.startswith("-") or any(part in ("..", ".") for part in name.split("/")):
        raise LlmError(f"The file name {name!r} is refused: expected a relative path without '.' and '..' parts.")
    if any(len(part.encode(errors="replace")) > 255 for part in path.parts):
        raise LlmError(f"The file name {name[:60]!r}... is refused: a part of it is longer than 255 bytes.")
    if not name.isprintable():
        raise LlmError(f"The file name {name!r} is refused: it has characters that cannot be printed.")
    return path


def require_plain(dest: Path) -> None:
    """Refuse a destination that is anything but absent or a regular file: what is there would be lost."""
    try:
        mode = dest.lstat().st_mode
    except FileNotFoundError:
        return
    except OSError as exc:
        raise LlmError(f"{dest} cannot be used as a destination: {exc.strerror}.") from exc
    if not stat.S_ISREG(mode):
        kinds = {stat.S_IFLNK: "a symbolic link", stat.S_IFDIR: "a directory"}
        kind = kinds.get(stat.S_IFMT(mode), "a special file")
        raise LlmError(f"{dest} is {kind}; expected a regular file or nothing. Remove it or name another destination.")


def existing(directory: Path) -> Path:
    """The directory, or the one above it that exists: both are, or are going to be, on the same file system."""
    return next(path for path in (directory, *directory.parents) if path.is_dir())


def require_space(directory: Path, need: int, purpose: str) -> None:
    """Fail before the first byte when the file system of `directory` has fewer than `need` bytes free."""
    free = shutil.disk_usage(directory).free
    if free < need:
        raise LlmError(
            f"{directory} has too little free space for {purpose}: {need} bytes are needed, {free} are free "
            f"({need - free} short). Free space or choose another file system."
        )


@contextlib.contextmanager
def locked(dest: Path) -> t.Iterator[None]:
    """Hold the destination's lock; a second holder on the same host gets an LlmError that names the first.

    The lock is flock(2) on a companion file, so a killed holder leaves no stale lock; the file's text only informs.
    """
    path = companion(dest, "lock")
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # A holder that ended between our open and our lock took the name away with it: start over is the answer.
            if os.fstat(fd).st_nlink == 0:
                raise LlmError(f"{dest} was being written until just now. Run again.")
        except BlockingIOError as exc:
            holder = os.read(fd, 64).decode(errors="replace").strip() or "another process"
            raise LlmError(f"{dest} is being written by {holder}. Wait until it has ended, then run again.") from exc
        os.ftruncate(fd, 0)
        os.pwrite(fd, f"process {os.getpid()}".encode(), 0)
        try:
            yield
        finally:
            path.unlink(missing_ok=True)
    finally:
        os.close(fd)


def sync_directory(directory: Path) -> None:
    """Make a rename in `directory` survive a power loss."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def commit(stage: Path, dest: Path) -> None:
    """Put the finished file `stage` under its final name: data first, then the name, then the directory."""
    with stage.open("rb") as file:
        os.fsync(file.fileno())
    stage.replace(dest)
    sync_directory(dest.parent)


def identity(path: Path) -> dict[str, int]:
    """What tells a file of this host from another one, and from itself after a change."""
    status = path.stat()
    return {"inode": status.st_ino, "mtime_ns": status.st_mtime_ns, "size": status.st_size}


def write_text(path: Path, text: str, mode: int = 0o666) -> None:
    """Write a small file, which readers see whole or not at all, also after a power loss.

    :param mode: its permissions, less those of the process's umask.
    """
    stage = path.with_name(path.name + ".new")
    stage.unlink(missing_ok=True)
    with open(stage, "w", opener=lambda name, flags: os.open(name, flags, mode)) as file:
        file.write(text)
    commit(stage, path)


def write_json(path: Path, content: dict[str, t.Any], mode: int = 0o666) -> None:
    """Write a small file of facts, as `write_text` does."""
    write_text(path, json.dumps(content, indent=2, sort_keys=True) + "\n", mode)


def read_json(path: Path) -> dict[str, t.Any]:
    """What `write_json` wrote; nothing when the file is missing, cannot be read or holds something else."""
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def write_record(dest: Path, facts: dict[str, t.Any]) -> None:
    """Keep what is known of `dest` (its sha256, its source) beside it, bound to the very file it speaks of."""
    write_json(companion(dest, "json"), {"schema": _RECORD_SCHEMA, "file": identity(dest), **facts})


def read_record(dest: Path) -> dict[str, t.Any] | None:
    """What `write_record` kept of `dest`, or None when there is nothing or the file has changed since.

    Size, inode and modification time are compared for equality only, so a wrong clock cannot mislead; hashing
    400 GB at each run is what this avoids.
    """
    record = read_json(companion(dest, "json"))
    try:
        known = record.get("schema") == _RECORD_SCHEMA and record.get("file") == identity(dest)
    except OSError:
        return None
    return record if known else None


def known_sha256(dest: Path) -> str:
    """The file's sha256: from its record when that still speaks of this very file, else computed."""
    record = read_record(dest)
    return str(record["sha256"]) if record and "sha256" in record else sha256_file(dest)
