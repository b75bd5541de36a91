# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Directories seen as repositories: ``<root>/<owner>/<name>/`` is one repository at one commit."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import threading
import typing as t
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path

BRANCHES = ("main", "master")  # the default branch of Hugging Face, and of ModelScope
TAGS = ("v1.0",)
LFS_SUFFIXES = (".gguf", ".safetensors")
GATED_MARKER = ".gated"
HASHES_FILE = ".hashes.json"

_NAME = re.compile(r"[A-Za-z0-9][\w.-]*")


@dataclass(frozen=True)
class Directory:
    """A directory of a repository; `oid` stands for its git tree."""

    path: str
    oid: str


@dataclass(frozen=True)
class File:
    """A file of a repository; `oid` is the git blob that a commit would hold: the file, or its LFS pointer."""

    path: str
    source: Path = field(compare=False)
    size: int
    modified: float
    sha256: str
    oid: str
    lfs: bool

    @property
    def pointer(self) -> bytes:
        """What git keeps in place of a large file (git-lfs specification, version 1)."""
        return _pointer(self.sha256, self.size)


class Snapshot(t.NamedTuple):
    """One commit. `trees` has the id of each directory ("" is the top), `objects` has what git hashes, by id."""

    commit: str
    trees: dict[str, str]
    objects: dict[str, Callable[[], bytes]]


@dataclass(frozen=True)
class Repository:
    """What one directory held when it was looked at. `files` are sorted by path."""

    id: str
    files: dict[str, File]
    gated: bool

    @cached_property
    def snapshot(self) -> Snapshot:
        """The commit with its trees, as git computes them."""
        return _snapshot(self.files)

    @property
    def commit(self) -> str:
        """The id of the commit, which changes exactly when the content does."""
        return self.snapshot.commit

    @cached_property
    def entries(self) -> dict[str, Directory | File]:
        """All files and directories, sorted by path."""
        directories = {path: Directory(path, oid) for path, oid in self.snapshot.trees.items() if path}
        return dict(sorted({**directories, **self.files}.items()))

    @property
    def modified(self) -> float:
        """The newest file's time, in seconds since the epoch."""
        return max((file.modified for file in self.files.values()), default=0.0)

    def has_revision(self, revision: str) -> bool:
        """Whether `revision` is a branch, a tag or the commit of this repository."""
        return revision in (*BRANCHES, *TAGS, self.commit)

    def below(self, root: str, *, recursive: bool) -> list[Directory | File]:
        """Return the entries under directory `root` ("" is the top); empty if there is no such directory."""
        prefix = f"{root}/" if root else ""
        found = (entry for path, entry in self.entries.items() if path.startswith(prefix))
        return [entry for entry in found if recursive or entry.path.count("/") == prefix.count("/")]


class _Hashes(t.NamedTuple):
    """What was computed from a file, and the size and time (in ns) that it then had."""

    size: int
    modified: int
    sha256: str
    blob: str


class Store:
    """All repositories under one directory.

    Each look-up sees the files as they are now. A file is hashed once for each size and modification time; the
    hashes are kept in ``<root>/.hashes.json`` so that tens of gigabytes do not cost minutes at every start.
    """

    def __init__(self, root: Path, lfs_threshold: int) -> None:
        self._root = root
        self._lfs_threshold = lfs_threshold
        self._lock = threading.Lock()
        self._repositories: dict[Path, Repository] = {}
        self._hashes: dict[str, _Hashes] = {}
        with contextlib.suppress(FileNotFoundError):
            kept = json.loads((root / HASHES_FILE).read_text())
            self._hashes = {path: _Hashes(*values) for path, values in kept.items()}

    def repositories(self) -> list[Repository]:
        """Return every repository; hashes whatever is new."""
        found = (self.repository(path.parent.name, path.name) for path in sorted(self._root.glob("*/*")))
        return [repository for repository in found if repository is not None]

    def repository(self, owner: str, name: str) -> Repository | None:
        """Return the repository ``owner/name``, or None."""
        top = self._root / owner / name
        if not all(_NAME.fullmatch(part) for part in (owner, name)) or not top.is_dir():
            return None
        with self._lock:
            now = Repository(f"{owner}/{name}", self._scan(top), (top / GATED_MARKER).exists())
            if self._repositories.get(top) != now:  # an equal one is kept: it knows its commit already
                self._repositories[top] = now
            return self._repositories[top]

    def _scan(self, top: Path) -> dict[str, File]:
        found = {entry.path[len(str(top)) + 1 :]: entry for entry in _walk(top)}
        found.pop(GATED_MARKER, None)
        new = [entry for entry in found.values() if self._is_new(entry)]
        for entry in new:
            self._hashes[self._key(entry)] = _hash(entry)
        if new:
            self._save()
        return {path: self._file(path, entry) for path, entry in sorted(found.items())}

    def _key(self, entry: os.DirEntry[str]) -> str:
        return entry.path[len(str(self._root)) + 1 :]

    def _is_new(self, entry: os.DirEntry[str]) -> bool:
        known, status = self._hashes.get(self._key(entry)), entry.stat()
        return known is None or (known.size, known.modified) != (status.st_size, status.st_mtime_ns)

    def _file(self, path: str, entry: os.DirEntry[str]) -> File:
        size, modified, sha256, blob = self._hashes[self._key(entry)]
        lfs = size >= self._lfs_threshold or path.endswith(LFS_SUFFIXES)
        oid = _object("blob", _pointer(sha256, size))[0] if lfs else blob
        return File(path, Path(entry.path), size, modified / 1e9, sha256, oid, lfs)

    def _save(self) -> None:
        # In a container the directory may be mounted read-only; the hashes then live as long as the process.
        with contextlib.suppress(OSError):
            temporary = self._root / f"{HASHES_FILE}.{os.getpid()}"
            temporary.write_text(json.dumps(self._hashes))
            temporary.replace(self._root / HASHES_FILE)


def _walk(directory: Path | str) -> Iterator[os.DirEntry[str]]:
    with os.scandir(directory) as entries:
        for entry in entries:
            if entry.is_dir():
                yield from _walk(entry.path)
            elif entry.is_file():
                yield entry


def _hash(entry: os.DirEntry[str]) -> _Hashes:
    """Compute the sha256 of a file and its git blob id from one reading."""
    status = entry.stat()
    sha256 = hashlib.sha256()
    blob = hashlib.sha1(f"blob {status.st_size}\0".encode(), usedforsecurity=False)
    with Path(entry.path).open("rb") as file:
        while chunk := file.read(1 << 20):
            sha256.update(chunk)
            blob.update(chunk)
    return _Hashes(status.st_size, status.st_mtime_ns, sha256.hexdigest(), blob.hexdigest())


def _pointer(sha256: str, size: int) -> bytes:
    lines = ("version https://git-lfs.github.com/spec/v1", f"oid sha256:{sha256}", f"size {size}")
    return "".join(f"{line}\n" for line in lines).encode()


def _object(kind: str, data: bytes) -> tuple[str, bytes]:
    """Return the id of a git object, and the bytes that it is the SHA-1 of."""
    whole = f"{kind} {len(data)}\0".encode() + data
    return hashlib.sha1(whole, usedforsecurity=False).hexdigest(), whole


def _snapshot(files: dict[str, File]) -> Snapshot:
    """Compute commit and trees, with a .gitattributes that names the large files unless there is one."""
    objects: dict[str, Callable[[], bytes]] = {file.oid: partial(_blob, file) for file in files.values()}
    trees: dict[str, str] = {}

    def keep(kind: str, text: bytes) -> str:
        oid, whole = _object(kind, text)
        objects[oid] = lambda: whole
        return oid

    def tree(top: str, blobs: dict[str, str]) -> str:
        """Keep the tree of a directory whose path ends in a slash; `blobs` are what is below, id by path."""
        entries = [(path, "100644", oid) for path, oid in blobs.items() if "/" not in path]
        inside: dict[str, dict[str, str]] = defaultdict(dict)
        for path, oid in blobs.items():
            name, slash, rest = path.partition("/")
            if slash:
                inside[name + slash][rest] = oid
        entries += [(name, "40000", tree(top + name, below)) for name, below in inside.items()]
        # Git too sorts a directory as if its name ended in a slash.
        lines = (f"{mode} {name.rstrip('/')}\0".encode() + bytes.fromhex(oid) for name, mode, oid in sorted(entries))
        trees[top.rstrip("/")] = oid = keep("tree", b"".join(lines))
        return oid

    blobs = {path: file.oid for path, file in files.items()}
    large = "".join(f"{_quoted(path)} filter=lfs diff=lfs merge=lfs -text\n" for path in files if files[path].lfs)
    if large:
        blobs.setdefault(".gitattributes", keep("blob", large.encode()))
    who = "The bed <bed@example.com> 1700000000 +0000"
    commit = f"tree {tree('', blobs)}\nauthor {who}\ncommitter {who}\n\nUpload\n"
    return Snapshot(keep("commit", commit.encode()), trees, objects)


def _blob(file: File) -> bytes:
    return _object("blob", file.pointer if file.lfs else file.source.read_bytes())[1]


def _quoted(path: str) -> str:
    """A path as a pattern of .gitattributes; characters that mean something there are put in brackets."""
    return '"/' + re.sub(r"([*?\[\]])", r"[\1]", path).replace("\\", "\\\\").replace('"', '\\"') + '"'
