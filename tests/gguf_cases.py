# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Headers that a parser must refuse, with a part of the message to expect, and some that it must not."""

from __future__ import annotations

import struct

from gguf_build import STRING, array, gguf, info, key, split_keys, string

from ansible_collections.llmfleet.serving.plugins.module_utils._gguf import ValueType

U8, U16, U32, I32, I64_TENSOR = ValueType.UINT8, ValueType.UINT16, ValueType.UINT32, ValueType.INT32, 27
F32, Q4_K, I8 = 0, 12, 24
ALIGNMENT = "general.alignment"

# The 33 handcrafted files of llama.cpp's tests/test-gguf.cpp, by their names there. First those that must not load, and
# what we say of them.
LLAMA_CPP_BAD = {
    "HEADER_BAD_MAGIC": (gguf(magic=b"FUGG"), "it starts with b'FUGG'; expected b'GGUF'"),
    "HEADER_BAD_VERSION_0": (gguf(version=0), "its version is 0; expected 2 or 3"),
    "HEADER_BAD_VERSION_1": (gguf(version=1), "its version is 1; expected 2 or 3"),
    "HEADER_BAD_VERSION_FUTURE": (gguf(version=4), "its version is 4; expected 2 or 3"),
    "HEADER_BAD_N_TENSORS": (gguf(n_tensors=-1), "it claims -1 tensors; expected 0 to 0"),
    "HEADER_BAD_N_KV": (gguf(n_keys=-1), "it claims -1 metadata keys; expected 0 to 0"),
    "KV_BAD_KEY_SIZE": (gguf([b"\xff" * 8 + b"k" + bytes(5)]), "the name of key 0 has 18446744073709551615 bytes"),
    "KV_EMPTY_KEY": (gguf([key("", U32, 1)]), "the name of key 0 is empty"),
    "KV_BAD_TYPE": (gguf([string("k") + struct.pack("<iB", 13, 0)]), "the key 'k' has the unknown type 13"),
    "KV_DUPLICATE_KEY": (gguf([key("k", U32, 1), key("k", U8, 2)]), "the key 'k' is there twice"),
    "KV_BAD_ALIGN": (gguf([key(ALIGNMENT, U32, 13)]), "its alignment is 13; expected a power of two"),
    "KV_WRONG_TYPE_ALIGN": (
        gguf([key(ALIGNMENT, I32, 32)]),
        "the key 'general.alignment' is INT32; expected UINT32",
    ),
    "TENSORS_BAD_NAME_SIZE": (
        gguf(infos=[info("n" * 64, [4], F32, 0)], data=bytes(32)),
        "the name of tensor 0 has 64 bytes; expected at most 63",
    ),
    "TENSORS_BAD_N_DIMS": (
        gguf(infos=[info("t", [1] * 5, F32, 0)], data=bytes(32)),
        "the tensor 't' has 5 dimensions; expected at most 4",
    ),
    "TENSORS_BAD_SHAPE": (gguf(infos=[info("t", [-1], F32, 0)]), "the tensor 't' has the shape [-1]; expected 1 to"),
    "TENSORS_NE_TOO_BIG": (
        gguf(infos=[info("t", [4 * (2**31 - 1)] * 2, F32, 0)]),
        "the tensor 't' has the shape [8589934588, 8589934588]; expected 1 to 9223372036854775806 elements",
    ),
    "TENSORS_NBYTES_TOO_BIG": (
        gguf(infos=[info("t", [2**31, 2**30], I64_TENSOR, 0)]),
        "takes 18446744073709551616 bytes, more than a file can have",
    ),
    "TENSORS_BAD_TYPE": (gguf(infos=[info("t", [4], 43, 0)], data=bytes(32)), "the tensor 't' has the unknown type 43"),
    "TENSORS_BAD_OFFSET": (
        gguf(infos=[info("t", [4], F32, 2**64 - 1)], data=bytes(32)),
        "the tensor 't' is at offset 18446744073709551615; expected 0",
    ),
    "TENSORS_DUPLICATE_NAME": (
        gguf(infos=[info("t", [8], F32, 0), info("t", [8], F32, 32)], data=bytes(64)),
        "the tensor 't' is there twice",
    ),
    "TENSORS_BAD_ALIGN": (
        gguf([key(ALIGNMENT, U32, 13)], [info("t", [4], F32, 0)], bytes(32)),
        "its alignment is 13; expected a power of two",
    ),
    "TENSORS_INCONSISTENT_ALIGN": (
        gguf(infos=[info("a", [3], F32, 0), info("b", [3], F32, 12)], data=bytes(24)),
        "the tensor 'b' is at offset 12; expected 32",
    ),
    "DATA_BAD_ALIGN": (
        gguf([key(ALIGNMENT, U32, 13)], [info("a", [3], F32, 0), info("b", [3], F32, 13)], bytes(64)),
        "its alignment is 13; expected a power of two",
    ),
    "DATA_INCONSISTENT_ALIGN": (
        gguf([key(ALIGNMENT, U32, 64)], [info("a", [3], F32, 0), info("b", [3], F32, 32)], bytes(96), alignment=64),
        "the tensor 'b' is at offset 32; expected 64",
    ),
    "DATA_MEM_SIZE_OVERFLOW": (
        gguf(infos=[info("a", [2**63 - 64], I8, 0), info("b", [2**63 - 64], I8, 2**63 - 64)], data=bytes(32)),
        "its data up to the tensor 'b' takes 18446744073709551488 bytes, more than a file can have",
    ),
}

# What the reference Python reader takes without a word, hangs on or answers with an unrelated exception, and more.
FURTHER_BAD = {
    "empty": (b"", "the magic number takes 4 bytes at offset 0, but the file has only 0"),
    "shorter than a header": (b"GGUF\3\0\0\0" + bytes(15), "takes 8 bytes at offset 16, but the file has only 23"),
    "a Git LFS pointer": (
        b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 3\n",
        "x.gguf is a Git LFS pointer, not the file it stands for. Run `git lfs pull`.",
    ),
    "a page of a login server": (b"<!DOCTYPE html><html>" + bytes(99), "it starts with b'<!DO'; expected b'GGUF'"),
    "big-endian": (b"GGUF\0\0\0\3" + bytes(16), "its version reads as a big-endian number"),
    "dimensions 2^32-1": (
        gguf(infos=[string("t") + struct.pack("<IqiQ", 2**32 - 1, 1, F32, 0)], data=bytes(64)),
        "the tensor 't' has 4294967295 dimensions",
    ),
    "dimension 2^63": (
        gguf(infos=[string("t") + struct.pack("<IQiQ", 1, 2**63, F32, 0)]),
        "the tensor 't' has the shape [-9223372036854775808]",
    ),
    "offset not aligned": (
        gguf(infos=[info("t", [4], F32, 7)], data=bytes(64)),
        "the tensor 't' is at offset 7; expected 0",
    ),
    "overlapping tensors": (
        gguf(infos=[info("a", [8], F32, 0), info("b", [8], F32, 0)], data=bytes(64)),
        "the tensor 'b' is at offset 0; expected 32",
    ),
    "tensors out of order": (
        gguf(infos=[info("a", [8], F32, 32), info("b", [8], F32, 0)], data=bytes(64)),
        "the tensor 'a' is at offset 32; expected 0",
    ),
    "gap between tensors": (
        gguf(infos=[info("a", [8], F32, 0), info("b", [8], F32, 64)], data=bytes(96)),
        "the tensor 'b' is at offset 64; expected 32",
    ),
    "rows that are no blocks": (
        gguf(infos=[info("t", [250], Q4_K, 0)], data=bytes(160)),
        "the tensor 't' has rows of 250 elements; expected a multiple of 256 for Q4_K",
    ),
    "removed type": (gguf(infos=[info("t", [32], 4, 0)], data=bytes(32)), "the tensor 't' has the unknown type 4"),
    "name of 200 characters": (
        gguf(infos=[info("n" * 200, [4], F32, 0)], data=bytes(32)),
        "the name of tensor 0 has 200 bytes",
    ),
    "tensor name with NUL": (
        gguf(infos=[info("a\0b", [4], F32, 0)], data=bytes(32)),
        "the name of tensor 0 has a NUL character: b'a\\x00b'",
    ),
    "tensor name not UTF-8": (
        gguf(infos=[info(b"\xff", [4], F32, 0)], data=bytes(32)),
        "the name of tensor 0 is not UTF-8: b'\\xff'",
    ),
    "key not UTF-8": (gguf([key(b"\xe4", U32, 1)]), "the name of key 0 is not UTF-8: b'\\xe4'"),
    "key with NUL": (gguf([key("a\0b", U32, 1)]), "the name of key 0 has a NUL character"),
    "key length 2^63": (
        gguf([struct.pack("<Q", 2**63) + bytes(6)]),
        "the name of key 0 has 9223372036854775808 bytes",
    ),
    "key of 65536 bytes": (
        gguf([key("k" * 65536, U32, 1)]),
        "the name of key 0 has 65536 bytes; expected at most 65535",
    ),
    "key length past the end": (
        gguf([struct.pack("<Q", 60) + bytes(32)]),
        "the name of key 0 takes 60 bytes at offset 32",
    ),
    "more keys than there are": (
        gguf([key("k", U32, 1)], n_keys=2, data=bytes(32)),
        "the name of key 1 is empty",
    ),
    "2^63-1 keys": (gguf(n_keys=2**63 - 1), "it claims 9223372036854775807 metadata keys; expected 0 to 0"),
    "2^63-1 tensors": (gguf(n_tensors=2**63 - 1), "it claims 9223372036854775807 tensors; expected 0 to 0"),
    "too many keys": (gguf(n_keys=5000, data=bytes(99999)), "it claims 5000 metadata keys; expected 0 to 4096"),
    "too many tensors": (gguf(n_tensors=40000, data=bytes(999999)), "it claims 40000 tensors; expected 0 to 32768"),
    "array of 2^40 numbers": (
        gguf([string("k") + struct.pack("<iiQ", 9, U8, 2**40)]),
        "the value of key 'k' takes 1099511627776 bytes at offset 49, but the file has only 64",
    ),
    "array of 2^40 strings": (
        gguf([string("k") + struct.pack("<iiQ", 9, STRING, 2**40)]),
        "the value of key 'k' claims 1099511627776 strings, more than the file's 64 bytes can hold",
    ),
    "array of 3 million strings": (
        gguf([string("k") + struct.pack("<iiQ", 9, STRING, 3_000_000)]),
        "the value of key 'k' claims 3000000 strings",
    ),
    "array in an array": (
        gguf([string("k") + struct.pack("<iiQ", 9, 9, 1) * 5000]),
        "the key 'k' holds arrays in an array",
    ),
    "array of an unknown type": (
        gguf([string("k") + struct.pack("<iiQ", 9, -1, 1)]),
        "the key 'k' has the unknown type -1",
    ),
    "string past the end": (
        gguf([string("k") + struct.pack("<iQ", STRING, 1000)]),
        "the value of key 'k' takes 1008 bytes at offset 37, but the file has only 64",
    ),
    "string of 2^64-1 bytes": (
        gguf([string("k") + struct.pack("<iQ", STRING, 2**64 - 1)]),
        "the value of key 'k' takes 18446744073709551623 bytes",
    ),
    "second string of an array past the end": (
        gguf([string("k") + struct.pack("<iiQQQ", 9, STRING, 2, 2**64 - 1, 0)]),
        "but the file has only 96",
    ),
    "alignment 0": (gguf([key(ALIGNMENT, U32, 0)]), "its alignment is 0; expected a power of two"),
    "alignment 2^21": (gguf([key(ALIGNMENT, U32, 1 << 21)]), "its alignment is 2097152; expected a power of two"),
    "alignment 2^31": (gguf([key(ALIGNMENT, U32, 1 << 31)]), "its alignment is 2147483648; expected a power of two"),
    "array as alignment": (
        gguf([array(ALIGNMENT, U32, [32])]),
        "the key 'general.alignment' is an array of UINT32; expected UINT32",
    ),
    "padding of the header not zero": (
        gguf(infos=[info("t", [4], F32, 0)], data=bytes(32))[:-33] + b"\1" + bytes(32),
        "the padding behind the header is not zero",
    ),
    "ends in the padding of the header": (
        gguf(infos=[info("t", [4], F32, 0)])[:-1],
        "the padding behind the header takes 7 bytes at offset 57, but the file has only 63",
    ),
    "split.count alone": (
        gguf([key("split.count", U16, 2)]),
        "of the keys that describe a shard it lacks split.no, split.tensors.count",
    ),
    "split.count of another type": (
        gguf([*split_keys(0, 2, 1)[:2], key("split.count", U32, 2)]),
        "the key 'split.count' is UINT32; expected UINT16",
    ),
    "split.no not below split.count": (
        gguf(split_keys(2, 2, 1)),
        "split.no is 2; expected 0 to 1, as split.count is 2",
    ),
}

# One that llama.cpp loads, and no model has.
LLAMA_CPP_LENIENT = {
    "TENSORS_ZERO_DIM": (gguf(infos=[info("t", [32, 0], F32, 0)]), "the tensor 't' has the shape [32, 0]"),
}

# One whose header is sound.
LLAMA_CPP_CUT = {"DATA_NOT_ENOUGH_DATA": gguf(infos=[info("t", [8], F32, 0)], data=bytes(31))}

# And those that load.
LLAMA_CPP_GOOD = {
    "HEADER_EMPTY": gguf(),
    "KV_SUCCESS": gguf([key("k", U32, 1), array("l", STRING, ["a", "b"])]),
    "TENSORS_SUCCESS": gguf(infos=[info("t", [8], F32, 0)], data=bytes(32)),
    "TENSORS_CUSTOM_ALIGN": gguf(
        [key(ALIGNMENT, U32, 1)], [info("a", [3], I8, 0), info("b", [3], I8, 3)], bytes(6), alignment=1
    ),
    "DATA_SUCCESS": gguf(infos=[info("a", [3], F32, 0), info("b", [8], F32, 32)], data=bytes(range(64))),
    "DATA_CUSTOM_ALIGN": gguf(
        [key(ALIGNMENT, U32, 64)], [info("a", [3], F32, 0), info("b", [8], F32, 64)], bytes(range(128)), alignment=64
    ),
}
