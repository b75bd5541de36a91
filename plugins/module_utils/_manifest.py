# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The list of a model's files, kept by the user instead of asked from a hub. Private to this collection.

A text file with a line `sha256  size  path` for each file, after lines that start with '#' and tell what is listed:

    # repo: unsloth/DeepSeek-R1-GGUF
    # commit: 0123456789abcdef0123456789abcdef01234567
    # files: DeepSeek-R1-Q4_K_M/*.gguf
    # source: https://huggingface.co
    2ed2fd2f0c2f9b2a8c1a5ed5e6f0e1f3b7c1d0a9e8f7c6b5a4938271605f4e3d  48339779936  DeepSeek-R1-Q4_K_M/...gguf
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from ansible_collections.llmfleet.serving.plugins.module_utils._errors import LlmError
from ansible_collections.llmfleet.serving.plugins.module_utils._files import os_errors, safe_relative
from ansible_collections.llmfleet.serving.plugins.module_utils._hub import RemoteFile

_LINE = re.compile(r"([0-9a-f]{64}) +(0|[1-9][0-9]{0,17}) +(\S.*)")
# A hundred thousand files. What is larger is something else, such as the model itself.
_MAX_BYTES = 16 << 20
_HEADER = re.compile(r"# (repo|commit|files|source): (.*)")


_MAKE = "Remove the file, and make it anew with model_manifest."


@dataclass(frozen=True)
class Manifest:
    """The files of one repository at one commit.

    :ivar about: what they are: `repo`, `commit`, `files` (the pattern) and, for people, `source` (the hub).
    """

    about: dict[str, str]
    files: list[RemoteFile]

    @property
    def text(self) -> str:
        """The manifest as it is written."""
        lines = [f"# {name}: {value}" for name, value in self.about.items()]
        lines += [f"{file.sha256}  {file.size}  {file.path}" for file in self.files]
        return "".join(f"{line}\n" for line in lines)


def parse_manifest(text: str, name: str) -> Manifest:
    """What a manifest says.

    :param name: of the manifest, for errors.
    :raises LlmError: for a line that is none, a path that may not be written to, one that is there twice, and no file.
    """
    about: dict[str, str] = {}
    files: dict[str, RemoteFile] = {}
    for number, line in enumerate(text.splitlines(), 1):
        if line.startswith("#"):
            about.update(_HEADER.findall(line))
        elif line.strip():
            file = _file(line, f"{name}, line {number}")
            if file.path in files:
                raise LlmError(f"{name}, line {number}: {file.path!r} is listed twice. {_MAKE}")
            files[file.path] = file
    if not files:
        raise LlmError(f"{name} lists no file; expected lines 'sha256  size  path'. {_MAKE}")
    return Manifest(about, list(files.values()))


def read_manifest(path: Path) -> Manifest:
    """What the manifest in a file says. Errors as of `parse_manifest`."""
    with os_errors("Reading the manifest"), path.open("rb") as file:
        data = file.read(_MAX_BYTES + 1)
    try:
        text = data.decode()
    except UnicodeDecodeError:
        text = ""
    if not text or len(data) > _MAX_BYTES:
        raise LlmError(
            f"{path} is no manifest: expected a text file with lines 'sha256  size  path'. Name another file."
        )
    return parse_manifest(text, str(path))


def _file(line: str, where: str) -> RemoteFile:
    match = _LINE.fullmatch(line)
    if not match:
        raise LlmError(f"{where}: {line[:100]!r} is no line of a manifest; expected 'sha256  size  path'. {_MAKE}")
    sha256, size, path = match.groups()
    try:
        safe_relative(path)
    except LlmError as exc:
        raise LlmError(f"{where}: {exc}") from exc
    return RemoteFile(path, int(size), sha256, "", 0, "")
