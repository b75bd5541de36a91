# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Ways to compute SHA-256 of files in the page cache, each as bytes per second of one core or of several."""

from __future__ import annotations

import functools
import hashlib
import os
import subprocess
import time
import typing as t
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from ansible_collections.llmfleet.serving.plugins.module_utils._sha256 import Sha256

REFERENCE = "sha256sum"

_CHUNK = 1 << 20


class _Hash(t.Protocol):
    def update(self, data: memoryview, /) -> None:
        """Take more bytes."""


def ways(paths: Sequence[Path]) -> Mapping[str, Callable[[], float]]:
    """Bytes per second of each way, which hashes all files."""
    cores = os.cpu_count() or 1
    return {
        REFERENCE: functools.partial(_rate, paths, _sha256sum, 1),
        "hashlib": functools.partial(_rate, paths, functools.partial(_hash, hashlib.sha256), 1),
        "Sha256, which can be kept and resumed": functools.partial(_rate, paths, functools.partial(_hash, Sha256), 1),
        f"Sha256, {cores} threads": functools.partial(_rate, paths, functools.partial(_hash, Sha256), cores),
    }


def _rate(paths: Sequence[Path], run: Callable[[Path], None], threads: int) -> float:
    start = time.perf_counter()
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(run, paths))
    return sum(path.stat().st_size for path in paths) / (time.perf_counter() - start)


def _hash(new: Callable[[], _Hash], path: Path) -> None:
    state, buffer = new(), memoryview(bytearray(_CHUNK))
    with path.open("rb", buffering=0) as file:
        while count := file.readinto(buffer):
            state.update(buffer[:count])


def _sha256sum(path: Path) -> None:
    subprocess.run(["sha256sum", path], stdout=subprocess.DEVNULL, check=True)
