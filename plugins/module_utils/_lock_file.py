# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A lock file: the packages of one Python environment, each by version and hash. Private to this collection."""

from __future__ import annotations

import dataclasses
import hashlib
import re
from collections.abc import Iterator, Mapping

from ansible_collections.llmfleet.serving.plugins.module_utils._errors import LlmError

_PIN = re.compile(
    r"(?P<name>[A-Za-z0-9][A-Za-z0-9._-]*)==(?P<version>[^\s;]+)(?P<marker>\s*;[^\\]*?)?(?P<rest>(\s+--.*)?)"
)
_HASHES = re.compile(r"(\s+--hash=sha256:[0-9a-f]{64})+")
_SHOWN = 3


@dataclasses.dataclass(frozen=True)
class Lock:
    """
    :ivar packages: name, in its normal form -> version.
    :ivar digest: 8 hexadecimal digits that change with the file.
    """

    packages: Mapping[str, str]
    digest: str


def parse(text: str, name: str, package: str, version: str) -> Lock:
    """Read a lock file, which must be one of this version of the package.

    :param name: what the file is called in an error.
    :raises LlmError: when a line could bring something else than the one file that somebody has looked at, or the
        package is not in it.
    """
    packages: dict[str, str] = {}
    faults = []
    for number, line in _lines(text):
        match = _PIN.fullmatch(line)
        if match is None:
            faults.append(f"line {number}: expected NAME==VERSION and hashes, found {line[:60]!r}")
        elif not _HASHES.fullmatch(match["rest"]):
            faults.append(f"line {number}: {match['name']} has no --hash=sha256:, or something beside it")
        else:
            packages[normal(match["name"])] = match["version"]
    found = packages.get(normal(package))
    if not faults and (found is None or found.partition("+")[0] != version):
        faults = [f"expected {package}=={version}, found {found or 'none of that name'}"]
    if faults:
        more = f", and {len(faults) - _SHOWN} more" if len(faults) > _SHOWN else ""
        raise LlmError(
            f"The lock file {name} is refused: {'; '.join(faults[:_SHOWN])}{more}. "
            "Make one with `uv pip compile --generate-hashes --no-emit-index-url`."
        )
    return Lock(packages, hashlib.sha256((text.strip() + "\n").encode()).hexdigest()[:8])


def normal(name: str) -> str:
    """The one form of a package's name."""
    return re.sub(r"[-_.]+", "-", name).lower()


def _lines(text: str) -> Iterator[tuple[int, str]]:
    """Each requirement in one line, with the number of its first, without comments."""
    joined: tuple[int, str] | None = None
    for number, raw in enumerate(text.splitlines(), 1):
        line = re.sub(r"(^|\s)#.*", "", raw).rstrip()
        first, before = joined or (number, "")
        if line.endswith("\\"):
            joined = first, before + line[:-1].rstrip()
            continue
        joined = None
        if (before + line).strip():
            yield first, before + line
    if joined:
        yield joined
