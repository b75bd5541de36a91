# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Do the versions of a stack work together, and on a host? Private to this collection.

What versions need is data, `playbooks/stacks/engines.yml` and `advisories.yml`, which become `Knowledge`.
"""

from __future__ import annotations

import dataclasses
import typing as t
from collections.abc import Iterator, Mapping, Sequence

from ansible_collections.llmfleet.serving.plugins.module_utils._errors import LlmError
from ansible_collections.llmfleet.serving.plugins.module_utils._stack import Stack, version

FAIL, WARN = "fail", "warn"


class Finding(t.TypedDict):
    """`severity` is "fail" or "warn"; `id` is the rule's, or the advisory's."""

    id: str
    severity: str
    object: str
    expected: str
    found: str
    advice: str


@dataclasses.dataclass(frozen=True)
class Lane:
    """Versions of an engine that need the same of a host; `engines.yml` says what each field is."""

    versions: tuple[str, str]
    source: str
    cuda: str = ""
    driver_min: str = "0"
    driver_native: str = "0"
    quantizations: Mapping[str, str] = dataclasses.field(default_factory=dict)
    nvcc: bool = False
    packages: Mapping[str, str] = dataclasses.field(default_factory=dict)
    unusable: str = ""
    caution: str = ""

    @property
    def newest(self) -> str:
        return self.versions[1]

    def holds(self, wanted: str) -> bool:
        first, last = self.versions
        return version(first) <= version(wanted) <= version(last)


@dataclasses.dataclass(frozen=True)
class Affected:
    """Versions with a hole: from `since` to before `fixed`, or up to `last`."""

    since: str = "0"
    fixed: str | None = None
    last: str | None = None

    def holds(self, wanted: str) -> bool:
        found = version(wanted)
        if self.fixed is not None and found >= version(self.fixed):
            return False
        if self.last is not None and found > version(self.last):
            return False
        return found >= version(self.since)

    @property
    def remedy(self) -> str:
        if self.fixed is not None:
            return f"{self.fixed} or newer"
        return f"newer than {self.last}" if self.last is not None else "a version with a fix, of which none is known"


@dataclasses.dataclass(frozen=True)
class Advisory:
    """:ivar effect: "refuse" or "warn"."""

    id: str
    component: str
    effect: str
    summary: str
    affected: Sequence[Affected]
    source: str


@dataclasses.dataclass(frozen=True)
class Knowledge:
    """:ivar toolkits: CUDA release -> the oldest driver for it."""

    toolkits: Mapping[str, str]
    lanes: Mapping[str, Sequence[Lane]]
    advisories: Sequence[Advisory]


def knowledge(engines: Mapping[str, t.Any], advisories: Sequence[Mapping[str, t.Any]]) -> Knowledge:
    """The contents of `engines.yml` and `advisories.yml`."""
    return Knowledge(
        toolkits={release: entry["driver_min"] for release, entry in engines["toolkits"].items()},
        lanes={engine: [_lane(entry) for entry in entries] for engine, entries in engines["engines"].items()},
        advisories=[_advisory(entry) for entry in advisories],
    )


def _lane(entry: Mapping[str, t.Any]) -> Lane:
    first, last = entry["versions"]
    return Lane(**{**_without_date(entry), "versions": (first, last)})


def _advisory(entry: Mapping[str, t.Any]) -> Advisory:
    return Advisory(**{**_without_date(entry), "affected": [Affected(**affected) for affected in entry["affected"]]})


def _without_date(entry: Mapping[str, t.Any]) -> dict[str, t.Any]:
    """The date is for those who keep the file."""
    return {key: value for key, value in entry.items() if key != "checked"}


@dataclasses.dataclass(frozen=True)
class _Use:
    """One service's use of an engine.

    :ivar drivers: version -> where it is.
    :ivar method: what is known of the model's quantization, in lower case.
    """

    engine: str
    drivers: Mapping[str, str]
    toolkit: str | None
    packages: Mapping[str, str]
    method: str


# What keeps the versions of a lane from a use: (rule, severity, expected, found, what else to do about it).
_Obstacle = tuple[str, str, str, str, str]


def _too_old(use: _Use, needed: str) -> Iterator[str]:
    """Those drivers that are older, in words."""
    for driver, place in use.drivers.items():
        if version(driver) < version(needed):
            yield f"{driver} {place}"


def _unusable(lane: Lane, _use: _Use) -> Iterator[_Obstacle]:
    if lane.unusable:
        yield "engine-unusable", FAIL, "a version that can be installed", lane.unusable, ""


def _driver(lane: Lane, use: _Use) -> Iterator[_Obstacle]:
    for driver in _too_old(use, lane.driver_min):
        expected = f"driver {lane.driver_min} or newer, for CUDA {lane.cuda}"
        yield "engine-driver", FAIL, expected, driver, "Use a newer driver."


def _quantization(lane: Lane, use: _Use) -> Iterator[_Obstacle]:
    for method, needed in lane.quantizations.items():
        for driver in _too_old(use, needed) if method in use.method else ():
            expected = f"driver {needed} or newer, for {method.upper()} kernels without native code for Hopper"
            yield "engine-quantization", FAIL, expected, driver, "Use a newer driver."


def _native(lane: Lane, use: _Use) -> Iterator[_Obstacle]:
    for driver in _too_old(use, lane.driver_native):
        expected = f"driver {lane.driver_native} or newer, for kernels without native code for Hopper"
        yield "engine-kernels", WARN, expected, driver, "Models that need none of these kernels run."


def _nvcc(lane: Lane, use: _Use) -> Iterator[_Obstacle]:
    if lane.nvcc and use.toolkit is None:
        expected = "a CUDA toolkit, because kernels are compiled on the host"
        yield "engine-nvcc", FAIL, expected, "a stack without one", "Add cuda.version."


def _packages(lane: Lane, use: _Use) -> Iterator[_Obstacle]:
    for name, needed in lane.packages.items():
        found = use.packages.get(name)
        if found is None or version(found) != version(needed):
            where = f"engines.{use.engine}.packages"
            yield "engine-packages", FAIL, f"{name} {needed} in {where}", found or "none", "Pin it there."


def _caution(lane: Lane, _use: _Use) -> Iterator[_Obstacle]:
    if lane.caution:
        yield "engine-caution", WARN, "a version without known trouble", lane.caution, ""


_RULES: tuple[t.Callable[[Lane, _Use], Iterator[_Obstacle]], ...] = (
    _unusable,
    _driver,
    _quantization,
    _native,
    _nvcc,
    _packages,
    _caution,
)


def _obstacles(lane: Lane, use: _Use) -> Iterator[_Obstacle]:
    for rule in _RULES:
        yield from rule(lane, use)


def findings(
    stack: Stack,
    known: Knowledge,
    services: Sequence[Mapping[str, t.Any]],
    models: Sequence[Mapping[str, t.Any]],
    driver_version: str | None = None,
    allow_vulnerable: bool = False,
) -> list[Finding]:
    """Everything that speaks against running the services with this stack, all at once; only what they use is judged.

    :param services: the playbooks' `llmfleet_services`: name, engine, model, args.
    :param models: the playbooks' `llmfleet_models`: name, repo.
    :param driver_version: the driver that a host has loaded, where it will keep it: judged beside the stack's own.
    :param allow_vulnerable: whether advisories that would refuse only warn.
    :raises LlmError: when driver_version is not a version, or a service has no name or no engine.
    """
    for service in services:
        if not {"name", "engine"} <= set(service):
            found = ", ".join(service) or "neither"
            raise LlmError(
                f"A service is malformed: expected name and engine, found {found}. Correct llmfleet_services."
            )
    drivers = {stack.driver: "of the stack"}
    if driver_version is not None:
        drivers.setdefault(driver_version, "loaded on the host")
    used = [engine for engine in stack.engines if any(service["engine"] == engine for service in services)]
    components = [("driver", found, f"driver {place}") for found, place in drivers.items()]
    components += [(name, stack.engines[name].version, name) for name in used]
    return [
        *_toolkit(stack, known, drivers),
        *(finding for service in services for finding in _service(stack, known, drivers, service, models)),
        *(finding for component in components for finding in _advisories(stack, known, allow_vulnerable, *component)),
    ]


def _toolkit(stack: Stack, known: Knowledge, drivers: Mapping[str, str]) -> Iterator[Finding]:
    if stack.toolkit is None:
        return
    thing = f"CUDA toolkit {stack.toolkit}"
    needed = known.toolkits.get(stack.toolkit)
    if needed is None:
        expected = f"one of {', '.join(known.toolkits)}"
        found = "one of which nothing is known"
        yield _finding("toolkit-unknown", WARN, thing, expected, found, "See what it needs of the driver.")
        return
    for driver, place in drivers.items():
        if version(driver) < version(needed):
            advice = "Use an older toolkit, or a newer driver."
            yield _finding("toolkit-driver", FAIL, thing, f"driver {needed} or newer", f"{driver} {place}", advice)


def _service(
    stack: Stack,
    known: Knowledge,
    drivers: Mapping[str, str],
    service: Mapping[str, t.Any],
    models: Sequence[Mapping[str, t.Any]],
) -> Iterator[Finding]:
    """What speaks against one service's engine."""
    name = service["engine"]
    engine = stack.engines.get(name)
    if engine is None:
        thing, expected = f"service {service['name']}", f"an engine of the stack: {', '.join(stack.engines) or 'none'}"
        yield _finding("engine-missing", FAIL, thing, expected, name, f"Add engines.{name} to the stack.")
        return
    thing = f"service {service['name']}: {name} {engine.version}"
    lanes = known.lanes[name]
    lane = next((lane for lane in lanes if lane.holds(engine.version)), None)
    use = _Use(name, drivers, stack.toolkit, engine.packages, _method(service, models))
    if lane is not None:
        for rule, severity, expected, found, advice in _obstacles(lane, use):
            advised = [advice, _alternative(lanes, use), f"Source: {lane.source}."]
            yield _finding(rule, severity, thing, expected, found, " ".join(filter(None, advised)))
    elif lanes:
        expected = f"a version from {lanes[0].versions[0]} to {lanes[-1].newest}"
        advice = f"See what it needs of the driver. {_alternative(lanes, use)}"
        yield _finding("engine-unknown", WARN, thing, expected, "one of which nothing is known", advice)


def _alternative(lanes: Sequence[Lane], use: _Use) -> str:
    for lane in reversed(lanes):
        if not list(_obstacles(lane, use)):
            return f"The newest that runs here is {use.engine} {lane.newest}."
    return f"No known version of {use.engine} runs here."


def _method(service: Mapping[str, t.Any], models: Sequence[Mapping[str, t.Any]]) -> str:
    """What a service says of its model's quantization, or else the model's names, which usually say it too."""
    declared = (service.get("args") or {}).get("quantization")
    if declared:
        return str(declared).lower()
    model = next((model for model in models if model.get("name") == service.get("model")), {})
    return f"{service.get('model')} {model.get('repo')}".lower()


def _advisories(
    stack: Stack, known: Knowledge, allow_vulnerable: bool, component: str, found: str, thing: str
) -> Iterator[Finding]:
    """The advisories about one version of a component."""
    for advisory in known.advisories:
        affected = next((affected for affected in advisory.affected if affected.holds(found)), None)
        if advisory.component != component or affected is None:
            continue
        accepted = stack.accepts.get(advisory.id)
        refused = advisory.effect == "refuse" and accepted is None and not allow_vulnerable
        advice = f"{advisory.summary[0].upper()}{advisory.summary[1:]}."
        if refused:
            advice += " Use a version with the fix, or accept the advisory in the stack and say why."
        elif accepted is not None:
            advice += f" Accepted by the stack: {accepted}"
        advice += f" Source: {advisory.source}."
        yield _finding(advisory.id, FAIL if refused else WARN, thing, affected.remedy, found, advice)


def _finding(rule: str, severity: str, thing: str, expected: str, found: str, advice: str) -> Finding:
    return Finding(id=rule, severity=severity, object=thing, expected=expected, found=found, advice=advice)
