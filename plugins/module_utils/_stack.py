# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A stack is a row of versions that work together: its format, and how versions compare. Private to this collection.

Whether the versions of a row do work together, and on a host, is judged in `_stack_rules`.
"""

from __future__ import annotations

import dataclasses
import difflib
import re
import typing as t
from collections.abc import Iterable, Iterator, Mapping, Sequence

from ansible_collections.llmfleet.serving.plugins.module_utils._errors import LlmError

ENGINES = ("ollama", "vllm", "sglang", "llama_cpp")
PYTHON_ENGINES = ("vllm", "sglang")

_VERSION = re.compile(
    r"[vb]?(?P<release>[0-9]{1,9}(?:\.[0-9]{1,9})*)(?:[-.]?(?P<stage>dev|a|b|rc|post)\.?(?P<number>[0-9]{1,9}))?(?:\+.*)?"
)
_STAGES = ("dev", "a", "b", "rc", "", "post")

# Comparable: the numbers without zeros at the end, then the stage of the release, then the number within that stage.
Version = tuple[tuple[int, ...], int, int]


def version(text: str) -> Version:
    """A version of a driver (550.163.01), a Python package (0.8.5.post1), Ollama (v0.34.0-rc1) or llama.cpp (b8146).

    :raises LlmError: when it is something else.
    """
    match = _VERSION.fullmatch(text)
    if match is None:
        raise LlmError(f"{text[:40]!r} is not a version: expected one like 550.163.01, 0.8.5.post1 or b8146.")
    numbers = [int(part) for part in match["release"].split(".")]
    while len(numbers) > 1 and numbers[-1] == 0:
        numbers.pop()
    return tuple(numbers), _STAGES.index(match["stage"] or ""), int(match["number"] or 0)


@dataclasses.dataclass(frozen=True)
class Engine:
    """:ivar packages: versions of other Python packages that are pinned beside it."""

    version: str
    packages: Mapping[str, str]


@dataclasses.dataclass(frozen=True)
class Stack:
    """What the rules need of a row.

    :ivar driver: exact version.
    :ivar toolkit: release of the CUDA toolkit; None where hosts get none.
    :ivar accepts: advisory -> why the row is used in spite of it.
    """

    driver: str
    toolkit: str | None
    engines: Mapping[str, Engine]
    accepts: Mapping[str, str]


def parse(row: object, name: str) -> Stack:
    """Take a row apart.

    :param name: what the row is called in an error.
    :raises LlmError: with everything that is wrong with it.
    """
    faults = list(_ROW("", row)) or list(_contradictions(t.cast("Mapping[str, t.Any]", row)))
    if faults:
        raise LlmError(f"The stack {name} is malformed: {'; '.join(faults)}. docs/stacks.md has the format.")
    row = t.cast("Mapping[str, t.Any]", row)
    return Stack(
        driver=row["driver"]["version"],
        toolkit=row["cuda"].get("version"),
        engines={key: Engine(value["version"], value.get("packages", {})) for key, value in row["engines"].items()},
        accepts={advisory: entry["reason"] for entry in row.get("accepts", []) for advisory in entry["advisories"]},
    )


def _contradictions(row: Mapping[str, t.Any]) -> Iterator[str]:
    """What is wrong with a row whose parts are all well formed."""
    driver = row["driver"]
    if not f"{driver['version']}.".startswith(f"{driver['branch']}."):
        yield f"driver.version: expected a release of the branch {driver['branch']}, found {driver['version']}"
    if version(driver["version"]) < version(driver["version_min"]):
        yield f"driver.version: expected version_min, {driver['version_min']}, or newer, found {driver['version']}"


# The format of a row, put together from checks. Each gives what is wrong with a value that stands at a path.
_Check = t.Callable[[str, object], Iterable[str]]


def _wrong(path: str, expected: str, found: object) -> str:
    shown = repr(found)
    return f"{path or 'the whole'}: expected {expected}, found {shown if len(shown) <= 60 else shown[:57] + '...'}"


def _text(pattern: str, expected: str) -> _Check:
    """Text that the pattern matches as a whole."""

    def check(path: str, value: object) -> Iterator[str]:
        if not (isinstance(value, str) and re.fullmatch(pattern, value)):
            yield _wrong(path, expected, value)

    return check


def _table(required: Mapping[str, _Check], optional: Mapping[str, _Check]) -> _Check:
    """A dictionary with these keys, and no others."""
    known = {**required, **optional}

    def check(path: str, value: object) -> Iterator[str]:
        if not isinstance(value, Mapping):
            yield _wrong(path, "a dictionary", value)
            return
        yield from (f"{_join(path, key)}: missing" for key in required if key not in value)
        for key, inner in value.items():
            if key in known:
                yield from known[key](_join(path, key), inner)
            else:
                yield f"{_join(path, key)}: unknown, expected {nearest(str(key), known)}"

    return check


def _values(names: str, values: _Check) -> _Check:
    """A dictionary whose keys match the pattern."""

    def check(path: str, value: object) -> Iterator[str]:
        if not isinstance(value, Mapping):
            yield _wrong(path, "a dictionary", value)
            return
        for key, inner in value.items():
            yield from _text(names, "the name of a package")(_join(path, key), key)
            yield from values(_join(path, key), inner)

    return check


def _items(item: _Check) -> _Check:
    """A list with at least one item."""

    def check(path: str, value: object) -> Iterator[str]:
        if not isinstance(value, Sequence) or isinstance(value, str) or not value:
            yield _wrong(path, "a list", value)
            return
        for number, inner in enumerate(value):
            yield from item(f"{path}[{number}]", inner)

    return check


def _join(path: str, key: object) -> str:
    return f"{path}.{key}" if path else str(key)


def nearest(name: str, known: Iterable[str]) -> str:
    """Of what is known, what a wrong name may mean; all of it where nothing is near."""
    known = list(known)
    return " or ".join(difflib.get_close_matches(name, known) or known)


def _locks(engine: str) -> Mapping[str, _Check]:
    """Engines that are Python packages are installed from a lock file."""
    return {"lock": _text(r".+\.txt", "the path of a lock file, ending in .txt")} if engine in PYTHON_ENGINES else {}


_RELEASE = _text(_VERSION.pattern, 'a version in quotes, like "550.163.01"')
_PACKAGE = r"[a-z0-9][a-z0-9._+-]*"
_ROW = _table(
    {
        "driver": _table(
            {
                "branch": _text("[0-9]{3}", 'a driver branch in quotes, like "550"'),
                "version": _RELEASE,
                "version_min": _RELEASE,
                "module": _text("open|proprietary", "open or proprietary"),
                "fabric_manager": _text(_PACKAGE, "the name of a package"),
            },
            {},
        ),
        "cuda": _table({"version_min": _RELEASE}, {"version": _RELEASE}),
        "engines": _table(
            {},
            {
                name: _table({"version": _RELEASE}, {"packages": _values(_PACKAGE, _RELEASE), **_locks(name)})
                for name in ENGINES
            },
        ),
    },
    {
        "accepts": _items(
            _table(
                {
                    "advisories": _items(_text("[A-Z]+-[0-9A-Za-z-]+", "the id of an advisory, like CVE-2026-48746")),
                    "reason": _text(r"(?s).*\S.*", "a sentence"),
                },
                {},
            )
        )
    },
)
