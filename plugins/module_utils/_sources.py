# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A source of a model's files: how it behaves, and what it sends. Private to this collection."""

from __future__ import annotations

import contextlib
import dataclasses
import threading
import time
import typing as t
from collections.abc import Iterator

from ansible_collections.llmfleet.serving.plugins.module_utils._errors import LlmError
from ansible_collections.llmfleet.serving.plugins.module_utils._http import ASK, HttpError, backoff_s
from ansible_collections.llmfleet.serving.plugins.module_utils._hub import Content, RemoteFile, Source

# What a failure costs: one that passes by itself, one that cost time, an answer that makes no sense, any other.
_PASSING, _SLOW, _ODD, _FINAL = 1, 3, 4, 8
_ABSENT = {404, 410, 451}
# How long others are preferred to a source that has been slow, or has failed as often.
_REST_S = 300.0
# A connection that is silent while others of the same source are not is broken after so long, or after so many times
# what a piece takes there: its bytes are wanted first, and the others soon have nothing more that they may fetch.
_QUIET_S = 5.0
_QUIET_GAPS = 20


class ChangedError(HttpError):
    """A file of which no sum is listed is another one now: what was fetched of it is of no use. Begin it again."""


class Conduct:
    """How a source has behaved.

    Each failure costs points, bytes that nobody had before clear them. A source with points waits before it serves
    again; one with many serves only if no other can; one with too many is given up.

    :ivar gone: whether it is given up, for the `reason`.
    :ivar not_before: when it may be tried again, by `time.monotonic()`.
    :ivar rests_until: up to when others are preferred.
    :ivar forgiven: whether it served wrong bytes once, and was tried again.
    :ivar moved: when it last brought something new, by `time.monotonic()`.
    """

    def __init__(self) -> None:
        self.gone = False
        self.reason = ""
        self.not_before = self.rests_until = self.moved = float("-inf")
        self.forgiven = False
        self._gap = 0.0
        self._points = 0
        self._failures = 0
        self._charged = float("-inf")

    def drop(self, reason: str) -> None:
        """Never use the source again."""
        self.gone, self.reason = True, reason

    def charge(self, error: LlmError, began: float, *, slow: bool = False) -> None:
        """Count a failure of what began at a time, and let the source wait, rest or go."""
        points = _SLOW if slow else _cost(error)
        # Connections that break together are one failure.
        if began <= self._charged and points < _FINAL:
            return
        self._failures += 1
        self._points += points
        self._charged = time.monotonic()
        self.reason = str(error)
        self.not_before = self._charged + backoff_s(self._failures, getattr(error, "retry_after", 0.0))
        if self._points >= _SLOW:
            self.rests_until = self._charged + _REST_S
        if self._points >= _FINAL:
            tries = f" Given up after {self._failures} tries in a row." if self._failures > 1 else ""
            absent = isinstance(error, HttpError) and error.status in _ABSENT
            self.drop(f"{error}{tries}{' Compare repo, revision and files with the source.' if absent else ''}")

    def clear(self) -> None:
        """The source brought something new: the failures before were not in vain."""
        self._points = self._failures = 0
        self.rests_until = float("-inf")
        self.moved = time.monotonic()

    def waited(self, seconds: float) -> None:
        """A connection has waited so long for a piece, which has come."""
        self._gap += (seconds - self._gap) / 16

    def patience(self, since: float) -> float:
        """Seconds that a connection may go on waiting which has waited since a time: no limit while all are silent."""
        return max(_QUIET_S, _QUIET_GAPS * self._gap) if self.moved > since else float("inf")


class Provider(t.Protocol):
    """Something that bytes of a file can be had from.

    :ivar address: a URL or a path, for people.
    """

    address: str
    conduct: Conduct

    def open(self, file: RemoteFile, start: int, stop: int) -> contextlib.AbstractContextManager[Content]:
        """Open the bytes from the offset `start` to the offset `stop`, or the whole file."""


class Origin:
    """A repository at one commit.

    :ivar lists: whether it is asked for a list of files. One that is not serves whatever is at a file's path.
    """

    def __init__(self, source: Source, commit: str, *, lists: bool = True) -> None:
        self.address = source.address
        self.lists = lists and source.lists
        self.conduct = Conduct()
        self._source = source
        self._commit = commit
        self._lock = threading.Lock()
        self._files: dict[str, RemoteFile] = {}
        self._etags: dict[str, str] = {}

    def files(self) -> dict[str, RemoteFile]:
        """All files by path. The source is asked once."""
        with self._lock:
            if not self._files:
                self._files = {file.path: file for file in self._source.files(self._commit)}
            return self._files

    @contextlib.contextmanager
    def open(self, file: RemoteFile, start: int, stop: int) -> Iterator[Content]:
        """Open what this source has for `file`, which another source may have listed.

        :raises HttpError: if it is not the same file, or not the one that it was before.
        """
        # Without a range, the answer of a server that has none is just what was asked for.
        end = None if (start, stop) == (0, file.size) else stop
        # Where a sum will tell, ETags do not matter: behind one address there may be servers that do not agree on them.
        summed = file.sha256 or file.git_blob
        etag = None if summed else self._etags.get(file.path)
        with self._source.open(self._own(file), start, etag, end) as content:
            self._require_size(file, content)
            if content.etag and not summed:
                self._etags[file.path] = content.etag
                if etag not in (None, content.etag):
                    raise ChangedError(f"{self.address} serves another {file.path} than before. {ASK}", status=200)
            yield content

    def _own(self, file: RemoteFile) -> RemoteFile:
        """The file as this source opens it."""
        if not self.lists:
            return dataclasses.replace(file, url=self._source.locate(self._commit, file.path))
        own = self.files().get(file.path)
        if own is None or _differ(own, file):
            raise HttpError(f"{self.address} does not list {file.path} with the same size and sum.")
        return own

    def _require_size(self, file: RemoteFile, content: Content) -> None:
        if content.total in (None, file.size):
            return
        seems = _seems(next(content.chunks(), b"")) if content.start == 0 else ""
        raise HttpError(
            f"{self.address} serves {content.total} bytes{seems}; {file.size} are listed. {ASK}", status=200
        )


class Opening:
    """Bytes of a file on their way.

    :param served: takes up the provider as soon as it has sent something.
    :ivar start, stop: the offsets that come, in bytes: those that were asked for, fewer, or the whole file.
    :ivar source: address of the source, for people.
    :ivar latency: seconds that the source took to answer.
    """

    def __init__(
        self, provider: Provider, content: Content, start: int, stop: int, latency: float, served: set[Provider]
    ) -> None:
        self.start = start
        self.stop = stop
        self.source = provider.address
        self.provider = provider
        self.began = time.monotonic()
        self.latency = latency
        self.slow = False
        self._content = content
        self._served = served
        self._waits_since: float | None = None

    def chunks(self) -> Iterator[bytes]:
        """Exactly the bytes from `start` to `stop`. Read on to the end: then the connection is used again.

        :raises HttpError: if there are fewer or more, or they come too slowly.
        """
        size = self.stop - self.start
        left = size
        content = self._content.chunks()
        while data := self._wait(content):
            self._served.add(self.provider)
            left -= len(data)
            if left < 0:
                raise HttpError(f"{self.source}: the data goes on behind its {size} bytes. {ASK}", status=206)
            yield data
        if left:
            raise self._short(f"the data ended {left} bytes too early")

    def abort_if_slow(self, limit_s: float) -> None:
        """Break the connection if its reader has been waiting for so long, or too long for this source."""
        since = self._waits_since
        if since is not None and time.monotonic() - since >= min(limit_s, self.provider.conduct.patience(since)):
            self.abort()

    def abort(self) -> None:
        """Break the connection, as one that is too slow."""
        self.slow = True
        self._content.abort()

    def _wait(self, content: Iterator[bytes]) -> bytes:
        """The next piece, b"" at the end."""
        since = self._waits_since = time.monotonic()
        try:
            data = next(content, b"")
        except LlmError as exc:
            if isinstance(exc, HttpError) and not self.slow:
                raise
            raise self._short(str(exc)) from exc
        finally:
            self._waits_since = None
        self.provider.conduct.waited(time.monotonic() - since)
        return data

    def _short(self, why: str) -> HttpError:
        return HttpError(f"{self.source}: {'the data came too slowly' if self.slow else why}.", transient=True)


def _cost(error: LlmError) -> int:
    if isinstance(error, HttpError) and error.transient:
        return _PASSING
    return _ODD if isinstance(error, HttpError) and error.status in (200, 206, 416) else _FINAL


def _differ(one: RemoteFile, other: RemoteFile) -> bool:
    """Whether two sources list different content; a sum that only one of them tells says nothing."""
    sums = ((one.sha256, other.sha256), (one.git_blob, other.git_blob))
    return one.size != other.size or any(a != b for a, b in sums if a and b)


def _seems(start: bytes) -> str:
    text = start[:200].lstrip().lower()
    if text.startswith((b"<!doctype html", b"<html")):
        return " (an HTML page)"
    return " (a Git LFS pointer)" if text.startswith(b"version https://git-lfs") else ""
