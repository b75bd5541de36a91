# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a run wants of a host, as digests: variables, files on the controller, this collection. Private to it.

Secrets are among the variables, so nothing but a digest of all of them together leaves the controller.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import json
import os
import re
import typing as t
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from ansible.release import __version__ as ansible_version

from ansible_collections.llmfleet.serving.plugins.module_utils._errors import LlmError

_COLLECTION = Path(__file__).parents[2]
_CODE = ("plugins", "roles", "playbooks")
# A larger file is taken for the same at the same size and time, and so is each file of a directory. What has more files
# is not something that somebody has written for a run.
_READ_MAX = 16 << 20
_ENTRIES_MAX = 1000
# What could be the name of a file: no sentence, no address.
_NAME = re.compile(r"(?=.*[a-z])(?=.*[./])[^\s:]{2,255}", re.IGNORECASE)


@functools.lru_cache(maxsize=1)
def names() -> re.Pattern[str]:
    """What the names of variables of this collection look like."""
    roles = sorted(path.name for path in (_COLLECTION / "roles").iterdir() if path.is_dir() and path.name[0] != "_")
    return re.compile(rf"(?:{'|'.join(['llmfleet', *roles])})_\w+")


def chosen(found: Iterable[str], ignore: Iterable[str]) -> list[str]:
    """Of all names of variables those of this collection."""
    return sorted(name for name in set(found) - set(ignore) if names().fullmatch(name))


def digest_of_all(wanted: Mapping[str, t.Any], about: t.Any, files: Iterable[str], folders: Sequence[Path]) -> str:
    """One digest of all that is wanted.

    :param wanted: variables with what they come to.
    :param about: what counts besides.
    :param files: on the controller, of which only the content counts.
    :param folders: where files are that have names without a folder.
    :raises LlmError: when a file cannot be read.
    """
    named = sorted({text for text in _texts(wanted) if _NAME.fullmatch(text)})
    # A name with a folder of its own is the same place from everywhere.
    places = [dict.fromkeys(folder / text for folder in folders) for text in (*named, *filter(None, files))]
    contents = [[_content(path) for path in paths] for paths in places]
    return _digest([_code(), wanted, about, contents])


def _digest(content: t.Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()


def _content(path: Path) -> t.Any:
    """What a file is, or a directory by the files in it; None for what is not there."""
    try:
        if not path.is_dir():
            return _file(path) if path.exists() else None
        inside = list(itertools.islice((entry for entry in os.scandir(path) if entry.is_file()), _ENTRIES_MAX))
        return (
            sorted((entry.name, *_times(Path(entry.path))) for entry in inside) if len(inside) < _ENTRIES_MAX else None
        )
    except (OSError, ValueError) as exc:
        if isinstance(exc, PermissionError):
            raise LlmError(f"{path} on the controller cannot be read") from exc
        return None


@functools.lru_cache(maxsize=1)
def _code() -> str:
    """A digest of this collection, and the version of Ansible."""
    files = sorted(path for folder in _CODE for path in (_COLLECTION / folder).rglob("*") if _counts(path))
    return _digest([ansible_version, *((str(path.relative_to(_COLLECTION)), _file(path)) for path in files)])


def _counts(path: Path) -> bool:
    return path.suffix != ".pyc" and path.is_file()


def _file(path: Path) -> str:
    if path.stat().st_size > _READ_MAX or not path.is_file():
        return str(_times(path))
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _times(path: Path) -> tuple[int, int]:
    status = path.lstat()
    return status.st_size, status.st_mtime_ns


def _texts(content: t.Any) -> Iterator[str]:
    if isinstance(content, str):
        yield content
    elif isinstance(content, Mapping):
        for item in content.items():
            yield from _texts(item)
    elif isinstance(content, (list, tuple)):
        for one in content:
            yield from _texts(one)
