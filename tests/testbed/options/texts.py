# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Options from what has no parser to ask: the help of llama-server, and the Go sources of Ollama."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

# llama-server prints what an option does from this column on.
_COLUMN = 40
_GO_TYPES = {"int": "int", "float32": "float", "bool": "bool", "string": "text"}


def llama_server(text: str) -> dict[str, dict[str, Any]]:
    """The options of ``llama-server --help``, without those that print something and exit."""
    found = {}
    for head, description in _entries(text):
        spellings, value = _head(head)
        if not description.startswith(("print ", "show ")) and "--completion-bash" not in spellings:
            name = next(spelling for spelling in spellings if spelling.startswith("--"))
            found[name[2:]] = _llama_option(name, spellings, value, description)
    return found


def _entries(text: str) -> Iterator[tuple[str, str]]:
    """Each option's names, and what is said of it, in one line."""
    entries: list[list[str]] = []
    for line in text.splitlines():
        if line.startswith("-") and not line.startswith("-----"):
            beside = line[_COLUMN - 1 : _COLUMN + 1]
            cut = _COLUMN if len(beside) == 2 and beside[0] == " " and beside[1] != " " else len(line)
            entries.append([line[:cut], line[cut:]])
        elif entries:
            entries[-1].append(line.strip())
    return ((head.strip(), " ".join(lines).strip()) for head, *lines in entries)


def _head(head: str) -> tuple[list[str], str]:
    """The spellings of an option, and what stands for its value."""
    names = re.match(r"(?:--?[A-Za-z0-9.-]+(?:,\s+|$|\s+(?!-)))+", head + " ")
    assert names is not None, head
    return re.findall(r"--?[A-Za-z0-9.-]+", names[0]), head[names.end() :].strip()


def _llama_option(name: str, spellings: list[str], value: str, description: str) -> dict[str, Any]:
    option: dict[str, Any] = {"type": _llama_type(value, description)}
    others = spellings[:]
    others.remove(name)
    opposite = []
    if not value:
        given = spellings.index(name)
        opposite = [other for other in spellings[given + 1 :] if re.match(r"--no-|-n", other)]
        others = [other for other in others if other not in opposite]
    choices = _llama_choices(value, description)
    gone = re.findall(r"--([a-z0-9-]+)", description) if "argument has been removed" in description else None
    for key, found in (
        ("opposite", [other.lstrip("-") for other in opposite]),
        ("aliases", [other.lstrip("-") for other in others]),
        ("choices", choices),
        ("many", value == "START END"),
        ("deprecated", "DEPRECATED" in description),
        ("removed", gone),
    ):
        if found:
            option[key] = found
    return option


def _llama_type(value: str, description: str) -> str:
    if not value:
        return "flag"
    if value in ("JSON", "SCHEMA"):
        return "json"
    if ("," in value and not value.startswith("{")) or "comma-separated" in description:
        return "list"
    # Where a number may be a word too, the word is quoted.
    return "float" if value == "N" and "'" not in description else "text"


def _llama_choices(value: str, description: str) -> list[str]:
    listed = re.fullmatch(r"[\[{<]([a-z0-9]+(?:[|,][a-z0-9]+)+)[\]}>]", value)
    if listed:
        return sorted(re.split(r"[|,]", listed[1]))
    allowed = re.search(r"allowed values: ([a-z0-9_]+(?:, [a-z0-9_]+)*)", description)
    return sorted(allowed[1].split(", ")) if allowed else []


def ollama(module: Path) -> dict[str, dict[str, Any]]:
    """Parameters of a model, and variables of the server, in capitals, from the sources of Ollama."""
    types = (module / "api" / "types.go").read_text(encoding="utf-8")
    found = {}
    for struct in ("Options", "Runner"):
        body = re.search(rf"^type {struct} struct {{\n(.*?)^}}", types, re.MULTILINE | re.DOTALL)
        assert body is not None, struct
        for many, kind, name in re.findall(r'^\s+\w+\s+(\[\])?\*?(\w+)\s+`json:"(\w+),', body[1], re.MULTILINE):
            found[name] = {"type": _GO_TYPES[kind], **({"many": True} if many else {})}
    settings = (module / "envconfig" / "config.go").read_text(encoding="utf-8")
    for read, name in re.findall(r'(\w*)\(?"((?:OLLAMA|LLAMA_ARG)_[A-Z_]+)"', settings):
        kind = "int" if read.startswith("Uint") else "bool" if read.startswith("Bool") else "text"
        if kind != "text" or name not in found:
            found[name] = {"type": kind}
    return found
