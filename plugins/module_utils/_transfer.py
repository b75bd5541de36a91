# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Getting files from a hub onto a disk: plan, transfer, commit. Private to this collection.

A `Download` is one file: made, it knows what is missing (plan); `fetch` brings that into a stage beside the final name,
hashed on its way, continued where an earlier run ended, and checked (transfer); `commit` gives it its name. `transfer`
runs many of them. Whatever happens, a final name has its old bytes or its new ones.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import hashlib
import json
import os
import threading
import time
import typing as t
from collections.abc import Callable, Generator, Iterator, Sequence
from pathlib import Path

from ansible_collections.llmfleet.serving.plugins.module_utils._errors import LlmError
from ansible_collections.llmfleet.serving.plugins.module_utils._files import (
    commit,
    companion,
    os_errors,
    read_json,
    read_record,
    require_plain,
    sha256_file,
    write_record,
)
from ansible_collections.llmfleet.serving.plugins.module_utils._http import HttpError, Retries
from ansible_collections.llmfleet.serving.plugins.module_utils._hub import Content, RemoteFile, Source

# A killed run loses at most this part of a file; smaller steps would only cost time for syncing, larger ones data.
_JOURNAL_PART = 200
_JOURNAL_MIN, _JOURNAL_MAX = 1 << 20, 256 << 20
_READ_BYTES = 1 << 20
_PROGRESS_S = 1.0


class _SpoiledError(HttpError):
    """The bytes fetched so far are of no use: begin again."""


class Stage:
    """A file in the making. It takes bytes at any offset; a journal says up to where they are safe on the disk.

    :param facts: what the bytes are going to be; a journal with other facts is of another file, and worth nothing.
    """

    def __init__(self, dest: Path, facts: dict[str, t.Any]) -> None:
        self.path = companion(dest, "part")
        self._journal = companion(dest, "journal")
        self._facts = facts
        self._fd = -1

    def left_over(self) -> tuple[int, str | None]:
        """How many bytes from the start an earlier run left that can be used, and the ETag of what they came from."""
        journal = read_json(self._journal)
        if journal.get("facts") != self._facts or not self.path.is_file():
            return 0, None
        # The size of a file is no proof of its content; but bytes that are not there are not safe either.
        return min(journal["safe"], self.path.stat().st_size), journal["etag"]

    @contextlib.contextmanager
    def opened(self) -> Iterator[None]:
        """Inside, `write_at`, `truncate`, `prefix` and `sync` work."""
        # A link that somebody else put there would lead the bytes astray.
        self._fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666)
        try:
            yield
        finally:
            os.close(self._fd)

    def write_at(self, offset: int, data: bytes) -> None:
        """Write all of `data`; pwrite(2) may write less than it is given, for example just before a disk is full."""
        view = memoryview(data)
        while view:
            count = os.pwrite(self._fd, view, offset)
            view, offset = view[count:], offset + count

    def truncate(self, size: int) -> None:
        """Throw away what follows the first `size` bytes."""
        os.ftruncate(self._fd, size)

    def prefix(self, size: int) -> Iterator[bytes]:
        """The first `size` bytes, in pieces."""
        for offset in range(0, size, _READ_BYTES):
            yield os.pread(self._fd, min(_READ_BYTES, size - offset), offset)

    def sync(self, safe: int, etag: str | None) -> None:
        """Put the data on the disk, and only then say so in the journal."""
        os.fdatasync(self._fd)
        _replace_json(self._journal, {"facts": self._facts, "safe": safe, "etag": etag})

    def commit(self, dest: Path, finish: Callable[[Path], t.Any], record: dict[str, t.Any]) -> None:
        """Give the file its final name, and keep a record of it; `finish` sets owner, mode and the like before."""
        finish(self.path)
        commit(self.path, dest)
        write_record(dest, record)
        self._journal.unlink()


class Download:
    """One file of a hub, wanted at `dest`. Making it finds out what is missing, and changes nothing.

    :ivar present: whether `dest` has the file: by its record, else by its content.
    :ivar done: bytes that are there, in `dest` or its stage.
    :ivar fetched: bytes that came from the hub in this run, with those that were of no use.
    :raises LlmError: if `dest` is something else than a file.
    """

    def __init__(self, source: Source, file: RemoteFile, dest: Path) -> None:
        require_plain(dest)
        self.file = file
        self.dest = dest
        self._source = source
        self._stage = Stage(dest, file.facts)
        self._record = read_record(dest) or {}
        self.present = self._record.get("listed") == file.facts or _has_content(dest, file)
        self.done = file.size if self.present else self._stage.left_over()[0]
        self.fetched = 0
        self._safe = 0
        self._etag: str | None = None
        self._digest = hashlib.sha256()
        self._body: Content | None = None
        self._heard = 0.0

    @property
    def sha256(self) -> str:
        """Of the file: as its hub lists it, else as it was computed, "" as long as it is not there."""
        return self.file.sha256 or str((read_record(self.dest) or {}).get("sha256", ""))

    def require_replaceable(self) -> None:
        """:raises LlmError: if `dest` has other content, and it was not this collection that put it there."""
        if self.dest.exists() and not self.present and not self._record:
            raise LlmError(
                f"{self.dest} exists and is not the file {self.file.path} of the hub. Remove it, name another "
                "destination, or set force to replace it."
            )

    def fetch(self, retries: Retries, halt: threading.Event) -> None:
        """Complete the stage and check it. What turns out to be of no use is fetched again, once.

        :param halt: when it is set, the work ends soon; what has been fetched stays for the next run.
        """
        with os_errors(f"Writing {self._stage.path} (what has been fetched is kept; run again after that is solved)"):
            self.dest.parent.mkdir(parents=True, exist_ok=True)
            with self._stage.opened():
                self._begin(*self._stage.left_over())
                try:
                    self._complete(retries, halt)
                except _SpoiledError:
                    self._complete(retries, halt)

    def commit(self, finish: Callable[[Path], t.Any]) -> None:
        """Give the fetched file its name; `finish` sets owner, mode and the like on it before."""
        self._stage.commit(self.dest, finish, {"listed": self.file.facts, "sha256": self._digest.hexdigest()})

    def adopt(self) -> None:
        """Keep a record of a present file that was known by its content only, so that the next run need not read it."""
        if (read_record(self.dest) or {}).get("listed") != self.file.facts:
            write_record(self.dest, {"listed": self.file.facts, "sha256": sha256_file(self.dest)})

    def abort_if_silent(self, limit_s: float) -> None:
        """Break the connection if no data has come for so long: the fetching thread then tries again."""
        body = self._body
        if body and time.monotonic() - self._heard >= limit_s:
            body.abort()

    def _begin(self, safe: int = 0, etag: str | None = None) -> None:
        """Start behind `safe` bytes in the stage. Their hash is computed from the disk: what is there counts."""
        self._stage.truncate(safe)
        self._digest = hashlib.sha256()
        for data in self._stage.prefix(safe):
            self._digest.update(data)
        self.done, self._etag = safe, etag
        self._sync()

    def _spoiled(self, text: str) -> _SpoiledError:
        """Throw away what has been fetched, and the error that says so."""
        self._begin()
        return _SpoiledError(f"{self.file.path}: {text}")

    def _sync(self) -> None:
        self._stage.sync(self.done, self._etag)
        self._safe = self.done

    def _complete(self, retries: Retries, halt: threading.Event) -> None:
        """Receive all that is missing, however often the connection breaks, and check the whole."""
        best = self.done
        while self.done < self.file.size:
            try:
                self._receive(halt)
            except HttpError as exc:
                if halt.is_set():
                    raise
                # A wrong range, or no such one: the bytes at hand and those at the hub do not fit together.
                if exc.status in (206, 416):
                    raise self._spoiled(str(exc)) from exc
                # Only bytes never had before are progress: without ranges, each try begins at the start.
                if self.done > best:
                    best = self.done
                    retries.progress()
                retries.wait(exc.of(self.file.path))
        self._check()

    def _receive(self, halt: threading.Event) -> None:
        """Receive once, as far as the connection holds."""
        with self._source.open(self.file, self.done, self._etag) as body:
            self._require_size(body)
            if body.start != self.done:
                self._begin()
            self._etag = body.etag
            self._heard = time.monotonic()
            self._body = body
            try:
                for data in body.chunks():
                    self._take(data)
                    if halt.is_set():
                        break
            finally:
                self._body = None
                self._sync()
        if self.done < self.file.size:
            raise HttpError(
                f"The data ended after {self.done} of {self.file.size} bytes, or data came too slowly.",
                transient=True,
            )

    def _take(self, data: bytes) -> None:
        if self.done + len(data) > self.file.size:
            raise HttpError(f"The data goes on behind the {self.file.size} bytes that its hub lists. {_ASK}")
        self._stage.write_at(self.done, data)
        self._digest.update(data)
        self.done += len(data)
        self.fetched += len(data)
        self._heard = time.monotonic()
        if self.done - self._safe >= min(max(self.file.size // _JOURNAL_PART, _JOURNAL_MIN), _JOURNAL_MAX):
            self._sync()

    def _require_size(self, body: Content) -> None:
        if body.total in (None, self.file.size):
            return
        seems = _seems(next(body.chunks(), b"")) if body.start == 0 else ""
        raise HttpError(f"The hub serves {body.total} bytes{seems}; it lists {self.file.size}. {_ASK}")

    def _check(self) -> None:
        found, expected = self._digest.hexdigest(), self.file.sha256
        if expected and found != expected:
            raise self._spoiled(f"The data has the sha256 {found}; the hub lists {expected}. {_ASK}")
        if self.file.git_blob and not _has_content(self._stage.path, self.file):
            raise self._spoiled(f"The data is not what git knows as {self.file.git_blob}. {_ASK}")


def transfer(
    downloads: Sequence[Download], *, workers: int, timeout: float, deadline: float, progress: Path
) -> Generator[Download, None, None]:
    """Fetch files, several at a time, and hand each over as soon as it is complete and checked.

    :param timeout: seconds without data after which a connection is given up.
    :param deadline: the value of `time.monotonic()` at which the transfer fails; what has been fetched is kept.
    :param progress: a file in an existing directory for those who watch, renewed each second, removed at the end: JSON
        with the bytes `done` and `total`, and `rate`, the bytes per second since the start.
    :raises LlmError: the first failure of a file; the others are then stopped, as they are when this is closed.
    """
    halt = threading.Event()
    pool = concurrent.futures.ThreadPoolExecutor(workers)
    status = _Status(progress, downloads)
    try:
        pending = {
            pool.submit(download.fetch, Retries(deadline, sleep=halt.wait), halt): download for download in downloads
        }
        while pending:
            status.write()
            ended, _dummy = concurrent.futures.wait(pending, _PROGRESS_S, concurrent.futures.FIRST_COMPLETED)
            for future in ended:
                future.result()
                yield pending.pop(future)
            if time.monotonic() > deadline:
                raise LlmError(f"The deadline has passed {status.summary()}. Run again: what has been fetched is kept.")
            for download in pending.values():
                download.abort_if_silent(timeout)
    finally:
        halt.set()
        for download in downloads:
            download.abort_if_silent(0)
        pool.shutdown(cancel_futures=True)
        status.remove()


class _Status:
    """The progress file."""

    def __init__(self, path: Path, downloads: Sequence[Download]) -> None:
        self._path = path
        self._downloads = downloads
        self._total = sum(download.file.size for download in downloads)
        self._start = time.monotonic()
        self._written = -_PROGRESS_S

    def write(self) -> None:
        """Renew the file, at most once a second."""
        elapsed = time.monotonic() - self._start
        if elapsed - self._written >= _PROGRESS_S:
            rate = round(sum(download.fetched for download in self._downloads) / max(elapsed, _PROGRESS_S))
            _replace_json(self._path, {"done": self._done, "total": self._total, "rate": rate})
            self._written = elapsed

    def summary(self) -> str:
        return f"with {self._done} of {self._total} bytes there"

    def remove(self) -> None:
        self._path.unlink(missing_ok=True)

    @property
    def _done(self) -> int:
        return sum(download.done for download in self._downloads)


def _replace_json(path: Path, content: dict[str, t.Any]) -> None:
    """Write a file that readers see whole. Unlike `write_json`, this does not wait for the disk.

    A power loss may bring back an older journal, or none: that costs time, and no correctness.
    """
    stage = path.with_name(path.name + ".new")
    stage.write_text(json.dumps(content))
    stage.replace(path)


_ASK = "The hub, or a proxy on the way, is at fault: use another one, or ask who runs it."


def _seems(start: bytes) -> str:
    text = start[:200].lstrip().lower()
    if text.startswith((b"<!doctype html", b"<html")):
        return " (an HTML page)"
    return " (a Git LFS pointer)" if text.startswith(b"version https://git-lfs") else ""


def _has_content(path: Path, file: RemoteFile) -> bool:
    """Whether a local file is, by size and sum, what the hub lists."""
    if not path.is_file() or path.stat().st_size != file.size:
        return False
    if file.sha256:
        return sha256_file(path) == file.sha256
    return bool(file.git_blob) and _git_blob(path, file.size) == file.git_blob


def _git_blob(path: Path, size: int) -> str:
    """Git's id of a content, which is how git proves it; hubs keep no better one of files outside of LFS."""
    digest = hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)
    with path.open("rb") as file:
        while data := file.read(_READ_BYTES):
            digest.update(data)
    return digest.hexdigest()
