# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""config.json and the headers of safetensors files."""

from __future__ import annotations

import contextlib
import json
import struct

import hf_models
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.llmfleet.serving.plugins.module_utils._config import (
    StoredTensor,
    config_model,
    read_json,
    read_tensors,
)
from ansible_collections.llmfleet.serving.plugins.module_utils._errors import LlmError
from ansible_collections.llmfleet.serving.plugins.module_utils._fit_model import INPUT, Cache, Cut

SHAPE = {"layers": 2, "width": 64, "heads": 4, "kv_heads": 2, "hidden": 96, "words": 100, "head": 16}


def reader(content):
    return lambda offset, size: content[offset : offset + size]


def tensors_of(content):
    return read_tensors(reader(content), len(content), "x.safetensors")


def safetensors(header, data=b""):
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(raw)) + raw + data


def test_reads_names_and_sizes(tmp_path):
    tensors = [StoredTensor("a", 10), StoredTensor("b.c", 0), StoredTensor("d", 1 << 40)]
    hf_models.write_safetensors(tmp_path / "x.safetensors", tensors)
    size = (tmp_path / "x.safetensors").stat().st_size
    content = (tmp_path / "x.safetensors").open("rb").read(1000)
    assert read_tensors(reader(content), size, "x") == tensors


def test_reads_a_header_that_is_longer_than_the_first_piece():
    names = [f"model.layers.{number}.weight" for number in range(3000)]
    content = safetensors({name: {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]} for name in names}, b"x")
    assert [tensor.name for tensor in tensors_of(content)] == names


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "x.safetensors is not a safetensors file: its header would take 0 of 0 bytes."),
        (struct.pack("<Q", 1 << 40), "its header would take 1099511627776 of 8 bytes."),
        (safetensors(b"{"), "x.safetensors is not JSON"),
        (safetensors(b"[]"), "x.safetensors holds no JSON object."),
        (safetensors({"a": 1}), "x.safetensors is not a safetensors file: a tensor has no data_offsets."),
        (safetensors({"a": {"data_offsets": [0, "1"]}}), "a tensor has no data_offsets."),
        (safetensors({"a": {"data_offsets": [0, 2]}}, b"x"), "a tensor lies at 0 to 2 of 1 bytes of data."),
        (safetensors({"a": {"data_offsets": [1, 0]}}, b"x"), "a tensor lies at 1 to 0 of 1 bytes of data."),
    ],
)
def test_a_bad_header_is_an_error(content, message):
    with pytest.raises(LlmError) as error:
        tensors_of(content)
    assert message in str(error.value)


def test_a_config_of_gigabytes_is_not_read():
    with pytest.raises(LlmError, match="has 1000000000 bytes; expected a JSON file"):
        read_json(lambda _offset, _size: pytest.fail("was read"), 10**9, "config.json")


def model_of(**keys):
    config, tensors = hf_models.dense(**SHAPE)
    return config_model({**config, **keys}, tensors, 1, "config.json")


def test_a_model_with_grouped_heads():
    model = model_of()
    assert model.caches == (Cache(32, 32),) * 2
    assert model.cache_heads == 2
    assert {(weight.layer, weight.ways) for weight in model.weights} == {
        (INPUT, 0),
        *((layer, ways) for layer in (0, 1) for ways in (0, 1, 2)),
        (2, 0),
        (2, 1),
    }
    norms = {weight.size for weight in model.weights if weight.ways == 1}
    assert norms == {2 * 2 * 64, 2 * 64}


def test_a_model_whose_heads_are_not_grouped_and_not_sized():
    model = model_of(num_key_value_heads=None, head_dim=None)
    assert model.caches[0] == Cache(64, 64)


def test_groups_of_a_quantization_bound_the_parts():
    awq = {"quant_method": "awq", "group_size": 32}
    assert model_of(quantization_config=awq).cuts == (Cut("intermediate_size", 96, 32),)
    assert model_of(quantization_config=awq).quantization == "awq"
    assert model_of(quantization_config={"quant_method": "gptq", "group_size": -1}).cuts[0].unit == 1


@pytest.mark.parametrize(
    "key",
    [
        "num_hidden_layers",
        "num_attention_heads",
        "hidden_size",
        "intermediate_size",
        "vocab_size",
        "max_position_embeddings",
    ],
)
@pytest.mark.parametrize("value", [None, "8", True, 0])
def test_a_missing_or_wrong_key_is_named(key, value):
    with pytest.raises(LlmError, match=f"config.json has .* under {key}; expected a number from 1 to"):
        model_of(**{key: value})


KEYS = (*hf_models.DEEPSEEK_R1, "quantization_config", "head_dim", "model_type")
NUMBERS = st.one_of(st.integers(-2, 300), st.integers(), st.booleans(), st.none(), st.text(max_size=3), st.floats())
ANYTHING = st.recursive(NUMBERS, st.lists, max_leaves=4)


CONFIGS = (hf_models.DEEPSEEK_R1, hf_models.dense(**SHAPE)[0])


@given(st.sampled_from(CONFIGS), st.dictionaries(st.sampled_from(KEYS), ANYTHING, max_size=3))
def test_any_configuration_is_a_model_or_an_error(config, changes):
    with contextlib.suppress(LlmError):
        config_model({**config, **changes}, [StoredTensor("lm_head.weight", 1)], 1, "config.json")


@given(st.binary(max_size=200), st.booleans())
def test_any_bytes_are_tensors_or_an_error(content, sized):
    with contextlib.suppress(LlmError):
        tensors_of(struct.pack("<Q", len(content)) + content if sized else content)


@given(st.dictionaries(st.text(max_size=3), st.fixed_dictionaries({"data_offsets": ANYTHING}) | ANYTHING, max_size=3))
def test_any_header_is_tensors_or_an_error(header):
    with contextlib.suppress(LlmError):
        tensors_of(safetensors(header))


def test_an_unknown_model_type_is_named():
    with pytest.raises(LlmError, match=r"config\.json has the model_type 'mamba', unknown here\. Known: .*deepseek_v3"):
        model_of(model_type="mamba")
