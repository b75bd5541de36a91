# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the rules for hosts and for a fleet's description look at, one function for each. Private to this collection."""

from __future__ import annotations

import collections
import re
import typing as t
from dataclasses import dataclass, field

from ansible_collections.llmfleet.serving.plugins.module_utils._fit import FORMATS, GIB, MIB
from ansible_collections.llmfleet.serving.plugins.module_utils._gate_profiles import AUTO, PROFILES
from ansible_collections.llmfleet.serving.plugins.module_utils._gpu_host import PciDevice
from ansible_collections.llmfleet.serving.plugins.module_utils._host import (
    COMPILER_PACKAGE,
    HEADERS_PACKAGE,
    HostFacts,
    Kernel,
)
from ansible_collections.llmfleet.serving.plugins.module_utils._host_models import Need, model_format
from ansible_collections.llmfleet.serving.plugins.module_utils._pci_ids import GPUS, NVSWITCHES

_GB = 10**9
_HOST = "the host"
# Boards have eight GPUs, and so many NVSwitches.
_BOARD = 8
_SWITCHES = {
    "NVIDIA A100-SXM4-40GB": 6,
    "NVIDIA A100-SXM4-80GB": 6,
    "NVIDIA A800-SXM4-80GB": 6,
    "NVIDIA H100 80GB HBM3": 4,
    "NVIDIA H20": 4,
    "NVIDIA H20-3e": 4,
    "NVIDIA H200": 4,
    "NVIDIA H800": 4,
}
# The systems whose packages and paths the roles know, by the `ID` of os-release, from this release on.
_SYSTEMS = {"debian": "12", "ubuntu": "22.04"}
_ARCHITECTURE = "x86_64"
_PYTHON = "3.9"
_KERNEL = "5"
# Engines that do their work without a GPU, too.
_ON_CPUS = ("llama_cpp", "ollama")

Described = t.Mapping[str, t.Any]


@dataclass(frozen=True)
class Wanted:
    """What a host must be able to do.

    :ivar memory_min: GiB.
    :ivar disk: free space in GiB, by path.
    :ivar gpu_profile: a name of PROFILES, or AUTO for any one of them; None where GPUs do not matter.
    :ivar kernel_module: whether a kernel module will be built for the GPUs.
    :ivar secure_boot_signed: whether modules will be signed with a key that the firmware knows.
    :ivar model_directory: where models are kept; `needs` is what they need there.
    :ivar models, services: the fleet's description.
    """

    memory_min: int = 64
    disk: t.Mapping[str, int] = field(default_factory=dict)
    gpu_profile: str | None = None
    gpu_count: int = _BOARD
    kernel_module: bool = False
    secure_boot_signed: bool = False
    model_directory: str = "/data/models"
    needs: t.Sequence[Need] = ()
    models: t.Sequence[Described] = ()
    services: t.Sequence[Described] = ()


# One way in which a rule is broken: (object, expected, found).
Broken = tuple[str, str, str]
Check = t.Callable[[HostFacts, Wanted], list[Broken]]
Applies = t.Callable[[HostFacts, Wanted], bool]


def on_host(check: t.Callable[[HostFacts, Wanted], tuple[str, str] | None]) -> Check:
    """A rule on the host as a whole, whose check gives (expected, found) or None."""

    def check_host(facts: HostFacts, wanted: Wanted) -> list[Broken]:
        wrong = check(facts, wanted)
        return [(_HOST, *wrong)] if wrong else []

    return check_host


def _numbers(version: str) -> list[int]:
    return [int(part) for part in re.findall("[0-9]+", version)]


def _gb(size: float) -> str:
    return f"{size / _GB:.1f} GB"


def _gib(size: float) -> str:
    return f"{size / GIB:.1f} GiB"


def _joined(items: t.Iterable[object]) -> str:
    return ", ".join(map(str, items)) or "none"


def _word(described: Described, key: str) -> str:
    """What a description says under a key, whatever somebody has written there."""
    return str(described.get(key))


# --- The host


def operating_system(facts: HostFacts, _wanted: Wanted) -> tuple[str, str] | None:
    least = _SYSTEMS.get(facts.system)
    # Debian testing has no number.
    if least and (not facts.version or _numbers(facts.version) >= _numbers(least)):
        return None
    known = " or ".join(f"{system} {version}" for system, version in _SYSTEMS.items())
    return f"{known} or newer", f"{facts.system} {facts.version}".strip() or "no os-release"


def architecture(facts: HostFacts, _wanted: Wanted) -> tuple[str, str] | None:
    return None if facts.architecture == _ARCHITECTURE else (_ARCHITECTURE, facts.architecture)


def service_manager(facts: HostFacts, _wanted: Wanted) -> tuple[str, str] | None:
    return None if facts.systemd else ("systemd", "another one")


def python(facts: HostFacts, _wanted: Wanted) -> tuple[str, str] | None:
    return None if _numbers(facts.python) >= _numbers(_PYTHON) else (f"{_PYTHON} or newer", facts.python)


def memory(facts: HostFacts, wanted: Wanted) -> tuple[str, str] | None:
    enough = facts.memory >= wanted.memory_min * GIB
    return None if enough else (f"{wanted.memory_min} GiB or more", _gib(facts.memory))


def disk(facts: HostFacts, wanted: Wanted) -> list[Broken]:
    found = [(path, least, facts.filesystems[path]) for path, least in wanted.disk.items()]
    return [
        (path, f"{least} GiB free or more", f"{_gib(there.free)} on {there.mount}")
        for path, least, there in found
        if there.free < least * GIB
    ]


def clock(facts: HostFacts, _wanted: Wanted) -> tuple[str, str] | None:
    if facts.clock_synchronized:
        return None
    return "a clock that a time service keeps", "not known" if facts.clock_synchronized is None else "one left alone"


# --- The kernel


def kernel_version(facts: HostFacts, _wanted: Wanted) -> tuple[str, str] | None:
    running = facts.kernel.running
    return None if _numbers(running) >= _numbers(_KERNEL) else (f"{_KERNEL} or newer", running)


def kernel_default(facts: HostFacts, _wanted: Wanted) -> tuple[str, str] | None:
    running, default = facts.kernel.running, facts.kernel.default
    return None if default in (running, None) else (f"{running}, which runs, to boot next, too", str(default))


def kernel_headers(facts: HostFacts, _wanted: Wanted) -> tuple[str, str] | None:
    kernel = facts.kernel
    package = HEADERS_PACKAGE.format(kernel.running)
    if kernel.running in kernel.headers or _to_be_had(package, kernel):
        return None
    expected = f"headers of {kernel.running} installed, or {package} in apt's lists"
    return expected, f"those of {_joined(kernel.headers)}"


def compiler(facts: HostFacts, _wanted: Wanted) -> tuple[str, str] | None:
    kernel = facts.kernel
    package = COMPILER_PACKAGE.format(kernel.compiler)
    if kernel.compiler in (None, *kernel.compilers) or _to_be_had(package, kernel):
        return None
    expected = f"gcc {kernel.compiler}, with which the kernel was built, installed, or {package} in apt's lists"
    return expected, f"gcc {_joined(kernel.compilers)}"


def _to_be_had(package: str, kernel: Kernel) -> bool:
    """Whether apt can install a package, as far as it knows already."""
    return kernel.available is None or package in kernel.available


def secure_boot(facts: HostFacts, wanted: Wanted) -> tuple[str, str] | None:
    if not facts.secure_boot or wanted.secure_boot_signed:
        return None
    return "a module signed with a key that the firmware knows, or Secure Boot off", "Secure Boot on"


# --- GPUs


def _gpus(facts: HostFacts) -> list[PciDevice]:
    return [device for device in facts.pci if not device.switch and not device.given_away]


def _name(device: str, names: t.Mapping[str, str]) -> str:
    return f"{names.get(device, 'another device')} (10de:{device[2:]})"


def gpu_count(facts: HostFacts, wanted: Wanted) -> tuple[str, str] | None:
    count = len(_gpus(facts))
    away = sum(device.given_away for device in facts.pci)
    found = f"{count}, and {away} that virtual machines have" if away else str(count)
    return None if count == wanted.gpu_count else (f"{wanted.gpu_count} GPUs on the PCI bus", found)


def gpu_model(facts: HostFacts, wanted: Wanted) -> list[Broken]:
    """All GPUs are those of the profile; with `auto`, all are alike and of one profile."""
    profiled = {profile.name for profile in PROFILES.values()}
    gpus = _gpus(facts)
    if wanted.gpu_profile == AUTO:
        names = [GPUS.get(gpu.device, "") for gpu in gpus]
        most = collections.Counter(name for name in names if name in profiled).most_common(1)
        expected = most[0][0] if most else f"one of {_joined(sorted(profiled))}"
    else:
        expected = PROFILES[wanted.gpu_profile or ""].name
    others: dict[str, list[str]] = {}
    for gpu in gpus:
        if GPUS.get(gpu.device) != expected:
            others.setdefault(gpu.device, []).append(gpu.address)
    return [(f"GPU {_joined(places)}", expected, _name(device, GPUS)) for device, places in others.items()]


def nvswitches(facts: HostFacts, _wanted: Wanted) -> tuple[str, str] | None:
    found = [device for device in facts.pci if device.switch]
    names = [GPUS.get(gpu.device, "") for gpu in _gpus(facts)]
    expected = _SWITCHES.get(names[0], 0) if len(names) == _BOARD else 0
    if len(found) >= expected:
        return None
    kinds = _joined(sorted({_name(device.device, NVSWITCHES) for device in found}))
    return f"{expected} NVSwitches on the PCI bus, as a board with {_BOARD} {names[0]} has", f"{len(found)} ({kinds})"


def gpu_memory(facts: HostFacts) -> int | None:
    """Bytes of all GPUs together; None where a GPU's model or memory is not known."""
    memories = {profile.name: profile.memory_min * MIB for profile in PROFILES.values()}
    each = [memories.get(GPUS.get(gpu.device, "")) for gpu in _gpus(facts)]
    known = [one for one in each if one is not None]
    return sum(known) if known and len(known) == len(each) else None


# --- Models


def model_names(_facts: HostFacts, wanted: Wanted) -> list[Broken]:
    return _twice("model", wanted.models)


def _twice(kind: str, described: t.Iterable[Described]) -> list[Broken]:
    counts = collections.Counter(_word(one, "name") for one in described)
    return [
        (f"{kind} {name}", "a name of its own", f"{count} of that name") for name, count in counts.items() if count > 1
    ]


def _present(wanted: Wanted) -> list[Described]:
    return [model for model in wanted.models if model.get("state", "present") == "present"]


def model_sources(_facts: HostFacts, wanted: Wanted) -> list[Broken]:
    lacks = [(model, [key for key in ("repo", "revision") if not model.get(key)]) for model in _present(wanted)]
    return [
        (f"model {_word(model, 'name')}", "its repo and its revision", f"no {' and no '.join(keys)}")
        for model, keys in lacks
        if keys
    ]


def model_manifests(_facts: HostFacts, wanted: Wanted) -> list[Broken]:
    return [
        (f"model {need.name}", "a manifest that can be read, or none", need.unreadable.rstrip("."))
        for need in wanted.needs
        if need.unreadable
    ]


def model_disk(facts: HostFacts, wanted: Wanted) -> list[Broken]:
    """All models of known size together have room."""
    come = {need.name: need.missing for need in wanted.needs if need.missing}
    return _room(facts, wanted, come, "")


def _room(facts: HostFacts, wanted: Wanted, come: t.Mapping[str, int], whence: str) -> list[Broken]:
    there = facts.filesystems[wanted.model_directory]
    if there.free >= sum(come.values()):
        return []
    expected = f"{_gb(sum(come.values()))} free for {_joined(come)}{whence}"
    return [(wanted.model_directory, expected, f"{_gb(there.free)} on {there.mount}")]


def model_gpu_memory(facts: HostFacts, wanted: Wanted) -> list[Broken]:
    there = gpu_memory(facts)
    return [
        (f"model {need.name}", f"{_gb(need.files)} of GPU memory for its files", _gb(there))
        for need in wanted.needs
        if there is not None and need.files is not None and need.files > there
    ]


# The table speaks where nothing better is known.


def _guessed(wanted: Wanted) -> list[Need]:
    return [need for need in wanted.needs if need.files is None and need.size]


def size_cores(facts: HostFacts, wanted: Wanted) -> list[Broken]:
    return _too_few(wanted, "cores", facts.cores, "cores", 1, str)


def size_memory(facts: HostFacts, wanted: Wanted) -> list[Broken]:
    return _too_few(wanted, "memory", facts.memory, "of memory", _GB, _gb)


def size_gpu_memory(facts: HostFacts, wanted: Wanted) -> list[Broken]:
    return _too_few(wanted, "gpu_memory", gpu_memory(facts), "of GPU memory", _GB, _gb)


def _too_few(
    wanted: Wanted, key: str, there: int | None, what: str, unit: int, shown: t.Callable[[int], str]
) -> list[Broken]:
    broken = []
    for need in _guessed(wanted):
        least = t.cast("dict[str, t.Any]", need.size)[key]
        if there is not None and least is not None and there < least * unit:
            broken.append((f"model {need.name}", f"{shown(least * unit)} {what}, by the table of sizes", shown(there)))
    return broken


def size_disk(facts: HostFacts, wanted: Wanted) -> list[Broken]:
    come = {need.name: need.missing for need in wanted.needs if need.missing}
    guessed = {need.name: need.size["disk"] * _GB for need in _guessed(wanted) if need.size and not need.started}
    return _room(facts, wanted, {**come, **guessed}, ", by the table of sizes") if guessed else []


# --- Services


def service_names(_facts: HostFacts, wanted: Wanted) -> list[Broken]:
    return _twice("service", wanted.services)


def service_models(_facts: HostFacts, wanted: Wanted) -> list[Broken]:
    described = [_word(model, "name") for model in _present(wanted)]
    return [
        (_service(service), f"a model that is described and present ({_joined(described)})", _word(service, "model"))
        for service in wanted.services
        if _word(service, "model") not in described
    ]


def _service(service: Described) -> str:
    return f"service {_word(service, 'name')}"


def service_formats(_facts: HostFacts, wanted: Wanted) -> list[Broken]:
    formats = {_word(model, "name"): model_format(model) for model in wanted.models}
    broken = []
    for service in wanted.services:
        engine, found = _word(service, "engine"), formats.get(_word(service, "model"))
        expected = FORMATS.get(engine)
        if found and expected and found != expected:
            broken.append((_service(service), f"a model in {expected}, which {engine} serves", f"one in {found}"))
    return broken


def service_ports(_facts: HostFacts, wanted: Wanted) -> list[Broken]:
    ports: dict[str, list[str]] = {}
    for service in wanted.services:
        ports.setdefault(_word(service, "port"), []).append(_word(service, "name"))
    return [
        (f"service {_joined(names)}", "for each a port of its own, from 1 to 65535", port)
        for port, names in ports.items()
        if len(names) > 1 or not port.isdigit() or not 1 <= int(port) <= 65535
    ]


def service_gpus(_facts: HostFacts, wanted: Wanted) -> list[Broken]:
    return [
        (_service(service), f"all, or some of the GPUs 0 to {wanted.gpu_count - 1}, each once", _word(service, "gpus"))
        for service in wanted.services
        if _gpus_of(service, wanted) is None
    ]


def _gpus_of(service: Described, wanted: Wanted) -> list[int] | None:
    """Numbers of the GPUs that a service has; None where it does not tell such. One that names none has all."""
    everything = range(wanted.gpu_count)
    gpus = service.get("gpus", "all")
    if gpus == "all":
        return list(everything)
    least = 0 if service.get("engine") in _ON_CPUS else 1
    known = isinstance(gpus, list) and all(gpu in everything for gpu in gpus)
    return gpus if known and least <= len(gpus) == len(set(gpus)) else None


def service_overlaps(_facts: HostFacts, wanted: Wanted) -> list[Broken]:
    """No GPU has two services."""
    users: dict[int, list[str]] = {}
    for service in wanted.services:
        for gpu in _gpus_of(service, wanted) or []:
            users.setdefault(gpu, []).append(_word(service, "name"))
    shared: dict[str, list[int]] = {}
    for gpu, names in users.items():
        if len(names) > 1:
            shared.setdefault(_joined(names), []).append(gpu)
    return [(f"GPU {_joined(gpus)}", "one service on each GPU", names) for names, gpus in shared.items()]
