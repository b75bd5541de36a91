# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A model of a hub as one GGUF file, or as the files it is published in. Private to this collection."""

from __future__ import annotations

import contextlib
import hashlib
import shutil
import typing as t
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath

from ansible_collections.llmfleet.serving.plugins.module_utils._errors import LlmError
from ansible_collections.llmfleet.serving.plugins.module_utils._files import (
    companion,
    known_sha256,
    locked,
    read_json,
    read_record,
    require_plain,
    require_space,
    write_json,
)
from ansible_collections.llmfleet.serving.plugins.module_utils._gguf import Header, read_header
from ansible_collections.llmfleet.serving.plugins.module_utils._hub import RemoteFile, select
from ansible_collections.llmfleet.serving.plugins.module_utils._merge import plan_merge, require_complete, shard_names
from ansible_collections.llmfleet.serving.plugins.module_utils._output import Output, Part
from ansible_collections.llmfleet.serving.plugins.module_utils._supply import Supply
from ansible_collections.llmfleet.serving.plugins.module_utils._transfer import HeadError, read_bytes, transfer

Finish = Callable[[Path], t.Any]

# For journals, records and what else is written meanwhile.
_RESERVE_BYTES = 16 << 20
# A source that gave a wrong header has been dropped when that is found out, so another plan is another chance.
_PLANS = 3
_HEADERS_AT_ONCE = 8


class Fetch:
    """The files of one commit that match a pattern, kept at `dest`: merged into that file, or in that directory.

    A manifest beside the result says what it is, so that a host without a network knows when nothing is to be done.

    :ivar current: the manifest of what is there now, intact; {} when that is nothing, or something else.
    :ivar fetched: bytes of files that came in this run, the headers that were read for the plan among them.
    :ivar missing: bytes of the file system that were still to be taken up before `run`.
    """

    def __init__(self, repo: str, commit: str, pattern: str, dest: Path, *, merge: bool) -> None:
        if merge:
            require_plain(dest)
        elif dest.exists() and not dest.is_dir():
            raise LlmError(f"{dest} is not a directory; expected one, or nothing, when files are not merged.")
        self._wanted = {"repo": repo, "commit": commit, "files": pattern}
        self._dest = dest
        self._merge = merge
        self._address = ""
        self._headers: list[Header] = []
        self._outputs: list[Output] = []
        self.fetched = 0
        self.missing = 0
        # Several tasks may fill one directory: each has a manifest of its own, but only one writes at a time.
        key = hashlib.sha256(f"{repo} {pattern}".encode()).hexdigest()[:12]
        self._manifest = companion(dest if merge else dest / key, "manifest")
        self._guard = dest if merge else dest / "fetch"
        self._folder = self._guard.parent
        self.current = self._intact()

    @property
    def done(self) -> bool:
        """Whether exactly what is wanted is there."""
        return self.current.get("wanted") == self._wanted

    @property
    def paths(self) -> list[Path]:
        """The files that are wanted, or are there."""
        if self._merge:
            return [self._dest]
        return [output.dest for output in self._outputs] or [
            self._dest / name for name in self.current.get("outputs", {})
        ]

    @property
    def recorded(self) -> dict[Path, str]:
        """The sha256 of each file that the manifest lists for exactly what is wanted, intact or not."""
        manifest = read_json(self._manifest)
        outputs = manifest.get("outputs", {}) if manifest.get("wanted") == self._wanted else {}
        return {self._folder / name: sha256 for name, sha256 in outputs.items()}

    @property
    def sha256(self) -> str | None:
        """Of the file that is there, None if there is none, or a directory."""
        return self.current["outputs"][self._dest.name] if self._merge and self.current else None

    @property
    def changes(self) -> bool:
        """Whether `run` is going to put a file in place."""
        return any(not output.present for output in self._outputs)

    @contextlib.contextmanager
    def locked(self) -> t.Iterator[None]:
        """What has to surround `plan` and `run` of everyone who wants to write there."""
        self._folder.mkdir(parents=True, exist_ok=True)
        with locked(self._guard):
            yield

    def plan(self, supply: Supply, *, force: bool) -> dict[str, t.Any]:
        """Ask what there is, check that it can be put in place, and return the manifest to be.

        Of files to be merged the headers are read, so that all that can be wrong with them is found now.

        :param force: whether files may be replaced that this collection did not put there.
        """
        files = select(supply.files(), self._wanted["files"])
        self._address = supply.address
        self._outputs = [self._merged(supply, files)] if self._merge else [self._as_it_is(file) for file in files]
        if not force:
            for output in self._outputs:
                output.require_replaceable()
        self.missing = sum(output.missing for output in self._outputs)
        if self.missing:
            require_space(_existing(self._folder), self.missing + _RESERVE_BYTES, str(self._dest))
        return self._listed()

    def run(self, supply: Supply, finish: Finish, *, workers: int, deadline: float) -> bool:
        """Bring about what was planned. Returns whether a file got its final name.

        :param finish: sets owner, mode and the like on a file, before that.
        :param workers, deadline: as `transfer` has them.
        """
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
        sums = {str(path.relative_to(self._folder)): known_sha256(path) for path in self.paths}
        write_json(self._manifest, {**self._listed(), "outputs": sums})
        if self._merge:
            # Where versions before 0.2.0 kept the shards for their merge.
            shutil.rmtree(companion(self._dest, "shards"), ignore_errors=True)
        self.current = self._intact()
        return changed

    def _transfer(self, supply: Supply, finish: Finish, **limits: t.Any) -> None:
        outputs = [output for output in self._outputs if not output.present]
        for output in outputs:
            places = [(part.file, len(part.head), part.offset) for part in output.parts]
            supply.share(str(output.dest.relative_to(self._folder)), output.size, output.facts, places)
        ready = transfer(outputs, supply, halt=supply.halt, progress=companion(self._guard, "progress"), **limits)
        try:
            with contextlib.closing(ready):
                for output in ready:
                    self._require_zero_padding(output)
                    output.commit(finish, self._provenance(output))
        finally:
            self.fetched += sum(output.fetched for output in outputs)

    def _intact(self) -> dict[str, t.Any]:
        manifest = read_json(self._manifest)
        for name, sha256 in manifest.get("outputs", {}).items():
            record = read_record(self._folder / name)
            if record is None or record.get("sha256") != sha256:
                return {}
        return manifest

    def _listed(self) -> dict[str, t.Any]:
        shards = [
            {"name": part.file.path, "size": part.file.size, "sha256": part.file.sha256 or sha256}
            for output in self._outputs
            for part, sha256 in zip(output.parts, output.sums or [""] * len(output.parts))
        ]
        return {"hub": self._address, "wanted": self._wanted, "shards": shards}

    def _provenance(self, output: Output) -> dict[str, t.Any]:
        paths = [part.file.path for part in output.parts]
        return {"source": self._address, "repo": self._wanted["repo"], "commit": self._wanted["commit"], "paths": paths}

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


def _existing(directory: Path) -> Path:
    """The directory, or the one above it that exists, which is on the same file system."""
    return next(path for path in (directory, *directory.parents) if path.is_dir())
