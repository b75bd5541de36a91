# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.llmfleet.serving.plugins.module_utils._ranges import Ranges

LIMIT = 40
OFFSETS = st.integers(0, LIMIT)


@given(st.lists(st.tuples(st.booleans(), OFFSETS, OFFSETS)), OFFSETS, OFFSETS)
def test_it_is_the_set_that_it_stands_for(changes, start, stop):
    ranges, expected = Ranges(), set()
    for add, first, last in changes:
        (ranges.add if add else ranges.remove)(first, last)
        expected = expected | set(range(first, last)) if add else expected - set(range(first, last))
    found = list(ranges)
    assert {offset for first, last in found for offset in range(first, last)} == expected
    # Ascending, not empty, and with gaps between them: there is one way only to write a set down.
    assert all(first < last for first, last in found)
    assert all(before[1] < after[0] for before, after in zip(found, found[1:]))
    assert ranges.size == len(expected)
    assert bool(ranges) == bool(expected)
    wanted = set(range(start, stop))
    assert {x for first, last in ranges.within(start, stop) for x in range(first, last)} == expected & wanted
    assert {x for first, last in ranges.gaps(start, stop) for x in range(first, last)} == wanted - expected
    end = ranges.end(start)
    assert set(range(start, end)) <= expected
    assert end not in expected


@pytest.mark.parametrize("ranges", [[(0, 3), (3, 5)], [(3, 5), (0, 4)], [(0, 5), (1, 2), (7, 7)]])
def test_what_touches_is_one(ranges):
    assert list(Ranges(ranges)) == [(0, 5)]
