# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Rules that decide from a host's GPU facts whether it is fit to serve. Private to this collection.

`RULES` is the whole policy, one row for each rule. All rules are evaluated at once, and a value that a host of these
classes must tell but does not tell breaks its rule: "N/A" is never taken for 0.
"""

from __future__ import annotations

import dataclasses
import fnmatch
import re
import typing as t

from ansible_collections.llmfleet.serving.plugins.module_utils._errors import LlmError
from ansible_collections.llmfleet.serving.plugins.module_utils._gpu import Facts, Gpu, Process


@dataclasses.dataclass(frozen=True)
class Expectation:
    """What a host must be. Memory is in MiB, rates are in MB/s per NVLink and direction, utilization in percent."""

    name: str
    memory_min: int
    nvlinks: int
    nvlink_speed_min: int = 26562  # NVLink 4: `nvidia-smi nvlink -s` of two H200s shows 26.562 GB/s on every link
    count: int = 8
    driver_version_min: str | None = None
    cuda_version_min: str | None = None
    # An idle GPU was seen with 0 to 4 MiB in use; the smallest CUDA context takes several hundred.
    idle_memory_max: int = 256
    idle_utilization_max: int = 5
    allowed_units: t.Sequence[str] = ()

    def __post_init__(self) -> None:
        """Refuse what no host can be measured against, before any is asked."""
        if self.count < 1:
            raise LlmError(f"A count of {self.count} GPUs is refused: expected at least 1.")
        for floor in (self.driver_version_min, self.cuda_version_min):
            if floor is not None:
                _version(floor)


PROFILES = {
    # Name and memory: `nvidia-smi` on a host with eight of them, driver 550.90.12. Links: 400 GB/s as published, by
    # 50 GB/s for both directions of an NVLink 4. No recorded host confirms the number of links.
    "h800": Expectation(name="NVIDIA H800", memory_min=81559, nvlinks=8),
    # Name and memory: recorded from one H100 SXM, driver 580.159.04. Links: 900 GB/s as published, by 50 GB/s.
    "h100": Expectation(name="NVIDIA H100 80GB HBM3", memory_min=81559, nvlinks=18),
    # All figures: recorded from two H200 SXM, driver 580.159.04.
    "h200": Expectation(name="NVIDIA H200", memory_min=143771, nvlinks=18),
}


class Finding(t.TypedDict):
    """One broken rule on one GPU, or on the host as a whole when `gpu` is None."""

    rule: str
    severity: str
    gpu: int | None
    expected: str
    found: str
    advice: str


class Outcome(t.TypedDict):
    """What became of one rule: pass, warn, fail, or skip where it does not apply."""

    rule: str
    severity: str
    outcome: str


class Verdict(t.TypedDict):
    """`verdict` is "fail" when a rule of severity "fail" is broken, else "pass"."""

    verdict: str
    findings: list[Finding]
    rules: list[Outcome]


def describe(findings: t.Iterable[Finding]) -> list[str]:
    """Findings for people: one line for each thing that is wrong, with all GPUs on which it is."""
    gpus: dict[tuple[str, str, str, str], list[int]] = {}
    for finding in findings:
        wrong = (finding["rule"], finding["expected"], finding["found"], finding["advice"])
        gpus.setdefault(wrong, []).extend([] if finding["gpu"] is None else [finding["gpu"]])
    return [
        f"{rule}{_named(indices)}: expected {expected}, found {found}. {advice}"
        for (rule, expected, found, advice), indices in gpus.items()
    ]


def _named(gpus: list[int]) -> str:
    names = ", ".join(str(gpu) for gpu in gpus)
    return f" (GPU{'s' * (len(gpus) > 1)} {names})" if gpus else ""


def evaluate(facts: Facts, expectation: Expectation) -> Verdict:
    """All rules on a host's facts."""
    findings: list[Finding] = []
    rules: list[Outcome] = [_outcome(_DRIVER_ANSWERS, "pass")]
    for rule in RULES:
        if rule.applies(facts, expectation):
            broken = [_finding(rule, *broken) for broken in rule.check(facts, expectation)]
            findings += broken
            rules.append(_outcome(rule, rule.severity if broken else "pass"))
        else:
            rules.append(_outcome(rule, "skip"))
    failed = any(finding["severity"] == "fail" for finding in findings)
    return {"verdict": "fail" if failed else "pass", "findings": findings, "rules": rules}


def no_answer(reason: str) -> Verdict:
    """The verdict on a host whose driver gave no facts: what cannot be known is not fit."""
    return {
        "verdict": "fail",
        "findings": [_finding(_DRIVER_ANSWERS, None, "facts about the GPUs", reason.rstrip("."))],
        "rules": [_outcome(_DRIVER_ANSWERS, "fail"), *(_outcome(rule, "skip") for rule in RULES)],
    }


# --- What a rule is made of

# What is wrong with one GPU or with the host, (expected, found), or None when nothing is.
_Wrong = t.Optional[tuple[str, str]]
# One way in which a rule is broken: (GPU index or None, expected, found).
_Broken = tuple[t.Optional[int], str, str]
_Check = t.Callable[[Facts, Expectation], list[_Broken]]


@dataclasses.dataclass(frozen=True)
class Rule:
    """A row of the policy. `check` gives everything that breaks the rule, on hosts to which the rule `applies`."""

    id: str
    severity: str
    check: _Check
    advice: str
    applies: t.Callable[[Facts, Expectation], bool] = lambda _facts, _expectation: True


def _outcome(rule: Rule, outcome: str) -> Outcome:
    return {"rule": rule.id, "severity": rule.severity, "outcome": outcome}


def _finding(rule: Rule, gpu: int | None, expected: str, found: str) -> Finding:
    return {
        "rule": rule.id,
        "severity": rule.severity,
        "gpu": gpu,
        "expected": expected,
        "found": found,
        "advice": rule.advice,
    }


def _host(check: t.Callable[[Facts, Expectation], _Wrong]) -> _Check:
    """A rule on the host as a whole."""

    def check_host(facts: Facts, expectation: Expectation) -> list[_Broken]:
        wrong = check(facts, expectation)
        return [(None, *wrong)] if wrong else []

    return check_host


def _each(check: t.Callable[[Gpu, Expectation], _Wrong]) -> _Check:
    """A rule on each GPU that answers; that all answer is a rule of its own."""

    def check_gpus(facts: Facts, expectation: Expectation) -> list[_Broken]:
        checked = [(gpu["index"], check(gpu, expectation)) for gpu in facts["gpus"] if gpu["error"] is None]
        return [(index, *wrong) for index, wrong in checked if wrong]

    return check_gpus


def _is(fact: str, wanted: bool | int, expected: str, found: str) -> _Check:
    """Each GPU's `fact` is `wanted`. `found` words any other value, which it may quote as {}."""

    def check(gpu: Gpu, _expectation: Expectation) -> _Wrong:
        value = t.cast("dict[str, t.Any]", gpu)[fact]
        return None if value == wanted else (expected, "no answer" if value is None else found.format(value))

    return _each(check)


def _told(value: t.Any, unit: str = "") -> str:
    return "no answer" if value is None else f"{value}{unit}"


def _version(text: str) -> tuple[int, ...]:
    """A version of numbers and dots, comparable.

    :raises LlmError: when it is something else.
    """
    if not re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,9})*", text):
        raise LlmError(f"{text[:40]!r} is not a version: expected numbers with dots between them, like 550.90.12.")
    return tuple(int(part) for part in text.split("."))


def _at_least(found: str | None, floor: str) -> bool:
    wanted = _version(floor)
    try:
        return found is not None and _version(found) >= wanted
    except LlmError:
        return False


def _allowed(process: Process, expectation: Expectation) -> bool:
    unit = process["unit"]
    return unit is not None and any(fnmatch.fnmatchcase(unit, pattern) for pattern in expectation.allowed_units)


# --- The checks


def _gpu_count(facts: Facts, expectation: Expectation) -> _Wrong:
    count = facts["attached_gpus"]
    return None if count == expectation.count else (f"{expectation.count} GPUs", _told(count))


def _gpu_answers(facts: Facts, _expectation: Expectation) -> list[_Broken]:
    silent: list[_Broken] = [
        (gpu["index"], "a GPU that answers", gpu["error"]) for gpu in facts["gpus"] if gpu["error"] is not None
    ]
    attached, listed = facts["attached_gpus"] or 0, len(facts["gpus"])
    if listed < attached:
        silent.append((None, f"answers of all {attached} attached GPUs", f"answers of {listed}"))
    return silent


def _gpu_name(gpu: Gpu, expectation: Expectation) -> _Wrong:
    return None if gpu["name"] == expectation.name else (expectation.name, _told(gpu["name"]))


def _gpu_memory(gpu: Gpu, expectation: Expectation) -> _Wrong:
    total = gpu["memory_total"]
    if total is not None and total >= expectation.memory_min:
        return None
    return f"at least {expectation.memory_min} MiB", _told(total, " MiB")


def _driver_version(facts: Facts, expectation: Expectation) -> _Wrong:
    floor, found = expectation.driver_version_min or "0", facts["driver_version"]
    return None if _at_least(found, floor) else (f"driver {floor} or newer", _told(found))


def _cuda_version(facts: Facts, expectation: Expectation) -> _Wrong:
    floor, found = expectation.cuda_version_min or "0", facts["cuda_version"]
    return None if _at_least(found, floor) else (f"CUDA {floor} or newer", _told(found))


def _throttling(gpu: Gpu, _expectation: Expectation) -> _Wrong:
    reasons = gpu["clocks_event_reasons"]
    if reasons is None:
        return "clocks not slowed down", "no answer"
    slowed = [reason for reason in reasons if "slowdown" in reason]
    return ("clocks not slowed down", ", ".join(slowed)) if slowed else None


def _nvlink_count(gpu: Gpu, expectation: Expectation) -> _Wrong:
    links = gpu["nvlinks"] or []
    up = sum(link["active"] for link in links)
    if up >= expectation.nvlinks:
        return None
    down = ", ".join(str(link["link"]) for link in links if not link["active"])
    return f"{expectation.nvlinks} NVLinks up", f"{up} up" + (f", down: {down}" if down else "")


def _nvlink_speed(gpu: Gpu, expectation: Expectation) -> _Wrong:
    up = [link for link in gpu["nvlinks"] or [] if link["active"]]
    slow = [link for link in up if (link["speed"] or 0) < expectation.nvlink_speed_min]
    if not slow:
        return None
    found = ", ".join(f"{_told(link['speed'])} on link {link['link']}" for link in slow)
    return f"at least {expectation.nvlink_speed_min} MB/s per NVLink", found


def _fabric(gpu: Gpu, _expectation: Expectation) -> _Wrong:
    found = (gpu["fabric_state"], gpu["fabric_status"])
    return None if found == ("Completed", "Success") else ("Completed, Success", ", ".join(_told(one) for one in found))


def _process(gpu: Gpu, expectation: Expectation) -> _Wrong:
    processes = gpu["processes"]
    if processes is None:
        return "a list of processes", "no answer"
    foreign = [process for process in processes if not _allowed(process, expectation)]
    found = ", ".join(
        f"{process['name'] or 'unnamed'} (pid {process['pid']}, {process['unit'] or 'no unit'}, "
        f"memory {_told(process['memory'], ' MiB')})"
        for process in foreign
    )
    return ("no process but those of the allowed units", found) if foreign else None


def _idle(gpu: Gpu, expectation: Expectation) -> _Wrong:
    """A GPU that one of our own services works on need not be idle, and one with MIG on does not tell."""
    if gpu["mig_mode"] or any(_allowed(process, expectation) for process in gpu["processes"] or []):
        return None
    memory, utilization = gpu["memory_used"], gpu["utilization"]
    free = memory is not None and memory <= expectation.idle_memory_max
    if free and utilization is not None and utilization <= expectation.idle_utilization_max:
        return None
    expected = f"at most {expectation.idle_memory_max} MiB and {expectation.idle_utilization_max} % in use"
    return expected, f"{_told(memory, ' MiB')} and {_told(utilization, ' %')}"


# --- The policy

_DRIVER_ANSWERS = Rule(
    "driver-answers",
    "fail",
    lambda _facts, _expectation: [],
    "Nothing else can be judged until the driver answers.",
)

RULES: tuple[Rule, ...] = (
    Rule(
        "gpu-count",
        "fail",
        _host(_gpu_count),
        "Compare with `lspci -d 10de:`; read `journalctl -k | grep -i nvrm` for those that did not come up.",
    ),
    Rule(
        "gpu-answers",
        "fail",
        _gpu_answers,
        "Read `journalctl -k | grep -i xid`, then power-cycle the host; if it comes back, have the GPU replaced.",
    ),
    Rule("gpu-name", "fail", _each(_gpu_name), "Choose the profile of the GPUs that this host has."),
    Rule("gpu-memory", "fail", _each(_gpu_memory), "Choose the profile of this variant, or have the GPU looked at."),
    Rule(
        "driver-version",
        "fail",
        _host(_driver_version),
        "Install a newer driver.",
        lambda _facts, expectation: expectation.driver_version_min is not None,
    ),
    Rule(
        "cuda-version",
        "fail",
        _host(_cuda_version),
        "Install a driver that supports this CUDA version.",
        lambda _facts, expectation: expectation.cuda_version_min is not None,
    ),
    Rule("ecc-mode", "fail", _is("ecc_mode", True, "ECC on", "off"), "Run `nvidia-smi -e 1`, then reboot."),
    Rule(
        "ecc-volatile",
        "fail",
        _is("ecc_uncorrected_volatile", 0, "no uncorrectable memory error since the driver was loaded", "{}"),
        "Reset the GPU or reboot, then test its memory; errors that come back are a reason to have it replaced.",
    ),
    Rule(
        "ecc-aggregate",
        "warn",
        _is("ecc_uncorrected_aggregate", 0, "no uncorrectable memory error ever", "{}"),
        "Watch this GPU: it has had errors before, and more of them are a reason to have it replaced.",
    ),
    Rule(
        "row-remap-pending",
        "fail",
        _is("remapped_rows_pending", False, "no row remapping that waits for a reset", "one waits"),
        "Stop what uses the GPU, then reset it with `nvidia-smi -r -i INDEX`, or reboot.",
    ),
    Rule(
        "row-remap-failure",
        "fail",
        _is("remapped_rows_failure", False, "no failed row remapping", "one has failed"),
        "Have the GPU replaced: a memory bank has no spare row left.",
    ),
    Rule(
        "mig-mode",
        "fail",
        _is("mig_mode", False, "MIG off", "on"),
        "Run `nvidia-smi -mig 0`, then reset the GPU or reboot.",
    ),
    Rule(
        "throttling",
        "fail",
        # The mask 0xE8 of clock event reasons: thermal and power-brake slowdowns, not a power cap, which load causes.
        _each(_throttling),
        "Look at cooling and power supply: `nvidia-smi -q -d TEMPERATURE,POWER,PERFORMANCE`.",
    ),
    Rule(
        "nvlink-count",
        "fail",
        _each(_nvlink_count),
        "Look at `nvidia-smi nvlink -s` and the fabric manager's log; reset the GPUs or reboot.",
        # A single GPU has nothing to be linked with, and its links stay down.
        lambda _facts, expectation: expectation.count > 1,
    ),
    Rule(
        "nvlink-speed",
        "warn",
        _each(_nvlink_speed),
        "Compare with `nvidia-smi nvlink -s` of a good host.",
        lambda _facts, expectation: expectation.count > 1,
    ),
    Rule(
        "fabric",
        "fail",
        _each(_fabric),
        "Check that the service nvidia-fabricmanager runs in the driver's version; after boot it needs a minute.",
        # Boards without NVSwitch, and GPUs handed to a virtual machine one by one, report no fabric.
        lambda facts, _expectation: any(gpu["fabric_state"] is not None for gpu in facts["gpus"]),
    ),
    Rule(
        "processes",
        "fail",
        _each(_process),
        "Stop these processes, or name their systemd unit among the allowed ones.",
    ),
    Rule("idle", "fail", _each(_idle), "Find out what uses the GPU: `nvidia-smi`, or `fuser -v /dev/nvidia*`."),
    Rule(
        "persistence-mode",
        "warn",
        _is("persistence_mode", True, "persistence mode on", "off"),
        "Enable the service nvidia-persistenced: without it each first use of a GPU waits for its start.",
    ),
)
