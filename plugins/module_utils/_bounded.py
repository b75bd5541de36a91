# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What programs say and files hold, up to a time and a size. Private to this collection."""

from __future__ import annotations

import contextlib
import errno
import os
import select
import shutil
import signal
import stat
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ansible_collections.llmfleet.serving.plugins.module_utils._errors import LlmError

_CHUNK = 1 << 16
# How long a killed program may take to disappear. One that sits in an uninterruptible system call never does.
_REAP_S = 2.0
# What a shell exits with for a file that is no program.
_NOT_STARTED = 126
# Words in other languages are not searched for.
_PLAIN = {"LC_ALL": "C", "TZ": "UTC", "SYSTEMD_COLORS": "0", "SYSTEMD_PAGER": "cat"}


@dataclass(frozen=True)
class Said:
    """What a program has said, on both of its outputs.

    :ivar truncated: whether it has said more.
    :ivar late: whether it was ended because its time was up.
    :ivar status: its exit status; None when it was ended, by a signal or by us.
    """

    text: bytes
    truncated: bool
    late: bool
    status: int | None


def said_by(
    argv: Sequence[str],
    seconds: float,
    limit: int,
    *,
    last: bool = False,
    environment: Mapping[str, str] | None = None,
) -> Said:
    """Run a program, and end it with everything that it has started when its time is up or it has said enough.

    :param limit: bytes that are kept.
    :param last: keep the last ones, and let it say as much as it likes.
    :param environment: variables on top of this process's.
    :raises FileNotFoundError: when there is no such program.
    """
    deadline = time.monotonic() + seconds
    output, sender = os.pipe()
    try:
        program = _start(argv, sender, environment or {})
    except OSError:
        os.close(output)
        raise
    finally:
        os.close(sender)
    status = None
    try:
        text, truncated, late = _listen(output, deadline, limit, last)
        if not late and (not truncated or last):
            # It has closed its outputs, so it is about to end.
            status = _ended(program, min(_REAP_S, deadline - time.monotonic()))
    finally:
        os.close(output)
        if status is None:
            # With what it has started, and not waited for any longer: one that hangs in the kernel does not end.
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(program, signal.SIGKILL)
            _ended(program, _REAP_S)
    return Said(text, truncated, late, status if status is not None and status >= 0 else None)


def _start(argv: Sequence[str], output: int, environment: Mapping[str, str]) -> int:
    """Start a program in a group of its own, without an input, with both outputs to one descriptor.

    Not by `run_command`, which takes all that a program says, and waits for one that hangs in the kernel.
    """
    path = shutil.which(argv[0])
    if path is None:
        raise FileNotFoundError(errno.ENOENT, f"there is no program {argv[0]}")
    child = os.fork()
    if child == 0:
        try:
            os.setsid()
            # Python ignores it, and a program that nobody listens to any more has to end by it.
            signal.signal(signal.SIGPIPE, signal.SIG_DFL)
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            os.dup2(output, 1)
            os.dup2(output, 2)
            os.execve(path, list(argv), {**os.environ, **_PLAIN, **environment})  # noqa: S606 -- no shell is wanted
        finally:
            # Not sys.exit: the clean-up handlers and the buffers that the child inherited are the parent's.
            os._exit(_NOT_STARTED)
    return child


def _ended(program: int, patience: float) -> int | None:
    """The exit status of a program that ends in time, below 0 for a signal; None when it does not."""
    deadline = time.monotonic() + patience
    while True:
        found, status = os.waitpid(program, os.WNOHANG)
        if found:
            return os.WEXITSTATUS(status) if os.WIFEXITED(status) else -os.WTERMSIG(status)
        if time.monotonic() >= deadline:
            return None
        time.sleep(0.005)


def _listen(output: int, deadline: float, limit: int, last: bool) -> tuple[bytes, bool, bool]:
    text, truncated = b"", False
    while True:
        if not select.select([output], [], [], max(0.0, deadline - time.monotonic()))[0]:
            return _kept(text, limit, last), truncated or len(text) > limit, True
        chunk = os.read(output, _CHUNK)
        text += chunk
        if not chunk:
            return _kept(text, limit, last), truncated or len(text) > limit, False
        if len(text) > limit and not last:
            return _kept(text, limit, last), True, False
        if len(text) > 2 * limit + _CHUNK:
            text, truncated = text[-limit - 1 :], True


def _kept(text: bytes, limit: int, last: bool) -> bytes:
    """Whole lines: a part of one may be a secret whose name is in the other."""
    if len(text) <= limit:
        return text
    return text[-limit:].partition(b"\n")[2] if last else text[:limit].rpartition(b"\n")[0] + b"\n"


def content_of(path: Path, base: Path, limit: int) -> tuple[bytes, bool]:
    """What a regular file below a directory holds, and whether it holds more.

    :param base: the directory. It may be reached through symbolic links, and what is below may not: whoever may write
        there must not choose which file of the host is read.
    :param limit: bytes that are read.
    :raises OSError: when it cannot be read.
    :raises LlmError: when it is something else than a regular file, or a symbolic link leads there.
    """
    with _opened(path, base) as descriptor:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise LlmError("expected a regular file, found something else")
        text = b""
        while len(text) <= limit and (chunk := os.read(descriptor, min(_CHUNK, limit + 1 - len(text)))):
            text += chunk
    return _kept(text, limit, last=False), len(text) > limit


@contextlib.contextmanager
def _opened(path: Path, base: Path) -> Iterator[int]:
    *folders, name = path.relative_to(base).parts
    # A pipe without a writer must not be waited for.
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    descriptor = os.open(base, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for part in (*folders, name):
            try:
                below = os.open(part, flags, dir_fd=descriptor)
            except OSError as exc:
                if stat.S_ISLNK(os.stat(part, dir_fd=descriptor, follow_symlinks=False).st_mode):
                    raise LlmError("expected a regular file, found a symbolic link") from exc
                raise
            os.close(descriptor)
            descriptor = below
        yield descriptor
    finally:
        os.close(descriptor)
