# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""GGUF files for tests, written byte by byte: sound ones, random ones, and headers no tool would write."""

from __future__ import annotations

import math
import random
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ansible_collections.llmfleet.serving.plugins.module_utils._gguf import TENSOR_TYPES, ValueType

STRING, ARRAY, BOOL = ValueType.STRING, ValueType.ARRAY, ValueType.BOOL
FORMATS = {
    ValueType.UINT8: "B",
    ValueType.INT8: "b",
    ValueType.UINT16: "H",
    ValueType.INT16: "h",
    ValueType.UINT32: "I",
    ValueType.INT32: "i",
    ValueType.FLOAT32: "f",
    ValueType.BOOL: "B",
    ValueType.UINT64: "Q",
    ValueType.INT64: "q",
    ValueType.FLOAT64: "d",
}


def string(text: str | bytes) -> bytes:
    raw = text.encode() if isinstance(text, str) else text
    return struct.pack("<Q", len(raw)) + raw


def values(kind: int, items: Iterable[object]) -> bytes:
    if kind == STRING:
        return b"".join(string(item) for item in items)
    return b"".join(struct.pack(f"<{FORMATS[ValueType(kind)]}", item) for item in items)


def key(name: str | bytes, kind: int, value: object) -> bytes:
    return string(name) + struct.pack("<i", kind) + values(kind, [value])


def array(name: str | bytes, kind: int, items: Sequence[object]) -> bytes:
    return string(name) + struct.pack("<iiQ", ARRAY, kind, len(items)) + values(kind, items)


def info(name: str | bytes, shape: Sequence[int], kind: int, offset: int) -> bytes:
    """A tensor as the header describes it."""
    return string(name) + struct.pack(f"<I{len(shape)}qiQ", len(shape), *shape, kind, offset)


def pad(data: bytes, alignment: int = 32) -> bytes:
    return data + bytes(-len(data) % alignment)


def gguf(
    keys: Sequence[bytes] = (),
    infos: Sequence[bytes] = (),
    data: bytes = b"",
    *,
    magic: bytes = b"GGUF",
    version: int = 3,
    n_tensors: int | None = None,
    n_keys: int | None = None,
    alignment: int = 32,
) -> bytes:
    """A file of these parts; the numbers of keys and tensors can be made to lie."""
    counts = (len(infos) if n_tensors is None else n_tensors, len(keys) if n_keys is None else n_keys)
    head = magic + struct.pack("<IQQ", version, *(count % 2**64 for count in counts))
    return pad(head + b"".join(keys) + b"".join(infos), alignment) + data


@dataclass(frozen=True)
class Weights:
    """A tensor with its data."""

    name: str
    shape: tuple[int, ...]
    kind: int
    data: bytes


def weights(name: str, shape: Sequence[int], kind: int = 0, seed: int = 0) -> Weights:
    block = TENSOR_TYPES[kind]
    size = math.prod(shape) // block.block * block.size
    return Weights(name, tuple(shape), kind, random.Random(f"{name} {seed}").randbytes(size))


def whole(keys: Sequence[bytes], tensors: Sequence[Weights], *, version: int = 3, alignment: int = 32) -> bytes:
    """A sound file, which says so when its alignment is not 32."""
    if alignment != 32:
        keys = [*keys, key("general.alignment", ValueType.UINT32, alignment)]
    infos, data = [], b""
    for tensor in tensors:
        infos.append(info(tensor.name, tensor.shape, tensor.kind, len(data)))
        data += pad(tensor.data, alignment)
    return gguf(keys, infos, data, version=version, alignment=alignment)


def split_keys(no: int, count: int, tensors: int) -> list[bytes]:
    return [
        key("split.no", ValueType.UINT16, no),
        key("split.tensors.count", ValueType.INT32, tensors),
        key("split.count", ValueType.UINT16, count),
    ]


def shards(
    keys: Sequence[bytes], parts: Sequence[Sequence[Weights]], *, version: int = 3, alignment: int = 32
) -> list[bytes]:
    """Sound shards: the keys in the first, one part of the tensors in each."""
    total = sum(map(len, parts))
    own = [list(keys)] + [[] for _unused in parts[1:]]
    return [
        whole(own[no] + split_keys(no, len(parts), total), part, version=version, alignment=alignment)
        for no, part in enumerate(parts)
    ]


def write_shards(folder: Path, files: Sequence[bytes], name: str = "model") -> list[Path]:
    """Write shards under the names that llama.cpp gives them."""
    paths = [folder / f"{name}-{no:05d}-of-{len(files):05d}.gguf" for no in range(1, len(files) + 1)]
    for path, content in zip(paths, files):
        path.write_bytes(content)
    return paths


def small_model(parts: int = 3) -> tuple[list[bytes], list[list[Weights]]]:
    """Keys and tensors of a model like real ones, in so many parts of two tensors."""
    keys = [
        key("general.architecture", STRING, "llama"),
        key("general.name", STRING, "Small"),
        key("general.file_type", ValueType.UINT32, 15),
        key("llama.context_length", ValueType.UINT32, 4096),
        key("llama.block_count", ValueType.UINT32, parts),
        key("tokenizer.ggml.model", STRING, "gpt2"),
        array("tokenizer.ggml.tokens", STRING, ["<s>", "</s>", "größe", "\n"]),
        key("tokenizer.ggml.add_bos_token", BOOL, 1),
    ]
    tensors = [
        [weights(f"blk.{no}.attn_norm.weight", (5,), 0), weights(f"blk.{no}.ffn_up.weight", (256, 3), 12)]
        for no in range(parts)
    ]
    return keys, tensors


def random_keys(rng: random.Random, *, tricky: bool = True) -> list[bytes]:
    """Metadata of every type and array type; `tricky` adds what tools change when they write it back."""
    keys = [key("general.architecture", STRING, "llama")]
    kinds = [kind for kind in ValueType if kind is not ARRAY]
    for index in range(rng.randrange(12)):
        kind = rng.choice(kinds)
        name = f"test.{index}.{'ä' * rng.randrange(3)}"
        if rng.random() < 0.5:
            keys.append(key(name, kind, random_value(rng, kind, tricky)))
        else:
            items = [random_value(rng, kind, tricky) for _unused in range(rng.choice((0, 1, 2, 7, 40)))]
            keys.append(array(name, kind, items))
    rng.shuffle(keys)
    return keys


def random_value(rng: random.Random, kind: ValueType, tricky: bool) -> object:
    if kind is STRING:
        alphabet = b"ab \n\xc3\xa4\xff\x00" if tricky else b"abc \n"
        return bytes(rng.choices(alphabet, k=rng.randrange(9)))
    if kind is BOOL:
        return rng.choice((0, 1, 5, 255) if tricky else (0, 1))
    form = struct.Struct(f"<{FORMATS[kind]}")
    return form.unpack(rng.randbytes(form.size))[0]


def random_tensors(rng: random.Random, count: int) -> list[Weights]:
    """Tensors of every type with one to four dimensions, of which the last may have extent 1."""
    tensors = []
    for index in range(count):
        kind = rng.choice(sorted(TENSOR_TYPES))
        shape = [TENSOR_TYPES[kind].block * rng.randrange(1, 4)]
        shape += [rng.choice((1, 1, 2, 3)) for _unused in range(rng.randrange(4))]
        name = f"t{index}.{'x' * rng.choice((0, 5, 58))}"[:63]
        tensors.append(weights(name, shape, kind, rng.getrandbits(32)))
    return tensors


def random_parts(rng: random.Random, tensors: Sequence[Weights], count: int) -> list[list[Weights]]:
    """The tensors in their order, in `count` parts, some of which may be empty."""
    cuts = sorted(rng.randrange(len(tensors) + 1) for _unused in range(count - 1))
    return [list(tensors[start:end]) for start, end in zip([0, *cuts], [*cuts, len(tensors)])]
