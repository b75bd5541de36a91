# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The examples of docs/arguments.md, and whole command lines with them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from ansible_collections.llmfleet.serving.plugins.module_utils._arguments import OWNED, command_line
from ansible_collections.llmfleet.serving.plugins.plugin_utils._options import shared

_DOCUMENT = Path(__file__).parents[3] / "docs" / "arguments.md"
# What the collection sets, so that the parsers have all they need.
_OWN = {
    "vllm": ("--model", "/models/r1", "--served-model-name", "r1", "--host", "127.0.0.1", "--port", "8000"),
    "llama_cpp": ("--model", "/models/r1.gguf", "--host", "127.0.0.1", "--port", "8080"),
    "sglang": ("--model-path", "/models/r1", "--served-model-name", "r1", "--host", "127.0.0.1", "--port", "30000"),
}


def examples() -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Engine, version and args of each block that begins with a comment like ``# vllm 0.32.0, 0.33.0``."""
    blocks = re.findall(
        r"^```yaml\n# (\w+) ([^\n:]+)(?::[^\n]*)?\n(.*?)^```", _DOCUMENT.read_text(), re.MULTILINE | re.DOTALL
    )
    for engine, versions, text in blocks:
        for version in versions.split(", "):
            yield engine, version, yaml.safe_load(text)["args"]


def command_lines(engine: str, version: str) -> Iterator[list[str]]:
    """Those of the examples for a release; one with all flags, and one with their opposites."""
    known = [args for wanted, release, args in examples() if (wanted, release) == (engine, version)]
    flags = {
        option.name
        for option in shared().release(engine, version).options.values()
        if option.type == "flag" and option.removed is None and option.name not in OWNED[engine]
    }
    for args in (*known, *(dict.fromkeys(sorted(flags), value) for value in (True, False))):
        yield [*_OWN[engine], *command_line(shared(), engine, version, args)]
