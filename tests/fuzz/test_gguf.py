# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Long search for bytes that the GGUF parser or the merge plan answer with anything but a result or an LlmError.

    FUZZ_EXAMPLES=100000 .venv/bin/pytest tests/fuzz/test_gguf.py -q

Not part of the unit tests. Each example takes a few milliseconds. Hypothesis keeps what it found in .hypothesis/ and
tries it first the next time; a finding becomes a case of tests/gguf_cases.py. The corpus is all of those cases, and
sound files; what each example reads, holds in memory and takes of time is bounded.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import tracemalloc
import typing as t

import gguf_build as build
from gguf_cases import FURTHER_BAD, LLAMA_CPP_BAD, LLAMA_CPP_CUT, LLAMA_CPP_GOOD, LLAMA_CPP_LENIENT
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ansible_collections.llmfleet.serving.plugins.module_utils._errors import LlmError
from ansible_collections.llmfleet.serving.plugins.module_utils._gguf import (
    MAX_HEADER_BYTES,
    Header,
    padded,
    read_header,
)
from ansible_collections.llmfleet.serving.plugins.module_utils._merge import plan_merge

thorough = settings(
    max_examples=int(os.environ.get("FUZZ_EXAMPLES", "2000")), deadline=None, suppress_health_check=list(HealthCheck)
)


def corpus() -> list[bytes]:
    rng = random.Random(0)
    sound = [build.whole(build.random_keys(rng), build.random_tensors(rng, 4)) for _unused in range(20)]
    bad = [data for data, _unused in (LLAMA_CPP_BAD | LLAMA_CPP_LENIENT | FURTHER_BAD).values()]
    good = [*LLAMA_CPP_GOOD.values(), *LLAMA_CPP_CUT.values(), *build.shards(*build.small_model())]
    return [*sound, *bad, *good]


# Numbers at which lengths and counts overflow something.
EDGES = [0, 1, 2, 7, 8, 9, 12, 13, 31, 32, 255, 2**16, 2**31 - 1, 2**31, 2**32 - 1, 2**62, 2**63 - 1, 2**63, 2**64 - 1]


@st.composite
def mutated(draw: st.DrawFn, seeds: list[bytes]) -> bytes:
    """A file of the corpus with bytes changed, numbers put in, or a piece cut out or doubled."""
    data = bytearray(draw(st.sampled_from(seeds)))
    for _unused in range(draw(st.integers(1, 6))):
        position = draw(st.integers(0, len(data)))
        how = draw(st.sampled_from(["byte", "number", "cut", "double", "insert"]))
        if how == "byte":
            data[position : position + 1] = bytes([draw(st.integers(0, 255))])
        elif how == "number":
            width = draw(st.sampled_from([2, 4, 8]))
            number = draw(st.sampled_from(EDGES)) % 256**width
            data[position : position + width] = number.to_bytes(width, "little")
        elif how == "insert":
            data[position:position] = draw(st.binary(max_size=40))
        else:
            end = draw(st.integers(position, len(data)))
            data[position:end] = data[position:end] * (2 if how == "double" else 0)
    return bytes(data)


def parse(data: bytes, name: str = "x.gguf") -> Header:
    return read_header(lambda offset, size: data[offset : offset + size], len(data), name)


@contextlib.contextmanager
def bounded(memory: int) -> t.Iterator[None]:
    """The block needs at most so many bytes at a time; one that hangs is interrupted."""

    def hangs(*_unused: object) -> t.NoReturn:
        raise AssertionError("still at it after 30 s")

    before = signal.signal(signal.SIGALRM, hangs)
    signal.alarm(30)
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] <= memory
    finally:
        tracemalloc.stop()
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


@thorough
@given(mutated(corpus()), st.sampled_from([b"\0", b"\xff", b"\1\0\0\0\0\0\0\0"]))
def test_a_header_of_a_huge_file_is_cheap(data, filler):
    """Behind the bytes comes a terabyte of others, so nothing that they claim is beyond the end."""
    reads = []

    def read(offset: int, size: int) -> bytes:
        reads.append(size)
        piece = data[offset : offset + size]
        return piece + (filler * (size // len(filler) + 1))[: size - len(piece)]

    with bounded(4 * MAX_HEADER_BYTES), contextlib.suppress(LlmError):
        read_header(read, 1 << 40, "x.gguf")
    assert sum(reads) <= MAX_HEADER_BYTES


@thorough
@given(mutated(corpus()))
def test_a_small_file_costs_little(data):
    with bounded(1 << 20), contextlib.suppress(LlmError):
        parse(data)


@thorough
@given(mutated(corpus()))
def test_a_header_is_sound_or_refused(data):
    try:
        header = parse(data)
    except LlmError:
        return
    assert header.data_offset <= len(data)
    assert header.data_size == sum(padded(tensor.size, header.alignment) for tensor in header.tensors)
    for item in header.keys:
        item.value()


SHARDS = build.shards(*build.small_model())


@thorough
@given(st.lists(mutated(SHARDS) | st.sampled_from(SHARDS), min_size=1, max_size=4))
def test_a_merge_is_sound_or_refused(files):
    try:
        shards = [parse(data, f"m-{no:05d}-of-{len(files):05d}.gguf") for no, data in enumerate(files, 1)]
        plan = plan_merge(shards)
    except LlmError:
        return
    merged = bytearray(plan.header)
    for copy in plan.copies:
        assert copy.target == len(merged)
        merged += files[copy.shard][copy.offset : copy.offset + copy.size]
    header = parse(bytes(merged))
    assert header.complete
    assert len(header.tensors) == plan.tensors
    data = [file[shard.data_offset :] for file, shard in zip(files, shards, strict=True)]
    assert bytes(merged[header.data_offset :]) == b"".join(data)
