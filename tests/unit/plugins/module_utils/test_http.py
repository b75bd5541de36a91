# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import datetime
import email.utils
import ipaddress
import socket
import ssl
import subprocess
import sys
import threading
import time

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from ansible_collections.llmfleet.serving.plugins.module_utils import _http
from ansible_collections.llmfleet.serving.plugins.module_utils._http import (
    HttpError,
    Retries,
    Targets,
    get_pages,
    open_body,
    request_json,
    stream_lines,
)

PROXIES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")


@pytest.fixture(autouse=True)
def own_environment(monkeypatch, tmp_path):
    """What the machine that runs the tests has set up for HTTP is not what is tested."""
    for name in (*PROXIES, *map(str.upper, PROXIES), "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "NETRC"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    # Sessions keep the environment's proxies of their first request.
    monkeypatch.setattr(_http, "_sessions", threading.local())


def read(url: str, **params) -> bytes:
    with open_body(url, **params) as body:
        return b"".join(body.chunks())


# JSON


def test_json_goes_both_ways(scripted):
    scripted.routes["POST /x"] = {"answer": 1}
    assert request_json("POST", f"{scripted.url}/x", body={"question": 2}) == {"answer": 1}
    assert scripted.seen[0][2] == {"question": 2}


def test_an_empty_answer_is_none(scripted):
    scripted.routes["POST /x"] = (201, b"")
    assert request_json("POST", f"{scripted.url}/x", allow=(201,)) is None


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        ((404, {"error": "no such model"}), "answered 404 Not Found: no such model."),
        ((400, {"error": {"message": "too long"}}), "answered 400 Bad Request: too long."),
        ((400, {"message": "two\nlines\x1b[0m"}), "answered 400 Bad Request: two lines [0m."),
        ((500, b"<html>secret</html>"), "answered 500 Internal Server Error."),
        ((400, ["list"]), "answered 400 Bad Request."),
    ],
)
def test_a_status_is_told_with_what_the_server_says(scripted, answer, told):
    scripted.routes["GET /x?Signature=canary"] = answer
    with pytest.raises(HttpError) as caught:
        request_json("GET", f"{scripted.url}/x?Signature=canary")
    assert str(caught.value) == f"{scripted.url}/x {told}"
    assert caught.value.status == answer[0]


def test_a_storage_host_is_not_quoted(scripted):
    scripted.routes["GET /x"] = (302, b"", {"Location": "/file?Signature=canary"})
    scripted.routes["GET /file?Signature=canary"] = (403, {"error": "/file?Signature=canary has expired"})
    with pytest.raises(HttpError, match=r"/file answered 403 Forbidden\.$") as caught:
        read(f"{scripted.url}/x")
    assert caught.value.transient


def test_what_is_not_json_is_refused(scripted):
    scripted.routes["GET /x"] = (200, b"<html>", {"Content-Type": "text/html"})
    with pytest.raises(HttpError, match=r"not JSON \(text/html\)"):
        request_json("GET", f"{scripted.url}/x")


def test_a_server_that_says_the_token_back_is_not_quoted(scripted):
    scripted.routes["GET /x"] = (401, {"error": "bad token canary"})
    with pytest.raises(HttpError, match=r"bad token \(token\)\. The token was not accepted"):
        request_json("GET", f"{scripted.url}/x", token="canary")  # noqa: S106 (the tests' own)


@pytest.mark.parametrize("url", ["", "hub", "ftp://hub/x", "http://", "http://hub:port/x", "file:///etc/passwd"])
def test_what_is_no_address_is_refused(url):
    with pytest.raises(HttpError, match="is not an address"):
        request_json("GET", url)


def test_silence_ends_after_the_time_out(scripted):
    scripted.routes["GET /x"] = [5.0]
    with pytest.raises(HttpError, match="no data came for too long") as caught:
        request_json("GET", f"{scripted.url}/x", timeout=0.2)
    assert caught.value.transient


def test_silence_before_the_answer_ends_too():
    with socket.create_server(("127.0.0.1", 0)) as mute:
        url = f"http://127.0.0.1:{mute.getsockname()[1]}/x"
        with pytest.raises(HttpError, match=r"was silent for 0\.2 s") as caught:
            request_json("GET", url, timeout=0.2)
    assert caught.value.transient


def test_names_that_do_not_resolve_may_later(scripted):
    with pytest.raises(HttpError, match=r"http://hub\.invalid/x cannot be reached: ") as caught:
        request_json("GET", "http://hub.invalid/x?Signature=canary")
    assert caught.value.transient
    assert "canary" not in str(caught.value)


def test_a_host_without_requests_is_told_the_package():
    code = f"import sys; sys.modules['requests'] = None; from {_http.__name__} import request_json as r; r('GET', 'http://h/')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "LlmError: The Python library requests is missing" in done.stderr
    assert "python3-requests" in done.stderr


# Lines


def test_lines_come_as_they_are_sent(scripted):
    scripted.routes["POST /x"] = [b'{"a": 1}\n', 0.5, b'{"b"', b": 2}\n\n{", b'"c": 3}']
    start = time.monotonic()
    arrived = [(line, time.monotonic() - start) for line in stream_lines("POST", f"{scripted.url}/x", body={})]
    assert [line for line, _dummy in arrived] == [b'{"a": 1}', b'{"b": 2}', b'{"c": 3}']
    assert arrived[0][1] < 0.5 <= arrived[1][1]


def test_a_stream_that_breaks_is_an_error(scripted):
    scripted.routes["POST /x"] = [b"one\n", None]
    lines = stream_lines("POST", f"{scripted.url}/x")
    assert next(lines) == b"one"
    with pytest.raises(HttpError, match="cannot be reached"):
        next(lines)


def test_a_post_is_not_sent_on(scripted):
    scripted.routes["POST /x"] = (307, b"", {"Location": "/y"})
    with pytest.raises(HttpError, match="answered 307"):
        request_json("POST", f"{scripted.url}/x")


# Tokens and redirects


@pytest.fixture
def other():
    """Another server, another origin: that of `scripted` under another name."""
    return lambda scripted, path: f"{scripted.url.replace('127.0.0.1', 'localhost')}{path}"


def test_a_token_goes_to_its_own_host_only(scripted, other):
    scripted.routes["GET /same"] = (302, b"", {"Location": "/away"})
    scripted.routes["GET /away"] = (302, b"", {"Location": other(scripted, "/file?Signature=canary")})
    scripted.routes["GET /file?Signature=canary"] = (200, b"data")
    assert read(f"{scripted.url}/same", token="secret") == b"data"  # noqa: S106 (the tests' own)
    sent = [
        (line.split()[1].partition("?")[0], headers.get("Authorization")) for line, headers, _dummy in scripted.seen
    ]
    assert sent == [("/same", "Bearer secret"), ("/away", "Bearer secret"), ("/file", None)]


def test_the_next_page_on_another_host_is_asked_for_without_the_token(scripted, other):
    scripted.routes["GET /1"] = (200, [1], {"Link": f'<{other(scripted, "/2")}>; rel="next"'})
    scripted.routes["GET /2"] = (200, [2])
    assert list(get_pages(f"{scripted.url}/1", token="secret")) == [[1], [2]]  # noqa: S106 (the tests' own)
    assert ["Authorization" in headers for _dummy, headers, _dummy in scripted.seen] == [True, False]


def test_the_password_file_of_the_user_is_not_used(scripted, tmp_path):
    (tmp_path / ".netrc").write_text("machine 127.0.0.1 login user password canary\n")
    (tmp_path / ".netrc").chmod(0o600)
    scripted.routes["GET /x"] = {}
    request_json("GET", f"{scripted.url}/x")
    assert "Authorization" not in scripted.seen[0][1]


def test_redirects_in_a_circle_end(scripted):
    scripted.routes["GET /x"] = (302, b"", {"Location": "/x"})
    with pytest.raises(HttpError, match="redirects more than 10 times"):
        read(f"{scripted.url}/x")


@pytest.mark.parametrize("location", ["ftp://hub/x", "file:///etc/passwd"])
def test_a_redirect_to_another_kind_of_address_is_refused(scripted, location):
    scripted.routes["GET /x"] = (302, b"", {"Location": location})
    with pytest.raises(HttpError, match="is not an address"):
        read(f"{scripted.url}/x")


@pytest.fixture
def secure(scripted, tmp_path):
    """`scripted` behind TLS, with the certificate that it signed itself; the file of that is the value."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "test")])
    now = datetime.datetime.now(datetime.timezone.utc)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now)
        .not_valid_after(now + datetime.timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    file = tmp_path / "server.pem"
    plain = (serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    pem = serialization.Encoding.PEM
    file.write_bytes(certificate.public_bytes(pem) + key.private_bytes(pem, *plain))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(file)
    scripted.socket = context.wrap_socket(scripted.socket, server_side=True)
    scripted.url = scripted.url.replace("http:", "https:")
    return file


def test_leaving_https_is_refused(scripted, secure, monkeypatch):
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(secure))
    scripted.routes["GET /x"] = (302, b"", {"Location": "http://hub.invalid/x?Signature=canary"})
    with pytest.raises(HttpError, match="leaving https is refused") as caught:
        read(f"{scripted.url}/x")
    assert "canary" not in str(caught.value)
    assert not caught.value.transient


def test_a_certificate_of_nobody_is_refused_at_once(scripted, secure):
    scripted.routes["GET /x"] = {}
    with pytest.raises(HttpError, match="the server's certificate was not accepted") as caught:
        read(f"{scripted.url}/x")
    assert not caught.value.transient
    assert scripted.seen == []


# Proxies


def test_the_proxy_of_the_environment_is_used(scripted, monkeypatch):
    monkeypatch.setenv("http_proxy", scripted.url.replace("//", "//user:canary@"))
    scripted.routes["GET http://hub.invalid/x"] = {"through": "the proxy"}
    assert request_json("GET", "http://hub.invalid/x") == {"through": "the proxy"}


def test_a_host_that_needs_no_proxy_is_asked_directly(monkeypatch):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    monkeypatch.setenv("no_proxy", "hub.invalid")
    with pytest.raises(HttpError, match="cannot be reached: "):
        request_json("GET", "http://hub.invalid/x")


def test_a_neighbour_is_asked_directly(scripted, monkeypatch):
    monkeypatch.setenv("http_proxy", scripted.url)
    scripted.routes["GET http://hub.invalid/x"] = {"through": "the proxy"}
    with pytest.raises(HttpError, match="cannot be reached: "):
        request_json("GET", "http://hub.invalid/x", direct=True)
    with pytest.raises(HttpError, match="cannot be reached: "):
        read("http://hub.invalid/x", direct=True)
    assert scripted.seen == []


def test_a_dead_proxy_is_told_without_its_password(monkeypatch):
    monkeypatch.setenv("http_proxy", "http://user:canary@127.0.0.1:1")
    with pytest.raises(HttpError, match="through the proxy that the environment names") as caught:
        request_json("GET", "http://hub.invalid/x")
    assert "canary" not in str(caught.value)
    assert caught.value.transient


@pytest.mark.parametrize("name", ["127.0.0.1", "localhost"])
def test_this_host_is_never_asked_through_a_proxy(scripted, monkeypatch, name):
    for variable in ("http_proxy", "all_proxy"):
        monkeypatch.setenv(variable, "http://127.0.0.1:1")
    scripted.routes["GET /x"] = {}
    assert request_json("GET", scripted.url.replace("127.0.0.1", name) + "/x") == {}


# Files


def test_a_file_is_asked_for_as_it_is(scripted):
    scripted.routes["GET /x"] = (200, b"data")
    assert read(f"{scripted.url}/x") == b"data"
    assert scripted.seen[0][1]["Accept-Encoding"] == "identity"
    assert "Range" not in scripted.seen[0][1]


def test_an_encoded_file_is_refused(scripted):
    scripted.routes["GET /x"] = (200, b"data", {"Content-Encoding": "gzip"})
    with pytest.raises(HttpError, match="came encoded as 'gzip'"):
        read(f"{scripted.url}/x")


@pytest.mark.parametrize(("etag", "usable"), [('"strong"', '"strong"'), ('W/"weak"', None), ("", None)])
def test_only_a_strong_etag_is_one(scripted, etag, usable):
    scripted.routes["GET /x"] = (200, b"data", {"ETag": etag})
    with open_body(f"{scripted.url}/x") as body:
        assert (body.start, body.total, body.etag) == (0, 4, usable)


@pytest.mark.parametrize(
    ("found", "stop", "extent"),
    [
        ("bytes 5-9/10", None, (5, 10, 10)),
        ("bytes 5-9/10", 10, (5, 10, 10)),
        ("bytes 5-9/20", 10, (5, 10, 20)),
        # There is no more.
        ("bytes 5-9/10", 20, (5, 10, 10)),
        ("bytes 4-9/10", None, None),
        ("bytes 5-8/10", None, None),
        ("bytes 5-9/20", None, None),
        ("bytes 5-9/20", 15, None),
        ("bytes 5-19/20", 10, None),
        ("bytes 5-9/*", 10, None),
        ("", None, None),
    ],
)
def test_a_range_must_be_the_one_that_was_asked_for(scripted, found, stop, extent):
    scripted.routes["GET /x"] = (206, b"56789", {"Content-Range": found})
    if extent is None:
        with pytest.raises(HttpError, match="answered with the range") as caught:
            read(f"{scripted.url}/x", start=5, stop=stop)
        assert caught.value.status == 206
        return
    with open_body(f"{scripted.url}/x", start=5, stop=stop, etag='"old"') as body:
        assert (body.start, body.stop, body.total) == extent
    assert scripted.seen[0][1]["Range"] == ("bytes=5-" if stop is None else f"bytes=5-{stop - 1}")
    assert scripted.seen[0][1]["If-Range"] == '"old"'


@pytest.mark.parametrize("data", [b"567890", b"5678"])
def test_a_range_must_be_as_long_as_it_says(scripted, data):
    scripted.routes["GET /x"] = (206, data, {"Content-Range": "bytes 5-9/10"})
    with pytest.raises(HttpError, match=f"in {len(data)} bytes; expected 'bytes 5-9/\\(size\\)'"):
        read(f"{scripted.url}/x", start=5, stop=10)


def test_a_range_is_asked_for_from_the_start_too(scripted):
    scripted.routes["GET /x"] = (206, b"012", {"Content-Range": "bytes 0-2/10"})
    assert read(f"{scripted.url}/x", stop=3) == b"012"
    assert scripted.seen[0][1]["Range"] == "bytes=0-2"


def test_a_server_without_ranges_sends_all(scripted):
    scripted.routes["GET /x"] = (200, b"0123456789")
    with open_body(f"{scripted.url}/x", start=5, stop=7) as body:
        assert (body.start, body.stop, body.total) == (0, 10, 10)


# Known targets


@pytest.fixture
def redirected(scripted, other):
    """An address that leads to another host, which signs it as "one", "two" and so on."""

    def sign(name: str) -> None:
        scripted.routes["GET /x"] = (302, b"", {"Location": other(scripted, f"/file?Signature={name}")})

    sign("one")
    for name in ("one", "two"):
        scripted.routes[f"GET /file?Signature={name}"] = (200, name.encode())
    return sign


def asked(scripted) -> list[str]:
    return [line.partition("Signature=")[2] or line for line, _headers, _body in scripted.seen]


def test_a_redirect_is_followed_once(scripted, redirected):
    targets = Targets()
    for _dummy in range(3):
        assert read(f"{scripted.url}/x", targets=targets, token="secret") == b"one"  # noqa: S106 (the tests' own)
    assert asked(scripted) == ["GET /x", "one", "one", "one"]
    assert [headers.get("Authorization") for _line, headers, _body in scripted.seen] == [
        "Bearer secret",
        None,
        None,
        None,
    ]


@pytest.mark.parametrize("status", [401, 403])
def test_a_signature_that_has_expired_is_renewed_at_once(scripted, redirected, status):
    targets = Targets()
    read(f"{scripted.url}/x", targets=targets)
    scripted.routes["GET /file?Signature=one"] = (status, b"expired")
    redirected("two")
    assert [read(f"{scripted.url}/x", targets=targets) for _dummy in range(2)] == [b"two", b"two"]
    assert asked(scripted) == ["GET /x", "one", "one", "GET /x", "two", "two"]


def test_a_target_that_fails_is_asked_for_again_next_time(scripted, redirected):
    targets = Targets()
    read(f"{scripted.url}/x", targets=targets)
    scripted.routes["GET /file?Signature=one"] = (503, b"")
    redirected("two")
    with pytest.raises(HttpError, match="answered 503"):
        read(f"{scripted.url}/x", targets=targets)
    assert read(f"{scripted.url}/x", targets=targets) == b"two"


def test_a_target_that_is_refused_from_the_start_may_be_signed_wrongly(scripted, redirected):
    scripted.routes["GET /file?Signature=one"] = (403, b"")
    targets = Targets()
    for _dummy in range(2):
        with pytest.raises(HttpError, match="answered 403") as caught:
            read(f"{scripted.url}/x", targets=targets)
        assert caught.value.transient
    assert asked(scripted) == ["GET /x", "one"] * 2


def test_a_read_that_waits_can_be_ended_from_outside(scripted):
    scripted.routes["GET /x"] = [b"first", 30.0]
    with open_body(f"{scripted.url}/x") as body:
        threading.Timer(0.3, body.abort).start()
        start = time.monotonic()
        with pytest.raises(HttpError):
            list(body.chunks())
        assert time.monotonic() - start < 10


# Retries


class Failing:
    """An action that fails so many times."""

    def __init__(self, failures: int, **kind) -> None:
        self.left = failures
        self.kind = kind

    def __call__(self) -> str:
        if self.left:
            self.left -= 1
            raise HttpError("It failed.", **self.kind)
        return "done"


@pytest.fixture
def slept():
    return []


@pytest.fixture
def retries(slept):
    return Retries(time.monotonic() + 1000, sleep=slept.append)


def test_pauses_grow_and_are_never_the_same(retries, slept):
    assert retries.run(Failing(7, transient=True)) == "done"
    assert all(2.0**n / 4 <= pause <= 2.0**n / 2 for n, pause in enumerate(slept))
    assert len(set(slept)) == len(slept) == 7


def test_tries_without_progress_end(retries, slept):
    with pytest.raises(HttpError, match=r"It failed\. Given up after 8 tries in a row"):
        retries.run(Failing(9, transient=True))
    assert len(slept) == 7


def test_progress_starts_the_count_anew(retries, slept):
    for _dummy in range(20):
        retries.wait(HttpError("It failed.", transient=True))
        retries.progress()
    assert len(slept) == 20


def test_what_will_not_pass_is_not_tried_again(retries, slept):
    with pytest.raises(HttpError, match=r"^It failed\.$"):
        retries.run(Failing(1))
    assert slept == []


@pytest.mark.parametrize(("wanted", "waited"), [(7.0, 7.0), (1e9, 300.0)])
def test_the_server_may_name_the_pause_within_reason(retries, slept, wanted, waited):
    retries.run(Failing(1, transient=True, retry_after=wanted))
    assert slept == [waited]


def test_nothing_is_tried_after_the_deadline(slept):
    with pytest.raises(HttpError, match="Given up: the next try would come after the deadline"):
        Retries(time.monotonic() + 5, sleep=slept.append).run(Failing(1, transient=True, retry_after=10.0))
    assert slept == []


@pytest.mark.parametrize(
    ("header", "low", "high"),
    [
        ("120", 120, 120),
        (email.utils.formatdate(time.time() + 500, usegmt=True), 300, 500),
        ("Wed, 21 Oct 2015 07:28:00 GMT", 0, 0),
        ("soon", 0, 0),
        ("-5", 0, 0),
    ],
    ids=["seconds", "date", "past", "words", "negative"],
)
def test_a_pause_is_named_in_seconds_or_as_a_date(scripted, header, low, high):
    scripted.routes["GET /x"] = (429, {}, {"Retry-After": header})
    with pytest.raises(HttpError) as caught:
        request_json("GET", f"{scripted.url}/x")
    assert caught.value.transient
    assert low <= caught.value.retry_after <= high


def test_a_body_that_has_ended_can_still_be_aborted(scripted):
    scripted.routes["GET /file"] = (200, b"all of it")
    with open_body(f"{scripted.url}/file") as body:
        assert b"".join(body.chunks()) == b"all of it"
        body.abort()
