# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A model of a hub as one GGUF file, or as the files it is published in. Private to this collection."""

from __future__ import annotations

import contextlib
import hashlib
import shutil
import typing as t
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath

from ansible_collections.llmfleet.serving.plugins.module_utils._errors import LlmError
from ansible_collections.llmfleet.serving.plugins.module_utils._files import (
    companion,
    existing,
    known_sha256,
    require_plain,
    require_space,
)
from ansible_collections.llmfleet.serving.plugins.module_utils._gguf import Header, read_header
from ansible_collections.llmfleet.serving.plugins.module_utils._hub import RemoteFile, select
from ansible_collections.llmfleet.serving.plugins.module_utils._kept import RESERVE_BYTES, Finish, Kept
from ansible_collections.llmfleet.serving.plugins.module_utils._merge import plan_merge, require_complete, shard_names
from ansible_collections.llmfleet.serving.plugins.module_utils._output import Output, Part
from ansible_collections.llmfleet.serving.plugins.module_utils._supply import Supply
from ansible_collections.llmfleet.serving.plugins.module_utils._transfer import HeadError, read_bytes, transfer

# A source that gave a wrong header has been dropped when that is found out, so another plan is another chance.
_PLANS = 3
_HEADERS_AT_ONCE = 8


class Fetch(Kept):
    """The files of one commit that match a pattern, kept at `dest`: merged into that file, or in that directory.

    Of files to be merged `plan` reads the headers, so that all that can be wrong with them is found then.
    """

    def __init__(self, repo: str, commit: str, pattern: str, dest: Path, *, merge: bool) -> None:
        if merge:
            require_plain(dest)
        elif dest.exists() and not dest.is_dir():
            raise LlmError(f"{dest} is not a directory; expected one, or nothing, when files are not merged.")
        self._dest = dest
        self._merge = merge
        self._headers: list[Header] = []
        # Several tasks may fill one directory: each has a manifest of its own, but only one writes at a time.
        key = hashlib.sha256(f"{repo} {pattern}".encode()).hexdigest()[:12]
        manifest = companion(dest if merge else dest / key, "manifest")
        guard = dest if merge else dest / "fetch"
        super().__init__(manifest, guard, {"repo": repo, "commit": commit, "files": pattern})

    @property
    def sha256(self) -> str | None:
        """Of the file that is there, None if there is none, or a directory."""
        return self.current["outputs"][self._dest.name] if self._merge and self.current else None

    def plan(self, supply: Supply, *, force: bool) -> dict[str, t.Any]:
        files = select(supply.files(), self._wanted["files"])
        self._address = supply.address
        self._outputs = [self._merged(supply, files)] if self._merge else [self._as_it_is(file) for file in files]
        if not force:
            for output in self._outputs:
                output.require_replaceable()
        self.missing = sum(output.missing for output in self._outputs)
        if self.missing:
            require_space(existing(self._folder), self.missing + RESERVE_BYTES, str(self._dest))
        return self._listed()

    def run(self, supply: Supply, finish: Finish, *, workers: int, deadline: float) -> bool:
        changed = self.changes
        for left in reversed(range(_PLANS)):
            try:
                self._transfer(supply, finish, workers=workers, deadline=deadline)
                break
            except HeadError:
                if not left:
                    raise
            supply.halt.clear()
            self.plan(supply, force=True)  # what may be replaced has been found out before
        for output in self._outputs:
            output.adopt(self._provenance(output))
        self._remember(self._listed(), {path: known_sha256(path) for path in self.paths}, changed=changed)
        if self._merge:
            # Where versions before 0.2.0 kept the shards for their merge.
            shutil.rmtree(companion(self._dest, "shards"), ignore_errors=True)
        return changed

    def _transfer(self, supply: Supply, finish: Finish, **limits: t.Any) -> None:
        outputs = [output for output in self._outputs if not output.present]
        self._share(supply, outputs)
        ready = transfer(outputs, supply, halt=supply.halt, progress=self._progress, **limits)
        try:
            with contextlib.closing(ready):
                for output in ready:
                    self._require_zero_padding(output)
                    output.commit(finish, self._provenance(output))
        finally:
            self.fetched += sum(output.fetched for output in outputs)

    def _listed(self) -> dict[str, t.Any]:
        shards = [
            {"name": part.file.path, "size": part.file.size, "sha256": part.file.sha256 or sha256}
            for output in self._outputs
            for part, sha256 in zip(output.parts, output.sums or [""] * len(output.parts))
        ]
        return {"hub": self._address, "wanted": self._wanted, "shards": shards}

    def _as_it_is(self, file: RemoteFile) -> Output:
        return Output(self._dest / file.path, b"", [Part(file, b"", 0)])

    def _merged(self, supply: Supply, files: Sequence[RemoteFile]) -> Output:
        """The one file that the files become, which are all shards of one model, or one that is not split."""
        whole = len(files) == 1 and not PurePosixPath(files[0].path).match("*-of-?????.gguf")
        if not whole:
            self._require_all_shards([PurePosixPath(file.path).name for file in files])
        self._headers, heads = self._read_headers(supply, files)
        if whole:
            require_complete(self._headers[0])
            return Output(self._dest, b"", [Part(files[0], b"", 0)])
        plan = plan_merge(self._headers)
        parts, offset = [], len(plan.header)
        for file, header, head in zip(files, self._headers, heads):
            parts.append(Part(file, head, offset))
            offset += header.data_size
        return Output(self._dest, plan.header, parts)

    def _require_all_shards(self, names: list[str]) -> None:
        expected = shard_names(names[0])
        if names != expected:
            differing = sorted(set(names) ^ set(expected)) or names
            raise LlmError(
                f"{len(names)} files match {self._wanted['files']!r}; expected {len(expected)} shards of one model, "
                f"each once. Too many or missing are: {', '.join(differing[:5])}. Change the pattern, or set merge "
                "to false."
            )

    def _read_headers(self, supply: Supply, files: Sequence[RemoteFile]) -> tuple[list[Header], list[bytes]]:
        with ThreadPoolExecutor(_HEADERS_AT_ONCE) as pool:
            try:
                found = list(pool.map(lambda file: _read_head(supply, file), files))
            except BaseException:
                # The others are waited for when the pool is closed.
                supply.halt.set()
                supply.watch()
                raise
        self.fetched += sum(len(data) for _dummy, data in found)
        return [header for header, _dummy in found], [bytes(data[: header.data_offset]) for header, data in found]

    def _require_zero_padding(self, output: Output) -> None:
        """A merge by tensors writes zeros there, so only then do ranges of whole shards give the same bytes."""
        for part, header in zip(output.parts, self._headers):
            for offset, size, tensor in header.padding() if part.head else ():
                piece = memoryview(bytearray(size))
                output.read_at(offset - len(part.head) + part.offset, piece)
                if any(piece):
                    raise LlmError(
                        f"{part.file.path} is damaged: the padding behind the tensor {tensor!r}, at byte {offset}, is "
                        "not zero. Get it from another origin."
                    )


class _Start:
    """The first bytes of a remote file, as far as `read_header` asks for them.

    :ivar came: whether all of them came; if not, it is the supply that failed.
    """

    def __init__(self, supply: Supply, file: RemoteFile) -> None:
        self.data = bytearray()
        self.came = True
        self._supply = supply
        self._file = file

    def read(self, offset: int, size: int) -> bytes:
        self.came = False
        piece = read_bytes(self._supply, self._file, offset, offset + size)
        self.came = True
        self.data += piece
        return piece


def _read_head(supply: Supply, file: RemoteFile) -> tuple[Header, bytearray]:
    """The header of a remote file, and its first bytes, which are more than the header takes."""
    while True:
        start = _Start(supply, file)
        try:
            return read_header(start.read, file.size, file.path), start.data
        except LlmError as exc:
            if not start.came or not file.sha256:
                raise
            # A source that has something else under that name and of that size is found out here already.
            supply.distrust(file, str(exc))
