"""Ollama's model folder: names, bytes, and what a store looks like after each step that can fail."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import pytest

from ansible_collections.llmfleet.serving.plugins.module_utils import _ollama_store
from ansible_collections.llmfleet.serving.plugins.module_utils._errors import LlmError
from ansible_collections.llmfleet.serving.plugins.module_utils._ollama_store import (
    ModelName,
    Registration,
    Store,
    go_json,
    human_count,
)
from testbed.models import make

NAMES = {
    "tiny": ("tiny:latest", "registry.ollama.ai/library/tiny/latest"),
    "tiny:8b-q4_K_M": ("tiny:8b-q4_K_M", "registry.ollama.ai/library/tiny/8b-q4_K_M"),
    "DeepSeek-R1_0528.x": ("DeepSeek-R1_0528.x:latest", "registry.ollama.ai/library/DeepSeek-R1_0528.x/latest"),
    "team/tiny:v1": ("team/tiny:v1", "registry.ollama.ai/team/tiny/v1"),
    "library/tiny": ("tiny:latest", "registry.ollama.ai/library/tiny/latest"),
    "hub.example:5000/team/tiny": ("hub.example:5000/team/tiny:latest", "hub.example:5000/team/tiny/latest"),
}


@pytest.mark.parametrize(("text", "expected"), NAMES.items(), ids=NAMES)
def test_names(text, expected):
    name = ModelName.parse(text)
    assert (str(name), str(Store(Path("s")).path_of(name))) == (expected[0], f"s/manifests/{expected[1]}")
    assert ModelName.parse(str(name)) == name


@pytest.mark.parametrize(
    "text",
    [
        "",
        ":",
        "tiny:",
        "tiny:a:b",
        "/tiny",
        "tiny/",
        "a/b/c/d",
        "..",
        "../tiny",
        "tiny:..",
        ".hidden",
        "-tiny",
        "ti ny",
        "tiny\n",
        "té",
        "a.b/tiny",
        "t" * 81,
        "https://hub/team/tiny",
    ],
)
def test_names_that_ollama_does_not_accept_are_refused(text):
    with pytest.raises(LlmError, match=r"The model name .* is refused: expected"):
        ModelName.parse(text)


@pytest.mark.parametrize(
    ("count", "shown"),
    [
        (999, "999"),
        (1_500, "2K"),
        (1_000_000, "1M"),
        (7_615_616, "7.62M"),
        (8_000_000_000, "8B"),
        (671_026_419_200, "671.0B"),
    ],
)
def test_counts_are_shown_as_ollama_shows_them(count, shown):
    assert human_count(count) == shown


def test_json_has_the_bytes_of_gos_encoder():
    assert (
        go_json({"stop": ["<a>&", "é\u2028"], "n": 0.6})
        == b'{"stop":["\\u003ca\\u003e\\u0026","\xc3\xa9\\u2028"],"n":0.6}\n'
    )


@pytest.fixture
def gguf(tmp_path):
    [path] = make(tmp_path, "tiny", architecture="llama")
    return path


@pytest.fixture
def store(tmp_path):
    (tmp_path / "store").mkdir()
    return Store(tmp_path / "store")


def registration(source, name="tiny", **options):
    options = {"parameters": {"num_ctx": 512}, "template": "{{ .Prompt }}", "system": "Be.", **options}
    return Registration.of(ModelName.parse(name), source, remember=False, **options)


def listing(store):
    return sorted(str(path.relative_to(store.root)) for path in store.root.rglob("*") if not path.is_dir())


def test_manifest_lists_every_blob_with_its_true_digest_and_size(store, gguf):
    wanted = registration(gguf)
    store.write(wanted)
    manifest = json.loads(store.read(wanted.name))
    assert manifest["schemaVersion"] == 2
    layers = [manifest["config"], *manifest["layers"]]
    assert [layer["mediaType"].rpartition(".")[2] for layer in layers] == [
        "v1+json",
        "model",
        "template",
        "system",
        "params",
    ]
    for layer in layers:
        content = (store.root / "blobs" / layer["digest"].replace(":", "-")).read_bytes()
        assert (f"sha256:{hashlib.sha256(content).hexdigest()}", len(content)) == (layer["digest"], layer["size"])
    assert len(listing(store)) == len(layers) + 1


def test_layers_that_are_not_wished_for_are_not_written(store, gguf):
    wanted = registration(gguf, parameters={}, template=None, system=None)
    store.write(wanted)
    assert len(json.loads(wanted.manifest)["layers"]) == 1
    assert store.describe(wanted.name) == wanted.describe()
    assert {wanted.describe()[key] for key in ("parameters", "template", "system")} == {None}


def test_description_of_what_is_stored_is_that_of_what_was_wished_for(store, gguf):
    wanted = registration(gguf)
    assert store.describe(wanted.name) is None
    store.write(wanted)
    assert store.describe(wanted.name) == wanted.describe()
    assert wanted.describe() == {
        "name": "tiny:latest",
        "digest": hashlib.sha256(wanted.manifest).hexdigest(),
        "file_sha256": hashlib.sha256(gguf.read_bytes()).hexdigest(),
        "parameters": {"num_ctx": 512},
        "template": "{{ .Prompt }}",
        "system": "Be.",
    }


def test_damaged_manifest_is_described_and_replaced(store, gguf):
    wanted = registration(gguf)
    store.write(wanted)
    store.path_of(wanted.name).write_text("{")
    assert store.describe(wanted.name)["file_sha256"] is None
    assert not store.holds(wanted)
    store.write(wanted)
    assert store.holds(wanted)


def test_manifest_cannot_make_prune_leave_the_store(store, tmp_path):
    precious = tmp_path / "precious"
    precious.write_text("x")
    layer = {"mediaType": "m", "digest": "../../precious", "size": 1}
    store.prune(json.dumps({"config": layer, "layers": [layer]}).encode())
    assert precious.exists()


def test_prune_keeps_what_another_model_uses(store, gguf):
    first, second = registration(gguf), registration(gguf, "other", system="Another.")
    store.write(first)
    store.write(second)
    store.replace(first.name, None)
    store.prune(first.manifest)
    assert store.holds(second)
    assert len(listing(store)) == 6
    store.replace(second.name, None)
    store.prune(second.manifest)
    assert listing(store) == []
    assert not (store.root / "manifests" / "registry.ollama.ai").exists()
    assert gguf.stat().st_nlink == 1


def test_private_copy_is_replaced_by_a_link_but_a_linked_one_stays(store, gguf, tmp_path):
    wanted = registration(gguf)
    store.write(wanted)
    blob = store.blob(wanted.model_digest)
    blob.unlink()
    blob.write_bytes(gguf.read_bytes())
    assert not store.holds(wanted)
    os.link(blob, tmp_path / "somebody-elses-name")
    assert store.holds(wanted)
    (tmp_path / "somebody-elses-name").unlink()
    store.write(wanted)
    assert blob.samefile(gguf)


def test_link_that_points_nowhere_is_made_again(store, gguf, tmp_path):
    wanted = registration(gguf)
    store.write(wanted)
    blob = store.blob(wanted.model_digest)
    blob.unlink()
    blob.symlink_to(tmp_path / "gone")
    assert not store.holds(wanted)
    store.write(wanted)
    assert blob.samefile(gguf)


def test_file_that_changed_after_it_was_hashed_is_not_registered(store, gguf):
    wanted = registration(gguf)
    gguf.write_bytes(gguf.read_bytes())
    os.utime(gguf, (0, 0))
    with pytest.raises(LlmError, match="was changed while it was used"):
        store.write(wanted)
    assert not store.blob(wanted.model_digest).exists()
    assert store.read(wanted.name) is None
    assert [name for name in listing(store) if "llmfleet" in name] == []


@pytest.mark.parametrize("step", ["commit", "sync_directory"])
def test_a_kill_at_any_step_leaves_the_old_manifest_or_the_new_one(store, gguf, monkeypatch, step):
    """Each call of the step is once the last thing that happens; then the next run mends all."""

    class KilledError(BaseException):
        pass

    old, new = registration(gguf), registration(gguf, system="New.", parameters={"num_ctx": 1024})
    kills = 0
    while True:
        store.write(old)
        store.blob(new.model_digest).unlink()
        real, calls = getattr(_ollama_store, step), 0

        def dying(*args, real=real, after=kills):
            nonlocal calls
            calls += 1
            if calls > after:
                raise KilledError
            return real(*args)

        with monkeypatch.context() as patch:
            patch.setattr(_ollama_store, step, dying)
            try:
                store.write(new)
            except KilledError:
                assert store.read(old.name) in (old.manifest, new.manifest)
            else:
                break
        store.write(new)
        assert store.holds(new)
        assert [name for name in listing(store) if "llmfleet" in name] == []
        kills += 1
    assert kills >= 1


def test_store_that_cannot_be_read_is_one_clear_error(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(LlmError, match="Reading the model folder failed"):
        Store(tmp_path / "file").describe(ModelName.parse("tiny"))
