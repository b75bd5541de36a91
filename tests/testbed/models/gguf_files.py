# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Models as GGUF files, whole or split by llama.cpp's own program."""

from __future__ import annotations

from pathlib import Path

import gguf

from testbed.models.architectures import Model
from testbed.models.vocabulary import BOS, CHAT_TEMPLATE, CONTROL, EOS, USER_DEFINED, vocabulary
from testbed.models.weights import weights
from testbed.tools import tool


def write_gguf(path: Path, model: Model, seed: int) -> None:
    """Write a model as one file. At most one tensor is in memory at a time."""
    writer = gguf.GGUFWriter(path, model.architecture)
    writer.add_name(path.stem)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16)
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    for key, value in model.metadata.items():
        _add(writer, f"{model.architecture}.{key}", value)
    _add_tokenizer(writer)
    for tensor in model.tensors:
        writer.add_tensor_info(tensor.name, tensor.shape, tensor.dtype, tensor.nbytes)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for tensor in model.tensors:
        writer.write_tensor_data(weights(model, tensor, seed))
    writer.close()


def write_shards(folder: Path, name: str, model: Model, shards: int, seed: int) -> list[Path]:
    """Write a model as ``NAME-00001-of-0000N.gguf`` and so on into an existing folder, and return the paths in order.

    While it is split, the folder also holds the whole file.

    :raises ValueError: if llama-gguf-split, which fills each shard with the same number of tensors, cannot make
        exactly this number of shards of the model.
    :raises BedError: if it fails.
    """
    per_shard = -(-len(model.tensors) // shards)
    if -(-len(model.tensors) // per_shard) != shards:
        raise ValueError(f"{name}: {len(model.tensors)} tensors cannot be split into exactly {shards} shards; "
                         "choose another number of shards or another size")  # fmt: skip
    whole = folder / f"{name}.gguf"
    try:
        write_gguf(whole, model, seed)
        tool(
            folder, "llama-gguf-split", "--split", "--split-max-tensors", str(per_shard), str(whole), str(folder / name)
        )  # fmt: skip
    finally:
        whole.unlink(missing_ok=True)
    return [folder / f"{name}-{number:05d}-of-{shards:05d}.gguf" for number in range(1, shards + 1)]


def _add(writer: gguf.GGUFWriter, key: str, value: int | float | bool) -> None:
    if isinstance(value, bool):
        writer.add_bool(key, value)
    elif isinstance(value, int):
        writer.add_uint32(key, value)
    else:
        writer.add_float32(key, value)


def _add_tokenizer(writer: gguf.GGUFWriter) -> None:
    words = vocabulary()
    kinds = dict.fromkeys(CONTROL, gguf.TokenType.CONTROL) | dict.fromkeys(USER_DEFINED, gguf.TokenType.USER_DEFINED)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(words.tokens)
    writer.add_token_types([kinds.get(token, gguf.TokenType.NORMAL) for token in words.tokens])
    writer.add_token_merges([" ".join(pair) for pair in words.merges])
    writer.add_bos_token_id(words.id_of(BOS))
    writer.add_eos_token_id(words.id_of(EOS))
    writer.add_pad_token_id(words.id_of(EOS))
    writer.add_add_bos_token(True)
    writer.add_add_eos_token(False)
    writer.add_chat_template(CHAT_TEMPLATE)
