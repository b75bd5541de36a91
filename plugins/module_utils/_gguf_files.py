# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""GGUF files of this host: their headers, and the merge of shards into one file. Private to this collection."""

from __future__ import annotations

import contextlib
import os
import re
import stat
import typing as t
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ansible_collections.llmfleet.serving.plugins.module_utils._copy import Assembly, FileRange
from ansible_collections.llmfleet.serving.plugins.module_utils._errors import LlmError
from ansible_collections.llmfleet.serving.plugins.module_utils._files import (
    commit,
    companion,
    known_sha256,
    os_errors,
    read_record,
    require_plain,
    require_space,
    sha256_file,
    write_record,
)
from ansible_collections.llmfleet.serving.plugins.module_utils._gguf import Header, read_header
from ansible_collections.llmfleet.serving.plugins.module_utils._merge import plan_merge, shard_names


@dataclass(frozen=True)
class GgufFile:
    """A GGUF file of this host as it was when its header was read."""

    path: Path
    header: Header
    inode: int
    mtime_ns: int

    @property
    def facts(self) -> dict[str, t.Any]:
        """What a record keeps of the file to know it again."""
        return {"name": self.path.name, "size": self.header.file_size, "mtime_ns": self.mtime_ns}

    def require_unchanged(self) -> None:
        """:raises LlmError: when the file is no longer the one that was opened."""
        try:
            now = self.path.stat()
        except OSError as exc:
            raise LlmError(f"{self.path} vanished while it was used: {exc.strerror}. Run again.") from exc
        if (now.st_ino, now.st_mtime_ns, now.st_size) != (self.inode, self.mtime_ns, self.header.file_size):
            raise LlmError(f"{self.path} was changed while it was used. Run again when nothing writes to it.")


def open_gguf(path: Path) -> GgufFile:
    """Read and check the header of a local file.

    :raises LlmError: when the file cannot be read or is no sound GGUF file.
    """
    with os_errors(f"Reading {path}"):
        # Without O_NONBLOCK, opening a FIFO would wait for a writer for ever.
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            status = os.fstat(fd)
            if not stat.S_ISREG(status.st_mode):
                raise LlmError(f"{path} is not a regular file; expected a GGUF file.")
            header = read_header(lambda offset, size: os.pread(fd, size, offset), status.st_size, str(path))
        finally:
            os.close(fd)
    return GgufFile(path, header, status.st_ino, status.st_mtime_ns)


def find_shards(first: Path) -> list[Path]:
    """All shards of a model, in order, by the name of the first.

    :raises LlmError: when the name is not that of a first shard, or when shards are missing; it names them.
    """
    paths = [first.with_name(name) for name in shard_names(first.name)]
    missing = [path.name for path in paths if not path.exists()]
    if missing:
        named = ", ".join(missing[:5]) + (f" and {len(missing) - 5} more" if len(missing) > 5 else "")
        raise LlmError(f"{first.parent} lacks {len(missing)} of {len(paths)} shards: {named}. Get them first.")
    return paths


class LocalMerge:
    """The merge of shards on this host into one file `dest`. Making it reads the headers and changes nothing.

    :param sources: the first shard, whose siblings are found by their names; or all shards, in order.
    :param checksum: sha256 that the merged file must have, in 64 hexadecimal digits; None to trust the shards.
    :raises LlmError: when the shards or the destination are not fit for a merge.
    """

    def __init__(self, sources: Sequence[Path], dest: Path, checksum: str | None = None) -> None:
        if checksum is not None and not re.fullmatch("[0-9a-fA-F]{64}", checksum):
            raise LlmError(f"The checksum {checksum!r} is no sha256; expected 64 hexadecimal digits.")
        if not dest.parent.is_dir():
            raise LlmError(f"{dest.parent} is not a directory; expected that of the destination to exist.")
        require_plain(dest)
        paths = find_shards(sources[0]) if len(sources) == 1 else sources
        if dest.resolve() in [path.resolve() for path in paths]:
            raise LlmError(f"{dest} is one of the shards. Name another destination.")
        self.dest = dest
        self.shards = [open_gguf(path) for path in paths]
        self.plan = plan_merge([shard.header for shard in self.shards])
        self._require_zero_padding()
        self._checksum = checksum and checksum.lower()
        self._stage = companion(dest, "merge")
        ranges = [FileRange(paths[copy.shard], copy.offset, copy.size, copy.target) for copy in self.plan.copies]
        self._assembly = Assembly(self.plan.header, ranges, self.plan.size)

    def done(self) -> bool:
        """Whether `dest` has the merged bytes: by its record, else by comparing all of them with the shards.

        :raises LlmError: when they are not those that the checksum stands for.
        """
        if not self.dest.exists() or not (self._recorded() or self._assembly.equals(self.dest)):
            return False
        if self._checksum:
            self._require_checksum(known_sha256(self.dest))
        return True

    def require_writable(self, force: bool) -> None:
        """:raises LlmError: when other bytes would be lost, unless `force`, or when there is too little space."""
        if self.dest.exists() and not force:
            raise LlmError(
                f"{self.dest} exists and is not what {self.shards[0].path} and its siblings add up to. Remove it, name "
                "another destination, or set force to replace it."
            )
        leftover = self._stage.stat().st_blocks * 512 if self._stage.exists() else 0
        require_space(self.dest.parent, self.plan.size - leftover, f"the merge of {len(self.shards)} shards")

    def record(self) -> None:
        """Keep what is now known of `dest`, so that the next run need not read it."""
        facts: dict[str, t.Any] = {"shards": self._facts()}
        if self._checksum:
            facts["sha256"] = self._checksum
        known = read_record(self.dest) or {}
        if any(known.get(name) != fact for name, fact in facts.items()):
            write_record(self.dest, facts)

    def write(self, finish: Callable[[Path], t.Any]) -> None:
        """Write the merged file beside `dest` and put it in its place; a failure leaves `dest` as it was.

        :param finish: sets owner, mode and the like on the file before it gets its name.
        :raises LlmError: when a shard changes meanwhile or the checksum does not match.
        """
        self._stage.unlink(missing_ok=True)
        try:
            self._assembly.write(self._stage)
            for shard in self.shards:
                shard.require_unchanged()
            if self._checksum:
                self._require_checksum(sha256_file(self._stage))
            self._inherit_attributes()
            finish(self._stage)
            commit(self._stage, self.dest)
        finally:
            self._stage.unlink(missing_ok=True)
        self.record()

    def _inherit_attributes(self) -> None:
        """A file that is replaced keeps its owner, where this process may give files away, and its mode."""
        if self.dest.exists():
            old = self.dest.stat()
            with contextlib.suppress(PermissionError):
                os.chown(self._stage, old.st_uid, old.st_gid)
            self._stage.chmod(stat.S_IMODE(old.st_mode))

    def _recorded(self) -> bool:
        record = read_record(self.dest)
        return record is not None and record.get("shards") == self._facts()

    def _facts(self) -> list[dict[str, t.Any]]:
        return [shard.facts for shard in self.shards]

    def _require_checksum(self, found: str) -> None:
        if found != self._checksum:
            raise LlmError(
                f"{self.shards[0].path} and its siblings add up to the sha256 {found}; expected {self._checksum}. "
                "The shards or the checksum belong to another release."
            )

    def _require_zero_padding(self) -> None:
        """A merge by tensors writes zeros there, so only then do ranges of whole shards give the same bytes."""
        for shard in self.shards:
            with shard.path.open("rb") as file:
                for offset, size, tensor in shard.header.padding():
                    if any(os.pread(file.fileno(), size, offset)):
                        raise LlmError(
                            f"{shard.path} is damaged: the padding behind the tensor {tensor!r}, at byte {offset}, "
                            "is not zero. Get it again."
                        )
