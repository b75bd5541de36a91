# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Engines' environments that lie side by side, and which of them are still of use. Private to this collection."""

from __future__ import annotations

import re
import shutil
import typing as t
from pathlib import Path

from ansible_collections.llmfleet.serving.plugins.module_utils._files import os_errors, read_json


def unused(root: Path, engines: t.Iterable[str], units: Path, snapshots: Path, programs: Path) -> list[Path]:
    """The environments `root/ENGINE/RELEASE` that nothing names any more.

    :param units: what a unit in this directory names, or a drop-in below it, is in use.
    :param snapshots: what a service ran on before, and would be put back to, is of use.
    :param programs: what a link in this directory leads into is in use.
    """
    with os_errors(f"Looking through {root}"):
        releases = [
            path for engine in engines for path in (root / engine).glob("*") if path.is_dir() and not path.is_symlink()
        ]
        named = [path.read_text(errors="replace") for path in sorted(units.rglob("*")) if path.is_file()]
        # Records, and the manifests of changes that nobody has settled.
        named += [str(read_json(path).get("release", "")) for path in snapshots.glob("*/*.json")]
        named += [str(read_json(path).get("release", "")) for path in snapshots.glob("*/*/manifest.json")]
        named += [str(path.readlink()) for path in programs.glob("*") if path.is_symlink()]
    text = "\n".join(named)
    return sorted(path for path in releases if not re.search(rf"{re.escape(str(path))}(?![\w.+-])", text))


def remove(release: Path) -> None:
    """Remove an environment. One that is removed by half is not taken for a whole one: it has another name by then."""
    gone = release.with_name(f".{release.name}.llmfleet.old")
    with os_errors(f"Removing {release}"):
        shutil.rmtree(gone, ignore_errors=True)
        release.rename(gone)
        shutil.rmtree(gone)
