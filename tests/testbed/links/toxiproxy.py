# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""toxiproxy in front of a server: delay, and a limit for each connection."""

from __future__ import annotations

import contextlib
import json
import subprocess
import tempfile
import time
import typing as t
import urllib.request
from collections.abc import Iterable, Iterator
from pathlib import Path

from testbed import BedError, egress
from testbed.cache import cache_dir, locked
from testbed.engine import LABEL, docker, ensure_engine
from testbed.images import ensure_image
from testbed.links.lab import Node

VERSION = "2.12.0"

_API = "http://127.0.0.1:8474"
_START_TIMEOUT_S = 60


@contextlib.contextmanager
def far_away(
    node: Node, ports: Iterable[int], *, delay_ms: int = 0, connection_rate: int | None = None
) -> Iterator[None]:
    """Let servers that listen on the loopback of `node` be reached at its address, on the same ports, from afar.

    The ports stay the same, so that a redirect from one of them to another goes through the proxy too.

    :param delay_ms: round trip; half of it in each direction. It delays what is sent: the proxy accepts a connection at
        once, and TCP's windows are those of a short path.
    :param connection_rate: what one connection carries from the server, in bit/s.
    :raises BedError: if toxiproxy cannot be built or does not start.
    """
    with node.inside():
        proxy = subprocess.Popen([ensure_toxiproxy(), "-host", "127.0.0.1"], stdout=subprocess.DEVNULL)
    try:
        _wait(node, proxy)
        for port in ports:
            name = str(port)
            _post(node, "/proxies", name=name, listen=f"{node.address}:{port}", upstream=f"127.0.0.1:{port}")
            for stream in ("upstream", "downstream") if delay_ms else ():
                _toxic(node, name, "latency", stream, latency=delay_ms // 2)
            if connection_rate is not None:
                _toxic(node, name, "bandwidth", "downstream", rate=connection_rate // 8000)
        yield
    finally:
        proxy.kill()
        proxy.wait()


def ensure_toxiproxy() -> Path:
    """The server of toxiproxy, built from its Go module into the bed's cache if it is not there.

    :raises BedError: if it cannot be built.
    """
    path = cache_dir() / "toxiproxy" / VERSION / "server"
    with locked(f"toxiproxy-{VERSION}"):
        if not path.exists():
            _compile(path.parent)
    return path


def _compile(folder: Path) -> None:
    ensure_engine()
    folder.parent.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".unfinished-") as unfinished:
        # Without C it runs on this machine, whatever its libraries are.
        docker(
            "run", "--rm", f"--label={LABEL}", *egress.docker_options(), f"--volume={unfinished}:/build",
            "--env=GOBIN=/build/bin", "--env=GOPATH=/tmp/go", "--env=CGO_ENABLED=0", "--entrypoint=go",
            ensure_image("ollama"), "install", "-trimpath", f"github.com/Shopify/toxiproxy/v2/cmd/server@v{VERSION}",
            env=egress.variables(),
        )  # fmt: skip
        Path(unfinished, "bin").rename(folder)


def _wait(node: Node, proxy: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + _START_TIMEOUT_S
    while True:
        try:
            _ask(node, "/version")
        except OSError as error:
            if proxy.poll() is not None or time.monotonic() > deadline:
                raise BedError(f"toxiproxy does not answer at {_API} of {node.name}: {error}") from None
            time.sleep(0.02)
        else:
            return


def _toxic(node: Node, proxy: str, kind: str, stream: str, **attributes: int) -> None:
    _post(node, f"/proxies/{proxy}/toxics", type=kind, stream=stream, attributes=attributes)


def _post(node: Node, path: str, **fields: t.Any) -> None:
    _ask(node, path, json.dumps(fields).encode())


def _ask(node: Node, path: str, body: bytes | None = None) -> None:
    # The proxies of the environment are not for this address.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with node.inside(), opener.open(f"{_API}{path}", body, timeout=_START_TIMEOUT_S):
        pass
