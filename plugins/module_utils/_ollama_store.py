# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Ollama's model folder on disk: names, manifests, blobs. Private to this collection.

`ollama create` sends the model file through the server's API and so writes it a second time (a third time from v0.30
on). What it leaves behind is small: blobs named after their sha256, and one manifest that lists them. `Store` writes
the same by itself and gives the model file a second name instead of a second copy. The layout was read in the sources
of v0.5.11 and v0.34.0, where it is the same; the tests run both servers.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
import typing as t
from dataclasses import dataclass
from pathlib import Path

from ansible_collections.llmfleet.serving.plugins.module_utils._errors import LlmError
from ansible_collections.llmfleet.serving.plugins.module_utils._files import (
    commit,
    companion,
    os_errors,
    read_record,
    sha256_file,
    sync_directory,
    write_record,
)
from ansible_collections.llmfleet.serving.plugins.module_utils._gguf import FILE_TYPES
from ansible_collections.llmfleet.serving.plugins.module_utils._gguf_files import GgufFile, open_gguf

# The folder for models without a registry of their own, on disk in every store. Nothing is fetched from there.
_DEFAULT_HOST = "registry.ollama.ai"
_DEFAULT_NAMESPACE = "library"
_DEFAULT_TAG = "latest"

_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
_CONFIG = "application/vnd.docker.container.image.v1+json"
_MODEL = "application/vnd.ollama.image.model"
_TEMPLATE = "application/vnd.ollama.image.template"
_SYSTEM = "application/vnd.ollama.image.system"
_PARAMS = "application/vnd.ollama.image.params"

# What is known of one model: see `_description`.
Model = dict[str, t.Any]

_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


@dataclass(frozen=True)
class ModelName:
    """A model's full name. `str()` gives it as Ollama lists it: without the parts that have their default value."""

    host: str
    namespace: str
    model: str
    tag: str

    @classmethod
    def parse(cls, text: str) -> ModelName:
        """`[[host/]namespace/]model[:tag]`; the tag is 'latest' where none is given.

        :raises LlmError: for a name that Ollama does not accept.
        """
        path, colon, tag = text.rpartition(":")
        if not colon or "/" in tag:
            path, tag = text, _DEFAULT_TAG
        parts = [_DEFAULT_HOST, _DEFAULT_NAMESPACE][: max(0, 2 - path.count("/"))] + path.split("/")
        # types/model/name.go, isValidPart: a part becomes a folder, so this is also what keeps a name below the store.
        patterns = (r"\w[\w.:-]{0,349}", r"\w[\w-]{0,79}", r"\w[\w.-]{0,79}", r"\w[\w.-]{0,79}")
        parts.append(tag)
        if len(parts) != len(patterns) or not all(map(_matches, patterns, parts)):
            raise LlmError(
                f"The model name {text!r} is refused: expected [[host/]namespace/]model[:tag] of letters, digits, '_', "
                "'-' and '.', each part at most 80 characters and not beginning with '-' or '.'."
            )
        return cls(*parts)

    def __str__(self) -> str:
        shown = f"{self.model}:{self.tag}"
        if self.host != _DEFAULT_HOST:
            return f"{self.host}/{self.namespace}/{shown}"
        return shown if self.namespace == _DEFAULT_NAMESPACE else f"{self.namespace}/{shown}"


def _matches(pattern: str, part: str) -> bool:
    return re.fullmatch(pattern, part, re.ASCII) is not None


def human_count(parameters: int) -> str:
    """A parameter count as Ollama shows it: 671026419200 is '671.0B', 8000000000 is '8B' (format/format.go)."""
    for unit, letter, digits in ((10**9, "B", 1), (10**6, "M", 2)):
        if parameters >= unit:
            return f"{parameters / unit:.{digits if parameters % unit else 0}f}{letter}"
    return f"{parameters / 1000:.0f}K" if parameters >= 1000 else str(parameters)


def go_json(value: t.Any) -> bytes:
    """JSON as Go's encoder writes it, so that equal content has the digest that `ollama create` gives it."""
    text = json.dumps(value, separators=(",", ":"), ensure_ascii=False)
    for char in "<>&\u2028\u2029":
        text = text.replace(char, f"\\u{ord(char):04x}")
    return text.encode() + b"\n"


def remembered_sha256(path: Path, *, remember: bool) -> str:
    """The sha256 of a model file: from the record beside it, else computed and, if wished, recorded there."""
    record = read_record(path) or {}
    if "sha256" in record:
        return str(record["sha256"])
    digest = sha256_file(path)
    if remember:
        # Only a cache: a folder that cannot be written costs time at the next run, nothing else.
        with contextlib.suppress(OSError):
            write_record(path, {**record, "sha256": digest})
    return digest


@dataclass(frozen=True)
class Registration:
    """Everything that makes a local GGUF file a model of Ollama's.

    :ivar model_digest: of the model file, as the manifest has it: "sha256:" and 64 hexadecimal digits.
    :ivar texts: content of all other blobs that the manifest lists, by digest.
    """

    name: ModelName
    file: GgufFile
    model_digest: str
    texts: dict[str, bytes]
    manifest: bytes

    @classmethod
    def of(
        cls,
        name: ModelName,
        source: Path,
        *,
        parameters: dict[str, t.Any],
        template: str | None,
        system: str | None,
        remember: bool,
    ) -> Registration:
        """Read (the first time: hash) the file `source` and put the manifest together. Writes nothing into the store.

        :param parameters: as `typed_parameters` returns them.
        :param remember: keep the computed sha256 beside `source`.
        :raises LlmError: if `source` is not one whole GGUF file.
        """
        with os_errors(f"Reading {source}"):
            file = _whole_model(source.resolve())
            model_digest = f"sha256:{remembered_sha256(file.path, remember=remember)}"
        header = file.header
        texts: dict[str, bytes] = {}

        def layer(media_type: str, content: bytes) -> dict[str, t.Any]:
            digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
            texts[digest] = content
            return {"mediaType": media_type, "digest": digest, "size": len(content)}

        layers = [{"mediaType": _MODEL, "digest": model_digest, "size": header.file_size}]
        if template:
            layers.append(layer(_TEMPLATE, template.encode()))
        if system:
            layers.append(layer(_SYSTEM, system.encode()))
        if parameters:
            layers.append(layer(_PARAMS, go_json(dict(sorted(parameters.items())))))
        architecture = header.value("general.architecture")
        config = {
            "model_format": "gguf",
            "model_family": architecture,
            "model_families": [architecture],
            "model_type": human_count(sum(tensor.elements for tensor in header.tensors)),
            "file_type": FILE_TYPES.get(header.value("general.file_type"), "unknown"),
            # Constants of the format: Ollama writes them on every machine.
            "architecture": "amd64",
            "os": "linux",
        }
        manifest = {
            "schemaVersion": 2,
            "mediaType": _MANIFEST,
            "config": layer(_CONFIG, go_json(config)),
            "layers": layers,
        }
        return cls(name, file, model_digest, texts, go_json(manifest))

    def describe(self) -> Model:
        """What `Store.describe` will say once this is registered."""
        return _description(self.name, self.manifest, self.texts.get)


def _whole_model(path: Path) -> GgufFile:
    """One file with all tensors; anything else is refused."""
    file = open_gguf(path)
    header = file.header
    if header.split and header.split.count > 1:
        raise LlmError(
            f"{path} is shard {header.split.no + 1} of {header.split.count}; expected one file with all tensors. Merge "
            "the shards first (llmfleet.serving.gguf_merge)."
        )
    # Only padding may be missing.
    end = header.data_offset + max((tensor.offset + tensor.size for tensor in header.tensors), default=1)
    if header.file_size < end:
        raise LlmError(f"{path} is no whole model: it has {header.file_size} bytes, expected {end}. Get it again.")
    return file


class Store:
    """One Ollama model folder, the server's OLLAMA_MODELS."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def path_of(self, name: ModelName) -> Path:
        return self.root / "manifests" / name.host / name.namespace / name.model / name.tag

    def blob(self, digest: str) -> Path:
        return self.root / "blobs" / digest.replace(":", "-")

    def read(self, name: ModelName) -> bytes | None:
        """The manifest's bytes, None when the model is not registered."""
        return _content(self.path_of(name))

    def describe(self, name: ModelName) -> Model | None:
        """What is registered under `name`, as `_description` says it; None when nothing is."""
        manifest = self.read(name)
        return None if manifest is None else _description(name, manifest, lambda digest: _content(self.blob(digest)))

    def holds(self, wanted: Registration) -> bool:
        """Whether registering `wanted` would change nothing: the same manifest, all blobs there, no second copy."""
        if self.read(wanted.name) != wanted.manifest:
            return False
        intact = all(_content(self.blob(digest)) == content for digest, content in wanted.texts.items())
        with os_errors("Reading the model folder"):
            return intact and self._is_linked(wanted)

    def _is_linked(self, wanted: Registration) -> bool:
        blob = self.blob(wanted.model_digest)
        if not blob.exists() or blob.stat().st_size != wanted.file.header.file_size:
            return False
        # A blob with a name elsewhere is as good as our link, whoever made it; one without is a copy that costs disk.
        return blob.samefile(wanted.file.path) or blob.is_symlink() or blob.stat().st_nlink > 1

    def write(self, wanted: Registration) -> None:
        """Register: the blobs first, the manifest last, so that there is never a manifest with a blob missing."""
        for digest, content in wanted.texts.items():
            if _content(self.blob(digest)) != content:
                self._put(self.blob(digest), content)
        if not self._is_linked(wanted):
            self._link(wanted)
        self.replace(wanted.name, wanted.manifest)

    def replace(self, name: ModelName, manifest: bytes | None) -> None:
        """Write the manifest as it is given, or remove it, with the folders that this leaves empty."""
        path = self.path_of(name)
        if manifest is None:
            path.unlink(missing_ok=True)
            for folder in list(path.parents)[:3]:
                # One that still has other models in it stays.
                with contextlib.suppress(OSError):
                    folder.rmdir()
        elif manifest != self.read(name):
            self._put(path, manifest)

    def prune(self, manifest: bytes) -> None:
        """Remove those blobs of a manifest that is not in force any more which no other manifest lists.

        A model file keeps its other names, so only a copy that Ollama made for itself is lost.
        """
        used: set[str] = set()
        for path in filter(Path.is_file, self.root.glob("manifests/*/*/*/*")):
            used |= _digests(path.read_bytes())
        for digest in _digests(manifest) - used:
            self.blob(digest).unlink(missing_ok=True)

    def _link(self, wanted: Registration) -> None:
        blob = self.blob(wanted.model_digest)
        stage = companion(blob, "new")
        self._make_folders(stage.parent)
        stage.unlink(missing_ok=True)
        try:
            self._link_or_point(wanted.file.path, stage)
            # Whatever was put in its place meanwhile has another sha256 than the name we are about to give it.
            wanted.file.require_unchanged()
            stage.replace(blob)
        finally:
            stage.unlink(missing_ok=True)
        sync_directory(blob.parent)

    @staticmethod
    def _link_or_point(source: Path, link: Path) -> None:
        try:
            os.link(source, link)
        except OSError as exc:
            # Another file system, a file system without hard links, or the kernel's protected_hardlinks.
            if exc.errno not in (errno.EXDEV, errno.EPERM, errno.EMLINK):
                raise
            link.symlink_to(source)

    def _put(self, path: Path, content: bytes) -> None:
        """A small file, whole or not at all, readable for the server's account."""
        # Staged among the blobs: below manifests/ the server would take the stage for a model of that name.
        stage = companion(self.blob(path.name), "new")
        self._make_folders(stage.parent)
        self._make_folders(path.parent)
        stage.unlink(missing_ok=True)
        try:
            with os.fdopen(os.open(stage, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644), "wb") as file:
                os.fchmod(file.fileno(), 0o644)
                self._give(file.fileno())
                file.write(content)
            commit(stage, path)
        finally:
            stage.unlink(missing_ok=True)

    def _make_folders(self, folder: Path) -> None:
        if not folder.exists():
            self._make_folders(folder.parent)
            folder.mkdir(0o755)
            folder.chmod(0o755)
            self._give(folder)

    def _give(self, target: Path | int) -> None:
        owner = self.root.stat()
        os.chown(target, owner.st_uid, owner.st_gid)


def _description(name: ModelName, manifest: bytes, blob: t.Callable[[str], bytes | None]) -> Model:
    """A manifest in words: `name`, `digest` (what `ollama list` abbreviates as ID), `file_sha256`, `parameters`,
    `template`, `system`. What the manifest does not list, or what is missing or damaged in the store, is None.
    """
    digests = dict(_layers(manifest))

    def text(media_type: str) -> str | None:
        content = blob(digests[media_type]) if media_type in digests else None
        return None if content is None else content.decode(errors="replace")

    parameters = None
    with contextlib.suppress(ValueError):
        parameters = json.loads(text(_PARAMS) or "null")
    return {
        "name": str(name),
        "digest": hashlib.sha256(manifest).hexdigest(),
        "file_sha256": digests[_MODEL].partition(":")[2] if _MODEL in digests else None,
        "parameters": parameters,
        "template": text(_TEMPLATE),
        "system": text(_SYSTEM),
    }


def _content(path: Path) -> bytes | None:
    """A small file of the store, None if it is not there."""
    with os_errors("Reading the model folder"), contextlib.suppress(FileNotFoundError):
        return path.read_bytes()
    return None


def _layers(manifest: bytes) -> set[tuple[str, str]]:
    """(media type, digest) of a manifest's blobs; none for what is not a manifest, as Ollama treats it too."""
    try:
        content = json.loads(manifest)
        found = {(str(layer["mediaType"]), str(layer["digest"])) for layer in [content["config"], *content["layers"]]}
    except (ValueError, KeyError, TypeError):
        return set()
    # Each digest becomes a file name.
    return {(media_type, digest) for media_type, digest in found if _DIGEST.fullmatch(digest)}


def _digests(manifest: bytes) -> set[str]:
    return {digest for _dummy, digest in _layers(manifest)}
