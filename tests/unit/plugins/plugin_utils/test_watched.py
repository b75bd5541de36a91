# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Long modules under the real ansible-playbook, with real processes that are interrupted and killed."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
import typing as t
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

from ansible_collections.llmfleet.serving.plugins.module_utils._files import companion
from ansible_collections.llmfleet.serving.plugins.modules import gguf_fetch
from testbed.hub import Hub

REPO = "acme/model-GGUF"
LINE = re.compile(r"^(?P<host>\w+): model\.gguf: (?P<percent>\d+) %, [\d.]+ of 9\.\d MB, [\d.]+ MB/s", re.MULTILINE)
# Of a machine that does much else at the time.
PATIENCE_S = 180

# A connection that can be cut: as long as a file is there, the host does not answer. The file says how many seconds of
# that are borne.
CONNECTION = """
from pathlib import Path
from ansible.errors import AnsibleConnectionFailure
from ansible.plugins.connection.local import Connection as Local
from ansible_collections.llmfleet.serving.plugins.plugin_utils import _watched

DOCUMENTATION = "name: cut\\nshort_description: local, as long as it is not cut\\nauthor: tests\\noptions: {}"


class Connection(Local):
    transport = "cut"

    def exec_command(self, *args, **kwargs):
        if Path("CUT").exists():
            _watched._PATIENCE_S = float(Path("CUT").read_text())
            raise AnsibleConnectionFailure("the cable was cut")
        return super().exec_command(*args, **kwargs)
"""


class Play:
    """A playbook that fetches the model to each of its hosts, which are all this machine, with one of our modules.

    :ivar results: what the task returned, by host, after the end.
    """

    def __init__(self, folder: Path, options: dict[str, t.Any], hosts: t.Sequence[str]) -> None:
        self.folder = folder
        self.hosts = hosts
        self.options = options
        self.module_name = "gguf_fetch"
        self.task: dict[str, t.Any] = {}
        self.settings: dict[str, t.Any] = {}
        self.arguments: list[str] = []
        self.connection = "local"
        self._process: subprocess.Popen[str] | None = None

    def start(self) -> Play:
        fetch = {
            "name": "Fetch",
            f"llmfleet.serving.{self.module_name}": self.options,
            "register": "fetched",
            **self.task,
        }
        keep = {
            "name": "Keep the result",
            "ansible.builtin.copy": {
                "content": "{{ fetched | to_json }}",
                "dest": str(self.folder / "result-{{ inventory_hostname }}"),
                "mode": "0600",
            },
            "check_mode": False,
        }
        tasks = [{"name": "Fetch and keep", "block": [fetch], "always": [keep]}]
        play = {"name": "Play", "hosts": "all", "gather_facts": False, "tasks": tasks, **self.settings}
        (self.folder / "play.yml").write_text(yaml.safe_dump([play]))
        (self.folder / "connection_plugins").mkdir(exist_ok=True)
        (self.folder / "connection_plugins" / "cut.py").write_text(CONNECTION.replace("CUT", str(self.folder / "cut")))
        variables = f"ansible_connection={self.connection} ansible_python_interpreter={sys.executable}"
        (self.folder / "hosts").write_text("".join(f"{host} {variables}\n" for host in self.hosts))
        playbook = Path(sys.executable).with_name("ansible-playbook")
        self._process = subprocess.Popen(
            # What a shell runs in the background ignores Ctrl-C, these tests maybe; a playbook on a terminal does not.
            ["env", "--default-signal=INT", str(playbook), "-i", "hosts", *self.arguments, "play.yml"],
            cwd=self.folder,
            env={
                **os.environ,
                "ANSIBLE_NOCOLOR": "1",
                "ANSIBLE_REMOTE_TMP": str(self.folder / "tmp"),
                "ANSIBLE_ASYNC_DIR": str(self.folder / "async"),
            },
            stdin=subprocess.DEVNULL,
            stdout=(self.folder / "stdout").open("w"),
            stderr=(self.folder / "stderr").open("w"),
            start_new_session=True,  # as on a terminal, where Ctrl-C reaches the whole group
        )
        return self

    def run(self) -> dict[str, dict[str, t.Any]]:
        return self.start().end()

    def end(self) -> dict[str, dict[str, t.Any]]:
        assert self._process is not None
        self._process.wait(PATIENCE_S)
        files = [(host, self.folder / f"result-{host}") for host in self.hosts]
        return {host: json.loads(file.read_text()) for host, file in files if file.exists()}

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def stdout(self) -> str:
        return (self.folder / "stdout").read_text()

    @property
    def stderr(self) -> str:
        return (self.folder / "stderr").read_text()

    def lines(self) -> dict[str, list[int]]:
        """The percentages that were shown, by host."""
        shown: dict[str, list[int]] = {host: [] for host in self.hosts}
        for match in LINE.finditer(self.stderr):
            shown[match["host"]].append(int(match["percent"]))
        return shown

    def await_line(self) -> None:
        until(lambda: LINE.search(self.stderr))

    def module(self) -> list[int]:
        """The numbers of the module's processes."""
        start = f"{sys.executable} {self.folder / 'tmp'}/"
        return [pid for pid, words in processes() if words.startswith(start) and "async_wrapper" not in words]

    def left(self) -> list[Path]:
        """What Ansible left on the host."""
        return [path for name in ("tmp", "async") for path in (self.folder / name).glob("*")]


def until(condition: Callable[[], t.Any]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, "this did not come true"
        time.sleep(0.05)


def processes() -> Iterator[tuple[int, str]]:
    """Numbers and command lines."""
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            yield int(path.parent.name), path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue


def children(parent: int) -> list[int]:
    stats = ((pid, Path(f"/proc/{pid}/stat")) for pid, _words in processes())
    return [
        pid for pid, stat in stats if stat.exists() and int(stat.read_text().rpartition(")")[2].split()[1]) == parent
    ]


@pytest.fixture
def dest(tmp_path):
    return tmp_path / "models" / "model.gguf"


@pytest.fixture
def play(tmp_path, hub: Hub, dest) -> Iterator[Callable[..., Play]]:
    """`play(option=..., ...)`; what still runs at the end is killed."""
    plays = []

    def make(hosts: t.Sequence[str] = ("h1",), **options) -> Play:
        folder = tmp_path / f"play{len(plays)}"
        folder.mkdir()
        defaults = {
            "hub": hub.url,
            "repo": REPO,
            "revision": hub.repository(REPO).commit,
            "files": "Q4/*.gguf",
            "dest": str(dest),
            "deadline": 600,
        }
        plays.append(Play(folder, {**defaults, **options}, hosts))
        return plays[-1]

    yield make
    for pid, words in processes():
        if str(tmp_path) in words:
            os.kill(pid, signal.SIGKILL)


@pytest.fixture
def slow(hub):
    """A connection takes six seconds for a shard: longer than the longest time between two looks at the progress."""
    hub.fault("slow", host="cdn", rate=500_000)


@pytest.fixture
def slower(hub):
    """A connection takes 30 seconds for a shard."""
    hub.fault("slow", host="cdn", rate=100_000)


@pytest.fixture
def endless(hub):
    """A transfer does not end by itself in the time that a test has, however loaded the machine is."""
    hub.fault("slow", host="cdn", rate=20_000)


def test_progress_is_shown_and_the_result_is_that_of_the_module(play, run_module, published, hub, dest):
    hub.fault("slow", host="cdn", rate=200_000)
    watched = play()
    (result,) = watched.run().values()
    shown = watched.lines()["h1"]
    assert len(shown) > 1
    assert shown == sorted(shown)
    assert "\r" not in watched.stderr
    assert dest.read_bytes() == published.merged
    assert watched.left() == []

    hub.clear_faults()
    expected = run_module(gguf_fetch, **{**watched.options, "dest": str(dest.with_name("other.gguf"))})
    del expected["dest"]
    assert {name: result[name] for name in expected} == expected


def test_progress_of_shards_that_are_not_merged(play, hub, dest):
    hub.fault("slow", host="cdn", rate=500_000)
    watched = play(merge=False)
    (result,) = watched.run().values()
    assert result["changed"] is True
    assert watched.lines()["h1"]
    assert sorted(path.name for path in (dest / "Q4").glob("m*")) == [
        f"model-0000{no}-of-00003.gguf" for no in (1, 2, 3)
    ]


def test_progress_of_a_snapshot(play, hub, published, dest):
    hub.fault("slow", host="cdn", rate=500_000)
    watched = play()
    watched.module_name = "model_snapshot"
    del watched.options["files"]
    (result,) = watched.run().values()
    assert result["changed"] is True
    assert watched.lines()["h1"]
    assert (dest / "README.md").read_text() == "# A model\n"
    assert watched.left() == []


def test_a_second_run_changes_nothing_and_says_nothing(play, hub):
    play().run()
    hub.clear_stats()
    again = play()
    (result,) = again.run().values()
    assert (result["changed"], result["bytes_fetched"]) == (False, 0)
    assert again.stderr == ""


def test_check_mode_is_silent_and_stays_in_the_foreground(play, dest, slow):
    predicted = play()
    predicted.arguments = ["--check", "--diff"]
    (result,) = predicted.run().values()
    assert result["changed"] is True
    assert result["diff"]["after"]["shards"] == result["shards"]
    assert not dest.parent.exists()
    assert not (predicted.folder / "async").exists()
    assert predicted.stderr == ""


def test_a_refusal_is_returned_as_the_module_says_it(play, token):
    refused = play(revision="main", token=token)
    refused.arguments = ["-vvv"]
    (result,) = refused.run().values()
    assert result["failed"] is True
    assert result["msg"].startswith("The revision 'main'")
    assert token not in refused.stdout + refused.stderr
    assert refused.left() == []


def test_asynchronous_tasks_are_left_to_ansible(play, dest):
    plain = play()
    plain.task = {"async": PATIENCE_S, "poll": 0}
    (result,) = plain.run().values()
    assert result["ansible_job_id"]
    assert plain.stderr == ""
    until(dest.exists)


def test_no_line_of_a_task_whose_output_is_a_secret(play, dest, slow):
    secret = play()
    secret.task = {"no_log": True}
    (result,) = secret.run().values()
    assert result["changed"] is True
    assert secret.stderr == ""
    assert "model.gguf" not in secret.stdout


@pytest.mark.parametrize("settings", [{"strategy": "free"}, {"throttle": 1}], ids=["free", "throttle"])
def test_each_host_has_its_own_lines(play, tmp_path, settings, slow):
    fleet = play(["h1", "h2"], dest=str(tmp_path / "{{ inventory_hostname }}" / "model.gguf"))
    fleet.settings = settings
    assert all(result["changed"] for result in fleet.run().values())
    for host, shown in fleet.lines().items():
        assert shown, host
        assert shown == sorted(shown), host


def interrupt(play: Play, number: int) -> None:
    """What a terminal does at Ctrl-C, and what an operating system or AWX does to one process."""
    (os.killpg if number == signal.SIGINT else os.kill)(play.pid, number)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL], ids=["ctrl-c", "term", "kill"])
def test_an_interrupted_play_stops_the_transfer(play, dest, endless, number):
    interrupted = play()
    interrupted.start().await_line()
    assert interrupted.module()
    until(lambda: companion(dest, "progress").exists())
    interrupt(interrupted, number)
    interrupted.end()
    until(lambda: not interrupted.module())
    until(lambda: not interrupted.left())
    assert not dest.exists()
    assert "Traceback" not in interrupted.stdout + interrupted.stderr


def test_the_time_limit_of_the_task_stops_the_transfer(play, dest, endless):
    limited = play()
    limited.task = {"timeout": 15}
    (result,) = limited.run().values()
    assert result["failed"] is True
    assert "15" in result["msg"]
    assert limited.module() == limited.left() == []


def abandon(play: Play) -> None:
    """End all of Ansible at once, so that nothing of it can stop the transfer: as if the controller lost its power."""
    workers = children(play.pid)
    for pid in [play.pid, *workers]:
        os.kill(pid, signal.SIGSTOP)
    for pid in [play.pid, *workers]:
        os.kill(pid, signal.SIGKILL)


@pytest.fixture
def abandoned(play, slower) -> Play:
    """A play whose transfer goes on without it."""
    play = play().start()
    play.await_line()
    abandon(play)
    play.end()
    assert play.module()
    return play


def test_the_next_run_joins_the_transfer_of_an_abandoned_one(play, abandoned, published, dest):
    joining = play().start()
    (pid,) = abandoned.module()
    until(lambda: f"process {pid} of an earlier run is at it" in joining.stderr)
    joining.await_line()
    assert not dest.exists()
    (result,) = joining.end().values()
    assert dest.read_bytes() == published.merged
    assert not result["failed"]
    assert (result["changed"], result["bytes_fetched"]) == (True, 0)


def test_an_interrupted_play_stops_the_transfer_that_it_joined(play, endless, abandoned, dest):
    joining = play().start()
    until(lambda: "of an earlier run is at it" in joining.stderr)
    interrupt(joining, signal.SIGINT)
    joining.end()
    until(lambda: not abandoned.module())
    assert not dest.exists()


def test_a_killed_module_is_reported_in_one_sentence(play, dest, endless):
    running = play().start()
    running.await_line()
    (pid,) = running.module()
    os.kill(pid, signal.SIGKILL)
    (result,) = running.end().values()
    assert result["failed"] is True
    assert result["msg"].startswith("The module ended without a result: ")
    assert running.left() == []


def test_a_lost_connection_is_waited_for(play, published, hub, dest, slower):
    watched = play()
    watched.connection = "cut"
    watched.start().await_line()
    cut = watched.folder / "cut"
    cut.write_text("900")
    until(lambda: "the host does not answer" in watched.stderr)
    hub.clear_faults()
    until(dest.exists)
    cut.unlink()
    (result,) = watched.end().values()
    assert result["changed"] is True
    assert dest.read_bytes() == published.merged
    assert watched.left() == []


def test_a_host_that_does_not_come_back_is_given_up_and_its_transfer_goes_on(play, dest, slower):
    watched = play()
    watched.connection = "cut"
    watched.start().await_line()
    cut = watched.folder / "cut"
    cut.write_text("1")
    assert watched.end() == {}
    assert "UNREACHABLE" in watched.stdout + watched.stderr
    assert "The transfer goes on there" in watched.stdout + watched.stderr
    assert watched.module()
