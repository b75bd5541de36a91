# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""GPU facts through NVML, the driver's library, by the Python module pynvml. Private to this collection.

This file alone imports pynvml. Numbers of NVML are written down here where a binding of a distribution (version 11) has
no name for them yet; they are part of NVML's binary interface and never change.
"""

from __future__ import annotations

import ctypes
import typing as t

from ansible_collections.llmfleet.serving.plugins.module_utils._errors import LlmError
from ansible_collections.llmfleet.serving.plugins.module_utils._gpu_facts import (
    MISSING,
    Gpu,
    NvLink,
    Process,
    bus_id,
    next_step,
    sentence,
    silent_gpu,
)
from ansible_collections.llmfleet.serving.plugins.module_utils._gpu_host import systemd_unit

try:
    import pynvml
except ImportError:
    pynvml = None

_MIB = 1 << 20
_CLOCK_GRAPHICS, _CLOCK_MEMORY = 0, 2
_SLOWDOWN, _SHUTDOWN = 1, 0
_CORRECTED, _UNCORRECTED = 0, 1
_VOLATILE, _AGGREGATE = 0, 1
_SRAM, _DRAM = 7, 2
# Fields of nvmlDeviceGetFieldValues.
_MEMORY_TEMPERATURE = 82
_NVLINK_REPLAY, _NVLINK_RECOVERY, _NVLINK_CRC, _NVLINK_SPEED = 161, 162, 163, 164
_MARGIN_SHUTDOWN, _MARGIN_SLOWDOWN = 193, 194
_RESET_REQUIRED, _DRAIN_AND_RESET, _RECOVERY_ACTION = 226, 227, 230
_FIELDS = {
    _MEMORY_TEMPERATURE: "temperature_memory",
    _MARGIN_SHUTDOWN: "temperature_margin_shutdown",
    _MARGIN_SLOWDOWN: "temperature_margin_slowdown",
    _RESET_REQUIRED: "recovery_action",
    _DRAIN_AND_RESET: "recovery_action",
    _RECOVERY_ACTION: "recovery_action",
}
# Members of the union of a field's value, by its type.
_FIELD_MEMBERS = ("dVal", "uiVal", "ulVal", "ullVal", "sllVal", "siVal", "usVal")
# nvmlClocksEventReason* of nvml.h, by the names that nvidia-smi gives them.
_CLOCK_REASONS = {
    0x1: "gpu_idle",
    0x2: "applications_clocks_setting",
    0x4: "sw_power_cap",
    0x8: "hw_slowdown",
    0x10: "sync_boost",
    0x20: "sw_thermal_slowdown",
    0x40: "hw_thermal_slowdown",
    0x80: "hw_power_brake_slowdown",
    0x100: "display_clocks_setting",
}
_COMPUTE_MODES = {0: "Default", 1: "Exclusive_Thread", 2: "Prohibited", 3: "Exclusive_Process"}
_FABRIC_STATES = {1: "Not Started", 2: "In Progress", 3: "Completed"}
# Parts of the fabric's health mask: name, first bit, mask, the values that are no trouble. 0 is "not supported".
_FABRIC_HEALTH = (
    ("bandwidth", 0, 0x3, 2),
    ("route_recovery_in_progress", 2, 0x3, 2),
    ("route_unhealthy", 4, 0x3, 2),
    ("access_timeout_recovery", 6, 0x3, 2),
    ("incorrect_configuration", 8, 0xF, 1),
)
_RECOVERY_ACTIONS = (
    "None",
    "Reset",
    "Reboot",
    "Drain P2P",
    "Drain and Reset",
    "Recover IMEX Domain",
    "Bus Reset",
    "System Reboot",
)
_TOPOLOGY = {0: "PIX", 10: "PIX", 20: "PXB", 30: "PHB", 40: "NODE", 50: "SYS"}
_NODE_SCOPE = 0
# Return codes: success or what the GPU does not have, and what this driver's library does not know.
_NOT_AVAILABLE = {0, 3, 6}
_NOT_KNOWN = {13, 25, 26}
_GPU_IS_LOST = 15


def available() -> bool:
    """Whether pynvml is installed."""
    return pynvml is not None


def read_nvml() -> dict[str, t.Any]:
    """What NVML tells: the facts but those of `_gpu_host`.

    :raises LlmError: when pynvml is not installed or NVML does not start.
    """
    if pynvml is None:
        raise LlmError(
            "The Python module pynvml is not installed. Install the package python3-pynvml or nvidia-ml-py, "
            "or let the source be nvidia-smi."
        )
    try:
        pynvml.nvmlInit()
        count = pynvml.nvmlDeviceGetCount()
    except pynvml.NVMLError as exc:
        raise LlmError(f"NVML does not start: {sentence(str(exc))} {next_step(exc.value)}") from exc
    host = _Questions()
    cuda = host.ask("nvmlSystemGetCudaDriverVersion")
    handles = [_handle(index) for index in range(count)]
    gpus = [_gpu(index, handle) for index, handle in enumerate(handles)]
    topology = _topology(gpus, handles)
    return {
        "driver_version": _decoded(host.ask("nvmlSystemGetDriverVersion")),
        "cuda_version": None if cuda is None else f"{cuda // 1000}.{cuda % 1000 // 10}",
        "nvml_version": _decoded(host.ask("nvmlSystemGetNVMLVersion")),
        "attached_gpus": count,
        "gpus": [_asked_again(gpu, handle) for gpu, handle in zip(gpus, handles)],
        "topology": topology,
    }


class _Questions:
    """Questions to NVML. `unanswered` keeps why there is no answer, when it is not that the GPU has no such thing."""

    def __init__(self) -> None:
        self.unanswered: dict[str, str] = {}

    def ask(self, function: str, *args: t.Any, facts: tuple[str, ...] = (), older: str = "") -> t.Any:
        """What an NVML function returns; None where the GPU, the driver or the binding has no such thing.

        :param facts: the facts that come from it.
        :param older: the name that the function had before, asked when the new one gives nothing.
        :raises pynvml.NVMLError: when the GPU is lost, for then no further answer can be believed.
        """
        complaint = MISSING  # a binding can be older than the function's name
        if hasattr(pynvml, function):
            try:
                return getattr(pynvml, function)(*args)
            except pynvml.NVMLError as exc:
                if exc.value == _GPU_IS_LOST:
                    raise
                complaint = _complaint(exc.value)
        if older:
            return self.ask(older, *args, facts=facts)
        if complaint:
            self.unanswered.update(dict.fromkeys(facts, complaint))
        return None


def _complaint(code: int) -> str:
    """What an error says of a fact; empty when the GPU has no such thing, or when there is no error."""
    if code in _NOT_AVAILABLE:
        return ""
    return MISSING if code in _NOT_KNOWN else str(pynvml.NVMLError(code))


def _handle(index: int) -> t.Any:
    """The GPU's handle, or the error that came instead."""
    try:
        return pynvml.nvmlDeviceGetHandleByIndex(index)
    except pynvml.NVMLError as exc:
        return exc


def _gpu(index: int, handle: t.Any) -> Gpu:
    if isinstance(handle, pynvml.NVMLError):
        return silent_gpu(index, str(handle))
    try:
        return _GpuQuestions(index, handle).answers()
    except pynvml.NVMLError as exc:
        return silent_gpu(index, str(exc))


def _asked_again(gpu: Gpu, handle: t.Any) -> Gpu:
    """One dip of the clocks is no fault: what holds them down must do so before and after all else was read."""
    before = gpu["clocks_event_reasons"]
    if before is None:
        return gpu
    try:
        after = _clock_reasons(_Questions(), handle)
    except pynvml.NVMLError as exc:
        return silent_gpu(gpu["index"], str(exc))
    return {**gpu, "clocks_event_reasons": before if after is None else [one for one in before if one in after]}


class _GpuQuestions(_Questions):
    """Questions about one GPU. Each of the methods gives some of its facts."""

    def __init__(self, index: int, handle: t.Any) -> None:
        super().__init__()
        self._index = index
        self._handle = handle

    def answers(self) -> Gpu:
        facts = {
            "clocks_event_reasons": _clock_reasons(self, self._handle),
            **self._identity(),
            **self._memory(),
            **self._temperature_and_recovery(),
            **self._power_and_clocks(),
            **self._modes(),
            **self._ecc(),
            **self._rows(),
            **self._pcie(),
            "nvlinks": self._nvlinks(),
            **self._fabric(),
            "processes": self._processes(),
        }
        return t.cast(Gpu, {"index": self._index, "error": None, "unanswered": self.unanswered, **facts})

    def _of(self, fact: str, function: str, *args: t.Any) -> t.Any:
        """The fact that a function about this GPU returns as it is."""
        return _decoded(self.ask(function, self._handle, *args, facts=(fact,)))

    def _identity(self) -> dict[str, t.Any]:
        pci = self.ask("nvmlDeviceGetPciInfo", self._handle, facts=("pci_bus_id",))
        return {
            "name": self._of("name", "nvmlDeviceGetName"),
            "uuid": self._of("uuid", "nvmlDeviceGetUUID"),
            "serial": self._of("serial", "nvmlDeviceGetSerial"),
            "part_number": self._of("part_number", "nvmlDeviceGetBoardPartNumber"),
            "pci_bus_id": None if pci is None else bus_id(_decoded(pci.busId)),
            "vbios_version": self._of("vbios_version", "nvmlDeviceGetVbiosVersion"),
            "inforom_version": self._of("inforom_version", "nvmlDeviceGetInforomImageVersion"),
            "inforom_valid": self._inforom_valid(),
            "numa_node": self._numa_node(),
        }

    def _inforom_valid(self) -> bool | None:
        try:
            pynvml.nvmlDeviceValidateInforom(self._handle)
        except pynvml.NVMLError as exc:
            if exc.value == _GPU_IS_LOST:
                raise
            complaint = _complaint(exc.value)
            if complaint and complaint != MISSING:
                return False
            return None
        return True

    def _numa_node(self) -> int | None:
        """The node whose memory is nearest, from a set of 64 nodes."""
        nodes = self.ask("nvmlDeviceGetMemoryAffinity", self._handle, 1, _NODE_SCOPE, facts=("numa_node",))
        return None if nodes is None or not nodes[0] else (nodes[0] & -nodes[0]).bit_length() - 1

    def _memory(self) -> dict[str, t.Any]:
        """Version 2 leaves what the driver keeps for itself out of `used`, as nvidia-smi does."""
        facts = ("memory_total", "memory_used", "memory_reserved")
        memory = self.ask("nvmlDeviceGetMemoryInfo", self._handle, pynvml.nvmlMemory_v2, facts=facts)
        utilization = self.ask("nvmlDeviceGetUtilizationRates", self._handle, facts=("utilization",))
        return {
            "memory_total": None if memory is None else memory.total // _MIB,
            "memory_used": None if memory is None else memory.used // _MIB,
            "memory_reserved": None if memory is None else memory.reserved // _MIB,
            "utilization": None if utilization is None else utilization.gpu,
        }

    def _temperature_and_recovery(self) -> dict[str, t.Any]:
        fields = self._fields([(field, 0) for field in _FIELDS])
        older = "nvmlDeviceGetTemperature"
        margin = fields.get((_MARGIN_SLOWDOWN, 0))
        return {
            "temperature": self.ask("nvmlDeviceGetTemperatureV", self._handle, 0, facts=("temperature",), older=older),
            "temperature_memory": fields.get((_MEMORY_TEMPERATURE, 0)),
            # A GPU has limits in degrees or, newer, in degrees left.
            "temperature_slowdown": self._limit("temperature_slowdown", _SLOWDOWN) if margin is None else None,
            "temperature_shutdown": self._limit("temperature_shutdown", _SHUTDOWN) if margin is None else None,
            "temperature_margin": self._of("temperature_margin", "nvmlDeviceGetMarginTemperature"),
            "temperature_margin_slowdown": margin,
            "temperature_margin_shutdown": fields.get((_MARGIN_SHUTDOWN, 0)),
            "recovery_action": self._recovery_action(fields),
        }

    def _limit(self, fact: str, threshold: int) -> t.Any:
        return self._of(fact, "nvmlDeviceGetTemperatureThreshold", threshold)

    def _recovery_action(self, fields: dict[tuple[int, int], t.Any]) -> str | None:
        """Drivers before 560 say it in two flags."""
        action = fields.get((_RECOVERY_ACTION, 0))
        if action is not None:
            return _RECOVERY_ACTIONS[action] if action < len(_RECOVERY_ACTIONS) else f"action {action}"
        reset, drain = fields.get((_RESET_REQUIRED, 0)), fields.get((_DRAIN_AND_RESET, 0))
        if reset is None and drain is None:
            return None
        return "Drain and Reset" if drain else "Reset" if reset else "None"

    def _power_and_clocks(self) -> dict[str, t.Any]:
        limits = ("power_limit_min", "power_limit_max")
        bounds = self.ask("nvmlDeviceGetPowerManagementLimitConstraints", self._handle, facts=limits) or (None, None)
        state = self._of("performance_state", "nvmlDeviceGetPerformanceState")
        return {
            "power_draw": _watts(self._of("power_draw", "nvmlDeviceGetPowerUsage")),
            "power_limit": _watts(self._of("power_limit", "nvmlDeviceGetEnforcedPowerLimit")),
            "power_limit_default": _watts(self._of("power_limit_default", "nvmlDeviceGetPowerManagementDefaultLimit")),
            "power_limit_min": _watts(bounds[0]),
            "power_limit_max": _watts(bounds[1]),
            "performance_state": None if state is None else f"P{state}",
            "clock_graphics": self._of("clock_graphics", "nvmlDeviceGetClockInfo", _CLOCK_GRAPHICS),
            "clock_memory": self._of("clock_memory", "nvmlDeviceGetClockInfo", _CLOCK_MEMORY),
            "clock_graphics_max": self._of("clock_graphics_max", "nvmlDeviceGetMaxClockInfo", _CLOCK_GRAPHICS),
            "clock_memory_max": self._of("clock_memory_max", "nvmlDeviceGetMaxClockInfo", _CLOCK_MEMORY),
        }

    def _modes(self) -> dict[str, t.Any]:
        mig = self.ask("nvmlDeviceGetMigMode", self._handle, facts=("mig_mode", "mig_mode_pending")) or (None, None)
        ecc = self.ask("nvmlDeviceGetEccMode", self._handle, facts=("ecc_mode", "ecc_mode_pending")) or (None, None)
        return {
            "persistence_mode": _flag(self._of("persistence_mode", "nvmlDeviceGetPersistenceMode")),
            "compute_mode": _COMPUTE_MODES.get(self._of("compute_mode", "nvmlDeviceGetComputeMode")),
            "mig_mode": _flag(mig[0]),
            "mig_mode_pending": _flag(mig[1]),
            "ecc_mode": _flag(ecc[0]),
            "ecc_mode_pending": _flag(ecc[1]),
        }

    def _ecc(self) -> dict[str, t.Any]:
        facts = {}
        for period, counter in (("volatile", _VOLATILE), ("aggregate", _AGGREGATE)):
            fact = f"ecc_uncorrected_{period}"
            facts[fact] = self._of(fact, "nvmlDeviceGetTotalEccErrors", _UNCORRECTED, counter)
            for memory, location in (("sram", _SRAM), ("dram", _DRAM)):
                for kind, error in (("corrected", _CORRECTED), ("uncorrected", _UNCORRECTED)):
                    fact = f"ecc_{memory}_{kind}_{period}"
                    facts[fact] = self._of(fact, "nvmlDeviceGetMemoryErrorCounter", error, counter, location)
        status = self._structure(
            "c_nvmlEccSramErrorStatus_v1_t", "nvmlDeviceGetSramEccErrorStatus", "ecc_sram_threshold_exceeded"
        )
        return {**facts, "ecc_sram_threshold_exceeded": None if status is None else bool(status.bThresholdExceeded)}

    def _structure(self, structure: str, function: str, *facts: str) -> t.Any:
        """What a function puts into a structure. The binding hands its argument to C as it is: it must be a pointer."""
        if not hasattr(pynvml, structure):
            self.unanswered.update(dict.fromkeys(facts, MISSING))
            return None
        filled = getattr(pynvml, structure)()
        return None if self.ask(function, self._handle, ctypes.byref(filled), facts=facts) is None else filled

    def _rows(self) -> dict[str, t.Any]:
        names = [f"remapped_rows_{name}" for name in ("corrected", "uncorrected", "pending", "failure")]
        rows = self.ask("nvmlDeviceGetRemappedRows", self._handle, facts=tuple(names)) or (None,) * 4
        banks = self.ask("nvmlDeviceGetRowRemapperHistogram", self._handle, facts=("remapped_rows_histogram",))
        repair = self.ask("nvmlDeviceGetRepairStatus", self._handle, facts=("repair_pending",))
        broken = self._of("unrepairable_memory", "nvmlDeviceGetUnrepairableMemoryFlag_v1")
        return {
            **dict(zip(names, (rows[0], rows[1], _flag(rows[2]), _flag(rows[3])))),
            "remapped_rows_histogram": None
            if banks is None
            else {name: getattr(banks, name) for name in ("max", "high", "partial", "low", "none")},
            "repair_pending": None if repair is None else any(repair),
            "unrepairable_memory": _flag(broken),
        }

    def _pcie(self) -> dict[str, t.Any]:
        return {
            "pcie_gen": self._of("pcie_gen", "nvmlDeviceGetCurrPcieLinkGeneration"),
            "pcie_gen_max": self._of("pcie_gen_max", "nvmlDeviceGetMaxPcieLinkGeneration"),
            "pcie_width": self._of("pcie_width", "nvmlDeviceGetCurrPcieLinkWidth"),
            "pcie_width_max": self._of("pcie_width_max", "nvmlDeviceGetMaxPcieLinkWidth"),
            "pcie_replays": self._of("pcie_replays", "nvmlDeviceGetPcieReplayCounter"),
        }

    def _nvlinks(self) -> list[NvLink] | None:
        """The links that the GPU has, None when it has none: a number without a link gives an error."""
        states = {link: self._link("State", link) for link in range(pynvml.NVML_NVLINK_MAX_LINKS)}
        links = [link for link, state in states.items() if state is not None]
        counters = (_NVLINK_SPEED, _NVLINK_REPLAY, _NVLINK_RECOVERY, _NVLINK_CRC)
        # nvidia-smi does not tell the errors of a link that is down, either.
        values = self._fields([(field, link) for link in links if states[link] for field in counters])
        return [
            {
                "link": link,
                "active": bool(states[link]),
                "speed": values.get((_NVLINK_SPEED, link)),
                "peer": self._peer(link) if states[link] else None,
                "replay_errors": values.get((_NVLINK_REPLAY, link)),
                "recovery_errors": values.get((_NVLINK_RECOVERY, link)),
                "crc_errors": values.get((_NVLINK_CRC, link)),
            }
            for link in links
        ] or None

    def _link(self, what: str, link: int) -> t.Any:
        return self.ask(f"nvmlDeviceGetNvLink{what}", self._handle, link)

    def _peer(self, link: int) -> str | None:
        pci = self._link("RemotePciInfo", link)
        return None if pci is None else bus_id(_decoded(pci.busId))

    def _fields(self, wanted: list[tuple[int, int]]) -> dict[tuple[int, int], t.Any]:
        """The values of (field, scope) that there are."""
        values = self.ask("nvmlDeviceGetFieldValues", self._handle, wanted) if wanted else None
        for value in values or []:
            complaint = _complaint(value.nvmlReturn)
            if complaint and value.fieldId in _FIELDS:
                self.unanswered[_FIELDS[value.fieldId]] = complaint
        return {
            (value.fieldId, value.scopeId): getattr(value.value, _FIELD_MEMBERS[value.valueType])
            for value in values or []
            if value.nvmlReturn == 0 and value.valueType < len(_FIELD_MEMBERS)
        }

    def _fabric(self) -> dict[str, t.Any]:
        """The GPU's registration with the NVSwitch fabric; all but its state counts once it is completed."""
        facts = ("fabric_state", "fabric_status", "fabric_clique", "fabric_cluster", "fabric_health")
        info = self._structure("c_nvmlGpuFabricInfo_v2_t", "nvmlDeviceGetGpuFabricInfoV", *facts)
        nothing: dict[str, t.Any] = dict.fromkeys(facts)
        if info is None:
            return nothing
        state = _FABRIC_STATES.get(info.state)
        if state != "Completed":
            return {**nothing, "fabric_state": state}
        cluster = bytes(info.clusterUuid).hex()
        return {
            "fabric_state": state,
            "fabric_status": str(pynvml.NVMLError(info.status)) if info.status else "Success",
            "fabric_clique": info.cliqueId,
            "fabric_cluster": "-".join(cluster[a:b] for a, b in ((0, 8), (8, 12), (12, 16), (16, 20), (20, 32))),
            "fabric_health": _fabric_health(info.healthMask),
        }

    def _processes(self) -> list[Process] | None:
        kinds = ("Compute", "Graphics", "MPSCompute")
        answers = [self.ask(f"nvmlDeviceGet{kind}RunningProcesses", self._handle) for kind in kinds]
        if answers[0] is None:
            return None
        found = {process.pid: process for answer in answers for process in answer or []}
        return [
            {
                "pid": pid,
                "name": _decoded(self.ask("nvmlSystemGetProcessName", pid)),
                "memory": None if process.usedGpuMemory is None else process.usedGpuMemory // _MIB,
                "unit": systemd_unit(pid),
            }
            for pid, process in sorted(found.items())
        ]


def _decoded(value: t.Any) -> t.Any:
    """Bindings up to version 11 return bytes for text."""
    return value.decode(errors="replace") if isinstance(value, bytes) else value


def _watts(milliwatts: int | None) -> float | None:
    return None if milliwatts is None else round(milliwatts / 1000, 2)


def _flag(value: int | None) -> bool | None:
    return None if value is None else bool(value)


def _clock_reasons(questions: _Questions, handle: t.Any) -> list[str] | None:
    function, older = "nvmlDeviceGetCurrentClocksEventReasons", "nvmlDeviceGetCurrentClocksThrottleReasons"
    mask = questions.ask(function, handle, facts=("clocks_event_reasons",), older=older)
    return None if mask is None else sorted(name for bit, name in _CLOCK_REASONS.items() if mask & bit)


def _fabric_health(mask: int) -> list[str] | None:
    """The names of what is wrong; None when the driver judges nothing."""
    told = {name: mask >> first & bits for name, first, bits, _fine in _FABRIC_HEALTH}
    if not any(told.values()):
        return None
    return [name for name, _first, _bits, fine in _FABRIC_HEALTH if told[name] not in (0, fine)]


def _topology(gpus: list[Gpu], handles: list[t.Any]) -> list[list[str | None]]:
    """How each GPU reaches each other one. NVLinks count when they end there, or in the same switches."""
    return [[_way(gpus, handles, a, b) for b in range(len(gpus))] for a in range(len(gpus))]


def _way(gpus: list[Gpu], handles: list[t.Any], a: int, b: int) -> str | None:
    if a == b:
        return "X"
    if gpus[a]["error"] or gpus[b]["error"]:
        return None
    addresses = {gpu["pci_bus_id"] for gpu in gpus}
    peers = [[link["peer"] for link in gpus[gpu]["nvlinks"] or [] if link["active"]] for gpu in (a, b)]
    links = peers[0].count(gpus[b]["pci_bus_id"]) or min(
        sum(peer not in addresses for peer in of_one) for of_one in peers
    )
    if links:
        return f"NV{links}"
    try:
        level = _Questions().ask("nvmlDeviceGetTopologyCommonAncestor", handles[a], handles[b])
    except pynvml.NVMLError:
        return None
    return _TOPOLOGY.get(level)
