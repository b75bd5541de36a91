# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The bed's hub: the official clients download from it unmodified, and each fault shows on the wire what it says."""

from __future__ import annotations

import concurrent.futures
import contextlib
import functools
import gzip
import hashlib
import http.client
import importlib
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
import typing as t
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import requests
from huggingface_hub import HfApi, close_session, hf_hub_download, snapshot_download
from huggingface_hub.errors import EntryNotFoundError, GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError
from huggingface_hub.hf_api import RepoFile, RepoFolder

from testbed.hub import KINDS, Hub
from testbed.hub.tls import make_certificates

MODEL = "acme/tiny"
GATED = "acme/gated"
TOKEN = "hf_bed_token"  # noqa: S105
SHARD = "Q4/tiny-00001-of-00002.gguf"
SHARD_SIZE = 300_000
SMALL = "config.json"
SUBJECT = f"{MODEL}/{SHARD}"

TESTS = Path(__file__).parents[2]

get, head, post, delete = (
    functools.partial(getattr(requests, method), timeout=10) for method in ("get", "head", "post", "delete")
)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Two repositories: shards, small files, directories, awkward names; and one that is gated."""
    root = tmp_path_factory.mktemp("root")
    noise = random.Random(7)
    files = {
        f"{MODEL}/{SHARD}": noise.randbytes(SHARD_SIZE),
        f"{MODEL}/Q4/tiny-00002-of-00002.gguf": noise.randbytes(SHARD_SIZE),
        f"{MODEL}/{SMALL}": b'{"architectures": ["LlamaForCausalLM"]}\n',
        f"{MODEL}/README.md": b"# tiny\n",
        f"{MODEL}/docs/deep/a file, with spaces & 中文 50%.txt": b"awkward\n",
        f"{MODEL}/docs/large.bin": noise.randbytes(1_200_000),
        f"{GATED}/.gated": b"",
        f"{GATED}/model.safetensors": noise.randbytes(5_000),
        f"{GATED}/config.json": b"{}\n",
    }
    for path, data in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(data)
    return root


@pytest.fixture(scope="module")
def mirror(tmp_path_factory):
    mirror = tmp_path_factory.mktemp("mirror")
    (mirror / "v0.5.11").mkdir()
    (mirror / "v0.5.11/ollama.tgz").write_bytes(random.Random(8).randbytes(100_000))
    (mirror / "sha256sum.txt").write_text("00  ollama.tgz\n")
    (mirror.parent / "outside.txt").write_text("not for you\n")
    return mirror


@pytest.fixture(scope="module")
def open_hub(root, mirror):
    with Hub(root, mirror=mirror, page_size=3) as hub:
        yield hub


@pytest.fixture
def hub(open_hub):
    """A hub without faults that has not been asked anything yet."""
    yield open_hub
    open_hub.clear_faults()
    open_hub.clear_stats()


@pytest.fixture(scope="module")
def modelscope(tmp_path_factory):
    """The client reads its directories and limits once, when it is imported."""
    home = tmp_path_factory.mktemp("modelscope")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MODELSCOPE_HOME", str(home / "home"))
        patch.setenv("MODELSCOPE_CACHE", str(home / "cache"))
        yield importlib.import_module("modelscope")


@pytest.fixture(scope="module")
def shard(root):
    return (root / SUBJECT).read_bytes()


def content(directory: Path) -> dict[str, bytes]:
    """Return all files below a directory, without what clients and hub keep there for themselves."""
    files = (path for path in directory.rglob("*") if path.is_file())
    named = {path.relative_to(directory).as_posix(): path.read_bytes() for path in files}
    return {name: data for name, data in named.items() if not name.startswith(".")}


def signed(hub: Hub, path: str = SHARD, repo: str = MODEL) -> str:
    """Return a fresh signed URL."""
    answer = head(f"{hub.url}/{repo}/resolve/main/{path}", headers={"Authorization": f"Bearer {TOKEN}"})
    assert answer.status_code == 302
    return answer.headers["Location"]


def raw(url: str, timeout: float = 5) -> http.client.HTTPResponse:
    """GET without any of the help that a client library gives."""
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.netloc, timeout=timeout)
    connection.request("GET", f"{parts.path}?{parts.query}")
    return connection.getresponse()


def read_into(body: bytearray, answer: http.client.HTTPResponse) -> None:
    """Read to the end; `body` has what came before an error."""
    while chunk := answer.fp.read1(8192):
        body += chunk


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


# Hugging Face


@pytest.mark.parametrize("revision", [None, "main", "v1.0", "commit"])
def test_huggingface_snapshot_is_byte_identical(hub, root, tmp_path, revision):
    commit = hub.repository(MODEL).commit
    revision = commit if revision == "commit" else revision
    got = snapshot_download(MODEL, revision=revision, endpoint=hub.url, cache_dir=tmp_path, token=False)
    assert content(Path(got)) == content(root / MODEL)
    assert Path(got).name == commit
    pages = hub.stats()["hub"][f"api/models/{MODEL}/tree/{commit}"]["requests"]
    assert pages == 3  # of 3 entries each: 6 files and 3 directories


def test_huggingface_single_files(hub, root, tmp_path):
    for path in (SHARD, SMALL):
        got = hf_hub_download(MODEL, path, endpoint=hub.url, local_dir=tmp_path, token=False)
        assert Path(got).read_bytes() == (root / MODEL / path).read_bytes()
    assert hub.stats()["hub"][SUBJECT]["statuses"] == [302]
    assert hub.stats()["cdn"][SUBJECT]["bytes"] == SHARD_SIZE
    assert f"{MODEL}/{SMALL}" not in hub.stats()["cdn"]


def test_huggingface_tree_tells_the_truth(hub, root):
    entries = {entry.path: entry for entry in HfApi(hub.url, token=False).list_repo_tree(MODEL, recursive=True)}
    files = {path: entry for path, entry in entries.items() if isinstance(entry, RepoFile)}
    expected = content(root / MODEL)
    assert {path: entry.size for path, entry in files.items()} == {path: len(data) for path, data in expected.items()}
    large = {path: entry.lfs.sha256 for path, entry in files.items() if entry.lfs}
    assert large == {
        path: sha256(data) for path, data in expected.items() if path.endswith(".gguf") or len(data) >= 1_000_000
    }
    assert {path for path, entry in entries.items() if isinstance(entry, RepoFolder)} == {"Q4", "docs", "docs/deep"}
    assert list(entries) == sorted(entries)


def test_git_ids_are_those_of_git(hub, root):
    """Small files have no sha256 in the API: a client must be able to check them by their git id."""
    shard, small = HfApi(hub.url, token=False).get_paths_info(MODEL, [SHARD, SMALL, "no-such-file"])
    hashed = subprocess.run(["git", "hash-object", root / MODEL / SMALL], check=True, capture_output=True, text=True)
    assert small.blob_id == hashed.stdout.strip()
    pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{shard.lfs.sha256}\nsize {SHARD_SIZE}\n"
    hashed = subprocess.run(
        ["git", "hash-object", "--stdin"], input=pointer, check=True, capture_output=True, text=True
    )
    assert shard.blob_id == hashed.stdout.strip()
    assert shard.lfs.pointer_size == len(pointer)


def test_huggingface_tree_of_a_directory(hub):
    api = HfApi(hub.url, token=False)
    assert [entry.path for entry in api.list_repo_tree(MODEL)] == ["Q4", "README.md", "config.json", "docs"]
    assert [entry.path for entry in api.list_repo_tree(MODEL, "docs")] == ["docs/deep", "docs/large.bin"]
    (deep, large) = api.list_repo_tree(MODEL, "docs", expand=True)
    assert deep.last_commit.oid == large.last_commit.oid == hub.repository(MODEL).commit
    with pytest.raises(EntryNotFoundError):
        list(api.list_repo_tree(MODEL, "no/such"))


def test_huggingface_model_info(hub, root):
    api = HfApi(hub.url, token=False)
    info = api.model_info(MODEL, files_metadata=True)
    assert info.sha == hub.repository(MODEL).commit
    assert {file.rfilename: file.size for file in info.siblings} == {
        path: len(data) for path, data in content(root / MODEL).items()
    }
    assert api.model_info(GATED).gated == "manual"
    refs = api.list_repo_refs(MODEL)
    assert [ref.name for ref in refs.branches] == ["main", "master"]
    assert {ref.target_commit for ref in (*refs.branches, *refs.tags)} == {info.sha}


def test_huggingface_errors_are_the_clients_own(hub, tmp_path):
    options = {"endpoint": hub.url, "local_dir": tmp_path, "token": False}
    with pytest.raises(RepositoryNotFoundError):
        hf_hub_download("acme/none", SMALL, **options)
    with pytest.raises(RevisionNotFoundError):
        hf_hub_download(MODEL, SMALL, revision="v9", **options)
    with pytest.raises(EntryNotFoundError):
        hf_hub_download(MODEL, "none.json", **options)
    with pytest.raises(RepositoryNotFoundError) as refused:
        HfApi(hub.url, token=TOKEN).model_info("acme/none")
    assert refused.value.response.status_code == 404


@pytest.mark.parametrize(("token", "status"), [(False, 401), ("hf_other", 403)])
def test_huggingface_gated_repository_refuses(hub, tmp_path, token, status):
    with pytest.raises(GatedRepoError) as refused:
        hf_hub_download(GATED, "model.safetensors", endpoint=hub.url, local_dir=tmp_path, token=token)
    assert refused.value.response.status_code == status
    assert hub.stats()["cdn"] == {}


def test_huggingface_gated_repository_opens_with_the_token(hub, root, tmp_path):
    got = snapshot_download(GATED, endpoint=hub.url, cache_dir=tmp_path, token=TOKEN)
    assert content(Path(got)) == content(root / GATED)
    assert not (Path(got) / ".gated").exists()
    assert hub.stats()["hub"][f"{GATED}/model.safetensors"]["authorization"] is True
    assert hub.stats()["cdn"][f"{GATED}/model.safetensors"]["authorization"] is False


def test_a_token_on_the_cdn_is_noticed(hub):
    get(signed(hub), headers={"Authorization": f"Bearer {TOKEN}"})
    assert hub.stats()["cdn"][SUBJECT]["authorization"] is True


def test_resolve_answers_a_redirect_with_the_facts(hub, shard):
    answer = head(f"{hub.url}/{MODEL}/resolve/main/{SHARD}")
    assert answer.status_code == 302
    assert answer.headers["X-Repo-Commit"] == hub.repository(MODEL).commit
    assert answer.headers["X-Linked-Etag"] == f'"{sha256(shard)}"'
    assert answer.headers["X-Linked-Size"] == str(SHARD_SIZE)
    assert answer.headers["Location"].startswith(f"{hub.cdn_url}/")
    small = head(f"{hub.url}/{MODEL}/resolve/main/{SMALL}")
    assert (small.status_code, "X-Linked-Etag" in small.headers) == (200, False)


# ModelScope


@pytest.mark.parametrize("revision", ["master", "v1.0"])
def test_modelscope_snapshot_is_byte_identical(hub, root, tmp_path, modelscope, revision):
    got = modelscope.snapshot_download(MODEL, revision=revision, endpoint=hub.url, cache_dir=str(tmp_path))
    assert content(Path(got)) == content(root / MODEL)


def test_modelscope_single_files(hub, root, tmp_path, modelscope):
    download = importlib.import_module("modelscope.hub.file_download").model_file_download
    for path in (SHARD, SMALL):
        got = download(MODEL, path, revision="master", endpoint=hub.url, local_dir=str(tmp_path))
        assert Path(got).read_bytes() == (root / MODEL / path).read_bytes()


def test_modelscope_client_resumes_after_a_reset(hub, root, tmp_path, modelscope):
    fault = hub.fault("reset", path="*-00001-*", times=1, after=100_000)
    got = modelscope.snapshot_download(MODEL, revision="master", endpoint=hub.url, cache_dir=str(tmp_path))
    assert content(Path(got)) == content(root / MODEL)
    assert fault.fired == 1
    assert hub.stats()["cdn"][SUBJECT] == {
        "requests": 2,
        "bytes": SHARD_SIZE,
        "statuses": [200, 206],
        "ranges": ["bytes=100000-"],
        "authorization": False,
    }


def test_modelscope_gated_repository(hub, root, tmp_path, modelscope):
    options = {"revision": "master", "endpoint": hub.url, "local_dir": str(tmp_path)}
    with pytest.raises(Exception, match=f"No permission to read {GATED}"):
        modelscope.snapshot_download(GATED, token="other", **options)  # noqa: S106
    modelscope.snapshot_download(GATED, token=TOKEN, **options)
    assert content(tmp_path) == content(root / GATED)


def test_modelscope_missing_repository(hub, tmp_path, modelscope):
    with pytest.raises(requests.HTTPError, match="acme/none not found"):
        modelscope.snapshot_download("acme/none", revision="master", endpoint=hub.url, cache_dir=str(tmp_path))


def list_modelscope(hub: Hub, **query: str) -> t.Any:
    url = f"{hub.url}/api/v1/models/{MODEL}/repo/files"
    return get(url, params={"Revision": "master", "Recursive": "True", **query})


def test_modelscope_list_has_the_sha256_of_every_file(hub, root):
    answer = list_modelscope(hub).json()
    assert (answer["Code"], answer["Success"]) == (200, True)
    files = {entry["Path"]: entry for entry in answer["Data"]["Files"] if entry["Type"] == "blob"}
    expected = content(root / MODEL)
    assert {path: entry["Sha256"] for path, entry in files.items()} == {
        path: sha256(data) for path, data in expected.items()
    }
    assert {entry["Revision"] for entry in files.values()} == {hub.repository(MODEL).commit}
    assert [
        entry["Path"] for entry in list_modelscope(hub, Root="docs", Recursive="False").json()["Data"]["Files"]
    ] == [
        "docs/deep",
        "docs/large.bin",
    ]


def test_modelscope_list_ends_at_the_cap_without_a_word(root):
    with Hub(root, list_cap=4) as hub:
        answer = list_modelscope(hub).json()
        assert len(answer["Data"]["Files"]) == 4
        assert (answer["Code"], answer["Success"], answer["Message"]) == (200, True, "success")


def test_modelscope_client_walks_a_list_that_ends_at_the_cap(tmp_path, modelscope):
    for number in range(3010):
        path = tmp_path / f"acme/many/dir{number % 2}/{number:04}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(str(number))
    client = importlib.import_module("modelscope_hub").HubApi
    with Hub(tmp_path) as hub:
        entries = client(endpoint=hub.url).list_repo_files("acme/many", "model", revision="master")
    assert len({entry.path for entry in entries if entry.path.endswith(".txt")}) == 3010


def test_modelscope_unknown_revision_is_an_error_inside_200(hub):
    answer = list_modelscope(hub, Revision="v9")
    assert answer.status_code == 200
    assert (answer.json()["Success"], answer.json()["Data"]) == (False, None)
    assert answer.json()["Message"] == "Revision v9 not found"


def test_modelscope_small_files_ignore_range_and_large_ones_do_not(hub, root, shard):
    url = f"{hub.url}/api/v1/models/{MODEL}/repo"
    headers = {"Range": "bytes=5-9"}
    small = get(url, params={"Revision": "master", "FilePath": SMALL}, headers=headers)
    assert (small.status_code, small.content) == (200, (root / MODEL / SMALL).read_bytes())
    large = get(url, params={"Revision": "master", "FilePath": SHARD}, headers=headers)
    assert (large.status_code, large.content) == (206, shard[5:10])
    assert large.headers["X-Linked-ETag"] == sha256(shard)


def test_modelscope_revisions(hub):
    data = get(f"{hub.url}/api/v1/models/{MODEL}/revisions").json()["Data"]["RevisionMap"]
    assert [branch["Revision"] for branch in data["Branches"]] == ["master"]
    assert [tag["Revision"] for tag in data["Tags"]] == ["v1.0"]


# Repositories


def test_the_commit_follows_the_content(tmp_path):
    file = tmp_path / "acme/one/a.txt"
    file.parent.mkdir(parents=True)
    file.write_text("one")
    with Hub(tmp_path) as hub:
        first = hub.repository("acme/one").commit
        assert re.fullmatch("[0-9a-f]{40}", first)
        file.write_text("two!")
        second = hub.repository("acme/one").commit
        file.write_text("one")
        assert hub.repository("acme/one").commit == first != second
        with pytest.raises(KeyError):
            hub.repository("acme/none")


def test_hashes_are_kept_between_starts(tmp_path):
    """Proved by a change that size and time do not show: only a hash that was kept can be stale."""
    file = tmp_path / "acme/one/a.txt"
    file.parent.mkdir(parents=True)
    file.write_text("one")
    before = file.stat()
    with Hub(tmp_path) as hub:
        known = hub.repository("acme/one").files["a.txt"].sha256
    file.write_text("two")
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    with Hub(tmp_path) as hub:
        assert hub.repository("acme/one").files["a.txt"].sha256 == known == sha256(b"one")
    file.write_text("two")
    with Hub(tmp_path) as hub:
        assert hub.repository("acme/one").files["a.txt"].sha256 == sha256(b"two")


# Storage and mirror


@pytest.mark.parametrize(
    ("header", "status", "content_range", "part"),
    [
        (None, 200, None, slice(None)),
        ("bytes=0-", 206, "bytes 0-299999/300000", slice(None)),
        ("bytes=100-199", 206, "bytes 100-199/300000", slice(100, 200)),
        ("bytes=299999-", 206, "bytes 299999-299999/300000", slice(299_999, None)),
        ("bytes=299990-999999", 206, "bytes 299990-299999/300000", slice(299_990, None)),
        ("bytes=-10", 206, "bytes 299990-299999/300000", slice(299_990, None)),
        ("bytes=-999999", 206, "bytes 0-299999/300000", slice(None)),
        ("bytes=300000-", 416, "bytes */300000", slice(0)),
        ("bytes=-0", 416, "bytes */300000", slice(0)),
        ("bytes=9-5", 200, None, slice(None)),
        ("bytes=0-1,5-6", 200, None, slice(None)),
        ("lines=0-1", 200, None, slice(None)),
    ],
)
def test_ranges(hub, shard, header, status, content_range, part):
    answer = get(signed(hub), headers={"Range": header} if header else {})
    assert answer.status_code == status
    assert answer.headers.get("Content-Range") == content_range
    assert answer.headers["Content-Length"] == str(len(shard[part]))
    assert answer.content == shard[part]


def test_if_range(hub, shard):
    etag = head(signed(hub)).headers["ETag"]
    same = get(signed(hub), headers={"Range": "bytes=100-", "If-Range": etag})
    assert (same.status_code, same.content) == (206, shard[100:])
    other = get(signed(hub), headers={"Range": "bytes=100-", "If-Range": '"other"'})
    assert (other.status_code, other.content) == (200, shard)


def test_parallel_ranges(hub, shard):
    """What an accelerating client does: each range on a connection of its own, one signed URL for all."""
    url, step = signed(hub), 10_000
    headers = [{"Range": f"bytes={start}-{start + step - 1}"} for start in range(0, SHARD_SIZE, step)]
    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        parts = pool.map(lambda header: get(url, headers=header).content, headers)
    assert b"".join(parts) == shard
    record = hub.stats()["cdn"][SUBJECT]
    assert (record["requests"], record["bytes"], len(set(record["ranges"]))) == (30, SHARD_SIZE, 30)


def test_signed_urls_expire(root):
    with Hub(root, url_seconds=0.3) as hub:
        url = signed(hub)
        assert get(url).status_code == 200
        time.sleep(0.4)
        assert get(url).status_code == 403
        assert get(signed(hub)).status_code == 200


def test_signed_urls_cannot_be_changed(hub):
    url = signed(hub)
    assert get(re.sub("Expires=[^&]*", "Expires=9999999999", url)).status_code == 403
    assert get(url.replace("00001-of", "00002-of")).status_code == 403
    assert get(url.split("?")[0]).status_code == 403


def test_mirror(hub, mirror):
    url = f"{hub.url}/mirror/v0.5.11/ollama.tgz"
    data = (mirror / "v0.5.11/ollama.tgz").read_bytes()
    assert get(url).content == data
    assert head(url).headers["Content-Length"] == str(len(data))
    part = get(url, headers={"Range": "bytes=10-19"})
    assert (part.status_code, part.content) == (206, data[10:20])
    assert hub.stats()["hub"]["mirror/v0.5.11/ollama.tgz"]["bytes"] == len(data) + 10


@pytest.mark.parametrize("path", ["none.tgz", "v0.5.11", "..%2Foutside.txt", "%2Fetc%2Fpasswd"])
def test_mirror_serves_only_its_files(hub, path):
    assert get(f"{hub.url}/mirror/{path}").status_code == 404


def test_connections_are_kept_until_the_hub_closes(root):
    with Hub(root) as hub:
        connection = http.client.HTTPConnection(urlsplit(hub.url).netloc, timeout=30)
        sockets = set()
        for path in (SMALL, "README.md", "none"):
            connection.request("GET", f"/{MODEL}/resolve/main/{path}")
            connection.getresponse().read()
            sockets.add(connection.sock)
        assert len(sockets) == 1
        (kept,) = sockets
    assert kept.recv(1) == b""


def test_each_connection_has_its_rate(root, shard):
    with Hub(root, connection_rate=600_000) as hub:
        start = time.monotonic()
        assert get(signed(hub)).content == shard
        assert time.monotonic() - start > 0.4
        with concurrent.futures.ThreadPoolExecutor(2) as pool:
            urls = [signed(hub), signed(hub, "Q4/tiny-00002-of-00002.gguf")]
            assert [len(answer.content) for answer in pool.map(get, urls)] == [SHARD_SIZE, SHARD_SIZE]


# TLS


@pytest.fixture(scope="module")
def certificates(tmp_path_factory):
    return make_certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture
def secure(root, certificates):
    with Hub(root, certificate=certificates.server) as hub:
        yield hub


@pytest.fixture
def trust(certificates):
    """The clients trust the bed's authority; that of Hugging Face looks once, when it makes its session."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("REQUESTS_CA_BUNDLE", "SSL_CERT_FILE"):
            patch.setenv(name, str(certificates.authority))
        close_session()
        yield
    close_session()


def test_tls_from_the_listing_to_the_last_byte(secure, root, trust, tmp_path):
    got = snapshot_download(MODEL, endpoint=secure.url, cache_dir=tmp_path, token=False)
    assert content(Path(got)) == content(root / MODEL)
    assert signed(secure).startswith(f"{secure.cdn_url}/")
    assert secure.cdn_url.startswith("https://127.0.0.1:")


def test_tls_is_for_those_who_trust(secure):
    with pytest.raises(requests.exceptions.SSLError, match="certificate verify failed"):
        get(secure.url)
    assert get(f"{secure.url.replace('https', 'http')}/api/models/{MODEL}").status_code == 200


def test_tls_of_another_name_is_refused(root, tmp_path, monkeypatch):
    certificates = make_certificates(tmp_path, ["DNS:hub.example.com"])
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificates.authority))
    with (
        Hub(root, certificate=certificates.server) as hub,
        pytest.raises(requests.exceptions.SSLError, match="IP address mismatch"),
    ):
        get(hub.url)


@pytest.mark.parametrize("fault", ["reset", "stall", "short-body", "flipped-bit"])
def test_tls_shows_faults_too(secure, trust, shard, fault):
    secure.fault(fault, times=1, after=100_000)
    body = bytearray()
    with contextlib.suppress(requests.RequestException):
        for chunk in get(signed(secure), stream=True, timeout=0.5).iter_content(1000):
            body += chunk
    assert body[:99_000] == shard[:99_000]
    assert (fault == "flipped-bit") == (len(body) == SHARD_SIZE)
    assert body != shard


# Git


def git(*arguments: str | Path) -> str:
    """Run git as one who has no configuration."""
    done = subprocess.run(
        ["git", *map(str, arguments)],
        env={"PATH": os.environ["PATH"], "HOME": "/nowhere", "GIT_TERMINAL_PROMPT": "0", "GIT_LFS_SKIP_SMUDGE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("suffix", ["", ".git"])
def test_git_clones_the_commit_of_the_apis(hub, root, tmp_path, suffix):
    git("clone", "--quiet", f"{hub.url}/{MODEL}{suffix}", tmp_path / "clone")
    assert git("-C", tmp_path / "clone", "rev-parse", "HEAD").strip() == hub.repository(MODEL).commit
    git("-C", tmp_path / "clone", "fsck", "--strict")
    assert (tmp_path / "clone" / SMALL).read_bytes() == (root / MODEL / SMALL).read_bytes()
    assert (tmp_path / "clone" / SHARD).read_bytes() == hub.repository(MODEL).files[SHARD].pointer
    trees = git("-C", tmp_path / "clone", "ls-tree", "-r", "-t", "HEAD").splitlines()
    ids = {path.strip('"'): facts.split()[2] for facts, path in (line.split("\t") for line in trees)}
    assert ids["Q4"] == hub.repository(MODEL).entries["Q4"].oid
    assert ids[SHARD] == hub.repository(MODEL).entries[SHARD].oid


@pytest.mark.skipif(shutil.which("git-lfs") is None, reason="the client git-lfs is not installed")
def test_git_lfs_fetches_the_large_files(hub, root, tmp_path):
    clone = tmp_path / "clone"
    git("clone", "--quiet", f"{hub.url}/{MODEL}", clone)
    git("-C", clone, "lfs", "pull")
    found = content(clone)
    assert {path: data for path, data in found.items() if path != ".gitattributes"} == content(root / MODEL)
    assert hub.stats()["cdn"][SUBJECT] == {
        "requests": 1,
        "bytes": SHARD_SIZE,
        "statuses": [200],
        "ranges": [],
        "authorization": False,
    }
    git("-C", clone, "lfs", "fsck")
    assert git("-C", clone, "status", "--porcelain") == ""


def test_git_lfs_batch_of_what_is_not_there(hub):
    wanted = [{"oid": "0" * 64, "size": 1}, {"oid": hub.repository(MODEL).files[SHARD].sha256, "size": SHARD_SIZE}]
    url = f"{hub.url}/{MODEL}.git/info/lfs/objects/batch"
    answer = post(url, json={"operation": "download", "objects": wanted})
    assert answer.headers["Content-Type"] == "application/vnd.git-lfs+json"
    missing, there = answer.json()["objects"]
    assert missing["error"]["code"] == 404
    assert get(there["actions"]["download"]["href"], headers={"Range": "bytes=0-9"}).status_code == 206


def test_git_of_a_gated_repository(hub, tmp_path):
    with pytest.raises(AssertionError, match="could not read Username"):
        git("clone", f"{hub.url}/{GATED}", tmp_path / "clone")
    address = hub.url.replace("//", f"//user:{TOKEN}@")
    git("clone", f"{address}/{GATED}", tmp_path / "clone")
    assert (tmp_path / "clone" / SMALL).exists()


# Faults


@pytest.mark.parametrize("name", [name for name in KINDS if name.startswith("error-")])
def test_fault_error(hub, name):
    fault = hub.fault(name, path=SUBJECT, times=1, host="cdn")
    url = signed(hub)
    assert get(url).status_code == int(name.removeprefix("error-"))
    assert get(url).status_code == 200
    assert fault.fired == 1
    hub.fault(name, path=SUBJECT, times=1, after=1000)
    assert get(url, headers={"Range": "bytes=0-999"}).status_code == 206
    assert get(url).status_code == int(name.removeprefix("error-"))


def test_fault_rate_limit(hub):
    hub.fault("rate-limit", path="api/*", times=1, retry_after="7")
    url = f"{hub.url}/api/models/{MODEL}"
    refused = get(url)
    assert (refused.status_code, refused.headers["Retry-After"]) == (429, "7")
    assert get(url).status_code == 200


@pytest.mark.parametrize("after", [0, 1, 100_000])
def test_fault_reset(hub, shard, after):
    hub.fault("reset", times=1, after=after)
    answer, body = raw(signed(hub)), bytearray()
    with pytest.raises(ConnectionResetError):
        read_into(body, answer)
    assert body == shard[:after]
    assert answer.headers["Content-Length"] == str(SHARD_SIZE)


def test_fault_stall(hub, shard):
    hub.fault("stall", times=1, after=1000)
    answer, body = raw(signed(hub), timeout=0.3), bytearray()
    with pytest.raises(TimeoutError):
        read_into(body, answer)
    assert body == shard[:1000]


def test_a_stalled_client_does_not_keep_the_hub_open(root):
    with Hub(root) as hub:
        hub.fault("stall", times=1, after=10)
        answer = raw(signed(hub))
        answer.read(10)
    with pytest.raises(http.client.IncompleteRead):
        answer.read()


@pytest.mark.parametrize("after", [0, 1000])
def test_fault_short_body(hub, shard, after):
    hub.fault("short-body", times=1, after=after)
    answer = raw(signed(hub))
    with pytest.raises(http.client.IncompleteRead) as short:
        answer.read()
    assert short.value.partial == shard[:after]
    assert short.value.expected == SHARD_SIZE - after


def test_fault_long_body(hub, shard):
    hub.fault("long-body", times=1)
    answer = get(signed(hub), headers={"Range": "bytes=100-199"})
    assert answer.headers["Content-Range"] == "bytes 100-199/300000"
    assert answer.headers["Content-Length"] == "1124"
    assert answer.content == shard[100:200] + bytes(1024)


def test_fault_flipped_bit(hub, shard):
    hub.fault("flipped-bit", times=1, after=50)
    answer = get(signed(hub), headers={"Range": "bytes=100-"})
    wrong = bytearray(shard)
    wrong[150] ^= 1
    assert answer.content == bytes(wrong[100:])
    assert get(signed(hub)).content == shard


def test_fault_no_range(hub, shard):
    fault = hub.fault("no-range", times=1)
    assert get(signed(hub)).headers["Accept-Ranges"] == "bytes"
    assert fault.fired == 0
    answer = get(signed(hub), headers={"Range": "bytes=100-"})
    assert (answer.status_code, answer.content) == (200, shard)
    assert not {"Content-Range", "Accept-Ranges"} & set(answer.headers)


def test_fault_wrong_content_range(hub, shard):
    hub.fault("wrong-content-range", times=1)
    answer = get(signed(hub), headers={"Range": "bytes=100-199"})
    assert (answer.status_code, answer.content) == (206, shard[100:200])
    assert answer.headers["Content-Range"] == "bytes 101-200/300001"


def test_fault_changed_etag(hub, shard):
    url = signed(hub)
    etag = head(url).headers["ETag"]
    hub.fault("changed-etag", times=2)
    plain = get(url, headers={"Range": "bytes=100-"})
    assert (plain.status_code, plain.content) == (206, shard[100:])
    assert plain.headers["ETag"] != etag
    conditional = get(url, headers={"Range": "bytes=100-", "If-Range": etag})
    assert (conditional.status_code, conditional.content) == (200, shard)


def test_fault_expired_url(hub, shard):
    url, later = signed(hub), signed(hub)
    hub.fault("expired-url", times=1)
    assert [get(url).status_code for _dummy in range(2)] == [403, 403]
    assert get(later).content == shard


def test_fault_expired_url_in_the_middle(hub, shard):
    url = signed(hub)
    hub.fault("expired-url", times=1, after=1000)
    answer = raw(url)
    with pytest.raises(http.client.IncompleteRead) as short:
        answer.read()
    assert short.value.partial == shard[:1000]
    assert get(url, headers={"Range": "bytes=1000-"}).status_code == 403
    assert get(signed(hub), headers={"Range": "bytes=1000-"}).content == shard[1000:]


def test_fault_html_page(hub):
    hub.fault("html-page", times=1)
    answer = get(signed(hub), headers={"Range": "bytes=100-"})
    assert (answer.status_code, answer.headers["Content-Type"]) == (200, "text/html")
    assert answer.text.startswith("<!DOCTYPE html>")
    hub.fault("html-page")
    assert head(f"{hub.url}/{MODEL}/resolve/main/{SHARD}").status_code == 302
    assert get(f"{hub.url}/api/models/{MODEL}").text.startswith("<!DOCTYPE html>")


def test_fault_lfs_pointer(hub, shard):
    fault = hub.fault("lfs-pointer", times=1)
    assert get(f"{hub.url}/{MODEL}/resolve/main/{SMALL}").text.startswith("{")
    assert fault.fired == 0
    answer = get(signed(hub))
    assert answer.status_code == 200
    assert f"oid sha256:{sha256(shard)}\nsize {SHARD_SIZE}\n" in answer.text


def test_fault_wrong_size(hub, shard):
    hub.fault("wrong-size", path=SUBJECT, times=3)
    (listed,) = HfApi(hub.url, token=False).get_paths_info(MODEL, [SHARD])
    assert listed.size == listed.lfs.size == SHARD_SIZE + 1
    assert head(f"{hub.url}/{MODEL}/resolve/main/{SHARD}").headers["X-Linked-Size"] == str(SHARD_SIZE + 1)
    sizes = {entry["Path"]: entry["Size"] for entry in list_modelscope(hub).json()["Data"]["Files"]}
    assert sizes[SHARD] == SHARD_SIZE + 1
    assert get(signed(hub)).content == shard


def test_fault_rotten_byte(hub, shard):
    hub.fault("rotten-byte", after=150)
    wrong = bytearray(shard)
    wrong[150] ^= 1
    for start, stop in ((0, SHARD_SIZE), (100, 200), (151, SHARD_SIZE), (0, 150)):
        got = get(signed(hub), headers={"Range": f"bytes={start}-{stop - 1}"}).content
        assert got == wrong[start:stop]


def test_fault_truncated(hub, shard):
    hub.fault("truncated", after=1000)
    whole = get(signed(hub))
    assert (whole.content, whole.headers["Content-Length"]) == (shard[:1000], "1000")
    assert get(signed(hub), headers={"Range": "bytes=900-1999"}).headers["Content-Range"] == "bytes 900-999/1000"
    behind = get(signed(hub), headers={"Range": "bytes=1000-"})
    assert (behind.status_code, behind.headers["Content-Range"]) == (416, "bytes */1000")


def test_fault_slow(hub, shard):
    fault = hub.fault("slow", times=1, rate=400)
    answer = raw(signed(hub))
    start = time.monotonic()
    assert answer.read(201) == shard[:201]
    assert time.monotonic() - start > 0.4  # what the fault is; a machine under load only makes it longer
    answer.close()
    assert fault.fired == 1


def test_fault_chunked(hub, shard):
    hub.fault("chunked", times=2)
    whole = get(signed(hub))
    assert (whole.headers["Transfer-Encoding"], "Content-Length" in whole.headers) == ("chunked", False)
    assert whole.content == shard
    part = get(signed(hub), headers={"Range": "bytes=100-199"})
    assert (part.status_code, part.headers["Content-Range"]) == (206, "bytes 100-199/300000")
    assert part.content == shard[100:200]


def test_fault_gzip(hub, shard):
    hub.fault("gzip", times=1)
    answer = get(signed(hub), headers={"Accept-Encoding": "identity", "Range": "bytes=100-"}, stream=True)
    assert (answer.status_code, answer.headers["Content-Encoding"]) == (200, "gzip")
    encoded = answer.raw.read(decode_content=False)
    assert len(encoded) == int(answer.headers["Content-Length"])
    assert gzip.decompress(encoded) == shard


def test_fault_weak_etag(hub, shard):
    hub.fault("weak-etag", times=2)
    url = signed(hub)
    etag = get(url, headers={"Range": "bytes=0-9"}).headers["ETag"]
    assert etag.startswith('W/"')
    refused = get(url, headers={"Range": "bytes=100-", "If-Range": etag})
    assert (refused.status_code, refused.content) == (200, shard)


def test_fault_no_etag(hub, shard):
    hub.fault("no-etag", times=1)
    answer = get(signed(hub), headers={"Range": "bytes=100-"})
    assert (answer.status_code, answer.content, "ETag" in answer.headers) == (206, shard[100:], False)


@pytest.mark.parametrize("host", ["hub", "cdn"])
def test_fault_redirect_loop(hub, host):
    hub.fault("redirect-loop", host=host)
    url = signed(hub) if host == "cdn" else f"{hub.url}/api/models/{MODEL}?x=%20"
    assert get(url, allow_redirects=False).headers["Location"] == url
    with pytest.raises(requests.TooManyRedirects):
        get(url)


def test_fault_leave_https(secure, shard, trust):
    fault = secure.fault("leave-https", path=SUBJECT, host="cdn")
    url = signed(secure)
    answer = get(url, allow_redirects=False)
    assert answer.headers["Location"] == f"http{url.removeprefix('https')}"
    followed = get(url)  # the address works, so a client that follows it is caught
    assert (followed.url, followed.content) == (answer.headers["Location"], shard)
    assert fault.fired == 2


def test_fault_down(root, shard):
    with Hub(root) as hub:
        url = signed(hub)
        hub.fault("down", times=1, after=1000, seconds=2.0)
        with pytest.raises(http.client.IncompleteRead) as short:
            raw(url).read()
        assert short.value.partial == shard[:1000]
        for address in (url, f"{hub.url}/api/models/{MODEL}"):
            with pytest.raises(requests.ConnectionError, match="Connection refused"):
                get(address)
        time.sleep(2.2)
        assert get(url).content == shard
        assert get(f"{hub.url}/api/models/{MODEL}").status_code == 200


def test_a_hub_that_is_down_can_be_closed(root):
    with Hub(root) as hub:
        hub.fault("down", seconds=60)
        with pytest.raises(requests.RequestException):
            get(f"{hub.url}/api/models/{MODEL}")
        with pytest.raises(requests.ConnectionError, match="Connection refused"):
            get(hub.cdn_url)


def test_every_fault_has_a_test():
    tests = {name.removeprefix("test_fault_").replace("_", "-") for name in globals() if name.startswith("test_fault_")}
    assert {name if not name.startswith("error-") else "error" for name in KINDS} <= tests


def test_faults_keep_to_their_limits(hub, shard):
    fault = hub.fault("reset", path="*-00002-*", times=1, after=1000)
    assert get(signed(hub)).content == shard  # another path
    other = signed(hub, "Q4/tiny-00002-of-00002.gguf")
    assert get(other, headers={"Range": "bytes=0-999"}).status_code == 206  # a body that is not longer
    assert head(other).status_code == 200  # no body
    assert fault.fired == 0
    with pytest.raises(requests.exceptions.ChunkedEncodingError):
        get(other)
    assert get(other).status_code == 200  # used up
    assert fault.fired == 1


def test_clients_see_the_fault_that_is_meant_for_them(hub, tmp_path):
    """The mirror race of a client, say: one source fails for good while another host goes on."""
    hub.fault("error-503", host="hub", path="api/v1/*")
    assert list_modelscope(hub).status_code == 503
    assert HfApi(hub.url, token=False).model_info(MODEL).id == MODEL
    hub.clear_faults()
    assert list_modelscope(hub).status_code == 200


@pytest.mark.parametrize(
    ("limits", "message"), [({"name": "earthquake"}, "earthquake"), ({"name": "reset", "host": "moon"}, "moon")]
)
def test_unknown_faults_are_refused(hub, limits, message):
    with pytest.raises(ValueError, match=message):
        hub.fault(**limits)


# The bed's own API, and the hub as a program


@pytest.fixture
def server(root, mirror):
    """The hub as a process of its own; gives its address, and proves that it ends well."""
    command = [sys.executable, "-m", "testbed.hub", "--root", root, "--mirror", mirror, "--host", "127.0.0.1"]
    process = subprocess.Popen(
        [*map(str, command), "--port", "0", "--cdn-port", "0"],
        env={**os.environ, "PYTHONPATH": str(TESTS)},
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield re.search(r"hub (http://\S+),", process.stderr.readline()).group(1)
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=60) == 0
        assert TOKEN not in process.stderr.read()
    finally:
        process.kill()
        process.stderr.close()


def test_the_server_is_told_and_asked_over_http(server, shard):
    told = post(f"{server}/-/faults", json={"name": "flipped-bit", "path": SUBJECT, "times": 1})
    assert told.status_code == 201
    url = f"{server}/{MODEL}/resolve/main/{SHARD}"
    assert get(url, headers={"Authorization": f"Bearer {TOKEN}"}).content != shard
    assert get(url, headers={"Range": "bytes=10-19"}).content == shard[10:20]
    assert [fault["fired"] for fault in get(f"{server}/-/faults").json()] == [1]
    stats = get(f"{server}/-/stats").json()
    assert stats["hub"][SUBJECT]["authorization"] is True
    assert stats["cdn"][SUBJECT] == {
        "requests": 2,
        "bytes": SHARD_SIZE + 10,
        "statuses": [200, 206],
        "ranges": ["bytes=10-19"],
        "authorization": False,
    }
    assert delete(f"{server}/-/faults").json() == get(f"{server}/-/faults").json() == []
    assert delete(f"{server}/-/stats").json() == {"hub": {}, "cdn": {}}


@pytest.mark.parametrize("body", ["no json", "[]", '{"name": "earthquake"}', '{"name": "reset", "colour": "red"}'])
def test_the_server_refuses_faults_that_it_does_not_know(hub, body):
    answer = post(f"{hub.url}/-/faults", data=body)
    assert answer.status_code == 400
    assert answer.json()["error"]
    assert json.loads(get(f"{hub.url}/-/faults").text) == []


def test_help_lists_every_fault():
    shown = subprocess.run(
        [sys.executable, "-m", "testbed.hub", "--help"],
        env={**os.environ, "PYTHONPATH": str(TESTS)},
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    assert [name for name, kind in KINDS.items() if name not in shown or kind.meaning not in shown] == []
