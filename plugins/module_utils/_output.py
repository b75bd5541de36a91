# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A file in the making, put together from known bytes and the data of remote files. Private to this collection.

Its bytes come in any order into `.NAME.llmfleet.part`, which has its full size from the start. Two files beside it say
what is there, and nothing else counts after a crash. `.journal` says which bytes are safe on the disk, and how far
their sums have been computed. `.note` says the same of what has been written, which holds until the host is started
anew; it does not wait for the disk, so that a killed process loses next to nothing. The final name has its old bytes
until `Output.commit`, and the new ones after it.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import hashlib
import json
import os
import threading
import typing as t
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from pathlib import Path

from ansible_collections.llmfleet.serving.plugins.module_utils._errors import LlmError
from ansible_collections.llmfleet.serving.plugins.module_utils._files import (
    commit,
    companion,
    identity,
    os_errors,
    read_json,
    read_record,
    require_plain,
    write_record,
)
from ansible_collections.llmfleet.serving.plugins.module_utils._hub import RemoteFile
from ansible_collections.llmfleet.serving.plugins.module_utils._ranges import Ranges
from ansible_collections.llmfleet.serving.plugins.module_utils._sha256 import Sha256

# What is hashed at a time: large against the cost of waking the thread that computes the other sum.
STEP_BYTES = 4 << 20

# A killed run loses at most one step of its note, a power loss one of the journal: a part of the file, within limits.
_STEPS = 200
_NOTE_MIN, _JOURNAL_MIN, _STEP_MAX = 1 << 20, 16 << 20, 256 << 20

# What a state remembers of the bytes themselves: some at the end of each of so many stretches.
_SAMPLES, _SAMPLE_BYTES = 128, 32

_RAM_BYTES = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
_libc = ctypes.CDLL(None, use_errno=True)
_NO_FALLOCATE = {errno.EOPNOTSUPP, errno.ENOSYS}


class Part(t.NamedTuple):
    """The data of a remote file, and its place in an output.

    :ivar file: as its hub lists it.
    :ivar head: its first bytes, known already. They are part of its sum, and not of the output.
    :ivar offset: where the bytes behind the head start in the output.
    """

    file: RemoteFile
    head: bytes
    offset: int

    @property
    def size(self) -> int:
        """Bytes in the output."""
        return self.file.size - len(self.head)

    @property
    def stop(self) -> int:
        """Offset in the output behind its last byte."""
        return self.offset + self.size

    @property
    def git_blob(self) -> str:
        """Git's id, where that is all that the hub lists; else ""."""
        return "" if self.file.sha256 else self.file.git_blob


class Front:
    """Reads an output from its start, as its bytes come, and computes sums: of each part, and of the whole.

    :ivar offset: how far that is done.
    :ivar sums: the sha256 of each part that has ended, "" where it was not needed.
    """

    def __init__(self, head: bytes, parts: Sequence[Part]) -> None:
        self._parts = parts
        self._stride = parts[-1].stop // _SAMPLES
        self._samples: list[tuple[int, str]] = []
        self._tail: list[tuple[int, str]] = []
        # A whole that is nothing but one file has the sum of that file.
        self._alone = not head and len(parts) == 1 and not parts[0].head
        self.offset = len(head)
        self.sums: list[str] = []
        self._whole = Sha256(head)
        self._begun = self._whole
        self._sum: t.Any = self._whole
        self._begin()

    @property
    def part(self) -> Part | None:
        """The part that `offset` is in, None behind the last."""
        return self._parts[len(self.sums)] if len(self.sums) < len(self._parts) else None

    @property
    def sha256(self) -> str:
        """Of the whole up to `offset`."""
        return self._whole.hexdigest()

    def update(self, data: memoryview, aside: Executor) -> None:
        """Go on with bytes that do not go beyond the part. Where there are two sums, `aside` computes one of them."""
        if self._sum is self._whole:
            self._whole.update(data)
        else:
            other = aside.submit(self._sum.update, data)
            self._whole.update(data)
            other.result()
        self.offset += len(data)
        self._sample(data[-_SAMPLE_BYTES:])

    def end_part(self) -> str:
        """Go on to the next part, if the one that ends here is what its hub lists. Returns what is wrong with it."""
        part, found = self._parts[len(self.sums)], self._sum.hexdigest()
        if part.git_blob and found != part.git_blob:
            return f"The data is not what git knows as {part.git_blob}."
        if part.file.sha256 and found != part.file.sha256:
            return f"The data has the sha256 {found}; the hub lists {part.file.sha256}."
        self.sums.append(self.sha256 if self._alone else "" if part.git_blob else found)
        self._begin()
        return ""

    def restart_part(self) -> None:
        """Go back to the start of the part."""
        part = self._parts[len(self.sums)]
        self._whole, self.offset = self._begun.copy(), part.offset
        self._samples = [sample for sample in self._samples if sample[0] < part.offset]
        self._tail = []
        self._begin()

    def state(self) -> dict[str, t.Any] | None:
        """What `resume` takes, None where the sums of a process end with it."""
        states = [sum_.state() for sum_ in (self._whole, self._sum, self._begun)]
        if None in states:
            return None
        whole, part, begun = (t.cast("bytes", state).hex() for state in states)
        samples = [*self._samples, *self._tail]
        return {
            "offset": self.offset,
            "sums": list(self.sums),
            "samples": samples,
            "whole": whole,
            "part": part,
            "begun": begun,
        }

    def resume(self, state: dict[str, t.Any], file: t.BinaryIO) -> None:
        """Go on from a state; without effect where that cannot be, or when `file` has other bytes than it had."""
        names = ("whole", "part", "begun")
        whole, part, begun = (Sha256.resumed(bytes.fromhex(state[name])) for name in names)
        samples = [tuple(sample) for sample in state["samples"]]
        same = all(os.pread(file.fileno(), len(text) // 2, offset).hex() == text for offset, text in samples)
        if whole and part and begun and same:
            self.offset, self.sums, self._samples = state["offset"], list(state["sums"]), samples
            self._whole, self._begun = whole, begun
            self._sum = whole if self._alone else part

    def _sample(self, data: memoryview) -> None:
        """Remember the last bytes, so that a file that somebody has replaced is not taken for this one."""
        self._tail = [(self.offset - len(data), bytes(data).hex())]
        if self.offset >= (self._samples[-1][0] if self._samples else 0) + self._stride:
            self._samples += self._tail
            self._tail = []

    def _begin(self) -> None:
        """Begin the sum of the part that starts at `offset`."""
        part = self.part
        self._begun = self._whole.copy()
        if part and part.git_blob:
            self._sum = _GitBlob(part.file.size)
            self._sum.update(part.head)
        elif self._alone:
            self._sum = self._whole
        else:
            self._sum = Sha256(part.head if part else b"")


class _GitBlob:
    """Git's id of a content, which is how git proves it; hubs keep no better one of files outside of LFS."""

    def __init__(self, size: int) -> None:
        self._sum = hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)
        self.update, self.hexdigest = self._sum.update, self._sum.hexdigest

    def state(self) -> None:
        """Such files are small: begin again."""


class Output:
    """A file wanted at `dest`. Making it finds out what is missing, and changes nothing.

    :param head: its first bytes.
    :param parts: all that follows, in order and without gaps.
    :ivar sha256: of the whole, "" as long as it is not there; `sums` is that of each part, where it was needed.
    :ivar present: whether `dest` has exactly these bytes: by its record, by the journal of a run that was stopped just
        after it had put them there, or else by reading them.
    :ivar have: the ranges that are there, in `dest` or in the file in the making.
    :ivar fetched: bytes that came from a source in this run, with those that were of no use.
    :ivar unnoted: bytes that were written after the last `note`; `note_bytes` are worth another one.
    :ivar unsafe: bytes that were written after the last `sync`; `journal_bytes` are worth another one.
    :ivar facts: what the bytes are, the same on all hosts; a journal with other facts is of another file.
    :raises LlmError: if `dest` is something else than a file.
    """

    def __init__(self, dest: Path, head: bytes, parts: Sequence[Part]) -> None:
        require_plain(dest)
        self.dest = dest
        self.parts = parts
        self.size = parts[-1].stop
        self.path = companion(dest, "part")
        self.facts = {
            "size": self.size,
            "head": _sum(head),
            "parts": [
                {**part.file.facts, "offset": part.offset, "skip": len(part.head), "head": _sum(part.head)}
                for part in parts
            ],
        }
        self.fetched = 0
        self.have = Ranges()
        self.front = Front(head, parts)
        # The front as it was after its last step: what a journal may say while the next step is being computed.
        self.mark = self.front.state()
        self.unnoted = self.unsafe = 0
        self.note_bytes, self.journal_bytes = (
            min(max(self.size // _STEPS, least), _STEP_MAX) for least in (_NOTE_MIN, _JOURNAL_MIN)
        )
        self._head = head
        self._safe = 0
        self._fd = -1
        self._opening, self._noting, self._syncing = threading.Lock(), threading.Lock(), threading.Lock()
        self._journal, self._note = companion(dest, "journal"), companion(dest, "note")
        self._record = read_record(dest) or {}
        self.sha256 = ""
        self.sums: list[str] = []
        self.present = self._is_present()
        if self.present:
            self.have.add(0, self.size)
        else:
            self._resume()

    @property
    def missing(self) -> int:
        """Bytes of the file system that are still to be taken up."""
        if self.present:
            return 0
        with contextlib.suppress(OSError):
            return max(0, self.size - self.path.lstat().st_blocks * 512)
        return self.size

    def require_replaceable(self) -> None:
        """:raises LlmError: if `dest` has other content, and it was not this collection that put it there."""
        if self.dest.exists() and not self.present and not self._record:
            raise LlmError(
                f"{self.dest} exists, is not what {self.parts[0].file.path} of the hub becomes, and there is no record "
                "that this collection put it there. Remove it, name another destination, or set force to replace it."
            )

    def open(self) -> None:
        """Prepare the file in the making, unless that has been done: from here on the other methods work.

        :raises LlmError: when it cannot be created, or has no room.
        """
        with self._opening, self._writing():
            if self._fd < 0:
                self._prepare()

    def _prepare(self) -> None:
        self.dest.parent.mkdir(parents=True, exist_ok=True)
        # A link that somebody else put there would lead the bytes astray.
        self._fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666)
        try:
            os.ftruncate(self._fd, self.size)
            _allocate(self._fd, self.size)
        except OSError:
            if not self.have:  # what has been taken up is of no use to anyone
                self.path.unlink()
            raise
        if self._note.exists() or self._journal.exists():
            # They may speak of another file, or of bytes that are gone; both must end before a byte is written.
            self.sync()
            self._note.unlink(missing_ok=True)
        self.write_at(0, self._head)
        self.have.add(0, len(self._head))

    def close(self) -> None:
        """End what `open` began; without effect where it did not."""
        with self._syncing, self._noting:
            self._close()

    def forget(self) -> None:
        """Let the next run begin again: what has been fetched is of no use."""
        self._note.unlink(missing_ok=True)
        self._journal.unlink(missing_ok=True)

    def write_at(self, offset: int, data: bytes | memoryview) -> None:
        """Write all of `data`; pwrite(2) may write less than it is given, for example just before a disk is full."""
        view = memoryview(data)
        with self._writing():
            while view:
                count = os.pwrite(self._fd, view, offset)
                view, offset = view[count:], offset + count

    def read_at(self, offset: int, buffer: memoryview) -> None:
        """Fill the buffer with bytes that are there.

        :raises LlmError: if they are not: somebody else works on the file.
        """
        while buffer:
            with self._writing():
                count = os.preadv(self._fd, [buffer], offset)
            if not count:
                raise LlmError(f"{self.path} ended at byte {offset}: it was changed while it was written. Run again.")
            buffer, offset = buffer[count:], offset + count

    def note(self, lock: t.ContextManager[t.Any], least: int = 0) -> None:
        """Write down what is written, if `least` bytes are new. Waits for another thread that does so.

        :param lock: is held while `have` and `mark` are looked at.
        """
        with self._noting, self._writing():
            if self._fd >= 0 and self.unnoted >= least:
                with lock:
                    ranges, mark, self.unnoted = list(self.have), self.mark, 0
                self._write(self._note, boot=_boot_id(), ranges=ranges, front=mark)

    def sync(self, lock: t.ContextManager[t.Any] | None = None) -> None:
        """Put the data on the disk, and only then say so in the journal.

        :param lock: as `note` has it.
        """
        with self._syncing, self._writing():
            if self._fd < 0:
                return
            with lock or contextlib.nullcontext():
                ranges, mark, self.unsafe = list(self.have), self.mark, 0
            os.fdatasync(self._fd)
            safe = ranges[0][1] if ranges and ranges[0][0] == 0 else 0
            self._write_journal(safe=safe, ranges=ranges, front=mark)
            self._release(min(safe, mark["offset"]) if mark else safe)

    def commit(self, finish: Callable[[Path], t.Any], record: dict[str, t.Any]) -> None:
        """Give the complete, checked file its final name.

        :param finish: sets owner, mode and the like on it before.
        :param record: what is to be known of it besides `facts` and `sha256`.
        """
        self.sha256, self.sums = self.front.sha256, self.front.sums
        self.sync()
        finish(self.path)
        with self._syncing, self._noting, self._writing():
            # If the run is stopped between name and record, this is how the next one knows whose file that is.
            made = {"made": identity(self.path), "sha256": self.sha256, "sums": self.sums}
            self._write_journal(safe=self.size, ranges=[(0, self.size)], front=self.mark, **made)
            self._note.unlink(missing_ok=True)
            self._close()
        commit(self.path, self.dest)
        self.present = True
        self.adopt(record)

    def adopt(self, record: dict[str, t.Any]) -> None:
        """Keep a record of the present file, so that the next run need not read it."""
        facts = {**record, "facts": self.facts, "sha256": self.sha256, "sums": self.sums}
        known = read_record(self.dest) or {}
        if any(known.get(name) != fact for name, fact in facts.items()):
            write_record(self.dest, facts)
        self.forget()

    def _is_present(self) -> bool:
        if not self.dest.exists():
            return False
        known, journal = self._record, self._read(self._journal)
        if known.get("facts") != self.facts:
            known = journal if journal.get("made") == identity(self.dest) else self._sums_of_dest()
        self.sha256, self.sums = known.get("sha256", ""), known.get("sums", [])
        return bool(self.sha256)

    def _sums_of_dest(self) -> dict[str, t.Any]:
        """What a record would say of `dest` if all its bytes are what the hub lists: without listed sums, nothing."""
        listed = all(part.file.sha256 or part.git_blob for part in self.parts)
        if self.dest.stat().st_size != self.size or not listed:
            return {}
        front = Front(self._head, self.parts)
        buffer = memoryview(bytearray(STEP_BYTES))
        with self.dest.open("rb", buffering=0) as file, ThreadPoolExecutor(1) as aside:
            if file.read(len(self._head)) != self._head:
                return {}
            for part in self.parts:
                while front.offset < part.stop:
                    front.update(buffer[: file.readinto(buffer[: part.stop - front.offset])], aside)
                if front.end_part():
                    return {}
        return {"sha256": front.sha256, "sums": front.sums}

    def _read(self, path: Path) -> dict[str, t.Any]:
        content = read_json(path)
        return content if content.get("facts") == self.facts else {}

    def _resume(self) -> None:
        """Go on from what an earlier run left."""
        left = self._read(self._note)
        if left.get("boot") != _boot_id():
            left = self._read(self._journal)
        if "ranges" not in left or self.path.is_symlink() or not self.path.is_file():
            return
        size = self.path.stat().st_size
        for start, stop in left["ranges"]:
            # The size of a file is no proof of its content; but bytes that are not there are not safe either.
            self.have.add(start, min(stop, size))
        # If somebody has had the file in hand, what is there now is read, and counts.
        if left["front"] and size == self.size:
            with self.path.open("rb", buffering=0) as file:
                self.front.resume(left["front"], file)
            self.mark = self.front.state()

    def _write_journal(self, **content: t.Any) -> None:
        # Without waiting for it, some file systems would have an empty journal after a power loss.
        self._write(self._journal, os.fdatasync, **content)

    def _write(self, path: Path, sync: Callable[[int], None] | None = None, **content: t.Any) -> None:
        stage = path.with_name(path.name + ".new")
        with stage.open("w") as file:
            json.dump({"facts": self.facts, **content}, file)
            file.flush()
            if sync:
                sync(file.fileno())
        stage.replace(path)

    def _writing(self) -> t.ContextManager[None]:
        return os_errors(f"Writing {self.path} (what has been fetched is kept; run again after that is solved)")

    def _close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _release(self, offset: int) -> None:
        """Let go of the page cache behind the front where it would drive out what the host needs."""
        if offset > self._safe and 1.5 * self.size > _RAM_BYTES:
            os.posix_fadvise(self._fd, self._safe, offset - self._safe, os.POSIX_FADV_DONTNEED)
            self._safe = offset


def _boot_id() -> str:
    """Another one each time that the host is started."""
    return Path("/proc/sys/kernel/random/boot_id").read_text()


def _sum(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _allocate(fd: int, size: int) -> None:
    """Reserve the space of the whole file, if its file system can do that.

    Where it cannot, os.posix_fallocate() would write into every block.
    """
    if size and _libc.fallocate(fd, 0, ctypes.c_longlong(0), ctypes.c_longlong(size)):
        number = ctypes.get_errno()
        if number not in _NO_FALLOCATE:
            raise OSError(number, os.strerror(number))
