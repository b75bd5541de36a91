# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The marker of a fenced host: a file with the reasons, there until the host passes. Private to this collection.

The module gpu_gate and the unit that asks at each boot keep the same one. Ansible reads it as a local fact.
"""

from __future__ import annotations

import json
import typing as t
from collections.abc import Sequence
from pathlib import Path

from ansible_collections.llmfleet.serving.plugins.module_utils._files import os_errors, require_plain, write_text


def mark(path: Path, reasons: Sequence[str], *, write: bool = True) -> dict[str, t.Any]:
    """Keep the marker of a host: with the reasons to refuse it, or gone where there are none.

    :param write: whether to do it, or only to tell.
    :return: `changed`, and `diff` as Ansible shows it.
    :raises LlmError: when the file cannot be written.
    """
    require_plain(path)
    fact = {"verdict": "fail", "reasons": list(reasons)}
    after = json.dumps(fact, indent=4, sort_keys=True, ensure_ascii=False) + "\n" if reasons else ""
    with os_errors(f"Marking the host in {path}"):
        before = path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""
        changed = before != after or (path.exists() and not reasons)
        if write and changed:
            _write(path, after) if reasons else path.unlink()
    names = {"before_header": str(path), "after_header": str(path)}
    return {"changed": changed, "diff": {**names, "before": before, "after": after}}


def _write(path: Path, text: str) -> None:
    """Other accounts read it, such as those of the services, whatever the umask of who asks."""
    for folder in reversed([folder for folder in path.parents if not folder.exists()]):
        folder.mkdir()
        folder.chmod(0o755)
    write_text(path, text)
    path.chmod(0o644)
