# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Put one file together from given bytes and ranges of other files, as fast as the disk. Private to this collection."""

from __future__ import annotations

import contextlib
import errno
import os
import typing as t
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from ansible_collections.llmfleet.serving.plugins.module_utils._errors import LlmError
from ansible_collections.llmfleet.serving.plugins.module_utils._files import os_errors

# Two copies at a time let reading and writing overlap; more gained nothing on one disk (tests/bench/merge.py).
_WORKERS = 2
# The unit of work of one worker: large against the cost of opening files, small against the model.
_PIECE_BYTES = 128 << 20
# The buffer where the kernel does not copy by itself, and of comparisons: two for each worker.
_BUFFER_BYTES = 4 << 20

# What copy_file_range(2) and sendfile(2) answer where the file systems or a seccomp filter do not let them do it.
_UNSUPPORTED = {errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM, errno.EXDEV}


class FileRange(t.NamedTuple):
    """`size` bytes at `offset` of the file `path` that belong at `target` of the file put together."""

    path: Path
    offset: int
    size: int
    target: int


@dataclass(frozen=True)
class Assembly:
    """A file as the sum of its parts.

    :ivar head: its first bytes.
    :ivar ranges: the rest of it.
    :ivar size: all its bytes.
    """

    head: bytes
    ranges: Sequence[FileRange]
    size: int

    def write(self, path: Path) -> None:
        """Create the file; it must not exist. Its whole size is allocated before the first byte is written.

        :raises OSError: when it cannot be created or has no room.
        :raises LlmError: when a range cannot be copied.
        """
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        try:
            os.posix_fallocate(fd, 0, self.size)
            _write_all(fd, memoryview(self.head), 0)
        finally:
            os.close(fd)
        with ThreadPoolExecutor(_WORKERS) as pool:
            list(pool.map(lambda piece: _copy(piece, path), self._pieces()))

    def equals(self, path: Path) -> bool:
        """Whether the file has exactly these bytes. Everything is read.

        :raises OSError: when a file cannot be read.
        """
        with path.open("rb") as file:
            if os.fstat(file.fileno()).st_size != self.size or file.read(len(self.head)) != self.head:
                return False
        with ThreadPoolExecutor(_WORKERS) as pool:
            return all(pool.map(lambda piece: _same(piece, path), self._pieces()))

    def _pieces(self) -> Iterator[FileRange]:
        for whole in self.ranges:
            for done in range(0, whole.size, _PIECE_BYTES):
                size = min(_PIECE_BYTES, whole.size - done)
                yield FileRange(whole.path, whole.offset + done, size, whole.target + done)


def _copy(piece: FileRange, path: Path) -> None:
    # Each piece has its own descriptors, because sendfile(2) writes at the position of the descriptor.
    with contextlib.ExitStack() as stack:
        stack.enter_context(os_errors(f"Copying {piece.size} bytes at {piece.offset} of {piece.path} to {path}"))
        source = os.open(piece.path, os.O_RDONLY | os.O_CLOEXEC)
        stack.callback(os.close, source)
        # A larger read-ahead: without it a cold merge took 1.7 times as long (Linux 6.18, ext4).
        os.posix_fadvise(source, piece.offset, piece.size, os.POSIX_FADV_SEQUENTIAL)
        target = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        stack.callback(os.close, target)
        done = _copy_in_kernel(source, target, piece)
        _copy_through_buffer(source, target, piece, done)


def _copy_in_kernel(source: int, target: int, piece: FileRange) -> int:
    """Copy without a buffer of ours, as far as the kernel goes, and return how far that was."""

    def send_file(done: int) -> int:
        os.lseek(target, piece.target + done, os.SEEK_SET)
        return os.sendfile(target, source, piece.offset + done, piece.size - done)

    def copy_file_range(done: int) -> int:
        return os.copy_file_range(source, target, piece.size - done, piece.offset + done, piece.target + done)

    done = 0
    for copy in (copy_file_range, send_file):
        try:
            while done < piece.size and (count := copy(done)):
                done += count
        except OSError as exc:
            if exc.errno not in _UNSUPPORTED:
                raise
    return done


def _copy_through_buffer(source: int, target: int, piece: FileRange, done: int) -> None:
    buffer = memoryview(bytearray(min(_BUFFER_BYTES, piece.size - done)))
    while done < piece.size:
        count = os.preadv(source, [buffer[: piece.size - done]], piece.offset + done)
        if count == 0:
            raise LlmError(
                f"{piece.path} ended at byte {piece.offset + done}, {piece.size - done} bytes early: "
                "it was changed while it was read."
            )
        _write_all(target, buffer[:count], piece.target + done)
        done += count


def _write_all(fd: int, data: memoryview, offset: int) -> None:
    """pwrite(2) may write less than it is given, for example just before a disk is full."""
    while data:
        count = os.pwrite(fd, data, offset)
        data, offset = data[count:], offset + count


def _same(piece: FileRange, path: Path) -> bool:
    with piece.path.open("rb", buffering=0) as source, path.open("rb", buffering=0) as target:
        for done in range(0, piece.size, _BUFFER_BYTES):
            size = min(_BUFFER_BYTES, piece.size - done)
            expected = os.pread(source.fileno(), size, piece.offset + done)
            if len(expected) != size or os.pread(target.fileno(), size, piece.target + done) != expected:
                return False
    return True
