# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import random

import gguf_build as build
import pytest
from gguf_build import STRING, key, split_keys, weights, whole
from hypothesis import given, settings
from hypothesis import strategies as st

from ansible_collections.llmfleet.serving.plugins.module_utils._errors import LlmError
from ansible_collections.llmfleet.serving.plugins.module_utils._gguf import Header, ValueType, read_header
from ansible_collections.llmfleet.serving.plugins.module_utils._merge import MergePlan, plan_merge, shard_names


def parse(data: bytes, name: str = "model.gguf") -> Header:
    return read_header(lambda offset, size: data[offset : offset + size], len(data), name)


def headers(files: list[bytes], name: str = "dir/model") -> list[Header]:
    return [parse(data, f"{name}-{no:05d}-of-{len(files):05d}.gguf") for no, data in enumerate(files, 1)]


def carry_out(plan: MergePlan, files: list[bytes]) -> bytes:
    merged = bytearray(plan.header)
    for copy in plan.copies:
        assert copy.target == len(merged)
        merged += files[copy.shard][copy.offset : copy.offset + copy.size]
    assert len(merged) == plan.size
    return bytes(merged)


def three_shards() -> list[bytes]:
    return build.shards(*build.small_model())


@settings(deadline=None)
@given(
    st.integers(0, 2**32), st.integers(0, 30), st.integers(1, 20), st.sampled_from([2, 3]), st.sampled_from([1, 32, 64])
)
def test_the_merged_file_is_the_model_before_it_was_split(seed, count, parts, version, alignment):
    rng = random.Random(seed)
    keys = build.random_keys(rng, tricky=False)
    tensors = build.random_tensors(rng, count)
    files = build.shards(keys, build.random_parts(rng, tensors, parts), version=version, alignment=alignment)

    merged = parse(carry_out(plan_merge(headers(files)), files))

    expected = whole([*keys, *split_keys(0, 0, count)], tensors, alignment=alignment)
    # Only dimensions of extent 1 at the end are left out, which no reader tells from dimensions that are not there.
    assert merged.keys[-1].key == "split.count"
    assert sorted(map(repr, merged.keys)) == sorted(map(repr, parse(expected).keys))
    assert merged.complete
    assert merged.version == 3
    assert [(tensor.name, tensor.type, tensor.offset, tensor.elements) for tensor in merged.tensors] == [
        (tensor.name, tensor.type, tensor.offset, tensor.elements) for tensor in parse(expected).tensors
    ]
    assert carry_out(plan_merge(headers(files)), files)[merged.data_offset :] == b"".join(
        build.pad(tensor.data, alignment) for tensor in tensors
    )


def test_split_count_moves_to_the_end_and_becomes_zero():
    keys, parts = build.small_model(1)
    files = [whole([*split_keys(0, 1, 2)[::-1], *keys], parts[0])]
    merged = parse(carry_out(plan_merge(headers(files)), files))
    assert [item.key for item in merged.keys][:2] == ["split.tensors.count", "split.no"]
    assert merged.keys[-1].key == "split.count"
    assert merged.split is not None
    assert merged.split.count == 0


def test_values_are_written_as_ggml_writes_them():
    keys = [
        key("s", STRING, "ab\0cd"),
        build.array("l", STRING, ["x\0", "\0", "y"]),
        key("b", ValueType.BOOL, 5),
        build.array("c", ValueType.BOOL, [0, 1, 255]),
    ]
    files = build.shards(keys, [[weights("t", (3, 1, 1)), weights("u", ())]])
    merged = parse(carry_out(plan_merge(headers(files)), files))
    assert [item.raw for item in merged.keys[:4]] == [
        build.string("ab"),
        build.string("x") + build.string("") + build.string("y"),
        b"\1",
        b"\0\1\1",
    ]
    assert [tensor.shape for tensor in merged.tensors] == [(3,), (1,)]


def test_a_shard_without_tensors_is_no_copy():
    keys, parts = build.small_model(2)
    files = build.shards(keys, [[], parts[0], [], parts[1]])
    plan = plan_merge(headers(files))
    assert [copy.shard for copy in plan.copies] == [1, 3]
    assert plan.tensors == 4


def test_shard_names():
    assert shard_names("a-00001-of-00003.gguf") == [f"a-0000{number}-of-00003.gguf" for number in (1, 2, 3)]


@pytest.mark.parametrize("name", ["a.gguf", "a-00002-of-00003.gguf", "a-1-of-3.gguf", "-00001-of-00003.gguf"])
def test_refuses_names_that_are_not_of_a_first_shard(name):
    with pytest.raises(LlmError, match=f"^{name} is not the name of a first shard"):
        shard_names(name)


def refusal(shards: list[Header]) -> str:
    with pytest.raises(LlmError) as error:
        plan_merge(shards)
    return str(error.value)


def renamed(data: bytes, number: int, count: int = 3, name: str = "model") -> Header:
    return parse(data, f"dir/{name}-{number:05d}-of-{count:05d}.gguf")


def test_refuses_shards_out_of_order():
    first, second, third = headers(three_shards())
    assert refusal([first, third, second]).startswith(
        "dir/model-00003-of-00003.gguf is shard 3 of 3 by its metadata, but stands in the place of shard 2."
    )


def test_refuses_a_shard_given_twice():
    first, second, _unused = headers(three_shards())
    assert "00002-of-00003.gguf is shard 2 of 3 by its metadata, but stands in the place of shard 3" in refusal(
        [first, second, second]
    )


def test_refuses_a_shard_under_the_name_of_another():
    one, two, three = three_shards()
    assert refusal([renamed(one, 1), renamed(three, 2), renamed(two, 3)]).startswith(
        "dir/model-00002-of-00003.gguf is shard 3 of 3 by its metadata, but stands in the place of shard 2."
    )


def test_refuses_names_that_count_from_zero():
    one, two, three = three_shards()
    assert refusal([renamed(one, 0), renamed(two, 1), renamed(three, 2)]) == (
        "dir/model-00000-of-00003.gguf is shard 1 of 3 by its metadata; expected NAME-00001-of-00003.gguf. "
        "Give it the name it was published with."
    )


def test_refuses_a_name_with_another_count():
    one, two, three = three_shards()
    assert "model-00001-of-00004.gguf is shard 1 of 3 by its metadata; expected NAME-00001-of-00003.gguf" in refusal(
        [renamed(one, 1, 4), renamed(two, 2, 4), renamed(three, 3, 4)]
    )


def test_refuses_names_of_two_models():
    one, two, three = three_shards()
    assert refusal([renamed(one, 1), renamed(two, 2, name="other"), renamed(three, 3)]) == (
        "dir/other-00002-of-00003.gguf is from another model than dir/model-00001-of-00003.gguf: "
        "their names start differently. "
        "Give the shards of one model, as they were published together."
    )


def test_refuses_when_shards_are_missing():
    assert refusal(headers(three_shards())[:2]) == (
        "dir/model-00001-of-00003.gguf is one of 3 shards, but 2 are given. Give all, in order."
    )


def test_refuses_a_shard_of_a_model_with_another_number_of_shards():
    two_of_four = build.shards(*build.small_model(4))[1]
    one, _unused, three = three_shards()
    assert refusal([renamed(one, 1), renamed(two_of_four, 2), renamed(three, 3)]) == (
        "dir/model-00002-of-00003.gguf is from another model than dir/model-00001-of-00003.gguf: "
        "it is one of 4 shards with 8 tensors in all, not of 3 with 6. "
        "Give the shards of one model, as they were published together."
    )


def test_refuses_shards_whose_tensors_do_not_add_up():
    _unused, parts = build.small_model()
    foreign = whole(split_keys(1, 3, 6), [*parts[1], weights("more", (8,))])
    one, _unused, three = three_shards()
    assert refusal([renamed(one, 1), renamed(foreign, 2), renamed(three, 3)]).startswith(
        "The shards of dir/model-00001-of-00003.gguf have 7 tensors in all; expected 6 (split.tensors.count)."
    )


def test_refuses_a_tensor_that_two_shards_have():
    _unused, parts = build.small_model()
    foreign = whole(split_keys(1, 3, 6), parts[0])
    one, _unused, three = three_shards()
    assert refusal([renamed(one, 1), renamed(foreign, 2), renamed(three, 3)]) == (
        "dir/model-00002-of-00003.gguf has the tensor 'blk.0.attn_norm.weight', "
        "which dir/model-00001-of-00003.gguf has too. "
        "Give the shards of one model, as they were published together."
    )


@pytest.mark.parametrize(
    "conflict", [key("general.architecture", STRING, "qwen2"), key("general.unknown", ValueType.UINT8, 1)]
)
def test_refuses_metadata_that_the_first_shard_does_not_share(conflict):
    _unused, parts = build.small_model()
    foreign = whole([conflict, *split_keys(1, 3, 6)], parts[1])
    one, _unused, three = three_shards()
    message = refusal([renamed(one, 1), renamed(foreign, 2), renamed(three, 3)])
    assert message.startswith("dir/model-00002-of-00003.gguf is from another model than dir/model-00001-of-00003.gguf")
    assert "differs in the two" in message


def test_accepts_metadata_that_all_shards_share():
    keys, parts = build.small_model()
    same = whole([keys[0], *split_keys(1, 3, 6)], parts[1])
    one, _unused, three = three_shards()
    assert plan_merge([renamed(one, 1), renamed(same, 2), renamed(three, 3)]).tensors == 6


def test_refuses_shards_of_different_alignment():
    keys, parts = build.small_model(2)
    first = whole([*keys, *split_keys(0, 2, 4)], parts[0], alignment=64)
    second = whole(split_keys(1, 2, 4), parts[1])
    assert refusal([renamed(first, 1, 2), renamed(second, 2, 2)]).startswith(
        "dir/model-00002-of-00002.gguf is laid out with alignment 32, dir/model-00001-of-00002.gguf with 64"
    )


@pytest.mark.parametrize("number", [1, 2, 3])
def test_refuses_a_truncated_shard(number):
    files = three_shards()
    size = len(files[number - 1])
    files[number - 1] = files[number - 1][:-1]
    assert refusal(headers(files)) == (
        f"dir/model-0000{number}-of-00003.gguf is truncated: it has {size - 1} bytes; expected {size} by its header. "
        "Get it again."
    )


def test_refuses_a_shard_with_bytes_behind_it():
    files = three_shards()
    files[1] += b"\0"
    assert "model-00002-of-00003.gguf is followed by bytes that do not belong to it" in refusal(headers(files))


def test_refuses_a_file_that_was_never_split():
    keys, parts = build.small_model(1)
    assert refusal([renamed(whole(keys, parts[0]), 1, 1)]) == (
        "dir/model-00001-of-00001.gguf is not a shard: it has no split.count. "
        "There is nothing to merge: use it as it is."
    )


def test_refuses_a_merged_file():
    keys, parts = build.small_model(1)
    merged = whole([*keys, *split_keys(0, 0, 2)], parts[0])
    assert "its split.count is 0, as in a merged file" in refusal([renamed(merged, 1, 1)])
