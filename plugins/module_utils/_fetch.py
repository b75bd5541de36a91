# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A model of a hub as one GGUF file, or as the files it is published in. Private to this collection."""

from __future__ import annotations

import contextlib
import hashlib
import shutil
import typing as t
from collections.abc import Callable
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
    write_record,
)
from ansible_collections.llmfleet.serving.plugins.module_utils._gguf_files import LocalMerge
from ansible_collections.llmfleet.serving.plugins.module_utils._http import Retries
from ansible_collections.llmfleet.serving.plugins.module_utils._hub import RemoteFile, Source, select
from ansible_collections.llmfleet.serving.plugins.module_utils._merge import shard_names
from ansible_collections.llmfleet.serving.plugins.module_utils._transfer import Download, transfer

Finish = Callable[[Path], t.Any]

# For journals, records and what else is written meanwhile.
_RESERVE_BYTES = 16 << 20


class Fetch:
    """The files of one commit that match a pattern, kept at `dest`: merged into that file, or in that directory.

    A manifest beside the result says what it is, so that a host without a network knows when nothing is to be done.

    :ivar current: the manifest of what is there now, intact; {} when that is nothing, or something else.
    """

    def __init__(self, repo: str, commit: str, pattern: str, dest: Path, *, merge: bool) -> None:
        if merge:
            require_plain(dest)
        elif dest.exists() and not dest.is_dir():
            raise LlmError(f"{dest} is not a directory; expected one, or nothing, when files are not merged.")
        self._wanted = {"repo": repo, "commit": commit, "files": pattern}
        self._dest = dest
        self._merge = merge
        self._hub = ""
        self._downloads: list[Download] = []
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
        names = [download.file.path for download in self._downloads] or self.current.get("outputs", {})
        return [self._dest / name for name in names]

    @property
    def sha256(self) -> str | None:
        """Of the file that is there, None if there is none, or a directory."""
        return self.current["outputs"][self._dest.name] if self._merge and self.current else None

    @property
    def changes(self) -> bool:
        """Whether `run` is going to put a file in place, as far as that can be known before."""
        if self._missing or not self._in_parts:
            return bool(self._missing)
        return not self._merge_of_shards().done()

    @contextlib.contextmanager
    def locked(self) -> t.Iterator[None]:
        """What has to surround `plan` and `run` of everyone who wants to write there."""
        self._folder.mkdir(parents=True, exist_ok=True)
        with locked(self._guard):
            yield

    @property
    def fetched(self) -> int:
        """Bytes that came from the hub."""
        return sum(download.fetched for download in self._downloads)

    def plan(self, source: Source, retries: Retries, *, force: bool) -> dict[str, t.Any]:
        """Ask the hub what there is, check that it can be put in place, and return the manifest to be.

        :param force: whether files may be replaced that this collection did not put there.
        """
        self._hub = source.address
        files = select(retries.run(lambda: source.files(self._wanted["commit"])), self._wanted["files"])
        self._downloads = [Download(source, file, dest) for file, dest in zip(files, self._places(files))]
        if not force:
            self._require_ours()
        need = sum(download.file.size - download.done for download in self._downloads)
        if self._in_parts:
            need += sum(file.size for file in files)
        if need:
            require_space(_existing(self._folder), need + _RESERVE_BYTES, f"{self._dest} and what it is made from")
        return self._listed()

    def run(self, finish: Finish, *, workers: int, timeout: float, deadline: float, keep_shards: bool) -> bool:
        """Bring about what was planned. Returns whether a file got its final name.

        :param finish: sets owner, mode and the like on a file, before that.
        :param workers, timeout, deadline: as `transfer` has them.
        :param keep_shards: whether shards stay on the disk after their merge.
        """
        changed = bool(self._missing)
        progress = companion(self._guard, "progress")
        ready = transfer(self._missing, workers=workers, timeout=timeout, deadline=deadline, progress=progress)
        with contextlib.closing(ready):
            for download in ready:
                download.commit(_leave if self._in_parts else finish)
        for download in self._downloads:
            download.adopt()
        if self._in_parts:
            changed = self._put_together(finish)
        sums = {str(path.relative_to(self._folder)): known_sha256(path) for path in self.paths}
        write_json(self._manifest, {**self._listed(), "outputs": sums})
        if self._in_parts and not keep_shards:
            shutil.rmtree(self._shards)
        self.current = self._intact()
        return changed

    @property
    def _missing(self) -> list[Download]:
        return [download for download in self._downloads if not download.present]

    @property
    def _shards(self) -> Path:
        """The directory that shards wait in for their merge."""
        return companion(self._dest, "shards")

    @property
    def _in_parts(self) -> bool:
        """Whether there are shards to merge. A model in one file goes straight to its place."""
        return self._merge and self._downloads[0].dest != self._dest

    def _intact(self) -> dict[str, t.Any]:
        manifest = read_json(self._manifest)
        for name, sha256 in manifest.get("outputs", {}).items():
            record = read_record(self._folder / name)
            if record is None or record.get("sha256") != sha256:
                return {}
        return manifest

    def _listed(self) -> dict[str, t.Any]:
        shards = [
            {"name": download.file.path, "size": download.file.size, "sha256": download.sha256}
            for download in self._downloads
        ]
        return {"hub": self._hub, "wanted": self._wanted, "shards": shards}

    def _places(self, files: list[RemoteFile]) -> list[Path]:
        """Where each file is put by its download."""
        if not self._merge:
            return [self._dest / file.path for file in files]
        names = [PurePosixPath(file.path).name for file in files]
        if len(names) == 1 and not PurePosixPath(names[0]).match("*-of-?????.gguf"):
            return [self._dest]
        expected = shard_names(names[0])
        if names != expected:
            differing = sorted(set(names) ^ set(expected)) or names
            raise LlmError(
                f"{len(names)} files match {self._wanted['files']!r}; expected {len(expected)} shards of one model, "
                f"each once. Too many or missing are: {', '.join(differing[:5])}. Change the pattern, or set merge "
                "to false."
            )
        return [self._shards / name for name in names]

    def _require_ours(self) -> None:
        if not self._in_parts:
            for download in self._downloads:
                download.require_replaceable()
        elif self._dest.exists() and read_record(self._dest) is None and not self._shards.exists():
            # With shards beside it, it is what an earlier run put there just before it was stopped.
            raise LlmError(
                f"{self._dest} exists, and there is no record that this collection put it there. Remove it, name "
                "another destination, or set force to replace it."
            )

    def _merge_of_shards(self) -> LocalMerge:
        return LocalMerge([download.dest for download in self._downloads], self._dest)

    def _put_together(self, finish: Finish) -> bool:
        merge = self._merge_of_shards()
        changed = not merge.done()
        if changed:
            merge.write(finish)
        write_record(self._dest, {"sha256": known_sha256(self._dest)})
        return changed


def _leave(_path: Path) -> None:
    """Shards to be merged keep the attributes that they are made with."""


def _existing(directory: Path) -> Path:
    """The directory, or the one above it that exists, which is on the same file system."""
    return next(path for path in (directory, *directory.parents) if path.is_dir())
