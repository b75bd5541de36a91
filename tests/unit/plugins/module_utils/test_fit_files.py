# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Models of a disk and of a hub, by the headers of their files."""

from __future__ import annotations

import contextlib
import json
import os
import time

import hf_models
import model_headers
import pytest
from safetensors import safe_open

from ansible_collections.llmfleet.serving.plugins.module_utils._errors import LlmError
from ansible_collections.llmfleet.serving.plugins.module_utils._fit_files import hub_model, local_model
from ansible_collections.llmfleet.serving.plugins.module_utils._hub import source
from ansible_collections.llmfleet.serving.plugins.modules import model_fit
from testbed import models
from testbed.hub import Hub

SHAPE = {"layers": 4, "width": 1024, "heads": 8, "kv_heads": 4, "hidden": 2048, "words": 8000}


def write_shards(folder):
    """A model in one file and the same in shards."""
    whole = model_headers.dense(folder / "whole.gguf", layers=3, words=8000)
    return whole, model_headers.split(whole, 3)


@pytest.fixture
def repository(tmp_path):
    return hf_models.write_repository(tmp_path / "acme" / "model", *hf_models.dense(**SHAPE))


def test_all_shards_are_one_model(tmp_path):
    whole, shards = write_shards(tmp_path)
    one, three = local_model(whole), local_model(shards[0])
    assert three.weights == one.weights
    assert three.caches == one.caches
    assert three.disk == sum(shard.stat().st_size for shard in shards)


def test_a_missing_shard_is_named(tmp_path):
    _whole, shards = write_shards(tmp_path)
    shards[1].unlink()
    with pytest.raises(LlmError, match=r"lacks 1 of 3 shards: part-00002-of-00003\.gguf"):
        local_model(shards[0])


def test_a_directory_is_a_repository(repository):
    config, tensors = hf_models.dense(**SHAPE)
    model = local_model(repository)
    assert model.architecture == config["model_type"]
    assert model.size == sum(tensor.size for tensor in tensors)
    assert model.disk == sum(path.stat().st_size for path in repository.iterdir())


def test_what_the_index_does_not_name_is_not_loaded(repository):
    before = local_model(repository).size
    hf_models.write_safetensors(repository / "consolidated.safetensors", hf_models.dense(**SHAPE)[1])
    assert local_model(repository).size == before


def test_without_an_index_all_files_are_the_model(repository):
    before = local_model(repository).size
    (repository / "model.safetensors.index.json").unlink()
    assert local_model(repository).size == before


def edit_index(repository, **places):
    path = repository / "model.safetensors.index.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **places}))


def test_a_file_that_the_index_names_must_be_there(repository):
    edit_index(repository, weight_map={"a": "gone.safetensors"})
    with pytest.raises(LlmError, match=r"index\.json names 1 files that are not there, such as .*/gone\.safetensors"):
        local_model(repository)


def test_an_index_without_a_map_is_an_error(repository):
    edit_index(repository, weight_map=None)
    with pytest.raises(LlmError, match=r"index\.json has no weight_map"):
        local_model(repository)


def test_a_config_alone_is_no_model(repository):
    for path in repository.glob("model*"):
        path.unlink()
    with pytest.raises(LlmError, match="There are no safetensors files beside"):
        local_model(repository)


def test_a_directory_of_something_else_is_an_error(tmp_path):
    (tmp_path / "README.md").write_text("")
    with pytest.raises(LlmError, match=r"neither a GGUF file nor a config\.json"):
        local_model(tmp_path)


def test_two_models_are_not_one(tmp_path):
    for name in ("a.gguf", "b.gguf"):
        model_headers.dense(tmp_path / name, layers=1)
    with pytest.raises(LlmError):
        local_model(tmp_path)


def test_a_pipe_is_an_error(tmp_path):
    os.mkfifo(tmp_path / "x.gguf")
    with pytest.raises(LlmError, match=r"x\.gguf is neither a file nor a directory"):
        local_model(tmp_path / "x.gguf")


def test_an_absent_path_is_an_error(tmp_path):
    with pytest.raises(LlmError, match="No such file or directory"):
        local_model(tmp_path / "x.gguf")


def at_hub(root, pattern, kind, fault=None):
    """The model as a hub has it, which shows a fault once, and how many bytes it sent."""
    with Hub(root, mirror=root) as hub:
        origin = source(kind, "acme/model", endpoint=f"{hub.url}/mirror" if kind == "url" else hub.url)
        commit = origin.commit("main")
        shown = hub.fault(fault, path="acme/*", times=1) if fault else None
        model = hub_model(origin, commit, pattern, time.monotonic() + 30)
        assert shown is None or shown.fired == 1
        return model, sum(record["bytes"] for host in hub.stats().values() for record in host.values())


@pytest.mark.parametrize("kind", ["huggingface", "modelscope"])
def test_a_gguf_model_of_a_hub_is_read_by_its_headers(tmp_path, kind):
    folder = tmp_path / "acme" / "model" / "Q4"
    folder.mkdir(parents=True)
    _whole, shards = write_shards(folder)
    model, sent = at_hub(tmp_path, "Q4/part-*.gguf", kind)
    assert model == local_model(shards[0])
    assert model.disk > 70e6
    assert sent < 2e6


@pytest.mark.parametrize("fault", ["error-503", "reset", "short-body", "no-range", "expired-url"])
def test_a_hub_that_stumbles_is_asked_again(repository, fault):
    model, _sent = at_hub(repository.parents[1], "*", "huggingface", fault)
    assert model.weights == local_model(repository).weights


class Short:
    """A source whose first answers end early without an error, as old versions of urllib3 let them."""

    lists = True

    def __init__(self, source, answers):
        self._source = source
        self._left = answers

    def files(self, commit):
        return self._source.files(commit)

    @contextlib.contextmanager
    def open(self, file, start, etag, stop=None):
        self._left -= 1
        with self._source.open(file, start, etag, stop if self._left < 0 else stop - 1) as content:
            yield content


def test_an_answer_that_ends_early_is_asked_for_again(repository):
    origin = Short(source(str(repository.parents[1]), "acme/model"), answers=2)
    model = hub_model(origin, "0" * 40, "*", time.monotonic() + 30)
    assert model.weights == local_model(repository).weights


def test_answers_that_always_end_early_are_an_error(repository):
    origin = Short(source(str(repository.parents[1]), "acme/model"), answers=1000)
    with pytest.raises(LlmError, match=r"config\.json ended at byte \d+ of \d+\. Given up"):
        hub_model(origin, "0" * 40, "*", time.monotonic() + 1)


def test_a_gguf_model_of_a_plain_server_is_found_by_the_names_of_its_shards(tmp_path):
    folder = tmp_path / "acme" / "model" / "Q4"
    folder.mkdir(parents=True)
    whole, shards = write_shards(folder)
    model, sent = at_hub(tmp_path, "Q4/part-00001-of-00003.gguf", "url")
    assert model == local_model(shards[0])
    assert sent < 2e6
    assert at_hub(tmp_path, "Q4/whole.gguf", "url")[0] == local_model(whole)


@pytest.mark.parametrize("kind", ["huggingface", "modelscope"])
def test_a_repository_of_a_hub_is_read_by_its_headers(repository, kind):
    model, sent = at_hub(repository.parents[1], "*", kind)
    assert model.weights == local_model(repository).weights
    assert model.disk > 70e6
    assert sent < 1e6


def test_real_safetensors_files_are_read_as_their_library_reads_them():
    folder = models.ensure() / "bed/tiny-llama"
    sizes = 0
    for path in folder.glob("*.safetensors"):
        with safe_open(path, "numpy") as file:
            sizes += sum(file.get_tensor(name).nbytes for name in file.keys())  # noqa: SIM118 (no mapping)
    assert local_model(folder).size == sizes


def test_a_token_goes_to_the_hub_and_nowhere_else(run_module, published, hub, token, tmp_path):
    (tmp_path / "token").write_text(token)
    (published.folder / ".gated").touch()
    asked = {"endpoint": hub.url, "repo": "acme/model-GGUF", "revision": "main", "allow_floating_revision": True}
    asked |= {"files": "Q4/*", "engine": "ollama", "profile": "h800"}
    assert " answered 401 " in run_module(model_fit, **asked)["msg"]
    result = run_module(model_fit, token_file=str(tmp_path / "token"), **asked)
    # The hub let it in: what fails is that this model has no numbers of heads.
    assert result["msg"].startswith("Q4/model-00001-of-00003.gguf has nothing under llama.")
    assert token not in str(result)
