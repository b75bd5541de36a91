# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import pytest

from ansible_collections.llmfleet.serving.plugins.plugin_utils._progress import Lines, describe

BEGUN = {
    "done": 137_510_000_000,
    "total": 404_430_186_336,
    "rate": 812_300_000,
    "left_s": 328.6,
    "source": "huggingface.co",
    "retries": 0,
}


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({}, "34 %, 137.5 of 404.4 GB, 812.3 MB/s, 5 min 29 s left, from huggingface.co"),
        ({"retries": 1}, "34 %, 137.5 of 404.4 GB, 812.3 MB/s, 5 min 29 s left, from huggingface.co, 1 retry"),
        ({"left_s": None, "source": "", "retries": 2}, "34 %, 137.5 of 404.4 GB, 812.3 MB/s, 2 retries"),
        ({"left_s": 7384.2}, "34 %, 137.5 of 404.4 GB, 812.3 MB/s, 2 h 3 min left, from huggingface.co"),
        ({"left_s": 59.9}, "34 %, 137.5 of 404.4 GB, 812.3 MB/s, 1 min 0 s left, from huggingface.co"),
        ({"done": 404_430_186_335, "left_s": 0}, "99 %, 404.4 of 404.4 GB, 812.3 MB/s, 0 s left, from huggingface.co"),
        (
            {"done": 0, "total": 9_200_000, "rate": 0, "left_s": None},
            "0 %, 0.0 of 9.2 MB, 0.0 MB/s, from huggingface.co",
        ),
        ({"done": 0, "total": 0, "rate": 0, "left_s": None}, "100 %, 0.0 of 0.0 MB, 0.0 MB/s, from huggingface.co"),
    ],
)
def test_words(changes, text):
    assert describe({**BEGUN, **changes}) == text


def shown(steps):
    """The seconds at which a line is shown, of pairs (second, what has changed by then)."""
    now = [0.0]
    lines = Lines(lambda: now[0])
    progress = dict(BEGUN)
    seconds = []
    for now[0], changes in steps:
        progress.update(changes)
        if lines.take(progress):
            seconds.append(now[0])
    return seconds


@pytest.mark.parametrize(
    ("steps", "seconds"),
    [
        pytest.param([(0, {}), (1, {}), (6, {})], [0], id="nothing new"),
        pytest.param([(0, {}), (6, {"done": 142_000_000_000}), (9, {})], [0, 6], id="a percent more"),
        pytest.param([(0, {}), (6, {"done": 137_600_000_000, "rate": 1})], [0], id="less than a percent"),
        pytest.param(
            [(0, {}), (2, {"done": 142_000_000_000}), (4, {"done": 147_000_000_000}), (5, {})], [0, 5], id="too soon"
        ),
        pytest.param([(0, {}), (6, {"source": "modelscope.cn"}), (12, {"retries": 1})], [0, 6, 12], id="trouble"),
        pytest.param([(0, {}), (59, {"done": 137_600_000_000}), (60, {})], [0, 60], id="slow"),
        pytest.param([(0, {}), (60, {}), (120, {})], [0], id="stalled"),
    ],
)
def test_when_a_line_is_due(steps, seconds):
    assert shown(steps) == seconds
