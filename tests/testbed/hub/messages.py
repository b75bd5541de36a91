# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What passes between the server and the APIs behind it: a request, a reply, and the transfer that a reply becomes."""

from __future__ import annotations

import json
import re
import typing as t
from dataclasses import dataclass, field, replace
from http import HTTPStatus
from pathlib import Path


@dataclass(frozen=True)
class Request:
    """A request as it came in. Path segments and query values are unquoted; header names are lower case; `target` is
    the path with its query as it was sent, `scheme` http or https."""

    method: str
    target: str
    segments: tuple[str, ...]
    query: dict[str, str]
    headers: dict[str, str]
    body: bytes = b""
    scheme: str = "http"

    @property
    def path(self) -> str:
        """The unquoted path without its leading slash."""
        return "/".join(self.segments)

    @property
    def token(self) -> str | None:
        """The token of the Authorization header, or of ModelScope's session cookie."""
        bearer = re.fullmatch(r"Bearer (.+)", self.headers.get("authorization", ""))
        cookie = re.search(r"\bm_session_id=([^;]+)", self.headers.get("cookie", ""))
        found = bearer or cookie
        return found.group(1) if found else None

    @property
    def origin(self) -> str:
        """The scheme, host and port that the client used, for links in answers."""
        return f"{self.scheme}://{self.headers['host']}"


@dataclass(frozen=True)
class Content:
    """The bytes of a file on disk, as the body of a reply; `pointer` is the file's Git LFS pointer, if it has one.

    `etag` is the value of that header, with its quotes; "" for none.
    """

    source: Path
    size: int
    etag: str
    ranges: bool = True
    pointer: bytes = b""


@dataclass(frozen=True)
class Reply:
    """An answer before Range and faults. `subject` is what faults and statistics know the request by: the path in
    the repository (``owner/name/file``), ``mirror/file``, or else the path of the URL."""

    subject: str
    body: bytes | Content = b""
    status: int = HTTPStatus.OK
    headers: dict[str, str] = field(default_factory=dict)

    @classmethod
    def json(
        cls, subject: str, data: t.Any, status: int = HTTPStatus.OK, headers: dict[str, str] | None = None
    ) -> Reply:
        """Answer with JSON."""
        return cls(subject, json.dumps(data).encode(), status, {"Content-Type": "application/json", **(headers or {})})


@dataclass(frozen=True)
class Transfer:
    """What goes over the wire: `length` bytes of the body from `start`, and how it ends.

    `stop_after` cuts the body after so many bytes, and `ending` says what follows the cut: ``close`` (an orderly
    end of the connection), ``reset`` or ``stall``. `flip` is the offset in the body of a byte with one wrong bit.
    `surplus` bytes follow the body; ``Content-Length`` announces them. `chunked` frames the body in chunks, without
    that header. `rate` is the bytes per second of a trickle.
    """

    reply: Reply
    start: int
    length: int
    ranged: bool = False
    stop_after: int | None = None
    ending: t.Literal["keep-alive", "close", "reset", "stall"] = "keep-alive"
    flip: int | None = None
    surplus: int = 0
    chunked: bool = False
    rate: int | None = None

    @property
    def carries_file(self) -> bool:
        """Whether bytes of a file are sent, not an answer of the API or an error."""
        return isinstance(self.reply.body, Content) and self.length > 0

    @property
    def sent_length(self) -> int:
        """The number of bytes of the body that reach the client."""
        return self.length + self.surplus if self.stop_after is None else self.stop_after


def plan(request: Request, reply: Reply) -> Transfer:
    """Resolve Range and If-Range (RFC 9110, sections 13.1.5 and 14) and complete the headers."""
    body = reply.body
    if isinstance(body, bytes):
        return _transfer(reply, 0, len(body), request)
    headers = {"Content-Type": "application/octet-stream", **reply.headers}
    if body.etag:
        headers.setdefault("ETag", body.etag)
    reply = replace(reply, headers=headers)
    if not body.ranges:
        return _transfer(reply, 0, body.size, request)

    headers["Accept-Ranges"] = "bytes"
    wanted = _range(request, body)
    if wanted is None:
        return _transfer(reply, 0, body.size, request)
    start, end = wanted
    if start >= end:
        headers["Content-Range"] = f"bytes */{body.size}"
        return _transfer(replace(reply, status=HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE, body=b""), 0, 0, request)
    headers["Content-Range"] = f"bytes {start}-{end - 1}/{body.size}"
    return _transfer(replace(reply, status=HTTPStatus.PARTIAL_CONTENT), start, end - start, request, ranged=True)


def _transfer(reply: Reply, start: int, length: int, request: Request, *, ranged: bool = False) -> Transfer:
    headers = {**reply.headers, "Content-Length": str(length)}
    return Transfer(replace(reply, headers=headers), start, 0 if request.method == "HEAD" else length, ranged)


def _range(request: Request, content: Content) -> tuple[int, int] | None:
    """Return the first and the last-plus-one byte asked for; None if the whole file is to be sent.

    Several ranges in one request are answered with the whole file, as object stores do.
    """
    match = re.fullmatch(r"bytes=(\d*)-(\d*)", request.headers.get("range", ""))
    if match is None or not _unchanged(request, content):
        return None
    first, last = (int(number) if number else None for number in match.groups())
    if first is None:
        return None if last is None else (max(content.size - last, 0), content.size)
    if last is None:
        return first, content.size
    return None if last < first else (first, min(last + 1, content.size))


def _unchanged(request: Request, content: Content) -> bool:
    """Whether If-Range, where there is one, names this very content, which a weak ETag never does."""
    known = request.headers.get("if-range", content.etag)
    return known == content.etag and not ("if-range" in request.headers and known.startswith("W/"))
