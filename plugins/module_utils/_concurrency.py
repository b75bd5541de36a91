# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""How many connections a transfer should use. Private to this collection."""

from __future__ import annotations

_START = 2
# More connections must bring this much; fewer may cost that much. Between the two is what measuring is wrong by.
_WORTH, _HARMLESS = 1.12, 0.97
# Measurements to rest for when neither more nor fewer were better. What a link gives may change, so tries never end.
_REST = 10


class Concurrency:
    """Finds the number of connections behind which more bring nothing.

    It doubles while the rate grows by it, and halves while it does not shrink by it: servers and links that give one
    client a fixed rate are left in peace, those that give each connection a rate of its own are used.

    :param most: never more than these.
    :ivar limit: use so many now.
    """

    def __init__(self, most: int) -> None:
        self.limit = min(_START, most)
        self._most = most
        self._stood = self.limit
        self._rate = 0.0
        self._rest = 0
        self._up = True

    def observe(self, rate: float) -> None:
        """Take the rate that `limit` connections together had, and decide.

        :param rate: in any unit; measured since the last call, without the moments in which connections were new.
        """
        if not rate and self._rate:
            # Whether all of the source is silent, or only these connections, another one will show.
            self.limit = min(self._stood + 1, self._most)
            return
        if self.limit != self._stood:
            self._judge(rate)
        else:
            self._rate = rate
            self._rest -= 1
        if self._rest <= 0:
            self._try()

    def _judge(self, rate: float) -> None:
        if rate >= self._rate * (_WORTH if self._up else _HARMLESS):
            self._stood, self._rate = self.limit, rate
            return
        self.limit = self._stood
        self._rest = _REST
        self._up = not self._up

    def _try(self) -> None:
        wanted = self._stood * 2 if self._up else self._stood // 2
        self.limit = min(max(wanted, 1), self._most)
        if self.limit == self._stood:  # at an end already: the next try goes the other way
            self._rest = _REST
            self._up = not self._up
