# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a power loss can leave of a directory: everything that a run did to it is recorded, and any moment replayed.

The model is as harsh as POSIX allows: the content of each file is what it was when fsync(2) or fdatasync(2) of it
began, or, if the kernel was quick, what it is now; a file that was never synchronised is empty. Names change in their
order; those changed since the directory's last fsync(2) may be lost from any point on.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import stat
import threading
import typing as t
from collections.abc import Iterator
from pathlib import Path

import pytest

Names = dict[str, int]  # inode by name
Files = dict[str, bytes]  # content by name

# After each of these, and before it, the directory is looked at.
CALLS = ("open", "pwrite", "ftruncate", "fsync", "fdatasync", "replace", "rename", "unlink", "link", "chmod", "utime")


class Moment(t.NamedTuple):
    """The state of the directory at one moment. `names` has all states since the directory was last synchronised."""

    names: list[Names]
    now: dict[int, bytes]
    synced: dict[int, bytes]


class Recorder:
    """Records, inside of ``with``, what happens to the files of `folder`; it has no directories that matter."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lock = threading.RLock()
        self._names: list[Names] = []
        self._synced: dict[int, bytes] = {}
        self._open = contextlib.ExitStack()
        self._files: dict[int, t.BinaryIO] = {}
        self._patch = pytest.MonkeyPatch()
        self.moments: list[Moment] = []

    def __enter__(self) -> Recorder:
        self._names = [self._listed()]
        self._synced = self._contents()  # what is there before is on the disk
        for name in CALLS:
            self._patch.setattr(os, name, self._hooked(name, getattr(os, name)))
        return self

    def __exit__(self, *_exception: object) -> None:
        self._patch.undo()
        self._open.close()

    def outcomes(self, passing: str) -> Iterator[Files]:
        """What the directory may hold after a power loss, at each moment; each outcome once.

        :param passing: a regular expression for the names of files that nobody reads again, which are left out.
        """
        seen = set()
        for moment in self.moments:
            for names in moment.names:
                states = [
                    {(name, moment.synced.get(inode, b"")), (name, moment.now.get(inode, b""))}
                    for name, inode in names.items()
                    if not re.search(passing, name)
                ]
                for files in map(dict, itertools.product(*states)):
                    key = frozenset(files.items())
                    if key not in seen:
                        seen.add(key)
                        yield files

    def _hooked(self, name: str, real: t.Callable[..., t.Any]) -> t.Callable[..., t.Any]:
        def call(*args: t.Any, **kwargs: t.Any) -> t.Any:
            # One call at a time: an order of events is what is recorded.
            with self._lock:
                self._look()
                before = self._contents()
                result = real(*args, **kwargs)
                if name in ("fsync", "fdatasync"):
                    self._sync(os.fstat(args[0]), before)
                self._look()
                return result

        return call

    def _sync(self, status: os.stat_result, before: dict[int, bytes]) -> None:
        if stat.S_ISDIR(status.st_mode):
            if status.st_ino == self._folder.stat().st_ino:
                self._names = self._names[-1:]
        elif status.st_ino in before:
            self._synced[status.st_ino] = before[status.st_ino]

    def _look(self) -> None:
        names = self._listed()
        if names != self._names[-1]:
            self._names.append(names)
        self.moments.append(Moment(list(self._names), self._contents(), dict(self._synced)))

    def _listed(self) -> Names:
        with os.scandir(self._folder) as entries:
            return {entry.name: entry.inode() for entry in entries if entry.is_file(follow_symlinks=False)}

    def _contents(self) -> dict[int, bytes]:
        """Of all files that there ever were: each is held open, so that none gets the inode of one that is gone."""
        for name, inode in self._listed().items():
            if inode not in self._files:
                self._files[inode] = self._open.enter_context((self._folder / name).open("rb"))
        return {inode: os.pread(file.fileno(), 1 << 30, 0) for inode, file in self._files.items()}
