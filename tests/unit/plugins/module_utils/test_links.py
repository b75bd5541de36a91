"""Hosts that are to share a service, as threads with addresses of the loopback network."""

from __future__ import annotations

import dataclasses
import json
import socket
import threading

import pytest

from ansible_collections.llmfleet.serving.plugins.module_utils import _links
from ansible_collections.llmfleet.serving.plugins.module_utils._errors import LlmError

ADDRESSES = {"a": "127.77.0.1", "b": "127.77.0.2", "c": "127.77.0.3"}


def ip(flags=("UP", "LOWER_UP"), addresses=("127.77.0.1", "127.77.0.2", "127.77.0.3")):
    links = [{"ifname": "eth1", "flags": list(flags), "addr_info": [{"local": address} for address in addresses]}]
    return lambda _argv: (0, json.dumps(links), "")


@pytest.fixture
def port(monkeypatch):
    monkeypatch.setattr(_links, "private", lambda address: address.startswith("127.77."))
    with socket.socket() as free:
        free.bind(("127.77.0.1", 0))
        return free.getsockname()[1]


def node(host, port, **changes):
    return dataclasses.replace(_links.Node(host, ADDRESSES, port, None, {"engine": "sglang 0.5.23"}), **changes)


def together(*nodes, patience=5.0):
    """What each host finds when all ask at the same time."""
    found = {}
    threads = [
        threading.Thread(target=lambda one=one: found.update({one.host: _links.check(one, ip(), patience)}))
        for one in nodes
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return {host: [(one["id"], one["expected"], one["found"]) for one in found[host][1]] for host in sorted(found)}


def test_three_hosts_hear_each_other(port):
    assert together(*(node(host, port) for host in ADDRESSES)) == {"a": [], "b": [], "c": []}


def test_a_host_that_is_not_there_is_named_by_all_others(port):
    found = together(node("a", port), node("c", port), patience=1.0)
    refused = "[Errno 111] Connection refused"
    expected = [("node-link", f"b to answer at 127.77.0.2:{port}", refused)]
    assert found == {"a": expected, "c": expected}


def test_one_way_is_not_enough(port):
    """What b sends does not arrive: it listens, and answers whoever comes."""
    deaf = _links._Listener(node("b", port))
    threading.Thread(target=deaf.serve_forever, daemon=True).start()
    pair = {"a": ADDRESSES["a"], "b": ADDRESSES["b"]}
    found = together(node("a", port, addresses=pair), patience=1.0)
    deaf.shutdown()
    deaf.server_close()
    assert found == {"a": [("node-link", f"b to come to 127.77.0.1:{port}", "nothing")]}


def test_something_else_that_answers_is_no_host(port):
    pair = {"a": ADDRESSES["a"], "b": ADDRESSES["b"]}
    with socket.create_server((ADDRESSES["b"], port)) as other:

        def answer():
            other.accept()[0].sendall(b"220 mail\n")

        threading.Thread(target=answer, daemon=True).start()
        other.settimeout(3)
        found = together(node("a", port, addresses=pair), patience=0.1)
    assert found == {"a": [("node-link", f"b to answer at 127.77.0.2:{port}", "an answer of something else")]}


def test_hosts_that_are_not_alike(port):
    found = together(
        node("a", port), node("b", port, alike={"engine": "sglang 0.5.8.post1"}), node("c", port, alike={})
    )
    expected = "engine sglang 0.5.23, as on a"
    assert found == {
        "a": [],
        "b": [("node-alike", expected, "sglang 0.5.8.post1")],
        "c": [("node-alike", expected, "none")],
    }


@pytest.mark.parametrize("taken", ["meeting_port", "port"])
def test_a_port_that_is_taken(port, taken):
    alone = {"a": ADDRESSES["a"]}
    with socket.create_server((ADDRESSES["a"], 0)) as other:
        found = together(node("a", **{"port": port, "addresses": alone, taken: other.getsockname()[1]}), patience=0.1)
    ((rule, _expected, said),) = found["a"]
    assert (rule, said) == ("node-port", "[Errno 98] Address already in use")


@pytest.mark.parametrize(
    ("run", "rule", "found", "interface"),
    [
        (ip(addresses=["10.0.0.9"]), "node-address", "10.0.0.9", ""),
        (ip(addresses=[]), "node-address", "none", ""),
        (ip(flags=["UP", "NO-CARRIER"]), "node-interface", "eth1, which is down", "eth1"),
        (ip(flags=["LOWER_UP"]), "node-interface", "eth1, which is down", "eth1"),
    ],
)
def test_an_address_that_is_not_there(port, run, rule, found, interface):
    name, findings = _links.check(node("a", port), run, 0.1)
    assert (name, [(one["id"], one["found"]) for one in findings]) == (interface, [(rule, found)])


def test_a_public_address(port):
    addresses = {**ADDRESSES, "b": "8.8.8.8"}
    _name, findings = _links.check(node("a", port, addresses=addresses), ip(), 0.1)
    assert [(one["id"], one["object"], one["found"]) for one in findings] == [("node-private", "host b", "8.8.8.8")]


def test_no_tool_for_addresses(port):
    with pytest.raises(LlmError, match="ip says No such file"):
        _links.check(node("a", port), lambda _argv: (2, "", "No such file\n"), 0.1)
