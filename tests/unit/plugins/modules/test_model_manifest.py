# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from ansible_collections.llmfleet.serving.plugins.module_utils._manifest import read_manifest
from ansible_collections.llmfleet.serving.plugins.modules import gguf_fetch, model_manifest
from testbed.hub import Hub

REPO = "acme/model-GGUF"
SECRETS = ("Signature", "canary")


@pytest.fixture
def dest(tmp_path) -> Path:
    return tmp_path / "inventory" / "model"


@pytest.fixture
def run(run_module, hub, dest):
    """`run(check=..., files=...)` runs the module against the hub; no message and no file of it may hold a secret."""

    def run(**params):
        defaults = {
            "hub": hub.url,
            "repo": REPO,
            "revision": hub.repository(REPO).commit,
            "dest": str(dest),
            "timeout": 2,
            "deadline": 10,
        }
        result = run_module(model_manifest, **{**defaults, **params})
        shown = json.dumps({name: value for name, value in result.items() if name != "invocation"})
        assert not [secret for secret in SECRETS if secret in shown]
        return result

    return run


def requests(hub) -> int:
    return sum(record["requests"] for host in hub.stats().values() for record in host.values())


def sums(published) -> dict[str, tuple[int, str]]:
    found = [path for path in published.folder.rglob("*") if path.is_file() and path.name != ".gated"]
    return {
        path.relative_to(published.folder).as_posix(): (
            path.stat().st_size,
            hashlib.sha256(path.read_bytes()).hexdigest(),
        )
        for path in found
    }


@pytest.mark.parametrize("name", ["huggingface", "modelscope", "directory"])
def test_check_real_check_real(run, hub, published, dest, name):
    at = {"hub": str(published.folder.parents[1])} if name == "directory" else {"hub": name, "endpoint": hub.url}
    predicted = run(check=True, mode="0640", **at)
    assert predicted["changed"] is True
    assert not dest.parent.exists()

    made = run(mode="0640", **at)
    assert made["changed"] is True
    assert made["diff"] == predicted["diff"]
    assert made["files"] == predicted["files"]
    assert made["diff"]["after"] == dest.read_text()
    assert dest.stat().st_mode & 0o7777 == 0o640
    assert {file["path"]: (file["size"], file["sha256"]) for file in made["files"]} == sums(published)
    assert made["bytes_total"] == sum(size for size, _dummy in sums(published).values())
    assert read_manifest(dest).about["commit"] == made["commit"] == hub.repository(REPO).commit
    assert [path.name for path in dest.parent.iterdir()] == [dest.name]

    hub.clear_stats()
    before = dest.stat()
    for check in (True, False):
        same = run(check=check, mode="0640", **at)
        assert (same["changed"], same["files"]) == (False, made["files"])
        assert same["diff"]["before"] == same["diff"]["after"]
    assert dest.stat() == before
    assert requests(hub) == 0


def test_another_commit_or_pattern_renews_it(run, hub, published, dest):
    first = run(files="*.gguf")
    assert len(first["files"]) == 3
    assert run(files="*")["changed"] is True
    (published.folder / "README.md").write_text("# Another commit\n")
    second = run(revision="main", allow_floating_revision=True)
    assert second["changed"] is True
    assert second["commit"] == hub.repository(REPO).commit != first["commit"]
    assert run(revision="main", allow_floating_revision=True)["changed"] is False
    assert {file["path"]: (file["size"], file["sha256"]) for file in second["files"]} == sums(published)


def test_attributes_alone_are_a_change(run, dest):
    run()
    assert [run(mode="0600", check=check)["changed"] for check in (True, False, True)] == [True, True, False]
    assert dest.stat().st_mode & 0o7777 == 0o600


def test_a_gated_repository(run, published, tmp_path, token, dest):
    (published.folder / ".gated").touch()
    assert "A token may be needed" in run()["msg"]
    (tmp_path / "token").write_text(token)
    assert run(token_file=str(tmp_path / "token"))["changed"] is True
    assert token not in dest.read_text()


def test_what_is_no_manifest_stays(run, hub, dest):
    dest.parent.mkdir()
    for content in ("a file of the user\n", "GGUF\0", ""):
        dest.write_text(content)
        assert "manifest" in run()["msg"]
        assert dest.read_text() == content
    assert requests(hub) == 0


@pytest.mark.parametrize("kind", ["link", "directory"])
def test_a_destination_that_is_no_file_is_refused(run, dest, tmp_path, kind):
    dest.parent.mkdir()
    dest.symlink_to(tmp_path / "other") if kind == "link" else dest.mkdir()
    assert "expected a regular file or nothing" in run()["msg"]


@pytest.mark.parametrize(
    ("fault", "limits", "message"),
    [
        ("error-404", {"path": "api/*"}, "answered 404"),
        ("flipped-bit", {"path": "*README.md"}, "is not what git knows as"),
        ("short-body", {"path": "*README.md", "after": 1}, "the next try would come after the deadline"),
        ("error-403", {"path": "*README.md"}, "answered 403"),
        ("slow", {"path": "*README.md", "rate": 1}, "the next try would come after the deadline"),
    ],
)
def test_a_hub_that_fails_is_told_and_leaves_the_old_file(run, hub, published, dest, fault, limits, message):
    run()
    before = dest.read_text()
    (published.folder / "README.md").write_text("# Another commit\n")
    hub.fault(fault, **limits)
    result = run(deadline=3)
    assert result["failed"] is True
    assert message in result["msg"]
    assert dest.read_text() == before


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"revision": "main"}, "The revision 'main' is refused"),
        ({"files": "*.safetensors"}, "No file of the repository matches"),
        ({"hub": "url"}, "name its address as the endpoint"),
        ({"hub": "url", "endpoint": "http://127.0.0.1:1"}, "has no list of files"),
        ({"timeout": 0}, "timeout is 0; expected 1 or more"),
        ({"deadline": 0}, "deadline is 0; expected 1 or more"),
    ],
)
def test_what_cannot_be_listed_is_refused(run, dest, params, message):
    assert message in run(**params)["msg"]
    assert not dest.exists()


def test_a_model_is_fetched_with_it_from_a_server_that_lists_nothing(run, run_module, published, dest, tmp_path):
    commit = run(files="*.gguf")["commit"]
    root = published.folder.parents[1]
    with Hub(root, mirror=root) as mirror:
        result = run_module(
            gguf_fetch,
            hub="url",
            endpoint=f"{mirror.url}/mirror",
            repo=REPO,
            revision=commit,
            files="Q4/*.gguf",
            manifest=str(dest),
            dest=str(tmp_path / "model.gguf"),
        )
        assert result["sha256"] == published.sha256, result
        assert all(subject.startswith("mirror/") for subject in mirror.stats()["hub"])
