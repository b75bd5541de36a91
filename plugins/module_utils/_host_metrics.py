# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What this collection knows of a host, as metrics: the gate, watchdogs, models. Private to this collection.

The text is Prometheus' own: https://prometheus.io/docs/instrumenting/exposition_formats/. None of it is a secret.
"""

from __future__ import annotations

import typing as t
from dataclasses import dataclass

from ansible_collections.llmfleet.serving.plugins.module_utils._host_records import StoredModel
from ansible_collections.llmfleet.serving.plugins.module_utils._watchdog import State

# What a broken rule is told of when it is of the host as a whole.
_HOST = ""


@dataclass(frozen=True)
class Sample:
    """A value, and the labels that tell it from others of its family."""

    value: float
    labels: t.Mapping[str, str]


@dataclass(frozen=True)
class Family:
    """A metric: its name, what it says, and its samples. All are gauges: none of them only ever grows."""

    name: str
    help: str
    samples: t.Sequence[Sample]


def gate(verdict: t.Mapping[str, t.Any] | None, *, fenced: bool, checked: float) -> list[Family]:
    """The gate as it judges the host now, and whether the host is fenced.

    :param verdict: of `_gate.gate`; None where the gate is not installed, so that nothing is known but the fence.
    :param checked: when it was asked, in seconds since 1970.
    """
    families = [_single("llmfleet_gpu_gate_fenced", "Whether the host is fenced: its services do not start.", fenced)]
    if verdict is None:
        return families
    broken = {
        (finding["rule"], finding["severity"], _HOST if finding["gpu"] is None else str(finding["gpu"]))
        for finding in verdict["findings"]
    }
    samples = [Sample(1, {"rule": rule, "severity": severity, "gpu": gpu}) for rule, severity, gpu in sorted(broken)]
    return [
        *families,
        _single("llmfleet_gpu_gate_pass", "Whether the host would pass the gate now.", verdict["verdict"] == "pass"),
        _single("llmfleet_gpu_gate_checked_timestamp_seconds", "When the gate's rules were last asked.", checked),
        Family("llmfleet_gpu_gate_rule_broken", "A rule of the gate that is broken, on a GPU or on the host.", samples),
    ]


def watchdog(states: t.Mapping[str, State], now: float) -> list[Family]:
    """What the watchdogs know of their services."""
    named = sorted(states.items())
    return [
        Family(
            "llmfleet_watchdog_restarts",
            "Restarts of the service by its watchdog in the last hour.",
            [
                Sample(sum(1 for time in state.restarts if 0 <= now - time < 3600), {"service": name})
                for name, state in named
            ],
        ),
        Family(
            "llmfleet_watchdog_verdict",
            "What the watchdog thinks of the service.",
            [Sample(1, {"service": name, "verdict": state.verdict}) for name, state in named if state.verdict],
        ),
        Family(
            "llmfleet_watchdog_checked_timestamp_seconds",
            "When the watchdog last looked at the service.",
            [Sample(state.checked, {"service": name}) for name, state in named],
        ),
    ]


def store(models: t.Sequence[StoredModel], quarantined: int, size: int, avail: int) -> list[Family]:
    """The models on disk, as they were verified.

    :param quarantined: files that were found to be corrupt, and are kept aside.
    :param size: of the file system, in bytes, of which `avail` are free.
    """
    return [
        Family(
            "llmfleet_model_files",
            "Files of the model that were verified when they were fetched.",
            [Sample(model["files"], {"model": model["name"]}) for model in models],
        ),
        Family(
            "llmfleet_model_bytes",
            "Bytes of the model that are what was verified.",
            [Sample(model["bytes"], {"model": model["name"]}) for model in models],
        ),
        Family(
            "llmfleet_model_intact",
            "Whether all files of the model still are what was verified.",
            [Sample(model["intact"], {"model": model["name"]}) for model in models],
        ),
        _single("llmfleet_model_store_quarantined_files", "Files that were found to be corrupt.", quarantined),
        _single("llmfleet_model_store_size_bytes", "Size of the file system that the models are on.", size),
        _single("llmfleet_model_store_avail_bytes", "What is free of it.", avail),
    ]


def render(families: t.Iterable[Family]) -> str:
    """The text that node exporter reads. A family without samples is left out."""
    lines: list[str] = []
    for family in families:
        if family.samples:
            lines += [f"# HELP {family.name} {family.help}", f"# TYPE {family.name} gauge"]
            lines += [f"{family.name}{_labels(sample.labels)} {_number(sample.value)}" for sample in family.samples]
    return "".join(f"{line}\n" for line in lines)


def _single(name: str, text: str, value: float) -> Family:
    return Family(name, text, [Sample(value, {})])


def _labels(labels: t.Mapping[str, str]) -> str:
    inner = ",".join(f'{name}="{_escaped(value)}"' for name, value in labels.items())
    return f"{{{inner}}}" if inner else ""


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')


def _number(value: float) -> str:
    return repr(float(value)) if value % 1 else str(int(value))
