# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a host tells of itself, without its secrets, as an archive for a vendor or a colleague. Private.

It holds regular files alone, and `index.json`, which says of each source what became of it. A source that hangs, fails
or says too much costs its own file and no other.
"""

from __future__ import annotations

import io
import json
import re
import tarfile
import time
import typing as t
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from ansible_collections.llmfleet.serving.plugins.module_utils import _redact
from ansible_collections.llmfleet.serving.plugins.module_utils._child import in_child
from ansible_collections.llmfleet.serving.plugins.module_utils._errors import LlmError
from ansible_collections.llmfleet.serving.plugins.module_utils._files import (
    commit,
    companion,
    os_errors,
    require_plain,
    require_space,
)
from ansible_collections.llmfleet.serving.plugins.module_utils._support_sources import Piece, Source

SCHEMA = 1
# What a driver gets that has already let one question hang.
_SICK_S = 5.0
# Secrets are taken out of what was asked last after the time is up, too.
_REDACTION_MIN_S = 5.0
_UNSAFE = re.compile(r"[^A-Za-z0-9._@+-]")
_NAME_MAX = 120
_INDEX = "index.json"


class Entry(t.TypedDict):
    """What became of a source.

    `bytes` is the size of its file in the archive, None where it has none. `status` is "ok", "failed", "ended" (its
    time was up), "absent" (there is no such program or file), "refused" (a symbolic link, say) or "left out" (no time
    or room was left for it).
    """

    file: str
    command: str
    status: str
    seconds: float
    bytes: int | None
    truncated: bool
    note: str


@dataclass(frozen=True)
class Limits:
    """For each source, and for all of them.

    :raises LlmError: when one makes no sense.
    """

    source_seconds: int = 30
    source_bytes: int = 4 << 20
    total_seconds: int = 300
    total_bytes: int = 64 << 20

    def __post_init__(self) -> None:
        ranges = {
            "source_seconds": (1, 600),
            "source_bytes": (1 << 10, 1 << 28),
            "total_seconds": (1, 3600),
            "total_bytes": (1 << 10, 1 << 30),
        }
        for name, (least, most) in ranges.items():
            if not least <= getattr(self, name) <= most:
                raise LlmError(f"{name}: expected {least} to {most}, found {getattr(self, name)}. Name another figure.")


def safe_name(name: str) -> str:
    """A name for a file or a folder, whatever a host calls a thing: no path, not hidden, no option."""
    return re.sub(r"^[.-]", "_", _UNSAFE.sub("_", name))[:_NAME_MAX] or "_"


def write_archive(
    dest: Path, about: dict[str, t.Any], asked: Iterable[Source], known: Iterable[str], limits: Limits
) -> list[Entry]:
    """Ask all sources, and write what they say to `dest`, which is whole or not there, and only its owner may read.

    :param about: what the index says of the archive itself; `host` names the folder in it.
    :param known: secrets of the host.
    :raises LlmError: when the archive cannot be written.
    """
    require_plain(dest)
    stage = companion(dest, "new")
    with os_errors(f"Writing {dest}"):
        require_space(dest.parent, limits.total_bytes, "the archive")
        stage.unlink(missing_ok=True)
        try:
            stage.touch(mode=0o600, exist_ok=False)
            with tarfile.open(stage, mode="w:gz", format=tarfile.PAX_FORMAT) as tar:
                entries = _Archive(tar, safe_name(str(about["host"])), list(known), limits).fill(asked, about)
            commit(stage, dest)
        finally:
            stage.unlink(missing_ok=True)
    return entries


class _Archive:
    """An archive in the making."""

    def __init__(self, tar: tarfile.TarFile, folder: str, known: list[str], limits: Limits) -> None:
        self._tar = tar
        self._folder = folder
        self._known = known
        self._limits = limits
        self._deadline = time.monotonic() + limits.total_seconds
        self._room = limits.total_bytes
        self._names: set[str] = {_INDEX}
        self._sick = False

    def fill(self, asked: Iterable[Source], about: dict[str, t.Any]) -> list[Entry]:
        entries = [self._entry(source) for source in asked]
        index = {"schema": SCHEMA, **about, "limits": asdict(self._limits), "sources": entries}
        self._add(_INDEX, (json.dumps(index, indent=1, ensure_ascii=False) + "\n").encode(errors="replace"))
        return entries

    def _entry(self, source: Source) -> Entry:
        name = self._unique(source.name)
        start = time.monotonic()
        piece, content = self._piece(source)
        if content is not None:
            self._add(name, content)
            self._room -= len(content)
        return {
            "file": name,
            "command": self._shown(source.asked),
            "status": piece.status,
            "seconds": round(time.monotonic() - start, 2),
            "bytes": None if content is None else len(content),
            "truncated": piece.truncated,
            "note": self._shown(piece.note),
        }

    def _piece(self, source: Source) -> tuple[Piece, bytes | None]:
        """What the source says, and what of it goes into the archive."""
        left = self._deadline - time.monotonic()
        if left <= 0 or self._room <= 0:
            return Piece(
                "", "left out", note=f"the limit of all {'seconds' if left <= 0 else 'bytes'} was reached"
            ), None
        of_driver = source.name.startswith(("gpu/", "gate/verdict"))
        seconds = min(self._limits.source_seconds, left, _SICK_S if self._sick and of_driver else left)
        limit = min(self._limits.source_bytes, self._room)
        start = time.monotonic()
        piece = _asked(source, seconds, limit)
        # A driver that hangs also shows in the facts, as a failure that took all the time.
        self._sick |= of_driver and (piece.status == "ended" or time.monotonic() - start >= seconds)
        if not piece.text and piece.data is None:
            return piece, None
        try:
            patience = max(_REDACTION_MIN_S, min(self._limits.source_seconds, self._deadline - time.monotonic()))
            shown = str(in_child(lambda: self._told(piece), patience))
        except (TimeoutError, ChildProcessError) as exc:
            return Piece("", "left out", note=f"its secrets could not be taken out: {exc}"), None
        content = shown.encode(errors="replace")
        cut = content[:limit]
        return piece._replace(truncated=piece.truncated or len(cut) < len(content)), cut

    def _told(self, piece: Piece) -> str:
        if piece.data is None:
            return _redact.in_log(piece.text, self._known)
        data = _redact.in_records(piece.data, self._known)
        return json.dumps(data, indent=1, sort_keys=True, ensure_ascii=False) + "\n"

    def _shown(self, text: str) -> str:
        return _redact.in_log(text, self._known)

    def _unique(self, name: str) -> str:
        # A name may be a secret, too; nobody's, as far as we know, but what is known is hidden everywhere.
        safe = "/".join(safe_name(part) for part in self._shown(name).split("/") if part)
        number, unique = 1, safe
        while unique in self._names:
            number, unique = number + 1, f"{safe}.{number + 1}"
        self._names.add(unique)
        return unique

    def _add(self, name: str, content: bytes) -> None:
        entry = tarfile.TarInfo(f"{self._folder}/{name}")
        entry.size, entry.mode, entry.mtime = len(content), 0o600, int(time.time())
        self._tar.addfile(entry, io.BytesIO(content))


def _asked(source: Source, seconds: float, limit: int) -> Piece:
    try:
        return source.ask(seconds, limit)
    except FileNotFoundError as exc:
        return Piece("", "absent", note=str(exc.strerror))
    except TimeoutError:
        return Piece("", "ended", True, f"it did not end within {seconds:.0f} s, and was ended")
    except (OSError, LlmError) as exc:
        return Piece("", "failed", note=str(exc))
    except RuntimeError as exc:
        # A bug of ours is told, and leaves the rest of the archive worth having.
        return Piece("", "failed", note=str(exc).strip().rpartition("\n")[2])
