# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Cases of the disk: space, errors, names, and what is at the destination already."""

from __future__ import annotations

import itertools
import json
import os
import resource
import shlex
import stat
import subprocess
import typing as t
from collections.abc import Callable
from pathlib import Path

import pytest

from faults.bench import HEADERS, LATE, OLD, REPO, SHARD, Bench, Check, Refusal, Result, command

AGAIN = "what has been fetched is kept; run again after that is solved"


def failing_for(real: Callable[..., t.Any], path: Path, number: int) -> Callable[..., t.Any]:
    """`real`, but for one destination, for which it fails."""

    def call(source: t.Any, target: t.Any, **kwargs: t.Any) -> t.Any:
        if Path(target) == path:
            raise OSError(number, os.strerror(number), str(target))
        return real(source, target, **kwargs)

    return call


def disk_fails(name: str, number: int, shown: str, after: int = 2, todo: str = AGAIN) -> Check:
    """A call of the operating system fails, but for the first times; when the disk is well again, all goes on."""

    def run(bench: Bench) -> None:
        bench.has_old()
        real, count = getattr(os, name), itertools.count()

        def call(*args: t.Any, **kwargs: t.Any) -> t.Any:
            if next(count) >= after:
                raise OSError(number, os.strerror(number))
            return real(*args, **kwargs)

        with bench.monkeypatch.context() as patch:
            patch.setattr(os, name, call)
            result = bench.fetch(force=True)
        bench.refused(Refusal(str(bench.dest.parent), shown, todo), result)
        assert bench.dest.read_bytes() == OLD
        bench.got(force=True)

    return run


def file_size_limit(bench: Bench) -> None:
    bench.has_old()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2_000_000, hard))
    try:
        result = bench.fetch(force=True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    bench.refused(Refusal(str(bench.dest.parent), "File too large (EFBIG)", AGAIN), result)
    assert bench.dest.read_bytes() == OLD
    bench.got(force=True)


def short_writes(bench: Bench) -> None:
    real = os.pwrite
    bench.monkeypatch.setattr(os, "pwrite", lambda fd, data, offset: real(fd, data[:70_000], offset))
    bench.got()


def script(bench: Bench, text: str, *, user: str = "-rm", **params: t.Any) -> list[Result]:
    """Run a shell script in namespaces of its own; each `FETCH` in it runs the module, whose results are returned."""
    if subprocess.run(["unshare", user, "true"], capture_output=True, check=False).returncode:
        pytest.skip("a small file system needs user and mount namespaces, which are not allowed here")
    arguments = bench.tmp_path / "arguments"
    arguments.write_text(json.dumps({"ANSIBLE_MODULE_ARGS": bench.arguments(deadline=60, **params)}))
    results = bench.tmp_path / "results"
    fetch = f"{shlex.join(command())} < {arguments} >> {results}"
    done = subprocess.run(
        ["unshare", user, "sh", "-euc", text.replace("FETCH", f"{{ {fetch} || true; }}")],
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = [json.loads(line) for line in results.read_text().splitlines() if line.strip()]
    return [bench.shown(result) for result in found]


def too_small(bench: Bench) -> None:
    bench.dest.parent.mkdir()
    (result,) = script(bench, f"mount -t tmpfs -o size=5m tmpfs {bench.dest.parent}; FETCH")
    bench.refused(Refusal(str(bench.dest.parent), " bytes are needed, 52", "Free space or choose another"), result)
    assert bench.sent() <= HEADERS


def full_on_the_way(bench: Bench) -> None:
    """Somebody else fills the file system while it works; when there is room again, it goes on."""
    bench.dest.parent.mkdir()
    expected = bench.tmp_path / "expected"
    expected.write_bytes(bench.published.merged)
    bench.hub.fault("stall", path=SHARD, after=LATE, times=1)
    first, second = script(
        bench,
        f"""mount -t tmpfs -o size=40m tmpfs {bench.dest.parent}; cd {bench.dest.parent}
        FETCH & until [ -e .model.gguf.llmfleet.part ]; do sleep 0.05; done; sleep 1
        cat /dev/zero > filler 2> /dev/null || true
        wait; [ ! -e model.gguf ]; rm filler; FETCH
        cmp model.gguf {expected}""",
        timeout=3,
    )
    bench.refused(Refusal(str(bench.dest.parent), "No space left on device (ENOSPC)", ""), first)
    assert second["changed"] is True
    assert second["bytes_fetched"] < bench.published.size


def read_only(bench: Bench) -> None:
    bench.has_old()
    (result,) = script(bench, f"mount -t tmpfs -o ro tmpfs {bench.dest.parent}; FETCH")
    bench.refused(Refusal(str(bench.dest.parent), "Read-only file system (EROFS)", ""), result)


def not_allowed(bench: Bench) -> None:
    """Without -r the process keeps its user, and loses what root may do."""
    bench.has_old()
    bench.dest.parent.chmod(0o500)
    (result,) = script(bench, "FETCH", user="-U", force=True)
    bench.dest.parent.chmod(0o700)
    bench.refused(Refusal(str(bench.dest.parent), "Permission denied (EACCES)", ""), result)
    assert bench.dest.read_bytes() == OLD


def unknown_origin(bench: Bench) -> None:
    bench.has_old()
    for check in (True, False):
        result = bench.fetch(check=check)
        bench.refused(Refusal(str(bench.dest), "there is no record that this collection put it there", "force"), result)
    assert bench.dest.read_bytes() == OLD
    assert bench.sent() <= 2 * HEADERS
    bench.got(force=True)


def adopted(bench: Bench) -> None:
    bench.dest.parent.mkdir()
    bench.dest.write_bytes(bench.published.merged)
    before = bench.dest.stat()
    assert bench.fetch(check=True)["changed"] is False
    assert bench.got()["changed"] is False
    assert bench.dest.stat().st_ino == before.st_ino
    assert bench.sent() <= 2 * HEADERS


def destination(make: Callable[[Path, Path], t.Any], said: str) -> Check:
    """Something at the destination that is no file stays what it is, whatever the user wants."""

    def run(bench: Bench) -> None:
        bench.dest.parent.mkdir()
        other = bench.tmp_path / "other"
        other.write_bytes(OLD)
        make(bench.dest, other)
        before = bench.dest.lstat()
        for force, check in itertools.product((True, False), repeat=2):
            result = bench.fetch(force=force, check=check)
            bench.refused(
                Refusal(str(bench.dest), f"is {said}; expected a regular file or nothing", "Remove it"), result
            )
        assert bench.dest.lstat() == before
        assert other.read_bytes() == OLD
        assert bench.sent() == 0

    return run


def hard_link(bench: Bench) -> None:
    bench.has_old()
    other = bench.tmp_path / "other"
    os.link(bench.dest, other)
    bench.refused(Refusal(str(bench.dest), "no record", "force"), bench.fetch())
    bench.got(force=True)
    assert other.read_bytes() == OLD


def part_is_a_link(bench: Bench) -> None:
    bench.dest.parent.mkdir()
    other = bench.tmp_path / "other"
    other.write_bytes(OLD)
    bench.part.symlink_to(other)
    bench.refused(Refusal(str(bench.part), "Too many levels of symbolic links (ELOOP)", AGAIN), bench.fetch())
    assert other.read_bytes() == OLD


BAD_NAMES = {
    "absolute": "/etc/evil.gguf",
    "parent": "Q4/../../evil.gguf",
    "NUL": "evil\0.gguf",
    "newline": "two\nlines.gguf",
    "dash": "-rf.gguf",
    "long": f"{'n' * 300}.gguf",
}
NOT_UTF8 = "evil\udcff.gguf"


def listed_name(name: str, said: str = "") -> Check:
    def run(bench: Bench) -> None:
        commit = "0" * 40
        entry = {"type": "file", "path": name, "size": 4, "oid": "0" * 40}
        route = f"GET /api/models/{REPO}/tree/{commit}?recursive=true&expand=false"
        bench.scripted.routes[route] = [json.dumps([entry]).encode()]
        folder = bench.dest.parent
        folder.mkdir()
        params = {"hub": bench.scripted.url, "endpoint": None, "revision": commit, "merge": False, "files": "*"}
        result = bench.fetch(dest=str(folder), **params)
        bench.refused(Refusal(bench.scripted.url if said else repr(name)[:30], said or "is refused", ""), result)
        assert list(folder.rglob("*")) == []

    return run


def name_in_a_manifest(name: str, said: str = "") -> Check:
    def run(bench: Bench) -> None:
        manifest = bench.tmp_path / "manifest"
        manifest.write_bytes(f"{'0' * 64}  4  {name}\n".encode(errors="surrogateescape"))
        result = bench.fetch(manifest=str(manifest), merge=False, files="*", dest=str(bench.dest.parent))
        bench.refused(Refusal(str(manifest) if said else repr(name)[:30], said or "is refused", ""), result)
        assert not bench.dest.parent.exists() or list(bench.dest.parent.rglob("*")) == []
        assert bench.hub.stats()["hub"] == {}

    return run


def attributes_before_the_name(bench: Bench) -> None:
    modes, real = [], os.replace

    def replace(source: t.Any, target: t.Any, **kwargs: t.Any) -> None:
        if Path(target) == bench.dest:
            modes.append(stat.S_IMODE(Path(source).stat().st_mode))
        real(source, target, **kwargs)

    bench.monkeypatch.setattr(os, "replace", replace)
    before = os.umask(0)
    try:
        bench.got(mode="0640")
    finally:
        os.umask(before)
    assert modes == [0o640]
    assert stat.S_IMODE(bench.dest.stat().st_mode) == 0o640
