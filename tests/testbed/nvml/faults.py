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
import sys
from dataclasses import dataclass
from pathlib import Path

ACTIVE = Path("/etc/nvml-mock/profile.ini")
PRISTINE = Path("/usr/share/nvml-mock/profiles")
NVIDIA_SMI = Path("/usr/bin/nvidia-smi")
HIDDEN_NVIDIA_SMI = Path("/usr/bin/nvidia-smi.hidden-by-gpu-fault")

# Value of init_delay_s for a driver that never answers: longer than any caller waits, yet it ends.
NEVER_S = 86400


@dataclass(frozen=True)
class Fault:
    """What a fault is and the settings that it changes, on one GPU or on the whole host."""

    description: str
    gpu: tuple[tuple[str, str], ...] = ()
    system: tuple[tuple[str, str], ...] = ()
    hides_nvidia_smi: bool = False


FAULTS: dict[str, Fault] = {
    "lost-gpu": Fault(
        "the GPU fell off the bus and the driver gives no handle for it: nvidia-smi stops there with exit code 15",
        gpu=(("lost", "handle"),),
    ),
    "lost-gpu-silent": Fault(
        "the GPU is listed, but every query about it answers 'GPU is lost': nvidia-smi -q -x ends with exit code 0",
        gpu=(("lost", "queries"),),
    ),
    "wrong-name": Fault("the GPU is another model than the rest", gpu=(("name", "NVIDIA A100-SXM4-80GB"),)),
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
        gpu=(("row_remap_failed", "1"), ("remapped_rows_uncorrected", "8")),
    ),
    "nvlink-down": Fault("one NVLink is down", gpu=(("nvlinks_down", "3"),)),
    "fabric-not-completed": Fault(
        "the GPU's registration with the fabric manager is still in progress", gpu=(("fabric_state", "2"),)
    ),
    "throttling": Fault(
        "clocks are held down because the GPU is too hot (HW slowdown and HW thermal slowdown)",
        gpu=(("clock_event_reasons", "0x48"), ("temperature_c", "91")),
    ),
    "foreign-process": Fault(
        "a process that is not ours holds 40930 MiB",
        gpu=(("process", "4242 40930 /opt/other/python3"), ("memory_used_mib", "40934")),
    ),
    "mig-on": Fault("MIG mode is on, without any instance", gpu=(("mig_mode", "on"),)),
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


def _inject(name: str, gpu: int) -> str:
    text = apply(_pristine(_profile_name()), name, gpu)
    _write(ACTIVE, text)
    _hide_nvidia_smi(FAULTS[name].hides_nvidia_smi)
    where = f" on GPU {gpu}" if FAULTS[name].gpu else ""
    return f"{name}{where}: {FAULTS[name].description}"


def _heal(profile: str) -> str:
    _write(ACTIVE, _pristine(profile))
    _hide_nvidia_smi(False)
    return f"no fault, profile {profile}"


def _list() -> str:
    return "\n".join(f"{name:22}{fault.description}" for name, fault in FAULTS.items())


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
