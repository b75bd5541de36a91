# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Faults by name: what each is, when it applies, and what it does to a reply."""

from __future__ import annotations

import gzip
import threading
import typing as t
from collections.abc import Callable
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from http import HTTPStatus

from testbed.hub.messages import Content, Reply, Request, Transfer, plan

SURPLUS = 1024
LOGIN_PAGE = b"<!DOCTYPE html>\n<html><head><title>Log in</title></head><body>Please log in.</body></html>\n"


@dataclass
class Fault:
    """One fault that the hub was told to show.

    `path` is a glob over the subject of requests: ``owner/name/file``, ``mirror/file``, or the path of the URL.
    `host` restricts it to the ``hub`` or the ``cdn``; None means both. It shows `times` times, or always if None.
    `after` counts the bytes of one reply's body; replies that are not longer are left alone and not counted, those of
    the API too unless it is 0.
    `retry_after` is the value of that header: seconds or an HTTP date. `rate` is in bytes per second. `seconds` is how
    long the hub stays down. `fired` says how often the fault has shown.
    """

    name: str
    path: str = "*"
    times: int | None = None
    after: int = 0
    host: t.Literal["hub", "cdn"] | None = None
    retry_after: str = "1"
    rate: int = 1000
    seconds: float = 1.0
    fired: int = 0

    def __post_init__(self) -> None:
        if self.name not in KINDS:
            raise ValueError(f"there is no fault {self.name!r}; there are: {', '.join(KINDS)}")
        if self.host not in (None, "hub", "cdn"):
            raise ValueError(f"there is no host {self.host!r}; there are: hub, cdn")

    def matches(self, host: str, subject: str) -> bool:
        """Whether the fault is not used up and is meant for this request."""
        left = self.times is None or self.fired < self.times
        return left and self.host in (None, host) and fnmatchcase(subject, self.path)


class Case(t.NamedTuple):
    """A reply that a fault may change, before and after Range was looked at."""

    fault: Fault
    request: Request
    reply: Reply
    transfer: Transfer


class Kind(t.NamedTuple):
    """One line of the table of faults."""

    meaning: str
    applies: Callable[[Case], bool]
    change: Callable[[Case], Transfer]


def _data(case: Case) -> bool:
    return case.transfer.carries_file and case.transfer.length > case.fault.after


def _ranged(case: Case) -> bool:
    return case.transfer.carries_file and case.transfer.ranged


def _signed(case: Case) -> bool:
    return _data(case) and "Signature" in case.request.query


def _any(case: Case) -> bool:
    return not case.fault.after or _data(case)


def _holds(case: Case) -> bool:
    start = case.transfer.start
    return case.transfer.carries_file and start <= case.fault.after < start + case.transfer.length


def _large(case: Case) -> bool:
    return _data(case) and bool(_file(case).pointer)


def _file(case: Case) -> Content:
    return t.cast(Content, case.reply.body)


def _answer(case: Case, status: int, content_type: str, body: bytes) -> Transfer:
    """Answer `body` in place of whatever was asked for."""
    return plan(case.request, Reply(case.reply.subject, body, status, {"Content-Type": content_type}))


def _error(status: int) -> Callable[[Case], Transfer]:
    return lambda case: _answer(case, status, "text/plain", b"An error, as told.\n")


def _cut(ending: t.Literal["close", "reset", "stall"]) -> Callable[[Case], Transfer]:
    return lambda case: replace(case.transfer, stop_after=case.fault.after, ending=ending)


def _file_with(case: Case, **changes: t.Any) -> Transfer:
    return plan(case.request, replace(case.reply, body=replace(_file(case), **changes)))


def _with_header(transfer: Transfer, name: str, value: str) -> Transfer:
    return replace(transfer, reply=replace(transfer.reply, headers={**transfer.reply.headers, name: value}))


def _rate_limit(case: Case) -> Transfer:
    return _with_header(_error(429)(case), "Retry-After", case.fault.retry_after)


def _expired_url(case: Case) -> Transfer:
    return (_cut("close") if case.fault.after else _error(403))(case)


def _wrong_content_range(case: Case) -> Transfer:
    first, size = case.transfer.start + 1, _file(case).size + 1
    return _with_header(case.transfer, "Content-Range", f"bytes {first}-{first + case.transfer.length - 1}/{size}")


def _redirect(case: Case, origin: str) -> Transfer:
    location = {"Location": f"{origin}{case.request.target}"}
    return plan(case.request, Reply(case.reply.subject, b"", 302, location))


def _chunked(case: Case) -> Transfer:
    headers = {name: value for name, value in case.transfer.reply.headers.items() if name != "Content-Length"}
    reply = replace(case.transfer.reply, headers={**headers, "Transfer-Encoding": "chunked"})
    return replace(case.transfer, reply=reply, chunked=True)


def _gzip(case: Case) -> Transfer:
    """The whole file, encoded: a range of it would be one of the encoded bytes."""
    body = gzip.compress(_file(case).source.read_bytes())
    return plan(case.request, replace(case.reply, body=body, headers={"Content-Encoding": "gzip"}))


def _long_body(case: Case) -> Transfer:
    longer = replace(case.transfer, surplus=SURPLUS)
    return _with_header(longer, "Content-Length", str(longer.length + SURPLUS))


def _html_page(case: Case) -> Transfer:
    return _answer(case, 200, "text/html", LOGIN_PAGE)


ERRORS = (401, 403, 404, 408, 410, 451, 500, 502, 503, 504)

KINDS: dict[str, Kind] = {
    **{f"error-{status}": Kind(f"any request is answered {status}", _any, _error(status)) for status in ERRORS},
    "rate-limit": Kind("any request is answered 429 with Retry-After", _any, _rate_limit),
    "reset": Kind("the connection is reset (TCP RST) after `after` bytes of the body", _data, _cut("reset")),
    "stall": Kind("nothing follows `after` bytes of the body; the connection stays open", _data, _cut("stall")),
    "short-body": Kind("an orderly close after `after` bytes, fewer than Content-Length", _data, _cut("close")),
    "long-body": Kind("Content-Length and body are 1024 bytes longer than what was asked for", _data, _long_body),
    "flipped-bit": Kind(
        "the lowest bit of the byte at offset `after` of the body is wrong",
        _data,
        lambda case: replace(case.transfer, flip=case.fault.after),
    ),
    "rotten-byte": Kind(
        "the lowest bit of the byte at offset `after` of the file is wrong, in every range that holds it",
        _holds,
        lambda case: replace(case.transfer, flip=case.fault.after - case.transfer.start),
    ),
    "truncated": Kind(
        "the file has only its first `after` bytes: a range behind them is answered 416",
        lambda case: case.transfer.carries_file,
        lambda case: _file_with(case, size=case.fault.after),
    ),
    "slow": Kind(
        "the body trickles at `rate` bytes per second",
        _data,
        lambda case: replace(case.transfer, rate=case.fault.rate),
    ),
    "chunked": Kind(
        "the body comes in chunks, without Content-Length",
        _data,
        _chunked,
    ),
    "gzip": Kind("200 with the whole file encoded: Content-Encoding is gzip", _data, _gzip),
    "no-range": Kind("Range is answered 200 with the whole file", _ranged, lambda case: _file_with(case, ranges=False)),
    "wrong-content-range": Kind("Content-Range tells start, end and total one too high", _ranged, _wrong_content_range),
    "changed-etag": Kind(
        "the data has another ETag (so If-Range fails: 200 with the whole file)",
        _data,
        lambda case: _file_with(case, etag=f'"changed-{_file(case).etag[1:]}'),
    ),
    "weak-etag": Kind("the ETag is a weak one", _data, lambda case: _file_with(case, etag=f"W/{_file(case).etag}")),
    "no-etag": Kind("there is no ETag", _data, lambda case: _file_with(case, etag="")),
    "redirect-loop": Kind(
        "any request is redirected to itself", _any, lambda case: _redirect(case, case.request.origin)
    ),
    "leave-https": Kind(
        "a request by https is redirected to the same address by http",
        lambda case: case.request.scheme == "https",
        lambda case: _redirect(case, f"http://{case.request.headers['host']}"),
    ),
    "down": Kind(
        "after `after` bytes of the body all connections end, and for `seconds` none is taken",
        _any,
        _cut("close"),
    ),
    "expired-url": Kind(
        "the signed URL ends after `after` bytes: 403 if 0, else a close; from then on 403 for this URL",
        _signed,
        _expired_url,
    ),
    "html-page": Kind(
        "200 with a login page instead of the file or the answer of the API",
        lambda case: case.reply.status == HTTPStatus.OK and case.transfer.length > case.fault.after,
        _html_page,
    ),
    "lfs-pointer": Kind(
        "200 with the Git LFS pointer instead of the large file",
        _large,
        lambda case: plan(case.request, replace(case.reply, body=_file(case).pointer)),
    ),
    # Not a change of a reply: the two APIs ask for it while they list a file (Faults.listed_size).
    "wrong-size": Kind(
        "listings and X-Linked-Size say one byte more than the file has",
        lambda _case: False,
        lambda case: case.transfer,
    ),
}


class Faults:
    """The faults that are set, oldest first. One reply shows at most one."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._set: list[Fault] = []

    def add(self, fault: Fault) -> None:
        """Set a fault."""
        with self._lock:
            self._set.append(fault)

    def clear(self) -> None:
        """Forget all faults."""
        with self._lock:
            self._set.clear()

    def list(self) -> list[Fault]:
        """Return the faults that are set, used up or not."""
        with self._lock:
            return list(self._set)

    def show(self, host: str, request: Request, reply: Reply) -> tuple[Transfer, Fault | None]:
        """Return what to send, and the fault in it."""
        transfer = plan(request, reply)
        with self._lock:
            for fault in self._set:
                case = Case(fault, request, reply, transfer)
                if fault.matches(host, reply.subject) and KINDS[fault.name].applies(case):
                    fault.fired += 1
                    return KINDS[fault.name].change(case), fault
        return transfer, None

    def listed_size(self, subject: str, size: int) -> int:
        """Return the size that a listing tells of the file `subject`."""
        with self._lock:
            for fault in self._set:
                if fault.name == "wrong-size" and fault.matches("hub", subject):
                    fault.fired += 1
                    return size + 1
        return size
