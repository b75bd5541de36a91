# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the benchmarks share: models, measured commands, the real merge tool, medians, tables."""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import platform
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import typing as t
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from testbed import BedError
from testbed.cache import cache_dir, key_of, locked
from testbed.engine import LABEL, command, docker, ensure_engine
from testbed.images import ensure_image
from testbed.links import Node
from testbed.models import make

REPOSITORY = "bench/model"
PATTERN = "Q4/*.gguf"

_SUMS = "sha256sums"
_SECTOR = 512  # what the kernel counts written bytes in, whatever the file system's blocks are
_SAMPLE_S = 0.05
_DRAIN_S = 0.2

# Everything is taken inside the container, so that starting a process in it does not count. What a shell has written
# and the time that its children have used hold those of the commands that it has waited for.
_MERGE = """
start=$EPOCHREALTIME
llama-gguf-split --merge "$1" "$2" >/dev/null 2>&1 &
pid=$!
while grep VmHWM "/proc/$pid/status"; do sleep 0.05; done >/tmp/peak 2>/dev/null &
wait $pid || exit 1
end=$EPOCHREALTIME
peak=$(tail -n 1 /tmp/peak | tr -dc 0-9)
written=$(sed -n 's/^write_bytes: //p' "/proc/$$/io")
set -- $(cat "/proc/$$/stat")
echo "$start $end $((${16} + ${17})) $written $peak"
"""


@dataclass(frozen=True)
class Model:
    """A split model as a repository of a hub.

    :ivar root: what the hub serves.
    :ivar shards: its files, in order.
    :ivar digests: their SHA-256.
    :ivar sha256: of the file that llama-gguf-split makes of them.
    """

    root: Path
    shards: tuple[Path, ...]
    digests: tuple[str, ...]
    sha256: str

    @property
    def size(self) -> int:
        """Bytes of all shards."""
        return sum(path.stat().st_size for path in self.shards)

    @property
    def paths(self) -> list[str]:
        """The shards as the hub lists them."""
        return [path.relative_to(self.root / REPOSITORY).as_posix() for path in self.shards]


@dataclass(frozen=True)
class Sample:
    """What one run has cost.

    :ivar seconds: until the command's end.
    :ivar on_disk: until the kernel has the result on the disk, where that was asked for.
    :ivar cpu: seconds of processor time.
    :ivar written: bytes handed to the file system for writing.
    :ivar peak_disk: the most that the run's folder held at any time, in bytes.
    :ivar peak_memory: resident bytes of its largest process.
    :ivar arrivals: where the run was on a host of the lab, (seconds, bytes that had reached it).
    """

    seconds: float
    on_disk: float
    cpu: float
    written: int
    peak_disk: int
    peak_memory: int
    arrivals: list[tuple[float, int]] = field(default_factory=list)

    def then(self, other: Sample) -> Sample:
        """The cost of this and, after it, another run."""
        return Sample(
            self.seconds + other.seconds,
            self.seconds + other.on_disk,
            self.cpu + other.cpu,
            self.written + other.written,
            max(self.peak_disk, other.peak_disk),
            max(self.peak_memory, other.peak_memory),
            self.arrivals,
        )


def arguments(description: str | None) -> argparse.ArgumentParser:
    """The options that all benchmarks have."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=parse_size, default="256M", help="bytes of weights: 256M, 4G, 40G")
    parser.add_argument("--shards", type=int, default=9)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--folder", type=Path, help="where to work, with room for three times the size")
    return parser


def parse_size(text: str) -> int:
    """Bytes (or bits) of ``256M`` or ``2.5G``, in powers of ten."""
    units = {"M": 10**6, "G": 10**9}
    return round(float(text[:-1]) * units[text[-1]])


def model(size: int, shards: int) -> Model:
    """A model of this size, made once and kept in the bed's cache. To make it takes a Docker engine."""
    bench = cache_dir() / "bench"
    bench.mkdir(exist_ok=True)
    root = bench / f"{size}-{shards}-{key_of(Path(__file__).parents[1] / 'testbed/models')}"
    with locked(f"bench-{root.name}"):
        if not root.is_dir():
            with tempfile.TemporaryDirectory(dir=bench, prefix=".unfinished-") as unfinished:
                _make(Path(unfinished, "root"), size, shards)
                Path(unfinished, "root").rename(root)
    merged, *digests = (root / _SUMS).read_text().split()
    return Model(root, tuple(sorted((root / REPOSITORY).rglob("*.gguf"))), tuple(digests), merged)


def _make(root: Path, size: int, shards: int) -> None:
    ensure_engine()  # or what takes long is done before it is missed
    paths = make((root / REPOSITORY / PATTERN).parent, "model", size=size, shards=shards)
    merged = root / "merged"
    with gguf_split(root) as tool:
        tool.merge(paths[0], merged)
    (root / _SUMS).write_text("\n".join(map(sha256_of, (merged, *paths))))
    merged.unlink()


class GgufSplit:
    """llama.cpp's own merge in a container that runs already.

    :ivar version: what it says of itself.
    """

    def __init__(self, container: str) -> None:
        self._container = container
        self.version = docker("exec", container, "llama-gguf-split", "--version").stderr.splitlines()[0]

    def merge(self, first: Path, dest: Path) -> Sample:
        """Merge the shards of which `first` is the first one.

        :raises BedError: if the tool fails.
        """
        said = docker("exec", self._container, "bash", "-c", _MERGE, "bash", str(first), str(dest)).stdout.split()
        start, end, ticks, written, peak = map(float, said)
        seconds = end - start
        cpu = ticks / os.sysconf("SC_CLK_TCK")
        return Sample(
            seconds, seconds + synchronise([dest]), cpu, int(written), disk_use(dest.parent), int(peak) * 1024
        )


@contextlib.contextmanager
def gguf_split(*folders: Path) -> Iterator[GgufSplit]:
    """llama-gguf-split, for files below `folders`."""
    ensure_engine()
    container = docker(
        "run", "--detach", "--rm", "--init", "--network=none", f"--label={LABEL}",
        f"--user={os.getuid()}:{os.getgid()}", *(f"--volume={folder}:{folder}" for folder in folders),
        ensure_image("tools"), "sleep", "infinity",
    ).stdout.strip()  # fmt: skip
    try:
        yield GgufSplit(container)
    finally:
        docker("rm", "--force", container)


class Running:
    """A command that has been started in a session of its own and is watched; the end of the context is its end.

    :param folder: what it writes lies below; its output goes to ``log`` there.
    :param node: the host of the lab that it runs on; None is this machine.
    """

    def __init__(
        self, argv: Sequence[str | Path], folder: Path, node: Node | None = None, env: Mapping[str, str] | None = None
    ) -> None:
        self._folder = folder
        self._node = node
        self._ended = threading.Event()
        self._peak_disk = self._peak_memory = 0
        self._arrivals: list[tuple[float, int]] = []
        self._before = node.received() if node else 0
        self._start = time.perf_counter()
        with contextlib.ExitStack() as stack:
            log = stack.enter_context((folder / "log").open("ab"))
            if node:
                stack.enter_context(node.inside())
            self._process = subprocess.Popen(
                argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=folder, start_new_session=True,
                env=plain_environment() | dict(env or {}),
            )  # fmt: skip
        self._watcher = threading.Thread(target=self._watch)
        self._watcher.start()

    def __enter__(self) -> Running:
        return self

    def __exit__(self, *_exception: object) -> None:
        if self._process.returncode is None:
            self.kill()

    def wait(self) -> Sample:
        """What it has cost when it has ended.

        :raises BedError: with the end of its output, if it failed.
        """
        _dummy, status, used = os.wait4(self._process.pid, 0)
        seconds = time.perf_counter() - self._start
        self._end(status)
        if status != 0:
            raise BedError(f"{self._process.args!r} failed: {(self._folder / 'log').read_text()[-3000:]}")
        written, cpu = used.ru_oublock * _SECTOR, used.ru_utime + used.ru_stime
        return Sample(seconds, seconds, cpu, written, self._peak_disk, self._peak_memory, self._arrivals)

    def alive(self) -> bool:
        """Whether it has not ended by itself."""
        return os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None

    def kill(self) -> None:
        """Kill it and all that it has started, with SIGKILL."""
        os.killpg(self._process.pid, signal.SIGKILL)
        self._end(os.wait4(self._process.pid, 0)[1])

    def drain(self) -> None:
        """Wait until what was on its way to it has arrived."""
        before = -1
        while before != self.arrived():
            before = self.arrived()
            time.sleep(_DRAIN_S)

    def arrived(self) -> int:
        """Bytes that have reached its host since it was started, with all headers."""
        return self._node.received() - self._before if self._node else 0

    def _end(self, status: int) -> None:
        self._process.returncode = status
        self._ended.set()
        self._watcher.join()
        self._look()

    def _watch(self) -> None:
        while not self._ended.wait(_SAMPLE_S):
            # wait4(2) tells a peak too, but that of this program if it is larger: the kernel counts from before exec.
            self._peak_memory = max(self._peak_memory, *map(_peak_memory, with_children(self._process.pid)))
            self._look()

    def _look(self) -> None:
        self._peak_disk = max(self._peak_disk, disk_use(self._folder))
        if self._node:
            self._arrivals.append((time.perf_counter() - self._start, self.arrived()))


def with_children(pid: int) -> Iterator[int]:
    yield pid
    with contextlib.suppress(OSError):
        for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
            yield from with_children(int(child))


def _peak_memory(pid: int) -> int:
    """The most that a process has had in memory, in bytes; 0 if it has ended."""
    with contextlib.suppress(OSError, IndexError):
        return int(Path(f"/proc/{pid}/status").read_text().partition("VmHWM:")[2].split()[0]) * 1024
    return 0


def calm() -> None:
    """Wait until everything that was written before is on the disk."""
    os.sync()


def end_on_sigterm() -> None:
    """Let SIGTERM end this program as Ctrl+C does: with everything cleaned up."""
    signal.signal(signal.SIGTERM, lambda *_dummy: sys.exit("ended by SIGTERM"))


def plain_environment() -> dict[str, str]:
    """This environment without proxies, which are not for the bed's addresses."""
    return {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}


def disk_use(folder: Path) -> int:
    """Bytes of the blocks that all files below `folder` have; preallocated ones count."""
    total = 0
    for parent, _dummy, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                total += Path(parent, name).lstat().st_blocks * _SECTOR
    return total


def synchronise(paths: Iterable[Path]) -> float:
    """Bring files to the disk; how many seconds it took."""
    start = time.perf_counter()
    for path in paths:
        with path.open("rb") as file:
            os.fsync(file.fileno())
    return time.perf_counter() - start


def sha256_of(path: Path) -> str:
    """SHA-256 of a file; it is in the page cache afterwards."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextlib.contextmanager
def workspace(folder: Path | None) -> Iterator[Path]:
    """A folder for the benchmark's files, removed at the end."""
    with tempfile.TemporaryDirectory(prefix="llmfleet-bench-", dir=folder) as name:
        yield Path(name).resolve()


def in_turns(ways: Mapping[str, Callable[[], t.Any]], rounds: int) -> dict[str, list[t.Any]]:
    """Run every way once in each round; each round begins with another one."""
    names = list(ways)
    results: dict[str, list[t.Any]] = {name: [] for name in names}
    for number in range(rounds):
        turn = number % len(names)
        for name in names[turn:] + names[:turn]:
            results[name].append(ways[name]())
    return results


def median(samples: Iterable[t.Any], figure: str) -> float:
    """The median of one figure of several runs."""
    return float(statistics.median(getattr(sample, figure) for sample in samples))


Rows = list[dict[str, t.Any]]


def show(title: str, rows: Rows) -> None:
    """Print a table as Markdown, floats with three significant digits; ``samples`` are for the JSON file."""
    columns = [name for name in rows[0] if name != "samples"]
    print(f"\n{title}\n\n| {' | '.join(columns)} |\n|{' --- |' * len(columns)}")
    for row in rows:
        print(f"| {' | '.join(_text(row[name]) for name in columns)} |")
    sys.stdout.flush()


def _text(value: t.Any) -> str:
    if not isinstance(value, float):
        return str(value)
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


def machine(folder: Path) -> dict[str, str]:
    """What the figures depend on besides the programs, for files below `folder`."""
    cpu = Path("/proc/cpuinfo").read_text()
    name = next((line.partition(": ")[2] for line in cpu.splitlines() if line.startswith("model name")), "unknown")
    return {
        "cpu": f"{os.cpu_count()} x {name}, {'with' if ' sha_ni' in cpu else 'without'} SHA instructions",
        "memory": f"{os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE') / 1e9:.0f} GB",
        "kernel": platform.release(),
        "file system": command(["findmnt", "--noheadings", "--output=FSTYPE", f"--target={folder}"]).stdout.strip(),
        "python": platform.python_version(),
        "tcp": Path("/proc/sys/net/ipv4/tcp_congestion_control").read_text().strip(),
    }


def write_json(path: Path, found: Mapping[str, t.Any]) -> None:
    """Keep all figures, beside what is there of other runs."""
    path.parent.mkdir(parents=True, exist_ok=True)
    kept = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps({**kept, **found}, indent=1) + "\n")


def need(program: str, package: str) -> None:
    """:raises BedError: if a program is missing, with the way to get it."""
    if shutil.which(program) is None:
        raise BedError(f"{program} is missing. On Debian or Ubuntu: apt install {package}")
