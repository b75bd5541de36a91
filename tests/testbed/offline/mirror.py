# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""``python -m testbed.offline.mirror PORT PEM``: Debian's archive, the package index, and a name server.

On standard output: ``listening`` once, then ``requested PATH`` and ``asked NAME`` as they come.
"""

from __future__ import annotations

import hashlib
import html
import os
import re
import shutil
import socketserver
import ssl
import struct
import sys
import threading
import typing as t
import urllib.error
import urllib.parse
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

_ARCHIVE = "http://deb.debian.org"
_INDEX = os.environ.get("PIP_INDEX_URL", "https://pypi.org/simple").rstrip("/")
_TIMEOUT_S = 60
_NAME_ERROR = 3


class _Http(BaseHTTPRequestHandler):
    """``/debian/``, ``/debian-security/``, ``/simple/`` and the files that the index names, as ``/files/``."""

    protocol_version = "HTTP/1.1"
    # Where the files lie that pages of the index have named, by the part of the path that stands for it.
    files: t.ClassVar[dict[str, str]] = {}

    def do_GET(self) -> None:
        print("requested", self.path, flush=True)
        kind = self.path.split("/")[1]
        if kind in ("debian", "debian-security"):
            self._pass_on(_ARCHIVE + self.path)
        elif kind == "simple":
            self._index(self.path.split("/")[2])
        elif kind == "files" and self.path.split("/")[2] in self.files:
            self._pass_on(self.files[self.path.split("/")[2]])
        else:
            self.send_error(404)

    def do_HEAD(self) -> None:
        self.do_GET()

    def _pass_on(self, url: str) -> None:
        request = urllib.request.Request(url, method=self.command)  # noqa: S310
        try:
            with urllib.request.urlopen(request, timeout=_TIMEOUT_S) as answer:  # noqa: S310
                self.send_response(200)
                for name in ("Content-Length", "Content-Type", "Last-Modified"):
                    if answer.headers[name]:
                        self.send_header(name, answer.headers[name])
                self.end_headers()
                shutil.copyfileobj(answer, self.wfile)
        except urllib.error.HTTPError as error:
            self.send_error(error.code)
        except OSError as error:
            self.send_error(502, str(error))

    def _index(self, package: str) -> None:
        page = f"{_INDEX}/{package}/"
        request = urllib.request.Request(page, headers={"Accept": "text/html"})  # noqa: S310
        try:
            with urllib.request.urlopen(request, timeout=_TIMEOUT_S) as answer:  # noqa: S310
                links = re.findall(r'href="([^"]+)"', answer.read().decode())
        except urllib.error.HTTPError as error:
            self.send_error(error.code)
            return
        body = "<!DOCTYPE html>\n" + "".join(
            self._link(urllib.parse.urljoin(page, html.unescape(link))) for link in links
        )
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body.encode())

    def _link(self, url: str) -> str:
        place, _hash, fragment = url.partition("#")
        name = place.rpartition("/")[2]
        key = hashlib.sha256(place.encode()).hexdigest()[:16]
        self.files[key] = place
        return f'<a href="/files/{key}/{name}#{fragment}">{name}</a>\n'

    def log_message(self, *_args: object) -> None:
        pass


class _Names(socketserver.BaseRequestHandler):
    """Answers that the name does not exist, whatever it is."""

    def handle(self) -> None:
        question, socket = self.request
        name, at = [], 12
        while length := question[at]:
            name.append(question[at + 1 : at + 1 + length].decode(errors="replace"))
            at += 1 + length
        print("asked", ".".join(name), flush=True)
        (flags,) = struct.unpack_from(">H", question, 2)
        # An answer, recursion is there if it was wanted; one question, and nothing else.
        header = question[:2] + struct.pack(">HHHHH", 0x8080 | flags & 0x7900 | _NAME_ERROR, 1, 0, 0, 0)
        socket.sendto(header + question[12 : at + 5], self.client_address)


def main() -> None:
    names = socketserver.ThreadingUDPServer(("", 53), _Names)
    threading.Thread(target=names.serve_forever, daemon=True).start()
    server = ThreadingHTTPServer(("", int(sys.argv[1])), _Http)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(sys.argv[2])
    # A connection shakes hands in its own thread, when it is first read from.
    server.socket = tls.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    print("listening", server.server_port, flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
