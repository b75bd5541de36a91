# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The archive: whole or not there, bounded, with safe names, and with an index that tells of every source."""

from __future__ import annotations

import json
import stat
import tarfile
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.llmfleet.serving.plugins.module_utils._errors import LlmError
from ansible_collections.llmfleet.serving.plugins.module_utils._support import Limits, safe_name, write_archive
from ansible_collections.llmfleet.serving.plugins.module_utils._support_sources import Piece, Source, _program


def said(text, name="a.txt", **piece):
    return Source(name, "asked", lambda _seconds, _limit: Piece(text, **piece))


def raising(exc, name="gpu/x.txt"):
    def ask(_seconds, _limit):
        raise exc

    return Source(name, "asked", ask)


@pytest.fixture
def archive(tmp_path):
    """archive(sources, known, **limits): the files by their names, and the index, of an archive of the host gpu-01."""

    def make(sources, known=(), **limits):
        dest = tmp_path / "x.tar.gz"
        entries = write_archive(dest, {"host": "gpu-01"}, sources, known, Limits(**limits))
        with tarfile.open(dest) as tar:
            members = tar.getmembers()
            assert all(one.isreg() and one.mode == 0o600 for one in members)
            files = {one.name: tar.extractfile(one).read().decode() for one in members}
        index = json.loads(files.pop("gpu-01/index.json"))
        assert index["sources"] == entries
        assert list(tmp_path.iterdir()) == [dest]
        return files, index

    return make


def test_a_file_for_each_source_and_an_index(archive, tmp_path):
    files, index = archive([said("words\n"), said("", "b.txt", status="absent", note="why")])
    assert files == {"gpu-01/a.txt": "words\n"}
    assert {name: index[name] for name in ("schema", "host")} == {"schema": 1, "host": "gpu-01"}
    first, second = index["sources"]
    assert first.pop("seconds") >= 0
    assert first == {
        "file": "a.txt",
        "command": "asked",
        "status": "ok",
        "bytes": 6,
        "truncated": False,
        "note": "",
    }
    assert (second["status"], second["bytes"], second["note"]) == ("absent", None, "why")
    assert stat.S_IMODE((tmp_path / "x.tar.gz").stat().st_mode) == 0o600


def test_no_secret_in_a_file_a_name_or_the_index(archive):
    canary = "c4n4ry-0123456789abcdef"
    source = said(f"it is {canary}", f"files/{canary}", note=f"token={canary} {canary}")
    files, index = archive([source._replace(asked=f"cat {canary}")], [canary])
    assert canary not in json.dumps([files, index])


@pytest.mark.parametrize(
    ("exc", "status", "note"),
    [
        (FileNotFoundError(2, "No such file"), "absent", "No such file"),
        (PermissionError(13, "Permission denied"), "failed", "[Errno 13] Permission denied"),
        (LlmError("It hangs. token=abcdefgh"), "failed", "It hangs. token=(hidden)"),
        (TimeoutError("late"), "ended", "it did not end within 30 s, and was ended"),
        (ChildProcessError("signal 11"), "failed", "signal 11"),
        (RuntimeError("Traceback\nValueError: x\n"), "failed", "ValueError: x"),
    ],
)
def test_a_source_that_fails_costs_its_own_file_alone(archive, exc, status, note):
    files, index = archive([raising(exc), said("words")])
    assert list(files) == ["gpu-01/a.txt"]
    assert [index["sources"][0][name] for name in ("status", "note", "bytes")] == [status, note, None]


def test_a_source_that_hangs_is_ended_and_said_to_have_been(archive):
    start = time.monotonic()
    files, index = archive(
        [_program("a.txt", ["sh", "-c", "echo begun; sleep 972"]), said("b", "b.txt")], source_seconds=1
    )
    assert time.monotonic() - start < 10
    assert files == {"gpu-01/a.txt": "begun\n", "gpu-01/b.txt": "b"}
    assert (index["sources"][0]["status"], index["sources"][0]["truncated"]) == ("ended", True)


def test_a_driver_that_hangs_once_gets_little_time_for_other_questions(archive, monkeypatch):
    asked = {}

    def ask(name):
        def asking(seconds, _limit):
            asked[name] = seconds
            return Piece("", "ended" if name == "gpu/one" else "ok")

        return Source(name, name, asking)

    archive([ask("gpu/one"), ask("gpu/two"), ask("gate/verdict.json"), ask("journal/x")], source_seconds=20)
    assert asked == {"gpu/one": 20, "gpu/two": 5, "gate/verdict.json": 5, "journal/x": 20}


def test_a_source_over_its_limit_is_cut(archive):
    files, index = archive([_program("a.txt", ["yes"]), said("x" * 5000, "b.txt")], source_bytes=1024)
    assert [len(text) for text in files.values()] == [1024, 1024]
    assert [one["truncated"] for one in index["sources"]] == [True, True]
    assert [one["bytes"] for one in index["sources"]] == [1024, 1024]


def test_all_sources_share_the_bytes(archive):
    sources = [said("x" * 1000, f"{number}.txt") for number in range(5)]
    files, index = archive(sources, total_bytes=2500, source_bytes=1024)
    assert [len(text) for text in files.values()] == [1000, 1000, 500]
    assert [one["status"] for one in index["sources"]] == ["ok", "ok", "ok", "left out", "left out"]
    assert index["sources"][2]["truncated"]
    assert index["sources"][3]["note"] == "the limit of all bytes was reached"


def test_all_sources_share_the_time(archive):
    sources = [_program(f"{number}.txt", ["sleep", "973"]) for number in range(3)]
    start = time.monotonic()
    _files, index = archive(sources, total_seconds=1)
    assert time.monotonic() - start < 10
    assert [one["status"] for one in index["sources"]] == ["ended", "left out", "left out"]
    assert index["sources"][1]["note"] == "the limit of all seconds was reached"


def test_what_cannot_be_cleared_of_secrets_is_left_out(archive, monkeypatch):
    monkeypatch.setattr("ansible_collections.llmfleet.serving.plugins.module_utils._support._REDACTION_MIN_S", 0.01)
    monkeypatch.setattr(
        "ansible_collections.llmfleet.serving.plugins.module_utils._redact.in_text", lambda _text: time.sleep(60)
    )
    sources = [Source("a.txt", "", lambda _seconds, _limit: Piece("token=abcdefgh"))]
    # Names and notes are cleared too: these are the archive's own words.
    monkeypatch.setattr(
        "ansible_collections.llmfleet.serving.plugins.module_utils._support._Archive._shown", lambda _self, text: text
    )
    files, index = archive(sources, source_seconds=1)
    assert files == {}
    assert index["sources"][0]["status"] == "left out"


def test_names_are_safe_and_each_its_own(archive):
    names = ["../../etc/passwd", "/abs", "a b", "a_b", "a\nb", "index.json", "x/../y", "-rf/.hidden"]
    files, _index = archive([said("x", name) for name in names])
    assert len(files) == len(names)
    assert all(name.startswith("gpu-01/") and ".." not in name.split("/") for name in files)
    assert "gpu-01/_./_./etc/passwd" in files


@given(st.text())
def test_any_name_is_made_safe(name):
    safe = safe_name(name)
    assert 0 < len(safe) <= 120
    assert safe[0] not in ".-"
    assert "/" not in safe
    assert safe.isascii()
    assert safe.isprintable()


def test_nothing_is_left_of_an_archive_that_cannot_be_written(tmp_path):
    def broken():
        yield said("x")
        raise OSError(28, "No space left on device")

    with pytest.raises(LlmError, match="No space left"):
        write_archive(tmp_path / "x.tar.gz", {"host": "a"}, broken(), [], Limits())
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_run_has_left_is_replaced(archive, tmp_path):
    (tmp_path / ".x.tar.gz.llmfleet.new").write_text("half")
    assert archive([said("x")])[0] == {"gpu-01/a.txt": "x"}


def test_a_link_in_the_archives_place_is_refused(tmp_path):
    (tmp_path / "x.tar.gz").symlink_to(tmp_path / "other")
    with pytest.raises(LlmError, match="a symbolic link"):
        write_archive(tmp_path / "x.tar.gz", {"host": "a"}, [], [], Limits())


@pytest.mark.parametrize("limit", ["source_seconds", "source_bytes", "total_seconds", "total_bytes"])
def test_a_limit_that_makes_no_sense_is_refused(limit):
    with pytest.raises(LlmError, match=f"{limit}: expected .* found 0"):
        Limits(**{limit: 0})
