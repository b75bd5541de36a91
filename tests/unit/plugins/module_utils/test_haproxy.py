"""What HAProxy says on its master socket is understood, in parts too. The real one answers in molecule/edge."""

from __future__ import annotations

import socket
import threading
import time
from pathlib import Path

import pytest

from ansible_collections.llmfleet.serving.plugins.module_utils._errors import LlmError
from ansible_collections.llmfleet.serving.plugins.module_utils._haproxy import (
    Haproxy,
    Workers,
    drained,
    requests,
    workers,
)

PROCESSES_30 = """\
#<PID>          <type>          <reloads>       <uptime>        <version>
1379            master          2 [failed: 0]   0d00h12m02s     3.0.11-1+deb13u4
# workers
1870            worker          0               0d00h00m01s     3.0.11-1+deb13u4
# old workers
1452            worker          1               0d00h11m28s     3.0.11-1+deb13u4
# programs

"""
# The third column is one that later versions do not have.
PROCESSES_24 = """\
#<PID>          <type>          <relative PID>  <reloads>       <uptime>        <version>
1162            master          0               5               0d00h02m07s     2.4.24
# workers
1271            worker          1               0               0d00h00m00s     2.4.24
# programs

"""
STATES = """\
1
# be_id be_name srv_id srv_name srv_addr srv_op_state srv_admin_state srv_uweight srv_iweight
2 tiny 1 n1 127.0.0.1 2 8 1 1
2 tiny 2 n2 127.0.0.1 2 0 1 1
2 tiny 3 n3 127.0.0.1 0 40 1 1

"""
STATISTICS = "# pxname,svname,qcur,qmax,scur,smax,\ntiny,FRONTEND,,,5,9,\ntiny,n1,0,0,3,4,\nother,n1,0,0,7,7,\n\n"


def test_old_workers_are_told_from_the_current_one():
    assert workers(PROCESSES_30) == Workers("1870", ["1452"])
    assert workers(PROCESSES_24) == Workers("1271", [])


def test_no_worker_is_an_error():
    with pytest.raises(LlmError, match="expected a worker process"):
        workers(PROCESSES_24.replace("1271", "#"))


def test_servers_that_are_drained_are_told_by_one_bit():
    assert [line.split()[3] for line in drained(STATES)] == ["n1", "n3"]


@pytest.mark.parametrize(("service", "name", "running"), [("tiny", "n1", 3), ("other", "n1", 7), ("tiny", "n2", 0)])
def test_requests_of_one_server_are_counted(service, name, running):
    assert requests(STATISTICS, service, name) == running


def test_no_proxy_is_one_message(tmp_path):
    with pytest.raises(LlmError, match="Has the role edge run"):
        Haproxy(str(tmp_path / "master.sock")).states()


def test_an_answer_may_come_in_parts_and_not_at_once(tmp_path):
    path = str(tmp_path / "master.sock")
    asked = []

    def serve(listener):
        time.sleep(0.2)
        listener.bind(f"{path}.new")
        listener.listen()
        Path(f"{path}.new").replace(path)
        for answer in (PROCESSES_30, STATES):
            connection, _address = listener.accept()
            with connection:
                asked.append(connection.recv(1000).decode())
                for part in (answer[:30], answer[30:]):
                    connection.sendall(part.encode())
                connection.recv(1)  # it stays open until the other side has enough

    with socket.socket(socket.AF_UNIX) as gone:
        gone.bind(path)  # nobody listens there, as in a reload
    with pytest.raises(ConnectionRefusedError), socket.socket(socket.AF_UNIX) as connection:
        connection.connect(path)
    with socket.socket(socket.AF_UNIX) as listener:
        thread = threading.Thread(target=serve, args=(listener,))
        thread.start()
        assert Haproxy(path).states() == STATES
        thread.join()
    assert asked == ["show proc\n", "@!1870 show servers state\n"]


def test_what_is_there_for_metrics_is_not_offered_as_a_service(monkeypatch):
    inner = "3 exporter:node 1 here 127.0.0.1 2 0 1 1\n4 metrics:tiny 1 n1 127.0.0.1 2 0 1 1\n\n"
    monkeypatch.setattr(Haproxy, "states", lambda _self: STATES.rstrip("\n") + "\n" + inner)
    with pytest.raises(LlmError, match=r"expected one that the edge has, found tiny/n1, tiny/n2, tiny/n3\."):
        Haproxy("").is_drained("tiny", "n9")
