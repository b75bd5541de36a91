# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Run what runs playbooks, show its output as it comes, and know afterwards what each play recap counted."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import dataclass, field

_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
# Molecule frames what a playbook prints, and breaks long lines: what stands before the host and after the count varies.
_HOST = re.compile(r"(?P<host>[\w.-]+)\s+: ok=(?P<ran>\d+)\s+changed=(?P<changed>\d+)\s")


@dataclass(frozen=True)
class Outcome:
    """Exit status of a command, the number of changed tasks by host for each playbook that it ran, and what it said.

    :ivar said: without colours, its white space made one blank each.
    :ivar ran: the number of tasks that were not skipped, likewise.
    """

    status: int
    changed: list[dict[str, int]]
    said: str = ""
    ran: list[dict[str, int]] = field(default_factory=list)


def run(argv: list[str], env: dict[str, str] | None = None) -> Outcome:
    """Run ``ansible-playbook`` or ``molecule``.

    :param env: variables on top of the environment.
    """
    changed: list[dict[str, int]] = []
    ran: list[dict[str, int]] = []
    said: list[str] = []
    with subprocess.Popen(
        argv,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        env={**os.environ, **(env or {})},
    ) as process:
        for line in process.stdout or ():
            sys.stdout.write(line)
            sys.stdout.flush()
            said += _COLOUR.sub("", line).split()
            if "PLAY RECAP" in line:
                changed.append({})
                ran.append({})
            elif changed and (match := _HOST.search(_COLOUR.sub("", line))):
                changed[-1][match["host"]] = int(match["changed"])
                ran[-1][match["host"]] = int(match["ran"])
    return Outcome(process.returncode, changed, " ".join(said), ran)
