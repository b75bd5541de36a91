# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""GPUs for tests on a machine without any: the library in testbed/cuda in the place of libcuda and cuBLAS."""

from __future__ import annotations

import atexit
import functools
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

from ansible_collections.llmfleet.serving.plugins.module_utils import _cuda

SOURCE = Path(__file__).parent / "testbed" / "cuda"


@functools.cache
def library() -> str:
    """Path of the library, compiled once; without a compiler, the test is skipped."""
    missing = [tool for tool in ("cc", "make") if not shutil.which(tool)]
    if missing:
        pytest.skip(f"no {' and no '.join(missing)} to compile the stand-in for libcuda with")
    folder = tempfile.mkdtemp(prefix="mock-cuda-")
    atexit.register(shutil.rmtree, folder)
    subprocess.run(["make", "-s", "-C", SOURCE, f"OUT={folder}"], check=True)
    return f"{folder}/libcuda.so.1"


def install(monkeypatch: pytest.MonkeyPatch, words: str = "") -> None:
    """Let CUDA be that of the host that `words` describe; see testbed/cuda/cuda.c. What is worked on is small."""
    monkeypatch.setattr(_cuda, "LIBCUDA", library())
    monkeypatch.setattr(_cuda, "COPY_SIZE", 100_000)
    monkeypatch.setattr(_cuda, "ORDER", 128)
    monkeypatch.setattr(_cuda, "PRODUCTS", 1)
    monkeypatch.setattr(_cuda, "BATCHES", 2)
    monkeypatch.setenv("CUDA_DEVICE_ORDER", "FASTEST_FIRST")
    monkeypatch.setenv("MOCK_CUDA", words)
