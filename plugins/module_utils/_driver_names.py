# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the packages of an NVIDIA driver are called, by who publishes them. Private to this collection.

As guides and listings of NVIDIA's network repository, of Debian's non-free and of Ubuntu's restricted and multiverse
sections had it for branches 550 to 595 in November 2026. Only what a host without a display needs is asked for: what
these packages depend on comes with them.
"""

from __future__ import annotations

import re
import typing as t
from dataclasses import dataclass, replace
from pathlib import Path

from ansible_collections.llmfleet.serving.plugins.module_utils._errors import LlmError
from ansible_collections.llmfleet.serving.plugins.module_utils._packages import upstream

# They are made of sources of their own and work with any driver: distributions have them in other versions.
TOOLS = {"libxnvctrl0", "nvidia-modprobe", "nvidia-persistenced", "nvidia-settings", "nvidia-xconfig"}

_VERSION = re.compile(r"[0-9]{3}\.[0-9]{2,3}(?:\.[0-9]{2})?")
_BRANCH = re.compile(r"[0-9]{3}")
# What is the driver's by its name, when its version is one of a driver: nvidia-container-toolkit 1.19 is not.
_OF_DRIVER = re.compile(r"nvidia|^(?:libcuda1|libcudadebugger1|libnvcuvid1|libnvoptix1)$|^(?:libnvsdm|cuda-drivers)")

_BUILDS_MODULE = re.compile(r"dkms|nvidia-(?:open-)?kernel-source")

# From these branches on the names of NVIDIA's fabric manager, and of its packages for Ubuntu, have no branch in them.
_PLAIN_FABRIC_MANAGER = 580
_PLAIN_UBUNTU = 590
# From this branch on the persistence daemon is not in Ubuntu's compute utilities, and RPM has NVML in another package.
_SPLIT = 570

_RELEASES = {"debian": ("12", "13"), "ubuntu": ("22.04", "24.04"), "rhel": ("9",)}
_LIKE_RHEL = ("rhel", "almalinux", "rocky", "ol", "centos")


@dataclass(frozen=True)
class System:
    """An operating system: `debian`, `ubuntu`, or `rhel` for all that is built from it; and its release."""

    family: str
    release: str

    @classmethod
    def read(cls, root: Path = Path("/")) -> System:
        """This host's. Raises LlmError where no names are known for it."""
        text = (root / "etc/os-release").read_text(encoding="utf-8")
        fields = dict(re.findall(r"^([A-Z_]+)=[\"']?(.*?)[\"']?$", text, re.MULTILINE))
        name, release = fields.get("ID", ""), fields.get("VERSION_ID", "")
        family = "rhel" if name in _LIKE_RHEL else name
        if family == "rhel":
            release = release.split(".")[0]
        if release not in _RELEASES.get(family, ()):
            known = "; ".join(f"{each} {', '.join(releases)}" for each, releases in _RELEASES.items())
            raise LlmError(
                f"The packages of NVIDIA's driver are known for {known}; this host has {name} {release}. Install the "
                "driver by other means, and set the source to none."
            )
        return cls(family, release)


@dataclass(frozen=True)
class Request:
    """What driver is wanted.

    :ivar source: nvidia or distribution.
    :ivar version: exactly this one, or a branch like 550 for the newest in it.
    :ivar module: open, proprietary, or none when somebody else brings the kernel's part.
    :ivar fabric_manager: whether the service of NVSwitches belongs to it.
    :ivar kernel: release of the kernel that the module is built for; "" for none in particular.
    """

    source: str
    version: str
    module: str
    fabric_manager: bool
    kernel: str = ""

    @property
    def branch(self) -> int:
        """The first number of its version. Raises LlmError where it is neither a version nor a branch."""
        if not _BRANCH.fullmatch(self.version) and not _VERSION.fullmatch(self.version):
            raise LlmError(
                f"The driver's version must be one like 550.163.01 or a branch like 550, and is {self.version!r}. Take "
                "one that NVIDIA has published."
            )
        return int(self.version[:3])

    @property
    def exact(self) -> bool:
        """Whether its version is one, not a branch."""
        return not _BRANCH.fullmatch(self.version)


@dataclass(frozen=True)
class Names:
    """What to ask for.

    :ivar origin: who publishes it.
    :ivar module: what the kernel module is built from.
    :ivar any_version: what may have another version than the driver.
    """

    origin: str
    userland: tuple[str, ...]
    module: tuple[str, ...]
    fabric_manager: str | None
    any_version: tuple[str, ...] = ()

    @property
    def parts(self) -> tuple[str, ...]:
        """What has to have the driver's version."""
        return (*self.userland, *self.module, *([self.fabric_manager] if self.fabric_manager else []))

    def excludes(self, name: str) -> bool:
        """Whether a package builds the module in another flavour, of which there can be only one."""
        return bool(self.module and _BUILDS_MODULE.search(name) and name not in self.module)


def names_of(request: Request, system: System) -> Names:
    """The packages to ask for. Raises LlmError where the source has no such driver."""
    if request.source == "distribution" and system.family == "rhel":
        raise LlmError("RHEL and what is built from it has no NVIDIA driver of its own. Set the source to nvidia.")
    names = _SOURCES[request.source, system.family](request.branch, request.module == "open", system.release)
    if request.module == "none":
        names = replace(names, module=())
    if not request.fabric_manager:
        return replace(names, fabric_manager=None)
    if not names.fabric_manager:
        raise LlmError(
            "A fabric manager is wanted, as CUDA does not start beside NVSwitches without; Debian has none. Set the "
            "source to nvidia; or, where there are no NVSwitches, want no fabric manager."
        )
    return names


def is_driver(name: str, version: str | None) -> bool:
    """Whether a package in this version is a part of a driver."""
    return bool(_OF_DRIVER.search(name) and version and is_driver_version(upstream(version)))


def is_driver_version(version: str) -> bool:
    """Whether an upstream version is one of a driver, like 550.163.01 or 580.142."""
    return bool(_VERSION.fullmatch(version))


def _nvidia_ubuntu(branch: int, is_open: bool, _release: str) -> Names:
    suffix = f"-{branch}" if branch < _PLAIN_UBUNTU else ""
    tools = ("nvidia-modprobe", "nvidia-persistenced") if branch >= _SPLIT else ("nvidia-modprobe",)
    return Names("NVIDIA", (*_ubuntu(suffix), *tools), _ubuntu_module(suffix, is_open), _fabric_manager(branch))


def _own_ubuntu(branch: int, is_open: bool, _release: str) -> Names:
    # Ubuntu builds the fabric manager for its server packages; the others soon turn into those of a newer branch.
    suffix = f"-{branch}-server"
    return Names("Ubuntu", _ubuntu(suffix), _ubuntu_module(suffix, is_open), f"nvidia-fabricmanager-{branch}")


def _nvidia_debian(branch: int, is_open: bool, _release: str) -> Names:
    module = "nvidia-kernel-open-dkms" if is_open else "nvidia-kernel-dkms"
    return Names("NVIDIA", (*_DEBIAN, "nvidia-modprobe", "nvidia-persistenced"), (module,), _fabric_manager(branch))


def _own_debian(_branch: int, is_open: bool, _release: str) -> Names:
    module = "nvidia-open-kernel-dkms" if is_open else "nvidia-kernel-dkms"
    return Names("Debian", _DEBIAN, (module,), None, ("nvidia-persistenced",))


def _nvidia_rhel(branch: int, is_open: bool, release: str) -> Names:
    libraries = ("libnvidia-cfg", "libnvidia-ml") if branch >= _SPLIT else ("nvidia-driver-NVML",)
    userland = ("nvidia-driver-cuda", "nvidia-driver-cuda-libs", "nvidia-modprobe", "nvidia-persistenced", *libraries)
    module = "kmod-nvidia-open-dkms" if is_open else "kmod-nvidia-latest-dkms"
    fabric_manager = "nvidia-fabricmanager" if branch >= _PLAIN_FABRIC_MANAGER else "nvidia-fabric-manager"
    # dnf tells repositories apart by id; this is the one that NVIDIA's own .repo file gives.
    return Names(f"cuda-rhel{release}-x86_64", userland, (module,), fabric_manager)


def _ubuntu(suffix: str) -> tuple[str, ...]:
    stems = ("libnvidia-cfg1", "libnvidia-compute", "nvidia-compute-utils", "nvidia-utils")
    return tuple(f"{stem}{suffix}" for stem in stems)


def _ubuntu_module(suffix: str, is_open: bool) -> tuple[str, ...]:
    flavour = "-open" if is_open else ""
    return (f"nvidia-kernel-source{suffix}{flavour}", f"nvidia-dkms{suffix}{flavour}")


def _fabric_manager(branch: int) -> str:
    return "nvidia-fabricmanager" if branch >= _PLAIN_FABRIC_MANAGER else f"nvidia-fabricmanager-{branch}"


_DEBIAN = ("libcuda1", "libnvidia-cfg1", "libnvidia-ml1", "nvidia-smi")
_SOURCES: dict[tuple[str, str], t.Callable[[int, bool, str], Names]] = {
    ("nvidia", "ubuntu"): _nvidia_ubuntu,
    ("nvidia", "debian"): _nvidia_debian,
    ("nvidia", "rhel"): _nvidia_rhel,
    ("distribution", "ubuntu"): _own_ubuntu,
    ("distribution", "debian"): _own_debian,
}
