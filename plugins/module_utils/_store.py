# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A directory of model files: what is there, what is missing, what should go. Private to this collection.

A model in one file is `NAME.gguf`, any other a directory `NAME`. Nothing else belongs into a store but `SHA256SUMS`.
"""

from __future__ import annotations

import os
import shutil
import typing as t
from dataclasses import dataclass
from pathlib import Path

from ansible_collections.llmfleet.serving.plugins.module_utils._errors import LlmError
from ansible_collections.llmfleet.serving.plugins.module_utils._fetch import Fetch
from ansible_collections.llmfleet.serving.plugins.module_utils._files import (
    companion,
    existing,
    read_json,
    read_record,
    safe_relative,
    sha256_file,
    sync_directory,
    write_record,
    write_text,
)
from ansible_collections.llmfleet.serving.plugins.module_utils._snapshot import Choice, Snapshot

_SUMS = "SHA256SUMS"
_QUARANTINED = ".quarantined"
# What binds a record to one very file.
_BINDING = ("schema", "file")


@dataclass(frozen=True)
class Model:
    """A model as the store is told of it: where it comes from, and whether it is to be there.

    :ivar merge: whether it is one file, else a directory of files.
    :ivar snapshot: whether that directory is a snapshot of the repository.
    """

    name: str
    repo: str
    revision: str
    files: str
    merge: bool = True
    snapshot: bool = False
    absent: bool = False

    def __post_init__(self) -> None:
        """Refuse a name that is more than the name of a file."""
        if len(safe_relative(self.name).parts) != 1 or self.name.startswith("."):
            raise LlmError(f"{self.name!r} is not the name of a model: expected one without '/' and a leading '.'.")

    def place(self, store: Path) -> Path:
        """The model's file or directory in a store."""
        return store / (f"{self.name}.gguf" if self.merge else self.name)

    def recorded(self, store: Path) -> dict[Path, str]:
        """The sha256 of each of its files in a store, as it was verified, whether or not the file still is that."""
        if self.snapshot:
            choice = Choice([self.files], [], pickles=False)
            return Snapshot(self.repo, self.revision, choice, self.place(store)).recorded
        return Fetch(self.repo, self.revision, self.files, self.place(store), merge=self.merge).recorded


class StoredFile(t.TypedDict):
    """A file of a model: its path in the store, its size in bytes, its checksum when it was verified."""

    model: str
    path: str
    size: int
    sha256: str


class Stray(t.TypedDict):
    """What lies in the store and belongs to no model that is wanted: its path there, the bytes that it takes."""

    path: str
    size: int


class Store:
    """The store of one host. Making it finds out what is there, and changes nothing.

    :param models: all that it is told of; what is there besides is stray.
    :param thorough: read all files. Otherwise, only those whose size, inode or modification time have changed.
    :ivar missing: names of the models that are not there as they are wanted, or not any more.
    :ivar files: all files of the models that are there.
    :ivar corrupt: files that do not have the content any more that was verified when they were fetched.
    :ivar unwanted: what is there of the models that are to be absent, with all that was kept beside it.
    """

    def __init__(self, directory: Path, models: t.Sequence[Model], *, thorough: bool) -> None:
        names = [model.name for model in models]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise LlmError(f"The model {twice[0]!r} is named twice; expected each name once.")
        self._directory = directory
        self._wanted = [model for model in models if not model.absent]
        self.missing: list[str] = []
        self.files: list[StoredFile] = []
        self.corrupt: list[Path] = []
        self._touched: list[tuple[Path, str]] = []
        for model in self._wanted:
            self._look_at(model, thorough=thorough)
        # Whichever it was, a file or a directory.
        places = [place for model in models if model.absent for place in (f"{model.name}.gguf", model.name)]
        self.unwanted = [
            entry
            for entry in self._entries()
            if any(_belongs(entry.name, place) or entry.name == place + _QUARANTINED for place in places)
        ]

    @property
    def changes(self) -> bool:
        """Whether `tidy` is going to change anything."""
        return bool(self.corrupt or self.unwanted or self._touched) or self._listed() != self.sums

    @property
    def free(self) -> int:
        """Bytes that are free on its file system."""
        return shutil.disk_usage(existing(self._directory)).free

    @property
    def sums(self) -> str:
        """What `sha256sum --check` reads."""
        return "".join(f"{file['sha256']}  {file['path']}\n" for file in self.files)

    def tidy(self) -> list[Path]:
        """Take corrupt files out of use, remove unwanted ones, and write down what is there.

        Returns where corrupt files are now: they keep their content, for those who want to know what happened.
        """
        aside = [_quarantine(path) for path in self.corrupt]
        for path in self.unwanted:
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()
        for path, sha256 in self._touched:
            facts = read_json(companion(path, "json"))
            write_record(path, {**{name: facts[name] for name in facts if name not in _BINDING}, "sha256": sha256})
        if self._listed() != self.sums:
            write_text(self._directory / _SUMS, self.sums)
        return aside

    def strays(self) -> list[Stray]:
        """What could be removed by hand: other models, quarantined files, what somebody else put there."""
        places = [model.place(self._directory) for model in self._wanted]
        strays = [
            entry
            for entry in self._entries()
            if entry.name != _SUMS and not any(_belongs(entry.name, place.name) for place in places)
        ]
        strays += [path for place in places if place.is_dir() for path in sorted(place.rglob(f"*{_QUARANTINED}"))]
        return [{"path": str(path.relative_to(self._directory)), "size": _bytes(path)} for path in strays]

    def _look_at(self, model: Model, *, thorough: bool) -> None:
        recorded = model.recorded(self._directory)
        there = {path: sha256 for path, sha256 in recorded.items() if path.exists()}
        touched = [path for path in there if read_record(path) is None]
        corrupt = [path for path in (there if thorough else touched) if sha256_file(path) != there[path]]
        self.corrupt += corrupt
        self._touched += [(path, there[path]) for path in touched if path not in corrupt]
        if not recorded or corrupt or there.keys() != recorded.keys():
            self.missing.append(model.name)
            return
        for path, sha256 in there.items():
            name = str(path.relative_to(self._directory))
            self.files.append({"model": model.name, "path": name, "size": path.stat().st_size, "sha256": sha256})

    def _entries(self) -> list[Path]:
        return sorted(self._directory.iterdir()) if self._directory.is_dir() else []

    def _listed(self) -> str:
        path = self._directory / _SUMS
        return path.read_text() if path.exists() else ""


def _quarantine(path: Path) -> Path:
    aside = path.with_name(path.name + _QUARANTINED)
    path.replace(aside)
    sync_directory(path.parent)
    return aside


def _belongs(entry: str, name: str) -> bool:
    """Whether a directory entry is a model's place, or kept beside it."""
    return entry == name or entry.startswith(f".{name}.llmfleet.")


def _bytes(path: Path) -> int:
    """What a file, or all files of a directory, take on the disk."""
    if path.is_dir() and not path.is_symlink():
        return sum(_bytes(Path(entry.path)) for entry in os.scandir(path))
    return path.lstat().st_blocks * 512
