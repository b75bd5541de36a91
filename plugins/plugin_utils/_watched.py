# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A long module that people can watch: it works in the background on its host. Private to this collection."""

from __future__ import annotations

import contextlib
import itertools
import os
import posixpath
import re
import signal
import time
import typing as t
from collections.abc import Callable, Iterator
from pathlib import Path

from ansible.errors import AnsibleConnectionFailure, AnsibleError
from ansible.plugins.action.normal import ActionModule as OrdinaryAction
from ansible.utils.display import Display

from ansible_collections.llmfleet.serving.plugins.plugin_utils._progress import Lines
from ansible_collections.llmfleet.serving.plugins.plugin_utils._remote import Host, Processes

Result = dict[str, t.Any]
_T = t.TypeVar("_T")

# The module has a deadline of its own; the watchdog of Ansible's background jobs only must not come first.
_LIMIT_S = 30 * 86400
# A module that finds nothing to do is noticed soon; a download of hours is not asked for all the time.
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.3, 5.0
# How long a host may not answer. A server with eight GPUs takes ten minutes to start.
_PATIENCE_S = 900.0
# The words of _files.locked().
_HOLDER = re.compile(r" is being written by process (\d+)\. ")


class WatchedAction(OrdinaryAction):
    """Starts the module of the task in the background, shows how far it is, and returns what it returned.

    In check mode and with `async` it is an ordinary task. A subclass tells where the module writes its progress.
    """

    def progress_file(self, dest: Path) -> Path:
        """The file on the host that the module renews while it works on `dest`: JSON, as _progress.py reads it."""
        raise NotImplementedError

    def run(self, tmp: str | None = None, task_vars: Result | None = None) -> Result:
        dest = Path(self._remote_expand_user(str(self._task.args.get("dest", ""))))
        # Without a destination that has a name, the module is going to refuse.
        if self._task.check_mode or self._task.async_val or not dest.name:
            return t.cast(Result, super().run(tmp, task_vars))
        self._progress = str(self.progress_file(dest))
        self._title = f"{(task_vars or {}).get('inventory_hostname')}: {dest.name}"
        self._task_vars = task_vars
        self._remote = Host(self)
        self._parent = os.getppid()
        with _interruptible():
            return self._run()

    def _run(self) -> Result:
        result = self._run_job()
        waited = False
        while holder := _HOLDER.search(str(result.get("msg", ""))):
            self._say(f"process {holder[1]} of an earlier run is at it; waiting for its end")
            other = Processes(pid=holder[1])
            with self._stopping(other):
                self._watch(other)
            waited = True
            result = self._run_job()
        # A module is turned away only when there is something to do; that was done while this task was running.
        if waited and not result.get("failed"):
            result["changed"] = True
        return result

    def _run_job(self) -> Result:
        """Start the module, stay until it has ended, and leave nothing behind but what it has made."""
        if self._connection._shell.tmpdir is None:
            self._make_tmp_path()
        tmpdir: str = self._connection._shell.tmpdir
        # Its name is on the command lines of the module and of the watchdog above it.
        job = Processes(pid="[0-9]*", word=posixpath.basename(tmpdir.rstrip("/")))
        results: list[str] = []
        with self._stopping(job, tmpdir, results):
            start = self._start()
            if "results_file" not in start:
                return start
            results.append(start["results_file"])
            ended = self._watch(job, *results)
            # The directory holds the module's options, secrets too: the sooner it is gone, the better.
            self._insist(lambda: self._remove_directory(tmpdir))
            result = self._insist(lambda: self._result(*results)) if ended else _without_result()
            self._insist(lambda: self._remote.remove(*results))
            return result

    def _start(self) -> Result:
        self._task.async_val = _LIMIT_S
        try:
            return t.cast(Result, self._execute_module(task_vars=self._task_vars, wrap_async=True))
        finally:
            self._task.async_val = 0

    def _watch(self, processes: Processes, results: str = os.devnull) -> bool:
        """Show the progress until the result is there (True) or the processes are gone without one (False)."""
        lines = Lines()
        before: Result = {}
        for pause in _pauses():
            self._wait(pause)
            report, progress = self._insist(lambda: self._remote.read_json(results, self._progress))
            if _ended(report):
                return True
            if progress and (line := lines.take(progress)):
                self._say(line)
            # A module at work renews the file each second. Where it does not, its processes have to be asked for.
            if progress == before and not self._insist(lambda: self._remote.alive(processes)):
                (report,) = self._insist(lambda: self._remote.read_json(results))
                return _ended(report)
            before = progress
        raise AssertionError("the pauses do not end")

    def _result(self, results: str) -> Result:
        """What the module returned, as Ansible itself reads it."""
        place, job = posixpath.split(results)
        result: Result = self._execute_module(
            module_name="ansible.legacy.async_status",
            module_args={"jid": job, "_async_dir": place},
            task_vars=self._task_vars,
        )
        for key in ("ansible_job_id", "started", "finished", "results_file"):
            result.pop(key, None)
        # This is what the watchdog reports of a module that printed no result.
        return _without_result(result["stderr"]) if {"cmd", "data", "stderr"} <= set(result) else result

    @contextlib.contextmanager
    def _stopping(self, processes: Processes, tmpdir: str = "", results: t.Sequence[str] = ()) -> Iterator[None]:
        """Inside, the processes are stopped when the play is interrupted, or the time of the task is over.

        :param tmpdir, results: what is then removed from the host.
        """
        try:
            yield
        except Exception:
            # Above all when the host cannot be reached: there the transfer goes on, and the next run joins it.
            raise
        except BaseException:
            with contextlib.suppress(AnsibleError):
                self._remote.stop(processes)
                self._remote.remove(*results)
                if tmpdir:
                    self._remove_directory(tmpdir)
            raise

    def _remove_directory(self, tmpdir: str) -> None:
        self._cleanup_remote_tmp = True
        self._remove_tmp_path(tmpdir)

    def _insist(self, ask: Callable[[], _T]) -> _T:
        """Ask the host until it answers, as long as it may be silent."""
        lost = None
        while True:
            try:
                return ask()
            except AnsibleConnectionFailure as exc:
                if lost is None:
                    lost = time.monotonic()
                    self._say("the host does not answer; the transfer goes on there, and this run waits")
                if time.monotonic() - lost > _PATIENCE_S:
                    raise AnsibleConnectionFailure(
                        f"The host has not answered for {_PATIENCE_S / 60:.0f} minutes. The transfer goes on there, as "
                        f"far as it can; run again to join it. The last error: {exc}"
                    ) from exc
                self._wait(_LONGEST_PAUSE_S)

    def _wait(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            # Whoever kills Ansible's main process does not reach this one.
            if os.getppid() != self._parent:
                raise _InterruptedPlay(signal.SIGTERM)
            time.sleep(min(left, 0.5))

    def _say(self, text: str) -> None:
        # Standard output may be JSON for a program, and Python keeps it back when it is a pipe.
        if not self._task.no_log:
            Display().display(f"{self._title}: {text}", stderr=True)


class _InterruptedPlay(BaseException):
    """The play is to end. `number` is that of the signal that says so."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


@contextlib.contextmanager
def _interruptible() -> Iterator[None]:
    """Inside, a signal that would end this process at once raises an error first. After that, it ends as it should.

    Ansible's processes for tasks have no other way to notice: since ansible-core 2.19, Ctrl-C kills them.
    """
    before = {
        number: signal.getsignal(number)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        if signal.getsignal(number) is not signal.SIG_IGN
    }

    def handle_all(handlers: t.Mapping[signal.Signals, t.Any]) -> None:
        for number, handler in handlers.items():
            signal.signal(number, handler)

    def interrupt(number: int, _frame: t.Any) -> None:
        # The main process follows Ctrl-C up with SIGTERM at once, and then waits until this one has ended.
        handle_all(dict.fromkeys(before, lambda *_signal: None))
        raise _InterruptedPlay(number)

    handle_all(dict.fromkeys(before, interrupt))
    try:
        yield
    except _InterruptedPlay as exc:
        handle_all(before)
        os.kill(os.getpid(), exc.number)
        raise
    finally:
        handle_all(before)


def _pauses() -> Iterator[float]:
    return (min(_FIRST_PAUSE_S * 1.5**count, _LONGEST_PAUSE_S) for count in itertools.count())


def _ended(report: Result) -> bool:
    return bool(report) and not report.get("started")


def _without_result(stderr: str = "") -> Result:
    """The result of a module that has none, because it was killed or has a fault."""
    reason = stderr.strip().splitlines()[-1:] or ["it was killed, or the host was restarted"]
    msg = f"The module ended without a result: {reason[0]}. Run again: what has been fetched is kept."
    return {"failed": True, "changed": False, "msg": msg, "module_stderr": stderr}
