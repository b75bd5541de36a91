# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What clients asked for, and what they got."""

from __future__ import annotations

import dataclasses
import threading
import typing as t
from dataclasses import dataclass, field

from testbed.hub.messages import Request, Transfer


@dataclass
class Record:
    """The requests for one path on one host.

    `bytes` counts what was handed to the kernel for sending. `ranges` has the Range header of each request that had
    one. `authorization` says whether any request had a token with it.
    """

    requests: int = 0
    bytes: int = 0
    statuses: list[int] = field(default_factory=list)
    ranges: list[str] = field(default_factory=list)
    authorization: bool = False


class Stats:
    """Records by host (``hub``, ``cdn``) and subject."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._records: dict[str, dict[str, Record]] = {}
        self.clear()

    def clear(self) -> None:
        """Start to count anew."""
        with self._lock:
            self._records = {"hub": {}, "cdn": {}}

    def started(self, host: str, request: Request, transfer: Transfer) -> Record:
        """Count a reply that is about to be sent: a client that has its last byte must find it counted."""
        with self._lock:
            record = self._records[host].setdefault(transfer.reply.subject, Record())
            record.requests += 1
            record.bytes += transfer.sent_length
            record.statuses.append(int(transfer.reply.status))
            record.authorization |= "authorization" in request.headers
            if "range" in request.headers:
                record.ranges.append(request.headers["range"])
            return record

    def unsent(self, record: Record, count: int) -> None:
        """Take back the bytes that could not be sent because the client went away."""
        with self._lock:
            record.bytes -= count

    def snapshot(self) -> dict[str, dict[str, dict[str, t.Any]]]:
        """Return the records as plain data: ``snapshot()["cdn"]["owner/name/file"]["bytes"]``."""
        with self._lock:
            return {
                host: {subject: dataclasses.asdict(record) for subject, record in records.items()}
                for host, records in self._records.items()
            }
