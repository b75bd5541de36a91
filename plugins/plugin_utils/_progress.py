# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The lines that tell how far a transfer is. Private to this collection."""

from __future__ import annotations

import time
import typing as t
from collections.abc import Callable

# Lines of one transfer come no closer than the first, and not farther apart than the second while bytes arrive.
_APART_S = 5.0
_SILENT_S = 60.0


class Lines:
    """One transfer as a reader sees it: a line when something has changed, but not every second.

    :param clock: seconds that only go forward.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._at = -_SILENT_S
        self._shown: tuple[t.Any, ...] = ()

    def take(self, progress: dict[str, t.Any]) -> str | None:
        """The line that is due, if any.

        :param progress: what the module wrote: the bytes `done` and `total`, the `rate` in bytes per second, the
            seconds `left_s`, the `source` by its name, the number of `retries`.
        """
        now = self._clock()
        done, news = progress["done"], (_percent(progress), progress.get("source"), progress.get("retries"))
        silent = now - self._at
        if silent < _APART_S or (self._shown == (done, *news)) or (silent < _SILENT_S and self._shown[1:] == news):
            return None
        self._at, self._shown = now, (done, *news)
        return describe(progress)


def describe(progress: dict[str, t.Any]) -> str:
    """A transfer in words: "34 %, 137.5 of 404.4 GB, 812.3 MB/s, 5 min 28 s left, from huggingface.co, 2 retries"."""
    total = progress["total"]
    unit, name = (1e9, "GB") if total >= 1e9 else (1e6, "MB")
    words = [
        f"{_percent(progress)} %",
        f"{progress['done'] / unit:.1f} of {total / unit:.1f} {name}",
        f"{progress['rate'] / 1e6:.1f} MB/s",
    ]
    if progress.get("left_s") is not None:
        words.append(f"{_duration(round(progress['left_s']))} left")
    if progress.get("source"):
        words.append(f"from {progress['source']}")
    if retries := progress.get("retries"):
        words.append("1 retry" if retries == 1 else f"{retries} retries")
    return ", ".join(words)


def _percent(progress: dict[str, t.Any]) -> int:
    return int(100 * progress["done"] / progress["total"]) if progress["total"] else 100


def _duration(seconds: int) -> str:
    minutes, seconds = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {seconds} s" if minutes else f"{seconds} s"
