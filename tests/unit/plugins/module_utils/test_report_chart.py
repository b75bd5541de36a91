# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Bars are as long as their figures, and texts can be read on their grounds."""

from __future__ import annotations

import pytest
import report_fleet
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.llmfleet.serving.plugins.module_utils import _report
from ansible_collections.llmfleet.serving.plugins.module_utils import _report_chart as chart


def test_contrast_is_that_of_wcag():
    assert chart.contrast("#000000", "#ffffff") == pytest.approx(21)
    assert chart.contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.005)
    assert chart.contrast("#123456", "#123456") == 1


@pytest.mark.parametrize(("text", "ground"), chart.LEGIBLE)
def test_texts_can_be_read(text, ground):
    assert chart.contrast(chart.PALETTE[text], chart.PALETTE[ground]) >= 4.5


@pytest.mark.parametrize(
    ("greatest", "ticks"),
    [
        (0, [0, 1]),
        (0.162, [0, 0.05, 0.1, 0.15, 0.2]),
        (6.3, [0, 2, 4, 6, 8]),
        (100, [0, 50, 100]),
        (757, [0, 200, 400, 600, 800]),
    ],
)
def test_axis(greatest, ticks):
    assert chart.axis(greatest) == ticks


@given(st.floats(1e-6, 1e9))
def test_axis_holds_the_greatest(greatest):
    ticks = chart.axis(greatest)
    assert ticks[-1] >= greatest * (1 - 1e-6)
    assert 3 <= len(ticks) <= 6
    assert ticks == sorted(set(ticks))


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=20))
def test_bars_are_in_the_drawing_and_to_scale(values):
    drawn = chart.layout([chart.Bar(str(value), "current", value, value * 0.9, value * 1.1) for value in values])
    for value, drawn_bar in zip(values, drawn["bars"]):
        assert drawn_bar["x"] + drawn_bar["width"] <= chart.WIDTH - chart.VALUES + 1
        assert drawn_bar["value_x"] <= chart.WIDTH - chart.VALUES + 10
        assert drawn_bar["y"] + drawn_bar["height"] <= drawn["bottom"]
        longest = max(values)
        if value > max(longest / 50, 1e-6):
            scale = max(one["width"] for one in drawn["bars"]) / longest
            assert drawn_bar["width"] == pytest.approx(value * scale, abs=0.2)


def document(size):
    found = {name: _report.Found.of(found) for name, found in report_fleet.fleet(size).items()}
    return _report.build(found, generated="2026-11-30T02:30:00Z", title="Fleet", stack="x")


def test_the_charts_of_a_fleet_show_the_median_and_the_range():
    report = document(64)
    (drawn,) = chart.fleet_charts(report)
    assert drawn["hosts"] == 62
    labels = [(drawn_bar["label"], drawn_bar["series"]) for drawn_bar in drawn["speed"]["bars"]]
    assert labels == [
        *(("ollama 0.5.11", "reference"), ("vllm 0.7", "reference")),
        *(("1", "accepted"), ("1", "current"), ("4", "accepted"), ("4", "current")),
    ]
    assert [drawn_bar["value"] for drawn_bar in drawn["speed"]["bars"]][:2] == [4.59, 6.3]
    assert drawn["speed"]["bars"][2]["low"] < drawn["speed"]["bars"][2]["value"] < drawn["speed"]["bars"][2]["high"]
    assert len(drawn["ttft"]["bars"]) == 4


def test_the_charts_of_a_host():
    report = document(1)
    (drawn,) = chart.host_charts(report, report["hosts"][0])
    assert all(drawn_bar["low"] == drawn_bar["high"] for drawn_bar in drawn["speed"]["bars"])


def test_without_figures_there_is_no_chart():
    report = document(2)
    for host in report["hosts"]:
        host["figures"] = []
    assert chart.fleet_charts(report) == []
