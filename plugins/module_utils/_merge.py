# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What merging the shards of a GGUF model means, as a plan without any input or output. Private to this collection.

The merged file is a new header and one contiguous range of each shard, because the data of a shard is padded like that
of the whole. Header and ranges together are byte for byte what `llama-gguf-split --merge` (llama.cpp) writes; its
rules stand at the functions here. One thing differs: an alignment other than 32, which that tool keeps in the metadata
but not in the layout, so that its result does not load, is kept in both.
"""

from __future__ import annotations

import re
import struct
import typing as t
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import PurePath

from ansible_collections.llmfleet.serving.plugins.module_utils._errors import LlmError
from ansible_collections.llmfleet.serving.plugins.module_utils._gguf import (
    VERSION,
    Header,
    KeyValue,
    Split,
    Tensor,
    ValueType,
    padded,
    strings,
)

# llama.cpp's llama_split_path(); numbers in names count from 1, split.no counts from 0.
_SHARD_NAME = re.compile(r"(?P<prefix>.+)-(?P<number>[0-9]{5})-of-(?P<count>[0-9]{5})\.gguf", re.DOTALL)

_ONE_MODEL = "Give the shards of one model, as they were published together."


class RangeCopy(t.NamedTuple):
    """Bytes that go from a shard to the merged file as they are.

    :ivar shard: index of the shard, from 0.
    :ivar offset: where they start in the shard.
    :ivar size: how many they are.
    :ivar target: where they start in the merged file.
    """

    shard: int
    offset: int
    size: int
    target: int


@dataclass(frozen=True)
class MergePlan:
    """Everything that writing the merged file takes.

    :ivar header: the first bytes of the merged file.
    :ivar copies: the rest of it, in order and without gaps; a shard without data has none.
    :ivar size: bytes of the merged file.
    :ivar tensors: number of tensors in it.
    """

    header: bytes
    copies: tuple[RangeCopy, ...]
    size: int
    tensors: int


def shard_names(first: str) -> list[str]:
    """The file names of all shards, in order, from that of the first: model-00001-of-00003.gguf."""
    name = _shard_name(first)
    if name is None or int(name["number"]) != 1:
        raise LlmError(f"{first} is not the name of a first shard; expected NAME-00001-of-0000N.gguf.")
    count = int(name["count"])
    return [f"{name['prefix']}-{number:05d}-of-{count:05d}.gguf" for number in range(1, count + 1)]


def plan_merge(shards: Sequence[Header]) -> MergePlan:
    """Check that the files are all shards of one model, in order and complete, and plan their merge.

    :param shards: headers; their names must be file names or end in them.
    :raises LlmError: naming the shard that does not fit, and why.
    """
    if not shards:
        raise LlmError("No shard is given; expected the first one, or all in order.")
    first = shards[0]
    split = _split(first)
    for index, shard in enumerate(shards):
        _require_place(shard, index, first)
        _require_same_model(shard, first)
        require_complete(shard)
    if len(shards) != split.count:
        raise LlmError(f"{first.name} is one of {split.count} shards, but {len(shards)} are given. Give all, in order.")
    tensors = _merged_tensors(shards)
    if len(tensors) != split.tensors:
        raise LlmError(
            f"The shards of {first.name} have {len(tensors)} tensors in all; expected {split.tensors} "
            "(split.tensors.count). One of them is from another model: get them again from one origin."
        )
    header = _merged_header(first, tensors)
    copies = tuple(_copies(shards, len(header)))
    return MergePlan(header, copies, len(header) + sum(shard.data_size for shard in shards), len(tensors))


def _shard_name(path: str) -> re.Match[str] | None:
    return _SHARD_NAME.fullmatch(PurePath(path).name)


def _split(shard: Header) -> Split:
    if shard.split is None or shard.split.count == 0:
        found = "it has no split.count" if shard.split is None else "its split.count is 0, as in a merged file"
        raise LlmError(f"{shard.name} is not a shard: {found}. There is nothing to merge: use it as it is.")
    return shard.split


def _require_place(shard: Header, index: int, first: Header) -> None:
    """Name, split.no and split.count must all say that this is shard number `index`."""
    split, expected = _split(shard), _split(first)
    if split.no != index:
        raise LlmError(
            f"{shard.name} is shard {split.no + 1} of {split.count} by its metadata, but stands in the place of shard "
            f"{index + 1}. Give each shard once and in order, under the name it was published with."
        )
    if (split.count, split.tensors) != (expected.count, expected.tensors):
        raise LlmError(
            f"{shard.name} is from another model than {first.name}: it is one of {split.count} shards with "
            f"{split.tensors} tensors in all, not of {expected.count} with {expected.tensors}. {_ONE_MODEL}"
        )
    name, first_name = _shard_name(shard.name), _shard_name(first.name)
    wanted = f"-{index + 1:05d}-of-{split.count:05d}.gguf"
    if name is None or not shard.name.endswith(wanted):
        raise LlmError(
            f"{shard.name} is shard {index + 1} of {split.count} by its metadata; expected NAME{wanted}. Give it "
            "the name it was published with."
        )
    if first_name is None or name["prefix"] != first_name["prefix"]:
        raise LlmError(
            f"{shard.name} is from another model than {first.name}: their names start differently. {_ONE_MODEL}"
        )


def _require_same_model(shard: Header, first: Header) -> None:
    """What a later shard says besides its place must be what the first says: only the first one's metadata is kept."""
    known = {item.key: item for item in first.keys}
    for item in shard.keys:
        if not item.key.startswith("split.") and known.get(item.key) != item:
            raise LlmError(
                f"{shard.name} is from another model than {first.name}: the key {item.key!r} differs in the two. "
                f"{_ONE_MODEL}"
            )
    if shard.alignment != first.alignment:
        raise LlmError(
            f"{shard.name} is laid out with alignment {shard.alignment}, {first.name} with {first.alignment}: "
            "their data cannot follow one another. Split the model again with one tool."
        )


def require_complete(shard: Header) -> None:
    """:raises LlmError: when the file has more or fewer bytes than its header speaks of."""
    if not shard.complete:
        expected = shard.data_offset + shard.data_size
        state = "truncated" if shard.file_size < expected else "followed by bytes that do not belong to it"
        raise LlmError(
            f"{shard.name} is {state}: it has {shard.file_size} bytes; expected {expected} by its header. Get it again."
        )


def _merged_tensors(shards: Sequence[Header]) -> list[Tensor]:
    """All tensors, at their offsets in the merged data section."""
    merged: list[Tensor] = []
    owners: dict[str, str] = {}
    base = 0
    for shard in shards:
        for tensor in shard.tensors:
            if tensor.name in owners:
                raise LlmError(
                    f"{shard.name} has the tensor {tensor.name!r}, which {owners[tensor.name]} has too. {_ONE_MODEL}"
                )
            owners[tensor.name] = shard.name
            merged.append(tensor._replace(offset=base + tensor.offset))
        base += shard.data_size
    return merged


def _copies(shards: Sequence[Header], start: int) -> Iterator[RangeCopy]:
    for index, shard in enumerate(shards):
        if shard.data_size:
            yield RangeCopy(index, shard.data_offset, shard.data_size, start)
        start += shard.data_size


def _merged_header(first: Header, tensors: list[Tensor]) -> bytes:
    """The first shard's metadata with split.count moved to the end and set to 0, so that no tool merges it again."""
    keys = [item for item in first.keys if item.key != "split.count"]
    keys.append(KeyValue("split.count", ValueType.UINT16, None, struct.pack("<H", 0)))
    parts = [struct.pack("<4sIqq", b"GGUF", VERSION, len(tensors), len(keys))]
    parts += map(_encode_key, keys)
    parts += map(_encode_tensor, tensors)
    header = b"".join(parts)
    return header.ljust(padded(len(header), first.alignment), b"\0")


def _encode_key(item: KeyValue) -> bytes:
    kind = struct.pack("<i", item.type)
    if item.count is not None:
        kind = struct.pack("<iiQ", ValueType.ARRAY, item.type, item.count)
    return _encode_string(item.key.encode()) + kind + _normal_value(item)


def _normal_value(item: KeyValue) -> bytes:
    """The stored value as ggml writes it back: strings end at their first NUL, and true is 1."""
    if item.type is ValueType.STRING:
        return b"".join(_encode_string(text.partition(b"\0")[0]) for text in strings(item.raw))
    if item.type is ValueType.BOOL:
        return bytes(map(bool, item.raw))
    return item.raw


def _encode_tensor(tensor: Tensor) -> bytes:
    """As ggml_n_dims has it, dimensions of extent 1 are left out at the end, but for the first."""
    shape = list(tensor.shape) or [1]
    while len(shape) > 1 and shape[-1] == 1:
        shape.pop()
    name = _encode_string(tensor.name.encode())
    return name + struct.pack(f"<I{len(shape)}qiQ", len(shape), *shape, tensor.type, tensor.offset)


def _encode_string(text: bytes) -> bytes:
    return struct.pack("<Q", len(text)) + text
