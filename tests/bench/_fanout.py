# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""One model on many hosts: all from the hub, or from each other with the web server that model_store sets up."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import time
import typing as t
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import jinja2

from bench._downloads import MERGED, Job, gguf_fetch
from bench._harness import REPOSITORY, Model, Running, calm, sha256_of
from testbed import BedError
from testbed.engine import ensure_nginx
from testbed.hub import Hub
from testbed.links import Node

_ROLE = Path(__file__).parents[2] / "roles/model_store"
_PORT = 8017
_TOKEN = "token-of-this-benchmark"  # noqa: S105
_START_TIMEOUT_S = 10


@dataclass(frozen=True)
class Host:
    """A host of the fleet: its node, its folder, and in that the directory of its models, which it serves."""

    node: Node
    folder: Path

    @property
    def models(self) -> Path:
        """What it serves."""
        return self.folder / "models"

    @property
    def url(self) -> str:
        """Where it serves that."""
        return f"http://{self.node.address}:{_PORT}"


@contextlib.contextmanager
def fleet(nodes: Sequence[Node], folder: Path) -> Iterator[list[Host]]:
    """Hosts on `nodes`, each with its web server."""
    hosts = [Host(node, folder / node.name) for node in nodes]
    with contextlib.ExitStack() as stack:
        for host in hosts:
            stack.enter_context(_served(host))
        yield hosts


def distribute(model: Model, hub: Hub, url: str, hosts: Sequence[Host], *, peers: bool) -> tuple[float, int]:
    """Have all hosts fetch the model at the same time: seconds until the last has it, and bytes that the hub has sent.

    :param peers: whether they ask each other, those before them first, as model_store lets them.
    :raises BedError: if one fails or has wrong bytes.
    """
    calm()
    hub.clear_stats()
    commit = hub.repository(REPOSITORY).commit
    start = time.perf_counter()
    with contextlib.ExitStack() as stack:
        running = []
        for place, host in enumerate(hosts):
            job = Job(model, url, commit, host.folder)
            command = gguf_fetch(job, dest=str(host.models / MERGED), **(_among(hosts, place) if peers else {}))
            running.append(stack.enter_context(Running(command.argv, host.folder, host.node, command.env)))
        for each in running:
            each.wait()
        seconds = time.perf_counter() - start
    with ThreadPoolExecutor() as pool:
        digests = pool.map(sha256_of, [host.models / MERGED for host in hosts])
    for host, digest in zip(hosts, digests, strict=True):
        if digest != model.sha256:
            raise BedError(f"{host.node.name} has other bytes than the model.")
        shutil.rmtree(host.models)
        host.models.mkdir()
    return seconds, sum(record["bytes"] for served in hub.stats().values() for record in served.values())


def _among(hosts: Sequence[Host], place: int) -> dict[str, t.Any]:
    """The options by which a host knows the others: the nearest before it first."""
    urls = [host.url for host in hosts]
    token_file = str(hosts[place].folder / "token")
    return {"peers": urls[:place][::-1], "followers": urls[place + 1 :], "peer_token_file": token_file}


@contextlib.contextmanager
def _served(host: Host) -> Iterator[None]:
    host.models.mkdir(parents=True)
    (host.folder / "token").write_text(_TOKEN)
    template = jinja2.Environment(undefined=jinja2.StrictUndefined, autoescape=False, trim_blocks=True)  # noqa: S701
    template.filters["comment"] = lambda text: f"# {text}"
    values = {
        "ansible_managed": "for a benchmark",
        "model_store_directory": str(host.models),
        "model_store_peer_address": host.node.address,
        "model_store_peer_port": _PORT,
        "__model_store_run": str(host.folder),
        "__model_store_token": _TOKEN,
    }
    config = host.folder / "nginx.conf"
    config.write_text(template.from_string((_ROLE / "templates/peers.nginx.conf.j2").read_text()).render(values))
    nginx = ensure_nginx()
    with host.node.inside(), (host.folder / "nginx.log").open("wb") as log:
        server = subprocess.Popen([nginx, "-c", str(config)], stdout=log, stderr=log)
    try:
        _wait(host, server)
        yield
    finally:
        server.terminate()
        server.wait()


def _wait(host: Host, server: subprocess.Popen[bytes]) -> None:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    deadline = time.monotonic() + _START_TIMEOUT_S
    while True:
        try:
            with host.node.inside(), opener.open(host.url):
                return
        except urllib.error.HTTPError:
            return
        except OSError as error:
            if server.poll() is not None or time.monotonic() > deadline:
                log = (host.folder / "nginx.log").read_text()
                raise BedError(f"nginx of {host.node.name} does not answer: {error}; {log}") from None
            time.sleep(0.02)
