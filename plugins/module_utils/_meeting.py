# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Are the hosts of a service still together? Private to this collection.

The engines of a service on several hosts meet at a port of the head, and each of them keeps its connection for as long
as it runs: that is how PyTorch's TCPStore works. So connections name the runs that belong together. When one of them
has ended, its engine has gone, and what comes in its place has another one.
"""

from __future__ import annotations

import ipaddress
import socket
import typing as t

from ansible_collections.llmfleet.serving.plugins.module_utils._errors import LlmError
from ansible_collections.llmfleet.serving.plugins.module_utils._gpu_facts import RunCommand

_REACH_S = 5.0


class Meeting(t.TypedDict):
    """Where hosts meet, as one of them sees it.

    `peers` has the addresses of those that it is connected to, by name: of the head all others, of these the head.
    """

    own: str
    port: int
    head: bool
    peers: dict[str, str]


def connections(run: RunCommand, meeting: Meeting) -> dict[str, list[str]]:
    """The established connections with each peer at the port where they meet, each by the end that is no meeting port.

    :raises LlmError: when they cannot be told.
    """
    status, said, complaint = run(["ss", "--no-header", "--tcp", "--numeric", "state", "established"])
    if status:
        raise LlmError(f"ss, which tells of connections, has failed: {complaint.strip() or status}.")
    found: dict[str, list[str]] = {peer: [] for peer in meeting["peers"]}
    names = {_plain(address): peer for peer, address in meeting["peers"].items()}
    for line in said.splitlines():
        (local, local_port), (remote, remote_port) = (_end(word) for word in line.split()[2:4])
        port, other = (local_port, remote_port) if meeting["head"] else (remote_port, local_port)
        if port == str(meeting["port"]) and local == _plain(meeting["own"]) and remote in names:
            found[names[remote]].append(other)
    return {peer: sorted(ends) for peer, ends in found.items()}


def unreachable(meeting: Meeting) -> list[str]:
    """The peers whose hosts do not answer at all: a host that loses power closes no connection.

    It is asked at the port before the one where they meet, because that is nobody's: to refuse is an answer too.
    """
    silent = []
    for peer, address in meeting["peers"].items():
        try:
            socket.create_connection((address, meeting["port"] - 1), _REACH_S).close()
        except ConnectionRefusedError:
            continue
        except OSError:
            silent.append(peer)
    return silent


def _end(word: str) -> tuple[str, str]:
    address, _colon, port = word.rpartition(":")
    return _plain(address.strip("[]").partition("%")[0]), port


def _plain(address: str) -> str:
    """An address in one spelling, as an IPv6 socket has IPv4 addresses in its own."""
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return address
    mapped = found.ipv4_mapped if isinstance(found, ipaddress.IPv6Address) else None
    return str(mapped or found)
