# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Peers behind the web server and the configuration that the role model_store runs."""

from __future__ import annotations

import http.client
import json
import socket
import subprocess
import sys
import time
import typing as t
from pathlib import Path

import jinja2
import pytest
from ansible.plugins.filter.core import comment

from ansible_collections.llmfleet.serving.plugins.module_utils._files import companion
from ansible_collections.llmfleet.serving.plugins.modules import gguf_fetch
from testbed.engine import ensure_nginx
from testbed.hub import Hub

pytestmark = pytest.mark.bed

REPO = "acme/model-GGUF"
TEMPLATES = Path(__file__).parents[4] / "roles/model_store/templates"
TOKEN = "canary-of-this-run"  # noqa: S105 (the tests' own)


def render(name: str, **variables: t.Any) -> str:
    templates = jinja2.Environment(  # noqa: S701 (no HTML)
        loader=jinja2.FileSystemLoader(TEMPLATES), undefined=jinja2.StrictUndefined, keep_trailing_newline=True
    )
    templates.filters["comment"] = comment
    return templates.get_template(name).render(ansible_managed="Ansible managed", **variables)


class Server:
    """nginx over a directory of models."""

    def __init__(self, store: Path, run: Path) -> None:
        self.store = store
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        variables = {"model_store_peer_address": "127.0.0.1", "model_store_peer_port": self.port}
        text = render(
            "peers.nginx.conf.j2",
            model_store_directory=store,
            __model_store_run=run,
            __model_store_token=TOKEN,
            **variables,
        )
        (run / "nginx.conf").write_text(text)
        command = [ensure_nginx(), "-c", str(run / "nginx.conf")]
        self._process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)

    def __enter__(self) -> Server:
        deadline = time.monotonic() + 60
        while True:
            assert self._process.poll() is None, self._process.stderr.read()
            assert time.monotonic() < deadline
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return self
            time.sleep(0.02)

    def __exit__(self, *_exception: object) -> None:
        self._process.terminate()
        _dummy, said = self._process.communicate(timeout=60)
        assert self._process.returncode == 0, said

    def ask(self, path: str, method: str = "GET", token: str | None = TOKEN, **headers: str) -> tuple[int, bytes]:
        """Status and body of an answer. The path is sent as it is, with all its dots."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        if token is not None:
            headers["Authorization"] = f"Bearer {token}"
        connection.request(method, path, headers=headers)
        answer = connection.getresponse()
        body = answer.read()
        connection.close()
        return answer.status, body


@pytest.fixture
def server(tmp_path) -> t.Iterator[Server]:
    for name in ("store", "run"):
        (tmp_path / name).mkdir()
    with Server(tmp_path / "store", tmp_path / "run") as server:
        yield server


@pytest.fixture
def token_file(tmp_path) -> Path:
    file = tmp_path / "token"
    file.write_text(render("token.j2", __model_store_token=TOKEN))
    return file


@pytest.mark.parametrize("path", ["/model.gguf", "/", "/none", "/.model.gguf.llmfleet.journal"])
@pytest.mark.parametrize("token", [None, "", "wrong", TOKEN.upper(), f"{TOKEN} "])
def test_nothing_is_told_without_the_token(server, path, token):
    (server.store / "model.gguf").write_bytes(b"weights")
    status, body = server.ask(path, token=token)
    # A space at the end is not part of a header's value.
    assert (status == 403 and b"weights" not in body) or token == f"{TOKEN} "


@pytest.mark.parametrize(
    ("name", "status"),
    [
        ("model.gguf", 200),
        ("model/config.json", 200),
        ("model/a b.safetensors", 200),
        (".model.gguf.llmfleet.part", 200),
        (".model.gguf.llmfleet.note", 200),
        (".model.gguf.llmfleet.journal", 200),
        (".model.gguf.llmfleet.json", 200),
        ("model/.a.safetensors.llmfleet.part", 200),
        (".model.gguf.llmfleet.lock", 404),
        (".model.gguf.llmfleet.progress", 404),
        (".model.gguf.llmfleet.manifest", 404),
        (".ssh/id_ed25519", 404),
        (".llmfleet.json", 404),
        ("model/.hidden", 404),
    ],
)
def test_what_is_served(server, name, status):
    file = server.store / name
    file.parent.mkdir(exist_ok=True)
    file.write_bytes(b"content")
    path = f"/{name}".replace(" ", "%20")
    assert server.ask(path)[0] == status
    assert server.ask(path, "HEAD") == (status, b"")
    assert (b"content" in server.ask(path)[1]) is (status == 200)


@pytest.mark.parametrize("path", ["/", "/model/", "/model", "/../outside", "/model/../../outside", "/%2e%2e/outside"])
def test_nothing_else_is_to_be_had(server, path):
    (server.store / "model").mkdir()
    (server.store / "model/config.json").write_bytes(b"content")
    (server.store.parent / "outside").write_bytes(b"content")
    status, body = server.ask(path)
    assert status in (301, 400, 403, 404)
    assert b"content" not in body
    assert b"config.json" not in body


def test_links_are_not_followed(server):
    (server.store.parent / "outside").write_bytes(b"content")
    (server.store / "link.gguf").symlink_to(server.store.parent / "outside")
    status, body = server.ask("/link.gguf")
    assert (status, b"content" in body) == (403, False)


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "MKCOL", "PATCH"])
def test_nothing_can_be_changed(server, method):
    (server.store / "model.gguf").write_bytes(b"weights")
    status, _dummy = server.ask("/model.gguf", method)
    assert status == 405
    assert (server.store / "model.gguf").read_bytes() == b"weights"


def test_ranges_of_a_file_that_is_being_written(server):
    part = server.store / ".model.gguf.llmfleet.part"
    part.write_bytes(bytes(1_000_000))
    for no in range(3):
        with part.open("r+b") as file:
            file.seek(no * 1000)
            file.write(bytes([no + 1]) * 1000)
        first = no * 1000
        answer = server.ask("/.model.gguf.llmfleet.part", Range=f"bytes={first}-{first + 999}")
        assert answer == (206, bytes([no + 1]) * 1000)


# Whole hosts


@pytest.fixture
def arguments(hub, server, token_file, tmp_path):
    """`arguments(dest)` are those of gguf_fetch on a host that follows the one that `server` is on."""

    def make(dest: Path, **params: t.Any) -> dict[str, t.Any]:
        return {
            "hub": hub.url,
            "repo": REPO,
            "revision": hub.repository(REPO).commit,
            "files": "Q4/*.gguf",
            "dest": str(dest),
            "peer_token_file": str(token_file),
            "timeout": 5,
            "deadline": 60,
            **params,
        }

    return make


def start(arguments: dict[str, t.Any]) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-m", gguf_fetch.__name__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    process.stdin.write(json.dumps({"ANSIBLE_MODULE_ARGS": arguments}))
    process.stdin.close()
    return process


def ended(process: subprocess.Popen[str]) -> dict[str, t.Any]:
    result = json.loads(process.stdout.read())
    assert process.wait(timeout=60) == 0, result
    return result


def origin_bytes(hub: Hub) -> int:
    return sum(record["bytes"] for record in hub.stats()["cdn"].values())


def test_a_host_gets_all_from_one_that_has_it(hub, server, arguments, published, tmp_path):
    first = ended(start(arguments(server.store / "model.gguf")))
    headers = origin_bytes(hub) - published.size
    hub.clear_stats()
    second = ended(start(arguments(tmp_path / "second" / "model.gguf", peers=[server.url])))
    assert first["sha256"] == second["sha256"] == published.sha256
    assert (tmp_path / "second" / "model.gguf").read_bytes() == published.merged
    assert origin_bytes(hub) <= 3 * (64 << 10)
    assert headers <= 3 * (64 << 10)


def test_a_host_follows_one_that_is_still_fetching(hub, server, arguments, published, tmp_path):
    hub.fault("slow", path="*.gguf", host="cdn", rate=1_000_000)
    ahead = start(arguments(server.store / "model.gguf"))
    behind = start(arguments(tmp_path / "second" / "model.gguf", peers=[server.url]))
    results = [ended(process) for process in (ahead, behind)]
    assert [result["sha256"] for result in results] == [published.sha256] * 2
    # Of the data, one copy was asked from the hub; of the headers, each host asked one.
    assert origin_bytes(hub) <= published.size + 6 * (64 << 10)


def test_a_host_goes_on_alone_when_the_one_ahead_is_killed(hub, server, arguments, published, tmp_path):
    # Behind the header, and before the first whole piece: what is asked for again brings nothing either.
    fault = hub.fault("stall", path="*00002*", host="cdn", after=100_000)
    ahead = start(arguments(server.store / "model.gguf", timeout=60))
    behind = start(arguments(tmp_path / "second" / "model.gguf", peers=[server.url], patience=2))
    journal = companion(server.store / "model.gguf", "journal")
    while not (fault.fired and journal.exists()):
        assert ahead.poll() is None
        time.sleep(0.05)
    ahead.kill()
    ahead.wait()
    hub.clear_faults()
    assert ended(behind)["sha256"] == published.sha256


def test_wrong_bytes_of_a_host_are_replaced(hub, server, arguments, published, tmp_path):
    ended(start(arguments(server.store / "model.gguf")))
    model = bytearray((server.store / "model.gguf").read_bytes())
    model[-1] ^= 1
    (server.store / "model.gguf").write_bytes(model)
    result = ended(start(arguments(tmp_path / "second" / "model.gguf", peers=[server.url])))
    assert result["sha256"] == published.sha256
    assert f"The peer {server.url} was not used: " in json.dumps(result["warnings"])
