# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The model that lies on this host or at a hub, by the headers of its files. Private to this collection.

Of a hub's files only headers are asked for, by ranges: a few megabytes of a model of hundreds of gigabytes.
"""

from __future__ import annotations

import contextlib
import os
import stat
import typing as t
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path, PurePosixPath

from ansible_collections.llmfleet.serving.plugins.module_utils._config import config_model, read_json, read_tensors
from ansible_collections.llmfleet.serving.plugins.module_utils._errors import LlmError
from ansible_collections.llmfleet.serving.plugins.module_utils._files import os_errors
from ansible_collections.llmfleet.serving.plugins.module_utils._fit_model import Model, gguf_model
from ansible_collections.llmfleet.serving.plugins.module_utils._gguf import Header, Read, read_header
from ansible_collections.llmfleet.serving.plugins.module_utils._gguf_files import find_shards
from ansible_collections.llmfleet.serving.plugins.module_utils._http import HttpError, Retries
from ansible_collections.llmfleet.serving.plugins.module_utils._hub import Content, RemoteFile, Source, select
from ansible_collections.llmfleet.serving.plugins.module_utils._merge import shard_names

_T = t.TypeVar("_T")
# A header is one or a few small requests, in which a hub's answer takes longest; R1 has 163 files.
_WORKERS = 8
_INDEX = "model.safetensors.index.json"


class File(t.Protocol):
    """A file that can be read piece by piece, from several threads each with its own."""

    path: str
    size: int

    def opened(self) -> contextlib.AbstractContextManager[Read]:
        """What reads it."""


def local_model(path: Path) -> Model:
    """The model at a path of this host: a GGUF file, the first of its shards, or a directory with a config.json."""
    with os_errors(f"Reading {path}"):
        if path.is_dir():
            return model_of([_LocalFile(child) for child in sorted(path.iterdir()) if child.is_file()])
        sharded = PurePosixPath(path.name).match("*-of-?????.gguf")
        return model_of([_LocalFile(shard) for shard in (find_shards(path) if sharded else [path])])


def hub_model(origin: Source, commit: str, pattern: str, deadline: float) -> Model:
    """The model that the files of a repository are that match a shell pattern.

    :param pattern: the path of a GGUF file, or of the first of its shards, where the source cannot list files.
    :param deadline: the value of `time.monotonic()` after which nothing is tried any more.
    """
    if origin.lists:
        files = select(Retries(deadline).run(lambda: origin.files(commit)), pattern)
    else:
        files = [_sized(origin, commit, path, deadline) for path in _unlisted(pattern)]
    return model_of([_HubFile(origin, file, deadline) for file in files])


def model_of(files: Sequence[File]) -> Model:
    """The model that these files are: GGUF if there is such a file among them, else safetensors."""
    shards = [file for file in files if file.path.endswith(".gguf")]
    if shards:
        _require_all_shards(shards)
        return gguf_model(_each(_header, shards))
    configs = [file for file in files if PurePosixPath(file.path).name == "config.json"]
    if not configs:
        raise LlmError("Among the files is neither a GGUF file nor a config.json. Choose the files of one model.")
    config = min(configs, key=lambda file: len(file.path))
    with config.opened() as read:
        content = read_json(read, config.size, config.path)
    beside = {file.path: file for file in files}
    weights = _weight_files(beside, PurePosixPath(config.path).parent)
    tensors = [tensor for part in _each(_tensors, weights) for tensor in part]
    return config_model(content, tensors, sum(file.size for file in files), config.path)


def _require_all_shards(shards: Sequence[File]) -> None:
    names = [PurePosixPath(file.path).name for file in shards]
    if len(names) == 1 and not PurePosixPath(names[0]).match("*-of-?????.gguf"):
        return
    expected = shard_names(names[0])
    if names != expected:
        raise LlmError(
            f"{len(names)} GGUF files are chosen; expected one model, {expected[0]} and {len(expected) - 1} more."
        )


def _weight_files(beside: dict[str, File], folder: PurePosixPath) -> list[File]:
    """The files that the index names, all of them there; without an index, all safetensors files of the folder."""
    index = beside.get(str(folder / _INDEX))
    if index is None:
        found = [file for path, file in beside.items() if PurePosixPath(path).match("*.safetensors")]
        found = [file for file in found if PurePosixPath(file.path).parent == folder]
        if not found:
            raise LlmError(f"There are no safetensors files beside {folder / 'config.json'}. Choose them too.")
        return found
    with index.opened() as read:
        places = read_json(read, index.size, index.path).get("weight_map")
    if not isinstance(places, dict) or not places:
        raise LlmError(f"{index.path} has no weight_map. Get it again from its origin.")
    names = sorted({str(folder / str(name)) for name in places.values()})
    missing = [name for name in names if name not in beside]
    if missing:
        raise LlmError(f"{index.path} names {len(missing)} files that are not there, such as {missing[0]}.")
    return [beside[name] for name in names]


def _header(file: File) -> Header:
    with file.opened() as read:
        return read_header(read, file.size, file.path)


def _tensors(file: File) -> t.Any:
    with file.opened() as read:
        return read_tensors(read, file.size, file.path)


def _each(action: t.Callable[[File], _T], files: Iterable[File]) -> list[_T]:
    with ThreadPoolExecutor(_WORKERS) as pool:
        return list(pool.map(action, files))


class _LocalFile:
    def __init__(self, path: Path) -> None:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise LlmError(f"{path} is neither a file nor a directory; expected a model.")
        self.path = str(path)
        self.size = status.st_size

    @contextlib.contextmanager
    def opened(self) -> Iterator[Read]:
        with os_errors(f"Reading {self.path}"):
            fd = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)

        def read(offset: int, size: int) -> bytes:
            with os_errors(f"Reading {self.path}"):
                return os.pread(fd, size, offset)

        try:
            yield read
        finally:
            os.close(fd)


class _HubFile:
    def __init__(self, origin: Source, file: RemoteFile, deadline: float) -> None:
        self.path = file.path
        self.size = file.size
        self._origin = origin
        self._file = file
        self._deadline = deadline

    @contextlib.contextmanager
    def opened(self) -> Iterator[Read]:
        yield lambda offset, size: Retries(self._deadline).run(lambda: self._read(offset, size))

    def _read(self, offset: int, size: int) -> bytes:
        with self._origin.open(self._file, offset, None, offset + size) as content:
            data = _piece(content, offset, size)
        if len(data) < size:
            end = offset + len(data)
            raise HttpError(f"{self.path} ended at byte {end} of {self.size}.", transient=True)
        return data


def _piece(content: Content, offset: int, size: int) -> bytes:
    """The bytes asked for, also from a server that has no ranges and sends the whole file."""
    data = bytearray()
    before = offset - content.start
    for chunk in content.chunks():
        data += chunk
        if len(data) >= before + size:
            break
    return bytes(data[before : before + size])


def _unlisted(path: str) -> list[str]:
    """The path of a GGUF file; of a first shard, those of all, by their names."""
    name = PurePosixPath(path)
    if not name.match("*-of-?????.gguf"):
        return [path]
    return [str(name.with_name(shard)) for shard in shard_names(name.name)]


def _sized(origin: Source, commit: str, path: str, deadline: float) -> RemoteFile:
    """A file of a server that lists nothing, which tells its size with its first byte."""
    file = RemoteFile(path, 0, "", "", 0, origin.locate(commit, path))

    def total() -> int | None:
        with origin.open(file, 0, None, 1) as content:
            return content.total

    size = Retries(deadline).run(total)
    if size is None:
        raise LlmError(f"{path}: the server does not tell how large it is. Use another one.")
    return replace(file, size=size)
