# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The HTTP server: two listeners (hub and CDN), keep-alive, one thread per connection, sendfile for bodies, TLS."""

from __future__ import annotations

import dataclasses
import fcntl
import json
import logging
import os
import select
import socket
import ssl
import struct
import sys
import termios
import threading
import time
import typing as t
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qsl, unquote, urlsplit

from testbed.hub.cdn import Cdn
from testbed.hub.faults import Fault, Faults
from testbed.hub.git import Git
from testbed.hub.huggingface import HuggingFace
from testbed.hub.messages import Content, Reply, Request, Transfer, plan
from testbed.hub.modelscope import ModelScope
from testbed.hub.repo import Repository, Store
from testbed.hub.stats import Stats

log = logging.getLogger("testbed.hub")

DRAIN_SECONDS = 10.0  # how long a reset waits for the client to take the bytes that go before it
STEPS_PER_SECOND = 20  # of a body that is sent at a certain rate
PIECE_BYTES = 256 << 10  # of a body that has to pass through this process
TLS_HANDSHAKE = b"\x16"  # its first byte, which no HTTP request begins with


class Hub:
    """A hub that serves the repositories under `root` while it is open.

    `mirror` is a directory served under ``/mirror/``. `token` opens gated repositories. `url_seconds` is the life of
    a signed URL. `page_size` is the number of entries in one page of a Hugging Face tree, `list_cap` the number at
    which a ModelScope list ends (the real ones: 1000 and 3000). Files of `lfs_threshold` bytes or more, and all .gguf
    and .safetensors, are in LFS. Port 0 means any free one. `connection_rate` is the bytes per second that one
    connection gets at most. With `certificate`, a PEM file of key and certificate, both listeners take TLS too.
    """

    def __init__(
        self,
        root: Path | str,
        *,
        mirror: Path | str | None = None,
        host: str = "127.0.0.1",
        port: int = 0,
        cdn_port: int = 0,
        token: str = "hf_bed_token",  # noqa: S107 (the bed's own, and no secret)
        url_seconds: float = 3600.0,
        page_size: int = 1000,
        list_cap: int = 3000,
        lfs_threshold: int = 1_000_000,
        connection_rate: int | None = None,
        certificate: Path | str | None = None,
    ) -> None:
        self.closing = threading.Event()
        self.connection_rate = connection_rate
        self.tls = _tls(certificate) if certificate is not None else None
        self._store = Store(Path(root), lfs_threshold)
        self._mirror = Path(mirror).resolve() if mirror is not None else None
        self._faults = Faults()
        self._stats = Stats()
        self._servers = {"hub": _Server((host, port), self, "hub"), "cdn": _Server((host, cdn_port), self, "cdn")}
        self._cdn = Cdn(self._store, self._servers["cdn"].server_port, url_seconds)
        self._apis = (
            HuggingFace(self._store, self._cdn, self._faults, token, page_size),
            ModelScope(self._store, self._cdn, self._faults, token, list_cap),
            Git(self._store, self._cdn, token),
        )
        self._changing = threading.Lock()
        self._waking: threading.Thread | None = None

    @property
    def url(self) -> str:
        """The address of both APIs, for ``HF_ENDPOINT`` and ``MODELSCOPE_ENDPOINT``."""
        return self._servers["hub"].url

    @property
    def cdn_url(self) -> str:
        """The address of the storage host that large files are redirected to."""
        return self._servers["cdn"].url

    def __enter__(self) -> Hub:
        self._store.repositories()  # hash before the first client's time-out runs
        for server in self._servers.values():
            server.start()
        return self

    def __exit__(self, *_exception: object) -> None:
        self.closing.set()
        with self._changing:
            if self._waking:
                self._waking.join()
            for server in self._servers.values():
                server.stop()
                server.hang_up()

    def down(self, seconds: float) -> None:
        """Break all connections and refuse new ones for so long. Returns at once; nothing is done while it is down."""
        with self._changing:
            if self.closing.is_set() or (self._waking and self._waking.is_alive()):
                return
            for server in self._servers.values():
                server.stop()
                server.bind()
            for server in self._servers.values():  # who notices finds no listener any more
                server.hang_up()
            self._waking = threading.Thread(target=self._wake, args=(seconds,))
            self._waking.start()

    def _wake(self, seconds: float) -> None:
        self.closing.wait(seconds)
        for server in self._servers.values():
            server.start()

    def repository(self, repo_id: str) -> Repository:
        """Return the repository ``owner/name`` as it is now: commit, files, sha256.

        Raises:
            KeyError: There is no such repository.
        """
        repository = self._store.repository(*repo_id.split("/"))
        if repository is None:
            raise KeyError(repo_id)
        return repository

    def fault(self, name: str, **limits: t.Any) -> Fault:
        """Set a fault (names: ``KINDS``; limits: ``Fault``); ``fired`` of the result tells how often it has shown.

        Raises:
            ValueError: There is no fault of that name.
        """
        fault = Fault(name, **limits)
        self._faults.add(fault)
        return fault

    def clear_faults(self) -> None:
        """Forget all faults."""
        self._faults.clear()

    def stats(self) -> dict[str, dict[str, dict[str, t.Any]]]:
        """Return what was asked for and sent, by host (``hub``, ``cdn``) and path, as `Record` describes it."""
        return self._stats.snapshot()

    def clear_stats(self) -> None:
        """Start to count anew."""
        self._stats.clear()

    def serve(self, host: str, request: Request, send: Callable[[Transfer], int]) -> None:
        """Answer one request: find the reply, let the fault that is due change it, count it and send it.

        `send` returns how many bytes of the body it could not send.
        """
        if host == "hub" and request.segments[:1] == ("-",):
            send(plan(request, self._control(request)))
            return
        reply = self._reply(host, request)
        transfer, fault = self._faults.show(host, request, reply)
        if fault is not None and fault.name == "expired-url":
            self._cdn.revoke(request)
        record = self._stats.started(host, request, transfer)
        self._stats.unsent(record, send(transfer))
        if fault is not None and fault.name == "down":  # before the handler ends the connection
            self.down(fault.seconds)
        name = fault.name if fault else "-"
        log.info("%s %s %s %s fault=%s", host, request.method, reply.subject, int(transfer.reply.status), name)

    def _reply(self, host: str, request: Request) -> Reply:
        if host == "cdn":
            return self._cdn.answer(request)
        replies = (answer(request) for answer in (self._mirrored, *(api.answer for api in self._apis)))
        found = next((reply for reply in replies if reply is not None), None)
        return found or Reply.json(request.path, {"error": "Not Found"}, HTTPStatus.NOT_FOUND)

    def _control(self, request: Request) -> Reply:
        """Answer ``/-/...``, which no repository owner can be called: what tests outside this process set and ask."""
        match request.method, request.segments:
            case "GET", ("-", "faults"):
                return Reply.json(request.path, [dataclasses.asdict(fault) for fault in self._faults.list()])
            case "POST", ("-", "faults"):
                try:
                    fault = self.fault(**json.loads(request.body))
                except (TypeError, ValueError) as exc:
                    return Reply.json(request.path, {"error": str(exc)}, HTTPStatus.BAD_REQUEST)
                return Reply.json(request.path, dataclasses.asdict(fault), HTTPStatus.CREATED)
            case "DELETE", ("-", "faults"):
                self.clear_faults()
                return Reply.json(request.path, [])
            case "GET", ("-", "stats"):
                return Reply.json(request.path, self.stats())
            case "DELETE", ("-", "stats"):
                self.clear_stats()
                return Reply.json(request.path, self.stats())
        return Reply.json(request.path, {"error": "Not Found"}, HTTPStatus.NOT_FOUND)

    def _mirrored(self, request: Request) -> Reply | None:
        if self._mirror is None or request.segments[:1] != ("mirror",):
            return None
        file = self._mirror.joinpath(*request.segments[1:]).resolve()
        if not file.is_file() or not file.is_relative_to(self._mirror):
            return Reply(request.path, b"Not Found\n", HTTPStatus.NOT_FOUND, {"Content-Type": "text/plain"})
        status = file.stat()
        return Reply(request.path, Content(file, status.st_size, f'"{status.st_mtime_ns:x}-{status.st_size:x}"'))


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, address: tuple[str, int], hub: Hub, name: str) -> None:
        self.hub = hub
        self.name = name
        self._connections: set[socket.socket] = set()
        super().__init__(address, _Handler, bind_and_activate=False)
        self.server_bind()

    @property
    def url(self) -> str:
        host = "127.0.0.1" if self.server_address[0] == "0.0.0.0" else self.server_address[0]  # noqa: S104
        return f"{'https' if self.hub.tls else 'http'}://{host!s}:{self.server_port}"

    def start(self) -> None:
        """Take connections."""
        self.server_activate()
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    def stop(self) -> None:
        """Take no more connections."""
        self.shutdown()
        self.server_close()

    def hang_up(self) -> None:
        """End all connections, kept-alive ones too: a client must not be able to tell a closed hub from a dead one."""
        for connection in list(self._connections):
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue  # the client was faster

    def bind(self) -> None:
        """Hold the address again. Until `start`, the kernel refuses who comes."""
        self.socket = socket.socket(self.address_family, self.socket_type)
        self.server_bind()

    def process_request(self, request: t.Any, client_address: t.Any) -> None:
        self._connections.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: t.Any) -> None:
        self._connections.discard(request)
        super().shutdown_request(request)

    def finish_request(self, request: t.Any, client_address: t.Any) -> None:
        """Serve one connection, by TLS if that is what the client begins with."""
        if not self.hub.tls or request.recv(1, socket.MSG_PEEK) != TLS_HANDSHAKE:
            super().finish_request(request, client_address)
            return
        secure = self.hub.tls.wrap_socket(request, server_side=True)
        self._connections.add(secure)
        try:
            super().finish_request(secure, client_address)
        finally:
            self.shutdown_request(secure)

    def handle_error(self, request: t.Any, client_address: t.Any) -> None:
        """A client may hang up whenever it likes; anything else is a bug of the hub and is shown."""
        if not isinstance(sys.exc_info()[1], ConnectionError | ssl.SSLError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        self.server.hub.serve(self.server.name, self._request(), self._send)

    do_HEAD = do_POST = do_DELETE = do_GET  # noqa: N815 (the names that http.server asks for)

    def log_request(self, code: t.Any = "-", size: t.Any = "-") -> None:
        """Log nothing here: the hub logs each request with its fault, and without its query (tokens, signatures)."""

    def _request(self) -> Request:
        url = urlsplit(self.path)
        headers = {name.lower(): value for name, value in self.headers.items()}
        body = self.rfile.read(int(headers.get("content-length", "0")))
        segments = tuple(unquote(segment) for segment in url.path.lstrip("/").split("/"))
        scheme = "https" if isinstance(self.connection, ssl.SSLSocket) else "http"
        return Request(self.command, self.path, segments, dict(parse_qsl(url.query)), headers, body, scheme)

    def _head(self, reply: Reply) -> None:
        self.send_response_only(reply.status)
        self.send_header("Date", self.date_time_string())
        for name, value in reply.headers.items():
            self.send_header(name, value)
        self.end_headers()

    def _send(self, transfer: Transfer) -> int:
        left = transfer.sent_length
        try:
            self._head(transfer.reply)
            for sent in self._body(transfer):
                left -= sent
            if transfer.ending != "keep-alive":
                self._end(transfer.ending)
        except ConnectionError:
            self.close_connection = True
        return left

    def _body(self, transfer: Transfer) -> t.Iterator[int]:
        """Send the body piece by piece; yields the length of each piece."""
        body = transfer.reply.body
        stop = transfer.start + (transfer.length if transfer.stop_after is None else transfer.stop_after)
        if isinstance(body, bytes):
            self.wfile.write(body[transfer.start : stop])
            yield stop - transfer.start
            return
        rate = min(filter(None, (transfer.rate, self.server.hub.connection_rate)), default=None)
        step = PIECE_BYTES if transfer.chunked else max(transfer.length, 1)
        if rate:
            step = max(rate // STEPS_PER_SECOND, 1)
        begun = time.monotonic()
        with body.source.open("rb") as file:
            for first in range(transfer.start, stop, step):
                last = min(first + step, stop)
                if rate:
                    self.server.hub.closing.wait(begun + (first - transfer.start) / rate - time.monotonic())
                if transfer.chunked:
                    self.wfile.write(f"{last - first:x}\r\n".encode())
                yield from self._piece(file, first, last, transfer)
                if transfer.chunked:
                    self.wfile.write(b"\r\n")
        if transfer.chunked:
            self.wfile.write(b"0\r\n\r\n")
        self.wfile.write(bytes(transfer.surplus))
        yield transfer.surplus

    def _piece(self, file: t.BinaryIO, start: int, stop: int, transfer: Transfer) -> t.Iterator[int]:
        """Send the bytes from `start` to `stop` of a file, with the wrong one among them."""
        wrong = -1 if transfer.flip is None else transfer.start + transfer.flip
        if not start <= wrong < stop:
            yield from self._copy(file, start, stop)
            return
        yield from self._copy(file, start, wrong)
        self.wfile.write(bytes([os.pread(file.fileno(), 1, wrong)[0] ^ 1]))
        yield 1
        yield from self._copy(file, wrong + 1, stop)

    def _copy(self, file: t.BinaryIO, start: int, stop: int) -> t.Iterator[int]:
        while start < stop:
            if isinstance(self.connection, ssl.SSLSocket):
                sent = self.wfile.write(os.pread(file.fileno(), min(stop - start, PIECE_BYTES), start))
            else:
                sent = os.sendfile(self.connection.fileno(), file.fileno(), start, stop - start)
            if sent == 0:
                raise ConnectionError(f"{file.name} became shorter while it was sent")
            start += sent
            yield sent

    def _end(self, ending: str) -> None:
        self.close_connection = True
        if ending == "stall":
            self._wait_for_hang_up()
        elif ending == "reset":
            self._wait_until_taken()
            # SO_LINGER with time 0 turns close() into a reset; rfile holds the descriptor open until it is closed.
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.rfile.close()
            self.connection.close()

    def _wait_for_hang_up(self) -> None:
        while not self.server.hub.closing.is_set():
            if select.select([self.connection], [], [], 0.2)[0]:
                return

    def _wait_until_taken(self) -> None:
        """Wait until the client's kernel has all that was sent: a reset throws away what is still on its way."""
        deadline = time.monotonic() + DRAIN_SECONDS
        while time.monotonic() < deadline:
            pending = struct.unpack("i", fcntl.ioctl(self.connection, termios.TIOCOUTQ, bytes(4)))[0]
            if pending == 0:
                return
            time.sleep(0.002)


def _tls(certificate: Path | str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    return context
