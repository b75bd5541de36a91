# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Do hosts that are to share a service reach each other, and are they alike? Private to this collection.

All of them ask at the same time: each listens at its own address, and connects to all others, until every one has heard
every other one. Engines open ports as they like, so one port stands for all.
"""

from __future__ import annotations

import dataclasses
import json
import socket
import socketserver
import threading
import time
import typing as t
from collections.abc import Iterator, Mapping

from ansible_collections.llmfleet.serving.plugins.module_utils._errors import LlmError
from ansible_collections.llmfleet.serving.plugins.module_utils._pairs import private
from ansible_collections.llmfleet.serving.plugins.module_utils._stack_rules import FAIL, Finding

_CONNECT_S = 2.0
_AGAIN_S = 0.2
_LINE = 1 << 16

Run = t.Callable[..., tuple[int, str, str]]
# One thing that is wrong: (rule, object, expected, found, advice).
_Obstacle = tuple[str, str, str, str, str]


@dataclasses.dataclass(frozen=True)
class Node:
    """One host among those that are to share a service.

    :ivar addresses: of each host; the head's first.
    :ivar meeting_port: of the head, where the engine listens; None where it does already. The port before is tried.
    :ivar alike: what must be the same on all hosts, in words.
    """

    host: str
    addresses: Mapping[str, str]
    port: int
    meeting_port: int | None
    alike: Mapping[str, str]

    @property
    def address(self) -> str:
        return self.addresses[self.host]

    @property
    def head(self) -> str:
        return next(iter(self.addresses))

    @property
    def peers(self) -> list[str]:
        return [host for host in self.addresses if host != self.host]


def check(node: Node, run: Run, patience: float) -> tuple[str, list[Finding]]:
    """The interface that has the host's address, and everything that is wrong, all at once.

    :param patience: seconds until every host must have heard every other one.
    """
    interface, wrong = _interface(node, run)
    obstacles = [*_private(node), *wrong]
    if not obstacles:
        obstacles = [*_port(node), *_together(node, patience)]
    return interface, [
        Finding(id=f"node-{rule}", severity=FAIL, object=thing, expected=expected, found=found, advice=advice)
        for rule, thing, expected, found, advice in obstacles
    ]


def _private(node: Node) -> Iterator[_Obstacle]:
    for host, address in node.addresses.items():
        if not private(address):
            advice = "What hosts send each other is not encrypted, and runs as code where it arrives."
            yield "private", f"host {host}", "an address in a private network", address, advice


def _interface(node: Node, run: Run) -> tuple[str, list[_Obstacle]]:
    status, said, complaint = run(["ip", "-json", "address", "show"])
    if status:
        raise LlmError(f"The addresses of {node.host} cannot be read: ip says {complaint.strip() or status}.")
    links = {entry.get("local"): link for link in json.loads(said) for entry in link.get("addr_info", [])}
    link = links.get(node.address)
    expected = f"{node.address} on an interface that is up"
    if link is None:
        known = ", ".join(sorted(str(address) for address in links)) or "none"
        return "", [("address", f"host {node.host}", expected, known, "Correct its llmfleet_node_address.")]
    name = str(link["ifname"])
    if not {"UP", "LOWER_UP"} <= set(link.get("flags", [])):
        return name, [("interface", f"host {node.host}", expected, f"{name}, which is down", "Bring it up.")]
    return name, []


def _port(node: Node) -> Iterator[_Obstacle]:
    if node.meeting_port is None:
        return
    with socket.socket(_family(node.address)) as listener:
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((node.address, node.meeting_port))
        except OSError as exc:
            thing, expected = f"host {node.host}", f"port {node.meeting_port} free, where the hosts meet"
            yield "port", thing, expected, str(exc), "Give the service another meeting_port."


class _Listener(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True

    def __init__(self, node: Node) -> None:
        self.node, self.heard = node, set[str]()
        self.address_family = _family(node.address)
        super().__init__((node.address, node.port), _Answer)


class _Answer(socketserver.StreamRequestHandler):
    timeout = _CONNECT_S

    def handle(self) -> None:
        node = t.cast("_Listener", self.server).node
        caller = _read(self.rfile.readline(_LINE)).get("host")
        self.wfile.write(_line(node))
        if caller in node.peers:
            t.cast("_Listener", self.server).heard.add(caller)


def _together(node: Node, patience: float) -> Iterator[_Obstacle]:
    try:
        listener = _Listener(node)
    except OSError as exc:
        expected = f"port {node.port} free, to try whether the hosts reach each other"
        yield "port", f"host {node.host}", expected, str(exc), "Give the service another meeting_port."
        return
    thread = threading.Thread(target=listener.serve_forever, kwargs={"poll_interval": _AGAIN_S}, daemon=True)
    thread.start()
    try:
        answers, complaints = _ask_all(node, listener, time.monotonic() + patience)
    finally:
        listener.shutdown()
        listener.server_close()
    for peer in node.peers:
        there = f"{node.addresses[peer]}:{node.port}"
        if peer not in answers:
            expected, advice = f"{peer} to answer at {there}", "All ports have to be open between these hosts."
            yield "link", f"host {node.host}", expected, complaints.get(peer, "nothing"), advice
        elif peer not in listener.heard:
            expected, advice = (
                f"{peer} to come to {node.address}:{node.port}",
                "All ports have to be open in both ways.",
            )
            yield "link", f"host {node.host}", expected, "nothing", advice
    yield from _differences(node, answers)


def _ask_all(node: Node, listener: _Listener, end: float) -> tuple[dict[str, Mapping[str, str]], dict[str, str]]:
    """What each of the others has answered, or why it has not."""
    answers: dict[str, Mapping[str, str]] = {}
    complaints: dict[str, str] = {}
    while time.monotonic() < end and not (len(answers) == len(node.peers) == len(listener.heard)):
        for peer in node.peers:
            if peer not in answers:
                try:
                    answers[peer] = _ask(node, node.addresses[peer])
                except (OSError, ValueError) as exc:
                    complaints[peer] = str(exc)
        time.sleep(_AGAIN_S)
    return answers, complaints


def _ask(node: Node, address: str) -> Mapping[str, str]:
    with socket.create_connection((address, node.port), timeout=_CONNECT_S, source_address=(node.address, 0)) as to:
        to.sendall(_line(node))
        with to.makefile("rb") as answer:
            told = _read(answer.readline(_LINE))
    if "alike" not in told:
        raise ValueError("an answer of something else")
    return t.cast("Mapping[str, str]", told["alike"])


def _differences(node: Node, answers: Mapping[str, Mapping[str, str]]) -> Iterator[_Obstacle]:
    for name, wanted in answers.get(node.head, {}).items():
        found = node.alike.get(name, "none")
        if found != wanted:
            advice = "All hosts of a service run the same."
            yield "alike", f"host {node.host}", f"{name} {wanted}, as on {node.head}", found, advice


def _line(node: Node) -> bytes:
    return json.dumps({"host": node.host, "alike": node.alike}).encode() + b"\n"


def _read(line: bytes) -> dict[str, t.Any]:
    try:
        told = json.loads(line)
    except ValueError:
        return {}
    return told if isinstance(told, dict) else {}


def _family(address: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in address else socket.AF_INET
