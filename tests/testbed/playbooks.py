# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Run what runs playbooks, show its output as it comes, and know afterwards what each play recap counted."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import dataclass

_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
# Molecule frames what a playbook prints, and breaks long lines: what stands before the host and after the count varies.
_HOST = re.compile(r"(?P<host>[\w.-]+)\s+: ok=\d+\s+changed=(?P<changed>\d+)\s")


@dataclass(frozen=True)
class Outcome:
    """Exit status of a command, the number of changed tasks by host for each playbook that it ran, and what it said.

    :ivar said: without colours, its white space made one blank each.
    """

    status: int
    changed: list[dict[str, int]]
    said: str = ""


def run(argv: list[str], env: dict[str, str] | None = None) -> Outcome:
    """Run ``ansible-playbook`` or ``molecule``.

    :param env: variables on top of the environment.
    """
    recaps: list[dict[str, int]] = []
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
                recaps.append({})
            elif recaps and (match := _HOST.search(_COLOUR.sub("", line))):
                recaps[-1][match["host"]] = int(match["changed"])
    return Outcome(process.returncode, recaps, " ".join(said))
