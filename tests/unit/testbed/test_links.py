# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Links have the bandwidth and the delay that they are given. Of time it is only asserted that it cannot be less."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import requests

from testbed import BedError
from testbed.hub import Hub
from testbed.links import far_away, lab

pytestmark = pytest.mark.bed

MBIT = 10**6
SIZE = 2_000_000
TESTS = Path(__file__).parents[2]


@pytest.fixture
def model(tmp_path):
    """The root of a hub with one large file."""
    file = tmp_path / "root/acme/tiny/model.gguf"
    file.parent.mkdir(parents=True)
    file.write_bytes(os.urandom(SIZE))
    return tmp_path / "root"


def fetch(node, url):
    """The answer to GET, and how long it took to have all of it."""
    start = time.perf_counter()
    with node.inside():
        answer = requests.get(url, timeout=30, proxies={"http": ""})
    return answer, time.perf_counter() - start


def namespaces(pid=None):
    return {path.name for path in Path("/run/netns").glob(f"llmfleet-{pid or os.getpid()}-*")}


def test_a_link_carries_no_more_than_its_rate(model):
    with lab({"origin": None, "host1": 10 * MBIT}) as nodes:
        with nodes["origin"].inside(), Hub(model, host=nodes["origin"].address) as hub:
            answer, seconds = fetch(nodes["host1"], f"{hub.url}/acme/tiny/resolve/main/model.gguf")
        assert answer.content == (model / "acme/tiny/model.gguf").read_bytes()
        assert seconds > 0.9 * SIZE * 8 / (10 * MBIT)
        assert nodes["host1"].received() > SIZE


def test_the_other_end_of_a_link_is_shaped_too(model):
    with lab({"origin": 10 * MBIT, "host1": None}) as nodes:
        with nodes["origin"].inside(), Hub(model, host=nodes["origin"].address) as hub:
            _answer, seconds = fetch(nodes["host1"], f"{hub.url}/acme/tiny/resolve/main/model.gguf")
        assert seconds > 0.9 * SIZE * 8 / (10 * MBIT)


def test_a_far_hub_redirects_to_its_storage_through_the_same_path(model):
    with lab({"origin": None, "host1": None}) as nodes, nodes["origin"].inside(), Hub(model) as hub:
        ports = [urlsplit(url).port for url in (hub.url, hub.cdn_url)]
        with far_away(nodes["origin"], ports, delay_ms=80, connection_rate=16 * MBIT):
            address = f"http://{nodes['origin'].address}"
            answer, seconds = fetch(nodes["host1"], f"{address}:{ports[0]}/acme/tiny/resolve/main/model.gguf")
    assert answer.content == (model / "acme/tiny/model.gguf").read_bytes()
    # Two requests one after the other, and the file through one connection.
    assert answer.url.startswith(f"{address}:{ports[1]}/")
    assert seconds > 2 * 0.08 + 0.9 * SIZE * 8 / (16 * MBIT)


def test_hosts_have_no_other_network():
    with (
        socket.create_server(("127.0.0.1", 0)) as outside,
        lab({"host1": None}) as nodes,
        nodes["host1"].inside(),
        pytest.raises(OSError, match="refused"),
    ):
        socket.create_connection(outside.getsockname(), timeout=5)


def test_a_thread_inside_leaves_other_threads_outside():
    seen = []
    look = threading.Thread(target=lambda: seen.append(Path("/proc/thread-self/ns/net").readlink()))
    here = Path("/proc/thread-self/ns/net").readlink()
    with lab({"host1": None}) as nodes:
        main = Path("/proc/self/ns/net").readlink()
        with nodes["host1"].inside():
            there = Path("/proc/thread-self/ns/net").readlink()
            look.start()
            look.join()
        assert Path("/proc/thread-self/ns/net").readlink() == here == main
    # What is started inside belongs there.
    assert seen == [there] != [here]


def test_nothing_is_left_after_an_error():
    left = []

    def fail(nodes):
        assert len(namespaces()) == 2
        with nodes["host1"].inside():
            left.append(subprocess.Popen(["sleep", "60"]))
        raise KeyError

    with pytest.raises(KeyError), lab({"host1": None}) as nodes:
        fail(nodes)
    assert namespaces() == set()
    assert left[0].wait(timeout=60) == -9


def test_the_next_lab_removes_what_a_killed_one_has_left():
    script = "import os; from testbed.links import lab\nwith lab({'host1': None}): os.kill(os.getpid(), 9)"
    killed = subprocess.Popen([sys.executable, "-c", script], env={**os.environ, "PYTHONPATH": str(TESTS)})
    assert killed.wait(timeout=60) == -9
    assert len(namespaces(killed.pid)) == 2
    with lab({"host1": None}):
        assert namespaces(killed.pid) == set()
        assert len(namespaces()) == 2


def test_without_roots_rights_it_says_so(monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(BedError, match="root"), lab({"host1": None}):
        pass
