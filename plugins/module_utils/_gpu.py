# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a host's NVIDIA GPUs are and how they are, read through NVML or nvidia-smi. Private to this collection.

NVML (Python module pynvml) is asked first; where it is not installed, the output of `nvidia-smi -q -x` and
`nvidia-smi nvlink -s` is parsed into the same facts. Both are asked in a child process with a time limit, because a
sick driver can block a caller for ever, and because NVML is a C library that can take its process down.
"""

from __future__ import annotations

import ctypes
import re
import typing as t
from pathlib import Path
from xml.etree import ElementTree

from ansible_collections.llmfleet.serving.plugins.module_utils._child import in_child
from ansible_collections.llmfleet.serving.plugins.module_utils._errors import LlmError

try:
    import pynvml
except ImportError:
    pynvml = None

SCHEMA = 1
_MIB = 1 << 20


class NvLink(t.TypedDict):
    """One NVLink of a GPU: its number, whether it is up, its raw rate per direction in MB/s (None while it is down)."""

    link: int
    active: bool
    speed: int | None


class Process(t.TypedDict):
    """A process that uses a GPU: memory in MiB, and the systemd unit that it belongs to."""

    pid: int
    name: str | None
    memory: int | None
    unit: str | None


class Gpu(t.TypedDict):
    """One GPU. None means that the GPU, the driver or the source does not tell; `error` says why all else is None.

    Memory is in MiB, utilization in percent, temperature in degrees Celsius, power in watts, ECC figures are counts.
    """

    index: int | None
    error: str | None
    name: str | None
    uuid: str | None
    serial: str | None
    pci_bus_id: str | None
    memory_total: int | None
    memory_used: int | None
    utilization: int | None
    temperature: int | None
    power_draw: float | None
    power_limit: float | None
    persistence_mode: bool | None
    compute_mode: str | None
    mig_mode: bool | None
    ecc_mode: bool | None
    ecc_uncorrected_volatile: int | None
    ecc_uncorrected_aggregate: int | None
    remapped_rows_pending: bool | None
    remapped_rows_failure: bool | None
    clocks_event_reasons: list[str] | None
    pcie_gen: int | None
    pcie_gen_max: int | None
    pcie_width: int | None
    pcie_width_max: int | None
    nvlinks: list[NvLink] | None
    fabric_state: str | None
    fabric_status: str | None
    processes: list[Process] | None


class Facts(t.TypedDict):
    """All that is known of a host's GPUs. `attached_gpus` is the driver's count, lost GPUs included."""

    schema: int
    source: str
    driver_version: str | None
    cuda_version: str | None
    nvml_version: str | None
    attached_gpus: int | None
    gpus: list[Gpu]


class DriverError(LlmError):
    """The driver is not there, does not work or does not answer."""


# AnsibleModule.run_command, or what takes and gives the same: exit status, output and error output of a command.
RunCommand = t.Callable[..., "tuple[int, str, str]"]


def read_facts(run: RunCommand, source: str = "auto", timeout: int = 60) -> Facts:
    """Ask this host's driver, for at most `timeout` seconds.

    :param run: runs nvidia-smi.
    :param source: `nvml`, `nvidia-smi`, or `auto`: NVML where pynvml is installed, else nvidia-smi.
    :raises DriverError: when there are no facts to be had.
    :raises LlmError: when the time limit is none.
    """
    if not 1 <= timeout <= 3600:
        raise LlmError(f"A time limit of {timeout} s is refused: expected 1 to 3600.")
    if source == "auto":
        source = "nvidia-smi" if pynvml is None else "nvml"
    try:
        return t.cast(Facts, in_child(_read_nvml if source == "nvml" else lambda: _read_smi(run), timeout))
    except TimeoutError as exc:
        raise DriverError(
            f"The NVIDIA driver did not answer {source} within {timeout} s: it hangs, or a GPU is lost. "
            f"{_ANY_STEP} Then reboot the host. If it is only slow, raise the time limit or turn persistence mode on."
        ) from exc
    except ChildProcessError as exc:
        raise DriverError(f"Reading the GPUs through {source} ended with {exc} and no answer. {_ANY_STEP}") from exc
    except LlmError as exc:
        raise DriverError(str(exc)) from exc


# What to do about an NVML return code. nvidia-smi uses the same numbers as exit status.
_NEXT_STEP = {
    4: "Run as root, or give the account access to /dev/nvidia*.",
    6: "No NVIDIA GPU is visible: look for it with `lspci -d 10de:`, then check its power and seating.",
    8: "A power cable of a GPU is missing or loose: connect it.",
    9: "Load the driver with `modprobe nvidia`; if that fails, install the driver for the running kernel, then reboot.",
    12: "Install the driver's library package (libnvidia-ml1 or libnvidia-compute) in the version of the driver.",
    15: "A GPU has fallen off the bus: read `journalctl -k | grep -i xid`, then power-cycle the host.",
    18: "The loaded kernel module and the libraries have different versions: reboot, or reload the module.",
}
_ANY_STEP = "Read `journalctl -k | grep -i nvrm` for what the driver says."


def _sentence(words: str) -> str:
    """What a tool said, on one line and with one full stop."""
    return (" ".join(words.split())[:500].rstrip(".") or "nothing") + "."


def _next_step(code: int) -> str:
    return _NEXT_STEP.get(code, _ANY_STEP)


# --- NVML

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
_GPU_IS_LOST = 15


def _read_nvml() -> Facts:
    if pynvml is None:
        raise LlmError(
            "The Python module pynvml is not installed. Install the package python3-pynvml or nvidia-ml-py, "
            "or let the source be nvidia-smi."
        )
    try:
        pynvml.nvmlInit()
        count = pynvml.nvmlDeviceGetCount()
    except pynvml.NVMLError as exc:
        raise LlmError(f"NVML does not start: {_sentence(str(exc))} {_next_step(exc.value)}") from exc
    cuda = _ask("nvmlSystemGetCudaDriverVersion")
    return {
        "schema": SCHEMA,
        "source": "nvml",
        "driver_version": _decoded(_ask("nvmlSystemGetDriverVersion")),
        "cuda_version": None if cuda is None else f"{cuda // 1000}.{cuda % 1000 // 10}",
        "nvml_version": _decoded(_ask("nvmlSystemGetNVMLVersion")),
        "attached_gpus": count,
        "gpus": [_nvml_gpu(index) for index in range(count)],
    }


def _ask(function: str, *args: t.Any, older: str = "") -> t.Any:
    """What an NVML function returns; None where the GPU, the driver or the binding has no such thing.

    :param older: the name that the function had before, asked when the new one gives nothing.
    :raises pynvml.NVMLError: when the GPU is lost, for then no further answer can be believed.
    """
    answer = None
    try:
        # A binding can be older than the function's name.
        answer = getattr(pynvml, function)(*args) if hasattr(pynvml, function) else None
    except pynvml.NVMLError as exc:
        if exc.value == _GPU_IS_LOST:
            raise
    return _ask(older, *args) if answer is None and older else answer


def _nvml_gpu(index: int) -> Gpu:
    try:
        return _nvml_answers(index, pynvml.nvmlDeviceGetHandleByIndex(index))
    except pynvml.NVMLError as exc:
        return _silent_gpu(index, str(exc))


def _silent_gpu(index: int | None, error: str) -> Gpu:
    """A GPU that is attached but tells nothing."""
    nothing: dict[str, t.Any] = dict.fromkeys(Gpu.__annotations__)
    return t.cast(Gpu, {**nothing, "index": index, "error": error})


def _nvml_answers(index: int, gpu: t.Any) -> Gpu:
    pci = _ask("nvmlDeviceGetPciInfo", gpu)
    memory = _memory(gpu)
    remapped = _ask("nvmlDeviceGetRemappedRows", gpu)
    utilization = _ask("nvmlDeviceGetUtilizationRates", gpu)
    mig = _ask("nvmlDeviceGetMigMode", gpu)
    ecc = _ask("nvmlDeviceGetEccMode", gpu)
    fabric_state, fabric_status = _fabric(gpu)
    return {
        "index": index,
        "error": None,
        "name": _decoded(_ask("nvmlDeviceGetName", gpu)),
        "uuid": _decoded(_ask("nvmlDeviceGetUUID", gpu)),
        "serial": _decoded(_ask("nvmlDeviceGetSerial", gpu)),
        "pci_bus_id": None if pci is None else _bus_id(_decoded(pci.busId)),
        "memory_total": None if memory is None else memory.total // _MIB,
        "memory_used": None if memory is None else memory.used // _MIB,
        "utilization": None if utilization is None else utilization.gpu,
        "temperature": _ask("nvmlDeviceGetTemperatureV", gpu, 0, older="nvmlDeviceGetTemperature"),
        "power_draw": _watts(_ask("nvmlDeviceGetPowerUsage", gpu)),
        "power_limit": _watts(_ask("nvmlDeviceGetEnforcedPowerLimit", gpu)),
        "persistence_mode": _flag(_ask("nvmlDeviceGetPersistenceMode", gpu)),
        "compute_mode": _COMPUTE_MODES.get(_ask("nvmlDeviceGetComputeMode", gpu)),
        "mig_mode": None if mig is None else _flag(mig[0]),
        "ecc_mode": None if ecc is None else _flag(ecc[0]),
        "ecc_uncorrected_volatile": _uncorrected(gpu, "VOLATILE_ECC"),
        "ecc_uncorrected_aggregate": _uncorrected(gpu, "AGGREGATE_ECC"),
        "remapped_rows_pending": None if remapped is None else _flag(remapped[2]),
        "remapped_rows_failure": None if remapped is None else _flag(remapped[3]),
        "clocks_event_reasons": _clock_reasons(gpu),
        "pcie_gen": _ask("nvmlDeviceGetCurrPcieLinkGeneration", gpu),
        "pcie_gen_max": _ask("nvmlDeviceGetMaxPcieLinkGeneration", gpu),
        "pcie_width": _ask("nvmlDeviceGetCurrPcieLinkWidth", gpu),
        "pcie_width_max": _ask("nvmlDeviceGetMaxPcieLinkWidth", gpu),
        "nvlinks": _nvlinks(gpu),
        "fabric_state": fabric_state,
        "fabric_status": fabric_status,
        "processes": _nvml_processes(gpu),
    }


def _decoded(text: t.Any) -> str | None:
    """Bindings up to version 11 return bytes."""
    return text.decode(errors="replace") if isinstance(text, bytes) else text


def _bus_id(text: str | None) -> str | None:
    """A PCI address the way nvidia-smi writes it: eight digits of domain, upper case."""
    return None if text is None else text.upper()


def _watts(milliwatts: int | None) -> float | None:
    return None if milliwatts is None else round(milliwatts / 1000, 2)


def _flag(value: int | None) -> bool | None:
    return None if value is None else bool(value)


def _memory(gpu: t.Any) -> t.Any:
    """Version 2 leaves what the driver keeps for itself out of `used`, as nvidia-smi does."""
    return _ask("nvmlDeviceGetMemoryInfo", gpu, pynvml.nvmlMemory_v2)


def _uncorrected(gpu: t.Any, period: str) -> int | None:
    kind = pynvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED
    return t.cast("int | None", _ask("nvmlDeviceGetTotalEccErrors", gpu, kind, getattr(pynvml, f"NVML_{period}")))


def _clock_reasons(gpu: t.Any) -> list[str] | None:
    older = "nvmlDeviceGetCurrentClocksThrottleReasons"
    mask = _ask("nvmlDeviceGetCurrentClocksEventReasons", gpu, older=older)
    return None if mask is None else sorted(name for bit, name in _CLOCK_REASONS.items() if mask & bit)


def _nvlinks(gpu: t.Any) -> list[NvLink] | None:
    """The links that the GPU has, in a list that is empty for None: a number without a link gives an error."""
    links: list[NvLink] = []
    for link in range(pynvml.NVML_NVLINK_MAX_LINKS):
        state = _ask("nvmlDeviceGetNvLinkState", gpu, link)
        if state is not None:
            links.append({"link": link, "active": bool(state), "speed": _nvlink_speed(gpu, link) if state else None})
    return links or None


def _nvlink_speed(gpu: t.Any, link: int) -> int | None:
    values = _ask("nvmlDeviceGetFieldValues", gpu, [(pynvml.NVML_FI_DEV_NVLINK_GET_SPEED, link)])
    return None if values is None or values[0].nvmlReturn else int(values[0].value.uiVal)


def _fabric(gpu: t.Any) -> tuple[str | None, str | None]:
    """State and status of the GPU's registration with the NVSwitch fabric; the status counts once it is completed.

    The binding hands its argument to C as it is: only a pointer to the structure may be passed.
    """
    if not hasattr(pynvml, "c_nvmlGpuFabricInfo_v2_t"):
        return None, None
    info = pynvml.c_nvmlGpuFabricInfo_v2_t()
    if _ask("nvmlDeviceGetGpuFabricInfoV", gpu, ctypes.byref(info)) is None:
        return None, None
    state = _FABRIC_STATES.get(info.state)
    if state != "Completed":
        return state, None
    return state, str(pynvml.NVMLError(info.status)) if info.status else "Success"


def _nvml_processes(gpu: t.Any) -> list[Process] | None:
    kinds = ("Compute", "Graphics", "MPSCompute")
    answers = [_ask(f"nvmlDeviceGet{kind}RunningProcesses", gpu) for kind in kinds]
    if answers[0] is None:
        return None
    found = {process.pid: process for answer in answers for process in answer or []}
    return [
        {
            "pid": pid,
            "name": _decoded(_ask("nvmlSystemGetProcessName", pid)),
            "memory": None if process.usedGpuMemory is None else process.usedGpuMemory // _MIB,
            "unit": systemd_unit(pid),
        }
        for pid, process in sorted(found.items())
    ]


def systemd_unit(pid: int) -> str | None:
    """The innermost systemd service or scope that a process runs in; None when there is none or it has ended."""
    try:
        cgroups = Path(f"/proc/{pid}/cgroup").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    units = re.findall(r"[^/\n]+\.(?:service|scope)(?=/|$)", cgroups, re.MULTILINE)
    return units[-1] if units else None


# --- nvidia-smi


def _read_smi(run: RunCommand) -> Facts:
    status, output, complaint = _run_smi(run, "-q", "-x")
    try:
        facts = parse_smi(output)
    except LlmError as exc:
        if status == 0:
            raise LlmError(f"{exc} Its error output: {_sentence(complaint)}") from exc
        said = _sentence(complaint or output)
        raise LlmError(f"nvidia-smi ended with status {status}: {said} {_next_step(status)}") from exc
    nvlinks = parse_nvlinks(_run_smi(run, "nvlink", "-s")[1])
    for gpu in facts["gpus"]:
        gpu["nvlinks"] = nvlinks.get(gpu["uuid"] or "")
        for process in gpu["processes"] or []:
            process["unit"] = systemd_unit(process["pid"])
    return facts


def _run_smi(run: RunCommand, *args: str) -> tuple[int, str, str]:
    """Exit status, output and error output. The time limit is the caller's."""
    try:
        return run(["nvidia-smi", *args], environ_update={"LC_ALL": "C"}, handle_exceptions=False)
    except OSError as exc:
        raise LlmError(
            f"nvidia-smi cannot be run: {exc.strerror}. Install the driver's tools (package nvidia-smi or "
            "nvidia-utils), or the Python module pynvml (package python3-pynvml or nvidia-ml-py)."
        ) from exc


def parse_smi(xml: str) -> Facts:
    """The facts in the output of `nvidia-smi -q -x`, drivers 535 to 580. NVLinks and units of processes are not in it.

    :raises LlmError: when the text is not the whole of such an output.
    """
    try:
        root = ElementTree.fromstring(xml)  # noqa: S314 - the driver's own tool wrote it
    except (ElementTree.ParseError, ValueError) as exc:
        raise LlmError(f"The output of `nvidia-smi -q -x` is not whole XML: {exc}. {_ANY_STEP}") from exc
    if root.tag != "nvidia_smi_log":
        raise LlmError(f"The output of `nvidia-smi -q -x` begins with <{root.tag}>; expected <nvidia_smi_log>.")
    gpus = root.findall("gpu")
    attached = _whole(root, "attached_gpus")
    return {
        "schema": SCHEMA,
        "source": "nvidia-smi",
        "driver_version": _text(root, "driver_version"),
        "cuda_version": _text(root, "cuda_version"),
        "nvml_version": None,
        "attached_gpus": attached,
        # A lost GPU can be left out without a trace: the others' positions are then no longer their indices.
        "gpus": [_smi_gpu(position if len(gpus) == attached else None, gpu) for position, gpu in enumerate(gpus)],
    }


def _smi_gpu(index: int | None, gpu: ElementTree.Element) -> Gpu:
    uuid = _text(gpu, "uuid")
    if not (uuid or "").startswith("GPU-"):
        # A lost GPU can be listed with "GPU is lost" in the place of every value.
        return _silent_gpu(index, uuid or "nvidia-smi tells no UUID")
    return {
        "index": index,
        "error": None,
        "name": _text(gpu, "product_name"),
        "uuid": uuid,
        "serial": _text(gpu, "serial"),
        "pci_bus_id": _bus_id(_text(gpu, "pci/pci_bus_id")),
        "memory_total": _whole(gpu, "fb_memory_usage/total"),
        "memory_used": _whole(gpu, "fb_memory_usage/used"),
        "utilization": _whole(gpu, "utilization/gpu_util"),
        "temperature": _whole(gpu, "temperature/gpu_temp"),
        "power_draw": _number(gpu, "gpu_power_readings/average_power_draw", "gpu_power_readings/power_draw"),
        "power_limit": _number(gpu, "gpu_power_readings/current_power_limit", "gpu_power_readings/power_limit"),
        "persistence_mode": _switch(gpu, "persistence_mode"),
        "compute_mode": _text(gpu, "compute_mode"),
        "mig_mode": _switch(gpu, "mig_mode/current_mig"),
        "ecc_mode": _switch(gpu, "ecc_mode/current_ecc"),
        "ecc_uncorrected_volatile": _smi_uncorrected(gpu, "ecc_errors/volatile"),
        "ecc_uncorrected_aggregate": _smi_uncorrected(gpu, "ecc_errors/aggregate"),
        "remapped_rows_pending": _switch(gpu, "remapped_rows/remapped_row_pending"),
        "remapped_rows_failure": _switch(gpu, "remapped_rows/remapped_row_failure"),
        "clocks_event_reasons": _smi_clock_reasons(gpu),
        "pcie_gen": _whole(gpu, "pci/pci_gpu_link_info/pcie_gen/current_link_gen"),
        "pcie_gen_max": _whole(gpu, "pci/pci_gpu_link_info/pcie_gen/max_link_gen"),
        "pcie_width": _whole(gpu, "pci/pci_gpu_link_info/link_widths/current_link_width"),
        "pcie_width_max": _whole(gpu, "pci/pci_gpu_link_info/link_widths/max_link_width"),
        "nvlinks": None,
        "fabric_state": _text(gpu, "fabric/state"),
        "fabric_status": _text(gpu, "fabric/status"),
        "processes": _smi_processes(gpu),
    }


def _text(element: ElementTree.Element, *paths: str) -> str | None:
    """The text below the first path that has one; "N/A" is none."""
    for path in paths:
        text = (element.findtext(path) or "").strip()
        if text not in ("", "N/A", "[N/A]", "[Not Supported]"):
            return text
    return None


def _number(element: ElementTree.Element, *paths: str) -> float | None:
    """A figure with or without its unit; anything else that stands there ("Unknown Error") is no figure."""
    found = re.fullmatch(r"(-?[0-9]{1,15}(?:\.[0-9]{1,6})?) ?(?:MiB|C|W|%|x)?", _text(element, *paths) or "")
    return float(found[1]) if found else None


def _whole(element: ElementTree.Element, path: str) -> int | None:
    number = _number(element, path)
    return None if number is None else int(number)


def _switch(element: ElementTree.Element, path: str) -> bool | None:
    return {"Enabled": True, "Yes": True, "Disabled": False, "No": False}.get(_text(element, path) or "")


def _smi_uncorrected(gpu: ElementTree.Element, path: str) -> int | None:
    """The sum over SRAM and DRAM, whose elements differ between drivers but all say "uncorrectable"."""
    kinds = [kind.tag for kind in gpu.findall(f"{path}/*") if "uncorrectable" in kind.tag]
    counts = [count for count in (_whole(gpu, f"{path}/{kind}") for kind in kinds) if count is not None]
    # A sum over some of them would hide what the others have.
    return sum(counts) if kinds and len(counts) == len(kinds) else None


def _smi_clock_reasons(gpu: ElementTree.Element) -> list[str] | None:
    """Drivers before 535.54 say "throttle" where later ones say "event"."""
    for word in ("event", "throttle"):
        reasons = gpu.findall(f"clocks_{word}_reasons/*")
        if any((reason.text or "").strip() in ("Active", "Not Active") for reason in reasons):
            active = [reason.tag for reason in reasons if (reason.text or "").strip() == "Active"]
            return sorted(tag.replace(f"clocks_{word}_reason_", "") for tag in active)
    return None


def _smi_processes(gpu: ElementTree.Element) -> list[Process] | None:
    if gpu.find("processes") is None:
        return None
    found: dict[int, Process] = {}
    for process in gpu.findall("processes/process_info"):
        # The driver shows processes of other containers without their number.
        pid = _whole(process, "pid") or 0
        name, memory = _text(process, "process_name"), _whole(process, "used_memory")
        found[pid] = {"pid": pid, "name": name, "memory": memory, "unit": None}
    return [found[pid] for pid in sorted(found)]


_NVLINK = r"^\s+Link (\d{1,3}): (?:([0-9]{1,6})(?:\.([0-9]{3}))? GB/s|<inactive>)$"


def parse_nvlinks(text: str) -> dict[str, list[NvLink]]:
    """The NVLinks of each GPU, by its UUID, in the output of `nvidia-smi nvlink -s`."""
    links: dict[str, list[NvLink]] = {}
    for section in re.split(r"^GPU \d+:", text, flags=re.MULTILINE)[1:]:
        uuid = re.search(r"\(UUID: (GPU-[^)\s]+)\)", section)
        found = re.findall(
            r"^\s+Link (\d{1,3}): (?:([0-9]{1,6})(?:\.([0-9]{3}))? GB/s|<inactive>)$", section, re.MULTILINE
        )
        if uuid and found:
            links[uuid[1]] = [_smi_nvlink(*link) for link in found]
    return links


def _smi_nvlink(link: str, gigabytes: str, thousandths: str) -> NvLink:
    speed = int(gigabytes) * 1000 + int(thousandths or 0) if gigabytes else None
    return {"link": int(link), "active": speed is not None, "speed": speed}
