# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a fleet costs its controller: site.yml on hosts that are as they should be, against the procedure task by task.

    PYTHONPATH=tests .venv/bin/python tests/bench/fleet.py first kinds converged settings --hosts 2:3 8:2 32:1

The peer is an ordinary playbook of the published procedure (tests/bench/naive). Both bring driver, CUDA toolkit and
Ollama; vLLM and SGLang, which are gigabytes, are left out of both. Each playbook has hosts of its own, because NVIDIA's
keyring package, which the procedure installs, and the keyring of the collection exclude each other.

`first`: two bare hosts of the test bed are made what they should be, and asked once more; one of them becomes an image
that the other steps make their hosts of. `kinds`: what the tasks are. `converged`: so many hosts, so many rounds;
site.yml also as it is where it does not know that there is nothing to do, once, on up to 8 hosts. `settings`: forks for
a settled site.yml on 8 hosts, pipelining also for all of it on 2.

Hosts are reached by ssh with the settings that docs/scale.md has. Processor time is that of ansible-playbook and all
that it has started on the controller, not that of the hosts. Memory is the proportional share (PSS) of all these
processes, looked at twice a second. ssh's masters, which keep connections open and detach themselves for it, are found
by their sockets and belong to both; they are ended after each run, so that each run makes its connections. Host-tasks
are what the play recap calls ok, over all hosts; what is skipped is counted apart.
"""

from __future__ import annotations

import argparse
import collections
import json
import os
import re
import subprocess
import sys
import threading
import time
import typing as t
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from bench._harness import (
    Rows,
    end_on_sigterm,
    machine,
    median,
    plain_environment,
    show,
    with_children,
    workspace,
    write_json,
)
from bench._ssh import Ssh, cpu_of
from testbed import BedError, apt_repository, archives, egress, hosts
from testbed.cache import cache_dir, key_of
from testbed.engine import HUB, LABEL, NETWORK, docker
from testbed.images import ensure_image

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
SITE, ALL, NAIVE = "site.yml", "site.yml, all of it", "the procedure, task by task"
_SITE = str(ROOT / "playbooks" / "site.yml")
PLAYBOOKS = {
    SITE: [_SITE],
    # Without trusting what was remembered of the hosts.
    ALL: [_SITE, "--extra-vars=llmfleet_drift_days=0"],
    NAIVE: [str(HERE / "naive" / "site.yml")],
}
IMAGE = "debian13"
# Of a host that a playbook has finished.
TAGS = {SITE: "llmfleet-bed/fleet:site", NAIVE: "llmfleet-bed/fleet:naive"}
NAMES = [f"fleet-{number:02}" for number in range(1, 65)]
REPOSITORY = "unsloth/DeepSeek-R1-GGUF"

# All of it takes half a minute of two processors for a host, and only shows that what is left out has nothing to do.
_ALL_MOST = 8
# Instances of inotify that systemd has in a container, and all others on a machine that does not do much else.
_INOTIFY, _INOTIFY_OTHERS = 6, 60
_INOTIFY_MOST = Path("/proc/sys/fs/inotify/max_user_instances")
# So many boot at once.
_BATCH = 8
_SAMPLE_S = 0.5
_RECAP = re.compile(r"^(?P<host>\S+)\s+: ok=(?P<ok>\d+)\s+changed=(?P<changed>\d+) .*skipped=(?P<skipped>\d+)", re.M)
# What Ansible does on the controller alone, though it counts it for each host.
_CONTROLLER = {
    "validate_argument_spec": "argument specs",
    **dict.fromkeys(("include_role", "include_tasks"), "includes"),
    **dict.fromkeys(("assert", "debug", "fail", "set_fact", "set_stats"), "assertions, facts, messages"),
}
# What depends on this run and not on the image: the key that may log in; how the outside is reached, which Docker tells
# its own commands only; and the driver's kernel module, of which a container has none.
_ENTER = """
mkdir -p -m 700 /root/.ssh
echo "$1" > /root/.ssh/authorized_keys
shift
: > /etc/environment
for name; do printenv "$name" | sed "s|^|$name=|" >> /etc/environment; done
mkdir -p /run/bed/module/nvidia
echo 550.163.01 > /run/bed/module/nvidia/version
mountpoint --quiet /sys/module || mount --bind /run/bed/module /sys/module
"""
# Where the procedure compiles llama.cpp, which takes ten minutes.
_COMPILED = "/opt/naive/llama.cpp/build/bin"


@dataclass(frozen=True)
class Settings:
    """What a user's ansible.cfg says."""

    forks: int = 32
    pipelining: bool = True


@dataclass(frozen=True)
class Run:
    """What one run of a playbook has cost the controller, and what it did.

    :ivar cpu: seconds of processor time of ansible-playbook, all its children, and the masters of its connections.
    :ivar memory: the most that all these processes had in memory together, shared pages counted once, in bytes.
    :ivar masters_cpu: the masters' part of `cpu`.
    :ivar masters_memory: the masters' memory at the end.
    :ivar ran: host-tasks that were run.
    """

    seconds: float
    cpu: float
    memory: int
    masters_cpu: float
    masters_memory: int
    ran: int
    changed: int
    skipped: int


class Fleet:
    """Hosts of one playbook at a time, and the files that describe them to Ansible.

    :ivar names: of the hosts that are there now.
    """

    def __init__(self, folder: Path) -> None:
        self.names: list[str] = []
        self._tag = ""
        self._addresses: dict[str, str] = {}
        self._folder = folder
        self._ssh = Ssh(folder)
        (folder / "ansible.cfg").write_text(recommended())
        variables = folder / "group_vars" / "llmfleet"
        variables.mkdir(parents=True)
        demo = ROOT / "inventories" / "demo" / "group_vars" / "llmfleet"
        for path in demo.glob("*.yml"):
            (variables / path.name).symlink_to(path)
        # The last file counts.
        (variables / "zz-bench.yml").write_text(json.dumps(_variables(folder)))

    def up(self, count: int, tag: str) -> bool:
        """Have so many hosts of an image, and no others. Returns whether they are new."""
        names = NAMES[:count]
        if (self.names, self._tag) == (names, tag):
            return False
        self.down()
        for first in range(0, count, _BATCH):
            hosts.up(names[first : first + _BATCH], tag=tag)
        for name in names:
            docker("exec", name, "sh", "-ec", _ENTER, "sh", self._ssh.key, *egress.variables())
        address = f'{{{{.Name}}}} {{{{(index .NetworkSettings.Networks "{NETWORK}").IPAddress}}}}'
        lines = docker("inspect", f"--format={address}", *names).stdout.splitlines()
        self._addresses = dict(line.removeprefix("/").split() for line in lines)
        self.names, self._tag = names, tag
        return True

    def down(self) -> None:
        """Have no hosts."""
        hosts.down(NAMES)
        # New hosts have the addresses of those that are gone, and may have other keys.
        (self._folder / "known_hosts").unlink(missing_ok=True)
        self.names, self._tag = [], ""

    def commit(self, tag: str) -> None:
        """Have an image of the first host, and no hosts."""
        hosts.commit(self.names[0], tag)
        self.down()

    def play(self, way: str, settings: Settings, *, callback: str = "default") -> Run:
        """Run one of `PLAYBOOKS` on the hosts; its output is in `log`.

        :raises BedError: if it fails.
        """
        return self._run(PLAYBOOKS[way], settings, callback)

    def settle(self, settings: Settings) -> None:
        """Make site.yml know of new hosts that there is nothing to do, and have its report of them."""
        for arguments in ([str(HERE / "settle.yml")], PLAYBOOKS[SITE]):
            self._run(arguments, settings, "default")

    def _run(self, arguments: Sequence[str], settings: Settings, callback: str) -> Run:
        found = {name: {"ansible_host": self._addresses[name]} for name in self.names}
        common = {"ansible_python_interpreter": "/usr/bin/python3"} | self._ssh.variables
        (self._folder / "hosts.json").write_text(json.dumps({"llmfleet": {"hosts": found, "vars": common}}))
        env = {
            "ANSIBLE_CONFIG": str(self._folder / "ansible.cfg"),
            "ANSIBLE_FORKS": str(settings.forks),
            "ANSIBLE_PIPELINING": str(settings.pipelining),
            "ANSIBLE_STDOUT_CALLBACK": callback,
            "ANSIBLE_NOCOLOR": "1",
            **self._ssh.environment,
        }
        argv = ["ansible-playbook", f"--inventory={self._folder / 'hosts.json'}", *arguments]
        try:
            seconds, cpu, memory, status = self._watched(argv, plain_environment() | env)
            masters = self._ssh.masters()
            masters_cpu, masters_memory = sum(map(cpu_of, masters)), sum(map(_share, masters))
        finally:
            self._ssh.close()
        said = self.log.read_text()
        if status != 0:
            raise BedError(f"`{' '.join(argv)}` failed: {said[-3000:]}")
        ran, changed, skipped = (
            sum(int(line[key]) for line in _RECAP.finditer(said)) for key in ("ok", "changed", "skipped")
        )
        return Run(seconds, cpu + masters_cpu, memory, masters_cpu, masters_memory, ran, changed, skipped)

    def _watched(self, argv: Sequence[str], env: dict[str, str]) -> tuple[float, float, int, int]:
        """Run a program: its seconds, processor time, memory with that of the masters, and status."""
        start = time.perf_counter()
        with (
            self.log.open("w") as log,
            subprocess.Popen(
                argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=self._folder, env=env
            ) as process,
        ):
            watched = _Watched(lambda: {*with_children(process.pid), *self._ssh.masters()})
            try:
                _dummy, status, used = os.wait4(process.pid, 0)
                process.returncode = os.waitstatus_to_exitcode(status)
                seconds = time.perf_counter() - start
            finally:
                # Where this program is told to end, a playbook has nothing to go on for.
                if process.returncode is None:
                    process.terminate()
                memory = watched.end()
        return seconds, used.ru_utime + used.ru_stime, memory, status

    @property
    def log(self) -> Path:
        """What the last run has said."""
        return self._folder / "log"


def _variables(folder: Path) -> dict[str, t.Any]:
    """What the fleet is to be, where that is something else than the demo."""
    hub, key = f"http://{HUB}:{hosts.HUB_PORT}", apt_repository.ensure().fingerprint
    # The commit is asked for once, not at each use.
    model = {
        "name": "deepseek-r1-q4",
        "hub": "modelscope",
        "repo": REPOSITORY,
        "revision": hosts.hub_commit(REPOSITORY),
        "files": "DeepSeek-R1-Q4_K_M/*.gguf",
    }
    return {
        "llmfleet_models": [model],
        "llmfleet_mirrors": {
            "ollama": f"{hub}/mirror/ollama",
            "modelscope": hub,
            "nvidia": f"{apt_repository.URL}/good",
        },
        # A container has no kernel of its own to build a module for.
        "nvidia_driver_source": "nvidia",
        "nvidia_driver_module": "none",
        "nvidia_driver_key_fingerprint": key,
        "cuda_toolkit_state": "present",
        "cuda_toolkit_key_fingerprint": key,
        # The hosts' own timers stay out of this.
        "ollama_watchdog_options": {"interval": 86400},
        "edge_authority": str(folder / "authority"),
        "llmfleet_report_directory": str(folder / "report"),
    }


def check_inotify(count: int) -> None:
    """:raises BedError: if the kernel does not let so many hosts boot, with what to do."""
    needed, most = _INOTIFY * count + _INOTIFY_OTHERS, int(_INOTIFY_MOST.read_text())
    if most < needed:
        raise BedError(
            f"{count} hosts need {needed} instances of inotify, this machine has {most}. As root: "
            f"sysctl fs.inotify.max_user_instances={needed}"
        )


def recommended() -> str:
    """The ansible.cfg that docs/scale.md advises."""
    return (ROOT / "docs" / "scale.md").read_text().split("```ini\n")[1].split("```")[0]


class _Watched:
    """The memory of processes, looked at until the end."""

    def __init__(self, pids: Callable[[], Iterable[int]]) -> None:
        self._pids = pids
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
            self._most = max(self._most, sum(map(_share, self._pids())))


def _share(pid: int) -> int:
    """A process's memory, with its share of what it has in common with others; 0 if it has ended."""
    try:
        return int(Path(f"/proc/{pid}/smaps_rollup").read_text().partition("\nPss:")[2].split()[0]) * 1024
    except (OSError, IndexError):
        return 0


def bare_image(folder: Path) -> str:
    """The tag of an image of a bare host that ssh reaches, with what stands for programs that the bed cannot bring."""
    scripts = (HERE / "merge_tool.sh", HERE / "fleet_host.sh")
    tag = f"llmfleet-bed/fleet:bare-{key_of(ensure_image(IMAGE), ensure_image('tools'), _COMPILED, *scripts)}"
    if docker("image", "inspect", tag, check=False).returncode == 0:
        return tag
    merge_tool, prepare = (script.read_text() for script in scripts)
    tool, host = folder / "tool", NAMES[0]
    tool.mkdir()
    docker(
        "run", "--rm", "--network=none", f"--label={LABEL}", f"--volume={tool}:/out", "--entrypoint=sh",
        ensure_image("tools"), "-c", merge_tool,
    )  # fmt: skip
    hosts.down([host])
    hosts.up([host], IMAGE)
    docker("exec", host, "sh", "-c", prepare)
    docker("exec", host, "mkdir", "-p", _COMPILED)
    docker("cp", f"{tool}/.", f"{host}:{_COMPILED}")
    hosts.commit(host, tag)
    hosts.down([host])
    return tag


def first_runs(fleet: Fleet, bare: str, settings: Settings) -> Rows:
    """From bare hosts to finished ones, and once more, by either playbook on two of its own; leaves images of them."""
    rows: Rows = []
    for way, tag in TAGS.items():
        fleet.up(2, bare)
        first, again = fleet.play(way, settings), fleet.play(way, settings)
        fleet.commit(tag)
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


def settled_image(fleet: Fleet, settings: Settings) -> None:
    """Have the image of a host that knows its files by the inodes of an image, once for all hosts made of it."""
    fleet.up(1, TAGS[SITE])
    fleet.play(ALL, settings)
    fleet.commit(TAGS[SITE])


def row_of(count: int, way: str, runs: Sequence[Run]) -> dict[str, t.Any]:
    """Medians of a size; every run of it is in the file."""
    return {
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
        "of it masters": median(runs, "masters_memory") / 2**20,
        "samples": [asdict(run) for run in runs],
    }


def slopes(found: Rows) -> Rows:
    """What a further host costs: from the smallest fleet to the largest that a playbook has run on."""
    rows: Rows = []
    for way in PLAYBOOKS:
        own = [row for row in found if row["playbook"] == way]
        if len(own) < 2:
            continue
        least, most = own[0], own[-1]
        more = most["hosts"] - least["hosts"]
        figures = ("host-tasks", "seconds", "CPU s", "memory, MiB")
        rows.append(
            {"playbook": way, "from": least["hosts"], "to": most["hosts"]}
            | {f"{key}, a further host": (most[key] - least[key]) / more for key in figures}
        )
    return rows


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


class Steps:
    """The parts of the benchmark. Each keeps its tables as soon as a row is there."""

    def __init__(self, options: argparse.Namespace, folder: Path) -> None:
        self._sizes: list[tuple[int, int]] = options.hosts
        if "converged" in options.steps:
            check_inotify(max(count for count, _dummy in self._sizes))
        self._settings = Settings(forks=options.forks)
        self._json: Path = options.json
        self._folder = folder
        self._fleet = Fleet(folder)
        self._machine = machine(folder)

    def first(self) -> None:
        """From bare hosts; leaves the images of finished ones."""
        rows = first_runs(self._fleet, bare_image(self._folder), self._settings)
        self._table("First and second run, 2 hosts", rows)
        settled_image(self._fleet, self._settings)

    def kinds(self) -> None:
        """Where the tasks of one host come from: by what they are, from a run that tells every result as JSON."""
        counts = {}
        for way in reversed(PLAYBOOKS):
            self._up(way, 2)
            self._fleet.play(way, self._settings, callback="ansible.posix.jsonl")
            counts[way] = collections.Counter(_kinds(self._fleet.log, self._fleet.names[-1]))
        every = sorted({kind for found in counts.values() for kind in found})
        rows = [{"kind": kind} | {way: counts[way][kind] for way in PLAYBOOKS} for kind in every]
        self._table("Host-tasks by kind, one host", rows)

    def converged(self) -> None:
        """:raises BedError: if site.yml changes a host that is as it should be."""
        found: Rows = []
        for count, rounds in self._sizes:
            for way in PLAYBOOKS:
                if way == ALL and count > _ALL_MOST:
                    continue
                self._up(way, count)
                runs = [self._fleet.play(way, self._settings) for _dummy in range(1 if way == ALL else rounds)]
                found.append(row_of(count, way, runs))
                self._table("Converged", found)
        if rows := slopes(found):
            self._table("Slope", rows)
        if changed := sum(row["changed"] for row in found if row["playbook"] != NAIVE):
            raise BedError(f"Runs of site.yml on finished hosts have changed {changed} things; expected 0.")

    def settings(self) -> None:
        """What forks and pipelining change."""
        tried = [(8, SITE, Settings(forks)) for forks in (2, 5, 16, 32)] + [(8, SITE, Settings(pipelining=False))]
        tried += [(2, ALL, Settings()), (2, ALL, Settings(pipelining=False))]
        rows: Rows = []
        for count, way, settings in tried:
            self._up(way, count)
            run = self._fleet.play(way, settings)
            rows.append(
                {
                    "hosts": count,
                    "playbook": way,
                    "forks": settings.forks,
                    "pipelining": "on" if settings.pipelining else "off",
                    "seconds": run.seconds,
                    "CPU s": run.cpu,
                    "memory, MiB": run.memory / 2**20,
                    "samples": [asdict(run)],
                }
            )
            self._table("Settings", rows)

    def _up(self, way: str, count: int) -> None:
        """Have so many finished hosts of a playbook running, where it has nothing to do."""
        if self._fleet.up(count, TAGS[NAIVE if way == NAIVE else SITE]) and way != NAIVE:
            self._fleet.settle(self._settings)

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
    for name in ("llama_cpp", "uv"):
        archives.ensure(name)
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
