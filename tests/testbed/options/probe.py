# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Asks an engine's own parser what it takes. Run by the Python of an environment that has the engine:

``probe.py list ENGINE OUTPUT`` writes its options, ``probe.py parse ENGINE FILE`` parses the command lines in a file,
each a list of words, and ends at the first that the parser refuses.

Types are found by giving samples to the parser's converters, so that no name of a function has to be known here.
"""

from __future__ import annotations

import argparse
import importlib
import json
import re
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

# Where the parser was in the versions of an engine, newest first.
_VLLM_PARSERS = ("entrypoints.common.cli_args", "entrypoints.launchers.cli_args", "entrypoints.openai.cli_args")
_VLLM_CLASSES = ("utils.argparse_utils", "utils")


def parser_of(engine: str) -> argparse.ArgumentParser:
    """The parser of the engine's server, as its command has it."""
    if engine == "vllm":
        flexible = _first("vllm", _VLLM_CLASSES).FlexibleArgumentParser
        made: argparse.ArgumentParser = _first("vllm", _VLLM_PARSERS).make_arg_parser(flexible())
        return made
    parser = argparse.ArgumentParser()
    importlib.import_module("sglang.srt.server_args").ServerArgs.add_cli_args(parser)
    return parser


def _first(package: str, names: Sequence[str]) -> Any:
    for name in names:
        try:
            return importlib.import_module(f"{package}.{name}")
        except ModuleNotFoundError as error:
            if not f"{package}.{name}".startswith(str(error.name)):
                raise
    raise SystemExit(f"{package} has none of {', '.join(names)}")


def options(parser: argparse.ArgumentParser) -> dict[str, dict[str, object]]:
    """Each option by its first long name."""
    spellings: dict[int, list[str]] = {}
    actions = {}
    for spelling, action in parser._option_string_actions.items():
        spellings.setdefault(id(action), []).append(spelling)
        actions[id(action)] = action
    found = {}
    for key, action in actions.items():
        long = [spelling[2:] for spelling in spellings[key] if spelling.startswith("--")]
        if long and not isinstance(action, (argparse._HelpAction, argparse._VersionAction)):
            found[long[0]] = _option(parser, action, long[0], spellings[key])
    return found


def _option(
    parser: argparse.ArgumentParser, action: argparse.Action, name: str, spellings: Sequence[str]
) -> dict[str, object]:
    option: dict[str, object] = {"type": "flag" if action.nargs == 0 else _type(action.type)}
    others = [spelling for spelling in spellings if spelling != f"--{name}"]
    if action.nargs == 0:
        try:
            meaning = _given(parser, action, f"--{name}")
        except ValueError as error:
            # The option is there only to say what took its place.
            told = re.findall(r"--([a-z0-9-]+)", str(error))
            return {**option, "removed": [other for other in told if other != name]}
        opposite = [spelling for spelling in others if _given(parser, action, spelling) != meaning]
        others = [spelling for spelling in others if spelling not in opposite]
        _add(option, "opposite", [spelling.lstrip("-") for spelling in opposite])
    _add(option, "aliases", [spelling.lstrip("-") for spelling in others])
    _add(option, "choices", _choices(action.choices))
    _add(option, "many", action.nargs in ("+", "*") or (isinstance(action.nargs, int) and action.nargs > 1))
    _add(option, "repeat", isinstance(action, argparse._AppendAction))
    _add(option, "bare", action.nargs == "?")
    _add(option, "deprecated", _deprecated(action, name))
    return option


def _add(option: dict[str, object], key: str, value: object) -> None:
    if value:
        option[key] = value


def _given(parser: argparse.ArgumentParser, action: argparse.Action, spelling: str) -> object:
    """What the option that takes no value sets."""
    namespace = argparse.Namespace()
    action(parser, namespace, [], spelling)
    return getattr(namespace, action.dest, None)


def _choices(choices: Iterable[object] | None) -> list[str]:
    listed = ["None" if choice is None else str(getattr(choice, "value", choice)) for choice in choices or []]
    return sorted(set(listed), key=lambda word: (int(word) if word.isdigit() else 0, word))


def _deprecated(action: argparse.Action, name: str) -> bool:
    """Whether the option says of itself that it is going to be removed; of some, only a value or a default is."""
    told = (action.help or "").lower().lstrip("[(")
    return told.startswith(("deprecated", f"--{name} is deprecated")) or "deprecated" in type(action).__name__.lower()


def _type(convert: Any) -> str:
    """What a converter takes: int, size (64k), float, json, bool or text."""
    convert = _unwrapped(convert)
    made = {sample: _made(convert, sample) for sample in ("7", "0.5", "1k", "[]", "{}", "true", "false", "x")}
    if made["7"] == 7 and not isinstance(made["7"], float) and made["0.5"] is None:
        return "int" if made["1k"] is None else "size"
    if made["[]"] == [] or made["{}"] not in (None, "{}", ["{}"]) or made["{}"] == {}:
        return "json"
    if made["0.5"] == 0.5:
        return "float"
    return "bool" if (made["true"], made["false"]) == (True, False) else "text"


def _unwrapped(convert: Any) -> Any:
    """Without what lets it take nothing as well."""
    while getattr(convert, "__closure__", None):
        inner = dict(zip(convert.__code__.co_freevars, convert.__closure__, strict=True)).get("return_type")
        if inner is None:
            break
        convert = inner.cell_contents
    return convert


def _made(convert: Any, sample: str) -> Any:
    try:
        return sample if convert is None else convert(sample)
    except Exception:
        return None


def main() -> None:
    task, engine, *rest = sys.argv[1:]
    parser = parser_of(engine)
    if task == "list":
        Path(rest[0]).write_text(json.dumps(options(parser)))
    else:
        for line in json.loads(Path(rest[0]).read_text()):
            parser.parse_args(line)


if __name__ == "__main__":
    main()
