# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import hashlib
import time
from dataclasses import replace

import pytest

from ansible_collections.llmfleet.serving.plugins.module_utils._errors import LlmError
from ansible_collections.llmfleet.serving.plugins.module_utils._http import Retries
from ansible_collections.llmfleet.serving.plugins.module_utils._hub import RemoteFile, pinned, select, source
from testbed.hub import Hub

REPO = "acme/model-GGUF"
COMMIT = "0123456789abcdef0123456789abcdef01234567"
HUBS = ("huggingface", "modelscope")


def remote(path: str) -> RemoteFile:
    return RemoteFile(path, 1, "", "", 0, "")


def listed(published) -> dict[str, int]:
    files = [path for path in published.folder.rglob("*") if path.is_file()]
    return {path.relative_to(published.folder).as_posix(): path.stat().st_size for path in files}


@pytest.mark.parametrize("name", HUBS)
def test_all_files_are_listed_with_size_and_sum(hub, published, name):
    files = source(name, REPO, endpoint=f"{hub.url}/").files(hub.repository(REPO).commit)
    assert {file.path: file.size for file in files} == listed(published)
    for file in files:
        data = (published.folder / file.path).read_bytes()
        blob = hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()
        in_lfs = name == "modelscope" or file.path.endswith(".gguf")
        expected = (hashlib.sha256(data).hexdigest(), "") if in_lfs else ("", blob)
        assert (file.sha256, file.git_blob) == expected


@pytest.mark.parametrize("name", HUBS)
def test_a_file_is_read_from_any_offset(hub, published, name):
    origin = source(name, REPO, endpoint=hub.url)
    file = select(origin.files(hub.repository(REPO).commit), "*-00001-*")[0]
    for start in (0, 1_000_000):
        with origin.open(file, start, None) as body:
            assert (body.start, body.total) == (start, file.size)
            assert b"".join(body.chunks()) == published.shards[0].read_bytes()[start:]


@pytest.mark.parametrize("name", [*HUBS, "url", "directory"])
def test_any_part_of_a_file_is_read(published, name):
    root = published.folder.parents[1]
    with Hub(root, mirror=root) as hub:
        kind = str(root) if name == "directory" else name
        origin = source(kind, REPO, endpoint=f"{hub.url}/mirror" if name == "url" else hub.url)
        path = "Q4/model-00001-of-00003.gguf"
        file = replace(remote(path), url=origin.locate(hub.repository(REPO).commit, path))
        size = published.shards[0].stat().st_size
        for start, stop in ((0, 10), (1_000_000, 1_600_000), (size - 5, size)):
            with origin.open(file, start, None, stop) as body:
                assert (body.start, body.stop, body.total) == (start, stop, size)
                assert b"".join(body.chunks()) == published.shards[0].read_bytes()[start:stop]


@pytest.mark.parametrize("name", [*HUBS, "directory"])
def test_where_a_file_is_can_be_told_without_a_list(hub, published, name):
    origin = source(str(published.folder.parents[1]) if name == "directory" else name, REPO, endpoint=hub.url)
    commit = hub.repository(REPO).commit
    assert origin.lists
    for file in origin.files(commit):
        assert origin.locate(commit, file.path) == file.url


def test_a_web_server_has_no_list(hub):
    origin = source("url", REPO, endpoint=f"{hub.url}/mirror/")
    assert not origin.lists
    assert origin.commit("any") == "any"
    assert origin.locate(COMMIT, "a b/ü.gguf") == f"{hub.url}/mirror/{REPO}/a%20b/%C3%BC.gguf"
    with pytest.raises(LlmError, match=r"is a plain web server, which has no list of files\. Name a manifest"):
        origin.files(COMMIT)


def test_a_web_server_needs_an_address():
    with pytest.raises(LlmError, match="name its address as the endpoint"):
        source("url", REPO)


def test_a_list_in_pages_is_read_to_its_end(published):
    with Hub(published.folder.parents[1], page_size=2) as hub:
        files = source(hub.url, REPO).files(hub.repository(REPO).commit)
        assert {file.path: file.size for file in files} == listed(published)
        assert hub.stats()["hub"][f"api/models/{REPO}/tree/{hub.repository(REPO).commit}"]["requests"] > 2


@pytest.mark.parametrize("directories", [1, 2])
def test_a_list_that_modelscope_cut_is_read_by_directories(hub, published, directories):
    for no in range(directories):
        folder = published.folder / f"d{no}" / "deep"
        folder.mkdir(parents=True)
        for index in range(2990 // directories):
            (folder / str(index)).touch()
    for index in range(20):
        (published.folder / f"d0/{index}").touch()
    files = source("modelscope", REPO, endpoint=hub.url).files(hub.repository(REPO).commit)
    assert {file.path: file.size for file in files} == listed(published)
    assert len(files) > 3000


def test_a_directory_that_modelscope_cannot_list_is_told(hub, published):
    (published.folder / "d").mkdir()
    for index in range(3000):
        (published.folder / "d" / str(index)).touch()
    with pytest.raises(LlmError, match="3000 or more entries in the directory 'd'"):
        source("modelscope", REPO, endpoint=hub.url).files(hub.repository(REPO).commit)


@pytest.mark.parametrize(
    ("hub", "repo", "message"),
    [
        ("github", REPO, "'github' is no hub"),
        ("models", REPO, "'models' is no hub"),
        ("huggingface", "../../etc", "is not the name of a repository"),
        ("huggingface", "a/..", "is refused"),
        ("huggingface", "a/b/c", "is not the name of a repository"),
        ("huggingface", "a/b?x=", "is not the name of a repository"),
        ("https://user:canary@hub.example.com", REPO, "holds a password"),
    ],
)
def test_what_names_no_repository_is_refused(hub, repo, message):
    with pytest.raises(LlmError, match=message) as caught:
        source(hub, repo)
    assert "canary" not in str(caught.value)


def test_a_missing_directory_is_told(tmp_path):
    with pytest.raises(LlmError, match=f"{tmp_path}/{REPO} is not a directory"):
        source(str(tmp_path), REPO).files(COMMIT)


def test_a_file_that_vanished_from_a_directory_is_told(hub, published):
    origin = source(str(published.folder.parents[1]), REPO)
    file = select(origin.files(COMMIT), "*-00001-*")[0]
    published.shards[0].unlink()
    with pytest.raises(LlmError, match="Reading the source failed"), origin.open(file, 0, None):
        pass


TREE = f"GET /api/models/{REPO}/tree/{COMMIT}?recursive=true&expand=false"
FILES = f"GET /api/v1/models/{REPO}/repo/files?Revision={COMMIT}&Recursive=True"
BLOB = {"Type": "blob", "Path": "x.gguf", "Size": 1, "Sha256": "0" * 64, "Revision": COMMIT, "CommittedDate": 0}


def ms(*entries: object) -> dict[str, object]:
    return {"Code": 200, "Success": True, "Message": "", "Data": {"Files": list(entries)}}


@pytest.mark.parametrize(
    ("name", "route", "answer"),
    [
        ("huggingface", TREE, {"error": "none"}),
        ("huggingface", TREE, ["text"]),
        ("huggingface", TREE, None),
        ("huggingface", TREE, [{"type": "file", "path": "x", "size": "1", "oid": "0" * 40}]),
        ("huggingface", TREE, [{"type": "file", "path": "x", "size": -1, "oid": "0" * 40}]),
        ("huggingface", TREE, [{"type": "file", "path": 1, "size": 1, "oid": "0" * 40}]),
        ("huggingface", TREE, [{"type": "file", "path": "x", "size": 1, "oid": "short"}]),
        ("huggingface", TREE, [{"type": "file", "path": "x", "size": 1, "lfs": {"oid": 7}}]),
        ("modelscope", FILES, {}),
        ("modelscope", FILES, {"Code": 200, "Success": True, "Data": None}),
        ("modelscope", FILES, ms({**BLOB, "Sha256": "../../etc"})),
        ("modelscope", FILES, ms({**BLOB, "Size": None})),
    ],
)
def test_an_answer_that_is_no_list_is_told(scripted, name, route, answer):
    scripted.routes[route] = (200, answer)
    with pytest.raises(LlmError, match="did not answer as a hub does"):
        source(name, REPO, endpoint=scripted.url).files(COMMIT)


def test_an_error_inside_of_a_success_is_told(scripted):
    scripted.routes[FILES] = {"Code": 10010205001, "Success": False, "Message": "no such thing", "Data": None}
    with pytest.raises(LlmError, match=r"does not list revision .*: no such thing"):
        source("modelscope", REPO, endpoint=scripted.url).files(COMMIT)


@pytest.mark.parametrize("answer", [{}, {"sha": "main"}, {"sha": None}, []])
def test_an_answer_without_a_commit_is_told(scripted, answer):
    scripted.routes[f"GET /api/models/{REPO}/revision/main"] = (200, answer)
    with pytest.raises(LlmError, match="did not answer as a hub does"):
        source(scripted.url, REPO).commit("main")


def test_the_newest_commit_is_what_a_branch_of_modelscope_stands_for(scripted):
    old = {**BLOB, "Revision": "f" * 40, "CommittedDate": 1}
    new = {**BLOB, "Revision": "a" * 40, "CommittedDate": 2}
    scripted.routes[FILES.replace(COMMIT, "master")] = ms(new, old)
    assert source("modelscope", REPO, endpoint=scripted.url).commit("master") == "a" * 40


def test_a_branch_with_a_slash_is_one_part_of_the_address(scripted):
    scripted.routes[f"GET /api/models/{REPO}/revision/refs%2Fpr%2F1"] = {"sha": COMMIT}
    assert source(scripted.url, REPO).commit("refs/pr/1") == COMMIT


def test_a_commit_is_taken_as_it_is(scripted):
    retries = Retries(time.monotonic() + 1)
    assert pinned(source(scripted.url, REPO), COMMIT, floating=False, retries=retries) == COMMIT
    assert scripted.seen == []


def test_a_pattern_matches_whole_paths():
    files = [remote(path) for path in ("Q4/b.gguf", "Q4/a.gguf", "Q8/a.gguf", "README.md")]
    assert [file.path for file in select(files, "Q4/*.gguf")] == ["Q4/a.gguf", "Q4/b.gguf"]
    assert len(select(files, "*.gguf")) == 3
    with pytest.raises(LlmError, match=r"No file of the repository matches 'a\.gguf'"):
        select(files, "a.gguf")


@pytest.mark.parametrize(
    "path",
    ["/etc/passwd", "../x", "a/../../x", "a/./x", "-x", "a\nb", "a\0b", "x" * 256, "\udcff", "", ".x.llmfleet.json"],
)
def test_a_path_that_leads_astray_is_refused(path):
    with pytest.raises(LlmError, match="is refused"):
        select([remote(path)], "*")
