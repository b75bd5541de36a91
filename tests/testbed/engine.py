# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The Docker engine: used where one answers, installed and started where none does."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from pathlib import Path

from testbed import BedError
from testbed.cache import cache_dir

# Everything of the bed that Docker keeps carries this label; `list` and `remove` look at nothing else.
LABEL = "llmfleet-bed=1"
NETWORK = "llmfleet-bed"
HUB = "llmfleet-hub"

_COMMAND = "dockerd"
_PID_FILE = Path("/var/run/docker.pid")
_START_TIMEOUT_S = 60


def docker(
    *args: str, check: bool = True, timeout_s: float | None = None, env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run the Docker command line; see `command`."""
    return command(["docker", *args], check=check, timeout_s=timeout_s, env=env)


def command(
    argv: list[str], *, check: bool = True, timeout_s: float | None = None, env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a program with its output captured as text.

    :param env: variables on top of the environment.
    :raises BedError: with the command and its error text, if `check` and the exit status is not 0.
    """
    result = subprocess.run(
        argv,
        capture_output=True,
        text=True,
        errors="replace",
        timeout=timeout_s,
        env={**os.environ, **(env or {})},
        check=False,
    )
    if check and result.returncode != 0:
        said = (result.stderr.strip() or result.stdout.strip())[-2000:]
        raise BedError(f"`{' '.join(argv)}` ended with status {result.returncode}: {said}")
    return result


def ensure_engine() -> None:
    """Make sure that a Docker engine answers.

    :raises BedError: if none answers and this program may not, or cannot, start one.
    """
    if _answers():
        return
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        raise BedError(
            "No Docker engine answers (`docker info` fails). Start one, or run this as root on Debian or Ubuntu, where "
            "the bed installs docker.io and starts it."
        )
    if shutil.which("dockerd") is None:
        apt_install("docker.io")
    if shutil.which("docker") is None:
        # A package of its own since Debian 13.
        apt_install("docker-cli")
    if not _answers():
        _start()


def apt_install(*packages: str) -> None:
    """Install packages of Debian or Ubuntu on this machine.

    :raises BedError: if apt fails.
    """
    quiet = {"DEBIAN_FRONTEND": "noninteractive"}
    # Package lists of sources that this machine cannot reach are none of our business: the installation decides.
    command(["apt-get", "update"], check=False, env=quiet)
    # Several sessions may need something at the same time.
    command(["apt-get", "-o", "DPkg::Lock::Timeout=600", "install", "--yes", *packages], env=quiet)


def ensure_nginx() -> str:
    """The program nginx of this machine, installed if it is missing: what serves hosts of a fleet to each other.

    :raises BedError: if there is none and this program may not, or cannot, install it.
    """
    path = f"{os.environ['PATH']}:/usr/sbin"
    if shutil.which("nginx", path=path) is None:
        if os.geteuid() != 0 or shutil.which("apt-get") is None:
            raise BedError("There is no nginx. Install one, or run this as root on Debian or Ubuntu.")
        apt_install("nginx-light")
    return str(shutil.which("nginx", path=path))


def ensure_chromium() -> tuple[str, str]:
    """The programs chromium and chromedriver of this machine, installed if they are missing.

    :raises BedError: if there are none and this program may not, or cannot, install them.
    """
    names = ("chromium", "chromedriver")
    if not all(shutil.which(name) for name in names):
        if os.geteuid() != 0 or shutil.which("apt-get") is None:
            raise BedError("There is no chromium with chromedriver. Install them, or run this as root on Debian.")
        apt_install("chromium", "chromium-driver")
    chromium, driver = (str(shutil.which(name)) for name in names)
    return chromium, driver


def _answers() -> bool:
    return shutil.which("docker") is not None and docker("info", check=False).returncode == 0


def _start() -> None:
    """Start the engine and wait until it answers.

    :raises BedError: if it does not come up.
    """
    daemon = None
    if Path("/run/systemd/system").is_dir():
        command(["systemctl", "start", "docker"])
        log = "in the journal of docker.service"
    else:
        _clear_the_way()
        # In a session of its own, so that it outlives this program.
        path = cache_dir() / "dockerd.log"
        log = str(path)
        with path.open("ab") as file:
            daemon = subprocess.Popen(
                [_COMMAND], stdin=subprocess.DEVNULL, stdout=file, stderr=file, start_new_session=True
            )
    deadline = time.monotonic() + _START_TIMEOUT_S
    while not _answers():
        if (daemon is not None and daemon.poll() is not None) or time.monotonic() > deadline:
            raise BedError(f"The Docker engine was started but does not answer; its log is {log}.")
        time.sleep(0.5)


def _clear_the_way() -> None:
    """Wait for a dockerd that is ending, then remove what one that was killed has left.

    dockerd refuses to start while the process of its PID file lives, even if that is another program by now.
    """
    deadline = time.monotonic() + _START_TIMEOUT_S
    while _is_dockerd() and time.monotonic() < deadline:
        time.sleep(0.5)
    if not _is_dockerd():
        _PID_FILE.unlink(missing_ok=True)


def _is_dockerd() -> bool:
    """Whether the process of the PID file is a dockerd."""
    try:
        return Path("/proc", _PID_FILE.read_text().strip(), "comm").read_text().strip() == _COMMAND
    except OSError:
        return False
