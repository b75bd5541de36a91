# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""One service on several hosts: what each of them is told. Private to this collection.

Every host runs the same command with its own number; the first, the head, answers requests. They meet at a port of the
head, and then open connections to each other as they like. None of it is encrypted, and all of it trusts whoever
reaches it.
"""

from __future__ import annotations

import dataclasses
import ipaddress
import typing as t
from collections.abc import Mapping, Sequence

from ansible_collections.llmfleet.serving.plugins.module_utils._arguments import Release, normal
from ansible_collections.llmfleet.serving.plugins.module_utils._errors import LlmError

# Where the hosts meet, if the service does not say it.
MEETING_PORT = 29501

# What the Internet does not reach (RFC 1918, 6598 and 4193).
_PRIVATE = [
    ipaddress.ip_network(network)
    for network in ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "fc00::/7")
]

# What a release must know to spread a service over hosts by itself.
_OPTIONS = {
    "sglang": ("nnodes", "node-rank", "dist-init-addr"),
    "vllm": ("nnodes", "node-rank", "master-addr", "master-port", "headless"),
}
INSTEAD = (
    "vLLM spreads over hosts from 0.11.1 on, before through Ray, which is not run here. SGLang does in all versions."
)


@dataclasses.dataclass(frozen=True)
class Part:
    """One host's part of a service.

    :ivar hosts: all that share it, with their addresses; `rank` is the host's place, and 0 the head.
    :ivar serves: whether this host answers requests; `health` whether it tells by HTTP that it is up.
    :ivar args: the service's args, with the sizes of parallel groups where it had none.
    :ivar words: what the command line has besides them.
    :ivar meeting: where it meets the others, as `_meeting.Meeting`; empty when there are none.
    """

    rank: int
    hosts: Mapping[str, str]
    serves: bool
    health: bool
    args: Mapping[str, t.Any]
    words: Sequence[str]
    environment: Mapping[str, str]
    meeting: Mapping[str, t.Any] = dataclasses.field(default_factory=dict)


def private(address: str) -> bool:
    """Whether an address belongs to a network that the Internet does not reach.

    :raises LlmError: when it is no address.
    """
    try:
        found = ipaddress.ip_address(address)
    except ValueError as exc:
        raise LlmError(
            f"{address[:60]!r} is not an IP address. Names change; hosts that share a service need one."
        ) from exc
    return any(found.version == network.version and found in network for network in _PRIVATE)


@dataclasses.dataclass(frozen=True)
class Link:
    """How the hosts of a service reach each other.

    :ivar addresses: of each host in the private network that they share; the head's first.
    :ivar interface: the one of the host in question that has its address.
    :ivar port: of the head, where they meet.
    """

    addresses: Mapping[str, str]
    interface: str
    port: int = MEETING_PORT


def alone(host: str, args: Mapping[str, t.Any]) -> Part:
    """The whole of a service that no other host shares."""
    return Part(rank=0, hosts={host: ""}, serves=True, health=True, args=args, words=[], environment={})


def addresses_of(hosts: Sequence[str], known: Mapping[str, str]) -> dict[str, str]:
    """The addresses of hosts, in their order.

    :raises LlmError: when one has none.
    """
    missing = [host for host in hosts if not known.get(host)]
    if missing:
        raise LlmError(
            f"Hosts that share a service need an address in a private network, and {', '.join(missing)} has none. "
            "Set llmfleet_node_address for each."
        )
    return {host: known[host] for host in hosts}


def part(release: Release, link: Link, host: str, gpus: int, args: Mapping[str, t.Any]) -> Part:
    """What one of the hosts is told.

    :param release: of vLLM with `--nnodes`, or of SGLang.
    :param gpus: of each host.
    :raises LlmError: when the release cannot do it, or an address is not private, or is twice there.
    """
    if not several(release):
        raise LlmError(f"{release} runs on one host. {INSTEAD}")
    _check_addresses(link.addresses)
    hosts = list(link.addresses)
    rank, head, own = hosts.index(host), link.addresses[hosts[0]], link.addresses[host]
    among = ["--nnodes", str(len(hosts)), "--node-rank", str(rank)]
    if release.engine == "vllm":
        words = [*among, "--master-addr", head, "--master-port", str(link.port), *(["--headless"] if rank else [])]
        environment = {"VLLM_HOST_IP": own}
    else:
        words = [*among, "--dist-init-addr", f"{_bracketed(head)}:{link.port}"]
        # Otherwise it guesses which of its addresses the others reach.
        environment = {"SGLANG_HOST_IP": own}
    return Part(
        rank=rank,
        hosts=link.addresses,
        serves=rank == 0,
        # vLLM has no HTTP on the others, SGLang an answer to "are you there" only.
        health=rank == 0 or release.engine == "sglang",
        args={**_sizes(release, gpus, len(hosts), args), **args},
        words=words,
        environment={
            **environment,
            # The sign means this one, and none whose name only begins so.
            "NCCL_SOCKET_IFNAME": f"={link.interface}",
            # gloo takes the name as it is.
            "GLOO_SOCKET_IFNAME": link.interface,
        },
        meeting={
            "own": own,
            "port": link.port,
            "head": rank == 0,
            "peers": {name: link.addresses[name] for name in (hosts[1:] if rank == 0 else hosts[:1])},
        },
    )


def sizes(engine: str, local: int, hosts: int) -> dict[str, int]:
    """The options whose product is the number of GPUs that an engine takes, as the collection sets them.

    What all layers exchange stays within a host where the engine has it so.
    """
    within = engine == "vllm"
    return {
        "tensor-parallel-size": local if within else local * hosts,
        "pipeline-parallel-size": hosts if within else 1,
        "data-parallel-size": 1,
    }


def several(release: Release) -> bool:
    """Whether a release spreads a service over hosts by itself."""
    return release.engine in _OPTIONS and all(release.find(option) for option in _OPTIONS[release.engine])


def _check_addresses(addresses: Mapping[str, str]) -> None:
    public = [f"{host} has {address}" for host, address in addresses.items() if not private(address)]
    if public:
        raise LlmError(
            f"Hosts that share a service need addresses in a private network: {', '.join(public)}. "
            "What they send each other is not encrypted, and runs as code where it arrives."
        )
    if len({ipaddress.ip_address(address) for address in addresses.values()}) < len(addresses):
        raise LlmError(f"Hosts that share a service need an address each, found {', '.join(addresses.values())}.")


def _bracketed(address: str) -> str:
    return f"[{address}]" if ":" in address else address


def _sizes(release: Release, gpus: int, hosts: int, args: Mapping[str, t.Any]) -> dict[str, int]:
    """The sizes of parallel groups that the args do not have by any of their names; 1 goes without saying."""
    given = {option.name if (option := release.find(name)) else normal(name) for name in args}
    found = [(release.find(name), size) for name, size in sizes(release.engine, gpus, hosts).items()]
    return {option.name: size for option, size in found if option and size > 1 and option.name not in given}
