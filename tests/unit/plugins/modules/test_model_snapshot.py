# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import hashlib
import json
import os
import random
import resource
from pathlib import Path

import pytest

from ansible_collections.llmfleet.serving.plugins.module_utils._files import known_sha256, locked
from ansible_collections.llmfleet.serving.plugins.modules import model_snapshot
from testbed.hub import Hub

REPO = "acme/tensors"
SHARDS = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]


@pytest.fixture
def repository(published) -> Path:
    """A model in two large files, with small ones in LFS and in git, an empty one, and one in a directory."""
    folder = published.folder.parent / "tensors"
    (folder / "assets" / "deep").mkdir(parents=True)
    for number, name in enumerate(SHARDS):
        (folder / name).write_bytes(random.Random(number).randbytes(2_500_000 + number))
    (folder / "adapter.safetensors").write_bytes(random.Random(7).randbytes(5_000))
    (folder / "config.json").write_text('{"architectures": ["Tiny"]}\n')
    (folder / "tokenizer.json").write_bytes(random.Random(8).randbytes(1_500_000).hex().encode()[:1_100_000])
    (folder / "assets" / "deep" / "empty.txt").touch()
    (folder / "assets" / "chat.jinja").write_text("{{ messages }}\n")
    return folder


@pytest.fixture
def dest(tmp_path):
    return tmp_path / "models" / "tensors"


@pytest.fixture
def fetch(run_module, repository, hub, dest):
    """`fetch(check=..., include=...)` runs the module for the commit that the hub has now."""

    def run(**params):
        defaults = {
            "hub": hub.url,
            "repo": REPO,
            "revision": hub.repository(REPO).commit,
            "dest": str(dest),
            "timeout": 2,
            "deadline": 30,
        }
        result = run_module(model_snapshot, **{**defaults, **params})
        shown = json.dumps({name: value for name, value in result.items() if name != "invocation"})
        assert "Signature" not in shown
        return result

    return run


def tree(folder: Path) -> dict[str, bytes]:
    """The files below a folder but those that this collection keeps for itself."""
    paths = (path for path in folder.rglob("*") if path.is_file() and ".llmfleet." not in path.name)
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


def kept(folder: Path) -> set[str]:
    """The kinds of files that this collection keeps for itself."""
    return {path.name.rpartition(".")[2] for path in folder.rglob(".*.llmfleet.*")}


def requests(hub: Hub) -> int:
    return sum(record["requests"] for host in hub.stats().values() for record in host.values())


def sent(hub: Hub) -> dict[str, int]:
    """Bytes of files that were sent, by path."""
    records = [*hub.stats()["cdn"].items(), *hub.stats()["hub"].items()]
    return {path.removeprefix(f"{REPO}/"): record["bytes"] for path, record in records if path.startswith(f"{REPO}/")}


# The four ways


def test_check_real_check_real(fetch, hub, repository, dest):
    predicted = fetch(check=True, mode="0640")
    assert (predicted["changed"], predicted["bytes_fetched"], predicted["bytes_linked"]) == (True, 0, 0)
    assert predicted["bytes_missing"] >= predicted["bytes_total"]
    assert not dest.parent.exists()

    made = fetch(mode="0640")
    assert made["changed"] is True
    assert made.keys() == predicted.keys()
    assert tree(dest) == tree(repository)
    assert made["bytes_total"] == made["bytes_fetched"] == sum(map(len, tree(repository).values()))
    assert made["commit"] == hub.repository(REPO).commit
    assert [file["name"] for file in made["files"]] == sorted(tree(repository))
    for file in made["files"]:
        path = dest / file["name"]
        assert path.stat().st_mode & 0o7777 == 0o640
        assert known_sha256(path) == file["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert kept(dest) == {"json", "manifest"}

    hub.clear_stats()
    for check in (True, False):
        same = fetch(check=check, mode="0640")
        assert (same["changed"], same["bytes_fetched"]) == (False, 0)
        assert same["diff"]["before"] == same["diff"]["after"]
        assert same["files"] == made["files"]
    assert requests(hub) == 0


def test_attributes_alone_are_a_change(fetch, dest):
    fetch()
    assert fetch(mode="0600", check=True)["changed"] is True
    assert fetch(mode="0600")["changed"] is True
    assert (dest / "config.json").stat().st_mode & 0o7777 == 0o600
    assert fetch(mode="0600")["changed"] is False


# Which files


def test_patterns(fetch, dest):
    assert fetch(include=["*.json", "assets/*"], exclude=["tokenizer*", "*.txt"])["changed"] is True
    assert sorted(tree(dest)) == ["assets/chat.jinja", "config.json"]


def test_other_patterns_add_and_remove(fetch, dest):
    fetch(include=["*.json"])
    predicted = fetch(include=["config.json"], check=True)
    assert predicted["changed"] is True
    assert sorted(tree(dest)) == ["config.json", "tokenizer.json"]
    assert fetch(include=["config.json"])["changed"] is True
    assert sorted(tree(dest)) == ["config.json"]
    assert not [path for path in dest.iterdir() if "tokenizer" in path.name]


def test_patterns_that_choose_nothing_are_refused(fetch, dest):
    refused = fetch(include=["*.gguf"])
    assert refused["msg"].startswith("No file of the repository matches ['*.gguf'] and not []")
    assert tree(dest) == {}


@pytest.mark.parametrize("name", ["pytorch_model.bin", "a/optimizer.PT", "x.ckpt", "x.pkl", "x.pth", "x.pickle"])
def test_pickles_are_refused_unless_asked_for(fetch, repository, dest, name):
    (repository / name).parent.mkdir(exist_ok=True)
    (repository / name).write_bytes(b"cos\nsystem\n(S'true'\ntR.")
    for check in (True, False):
        refused = fetch(check=check)
        assert refused["failed"] is True
        assert refused["msg"].startswith(f"1 files may be Python pickles, which run code when they are loaded: {name}.")
    assert tree(dest) == {}
    assert fetch(exclude=[name])["changed"] is True
    assert name not in tree(dest)
    assert fetch(allow_pickle=True)["changed"] is True
    assert tree(dest) == tree(repository)
    assert fetch()["failed"] is True


# From commit to commit


def test_the_next_commit_in_the_same_directory(fetch, hub, repository, dest):
    fetch()
    before = {name: (dest / name).stat().st_ino for name in tree(dest)}
    (repository / SHARDS[1]).write_bytes(random.Random(9).randbytes(2_600_000))
    (repository / "config.json").write_text('{"architectures": ["Other"]}\n')
    (repository / "assets" / "chat.jinja").unlink()
    (repository / "assets" / "deep" / "empty.txt").unlink()
    (repository / "new.json").write_text("{}\n")
    hub.clear_stats()
    predicted = fetch(check=True)
    assert predicted["changed"] is True
    assert "config.json" in tree(dest)
    made = fetch()
    assert made["changed"] is True
    assert tree(dest) == tree(repository)
    assert not (dest / "assets").exists()
    unchanged = [SHARDS[0], "adapter.safetensors", "tokenizer.json"]
    assert {name: (dest / name).stat().st_ino for name in unchanged} == {name: before[name] for name in unchanged}
    assert not [name for name in unchanged if sent(hub).get(name)]
    assert made["bytes_fetched"] == sum((dest / name).stat().st_size for name in (SHARDS[1], "config.json", "new.json"))
    assert fetch()["changed"] is False


def test_what_somebody_has_changed_is_not_removed(fetch, repository, dest):
    fetch()
    (repository / "assets" / "chat.jinja").unlink()
    (dest / "assets" / "chat.jinja").write_text("mine\n")
    for _dummy in range(2):
        assert fetch()["changed"] is False
        assert (dest / "assets" / "chat.jinja").read_text() == "mine\n"


def test_a_file_that_has_another_name_now_is_not_fetched_again(fetch, hub, repository, dest):
    fetch()
    (repository / SHARDS[0]).rename(repository / "model.safetensors")
    hub.clear_stats()
    made = fetch()
    assert (made["bytes_fetched"], made["bytes_linked"]) == (0, 2_500_000)
    assert not sent(hub).get("model.safetensors")
    assert tree(dest) == tree(repository)
    assert (dest / "model.safetensors").stat().st_nlink == 1


@pytest.fixture
def next_commit(fetch, repository, dest, tmp_path):
    """The options that put the next commit, in which one shard is another, beside the first."""
    fetch()
    (repository / SHARDS[1]).write_bytes(random.Random(9).randbytes(2_600_000))
    return {"dest": str(tmp_path / "models" / "next"), "link_from": [str(dest)]}


def test_the_next_commit_beside_it_is_linked(fetch, repository, dest, next_commit):
    beside = Path(next_commit["dest"])
    predicted = fetch(check=True, **next_commit)
    assert not beside.exists()
    made = fetch(**next_commit)
    assert tree(beside) == tree(repository)
    assert (beside / SHARDS[0]).samefile(dest / SHARDS[0])
    assert not (beside / SHARDS[1]).samefile(dest / SHARDS[1])
    assert made["bytes_linked"] == predicted["bytes_linked"] == 2_500_000 + 1_100_000 + 5_000
    assert made["bytes_fetched"] == made["bytes_total"] - made["bytes_linked"]
    assert known_sha256(beside / SHARDS[0]) == hashlib.sha256((repository / SHARDS[0]).read_bytes()).hexdigest()
    for options in (next_commit, {**next_commit, "link_from": []}):
        assert fetch(**options)["changed"] is False


def test_a_file_that_was_changed_is_not_linked(fetch, repository, dest, next_commit):
    with (dest / SHARDS[0]).open("r+b") as file:
        file.write(b"rotten")
    made = fetch(**next_commit)
    assert made["bytes_linked"] == 1_100_000 + 5_000
    assert tree(Path(next_commit["dest"])) == tree(repository)


# What is there before


def test_content_of_somebody_else_is_not_replaced(fetch, repository, dest):
    dest.mkdir(parents=True)
    (dest / "config.json").write_text("mine\n")
    for check in (True, False):
        refused = fetch(check=check)
        assert refused["failed"] is True
        assert refused["msg"].startswith(f"{dest / 'config.json'} exists")
    assert tree(dest) == {"config.json": b"mine\n"}
    assert fetch(force=True)["changed"] is True
    assert tree(dest) == tree(repository)


def test_a_copy_that_is_there_already_is_adopted(fetch, hub, repository, dest):
    for name, content in tree(repository).items():
        (dest / name).parent.mkdir(parents=True, exist_ok=True)
        (dest / name).write_bytes(content)
    made = fetch()
    assert (made["changed"], made["bytes_fetched"]) == (False, 0)
    assert not any(sent(hub).get(name) for name in tree(repository))


def test_a_damaged_file_is_made_good(fetch, repository, dest):
    fetch()
    (dest / SHARDS[0]).write_bytes(b"damaged")
    assert fetch(check=True, force=True)["changed"] is True
    assert fetch(force=True)["changed"] is True
    assert tree(dest) == tree(repository)


def test_a_directory_of_another_repository_is_refused(fetch, hub, published, dest):
    fetch()
    before = tree(dest)
    other = {"repo": "acme/model-GGUF", "revision": hub.repository("acme/model-GGUF").commit}
    refused = fetch(**other)
    assert refused["msg"].startswith(f"{dest} is a snapshot of {REPO}, not of acme/model-GGUF.")
    assert tree(dest) == before
    assert fetch(force=True, **other)["changed"] is True
    assert tree(dest) == tree(published.folder)


def test_a_file_in_place_of_the_directory_is_refused(fetch, dest):
    dest.parent.mkdir()
    dest.touch()
    assert fetch()["msg"] == f"{dest} is not a directory; expected one, or nothing."


def test_only_one_works_at_a_time(fetch, dest):
    dest.mkdir(parents=True)
    with locked(dest / "snapshot"):
        assert f"is being written by process {os.getpid()}. " in fetch()["msg"]
    assert tree(dest) == {}


# Faults


def test_an_interrupted_download_goes_on(fetch, hub, repository, dest):
    hub.fault("slow", path=f"{REPO}/{SHARDS[1]}", rate=250_000)
    failed = fetch(deadline=3)
    assert failed["failed"] is True
    assert "deadline" in failed["msg"]
    there = tree(dest)
    assert SHARDS[1] not in there
    hub.clear_faults()
    hub.clear_stats()
    made = fetch()
    assert tree(dest) == tree(repository)
    assert made["bytes_fetched"] < made["bytes_total"] - sum(map(len, there.values()))
    assert kept(dest) == {"json", "manifest"}


@pytest.mark.parametrize("name", [SHARDS[0], "adapter.safetensors"])
def test_wrong_bytes_never_get_a_name(fetch, hub, repository, dest, name):
    hub.fault("rotten-byte", path=f"{REPO}/{name}", after=1_000)
    failed = fetch()
    assert failed["failed"] is True
    assert hashlib.sha256((repository / name).read_bytes()).hexdigest() in failed["msg"]
    assert name not in tree(dest)
    hub.clear_faults()
    assert fetch()["changed"] is True
    assert tree(dest) == tree(repository)


def test_too_little_space_is_found_before_the_first_byte(fetch, hub, dest, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda _path: type("Usage", (), {"free": 1_000_000})())
    refused = fetch()
    assert "too little free space" in refused["msg"]
    assert not any(sent(hub).values())


def test_hundreds_of_small_files_need_few_open_files(fetch, repository, dest):
    for number in range(400):
        (repository / "assets" / f"{number}.json").write_text(f'{{"number": {number}}}\n')
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (len([*Path("/proc/self/fd").iterdir()]) + 150, limits[1]))
    try:
        made = fetch()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert made["changed"] is True
    assert tree(dest) == tree(repository)
    assert len(made["files"]) == 407
    assert kept(dest) == {"json", "manifest"}


# Sources


def test_modelscope(fetch, hub, repository, dest):
    made = fetch(hub="modelscope", endpoint=hub.url)
    assert made["changed"] is True
    assert tree(dest) == tree(repository)


def test_a_directory(fetch, repository, dest):
    params = {"hub": str(repository.parents[1]), "revision": "0" * 40}
    assert fetch(**params)["changed"] is True
    assert tree(dest) == tree(repository)
    assert fetch(**params)["changed"] is False


def test_another_source_goes_on_where_the_first_fails(fetch, hub, repository, dest, tmp_path):
    with Hub(repository.parents[1]) as other:
        hub.fault("error-404", path=f"{REPO}/{SHARDS[1]}")
        made = fetch(sources=[{"hub": other.url}])
    assert made["changed"] is True
    assert tree(dest) == tree(repository)
