# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Work done in a child process, so that it can neither hang nor crash its caller. Private to this collection."""

from __future__ import annotations

import contextlib
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


def in_child(work: t.Callable[[], t.Any], timeout: float) -> t.Any:
    """What `work` returns, which must be JSON. Whatever `work` has started is killed before this returns.

    :param timeout: seconds that `work` may take.
    :raises TimeoutError: when it takes longer.
    :raises ChildProcessError: when the child dies without an answer; the text is how ("signal 11").
    :raises LlmError: when `work` raises one.
    """
    receiver, sender = os.pipe()
    child = os.fork()
    if child == 0:
        _live(sender, work)
    os.close(sender)
    try:
        message = _receive(receiver, timeout)
    finally:
        os.close(receiver)
        ended = _end(child)
    if not message:
        raise ChildProcessError(ended)
    answer = json.loads(message)
    if "error" in answer:
        raise LlmError(answer["error"])
    if "bug" in answer:
        raise RuntimeError(answer["bug"])
    return answer["value"]


def _live(sender: int, work: t.Callable[[], t.Any]) -> t.NoReturn:
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


def _receive(receiver: int, timeout: float) -> bytes:
    """All that comes before the pipe is closed."""
    deadline = time.monotonic() + timeout
    message = b""
    while select.select([receiver], [], [], max(0.0, deadline - time.monotonic()))[0]:
        chunk = os.read(receiver, 1 << 16)
        if not chunk:
            return message
        message += chunk
    raise TimeoutError(f"no answer within {timeout:g} s")


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
