# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The GPU gate: from its options to a verdict. Private to this collection.

The module gpu_gate and the unit that asks at each boot run this same code. It needs nothing but the standard library
and a function that runs commands.
"""

from __future__ import annotations

import dataclasses
import typing as t
from pathlib import Path

from ansible_collections.llmfleet.serving.plugins.module_utils._errors import LlmError
from ansible_collections.llmfleet.serving.plugins.module_utils._gate_baseline import (
    expected_of,
    measure,
    read_baseline,
)
from ansible_collections.llmfleet.serving.plugins.module_utils._gate_profiles import (
    AUTO,
    PROFILES,
    Expectation,
    profile_of,
)
from ansible_collections.llmfleet.serving.plugins.module_utils._gate_rules import DRIVER_ANSWERS, GPU_NAME
from ansible_collections.llmfleet.serving.plugins.module_utils._gate_verdict import (
    Verdict,
    describe,
    evaluate,
    junit,
    refuse,
    table,
)
from ansible_collections.llmfleet.serving.plugins.module_utils._gpu import parse_time, read_facts
from ansible_collections.llmfleet.serving.plugins.module_utils._gpu_facts import DriverError, Facts, RunCommand

# The arguments of a module that asks the gate. One of `profile` and `baseline` is required.
ARGUMENTS: dict[str, dict[str, t.Any]] = {
    "profile": {"type": "str", "choices": sorted([AUTO, *PROFILES])},
    "count": {"type": "int"},
    "nvlinks": {"type": "int"},
    "baseline": {"type": "path"},
    "driver_version_min": {"type": "str"},
    "cuda_version_min": {"type": "str"},
    "idle_memory_max": {"type": "int", "default": 256},
    "idle_utilization_max": {"type": "int", "default": 5},
    "allowed_units": {"type": "list", "elements": "str", "default": []},
    "xid_since": {"type": "str"},
    "source": {"type": "str", "choices": ["auto", "nvml", "nvidia-smi"], "default": "auto"},
    "timeout": {"type": "int", "default": 60},
}
# Options that are fields of the expectation which the profile begins. Without a value, the profile's counts.
FIELDS = (
    "count",
    "nvlinks",
    "driver_version_min",
    "cuda_version_min",
    "idle_memory_max",
    "idle_utilization_max",
    "allowed_units",
)


def gate(run: RunCommand, options: t.Mapping[str, t.Any]) -> dict[str, t.Any]:
    """Judge this host.

    :param run: runs nvidia-smi, journalctl and systemctl.
    :param options: the options of the module gpu_gate, by their names; all but `profile` or `baseline` have the
        module's defaults.
    :return: the module's result: `verdict`, `profile`, `findings`, `rules`, `facts` (None when the driver does not
        answer), `junit`, `table`, and in words `msg` (the reasons of a refusal) and `warnings`. With `record_baseline`,
        also the `baseline` that this host is.
    :raises LlmError: when an option is refused.
    """
    wanted = {name: options[name] for name in FIELDS if options.get(name) is not None}
    # Before any driver is asked, so that a wrong option is no verdict.
    dataclasses.replace(PROFILES["h800"], **wanted)
    recording = bool(options.get("record_baseline"))
    recorded = _recorded(options.get("baseline"), recording)
    since = parse_time(options.get("xid_since"))
    profile = options.get("profile")
    measured = None
    facts: Facts | None = None
    try:
        facts = read_facts(run, options.get("source", "auto"), options.get("timeout", 60), since)
        if recording:
            measured = recorded = measure(facts)
        if profile == AUTO:
            profile = profile_of(facts)
        verdict = _judge(facts, profile, recorded, wanted)
    except DriverError as exc:
        verdict = refuse(DRIVER_ANSWERS, "facts about the GPUs", str(exc))
    return {
        **verdict,
        "profile": profile,
        "facts": facts,
        **_in_words(verdict, profile or "the baseline"),
        **({"baseline": measured} if recording else {}),
    }


def _recorded(path: str | None, recording: bool) -> dict[str, t.Any] | None:
    if path is None and recording:
        raise LlmError("record_baseline has no file to write: name one in baseline.")
    return None if path is None or recording else read_baseline(Path(path))


def _judge(facts: Facts, profile: str | None, recorded: dict[str, t.Any] | None, wanted: dict[str, t.Any]) -> Verdict:
    """What was measured counts more than the profile, and an option more than both."""
    if profile is None and recorded is None:
        names = sorted({gpu["name"] or "N/A" for gpu in facts["gpus"]})
        return refuse(
            GPU_NAME, f"one of {', '.join(one.name for one in PROFILES.values())}", ", ".join(names) or "none"
        )
    fields = {**expected_of(recorded), **wanted} if recorded else wanted
    base = PROFILES[profile] if profile else Expectation(name="", memory_min=0, nvlinks=0)
    return evaluate(facts, dataclasses.replace(base, **fields))


def _in_words(verdict: Verdict, profile: str) -> dict[str, t.Any]:
    by_severity = {
        severity: describe(one for one in verdict["findings"] if one["severity"] == severity)
        for severity in ("fail", "warn")
    }
    failed = verdict["verdict"] == "fail"
    title = f"The GPUs are {'not ' * failed}fit for the profile {profile}{':' if failed else '.'}"
    return {
        "msg": "\n".join([title, *by_severity["fail"]]),
        "warnings": by_severity["warn"],
        "table": table(verdict),
        "junit": junit(verdict, f"gpu_gate {profile}"),
    }
