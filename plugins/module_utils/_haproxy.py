# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""HAProxy's master socket: its processes, and its servers' state and requests. Private to this collection.

Commands and fields are those of HAProxy's management guide, sections 9.3 and 9.4, the same from 2.4 to 3.0.
"""

from __future__ import annotations

import csv
import socket
import time
import typing as t

from ansible_collections.llmfleet.serving.plugins.module_utils._errors import LlmError

# Drained by an administrator, in the bits of srv_admin_state.
_DRAINED = 0x08
_POLL_S = 0.5
# A worker that ends between two commands gives no answer, and in a reload nobody listens for a second or two.
_ANSWER_TIMEOUT_S = 5
_PATIENCE_S = 30

_Answer = t.TypeVar("_Answer")


class Workers(t.NamedTuple):
    """Process numbers: the worker that takes new requests, and those that only finish theirs after a reload."""

    current: str
    old: list[str]


def workers(answer: str) -> Workers:
    """Read the answer to ``show proc``: one process a line, under headings that begin with a number sign.

    :raises LlmError: if no worker runs.
    """
    found: dict[str, list[str]] = {}
    heading = ""
    for line in answer.splitlines():
        if line.startswith("#"):
            heading = line.strip("# ")
        elif line.strip():
            found.setdefault(heading, []).append(line.split()[0])
    if not found.get("workers"):
        raise LlmError(f"HAProxy: expected a worker process, found {answer.strip()!r}. See journalctl -u haproxy.")
    return Workers(found["workers"][0], found.get("old workers", []))


def drained(states: str) -> list[str]:
    """The lines of ``show servers state`` that a drained server has. Their seventh field is srv_admin_state."""
    return [line for line in states.splitlines()[2:] if line and int(line.split()[6]) & _DRAINED]


def requests(statistics: str, service: str, name: str) -> int:
    """How many requests a server has running, by ``show stat``: 0 if it is not there, as in a worker of old."""
    rows = csv.DictReader(statistics.lstrip("# ").splitlines())
    return sum(int(row["scur"]) for row in rows if (row["pxname"], row["svname"]) == (service, name))


class Haproxy:
    """A running HAProxy, asked over its master socket. Raises LlmError."""

    def __init__(self, path: str) -> None:
        self._path = path

    def states(self) -> str:
        """What ``show servers state`` says, in the form that HAProxy reads when it starts."""
        return self._worker("show servers state")

    def is_drained(self, service: str, name: str) -> bool:
        """Whether a server is out of the rotation by somebody's will.

        :raises LlmError: if there is no such service or server, with those that there are.
        """
        known = {(line.split()[1], line.split()[3]) for line in self.states().splitlines()[2:] if line}
        if (service, name) not in known:
            # What has a colon in its name is for those who read metrics, and no service.
            have = ", ".join(sorted("/".join(pair) for pair in known if ":" not in pair[0])) or "none"
            raise LlmError(f"Backend {service}/{name}: expected one that the edge has, found {have}. Name one of them.")
        return any(line.split()[1:4:2] == [service, name] for line in drained(self.states()))

    def set_state(self, service: str, name: str, state: str) -> None:
        """Put a server into the state ``drain`` or ``ready``."""
        answer = self._worker(f"set server {service}/{name} state {state}").strip()
        if answer:
            raise LlmError(f"Backend {service}/{name}: expected to be set to {state}, found {answer!r}.")

    def requests(self, service: str, name: str) -> int:
        """Requests that a server has running, those that came before a reload among them."""

        def count() -> int:
            current, old = workers(self._ask("show proc"))
            return sum(requests(self._ask(f"@!{pid} show stat"), service, name) for pid in (current, *old))

        return self._patiently(count)

    def wait(self, service: str, name: str, timeout: float) -> None:
        """Wait until a server has no request running.

        :param timeout: seconds.
        :raises LlmError: if it has some then still.
        """
        deadline = time.monotonic() + timeout
        while True:
            running = self.requests(service, name)
            if running == 0:
                return
            if time.monotonic() >= deadline:
                raise LlmError(
                    f"Backend {service}/{name}: expected its requests to end within {timeout:g} s, found {running} "
                    f"running. It takes no new ones. Wait longer, or put it back."
                )
            time.sleep(_POLL_S)

    def _worker(self, command: str) -> str:
        return self._patiently(lambda: self._ask(f"@!{workers(self._ask('show proc')).current} {command}"))

    def _patiently(self, question: t.Callable[[], _Answer]) -> _Answer:
        """Ask again, from the beginning, while HAProxy is being reloaded."""
        deadline = time.monotonic() + _PATIENCE_S
        while True:
            try:
                return question()
            except OSError as exc:
                # Without a socket no HAProxy is there to wait for.
                if isinstance(exc, FileNotFoundError) or time.monotonic() >= deadline:
                    raise LlmError(
                        f"HAProxy: expected an answer on {self._path}, found {exc}. Has the role edge run on this host?"
                    ) from exc
            time.sleep(_POLL_S)

    def _ask(self, command: str) -> str:
        """The answer to one command. HAProxy ends it with an empty line, and leaves the connection open."""
        answer = b""
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(_ANSWER_TIMEOUT_S)
            connection.connect(self._path)
            connection.sendall(command.encode() + b"\n")
            while answer != b"\n" and not answer.endswith(b"\n\n"):
                part = connection.recv(65536)
                if not part:
                    raise ConnectionError("an answer that breaks off")
                answer += part
        return answer.decode(errors="replace")
