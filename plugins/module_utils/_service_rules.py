# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Do the services of a fleet hold together: names, ports, GPUs and hosts? Private to this collection.

What a host can say of them is judged there, in `_host_rules`. Here is what takes the stack, the options of its engines,
or the whole fleet.
"""

from __future__ import annotations

import dataclasses
import re
import typing as t
from collections.abc import Iterator, Mapping, Sequence

from ansible_collections.llmfleet.serving.plugins.module_utils._arguments import Knowledge, Release
from ansible_collections.llmfleet.serving.plugins.module_utils._errors import LlmError
from ansible_collections.llmfleet.serving.plugins.module_utils._pairs import INSTEAD, MEETING_PORT, several, sizes
from ansible_collections.llmfleet.serving.plugins.module_utils._stack import Stack
from ansible_collections.llmfleet.serving.plugins.module_utils._stack_rules import FAIL, WARN, Finding

# A service is the unit llmfleet-NAME and an account of that name, for which Linux has 32 characters.
UNIT = "llmfleet-{}"
_NAME = re.compile(r"[a-z0-9](?:[a-z0-9_-]*[a-z0-9])?")
_LONGEST = 32 - len(UNIT.format(""))
# Units of the collection's own.
_TAKEN = {"gpu-ready": "the unit of the gate", "peers": "the unit that serves models to other hosts"}

# Engines that spread one model over several hosts.
SPREADING = ("sglang", "vllm")


@dataclasses.dataclass(frozen=True)
class Fleet:
    """What services are held against.

    :ivar hosts: the fleet's hosts, in the inventory's order; `host` is the one that is looked at.
    :ivar gpus: of each host; None where GPUs do not matter.
    :ivar ports: which ports the collection's own units have, and which unit it is.
    """

    hosts: Sequence[str] = ()
    host: str = ""
    gpus: int | None = None
    ports: Mapping[int, str] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class _Service:
    """:ivar args: by their names in the lists of options.
    :ivar release: None where the stack does not have the engine.
    """

    engine: str
    name: str
    described: Mapping[str, t.Any]
    args: Mapping[str, t.Any]
    release: Release | None = None


# What is wrong with a service: (rule, severity, expected, found, advice).
_Obstacle = tuple[str, str, str, str, str]


def findings(stack: Stack, known: Knowledge, services: Sequence[Mapping[str, t.Any]], fleet: Fleet) -> list[Finding]:
    """Everything that is wrong with the services of one host, all at once.

    :param services: the playbooks' `llmfleet_services`: name, engine, port, gpus, hosts, args.
    """
    return [
        Finding(
            id=f"service-{rule}",
            severity=severity,
            object=f"service {service.get('name')}",
            expected=expected,
            found=found,
            advice=advice,
        )
        for service in services
        for rule, severity, expected, found, advice in [
            *(obstacle for check in _CHECKS for obstacle in check(_read(stack, known, service), fleet)),
            *_meeting(service, [other for other in services if other is not service]),
        ]
    ]


def _meeting(service: Mapping[str, t.Any], others: Sequence[Mapping[str, t.Any]]) -> Iterator[_Obstacle]:
    """Has the port where a service's hosts meet no other service?"""
    if host_count(service) <= 1:
        return
    port = meeting_port(service)
    for other in others:
        if port == _number(other.get("port")) or (host_count(other) > 1 and port == meeting_port(other)):
            expected, found = "a meeting_port of its own", f"{port}, which service {other.get('name')} has"
            yield "port-taken", FAIL, expected, found, "Change one of them."


def meeting_port(service: Mapping[str, t.Any]) -> int:
    """The port of the head where the hosts of a service meet; 0 where it is none."""
    return _number(service.get("meeting_port", MEETING_PORT))


def _read(stack: Stack, known: Knowledge, service: Mapping[str, t.Any]) -> _Service:
    engine, given = str(service.get("engine")), service.get("args")
    args: dict[str, t.Any] = dict(given) if isinstance(given, Mapping) else {}
    release = None
    if engine in stack.engines:
        # The same option has other names in other versions.
        release = known.release(engine, stack.engines[engine].version)
        found = {name: release.find(name) for name in args}
        args = {name: args[key] for key, option in found.items() if option for name in option.names}
    return _Service(engine, str(service.get("name")), service, args, release)


def _unit(service: _Service, _fleet: Fleet) -> Iterator[_Obstacle]:
    if not _NAME.fullmatch(service.name) or len(service.name) > _LONGEST:
        expected = (
            f"a name of at most {_LONGEST} small letters, digits, dashes and underscores, with none of these at an end"
        )
        yield "unit", FAIL, expected, repr(service.name), f"Its unit and its account are {UNIT.format('NAME')}."
    elif service.name in _TAKEN:
        yield "unit", FAIL, "a name that is free", f"{UNIT.format(service.name)}, {_TAKEN[service.name]}", "Rename it."


def _port(service: _Service, fleet: Fleet) -> Iterator[_Obstacle]:
    ports = [service.described.get("port")]
    if host_count(service.described) > 1:
        ports.append(service.described.get("meeting_port", MEETING_PORT))
    for port in ports:
        owner = fleet.ports.get(_number(port))
        if owner:
            expected, found = "a port that nothing else has", f"{port}, which {owner} has"
            yield "port-taken", FAIL, expected, found, "Change one of them."


def _number(value: object) -> int:
    """A whole number, also where it is written as text; 0 for anything else."""
    return int(str(value)) if re.fullmatch("[0-9]{1,9}", str(value)) else 0


def _hosts(service: _Service, fleet: Fleet) -> Iterator[_Obstacle]:
    wanted = service.described.get("hosts", 1)
    if isinstance(wanted, list):
        yield from _named(wanted, fleet)
    elif _number(wanted) < 1:
        expected = "how many hosts share the service, or their names, the first of which others connect to"
        yield "hosts", FAIL, expected, repr(wanted), ""
    elif len(fleet.hosts) % _number(wanted):
        expected, found = f"a multiple of {wanted} hosts in the fleet", str(len(fleet.hosts))
        yield "hosts", FAIL, expected, found, "Say in hosts the names of those that share the service."
    count = host_count(service.described)
    if count > 1 and service.engine not in SPREADING:
        expected, found = f"one host, or the engine {' or '.join(SPREADING)}", f"{count} hosts for {service.engine}"
        yield "hosts", FAIL, expected, found, f"{service.engine} does not spread a model over hosts."
    elif count > 1 and service.release and not several(service.release):
        yield "hosts", FAIL, "one host", f"{count} hosts for {service.release}", INSTEAD


def _named(names: Sequence[object], fleet: Fleet) -> Iterator[_Obstacle]:
    unknown = [str(name) for name in names if name not in fleet.hosts]
    if unknown or not names:
        expected, found = "names of hosts of the fleet", ", ".join(unknown) or "none"
        yield "hosts", FAIL, expected, found, "They are those of the inventory's group llmfleet."
    if len({str(name) for name in names}) < len(names):
        yield "hosts", FAIL, "each host once", ", ".join(map(str, names)), "Take one out."
    if fleet.host not in names:
        expected, found = f"{fleet.host} among the service's hosts", ", ".join(map(str, names)) or "none"
        yield "hosts", FAIL, expected, found, "Describe the service in variables of its own hosts only."


def host_count(service: Mapping[str, t.Any]) -> int:
    """How many hosts share a service."""
    wanted = service.get("hosts", 1)
    return len(wanted) if isinstance(wanted, list) else _number(wanted)


def hosts_of(service: Mapping[str, t.Any], fleet: Fleet) -> list[str]:
    """The hosts that share a service with the one that is looked at, that one among them; the first is the head.

    A number takes so many at a time of the fleet's hosts, in their order.

    :raises LlmError: when there are no such hosts.
    """
    read = _Service(str(service.get("engine")), str(service.get("name")), service, {})
    wrong = [
        f"expected {expected}, found {found}" for _rule, _severity, expected, found, _advice in _hosts(read, fleet)
    ]
    if wrong or fleet.host not in fleet.hosts:
        raise LlmError(f"The hosts of service {read.name}: {'; '.join(wrong) or fleet.host + ' is none of the fleet'}.")
    if isinstance(service.get("hosts"), list):
        return list(service["hosts"])
    count = host_count(service)
    first = fleet.hosts.index(fleet.host) // count * count
    return list(fleet.hosts[first : first + count])


def _parallel(service: _Service, fleet: Fleet) -> Iterator[_Obstacle]:
    """Does the engine take as many GPUs as the service has?"""
    local = gpu_count(service.described, fleet)
    hosts = host_count(service.described)
    if service.engine not in SPREADING or not local or not hosts:
        return
    parts = {name: _number(service.args.get(name, size)) for name, size in sizes(service.engine, local, hosts).items()}
    if service.engine == "sglang" and service.args.get("enable-dp-attention"):
        # Its replicas share the GPUs of the tensor parallel group.
        del parts["data-parallel-size"]
    taken = 1
    for size in parts.values():
        taken *= size
    has = local * hosts
    product = " x ".join(f"{name.replace('-', '_')} {size}" for name, size in parts.items() if size != 1) or "1"
    expected = f"{local} GPUs x {hosts} hosts = {has}" if hosts > 1 else f"{has}, the number of its GPUs"
    found = f"{product} = {taken}" if " x " in product else product
    if taken > has or taken % hosts:
        yield "parallel", FAIL, expected, found, "Change the sizes in args, or gpus."
    elif 0 < taken < has:
        yield "parallel", WARN, expected, found, f"{has - taken} of its GPUs have nothing to do."


def gpu_count(service: Mapping[str, t.Any], fleet: Fleet) -> int | None:
    """How many GPUs a service has on each host; None where that is not known, or not understood."""
    gpus = service.get("gpus", "all")
    if isinstance(gpus, list):
        return len(gpus)
    return fleet.gpus if gpus == "all" else None


def _exposed(service: _Service, _fleet: Fleet) -> Iterator[_Obstacle]:
    if service.engine == "sglang" and host_count(service.described) > 1 and service.args.get("enable-dp-attention"):
        expected, found = "no data-parallel attention over several hosts", "enable_dp_attention"
        advice = (
            "CVE-2026-93034: then its ranks take code from whoever reaches them. Nothing else may be in that network."
        )
        yield "exposed", WARN, expected, found, advice


_CHECKS: tuple[t.Callable[[_Service, Fleet], Iterator[_Obstacle]], ...] = (_unit, _port, _hosts, _parallel, _exposed)
