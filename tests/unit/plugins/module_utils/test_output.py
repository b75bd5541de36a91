# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A file in the making without a network: its bytes are put there by the tests."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import random
import re
from concurrent.futures import ThreadPoolExecutor

import pytest

from ansible_collections.llmfleet.serving.plugins.module_utils import _output, _sha256
from ansible_collections.llmfleet.serving.plugins.module_utils._errors import LlmError
from ansible_collections.llmfleet.serving.plugins.module_utils._files import companion, read_record
from ansible_collections.llmfleet.serving.plugins.module_utils._hub import RemoteFile
from ansible_collections.llmfleet.serving.plugins.module_utils._output import Output, Part

HEAD = b"the merged header"
SHARDS = [random.Random(number).randbytes(size) for number, size in enumerate((3_000_000, 40, 2_000_000))]
SKIPS = [1000, 40, 7]
WHOLE = HEAD + b"".join(shard[skip:] for shard, skip in zip(SHARDS, SKIPS))

resumable = pytest.mark.skipif(_sha256._libcrypto is None, reason="this Python's sums end with their process")


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def listed(data: bytes, **changes) -> RemoteFile:
    sums = {"sha256": sha256(data), "git_blob": "", "modified_ns": 0, **changes}
    return RemoteFile(path="file", size=len(data), url="http://hub.example.com/file", **sums)


@pytest.fixture
def dest(tmp_path):
    return tmp_path / "model.gguf"


@pytest.fixture
def output(dest):
    """`output()` is a new look at the file that the shards become."""

    def look(shards=SHARDS, head=HEAD, **changes) -> Output:
        parts, offset = [], len(head)
        for shard, skip in zip(shards, SKIPS):
            parts.append(Part(listed(shard, **changes), shard[:skip], offset))
            offset += len(shard) - skip
        return Output(dest, head, parts)

    return look


def put(output: Output, start: int, stop: int, data: bytes = WHOLE) -> None:
    output.write_at(start, data[start:stop])
    output.have.add(start, stop)


def follow(output: Output, stop: int | None = None) -> list[str]:
    """Bring the front forward; returns what is wrong with parts."""
    stop, wrong = output.size if stop is None else stop, []
    with ThreadPoolExecutor(1) as aside:
        while (part := output.front.part) and output.front.offset <= stop:
            buffer = bytearray(min(stop, part.stop) - output.front.offset)
            output.read_at(output.front.offset, memoryview(buffer))
            output.front.update(memoryview(buffer), aside)
            if output.front.offset < part.stop:
                break
            error = output.front.end_part()
            if error:
                return [*wrong, error]
    output.mark = output.front.state()
    return wrong


def journal(dest):
    return json.loads(companion(dest, "journal").read_text())


def test_bytes_in_any_order_become_the_file(dest, output):
    made = output()
    assert (made.present, made.size, made.missing) == (False, len(WHOLE), len(WHOLE))
    made.open()
    for start in random.Random(1).sample(range(0, made.size, 100_000), k=-(-made.size // 100_000)):
        put(made, start, min(start + 100_000, made.size))
    assert follow(made) == []
    assert not dest.exists()
    made.commit(lambda path: path.chmod(0o640), {"source": "here"})
    assert dest.read_bytes() == WHOLE
    assert dest.stat().st_mode & 0o777 == 0o640
    record = read_record(dest)
    assert (record["sha256"], record["source"], record["facts"]) == (sha256(WHOLE), "here", made.facts)
    assert record["sums"] == [sha256(shard) for shard in SHARDS]
    assert sorted(path.name for path in dest.parent.iterdir()) == [".model.gguf.llmfleet.json", "model.gguf"]
    again = output()
    assert (again.present, again.sha256, again.missing) == (True, sha256(WHOLE), 0)


def test_its_whole_size_is_reserved_at_once(dest, output):
    made = output()
    made.open()
    status = companion(dest, "part").stat()
    assert status.st_size == made.size
    assert status.st_blocks * 512 >= made.size
    assert output().missing == 0


def test_a_file_system_that_reserves_nothing_will_do(dest, output, monkeypatch):
    """Such as NFS before 4.2. The file is then as long, and empty."""

    class Libc:
        def fallocate(self, *_args):
            _output.ctypes.set_errno(errno.EOPNOTSUPP)
            return -1

    monkeypatch.setattr(_output, "_libc", Libc())
    made = output()
    made.open()
    assert companion(dest, "part").stat().st_size == made.size
    put(made, 0, made.size)
    assert follow(made) == []
    made.commit(lambda _path: None, {})
    assert dest.read_bytes() == WHOLE


def test_a_full_file_system_leaves_nothing_behind(dest, output, monkeypatch):
    class Libc:
        def fallocate(self, *_args):
            _output.ctypes.set_errno(errno.ENOSPC)
            return -1

    monkeypatch.setattr(_output, "_libc", Libc())
    with pytest.raises(LlmError, match=r"Writing .*model.gguf.llmfleet.part .* failed: No space left .*\(ENOSPC\)"):
        output().open()
    assert list(dest.parent.iterdir()) == []


def test_what_the_journal_says_is_there(dest, output):
    first = output()
    first.open()
    put(first, 0, 1_000_000)
    put(first, 2_000_000, 2_500_000)
    follow(first, 600_000)
    first.sync()
    put(first, 1_000_000, 1_200_000)  # and this it does not say: the run is killed now
    assert journal(dest)["safe"] == 1_000_000
    second = output()
    assert list(second.have) == [(0, 1_000_000), (2_000_000, 2_500_000)]
    second.open()
    put(second, 1_000_000, 2_000_000)
    put(second, 2_500_000, second.size)
    assert follow(second) == []
    second.commit(lambda _path: None, {})
    assert dest.read_bytes() == WHOLE
    assert read_record(dest)["sums"] == [sha256(shard) for shard in SHARDS]


@pytest.mark.parametrize("boot", ["the same", "another"])
def test_a_killed_run_keeps_what_it_has_noted(output, monkeypatch, boot):
    """But when the power was lost, what was not yet on the disk may be gone."""
    first = output()
    first.open()
    put(first, 0, 1_000_000)
    follow(first, 900_000)
    first.sync()
    put(first, 1_000_000, 1_500_000)
    put(first, 2_000_000, 2_500_000)
    follow(first, 1_400_000)
    first.note(contextlib.nullcontext())
    if boot == "another":
        monkeypatch.setattr(_output, "_boot_id", lambda: "another")
    second = output()
    expected = [(0, 1_500_000), (2_000_000, 2_500_000)] if boot == "the same" else [(0, 1_000_000)]
    assert list(second.have) == expected
    if _sha256._libcrypto is not None:
        assert second.front.offset == (1_400_000 if boot == "the same" else 900_000)
    second.open()
    second.close()  # killed at once: what is known stays known
    assert list(output().have)[: len(expected)] == expected


@resumable
@pytest.mark.parametrize("front", [len(HEAD), 600_000, 2_999_017, 2_999_018, 4_000_000])
def test_sums_go_on_where_they_were(dest, output, front):
    first = output()
    first.open()
    put(first, 0, 4_100_000)
    follow(first, front)
    first.sync()
    second = output()
    assert second.front.offset == front
    second.open()
    # Nothing before is read again: it could not be right any more.
    second.write_at(len(HEAD), bytes(front - len(HEAD)))
    put(second, 4_100_000, second.size)
    assert follow(second) == []
    assert second.front.sha256 == sha256(WHOLE)


def test_where_sums_cannot_go_on_they_begin_again(output, monkeypatch):
    monkeypatch.setattr(_sha256, "_libcrypto", None)
    first = output()
    first.open()
    put(first, 0, 4_000_000)
    follow(first, 3_500_000)
    first.sync()
    second = output()
    assert second.front.offset == len(HEAD)
    assert second.have.size == 4_000_000
    second.open()
    put(second, 4_000_000, second.size)
    assert follow(second) == []
    assert second.front.sha256 == sha256(WHOLE)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({}, f"The data has the sha256 .*; the hub lists {sha256(SHARDS[2])}"),
        ({"sha256": "", "git_blob": "ab" * 20}, "The data is not what git knows as abab"),
    ],
)
def test_a_part_that_is_wrong_is_told_and_made_again(dest, change, message):
    made = Output(dest, HEAD, [Part(listed(SHARDS[2], **change), SHARDS[2][:7], len(HEAD))])
    data = HEAD + SHARDS[2][7:]
    made.open()
    wrong = bytearray(data)
    wrong[1_000_000] ^= 1
    put(made, 0, len(wrong), bytes(wrong))
    (error,) = follow(made)
    assert re.search(message, error)
    made.front.restart_part()
    assert made.front.offset == len(HEAD)
    put(made, 0, len(data), data)
    if not change:
        assert follow(made) == []
        assert made.front.sha256 == sha256(data)


def test_gits_sum_is_enough(dest):
    data = b"# A model\n"
    blob = hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()
    made = Output(dest, b"", [Part(listed(data, sha256="", git_blob=blob), b"", 0)])
    made.open()
    put(made, 0, len(data), data)
    assert follow(made) == []
    made.commit(lambda _path: None, {})
    assert read_record(dest)["sums"] == [sha256(data)]


def test_without_a_sum_it_is_computed(dest):
    made = Output(dest, b"", [Part(listed(SHARDS[0], sha256=""), b"", 0)])
    made.open()
    put(made, 0, made.size, SHARDS[0])
    assert follow(made) == []
    made.commit(lambda _path: None, {})
    assert (made.sha256, made.sums) == (sha256(SHARDS[0]), [sha256(SHARDS[0])])


# What others may have done


@pytest.mark.parametrize("other", ["a head", "a shard", "a place"])
def test_the_journal_of_another_file_says_nothing(dest, output, other):
    first = output()
    first.open()
    put(first, 0, 1_000_000)
    first.sync()
    shards, head = SHARDS, HEAD
    if other == "a head":
        head = HEAD.upper()
    elif other == "a shard":
        shards = [*SHARDS[:2], SHARDS[2][::-1]]
    else:
        head = HEAD + b"!"
    second = output(shards, head)
    assert not second.have
    second.open()
    # From now on, nor does it say anything to one who wants the first file again.
    assert not output().have


@pytest.mark.parametrize("kept", [0, 500_000])
def test_a_shorter_file_has_no_more_than_it_has(dest, output, kept):
    """Fault 31. And what it has is read: whoever cut it may have done more."""
    first = output()
    first.open()
    put(first, 0, 1_000_000)
    follow(first, 900_000)
    first.sync()
    os.truncate(companion(dest, "part"), kept)
    second = output()
    assert second.have.size == kept
    assert second.front.offset == len(HEAD)
    second.open()
    second.close()  # killed before its first step: what was lost must not come back as zeros
    assert output().have.size == kept


@pytest.mark.parametrize("front", [100, 4_000_000])
@pytest.mark.parametrize("size", [len(WHOLE), len(WHOLE) + 1, 4_000_000])
def test_another_file_in_its_place_is_read(dest, output, size, front):
    """Faults 31 and 40: the right size proves nothing."""
    first = output()
    first.open()
    put(first, 0, first.size)
    follow(first, front)
    first.sync()
    # In place: it has the number of the file before.
    companion(dest, "part").write_bytes(bytes(size))
    second = output()
    assert second.front.offset == len(HEAD)
    second.open()
    put(second, second.have.end(0), second.size)
    assert "has the sha256" in follow(second)[0]


def test_a_missing_file_is_begun_again(dest, output):
    first = output()
    first.open()
    put(first, 0, 1_000_000)
    first.sync()
    companion(dest, "part").unlink()
    assert not output().have


def test_a_link_in_its_place_is_not_followed(dest, output):
    other = dest.parent / "other"
    other.write_bytes(b"precious")
    companion(dest, "part").symlink_to(other)
    with pytest.raises(LlmError, match="ELOOP"):
        output().open()
    assert other.read_bytes() == b"precious"


def test_a_file_that_gets_shorter_meanwhile_is_told(dest, output):
    made = output()
    made.open()
    os.truncate(companion(dest, "part"), 10)
    with pytest.raises(LlmError, match="ended at byte 10: it was changed while it was written"):
        made.read_at(0, memoryview(bytearray(20)))


@pytest.mark.parametrize("same", [True, False])
def test_a_file_of_unknown_origin_is_judged_by_its_bytes(dest, output, same):
    dest.write_bytes(WHOLE if same else WHOLE[:-1] + b"!")
    found = output()
    assert (found.present, found.sha256) == ((True, sha256(WHOLE)) if same else (False, ""))
    if same:
        found.require_replaceable()
        found.adopt({})
        assert read_record(dest)["sums"] == [sha256(shard) for shard in SHARDS]
    else:
        with pytest.raises(LlmError, match="there is no record that this collection put it there"):
            found.require_replaceable()


def test_without_listed_sums_bytes_prove_nothing(dest, output):
    dest.write_bytes(WHOLE)
    assert not output(sha256="").present


@pytest.mark.parametrize("call", ["replace", "write_record"])
def test_a_stop_between_name_and_record_is_survived(dest, output, monkeypatch, call):
    """Also where no sums are listed, so that the bytes would prove nothing."""

    class Killed(BaseException):
        pass

    def kill(*_args, **_kwargs):
        raise Killed

    made = output(sha256="")
    made.open()
    put(made, 0, made.size)
    follow(made)
    with monkeypatch.context() as patched:
        patched.setattr(_output, "commit" if call == "replace" else call, kill)
        with pytest.raises(Killed):
            made.commit(lambda _path: None, {})
    again = output(sha256="")
    if call == "replace":
        assert (again.present, again.have.size) == (False, len(WHOLE))
    else:
        assert (again.present, again.sha256, again.sums) == (True, sha256(WHOLE), [sha256(shard) for shard in SHARDS])
        again.adopt({})
        assert read_record(dest)["sha256"] == sha256(WHOLE)
        assert not companion(dest, "journal").exists()


def test_the_page_cache_is_let_go_where_memory_is_short(output, monkeypatch):
    seen = []
    monkeypatch.setattr(os, "posix_fadvise", lambda _fd, *args: seen.append(args))
    made = output()
    made.open()
    for step in (1_000_000, 2_000_000):
        put(made, 0, step)
        follow(made, step - 100)
        made.sync()
    assert seen == []  # there is plenty
    monkeypatch.setattr(_output, "_RAM_BYTES", 1.4 * made.size)
    made.sync()
    put(made, 2_000_000, 2_500_000)
    follow(made, 2_500_000)
    made.sync()
    expected = [2_500_000] if _sha256._libcrypto is None else [1_999_900, 2_500_000]
    assert [offset + size for offset, size, _advice in seen] == expected
    assert {advice for _offset, _size, advice in seen} == {os.POSIX_FADV_DONTNEED}


# A disk that fails


@pytest.mark.parametrize("name", ["fdatasync", "preadv", "pwrite"])
def test_a_disk_that_fails_is_told(dest, output, monkeypatch, name):
    made = output()
    made.open()
    put(made, 0, 1_000_000)

    def fail(*_args):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, name, fail)
    action = {
        "fdatasync": made.sync,
        "preadv": lambda: made.read_at(0, memoryview(bytearray(9))),
        "pwrite": lambda: put(made, 0, 9),
    }[name]
    with pytest.raises(LlmError, match=r"Writing .*\.part .* failed: Input/output error \(EIO\)"):
        action()
    assert not companion(dest, "journal").exists()


def test_a_disk_that_writes_little_at_a_time_gets_all(dest, output, monkeypatch):
    pwrite = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda fd, data, offset: pwrite(fd, data[:70_000], offset))
    made = output()
    made.open()
    put(made, 0, made.size)
    assert companion(dest, "part").read_bytes() == WHOLE


def test_the_data_is_on_the_disk_before_the_journal_says_so(dest, output, monkeypatch):
    made = output()
    made.open()
    put(made, 0, 1_000_000)
    inodes, fdatasync = [], os.fdatasync

    def record(fd):
        inodes.append(os.fstat(fd).st_ino)
        fdatasync(fd)

    monkeypatch.setattr(os, "fdatasync", record)
    made.sync()
    # The data first, then the journal's new content, which has its name last.
    assert inodes == [companion(dest, "part").stat().st_ino, companion(dest, "journal").stat().st_ino]
