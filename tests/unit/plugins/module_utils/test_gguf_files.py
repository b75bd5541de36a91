# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import os
from pathlib import Path

import gguf_build as build
import pytest

from ansible_collections.llmfleet.serving.plugins.module_utils._copy import Assembly
from ansible_collections.llmfleet.serving.plugins.module_utils._errors import LlmError
from ansible_collections.llmfleet.serving.plugins.module_utils._files import companion, read_record, sha256_file
from ansible_collections.llmfleet.serving.plugins.module_utils._gguf_files import LocalMerge, find_shards, open_gguf


@pytest.fixture
def shards(tmp_path):
    return build.write_shards(tmp_path, build.shards(*build.small_model()))


@pytest.fixture
def dest(tmp_path):
    (tmp_path / "out").mkdir()
    return tmp_path / "out" / "model.gguf"


@pytest.fixture
def merge(shards, dest):
    return LocalMerge(shards[:1], dest)


def nothing(_path: Path) -> None:
    """Attributes stay as they are."""


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_the_shards_are_found_by_the_name_of_the_first(shards):
    assert find_shards(shards[0]) == shards


def test_missing_shards_are_named(shards):
    shards[1].unlink()
    with pytest.raises(LlmError, match=r"lacks 1 of 3 shards: model-00002-of-00003\.gguf\. Get them first"):
        find_shards(shards[0])


def test_many_missing_shards_are_counted(tmp_path):
    with pytest.raises(LlmError, match=r"lacks 99 of 99 shards: x-00001.*x-00005-of-00099\.gguf and 94 more"):
        find_shards(tmp_path / "x-00001-of-00099.gguf")


def test_what_cannot_be_opened_is_an_error(tmp_path):
    with pytest.raises(LlmError, match=r"Reading .*absent\.gguf failed: No such file or directory \(ENOENT\)"):
        open_gguf(tmp_path / "absent.gguf")


@pytest.mark.parametrize("make", [os.mkdir, os.mkfifo])
def test_what_is_no_file_is_an_error(tmp_path, make):
    make(tmp_path / "x.gguf")
    with pytest.raises(LlmError, match=r"x\.gguf is not a regular file; expected a GGUF file"):
        open_gguf(tmp_path / "x.gguf")


def test_padding_that_is_not_zero_is_refused(shards, dest):
    header = open_gguf(shards[1]).header
    offset = next(header.padding())[0]
    content = bytearray(shards[1].read_bytes())
    content[offset + 3] = 1
    shards[1].write_bytes(content)
    with pytest.raises(LlmError, match=rf"00002-of-00003\.gguf is damaged: the padding behind .* at byte {offset}"):
        LocalMerge(shards, dest)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda path: path.unlink(), "vanished while it was used"),
        (lambda path: os.utime(path, ns=(1, 1)), "was changed while it was used"),
        (lambda path: path.write_bytes(path.read_bytes() + b"x"), "was changed while it was used"),
        (lambda path: (path.rename(path.with_name("x")), path.write_bytes(b"")), "was changed while it was used"),
    ],
    ids=["unlinked", "touched", "longer", "replaced"],
)
def test_a_shard_that_changes_during_the_merge_is_noticed(merge, shards, dest, monkeypatch, change, message):
    real = Assembly.write

    def write(assembly, path):
        real(assembly, path)
        change(shards[2])

    monkeypatch.setattr(Assembly, "write", write)
    with pytest.raises(LlmError, match=f"model-00003-of-00003.gguf {message}"):
        merge.write(nothing)
    assert names(dest.parent) == []


def test_the_record_makes_the_second_look_cheap(merge, dest, monkeypatch):
    merge.write(nothing)
    monkeypatch.setattr(Assembly, "equals", lambda *_unused: pytest.fail("the file was read"))
    assert merge.done()


def test_without_a_record_the_bytes_decide(merge, dest):
    merge.write(nothing)
    companion(dest, "json").unlink()
    assert merge.done()
    content = bytearray(dest.read_bytes())
    content[-40] ^= 1
    dest.write_bytes(content)
    assert not merge.done()


def test_a_record_of_other_shards_does_not_count(merge, shards, dest):
    merge.write(nothing)
    header = open_gguf(shards[1]).header
    content = bytearray(shards[1].read_bytes())
    content[header.data_offset] ^= 1
    shards[1].write_bytes(content)
    assert not LocalMerge(shards, dest).done()


def test_a_checksum_is_computed_once(shards, merge, dest, monkeypatch):
    merge.write(nothing)
    assert "sha256" not in (read_record(dest) or {})
    digest = sha256_file(dest)
    checked = LocalMerge(shards, dest, digest)
    assert checked.done()
    checked.record()
    assert (read_record(dest) or {})["sha256"] == digest
    merge.record()
    assert (read_record(dest) or {})["sha256"] == digest


def test_what_a_killed_run_left_counts_as_free_space(merge, dest, monkeypatch):
    stage = companion(dest, "merge")
    stage.write_bytes(bytes(8192))
    needed = []
    monkeypatch.setattr(
        "ansible_collections.llmfleet.serving.plugins.module_utils._gguf_files.require_space",
        lambda _folder, need, _purpose: needed.append(need),
    )
    merge.require_writable(force=False)
    assert needed == [merge.plan.size - 8192]
    merge.write(nothing)
    assert names(dest.parent) == [".model.gguf.llmfleet.json", "model.gguf"]
