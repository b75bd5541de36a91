# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""HTTP as this collection wants it: no leaked token, no silent short body, errors fit to be read.

The only file that imports `requests`. Private to this collection.
"""

from __future__ import annotations

import contextlib
import email.utils
import ipaddress
import json
import os
import random
import re
import socket
import threading
import time
import typing as t
from dataclasses import dataclass
from urllib.parse import urljoin, urlsplit

from ansible_collections.llmfleet.serving.plugins.module_utils._errors import LlmError

try:
    import requests
except ImportError:
    requests = None  # type: ignore[assignment]

_T = t.TypeVar("_T")

# Reads below 64 KiB cost CPU. Above 256 KiB nothing is won, and a slow link would look like a stalled one.
CHUNK = 256 << 10
# What to do about data that makes no sense.
ASK = "The source, or a proxy on the way, is at fault: use another one, or ask who runs it."

# One address of a host; the next one (IPv4 after IPv6) is tried after it.
_CONNECT_TIMEOUT_S = 10.0
_MAX_REDIRECTS = 10
_MAX_WAIT_S = 60.0
_MAX_RETRY_AFTER_S = 300.0
_TRANSIENT = frozenset({408, 425, 429, 500, 502, 503, 504})
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_PORTS = {"http": 80, "https": 443}
_NO_PROXY = {"http": None, "https": None, "all": None}


class HttpError(LlmError):
    """A request that did not get the answer it asked for.

    `status` is the HTTP status, None when there was no answer. `transient` says that the same request may work later,
    `retry_after` how many seconds the server wants to be left alone (0: it did not say).
    """

    def __init__(
        self, text: str, *, status: int | None = None, transient: bool = False, retry_after: float = 0.0
    ) -> None:
        super().__init__(text)
        self.status = status
        self.transient = transient
        self.retry_after = retry_after

    def of(self, subject: str) -> HttpError:
        """The same error, with what it is about in front of its text."""
        return HttpError(
            f"{subject}: {self}", status=self.status, transient=self.transient, retry_after=self.retry_after
        )


def backoff_s(failures: int, retry_after: float = 0.0) -> float:
    """Seconds to wait after so many failures in a row: exponential, with jitter, not less than the server asked for."""
    # Jitter keeps a fleet of hosts from coming back at the same instant.
    pause = min(_MAX_WAIT_S, 2.0 ** (failures - 2)) * random.uniform(0.5, 1.0)  # noqa: S311 (not a secret)
    return max(pause, min(retry_after, _MAX_RETRY_AFTER_S))


class Retries:
    """How transient failures are waited for: exponential backoff with jitter, under one deadline.

    :param deadline: the value of `time.monotonic()` after which nothing is tried any more.
    :param tries: failures in a row, without progress between them, after which the last one is final.
    :param sleep: waits the seconds it is given; a caller with threads passes one that can be woken.
    """

    def __init__(self, deadline: float, tries: int = 8, sleep: t.Callable[[float], t.Any] = time.sleep) -> None:
        self._deadline = deadline
        self._tries = tries
        self._sleep = sleep
        self._failures = 0

    def progress(self) -> None:
        """The failures before were not in vain: count from zero again."""
        self._failures = 0

    def wait(self, error: HttpError) -> None:
        """Sleep until the next try.

        :raises HttpError: `error` itself, if it is permanent, or tries or time are used up.
        """
        self._failures += 1
        if not error.transient:
            raise error
        pause = backoff_s(self._failures, error.retry_after)
        if self._failures >= self._tries:
            raise HttpError(f"{error} Given up after {self._failures} tries in a row.", status=error.status)
        if time.monotonic() + pause > self._deadline:
            raise HttpError(f"{error} Given up: the next try would come after the deadline.", status=error.status)
        self._sleep(pause)

    def run(self, action: t.Callable[[], _T]) -> _T:
        """What `action` returns, once it does not fail any more."""
        while True:
            try:
                return action()
            except HttpError as exc:
                self.wait(exc)


def request_json(
    method: str,
    url: str,
    *,
    body: t.Any = None,
    token: str | None = None,
    timeout: float = 30.0,
    allow: t.Collection[int] = (200,),
    direct: bool = False,
) -> t.Any:
    """Send a JSON request (no body if `body` is None) and return the JSON answer, None for an empty one. Tried once.

    :param token: bearer token for the host of `url`, and for no other host.
    :param timeout: longest silence of the server, in seconds.
    :param allow: statuses that are a success.
    :param direct: whether the proxy of the environment is passed by, as for a neighbour in the same network.
    :raises HttpError: for every other status, for no answer, and for an answer that is not JSON.
    """
    with _answer(method, url, body=body, token=token, timeout=timeout, allow=allow, direct=direct) as response:
        return _json(response, url)


def get_pages(url: str, *, token: str | None = None, timeout: float = 30.0) -> t.Iterator[t.Any]:
    """The JSON answers of a list that comes in pages, linked by `Link: <...>; rel="next"` (RFC 8288).

    Parameters and errors as in `request_json`. A page on another host is asked for without the token.
    """
    origin = _origin(url)
    page: str | None = url
    while page:
        allowed = token if _origin(page) == origin else None
        with _answer("GET", page, token=allowed, timeout=timeout) as response:
            yield _json(response, page)
            target = response.links.get("next", {}).get("url")
            page = _redirect_target(page, target) if target else None


def stream_lines(
    method: str, url: str, *, body: t.Any = None, token: str | None = None, timeout: float = 60.0
) -> t.Iterator[bytes]:
    """The lines of a streaming answer, each as soon as it arrives, without line ends and without empty lines.

    Parameters and errors as in `request_json`; `timeout` is also the longest pause between two pieces of the answer.
    """
    with _answer(method, url, body=body, token=token, timeout=timeout) as response, _readable_errors(url, timeout):
        # A chunked answer is read chunk by chunk; in any other, only single bytes are delivered without delay.
        chunked = response.headers.get("Transfer-Encoding", "").lower() == "chunked"
        yield from filter(None, response.iter_lines(chunk_size=t.cast("int", None if chunked else 1)))


class Targets:
    """Where addresses lead to: a redirect is followed once for all threads, and again when its target has failed.

    Hubs sign what they redirect to, and limit how often they are asked to. No target is ever shown or written down.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._turns: dict[str, threading.Lock] = {}
        self._known: dict[str, str] = {}

    def get(self, url: str) -> str | None:
        """The target, as far as it is known."""
        return self._known.get(url)

    def learn(self, url: str, target: str) -> None:
        """Let all threads use the target."""
        self._known[url] = target

    def forget(self, url: str, target: str) -> None:
        """No thread is to use the target any more; one that another thread has learnt meanwhile stays."""
        with self._lock:
            if self._known.get(url) == target:
                del self._known[url]

    def turn(self, url: str) -> threading.Lock:
        """Whoever holds this asks for the target; the others wait for the answer."""
        with self._lock:
            return self._turns.setdefault(url, threading.Lock())


@dataclass(frozen=True)
class Body:
    """A file's content on its way from the server, from the offset `start` to the offset `stop` (bytes).

    `total` is the whole file's size in bytes; it and `stop` are None if the server does not say. `etag` is None unless
    it is a strong one (RFC 9110: only those may be used to continue a download).
    """

    start: int
    stop: int | None
    total: int | None
    etag: str | None
    _response: t.Any
    _url: str
    _timeout: float

    def chunks(self) -> t.Iterator[bytes]:
        """The content in pieces of at most `CHUNK` bytes.

        The end says nothing about completeness (old urllib3 does not count): compare with the size you expect.

        :raises HttpError: transient, if the connection breaks.
        """
        with _readable_errors(self._url, self._timeout):
            yield from self._response.iter_content(CHUNK)

    def abort(self) -> None:
        """Make a `chunks()` that waits in another thread end, with an error or with the end of data."""
        # A body whose reader has just come to its end has no socket any more: http.client then lacks the attribute.
        gone = contextlib.suppress(OSError, ValueError, AttributeError)
        # Closing would not wake a waiting reader; shutting the socket down does, under TLS too.
        with gone, socket.socket(fileno=os.dup(self._response.raw.fileno())) as end:
            end.shutdown(socket.SHUT_RDWR)


@contextlib.contextmanager
def open_body(
    url: str,
    *,
    start: int = 0,
    stop: int | None = None,
    etag: str | None = None,
    token: str | None = None,
    timeout: float = 60.0,
    targets: Targets | None = None,
    direct: bool = False,
) -> t.Iterator[Body]:
    """Open the bytes from the offset `start` to the offset `stop` (the end, if None) of a file.

    The `Body` is the whole file instead if the server has no ranges.

    :param etag: of the file that the bytes before `start` came from; if the server's is another one now, the `Body`
        is the whole file.
    :param targets: what is known of redirects, shared by all who open files of one hub.
    :param direct: whether the proxy of the environment is passed by.
    :raises HttpError: also for an encoded answer, and for one that is not the range that was asked for; status 416
        means that the file ends before `start`.
    """
    headers = {"Accept-Encoding": "identity"}
    if start or stop is not None:
        headers["Range"] = f"bytes={start}-{'' if stop is None else stop - 1}"
        if etag:
            headers["If-Range"] = etag
    request = {"headers": headers, "token": token, "timeout": timeout, "allow": (200, 206), "direct": direct}
    with _follow(url, targets or Targets(), **request) as response:
        encoding = response.headers.get("Content-Encoding", "identity")
        if encoding != "identity":
            raise HttpError(f"{_public(url)} came encoded as {encoding!r}; expected the file as it is.")
        extent = _extent(response, url, start, stop)
        answered = response.headers.get("ETag", "")
        yield Body(*extent, answered if answered.startswith('"') else None, response, url, timeout)


def _follow(url: str, targets: Targets, **request: t.Any) -> requests.Response:
    """The open answer to GET, from the target that is known, or else from the one that `url` leads to now."""
    known = targets.get(url)
    if known:
        try:
            return _answer("GET", url, first=known, **request)
        except HttpError as exc:
            # Whatever the failure: the hub may name another target now. An expired signature is no failure at all.
            targets.forget(url, known)
            if exc.status not in (401, 403):
                raise
    with targets.turn(url):
        known = targets.get(url)
        if not known:
            response = _answer("GET", url, **request)
            targets.learn(url, response.url)
            return response
    return _answer("GET", url, first=known, **request)


def _extent(response: requests.Response, url: str, start: int, stop: int | None) -> tuple[int, int | None, int | None]:
    """First and last-plus-one offset of the answer, and size of the whole file.

    :raises HttpError: for anything but exactly what was asked for, or all.
    """
    announced = response.headers.get("Content-Length", "")
    length = int(announced) if announced.isdigit() else None
    if response.status_code == 200:
        return 0, length, length
    found = response.headers.get("Content-Range", "")
    match = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+)", found)
    if match:
        first, last, total = (int(group) for group in match.groups())
        end = total if stop is None else min(stop, total)
        if (first, last + 1) == (start, end) and length in (None, end - start):
            return first, end, total
    raise HttpError(
        f"{_public(url)} answered with the range {found!r} in {announced or 'unknown'} bytes; expected "
        f"'bytes {start}-{'(size-1)' if stop is None else stop - 1}/(size)'. {ASK}",
        status=206,
    )


def _answer(
    method: str,
    url: str,
    *,
    first: str | None = None,
    headers: dict[str, str] | None = None,
    body: t.Any = None,
    token: str | None = None,
    timeout: float,
    allow: t.Collection[int] = (200,),
    direct: bool = False,
) -> requests.Response:
    """The open answer to a request, redirects followed, status checked. It is a context, whose end closes it.

    :param first: where `url` is known to redirect to, so that `url` itself is not asked.
    """
    here = first or url
    for _hop in range(_MAX_REDIRECTS):
        allowed = token if _origin(here) == _origin(url) else None
        # The proxy of the environment cannot reach this host's loopback.
        proxies = _NO_PROXY if direct or _is_loopback(here) else None
        response = _send(method, here, headers, body, allowed, timeout, proxies)
        if response.status_code in allow:
            return response
        with response:
            if response.status_code not in _REDIRECTS or method not in ("GET", "HEAD"):
                raise _refusal(response, here, redirected=here != url, token=token)
            here = _redirect_target(here, response.headers.get("Location", ""))
    raise HttpError(f"{_public(url)} redirects more than {_MAX_REDIRECTS} times. Check the address.")


def _send(
    method: str,
    url: str,
    headers: dict[str, str] | None,
    body: t.Any,
    token: str | None,
    timeout: float,
    proxies: t.Any,
) -> requests.Response:
    connection = session()
    with _readable_errors(url, timeout):
        return connection.request(
            method,
            url,
            json=body,
            headers=headers,
            # Our own callable, also without a token: else `requests` would send what ~/.netrc says.
            auth=_Bearer(token),
            timeout=(min(timeout, _CONNECT_TIMEOUT_S), timeout),
            allow_redirects=False,
            stream=True,
            proxies=proxies,
        )


_sessions = threading.local()


def session() -> requests.Session:
    """This thread's session: connections are used again; proxies and CA bundle come from the environment.

    :raises LlmError: if `requests` is not installed.
    """
    if requests is None:
        raise LlmError("The Python library requests is missing on this host. Install the package python3-requests.")
    if not hasattr(_sessions, "session"):
        _sessions.session = requests.Session()
        _sessions.session.headers["User-Agent"] = "llmfleet.serving"
    return t.cast("requests.Session", _sessions.session)


class _Bearer:
    def __init__(self, token: str | None) -> None:
        self._token = token

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        if self._token:
            request.headers["Authorization"] = f"Bearer {self._token}"
        return request


def _origin(url: str) -> tuple[str, str, int]:
    """Scheme, host and port: what must be equal for a token to be sent along."""
    try:
        parts = urlsplit(url)
        if parts.scheme in _PORTS and parts.hostname:
            return parts.scheme, parts.hostname, parts.port or _PORTS[parts.scheme]
    except ValueError:
        pass
    raise HttpError(f"{url.partition('?')[0]!r} is not an address; expected http://host/... or https://host/...")


def _is_loopback(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _public(url: str) -> str:
    """The address as it may be shown: without the query (signatures live there) and without user and password."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def _redirect_target(url: str, location: str) -> str:
    target = urljoin(url, location)
    if (_origin(url)[0], _origin(target)[0]) == ("https", "http"):
        raise HttpError(f"{_public(url)} redirects to {_public(target)}: leaving https is refused. Use another source.")
    return target


def _json(response: requests.Response, url: str) -> t.Any:
    with _readable_errors(url, None):
        content = response.content
    try:
        return json.loads(content) if content.strip() else None
    except ValueError as exc:
        kind = response.headers.get("Content-Type", "no type")
        raise HttpError(
            f"{_public(url)} answered with something that is not JSON ({kind}). Check the address, and whether a proxy "
            "or a login page answers in its place.",
            status=response.status_code,
        ) from exc


def _refusal(response: requests.Response, url: str, *, redirected: bool, token: str | None) -> HttpError:
    status = response.status_code
    # A storage host behind a redirect may quote the signed address it was asked for.
    said = "" if redirected else _said(response)
    if token:
        said = said.replace(token, "(token)")
    denied = status in (401, 403)
    hint = ""
    if denied and not redirected:
        hint = " The token was not accepted, or gives no access." if token else " A token may be needed."
    return HttpError(
        f"{_public(url)} answered {status} {response.reason or ''}".rstrip() + f"{said}.{hint}",
        status=status,
        # What a redirect leads to is signed, and expires: asking again, from the start, gets a fresh signature.
        transient=status in _TRANSIENT or (denied and redirected),
        retry_after=_retry_after(response.headers.get("Retry-After", "")),
    )


def _said(response: requests.Response) -> str:
    """What the server says in a JSON error object, cut to one short line, as ': text'. Other bodies are not shown."""
    try:
        answer = json.loads(response.content)
    except (ValueError, OSError):
        return ""
    text = (
        next((answer[key] for key in ("error", "message", "Message") if answer.get(key)), "")
        if isinstance(answer, dict)
        else ""
    )
    text = text.get("message", "") if isinstance(text, dict) else text
    line = "".join(char if char.isprintable() else " " for char in str(text)).strip(" .")
    return f": {line[:300]}" if line else ""


def _retry_after(value: str) -> float:
    """Seconds from a Retry-After header, which has seconds or a date; 0 if it has neither."""
    if value.isdigit():
        return float(value)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    except (ValueError, TypeError):
        return 0.0


@contextlib.contextmanager
def _readable_errors(url: str, timeout: float | None) -> t.Iterator[None]:
    """Turn errors of `requests` into ours. Their own texts are not used: they quote signed URLs and proxy passwords."""
    try:
        yield
    except requests.exceptions.SSLError as exc:
        raise HttpError(
            f"{_public(url)}: the server's certificate was not accepted, or TLS failed. Check the host name, this "
            "host's clock and its CA certificates; a proxy that opens TLS needs its CA installed here."
        ) from exc
    except requests.exceptions.ProxyError as exc:
        raise HttpError(
            f"{_public(url)} cannot be reached through the proxy that the environment names.", transient=True
        ) from exc
    except requests.exceptions.Timeout as exc:
        raise HttpError(f"{_public(url)} was silent for {timeout:g} s.", transient=True) from exc
    except requests.exceptions.InvalidURL as exc:
        raise HttpError(f"{_public(url)} is not an address.") from exc
    except requests.RequestException as exc:
        raise HttpError(f"{_public(url)} cannot be reached: {_cause(exc)}.", transient=True) from exc


def _cause(exc: BaseException) -> str:
    """The operating system's word for the failure, which is at the bottom of the chain of exceptions."""
    text = "the connection broke"
    link: BaseException | None = exc
    while link:
        if isinstance(link, socket.timeout):
            text = "no data came for too long"
        elif isinstance(link, OSError) and link.strerror:
            text = link.strerror
        link = link.__cause__ or link.__context__
    return text
