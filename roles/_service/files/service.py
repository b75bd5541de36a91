# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a service needs on its host, without Ansible: its key, its start, whether it is ready, and its watchdog.

    python3 -I service.pyz start|drain|compare|ready|watch NAME
    python3 -I service.pyz key NAME file|yaml [--check]

It reads /etc/llmfleet/NAME.json, which the role writes. An error is one line, and exit status 1.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import secrets
import shutil
import sys
import time
import typing as t
from pathlib import Path

from ansible_collections.llmfleet.serving.plugins.module_utils import (
    _alive,
    _gpu_release,
    _meeting,
    _metrics,
    _watchdog,
)
from ansible_collections.llmfleet.serving.plugins.module_utils._errors import LlmError
from ansible_collections.llmfleet.serving.plugins.module_utils._files import commit, read_json, write_json, write_text
from ansible_collections.llmfleet.serving.plugins.module_utils._gpu import read_facts
from ansible_collections.llmfleet.serving.plugins.module_utils._http import HttpError, stream_lines
from ansible_collections.llmfleet.serving.plugins.module_utils._probe import Question, read_key
from ansible_collections.llmfleet.serving.plugins.module_utils._run import run_command
from ansible_collections.llmfleet.serving.plugins.module_utils._systemd import checksum, cpu_seconds, read_unit

_ETC = Path("/etc/llmfleet")
_UNITS = Path("/etc/systemd/system")
_CACHE = Path("/var/cache")
_STARTED = Path("/run/llmfleet")
_WATCHDOG = Path("/var/lib/llmfleet/watchdog")
_FENCE = Path("/etc/ansible/facts.d/llmfleet_gpu_gate.fact")
# Longer than a driver needs behind a killed engine. With the pause before the next start, fewer than the five attempts
# in ten minutes after which systemd gives up: memory that is released at last is put to use without hands.
_RELEASE_S = 120.0
_DRIVER_S = 60
_TAIL_LINES = 15
# How long one command waits for a service that starts, which may take an hour: whoever asks sees that it goes on.
_READY_S = 60.0
_PROBE_S = 120.0
_DRAIN_LOOK_S = 0.5
_FIGURES = dataclasses.fields(_watchdog.Policy)


class Service:
    """One service, by its name."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.unit = f"{name}.service"
        self.config = read_json(_ETC / f"{name}.json")
        self.key_file = _ETC / f"{name}.key"
        self._started = _STARTED / f"{name}.started"

    def require_config(self) -> None:
        """Refuse to do anything without the role's file."""
        if not self.config:
            raise LlmError(f"{_ETC / self.name}.json is missing or is not JSON. Run the role of the service again.")

    def key(self, form: str, *modes: str) -> int:
        """Have a key that nobody is shown, and print whether something had to be done, or would have to be (--check).

        :param form: `file` for the key alone, `yaml` for a file of options beside it, as vLLM and SGLang read it.
        """
        files = {self.key_file: f"{_key_of(self.key_file) or secrets.token_hex(32)}\n"}
        if form == "yaml":
            files[_ETC / f"{self.name}.key.yaml"] = f"api-key: {files[self.key_file]}"
        other = {path: text for path, text in files.items() if not _is_secret(path, text)}
        if "--check" not in modes:
            for path, text in other.items():
                _write_secret(path, text)
        print("changed" if other else "same")
        return 0

    def start(self) -> int:
        """Before each start: wait for the GPUs, tidy up, and keep what the service is started with."""
        self.require_config()
        if self.config.get("gpus_by") == "index":
            _gpu_release.require_places(_facts(), self.config["gpus"])
        if self.config["gpus"]:
            _gpu_release.wait(_facts, self.config["gpus"], self.unit, _RELEASE_S, _say)
        for left in (_CACHE / self.name / "tmp").glob("*"):
            with contextlib.suppress(OSError):
                shutil.rmtree(left) if left.is_dir() and not left.is_symlink() else left.unlink()
        _STARTED.mkdir(mode=0o755, exist_ok=True)
        write_text(self._started, self._checksum() + "\n")
        return 0

    def drain(self) -> int:
        """Before it is told to stop: wait until its requests have ended, as far as it tells."""
        self.require_config()
        end = time.monotonic() + self.config["drain"]
        while True:
            metrics = self._metrics(self.config["watchdog"]["metrics_url"])
            if metrics is None or not metrics.requests:
                return 0
            if time.monotonic() >= end:
                break
            time.sleep(_DRAIN_LOOK_S)
        _say(
            f"{self.unit}: {metrics.requests} requests have not ended in {self.config['drain']} s. They are broken off."
        )
        return 0

    def compare(self) -> int:
        """Print whether the service has to be restarted, because it runs on other files than are written."""
        state = read_unit(run_command, self.unit)
        with contextlib.suppress(OSError):
            if state.active != "active" or self._started.read_text().strip() == self._checksum():
                print("reload" if state.reload else "same")
                return 0
        print("other")
        return 0

    def ready(self) -> int:
        """Wait a while until it answers: exit status 0, or 2 not yet, 1 not any more, with its last words."""
        self.require_config()
        end = time.monotonic() + _READY_S
        while True:
            state = read_unit(run_command, self.unit)
            complaint = _alive.silence(self.config["ready_url"])
            if state.active == "active" and complaint is None:
                return 0
            ended = state.active in ("failed", "inactive") and not state.job
            if ended or time.monotonic() >= end:
                break
            time.sleep(1)
        said = f"{self.unit} is {state.active} (result: {state.result}). {complaint or 'Something else answers'}."
        print(f"{said} Its last words:\n{self._tail()}", file=sys.stderr)
        return 1 if ended else 2

    def watch(self) -> int:
        """One look of the watchdog. The exit status is 1 when a person is needed."""
        self.require_config()
        options = self.config["watchdog"]
        figures = {field.name: float(options[field.name]) for field in _FIGURES if field.name in options}
        policy = _watchdog.Policy(**figures)
        _WATCHDOG.mkdir(mode=0o755, parents=True, exist_ok=True)
        file = _WATCHDOG / f"{self.name}.json"
        before = _watchdog.State.load(read_json(file))
        look = self._look(options)
        state = _watchdog.judge(before, look, policy, time.time(), lambda: self._probe(options))
        if look.run and read_unit(run_command, self.unit).run != look.run:
            # Someone has restarted or stopped it meanwhile: what was seen is over.
            return 0
        # Before it is acted on: a restart that is not counted could be repeated for ever.
        write_json(file, {"service": self.name, **dataclasses.asdict(state)})
        if state.verdict != before.verdict:
            troubled = state.verdict in ("suspect", "hung", "restarted", "given-up")
            # The numbers are the journal's: a warning, or a notice.
            level, why = ("<4>", f": {state.reason}.") if troubled else ("<5>", ".")
            _say(f"{level}{self.unit}: {state.verdict}{why}")
        if state.verdict == "restarted":
            # What hangs ends none of the requests that a stop waits for. It may have died by itself, which is as good.
            run_command(["systemctl", "kill", "--signal=SIGKILL", self.unit])
            status, _out, complaint = run_command(["systemctl", "try-restart", self.unit])
            if status:
                raise LlmError(f"{self.unit} could not be restarted: {complaint.strip()}")
        return 1 if state.verdict == "given-up" else 0

    def _look(self, options: dict[str, t.Any]) -> _watchdog.Look:
        state = read_unit(run_command, self.unit)
        if state.active != "active" or _FENCE.exists():
            return _watchdog.Look(run="", fenced=_FENCE.exists())
        metrics = self._metrics(options["metrics_url"])
        meeting: _meeting.Meeting | None = options.get("meeting") or None
        return _watchdog.Look(
            run=state.run,
            serves=options.get("serves", True),
            peers=_meeting.connections(run_command, meeting) if meeting else {},
            silent=_meeting.unreachable(meeting) if meeting else (),
            ready=_alive.silence(self.config["ready_url"]) is None,
            uptime=state.uptime,
            start_timeout=self.config["start_timeout"],
            counters=metrics.state if metrics else None,
            requests=metrics.requests if metrics else None,
            cpu=None if options["metrics_url"] else cpu_seconds(self.unit),
        )

    def _metrics(self, url: str) -> _metrics.Metrics | None:
        if not url:
            return None
        try:
            lines = list(stream_lines("GET", url, token=self._key(), timeout=_alive.ASK_S))
        except HttpError:
            return None
        return _metrics.parse(b"\n".join(lines).decode(errors="replace"))

    def _probe(self, options: dict[str, t.Any]) -> str | None:
        timeout = float(options.get("probe_timeout", _PROBE_S))
        return _alive.complaint(
            Question(options["url"], options["api"], options["model"], "1", 1, timeout, self._key())
        )

    def _key(self) -> str | None:
        return read_key(str(self.key_file)) if self.config["key"] else None

    def _checksum(self) -> str:
        suffixes = ("env", "key", "key.yaml")
        return checksum([_UNITS / self.unit, *(_ETC / f"{self.name}.{suffix}" for suffix in suffixes)])

    def _tail(self) -> str:
        """The end of the service's log. Engines have been seen to log their own options; the key is not passed on."""
        argv = ["journalctl", "--unit", self.unit, "--lines", str(_TAIL_LINES), "--output=cat", "--no-pager"]
        said = run_command(argv)[1].strip()
        key = _key_of(self.key_file)
        return said.replace(key, "(key)") if key else said


def _facts() -> t.Any:
    return read_facts(run_command, timeout=_DRIVER_S)


def _key_of(path: Path) -> str | None:
    """The key that is there already; None where there is no file. What is no key is an error, not a new key."""
    return read_key(str(path)) if path.exists() else None


def _is_secret(path: Path, text: str) -> bool:
    """Whether the file has this content, and is its owner's alone."""
    with contextlib.suppress(FileNotFoundError):
        return path.stat().st_mode & 0o777 == 0o600 and path.read_text() == text
    return False


def _write_secret(path: Path, text: str) -> None:
    stage = path.with_name(f"{path.name}.new")
    stage.unlink(missing_ok=True)
    with os.fdopen(os.open(stage, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)
    commit(stage, path)


def _say(text: str) -> None:
    print(text, flush=True)


def main(argv: list[str]) -> int:
    """Do one thing for one service."""
    verb, name, *rest = argv
    verbs: dict[str, t.Callable[..., int]] = {
        "key": Service.key,
        "start": Service.start,
        "drain": Service.drain,
        "compare": Service.compare,
        "ready": Service.ready,
        "watch": Service.watch,
    }
    return verbs[verb](Service(name), *rest)


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except LlmError as error:
        sys.exit(str(error))
