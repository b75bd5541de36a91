# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A program of this collection as one file that runs on a host without Ansible. Private to this collection.

The file is a zip archive that Python runs: the program, and of the collection's `module_utils` what it imports.
"""

from __future__ import annotations

import ast
import io
import typing as t
import zipfile
from pathlib import Path

from ansible_collections.llmfleet.serving.plugins.module_utils._errors import LlmError

_PACKAGE = "ansible_collections.llmfleet.serving.plugins.module_utils"
_UTILS = Path(__file__).parents[1] / "module_utils"


def bundle(program: Path) -> bytes:
    """The archive. The same sources give the same bytes, wherever and whenever it is made.

    :raises LlmError: when the program, or what it imports, cannot be read.
    """
    try:
        sources = {"__main__.py": program.read_text(encoding="utf-8"), **_closure(program)}
    except (OSError, UnicodeDecodeError, SyntaxError) as exc:
        raise LlmError(f"The program {program} cannot be put together: {exc}.") from exc
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        for name, text in sorted(sources.items()):
            # Without a date, and not compressed: compressors differ.
            file.writestr(zipfile.ZipInfo(name), text)
    return archive.getvalue()


def _closure(program: Path) -> dict[str, str]:
    """The sources of all that a program imports of the collection, by their names in the archive."""
    found: dict[str, str] = {}
    waiting = [program]
    while waiting:
        for name in _imports(waiting.pop()):
            where = f"{_PACKAGE.replace('.', '/')}/{name}.py"
            if where not in found:
                found[where] = (_UTILS / f"{name}.py").read_text(encoding="utf-8")
                waiting.append(_UTILS / f"{name}.py")
    parts = _PACKAGE.split(".")
    # Python looks for packages without this file in directories only.
    return {**found, **{"/".join([*parts[: depth + 1], "__init__.py"]): "" for depth in range(len(parts))}}


def _imports(source: Path) -> t.Iterator[str]:
    for node in ast.walk(ast.parse(source.read_text(encoding="utf-8"), str(source))):
        if not isinstance(node, ast.ImportFrom) or node.module is None:
            continue
        if node.module == _PACKAGE:
            yield from (alias.name for alias in node.names)
        elif node.module.startswith(f"{_PACKAGE}."):
            yield node.module[len(_PACKAGE) + 1 :]
