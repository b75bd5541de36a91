# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Filling files in the making from a supply of remote bytes, in one pass. Private to this collection.

The missing bytes of all outputs are cut into blocks, which workers fetch in the order of the files, each straight to
its final offset. A front follows behind them and computes all sums from what is written, while it is still in the page
cache; the blocks handed out are never far in front of it. A keeper puts on the disk what has come, and then says so in
the journals. So one shard or a hundred, one connection or many are the same work, and nothing is written or read twice.
"""

from __future__ import annotations

import contextlib
import heapq
import itertools
import json
import os
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from ansible_collections.llmfleet.serving.plugins.module_utils._concurrency import Concurrency
from ansible_collections.llmfleet.serving.plugins.module_utils._errors import LlmError
from ansible_collections.llmfleet.serving.plugins.module_utils._http import ASK, HttpError
from ansible_collections.llmfleet.serving.plugins.module_utils._hub import RemoteFile
from ansible_collections.llmfleet.serving.plugins.module_utils._output import STEP_BYTES, Output, Part
from ansible_collections.llmfleet.serving.plugins.module_utils._ranges import Ranges
from ansible_collections.llmfleet.serving.plugins.module_utils._sources import ChangedError, Opening
from ansible_collections.llmfleet.serving.plugins.module_utils._supply import Supply

# A block is handed out when it starts less than this behind the front: a part of all outputs, within limits.
_WINDOW_PART = 200
_WINDOW_MIN, _WINDOW_MAX = 256 << 20, 2 << 30
# A request should last so many times as long as its answer takes to begin, then the waiting costs 5 %.
_BLOCK_LATENCIES = 20
_LATENCY_MIN_S = 0.0125
_BLOCK_MIN, _BLOCK_FIRST = 1 << 20, 4 << 20

# The front wakes up when so many bytes are there, and says how far it is after at most four times as many.
_FRONT_BYTES = 4 << 20
# Power loss costs at most what came in this time, if less came than `Output.journal_bytes`.
_JOURNAL_S = 10.0
_TICK_S = 0.5
# A worker that waits for the first byte of an answer cannot be woken. It is left behind, and then does nothing more.
_STOP_S = 3.0
_PROGRESS_S = 1.0
_RATE_S = 10.0


class HeadError(LlmError):
    """The known first bytes of a file are not those that its source has: what was planned from them is wrong."""


def transfer(
    outputs: Sequence[Output],
    supply: Supply,
    *,
    halt: threading.Event,
    workers: int,
    deadline: float,
    progress: Path,
) -> Generator[Output, None, None]:
    """Complete outputs, and hand each over, in order, as soon as all of it is there and checked.

    :param halt: the event that `supply` was made with. It is set when the transfer ends before all is complete.
    :param workers: connections at most.
    :param deadline: the value of `time.monotonic()` at which the transfer fails.
    :param progress: a file in an existing directory for those who watch, renewed each second, removed at the end: JSON
        with the bytes that are there (`done`), that there will be (`total`) and that came in this run (`fetched`), the
        bytes per second of the last ten seconds (`rate`), the seconds left (`left_s`, null if unknown), the `source`,
        the number of `retries`, the process (`pid`) and the Unix time (`at`).
    :raises HeadError: if `Part.head` is not what the source has.
    :raises LlmError: the first failure. What has been fetched is kept, as it is when this is closed.
    """
    if not outputs:
        return
    engine = _Engine(outputs, supply, halt, workers)
    status = _Status(progress, outputs, supply)
    pace = _Pace(engine.concurrency)
    try:
        engine.start()
        for output in outputs:
            while not engine.finished(_TICK_S):
                supply.watch()
                status.write()
                pace.observe(status.fetched, supply.waiting, engine.wake)
                if time.monotonic() > deadline:
                    raise LlmError(f"The deadline has passed {status}. Run again: what has been fetched is kept.")
            yield output
    finally:
        engine.stop()
        status.remove()


def read_bytes(supply: Supply, file: RemoteFile, start: int, stop: int) -> bytes:
    """Bytes [start, stop) of a remote file, however often the connection breaks.

    :raises LlmError: when the supply has given up.
    """
    data = bytearray()
    while start + len(data) < stop:
        with supply.open(file, start + len(data), stop) as content:
            before = start + len(data) - content.start  # a server without ranges begins at 0
            try:
                for chunk in content.chunks():
                    data += chunk[before:]
                    before = max(0, before - len(chunk))
                    if start + len(data) >= stop:
                        break
            except HttpError as exc:
                supply.failed(content, exc)
    del data[stop - start :]
    return bytes(data)


class _Task:
    """Bytes of one part that one worker fetches.

    :ivar claims: what is still missing of them, as offsets in the output; nobody else writes there.
    :ivar at: the offset in the output up to where the source's answer has been taken.
    """

    def __init__(self, index: int, number: int, part: Part, start: int, stop: int) -> None:
        self.index = index
        self.number = number
        self.part = part
        self.claims = Ranges([(start, stop)])
        self.at = start


# Positions are offsets in all outputs, one behind the other: (start, stop, index of the output, number of the part).
_Gap = tuple[int, int, int, int]


class _Engine:
    """The threads of a transfer, and what they share under one lock."""

    def __init__(self, outputs: Sequence[Output], supply: Supply, halt: threading.Event, workers: int) -> None:
        self.concurrency = Concurrency(workers)
        self._outputs = outputs
        self._supply = supply
        self._halt = halt
        *self._bases, self._size = itertools.accumulate([0, *(output.size for output in outputs)])
        self._window = min(max(self._size // _WINDOW_PART, _WINDOW_MIN), _WINDOW_MAX)
        self._todo: list[_Gap] = [gap for index in range(len(outputs)) for gap in self._gaps(index)]
        self._left = sum(stop - start for start, stop, _index, _number in self._todo)
        # Where a server has no ranges, one task takes the whole part.
        self._whole: dict[tuple[int, int], _Task] = {}
        # What an earlier run left of a part may be what is wrong with it, and not what comes from a source now.
        self._inherited = {
            (index, number)
            for index, output in enumerate(outputs)
            for number, part in enumerate(output.parts)
            if output.have.within(part.offset, part.stop)
        }
        self._changed: list[Output] = []
        self._active = 0
        self._front = 0
        # What the front waits for: bytes of this output from one offset to another.
        self._wanted: tuple[int, int, int] = (0, 0, 0)
        self._latency = float("inf")
        self._ended = False
        self._error: BaseException | None = None
        self._ready: queue.SimpleQueue[None] = queue.SimpleQueue()
        lock = threading.RLock()
        self._lock = lock
        self._work, self._data, self._due = (threading.Condition(lock) for _count in range(3))
        bodies = [self._follow, self._keep, *[self._fetch_all] * workers]
        self._threads = [threading.Thread(target=self._guarded, args=(body,), daemon=True) for body in bodies]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def finished(self, timeout: float) -> bool:
        """Wait until one more output is complete; False after `timeout` seconds.

        :raises LlmError: the first failure of a thread.
        """
        with contextlib.suppress(queue.Empty):
            self._ready.get(timeout=timeout)
            if self._error is None:
                return True
        if self._error is not None:
            raise self._error
        return False

    def wake(self) -> None:
        """Let workers see that `concurrency` has another limit."""
        with self._lock:
            self._work.notify_all()

    def stop(self) -> None:
        """End all threads, and put what they have done on the disk."""
        with self._lock:
            if self._front < self._size:
                self._halt.set()
            self._end()
        self._supply.watch()
        patience = time.monotonic() + _STOP_S
        for thread in self._threads:
            thread.join(max(0.0, patience - time.monotonic()))
        for output in self._outputs:
            with contextlib.suppress(LlmError):  # the first failure is the one to be told
                output.sync(self._lock)
                output.note(self._lock)
            output.close()
        for output in self._changed:
            output.forget()

    def _guarded(self, body: Callable[[], None]) -> None:
        try:
            body()
        except BaseException as exc:
            with self._lock:
                self._error = self._error or exc
                self._halt.set()
                self._end()
            self._ready.put(None)

    def _end(self) -> None:
        self._ended = True
        for condition in (self._work, self._data, self._due):
            condition.notify_all()

    def _gaps(self, index: int) -> list[_Gap]:
        output, base = self._outputs[index], self._bases[index]
        return [
            (base + start, base + stop, index, number)
            for number, part in enumerate(output.parts)
            for start, stop in output.have.gaps(part.offset, part.stop)
        ]

    # Workers

    def _fetch_all(self) -> None:
        rate = 0.0
        while (task := self._take(rate)) is not None:
            try:
                rate = self._fetch(task) or rate
            finally:
                self._give_back(task)

    def _take(self, rate: float) -> _Task | None:
        """The next block, as soon as one more connection is wanted and the front is near enough; None at the end."""
        with self._work:
            while not self._ended:
                if (
                    self._todo
                    and self._active - self._supply.waiting < self.concurrency.limit
                    and self._todo[0][0] < self._front + self._window
                ):
                    self._active += 1
                    return self._cut(rate)
                self._work.wait()
        return None

    def _cut(self, rate: float) -> _Task:
        start, stop, index, number = heapq.heappop(self._todo)
        # Near the end blocks get smaller, so that all workers end at about the same time.
        most = min(self._window, self._left) // (2 * self.concurrency.limit)
        fitting = int(rate * max(self._latency, _LATENCY_MIN_S) * _BLOCK_LATENCIES) if rate else _BLOCK_FIRST
        size = max(_BLOCK_MIN, min(fitting, most))
        if stop - start >= size + _BLOCK_MIN:
            heapq.heappush(self._todo, (start + size, stop, index, number))
            stop = start + size
        self._left -= stop - start
        base = self._bases[index]
        return _Task(index, number, self._outputs[index].parts[number], start - base, stop - base)

    def _give_back(self, task: _Task) -> None:
        """What the task has not got is for others now."""
        with self._lock:
            self._active -= 1
            if self._whole.get((task.index, task.number)) is task:
                del self._whole[task.index, task.number]
            base = self._bases[task.index]
            for start, stop in task.claims:
                heapq.heappush(self._todo, (base + start, base + stop, task.index, task.number))
            self._left += task.claims.size
            self._work.notify_all()

    def _fetch(self, task: _Task) -> float:
        """Receive once, as far as the connection holds. Returns the rate, 0 where that says nothing."""
        output, shift = self._outputs[task.index], task.part.offset - len(task.part.head)
        output.open()
        ((start, stop),) = task.claims
        try:
            with self._supply.open(task.part.file, start - shift, stop - shift) as content:
                answered = time.monotonic()
                if self._ended:
                    return 0.0
                if content.start < start - shift or content.stop > stop - shift:
                    self._take_whole(task)
                try:
                    self._receive(task, content, shift)
                except HttpError as exc:
                    self._supply.failed(content, exc)
                    return 0.0
        except ChangedError:
            self._changed.append(output)
            raise
        self._latency = min(self._latency, content.latency)
        return (content.stop - content.start) / max(time.monotonic() - answered, 1e-3)

    def _receive(self, task: _Task, content: Opening, shift: int) -> None:
        output = self._outputs[task.index]
        at = content.start + shift
        for data in content.chunks():
            with self._lock:
                pieces = task.claims.within(at, at + len(data))
                task.at = at + len(data)
            for start, stop in pieces:
                output.write_at(start, memoryview(data)[start - at : stop - at])
            at += len(data)
            self._written(task, pieces, len(data))
            self._supply.progressed(content, sum(stop - start for start, stop in pieces))
            if self._ended or (not task.claims and at < content.stop + shift):
                return

    def _written(self, task: _Task, pieces: list[tuple[int, int]], size: int) -> None:
        output = self._outputs[task.index]
        with self._lock:
            output.fetched += size
            for start, stop in pieces:
                task.claims.remove(start, stop)
                output.have.add(start, stop)
                output.unnoted += stop - start
                output.unsafe += stop - start
            index, start, stop = self._wanted
            if index == task.index and output.have.end(start) >= stop:
                self._data.notify()
            if output.unsafe >= output.journal_bytes:
                self._due.notify()
        if output.unnoted >= output.note_bytes:
            # All wait for this: nobody gets ahead of what is known.
            output.note(self._lock, output.note_bytes)

    def _take_whole(self, task: _Task) -> None:
        """The source has no ranges: the whole file comes. The first task that finds that takes all of the part; later
        ones leave theirs to it as far as it has not passed them."""
        key = (task.index, task.number)
        with self._lock:
            whole = self._whole.setdefault(key, task)
            if whole is task:
                task.at = 0
                base = self._bases[task.index]
                for start, stop in [gap[:2] for gap in self._todo if gap[2:] == key]:
                    task.claims.add(start - base, stop - base)
                    self._left -= stop - start
                self._todo = [gap for gap in self._todo if gap[2:] != key]
                heapq.heapify(self._todo)
                return
            for start, stop in task.claims.within(whole.at, task.part.stop):
                task.claims.remove(start, stop)
                whole.claims.add(start, stop)

    # The front

    def _follow(self) -> None:
        buffer = memoryview(bytearray(STEP_BYTES))
        with ThreadPoolExecutor(1) as aside:
            for index, output in enumerate(self._outputs):
                output.open()
                # An earlier run may have left it further than the window, where nobody fetches what it waits for.
                self._reach(index)
                while output.front.part and not self._ended:
                    stop = self._await(index, output.front.part)
                    while output.front.offset < stop and not self._ended:
                        view = buffer[: stop - output.front.offset]
                        output.read_at(output.front.offset, view)
                        output.front.update(view, aside)
                    self._advance(index)
                if self._ended:
                    return
                self._ready.put(None)

    def _await(self, index: int, part: Part) -> int:
        """Wait for bytes at the front. Returns the offset up to where they are to be read."""
        output = self._outputs[index]
        start = output.front.offset
        with self._data:
            self._wanted = (index, start, min(start + _FRONT_BYTES, part.stop))
            self._data.wait_for(lambda: self._ended or output.have.end(start) >= self._wanted[2])
            return min(output.have.end(start), part.stop, start + 4 * _FRONT_BYTES)

    def _advance(self, index: int) -> None:
        """Let the others see how far the front is; check a part that has ended."""
        output, part = self._outputs[index], self._outputs[index].front.part
        error = ""
        if part and output.front.offset == part.stop and not self._ended:
            key = (index, len(output.front.sums))
            error = output.front.end_part()
            if error and key in self._inherited:
                self._inherited.discard(key)
            elif error:
                self._require_head(part, error)
        with self._lock:
            if part and error:
                self._begin_again(index, part)
            output.mark = output.front.state()
            self._reach(index)

    def _reach(self, index: int) -> None:
        """Let the workers see how far the front is."""
        with self._lock:
            self._front = self._bases[index] + self._outputs[index].front.offset
            self._work.notify_all()

    def _require_head(self, part: Part, error: str) -> None:
        """The part is wrong: it must come from another source. Its head may have come from the same one before."""
        self._supply.distrust(part.file, f"{error} {ASK}")
        if read_bytes(self._supply, part.file, 0, len(part.head)) != part.head:
            raise HeadError(f"{part.file.path}: the first {len(part.head)} bytes are not what they were. {error}")

    def _begin_again(self, index: int, part: Part) -> None:
        output, base = self._outputs[index], self._bases[index]
        output.front.restart_part()
        output.have.remove(part.offset, part.stop)
        heapq.heappush(self._todo, (base + part.offset, base + part.stop, index, output.parts.index(part)))
        self._left += part.size
        # Note and journal still speak of what was there.
        output.unnoted += output.note_bytes
        output.unsafe += output.journal_bytes
        self._due.notify()

    # The keeper

    def _keep(self) -> None:
        while not self._ended:
            with self._due:
                ripe = self._due.wait_for(lambda: self._ended or bool(self._ripe(1.0)), _JOURNAL_S)
                outputs = self._ripe(1.0 if ripe else 0.0)
            for output in outputs:
                output.sync(self._lock)

    def _ripe(self, part: float) -> list[Output]:
        """The outputs with that part of what is worth a step of their journals."""
        return [output for output in self._outputs if output.unsafe > part * (output.journal_bytes - 1)]


class _Pace:
    """Measures for a `Concurrency`: after a change of its limit, one tick is not counted."""

    def __init__(self, concurrency: Concurrency) -> None:
        self._concurrency = concurrency
        self._last: tuple[float, int] | None = None

    def observe(self, fetched: int, waiting: int, wake: Callable[[], None]) -> None:
        """Take how many bytes have come, and how many workers wait for a host ahead, at each tick."""
        if waiting:
            # The pace of that host says nothing about connections; but a worker that waits has none.
            self._last = None
            wake()
            return
        now, last = time.monotonic(), self._last
        self._last = (now, fetched)
        if last is None or now - last[0] < _TICK_S / 2:
            return
        limit = self._concurrency.limit
        self._concurrency.observe((fetched - last[1]) / (now - last[0]))
        if self._concurrency.limit != limit:
            self._last = None
            wake()


class _Status:
    """The progress file."""

    def __init__(self, path: Path, outputs: Sequence[Output], supply: Supply) -> None:
        self._path = path
        self._outputs = outputs
        self._supply = supply
        self._total = sum(output.size for output in outputs)
        self._past: deque[tuple[float, int]] = deque([(time.monotonic(), self.fetched)])
        self._written = 0.0

    @property
    def fetched(self) -> int:
        return sum(output.fetched for output in self._outputs)

    def write(self) -> None:
        """Renew the file, at most once a second."""
        now = time.monotonic()
        if now - self._written < _PROGRESS_S:
            return
        self._written = now
        self._past.append((now, self.fetched))
        while len(self._past) > 2 and now - self._past[1][0] >= _RATE_S:
            self._past.popleft()
        (since, before), done = self._past[0], self._done
        rate = round((self.fetched - before) / max(now - since, _PROGRESS_S))
        content = {
            "done": done,
            "total": self._total,
            "rate": rate,
            "fetched": self.fetched,
            "left_s": round((self._total - done) / rate) if rate else None,
            "source": self._supply.label,
            "retries": self._supply.retries,
            "pid": os.getpid(),
            "at": time.time(),
        }
        stage = self._path.with_name(self._path.name + ".new")
        stage.write_text(json.dumps(content))
        stage.replace(self._path)

    def remove(self) -> None:
        self._path.unlink(missing_ok=True)

    def __str__(self) -> str:
        return f"with {self._done} of {self._total} bytes there"

    @property
    def _done(self) -> int:
        return sum(output.have.size for output in self._outputs)
