# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The stacks' files, on the controller. Private to this collection."""

from __future__ import annotations

import functools
import typing as t
from collections.abc import Mapping
from pathlib import Path

import yaml

from ansible_collections.llmfleet.serving.plugins.module_utils._errors import LlmError
from ansible_collections.llmfleet.serving.plugins.module_utils._stack import nearest
from ansible_collections.llmfleet.serving.plugins.module_utils._stack_rules import Knowledge, knowledge

FOLDER = Path(__file__).parents[2] / "playbooks" / "stacks"


def read(path: Path) -> t.Any:
    """The content of a YAML file.

    :raises LlmError: when it cannot be read, or is not YAML.
    """
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as exc:
        raise LlmError(f"The stack {path} cannot be read: {exc}.") from exc
    except yaml.YAMLError as exc:
        raise LlmError(f"The stack {path} is not YAML: {' '.join(str(exc).split())}.") from exc


def rows() -> list[str]:
    """Names of the collection's own rows."""
    return sorted(path.stem for path in FOLDER.glob("*.yml") if _is_row(read(path)))


def _is_row(content: object) -> bool:
    """What lies beside the rows has no driver."""
    return isinstance(content, Mapping) and "driver" in content


def row(name: str) -> t.Any:
    """One of the collection's own rows.

    :raises LlmError: when there is none of that name.
    """
    path = FOLDER / f"{name}.yml"
    content = read(path) if path.is_file() else None
    if not _is_row(content):
        wanted = f"expected {nearest(name, rows())}, the path of a YAML file, or a dictionary"
        raise LlmError(f"The stack {name!r} is unknown: {wanted}. Correct llmfleet_stack.")
    return content


def lock(stack: Mapping[str, t.Any], engine: str) -> str:
    """The lock file of a stack's vLLM or SGLang: the stack's own, or the collection's for that version.

    :raises LlmError: when there is neither.
    """
    release = stack["engines"][engine]
    if "lock" in release:
        return str(release["lock"])
    path = FOLDER / "locks" / f"{engine}-{release['version']}.txt"
    if not path.is_file():
        known = ", ".join(sorted(file.stem[len(engine) + 1 :] for file in path.parent.glob(f"{engine}-*.txt")))
        raise LlmError(
            f"engines.{engine}.version of the stack: expected one that the collection has a lock file for ({known}), "
            f"found {release['version']}. Name a lock file of your own as engines.{engine}.lock, see docs/engines.md."
        )
    return str(path)


@functools.lru_cache(maxsize=1)
def shared() -> Knowledge:
    """What is known of engines, toolkits and advisories."""
    return knowledge(read(FOLDER / "engines.yml"), read(FOLDER / "advisories.yml"))
