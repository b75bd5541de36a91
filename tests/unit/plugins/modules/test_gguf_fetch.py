# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import gguf_build as build
import pytest

from ansible_collections.llmfleet.serving.plugins.module_utils import _output
from ansible_collections.llmfleet.serving.plugins.module_utils._fetch import Fetch
from ansible_collections.llmfleet.serving.plugins.module_utils._files import (
    companion,
    identity,
    known_sha256,
    read_record,
    sha256_file,
)
from ansible_collections.llmfleet.serving.plugins.module_utils._gguf_files import LocalMerge, open_gguf
from ansible_collections.llmfleet.serving.plugins.modules import gguf_fetch, gguf_merge
from testbed import models
from testbed.hub import Hub
from testbed.tools import tool

REPO = "acme/model-GGUF"
SHARD = f"{REPO}/Q4/model-00002-of-00003.gguf"
SECRETS = ("Signature", "canary")
OLD = b"what was there before"
# What is read of the headers of three shards before their data is asked for.
HEADERS = 3 * (64 << 10)


@pytest.fixture
def dest(tmp_path):
    return tmp_path / "models" / "model.gguf"


@pytest.fixture
def fetch(run_module, hub, dest):
    """`fetch(check=..., files=...)` runs the module against the hub; no message of it may hold a secret."""

    def run(**params):
        defaults = {
            "hub": hub.url,
            "repo": REPO,
            "revision": hub.repository(REPO).commit,
            "files": "Q4/*.gguf",
            "dest": str(dest),
            "timeout": 2,
            "deadline": 30,
        }
        result = run_module(gguf_fetch, **{**defaults, **params})
        shown = json.dumps({name: value for name, value in result.items() if name != "invocation"})
        assert not [secret for secret in SECRETS if secret in shown]
        return result

    return run


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def sent(hub) -> int:
    """Bytes of model files that the hub has sent."""
    return sum(record["bytes"] for record in hub.stats()["cdn"].values())


def data_bytes(published) -> int:
    """Bytes of the shards behind their headers."""
    return sum(open_gguf(path).header.data_size for path in published.shards)


def requests(hub) -> int:
    return sum(record["requests"] for host in hub.stats().values() for record in host.values())


# The four ways


def test_check_real_check_real(fetch, hub, published, dest):
    predicted = fetch(check=True, mode="0640")
    assert (predicted["changed"], predicted["sha256"], predicted["bytes_fetched"]) == (True, None, HEADERS)
    assert predicted["bytes_missing"] == len(published.merged)
    hub.clear_stats()
    assert not dest.parent.exists()

    made = fetch(mode="0640")
    assert made["changed"] is True
    assert made["diff"] == predicted["diff"]
    assert made.keys() == predicted.keys()
    assert dest.read_bytes() == published.merged
    assert dest.stat().st_mode & 0o7777 == 0o640
    assert made["sha256"] == published.sha256 == known_sha256(dest)
    assert made["commit"] == hub.repository(REPO).commit
    assert made["bytes_total"] == published.size
    # The headers came for the plan; after that each byte of data came once.
    assert made["bytes_fetched"] == sent(hub) == HEADERS + data_bytes(published)
    assert made["bytes_missing"] == len(published.merged)
    assert (
        made["shards"]
        == predicted["shards"]
        == [
            {"name": f"Q4/{path.name}", "size": path.stat().st_size, "sha256": known_sha256(path)}
            for path in published.shards
        ]
    )
    assert names(dest.parent) == [".model.gguf.llmfleet.json", ".model.gguf.llmfleet.manifest", "model.gguf"]
    took = transfer_of(dest)
    assert took["bytes"] == made["bytes_fetched"]
    assert 0 <= took["seconds"] < 60

    hub.clear_stats()
    before = dest.stat()
    for check in (True, False):
        same = fetch(check=check, mode="0640")
        assert (same["changed"], same["sha256"], same["bytes_fetched"]) == (False, published.sha256, 0)
        assert same["bytes_missing"] == 0
        assert same["diff"]["before"] == same["diff"]["after"]
        assert same["shards"] == made["shards"]
    assert dest.stat() == before
    assert requests(hub) == 0


def transfer_of(dest):
    """What bringing the file took, as its manifest has it."""
    return json.loads(companion(dest, "manifest").read_text())["transfer"]


def test_what_the_transfer_took_stays_when_nothing_is_brought(fetch, dest, hub, published):
    fetch()
    took = transfer_of(dest)
    companion(dest, "manifest").unlink()
    assert fetch()["changed"] is False
    assert "transfer" not in json.loads(companion(dest, "manifest").read_text())
    dest.unlink()
    assert fetch()["changed"] is True
    assert transfer_of(dest)["bytes"] == took["bytes"]


def test_attributes_alone_are_a_change(fetch, dest):
    fetch()
    assert fetch(mode="0600", check=True)["changed"] is True
    assert fetch(mode="0600")["changed"] is True
    assert dest.stat().st_mode & 0o7777 == 0o600
    assert fetch(mode="0600")["changed"] is False


def test_files_that_are_not_merged(fetch, hub, published, dest):
    folder = dest.parent
    params = {"merge": False, "files": "*", "dest": str(folder), "mode": "0640"}
    predicted = fetch(check=True, **params)
    assert predicted["changed"] is True
    assert not folder.exists()
    made = fetch(**params)
    assert made["changed"] is True
    assert made["diff"] == predicted["diff"]
    assert made["sha256"] is None
    for path in [*published.shards, published.folder / "README.md"]:
        copy = folder / path.relative_to(published.folder)
        assert copy.read_bytes() == path.read_bytes()
        assert copy.stat().st_mode & 0o7777 == 0o640
    assert {Path(shard["name"]).name: shard["sha256"] for shard in made["shards"]} == {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in [*published.shards, published.folder / "README.md"]
    }

    hub.clear_stats()
    assert [fetch(check=check, **params)["changed"] for check in (True, False)] == [False, False]
    assert requests(hub) == 0


def test_two_tasks_can_fill_one_directory(fetch, hub, dest):
    tasks = [{"merge": False, "files": files, "dest": str(dest.parent)} for files in ("*-00001-*", "*-00002-*")]
    assert [fetch(**task)["changed"] for task in tasks] == [True, True]
    hub.clear_stats()
    assert [fetch(**task)["changed"] for task in tasks] == [False, False]
    assert requests(hub) == 0


def test_a_model_in_one_file_is_not_merged(fetch, hub, published, dest):
    (published.folder / "whole.gguf").write_bytes(published.merged)
    assert fetch(files="whole.gguf")["changed"] is True
    assert dest.read_bytes() == published.merged
    assert fetch(files="whole.gguf")["changed"] is False
    assert sent(hub) == (64 << 10) + len(published.merged)


@pytest.mark.parametrize("size", [-1, 1])
def test_a_file_that_is_not_as_long_as_it_says_is_refused(fetch, hub, published, dest, size):
    (published.folder / "whole.gguf").write_bytes((published.merged + b"!")[: len(published.merged) + size])
    assert "expected" in fetch(files="whole.gguf")["msg"]
    assert sent(hub) == 64 << 10
    assert not dest.exists()


def test_what_an_earlier_version_left_is_removed(fetch, published, dest):
    """It kept the shards until they were merged."""
    stale = companion(dest, "shards")
    stale.mkdir(parents=True)
    (stale / published.shards[0].name).write_bytes(published.shards[0].read_bytes())
    (stale / f".{published.shards[1].name}.llmfleet.part").write_bytes(b"half a shard")
    assert fetch()["changed"] is True
    assert names(dest.parent) == [".model.gguf.llmfleet.json", ".model.gguf.llmfleet.manifest", "model.gguf"]


def test_its_origin_is_kept_on_record(fetch, hub, published, dest):
    fetch()
    record = read_record(dest)
    assert record["sha256"] == published.sha256
    assert (record["source"], record["repo"], record["commit"]) == (hub.url, REPO, hub.repository(REPO).commit)
    assert record["paths"] == [f"Q4/{path.name}" for path in published.shards]
    assert record["sums"] == [sha256_file(path) for path in published.shards]


@pytest.mark.parametrize("merge", [True, False])
def test_what_is_recorded_is_known_without_a_hub(fetch, hub, published, dest, merge):
    """What the module model_files builds on."""
    target = dest if merge else dest.parent
    wanted = (REPO, hub.repository(REPO).commit, "Q4/*.gguf", target)
    assert Fetch(*wanted, merge=merge).recorded == {}
    fetch(merge=merge, dest=str(target))
    paths = [dest] if merge else [dest.parent / "Q4" / path.name for path in published.shards]
    found = Fetch(*wanted, merge=merge)
    assert (found.done, found.recorded) == (True, {path: sha256_file(path) for path in paths})
    sums = found.recorded
    paths[0].write_bytes(OLD)
    found = Fetch(*wanted, merge=merge)
    assert (found.done, found.recorded) == (False, sums)
    assert Fetch(*wanted[:2], "Q8/*", target, merge=merge).recorded == {}


# Sources


@pytest.mark.parametrize(("name", "endpoint"), [("huggingface", True), ("modelscope", True)])
def test_a_mirror_of_either_hub(fetch, hub, dest, published, name, endpoint):
    assert fetch(hub=name, endpoint=hub.url)["changed"] is True
    assert dest.read_bytes() == published.merged
    assert not any(record["authorization"] for record in hub.stats()["cdn"].values())


def test_a_directory_of_the_host(fetch, hub, dest, published):
    params = {"hub": str(published.folder.parents[1]), "revision": "as of today", "allow_floating_revision": True}
    predicted, made = fetch(check=True, **params), fetch(**params)
    assert (predicted["changed"], made["changed"]) == (True, True)
    assert made["diff"] == predicted["diff"]
    assert dest.read_bytes() == published.merged
    assert fetch(**params)["changed"] is False
    assert requests(hub) == 0


def test_a_file_outside_of_lfs_is_checked_by_its_git_id(fetch, hub, dest):
    params = {"merge": False, "files": "README.md", "dest": str(dest.parent)}
    fault = hub.fault("flipped-bit", path="*README.md")
    result = fetch(**params)
    assert "is not what git knows as" in result["msg"]
    assert fault.fired == 2
    assert not (dest.parent / "README.md").exists()
    hub.clear_faults()
    assert fetch(**params)["changed"] is True


# Revisions


@pytest.mark.parametrize("revision", ["main", "v1.0", "0123abc", "A" * 40])
def test_a_revision_that_may_move_is_refused(fetch, hub, revision):
    result = fetch(revision=revision)
    assert f"The revision {revision!r} is refused: expected a commit" in result["msg"]
    assert requests(hub) == 0


@pytest.mark.parametrize(("name", "branch"), [("huggingface", "main"), ("modelscope", "master")])
def test_a_branch_is_followed_if_that_is_allowed(fetch, hub, published, dest, name, branch):
    params = {"hub": name, "endpoint": hub.url, "revision": branch, "allow_floating_revision": True}
    first = fetch(**params)
    assert first["commit"] == hub.repository(REPO).commit
    assert fetch(**params)["changed"] is False

    (published.folder / "README.md").write_text("# Another commit\n")
    hub.clear_stats()
    for check in (True, False):
        # It has the same shards, so the file stays; but what is known of it changes.
        second = fetch(check=check, **params)
        assert second["commit"] == hub.repository(REPO).commit != first["commit"]
        assert second["changed"] is False
        assert second["diff"]["after"]["wanted"]["commit"] == second["commit"]
    assert sent(hub) == 2 * HEADERS
    assert read_record(dest)["commit"] == second["commit"]
    assert fetch(**params)["bytes_fetched"] == 0


def test_another_commit_replaces_the_file(fetch, hub, published, dest):
    first = fetch()
    for path in published.shards:
        path.write_bytes(path.read_bytes().replace(b"Small", b"Other"))
    second = fetch()
    assert second["changed"] is True
    assert second["sha256"] != first["sha256"]
    assert dest.read_bytes() == published.merged.replace(b"Small", b"Other")
    assert second["diff"]["before"] == first["diff"]["after"]


def test_an_unknown_commit_is_named(fetch, hub):
    result = fetch(revision="0" * 40)
    assert "answered 404" in result["msg"]
    result = fetch(revision="0" * 40, hub="modelscope", endpoint=hub.url)
    assert "does not list revision" in result["msg"]


# Tokens


@pytest.fixture
def gated(published):
    (published.folder / ".gated").touch()


@pytest.mark.parametrize("name", ["huggingface", "modelscope"])
@pytest.mark.usefixtures("gated")
class TestGated:
    def test_without_a_token(self, fetch, hub, dest, name):
        result = fetch(hub=name, endpoint=hub.url)
        assert "A token may be needed" in result["msg"]
        assert not dest.exists()

    def test_with_a_wrong_token(self, fetch, hub, name):
        result = fetch(hub=name, endpoint=hub.url, token="canary-that-is-wrong")  # noqa: S106 (wrong on purpose)
        assert "403" in result["msg"]
        assert "The token was not accepted" in result["msg"]

    def test_with_a_token_in_a_file(self, fetch, hub, dest, tmp_path, published, token, name):
        file = tmp_path / "token"
        file.write_text(f"{token}\n")
        assert fetch(hub=name, endpoint=hub.url, token_file=str(file))["changed"] is True
        assert dest.read_bytes() == published.merged
        kept = [path for path in dest.parent.rglob("*") if path.is_file()]
        assert kept
        assert not [path for path in kept if token.encode() in path.read_bytes()]
        assert {record["authorization"] for record in hub.stats()["cdn"].values()} == {False}


@pytest.mark.parametrize("content", ["", "two words", "two\nlines", "ünïcode"])
def test_a_file_without_a_token_is_refused(fetch, hub, tmp_path, content):
    file = tmp_path / "token"
    file.write_text(content)
    assert "expected one line with the token and nothing else" in fetch(token_file=str(file))["msg"]
    assert requests(hub) == 0


def test_a_missing_token_file_is_named(fetch, tmp_path):
    assert f"Reading the token file failed at {tmp_path}/none" in fetch(token_file=f"{tmp_path}/none")["msg"]


def test_a_password_in_an_address_is_refused(fetch):
    result = fetch(endpoint="https://user:canary@hub.example.com", hub="huggingface")
    assert "holds a password" in result["msg"]


# Faults: all others are in test_faults.py


def test_a_manifest_and_a_web_server_are_enough(fetch, published, dest, tmp_path):
    """Nobody is asked for a list, and the second source takes over from one that is not there."""
    lines = [f"{sha256_file(path)}  {path.stat().st_size}  Q4/{path.name}\n" for path in published.shards]
    (tmp_path / "sums").write_text("".join(lines))
    with Hub(tmp_path / "none", mirror=tmp_path / "hub") as mirror:
        dead = {"hub": "url", "endpoint": "http://127.0.0.1:1"}
        alive = {"hub": "url", "endpoint": f"{mirror.url}/mirror"}
        result = fetch(**dead, sources=[alive], manifest=str(tmp_path / "sums"))
        assert result.get("changed") is True, result
        assert all(subject.startswith("mirror/") for subject in mirror.stats()["hub"])
    assert dest.read_bytes() == published.merged


def test_a_header_that_was_wrong_makes_another_plan(fetch, hub, published, dest):
    """It is sound, but for one letter of a name; that is found out only when the whole shard has come."""
    letter = published.shards[0].read_bytes().index(b"Small")
    fault = hub.fault("flipped-bit", path="*00001*", times=1, after=letter)
    result = fetch()
    assert result["changed"] is True, result
    assert fault.fired == 1
    assert dest.read_bytes() == published.merged


# Disk and process


def command() -> list[str]:
    return [sys.executable, "-m", gguf_fetch.__name__]


def arguments(hub, dest: Path, **params) -> str:
    defaults = {
        "hub": hub.url,
        "repo": REPO,
        "revision": hub.repository(REPO).commit,
        "files": "Q4/*.gguf",
        "dest": str(dest),
    }
    return json.dumps({"ANSIBLE_MODULE_ARGS": {**defaults, **params}})


def run_command(argv: list[str], params: str):
    done = subprocess.run(argv, input=params, capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout, done.stderr
    return json.loads(done.stdout)


def begin(hub, dest: Path, **params) -> subprocess.Popen:
    process = subprocess.Popen(command(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    process.stdin.write(arguments(hub, dest, **params))
    process.stdin.close()
    return process


def there(dest: Path) -> int:
    """Bytes that the next run would not fetch again."""
    found = 0
    for name in ("note", "journal"):
        with contextlib.suppress(FileNotFoundError):  # a run that ends takes them away
            content = json.loads(companion(dest, name).read_text())
            found = max(found, sum(stop - start for start, stop in content["ranges"]))
    return found


def test_a_stopped_run_says_so_and_keeps_what_it_has(fetch, hub, published, dest):
    hub.fault("stall", path=SHARD, after=900_000)
    process = begin(hub, dest)
    deadline = time.monotonic() + 60
    while there(dest) < 5_000_000:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.terminate()
    assert process.wait(timeout=60) == 1
    output = process.stdout.read()
    assert "Stopped by a signal. What has been fetched is kept" in json.loads(output)["msg"]
    assert names(dest.parent) == [f".model.gguf.llmfleet.{name}" for name in ("journal", "note", "part")]

    hub.clear_faults()
    hub.clear_stats()
    again = fetch()
    assert again["changed"] is True
    assert dest.read_bytes() == published.merged
    assert again["bytes_fetched"] == sent(hub) <= HEADERS + 5_000_000


# A loop of more, `KILLS=20`, is what a release is tried with.
KILLS = int(os.environ.get("KILLS", "5"))


def test_a_run_killed_at_any_moment_loses_next_to_nothing(fetch, tmp_path):
    """One shard after the other is killed in, at moments that nobody has chosen."""
    keys, _dummy = build.small_model()
    parts = [[build.weights(f"blk.{no}.ffn_up.weight", (256, 40_000))] for no in range(5)]
    folder = tmp_path / "big" / REPO / "Q4"
    folder.mkdir(parents=True)
    shards = build.write_shards(folder, build.shards(keys, parts))
    size = sum(path.stat().st_size for path in shards)
    dest = tmp_path / "out" / "model.gguf"
    moments, kills, lost = random.Random(), 0, []
    with Hub(tmp_path / "big", connection_rate=10_000_000) as hub:
        while kills < KILLS:
            before = there(dest)
            process = begin(hub, dest)
            goal = before + moments.uniform(0, size / KILLS)
            while process.poll() is None and there(dest) < goal:
                time.sleep(moments.uniform(0, 0.02))
            if process.poll() is not None:
                break
            process.send_signal(signal.SIGSTOP)
            written = int(re.search(r"wchar: (\d+)", Path(f"/proc/{process.pid}/io").read_text())[1])
            process.kill()
            process.wait()
            assert not dest.exists()
            lost.append(written - max(0, there(dest) - before))
            kills += 1
        assert kills == KILLS
        result = fetch(hub=hub.url, revision=hub.repository(REPO).commit, dest=str(dest), timeout=30)
    assert result["changed"] is True, result
    LocalMerge(shards, tmp_path / "merged").write(lambda _path: None)
    assert result["sha256"] == sha256_file(tmp_path / "merged") == sha256_file(dest)
    # What was written besides the data, notes and journals, is counted here, too.
    assert max(lost) <= max(size // 100, 2 << 20)


@pytest.mark.parametrize("from_directory", [True, False])
def test_a_stop_between_name_and_record_is_survived(fetch, published, dest, monkeypatch, from_directory):
    """A directory lists no sums, so the bytes at the destination could not be judged by them."""

    def kill(*_args):
        raise KeyboardInterrupt

    params = {"hub": str(published.folder.parents[1]), "revision": "0" * 40} if from_directory else {}
    with monkeypatch.context() as killed:
        killed.setattr(_output, "write_record", kill)
        assert "Stopped by a signal" in fetch(**params)["msg"]
    assert dest.read_bytes() == published.merged
    before = identity(dest)
    result = fetch(**params)
    assert (result["changed"], result["sha256"]) == (False, published.sha256)
    assert identity(dest) == before
    assert fetch(**params)["diff"]["before"] == result["diff"]["after"]


def test_a_changed_file_is_made_again(fetch, hub, published, dest):
    fetch(files="Q4/*.gguf")
    dest.write_bytes(OLD)
    assert "there is no record" in fetch()["msg"]
    assert fetch(force=True)["changed"] is True
    assert dest.read_bytes() == published.merged


def test_a_file_in_place_of_the_directory_is_refused(fetch, dest):
    dest.parent.mkdir()
    dest.write_bytes(OLD)
    assert "is not a directory" in fetch(merge=False)["msg"]


@pytest.mark.parametrize("name", ["workers", "timeout", "deadline", "patience"])
def test_numbers_without_sense_are_refused(fetch, hub, name):
    assert f"{name} is 0; expected 1 or more" in fetch(**{name: 0})["msg"]
    assert requests(hub) == 0


# Choosing files


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ("Q8/*", "No file of the repository matches 'Q8/*'"),
        ("Q4/*-0000[12]-*", "2 files match 'Q4/*-0000[12]-*'; expected 3 shards"),
        ("Q4/*-00001-*", "1 files match"),
        ("Q4/*-00003-*", "is not the name of a first shard"),
        ("*", "Too many or missing are: README.md"),
    ],
)
def test_files_that_make_no_model_are_refused(fetch, hub, dest, files, message):
    assert message in fetch(files=files)["msg"]
    assert sent(hub) == 0


def test_shards_that_do_not_fit_leave_the_old_file(fetch, hub, published, dest):
    dest.parent.mkdir()
    dest.write_bytes(OLD)
    published.shards[2].write_bytes(published.shards[2].read_bytes()[:-1])
    for check in (True, False):
        assert "is truncated" in fetch(force=True, check=check)["msg"]
    assert sent(hub) == 2 * HEADERS  # not one byte of data
    assert dest.read_bytes() == OLD
    assert names(dest.parent) == ["model.gguf"]


def test_padding_that_a_merge_would_not_keep_is_refused(fetch, run_module, tmp_path, dest):
    """As gguf_merge refuses it: the file would not be the one that other tools make of these shards."""
    keys, _dummy = build.small_model()
    folder = tmp_path / "odd" / REPO / "Q4"
    folder.mkdir(parents=True)
    shards = build.write_shards(folder, build.shards(keys, [[build.weights("a", (3,))], [build.weights("b", (64,))]]))
    data = bytearray(shards[0].read_bytes())
    data[-1] = 1
    shards[0].write_bytes(data)
    with Hub(tmp_path / "odd") as hub:
        message = fetch(hub=hub.url, revision=hub.repository(REPO).commit)["msg"]
    assert "the padding behind the tensor 'a'" in message
    assert not dest.exists()
    local = run_module(gguf_merge, src=str(shards[0]), dest=str(tmp_path / "merged"))
    assert "the padding behind the tensor 'a'" in local["msg"]


def test_a_shard_without_data_is_checked_too(fetch, tmp_path, dest):
    keys, _dummy = build.small_model()
    parts = [[], [build.weights("a", (64, 900))], []]
    folder = tmp_path / "odd" / REPO / "Q4"
    folder.mkdir(parents=True)
    shards = build.write_shards(folder, build.shards(keys, parts))
    with Hub(tmp_path / "odd") as hub:
        result = fetch(hub=hub.url, revision=hub.repository(REPO).commit)
    assert result["changed"] is True, result
    LocalMerge(shards, tmp_path / "merged").write(lambda _path: None)
    assert dest.read_bytes() == (tmp_path / "merged").read_bytes()


# The real thing


@pytest.mark.bed
def test_the_model_of_the_original_procedure(run_module, tmp_path):
    """Nine shards that llama-gguf-split made become the file that it makes of them."""
    repo, name = "unsloth/DeepSeek-R1-GGUF", "DeepSeek-R1-Q4_K_M"
    root = models.ensure()
    dest = tmp_path / "model.gguf"
    with Hub(root) as hub:
        params = {"endpoint": hub.url, "repo": repo, "files": f"{name}/*.gguf", "dest": str(dest)}
        commit = hub.repository(repo).commit
        result = run_module(gguf_fetch, hub="modelscope", revision=commit, **params)
    assert (result["changed"], len(result["shards"])) == (True, 9)

    shutil.copytree(root / repo / name, tmp_path / "shards")
    tool(tmp_path, "llama-gguf-split", "--merge", f"shards/{name}-00001-of-00009.gguf", "real.gguf")
    assert result["sha256"] == sha256_file(tmp_path / "real.gguf")
