# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What one writes in an afternoon: `requests`, a thread for each file, SHA-256 on the way.

``_requests_download.py THREADS FOLDER "SHA256 URL"...``
"""

from __future__ import annotations

import hashlib
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import requests


def download(wanted: str) -> None:
    sha256, url = wanted.split()
    digest = hashlib.sha256()
    with requests.get(url, stream=True, timeout=60) as answer, Path(sys.argv[2], Path(url).name).open("wb") as file:
        answer.raise_for_status()
        for chunk in answer.iter_content(1 << 20):
            digest.update(chunk)
            file.write(chunk)
    if digest.hexdigest() != sha256:
        raise ValueError(url)


with ThreadPoolExecutor(int(sys.argv[1])) as pool:
    list(pool.map(download, sys.argv[3:]))
