# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""GPU faults by name: a table of what each one changes in a host's profile, and the command gpu-fault that applies one.

The command runs on the simulated host. It always starts from the pristine profile, so that there is one fault at a time
and `gpu-fault none` heals the host. Standard library only, Python 3.9+.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

ACTIVE = Path("/etc/nvml-mock/profile.ini")
PRISTINE = Path("/usr/share/nvml-mock/profiles")
NVIDIA_SMI = Path("/usr/bin/nvidia-smi")
HIDDEN_NVIDIA_SMI = Path("/usr/bin/nvidia-smi.hidden-by-gpu-fault")
FABRIC_MANAGER = "nvidia-fabricmanager.service"
FABRIC_MANAGER_UNIT = Path("/etc/systemd/system") / FABRIC_MANAGER
FABRIC_MANAGER_PROGRAM = Path("/usr/local/bin/nv-fabricmanager")
# A container has no kernel's log of its own. systemd's own tool puts one into the host's journal.
JOURNAL_WRITER = Path("/usr/lib/systemd/systemd-journal-remote")
JOURNAL = "kernel-of-gpu-fault.journal"
HEALTHY_LOG = "NVRM: loading NVIDIA UNIX x86_64 Kernel Module"

# Value of init_delay_s for a driver that never answers: longer than any caller waits, yet it ends.
NEVER_S = 86400


@dataclass(frozen=True)
class Fault:
    """What a fault is and the settings that it changes, on one GPU or on the whole host.

    `log` is what the kernel says, with {gpu} for the GPU's PCI address. `fabric_manager` is the command of that service
    and the version that its program tells.
    """

    description: str
    gpu: tuple[tuple[str, str], ...] = ()
    system: tuple[tuple[str, str], ...] = ()
    hides_nvidia_smi: bool = False
    log: str = ""
    fabric_manager: tuple[str, str] | None = None


FAULTS: dict[str, Fault] = {
    "lost-gpu": Fault(
        "the GPU fell off the bus and the driver gives no handle for it: nvidia-smi stops there with exit code 15",
        gpu=(("lost", "handle"),),
    ),
    "lost-gpu-silent": Fault(
        "the GPU is listed, but every query about it answers 'GPU is lost': nvidia-smi -q -x ends with exit code 0",
        gpu=(("lost", "queries"),),
    ),
    "gpu-missing": Fault("the driver has taken up seven of the GPUs only", system=(("gpus", "7"),)),
    "wrong-name": Fault("the GPU is another model than the rest", gpu=(("name", "NVIDIA A100-SXM4-80GB"),)),
    "less-memory": Fault("the GPU has half the memory", gpu=(("memory_total_mib", "40960"),)),
    "old-driver": Fault("the driver is of an older branch", system=(("driver_version", "535.261.03"),)),
    "old-cuda": Fault("the driver supports an older CUDA only", system=(("cuda_version", "12.2"),)),
    "vbios-differs": Fault("the GPU has another firmware than the rest", gpu=(("vbios_version", "96.00.30.00.01"),)),
    "inforom-corrupted": Fault("the GPU's InfoROM is damaged", gpu=(("inforom_valid", "off"),)),
    "ecc-off": Fault("ECC is off", gpu=(("ecc_mode", "off"), ("ecc_mode_pending", "on"))),
    "ecc-off-next": Fault("ECC will be off after the next reset", gpu=(("ecc_mode_pending", "off"),)),
    "ecc-uncorrectable-before": Fault(
        "an uncorrectable memory error before the driver was loaded", gpu=(("ecc_dram_uncorrected_aggregate", "1"),)
    ),
    "ecc-correctable": Fault(
        "more corrected memory errors than wear explains",
        gpu=(("ecc_sram_corrected_volatile", "10001"), ("ecc_sram_corrected_aggregate", "10001")),
    ),
    "ecc-sram-threshold": Fault(
        "more errors in SRAM than the GPU may have", gpu=(("ecc_sram_threshold_exceeded", "on"),)
    ),
    "ecc-uncorrectable": Fault(
        "two uncorrectable memory errors since the driver was loaded",
        gpu=(("ecc_dram_uncorrected_volatile", "2"), ("ecc_dram_uncorrected_aggregate", "2")),
    ),
    "row-remap-pending": Fault(
        "a memory row waits for the reset that remaps it",
        gpu=(("row_remap_pending", "1"), ("remapped_rows_uncorrected", "1")),
    ),
    "row-remap-failed": Fault(
        "a memory bank has no spare row left: the GPU is to be replaced",
        gpu=(("row_remap_failed", "1"), ("row_remap_banks_without", "1"), ("remapped_rows_uncorrected", "8")),
    ),
    "row-remap-spare": Fault(
        "a memory bank has used its last spare row",
        gpu=(("row_remap_banks_without", "1"), ("remapped_rows_uncorrected", "8")),
    ),
    "reset-required": Fault("the driver asks for a reset of the GPU", gpu=(("reset_required", "on"),)),
    "nvlink-down": Fault("one NVLink is down", gpu=(("nvlinks_down", "3"),)),
    "nvlinks-down": Fault("all NVLinks are down", gpu=(("nvlinks_down", "0-17"),)),
    "nvlink-slow": Fault("the NVLinks run at half their rate", gpu=(("nvlink_speed_mbps", "13281"),)),
    "nvlink-errors": Fault("the NVLinks had to be trained again", gpu=(("nvlink_recovery_errors", "2"),)),
    "fabric-degraded": Fault("the fabric has less bandwidth than it should", gpu=(("fabric_health", "0x1"),)),
    "fabric-manager-failed": Fault("the fabric manager has ended", fabric_manager=("/bin/false", "550.163.01")),
    "fabric-manager-old": Fault(
        "the fabric manager is of another version than the driver",
        fabric_manager=("/bin/sleep infinity", "550.54.14"),
    ),
    "fabric-not-completed": Fault(
        "the GPU's registration with the fabric manager is still in progress", gpu=(("fabric_state", "2"),)
    ),
    "throttling": Fault(
        "clocks are held down for want of power (HW slowdown and HW power brake)",
        gpu=(("clock_event_reasons", "0x88"),),
    ),
    "too-hot": Fault("the GPU is hotter than its limit", gpu=(("temperature_c", "91"),)),
    "warm": Fault("the GPU is warmer than usual", gpu=(("temperature_c", "84"),)),
    "power-limited": Fault("the power limit is half the default", gpu=(("power_limit_w", "350"),)),
    "pcie-narrow": Fault("the PCIe link has half its lanes", gpu=(("pcie_width_now", "8"),)),
    "pcie-slow": Fault("GPU and slot together do PCIe 4 only", gpu=(("pcie_generation", "4"),)),
    "pcie-replays": Fault("packets have to be sent again over PCIe", gpu=(("pcie_replays", "201"),)),
    "persistence-off": Fault("persistence mode is off", gpu=(("persistence_mode", "off"),)),
    "compute-exclusive": Fault("only one process may use the GPU", gpu=(("compute_mode", "3"),)),
    "memory-in-use": Fault("memory is in use by nobody who can be seen", gpu=(("memory_used_mib", "40934"),)),
    "xid-79": Fault(
        "the kernel has logged that the GPU fell off the bus", log="NVRM: Xid ({gpu}): 79, GPU has fallen off the bus."
    ),
    "xid-unknown": Fault(
        "the kernel has logged an Xid that no catalogue has", log="NVRM: Xid ({gpu}): 999, pid=4242, name=python3"
    ),
    "foreign-process": Fault(
        "a process that is not ours holds 40930 MiB",
        gpu=(("process", "4242 40930 /opt/other/python3"), ("memory_used_mib", "40934")),
    ),
    "mig-on": Fault(
        "MIG mode is on, without any instance, and will be off after the next reset", gpu=(("mig_mode", "on"),)
    ),
    "mig-on-next": Fault("MIG mode will be on after the next reset", gpu=(("mig_mode_pending", "on"),)),
    "driver-mismatch": Fault(
        "the loaded kernel module has another version than the libraries: NVML does not start",
        system=(("init_error", "18"),),
    ),
    "nvidia-smi-hangs": Fault(
        "the driver does not answer: nvidia-smi and every other user of NVML hang",
        system=(("init_delay_s", str(NEVER_S)),),
    ),
    "nvidia-smi-missing": Fault("there is no nvidia-smi; NVML itself answers", hides_nvidia_smi=True),
}


def apply(profile_text: str, fault: str, gpu: int = 0) -> str:
    """The profile with a fault in it, which host-wide faults have wherever `gpu` points.

    Raises KeyError for a fault that is not in FAULTS, ValueError for a GPU that the profile does not have.
    """
    changes = FAULTS[fault]
    if not re.search(rf"^\[gpu {gpu}\]$", profile_text, re.MULTILINE):
        raise ValueError(f"the profile has no section [gpu {gpu}]")
    lines = [f"# gpu-fault: {fault}"]
    for section, settings in (("[system]", changes.system), (f"[gpu {gpu}]", changes.gpu)):
        if settings:
            lines += ["", section, *(f"{key} = {value}" for key, value in settings)]
    # A later setting wins over an earlier one, so the pristine text stays as it is.
    return profile_text.rstrip("\n") + "\n\n" + "\n".join(lines) + "\n"


def _write(path: Path, text: str) -> None:
    """Replace a file in one step: NVML may be initialised at any moment."""
    temporary = path.with_name(f".{path.name}.new")
    temporary.write_text(text, encoding="utf-8")
    temporary.chmod(0o644)
    temporary.replace(path)


def _hide_nvidia_smi(hide: bool) -> None:
    source, target = (NVIDIA_SMI, HIDDEN_NVIDIA_SMI) if hide else (HIDDEN_NVIDIA_SMI, NVIDIA_SMI)
    if os.path.lexists(source):
        source.rename(target)


def _profile_name() -> str:
    """The pristine profile that the active one was made from."""
    found = re.search(r"^profile = (\w+)$", ACTIVE.read_text(encoding="utf-8"), re.MULTILINE)
    if found is None:
        raise ValueError(f"{ACTIVE} has no setting 'profile'")
    return found[1]


def _pristine(name: str) -> str:
    path = PRISTINE / f"{name}.ini"
    if not path.exists():
        known = ", ".join(sorted(item.stem for item in PRISTINE.glob("*.ini")))
        raise ValueError(f"there is no profile {name}; there are {known}")
    return path.read_text(encoding="utf-8")


def _run(*argv: str, stdin: str = "", check: bool = True) -> None:
    try:
        done = subprocess.run(argv, input=stdin, text=True, capture_output=True, check=False)
    except OSError as exc:
        raise ValueError(f"{argv[0]} cannot be run: {exc.strerror}; this fault needs a whole simulated host") from exc
    if check and done.returncode:
        raise ValueError(f"{' '.join(argv)} ended with {done.returncode}: {done.stderr.strip()}")


def _write_log(message: str, must: bool) -> None:
    """Let the kernel's log of this boot hold this one message. A fault must be in it, a host may do without."""
    machine = Path("/etc/machine-id").read_text(encoding="ascii").strip()
    if not must and not (machine and JOURNAL_WRITER.exists()):
        return
    boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip().replace("-", "")
    journal = Path("/run/log/journal") / machine / JOURNAL
    journal.parent.mkdir(parents=True, exist_ok=True)
    journal.unlink(missing_ok=True)
    fields = {
        "__REALTIME_TIMESTAMP": time.time_ns() // 1000,
        "__MONOTONIC_TIMESTAMP": time.monotonic_ns() // 1000,
        "_BOOT_ID": boot,
        "_TRANSPORT": "kernel",
        "SYSLOG_IDENTIFIER": "kernel",
        "MESSAGE": message,
    }
    entry = "".join(f"{name}={value}\n" for name, value in fields.items())
    _run(str(JOURNAL_WRITER), f"--output={journal}", "-", stdin=f"{entry}\n")


def _set_fabric_manager(service: tuple[str, str] | None) -> None:
    """Have the fabric manager's service, or none."""
    if service is None and not FABRIC_MANAGER_UNIT.exists():
        return
    if FABRIC_MANAGER_UNIT.exists():
        _run("systemctl", "stop", FABRIC_MANAGER)
        _run("systemctl", "reset-failed", FABRIC_MANAGER, check=False)
        FABRIC_MANAGER_UNIT.unlink()
        FABRIC_MANAGER_PROGRAM.unlink()
    if service is not None:
        command, version = service
        FABRIC_MANAGER_PROGRAM.write_text(
            f"#!/bin/sh\necho 'Fabric Manager version is : {version}'\n", encoding="utf-8"
        )
        FABRIC_MANAGER_PROGRAM.chmod(0o755)
        FABRIC_MANAGER_UNIT.write_text(f"[Service]\nExecStart={command}\n", encoding="utf-8")
    _run("systemctl", "daemon-reload")
    if service is not None:
        _run("systemctl", "start", FABRIC_MANAGER)


def _pci_address(profile_text: str, gpu: int) -> str:
    """The GPU's address the way the driver logs it: "PCI:0000:5c:00"."""
    section = profile_text.partition(f"[gpu {gpu}]")[2]
    found = re.search(r"^pci_bus_id = 0000(\w{4}:\w{2}:\w{2})\.\d$", section, re.MULTILINE)
    return f"PCI:{found[1].lower()}" if found else "PCI:0000:00:00"


def _inject(name: str, gpu: int) -> str:
    fault, pristine = FAULTS[name], _pristine(_profile_name())
    text = apply(pristine, name, gpu)
    _write(ACTIVE, text)
    _hide_nvidia_smi(fault.hides_nvidia_smi)
    _set_fabric_manager(fault.fabric_manager)
    _write_log(fault.log.format(gpu=_pci_address(pristine, gpu)) or HEALTHY_LOG, must=bool(fault.log))
    where = f" on GPU {gpu}" if fault.gpu or fault.log else ""
    return f"{name}{where}: {fault.description}"


def _heal(profile: str) -> str:
    _write(ACTIVE, _pristine(profile))
    _hide_nvidia_smi(False)
    _set_fabric_manager(None)
    _write_log(HEALTHY_LOG, must=False)
    return f"no fault, profile {profile}"


def _list() -> str:
    return "\n".join(f"{name:26}{fault.description}" for name, fault in FAULTS.items())


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="gpu-fault", description="Inject one GPU fault into this simulated host.")
    actions = parser.add_subparsers(required=True, metavar="list | none | profile NAME | FAULT [GPU]")
    actions.add_parser("list").set_defaults(run=lambda _: _list())
    actions.add_parser("none").set_defaults(run=lambda _: _heal(_profile_name()))
    profile = actions.add_parser("profile")
    profile.add_argument("name", help="the profile to take up, without a fault")
    profile.set_defaults(run=lambda arguments: _heal(arguments.name))
    for name, fault in FAULTS.items():
        action = actions.add_parser(name, description=fault.description)
        action.add_argument("gpu", type=int, nargs="?", default=0, help="index of the GPU (default 0)")
        action.set_defaults(run=lambda arguments, name=name: _inject(name, arguments.gpu))
    return parser


def main() -> None:
    arguments = _parser().parse_args()
    try:
        print(arguments.run(arguments))
    except (ValueError, OSError) as exc:
        sys.exit(f"gpu-fault: {exc}")


if __name__ == "__main__":
    main()
