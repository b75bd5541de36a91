# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The supply line against what people use: fetch and merge, long links, kill and resume, faults, hashing, a fleet.

    PYTHONPATH=tests .venv/bin/python tests/bench/supply.py fetch links resume faults hash fanout --size 4G

Every program fetches the same split model from the bed's hub, in turns, and each figure is the median of all rounds.
`fetch` is on the loopback, where a peer's time is that of its download and of `llama-gguf-split --merge` after it. The
others are on links of their own, for which it must be root, and count the download alone where a program does not
merge. The tables are Markdown; all samples go to a JSON file. The exit code is 1 when one of our bytes is wrong.

`fanout` needs no peer and, once the model is made, no Docker engine: a fleet of large models takes a machine with more
processors than the one for everything else.

    PYTHONPATH=tests .venv/bin/python tests/bench/supply.py fanout --size 4G --fleet-rate 2.5G --folder /dev/shm
"""

from __future__ import annotations

import collections
import contextlib
import functools
import shutil
import statistics
import sys
import tempfile
import time
import typing as t
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from urllib.parse import urlsplit

from bench import _harness, _hashing
from bench._downloads import LIMIT, MERGED, PROGRAMS, Job, Program, check_programs
from bench._fanout import distribute, fleet
from bench._harness import GgufSplit, Model, Rows, Running, Sample, gguf_split, in_turns, median
from testbed import BedError
from testbed.cache import cache_dir
from testbed.hub import Hub
from testbed.links import PAYLOAD, Node, far_away, lab

GBIT = 10**9
# What 9 hosts on a machine of two processors can all do at the same time.
FLEET_RATE = 4 * 10**8
FLEETS = (1, 2, 4, 8)
# What it is called, and whether the hosts ask each other.
FLEET_WAYS = {"hub": ("all from the hub", False), "peers": ("from each other", True)}
# Those that run the programs of other people.
COMPARED = {"fetch", "links", "resume", "faults"}


@dataclass(frozen=True)
class Bench:
    """What every benchmark works with.

    :ivar chosen: the programs that were asked for; all if there is none.
    :ivar fleets: numbers of hosts.
    :ivar fleet_rate: bit/s of the link of each of them and of the hub.
    :ivar fleet_ways: how the model reaches several hosts, as FLEET_WAYS has it.
    """

    model: Model
    rounds: int
    folder: Path
    chosen: Sequence[str] = ()
    fleets: Sequence[int] = FLEETS
    fleet_rate: int = FLEET_RATE
    fleet_ways: Sequence[str] = tuple(FLEET_WAYS)

    def programs(self, *others: str, reference: str = "") -> list[str]:
        """Ours, the one that all are compared with, and of the others those that were asked for."""
        wanted = {reference, *(self.chosen or others)}
        return ["gguf_fetch", *(name for name in (reference, *others) if name and name in wanted)]


class Link(t.NamedTuple):
    """A path to the hub: bit/s, round trip in ms, bit/s that one connection carries (None: all)."""

    rate: int
    delay_ms: int = 0
    connection_rate: int | None = None

    def __str__(self) -> str:
        capped = f", a connection {self.connection_rate / GBIT:g} Gb/s" if self.connection_rate else ""
        return f"{self.rate / GBIT:g} Gb/s, {self.delay_ms} ms{capped}"


# Behind what is read of a file to plan with, and in the first request for data of every program.
_AFTER = 512 << 10
# Each shows once, in one file: what of the hub it is, and how.
FAULTS: Mapping[str, tuple[str, dict[str, int]]] = {
    "429, Retry-After: 1": ("rate-limit", {}),
    "the signed address ends": ("expired-url", {"after": _AFTER}),
    "connection reset": ("reset", {"after": _AFTER}),
    "closed too early": ("short-body", {"after": _AFTER}),
    "nothing more comes": ("stall", {"after": _AFTER}),
    "a flipped bit": ("flipped-bit", {"after": _AFTER}),
    "another ETag": ("changed-etag", {"after": _AFTER}),
    "200 for a range": ("no-range", {}),
    "wrong Content-Range": ("wrong-content-range", {}),
}
# A program that has not ended so long after it should have is not waited for.
_HANGS_S = 120

LINKS = (Link(GBIT), Link(10 * GBIT), Link(GBIT, 80), Link(GBIT, 80, GBIT // 10))


# Fetch and merge on the loopback


def fetch(bench: Bench) -> Rows:
    """One pass against download and merge."""
    peers = ("hf download", "modelscope download", "aria2c -x16", "git lfs", LIMIT)
    names = bench.programs(*peers, reference="requests, 4 threads")
    with Hub(bench.model.root) as hub, gguf_split(bench.folder) as tool:
        ways = {name: functools.partial(_fetch_and_merge, bench, hub, tool, PROGRAMS[name]) for name in names}
        samples = in_turns(ways, bench.rounds)
    base = median(samples[names[1]], "seconds")
    return [
        {
            "program": f"{name}, {PROGRAMS[name].version()}",
            "seconds": median(runs, "seconds"),
            "on disk, s": median(runs, "on_disk"),
            "x requests": median(runs, "seconds") / base,
            "written / model": median(runs, "written") / bench.model.size,
            "peak disk / model": median(runs, "peak_disk") / bench.model.size,
            "memory, MiB": median(runs, "peak_memory") / 2**20,
            "CPU s / GB": median(runs, "cpu") / bench.model.size * 1e9,
            "samples": [asdict(run) for run in runs],
        }
        for name, runs in samples.items()
    ]


def _fetch_and_merge(bench: Bench, hub: Hub, tool: GgufSplit, program: Program) -> Sample:
    with _job(bench, hub, hub.url) as job:
        sample = _run(program, job)
        if program.leaves == "shards":
            sample = sample.then(tool.merge(_find(job, bench.model.shards[0].name), job.folder / MERGED))
            if _harness.sha256_of(job.folder / MERGED) != bench.model.sha256:
                raise BedError("llama-gguf-split has made another file of the same shards.")
    return sample


# Links


def links(bench: Bench) -> Rows:
    """How much of a link each program uses."""
    names = bench.programs("one stream", "hf download", "modelscope download", LIMIT, reference="aria2c -x16")
    rows = []
    for link in LINKS:
        with _hub_behind(bench.model, link) as (hub, url, host):
            ways = {name: functools.partial(_fetch, bench, hub, url, host, PROGRAMS[name]) for name in names}
            samples = in_turns(ways, bench.rounds)
        base = median(samples[names[1]], "seconds")
        rows += [_link_row(bench.model.size, link, name, runs, base) for name, runs in samples.items()]
    return rows


def _link_row(size: int, link: Link, name: str, runs: Sequence[Sample], base: float) -> dict[str, t.Any]:
    seconds = median(runs, "seconds")
    capacity = link.rate * PAYLOAD
    flow = statistics.median(_flow(run.arrivals) for run in runs)
    return {
        "link": str(link),
        "program": name,
        "seconds": seconds,
        "Gb/s": size * 8 / seconds / GBIT,
        "% of the link": 100 * size * 8 / seconds / capacity,
        "% while data flows": 100 * flow * 8 / capacity,
        "speed / aria2c -x16": base / seconds,
        "CPU s / GB": median(runs, "cpu") / size * 1e9,
        "samples": [asdict(run) for run in runs],
    }


def _flow(arrivals: Sequence[tuple[float, int]]) -> float:
    """Bytes a second between the first and the last 5 % of what arrived."""
    total = arrivals[-1][1] if arrivals else 0
    inner = [(seconds, count) for seconds, count in arrivals if 0.05 * total <= count <= 0.95 * total]
    if len(inner) < 2:
        return 0.0
    (begin, first), (end, last) = inner[0], inner[-1]
    return (last - first) / (end - begin)


def _fetch(bench: Bench, hub: Hub, url: str, host: Node, program: Program) -> Sample:
    with _job(bench, hub, url) as job:
        return _run(program, job, host)


# Kill and resume


def resume(bench: Bench) -> Rows:
    """What is fetched once more after SIGKILL."""
    rows = []
    with _hub_behind(bench.model, Link(GBIT)) as (hub, url, host):
        for name in bench.programs("modelscope download", "hf download", "aria2c -x16", "git lfs"):
            program = PROGRAMS[name]
            whole = _fetch(bench, hub, url, host, program).arrivals[-1][1]
            for percent in (10, 50, 90):
                runs = [_resume(bench, hub, url, host, program, whole, percent) for _dummy in range(bench.rounds)]
                rows.append(
                    {
                        "program": name,
                        "killed at, %": percent,
                        "fetched again, %": 100 * median(runs, "again"),
                        "to new bytes, s": median(runs, "first"),
                        "right in the end": f"{sum(run.right for run in runs)} of {len(runs)}",
                        "samples": runs,
                    }
                )
    return rows


class _Resumed(t.NamedTuple):
    """What part of the model arrived twice, seconds to the second run's first megabyte, and whether it is right now."""

    again: float
    first: float
    right: bool


def _resume(bench: Bench, hub: Hub, url: str, host: Node, program: Program, whole: int, percent: int) -> _Resumed:
    """Kill a program when so much has arrived, and start it again.

    :param whole: bytes that arrive in a run without a kill.
    """
    with _job(bench, hub, url) as job:
        with _start(program, job, host) as running:
            while running.alive() and running.arrived() < whole * percent / 100:
                time.sleep(0.001)
        before = running.arrived()
        running.drain()  # or it is taken for the next one's
        with _start(program, job, host) as running:
            arrivals = running.wait().arrivals
        right = _is_right(program, job)
    if program.leaves == "one file" and not right:
        raise BedError(f"After a kill at {percent} % the file is wrong.")
    first = next((seconds for seconds, count in arrivals if count > 2**20), arrivals[-1][0])
    return _Resumed((before + arrivals[-1][1]) / whole - 1, first, right)


# Faults


def faults(bench: Bench) -> Rows:
    """One fault of the hub at a time, at 1 Gb/s: what it costs, and what is left."""
    rows: Rows = []
    with _hub_behind(bench.model, Link(GBIT)) as (hub, url, host):
        for name in bench.programs("modelscope download", "hf download", "aria2c -x16", "git lfs"):
            run = functools.partial(_faulty, bench, hub, url, host, PROGRAMS[name])
            alone = [_fetch(bench, hub, url, host, PROGRAMS[name]).seconds for _dummy in range(bench.rounds)]
            limit = _HANGS_S + 2 * statistics.median(alone)
            found = in_turns({fault: functools.partial(run, fault, limit) for fault in FAULTS}, bench.rounds)
            rows += [_fault_row(name, fault, runs, statistics.median(alone)) for fault, runs in found.items()]
    return rows


class _Faulty(t.NamedTuple):
    """Seconds until the end, what that was, and whether the program has met the fault."""

    seconds: float
    ended: t.Literal["right", "failed", "hung", "WRONG, unnoticed"]
    met: bool


def _fault_row(name: str, fault: str, runs: Sequence[_Faulty], alone: float) -> dict[str, t.Any]:
    ends = collections.Counter(run.ended for run in runs)
    seconds = statistics.median(run.seconds for run in runs)
    return {
        "program": name,
        "fault": fault,
        "met": f"{sum(run.met for run in runs)} of {len(runs)}",
        "end": ", ".join(f"{count} {ended}" for ended, count in ends.most_common()),
        "seconds": seconds,
        "x without": seconds / alone,
        "samples": runs,
    }


def _faulty(bench: Bench, hub: Hub, url: str, host: Node, program: Program, name: str, limit: float) -> _Faulty:
    """Run a program while one file, in the middle, has a fault once."""
    kind, limits = FAULTS[name]
    subject = f"{_harness.REPOSITORY}/{bench.model.paths[len(bench.model.paths) // 2]}"
    fault = hub.fault(kind, path=subject, times=1, **limits)
    try:
        with _job(bench, hub, url) as job, _start(program, job, host) as running:
            start = time.perf_counter()
            while running.alive() and time.perf_counter() - start < limit:
                time.sleep(0.005)
            if running.alive():
                return _Faulty(limit, "hung", fault.fired > 0)
            try:
                seconds = running.wait().seconds
            except BedError:
                return _Faulty(time.perf_counter() - start, "failed", fault.fired > 0)
            return _Faulty(seconds, "right" if _is_right(program, job) else "WRONG, unnoticed", fault.fired > 0)
    finally:
        hub.clear_faults()


# Hashing


def hashing(bench: Bench) -> Rows:
    """The ways to compute SHA-256."""
    runs = in_turns(_hashing.ways(bench.model.shards), bench.rounds)
    rates = {name: statistics.median(found) / 1e9 for name, found in runs.items()}
    base = rates[_hashing.REFERENCE]
    return [
        {"way": name, "GB/s": rate, f"x {_hashing.REFERENCE}": rate / base, "samples": runs[name]}
        for name, rate in rates.items()
    ]


# The fleet


def fan_out(bench: Bench) -> Rows:
    """A model on several hosts, all links the same."""
    rows: Rows = []
    for count in bench.fleets:
        names = [f"host{number}" for number in range(1, count + 1)]
        with (
            tempfile.TemporaryDirectory(dir=bench.folder) as folder,
            lab(dict.fromkeys(["origin", *names], bench.fleet_rate)) as nodes,
            nodes["origin"].inside(),
            Hub(bench.model.root, host=nodes["origin"].address) as hub,
            fleet([nodes[name] for name in names], Path(folder)) as hosts,
        ):
            run = functools.partial(distribute, bench.model, hub, hub.url, hosts)
            ways = {way: functools.partial(run, peers=peers) for way, peers in _fleet_ways(count, bench.fleet_ways)}
            rows += [_fleet_row(bench, count, *item) for item in in_turns(ways, bench.rounds).items()]
    alone = rows[0]["seconds"]
    return [{**row, "x the first": row["seconds"] / alone} for row in rows]


def _fleet_ways(count: int, chosen: Sequence[str]) -> list[tuple[str, bool]]:
    """The ways of so many hosts. One has nobody to ask but the hub."""
    return [FLEET_WAYS[way] for way in FLEET_WAYS if way in chosen] if count > 1 else [("from the hub", False)]


def _fleet_row(bench: Bench, count: int, way: str, runs: Sequence[tuple[float, int]]) -> dict[str, t.Any]:
    seconds, sent = zip(*runs, strict=True)
    return {
        "link": str(Link(bench.fleet_rate)),
        "hosts": count,
        "way": way,
        "seconds": statistics.median(seconds),
        "fastest": min(seconds),
        "slowest": max(seconds),
        "hub's bytes / model": statistics.median(sent) / bench.model.size,
        "samples": runs,
    }


# Common


@contextlib.contextmanager
def _job(bench: Bench, hub: Hub, url: str) -> Iterator[Job]:
    """A job in an empty folder, with everything of the last one written."""
    _harness.calm()
    folder = Path(tempfile.mkdtemp(dir=bench.folder))
    try:
        yield Job(bench.model, url, hub.repository(_harness.REPOSITORY).commit, folder)
    finally:
        shutil.rmtree(folder)


def _run(program: Program, job: Job, host: Node | None = None) -> Sample:
    """Run a program to its end and look at every byte of what it leaves.

    :raises BedError: if it fails or a byte is wrong.
    """
    with _start(program, job, host) as running:
        sample = running.wait()
    if not _is_right(program, job):
        raise BedError(f"{program.version()} has left other bytes than the model's.")
    return sample


def _is_right(program: Program, job: Job) -> bool:
    """Whether every byte is there that the program should leave."""
    if program.leaves == "one file":
        return _harness.sha256_of(job.folder / MERGED) == job.model.sha256
    if program.leaves == "nothing":
        return True
    files = zip(job.model.paths, job.model.digests, strict=True)
    return all(_harness.sha256_of(_find(job, Path(path).name)) == sha256 for path, sha256 in files)


def _start(program: Program, job: Job, host: Node | None) -> Running:
    argv, env = program.begin(job)
    return Running(argv, job.folder, host, env)


@contextlib.contextmanager
def _hub_behind(model: Model, link: Link) -> Iterator[tuple[Hub, str, Node]]:
    """A hub, its address, and a host that reaches it over a link."""
    with contextlib.ExitStack() as stack:
        nodes = stack.enter_context(lab({"origin": link.rate, "host1": link.rate}))
        origin = nodes["origin"]
        far = link.delay_ms or link.connection_rate
        with origin.inside():
            hub = stack.enter_context(Hub(model.root, host="127.0.0.1" if far else origin.address))
        ports = [urlsplit(url).port or 0 for url in (hub.url, hub.cdn_url)]
        if far:
            stack.enter_context(far_away(origin, ports, delay_ms=link.delay_ms, connection_rate=link.connection_rate))
        yield hub, f"http://{origin.address}:{ports[0]}", nodes["host1"]


def _find(job: Job, name: str) -> Path:
    """Where a program has put a file."""
    return next(path for path in job.folder.rglob(name) if path.is_file())


BENCHES = {"fetch": fetch, "links": links, "resume": resume, "faults": faults, "hash": hashing, "fanout": fan_out}


def main() -> None:
    parser = _harness.arguments(__doc__)
    parser.add_argument("benches", nargs="+", choices=BENCHES, metavar="BENCH", help=", ".join(BENCHES))
    parser.add_argument("--programs", nargs="+", choices=PROGRAMS, default=[], metavar="NAME", help=", ".join(PROGRAMS))
    parser.add_argument("--fleets", nargs="+", type=int, default=FLEETS, metavar="HOSTS", help="numbers of hosts")
    parser.add_argument("--fleet-rate", type=_harness.parse_size, default=FLEET_RATE, help="bit/s of each link: 2.5G")
    parser.add_argument("--fleet-ways", nargs="+", choices=FLEET_WAYS, default=[*FLEET_WAYS], help="of several hosts")
    parser.add_argument("--json", type=Path, default=cache_dir() / "bench" / "supply.json")
    options = parser.parse_args()
    _harness.end_on_sigterm()
    if COMPARED & set(options.benches):
        check_programs()
    model = _harness.model(options.size, options.shards)
    with _harness.workspace(options.folder) as folder:
        facts = _harness.machine(folder)
        print(f"{options.size / 1e9:g} GB in {options.shards} shards; median of {options.rounds}; {facts}")
        fleets = (options.fleets, options.fleet_rate, options.fleet_ways)
        bench = Bench(model, options.rounds, folder, options.programs, *fleets)
        for name in options.benches:
            rows = BENCHES[name](bench)
            _harness.show(BENCHES[name].__doc__ or name, rows)
            found = {"machine": facts, "rounds": options.rounds, "rows": rows}
            _harness.write_json(options.json, {f"{name} {options.size / 1e9:g} GB, {options.shards} shards": found})


if __name__ == "__main__":
    try:
        main()
    except BedError as error:
        sys.exit(f"supply: {error}")
