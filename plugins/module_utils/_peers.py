# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Hosts of the same fleet, which serve what they have of a file while they are still getting it. Private.

A peer is any web server that knows Range, over the directory that the file is made in. It serves the finished file and
its record, or the file in the making, its note and its journal, which say what bytes can be had. Nothing that a peer
says is trusted: its bytes are checked as those of a hub are.
"""

from __future__ import annotations

import contextlib
import dataclasses
import threading
import time
import typing as t
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from ansible_collections.llmfleet.serving.plugins.module_utils._errors import LlmError
from ansible_collections.llmfleet.serving.plugins.module_utils._files import companion
from ansible_collections.llmfleet.serving.plugins.module_utils._http import HttpError, open_body, request_json
from ansible_collections.llmfleet.serving.plugins.module_utils._hub import Content, RemoteFile
from ansible_collections.llmfleet.serving.plugins.module_utils._ranges import Ranges
from ansible_collections.llmfleet.serving.plugins.module_utils._sources import Conduct

_ASK_SILENT_S = 30.0
# Peers are in the same network: one that takes longer is down.
_ANSWER_S = 3.0


@dataclass(frozen=True)
class Shared:
    """A file that all hosts of a fleet make.

    :ivar name: its path below the address of a peer.
    :ivar size: bytes.
    :ivar facts: what its bytes are going to be, as its journal and its record have it; equal on all hosts.
    """

    name: str
    size: int
    facts: t.Any


@dataclass
class _State:
    """What the peer had of a shared file when it was asked last: these ranges of it, at the path `name`.

    :ivar noted: the ranges that its note named at first.
    """

    name: str = ""
    ranges: Ranges = dataclasses.field(default_factory=Ranges)
    noted: t.Any = None
    asked: float = float("-inf")


class _Place(t.NamedTuple):
    """Where a hub's file is in a shared one: its bytes from `skip` on, `shift` bytes further back."""

    shared: Shared
    state: _State
    skip: int
    shift: int

    def reach(self, start: int) -> int:
        """Up to which offset the bytes of the hub's file are there, from `start` on."""
        return self.state.ranges.end(start + self.shift) - self.shift


class Peer:
    """Another host of the fleet.

    :param address: URL of the directory that it serves.
    :param token: what it serves that for.
    :param timeout: longest silence while it sends data, in seconds.
    :ivar moved: when, by `time.monotonic()`, it was last seen to have other bytes than before; -inf if it had none.
    :ivar answers: whether it answered when it was asked last.
    :ivar refusal: why it refuses to answer, "" if it does not.
    """

    def __init__(self, address: str, token: str | None, timeout: float) -> None:
        self.address = address.rstrip("/")
        self.conduct = Conduct()
        self.moved = float("-inf")
        self.answers = False
        self.refusal = ""
        self._token = token
        self._timeout = timeout
        self._asking = threading.Lock()
        self._places: dict[str, _Place] = {}
        self._silences = 0
        self._silent_until = float("-inf")

    def share(self, shared: Shared, parts: t.Iterable[tuple[RemoteFile, int, int]]) -> None:
        """Expect a file there.

        :param parts: the hub's files in it; how many bytes at the start of each are left out, and the offset at which
            the rest is put.
        """
        state = _State()
        for file, skip, offset in parts:
            # Without a listed sum nothing would prove that the bytes are the same.
            if file.sha256:
                self._places[file.path] = _Place(shared, state, skip, offset - skip)

    def shares(self, file: RemoteFile, start: int) -> bool:
        """Whether a hub's file can ever be there, from the offset `start` on."""
        place = self._places.get(file.path)
        return place is not None and place.skip <= start

    def has(self, file: RemoteFile, start: int, least: int, age: float) -> bool:
        """Whether at least so many bytes of a file that it shares are there from the offset `start` on.

        If they were not when it was asked last, it is asked again after `age` seconds, by one thread at a time; less
        often while it does not answer.
        """
        place = self._places[file.path]
        if place.reach(start) < start + least and self._asking.acquire(blocking=False):
            try:
                if time.monotonic() >= max(place.state.asked + age, self._silent_until):
                    self._ask(place.shared, place.state)
            finally:
                self._asking.release()
        return place.reach(start) >= start + least

    @contextlib.contextmanager
    def open(self, file: RemoteFile, start: int, stop: int) -> Iterator[Content]:
        """Open the bytes of a file that it shares, as far as they are there."""
        place = self._places[file.path]
        stop = min(stop, place.reach(start))
        if stop <= start:
            raise HttpError(f"{self.address} has lost what it had of {file.path}.", transient=True)
        first, end = start + place.shift, stop + place.shift
        with contextlib.ExitStack() as stack:
            try:
                url = f"{self.address}/{quote(place.state.name)}"
                body = stack.enter_context(
                    open_body(url, start=first, stop=end, token=self._token, timeout=self._timeout, direct=True)
                )
            except HttpError as exc:
                # It may just have given the file its final name, or have begun it again.
                place.state.ranges = Ranges()
                raise HttpError(str(exc), status=exc.status, transient=exc.transient or exc.status == 404) from exc
            if (body.start, body.stop) != (first, end):
                raise HttpError(f"{self.address} has no ranges. Serve the files with a web server that has.")
            yield dataclasses.replace(body, start=start, stop=stop)

    def _ask(self, shared: Shared, state: _State) -> None:
        """Find out what is there of a file."""
        before = list(state.ranges)
        try:
            state.name, state.ranges = self._found(shared, state)
            self.answers, self.refusal, self._silences = True, "", 0
        except LlmError as exc:
            self.answers, state.ranges = False, Ranges()
            self.refusal = str(exc) if isinstance(exc, HttpError) and exc.status in (401, 403) else ""
            self._silences += 1
            self._silent_until = time.monotonic() + min(_ASK_SILENT_S, 2.0**self._silences)
        state.asked = time.monotonic()
        if self.answers and list(state.ranges) != before:
            self.moved = state.asked

    def _found(self, shared: Shared, state: _State) -> tuple[str, Ranges]:
        """The path at which the bytes of a file are now, and which of them."""
        part, note, journal, record = (
            str(companion(Path(shared.name), kind)) for kind in ("part", "note", "journal", "json")
        )
        known = self._json(note)
        if known.get("facts") == shared.facts:
            # A note says what was written. What had not reached the disk is lost if the host was started anew since;
            # a note that is renewed is of a run that goes on.
            noted = known.get("ranges")
            state.noted = state.noted or noted
            if noted != state.noted:
                return part, _ranges(noted, shared.size)
        known = self._json(journal)
        if known.get("facts") == shared.facts:
            return part, _ranges(known.get("ranges"), shared.size)
        finished = self._json(record).get("facts") == shared.facts
        return shared.name, Ranges([(0, shared.size)] if finished else [])

    def _json(self, path: str) -> dict[str, t.Any]:
        """The JSON object at a path, {} if there is none."""
        try:
            url = f"{self.address}/{quote(path)}"
            known = request_json("GET", url, token=self._token, timeout=_ANSWER_S, direct=True)
        except HttpError as exc:
            if exc.status == 404:
                return {}
            raise
        return known if isinstance(known, dict) else {}


def _ranges(told: t.Any, size: int) -> Ranges:
    """What a peer has told as ranges; none if that makes no sense."""
    try:
        return Ranges((max(start, 0), min(stop, size)) for start, stop in told)
    except (TypeError, ValueError):
        return Ranges()
