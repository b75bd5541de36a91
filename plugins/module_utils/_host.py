# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a bare host tells of itself, before a driver or any package of ours is there. Private to this collection.

Everything is read from files below a root, but for two questions that only programs answer: what apt can install, and
whether the clock is kept. None stands for what a host does not tell.
"""

from __future__ import annotations

import platform
import re
import shutil
import typing as t
from dataclasses import dataclass
from pathlib import Path

from ansible_collections.llmfleet.serving.plugins.module_utils._files import existing
from ansible_collections.llmfleet.serving.plugins.module_utils._gpu_facts import RunCommand
from ansible_collections.llmfleet.serving.plugins.module_utils._gpu_host import PciDevice, output_of, pci_devices

# Of the variable SecureBoot in the namespace of the UEFI specification: four bytes of attributes, then its value.
_SECURE_BOOT = "sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c"
# What apt calls the headers of a release, and a major version of gcc.
HEADERS_PACKAGE = "linux-headers-{}"
COMPILER_PACKAGE = "gcc-{}"


@dataclass(frozen=True)
class Kernel:
    """The kernel that runs, and what a module for it is built with.

    :ivar default: the release that boots next; None where no boot loader with kernels in /boot tells.
    :ivar headers: releases whose headers are installed.
    :ivar compiler: major version of the gcc that the running kernel was built with; None for another compiler.
    :ivar compilers: major versions of gcc that are installed.
    :ivar available: of the packages that could bring what is missing, those that apt can install; None when apt is not
        there or has no lists yet.
    """

    running: str
    default: str | None
    headers: list[str]
    compiler: int | None
    compilers: list[int]
    available: list[str] | None


@dataclass(frozen=True)
class Filesystem:
    """The file system that a path is on, or would be on.

    :ivar mount: where it is mounted.
    :ivar free: bytes.
    """

    mount: str
    free: int


@dataclass(frozen=True)
class HostFacts:
    """A host.

    :ivar system, version: as os-release has them (`ID`, `VERSION_ID`); the version is empty where it has none.
    :ivar systemd: whether systemd runs it.
    :ivar container: whether it is a container, which has its kernel and its clock from another system.
    :ivar cores: of all processors, without hyper-threads.
    :ivar memory: bytes.
    :ivar secure_boot: None where there is no UEFI firmware, or it does not tell.
    :ivar pci: NVIDIA's GPUs and NVSwitches.
    :ivar filesystems: by the paths that were asked for.
    :ivar clock_synchronized: whether a time service keeps the clock.
    """

    system: str
    version: str
    architecture: str
    systemd: bool
    container: bool
    python: str
    cores: int
    memory: int
    kernel: Kernel
    secure_boot: bool | None
    pci: list[PciDevice]
    filesystems: dict[str, Filesystem]
    clock_synchronized: bool | None


def read_host(run: RunCommand, paths: t.Iterable[str], root: Path = Path("/")) -> HostFacts:
    """Read a host's facts.

    :param run: runs apt-cache and timedatectl.
    :param paths: absolute paths whose file systems are asked for; they need not exist.
    :param root: where the host's files are.
    """
    release = _assignments(_text(root / "etc/os-release"))
    return HostFacts(
        system=release.get("ID", ""),
        version=release.get("VERSION_ID", ""),
        architecture=platform.machine(),
        systemd=(root / "run/systemd/system").is_dir(),
        container=(root / "run/systemd/container").exists(),
        python=platform.python_version(),
        cores=_cores(_text(root / "proc/cpuinfo")),
        memory=_memory(_text(root / "proc/meminfo")),
        kernel=_kernel(run, root),
        secure_boot=_secure_boot(root),
        pci=pci_devices(root / "sys/bus/pci/devices"),
        filesystems={path: _filesystem(path, root) for path in paths},
        clock_synchronized=_clock_synchronized(run),
    )


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _assignments(text: str) -> dict[str, str]:
    """The variables that a shell script, such as os-release, sets to plain words; the last of a name counts."""
    return {name: value.strip("\"'") for name, value in re.findall(r"^\s*(\w+)=(.*?)\s*$", text, re.MULTILINE)}


def _cores(cpuinfo: str) -> int:
    """Cores are numbered within their processor. A virtual machine may tell no numbers: then each CPU is a core."""
    cpus = [
        dict(re.findall(r"^([\w ]+?)\s*: (.*)$", cpu, re.MULTILINE)) for cpu in cpuinfo.split("\n\n") if cpu.strip()
    ]
    return len({(cpu.get("physical id"), cpu.get("core id", cpu.get("processor"))) for cpu in cpus})


def _memory(meminfo: str) -> int:
    total = re.search(r"^MemTotal:\s+([0-9]+) kB$", meminfo, re.MULTILINE)
    return int(total[1]) << 10 if total else 0


def _secure_boot(root: Path) -> bool | None:
    try:
        variable = (root / _SECURE_BOOT).read_bytes()
    except OSError:
        return None
    return variable[4:] == b"\x01"


def _filesystem(path: str, root: Path) -> Filesystem:
    where = existing(root / path.lstrip("/"))
    free = shutil.disk_usage(where).free
    device = where.stat().st_dev
    while where != root and where.parent.stat().st_dev == device:
        where = where.parent
    return Filesystem("/" if where == root else f"/{where.relative_to(root)}", free)


def _clock_synchronized(run: RunCommand) -> bool | None:
    return {"yes": True, "no": False}.get(
        output_of(run, "timedatectl", "show", "--property=NTPSynchronized", "--value").strip()
    )


# --- The kernel


def _kernel(run: RunCommand, root: Path) -> Kernel:
    running = _text(root / "proc/sys/kernel/osrelease").strip()
    # How the compiler words its name differs. The first full version number after "gcc" is its own, not the linker's.
    built = re.search(r"\bgcc\b.*?\b([0-9]+)\.[0-9]+\.[0-9]+", _text(root / "proc/version"))
    compiler = int(built[1]) if built else None
    return Kernel(
        running=running,
        default=_default_kernel(root),
        # The link `build` comes with the kernel's image; what it points to comes with the headers.
        headers=sorted(makefile.parts[-3] for makefile in root.glob("lib/modules/*/build/Makefile")),
        compiler=compiler,
        # cc1 is the compiler proper, below lib or libexec; the command gcc alone is only its driver.
        compilers=sorted({int(cc1.parts[-2]) for cc1 in root.glob("usr/lib*/gcc/*/[0-9]*/cc1")}),
        available=_available(run, root, [HEADERS_PACKAGE.format(running), COMPILER_PACKAGE.format(compiler)]),
    )


def _default_kernel(root: Path) -> str | None:
    """The release that GRUB boots when nobody chooses: the one that its settings name, else the newest."""
    releases = [image.name[len("vmlinuz-") :] for image in (root / "boot").glob("vmlinuz-[1-9]*")]
    settings = [root / "etc/default/grub", *sorted((root / "etc/default/grub.d").glob("*.cfg"))]
    wanted = _assignments("\n".join(map(_text, settings))).get("GRUB_DEFAULT", "0")
    if wanted == "saved":
        kept = [_assignments(_text(root / "boot" / grub / "grubenv")) for grub in ("grub", "grub2")]
        wanted = "".join(one.get("saved_entry", "") for one in kept) or "0"
    named = [release for release in releases if release in wanted]
    if named:
        return max(named, key=len)
    # Other numbers count the entries of a menu that only the boot loader knows.
    counted = re.fullmatch("[0-9>]+", wanted) and wanted != "0"
    return None if counted else max(releases, key=_age, default=None)


def _age(release: str) -> list[tuple[bool, int, str]]:
    """Orders releases as GRUB does: numbers as numbers, and what has more parts after what has fewer."""
    parts = re.findall(r"[0-9]+|[a-z_]+", release)
    return [(part.isdigit(), int(part) if part.isdigit() else 0, part) for part in parts]


def _available(run: RunCommand, root: Path, packages: list[str]) -> list[str] | None:
    if not any((root / "var/lib/apt/lists").glob("*_Packages*")):
        return None
    said = output_of(run, "apt-cache", "policy", *packages)
    candidates = dict(re.findall(r"^(\S+):\n  Installed: .*\n  Candidate: (.*)$", said, re.MULTILINE))
    return [package for package in packages if candidates.get(package, "(none)") != "(none)"]
