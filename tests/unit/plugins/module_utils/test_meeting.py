"""Which connections count as those of hosts that share a service, from what the real ss prints."""

from __future__ import annotations

import socket
import subprocess

import pytest

from ansible_collections.llmfleet.serving.plugins.module_utils._errors import LlmError
from ansible_collections.llmfleet.serving.plugins.module_utils._meeting import Meeting, connections, unreachable

HEAD: Meeting = {"own": "10.0.0.1", "port": 29501, "head": True, "peers": {"n2": "10.0.0.2", "n3": "10.0.0.3"}}
OTHER: Meeting = {"own": "10.0.0.2", "port": 29501, "head": False, "peers": {"n1": "10.0.0.1"}}
SAID = """\
0      0      [::ffff:10.0.0.1]:29501 [::ffff:10.0.0.2]:56232
0      9             10.0.0.1:29501        10.0.0.2:40000
0      0             10.0.0.1:29501        10.0.0.1:58146
0      0             10.0.0.1:50000        10.0.0.3:29501
0      0             10.0.0.1:22           10.0.0.3:40002
0      0       10.0.0.9%eth1:29501         10.0.0.3:40003
"""


def says(text, status=0):
    return lambda _argv, **_options: (status, text, "no such thing" if status else "")


def test_the_head_has_those_that_came_to_it() -> None:
    assert connections(says(SAID), HEAD) == {"n2": ["40000", "56232"], "n3": []}


def test_the_others_have_the_head() -> None:
    said = "0 0 [::ffff:10.0.0.2]:56232 [::ffff:10.0.0.1]:29501\n0 0 10.0.0.2:29501 10.0.0.1:40000\n"
    assert connections(says(said), OTHER) == {"n1": ["56232"]}


def test_ipv6_in_any_spelling() -> None:
    meeting: Meeting = {"own": "fd00:0::1", "port": 29501, "head": True, "peers": {"n2": "fd00::0:2"}}
    assert connections(says("0 0 [fd00::1]:29501 [fd00::2]:4\n"), meeting) == {"n2": ["4"]}


def test_what_cannot_be_told_is_an_error() -> None:
    with pytest.raises(LlmError, match=r"ss, .*no such thing"):
        connections(says("", 127), HEAD)


def run(argv, **_options):
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout, done.stderr


def test_the_real_ss_tells_of_a_connection_until_it_ends() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        meeting: Meeting = {"own": "127.0.0.1", "port": port, "head": True, "peers": {"n2": "127.0.0.1"}}
        client = socket.create_connection(("127.0.0.1", port))
        accepted, end = server.accept()
        with accepted:
            assert connections(run, meeting) == {"n2": [str(end[1])]}
            client.close()
            assert connections(run, meeting) == {"n2": []}


def test_a_host_that_refuses_is_there(monkeypatch) -> None:
    asked = []

    def connect(address, _timeout):
        asked.append(address)
        if address[0] == "10.0.0.2":
            raise ConnectionRefusedError
        raise TimeoutError

    monkeypatch.setattr(socket, "create_connection", connect)
    assert unreachable(HEAD) == ["n3"]
    assert asked == [("10.0.0.2", 29500), ("10.0.0.3", 29500)]
