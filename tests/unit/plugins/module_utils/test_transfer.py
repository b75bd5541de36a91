# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Faults that the bed's hub does not show, and the one file that a `Download` is. The rest: test_gguf_fetch.py."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import random
import sys
import time

import pytest

from ansible_collections.llmfleet.serving.plugins.module_utils._errors import LlmError
from ansible_collections.llmfleet.serving.plugins.module_utils._files import companion, read_record
from ansible_collections.llmfleet.serving.plugins.module_utils._hub import RemoteFile, source
from ansible_collections.llmfleet.serving.plugins.module_utils._transfer import Download, transfer

DATA = random.Random(1).randbytes(3_000_000)
COMMIT = "0" * 40


@pytest.fixture
def dest(tmp_path):
    return tmp_path / "file"


@pytest.fixture
def download(scripted, dest):
    """`download()` is a new look at the file `DATA` of the scripted server."""

    def look(*, data: bytes = DATA, sha256: str | None = None) -> Download:
        sum_ = hashlib.sha256(data).hexdigest() if sha256 is None else sha256
        file = RemoteFile("file", len(data), sum_, "", 0, f"{scripted.url}/file")
        return Download(source(scripted.url, "acme/x", timeout=5), file, dest)

    return look


def run(*downloads: Download, seconds: float = 10) -> None:
    progress = downloads[0].dest.with_name("progress")
    deadline = time.monotonic() + seconds
    for download in transfer(downloads, workers=2, timeout=5, deadline=deadline, progress=progress):
        download.commit(lambda _path: None)


@pytest.fixture
def begun(scripted, dest, download):
    """The first two megabytes are there, from an earlier run."""
    headers = {"ETag": '"v1"', "Content-Length": str(len(DATA)), "Connection": "close"}
    scripted.routes["GET /file"] = (200, DATA[:2_300_000], headers)
    with pytest.raises(LlmError, match="Given up: the next try would come after the deadline"):
        run(download(), seconds=0.2)
    scripted.seen.clear()
    return download().done


def test_a_file_without_an_announced_length_is_taken(scripted, dest, download):
    scripted.routes["GET /file"] = [DATA[:1_000_000], DATA[1_000_000:]]
    run(download())
    assert dest.read_bytes() == DATA
    assert read_record(dest)["sha256"] == hashlib.sha256(DATA).hexdigest()


def test_an_empty_file_is_a_file(scripted, dest, download):
    run(download(data=b""))
    assert dest.read_bytes() == b""
    assert scripted.seen == []


def test_data_without_an_end_is_stopped(scripted, dest, download):
    scripted.routes["GET /file"] = [DATA] * 50
    looked = download()
    with pytest.raises(LlmError, match="goes on behind the 3000000 bytes"):
        run(looked)
    assert looked.fetched <= len(DATA)
    assert not dest.exists()


def test_what_was_begun_is_continued(scripted, dest, download, begun):
    assert 2_000_000 <= begun < 3_000_000
    rest = DATA[begun:]
    scripted.routes["GET /file"] = (206, rest, {"Content-Range": f"bytes {begun}-2999999/3000000"})
    looked = download()
    run(looked)
    assert dest.read_bytes() == DATA
    assert looked.fetched == len(rest)
    assert scripted.seen[0][1]["Range"] == f"bytes={begun}-"
    assert scripted.seen[0][1]["If-Range"] == '"v1"'


def test_an_end_before_the_offset_begins_again_once(scripted, dest, download, begun):
    """416: what the hub has now is shorter than what is there."""
    scripted.routes["GET /file"] = (416, b"", {"Content-Range": "bytes */5"})
    with pytest.raises(LlmError, match=r"file: .* answered 416"):
        run(download())
    assert [headers.get("Range") for _dummy, headers, _dummy in scripted.seen] == [f"bytes={begun}-", None]
    assert not dest.exists()
    assert download().done == 0


def test_all_the_bytes_are_checked_without_asking_for_more(scripted, dest, download, begun):
    """A complete stage, as a kill just before the commit leaves it."""
    companion(dest, "part").write_bytes(DATA)
    journal = companion(dest, "journal")
    journal.write_text(json.dumps({**json.loads(journal.read_text()), "safe": len(DATA)}))
    run(download())
    assert dest.read_bytes() == DATA
    assert scripted.seen == []


def test_another_file_is_not_continued(scripted, dest, download, begun):
    other = random.Random(2).randbytes(3_000_000)
    scripted.routes["GET /file"] = (200, other)
    looked = download(data=other)
    assert looked.done == 0
    run(looked)
    assert dest.read_bytes() == other
    assert "Range" not in scripted.seen[0][1]


BOUND = pytest.mark.skipif(sys.version_info < (3, 10), reason="pathlib of Python 3.9 has bound os.replace at import")


@pytest.mark.parametrize("name", ["fdatasync", "fsync", "pwrite", pytest.param("replace", marks=BOUND)])
def test_a_disk_that_fails_is_told_and_nothing_is_there(scripted, dest, download, monkeypatch, name):
    scripted.routes["GET /file"] = DATA

    def fail(*_args, **_kwargs):
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as broken:
        broken.setattr(os, name, fail)
        with pytest.raises((LlmError, OSError)) as caught:
            run(download())
    # What fails at the commit is turned into a message by the module around it.
    assert "Input/output error" in str(caught.value)
    assert not dest.exists()
    run(download())
    assert dest.read_bytes() == DATA


def test_a_disk_that_writes_little_at_a_time_gets_all(scripted, dest, download, monkeypatch):
    scripted.routes["GET /file"] = DATA
    pwrite = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda fd, data, offset: pwrite(fd, data[:70_000], offset))
    run(download())
    assert dest.read_bytes() == DATA


def test_the_attributes_are_there_before_the_name(scripted, dest, download):
    scripted.routes["GET /file"] = DATA
    looked = download()

    def finish(path):
        assert not dest.exists()
        path.chmod(0o600)

    for ready in transfer(
        [looked], workers=1, timeout=5, deadline=time.monotonic() + 10, progress=dest.with_name("progress")
    ):
        ready.commit(finish)
    assert dest.stat().st_mode & 0o777 == 0o600
    assert sorted(path.name for path in dest.parent.iterdir()) == [".file.llmfleet.json", "file"]


def test_the_first_failure_stops_the_others(scripted, tmp_path, download):
    """And what they have stays for the next run."""
    scripted.routes["GET /file"] = [DATA[:1_500_000], 60.0]
    slow = download()
    scripted.routes["GET /other"] = [1.0, b"more than five bytes"]
    other = RemoteFile("other", 5, "", "", 0, f"{scripted.url}/other")
    failing = Download(source(scripted.url, "acme/x", timeout=5), other, tmp_path / "other")
    start = time.monotonic()
    with pytest.raises(LlmError, match="other: The data goes on behind"):
        run(slow, failing, seconds=50)
    assert time.monotonic() - start < 20
    assert download().done > 1_000_000


def test_a_clock_that_goes_wrong_changes_nothing(scripted, dest, download):
    scripted.routes["GET /file"] = DATA
    run(download())
    record = companion(dest, "json")
    os.utime(record, (2**32, 2**32))
    assert download().present
    os.utime(dest, (0, 0))  # the record is void, the content decides
    looked = download()
    assert looked.present
    looked.adopt()
    assert read_record(dest)["sha256"] == hashlib.sha256(DATA).hexdigest()
