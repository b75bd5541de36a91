"""Servers to test against: the bed's hub with a split model, and one that answers as a test scripts it."""

from __future__ import annotations

import contextlib
import hashlib
import json
import sys
import threading
import time
import typing as t
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import gguf_build as build
import pytest

if t.TYPE_CHECKING:
    from testbed.hub import Hub

REPO = "acme/model-GGUF"

# The bed needs a controller's Python. On a host's oldest, the tests that do without it run.
collect_ignore = [
    str(path)
    for path in Path(__file__).parent.rglob("test_*.py")
    if sys.version_info < (3, 12) and "\nfrom testbed" in path.read_text()
]


@dataclass(frozen=True)
class Published:
    """A model in three shards of 3 MB as the hub has it, with a card that is not in LFS, and its merged bytes."""

    folder: Path
    shards: list[Path]
    merged: bytes

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.merged).hexdigest()

    @property
    def size(self) -> int:
        return sum(path.stat().st_size for path in self.shards)


@pytest.fixture(scope="session")
def model_bytes() -> tuple[list[bytes], bytes]:
    keys, _dummy = build.small_model()
    parts = [[build.weights(f"blk.{no}.ffn_up.weight", (256, 3000))] for no in range(3)]
    merged = build.whole([*keys, *build.split_keys(0, 0, 3)], [tensor for part in parts for tensor in part])
    return build.shards(keys, parts), merged


@pytest.fixture
def published(tmp_path: Path, model_bytes: tuple[list[bytes], bytes]) -> Published:
    folder = tmp_path / "hub" / REPO
    (folder / "Q4").mkdir(parents=True)
    (folder / "README.md").write_text("# A model\n")
    return Published(folder, build.write_shards(folder / "Q4", model_bytes[0]), model_bytes[1])


@pytest.fixture
def token() -> str:
    """What opens gated repositories of the hub; no output and no file may hold it."""
    return "canary-of-the-tests"


@pytest.fixture
def hub(published: Published, token: str) -> t.Iterator[Hub]:
    # Here, because the bed needs a controller's Python and some of these tests run on the oldest Python of a host too.
    from testbed.hub import Hub

    with Hub(published.folder.parents[1], token=token) as hub:
        yield hub


class ScriptedServer(ThreadingHTTPServer):
    """`routes` maps "METHOD /path" to an answer: an object is sent as JSON, bytes as they are. A pair has the status in
    front, a triple has headers at the end. A function takes the request's headers and returns one of these.

    A list of byte strings is a stream, sent chunk by chunk; a number in it is a pause in seconds, None breaks the
    connection. `seen` has, of each request, its line, its headers and its JSON body.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.routes: dict[str, t.Any] = {}
        self.seen: list[tuple[str, dict[str, str], t.Any]] = []
        self.url = f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, request: t.Any, client_address: t.Any) -> None:
        """A client may hang up whenever it likes; anything else is a bug of the test and is shown."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: ScriptedServer

    def do_GET(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        line = f"{self.command} {self.path}"
        self.server.seen.append((line, dict(self.headers), json.loads(body) if body else None))
        answer = self.server.routes.get(line, (404, {"error": f"no {line}"}))
        if callable(answer):
            answer = answer(self.headers)
        if isinstance(answer, list):
            self._stream(answer)
        else:
            self._answer(*(answer if isinstance(answer, tuple) else (200, answer)))

    def do_POST(self) -> None:
        self.do_GET()

    def _answer(self, status: int, content: t.Any, headers: dict[str, str] | None = None) -> None:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        with contextlib.suppress(OSError):  # the client may have had enough
            self.wfile.write(body)

    def _stream(self, pieces: list[bytes | float | None]) -> None:
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for piece in [*pieces, b""]:
            if piece is None:
                self.close_connection = True
                return
            if isinstance(piece, float):
                time.sleep(piece)
                continue
            with contextlib.suppress(OSError):
                self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))

    def log_message(self, *_args: t.Any) -> None:
        pass


@pytest.fixture
def scripted() -> t.Iterator[ScriptedServer]:
    with ScriptedServer() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()
