# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Baselines: what was measured on a host becomes what is expected of it. Private to this collection."""

from __future__ import annotations

import json
import typing as t
from pathlib import Path

from ansible_collections.llmfleet.serving.plugins.module_utils._errors import LlmError
from ansible_collections.llmfleet.serving.plugins.module_utils._files import require_plain, write_text
from ansible_collections.llmfleet.serving.plugins.module_utils._gpu_facts import MISSING, Facts, Gpu

BASELINE_SCHEMA = 1
# The fields of an expectation that a baseline has, and what JSON they are.
_MEASURED: dict[str, type] = {
    "count": int,
    "name": str,
    "memory_min": int,
    "nvlinks": int,
    "nvlink_speed_min": int,
    "pcie_gen": int,
    "pcie_width": int,
    "vbios_version": str,
    "topology": list,
    "absent": list,
}


def measure(facts: Facts) -> dict[str, t.Any]:
    """A host's baseline: what its GPUs have in common, or the least of it.

    :raises LlmError: when its GPUs are no measure, for they differ or do not tell.
    """
    gpus = facts["gpus"]
    names, bioses = {gpu["name"] for gpu in gpus}, {gpu["vbios_version"] for gpu in gpus}
    lists = {
        "memory_min": [gpu["memory_total"] for gpu in gpus],
        "pcie_gen": [gpu["pcie_gen_max"] for gpu in gpus],
        "pcie_width": [gpu["pcie_width_max"] for gpu in gpus],
    }
    untold = sorted(name for name, values in lists.items() if None in values or not values)
    if len(gpus) != facts["attached_gpus"] or untold or len(names) != 1 or len(bioses) != 1 or None in names | bioses:
        raise LlmError(
            "This host cannot be a baseline: expected GPUs that all answer, with one name and one VBIOS, found "
            f"{len(gpus)} of {facts['attached_gpus']} GPUs, names {_list(names)}, VBIOS {_list(bioses)}"
            f"{', not told: ' + ', '.join(untold) if untold else ''}. Repair it, or record another host."
        )
    links = [[link for link in gpu["nvlinks"] or [] if link["active"]] for gpu in gpus]
    return {
        "schema": BASELINE_SCHEMA,
        "count": len(gpus),
        "name": names.pop(),
        "vbios_version": bioses.pop(),
        **{name: min(t.cast("list[int]", values)) for name, values in lists.items()},
        "nvlinks": min(len(of_gpu) for of_gpu in links),
        "nvlink_speed_min": min((link["speed"] or 0 for of_gpu in links for link in of_gpu), default=0),
        "topology": facts["topology"],
        "absent": sorted(
            fact for fact in Gpu.__annotations__ if fact != "error" and all(_is_absent(gpu, fact) for gpu in gpus)
        ),
    }


def _is_absent(gpu: Gpu, fact: str) -> bool:
    """Whether a GPU says that it has no such thing, which is no error of the driver."""
    return t.cast("dict[str, t.Any]", gpu)[fact] is None and gpu["unanswered"].get(fact, MISSING) == MISSING


def _list(words: t.Collection[str | None]) -> str:
    return ", ".join(sorted(word or "none" for word in words)) or "none"


def read_baseline(path: Path) -> dict[str, t.Any]:
    """A recorded baseline.

    :raises LlmError: when there is none at `path`, or something else.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise LlmError(
            f"The baseline {path} is not there. Record it with record_baseline on a host that is known to be good."
        ) from None
    except (OSError, ValueError) as exc:
        raise LlmError(f"The baseline {path} cannot be read: {exc}.") from exc
    try:
        baseline = json.loads(text)
    except ValueError:
        baseline = None
    if not isinstance(baseline, dict) or baseline.get("schema") != BASELINE_SCHEMA or not _is_measured(baseline):
        raise LlmError(
            f"{path} is no baseline: expected the JSON that record_baseline writes (schema {BASELINE_SCHEMA}), with "
            f"{', '.join(sorted(_MEASURED))}. Remove it and record it again."
        )
    return t.cast("dict[str, t.Any]", baseline)


def _is_measured(baseline: dict[str, t.Any]) -> bool:
    optional = {"topology"}  # a host may not tell it
    return all(
        # True is an int, too.
        (isinstance(value, kind) and not isinstance(value, bool)) or (name in optional and value is None)
        for name, kind, value in ((name, kind, baseline.get(name)) for name, kind in _MEASURED.items())
    )


def expected_of(baseline: dict[str, t.Any]) -> dict[str, t.Any]:
    """The fields of an expectation that a baseline gives."""
    return {name: baseline[name] for name in _MEASURED}


def record(path: Path, baseline: dict[str, t.Any], write: bool) -> dict[str, t.Any]:
    """Keep a baseline, unless it is kept already.

    :param write: whether to do it, or only to tell.
    :return: `changed`, and `diff` as Ansible shows it.
    :raises LlmError: when the file cannot be written.
    """
    require_plain(path)
    text = json.dumps(baseline, indent=2, sort_keys=True) + "\n"
    try:
        before = path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""
        if write and before != text:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_text(path, text)
    except OSError as exc:
        raise LlmError(f"The baseline {path} cannot be written: {exc.strerror}.") from exc
    names = {"before_header": str(path), "after_header": str(path)}
    return {"changed": before != text, "diff": {**names, "before": before, "after": text}}
