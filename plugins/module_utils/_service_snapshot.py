# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What defines a service, kept while it is changed, so that it can be put back. Private to this collection.

On disk a snapshot is a folder: the files, and `manifest.json` that says where each belongs, and where links lead. It is
made under another name and renamed when it is whole, and it stays until somebody settles the change, so a run that was
killed at any moment leaves either no snapshot, and an untouched service, or a whole one.
"""

from __future__ import annotations

import os
import re
import shutil
import stat
import typing as t
from pathlib import Path

from ansible_collections.llmfleet.serving.plugins.module_utils._errors import LlmError
from ansible_collections.llmfleet.serving.plugins.module_utils._files import (
    commit,
    companion,
    os_errors,
    read_json,
    sha256_file,
    sync_directory,
    write_json,
)

_SCHEMA = 1
_UNITS = Path("/etc/systemd/system")
# What stands before the path of ExecStart= says how systemd starts it.
_EXEC_START = re.compile(r"^ExecStart=[-@:+!|]*(/\S+)", re.MULTILINE)
_RELEASE = re.compile(r"/opt/llmfleet/[^/]+/[^/]+(?=/)")


def release_of(unit: str) -> str:
    """The environment that a unit's program lies in, `/opt/llmfleet/ENGINE/RELEASE`, or the program itself."""
    found = _EXEC_START.search(unit)
    program = found.group(1) if found else ""
    release = _RELEASE.match(program)
    return release.group() if release else program


class ServiceSnapshot:
    """The snapshot of one service.

    :param files: absolute patterns of the files that define the service. Those that match none are no error.
    :ivar pending: the manifest of the snapshot of a change that nobody has settled yet, or None.
    :raises LlmError: if the host has no such service.
    """

    def __init__(self, name: str, files: list[str], root: Path, units: Path = _UNITS) -> None:
        self._files = [str(units / f"{name}.service"), *files]
        self._folder = root / name
        self._unit = units / f"{name}.service"
        self._kept = self._folder / "pending"
        self.pending = read_json(self._kept / "manifest.json") or None
        if not self.pending and not self._unit.is_file():
            raise LlmError(
                f"{self._unit}: expected the unit of a service that runs here, found none. What is not there yet is "
                "brought by site.yml."
            )

    @property
    def release(self) -> str:
        """What the service runs on now, or will from its next start."""
        return release_of(self._unit.read_text(encoding="utf-8")) if self._unit.is_file() else ""

    @property
    def previous(self) -> str | None:
        """What it ran on before: of a change that is not settled, or else of the last one that was."""
        record = self.pending or read_json(self._folder / "record.json")
        return record.get("release")

    def take(self, context: dict[str, t.Any]) -> None:
        """Keep the files, and what the caller wants to know when it puts them back."""
        stage = self._kept.with_name("pending.new")
        with os_errors(f"Keeping {self._unit}"):
            shutil.rmtree(stage, ignore_errors=True)
            self._folder.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
            self._folder.mkdir(mode=0o700, exist_ok=True)
            stage.mkdir(mode=0o700)
            files = [self._keep(path, stage / str(number)) for number, path in enumerate(self._present())]
            manifest = {"schema": _SCHEMA, "release": self.release, "files": files, "context": context}
            write_json(stage / "manifest.json", manifest)
            stage.rename(self._kept)
            sync_directory(self._folder)
        self.pending = manifest

    def differs(self) -> list[str]:
        """The files that are not what they were when the snapshot was taken."""
        kept = {entry["path"]: entry for entry in (self.pending or {}).get("files", [])}
        now = self._present() if self.pending else []
        return sorted(
            {path for path, entry in kept.items() if not _is(entry)} | {path for path in now if path not in kept}
        )

    def restore(self) -> None:
        """Make the files what they were, and remove those that have come since.

        :raises LlmError: if the snapshot is damaged; nothing is written then.
        """
        changed = set(self.differs())
        entries = [entry for entry in (self.pending or {}).get("files", []) if entry["path"] in changed]
        with os_errors(f"Putting {self._unit} back"):
            for entry in (entry for entry in entries if "kept" in entry):
                found = sha256_file(self._kept / entry["kept"])
                if found != entry["sha256"]:
                    raise LlmError(
                        f"{self._kept / entry['kept']} is damaged: expected sha256 {entry['sha256']}, found {found}. "
                        f"Nothing was put back; write {entry['path']} anew with site.yml."
                    )
            for entry in entries:
                self._put_back(entry)
            for path in changed - {entry["path"] for entry in entries}:
                Path(path).unlink()

    def settle(self) -> None:
        """Forget the snapshot. What the service has left is remembered, what it is on now is not."""
        pending = self.pending
        if pending is None:
            return
        gone = self._kept.with_name("pending.old")
        with os_errors(f"Settling the change of {self._unit}"):
            shutil.rmtree(gone, ignore_errors=True)
            if pending["release"] != self.release:
                write_json(self._folder / "record.json", {"schema": _SCHEMA, "release": pending["release"]})
            self._kept.rename(gone)
            sync_directory(self._folder)
            shutil.rmtree(gone)
        self.pending = None

    def _present(self) -> list[str]:
        """The files that match the patterns now."""
        return sorted({path for pattern in self._files for path in _matching(pattern)})

    @staticmethod
    def _keep(path: str, kept: Path) -> dict[str, t.Any]:
        if Path(path).is_symlink():
            return {"path": path, "link": str(Path(path).readlink())}
        status = Path(path).stat()
        with os.fdopen(os.open(kept, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(Path(path).read_bytes())
            file.flush()
            os.fsync(file.fileno())
        owner = {"mode": stat.S_IMODE(status.st_mode), "uid": status.st_uid, "gid": status.st_gid}
        return {"path": path, "kept": kept.name, "sha256": sha256_file(kept), **owner}

    def _put_back(self, entry: dict[str, t.Any]) -> None:
        path = Path(entry["path"])
        path.parent.mkdir(parents=True, exist_ok=True)
        stage = companion(path, "new")
        stage.unlink(missing_ok=True)
        if "link" in entry:
            stage.symlink_to(entry["link"])
            stage.replace(path)
            sync_directory(path.parent)
            return
        with os.fdopen(os.open(stage, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            os.fchown(file.fileno(), entry["uid"], entry["gid"])
            os.fchmod(file.fileno(), entry["mode"])
            file.write((self._kept / entry["kept"]).read_bytes())
        commit(stage, path)


def _matching(pattern: str) -> list[str]:
    """The files that an absolute pattern matches, and the links, wherever they lead."""
    return [str(path) for path in Path("/").glob(pattern.lstrip("/")) if path.is_file() or path.is_symlink()]


def _is(entry: dict[str, t.Any]) -> bool:
    """Whether a file is what it was."""
    path = Path(entry["path"])
    if "link" in entry or path.is_symlink():
        return path.is_symlink() and str(path.readlink()) == entry.get("link")
    if not path.is_file():
        return False
    status = path.stat()
    owner = (stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid)
    return owner == (entry["mode"], entry["uid"], entry["gid"]) and sha256_file(path) == entry["sha256"]
