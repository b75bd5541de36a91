# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the rules of the GPU gate look at, one function for each, and what rules are put together from. Private to this
collection.
"""

from __future__ import annotations

import fnmatch
import typing as t

from ansible_collections.llmfleet.serving.plugins.module_utils._errors import LlmError
from ansible_collections.llmfleet.serving.plugins.module_utils._gate_profiles import Expectation, version
from ansible_collections.llmfleet.serving.plugins.module_utils._gpu_facts import (
    MISSING,
    Facts,
    Gpu,
    NvLink,
    Process,
    XidEvents,
)


class Reading(t.NamedTuple):
    """What a rule has found on one GPU, or on the host where `gpu` is None, and whether that is right."""

    gpu: int | None
    expected: str
    found: str
    right: bool


# Whether all is well with one GPU or with the host, what was expected and what was found.
_Look = tuple[bool, str, str]
Check = t.Callable[[Facts, Expectation], list[Reading]]
Applies = t.Callable[[Facts, Expectation], bool]


def on_host(check: t.Callable[[Facts, Expectation], _Look]) -> Check:
    """A rule on the host as a whole."""

    def check_host(facts: Facts, expectation: Expectation) -> list[Reading]:
        right, expected, found = check(facts, expectation)
        return [Reading(None, expected, found, right)]

    return check_host


def on_each_gpu(check: t.Callable[[Gpu, Expectation], _Look | None]) -> Check:
    """A rule on each GPU that answers; that all answer is a rule of its own. None where another rule judges."""

    def check_gpus(facts: Facts, expectation: Expectation) -> list[Reading]:
        looks = [(gpu["index"], check(gpu, expectation)) for gpu in facts["gpus"] if gpu["error"] is None]
        return [Reading(index, look[1], look[2], look[0]) for index, look in looks if look]

    return check_gpus


# What is wrong with a fact's value, which is told, as `found`; None when nothing is.
_Judge = t.Callable[[t.Any, Gpu, Expectation], t.Optional[str]]
# A value that is right, in words.
_Show = t.Callable[[t.Any], str]


def one_fact(fact: str, expected: str, judge: _Judge, optional: bool = False, show: _Show = str) -> Check:
    """A rule on one fact of each GPU.

    :param expected: what is wanted, with names of the expectation in braces.
    :param optional: whether a GPU or a driver may lack this. What the driver cannot say for an error of its own breaks
        the rule all the same.
    """

    def check(gpu: Gpu, expectation: Expectation) -> _Look:
        value = t.cast("dict[str, t.Any]", gpu)[fact]
        if value is None:
            wrong = _no_answer(gpu, fact, optional or fact in expectation.absent)
        else:
            wrong = judge(value, gpu, expectation)
        right = _NOT_TOLD if value is None else show(value)
        return wrong is None, expected.format(**vars(expectation)), right if wrong is None else wrong

    return on_each_gpu(check)


# What need not be told, and is not.
_NOT_TOLD = "not told"


def _no_answer(gpu: Gpu, fact: str, optional: bool) -> str | None:
    """What stands in the place of a value that is not told; None when it need not be."""
    said = gpu["unanswered"].get(fact, "N/A")
    return None if optional and said in ("N/A", MISSING) else said


def equals(fact: str, wanted: t.Any, expected: str, found: str, optional: bool = False) -> Check:
    """Each GPU's `fact` is `wanted`. `found` words any other value, which it may quote as {}."""

    def judge(value: t.Any, _gpu: Gpu, _expectation: Expectation) -> str | None:
        return None if value == wanted else found.format(value)

    return one_fact(fact, expected, judge, optional, lambda _value: expected)


def any_tells(*names: str) -> Applies:
    """Where no GPU tells any of these facts, nor why not, the rule has nothing to judge."""

    def tells(facts: Facts, _expectation: Expectation) -> bool:
        gpus = [t.cast("dict[str, t.Any]", gpu) for gpu in facts["gpus"] if gpu["error"] is None]
        return any(gpu[name] is not None or _no_answer(t.cast(Gpu, gpu), name, True) for gpu in gpus for name in names)

    return tells


def _told(value: t.Any, unit: str = "") -> str:
    return "N/A" if value is None else f"{value}{unit}"


_NONE = "none"


def several(texts: t.Iterable[str]) -> str:
    """Several words as one text."""
    return ", ".join(sorted(texts) if isinstance(texts, set) else texts) or _NONE


def _at_least(found: str | None, floor: str) -> bool:
    wanted = version(floor)
    try:
        return found is not None and version(found) >= wanted
    except LlmError:
        return False


def allowed(process: Process, expectation: Expectation) -> bool:
    """Whether a process runs in one of the units that may use the GPUs."""
    unit = process["unit"]
    return unit is not None and any(fnmatch.fnmatchcase(unit, pattern) for pattern in expectation.allowed_units)


# --- The checks: which GPUs there are


def driver_answers(facts: Facts, _expectation: Expectation) -> _Look:
    """Facts that are there have come from it: where they are not, the rule is broken before."""
    return True, "facts about the GPUs", f"driver {_told(facts['driver_version'])}"


def gpu_count(facts: Facts, expectation: Expectation) -> _Look:
    count = facts["attached_gpus"]
    return count == expectation.count, f"{expectation.count} GPUs", _told(count)


def gpu_on_bus(facts: Facts, _expectation: Expectation) -> _Look:
    on_bus, attached = facts["pci_gpus"] or 0, facts["attached_gpus"] or 0
    return attached >= on_bus, f"all {on_bus} GPUs of the PCI bus with the driver", str(attached)


def gpu_answers(facts: Facts, _expectation: Expectation) -> list[Reading]:
    silent = [
        Reading(gpu["index"], "a GPU that answers", gpu["error"], False)
        for gpu in facts["gpus"]
        if gpu["error"] is not None
    ]
    attached, listed = facts["attached_gpus"] or 0, len(facts["gpus"])
    return [
        *silent,
        Reading(None, f"answers of all {attached} attached GPUs", f"answers of {listed}", listed >= attached),
    ]


def gpu_name(value: str, _gpu: Gpu, expectation: Expectation) -> str | None:
    return None if value == expectation.name else value


def gpu_memory(value: int, _gpu: Gpu, expectation: Expectation) -> str | None:
    return None if value >= expectation.memory_min else f"{value} MiB"


def driver_version(facts: Facts, expectation: Expectation) -> _Look:
    floor, found = expectation.driver_version_min or "0", facts["driver_version"]
    return _at_least(found, floor), f"driver {floor} or newer", _told(found)


def cuda_version(facts: Facts, expectation: Expectation) -> _Look:
    floor, found = expectation.cuda_version_min or "0", facts["cuda_version"]
    return _at_least(found, floor), f"CUDA {floor} or newer", _told(found)


def vbios(facts: Facts, expectation: Expectation) -> _Look:
    gpus = [gpu for gpu in facts["gpus"] if gpu["error"] is None]
    found = {gpu["vbios_version"] or str(_no_answer(gpu, "vbios_version", False)) for gpu in gpus}
    wanted = expectation.vbios_version
    wrong = found - {wanted} if wanted else len(found) > 1
    return not wrong, f"VBIOS {wanted} on all GPUs" if wanted else "one VBIOS version on all GPUs", several(found)


# --- The checks: memory


# Corrected errors since the driver was loaded that are more than wear, by Azure's health checks for the H100.
_SRAM_CORRECTED, _DRAM_CORRECTED = 10_000, 20_000_000


def ecc_fact(fact: str, expected: str, judge: _Judge, show: _Show = str) -> Check:
    """A rule on what ECC tells. With ECC off it tells nothing, and a rule of its own says so."""
    check = one_fact(fact, expected, judge, show=show)

    def check_with_ecc(facts: Facts, expectation: Expectation) -> list[Reading]:
        off = {gpu["index"] for gpu in facts["gpus"] if gpu["ecc_mode"] is False}
        return [reading for reading in check(facts, expectation) if reading.gpu not in off]

    return check_with_ecc


def ecc_volatile(value: int, _gpu: Gpu, _expectation: Expectation) -> str | None:
    return str(value) if value else None


def ecc_aggregate(value: int, gpu: Gpu, _expectation: Expectation) -> str | None:
    """Those since the driver was loaded are not counted twice."""
    before = value - (gpu["ecc_uncorrected_volatile"] or 0)
    return str(before) if before > 0 else None


def ecc_corrected(gpu: Gpu, _expectation: Expectation) -> _Look:
    sram, dram = gpu["ecc_sram_corrected_volatile"], gpu["ecc_dram_corrected_volatile"]
    right = (sram or 0) <= _SRAM_CORRECTED and (dram or 0) <= _DRAM_CORRECTED
    expected = f"at most {_SRAM_CORRECTED} in SRAM and {_DRAM_CORRECTED} in DRAM"
    return right, expected, f"{_told(sram)} and {_told(dram)}"


def ecc_threshold(value: bool, _gpu: Gpu, _expectation: Expectation) -> str | None:
    return "more" if value else None


def spare_rows(value: dict[str, int], gpu: Gpu, _expectation: Expectation) -> str | None:
    """A remapping that has failed for want of spare rows has a rule of its own."""
    empty = value["none"]
    return f"{empty} without" if empty and not gpu["remapped_rows_failure"] else None


# --- The checks: clocks, temperature, power, PCIe

TEMPERATURE_MAX, TEMPERATURE_WARM = 90, 83


def throttling(value: list[str], _gpu: Gpu, _expectation: Expectation) -> str | None:
    return ", ".join(reason for reason in value if "slowdown" in reason) or None


def _hot(gpu: Gpu) -> str | None:
    """Why a GPU is too hot: by its own limits, or by the general one."""
    degrees, slowdown = gpu["temperature"], gpu["temperature_slowdown"]
    margin, margin_slowdown = gpu["temperature_margin"], gpu["temperature_margin_slowdown"]
    if margin is not None and margin_slowdown is not None and margin <= margin_slowdown:
        return f"{_told(degrees)} C, {margin} C left"
    limit = min(TEMPERATURE_MAX, slowdown or TEMPERATURE_MAX)
    return f"{degrees} C" if degrees is not None and degrees >= limit else None


def temperature(_value: int, gpu: Gpu, _expectation: Expectation) -> str | None:
    return _hot(gpu)


def warm(gpu: Gpu, _expectation: Expectation) -> _Look | None:
    """A GPU that is too hot, or does not tell, breaks the other rule."""
    degrees = gpu["temperature"]
    if degrees is None or _hot(gpu):
        return None
    return degrees < TEMPERATURE_WARM, f"less than {TEMPERATURE_WARM} C", f"{degrees} C"


def power_limit(value: float, gpu: Gpu, _expectation: Expectation) -> str | None:
    default = gpu["power_limit_default"]
    return None if default is None or value == default else f"{value:g} W instead of {default:g} W"


def pcie_width(value: int, _gpu: Gpu, expectation: Expectation) -> str | None:
    return None if value >= expectation.pcie_width else str(value)


def pcie_gen(value: int, _gpu: Gpu, expectation: Expectation) -> str | None:
    return None if value >= expectation.pcie_gen else str(value)


PCIE_REPLAYS = 200


def pcie_replays(value: int, _gpu: Gpu, _expectation: Expectation) -> str | None:
    return str(value) if value > PCIE_REPLAYS else None


# --- The checks: NVLink, NVSwitch


def linked(_facts: Facts, expectation: Expectation) -> bool:
    """A single GPU has nothing to be linked with, and its links stay down."""
    return expectation.count > 1 and expectation.nvlinks > 0


def _up(gpu: Gpu) -> list[NvLink]:
    return [link for link in gpu["nvlinks"] or [] if link["active"]]


def nvlink_count(gpu: Gpu, expectation: Expectation) -> _Look:
    up = len(_up(gpu))
    down = ", ".join(str(link["link"]) for link in gpu["nvlinks"] or [] if not link["active"])
    found = f"{up} up" + (f", down: {down}" if down else "")
    return up >= expectation.nvlinks, f"{expectation.nvlinks} NVLinks up", found


def nvlink_speed(gpu: Gpu, expectation: Expectation) -> _Look:
    slow = [link for link in _up(gpu) if (link["speed"] or 0) < expectation.nvlink_speed_min]
    found = ", ".join(f"{_told(link['speed'])} on link {link['link']}" for link in slow)
    speeds = several({_told(link["speed"]) for link in _up(gpu)})
    return not slow, f"at least {expectation.nvlink_speed_min} MB/s per NVLink", found or speeds


def nvlink_errors(gpu: Gpu, _expectation: Expectation) -> _Look:
    found = [
        f"{count} {kind} on link {link['link']}"
        for link in gpu["nvlinks"] or []
        for kind, count in (
            ("replays", link["replay_errors"]),
            ("recoveries", link["recovery_errors"]),
            ("CRC errors", link["crc_errors"]),
        )
        if count
    ]
    return not found, "no NVLink errors", several(found)


def topology(facts: Facts, expectation: Expectation) -> list[Reading]:
    """Every two GPUs are joined by NVLinks, or as they were when measured. How many links is a rule of its own."""
    rows = facts["topology"]
    lost = {place for place, gpu in enumerate(facts["gpus"]) if gpu["error"] is not None}
    if rows is None:  # nvidia-smi gives up when a GPU is lost, which a rule of its own says
        return [] if lost else [Reading(None, "a matrix of how the GPUs are joined", "N/A", False)]
    expected = "the way to each other GPU as measured" if expectation.topology else "NVLinks to each other GPU"
    readings = []
    for a, row in enumerate(rows):
        wrong = [
            f"{_told(way)} to GPU {b}"
            for b, way in enumerate(row)
            if not {a, b} & lost and a != b and _kind(way) != _wanted(expectation, a, b)
        ]
        ways = several({_told(way) for way in (*row[:a], *row[a + 1 :])})
        readings.append(Reading(facts["gpus"][a]["index"], expected, ", ".join(wrong) or ways, not wrong))
    return readings


def _kind(way: str | None) -> str | None:
    return "NV" if way is not None and way.startswith("NV") else way


def _wanted(expectation: Expectation, a: int, b: int) -> str | None:
    measured = expectation.topology
    if measured is None:
        return "NV"
    return _kind(measured[a][b]) if a < len(measured) and b < len(measured[a]) else None


def has_fabric(facts: Facts, _expectation: Expectation) -> bool:
    """Boards without NVSwitch, and GPUs handed to a virtual machine one by one, report no fabric."""
    return any(gpu["fabric_state"] is not None for gpu in facts["gpus"])


def fabric(gpu: Gpu, _expectation: Expectation) -> _Look:
    found = (gpu["fabric_state"], gpu["fabric_status"])
    return found == ("Completed", "Success"), "Completed, Success", ", ".join(_told(one) for one in found)


def fabric_health(value: list[str], _gpu: Gpu, _expectation: Expectation) -> str | None:
    return ", ".join(value).replace("_", " ") or None


def fabric_manager(facts: Facts, _expectation: Expectation) -> _Look:
    manager = t.cast("dict[str, str | None]", facts["fabric_manager"])
    driver = facts["driver_version"]
    right = manager["state"] == "active" and manager["version"] in (driver, None)
    return right, f"active, version {_told(driver)}", f"{manager['state']}, version {_told(manager['version'])}"


# --- The checks: the kernel's log


def kernel_log(facts: Facts, _expectation: Expectation) -> _Look:
    read = facts["xids"] is not None
    return read, "the kernel's messages of this boot", "read" if read else "none that may be read"


def xids(wrong: t.Callable[[XidEvents], t.Any], expected: str) -> Check:
    """A rule on each event that is `wrong`, on its GPU."""

    def check(facts: Facts, _expectation: Expectation) -> list[Reading]:
        indices = {gpu["pci_bus_id"]: gpu["index"] for gpu in facts["gpus"]}
        broken = [
            Reading(indices.get(event["pci_bus_id"]), expected, f"{event['message']} ({event['count']} times)", False)
            for event in facts["xids"] or []
            if wrong(event)
        ]
        return broken or [Reading(None, expected, _NONE, True)]

    return check


def read_log(facts: Facts, _expectation: Expectation) -> bool:
    return facts["xids"] is not None


# --- The checks: who uses the GPUs


def process(value: list[Process], _gpu: Gpu, expectation: Expectation) -> str | None:
    foreign = [process for process in value if not allowed(process, expectation)]
    return (
        ", ".join(
            f"{process['name'] or 'unnamed'} (pid {process['pid']}, {process['unit'] or 'no unit'}, "
            f"memory {_told(process['memory'], ' MiB')})"
            for process in foreign
        )
        or None
    )


def process_names(value: list[Process]) -> str:
    """Those that may be there."""
    return several({f"{process['name'] or 'unnamed'} of {process['unit']}" for process in value})


def idle(gpu: Gpu, expectation: Expectation) -> _Look | None:
    """A GPU with processes is judged by them, and one with MIG on does not tell."""
    if gpu["mig_mode"] or gpu["processes"]:
        return None
    memory, utilization = gpu["memory_used"], gpu["utilization"]
    free = memory is not None and memory <= expectation.idle_memory_max
    right = free and utilization is not None and utilization <= expectation.idle_utilization_max
    expected = f"at most {expectation.idle_memory_max} MiB and {expectation.idle_utilization_max} % in use"
    return right, expected, f"{_told(memory, ' MiB')} and {_told(utilization, ' %')}"
