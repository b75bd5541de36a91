# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A repository of a hub at one commit as a directory. Private to this collection."""

from __future__ import annotations

import contextlib
import hashlib
import os
import typing as t
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath

from ansible_collections.llmfleet.serving.plugins.module_utils._errors import LlmError
from ansible_collections.llmfleet.serving.plugins.module_utils._files import (
    commit,
    companion,
    existing,
    read_json,
    read_record,
    require_space,
)
from ansible_collections.llmfleet.serving.plugins.module_utils._hub import RemoteFile, select
from ansible_collections.llmfleet.serving.plugins.module_utils._kept import RESERVE_BYTES, Finish, Kept
from ansible_collections.llmfleet.serving.plugins.module_utils._output import Output, Part
from ansible_collections.llmfleet.serving.plugins.module_utils._supply import Supply
from ansible_collections.llmfleet.serving.plugins.module_utils._transfer import transfer

# What torch.load() and pickle.load() read: loading such a file runs whatever its author wrote into it.
_PICKLES = {".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt"}
# Smaller files are fetched into one file, which costs one journal instead of hundreds, and then parted.
_SMALL_BYTES = 1 << 20
_BATCH_BYTES = 64 << 20


class Choice(t.NamedTuple):
    """Which files of a repository are wanted.

    :ivar include, exclude: shell patterns of paths ('*' matches '/' too): one of the first must match, none of the
        second may.
    :ivar pickles: whether pickle files may be among them.
    """

    include: Sequence[str]
    exclude: Sequence[str]
    pickles: bool

    def of(self, files: Iterable[RemoteFile]) -> list[RemoteFile]:
        """The wanted ones, sorted by path.

        :raises LlmError: if there is none, or one that is refused.
        """
        chosen = [file for file in files if self._matches(file.path)]
        if not chosen:
            raise LlmError(
                f"No file of the repository matches {list(self.include)} and not {list(self.exclude)}. Compare that "
                "with the hub's list of files."
            )
        pickles = [file.path for file in chosen if PurePosixPath(file.path).suffix.lower() in _PICKLES]
        if pickles and not self.pickles:
            raise LlmError(
                f"{len(pickles)} files may be Python pickles, which run code when they are loaded: "
                f"{', '.join(sorted(pickles)[:5])}. Exclude them, or set allow_pickle if you trust the repository."
            )
        return select(chosen, "*")

    def _matches(self, path: str) -> bool:
        included, excluded = (any(fnmatchcase(path, one) for one in some) for some in (self.include, self.exclude))
        return included and not excluded


class Snapshot(Kept):
    """The chosen files of one commit, kept in the directory `dest` under their paths.

    :param earlier: directories with other snapshots. A file that one of them has is linked from there.
    :ivar linked: bytes of files that are to be linked, or were, instead of fetched.
    """

    def __init__(self, repo: str, commit: str, choice: Choice, dest: Path, *, earlier: Sequence[Path] = ()) -> None:
        if dest.exists() and not dest.is_dir():
            raise LlmError(f"{dest} is not a directory; expected one, or nothing.")
        self._choice = choice
        self._dest = dest
        self._earlier = (dest, *earlier)
        self._links: dict[Path, Path] = {}
        self._stale: list[Path] = []
        self.linked = 0
        guard = dest / "snapshot"
        super().__init__(companion(guard, "manifest"), guard, {"repo": repo, "commit": commit, **choice._asdict()})

    @property
    def changes(self) -> bool:
        """Whether `run` is going to put a file in place, or to remove one."""
        return bool(self._stale) or super().changes

    def plan(self, supply: Supply, *, force: bool) -> dict[str, t.Any]:
        files = self._choice.of(supply.files())
        self._address = supply.address
        self._outputs = [Output(self._dest / file.path, b"", [Part(file, b"", 0)]) for file in files]
        before = read_json(self._manifest)
        if not force:
            self._require_same_repository(before)
            for output in self._outputs:
                output.require_replaceable()
        self._stale = sorted({self._dest / name for name in before.get("outputs", {})} - set(self.paths))
        self._stale = [path for path in self._stale if read_record(path)]
        self._links = self._linkable()
        self.linked = sum(output.size for output in self._outputs if output.dest in self._links)
        fetched = [output for output in self._outputs if not output.present and output.dest not in self._links]
        # Small files are there twice for a moment.
        self.missing = sum(output.missing + (output.size if _small(output) else 0) for output in fetched)
        if self.missing:
            require_space(existing(self._dest), self.missing + RESERVE_BYTES, str(self._dest))
        return self._listed()

    def run(self, supply: Supply, finish: Finish, *, workers: int, deadline: float) -> bool:
        # What the new commit has not goes last; until then the directory has files of both.
        changed = self.changes
        for output in self._outputs:
            if output.dest in self._links:
                self._link(output, finish)
        self._transfer(supply, finish, workers=workers, deadline=deadline)
        for output in self._outputs:
            output.adopt(self._provenance(output))
        for path in self._stale:
            self._remove(path)
        sums = {output.dest: output.sha256 for output in self._outputs}
        self._remember(self._listed(), sums, changed=changed)
        return changed

    def _transfer(self, supply: Supply, finish: Finish, **limits: t.Any) -> None:
        missing = [output for output in self._outputs if not output.present]
        batches = self._batches([output for output in missing if _small(output)])
        large = [output for output in missing if not _small(output)]
        self._share(supply, large)
        ready = transfer([*batches, *large], supply, halt=supply.halt, progress=self._progress, **limits)
        try:
            with contextlib.closing(ready):
                for output in ready:
                    if output in batches:
                        self._unpack(output, batches[output], finish)
                    else:
                        output.commit(finish, self._provenance(output))
        finally:
            self.fetched += sum(output.fetched for output in (*batches, *large))

    def _batches(self, outputs: Sequence[Output]) -> dict[Output, list[Output]]:
        """Files in the making that hold several small ones each."""
        groups: list[list[Output]] = []
        for output in outputs:
            if not groups or sum(member.size for member in groups[-1]) + output.size > _BATCH_BYTES:
                groups.append([])
            groups[-1].append(output)
        return {self._batch(number, group): group for number, group in enumerate(groups)}

    def _batch(self, number: int, members: Sequence[Output]) -> Output:
        parts, offset = [], 0
        for member in members:
            parts.append(Part(member.parts[0].file, b"", offset))
            offset += member.size
        # No file of a repository may have such a name.
        return Output(self._dest / f"snapshot.llmfleet.{number}", b"", parts)

    def _unpack(self, batch: Output, members: Sequence[Output], finish: Finish) -> None:
        for part, member in zip(batch.parts, members):
            data = bytearray(part.size)
            batch.read_at(part.offset, memoryview(data))
            stage = _cleared(companion(member.dest, "new"))
            with stage.open("xb") as file:
                file.write(data)
            self._put(member, stage, hashlib.sha256(data).hexdigest(), finish)
        batch.close()
        batch.path.unlink()
        batch.forget()

    def _linkable(self) -> dict[Path, Path]:
        """For files that are missing here, and are intact in a snapshot on the same file system: where they are."""
        there: dict[str, Path] = {}
        for directory in self._earlier:
            for name, sha256 in read_json(companion(directory / "snapshot", "manifest")).get("outputs", {}).items():
                record = read_record(directory / name)
                if record and record.get("sha256") == sha256:
                    there[sha256] = directory / name
        device = existing(self._dest).stat().st_dev
        return {
            output.dest: there[output.parts[0].file.sha256]
            for output in self._outputs
            if not output.present
            and output.parts[0].file.sha256 in there
            and there[output.parts[0].file.sha256].stat().st_dev == device
        }

    def _link(self, output: Output, finish: Finish) -> None:
        stage = _cleared(companion(output.dest, "new"))
        os.link(self._links[output.dest], stage)
        self._put(output, stage, output.parts[0].file.sha256, finish)

    def _put(self, output: Output, stage: Path, sha256: str, finish: Finish) -> None:
        """Give a checked file its final name."""
        finish(stage)
        commit(stage, output.dest)
        output.path.unlink(missing_ok=True)  # what an earlier run has fetched of it
        output.sha256, output.sums, output.present = sha256, [sha256], True
        output.adopt(self._provenance(output))

    def _remove(self, path: Path) -> None:
        """Remove a file of an earlier commit, and the directories that only it was in."""
        path.unlink()
        companion(path, "json").unlink()
        with contextlib.suppress(OSError):
            for parent in path.relative_to(self._dest).parents[:-1]:
                (self._dest / parent).rmdir()

    def _listed(self) -> dict[str, t.Any]:
        files = [
            {
                "name": output.parts[0].file.path,
                "size": output.size,
                "sha256": output.sha256 or output.parts[0].file.sha256,
            }
            for output in self._outputs
        ]
        return {"hub": self._address, "wanted": self._wanted, "files": files}

    def _require_same_repository(self, manifest: dict[str, t.Any]) -> None:
        other = manifest.get("wanted", self._wanted)["repo"]
        if other != self._wanted["repo"]:
            raise LlmError(
                f"{self._dest} is a snapshot of {other}, not of {self._wanted['repo']}. Name another directory, or set "
                "force to make it one."
            )


def _small(output: Output) -> bool:
    return output.size <= _SMALL_BYTES


def _cleared(stage: Path) -> Path:
    """The name of a file that is to be made, in a directory that exists; what a killed run left there is gone."""
    stage.parent.mkdir(parents=True, exist_ok=True)
    stage.unlink(missing_ok=True)
    return stage
