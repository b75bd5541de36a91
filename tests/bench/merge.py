# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Merge the shards of one model with `llama-gguf-split --merge` and with ours, and compare time, memory and bytes.

    PYTHONPATH=tests .venv/bin/python tests/bench/merge.py --size 4G

Both work on the same files in the same file system, in turns: the real tool in a container of the test bed, ours as a
process of its own. Neither figure holds the start of a container. `written` ends when all bytes are handed to the
kernel, which is where the real tool ends; `on disk` when they are synchronised, which the real tool leaves to others:
fsync(2) is called on its result. Each figure is the median of all rounds. Cold means that the shards are not in the
page cache; only pages of the benchmark's own files are dropped. The exit code is 1 when the bytes differ.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
import typing as t
from collections.abc import Callable, Iterator
from pathlib import Path

from ansible_collections.llmfleet.serving.plugins.module_utils._files import sha256_file
from testbed.engine import LABEL, docker, ensure_engine
from testbed.images import ensure_image
from testbed.models import make

REFERENCE = "llama-gguf-split"

# A whole process as the module is one: interpreter, imports, headers, merge, synchronisation, rename and record.
OURS = """
import json, sys, time
from pathlib import Path
from ansible_collections.llmfleet.serving.plugins.module_utils._gguf_files import LocalMerge

written = []
merge = LocalMerge([Path(sys.argv[1])], Path(sys.argv[2]))
merge.write(finish=lambda stage: written.append(time.time()))
peak = int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0])
print(json.dumps({"written": written[0], "peak": peak}))
"""

# Times and peak memory are taken inside the container, so that starting a process in it does not count.
REAL = """
start=$EPOCHREALTIME
llama-gguf-split --merge "$1" "$2" >log 2>&1 &
pid=$!
while grep VmHWM "/proc/$pid/status"; do sleep 0.05; done >peak 2>/dev/null &
wait $pid || exit 1
end=$EPOCHREALTIME
echo "$start $end $(tail -n 1 peak | tr -dc 0-9)"
"""


class Figures(t.NamedTuple):
    """Seconds until written and until on disk; peak memory in MiB."""

    written: float
    on_disk: float
    peak: float


Program = Callable[[Path, Path], Figures]


def ours(first: Path, dest: Path) -> Figures:
    start = time.time()
    run = subprocess.run([sys.executable, "-c", OURS, str(first), str(dest)], stdout=subprocess.PIPE, check=True)
    end = time.time()
    told = json.loads(run.stdout)
    return Figures(told["written"] - start, end - start, told["peak"] / 1024)


@contextlib.contextmanager
def real_tool(folder: Path) -> Iterator[tuple[str, Program]]:
    """The real tool in a container that is started once; its version, and how to run it."""
    user = f"--user={os.getuid()}:{os.getgid()}"
    name = docker(
        "run", "--detach", "--rm", "--init", "--network=none", f"--label={LABEL}", user, f"--volume={folder}:{folder}",
        f"--workdir={folder}", ensure_image("tools"), "sleep", "infinity",
    ).stdout.strip()  # fmt: skip

    def run(first: Path, dest: Path) -> Figures:
        start, end, peak = docker("exec", name, "bash", "-c", REAL, "bash", str(first), str(dest)).stdout.split()
        written = float(end) - float(start)
        begin = time.perf_counter()
        synchronise(dest)
        return Figures(written, written + time.perf_counter() - begin, int(peak) / 1024)

    try:
        yield docker("exec", name, "llama-gguf-split", "--version").stderr.splitlines()[0], run
    finally:
        docker("rm", "--force", name)


def synchronise(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


def chill(shards: list[Path]) -> None:
    """Put the shards out of the page cache."""
    for path in shards:
        synchronise(path)
        with path.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def warm(shards: list[Path]) -> None:
    for path in shards:
        sha256_file(path)


def measure(shards: list[Path], programs: dict[str, Program], rounds: int) -> dict[tuple[str, str], Figures]:
    """Medians by cache and program. The programs take turns in being the first.

    :raises SystemExit: when two results differ.
    """
    figures: dict[tuple[str, str], list[Figures]] = {}
    digests = set()
    dest = shards[0].with_name("merged.gguf")
    for number in range(rounds):
        order = list(programs.items())
        for cache, prepare in (("cold", chill), ("warm", warm)):
            for name, program in order[number % 2 :] + order[: number % 2]:
                prepare(shards)
                figures.setdefault((cache, name), []).append(program(shards[0], dest))
                digests.add(sha256_file(dest))
                dest.unlink()
    if len(digests) != 1:
        sys.exit(f"The merged files differ: {sorted(digests)}")
    return {key: Figures(*map(statistics.median, zip(*runs, strict=True))) for key, runs in figures.items()}


def report(medians: dict[tuple[str, str], Figures]) -> None:
    """Print the table; the columns with x are times as parts of the real tool's."""
    print(" cache  program           written s  on disk s  peak MiB  written x  on disk x")
    for (cache, name), each in medians.items():
        base = medians[cache, REFERENCE]
        print(
            f" {cache:6} {name:17} {each.written:9.2f}  {each.on_disk:9.2f}  {each.peak:8.0f}"
            f"  {each.written / base.written:9.2f}  {each.on_disk / base.on_disk:9.2f}"
        )


def parse_size(text: str) -> int:
    units = {"M": 10**6, "G": 10**9}
    return int(text[:-1]) * units[text[-1]]


def main() -> None:
    parser = argparse.ArgumentParser(description="Compare our merge with llama-gguf-split --merge.")
    parser.add_argument("--size", type=parse_size, default="256M", help="bytes of weights, such as 256M or 4G")
    parser.add_argument("--shards", type=int, default=9)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--folder", type=Path, help="where to work, with room for three times the size")
    options = parser.parse_args()
    ensure_engine()
    with tempfile.TemporaryDirectory(prefix="llmfleet-bench-", dir=options.folder) as name:
        folder = Path(name)
        shards = make(folder, "model", size=options.size, shards=options.shards)
        with real_tool(folder) as (version, real):
            medians = measure(shards, {REFERENCE: real, "gguf_merge": ours}, options.rounds)
    print(f"{options.size / 1e9:g} GB in {options.shards} shards; median of {options.rounds} rounds; all bytes equal")
    print(
        f"llama-gguf-split {version}; Python {platform.python_version()}; {os.cpu_count()} CPUs; {platform.release()}"
    )
    report(medians)


if __name__ == "__main__":
    main()
