# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Where slow results are kept, and the key under which they are found again."""

from __future__ import annotations

import fcntl
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from testbed import BedError

# The convention of https://bford.info/cachedir/. Backup programs leave such a folder out; we delete no other.
_TAG = "CACHEDIR.TAG"
_SIGNATURE = "Signature: 8a477f597d28d172789f06886806bc55\n# Cache of the test bed of llmfleet.serving.\n"


def cache_dir() -> Path:
    """The bed's cache: ``$LLMFLEET_BED_CACHE``, else ``$XDG_CACHE_HOME/llmfleet-bed``, else ``~/.cache/llmfleet-bed``.

    The folder is made if it is missing.

    :raises BedError: if the folder holds something and was not made by the bed.
    """
    default = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "llmfleet-bed")
    path = Path(os.environ.get("LLMFLEET_BED_CACHE") or default).expanduser().absolute()
    if not (path / _TAG).exists():
        path.mkdir(parents=True, exist_ok=True)
        if any(path.iterdir()):
            raise BedError(
                f"{path} is to be the bed's cache, but it holds other things (and no {_TAG}). "
                "Name a new or empty folder in LLMFLEET_BED_CACHE."
            )
        (path / _TAG).write_text(_SIGNATURE)
    return path


def key_of(*inputs: str | Path) -> str:
    """12 hex digits that change when one of the inputs changes.

    A path counts with its content (a folder with the names, modes and contents of all files below it, compiled Python
    left out), a string with its text. A path that does not exist counts as such.
    """
    digest = hashlib.sha256()
    for item in inputs:
        for part in [item.encode()] if isinstance(item, str) else _parts(item):
            # The length in front keeps ("ab", "c") and ("a", "bc") apart.
            digest.update(b"%d:" % len(part) + part)
    return digest.hexdigest()[:12]


@contextmanager
def locked(name: str) -> Iterator[None]:
    """Let one process at a time make the thing called `name`; the others wait and then find it made."""
    locks = cache_dir() / "locks"
    locks.mkdir(exist_ok=True)
    with (locks / name).open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def size_of(path: Path) -> int:
    """Bytes of all regular files at or below `path`, links not followed."""
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.lstat().st_size for file in files if file.is_file() and not file.is_symlink())


def _parts(path: Path) -> list[bytes]:
    """Relative name, executable bit and content of every file at or below `path`, in a stable order."""
    files = sorted(path.rglob("*")) if path.is_dir() else [path]
    parts: list[bytes] = []
    for file in files:
        if file.is_file() and "__pycache__" not in file.parts:
            executable = b"x" if os.access(file, os.X_OK) else b"-"
            parts += [file.relative_to(path).as_posix().encode(), executable, file.read_bytes()]
    return parts or [b"missing"]
