# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The oracles: llama.cpp's own programs and promtool from Debian testing, run on files of this machine."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from testbed.engine import LABEL, docker, ensure_engine
from testbed.images import ensure_image


def tool(workdir: Path, *argv: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Run a program of the `tools` image, such as ``llama-gguf-split``, in a folder of this machine.

    The program sees the folder under the same absolute path and works in it; new files belong to the caller. It has
    no network. Starting the container takes about 0.3 s.

    :param workdir: existing folder; everything the program reads or writes must lie below it.
    :param argv: the program and its arguments.
    :raises BedError: with the program's error text, if `check` and the exit status is not 0.
    """
    ensure_engine()
    folder = str(workdir.resolve(strict=True))
    return docker(
        "run", "--rm", "--init", "--network=none", f"--label={LABEL}", f"--user={os.getuid()}:{os.getgid()}",
        f"--volume={folder}:{folder}", f"--workdir={folder}", ensure_image("tools"), *argv,
        check=check,
    )  # fmt: skip
