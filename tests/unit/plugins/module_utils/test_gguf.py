# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import struct
import tracemalloc

import gguf_build as build
import pytest
from gguf_build import BOOL, STRING, array, gguf, key, string
from gguf_cases import FURTHER_BAD, LLAMA_CPP_BAD, LLAMA_CPP_CUT, LLAMA_CPP_GOOD, LLAMA_CPP_LENIENT
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ansible_collections.llmfleet.serving.plugins.module_utils._errors import LlmError
from ansible_collections.llmfleet.serving.plugins.module_utils._gguf import (
    MAX_HEADER_BYTES,
    TENSOR_TYPES,
    KeyValue,
    Split,
    ValueType,
    padded,
    read_header,
)

ALIGNMENT = "general.alignment"
U8, U32 = ValueType.UINT8, ValueType.UINT32
F32 = 0


def parse(data, size=None):
    return read_header(
        lambda offset, count: data[offset : offset + count], len(data) if size is None else size, "x.gguf"
    )


def small():
    keys, parts = build.small_model()
    return build.shards(keys, parts)[0]


@pytest.mark.parametrize(("data", "message"), LLAMA_CPP_BAD.values(), ids=LLAMA_CPP_BAD)
def test_refuses_what_llama_cpp_refuses(data, message):
    with pytest.raises(
        LlmError, match=r"^x\.gguf is not a usable GGUF file: .*Get it again from its origin\.$"
    ) as raised:
        parse(data)
    assert message in str(raised.value)


NO_USE = {**LLAMA_CPP_LENIENT, **FURTHER_BAD}


@pytest.mark.parametrize(("data", "message"), NO_USE.values(), ids=NO_USE)
def test_refuses_what_no_tool_can_use(data, message):
    with pytest.raises(LlmError) as raised:
        parse(data)
    assert message in str(raised.value)


@pytest.mark.parametrize("data", LLAMA_CPP_GOOD.values(), ids=LLAMA_CPP_GOOD)
def test_accepts_what_llama_cpp_loads(data):
    assert parse(data).complete


def test_all_handcrafted_files_of_llama_cpp_are_here():
    cases = (LLAMA_CPP_BAD, LLAMA_CPP_LENIENT, LLAMA_CPP_CUT, LLAMA_CPP_GOOD)
    assert sum(map(len, cases)) == 33
    assert not parse(LLAMA_CPP_CUT["DATA_NOT_ENOUGH_DATA"]).complete


@pytest.mark.parametrize(
    ("cut", "complete"),
    [(0, True), (1, False), (32, False)],
)
def test_tells_whether_the_data_is_complete(cut, complete):
    data = LLAMA_CPP_GOOD["TENSORS_SUCCESS"]
    assert parse(data[: len(data) - cut]).complete is complete
    assert not parse(data + b"\0").complete


def test_a_file_without_tensors_may_end_with_its_last_key():
    header = parse(gguf([key("k", U32, 1)])[: 24 + len(key("k", U32, 1))])
    assert header.complete
    assert (header.data_offset, header.data_size) == (41, 0)


def test_reads_everything_of_a_shard():
    header = parse(small())
    assert header.version == 3
    assert header.alignment == 32
    assert header.complete
    assert header.split == Split(no=0, count=3, tensors=6)
    assert header.value("general.architecture") == "llama"
    assert header.value("llama.context_length") == 4096
    assert header.value("tokenizer.ggml.tokens") == ["<s>", "</s>", "größe", "\n"]
    assert header.value("tokenizer.ggml.add_bos_token") is True
    assert header.value("no.such.key") is None
    assert [(tensor.name, tensor.shape, tensor.offset, tensor.size) for tensor in header.tensors] == [
        ("blk.0.attn_norm.weight", (5,), 0, 20),
        ("blk.0.ffn_up.weight", (256, 3), 32, 432),
    ]
    assert header.data_size == 32 + 448
    start = header.data_offset
    assert list(header.padding()) == [
        (start + 20, 12, "blk.0.attn_norm.weight"),
        (start + 32 + 432, 16, "blk.0.ffn_up.weight"),
    ]


def test_reads_version_2():
    assert parse(build.whole([key("k", U32, 7)], [], version=2)).version == 2


def test_values_with_invalid_utf8_are_shown_with_replacement_characters():
    header = parse(gguf([key("k", STRING, b"a\xff"), array("l", BOOL, [0, 5])]))
    assert header.value("k") == "a\ufffd"
    assert header.value("l") == [False, True]


def test_reads_no_byte_twice_and_little_more_than_the_header():
    tokens = array("tokenizer.ggml.tokens", STRING, [f"token {number}" for number in range(200_000)])
    data = build.whole([tokens], [build.weights("t", (1 << 23,), F32)])
    reads = []

    def read(offset, size):
        reads.append((offset, size))
        return data[offset : offset + size]

    header = read_header(read, len(data), "x.gguf")
    assert header.complete
    assert [offset for offset, _unused in reads] == [
        sum(size for _unused, size in reads[:no]) for no in range(len(reads))
    ]
    assert sum(size for _unused, size in reads) <= 4 * header.data_offset
    assert len(reads) <= 6


def test_refuses_a_source_that_ends_early():
    data = small()
    with pytest.raises(LlmError, match=r"x\.gguf ended at byte 100 of .*changed meanwhile"):
        parse(data[:100], size=len(data))


@pytest.mark.parametrize(
    ("head", "filler"),
    [
        pytest.param(string("k") + struct.pack("<iiQ", 9, STRING, 1 << 36), string(bytes(56)), id="strings"),
        pytest.param(string("k") + struct.pack("<iiQ", 9, U8, 1 << 38), b"\0", id="numbers"),
        pytest.param(struct.pack("<Q", 1 << 38), b"\0", id="key"),
    ],
)
def test_a_hostile_header_of_a_huge_file_costs_little(head, filler):
    """The file is as long as it claims: only the limit on headers ends this."""
    data = b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + head + filler * (MAX_HEADER_BYTES // len(filler))
    tracemalloc.start()
    with pytest.raises(LlmError, match=f"expected a header of at most {MAX_HEADER_BYTES} bytes|expected at most"):
        parse(data, size=1 << 42)
    _unused, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 64 << 20


keys_strategy = st.integers(0, 2**32).map(lambda seed: build.random_keys(build.random.Random(seed)))
tensors_strategy = st.builds(
    lambda seed, count: build.random_tensors(build.random.Random(seed), count), st.integers(0, 2**32), st.integers(0, 5)
)


@settings(deadline=None)
@given(keys_strategy, tensors_strategy, st.sampled_from([2, 3]), st.sampled_from([1, 32, 64, 4096]))
def test_what_is_built_is_what_is_parsed(keys, tensors, version, alignment):
    data = build.whole(keys, tensors, version=version, alignment=alignment)
    header = parse(data)
    assert header.complete
    assert (header.version, header.alignment) == (version, alignment)
    declared = [key(ALIGNMENT, U32, alignment)] if alignment != 32 else []
    assert [encode(item) for item in header.keys] == keys + declared
    assert [(tensor.name, tensor.shape, tensor.type) for tensor in header.tensors] == [
        (tensor.name, tensor.shape, tensor.kind) for tensor in tensors
    ]
    assert len(header.tensors) == len(tensors)
    for tensor, built in zip(header.tensors, tensors):
        start = header.data_offset + tensor.offset
        assert data[start : start + tensor.size] == built.data


def encode(item: KeyValue) -> bytes:
    kind = struct.pack("<i", item.type)
    if item.count is not None:
        kind = struct.pack("<iiQ", ValueType.ARRAY, item.type, item.count)
    return string(item.key) + kind + item.raw


@settings(deadline=None)
@given(st.integers(0, len(small()) - 1))
def test_any_prefix_is_an_error_or_an_incomplete_file(cut):
    try:
        header = parse(small()[:cut])
    except LlmError:
        return
    assert not header.complete


@settings(deadline=None)
@given(st.data())
def test_any_mutation_is_an_error_or_a_sound_header(data):
    content = bytearray(small())
    for _unused in range(data.draw(st.integers(1, 4))):
        position = data.draw(st.integers(0, len(content) - 1))
        content[position] = data.draw(st.integers(0, 255))
    try:
        header = parse(bytes(content))
    except LlmError:
        return
    assert header.data_offset <= len(content)
    assert all(tensor.type in TENSOR_TYPES for tensor in header.tensors)
    assert header.data_size == sum(padded(tensor.size, header.alignment) for tensor in header.tensors)
    for item in header.keys:
        item.value()


@settings(deadline=None)
@given(st.binary(max_size=300))
@example(b"GGUF")
def test_any_bytes_are_an_error_or_a_sound_header(content):
    for prefix in (b"", b"GGUF\3\0\0\0", b"GGUF\3\0\0\0" + struct.pack("<QQ", 1, 1)):
        try:
            header = parse(prefix + content)
        except LlmError:
            continue
        assert header.data_offset <= len(prefix + content)
