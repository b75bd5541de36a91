# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which files of the tree are pages of the site, and where a link to a file of the tree leads there."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path, PurePosixPath

import yaml

ROOT = Path(__file__).parents[2]
# Where a code forge shows a file of the tree: as galaxy.yml has it for the page that it calls the documentation.
FORGE = yaml.safe_load((ROOT / "galaxy.yml").read_text())["documentation"].removesuffix("README.md")
# Folders that have a page although no README.md is in them.
FOLDERS = {
    "docs": "index",
    "docs/runbooks": "runbooks/index",
    "plugins/modules": "reference/index",
    "roles": "roles/index",
}


def known_files() -> list[str]:
    """Every file of the tree that is under version control, or would be."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    listing = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    return sorted(name for name in listing.stdout.splitlines() if (ROOT / name).exists())


def docname(path: str) -> str | None:
    """The page that a file of the tree becomes, or that tells about it."""
    if path in FOLDERS:
        return FOLDERS[path]
    if page := re.fullmatch(r"docs/(.+)\.md", path):
        return re.sub(r"(^|/)README$", r"\1index", page[1])
    if role := re.fullmatch(r"roles/([a-z]\w*)(?:/README\.md)?", path):
        return f"roles/{role[1]}"
    if module := re.fullmatch(r"plugins/modules/(\w+)\.py", path):
        return f"reference/{module[1]}_module"
    return {"CONTRIBUTING.md": "contributing", "CHANGELOG.md": "changelog", "docs/handbook": "handbook/index"}.get(path)


def target(page: str, link: str, known: list[str]) -> str | None:
    """Where LINK, in the file PAGE, leads: a page of the site with its anchor, an address, or nowhere."""
    path, _mark, anchor = link.partition("#")
    parts: list[str] = []
    for part in (PurePosixPath(page).parent / path).parts:
        parts = parts[:-1] if part == ".." else [*parts, part]
    path = "/".join(parts)
    folder = any(name.startswith(f"{path}/") for name in known)
    if not folder and path not in known:
        return None
    suffix = f"#{anchor}" if anchor else ""
    if name := docname(path):
        return f"{name}{suffix}"
    return f"{FORGE.replace('/blob/', '/tree/') if folder else FORGE}{path}{suffix}"
