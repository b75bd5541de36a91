# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the link and the hub can do: ranges over many connections, read and thrown away.

``_null_download.py CONNECTIONS URL...``
"""

from __future__ import annotations

import http.client
import sys
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

RANGE = 8 << 20


def connect(url: str) -> http.client.HTTPConnection:
    return http.client.HTTPConnection(urlsplit(url).netloc)


def target(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.path}?{parts.query}"


def head(url: str) -> http.client.HTTPResponse:
    connection = connect(url)
    connection.request("HEAD", target(url))
    return connection.getresponse()


def ranges(url: str) -> list[tuple[str, int]]:
    """Where the hub redirects to, with the start of each range."""
    stored = head(url).headers["Location"]
    return [(stored, start) for start in range(0, int(head(stored).headers["Content-Length"]), RANGE)]


def read(pieces: list[tuple[str, int]]) -> None:
    """Read ranges over one connection."""
    connection = connect(pieces[0][0])
    buffer = bytearray(1 << 20)
    for url, start in pieces:
        connection.request("GET", target(url), headers={"Range": f"bytes={start}-{start + RANGE - 1}"})
        answer = connection.getresponse()
        while answer.readinto(buffer):
            pass


count = int(sys.argv[1])
with ThreadPoolExecutor(count) as pool:
    found = [piece for pieces in pool.map(ranges, sys.argv[2:]) for piece in pieces]
    list(pool.map(read, filter(None, (found[number::count] for number in range(count)))))
