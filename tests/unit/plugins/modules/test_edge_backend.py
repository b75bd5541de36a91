"""A backend goes out of the rotation and back, check mode tells what would be, and what cannot be is one message.

What stands in for HAProxy's master socket answers as the real one does, which molecule/edge asks.
"""

from __future__ import annotations

import re
import socket
import threading

import pytest

from ansible_collections.llmfleet.serving.plugins.modules import edge_backend

PROCESSES = "#<PID> <type> <reloads>\n1379 master 2\n# workers\n1870 worker 0\n# programs\n\n"
COLUMNS = "1\n# be_id be_name srv_id srv_name srv_addr srv_op_state srv_admin_state srv_uweight srv_iweight\n"


class MasterSocket:
    """One service, `chat`, with the server `gpu-01`; `running` requests are in flight."""

    def __init__(self, path):
        self.path, self.admin_state, self.running = str(path), 0, 0
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(self.path)
        self._listener.listen()
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self):
        while True:
            connection, _address = self._listener.accept()
            with connection:
                connection.sendall(self._answer(connection.recv(1000).decode()).encode())
                connection.recv(1)  # it stays open until the other side has enough

    def _answer(self, command):
        if "show servers state" in command:
            return f"{COLUMNS}2 chat 1 gpu-01 10.0.0.1 2 {self.admin_state} 1 1\n\n"
        if "show stat" in command:
            return f"# pxname,svname,qcur,qmax,scur,smax,\nchat,gpu-01,0,0,{self.running},9,\n\n"
        if change := re.search(r"set server chat/gpu-01 state (\w+)", command):
            self.admin_state = {"drain": 8, "ready": 0}[change[1]]
            return "\n"
        return PROCESSES


@pytest.fixture
def edge(tmp_path):
    return MasterSocket(tmp_path / "master.sock")


@pytest.fixture
def backend(edge, tmp_path, run_module):
    """`backend(state)` runs the module for the server of the edge."""
    record = tmp_path / "drained"
    given = {"service": "chat", "name": "gpu-01", "socket": edge.path, "record": str(record), "timeout": 1}
    return lambda state, **params: run_module(edge_backend, **{**given, "state": state, **params})


def test_check_real_check_real(edge, backend, tmp_path):
    assert backend("drained", check=True)["changed"]
    assert edge.admin_state == 0
    result = backend("drained")
    assert (result["changed"], result["requests"]) == (True, 0)
    assert result["diff"] == {"before": {"state": "ready"}, "after": {"state": "drained"}}
    # What HAProxy reads when it starts.
    assert (tmp_path / "drained").read_text() == f"{COLUMNS}2 chat 1 gpu-01 10.0.0.1 2 8 1 1\n"
    assert not backend("drained", check=True)["changed"]
    assert not backend("drained")["changed"]


def test_what_is_put_back_is_forgotten(edge, backend, tmp_path):
    backend("drained")
    assert backend("ready")["changed"]
    assert edge.admin_state == 0
    assert (tmp_path / "drained").read_text() == COLUMNS


def test_requests_that_do_not_end_are_one_message_and_the_backend_stays_out(edge, backend):
    edge.running = 3
    result = backend("drained")
    assert result["failed"]
    assert "expected its requests to end within 1 s, found 3 running" in result["msg"]
    assert edge.admin_state == 8


def test_unknown_backend_is_one_message_with_those_there_are(backend):
    result = backend("drained", name="gpu-02")
    assert result["failed"]
    assert "Backend chat/gpu-02: expected one that the edge has, found chat/gpu-01." in result["msg"]
