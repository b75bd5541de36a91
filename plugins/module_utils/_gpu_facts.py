# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The schema of GPU facts: what is told of a host's NVIDIA GPUs, whoever tells it. Private to this collection."""

from __future__ import annotations

import typing as t

from ansible_collections.llmfleet.serving.plugins.module_utils._errors import LlmError

# It rises when a key changes its meaning or goes away.
SCHEMA = 2
# Why a fact is None in `Gpu.unanswered`, when the driver or the tool has no such thing at all.
MISSING = "missing"


class DriverError(LlmError):
    """The driver is not there, does not work or does not answer."""


# AnsibleModule.run_command, or what takes and gives the same: exit status, output and error output of a command.
RunCommand = t.Callable[..., "tuple[int, str, str]"]


class NvLink(t.TypedDict):
    """One NVLink of a GPU.

    `speed` is its raw rate for each direction in MB/s and `peer` the PCI address at its other end. Errors are counts
    since the driver was loaded or the counters were reset. All this is None while the link is down.
    """

    link: int
    active: bool
    speed: int | None
    peer: str | None
    replay_errors: int | None
    recovery_errors: int | None
    crc_errors: int | None


class Process(t.TypedDict):
    """A process that uses a GPU: memory in MiB, and the systemd unit that it belongs to."""

    pid: int
    name: str | None
    memory: int | None
    unit: str | None


class Gpu(t.TypedDict):
    """One GPU; `error` says why all else is None.

    None is a value that the GPU does not have ("N/A"). Where it stands for something else, `unanswered` has, by the
    name of the fact, what came instead: `MISSING`, or the words of the driver ("Unknown Error").

    Memory is in MiB, utilization in percent, temperature and margins in degrees Celsius, power in watts, clocks in
    MHz. Volatile counters start when the driver is loaded, aggregate ones are for ever.
    """

    index: int | None
    error: str | None
    unanswered: dict[str, str]
    name: str | None
    uuid: str | None
    serial: str | None
    part_number: str | None
    pci_bus_id: str | None
    vbios_version: str | None
    inforom_version: str | None
    inforom_valid: bool | None
    numa_node: int | None
    memory_total: int | None
    memory_used: int | None
    memory_reserved: int | None
    utilization: int | None
    temperature: int | None
    temperature_memory: int | None
    temperature_slowdown: int | None
    temperature_shutdown: int | None
    temperature_margin: int | None
    temperature_margin_slowdown: int | None
    temperature_margin_shutdown: int | None
    power_draw: float | None
    power_limit: float | None
    power_limit_default: float | None
    power_limit_min: float | None
    power_limit_max: float | None
    performance_state: str | None
    clock_graphics: int | None
    clock_memory: int | None
    clock_graphics_max: int | None
    clock_memory_max: int | None
    clocks_event_reasons: list[str] | None
    persistence_mode: bool | None
    compute_mode: str | None
    mig_mode: bool | None
    mig_mode_pending: bool | None
    ecc_mode: bool | None
    ecc_mode_pending: bool | None
    ecc_uncorrected_volatile: int | None
    ecc_uncorrected_aggregate: int | None
    ecc_sram_corrected_volatile: int | None
    ecc_sram_uncorrected_volatile: int | None
    ecc_dram_corrected_volatile: int | None
    ecc_dram_uncorrected_volatile: int | None
    ecc_sram_corrected_aggregate: int | None
    ecc_sram_uncorrected_aggregate: int | None
    ecc_dram_corrected_aggregate: int | None
    ecc_dram_uncorrected_aggregate: int | None
    ecc_sram_threshold_exceeded: bool | None
    remapped_rows_corrected: int | None
    remapped_rows_uncorrected: int | None
    remapped_rows_pending: bool | None
    remapped_rows_failure: bool | None
    remapped_rows_histogram: dict[str, int] | None
    repair_pending: bool | None
    unrepairable_memory: bool | None
    recovery_action: str | None
    pcie_gen: int | None
    pcie_gen_max: int | None
    pcie_width: int | None
    pcie_width_max: int | None
    pcie_replays: int | None
    nvlinks: list[NvLink] | None
    fabric_state: str | None
    fabric_status: str | None
    fabric_clique: int | None
    fabric_cluster: str | None
    fabric_health: list[str] | None
    processes: list[Process] | None


class FabricManager(t.TypedDict):
    """The NVSwitch fabric's service: what systemd says of its unit ("active"), and the version of its program."""

    state: str
    version: str | None


class XidEvents(t.TypedDict):
    """Errors of one kind that the driver has written to the kernel's log about one device.

    `kind` is "Xid", or "SXid" when the device is an NVSwitch. Times are seconds since 1970; `message` is the last line.
    """

    kind: str
    code: int
    pci_bus_id: str
    count: int
    first: float
    last: float
    message: str


class Facts(t.TypedDict):
    """All that is known of a host's GPUs.

    `attached_gpus` is the driver's count, lost GPUs included, `pci_gpus` that of the PCI bus, None where /sys does not
    show it. `topology` has a row and a column for each GPU: "X", "NV18" (18 NVLinks), or the way over PCIe as
    `nvidia-smi topo -m` names it. `fabric_manager` is None without such a unit, `xids` when the log cannot be read.
    """

    schema: int
    source: str
    driver_version: str | None
    cuda_version: str | None
    nvml_version: str | None
    attached_gpus: int | None
    pci_gpus: int | None
    gpus: list[Gpu]
    topology: list[list[str | None]] | None
    fabric_manager: FabricManager | None
    xids: list[XidEvents] | None


def silent_gpu(index: int | None, error: str) -> Gpu:
    """A GPU that is attached but tells nothing."""
    nothing: dict[str, t.Any] = dict.fromkeys(Gpu.__annotations__)
    return t.cast(Gpu, {**nothing, "index": index, "error": error, "unanswered": {}})


def bus_id(text: str | None) -> str | None:
    """A PCI address the way nvidia-smi writes it: eight digits of domain, upper case."""
    if text is None or text.count(":") != 2:
        return None
    domain, _colon, rest = text.partition(":")
    return f"{domain:0>8}:{rest}".upper()


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
ANY_STEP = "Read `journalctl -k | grep -i nvrm` for what the driver says."


def next_step(code: int) -> str:
    """What to do about an NVML return code or an exit status of nvidia-smi, as a sentence."""
    return _NEXT_STEP.get(code, ANY_STEP)


def sentence(words: str) -> str:
    """What a tool said, on one line and with one full stop."""
    return (" ".join(words.split())[:500].rstrip(".") or "nothing") + "."
