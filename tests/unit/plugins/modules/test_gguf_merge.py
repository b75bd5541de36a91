# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import errno
import functools
import itertools
import os
import signal
import stat
import sys
from pathlib import Path
from types import SimpleNamespace

import gguf_build as build
import pytest
import yaml

from ansible_collections.llmfleet.serving.plugins.module_utils import _files
from ansible_collections.llmfleet.serving.plugins.module_utils._copy import Assembly
from ansible_collections.llmfleet.serving.plugins.module_utils._files import companion, locked, sha256_file
from ansible_collections.llmfleet.serving.plugins.module_utils._gguf_files import open_gguf
from ansible_collections.llmfleet.serving.plugins.modules import gguf_merge

OLD = b"what was there before"


@pytest.fixture
def shards(tmp_path):
    folder = tmp_path / "shards"
    folder.mkdir()
    return build.write_shards(folder, build.shards(*build.small_model()))


@pytest.fixture
def dest(tmp_path):
    folder = tmp_path / "models"
    folder.mkdir()
    return folder / "model.gguf"


@pytest.fixture
def merge(run_module, shards, dest):
    """`merge(check=..., force=...)` runs the module on the shards."""

    def run(**params):
        return run_module(gguf_merge, **{"src": [str(shards[0])], "dest": str(dest), **params})

    return run


@pytest.fixture
def merged(shards):
    """The bytes that the merged file must have."""
    keys, parts = build.small_model()
    return build.whole([*keys, *build.split_keys(0, 0, 6)], [tensor for part in parts for tensor in part])


def listing(folder: Path) -> dict[str, tuple[int, int, bytes]]:
    return {path.name: (path.stat().st_mtime_ns, path.stat().st_mode, path.read_bytes()) for path in folder.iterdir()}


def test_check_real_check_real(merge, shards, dest, merged):
    before = {"path": str(dest), "state": "absent"}
    after = {"path": str(dest), "state": "file", "size": len(merged)}
    facts = {"dest": str(dest), "size": len(merged), "tensors": 6, "shards": [str(path) for path in shards]}

    assert merge(check=True) == {"changed": True, "diff": {"before": before, "after": after}, **facts}
    assert listing(dest.parent) == {}

    assert merge() == {"changed": True, "diff": {"before": before, "after": after}, **facts}
    assert dest.read_bytes() == merged
    done = listing(dest.parent)
    assert sorted(done) == [".model.gguf.llmfleet.json", "model.gguf"]

    assert merge(check=True) == {"changed": False, "diff": {"before": after, "after": after}, **facts}
    assert merge() == {"changed": False, "diff": {"before": after, "after": after}, **facts}
    assert listing(dest.parent) == done


def test_returns_what_is_documented(merge):
    assert set(merge()) == {"changed", "diff", *yaml.safe_load(gguf_merge.RETURN)}


def test_takes_all_shards_in_order(merge, shards, dest, merged):
    assert merge(src=[str(path) for path in shards])["changed"]
    assert dest.read_bytes() == merged


def test_the_merged_file_is_a_sound_file(merge, dest):
    merge()
    header = open_gguf(dest).header
    assert header.complete
    assert header.split.count == 0


def test_a_new_file_has_the_attributes_asked_for(merge, dest):
    assert merge(mode="0640", check=True)["changed"]
    assert merge(mode="0640")["changed"]
    assert stat.S_IMODE(dest.stat().st_mode) == 0o640
    assert not merge(mode="0640")["changed"]


def test_a_new_file_follows_the_umask(merge, dest):
    previous = os.umask(0o027)
    try:
        merge()
    finally:
        os.umask(previous)
    assert stat.S_IMODE(dest.stat().st_mode) == 0o640


def test_other_attributes_of_a_finished_file_are_a_change(merge, dest):
    merge(mode="0644")
    data = dest.stat().st_ino
    for check in (True, False):
        result = merge(mode="0600", check=check)
        assert result["changed"]
        assert result["diff"]["before"]["mode"] == "0644"
        assert result["diff"]["after"]["mode"] == "0600"
    assert stat.S_IMODE(dest.stat().st_mode) == 0o600
    assert dest.stat().st_ino == data
    assert not merge(mode="0600")["changed"]


def test_an_equal_file_is_adopted(merge, dest, merged):
    dest.write_bytes(merged)
    before = listing(dest.parent)
    assert not merge(check=True)["changed"]
    assert listing(dest.parent) == before
    assert not merge()["changed"]
    assert dest.read_bytes() == merged
    assert companion(dest, "json").exists()


def test_another_file_is_refused_without_force(merge, dest):
    dest.write_bytes(OLD)
    for check in (True, False):
        result = merge(check=check)
        assert result["failed"]
        assert result["msg"].startswith(f"{dest} exists and is not what ")
        assert "set force to replace it" in result["msg"]
    assert dest.read_bytes() == OLD


def test_force_replaces_another_file_and_keeps_its_mode(merge, dest, merged):
    dest.write_bytes(OLD)
    dest.chmod(0o604)
    other = dest.with_name("hard link")
    os.link(dest, other)
    predicted = merge(force=True, check=True)
    assert dest.read_bytes() == OLD
    result = merge(force=True)
    assert result == predicted
    assert result["diff"]["before"]["size"] == len(OLD)
    assert dest.read_bytes() == merged
    assert stat.S_IMODE(dest.stat().st_mode) == 0o604
    assert other.read_bytes() == OLD
    assert not merge(force=True)["changed"]


def test_force_does_not_rewrite_an_equal_file(merge, dest, merged):
    dest.write_bytes(merged)
    assert not merge(force=True)["changed"]


def test_the_right_checksum_passes(merge, dest, shards, tmp_path):
    merge()
    digest = sha256_file(dest)
    dest.unlink()
    assert merge(checksum=digest.upper())["changed"]
    assert not merge(checksum=digest)["changed"]


def test_a_wrong_checksum_leaves_nothing_behind(merge, shards, dest):
    result = merge(checksum="0" * 64)
    assert result["failed"]
    assert f"{shards[0]} and its siblings add up to the sha256 " in result["msg"]
    assert f"; expected {'0' * 64}. The shards or the checksum belong to another release." in result["msg"]
    assert listing(dest.parent) == {}


def test_a_wrong_checksum_of_a_finished_file_is_an_error(merge, dest, merged):
    merge()
    for check in (True, False):
        assert "expected 000" in merge(checksum="0" * 64, check=check)["msg"]
    assert dest.read_bytes() == merged


@pytest.mark.parametrize("checksum", ["", "abc", "sha256:" + "0" * 64])
def test_what_is_no_checksum_is_refused(merge, checksum):
    assert merge(checksum=checksum)["msg"] == (
        f"The checksum {checksum!r} is no sha256; expected 64 hexadecimal digits."
    )


@pytest.mark.parametrize(
    ("make", "kind"),
    [
        (lambda path: path.mkdir(), "a directory"),
        (lambda path: path.symlink_to("elsewhere"), "a symbolic link"),
        (os.mkfifo, "a special file"),
    ],
    ids=["directory", "link", "fifo"],
)
def test_a_destination_that_is_no_file_is_refused(merge, dest, make, kind):
    make(dest)
    before = dest.lstat().st_mode
    for force in (True, False):
        assert merge(force=force)["msg"].startswith(f"{dest} is {kind}; expected a regular file or nothing.")
    assert dest.lstat().st_mode == before


def test_a_shard_as_the_destination_is_refused(merge, shards):
    before = shards[1].read_bytes()
    assert (
        merge(dest=str(shards[1]), force=True)["msg"] == f"{shards[1]} is one of the shards. Name another destination."
    )
    assert shards[1].read_bytes() == before


def test_a_directory_that_does_not_exist_is_refused(merge, dest):
    assert merge(dest=str(dest.parent / "no" / "x.gguf"))["msg"].startswith(f"{dest.parent}/no is not a directory")


def test_no_shards_at_all_are_refused(merge):
    assert merge(src=[])["msg"] == "No shard is given; expected the first one, or all in order."


@pytest.mark.parametrize("check", [True, False])
def test_missing_shards_are_refused(merge, shards, dest, check):
    shards[2].unlink()
    assert "lacks 1 of 3 shards: model-00003-of-00003.gguf" in merge(check=check)["msg"]
    assert listing(dest.parent) == {}


@pytest.mark.parametrize("check", [True, False])
def test_a_truncated_shard_is_refused_before_anything_is_written(merge, shards, dest, check):
    os.truncate(shards[1], shards[1].stat().st_size - 1)
    assert f"{shards[1]} is truncated" in merge(check=check)["msg"]
    assert listing(dest.parent) == {}


@pytest.mark.parametrize("check", [True, False])
def test_too_little_space_is_refused_before_anything_is_written(merge, dest, merged, monkeypatch, check):
    monkeypatch.setattr(_files.shutil, "disk_usage", lambda _unused: SimpleNamespace(free=100))
    message = merge(check=check)["msg"]
    assert (
        f"{dest.parent} has too little free space for the merge of 3 shards: {len(merged)} bytes are needed" in message
    )
    assert listing(dest.parent) == {}


def test_a_merge_that_is_under_way_is_not_disturbed(merge, dest):
    with locked(dest):
        assert f"{dest} is being written by process {os.getpid()}" in merge()["msg"]
        assert merge(check=True)["changed"]


# Every call that changes something on disk. What happens between two of them is one state of the disk.
CHANGES = ("open", "posix_fallocate", "pwrite", "copy_file_range", "chown", "chmod", "fsync", "replace", "unlink")


def on_change(monkeypatch, act):
    """Call act(name, arguments) before each change; what it raises, the change raises."""
    for name in CHANGES:
        real = getattr(os, name)

        def change(*args, _name=name, _real=real, **kwargs):
            act(_name, args)
            return _real(*args, **kwargs)

        monkeypatch.setattr(os, name, change)


def require_old_or_new(dest, old, merged):
    found = dest.read_bytes() if dest.exists() else None
    assert found in (old, merged)
    if found == merged:
        assert stat.S_IMODE(dest.stat().st_mode) == 0o640


@pytest.fixture(params=[None, OLD], ids=["absent", "old"])
def old(request, dest):
    """What is at the destination before, restored by calling it."""

    def restore():
        for path in dest.parent.iterdir():
            path.unlink()
        if request.param is not None:
            dest.write_bytes(request.param)
        return request.param

    return restore


def at_change(number, act):
    """A function for on_change that acts at that change."""
    count = itertools.count()

    def change(*_unused):
        if next(count) == number:
            act()

    return change


def killed_at(number, run):
    """Run in a child process that kills itself at that change; whether it came to that."""
    child = os.fork()
    if child == 0:
        with pytest.MonkeyPatch.context() as patch:
            on_change(patch, at_change(number, lambda: os.kill(os.getpid(), signal.SIGKILL)))
            run()
        os._exit(0)
    _unused, status = os.waitpid(child, 0)
    assert status in (0, signal.SIGKILL)
    return status != 0


def test_killed_at_any_change_the_destination_is_old_or_new(merge, dest, merged, old):
    for number in itertools.count():
        before = old()
        killed = killed_at(number, lambda: merge(force=True, mode="0640"))
        require_old_or_new(dest, before, merged)
        if not killed:
            break
        # The next run is not hindered by anything that was left, and cleans it up.
        assert "failed" not in merge(force=True, mode="0640")
        assert dest.read_bytes() == merged
        assert sorted(listing(dest.parent)) == [".model.gguf.llmfleet.json", "model.gguf"]
    assert number > 20


def fail_once_asked(raised):
    raised.append(OSError(errno.EIO, os.strerror(errno.EIO), "/the/file"))
    raise raised[0]


def test_an_error_at_any_change_leaves_old_or_new(merge, dest, merged, old):
    for number in itertools.count():
        before = old()
        raised: list[OSError] = []
        with pytest.MonkeyPatch.context() as patch:
            on_change(patch, at_change(number, functools.partial(fail_once_asked, raised)))
            result = merge(force=True, mode="0640")
        require_old_or_new(dest, before, merged)
        if not raised:
            break
        assert result["failed"]
        assert "Input/output error (EIO)" in result["msg"]
        assert "failed" not in merge(force=True, mode="0640")
        assert dest.read_bytes() == merged
    assert number > 20


@pytest.mark.skipif(sys.version_info < (3, 10), reason="pathlib of Python 3.9 has bound os.replace at import")
def test_the_data_is_on_disk_before_the_name(merge, dest, monkeypatch):
    """A power loss keeps what was synchronised: the file, then its name."""
    changes = []

    def act(name, args):
        path = Path(f"/proc/self/fd/{args[0]}").readlink() if isinstance(args[0], int) else Path(os.fsdecode(args[0]))
        changes.append((name, path))

    on_change(monkeypatch, act)
    assert merge(mode="0640")["changed"]
    stage = companion(dest, "merge")
    named = changes.index(("replace", stage))
    before = changes[:named]
    assert before[-1] == ("fsync", stage)
    assert {"pwrite", "copy_file_range", "chmod"} <= {name for name, _unused in before}
    assert ("fsync", dest.parent) in changes[named:]
    assert not {"copy_file_range", "chmod"} & {name for name, _unused in changes[named:]}


def test_running_out_of_space_is_one_clear_error(merge, dest, monkeypatch):
    def full(*_args):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full)
    result = merge()
    assert result["msg"] == f"Merging to {dest} failed: No space left on device (ENOSPC)."
    assert listing(dest.parent) == {}


def test_shards_that_change_during_the_merge_are_no_result(merge, shards, dest, monkeypatch):
    real = Assembly.write

    def write(assembly, path):
        real(assembly, path)
        os.utime(shards[1])

    monkeypatch.setattr(Assembly, "write", write)
    assert f"{shards[1]} was changed while it was used" in merge()["msg"]
    assert listing(dest.parent) == {}
