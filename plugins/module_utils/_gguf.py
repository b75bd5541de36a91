# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The GGUF format: a bounded parser of headers. Private to this collection.

Layout and limits follow ggml's gguf.cpp (ggml 0.27.0); what that loader refuses is refused here, and besides it what
it lets pass although no tool can use it: keys and names with NUL or invalid UTF-8, tensors without elements, alignments
above 1 MiB, padding that is not zero. Nothing is allocated or looped over before the file's size allows for it.
"""

from __future__ import annotations

import enum
import math
import struct
import typing as t
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from ansible_collections.llmfleet.serving.plugins.module_utils._errors import LlmError

# Read(offset, size) gives exactly those bytes of a file, wherever it lies.
Read = Callable[[int, int], bytes]

# The largest known header (Llama 4: 200 thousand tokens, 440 thousand merges) has 13 MB; known models have fewer than
# 100 keys and 3000 tensors. The limits keep a hostile header below one second and 64 MB of memory.
MAX_HEADER_BYTES = 24 << 20
MAX_KEYS = 1 << 12
MAX_TENSORS = 1 << 15
MAX_ALIGNMENT = 1 << 20
DEFAULT_ALIGNMENT = 32

# From ggml.h (GGML_MAX_DIMS, GGML_MAX_NAME with its NUL), gguf.h (GGUF_VERSION) and, for keys, docs/gguf.md of ggml.
MAX_DIMS = 4
MAX_NAME_BYTES = 63
MAX_KEY_BYTES = (1 << 16) - 1
VERSION = 3

_MAGIC = b"GGUF"
_FIRST_READ_BYTES = 64 << 10
_INT64_MAX = (1 << 63) - 1
# The least that an entry takes: key (8 + 1), type 4, value 1; and name 8, n_dims 4, type 4, offset 8.
_MIN_KEY_BYTES = 14
_MIN_TENSOR_BYTES = 24

_U32 = struct.Struct("<I")
_I32 = struct.Struct("<i")
_U64 = struct.Struct("<Q")
_I64 = struct.Struct("<q")


class ValueType(enum.IntEnum):
    """Types of metadata values (gguf.h, enum gguf_type)."""

    UINT8 = 0
    INT8 = 1
    UINT16 = 2
    INT16 = 3
    UINT32 = 4
    INT32 = 5
    FLOAT32 = 6
    BOOL = 7
    STRING = 8
    ARRAY = 9
    UINT64 = 10
    INT64 = 11
    FLOAT64 = 12


# How each type of fixed size is stored.
SCALARS = {
    ValueType.UINT8: struct.Struct("<B"),
    ValueType.INT8: struct.Struct("<b"),
    ValueType.UINT16: struct.Struct("<H"),
    ValueType.INT16: struct.Struct("<h"),
    ValueType.UINT32: _U32,
    ValueType.INT32: _I32,
    ValueType.FLOAT32: struct.Struct("<f"),
    ValueType.BOOL: struct.Struct("<?"),
    ValueType.UINT64: _U64,
    ValueType.INT64: _I64,
    ValueType.FLOAT64: struct.Struct("<d"),
}


class TensorType(t.NamedTuple):
    """How elements are stored: `block` elements take `size` bytes."""

    name: str
    block: int
    size: int


# Numbers of enum ggml_type (ggml.h); block and size as ggml_blck_size and ggml_type_size of ggml 0.27.0 give them.
# Numbers that are missing were removed from ggml; files with them load nowhere.
TENSOR_TYPES = {
    0: TensorType("F32", 1, 4),
    1: TensorType("F16", 1, 2),
    2: TensorType("Q4_0", 32, 18),
    3: TensorType("Q4_1", 32, 20),
    6: TensorType("Q5_0", 32, 22),
    7: TensorType("Q5_1", 32, 24),
    8: TensorType("Q8_0", 32, 34),
    9: TensorType("Q8_1", 32, 36),
    10: TensorType("Q2_K", 256, 84),
    11: TensorType("Q3_K", 256, 110),
    12: TensorType("Q4_K", 256, 144),
    13: TensorType("Q5_K", 256, 176),
    14: TensorType("Q6_K", 256, 210),
    15: TensorType("Q8_K", 256, 292),
    16: TensorType("IQ2_XXS", 256, 66),
    17: TensorType("IQ2_XS", 256, 74),
    18: TensorType("IQ3_XXS", 256, 98),
    19: TensorType("IQ1_S", 256, 50),
    20: TensorType("IQ4_NL", 32, 18),
    21: TensorType("IQ3_S", 256, 110),
    22: TensorType("IQ2_S", 256, 82),
    23: TensorType("IQ4_XS", 256, 136),
    24: TensorType("I8", 1, 1),
    25: TensorType("I16", 1, 2),
    26: TensorType("I32", 1, 4),
    27: TensorType("I64", 1, 8),
    28: TensorType("F64", 1, 8),
    29: TensorType("IQ1_M", 256, 56),
    30: TensorType("BF16", 1, 2),
    34: TensorType("TQ1_0", 256, 54),
    35: TensorType("TQ2_0", 256, 66),
    39: TensorType("MXFP4", 32, 17),
    40: TensorType("NVFP4", 64, 36),
    41: TensorType("Q1_0", 128, 18),
    42: TensorType("Q2_0", 64, 18),
}

# What `general.file_type` means (llama.h, enum llama_ftype): the quantization of most tensors.
FILE_TYPES = {
    0: "F32",
    1: "F16",
    2: "Q4_0",
    3: "Q4_1",
    7: "Q8_0",
    8: "Q5_0",
    9: "Q5_1",
    10: "Q2_K",
    11: "Q3_K_S",
    12: "Q3_K_M",
    13: "Q3_K_L",
    14: "Q4_K_S",
    15: "Q4_K_M",
    16: "Q5_K_S",
    17: "Q5_K_M",
    18: "Q6_K",
    19: "IQ2_XXS",
    20: "IQ2_XS",
    21: "Q2_K_S",
    22: "IQ3_XS",
    23: "IQ3_XXS",
    24: "IQ1_S",
    25: "IQ4_NL",
    26: "IQ3_S",
    27: "IQ3_M",
    28: "IQ2_S",
    29: "IQ2_M",
    30: "IQ4_XS",
    31: "IQ1_M",
    32: "BF16",
    36: "TQ1_0",
    37: "TQ2_0",
    38: "MXFP4_MOE",
    39: "NVFP4",
    40: "Q1_0",
    41: "Q2_0",
}


@dataclass(frozen=True)
class KeyValue:
    """One metadata entry.

    :ivar key: its name, such as "general.architecture".
    :ivar type: type of the value, or of the elements of an array.
    :ivar count: number of elements of an array; None when the value is no array.
    :ivar raw: the value as it is stored; strings with their 8 bytes of length.
    """

    key: str
    type: ValueType
    count: int | None
    raw: bytes

    def value(self) -> t.Any:
        """The value, or the list of values, as Python has it; invalid UTF-8 becomes U+FFFD."""
        if self.type is ValueType.STRING:
            items: list[t.Any] = [text.decode(errors="replace") for text in strings(self.raw)]
        else:
            items = [item for (item,) in SCALARS[self.type].iter_unpack(self.raw)]
        return items[0] if self.count is None else items


class Tensor(t.NamedTuple):
    """One tensor as the header describes it.

    :ivar shape: elements per dimension, fastest first, as stored.
    :ivar type: number of its type; a key of TENSOR_TYPES.
    :ivar offset: where its data starts, in bytes from the start of the data section.
    """

    name: str
    shape: tuple[int, ...]
    type: int
    offset: int

    @property
    def elements(self) -> int:
        return math.prod(self.shape)

    @property
    def size(self) -> int:
        """Bytes of its data, without padding."""
        kind = TENSOR_TYPES[self.type]
        return self.elements // kind.block * kind.size


@dataclass(frozen=True)
class Split:
    """Place of a file among the shards of a model.

    :ivar no: 0 for the first shard.
    :ivar count: number of shards; 0 in a file that was merged.
    :ivar tensors: number of tensors in all shards.
    """

    no: int
    count: int
    tensors: int


@dataclass(frozen=True)
class Header:
    """Everything in front of a GGUF file's data, checked.

    :ivar name: what messages call the file: its path or its address.
    :ivar file_size: bytes the file has.
    :ivar version: 2 or 3; the layout is the same.
    :ivar keys: the metadata in the file's order.
    :ivar tensors: in the file's order, which is the order of their data.
    :ivar alignment: each tensor starts at a multiple of this many bytes in the data section.
    :ivar data_offset: where the data section starts in the file.
    :ivar data_size: bytes of the data section, with padding after each tensor.
    :ivar split: None when the file says nothing of shards.
    """

    name: str
    file_size: int
    version: int
    keys: tuple[KeyValue, ...]
    tensors: tuple[Tensor, ...]
    alignment: int
    data_offset: int
    data_size: int
    split: Split | None

    @property
    def complete(self) -> bool:
        """Whether the file has exactly the bytes that its header speaks of."""
        return self.file_size == self.data_offset + self.data_size

    def value(self, key: str) -> t.Any:
        """The value of `key`, or None when the file does not have it."""
        return next((item.value() for item in self.keys if item.key == key), None)

    def padding(self) -> Iterator[tuple[int, int, str]]:
        """Offset in the file, size and tensor's name of each stretch of padding behind a tensor's data."""
        for tensor in self.tensors:
            if gap := -tensor.size % self.alignment:
                yield self.data_offset + tensor.offset + tensor.size, gap, tensor.name


def padded(size: int, alignment: int) -> int:
    """`size` rounded up to a multiple of `alignment`."""
    return size + -size % alignment


def strings(raw: bytes) -> Iterator[bytes]:
    """The strings of a stored string value or array of strings, which the parser has checked."""
    position = 0
    while position < len(raw):
        start = position + _U64.size
        position = start + _U64.unpack_from(raw, position)[0]
        yield raw[start:position]


def read_header(read: Read, size: int, name: str) -> Header:
    """Parse and check the header of a GGUF file.

    The file is read from its start in growing pieces, each byte once, and not beyond what the header needs by more
    than a factor of four: a few kilobytes for most shards, several megabytes for one with a tokenizer.

    :param read: gives `size` bytes at `offset`; it raises LlmError itself when it cannot.
    :param size: bytes the file has.
    :param name: what messages call the file.
    :raises LlmError: for anything that is not a sound header.
    """
    data = bytearray()
    need = min(size, _FIRST_READ_BYTES)
    while True:
        piece = read(len(data), need - len(data))
        if len(piece) != need - len(data):
            raise LlmError(f"{name} ended at byte {len(data) + len(piece)} of {size}. Was it changed meanwhile?")
        data += piece
        try:
            return _parse(_Cursor(data, size, name))
        except _NeedsMoreError as more:
            need = min(size, max(more.end, 4 * len(data)), MAX_HEADER_BYTES)


class _NeedsMoreError(Exception):
    """The header goes on behind the bytes at hand, at least up to `end`."""

    def __init__(self, end: int) -> None:
        super().__init__(end)
        self.end = end


class _Cursor:
    """A position in the first bytes of a file. Nothing is taken that the file's size does not allow for."""

    def __init__(self, data: bytearray, size: int, name: str) -> None:
        self.data = data
        self.size = size
        self.name = name
        self.position = 0

    def bad(self, problem: str) -> LlmError:
        return LlmError(f"{self.name} is not a usable GGUF file: {problem}. Get it again from its origin.")

    def skip(self, count: int, what: str) -> int:
        """Step over `count` bytes and return where they start."""
        start = self.position
        end = start + count
        if end > self.size:
            raise self.bad(f"{what} takes {count} bytes at offset {start}, but the file has only {self.size}")
        if end > MAX_HEADER_BYTES:
            raise self.bad(f"{what} ends at byte {end}; expected a header of at most {MAX_HEADER_BYTES} bytes")
        if end > len(self.data):
            raise _NeedsMoreError(end)
        self.position = end
        return start

    def take(self, count: int, what: str) -> bytes:
        start = self.skip(count, what)
        return bytes(self.data[start : self.position])

    def number(self, form: struct.Struct, what: str) -> int:
        return int(form.unpack_from(self.data, self.skip(form.size, what))[0])

    def count(self, what: str, least_bytes: int, most: int) -> int:
        """A number of entries, each of at least `least_bytes`."""
        count = self.number(_I64, f"the number of {what}")
        possible = min(most, (self.size - self.position) // least_bytes)
        if not 0 <= count <= possible:
            raise self.bad(f"it claims {count} {what}; expected 0 to {possible} in a file of {self.size} bytes")
        return count

    def text(self, what: str, most: int) -> str:
        """A string of at most `most` bytes that must be UTF-8 without NUL, which C programs would cut it at."""
        size = self.number(_U64, f"the length of {what}")
        if size > min(most, self.size):
            raise self.bad(f"{what} has {size} bytes; expected at most {min(most, self.size)}")
        raw = self.take(size, what)
        try:
            text = raw.decode()
        except UnicodeDecodeError:
            raise self.bad(f"{what} is not UTF-8: {raw[:80]!r}") from None
        if "\0" in text:
            raise self.bad(f"{what} has a NUL character: {raw[:80]!r}")
        return text

    def skip_strings(self, count: int, what: str) -> None:
        """Step over an array of strings; hundreds of thousands of tokens make this the one loop that must be fast."""
        data, position, length_at = self.data, self.position, _U64.unpack_from
        try:
            for _index in range(count):
                position += 8 + length_at(data, position)[0]
        except (struct.error, OverflowError):
            position += 8  # the length itself lies behind the bytes at hand, so skip() raises
        self.skip(position - self.position, what)


def _parse(cursor: _Cursor) -> Header:
    version = _version(cursor)
    tensor_count = cursor.count("tensors", _MIN_TENSOR_BYTES, MAX_TENSORS)
    key_count = cursor.count("metadata keys", _MIN_KEY_BYTES, MAX_KEYS)
    keys = _keys(cursor, key_count)
    alignment = _alignment(cursor, keys)
    tensors = _tensors(cursor, tensor_count)
    data_size = _data_size(cursor, tensors, alignment)
    gap = -cursor.position % alignment
    if not tensors:  # a file without data may end with its last key
        gap = min(gap, cursor.size - cursor.position)
    if any(cursor.take(gap, "the padding behind the header")):
        raise cursor.bad("the padding behind the header is not zero")
    return Header(
        name=cursor.name,
        file_size=cursor.size,
        version=version,
        keys=tuple(keys.values()),
        tensors=tensors,
        alignment=alignment,
        data_offset=cursor.position,
        data_size=data_size,
        split=_split(cursor, keys),
    )


def _version(cursor: _Cursor) -> int:
    if bytes(cursor.data[:24]) == b"version https://git-lfs.":
        raise LlmError(f"{cursor.name} is a Git LFS pointer, not the file it stands for. Run `git lfs pull`.")
    magic = cursor.take(len(_MAGIC), "the magic number")
    if magic != _MAGIC:
        raise cursor.bad(f"it starts with {magic!r}; expected {_MAGIC!r}")
    version = cursor.number(_U32, "the version")
    if version and not version & 0xFFFF:
        raise cursor.bad("its version reads as a big-endian number; expected a little-endian file")
    if version not in (2, VERSION):
        raise cursor.bad(f"its version is {version}; expected 2 or {VERSION}")
    return version


def _keys(cursor: _Cursor, count: int) -> dict[str, KeyValue]:
    keys: dict[str, KeyValue] = {}
    for index in range(count):
        key = cursor.text(f"the name of key {index}", MAX_KEY_BYTES)
        if not key:
            raise cursor.bad(f"the name of key {index} is empty")
        if key in keys:
            raise cursor.bad(f"the key {key!r} is there twice")
        keys[key] = _key_value(cursor, key)
    return keys


def _key_value(cursor: _Cursor, key: str) -> KeyValue:
    kind = _value_type(cursor, key)
    count = None
    if kind is ValueType.ARRAY:
        kind = _value_type(cursor, key)
        if kind is ValueType.ARRAY:
            raise cursor.bad(f"the key {key!r} holds arrays in an array, which no GGUF loader supports")
        count = cursor.number(_U64, f"the array length of key {key!r}")
    what = f"the value of key {key!r}"
    start = cursor.position
    items = 1 if count is None else count
    if kind is ValueType.STRING:
        # Each string has at least its length in front: this refuses giant counts before the loop.
        if items * _U64.size > cursor.size - start:
            raise cursor.bad(f"{what} claims {items} strings, more than the file's {cursor.size} bytes can hold")
        cursor.skip_strings(items, what)
    else:
        cursor.skip(items * SCALARS[kind].size, what)
    return KeyValue(key, kind, count, bytes(cursor.data[start : cursor.position]))


def _value_type(cursor: _Cursor, key: str) -> ValueType:
    number = cursor.number(_I32, f"the type of key {key!r}")
    try:
        return ValueType(number)
    except ValueError:
        raise cursor.bad(f"the key {key!r} has the unknown type {number}") from None


def _alignment(cursor: _Cursor, keys: dict[str, KeyValue]) -> int:
    item = keys.get("general.alignment")
    if item is None:
        return DEFAULT_ALIGNMENT
    value = _scalar(cursor, item, ValueType.UINT32)
    if value < 1 or value & (value - 1) or value > MAX_ALIGNMENT:
        raise cursor.bad(f"its alignment is {value}; expected a power of two of at most {MAX_ALIGNMENT}")
    return value


def _scalar(cursor: _Cursor, item: KeyValue, kind: ValueType) -> int:
    if item.type is not kind or item.count is not None:
        found = f"{'an array of ' if item.count is not None else ''}{item.type.name}"
        raise cursor.bad(f"the key {item.key!r} is {found}; expected {kind.name}")
    return int(item.value())


def _split(cursor: _Cursor, keys: dict[str, KeyValue]) -> Split | None:
    types = {
        "split.no": ValueType.UINT16,
        "split.count": ValueType.UINT16,
        "split.tensors.count": ValueType.INT32,
    }
    missing = [key for key in types if key not in keys]
    if len(missing) == len(types):
        return None
    if missing:
        raise cursor.bad(f"of the keys that describe a shard it lacks {', '.join(missing)}")
    split = Split(*(_scalar(cursor, keys[key], kind) for key, kind in types.items()))
    if split.count and split.no >= split.count:
        raise cursor.bad(f"split.no is {split.no}; expected 0 to {split.count - 1}, as split.count is {split.count}")
    return split


def _tensors(cursor: _Cursor, count: int) -> tuple[Tensor, ...]:
    tensors: dict[str, Tensor] = {}
    for index in range(count):
        name = cursor.text(f"the name of tensor {index}", MAX_NAME_BYTES)
        if name in tensors:
            raise cursor.bad(f"the tensor {name!r} is there twice")
        tensors[name] = _tensor(cursor, name)
    return tuple(tensors.values())


def _tensor(cursor: _Cursor, name: str) -> Tensor:
    what = f"the tensor {name!r}"
    dimensions = cursor.number(_U32, f"the number of dimensions of {what}")
    if dimensions > MAX_DIMS:
        raise cursor.bad(f"{what} has {dimensions} dimensions; expected at most {MAX_DIMS}")
    shape = tuple(cursor.number(_I64, f"the shape of {what}") for _index in range(dimensions))
    if any(extent < 1 for extent in shape) or math.prod(shape) >= _INT64_MAX:
        raise cursor.bad(f"{what} has the shape {list(shape)}; expected 1 to {_INT64_MAX - 1} elements")
    number = cursor.number(_I32, f"the type of {what}")
    kind = TENSOR_TYPES.get(number)
    if kind is None:
        raise cursor.bad(f"{what} has the unknown type {number}")
    row = shape[0] if shape else 1
    if row % kind.block:
        raise cursor.bad(f"{what} has rows of {row} elements; expected a multiple of {kind.block} for {kind.name}")
    return Tensor(name, shape, number, cursor.number(_U64, f"the offset of {what}"))


def _data_size(cursor: _Cursor, tensors: tuple[Tensor, ...], alignment: int) -> int:
    """Bytes of the data section, in which tensors must follow one another without gaps, each padded."""
    end = 0
    for tensor in tensors:
        if tensor.offset != end:
            raise cursor.bad(f"the tensor {tensor.name!r} is at offset {tensor.offset}; expected {end}")
        end += padded(tensor.size, alignment)
        if end > _INT64_MAX:
            raise cursor.bad(f"its data up to the tensor {tensor.name!r} takes {end} bytes, more than a file can have")
    return end
