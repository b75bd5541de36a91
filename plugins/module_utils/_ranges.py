# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Sets of byte offsets. Private to this collection."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator


class Ranges:
    """Ascending ranges [start, stop) that neither overlap nor touch. All methods but iteration take O(log n) in what
    they do not change."""

    def __init__(self, ranges: Iterable[tuple[int, int]] = ()) -> None:
        self._starts: list[int] = []
        self._stops: list[int] = []
        for start, stop in ranges:
            self.add(start, stop)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return zip(self._starts, self._stops)

    def __bool__(self) -> bool:
        return bool(self._starts)

    @property
    def size(self) -> int:
        """How many offsets are in the set."""
        return sum(self._stops) - sum(self._starts)

    def add(self, start: int, stop: int) -> None:
        if start >= stop:
            return
        first, last = bisect_left(self._stops, start), bisect_right(self._starts, stop)
        if first < last:
            start, stop = min(start, self._starts[first]), max(stop, self._stops[last - 1])
        self._starts[first:last], self._stops[first:last] = [start], [stop]

    def remove(self, start: int, stop: int) -> None:
        first, last = bisect_right(self._stops, start), bisect_left(self._starts, stop)
        if start >= stop or first >= last:
            return
        rests = [(self._starts[first], start), (stop, self._stops[last - 1])]
        rests = [(rest_start, rest_stop) for rest_start, rest_stop in rests if rest_start < rest_stop]
        self._starts[first:last] = [rest_start for rest_start, _dummy in rests]
        self._stops[first:last] = [rest_stop for _dummy, rest_stop in rests]

    def within(self, start: int, stop: int) -> list[tuple[int, int]]:
        """What of the set lies in [start, stop)."""
        first, last = bisect_right(self._stops, start), bisect_left(self._starts, stop)
        found = zip(self._starts[first:last], self._stops[first:last])
        return [(max(start, range_start), min(stop, range_stop)) for range_start, range_stop in found]

    def gaps(self, start: int, stop: int) -> list[tuple[int, int]]:
        """What of [start, stop) is not in the set."""
        found = self.within(start, stop)
        edges = zip([start, *(end for _dummy, end in found)], [*(begin for begin, _dummy in found), stop])
        return [(gap_start, gap_stop) for gap_start, gap_stop in edges if gap_start < gap_stop]

    def end(self, offset: int) -> int:
        """Where the range that holds `offset` ends; `offset` itself when none does."""
        index = bisect_right(self._starts, offset) - 1
        return max(offset, self._stops[index]) if index >= 0 else offset
