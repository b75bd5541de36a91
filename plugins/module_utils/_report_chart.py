# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Where the bars of a chart lie, and which colours can be read. Private to this collection."""

from __future__ import annotations

import dataclasses
import math
import statistics
import typing as t
from collections.abc import Mapping, Sequence

from ansible_collections.llmfleet.serving.plugins.module_utils._report import Document, Json

# Colours by what they are for. Each text colour is legible on each ground that it is used on: see `contrast`.
PALETTE: Mapping[str, str] = {
    "paper": "#ffffff",
    "ground": "#f5f6f8",
    "line": "#d5d9e0",
    "ink": "#1b222c",
    "soft": "#525c6b",
    "link": "#0b57a4",
    "pass-ink": "#0f5c34",
    "pass-ground": "#e3f3ea",
    "warn-ink": "#6d4600",
    "warn-ground": "#fdf0d0",
    "fail-ink": "#9a1320",
    "fail-ground": "#fde8e8",
    "silent-ink": "#ffffff",
    "silent-ground": "#9a1320",
    "skip-ink": "#525c6b",
    "skip-ground": "#eceef2",
    "bar-current": "#1f6fb2",
    "bar-accepted": "#8fb8dc",
    "bar-reference": "#9aa3b0",
}
# Text colours, and the grounds that they are used on.
LEGIBLE = (
    *(("ink", ground) for ground in ("paper", "ground", "pass-ground", "warn-ground", "fail-ground", "skip-ground")),
    *(("soft", ground) for ground in ("paper", "ground", "skip-ground")),
    *(("link", ground) for ground in ("paper", "ground", "fail-ground")),
    *((f"{verdict}-ink", f"{verdict}-ground") for verdict in ("pass", "warn", "fail", "silent", "skip")),
    *((f"{verdict}-ink", "paper") for verdict in ("pass", "warn", "fail")),
)


def contrast(one: str, other: str) -> float:
    """The contrast ratio of two colours `#rrggbb`, from 1 to 21, as WCAG 2 defines it; text needs 4.5."""
    lighter, darker = sorted((_luminance(one), _luminance(other)), reverse=True)
    return (lighter + 0.05) / (darker + 0.05)


def _luminance(colour: str) -> float:
    channels = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [channel / 12.92 if channel <= 0.04045 else ((channel + 0.055) / 1.055) ** 2.4 for channel in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


# --- Bars


@dataclasses.dataclass(frozen=True)
class Bar:
    """One figure.

    :ivar label: what it is of.
    :ivar series: current, accepted or reference: its colour.
    :ivar low, high: the least and the greatest of the hosts; both are `value` where there is one.
    """

    label: str
    series: str
    value: float
    low: float
    high: float


WIDTH, LABELS, VALUES = 640, 190, 130
_ROW, _BAR, _AXIS = 24, 14, 22
# What is less is nothing, for a chart.
_LEAST = 1e-9


def axis(greatest: float) -> list[float]:
    """Where to draw lines: from 0 in steps of 1, 2 or 5 times a power of ten, up to what holds the greatest value."""
    if greatest < _LEAST:
        return [0.0, 1.0]
    rough = greatest / 4
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * (1 - 1e-9))
    return [round(step * number, 10) for number in range(math.ceil(greatest / step - 1e-9) + 1)]


def layout(bars: Sequence[Bar]) -> Json:
    """The chart as coordinates: `bars` from top to bottom, `ticks` from left to right, and its size.

    Labels stand left of the bars and values right of them, so that no text lies on a colour.
    """
    ticks = axis(max((figure.high for figure in bars), default=0.0))
    scale = (WIDTH - LABELS - VALUES) / ticks[-1]
    rows: list[Json] = []
    for number, figure in enumerate(bars):
        top = number * _ROW
        end = LABELS + figure.value * scale
        rows.append(
            {
                **dataclasses.asdict(figure),
                "x": LABELS,
                "y": top + (_ROW - _BAR) / 2,
                "width": round(max(end - LABELS, 1), 1),
                "height": _BAR,
                "middle": top + _ROW / 2,
                "label_x": LABELS - 8,
                "value_x": round(max(end, LABELS + figure.high * scale) + 8, 1),
                "low_x": round(LABELS + figure.low * scale, 1),
                "high_x": round(LABELS + figure.high * scale, 1),
            }
        )
    height = len(bars) * _ROW
    return {
        "width": WIDTH,
        "height": height + _AXIS,
        "bottom": height,
        "bars": rows,
        "ticks": [{"x": round(LABELS + tick * scale, 1), "label": f"{tick:g}"} for tick in ticks],
    }


# --- The charts of a report


def fleet_charts(document: Document) -> list[Json]:
    """For each service, over all hosts that have figures of it: tokens per second, and the time to the first token."""
    return _charts(document, document["hosts"])


def host_charts(document: Document, host: Json) -> list[Json]:
    """The same of one host."""
    return _charts(document, [host])


def _charts(document: Document, hosts: Sequence[Json]) -> list[Json]:
    figures = [figure for host in hosts for figure in host["figures"]]
    names = list(dict.fromkeys(figure["service"] for figure in figures))
    return [_chart(document, name, [figure for figure in figures if figure["service"] == name]) for name in names]


def _chart(document: Document, name: str, figures: Sequence[Json]) -> Json:
    reference = [
        Bar(f"{one['engine']} {one['version']}", "reference", *(one["tokens_per_second"],) * 3)
        for one in document["reference"]
    ]
    speed = [*reference, *_bars(figures, lambda row: row["output_tokens_per_second"])]
    first = _bars(figures, lambda row: (row["ttft_seconds"] or {}).get("p50"))
    return {
        "service": name,
        "hosts": len(figures),
        "speed": layout(speed),
        "ttft": layout(first) if first else None,
    }


def _bars(figures: Sequence[Json], pick: t.Callable[[Json], float | None]) -> list[Bar]:
    """The last accepted and the current figures of each concurrency: the median of the hosts, and their range."""
    values: dict[tuple[int, str], list[float]] = {}
    for figure in figures:
        for series in ("accepted", "current"):
            for row in (figure[series] or {"results": []})["results"]:
                value = pick(row)
                if value is not None:
                    values.setdefault((row["concurrency"], series), []).append(float(value))
    # "accepted" comes before "current" by the alphabet, too.
    return [
        Bar(str(concurrency), series, statistics.median(of), min(of), max(of))
        for (concurrency, series), of in sorted(values.items())
    ]
