# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A llama model as a Hugging Face folder, as transformers, vLLM and SGLang load it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors.numpy import save

from testbed.models.architectures import CONTEXT_LENGTH, RMS_EPSILON, ROPE_BASE, Model
from testbed.models.vocabulary import BOS, CHAT_TEMPLATE, CONTROL, EOS, USER_DEFINED, vocabulary
from testbed.models.weights import weights

_SHARDS = 2

# llama.cpp's names of the tensors, and those that transformers gives them.
_OUTER = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
_INNER = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


def write_safetensors(folder: Path, model: Model, seed: int) -> None:
    """Write a ``llama`` model into an existing folder: two shards with their index, configuration, tokenizer.

    The whole model is in memory once. It is no conversion of the GGUF model of the same seed: that format orders the
    rows of queries and keys differently, which makes it tell another story.
    """
    _write_weights(folder, model, seed)
    documents = {
        "config.json": _config(model),
        "generation_config.json": {"bos_token_id": _id(BOS), "eos_token_id": _id(EOS), "pad_token_id": _id(EOS)},
        "tokenizer.json": _tokenizer(),
        "tokenizer_config.json": {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": BOS,
            "eos_token": EOS,
            "pad_token": EOS,
            "model_max_length": CONTEXT_LENGTH,
            "clean_up_tokenization_spaces": False,
            "chat_template": CHAT_TEMPLATE,
        },
    }
    for name, document in documents.items():
        _write_json(folder / name, document)


def _write_weights(folder: Path, model: Model, seed: int) -> None:
    per_shard = -(-len(model.tensors) // _SHARDS)
    places: dict[str, str] = {}
    for number in range(_SHARDS):
        file = f"model-{number + 1:05d}-of-{_SHARDS:05d}.safetensors"
        part = model.tensors[number * per_shard : (number + 1) * per_shard]
        arrays = {_transformers_name(tensor.name): weights(model, tensor, seed) for tensor in part}
        # transformers refuses files without this entry. (save_file would make the file readable for its owner only.)
        (folder / file).write_bytes(save(arrays, metadata={"format": "pt"}))
        places |= dict.fromkeys(arrays, file)
    total = sum(tensor.nbytes for tensor in model.tensors)
    index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(places.items()))}
    _write_json(folder / "model.safetensors.index.json", index)


def _transformers_name(name: str) -> str:
    stem = name.removesuffix(".weight")
    if stem in _OUTER:
        return f"{_OUTER[stem]}.weight"
    _blk, layer, kind = stem.split(".")
    return f"model.layers.{layer}.{_INNER[kind]}.weight"


def _config(model: Model) -> dict[str, Any]:
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "torch_dtype": "float16",
        "vocab_size": model.metadata["vocab_size"],
        "hidden_size": model.width,
        "intermediate_size": model.metadata["feed_forward_length"],
        "num_hidden_layers": model.layers,
        "num_attention_heads": model.metadata["attention.head_count"],
        "num_key_value_heads": model.metadata["attention.head_count_kv"],
        "head_dim": model.metadata["rope.dimension_count"],
        "hidden_act": "silu",
        "max_position_embeddings": CONTEXT_LENGTH,
        "rms_norm_eps": RMS_EPSILON,
        "rope_theta": ROPE_BASE,
        "attention_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": False,
        "bos_token_id": _id(BOS),
        "eos_token_id": _id(EOS),
        "pad_token_id": _id(EOS),
    }


def _tokenizer() -> dict[str, Any]:
    words = vocabulary()
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    begin: dict[str, Any] = {"SpecialToken": {"id": BOS, "type_id": 0}}
    text: dict[str, Any] = {"Sequence": {"id": "A", "type_id": 0}}
    second: dict[str, Any] = {"Sequence": {"id": "B", "type_id": 1}}
    return {
        "version": "1.0",
        "added_tokens": [
            {"id": _id(token), "content": token, **plain, "special": token in CONTROL}
            for token in (*CONTROL, *USER_DEFINED)
        ],
        "pre_tokenizer": byte_level,
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [begin, text],
            "pair": [begin, text, second],
            "special_tokens": {BOS: {"id": BOS, "ids": [_id(BOS)], "tokens": [BOS]}},
        },
        "decoder": byte_level,
        "model": {
            "type": "BPE",
            "vocab": {token: number for number, token in enumerate(words.tokens)},
            "merges": [" ".join(pair) for pair in words.merges],
        },
    }


def _id(token: str) -> int:
    return vocabulary().id_of(token)


def _write_json(path: Path, document: dict[str, Any]) -> None:
    path.write_text(json.dumps(document, ensure_ascii=False, indent=2) + "\n")
