# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Hosts as network namespaces on one bridge, each behind a link of its own."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from testbed import BedError
from testbed.engine import command

# What of a link's rate is left to TCP's data: a full frame without the headers of Ethernet, IPv4 and TCP.
PAYLOAD = 1448 / 1514

# The network of RFC 2544 for benchmarks: no other host of this machine is to be found there.
_NETWORK = "198.18.0"
_PREFIX = "llmfleet-"
_NAMESPACES = Path("/run/netns")
_INTERFACE = "eth0"
# What may pass at once, as time: several ticks of the slowest kernel clock (100 Hz), or a fast link is never full.
_BURST_S = 0.02
_MIN_BURST_BYTES = 64 * 1024  # the largest packet that TCP hands over
# How long a packet may wait in the queue of a link before it is dropped.
_QUEUE = "50ms"


@dataclass(frozen=True)
class Node:
    """One host: its name, its address, and its network namespace."""

    name: str
    address: str
    namespace: str

    @contextlib.contextmanager
    def inside(self) -> Iterator[None]:
        """Let this thread make sockets, processes and threads that belong to the host; they stay there."""
        with Path("/proc/thread-self/ns/net").open() as here, (_NAMESPACES / self.namespace).open() as there:
            os.setns(there.fileno(), os.CLONE_NEWNET)
            try:
                yield
            finally:
                os.setns(here.fileno(), os.CLONE_NEWNET)

    def received(self) -> int:
        """Bytes that the link has brought to the host, with all headers."""
        with self.inside():
            counters = Path("/proc/thread-self/net/dev").read_text()
        return int(counters.partition(f"{_INTERFACE}:")[2].split()[0])


@contextlib.contextmanager
def lab(rates: Mapping[str, int | None]) -> Iterator[dict[str, Node]]:
    """Hosts by name; every one reaches every other through both their links, and nothing else.

    When the context ends, the hosts end, with every process that was started there. A process has one lab at a time.

    :param rates: what a host's link carries in each direction, in bit/s; None is as much as the machine can.
    :raises BedError: if this is not run by root, or the kernel lacks something.
    """
    if os.geteuid() != 0:
        raise BedError("Network namespaces with shaped links take root's rights. Run this as root.")
    _sweep()
    prefix = f"{_PREFIX}{os.getpid()}-"
    bridge = f"{prefix}bridge"
    nodes = {name: Node(name, f"{_NETWORK}.{number}", f"{prefix}{name}") for number, name in enumerate(rates, start=1)}
    command(["ip", "netns", "add", bridge])
    try:
        _ip(bridge, "link add name bridge up type bridge")
        for name, rate in rates.items():
            _connect(nodes[name], bridge, rate)
        yield nodes
    finally:
        _remove(prefix)


def _connect(node: Node, bridge: str, rate: int | None) -> None:
    command(["ip", "netns", "add", node.namespace])
    _ip(bridge, f"link add name {node.name} type veth peer name {_INTERFACE} netns {node.namespace}")
    _ip(bridge, f"link set dev {node.name} master bridge up")
    _ip(node.namespace, "link set dev lo up")
    _ip(node.namespace, f"address add {node.address}/24 dev {_INTERFACE}")
    _ip(node.namespace, f"link set dev {_INTERFACE} up")
    if rate is not None:
        # A queueing discipline shapes what leaves an interface: each end shapes one direction.
        _shape(node.namespace, _INTERFACE, rate)
        _shape(bridge, node.name, rate)


def _shape(namespace: str, interface: str, rate: int) -> None:
    burst = max(int(rate / 8 * _BURST_S), _MIN_BURST_BYTES)
    shape = f"qdisc add dev {interface} root tbf rate {rate}bit burst {burst} latency {_QUEUE}"
    command(["tc", "-netns", namespace, *shape.split()])


def _ip(namespace: str, arguments: str) -> None:
    command(["ip", "-netns", namespace, *arguments.split()])


def _sweep() -> None:
    """Remove what a lab left whose process was killed."""
    for path in _NAMESPACES.glob(f"{_PREFIX}*"):
        pid = path.name.removeprefix(_PREFIX).partition("-")[0]
        if not Path("/proc", pid).exists():
            _remove(f"{_PREFIX}{pid}-")


def _remove(prefix: str) -> None:
    for path in _NAMESPACES.glob(f"{prefix}*"):
        for pid in command(["ip", "netns", "pids", path.name]).stdout.split():
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)
        command(["ip", "netns", "delete", path.name])
