# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Links as functions from the number of connections to a rate, instead of links: what is tested is a decision."""

from __future__ import annotations

import random

import pytest

from ansible_collections.llmfleet.serving.plugins.module_utils._concurrency import Concurrency

LINKS = {
    # name: (rate by connections, most, the numbers that it may stay at)
    "each connection is capped": (lambda n: n, 16, {16}),
    "eight capped connections fill the link": (lambda n: min(n, 8), 16, {8}),
    "one connection fills the link": (lambda _n: 1.0, 16, {1, 2}),
    "more connections are punished": (lambda n: 1 / n, 16, {1}),
    "one is all that is allowed": (lambda n: n, 1, {1}),
    "three are all that are allowed": (lambda n: n, 3, {3}),
}


def limits(link, most, *, ticks=200, noise=0.0):
    """The limit at each tick."""
    noisy = random.Random(1)
    concurrency = Concurrency(most)
    for _tick in range(ticks):
        yield concurrency.limit
        concurrency.observe(link(concurrency.limit) * noisy.uniform(1 - noise, 1 + noise))


@pytest.mark.parametrize(("link", "most", "expected"), LINKS.values(), ids=LINKS.keys())
def test_it_finds_what_is_enough(link, most, expected):
    chosen = list(limits(link, most))
    assert max(chosen) <= most
    stays = chosen[50:]
    # Tries go on for ever, because links change, but are few.
    assert sum(limit in expected for limit in stays) >= 0.8 * len(stays)


def test_it_is_there_soon():
    assert 16 in list(limits(lambda n: n, 16, ticks=5))


def test_noise_does_not_run_away_with_it():
    chosen = list(limits(lambda n: min(n, 4), 16, noise=0.02))
    rates = [min(limit, 4) for limit in chosen[20:]]
    assert sum(rates) / len(rates) > 0.9 * 4


def test_a_link_that_gets_faster_is_used():
    concurrency = Concurrency(16)
    for _tick in range(30):
        concurrency.observe(1.0)
    assert concurrency.limit <= 2
    for _tick in range(60):
        concurrency.observe(concurrency.limit)
    assert concurrency.limit >= 8


def test_silence_is_asked_about_with_one_connection_more():
    concurrency = Concurrency(16)
    for _tick in range(30):
        concurrency.observe(1.0)
    while concurrency.limit != 1:
        concurrency.observe(1.0)
    concurrency.observe(0.0)
    assert concurrency.limit == 2
    concurrency.observe(0.0)
    assert concurrency.limit == 2
    concurrency.observe(1.0)
    assert concurrency.limit <= 2


def test_before_the_first_byte_nothing_is_asked():
    concurrency = Concurrency(1)
    concurrency.observe(0.0)
    assert concurrency.limit == 1
    concurrency = Concurrency(16)
    concurrency.observe(0.0)
    assert concurrency.limit in (2, 4)
