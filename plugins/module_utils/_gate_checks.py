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

# What is wrong with one GPU or with the host, (expected, found), or None when nothing is.
_Wrong = t.Optional[tuple[str, str]]
# One way in which a rule is broken: (GPU index or None, expected, found).
Broken = tuple[t.Optional[int], str, str]
Check = t.Callable[[Facts, Expectation], list[Broken]]
Applies = t.Callable[[Facts, Expectation], bool]


def on_host(check: t.Callable[[Facts, Expectation], _Wrong]) -> Check:
    """A rule on the host as a whole."""

    def check_host(facts: Facts, expectation: Expectation) -> list[Broken]:
        wrong = check(facts, expectation)
        return [(None, *wrong)] if wrong else []

    return check_host


def on_each_gpu(check: t.Callable[[Gpu, Expectation], _Wrong]) -> Check:
    """A rule on each GPU that answers; that all answer is a rule of its own."""

    def check_gpus(facts: Facts, expectation: Expectation) -> list[Broken]:
        checked = [(gpu["index"], check(gpu, expectation)) for gpu in facts["gpus"] if gpu["error"] is None]
        return [(index, *wrong) for index, wrong in checked if wrong]

    return check_gpus


# What is wrong with a fact's value, which is told, as `found`; None when nothing is.
_Judge = t.Callable[[t.Any, Gpu, Expectation], t.Optional[str]]


def one_fact(fact: str, expected: str, judge: _Judge, optional: bool = False) -> Check:
    """A rule on one fact of each GPU.

    :param expected: what is wanted, with names of the expectation in braces.
    :param optional: whether a GPU or a driver may lack this. What the driver cannot say for an error of its own breaks
        the rule all the same.
    """

    def check(gpu: Gpu, expectation: Expectation) -> _Wrong:
        value = t.cast("dict[str, t.Any]", gpu)[fact]
        if value is None:
            found = _no_answer(gpu, fact, optional or fact in expectation.absent)
        else:
            found = judge(value, gpu, expectation)
        return (expected.format(**vars(expectation)), found) if found else None

    return on_each_gpu(check)


def _no_answer(gpu: Gpu, fact: str, optional: bool) -> str | None:
    """What stands in the place of a value that is not told; None when it need not be."""
    said = gpu["unanswered"].get(fact, "N/A")
    return None if optional and said in ("N/A", MISSING) else said


def equals(fact: str, wanted: t.Any, expected: str, found: str, optional: bool = False) -> Check:
    """Each GPU's `fact` is `wanted`. `found` words any other value, which it may quote as {}."""
    return one_fact(fact, expected, lambda value, *_rest: None if value == wanted else found.format(value), optional)


def any_tells(*names: str) -> Applies:
    """Where no GPU tells any of these facts, nor why not, the rule has nothing to judge."""

    def tells(facts: Facts, _expectation: Expectation) -> bool:
        gpus = [t.cast("dict[str, t.Any]", gpu) for gpu in facts["gpus"] if gpu["error"] is None]
        return any(gpu[name] is not None or _no_answer(t.cast(Gpu, gpu), name, True) for gpu in gpus for name in names)

    return tells


def _told(value: t.Any, unit: str = "") -> str:
    return "N/A" if value is None else f"{value}{unit}"


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


def gpu_count(facts: Facts, expectation: Expectation) -> _Wrong:
    count = facts["attached_gpus"]
    return None if count == expectation.count else (f"{expectation.count} GPUs", _told(count))


def gpu_on_bus(facts: Facts, _expectation: Expectation) -> _Wrong:
    on_bus, attached = facts["pci_gpus"] or 0, facts["attached_gpus"] or 0
    return None if attached >= on_bus else (f"all {on_bus} GPUs of the PCI bus with the driver", str(attached))


def gpu_answers(facts: Facts, _expectation: Expectation) -> list[Broken]:
    silent: list[Broken] = [
        (gpu["index"], "a GPU that answers", gpu["error"]) for gpu in facts["gpus"] if gpu["error"] is not None
    ]
    attached, listed = facts["attached_gpus"] or 0, len(facts["gpus"])
    if listed < attached:
        silent.append((None, f"answers of all {attached} attached GPUs", f"answers of {listed}"))
    return silent


def gpu_name(value: str, _gpu: Gpu, expectation: Expectation) -> str | None:
    return None if value == expectation.name else value


def gpu_memory(value: int, _gpu: Gpu, expectation: Expectation) -> str | None:
    return None if value >= expectation.memory_min else f"{value} MiB"


def driver_version(facts: Facts, expectation: Expectation) -> _Wrong:
    floor, found = expectation.driver_version_min or "0", facts["driver_version"]
    return None if _at_least(found, floor) else (f"driver {floor} or newer", _told(found))


def cuda_version(facts: Facts, expectation: Expectation) -> _Wrong:
    floor, found = expectation.cuda_version_min or "0", facts["cuda_version"]
    return None if _at_least(found, floor) else (f"CUDA {floor} or newer", _told(found))


def vbios(facts: Facts, expectation: Expectation) -> _Wrong:
    gpus = [gpu for gpu in facts["gpus"] if gpu["error"] is None]
    found = {gpu["vbios_version"] or str(_no_answer(gpu, "vbios_version", False)) for gpu in gpus}
    wanted = expectation.vbios_version
    if found - {wanted} if wanted else len(found) > 1:
        return f"VBIOS {wanted} on all GPUs" if wanted else "one VBIOS version on all GPUs", ", ".join(sorted(found))
    return None


# --- The checks: memory


# Corrected errors since the driver was loaded that are more than wear, by Azure's health checks for the H100.
_SRAM_CORRECTED, _DRAM_CORRECTED = 10_000, 20_000_000


def ecc_fact(fact: str, expected: str, judge: _Judge) -> Check:
    """A rule on what ECC tells. With ECC off it tells nothing, and a rule of its own says so."""
    check = one_fact(fact, expected, judge)

    def check_with_ecc(facts: Facts, expectation: Expectation) -> list[Broken]:
        off = {gpu["index"] for gpu in facts["gpus"] if gpu["ecc_mode"] is False}
        return [broken for broken in check(facts, expectation) if broken[0] not in off]

    return check_with_ecc


def ecc_volatile(value: int, _gpu: Gpu, _expectation: Expectation) -> str | None:
    return str(value) if value else None


def ecc_aggregate(value: int, gpu: Gpu, _expectation: Expectation) -> str | None:
    """Those since the driver was loaded are not counted twice."""
    before = value - (gpu["ecc_uncorrected_volatile"] or 0)
    return str(before) if before > 0 else None


def ecc_corrected(gpu: Gpu, _expectation: Expectation) -> _Wrong:
    sram, dram = gpu["ecc_sram_corrected_volatile"], gpu["ecc_dram_corrected_volatile"]
    if (sram or 0) <= _SRAM_CORRECTED and (dram or 0) <= _DRAM_CORRECTED:
        return None
    return f"at most {_SRAM_CORRECTED} in SRAM and {_DRAM_CORRECTED} in DRAM", f"{_told(sram)} and {_told(dram)}"


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


def warm(gpu: Gpu, _expectation: Expectation) -> _Wrong:
    """A GPU that is too hot, or does not tell, breaks the other rule."""
    degrees = gpu["temperature"]
    if degrees is None or degrees < TEMPERATURE_WARM or _hot(gpu):
        return None
    return f"less than {TEMPERATURE_WARM} C", f"{degrees} C"


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


def nvlink_count(gpu: Gpu, expectation: Expectation) -> _Wrong:
    up = len(_up(gpu))
    if up >= expectation.nvlinks:
        return None
    down = ", ".join(str(link["link"]) for link in gpu["nvlinks"] or [] if not link["active"])
    return f"{expectation.nvlinks} NVLinks up", f"{up} up" + (f", down: {down}" if down else "")


def nvlink_speed(gpu: Gpu, expectation: Expectation) -> _Wrong:
    slow = [link for link in _up(gpu) if (link["speed"] or 0) < expectation.nvlink_speed_min]
    if not slow:
        return None
    found = ", ".join(f"{_told(link['speed'])} on link {link['link']}" for link in slow)
    return f"at least {expectation.nvlink_speed_min} MB/s per NVLink", found


def nvlink_errors(gpu: Gpu, _expectation: Expectation) -> _Wrong:
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
    return ("no NVLink errors", ", ".join(found)) if found else None


def topology(facts: Facts, expectation: Expectation) -> list[Broken]:
    """Every two GPUs are joined by NVLinks, or as they were when measured. How many links is a rule of its own."""
    rows = facts["topology"]
    lost = {place for place, gpu in enumerate(facts["gpus"]) if gpu["error"] is not None}
    if rows is None:  # nvidia-smi gives up when a GPU is lost, which a rule of its own says
        return [] if lost else [(None, "a matrix of how the GPUs are joined", "N/A")]
    broken: list[Broken] = []
    for a, row in enumerate(rows):
        wrong = [
            f"{_told(way)} to GPU {b}"
            for b, way in enumerate(row)
            if not {a, b} & lost and a != b and _kind(way) != _wanted(expectation, a, b)
        ]
        if wrong:
            expected = "the way to each other GPU as measured" if expectation.topology else "NVLinks to each other GPU"
            broken.append((facts["gpus"][a]["index"], expected, ", ".join(wrong)))
    return broken


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


def fabric(gpu: Gpu, _expectation: Expectation) -> _Wrong:
    found = (gpu["fabric_state"], gpu["fabric_status"])
    return None if found == ("Completed", "Success") else ("Completed, Success", ", ".join(_told(one) for one in found))


def fabric_health(value: list[str], _gpu: Gpu, _expectation: Expectation) -> str | None:
    return ", ".join(value).replace("_", " ") or None


def fabric_manager(facts: Facts, _expectation: Expectation) -> _Wrong:
    manager = t.cast("dict[str, str | None]", facts["fabric_manager"])
    driver = facts["driver_version"]
    if manager["state"] == "active" and manager["version"] in (driver, None):
        return None
    return f"active, version {_told(driver)}", f"{manager['state']}, version {_told(manager['version'])}"


# --- The checks: the kernel's log


def kernel_log(facts: Facts, _expectation: Expectation) -> _Wrong:
    return None if facts["xids"] is not None else ("the kernel's messages of this boot", "none that may be read")


def xids(wrong: t.Callable[[XidEvents], t.Any], expected: str) -> Check:
    """A rule on each event that is `wrong`, on its GPU."""

    def check(facts: Facts, _expectation: Expectation) -> list[Broken]:
        indices = {gpu["pci_bus_id"]: gpu["index"] for gpu in facts["gpus"]}
        return [
            (indices.get(event["pci_bus_id"]), expected, f"{event['message']} ({event['count']} times)")
            for event in facts["xids"] or []
            if wrong(event)
        ]

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


def idle(gpu: Gpu, expectation: Expectation) -> _Wrong:
    """A GPU with processes is judged by them, and one with MIG on does not tell."""
    if gpu["mig_mode"] or gpu["processes"]:
        return None
    memory, utilization = gpu["memory_used"], gpu["utilization"]
    free = memory is not None and memory <= expectation.idle_memory_max
    if free and utilization is not None and utilization <= expectation.idle_utilization_max:
        return None
    expected = f"at most {expectation.idle_memory_max} MiB and {expectation.idle_utilization_max} % in use"
    return expected, f"{_told(memory, ' MiB')} and {_told(utilization, ' %')}"
