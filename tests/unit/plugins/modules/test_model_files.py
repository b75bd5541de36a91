# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import os
import shutil
import subprocess

import gguf_build as build
import pytest

from ansible_collections.llmfleet.serving.plugins.modules import gguf_fetch, model_files, model_snapshot

REPO, COMMIT = "acme/model-GGUF", "0123456789abcdef0123456789abcdef01234567"
MODEL = {"name": "small", "repo": REPO, "revision": COMMIT, "files": "*.gguf"}
FOLDER = {**MODEL, "name": "folder", "kind": "shards"}
SNAPSHOT = {**MODEL, "name": "snapshot", "kind": "snapshot"}


@pytest.fixture
def store(tmp_path, run_module):
    """A store with a merged model, one in shards and a snapshot, put there from a directory."""
    hub = tmp_path / "hub" / REPO
    hub.mkdir(parents=True)
    build.write_shards(hub, build.shards(*build.small_model()))
    store = tmp_path / "store"
    origin = {"hub": str(tmp_path / "hub"), "repo": REPO, "revision": COMMIT}
    for fetched in (
        run_module(gguf_fetch, **origin, files="*.gguf", dest=str(store / "small.gguf")),
        run_module(gguf_fetch, **origin, files="*.gguf", dest=str(store / "folder"), merge=False),
        run_module(model_snapshot, **origin, include=["*.gguf"], dest=str(store / "snapshot")),
    ):
        assert fetched.get("changed") is True, fetched
    return store


@pytest.fixture
def look(run_module, store):
    def run(*models, **params):
        return run_module(model_files, path=str(store), models=list(models or (MODEL, FOLDER, SNAPSHOT)), **params)

    return run


def four_ways(look, *models, **params):
    """Check mode tells what a run then does, and a second run does nothing."""
    predicted = look(*models, check=True, **params)
    made = look(*models, **params)
    assert predicted["changed"] == made["changed"]
    for name in ("missing", "files", "corrupt", "removed"):
        assert predicted[name] == made[name]
    for check in (True, False):
        again = look(*models, check=check, **params)
        assert (again["changed"], again["files"]) == (False, made["files"])
    return made


def spoil(path):
    """Flip one bit, as a disk may, and leave no trace in the file's metadata."""
    before = path.stat()
    with path.open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        last = file.read(1)
        file.seek(-1, os.SEEK_END)
        file.write(bytes([last[0] ^ 1]))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def test_tells_what_is_there_and_keeps_sums(look, store):
    made = four_ways(look)
    assert made["changed"] is True
    assert made["missing"] == made["strays"] == made["corrupt"] == []
    assert [file["path"] for file in made["files"]] == ["small.gguf"] + [
        f"{folder}/model-0000{number}-of-00003.gguf" for folder in ("folder", "snapshot") for number in (1, 2, 3)
    ]
    subprocess.run(["sha256sum", "--check", "--strict", "--quiet", "SHA256SUMS"], cwd=store, check=True)


def test_tells_what_is_missing(look):
    other = {**MODEL, "name": "other"}
    newer = [{**model, "revision": COMMIT[::-1]} for model in (FOLDER, SNAPSHOT)]
    assert four_ways(look, MODEL, other, *newer)["missing"] == ["other", "folder", "snapshot"]


def test_store_that_is_not_there_misses_everything(run_module, tmp_path):
    for check in (True, False):
        result = run_module(model_files, path=str(tmp_path / "none"), models=[MODEL], check=check)
        assert (result["changed"], result["missing"], result["strays"]) == (False, ["small"], [])
    assert not (tmp_path / "none").exists()


def test_incomplete_directory_is_missing(look, store):
    (store / "folder/model-00002-of-00003.gguf").unlink()
    assert look()["missing"] == ["folder"]


def test_silent_corruption_is_found_when_everything_is_read(look, store):
    look()
    spoil(store / "small.gguf")
    assert look()["corrupt"] == []
    content = (store / "small.gguf").read_bytes()

    made = four_ways(look, verify=True)
    assert made["corrupt"] == [str(store / "small.gguf")]
    assert made["missing"] == ["small"]
    assert not (store / "small.gguf").exists()
    assert (store / "small.gguf.quarantined").read_bytes() == content
    assert "small.gguf" not in (store / "SHA256SUMS").read_text()
    assert [stray["path"] for stray in made["strays"]] == ["small.gguf.quarantined"]


def test_changed_file_of_a_directory_is_quarantined_in_it(look, store):
    shard = store / "folder/model-00001-of-00003.gguf"
    shard.write_bytes(b"something else")
    made = four_ways(look)
    assert (made["corrupt"], made["missing"]) == ([str(shard)], ["folder"])
    assert [stray["path"] for stray in made["strays"]] == ["folder/model-00001-of-00003.gguf.quarantined"]


def test_file_that_was_copied_back_is_known_again(look, store):
    look()
    shutil.copy(store / "small.gguf", store / "copy")
    (store / "copy").replace(store / "small.gguf")
    made = four_ways(look)
    assert (made["changed"], made["missing"], made["corrupt"]) == (True, [], [])


def test_absent_models_go_with_all_that_was_kept_of_them(look, store):
    look()
    made = four_ways(look, {"name": "small", "state": "absent"}, FOLDER, SNAPSHOT)
    assert str(store / "small.gguf") in made["removed"]
    assert sorted(path.name for path in store.iterdir()) == ["SHA256SUMS", "folder", "snapshot"]
    made = four_ways(look, *({"name": name, "state": "absent"} for name in ("small", "folder", "snapshot")))
    assert made["removed"] == [str(store / "folder"), str(store / "snapshot")]
    assert (store / "SHA256SUMS").read_text() == ""


def test_strays_are_told_and_left(look, store):
    (store / "old.gguf").write_bytes(bytes(8192))
    (store / "lost").mkdir()
    (store / "lost" / "part").write_bytes(bytes(4096))
    strays = four_ways(look)["strays"]
    assert [stray["path"] for stray in strays] == ["lost", "old.gguf"]
    assert all(stray["size"] > 0 for stray in strays)
    assert (store / "old.gguf").exists()


@pytest.mark.parametrize("name", ["a/b", "..", ".hidden", "", "-x", "a\nb"])
def test_name_that_leads_elsewhere_is_refused(look, name):
    result = look({**MODEL, "name": name})
    assert result["failed"] is True
    assert repr(name) in result["msg"]


def test_name_given_twice_is_refused(look):
    assert "'small' is named twice" in look(MODEL, MODEL)["msg"]


def test_present_model_needs_to_say_what_it_is(look, monkeypatch):
    result = look({"name": "small"})
    assert result["failed"] is True
    assert "repo" in result["msg"]
