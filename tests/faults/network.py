# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Cases of the network: what the hub, its storage, names, proxies and certificates do."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import typing as t
from collections.abc import Iterator

from faults.bench import HEADERS, HUBS, LATE, NAME, SHARD, SHARD_SIZE, Bench, Case, Check, Refusal, fails, fault
from faults.disk import failing_for
from testbed.hub import Hub
from testbed.hub.tls import make_certificates


def kept_bytes_are_not_asked_for_again(bench: Bench) -> None:
    """Each break loses no more than what stood in the buffers of one connection."""
    bench.hub.fault("reset", path=SHARD, times=2, after=LATE)
    bench.got()
    assert bench.sent() <= bench.published.size + HEADERS + 2 * (512 << 10)


def permanent(status: int, todo: str, **limits: t.Any) -> Case:
    """An answer that will not be another one is asked for once."""
    told = fails(fault(f"error-{status}", **limits), said=f"answered {status}", todo=todo, workers=1)

    def run(bench: Bench) -> None:
        told.run(bench)
        statuses = [code for host in bench.hub.stats().values() for code in host.get(SHARD, {}).get("statuses", [])]
        assert statuses.count(status) == 1

    return Case(run, HUBS)


def complete_part(bench: Bench) -> None:
    """A run that was stopped just before the end left everything: nothing is transferred, only sums are compared."""
    with bench.monkeypatch.context() as patch:
        patch.setattr(os, "replace", failing_for(os.replace, bench.dest, errno.EIO))
        bench.refused(Refusal(str(bench.dest), "Input/output error (EIO)", ""), bench.fetch())
    assert not bench.dest.exists()
    bench.hub.clear_stats()
    bench.got()
    assert bench.sent() <= HEADERS


def a_token_stays_with_its_hub(bench: Bench) -> None:
    (bench.published.folder / ".gated").touch()
    bench.got()
    records = bench.hub.stats()
    assert any(record["authorization"] for record in records["hub"].values())
    assert not any(record["authorization"] for record in records["cdn"].values())


@contextlib.contextmanager
def secure_hub(bench: Bench, *names: str, trusted: bool = True) -> Iterator[Hub]:
    """The hub by TLS. Its certificate is for `names`, and for where it is if there are none."""
    folder = bench.tmp_path / "certificates"
    folder.mkdir()
    certificates = make_certificates(folder, names) if names else make_certificates(folder)
    if trusted:
        bench.monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificates.authority))
    with Hub(bench.published.folder.parents[1], certificate=certificates.server, token=bench.token) as hub:
        yield hub


def https_is_not_left(bench: Bench) -> None:
    with secure_hub(bench) as hub:
        assert bench.got(endpoint=hub.url)["changed"]
        bench.dest.unlink()
        hub.clear_stats()
        hub.fault("leave-https", path=SHARD)
        bench.refused(Refusal(NAME, "leaving https is refused", ""), bench.fetch(endpoint=hub.url))
        assert set(hub.stats()["hub"][SHARD]["statuses"]) == {302}


def tls(*names: str, trusted: bool, said: str) -> Check:
    def run(bench: Bench) -> None:
        with secure_hub(bench, *names, trusted=trusted) as hub:
            result = bench.fetch(endpoint=hub.url)
            bench.refused(Refusal(hub.url, "certificate", said), result)
            assert hub.stats() == {"hub": {}, "cdn": {}}

    return run


def names(bench: Bench, *addresses: tuple[str, int | None]) -> list[str]:
    """Let hub.test resolve to these addresses, with other ports where they are given. Returns what it was asked for."""
    asked, real = [], socket.getaddrinfo

    def resolve(host: str, port: int, *args: t.Any, **kwargs: t.Any) -> list[t.Any]:
        if host != "hub.test":
            return real(host, port, *args, **kwargs)
        asked.append(host)
        if not addresses:
            raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
        return [
            found for address, other in addresses for found in real(address, other or port, type=socket.SOCK_STREAM)
        ]

    bench.monkeypatch.setattr(socket, "getaddrinfo", resolve)
    return asked


def address(bench: Bench) -> str:
    return bench.hub.url.replace("127.0.0.1", "hub.test")


def no_name(bench: Bench) -> None:
    asked = names(bench)
    result = bench.fetch(endpoint="http://hub.test:80", deadline=4)
    bench.refused(Refusal("http://hub.test", "Temporary failure in name resolution", "deadline"), result)
    assert 1 < len(asked) < 9


def black_hole(bench: Bench) -> None:
    """The first address of the name takes no connection, and does not say so."""
    with socket.socket() as hole, contextlib.ExitStack() as waiting:
        hole.bind(("127.0.0.2", 0))
        hole.listen(0)
        for _dummy in range(2):  # from now on the queue is full, and the kernel drops who comes
            other = waiting.enter_context(socket.socket())
            other.setblocking(False)
            other.connect_ex(hole.getsockname())
        names(bench, ("127.0.0.2", hole.getsockname()[1]), ("127.0.0.1", None))
        bench.got(endpoint=address(bench), timeout=1, workers=1)


def one_family_fails(bench: Bench) -> None:
    names(bench, ("::1", 1), ("127.0.0.1", None))
    bench.got(endpoint=address(bench))


def another_mirror_goes_on(bench: Bench) -> None:
    with Hub(bench.published.folder.parents[1]) as mirror:
        bench.hub.fault("rotten-byte", path=SHARD, after=LATE)
        mirror.fault("slow", times=1)  # it loses the race
        bench.got(sources=[{"hub": "huggingface", "endpoint": mirror.url}])
        assert mirror.stats()["cdn"][SHARD]["bytes"] >= SHARD_SIZE - HEADERS
        assert any(f"{bench.hub.url} was given up" in text for text in bench.warnings)


def the_last_mirror_is_told(bench: Bench) -> None:
    with Hub(bench.published.folder.parents[1]) as mirror:
        for hub in (bench.hub, mirror):
            hub.fault("rotten-byte", path=SHARD, after=LATE)
        result = bench.fetch(sources=[{"hub": "huggingface", "endpoint": mirror.url}])
        bench.refused(Refusal(NAME, "sha256", "use another one, or ask who runs it"), result)
        assert not bench.dest.exists()


def a_proxy_is_used(bench: Bench) -> None:
    """The hub itself is the proxy: it takes what is meant for another host. Small files need no other host of it."""
    names(bench)
    bench.monkeypatch.setenv("http_proxy", bench.hub.url)
    folder = bench.dest.parent
    params = {"endpoint": "http://hub.test:9", "files": "README.md", "merge": False, "dest": str(folder)}
    assert bench.fetch(**params)["changed"]
    assert (folder / "README.md").read_bytes() == (bench.published.folder / "README.md").read_bytes()


def a_proxy_is_passed_by(bench: Bench) -> None:
    names(bench, ("127.0.0.1", None))
    bench.monkeypatch.setenv("http_proxy", "http://user:canary@127.0.0.1:1")
    result = bench.fetch(endpoint=address(bench), deadline=2)
    bench.refused(Refusal(address(bench), "proxy", ""), result)
    bench.monkeypatch.setenv("no_proxy", "hub.test")
    bench.got(endpoint=address(bench))
