# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import errno
import os
import random
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from ansible_collections.llmfleet.serving.plugins.module_utils import _copy
from ansible_collections.llmfleet.serving.plugins.module_utils._copy import Assembly, FileRange
from ansible_collections.llmfleet.serving.plugins.module_utils._errors import LlmError

HEAD = b"head " * 7


@pytest.fixture
def assembly(tmp_path, monkeypatch):
    """Three unaligned ranges of two files; small pieces and buffers, so that each range takes many of them."""
    monkeypatch.setattr(_copy, "_PIECE_BYTES", 70_001)
    monkeypatch.setattr(_copy, "_BUFFER_BYTES", 9_973)
    one, two = tmp_path / "one", tmp_path / "two"
    one.write_bytes(random.Random(1).randbytes(500_000))
    two.write_bytes(random.Random(2).randbytes(300_000))
    start = len(HEAD)
    ranges = [
        FileRange(one, 13, 200_003, start),
        FileRange(two, 7, 299_993, start + 200_003),
        FileRange(one, 300_001, 1, start + 499_996),
    ]
    return Assembly(HEAD, ranges, start + 499_997)


def expected(assembly):
    parts = [part.path.read_bytes()[part.offset : part.offset + part.size] for part in assembly.ranges]
    return assembly.head + b"".join(parts)


def refuse(number):
    def call(*args):
        raise OSError(number, os.strerror(number))

    return call


UNSUPPORTED = [errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM]


@pytest.mark.parametrize("number", [None, *UNSUPPORTED])
@pytest.mark.parametrize("without", [(), ("copy_file_range",), ("copy_file_range", "sendfile")])
def test_each_way_of_copying_gives_the_same_bytes(assembly, tmp_path, monkeypatch, without, number):
    for name in without:
        monkeypatch.setattr(os, name, refuse(number) if number else lambda *_unused: 0)
    assembly.write(tmp_path / "out")
    assert (tmp_path / "out").read_bytes() == expected(assembly)
    assert assembly.equals(tmp_path / "out")


def test_copies_between_file_systems(assembly, tmp_path):
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        out = Path(folder) / "out"
        assert out.parent.stat().st_dev != tmp_path.stat().st_dev
        assembly.write(out)
        assert out.read_bytes() == expected(assembly)


def test_the_next_way_goes_on_where_one_stopped(assembly, tmp_path, monkeypatch):
    real = os.copy_file_range
    calls = iter(range(1_000_000))

    def stops_early(source, target, count, *offsets):
        if next(calls) % 3 == 2:
            raise OSError(errno.EXDEV, "stopped")
        return real(source, target, min(count, 10_007), *offsets)

    monkeypatch.setattr(os, "copy_file_range", stops_early)
    assembly.write(tmp_path / "out")
    assert (tmp_path / "out").read_bytes() == expected(assembly)


def test_short_writes_are_continued(assembly, tmp_path, monkeypatch):
    for name in ("copy_file_range", "sendfile"):
        monkeypatch.setattr(os, name, refuse(errno.ENOSYS))
    real = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda fd, data, offset: real(fd, data[:1009], offset))
    assembly.write(tmp_path / "out")
    assert (tmp_path / "out").read_bytes() == expected(assembly)


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_a_real_error_names_both_files_and_the_reason(assembly, tmp_path, monkeypatch, number):
    monkeypatch.setattr(os, "copy_file_range", refuse(number))
    with pytest.raises(LlmError) as error:
        assembly.write(tmp_path / "out")
    assert f"of {tmp_path}/one to {tmp_path}/out failed: {os.strerror(number)} ({errno.errorcode[number]})" in str(
        error.value
    )


def test_a_source_that_became_shorter_is_an_error(assembly, tmp_path):
    os.truncate(tmp_path / "two", 250_000)
    with pytest.raises(LlmError, match=r"two ended at byte 250000, .* bytes early: it was changed while it was read"):
        assembly.write(tmp_path / "out")


def test_the_whole_size_is_allocated_before_the_first_byte(assembly, tmp_path, monkeypatch):
    monkeypatch.setattr(os, "posix_fallocate", refuse(errno.ENOSPC))
    monkeypatch.setattr(os, "pwrite", refuse(errno.EIO))
    with pytest.raises(OSError, match="No space left"):
        assembly.write(tmp_path / "out")
    assert (tmp_path / "out").stat().st_size == 0


def test_an_existing_file_is_never_written_to(assembly, tmp_path):
    (tmp_path / "out").symlink_to(tmp_path / "one")
    before = (tmp_path / "one").read_bytes()
    with pytest.raises(FileExistsError):
        assembly.write(tmp_path / "out")
    assert (tmp_path / "one").read_bytes() == before


@pytest.mark.parametrize("position", [0, len(HEAD) - 1, len(HEAD), 200_100, 499_996 + len(HEAD)])
def test_one_other_byte_is_found(assembly, tmp_path, position):
    out = tmp_path / "out"
    content = bytearray(expected(assembly))
    content[position] ^= 1
    out.write_bytes(content)
    assert not assembly.equals(out)


@pytest.mark.parametrize("size", [-1, +1])
def test_another_size_is_found(assembly, tmp_path, size):
    out = tmp_path / "out"
    assembly.write(out)
    os.truncate(out, assembly.size + size)
    assert not assembly.equals(out)


LIMITED = """
import os, sys
from pathlib import Path
from ansible_collections.llmfleet.serving.plugins.module_utils._copy import Assembly, FileRange

folder, unsupported = Path(sys.argv[1]), sys.argv[2:]
def refuse(*args):
    raise OSError(38, "ENOSYS")
for name in unsupported:
    setattr(os, name, refuse)
size = (folder / "big").stat().st_size
assembly = Assembly(b"head", [FileRange(folder / "big", 0, size, 4)], size + 4)
assembly.write(folder / "out")
assert assembly.equals(folder / "out")
# Not ru_maxrss, which counts the parent's memory before exec too.
print(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0])
"""


@pytest.mark.parametrize("unsupported", [[], ["copy_file_range", "sendfile"]])
def test_needs_at_most_64_mib_of_memory(tmp_path, unsupported):
    with (tmp_path / "big").open("wb") as file:
        file.truncate(300 << 20)
    command = [sys.executable, "-c", LIMITED, str(tmp_path), *unsupported]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    assert int(run.stdout) < (64 << 20) / 1024


def test_a_file_size_limit_is_an_error_without_a_file(assembly, tmp_path):
    """RLIMIT_FSIZE stands for a quota: Python ignores SIGXFSZ, so that EFBIG is what comes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(OSError, match="File too large"):
            assembly.write(tmp_path / "out")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert (tmp_path / "out").stat().st_size == 0
