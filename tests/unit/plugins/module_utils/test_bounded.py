# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Programs and files are read up to a time and a size, and no link leads elsewhere."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ansible_collections.llmfleet.serving.plugins.module_utils._bounded import Said, content_of, said_by
from ansible_collections.llmfleet.serving.plugins.module_utils._errors import LlmError


def sh(script, seconds=20.0, limit=1000, **options):
    return said_by(["sh", "-c", script], seconds, limit, **options)


def open_descriptors():
    return {path.name for path in Path("/proc/self/fd").iterdir()}


def test_both_outputs_and_the_status():
    assert sh("echo one; echo two >&2; exit 3") == Said(b"one\ntwo\n", truncated=False, late=False, status=3)


def test_words_are_english():
    assert sh("echo $LC_ALL $TZ").text == b"C UTC\n"


def test_variables_come_on_top_of_ours():
    assert sh("echo $LLMFLEET_WORD $LC_ALL", environment={"LLMFLEET_WORD": "given"}).text == b"given C\n"


def test_a_program_that_hangs_is_ended_with_what_it_started(tmp_path):
    start = time.monotonic()
    said = sh(f"echo begun; sleep 971 & echo $! > {tmp_path}/pid; wait", seconds=0.5)
    assert said == Said(b"begun\n", truncated=False, late=True, status=None)
    assert time.monotonic() - start < 5
    child = (tmp_path / "pid").read_text().strip()
    state = subprocess.run(["ps", "-o", "stat=", "-p", child], stdout=subprocess.PIPE, text=True, check=False).stdout
    assert state.strip()[:1] in ("", "Z")


def test_a_program_that_says_too_much_is_ended_after_whole_lines():
    start = time.monotonic()
    said = sh("yes 0123456789", limit=100)
    assert said == Said(b"0123456789\n" * 9, truncated=True, late=False, status=said.status)
    assert time.monotonic() - start < 10


def test_the_end_of_a_log_in_whole_lines():
    said = sh("seq 100000", limit=18, last=True)
    assert said == Said(b"99999\n100000\n", truncated=True, late=False, status=0)


@pytest.mark.parametrize("last", [False, True])
def test_exactly_the_limit_is_not_too_much(last):
    said = sh("printf 'abc\\ndef\\n'", limit=8, last=last)
    assert said == Said(b"abc\ndef\n", truncated=False, late=False, status=0)


def test_no_program():
    with pytest.raises(FileNotFoundError):
        said_by(["llmfleet-no-such-program"], 1, 1)


def test_a_file_that_is_no_program(tmp_path):
    (tmp_path / "x").write_bytes(b"\0\0")
    (tmp_path / "x").chmod(0o755)
    assert said_by([f"{tmp_path}/x"], 20, 10) == Said(b"", truncated=False, late=False, status=126)


def test_a_signal_is_no_status():
    assert sh("kill -9 $$").status is None


class TestFiles:
    def test_whole_and_cut(self, tmp_path):
        (tmp_path / "a").mkdir()
        (tmp_path / "a/file").write_text("one\ntwo\nthree\n")
        assert content_of(tmp_path / "a/file", tmp_path, 14) == (b"one\ntwo\nthree\n", False)
        assert content_of(tmp_path / "a/file", tmp_path, 9) == (b"one\ntwo\n", True)

    def test_links_below_are_refused(self, tmp_path):
        (tmp_path / "secret").write_text("s")
        below = tmp_path / "below"
        below.mkdir()
        (below / "link").symlink_to(tmp_path / "secret")
        (below / "folder").symlink_to(tmp_path)
        for path in ("link", "folder/secret"):
            with pytest.raises(LlmError, match="a symbolic link"):
                content_of(below / path, below, 10)

    def test_a_link_on_the_way_to_the_folder_is_followed(self, tmp_path):
        (tmp_path / "real").mkdir()
        (tmp_path / "real/file").write_text("s\n")
        (tmp_path / "way").symlink_to(tmp_path / "real")
        assert content_of(tmp_path / "way/file", tmp_path / "way", 10) == (b"s\n", False)

    def test_a_pipe_does_not_hang(self, tmp_path):
        os.mkfifo(tmp_path / "pipe")
        with pytest.raises(LlmError, match="something else"):
            content_of(tmp_path / "pipe", tmp_path, 10)

    def test_descriptors_are_closed(self, tmp_path):
        (tmp_path / "file").write_text("s")
        before = open_descriptors()
        content_of(tmp_path / "file", tmp_path, 10)
        with pytest.raises(FileNotFoundError):
            content_of(tmp_path / "none", tmp_path, 10)
        said_by([sys.executable, "-c", "print(1)"], 20, 10)
        assert open_descriptors() == before
