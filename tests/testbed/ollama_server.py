# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""One real Ollama server on this machine's loopback, for tests that need no whole host."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import tempfile
import time
import typing as t
import urllib.request
from dataclasses import dataclass
from pathlib import Path

from testbed import BedError
from testbed.cache import cache_dir, key_of, locked
from testbed.engine import LABEL, docker, ensure_engine
from testbed.images import ensure_image
from testbed.ollama import archive_name, ensure_release
from testbed.tools import tool

_START_TIMEOUT_S = 120


@dataclass
class OllamaServer:
    """A server that runs.

    :ivar url: its address on this machine's loopback.
    :ivar models_dir: its OLLAMA_MODELS.
    :ivar container: what Docker calls the container that it runs in.
    """

    version: str
    url: str
    models_dir: Path
    container: str

    def get(self, path: str, body: t.Any = None) -> t.Any:
        """Ask the API, with POST if there is a body, and return its answer."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data, {"Content-Type": "application/json"})  # noqa: S310
        with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310
            return json.load(answer)

    def command(self, *argv: str) -> str:
        """Run Ollama's command line against this server and return what it prints."""
        return docker("exec", self.container, "/release/bin/ollama", *argv).stdout

    def restart(self) -> None:
        """Stop the server with SIGTERM and start it again, as a reboot would."""
        docker("restart", "--time=10", self.container)
        self.wait()

    def stop(self) -> None:
        """Stop the server; its models stay."""
        docker("stop", "--time=10", self.container)

    def wait(self) -> None:
        """Wait until the server answers.

        :raises BedError: with the server's log, if it does not.
        """
        deadline = time.monotonic() + _START_TIMEOUT_S
        while True:
            try:
                self.get("/api/version")
            except OSError:
                if time.monotonic() > deadline:
                    log = docker("logs", self.container, check=False)
                    raise BedError(f"Ollama {self.version} does not answer: {log.stderr[-2000:]}") from None
                time.sleep(0.1)
            else:
                return


@contextlib.contextmanager
def serve(version: str, folder: Path, *others: Path, user: str | None = None) -> t.Iterator[OllamaServer]:
    """Run a release of Ollama until the context ends.

    :param version: one of `testbed.ollama.VERSIONS`.
    :param folder: where the server keeps its models, in ``store``.
    :param others: further folders that it sees, all under the path that they have on this machine.
    :param user: ``uid:gid`` of the server; the caller's by default.
    """
    ensure_engine()
    folder = folder.resolve(strict=True)
    models_dir = folder / "store"
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    container = docker(
        "run", "--detach", "--init", "--network=host", f"--label={LABEL}",
        f"--user={user or f'{os.getuid()}:{os.getgid()}'}", *(f"--volume={path}:{path}" for path in (folder, *others)),
        f"--volume={unpacked(version)}:/release:ro", "--env=HOME=/tmp", f"--env=OLLAMA_HOST={address}",
        f"--env=OLLAMA_MODELS={models_dir}", ensure_image("tools"), "/release/bin/ollama", "serve",
    ).stdout.strip()  # fmt: skip
    try:
        server = OllamaServer(version, f"http://{address}", models_dir, container)
        server.wait()
        yield server
    finally:
        docker("rm", "--force", container, check=False)


def unpacked(version: str) -> Path:
    """The folder with a release's `bin` and `lib`, unpacked once."""
    release = ensure_release(version)
    archive = release / archive_name(version)
    folder = cache_dir() / "ollama" / f"v{version}-{key_of(release / 'sha256sum.txt')}"
    with locked(f"ollama-{version}-unpacked"):
        if not folder.is_dir():
            folder.parent.mkdir(exist_ok=True)
            with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".unfinished-") as unfinished:
                Path(unfinished, "release").mkdir()
                # The image has zstd, which this machine may not have.
                tool(cache_dir(), "tar", "--extract", f"--file={archive}", f"--directory={unfinished}/release")
                Path(unfinished, "release").rename(folder)
    return folder
