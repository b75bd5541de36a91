# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import hashlib
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from ansible_collections.llmfleet.serving.plugins.module_utils._files import (
    companion,
    known_sha256,
    locked,
    sha256_file,
)
from ansible_collections.llmfleet.serving.plugins.modules import gguf_fetch
from testbed import models
from testbed.hub import Hub
from testbed.tools import tool

REPO = "acme/model-GGUF"
SHARD = f"{REPO}/Q4/model-00002-of-00003.gguf"
SECRETS = ("Signature", "canary")
OLD = b"what was there before"


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


def requests(hub) -> int:
    return sum(record["requests"] for host in hub.stats().values() for record in host.values())


# The four ways


def test_check_real_check_real(fetch, hub, published, dest):
    predicted = fetch(check=True, mode="0640")
    assert (predicted["changed"], predicted["sha256"], predicted["bytes_fetched"]) == (True, None, 0)
    assert not dest.parent.exists()

    made = fetch(mode="0640")
    assert made["changed"] is True
    assert made["diff"] == predicted["diff"]
    assert made.keys() == predicted.keys()
    assert dest.read_bytes() == published.merged
    assert dest.stat().st_mode & 0o7777 == 0o640
    assert made["sha256"] == published.sha256 == known_sha256(dest)
    assert made["commit"] == hub.repository(REPO).commit
    assert made["bytes_total"] == made["bytes_fetched"] == published.size == sent(hub)
    assert (
        made["shards"]
        == predicted["shards"]
        == [
            {"name": f"Q4/{path.name}", "size": path.stat().st_size, "sha256": known_sha256(path)}
            for path in published.shards
        ]
    )
    assert names(dest.parent) == [".model.gguf.llmfleet.json", ".model.gguf.llmfleet.manifest", "model.gguf"]

    hub.clear_stats()
    before = dest.stat()
    for check in (True, False):
        same = fetch(check=check, mode="0640")
        assert (same["changed"], same["sha256"], same["bytes_fetched"]) == (False, published.sha256, 0)
        assert same["diff"]["before"] == same["diff"]["after"]
        assert same["shards"] == made["shards"]
    assert dest.stat() == before
    assert requests(hub) == 0


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
    assert sent(hub) == len(published.merged)


def test_shards_can_be_kept(fetch, hub, published, dest):
    fetch(keep_shards=True)
    folder = companion(dest, "shards")
    assert [path.read_bytes() for path in sorted(folder.glob("*.gguf"))] == [p.read_bytes() for p in published.shards]

    dest.unlink()
    hub.clear_stats()
    assert [fetch(check=check)["changed"] for check in (True, False)] == [True, True]
    assert dest.read_bytes() == published.merged
    assert sent(hub) == 0
    assert not folder.exists()


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
    second = fetch(check=True, **params)
    assert second["commit"] == hub.repository(REPO).commit != first["commit"]
    assert second["changed"] is True


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


# Network faults (numbers as in the list of 52)


RECOVERABLE = {
    "1-reset": [("reset", {"times": 2, "after": 1_500_000})],
    "2-stall": [("stall", {"times": 1, "after": 1_500_000})],
    "3-short-body": [("short-body", {"times": 3, "after": 1_000_000})],
    "6-wrong-content-range": [("reset", {"times": 1, "after": 1_500_000}), ("wrong-content-range", {"times": 1})],
    "7-no-range": [("reset", {"times": 1, "after": 1_500_000}), ("no-range", {})],
    "10-changed-etag": [("reset", {"times": 1, "after": 1_500_000}), ("changed-etag", {})],
    "12-rate-limit": [("rate-limit", {"times": 1, "retry_after": "1"})],
    "12-rate-limit-date": [("rate-limit", {"times": 1, "retry_after": "Wed, 21 Oct 2015 07:28:00 GMT"})],
    "13-503": [("error-503", {"times": 2})],
    "13-500-of-the-api": [("error-500", {"times": 1, "path": "api/models/*"})],
    "17-expired-url": [("expired-url", {"times": 1, "after": 1_500_000})],
    "17-expired-url-at-once": [("expired-url", {"times": 1})],
    "21-flipped-bit": [("flipped-bit", {"times": 1, "after": 1000})],
}


@pytest.mark.parametrize("name", ["huggingface", "modelscope"])
@pytest.mark.parametrize("faults", RECOVERABLE.values(), ids=RECOVERABLE.keys())
def test_a_fault_that_passes_is_survived(fetch, hub, published, dest, name, faults):
    path = "api/v1/*" if name == "modelscope" else "api/models/*"
    set_ = [hub.fault(kind, **{**limits, "path": path if "path" in limits else SHARD}) for kind, limits in faults]
    result = fetch(hub=name, endpoint=hub.url)
    assert result["changed"] is True, result
    assert dest.read_bytes() == published.merged
    assert all(fault.fired for fault in set_)


def test_bytes_that_arrived_are_not_fetched_again(fetch, hub, published):
    for _dummy in range(3):
        hub.fault("reset", path=SHARD, times=1, after=600_000)
    result = fetch()
    # Each break loses what stood in one buffer.
    assert sent(hub) - published.size <= 3 * (256 << 10)
    assert result["bytes_fetched"] == published.size
    assert hub.stats()["cdn"][SHARD]["ranges"] == ["bytes=524288-", "bytes=1048576-", "bytes=1572864-"]


PERMANENT = {
    "4-long-body": (("long-body", {}), "The hub serves 3073216 bytes; it lists 3072192"),
    "4-wrong-size": (("wrong-size", {}), "The hub serves"),
    "6-wrong-content-range": (("wrong-content-range", {}), "answered with the range"),
    "14-401": (("error-401", {"host": "hub"}), "answered 401 Unauthorized. A token may be needed"),
    "14-403": (("error-403", {"host": "hub"}), "answered 403 Forbidden. A token may be needed"),
    "14-404": (("error-404", {}), "answered 404 Not Found"),
    "14-410": (("error-410", {}), "answered 410 Gone"),
    "14-451": (("error-451", {}), "answered 451"),
    "15-html-page": (("html-page", {}), "(an HTML page)"),
    "15-lfs-pointer": (("lfs-pointer", {}), "(a Git LFS pointer)"),
    "21-other-content": (("flipped-bit", {}), "The data has the sha256"),
}


@pytest.mark.parametrize("name", ["huggingface", "modelscope"])
@pytest.mark.parametrize(("fault", "message"), PERMANENT.values(), ids=PERMANENT.keys())
def test_a_fault_that_stays_is_told_and_leaves_the_old_file(fetch, hub, published, dest, name, fault, message):
    dest.parent.mkdir()
    dest.write_bytes(OLD)
    kind, limits = fault
    if kind == "wrong-content-range":
        hub.fault("reset", path=SHARD, after=1_500_000)
    set_ = hub.fault(kind, path=SHARD, **limits)
    start = time.monotonic()
    result = fetch(hub=name, endpoint=hub.url, force=True)
    assert result["failed"] is True
    assert message in result["msg"]
    assert "model-00002-of-00003.gguf" in result["msg"]
    assert time.monotonic() - start < 20
    assert set_.fired
    assert dest.read_bytes() == OLD

    hub.clear_faults()
    assert fetch(hub=name, endpoint=hub.url, force=True)["changed"] is True
    assert dest.read_bytes() == published.merged


def test_what_never_ends_well_ends_at_the_deadline(fetch, hub, dest):
    hub.fault("stall", path=SHARD, after=1_500_000)
    result = fetch(deadline=3, timeout=60)
    assert "The deadline has passed with" in result["msg"]
    assert not dest.exists()


def test_a_dead_hub_is_told(fetch, hub, dest):
    commit = hub.repository(REPO).commit
    result = fetch(hub="http://127.0.0.1:1", deadline=2, revision=commit)
    assert "http://127.0.0.1:1/api/models/" in result["msg"]
    assert "Connection refused" in result["msg"]


# Disk and process


def test_a_full_file_system_is_told_before_the_first_byte(hub, tmp_path):
    script = f"mount -t tmpfs -o size=20m tmpfs {tmp_path}/small && exec {' '.join(command())}"
    (tmp_path / "small").mkdir()
    params = arguments(hub, tmp_path / "small" / "model.gguf")
    result = run_command(["unshare", "-rm", "sh", "-c", script], params)
    assert "too little free space" in result["msg"]
    assert sent(hub) == 0


@pytest.mark.parametrize("limit", [1_000_000, 2_000_000])
def test_a_write_that_fails_is_told_and_continued(fetch, hub, published, dest, limit):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        result = fetch()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "File too large (EFBIG)" in result["msg"]
    assert not dest.exists()
    assert fetch()["changed"] is True
    assert dest.read_bytes() == published.merged


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


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_killed_run_is_continued(fetch, hub, published, dest, number):
    hub.fault("stall", path="*00001*", after=2_500_000, times=1)
    process = subprocess.Popen(command(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    process.stdin.write(arguments(hub, dest))
    process.stdin.close()
    journal = companion(companion(dest, "shards") / "model-00001-of-00003.gguf", "journal")
    deadline = time.monotonic() + 20
    while not (journal.exists() and json.loads(journal.read_text())["safe"] >= 2_000_000):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(number)
    assert process.wait(timeout=10) == -number
    assert not dest.exists()

    hub.clear_stats()
    again = fetch()
    assert again["changed"] is True
    assert dest.read_bytes() == published.merged
    # Of the first shard only what followed the journal's mark; the other two were complete or nearly so.
    assert hub.stats()["cdn"][f"{REPO}/Q4/model-00001-of-00003.gguf"]["bytes"] <= 1_100_000
    assert again["bytes_fetched"] == sent(hub)


def test_a_lying_journal_does_no_harm(fetch, hub, published, dest):
    """Faults 31 and 40: a stage that is longer, shorter or other than its journal says."""
    part = companion(companion(dest, "shards") / "model-00002-of-00003.gguf", "part")
    for content in (bytes(3_000_000), b"short", bytes(4_000_000)):
        hub.fault("short-body", path=SHARD, times=1, after=1_500_000)
        hub.fault("error-404", path=SHARD, host="cdn")
        assert fetch()["failed"] is True
        assert part.stat().st_size > 1_000_000
        part.write_bytes(content)
        hub.clear_faults()
        assert fetch(force=True)["changed"] is True
        assert dest.read_bytes() == published.merged
        dest.unlink()


def test_the_file_of_an_unknown_origin_stays(fetch, hub, published, dest):
    dest.parent.mkdir()
    dest.write_bytes(OLD)
    for check in (True, False):
        assert "there is no record that this collection put it there" in fetch(check=check)["msg"]
    assert dest.read_bytes() == OLD
    assert sent(hub) == 0
    assert fetch(force=True)["changed"] is True
    assert dest.read_bytes() == published.merged


def test_the_same_file_of_an_unknown_origin_is_taken_over(fetch, hub, published, dest):
    (published.folder / "whole.gguf").write_bytes(published.merged)
    dest.parent.mkdir()
    dest.write_bytes(published.merged)
    assert [fetch(files="whole.gguf", check=check)["changed"] for check in (True, False)] == [False, False]
    assert sent(hub) == 0
    dest.write_bytes(OLD)
    assert "is not the file whole.gguf of the hub" in fetch(files="whole.gguf")["msg"]


def test_a_stop_between_name_and_record_is_survived(fetch, published, dest):
    fetch(keep_shards=True)
    companion(dest, "json").unlink()
    companion(dest, "manifest").unlink()
    before = dest.stat()
    result = fetch()
    assert result["changed"] is False
    assert result["sha256"] == published.sha256
    assert dest.stat() == before


def test_a_changed_file_is_made_again(fetch, hub, published, dest):
    fetch(files="Q4/*.gguf")
    dest.write_bytes(OLD)
    assert "no record" in fetch()["msg"]
    assert fetch(force=True)["changed"] is True
    assert dest.read_bytes() == published.merged


@pytest.mark.parametrize("kind", ["link", "directory", "fifo"])
def test_a_destination_that_is_no_file_is_refused(fetch, hub, tmp_path, dest, kind):
    dest.parent.mkdir()
    other = tmp_path / "other"
    other.write_bytes(OLD)
    {"link": lambda: dest.symlink_to(other), "directory": dest.mkdir, "fifo": lambda: os.mkfifo(dest)}[kind]()
    assert "expected a regular file or nothing" in fetch(force=True)["msg"]
    assert other.read_bytes() == OLD
    assert sent(hub) == 0


def test_a_file_in_place_of_the_directory_is_refused(fetch, dest):
    dest.parent.mkdir()
    dest.write_bytes(OLD)
    assert "is not a directory" in fetch(merge=False)["msg"]


def test_a_stage_that_is_a_link_is_not_followed(fetch, tmp_path, dest):
    other = tmp_path / "other"
    other.write_bytes(OLD)
    folder = companion(dest, "shards")
    folder.mkdir(parents=True)
    companion(folder / "model-00001-of-00003.gguf", "part").symlink_to(other)
    assert "ELOOP" in fetch()["msg"]
    assert other.read_bytes() == OLD


def test_two_runs_at_once(fetch, hub, dest):
    dest.parent.mkdir()
    with locked(dest):
        assert f"{dest} is being written by process {os.getpid()}" in fetch()["msg"]
        assert fetch(check=True)["changed"] is True
    assert sent(hub) == 0
    assert fetch()["changed"] is True


@pytest.mark.parametrize("name", ["-rf.gguf", "two\nlines.gguf"])
def test_a_file_name_that_does_harm_is_refused(fetch, hub, published, dest, name):
    (published.folder / name).write_bytes(b"GGUF")
    result = fetch(files="*.gguf", merge=False, dest=str(dest.parent))
    assert f"The file name {name!r} is refused" in result["msg"]
    assert sent(hub) == 0


@pytest.mark.parametrize("name", ["workers", "timeout", "deadline"])
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


def test_shards_that_do_not_fit_leave_the_old_file(fetch, published, dest):
    dest.parent.mkdir()
    dest.write_bytes(OLD)
    published.shards[2].write_bytes(published.shards[2].read_bytes()[:-1])
    assert "is truncated" in fetch(force=True)["msg"]
    assert dest.read_bytes() == OLD


# Watching


def test_progress_is_shown_while_it_works(fetch, hub, published, dest):
    hub.fault("stall", path=SHARD, after=1_500_000, times=1)
    seen = []

    def watch():
        file = companion(dest, "progress")
        while not done.wait(0.05):
            if file.exists():
                seen.append(json.loads(file.read_text()))

    done = threading.Event()
    watcher = threading.Thread(target=watch)
    watcher.start()
    fetch(timeout=3)
    done.set()
    watcher.join()
    assert not companion(dest, "progress").exists()
    assert {tuple(sorted(status)) for status in seen} == {("done", "rate", "total")}
    assert {status["total"] for status in seen} == {published.size}
    assert any(0 < status["done"] < published.size and status["rate"] > 0 for status in seen)


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
