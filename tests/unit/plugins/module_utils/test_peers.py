# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Hosts of a fleet as sources. What serves them here is the bed's hub; test_peers_nginx.py has the real web server."""

from __future__ import annotations

import hashlib
import json
import os
import random
import threading
import time
import typing as t
from dataclasses import dataclass
from pathlib import Path

import pytest

from ansible_collections.llmfleet.serving.plugins.module_utils import _peers, _supply
from ansible_collections.llmfleet.serving.plugins.module_utils._errors import LlmError
from ansible_collections.llmfleet.serving.plugins.module_utils._files import companion
from ansible_collections.llmfleet.serving.plugins.module_utils._http import HttpError
from ansible_collections.llmfleet.serving.plugins.module_utils._hub import RemoteFile, source
from ansible_collections.llmfleet.serving.plugins.module_utils._peers import Peer
from ansible_collections.llmfleet.serving.plugins.module_utils._sources import Origin
from ansible_collections.llmfleet.serving.plugins.module_utils._supply import Supply
from testbed.hub import Hub

REPO = "acme/peers"
# Two shards; of each, the first bytes are a header that the merged file does not have. Its own is 4000 bytes.
SHARDS = [random.Random(no).randbytes(300_000) for no in range(2)]
SKIPS = [1000, 500]
HEAD = b"h" * 4000
MERGED = HEAD + SHARDS[0][1000:] + SHARDS[1][500:]
FILES = [
    RemoteFile(f"{no}.gguf", len(data), hashlib.sha256(data).hexdigest(), "", 0, "") for no, data in enumerate(SHARDS)
]
PARTS = [(FILES[0], SKIPS[0], len(HEAD)), (FILES[1], SKIPS[1], len(HEAD) + 299_000)]
FACTS = {"parts": [file.sha256 for file in FILES]}
NAME = "a model.gguf"
JUNK = [f'{{"facts": %s, "ranges": {told}}}' for told in ("null", '"all"', "[1]", '[[0, "end"]]', "[[0]]", "{}")]


@dataclass(frozen=True)
class Host:
    """What a peer's web server has below it."""

    folder: Path
    url: str

    def begins(self, safe: int, facts: t.Any = None, data: bytes = MERGED) -> None:
        """The file is in the making: what follows the first `safe` bytes is not there yet."""
        self.holds(safe, data)
        self.tells("journal", {"facts": facts or FACTS, "ranges": [[0, safe]]})

    def holds(self, safe: int, data: bytes = MERGED) -> None:
        """So much of the file is there, whatever its journal says."""
        part = companion(self.folder / NAME, "part")
        part.touch()
        os.truncate(part, len(data))
        with part.open("r+b") as file:
            file.write(data[:safe])

    def finishes(self, facts: t.Any = None, data: bytes = MERGED) -> None:
        self.begins(len(data), facts, data)
        companion(self.folder / NAME, "part").replace(self.folder / NAME)
        self.tells("json", {"facts": facts or FACTS, "sha256": "any"})
        for kind in ("note", "journal"):
            companion(self.folder / NAME, kind).unlink(missing_ok=True)

    def tells(self, kind: str, content: dict[str, t.Any]) -> None:
        new = self.folder / "new"
        new.write_text(json.dumps(content))
        new.replace(companion(self.folder / NAME, kind))


@pytest.fixture
def origin_hub(tmp_path) -> t.Iterator[Hub]:
    folder = tmp_path / "origin" / REPO
    folder.mkdir(parents=True)
    for file, data in zip(FILES, SHARDS):
        (folder / file.path).write_bytes(data)
    (tmp_path / "peers").mkdir()
    with Hub(tmp_path / "origin", mirror=tmp_path / "peers") as hub:
        yield hub


@pytest.fixture
def host(origin_hub, tmp_path):
    """`host(no)` is a peer."""

    def make(no: int = 0) -> Host:
        folder = tmp_path / "peers" / str(no)
        folder.mkdir(exist_ok=True)
        return Host(folder, f"{origin_hub.url}/mirror/{no}")

    return make


@pytest.fixture
def supplied(origin_hub):
    """`supplied(peers, followers)` is a supply that knows where the shards are in the merged file."""

    def make(peers: t.Sequence[str] = (), followers: t.Sequence[str] = (), *, patience: float = 20, **params) -> Supply:
        hub = Origin(source(origin_hub.url, REPO, timeout=5), origin_hub.repository(REPO).commit, lists=False)
        near, far = ([Peer(url, None, 5) for url in urls] for urls in (peers, followers))
        params = {"deadline": time.monotonic() + 30, "halt": threading.Event(), **params}
        supply = Supply([hub], files=FILES, peers=near, followers=far, patience=patience, **params)
        supply.share(NAME, len(MERGED), FACTS, PARTS)
        return supply

    return make


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(_supply, "_AHEAD_S", 0.02)
    monkeypatch.setattr(_supply, "_BEHIND_S", 0.02)
    monkeypatch.setattr(_supply, "_STEP_S", 0.05)


def bytes_of(supply: Supply, no: int, start: int, stop: int) -> bytes:
    with supply.open(FILES[no], start, stop) as opening:
        assert (opening.start, opening.stop) == (start, stop)
        data = b"".join(opening.chunks())
    supply.progressed(opening, len(data))
    assert data == SHARDS[no][start:stop]
    return data


def origin_bytes(hub: Hub) -> int:
    return sum(record["bytes"] for record in hub.stats()["cdn"].values())


def test_a_finished_host_has_it_all(origin_hub, host, supplied):
    host().finishes()
    supply = supplied([host().url])
    for no, skip in enumerate(SKIPS):
        bytes_of(supply, no, skip, 300_000)
    assert supply.label == host().url
    assert origin_bytes(origin_hub) == 0


def test_headers_that_a_merged_file_does_not_have_come_from_the_hub(origin_hub, host, supplied):
    host().finishes()
    supply = supplied([host().url])
    bytes_of(supply, 1, 0, 500)
    assert supply.label == origin_hub.url
    assert origin_bytes(origin_hub) == 500


def test_a_file_in_the_making_has_what_its_journal_says(origin_hub, host, supplied):
    host().begins(250_000)
    supply = supplied([], [host().url])
    shift = len(HEAD) - SKIPS[0]
    bytes_of(supply, 0, 1000, 250_000 - shift)
    assert supply.label == host().url
    bytes_of(supply, 0, 1000, 250_000 - shift + 1)
    assert supply.label == origin_hub.url


def test_what_a_host_ahead_is_about_to_have_is_waited_for(origin_hub, host, supplied):
    host().begins(100_000)
    supply = supplied([host().url])
    bytes_of(supply, 0, 1000, 90_000)

    def get_on() -> None:
        for safe in (200_000, 300_000, 400_000, 500_000):
            time.sleep(0.1)
            host().begins(safe)
        host().finishes()

    ahead, behind = (threading.Thread(target=work) for work in (get_on, lambda: bytes_of(supply, 0, 90_000, 300_000)))
    assert supply.waiting == 0
    behind.start()
    while supply.waiting != 1:
        assert behind.is_alive()
        time.sleep(0.01)
    ahead.start()
    behind.join()
    assert supply.waiting == 0
    bytes_of(supply, 1, 500, 300_000)
    ahead.join()
    assert origin_bytes(origin_hub) == 0
    assert supply.retries == 0


@pytest.mark.parametrize("state", ["empty", "begun", "dead"])
def test_patience_ends(origin_hub, host, supplied, state):
    if state == "begun":
        host().begins(100_000)
    elif state == "empty":
        host()
    supply = supplied([host().url if state != "dead" else "http://127.0.0.1:1"], patience=0.5)
    bytes_of(supply, 1, 500, 300_000)
    assert supply.label == origin_hub.url
    # From now on it is not waited for, until it gets on.
    bytes_of(supply, 1, 500, 300_000)
    if state == "begun":
        host().finishes()
        time.sleep(0.05)
        bytes_of(supply, 1, 500, 300_000)
        assert supply.label == host().url


def test_each_host_ahead_has_its_own_patience(origin_hub, host, supplied):
    """A chain whose first host died: the second asks the hub after a while, the third must not do so at once."""
    host(0).begins(100_000)
    host(1).begins(100_000)
    third = supplied([host(1).url, host(0).url], patience=2)

    def second() -> None:
        time.sleep(2.5)
        host(1).finishes()

    ahead = threading.Thread(target=second)
    ahead.start()
    bytes_of(third, 1, 500, 300_000)
    ahead.join()
    assert third.label == host(1).url
    assert origin_bytes(origin_hub) == 0


def test_the_nearest_is_preferred(host, supplied):
    for no in range(2):
        host(no).finishes()
    supply = supplied([host(1).url], [host(0).url])
    bytes_of(supply, 0, 1000, 2000)
    assert supply.label == host(1).url


def gets_on(host: Host, name: str = "journal") -> threading.Thread:
    """The host gets the rest of the file, a bit at a time."""

    def work() -> None:
        if name == "note":
            host.tells("journal", {})
        for reach in range(200_000, len(MERGED), 20_000):
            if name == "note":
                host.holds(reach)
                host.tells("note", {"facts": FACTS, "ranges": [[0, 1000], [100_000, reach]]})
            else:
                host.begins(reach)
            time.sleep(0.1)
        host.finishes()

    thread = threading.Thread(target=work)
    thread.start()
    return thread


def test_the_nearest_that_gets_on_is_waited_for_although_another_has_it(origin_hub, host, supplied):
    """Else all hosts would ask the first one, and share its link."""
    host(0).finishes()
    nearest = gets_on(host(1))
    supply = supplied([host(1).url, host(0).url])
    time.sleep(0.05)
    for start in range(1000, 300_000, 100_000):
        bytes_of(supply, 0, start, min(start + 100_000, 300_000))
        assert supply.label == host(1).url
    # Not the end: while a file gets its final name, it is at neither of its places for a moment.
    bytes_of(supply, 1, 500, 150_000)
    assert supply.label == host(1).url
    nearest.join()


@pytest.mark.parametrize("state", ["stalled", "dead", "refuses", "fails"])
def test_the_next_nearest_serves_when_the_nearest_does_not_get_on(origin_hub, host, supplied, monkeypatch, state):
    monkeypatch.setattr(_supply, "_STALLED_S", 0.3)
    host(0).finishes()
    host(1).begins(100_000)
    if state == "refuses":
        origin_hub.fault("error-403", path="mirror/1/*")
    elif state == "fails":
        origin_hub.fault("error-500", path="mirror/1/*")
    # Nobody's patience is over in this test: no host ahead is given up for it.
    supply = supplied([host(1).url if state != "dead" else "http://127.0.0.1:1", host(0).url], patience=1000)
    bytes_of(supply, 1, 500, 300_000)
    assert supply.label == host(0).url
    assert origin_bytes(origin_hub) == 0


def test_a_host_that_has_not_begun_has_as_long_as_patience(origin_hub, host, supplied, monkeypatch):
    monkeypatch.setattr(_supply, "_STALLED_S", 0.0)
    host(0).finishes()
    supply = supplied([host(1).url, host(0).url], patience=1.0)
    begun = time.monotonic()
    bytes_of(supply, 1, 500, 300_000)
    assert supply.label == host(0).url
    assert time.monotonic() - begun >= 1.0


def test_what_a_host_ahead_has_of_a_block_comes_at_once(host, supplied, monkeypatch):
    """A block that it is still getting is followed; else each host of a chain would be a block behind."""
    monkeypatch.setattr(_supply, "_LEAST_BYTES", 10_000)
    host().begins(100_000)
    supply = supplied([host().url])
    with supply.open(FILES[0], 1000, 300_000) as opening:
        assert (opening.start, opening.stop) == (1000, 100_000 - len(HEAD) + 1000)
        assert b"".join(opening.chunks()) == SHARDS[0][1000 : opening.stop]
    nearest = gets_on(host())
    with supply.open(FILES[0], opening.stop, 300_000) as opening:
        assert opening.stop < 300_000
        assert b"".join(opening.chunks()) == SHARDS[0][opening.start : opening.stop]
    nearest.join()


def test_a_note_counts_as_soon_as_it_is_renewed(host, supplied):
    """What it names need not be at the start; what the journal says is less."""
    host().begins(100_000)
    nearest = gets_on(host(), "note")
    supply = supplied([host().url])
    bytes_of(supply, 0, 97_000, 180_000)
    assert not supply._ahead[0].has(FILES[0], 1000, 5000, 60)
    nearest.join()
    bytes_of(supply, 0, 1000, 300_000)
    assert supply.label == host().url


def test_a_note_that_stands_still_is_not_believed(origin_hub, host, supplied):
    """The host may have lost power since, and what was not on its disk yet."""
    host().begins(100_000)
    host().tells("note", {"facts": FACTS, "ranges": [[0, len(MERGED)]]})
    supply = supplied([host().url], patience=0.3)
    bytes_of(supply, 0, 1000, 90_000)
    assert supply.label == host().url
    bytes_of(supply, 1, 500, 300_000)
    assert supply.label == origin_hub.url


def test_bytes_that_are_gone_come_from_elsewhere(origin_hub, host, supplied):
    host().begins(400_000)
    supply = supplied([host().url], patience=0.1)
    bytes_of(supply, 0, 1000, 2000)
    companion(host().folder / NAME, "part").unlink()
    companion(host().folder / NAME, "journal").unlink()
    bytes_of(supply, 0, 2000, 300_000)
    assert supply.label == origin_hub.url


def test_hosts_behind_are_not_waited_for(origin_hub, host, supplied):
    host().begins(100_000)
    supply = supplied([], [host().url])
    bytes_of(supply, 1, 500, 300_000)
    assert supply.label == origin_hub.url
    host().finishes()
    time.sleep(0.05)
    bytes_of(supply, 1, 500, 300_000)
    assert supply.label == host().url


@pytest.mark.parametrize("what", ["begins", "finishes"])
def test_another_file_of_the_same_name_is_not_used(origin_hub, host, supplied, what):
    make = getattr(host(), what)
    make(*([400_000] if what == "begins" else []), facts={"parts": ["another"]}, data=b"x" * len(MERGED))
    supply = supplied([host().url], patience=0.1)
    bytes_of(supply, 1, 500, 300_000)
    assert supply.label == origin_hub.url


@pytest.mark.parametrize("journal", ["", "no JSON", "[]", '{"facts": null}', "{}", *JUNK])
def test_a_journal_that_makes_no_sense_is_not_believed(origin_hub, host, supplied, journal):
    host().begins(400_000)
    text = journal % json.dumps(FACTS) if "%s" in journal else journal
    companion(host().folder / NAME, "journal").write_text(text)
    supply = supplied([host().url], patience=0.1)
    bytes_of(supply, 1, 500, 300_000)
    assert supply.label == origin_hub.url


def test_the_final_name_is_followed(origin_hub, host, supplied):
    """A host that has just finished has no file in the making any more."""
    host().begins(len(MERGED))
    supply = supplied([host().url])
    bytes_of(supply, 0, 1000, 2000)
    host().finishes()
    time.sleep(0.05)
    bytes_of(supply, 0, 2000, 300_000)
    assert supply.label == host().url
    assert origin_bytes(origin_hub) == 0


def test_a_host_whose_bytes_are_wrong_is_dropped(origin_hub, host, supplied):
    host().finishes(data=MERGED[:-1] + b"x")
    supply = supplied([host().url])
    with supply.open(FILES[1], 500, 300_000) as opening:
        assert b"".join(opening.chunks()) != SHARDS[1][500:]
    supply.distrust(FILES[1], "The sums differ.")
    bytes_of(supply, 1, 500, 300_000)
    assert supply.label == origin_hub.url
    assert supply.warnings == [f"The peer {host().url} was not used: The sums differ."]
    bytes_of(supply, 0, 1000, 300_000)
    assert supply.label == origin_hub.url


def test_where_a_host_and_the_hub_served_together_the_host_is_dropped(origin_hub, host, supplied):
    host().begins(250_000)
    supply = supplied([], [host().url])
    for start, stop in ((1000, 200_000), (200_000, 300_000)):
        bytes_of(supply, 0, start, stop)
    supply.distrust(FILES[0], "The sums differ.")
    host().finishes()
    bytes_of(supply, 0, 1000, 300_000)
    assert supply.label == origin_hub.url
    # The hub alone has served now, and has its second chance still.
    supply.distrust(FILES[0], "The sums differ.")
    bytes_of(supply, 0, 1000, 300_000)
    with pytest.raises(LlmError, match=r"^0\.gguf: The sums differ\.$"):
        supply.distrust(FILES[0], "The sums differ.")


def test_hosts_are_enough_when_no_hub_is_left(origin_hub, host, supplied):
    for no in range(2):
        host(no).finishes(data=MERGED if no else MERGED[:-1] + b"x")
    supply = supplied([host(0).url, host(1).url])
    origin_hub.fault("error-410", path=f"{REPO}/*")
    with pytest.raises(LlmError, match="answered 410"):
        bytes_of(supply, 1, 0, 500)
    with supply.open(FILES[1], 500, 300_000) as opening:
        list(opening.chunks())
    supply.distrust(FILES[1], "The sums differ.")
    bytes_of(supply, 1, 500, 300_000)
    assert supply.label == host(1).url


def test_files_without_a_sum_come_from_the_hub(host, origin_hub):
    host().finishes()
    peer = Peer(host().url, None, 5)
    bare = RemoteFile("0.gguf", 300_000, "", "", 0, "")
    peer.share(_peers.Shared(NAME, len(MERGED), FACTS), [(bare, 1000, 4000)])
    assert not peer.shares(bare, 1000)


def test_a_host_that_refuses_is_told(scripted, origin_hub, supplied):
    for kind in ("journal", "json"):
        scripted.routes[f"GET /.a%20model.gguf.llmfleet.{kind}"] = (403, {"error": "no"})
    # It is not waited for.
    supply = supplied([scripted.url], patience=1000)
    bytes_of(supply, 0, 1000, 2000)
    assert supply.label == origin_hub.url
    assert len(supply.warnings) == 1
    assert f"The peer {scripted.url} was not used: " in supply.warnings[0]
    assert "answered 403" in supply.warnings[0]


def test_a_host_is_not_asked_more_often_than_agreed(scripted, monkeypatch):
    """And a silent one less and less often."""
    scripted.routes["GET /.a%20model.gguf.llmfleet.journal"] = {"facts": FACTS, "ranges": [[0, 5000]]}
    peer = Peer(scripted.url, None, 5)
    peer.share(_peers.Shared(NAME, len(MERGED), FACTS), PARTS)
    assert [peer.has(FILES[0], 1000, least, 60) for least in (1000, 999, 1001, 1002)] == [True, True, False, False]
    assert [line for line, _headers, _body in scripted.seen] == [
        f"GET /.a%20model.gguf.llmfleet.{kind}" for kind in ("note", "journal")
    ]

    dead = Peer("http://127.0.0.1:1", None, 5)
    dead.share(_peers.Shared(NAME, len(MERGED), FACTS), PARTS)
    asked = []
    monkeypatch.setattr(_peers, "request_json", lambda *_args, **_kwargs: asked.append(1) or _fail())
    for _dummy in range(100):
        dead.has(FILES[0], 1000, 1000, 0)
    assert len(asked) == 1


def _fail() -> t.NoReturn:
    raise HttpError("It is silent.", transient=True)


def test_a_server_without_ranges_is_no_peer(scripted):
    scripted.routes["GET /.a%20model.gguf.llmfleet.journal"] = {"facts": FACTS, "ranges": [[0, len(MERGED)]]}
    scripted.routes["GET /.a%20model.gguf.llmfleet.part"] = (200, MERGED)
    peer = Peer(scripted.url, "the token", 5)
    peer.share(_peers.Shared(NAME, len(MERGED), FACTS), PARTS)
    assert peer.has(FILES[0], 1000, 1000, 0)
    with pytest.raises(LlmError, match="has no ranges"), peer.open(FILES[0], 1000, 2000):
        pass
    assert {headers["Authorization"] for _line, headers, _body in scripted.seen} == {"Bearer the token"}
