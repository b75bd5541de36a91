# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a fleet costs its controller: site.yml on hosts that are as they should be, against the procedure task by task.

    PYTHONPATH=tests .venv/bin/python tests/bench/fleet.py first kinds converged settings --hosts 2:3 8:2 32:1

The peer is an ordinary playbook of the published procedure (tests/bench/naive). `first`: two bare hosts of the test bed
are made what they should be by either playbook, and asked once more; one of them, with both, becomes an image that the
other steps make their hosts of. `converged`: both run on so many of them, in turns, with the same settings, site.yml
also as it is where it does not know that there is nothing to do. `kinds`: what their tasks are. `settings`: forks and
pipelining, for all of site.yml.

Processor time is that of ansible-playbook and all that it has started on the controller, not that of the hosts. Memory
is the proportional share (PSS) of all these processes, looked at twice a second. Host-tasks are what the play recap
calls ok, over all hosts; what is skipped is counted apart.
"""

from __future__ import annotations

import argparse
import collections
import functools
import json
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from bench._harness import (
    Rows,
    end_on_sigterm,
    in_turns,
    machine,
    median,
    plain_environment,
    show,
    with_children,
    workspace,
    write_json,
)
from testbed import BedError, hosts
from testbed.cache import cache_dir

ROOT = Path(__file__).parents[2]
SITE, ALL, NAIVE = "site.yml", "site.yml, all of it", "the procedure, task by task"
_SITE = str(ROOT / "playbooks" / "site.yml")
PLAYBOOKS = {
    SITE: [_SITE],
    # Without trusting what was remembered of the hosts.
    ALL: [_SITE, "--extra-vars=llmfleet_drift_days=0"],
    NAIVE: [str(ROOT / "tests" / "bench" / "naive" / "site.yml")],
}
# A host image that has llama.cpp's merge tool as a package, which the procedure compiles.
IMAGE = "debian-testing"
TAG = "llmfleet-bed/fleet:converged"
NAMES = [f"fleet-{number:02}" for number in range(1, 65)]
BARE = {SITE: NAMES[:2], NAIVE: NAMES[2:4]}
REPOSITORY = "unsloth/DeepSeek-R1-GGUF"

_SAMPLE_S = 0.5
_RECAP = re.compile(r"^(?P<host>\S+)\s+: ok=(?P<ok>\d+)\s+changed=(?P<changed>\d+) .*skipped=(?P<skipped>\d+)", re.M)
# What Ansible does on the controller alone, though it counts it for each host.
_CONTROLLER = {
    "validate_argument_spec": "argument specs",
    **dict.fromkeys(("include_role", "include_tasks"), "includes"),
    **dict.fromkeys(("assert", "debug", "fail", "set_fact", "set_stats"), "assertions, facts, messages"),
}


@dataclass(frozen=True)
class Settings:
    """What a user's ansible.cfg says."""

    forks: int = 32
    pipelining: bool = True


@dataclass(frozen=True)
class Run:
    """What one run of a playbook has cost the controller, and what it did.

    :ivar cpu: seconds of processor time of ansible-playbook and all its children.
    :ivar memory: the most that all these processes had in memory together, shared pages counted once, in bytes.
    :ivar ran: host-tasks that were run.
    """

    seconds: float
    cpu: float
    memory: int
    ran: int
    changed: int
    skipped: int


class Fleet:
    """Hosts by name, and the files that describe them to Ansible."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        variables = folder / "group_vars" / "llmfleet"
        variables.mkdir(parents=True)
        demo = ROOT / "inventories" / "demo" / "group_vars" / "llmfleet"
        for path in demo.glob("*.yml"):
            (variables / path.name).symlink_to(path)
        # The last file counts. The commit is asked for once, not at each use, and the hosts' timers stay out of this.
        own = {
            "llmfleet_models": [
                {
                    "name": "deepseek-r1-q4",
                    "hub": "modelscope",
                    "repo": REPOSITORY,
                    "revision": hosts.hub_commit(REPOSITORY),
                    "files": "DeepSeek-R1-Q4_K_M/*.gguf",
                }
            ],
            "ollama_watchdog_options": {"interval": 86400},
            "edge_authority": str(folder / "authority"),
            "llmfleet_report_directory": str(folder / "report"),
        }
        (variables / "zz-bench.yml").write_text(json.dumps(own))

    def play(self, way: str, names: Sequence[str], settings: Settings, *, callback: str = "default") -> Run:
        """Run a playbook on some of the hosts; its output is in `log`.

        :raises BedError: if it fails.
        """
        inventory = {
            "llmfleet": {
                "hosts": dict.fromkeys(names),
                "vars": {
                    "ansible_connection": "community.docker.docker",
                    "ansible_python_interpreter": "/usr/bin/python3",
                },
            }
        }
        (self._folder / "hosts.json").write_text(json.dumps(inventory))
        env = {
            "ANSIBLE_FORKS": str(settings.forks),
            "ANSIBLE_PIPELINING": str(settings.pipelining),
            "ANSIBLE_STDOUT_CALLBACK": callback,
            "ANSIBLE_NOCOLOR": "1",
        }
        argv = ["ansible-playbook", f"--inventory={self._folder / 'hosts.json'}", *PLAYBOOKS[way]]
        start = time.perf_counter()
        with (
            self.log.open("w") as log,
            subprocess.Popen(
                argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=self._folder, env=plain_environment() | env
            ) as process,
        ):
            watched = _Watched(process.pid)
            _dummy, status, used = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
            seconds = time.perf_counter() - start
            memory = watched.end()
        said = self.log.read_text()
        if status != 0:
            raise BedError(f"{way} failed on {', '.join(names)}: {said[-3000:]}")
        ran, changed, skipped = (
            sum(int(line[key]) for line in _RECAP.finditer(said)) for key in ("ok", "changed", "skipped")
        )
        return Run(seconds, used.ru_utime + used.ru_stime, memory, ran, changed, skipped)

    @property
    def log(self) -> Path:
        """What the last run has said."""
        return self._folder / "log"


class _Watched:
    """The memory of a process with all its children, looked at until the end."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._most = 0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()

    def end(self) -> int:
        self._ended.set()
        self._thread.join()
        return self._most

    def _watch(self) -> None:
        while not self._ended.wait(_SAMPLE_S):
            self._most = max(self._most, sum(map(_share, with_children(self._pid))))


def _share(pid: int) -> int:
    """A process's memory, with its share of what it has in common with others; 0 if it has ended."""
    try:
        return int(Path(f"/proc/{pid}/smaps_rollup").read_text().partition("\nPss:")[2].split()[0]) * 1024
    except (OSError, IndexError):
        return 0


def first_runs(fleet: Fleet, settings: Settings) -> Rows:
    """From bare hosts to finished ones, and once more, by either playbook on two hosts of its own."""
    rows: Rows = []
    for way, names in BARE.items():
        hosts.up(names, IMAGE)
        first, again = fleet.play(way, names, settings), fleet.play(way, names, settings)
        rows.append(
            {
                "playbook": way,
                "first run, s": first.seconds,
                "second run, s": again.seconds,
                "first / second": first.seconds / again.seconds,
                "changed": f"{first.changed}, then {again.changed}",
                "samples": [asdict(first), asdict(again)],
            }
        )
    return rows


def converged_image(fleet: Fleet, settings: Settings) -> None:
    """Have an image of a host that both playbooks have finished."""
    host = BARE[SITE][0]
    fleet.play(NAIVE, [host], settings)
    hosts.commit(host, TAG)
    hosts.down([name for names in BARE.values() for name in names])


def rows_of(count: int, samples: dict[str, list[Run]]) -> Rows:
    """Medians of a size; every run of it is in the file."""
    return [
        {
            "hosts": count,
            "playbook": way,
            "runs": len(runs),
            "host-tasks": int(median(runs, "ran")),
            "a host": median(runs, "ran") / count,
            "skipped, a host": median(runs, "skipped") / count,
            "changed": sum(run.changed for run in runs),
            "seconds": median(runs, "seconds"),
            "CPU s": median(runs, "cpu"),
            "CPU s, a host": median(runs, "cpu") / count,
            "memory, MiB": median(runs, "memory") / 2**20,
            "samples": [asdict(run) for run in runs],
        }
        for way, runs in samples.items()
    ]


def slopes(found: Rows) -> Rows:
    """What a further host costs: from the smallest fleet to the largest."""
    rows: Rows = []
    for way in PLAYBOOKS:
        own = [row for row in found if row["playbook"] == way]
        least, most = own[0], own[-1]
        more = most["hosts"] - least["hosts"]
        rows.append(
            {"playbook": way, "from": least["hosts"], "to": most["hosts"]}
            | {f"{key}, a further host": (most[key] - least[key]) / more for key in ("seconds", "CPU s", "memory, MiB")}
        )
    return rows


def kinds(fleet: Fleet, names: Sequence[str], settings: Settings) -> Rows:
    """Where the host-tasks come from: by what they are, for one host, from a run that tells every result as JSON."""
    counts = {}
    for way in PLAYBOOKS:
        fleet.play(way, names, settings, callback="ansible.posix.jsonl")
        counts[way] = collections.Counter(_kinds(fleet.log, names[-1]))
    every = sorted({kind for found in counts.values() for kind in found})
    return [{"kind": kind} | {way: counts[way][kind] for way in PLAYBOOKS} for kind in every]


def _kinds(log: Path, host: str) -> Iterator[str]:
    for line in log.read_text().splitlines():
        event = json.loads(line) if line.startswith("{") else {}
        if event.get("_event") != "v2_runner_on_ok" or host not in event["hosts"]:
            continue
        result = event["hosts"][host]
        action = result["action"].rpartition(".")[2]
        kind = _CONTROLLER.get(action)
        yield f"controller: {kind}" if kind else f"host: {_kind_of(result['action'])}"
        if not kind:
            yield from ["host: modules started, one for each item of a loop"] * len(result.get("results") or [None])


def _kind_of(action: str) -> str:
    collection, _dummy, name = action.rpartition(".")
    if collection == "llmfleet.serving":
        return "modules of this collection"
    groups = {
        "files": ("copy", "file", "find", "get_url", "git", "slurp", "stat", "template", "unarchive"),
        "packages": ("apt", "pip"),
        "units": ("systemd_service",),
        "commands": ("command", "shell"),
    }
    return next((group for group, actions in groups.items() if name in actions), "others")


def settings_rows(fleet: Fleet, names: Sequence[str], rounds: int) -> Rows:
    """What forks and pipelining change, on a fleet of one size."""
    tried = [Settings(forks, True) for forks in (2, 5, 16, 32)] + [Settings(32, False)]
    ways = {
        f"forks {one.forks}, pipelining {'on' if one.pipelining else 'off'}": functools.partial(
            fleet.play, ALL, names, one
        )
        for one in tried
    }
    return [
        {
            "settings": name,
            "seconds": median(runs, "seconds"),
            "CPU s": median(runs, "cpu"),
            "memory, MiB": median(runs, "memory") / 2**20,
            "samples": [asdict(run) for run in runs],
        }
        for name, runs in in_turns(ways, rounds).items()
    ]


class Steps:
    """The parts of the benchmark. Each keeps its tables as soon as they are whole."""

    def __init__(self, options: argparse.Namespace, folder: Path) -> None:
        self._sizes: list[tuple[int, int]] = options.hosts
        self._settings = Settings(forks=options.forks)
        self._json: Path = options.json
        self._fleet = Fleet(folder)
        self._machine = machine(folder)

    def first(self) -> None:
        """From bare hosts; leaves the image of a finished one."""
        self._table("First and second run, 2 hosts", first_runs(self._fleet, self._settings))
        converged_image(self._fleet, self._settings)

    def kinds(self) -> None:
        names = self._up(2)
        self._table("Host-tasks by kind, one host", kinds(self._fleet, names, self._settings))

    def converged(self) -> None:
        """:raises BedError: if site.yml changes a host that is as it should be."""
        found: Rows = []
        for count, rounds in self._sizes:
            names = self._up(count)
            ways = {way: functools.partial(self._fleet.play, way, names, self._settings) for way in PLAYBOOKS}
            found += rows_of(count, in_turns(ways, rounds))
            self._table("Converged", found)
        self._table("Slope", slopes(found))
        if changed := sum(row["changed"] for row in found if row["playbook"] != NAIVE):
            raise BedError(f"Runs of site.yml on finished hosts have changed {changed} things; expected 0.")

    def settings(self) -> None:
        names = self._up(8)
        self._table("Settings, 8 hosts", settings_rows(self._fleet, names, 1))

    def _up(self, count: int) -> list[str]:
        """Have so many finished hosts running."""
        names = NAMES[:count]
        if new := [name for name in names if name not in hosts.containers()]:
            hosts.up(new, tag=TAG)
            # What depends on a host's name, and the report, which depends on who is in the fleet. Last the one that
            # remembers what the hosts are like.
            for way in (NAIVE, SITE):
                self._fleet.play(way, names, self._settings)
        return names

    def _table(self, title: str, rows: Rows) -> None:
        show(f"{title} (load {os.getloadavg()[0]:.1f})", rows)
        found = {"machine": self._machine, "load": os.getloadavg(), "rows": rows}
        write_json(self._json, {title: found})


def _size(text: str) -> tuple[int, int]:
    count, _dummy, rounds = text.partition(":")
    return int(count), int(rounds or 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("steps", nargs="+", choices=["first", "kinds", "converged", "settings"])
    parser.add_argument("--hosts", type=_size, nargs="+", default=[(2, 3), (8, 2), (32, 1)], help="HOSTS:ROUNDS")
    parser.add_argument("--forks", type=int, default=32)
    parser.add_argument("--folder", type=Path, help="where to work")
    parser.add_argument("--json", type=Path, default=cache_dir() / "bench" / "fleet.json")
    options = parser.parse_args()
    end_on_sigterm()
    hosts.up_hub()
    with workspace(options.folder) as folder:
        steps = Steps(options, folder)
        try:
            for step in options.steps:
                getattr(steps, step)()
        finally:
            hosts.down(NAMES)


if __name__ == "__main__":
    try:
        main()
    except BedError as error:
        sys.exit(f"fleet: {error}")
