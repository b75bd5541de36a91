# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The engine with a real supply, and a server that does what a test tells it. What users see: test_gguf_fetch.py."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import hashlib
import json
import os
import random
import re
import threading
import time

import pytest

from ansible_collections.llmfleet.serving.plugins.module_utils import _transfer
from ansible_collections.llmfleet.serving.plugins.module_utils._errors import LlmError
from ansible_collections.llmfleet.serving.plugins.module_utils._files import read_record
from ansible_collections.llmfleet.serving.plugins.module_utils._hub import RemoteFile, source
from ansible_collections.llmfleet.serving.plugins.module_utils._output import Output, Part
from ansible_collections.llmfleet.serving.plugins.module_utils._sources import Origin
from ansible_collections.llmfleet.serving.plugins.module_utils._supply import Supply
from ansible_collections.llmfleet.serving.plugins.module_utils._transfer import HeadError, read_bytes, transfer

MIB = 1 << 20
HEAD = b"the merged header"
SHARDS = [random.Random(number).randbytes(size) for number, size in enumerate((6_000_000, 500, 5_000_000))]
SKIPS = [1000, 500, 7]
WHOLE = HEAD + b"".join(shard[skip:] for shard, skip in zip(SHARDS, SKIPS))


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def listed(name: str, data: bytes) -> RemoteFile:
    return RemoteFile(name, len(data), sha256(data), "", 0, "")


class Server:
    """Files under their names, with ranges. `change(name, start, data)` may answer something else than `data`."""

    def __init__(self, scripted) -> None:
        self.url = scripted.url
        self.ranges: list[tuple[str, int, int]] = []
        self.change = lambda _name, _start, data: data
        self.etag = '"v1"'
        self._routes = scripted.routes

    def has(self, name: str, data: bytes, *, ranges: bool = True) -> RemoteFile:
        def answer(headers):
            found = re.fullmatch(r"bytes=(\d+)-(\d+)", headers.get("Range", "")) if ranges else None
            start, stop = (int(found[1]), int(found[2]) + 1) if found else (0, len(data))
            self.ranges.append((name, start, stop))
            told = {"Content-Length": str(stop - start), "ETag": self.etag}
            if found:
                told["Content-Range"] = f"bytes {start}-{stop - 1}/{len(data)}"
            body = self.change(name, start, data[start:stop])
            return body if isinstance(body, tuple) else (206 if found else 200, body, {**told, "Connection": "close"})

        self._routes[f"GET /acme/x/{name}"] = answer
        return listed(name, data)

    def asked(self) -> int:
        """Bytes that were asked for."""
        return sum(stop - start for _name, start, stop in self.ranges)


@pytest.fixture
def server(scripted):
    return Server(scripted)


@pytest.fixture
def files(server):
    return [server.has(f"shard{number}", shard) for number, shard in enumerate(SHARDS)]


@pytest.fixture
def dest(tmp_path):
    return tmp_path / "model.gguf"


@pytest.fixture
def output(dest, files):
    """`output()` is a new look at the file that the shards become."""

    def look(dest=dest) -> Output:
        parts, offset = [], len(HEAD)
        for file, shard, skip in zip(files, SHARDS, SKIPS):
            parts.append(Part(file, shard[:skip], offset))
            offset += file.size - skip
        return Output(dest, HEAD, parts)

    return look


@pytest.fixture
def start(server, tmp_path):
    """`start(output, ...)` is a transfer that has not begun."""

    def begin(*outputs: Output, seconds: float = 20, workers: int = 4, timeout: float = 5):
        halt = threading.Event()
        deadline = time.monotonic() + seconds
        origin = Origin(source("url", "acme/x", endpoint=server.url, timeout=timeout), "0" * 40, lists=False)
        supply = Supply([origin], deadline=deadline, halt=halt, files=[], timeout=timeout)
        progress = tmp_path / "progress"
        return transfer(outputs, supply, halt=halt, workers=workers, deadline=deadline, progress=progress)

    return begin


@pytest.fixture
def run(start):
    def complete(*outputs: Output, **limits) -> None:
        for ready in start(*outputs, **limits):
            ready.commit(lambda _path: None, {})

    return complete


@pytest.fixture
def small_blocks(monkeypatch):
    """So that a few megabytes are many blocks."""
    monkeypatch.setattr(_transfer, "_BLOCK_MIN", MIB)
    monkeypatch.setattr(_transfer, "_BLOCK_FIRST", MIB)
    monkeypatch.setattr(_transfer, "_BLOCK_LATENCIES", 0)
    monkeypatch.setattr(_transfer, "_FRONT_BYTES", MIB)


def test_shards_become_one_file(server, dest, output, run, tmp_path):
    made = output()
    run(made)
    assert dest.read_bytes() == WHOLE
    assert read_record(dest)["sha256"] == sha256(WHOLE)
    # Nothing is asked for twice, and of the headers nothing.
    assert server.asked() == made.fetched == len(WHOLE) - len(HEAD)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".model.gguf.llmfleet.json", "model.gguf"]


def test_nothing_to_do_is_done(start):
    assert list(start()) == []


def test_files_come_in_order_each_as_soon_as_it_is_there(server, start, tmp_path, small_blocks):
    contents = {f"f{number}": random.Random(number).randbytes(number * 300_000) for number in (5, 0, 1, 4)}
    outputs = [Output(tmp_path / name, b"", [Part(server.has(name, data), b"", 0)]) for name, data in contents.items()]
    go_on = threading.Event()

    def hold_the_last(name, _start, data):
        if name == "f4":
            go_on.wait(10)
        return data

    server.change = hold_the_last
    for ready, (name, data) in zip(start(*outputs), contents.items()):
        ready.commit(lambda _path: None, {})
        assert (tmp_path / name).read_bytes() == data
        if name == "f1":
            go_on.set()
    assert all(output.present for output in outputs)


def test_all_stay_near_the_front(server, output, start, monkeypatch, small_blocks):
    """What is handed out is so near behind what is checked that it is still in the page cache."""
    monkeypatch.setattr(_transfer, "_WINDOW_MIN", 3 * MIB)
    go_on = threading.Event()

    def hold_the_second(name, start, data):
        if (name, start) == ("shard0", 1000 + MIB):
            go_on.wait(10)
        return data

    server.change = hold_the_second
    made = output()
    ready = start(made, workers=8)
    collected = []
    thread = threading.Thread(target=lambda: collected.extend(output.dest for output in ready))
    thread.start()
    deadline = time.monotonic() + 20
    while made.have.size < len(HEAD) + 3 * MIB:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    time.sleep(0.2)
    assert max(start for _name, start, _stop in server.ranges) == 1000 + 3 * MIB
    go_on.set()
    thread.join()
    assert collected == [made.dest]


def test_connections_are_added_while_they_bring_more(scripted, tmp_path, run):
    """Each connection is capped; more of them are the only way."""
    data = random.Random(1).randbytes(12_000_000)
    active, most, lock = [0], [0], threading.Lock()

    def answer(headers):
        found = re.fullmatch(r"bytes=(\d+)-(\d+)", headers["Range"])
        start, stop = int(found[1]), int(found[2]) + 1
        with lock:
            active[0] += 1
            most[0] = max(most[0], active[0])
        time.sleep((stop - start) / 1_000_000)
        with lock:
            active[0] -= 1
        return 206, data[start:stop], {"Content-Range": f"bytes {start}-{stop - 1}/{len(data)}"}

    scripted.routes["GET /acme/x/file"] = answer
    run(Output(tmp_path / "file", b"", [Part(listed("file", data), b"", 0)]), workers=8)
    assert (tmp_path / "file").read_bytes() == data
    assert most[0] > 2


# Servers and connections that fail


def test_a_connection_that_breaks_is_continued(server, dest, output, run):
    broken = []

    def break_once(name, start, data):
        if len(broken) < 3 and len(data) > 700_000:
            broken.append((name, start))
            size = start + len(data)
            told = {"Content-Length": str(len(data)), "Content-Range": f"bytes {start}-{size - 1}/{len(SHARDS[0])}"}
            if name == "shard0":
                return 206, data[:600_000], {**told, "Connection": "close"}
        return data

    server.change = break_once
    made = output()
    run(made)
    assert broken
    assert dest.read_bytes() == WHOLE
    # What had come was not asked for again, but for what stood in one buffer.
    assert made.fetched == len(WHOLE) - len(HEAD)


def test_a_server_without_ranges_sends_each_file_once(server, scripted, output, dest, run, small_blocks):
    for number, shard in enumerate(SHARDS):
        server.has(f"shard{number}", shard, ranges=False)
    made = output()
    run(made, workers=4)
    assert dest.read_bytes() == WHOLE
    # Those that find it out at the same time leave their work to the first, if it has not passed that already.
    assert len(server.ranges) < 10
    assert made.fetched < 2 * sum(len(shard) for shard in SHARDS)


def test_a_server_that_loses_its_ranges_overwrites_nothing(server, scripted, output, dest, run, small_blocks):
    """What has been checked is never written again, because nobody would check it again."""
    count = [0]

    def lose(name, start, data):
        count[0] += 1
        if name == "shard0" and count[0] > 2:
            return 200, b"\0" * (4 * MIB) + SHARDS[0][4 * MIB :], {}
        return data

    server.change = lose
    with pytest.raises(LlmError, match="The data has the sha256"):
        run(output(), workers=1)
    assert not dest.exists()


@pytest.mark.parametrize("times", [1, 2])
def test_wrong_bytes_are_fetched_again_once(server, output, dest, run, times):
    wrong = []

    def flip(name, start, data):
        if name == "shard2" and len(wrong) < times and start <= 2_000_000 < start + len(data):
            wrong.append(start)
            at = 2_000_000 - start
            return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]
        return data

    server.change = flip
    made = output()
    if times == 2:
        with pytest.raises(LlmError, match=f"shard2: .*the hub lists {sha256(SHARDS[2])}"):
            run(made)
        assert not dest.exists()
        # The other shards are good, and stay.
        server.change = lambda _name, _start, data: data
        server.ranges.clear()
        run(output())
        assert {name for name, _start, _stop in server.ranges} == {"shard2"}
    else:
        run(made)
        assert made.fetched == len(WHOLE) - len(HEAD) + len(SHARDS[2]) - SKIPS[2]
    assert dest.read_bytes() == WHOLE


def test_a_wrong_head_is_found_out(server, dest, run, files):
    head = b"!" + SHARDS[2][1 : SKIPS[2]]
    made = Output(dest, HEAD, [Part(files[2], head, len(HEAD))])
    with pytest.raises(HeadError, match="shard2: the first 7 bytes are not what they were"):
        run(made)
    assert not dest.exists()


@pytest.mark.parametrize("ranges", [True, False])
def test_a_few_bytes_can_be_read(server, start, ranges):
    file = server.has("some", SHARDS[0], ranges=ranges)
    halt = threading.Event()
    origin = Origin(source("url", "acme/x", endpoint=server.url), "0" * 40, lists=False)
    supply = Supply([origin], deadline=time.monotonic() + 5, halt=halt, files=[file])
    assert read_bytes(supply, file, 70_000, 700_000) == SHARDS[0][70_000:700_000]
    assert read_bytes(supply, file, 5, 5) == b""


def test_a_file_that_changes_and_has_no_sum_is_begun_again(server, tmp_path, small_blocks):
    """Nothing else than the server's word tells the two apart, so nothing is kept."""
    file = dataclasses.replace(server.has("file", SHARDS[0]), sha256="")

    class Lists:
        """A hub that lists no sums."""

        lists = True
        address = server.url

        def __init__(self) -> None:
            self._plain = source("url", "acme/x", endpoint=server.url)

        def files(self, _commit):
            return [dataclasses.replace(file, url=self._plain.locate("", "file"))]

        def open(self, *asked):
            return self._plain.open(*asked)

    def change_soon(_name, start, data):
        if start > 2 * MIB:
            server.etag = '"v2"'
        return data

    server.change = change_soon
    halt, deadline = threading.Event(), time.monotonic() + 10
    supply = Supply([Origin(Lists(), "0" * 40)], deadline=deadline, halt=halt)
    (listed_file,) = supply.files()
    made = Output(tmp_path / "file", b"", [Part(listed_file, b"", 0)])
    progress = tmp_path / "progress"
    with pytest.raises(LlmError, match="serves another file than before"):
        list(transfer([made], supply, halt=halt, workers=2, deadline=deadline, progress=progress))
    assert made.have.size > 0
    assert not Output(tmp_path / "file", b"", [Part(listed_file, b"", 0)]).have


# Ends before the end


def test_what_has_come_stays_when_it_is_closed(server, output, dest, start, run, tmp_path):
    """As when the play is interrupted: it ends at once, although a connection is silent."""
    hold = threading.Event()

    def hold_the_last(name, _start, data):
        if name == "shard2":
            hold.wait(20)
        return data

    server.change = hold_the_last
    other = Output(tmp_path / "other", b"", [Part(server.has("other", b"complete"), b"", 0)])
    first = output()
    ready = start(other, first, timeout=60)
    assert next(ready) is other
    deadline = time.monotonic() + 20
    while first.have.size < len(SHARDS[0]) - SKIPS[0]:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    began = time.monotonic()
    ready.close()
    assert time.monotonic() - began < 5
    hold.set()
    server.change = lambda _name, _start, data: data
    server.ranges.clear()
    second = output()
    assert second.have.size == first.have.size
    run(second)
    assert dest.read_bytes() == WHOLE
    assert {name for name, _start, _stop in server.ranges} == {"shard2"}


def test_the_first_failure_stops_the_others(server, output, dest, run):
    made = output()

    def fail_later(name, _start, data):
        if name != "shard2":
            return data
        deadline = time.monotonic() + 10
        while made.have.size < len(SHARDS[0]) - SKIPS[0] and time.monotonic() < deadline:
            time.sleep(0.02)
        return 404, b"", {}

    server.change = fail_later
    with pytest.raises(LlmError, match=r"shard2: .* answered 404"):
        run(made, seconds=50)
    assert output().have.size >= len(SHARDS[0]) - SKIPS[0]
    assert not dest.exists()


def test_the_deadline_ends_it_even_if_nobody_answers(server, output, run, dest):
    hold = threading.Event()
    server.change = lambda _name, _start, data: hold.wait(20) and data
    began = time.monotonic()
    with pytest.raises(LlmError, match=f"The deadline has passed with {len(HEAD)} of {len(WHOLE)} bytes there"):
        run(output(), seconds=1.5, timeout=60)
    assert time.monotonic() - began < 15
    hold.set()
    assert not dest.exists()


def test_a_front_that_is_further_than_the_window_goes_on(server, dest, output, run, monkeypatch):
    """As of a large file that was killed: the front waits for more than is there, the workers for the front."""
    for name, size in {"_WINDOW_MIN": MIB, "_WINDOW_MAX": MIB, "_FRONT_BYTES": MIB // 4}.items():
        monkeypatch.setattr(_transfer, name, size)
    hold = threading.Event()
    server.change = lambda _name, start, data: data if start < 3 * MIB else hold.wait(20) and data
    with pytest.raises(LlmError, match="The deadline has passed"):
        run(output(), seconds=6, timeout=60)  # many times what the front needs, on a machine with other work too
    hold.set()
    again = output()
    again.open()
    assert again.front.offset > 2 * MIB
    assert again.have.end(again.front.offset) - again.front.offset < MIB // 4
    run(again)
    assert dest.read_bytes() == WHOLE


@pytest.mark.parametrize("name", ["fdatasync", "pwrite"])
def test_a_disk_that_fails_is_told_and_nothing_is_there(server, dest, output, run, monkeypatch, name):
    def fail(*_args):
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as broken:
        broken.setattr(os, name, fail)
        with pytest.raises(LlmError, match=r"Writing .*model.gguf.llmfleet.part .* failed: Input/output error \(EIO\)"):
            run(output())
    assert not dest.exists()
    run(output())
    assert dest.read_bytes() == WHOLE


def test_a_disk_that_gets_full_keeps_what_it_has(server, dest, output, run, monkeypatch):
    """Fault 24, on a file system that could not reserve the space: a short write, then the error."""
    room, pwrite, turn = [8_000_000], os.pwrite, threading.Lock()

    def until_full(fd, data, offset):
        with turn:
            if not room[0]:
                raise OSError(errno.ENOSPC, "No space left on device")
            count = pwrite(fd, data[: room[0]], offset)
            room[0] -= count
            return count

    with monkeypatch.context() as small:
        small.setattr(os, "pwrite", until_full)
        with pytest.raises(LlmError, match=r"No space left on device \(ENOSPC\)"):
            run(output())
    assert not dest.exists()
    again = output()
    assert again.have.size > 8_000_000 - MIB
    run(again)
    assert dest.read_bytes() == WHOLE
    assert again.fetched < len(WHOLE) - 8_000_000 + MIB


def test_it_can_be_watched(server, output, start, tmp_path):
    go_on, seen = threading.Event(), []

    def hold_the_last(name, _start, data):
        if name == "shard2":
            go_on.wait(10)
        return data

    def watch():
        file = tmp_path / "progress"
        while len(seen) < 3:
            time.sleep(0.1)
            with contextlib.suppress(FileNotFoundError):
                status = json.loads(file.read_text())
                if status not in seen:
                    seen.append(status)
        go_on.set()

    server.change = hold_the_last
    watcher = threading.Thread(target=watch)
    watcher.start()
    made = output()
    assert list(start(made)) == [made]
    watcher.join()
    assert not (tmp_path / "progress").exists()
    names = {"done", "total", "rate", "fetched", "left_s", "source", "retries", "pid", "at"}
    assert all(set(status) == names for status in seen)
    last = seen[-1]
    assert (last["total"], last["pid"], last["retries"], last["source"]) == (len(WHOLE), os.getpid(), 0, server.url)
    assert 0 < last["fetched"] < last["done"] < last["total"]
    assert last["rate"] > 0
    assert last["left_s"] >= 0
    assert abs(last["at"] - time.time()) < 60
