# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Work done in child processes, so that it can neither hang nor crash its caller. Private to this collection."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import select
import signal
import time
import traceback
import typing as t

from ansible_collections.llmfleet.serving.plugins.module_utils._errors import LlmError

# How long a killed child may take to disappear. One that sits in an uninterruptible system call never does.
_REAP_S = 2.0

# What a child does; its result must be JSON.
Work = t.Callable[[], t.Any]


@dataclasses.dataclass(frozen=True)
class Answer:
    """What became of a child's work."""

    value: t.Any = None
    error: Exception | None = None

    def get(self) -> t.Any:
        """The result.

        :raises TimeoutError: when the work took too long.
        :raises ChildProcessError: when the child died without an answer; the text is how ("signal 11").
        :raises LlmError: when the work raised one.
        """
        if self.error is not None:
            raise self.error
        return self.value


def in_child(work: Work, timeout: float) -> t.Any:
    """What `work` returns. Whatever `work` has started is killed before this returns.

    :param timeout: seconds that `work` may take.
    :raises TimeoutError, ChildProcessError, LlmError: as `Answer.get` does.
    """
    return in_children({"": (work, timeout)})[""].get()


def in_children(works: t.Mapping[str, tuple[Work, float]]) -> dict[str, Answer]:
    """Do several things at the same time, each in a child of its own with a time limit of its own, in seconds.

    Whatever they have started is killed before this returns. A work must not call this itself: only the processes of
    a child's own group are known, so those of a grandchild would survive.
    """
    children = {name: _Child(work, timeout) for name, (work, timeout) in works.items()}
    try:
        _listen(list(children.values()))
    finally:
        answers = {name: child.end() for name, child in children.items()}
    return answers


def _listen(children: list[_Child]) -> None:
    """Take what each child says until it has ended or its time is up."""
    while children:
        pause = max(0.0, min(child.deadline for child in children) - time.monotonic())
        readable = select.select([child.receiver for child in children], [], [], pause)[0]
        children = [child for child in children if not child.ended(child.receiver in readable)]


class _Child:
    """A running child and what it has said so far."""

    def __init__(self, work: Work, timeout: float) -> None:
        self.receiver, sender = os.pipe()
        self.deadline = time.monotonic() + timeout
        self._late = False
        self._timeout = timeout
        self._message = b""
        self._pid = os.fork()
        if self._pid == 0:
            _live(sender, work)
        os.close(sender)

    def ended(self, readable: bool) -> bool:
        """Take what has come, if anything. True when that was all, or when it is too late for more."""
        if not readable:
            self._late = time.monotonic() >= self.deadline
            return self._late
        chunk = os.read(self.receiver, 1 << 16)
        self._message += chunk
        return not chunk

    def end(self) -> Answer:
        os.close(self.receiver)
        ended = _end(self._pid)
        if self._late:
            return Answer(error=TimeoutError(f"no answer within {self._timeout:g} s"))
        if not self._message:
            return Answer(error=ChildProcessError(ended))
        said = json.loads(self._message)
        if "error" in said:
            return Answer(error=LlmError(said["error"]))
        if "bug" in said:
            return Answer(error=RuntimeError(said["bug"]))
        return Answer(said["value"])


def _live(sender: int, work: Work) -> t.NoReturn:
    """The child's whole life. Its own session makes it and the programs that it starts one group to kill."""
    os.setsid()
    try:
        answer = json.dumps({"value": work()})
    except LlmError as exc:
        answer = json.dumps({"error": str(exc)})
    except BaseException:
        answer = json.dumps({"bug": traceback.format_exc()})
    with os.fdopen(sender, "wb") as pipe:
        pipe.write(answer.encode())
    # Not sys.exit: the clean-up handlers and the buffers that the child inherited are the parent's.
    os._exit(0)


def _end(child: int) -> str:
    """Kill the child's group and collect the child. Returns how it ended, in words."""
    deadline = time.monotonic() + _REAP_S
    while time.monotonic() < deadline:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(child, signal.SIGKILL)
        collected, status = os.waitpid(child, os.WNOHANG)
        if collected:
            return f"signal {os.WTERMSIG(status)}" if os.WIFSIGNALED(status) else f"status {os.WEXITSTATUS(status)}"
        time.sleep(0.01)
    return "nothing that could be waited for"
