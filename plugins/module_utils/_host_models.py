# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What models need of a host, as far as that is known without asking a hub. Private to this collection.

The size of a model's files is known from its manifest, or from the file that is there already. Where it is not, the
number of parameters in the model's name finds a row of a table of rules of thumb.
"""

from __future__ import annotations

import math
import re
import typing as t
from dataclasses import dataclass
from pathlib import Path

from ansible_collections.llmfleet.serving.plugins.module_utils._errors import LlmError
from ansible_collections.llmfleet.serving.plugins.module_utils._files import companion
from ansible_collections.llmfleet.serving.plugins.module_utils._hub import select
from ansible_collections.llmfleet.serving.plugins.module_utils._manifest import read_manifest

# 1.5b, 70B, 671b; but not the 7B of "8x7B", nor the active parameters of "235B-A22B".
_PARAMETERS = re.compile(r"(?<![\w.])([0-9]+(?:\.[0-9]+)?)b(?![a-z0-9])", re.IGNORECASE)


class Size(t.TypedDict):
    """A row of the table: what a model of so many billion parameters takes, in GB of 10^9 bytes.

    `cores` is None where no number is known. `names` are models that do not have the number in their names.
    """

    parameters: float
    cores: int | None
    gpu_memory: int
    memory: int
    disk: int
    names: list[str]


@dataclass(frozen=True)
class Need:
    """What one model needs.

    :ivar files: bytes of its files; None where that is not known.
    :ivar missing: bytes of them that are still to be written.
    :ivar started: whether at least a part of it is there.
    :ivar size: its row of the table; None where no row is for it.
    :ivar unreadable: why its manifest cannot be read.
    """

    name: str
    files: int | None
    missing: int | None
    started: bool
    size: Size | None
    unreadable: str | None = None


def needs(models: t.Iterable[t.Mapping[str, t.Any]], store: Path, sizes: t.Sequence[Size]) -> list[Need]:
    """What each model that is to be there needs.

    :param models: as the role model_store takes them.
    :param store: the directory that they are kept in.
    :param sizes: the table.
    """
    return [_need(model, store, sizes) for model in models if model.get("state", "present") == "present"]


def model_format(model: t.Mapping[str, t.Any]) -> str:
    """The format of a model's files: gguf or safetensors."""
    return str(model.get("format", "gguf"))


def _need(model: t.Mapping[str, t.Any], store: Path, sizes: t.Sequence[Size]) -> Need:
    name = str(model.get("name", ""))
    merged = model_format(model) == "gguf" and model.get("merge", True)
    place = store / (f"{name}.gguf" if merged else name)
    listed, unreadable = _listed(model)
    # A merged file has its name when it is whole, and not before.
    files = place.stat().st_size if listed is None and merged and place.is_file() else listed
    there = _taken(place)
    whole = merged and place.is_file()
    missing = 0 if whole else None if files is None else max(0, files - there)
    return Need(name, files, missing, there > 0, _row(model, sizes), unreadable)


def _listed(model: t.Mapping[str, t.Any]) -> tuple[int | None, str | None]:
    """Bytes of the files that a model's manifest lists, and why it cannot be read. Both None where there is none."""
    path = model.get("manifest")
    if not path or not Path(path).exists():
        return None, None
    try:
        files = select(read_manifest(Path(path)).files, str(model.get("files", "*")))
    except LlmError as exc:
        return None, str(exc)
    return sum(file.size for file in files), None


def _taken(place: Path) -> int:
    """Bytes on disk of a model, whole or in the making."""
    # What is preallocated is taken, too.
    paths = [place, *place.rglob("*"), *place.parent.glob(companion(place, "*").name)]
    return sum(path.stat().st_blocks * 512 for path in paths if path.is_file())


def _row(model: t.Mapping[str, t.Any], sizes: t.Sequence[Size]) -> Size | None:
    """The row whose number of parameters is nearest, as a ratio, to the one that the model is named after."""
    words = " ".join(str(model.get(key, "")) for key in ("repo", "files", "name"))
    number = _PARAMETERS.search(words)
    if number and float(number[1]) > 0:
        billions = float(number[1])
        return min(sizes, key=lambda size: abs(math.log(size["parameters"] / billions)), default=None)
    named = [size for size in sizes if any(name.lower() in words.lower() for name in size["names"])]
    return named[0] if named else None
