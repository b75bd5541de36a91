# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""apt's sources, with the distribution's archive taken from a mirror. Private to this collection."""

from __future__ import annotations

import dataclasses
import pathlib
import re

from ansible_collections.llmfleet.serving.plugins.module_utils._errors import LlmError

# The archives lie directly below a host's name, on the makers' own hosts, on clouds' and on public mirrors. What others
# offer for a distribution lies deeper, as in https://download.docker.com/linux/debian.
_ARCHIVE = re.compile(r"https?://[^\s/]+/(?P<archive>debian|debian-security|ubuntu)(?=/?(?:\s|$))")
# Debian's images for clouds name their mirrors in a file of their own.
_MIRROR_LIST = re.compile(r"mirror\+file:/+etc/apt/mirrors/(?P<archive>debian|debian-security)\.list(?=\s|$)")


@dataclasses.dataclass(frozen=True)
class Source:
    """One file of sources: its text now, its text as the host has it without a mirror, its text as it is to be."""

    path: pathlib.Path
    found: str
    original: str
    wanted: str


def rewritten(text: str, mirror: str) -> str:
    """A file of sources, in either of apt's formats, with the distribution's archives below the address `mirror`."""
    for pattern in (_ARCHIVE, _MIRROR_LIST):
        text = pattern.sub(lambda match: f"{mirror}/{match['archive']}", text)
    return text


def sources(directory: str, mirror: str) -> list[Source]:
    """The files that a mirror changes, or has changed. An empty `mirror` wants them as they were.

    :param directory: apt's configuration, such as ``/etc/apt``.
    :raises LlmError: if a mirror is wanted and no file names an archive of the distribution.
    """
    files = [_source(path, mirror) for path in _paths(pathlib.Path(directory))]
    if mirror and not any(f"{mirror}/" in file.wanted for file in files):
        raise LlmError(
            f"{directory}: expected sources of Debian's or Ubuntu's archive (.../debian, .../debian-security, "
            ".../ubuntu), found none. Restore the distribution's own sources first."
        )
    return [file for file in files if file.found != file.wanted or file.original != file.wanted]


def apply(file: Source) -> None:
    """Give a file the text that it is to have, and keep the host's own beside it for as long as the two differ."""
    if file.original != file.wanted:
        _write(_aside(file.path), file.original)
    _write(file.path, file.wanted)
    if file.original == file.wanted:
        _aside(file.path).unlink()


def _paths(directory: pathlib.Path) -> list[pathlib.Path]:
    parts = directory / "sources.list.d"
    paths = [directory / "sources.list", *sorted([*parts.glob("*.list"), *parts.glob("*.sources")])]
    return [path for path in paths if path.is_file()]


def _source(path: pathlib.Path, mirror: str) -> Source:
    found = _read(path)
    original = _read(_aside(path)) if _aside(path).exists() else found
    return Source(path, found, original, rewritten(original, mirror) if mirror else original)


def _aside(path: pathlib.Path) -> pathlib.Path:
    """Where the host's own file is kept. apt passes over this ending without a word (Dir::Ignore-Files-Silently)."""
    return path.with_name(f"{path.name}.llmfleet.save")


def _read(path: pathlib.Path) -> str:
    return path.read_text(encoding="utf-8", errors="surrogateescape")


def _write(path: pathlib.Path, text: str) -> None:
    unfinished = path.with_name(f"{path.name}.llmfleet.bak")
    unfinished.write_text(text, encoding="utf-8", errors="surrogateescape")
    unfinished.chmod(0o644)
    unfinished.replace(path)
