# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Cases of the model: files that are no GGUF, shards that do not fit, files that change while they are used."""

from __future__ import annotations

import errno
import json
import os
import shlex
import shutil
import subprocess
import threading
import typing as t
from collections.abc import Callable
from pathlib import Path

import gguf_build as build
from gguf_cases import FURTHER_BAD, LLAMA_CPP_BAD, LLAMA_CPP_LENIENT

from ansible_collections.llmfleet.serving.plugins.module_utils import _copy
from ansible_collections.llmfleet.serving.plugins.module_utils._files import companion
from ansible_collections.llmfleet.serving.plugins.modules import gguf_merge
from faults.bench import EARLY, HEADERS, NAME, OLD, REPO, SHARD, Bench, Check, Refusal, command, small_shards


def by_both(bench: Bench, refusal: Refusal) -> None:
    """The hub's shards are what no merge can be made of: for the module that fetches, and for the one that merges."""
    bench.has_old()
    for run in (bench.fetch, bench.merge):
        bench.refused(refusal, run(force=True))
        assert bench.dest.read_bytes() == OLD
        assert bench.sent() <= 2 * HEADERS, "the data was fetched before the headers were looked at"


ONE_MODEL = "Give the shards of one model, as they were published together"
BAD_HEADERS = {**LLAMA_CPP_BAD, **LLAMA_CPP_LENIENT, **FURTHER_BAD}


def headers(*cases: str) -> Check:
    """The second shard has a header that the parser's cases name."""

    def run(bench: Bench) -> None:
        good = bench.published.shards[1].read_bytes()
        for name in cases:
            content, said = BAD_HEADERS[name]
            bench.published.shards[1].write_bytes(content)
            bench.hub.clear_stats()
            by_both(bench, Refusal(NAME, said, "Get it again"))
        bench.published.shards[1].write_bytes(good)
        bench.got(force=True)

    return run


def second_shard(
    content: Callable[[list[list[build.Weights]]], bytes], said: str, todo: str = ONE_MODEL, file: str = NAME
) -> Check:
    """The second of the shards of a small model is another one."""

    def run(bench: Bench) -> None:
        small_shards(bench)
        bench.published.shards[1].write_bytes(content(build.small_model()[1]))
        by_both(bench, Refusal(file, said, todo))

    return run


def shard(
    tensors: list[build.Weights], *keys: bytes, no: int = 1, count: int = 3, total: int = 6, alignment: int = 32
) -> bytes:
    return build.whole([*keys, *build.split_keys(no, count, total)], tensors, alignment=alignment)


def resized(by: int) -> Check:
    def run(bench: Bench) -> None:
        path = bench.published.shards[1]
        content = path.read_bytes()
        path.write_bytes(content[:by] if by < 0 else content + bytes(by))
        said = "is truncated" if by < 0 else "is followed by bytes that do not belong to it"
        by_both(bench, Refusal(NAME, said, "Get it again"))

    return run


def hostile(bench: Bench) -> None:
    """Headers that claim a lot, in a file that is huge, under a limit of memory that the claims would break."""
    folder = bench.tmp_path / "hostile"
    folder.mkdir()
    bench.dest.parent.mkdir()
    path = folder / "model-00001-of-00001.gguf"
    for name in ("array of 2^40 strings", "array of 2^40 numbers", "too many keys", "too many tensors"):
        path.write_bytes(BAD_HEADERS[name][0])
        os.truncate(path, 1 << 40)
        params = json.dumps({"ANSIBLE_MODULE_ARGS": {"src": [str(path)], "dest": str(bench.dest)}})
        done = subprocess.run(
            ["sh", "-c", f"ulimit -v 400000; exec {shlex.join(command(gguf_merge))}"],
            input=params,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        bench.refused(Refusal(str(path), "", "Get it again"), json.loads(done.stdout))


def set_of_shards(change: Callable[[list[Path]], t.Any], said: str, todo: str, file: str = NAME) -> Check:
    """Names and numbers that make no whole model."""

    def run(bench: Bench) -> None:
        small_shards(bench)
        change(bench.published.shards)
        bench.has_old()
        bench.refused(Refusal(file, said, todo), bench.fetch(force=True))
        shards = sorted(bench.published.shards[0].parent.iterdir())
        bench.refused(
            Refusal("model-0000", "by its metadata", "it was published with"), bench.merge(*shards, force=True)
        )
        assert bench.dest.read_bytes() == OLD
        assert bench.sent() <= HEADERS

    return run


def counted_from_zero(paths: list[Path]) -> None:
    for number, path in enumerate(paths):
        path.rename(path.with_name(f"model-{number:05d}-of-00003.gguf"))


def shard_changes(change: Callable[[Path], t.Any], said: str) -> Check:
    """While the merge works on it."""

    def run(bench: Bench) -> None:
        real = os.posix_fallocate

        def allocate(*args: t.Any) -> None:
            real(*args)
            change(bench.published.shards[1])

        bench.has_old()
        with bench.monkeypatch.context() as patch:
            patch.setattr(os, "posix_fallocate", allocate)
            bench.refused(Refusal(NAME, said, ""), bench.merge(force=True))
        assert bench.dest.read_bytes() == OLD
        assert not companion(bench.dest, "merge").exists()

    return run


def shard_changes_at_the_hub(bench: Bench) -> None:
    """Between the headers and the data: the hub lists another file now, or has none of that sum any more."""
    bench.has_old()
    bench.hub.fault("error-503", path=SHARD, after=EARLY, times=2)
    changed = threading.Event()

    def change() -> None:
        while not any(status == 503 for status in bench.hub.stats()["cdn"].get(SHARD, {}).get("statuses", [])):
            if changed.wait(0.01):
                return
        content = bench.published.shards[1].read_bytes()
        bench.published.shards[1].write_bytes(content.replace(content[-50:], bytes(50)))

    commit = bench.hub.repository(REPO).commit
    changer = threading.Thread(target=change)
    changer.start()
    result = bench.fetch(force=True, revision=commit)
    changed.set()
    changer.join()
    bench.refused(Refusal(NAME, "404", ""), result)
    assert bench.dest.read_bytes() == OLD


def short_reads(bench: Bench) -> None:
    """The kernel gives less than it is asked for, which is no end; and nothing, which is one."""
    for name in ("copy_file_range", "sendfile"):
        bench.monkeypatch.setattr(_copy.os, name, _unsupported)
    real = os.preadv
    with bench.monkeypatch.context() as patch:
        patch.setattr(os, "preadv", lambda fd, buffers, offset: real(fd, [buffers[0][:70_000]], offset))
        assert bench.merge()["changed"] is True
    assert bench.dest.read_bytes() == bench.published.merged
    bench.dest.unlink()
    with bench.monkeypatch.context() as patch:
        patch.setattr(os, "preadv", lambda fd, buffers, offset: 0 if offset else real(fd, buffers, offset))
        bench.refused(Refusal("model-0000", "bytes early: it was changed while it was read", ""), bench.merge())
    assert not bench.dest.exists()


def _unsupported(*_args: t.Any) -> t.NoReturn:
    raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))


def output_exists(bench: Bench) -> None:
    assert [bench.merge()["changed"] for _dummy in range(2)] == [True, False]
    bench.dest.write_bytes(OLD)
    bench.refused(Refusal(str(bench.dest), "exists and is not what", "set force to replace it"), bench.merge())
    companion(bench.dest, "merge").write_bytes(b"a partial one of long ago")
    assert bench.merge(force=True)["changed"] is True
    assert bench.dest.read_bytes() == bench.published.merged
    assert not companion(bench.dest, "merge").exists()


def shards_stay(bench: Bench) -> None:
    """The merge deletes none, whatever becomes of it."""
    before = [path.read_bytes() for path in bench.published.shards]
    bench.refused(Refusal("sha256", "expected 0", "another release"), bench.merge(checksum="0" * 64))
    assert bench.merge()["changed"] is True
    assert [path.read_bytes() for path in bench.published.shards] == before


def shards_of_an_earlier_release(bench: Bench) -> None:
    """It put shards beside the destination first. They go when, and only when, the file is there that they were for."""
    shards = companion(bench.dest, "shards")
    shards.mkdir(parents=True)
    shutil.copy(bench.published.shards[0], shards)
    bench.hub.fault("error-404", path=SHARD, host="cdn")
    assert bench.fetch()["failed"] is True
    assert shards.exists()
    bench.hub.clear_faults()
    bench.got()
    assert not shards.exists()
