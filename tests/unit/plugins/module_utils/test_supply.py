# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The supply against the bed's hubs. What an engine does with it is in test_transfer.py and test_gguf_fetch.py."""

from __future__ import annotations

import contextlib
import hashlib
import threading
import time
import typing as t
from concurrent.futures import ThreadPoolExecutor

import pytest

from ansible_collections.llmfleet.serving.plugins.module_utils import _sources, _supply
from ansible_collections.llmfleet.serving.plugins.module_utils._errors import LlmError
from ansible_collections.llmfleet.serving.plugins.module_utils._http import HttpError
from ansible_collections.llmfleet.serving.plugins.module_utils._hub import RemoteFile, source
from ansible_collections.llmfleet.serving.plugins.module_utils._sources import ChangedError, Conduct, Origin
from ansible_collections.llmfleet.serving.plugins.module_utils._supply import Supply, first_source, supply
from testbed.hub import Hub

REPO = "acme/model-GGUF"
SHARD = f"{REPO}/Q4/model-00002-of-00003.gguf"
BLOCK = 500_000


@pytest.fixture
def mirror(published, token) -> t.Iterator[Hub]:
    """Another hub that has the same."""
    with Hub(published.folder.parents[1], mirror=published.folder.parents[1], token=token) as mirror:
        yield mirror


@pytest.fixture
def data(published) -> bytes:
    return published.shards[1].read_bytes()


@pytest.fixture
def origin(hub):
    """`origin(hub)` is one source of the model."""

    def make(at: Hub = hub, name: str = "huggingface", *, lists: bool = True, **params) -> Origin:
        endpoint = f"{at.url}/mirror" if name == "url" else at.url
        return Origin(
            source(name, REPO, endpoint=endpoint, timeout=5, **params), at.repository(REPO).commit, lists=lists
        )

    return make


def supplied(*origins: Origin, seconds: float = 30, **params) -> Supply:
    return Supply(origins, deadline=time.monotonic() + seconds, **{"halt": threading.Event(), **params})


def shard(supply: Supply) -> RemoteFile:
    return next(file for file in supply.files() if file.path in SHARD)


def read(supply: Supply, file: RemoteFile, block: int = BLOCK) -> bytes:
    """Read a file block by block, as an engine does."""
    data = bytearray()
    while len(data) < file.size:
        with supply.open(file, len(data), min(len(data) + block, file.size)) as opening:
            if opening.start < len(data):
                data.clear()
            try:
                for piece in opening.chunks():
                    data += piece
                    supply.progressed(opening, len(piece))
            except HttpError as exc:
                supply.failed(opening, exc)
    return bytes(data)


def verified(supply: Supply, file: RemoteFile) -> bytes:
    """Read a file until its sum is right."""
    while True:
        data = read(supply, file)
        found = hashlib.sha256(data).hexdigest()
        if found == file.sha256:
            return data
        supply.distrust(file, f"The data has the sha256 {found}; {file.sha256} is listed.")


def sent(hub: Hub, host: str = "cdn", subject: str = SHARD) -> int:
    return hub.stats()[host].get(subject, {"bytes": 0})["bytes"]


def asked(hub: Hub, host: str, subject: str = SHARD) -> int:
    return hub.stats()[host].get(subject, {"requests": 0})["requests"]


# One source


def test_blocks_are_what_was_asked_for(hub, origin, data):
    supply = supplied(origin())
    assert read(supply, shard(supply)) == data
    size = len(data)
    edges = [(start, min(start + BLOCK, size) - 1) for start in range(0, size, BLOCK)]
    assert hub.stats()["cdn"][SHARD]["ranges"] == [f"bytes={first}-{last}" for first, last in edges]
    assert sent(hub) == size
    assert (supply.label, supply.retries, supply.warnings) == (hub.url, 0, [])


def test_a_whole_file_is_asked_for_without_a_range(hub, origin, data):
    supply = supplied(origin())
    assert read(supply, shard(supply), block=len(data)) == data
    assert hub.stats()["cdn"][SHARD]["ranges"] == []


def test_threads_share_one_signed_address(hub, origin, data):
    supply = supplied(origin())
    file = shard(supply)
    ready = threading.Barrier(8)
    found: dict[int, bytes] = {}

    def run(start: int) -> None:
        ready.wait()
        with supply.open(file, start, start + 1000) as opening:
            found[start] = b"".join(opening.chunks())

    starts = range(0, 8000, 1000)
    # What has been fetched lets the storage refuse the address, which all of them know.
    for expired in (False, True):
        fault = hub.fault("expired-url", path=SHARD, times=1) if expired else None
        hub.clear_stats()
        threads = [threading.Thread(target=run, args=(start,)) for start in starts]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert b"".join(found.pop(start) for start in starts) == data[:8000]
        assert asked(hub, "hub") == 1
        assert fault is None or fault.fired == 1
        assert supply.retries == 0


def test_a_token_stays_at_its_hub(hub, published, origin, token, data):
    (published.folder / ".gated").touch()
    supply = supplied(origin(token=token))
    assert read(supply, shard(supply)) == data
    assert (hub.stats()["hub"][SHARD]["authorization"], hub.stats()["cdn"][SHARD]["authorization"]) == (True, False)


@pytest.mark.parametrize(
    ("fault", "limits"),
    [
        ("reset", {"times": 3, "after": 200_000}),
        ("short-body", {"times": 3, "after": 200_000}),
        ("error-503", {"times": 2}),
        ("expired-url", {"times": 2, "after": 200_000}),
        ("wrong-content-range", {"times": 1}),
        ("changed-etag", {}),
        ("long-body", {"times": 1}),
        ("html-page", {"times": 1}),
        ("weak-etag", {}),
        ("no-etag", {}),
        ("chunked", {}),
    ],
)
def test_a_fault_that_passes_is_survived(hub, origin, data, fault, limits):
    supply = supplied(origin())
    file = shard(supply)
    with supply.open(file, 0, 1000) as opening:
        list(opening.chunks())
    set_ = hub.fault(fault, path=SHARD, **limits)
    assert read(supply, file) == data
    assert set_.fired
    assert all(one.startswith(hub.url) for one in supply.warnings)


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("error-401", "answered 401 Unauthorized. A token may be needed"),
        ("error-404", "Compare repo, revision and files with the source."),
        ("error-410", "answered 410 Gone"),
        ("error-451", "answered 451"),
        ("gzip", "came encoded as 'gzip'"),
        ("wrong-content-range", "answered with the range"),
        ("long-body", "in 501024 bytes; expected 'bytes 0-499999/(size)'"),
        ("html-page", "(an HTML page); 3072192 are listed"),
        ("lfs-pointer", "(a Git LFS pointer); 3072192 are listed"),
        ("redirect-loop", "redirects more than 10 times"),
    ],
)
def test_a_fault_that_stays_is_told(hub, origin, fault, message):
    supply = supplied(origin())
    file = shard(supply)
    set_ = hub.fault(fault, path=SHARD, host="hub" if fault == "error-401" else None)
    with pytest.raises(LlmError) as caught:
        read(supply, file)
    assert message in str(caught.value)
    assert str(caught.value).startswith("Q4/model-00002-of-00003.gguf: ")
    assert "Signature" not in str(caught.value)
    assert set_.fired <= 11


def test_a_server_without_ranges_sends_the_whole_file(hub, origin, data):
    fault = hub.fault("no-range", path=SHARD)
    supply = supplied(origin())
    file = shard(supply)
    with supply.open(file, 1000, 2000) as opening:
        assert (opening.start, opening.stop) == (0, file.size)
        assert b"".join(opening.chunks()) == data
    assert fault.fired
    assert supply.warnings == [f"{hub.url} has no ranges: each file came through one connection."]


def test_servers_that_do_not_agree_on_an_etag_serve_ranges_of_what_a_sum_is_listed_of(hub, origin, data):
    supply = supplied(origin())
    file = shard(supply)
    others = []
    for start in range(0, 6000, 1000):
        if start % 2000:
            others.append(hub.fault("changed-etag", path=SHARD, times=1))
        with supply.open(file, start, start + 1000) as opening:
            assert (opening.start, opening.stop) == (start, start + 1000)
            assert b"".join(opening.chunks()) == data[start : start + 1000]
    assert [other.fired for other in others] == [1, 1, 1]
    assert supply.retries == 0


def test_what_no_sum_is_listed_of_is_begun_again_when_it_changes(mirror, origin, data):
    file = RemoteFile("Q4/model-00002-of-00003.gguf", len(data), "", "", 0, "")
    supply = supplied(origin(mirror, "url"), files=[file])
    with supply.open(file, 0, 1000) as opening:
        list(opening.chunks())
    mirror.fault("changed-etag", path="mirror/*")
    with pytest.raises(ChangedError, match="serves another"), supply.open(file, 1000, 2000):
        pass
    assert read(supply, file) == data


def test_a_connection_that_is_too_slow_is_broken(hub, origin, data):
    halt = threading.Event()
    fault = hub.fault("slow", path=SHARD, times=1, rate=100)
    supply = supplied(origin(), timeout=1, halt=halt)
    file = shard(supply)
    with watched(supply):
        assert read(supply, file) == data
    assert fault.fired == 1
    assert supply.retries >= 1


def test_a_connection_that_alone_is_silent_is_broken_soon(hub, origin, data, monkeypatch):
    monkeypatch.setattr(_sources, "_QUIET_S", 0.3)
    stall = hub.fault("stall", path=SHARD, times=1, after=100_000)
    supply = supplied(origin(), timeout=60)
    file = shard(supply)
    with watched(supply), ThreadPoolExecutor(1) as aside:
        silent = aside.submit(read, supply, file)
        while not stall.fired:
            time.sleep(0.01)
        assert not silent.done()
        assert read(supply, file) == data
        assert silent.result(timeout=20) == data
    assert supply.retries >= 1


def test_where_all_are_silent_the_limit_is_waited_for(hub, origin, data, monkeypatch):
    monkeypatch.setattr(_sources, "_QUIET_S", 0.1)
    hub.fault("stall", path=SHARD, times=1, after=100_000)
    supply = supplied(origin(), timeout=2)
    file = shard(supply)
    began = time.monotonic()
    with watched(supply):
        assert read(supply, file) == data
    assert time.monotonic() - began >= 2


def test_a_connection_may_be_as_slow_as_the_others_are():
    conduct = Conduct()
    since = time.monotonic()
    assert conduct.patience(since) == float("inf")
    conduct.clear()
    assert conduct.patience(since) == 5
    for _dummy in range(100):
        conduct.waited(2.0)
    assert conduct.patience(since) == pytest.approx(40, rel=0.01)
    assert conduct.patience(time.monotonic() + 1) == float("inf")


@contextlib.contextmanager
def watched(supply: Supply) -> t.Iterator[None]:
    done = threading.Event()

    def run() -> None:
        while not done.wait(0.05):
            supply.watch()

    watcher = threading.Thread(target=run)
    watcher.start()
    try:
        yield
    finally:
        done.set()
        watcher.join()


@pytest.mark.parametrize("fault", ["stall", "error-503"])
def test_a_halt_ends_reading_and_waiting(hub, origin, fault):
    halt = threading.Event()
    supply = supplied(origin(), halt=halt)
    file = shard(supply)
    set_ = hub.fault(fault, path=SHARD, after=1000 if fault == "stall" else 0)

    def stop() -> None:
        while not set_.fired:
            time.sleep(0.01)
        halt.set()

    stopper = threading.Thread(target=stop)
    stopper.start()
    with pytest.raises(LlmError, match="The transfer was stopped"), watched(supply):
        read(supply, file)
    stopper.join()


def test_nothing_is_tried_after_the_deadline(hub, origin):
    supply = supplied(origin(), seconds=2)
    file = shard(supply)
    hub.fault("rate-limit", path=SHARD, retry_after="100")
    with pytest.raises(LlmError, match=r"answered 429 .* Given up: the next try would come after the deadline"):
        read(supply, file)
    assert asked(hub, "hub") == 1


def test_tries_without_progress_end(hub, origin, monkeypatch):
    monkeypatch.setattr(_sources, "backoff_s", lambda _failures, _retry_after: 0.0)
    fault = hub.fault("error-503", path=SHARD)
    supply = supplied(origin())
    with pytest.raises(LlmError, match=r"answered 503 .* Given up after 8 tries in a row"):
        read(supply, shard(supply))
    assert fault.fired == supply.retries == 8


# Several sources


@pytest.fixture
def raced(hub, mirror, origin):
    """`raced()` is a supply of both, whose race the first has won."""

    def make(**params) -> Supply:
        slow = mirror.fault("slow", path=SHARD, times=1, rate=10_000)
        supply = supplied(origin(hub), origin(mirror), **params)
        with supply.open(shard(supply), 0, 1) as opening:
            list(opening.chunks())
        assert supply.label == hub.url
        while not slow.fired:
            time.sleep(0.01)
        return supply

    return make


def test_the_first_that_can_list_lists(hub, mirror, origin, published):
    hub.fault("error-404", path="api/*")
    supply = supplied(origin(mirror, "url"), origin(hub), origin(mirror))
    assert {file.path for file in supply.files()} == {
        path.relative_to(published.folder).as_posix() for path in published.folder.rglob("*") if path.is_file()
    }
    assert supply.address == mirror.url
    assert len(supply.warnings) == 1
    assert supply.warnings[0].startswith(f"{hub.url} was given up: ")


def test_nobody_who_can_list_is_told(mirror, origin):
    with pytest.raises(LlmError, match=r"has no list of files\. Name a manifest"):
        supplied(origin(mirror, "url")).files()


@pytest.mark.parametrize("name", ["huggingface", "modelscope", "url"])
def test_any_source_can_take_over(hub, mirror, origin, data, name):
    hub.fault("error-404", path=SHARD, host="cdn")
    supply = supplied(origin(hub), origin(mirror, name))
    file = shard(supply)
    assert verified(supply, file) == data
    assert supply.label == (f"{mirror.url}/mirror" if name == "url" else mirror.url)
    assert "answered 404" in supply.warnings[0]


def test_a_directory_can_take_over(hub, published, origin, data):
    hub.fault("error-404", path=SHARD, host="cdn")
    local = Origin(source(str(published.folder.parents[1]), REPO), "")
    supply = supplied(origin(hub), local)
    assert verified(supply, shard(supply)) == data
    published.shards[1].unlink()
    with pytest.raises(LlmError, match=r"no source is left\.\n/.*Reading the source failed.*\nhttp://.*answered 404"):
        verified(supply, shard(supply))


def test_the_fastest_is_found_and_the_others_are_kept(hub, mirror, origin, data):
    slow = hub.fault("slow", path=SHARD, rate=10_000)
    supply = supplied(origin(hub), origin(mirror))
    file = shard(supply)
    assert read(supply, file) == data
    assert supply.label == mirror.url
    while not slow.fired:
        time.sleep(0.01)
    assert hub.stats()["cdn"][SHARD]["ranges"] == ["bytes=0-1048575"]

    hub.clear_faults()
    mirror.fault("error-410", path=SHARD)
    assert read(supply, file) == data
    assert supply.label == hub.url


def test_where_nobody_ends_the_race_the_order_stays(hub, mirror, origin, data, monkeypatch):
    monkeypatch.setattr(_supply, "_RACE_S", 1.0)
    for at in (hub, mirror):
        at.fault("stall", path=SHARD, times=1, after=1000)
    supply = supplied(origin(hub), origin(mirror), timeout=2)
    file = shard(supply)
    with watched(supply):
        assert read(supply, file) == data
    assert supply.label == hub.url


def test_a_source_that_dies_is_replaced_and_nothing_is_fetched_twice(hub, mirror, raced, data):
    supply = raced()
    file = shard(supply)
    with supply.open(file, 0, BLOCK) as opening:
        pieces = list(opening.chunks())
    hub.__exit__()
    with supply.open(file, BLOCK, file.size) as opening:
        pieces += opening.chunks()
    assert b"".join(pieces) == data
    assert supply.label == mirror.url
    assert mirror.stats()["cdn"][SHARD]["ranges"] == ["bytes=0-1048575", f"bytes={BLOCK}-{file.size - 1}"]


def test_a_stall_sends_the_rest_elsewhere(hub, mirror, raced, data):
    supply = raced(timeout=1)
    file = shard(supply)
    fault = hub.fault("stall", path=SHARD, after=BLOCK // 2)
    with watched(supply):
        assert read(supply, file) == data
    assert fault.fired == 1
    assert supply.label == mirror.url


def test_a_source_with_other_content_is_not_used(hub, published, tmp_path, origin, data):
    other = tmp_path / "other" / REPO / "Q4"
    other.mkdir(parents=True)
    (other / published.shards[1].name).write_bytes(data[:-1] + b"x")
    with Hub(tmp_path / "other") as wrong:
        supply = supplied(origin(hub), origin(wrong))
        assert verified(supply, shard(supply)) == data
        assert sent(wrong) == 0
        assert "does not list Q4/model-00002-of-00003.gguf with the same size and sum" in supply.warnings[0]


def test_wrong_bytes_are_fetched_from_another(hub, mirror, raced, data):
    supply = raced()
    fault = hub.fault("rotten-byte", path=SHARD, after=2_000_000)
    assert verified(supply, shard(supply)) == data
    assert fault.fired
    assert "was given up: The data has the sha256" in supply.warnings[0]
    assert supply.label == mirror.url


@pytest.mark.parametrize("bad", ["hub", "mirror"])
def test_one_of_two_that_served_together_is_found_out(hub, mirror, raced, data, bad):
    supply = raced(timeout=1)
    file = shard(supply)
    rotten = {"path": SHARD, "after": 1000 if bad == "hub" else 2_000_000}
    if bad == "hub":
        # One reply shows one fault: here it stalls in the second.
        hub.fault("rotten-byte", **rotten, times=1)
    hub.fault("stall", path=SHARD, times=1, after=300_000)
    fault = (hub if bad == "hub" else mirror).fault("rotten-byte", **rotten)
    with watched(supply):
        assert verified(supply, file) == data
    assert fault.fired
    assert [line.split()[0] for line in supply.warnings] == ([hub.url] if bad == "hub" else [])


def test_the_last_source_has_a_second_chance_and_no_third(hub, origin, data):
    supply = supplied(origin())
    file = shard(supply)
    fault = hub.fault("rotten-byte", path=SHARD, after=2_000_000, times=1)
    assert verified(supply, file) == data
    assert fault.fired == 1

    supply = supplied(origin())
    hub.fault("rotten-byte", path=SHARD, after=2_000_000)
    with pytest.raises(LlmError, match=f"^{file.path}: The data has the sha256 .*; {file.sha256} is listed"):
        verified(supply, file)


def test_wrong_bytes_of_nobody_known_come_to_an_end(hub, mirror, origin):
    """As when they were fetched by an earlier run."""
    supply = supplied(origin(hub), origin(mirror))
    file = shard(supply)
    given_up = []
    with pytest.raises(LlmError, match=r"no source is left\.\n.*The sums differ\.\n.*The sums differ\."):  # noqa: PT012
        while len(given_up) < 10:
            given_up.append(len(supply.warnings))
            supply.distrust(file, "The sums differ.")
    # Both are suspected, then the first, then the second, which is the last and has another chance.
    assert given_up == [0, 0, 1, 1]


def test_files_that_are_known_are_asked_of_nobody(hub, mirror, origin, data):
    file = RemoteFile("Q4/model-00002-of-00003.gguf", len(data), hashlib.sha256(data).hexdigest(), "", 0, "")
    supply = supplied(origin(hub, lists=False), origin(mirror, "modelscope", lists=False), files=[file])
    assert supply.files() == [file]
    assert verified(supply, file) == data
    for at in (hub, mirror):
        assert set(at.stats()["hub"]) == {SHARD}


# Sums


@pytest.mark.parametrize("name", ["huggingface", "modelscope"])
def test_a_sum_that_is_not_listed_is_computed(hub, published, origin, name):
    supply = supplied(origin(hub, name))
    card = next(file for file in supply.files() if file.path == "README.md")
    fault = hub.fault("flipped-bit", path="*README.md", times=1)
    expected = hashlib.sha256((published.folder / "README.md").read_bytes()).hexdigest()
    assert supply.summed(card).sha256 == expected
    # ModelScope lists the sum: there is nothing to be read.
    assert fault.fired == (name == "huggingface")


def test_a_file_that_is_not_what_git_knows_is_told(hub, origin):
    supply = supplied(origin(hub))
    card = next(file for file in supply.files() if file.path == "README.md")
    hub.fault("flipped-bit", path="*README.md")
    with pytest.raises(LlmError, match=r"README\.md: The data is not what git knows as"):
        supply.summed(card)


# Conduct


PASSING = HttpError("It failed.", transient=True)


def test_connections_that_break_together_are_one_failure():
    conduct = Conduct()
    began = time.monotonic()
    for _dummy in range(100):
        conduct.charge(PASSING, began)
    for _dummy in range(7):
        assert not conduct.gone
        conduct.charge(PASSING, time.monotonic())
    assert conduct.gone


def test_what_is_new_clears_the_count():
    conduct = Conduct()
    for _dummy in range(50):
        for _dummy in range(7):
            conduct.charge(PASSING, time.monotonic())
        assert conduct.rests_until > time.monotonic()
        conduct.clear()
    assert not conduct.gone
    assert conduct.rests_until < time.monotonic()


def test_a_server_may_name_the_pause():
    conduct = Conduct()
    now = time.monotonic()
    conduct.charge(HttpError("Wait.", transient=True, retry_after=100), now)
    assert now + 100 <= conduct.not_before <= time.monotonic() + 100


@pytest.mark.parametrize(
    ("error", "slow", "tries"),
    [
        (PASSING, False, 8),
        (PASSING, True, 3),
        (HttpError("Another range.", status=206), False, 2),
        (HttpError("Not found.", status=404), False, 1),
        (LlmError("A disk failed."), False, 1),
    ],
)
def test_what_a_failure_costs(error, slow, tries):
    conduct = Conduct()
    for left in reversed(range(tries)):
        conduct.charge(error, time.monotonic(), slow=slow)
        assert conduct.gone is (left == 0)


# Options


@pytest.fixture
def params(hub):
    return {
        "hub": hub.url,
        "endpoint": None,
        "repo": REPO,
        "token": None,
        "token_file": None,
        "timeout": 5,
        "sources": [],
        "manifest": None,
        "peers": [],
        "followers": [],
        "peer_token_file": None,
        "patience": 1,
    }


def from_options(params, commit: str) -> Supply:
    return supply(params, commit, deadline=time.monotonic() + 30, halt=threading.Event())


def test_options_name_sources(hub, mirror, params, tmp_path, token, published, data):
    (published.folder / ".gated").touch()
    (tmp_path / "token").write_text(f"{token}\n")
    commit = hub.repository(REPO).commit
    other = {"hub": "modelscope", "endpoint": mirror.url, "repo": None, "revision": None, "token_file": None}
    made = from_options({**params, "sources": [{**other, "token_file": str(tmp_path / "token")}]}, commit)
    assert verified(made, shard(made)) == data
    assert made.label == mirror.url
    assert "A token may be needed" in made.warnings[0]
    assert first_source(params).address == hub.url


def test_a_source_of_an_own_commit(hub, mirror, params, data):
    other = {"hub": "modelscope", "endpoint": mirror.url, "repo": REPO, "revision": None, "token_file": None}
    for revision, message in (("main", "The revision 'main' is refused"), ("0" * 40, None)):
        options = {**params, "sources": [{**other, "revision": revision}]}
        if message:
            with pytest.raises(LlmError, match=message):
                from_options(options, hub.repository(REPO).commit)
            continue
        made = from_options(options, hub.repository(REPO).commit)
        assert verified(made, shard(made)) == data
        assert f"does not list revision '{revision}'" in made.warnings[0]


def test_a_manifest_says_what_the_files_are(mirror, params, tmp_path, data):
    manifest = tmp_path / "manifest"
    manifest.write_text(f"{hashlib.sha256(data).hexdigest()}  {len(data)}  Q4/model-00002-of-00003.gguf\n")
    options = {**params, "hub": "url", "endpoint": f"{mirror.url}/mirror", "manifest": str(manifest)}
    made = from_options(options, "any")
    assert verified(made, shard(made)) == data
    assert set(mirror.stats()["hub"]) == {f"mirror/{SHARD}"}
