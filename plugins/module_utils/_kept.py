# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Files of one commit that are kept on a host, and the manifest that says so. Private to this collection."""

from __future__ import annotations

import abc
import contextlib
import time
import typing as t
from collections.abc import Callable
from pathlib import Path

from ansible_collections.llmfleet.serving.plugins.module_utils._files import (
    companion,
    locked,
    read_json,
    read_record,
    write_json,
)
from ansible_collections.llmfleet.serving.plugins.module_utils._output import Output
from ansible_collections.llmfleet.serving.plugins.module_utils._supply import Supply

Finish = Callable[[Path], t.Any]

# For journals, records and what else is written meanwhile.
RESERVE_BYTES = 16 << 20


class Kept(abc.ABC):
    """What is wanted of a repository, and what is there: a host without a network knows when nothing is to be done.

    :param guard: the path that lock and progress file are companions of. Its directory is the one with the files.
    :param wanted: what is wanted, as the manifest has it: `repo`, `commit` and what chooses the files.
    :ivar current: the manifest of what is there now, intact; {} when that is nothing, or something else.
    :ivar fetched: bytes that came in this run.
    :ivar missing: bytes of the file system that were still to be taken up before `run`.
    """

    def __init__(self, manifest: Path, guard: Path, wanted: dict[str, t.Any]) -> None:
        self._manifest = manifest
        self._guard = guard
        self._folder = guard.parent
        self._wanted = wanted
        self._address = ""
        self._outputs: list[Output] = []
        self.fetched = self.missing = 0
        self.current = self._intact()
        self._began = time.monotonic()

    @property
    def done(self) -> bool:
        """Whether exactly what is wanted is there."""
        return self.current.get("wanted") == self._wanted

    @property
    def recorded(self) -> dict[Path, str]:
        """The sha256 of each file that the manifest lists for exactly what is wanted, intact or not."""
        manifest = read_json(self._manifest)
        outputs = manifest.get("outputs", {}) if manifest.get("wanted") == self._wanted else {}
        return {self._folder / name: sha256 for name, sha256 in outputs.items()}

    @property
    def paths(self) -> list[Path]:
        """The files that are wanted, or are there."""
        return [output.dest for output in self._outputs] or [
            self._folder / name for name in self.current.get("outputs", {})
        ]

    @property
    def changes(self) -> bool:
        """Whether `run` is going to change something."""
        return any(not output.present for output in self._outputs)

    @contextlib.contextmanager
    def locked(self) -> t.Iterator[None]:
        """What has to surround `plan` and `run` of everyone who wants to write there."""
        self._folder.mkdir(parents=True, exist_ok=True)
        with locked(self._guard):
            yield

    @abc.abstractmethod
    def plan(self, supply: Supply, *, force: bool) -> dict[str, t.Any]:
        """Ask what there is, check that it can be put in place, and return the manifest to be.

        :param force: whether files may be replaced that this collection did not put there.
        """

    @abc.abstractmethod
    def run(self, supply: Supply, finish: Finish, *, workers: int, deadline: float) -> bool:
        """Bring about what was planned. Returns whether that was anything.

        :param finish: sets owner, mode and the like on a file before it gets its name.
        :param workers, deadline: as `transfer` has them.
        """

    @property
    def _progress(self) -> Path:
        return companion(self._guard, "progress")

    def _remember(self, listed: dict[str, t.Any], sums: dict[Path, str], *, changed: bool) -> None:
        """Write the manifest: what the sources list, the sha256 of what was made of that, and what that run took.

        :param changed: whether files were brought; if not, what the run took that brought them stays.
        """
        outputs = {str(path.relative_to(self._folder)): sha256 for path, sha256 in sums.items()}
        took = {"bytes": self.fetched, "seconds": round(time.monotonic() - self._began, 1)}
        transfer = took if changed else self.current.get("transfer")
        write_json(self._manifest, {**listed, "outputs": outputs, **({"transfer": transfer} if transfer else {})})
        self.current = self._intact()

    def _intact(self) -> dict[str, t.Any]:
        manifest = read_json(self._manifest)
        for name, sha256 in manifest.get("outputs", {}).items():
            record = read_record(self._folder / name)
            if record is None or record.get("sha256") != sha256:
                return {}
        return manifest

    def _provenance(self, output: Output) -> dict[str, t.Any]:
        """What the record of a file says of where it came from."""
        paths = [part.file.path for part in output.parts]
        return {"source": self._address, "repo": self._wanted["repo"], "commit": self._wanted["commit"], "paths": paths}

    def _share(self, supply: Supply, outputs: t.Iterable[Output]) -> None:
        """Let neighbours be asked for these, too."""
        for output in outputs:
            places = [(part.file, len(part.head), part.offset) for part in output.parts]
            supply.share(str(output.dest.relative_to(self._folder)), output.size, output.facts, places)
