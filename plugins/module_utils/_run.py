# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What AnsibleModule.run_command is to modules, for this collection's programs on hosts. Private to it."""

from __future__ import annotations

import os
import subprocess
import typing as t


def run_command(argv: list[str], **options: t.Any) -> tuple[int, str, str]:
    """As AnsibleModule.run_command: exit status, output and error output; 127 for a command that is not there."""
    env = {**os.environ, **options.get("environ_update", {})}
    try:
        # Where this is called there is no module, whose function modules have to call instead.
        # pylint: disable-next=ansible-bad-function
        done = subprocess.run(argv, capture_output=True, text=True, errors="replace", env=env, check=False)
    except OSError as exc:
        return 127, "", str(exc)
    return done.returncode, done.stdout, done.stderr
