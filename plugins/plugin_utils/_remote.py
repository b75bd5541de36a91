# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Files and processes of a host, by one cheap command each. Private to this collection."""

from __future__ import annotations

import json
import shlex
import typing as t

from ansible.errors import AnsibleConnectionFailure
from ansible.plugins.action import ActionBase

_MARK = "--llmfleet--"


class Processes(t.NamedTuple):
    """Those processes of a host whose number matches the shell pattern `pid` and whose command line has `word`."""

    pid: str
    word: str = ""

    @property
    def listing(self) -> str:
        """The shell command that prints their numbers."""
        # The brackets keep it from finding itself.
        pattern = f"[{self.word[0]}]{self.word[1:]}" if self.word else ""
        return f"grep -ls -- {shlex.quote(pattern)} /proc/{self.pid}/cmdline | cut -d/ -f3"


class Host:
    """The host of an action, as the user that the task becomes.

    :raises AnsibleConnectionFailure: from every method, when the host does not answer.
    """

    def __init__(self, action: ActionBase) -> None:
        self._action = action

    def read_json(self, *paths: str) -> list[dict[str, t.Any]]:
        """What the files hold, {} for one that is missing or holds something else."""
        return [_object(text) for text in self._run(*(f"cat -- {shlex.quote(path)}" for path in paths))]

    def alive(self, processes: Processes) -> bool:
        """Whether any of the processes runs."""
        return bool(self._run(processes.listing)[0].strip())

    def stop(self, processes: Processes) -> None:
        """Let the processes end, and after five seconds end them. Ansible gives its own processes ten for all that."""
        self._run(
            f"pids() {{ {processes.listing}; }}; kill -TERM $(pids); "
            'for second in 1 2 3 4 5; do [ -z "$(pids)" ] || sleep 1; done; kill -KILL $(pids)'
        )

    def remove(self, *paths: str) -> None:
        """Remove files."""
        self._run(f"rm -f -- {shlex.join(paths)}")

    def _run(self, *commands: str) -> list[str]:
        """What the commands print on standard output, each."""
        script = f"exec 2>/dev/null; echo {_MARK}" + "".join(f"; {command}; echo {_MARK}" for command in commands)
        result = self._action._low_level_execute_command(shlex.join(["/bin/sh", "-c", script]))
        # Around the marks there may be what a login prints. Some connections break without an error.
        outputs: list[str] = result["stdout"].split(_MARK)[1:-1]
        if len(outputs) != len(commands):
            raise AnsibleConnectionFailure(f"The host does not answer: {result['stderr'].strip() or 'no output'}")
        return outputs


def _object(text: str) -> dict[str, t.Any]:
    try:
        content = json.loads(text)
    except ValueError:
        return {}
    return content if isinstance(content, dict) else {}
