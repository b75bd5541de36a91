# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The bed's running part: simulated hosts, the hub, and the network between them."""

from __future__ import annotations

import json
import socket
import time
import urllib.request
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from testbed import BedError, apt_repository, egress, pci
from testbed.cache import key_of, locked
from testbed.engine import HUB, LABEL, NETWORK, docker, ensure_engine
from testbed.images import ensure_image
from testbed.ollama import mirror_dir

# Names of the images that hosts are made of.
IMAGES = ("debian13", "debian-testing", "debian12")
HUB_PORT = 8000

# A container with another value of this label was started in another way, so it is replaced.
_KEY_LABEL = "llmfleet-bed-key"
_TESTS = Path(__file__).parent.parent
# Booting takes 2 to 5 seconds; a machine that does much else at the time needs more.
_BOOT_TIMEOUT_S = 120
_HUB_TIMEOUT_S = 120
# What systemd needs as PID 1: leave to mount, its system calls unfiltered, and the folders empty that are so at boot.
_SYSTEMD_OPTIONS = (
    "--cap-add=SYS_ADMIN",
    "--security-opt=seccomp=unconfined",
    "--security-opt=apparmor=unconfined",
    "--cgroupns=host",
    "--tmpfs=/run",
    "--tmpfs=/run/lock",
    "--tmpfs=/tmp:exec",
)


def up(names: Iterable[str], image: str = IMAGES[0], tag: str = "") -> None:
    """Have simulated hosts running, booted, that find each other and the hub by name.

    A host that runs already is left alone, unless its image or its options have changed: then a bare one replaces it.

    :param names: container names, which are the host names too.
    :param image: one of `IMAGES`.
    :param tag: what `commit` has made, in place of one of `IMAGES`.
    :raises BedError: if a name belongs to a container that is not the bed's, or a host does not come up.
    """
    ensure_engine()
    tag = tag or ensure_image(image)
    options = [
        *_SYSTEMD_OPTIONS,
        f"--volume={_cgroup_tree()}:/sys/fs/cgroup:rw",
        f"--volume={pci.ensure()}:/sys/bus/pci/devices:ro",
        *egress.docker_options(),
    ]
    started = [name for name in names if _ensure_container(name, tag, options)]
    for name in started:
        _wait_for_systemd(name)


def up_hub() -> str:
    """Have the hub and mirror running, and tell its URL as this machine sees it. Hosts use ``http://llmfleet-hub:8000``.

    :raises BedError: if it does not answer, or its models cannot be made.
    """
    ensure_engine()
    # The folder in a read-only mount that another is mounted on must be there already.
    (mirror_dir() / "nvidia").mkdir(exist_ok=True)
    options = [
        f"--volume={models_dir()}:/models:ro",
        f"--volume={mirror_dir()}:/mirror:ro",
        f"--volume={apt_repository.ensure().path}:/mirror/nvidia:ro",
        "--env=PYTHONPATH=/bed",
        "--env=PYTHONDONTWRITEBYTECODE=1",
        "--entrypoint=python3",
        "--stop-signal=SIGTERM",
    ]
    argv = ["-m", "testbed.hub", "--root=/models", "--mirror=/mirror", f"--port={HUB_PORT}"]
    # By its content, not its path: checkouts with the same hub share the one that runs.
    code = [f"--volume={_TESTS}:/bed:ro"]
    _ensure_container(HUB, ensure_image(IMAGES[0]), options, argv, code, source=key_of(_TESTS / "testbed" / "hub"))
    _wait_for_hub()
    return hub_url()


def up_server(name: str, tag: str, options: Sequence[str], argv: Sequence[str]) -> None:
    """Have a container of the bed's own running on the hosts' network.

    :raises BedError: if the name belongs to a container that is not the bed's.
    """
    ensure_engine()
    _ensure_container(name, tag, options, argv)


def hub_url() -> str:
    """URL of the running hub, where this machine reaches it.

    :raises BedError: if the hub does not run.
    """
    return f"http://{_hub_address()}:{HUB_PORT}"


def models_dir() -> Path:
    """The models that the hub serves, made if they are missing.

    :raises BedError: if the Python packages that make them are not installed; nothing else of the bed needs any.
    """
    try:
        from testbed import models
    except ModuleNotFoundError as error:
        raise BedError(f"Models are made with the package {error.name}: install requirements/dev.txt.") from error
    return models.ensure()


def hub_commit(repository: str) -> str:
    """The commit at which the running hub holds ``owner/name``, as 40 hexadecimal digits.

    :raises BedError: if the hub does not run or has no such repository.
    """
    url = f"{hub_url()}/api/models/{repository}/revision/main"
    try:
        # No proxy: the hub is on this machine's own bridge.
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(url, timeout=_HUB_TIMEOUT_S) as answer:
            return str(json.load(answer)["sha"])
    except OSError as error:
        raise BedError(f"The hub does not tell the commit of {repository}: {error}.") from error


def down(names: Iterable[str]) -> None:
    """Remove containers of the bed, and what was on them. One that is not there is no error.

    :raises BedError: if a name belongs to a container that is not the bed's.
    """
    for name in names:
        if _own(name) is not None:
            _remove(name)


def commit(name: str, tag: str) -> None:
    """Stop a host, and have an image of what is on it. Hosts made of that have names and identities of their own.

    :raises BedError: if there is no such host.
    """
    docker("exec", name, "truncate", "--size=0", "/etc/machine-id")
    docker("stop", "--time=60", name)
    docker("commit", name, tag)


def containers() -> list[str]:
    """Names of all containers of the bed, stopped ones too."""
    return sorted(docker("ps", "--all", f"--filter=label={LABEL}", "--format={{.Names}}").stdout.split())


def remove_network() -> None:
    """Remove the bed's network, which must have no containers any more."""
    for network in docker("network", "ls", f"--filter=label={LABEL}", "--quiet").stdout.split():
        docker("network", "rm", network)


def _ensure_container(
    name: str,
    tag: str,
    options: Sequence[str],
    argv: Sequence[str] = (),
    code: Sequence[str] = (),
    source: str = "",
) -> bool:
    """Have a container running on the bed's network, and tell whether it was started now.

    :param code: options that bring what the container runs and its image does not hold.
    :param source: stands for the content of that.
    """
    variables = egress.variables()
    key = key_of(tag, *options, *argv, source, repr(variables))
    with locked("containers"):
        existing = _own(name)
        if existing is not None:
            if existing["State"]["Running"] and existing["Config"]["Labels"].get(_KEY_LABEL) == key:
                return False
            _remove(name)
        if docker("network", "inspect", NETWORK, check=False).returncode != 0:
            docker("network", "create", f"--label={LABEL}", NETWORK)
        docker(
            "run", "--detach", f"--name={name}", f"--hostname={name}", f"--network={NETWORK}", f"--label={LABEL}",
            f"--label={_KEY_LABEL}={key}", *options, *code, tag, *argv, env=variables,
        )  # fmt: skip
    return True


def _remove(name: str) -> None:
    docker("rm", "--force", "--volumes", name)


def _own(name: str) -> dict[str, Any] | None:
    """What Docker knows of a container of the bed.

    :raises BedError: if a container has that name and is not the bed's.
    """
    result = docker("container", "inspect", name, check=False)
    if result.returncode != 0:
        return None
    found: dict[str, Any] = json.loads(result.stdout)[0]
    label, _dummy, value = LABEL.partition("=")
    if found["Config"]["Labels"].get(label) != value:
        raise BedError(f"A container named {name} exists and is not the bed's. Remove it, or choose another name.")
    return found


def _runs(name: str) -> bool:
    found = _own(name)
    return found is not None and found["State"]["Running"] is True


def _logs(name: str) -> str:
    result = docker("logs", "--tail=20", name, check=False)
    return (result.stdout + result.stderr).strip()


def _cgroup_tree() -> str:
    """Where the engine's machine has its control groups of version 2, the only ones that systemd still takes.

    A machine set up for version 1 may have a second, empty tree of version 2; there, units run without resource limits.
    """
    version = docker("info", "--format={{.CgroupVersion}}").stdout.strip()
    return "/sys/fs/cgroup" if version == "2" else "/sys/fs/cgroup/unified"


def _wait_for_systemd(name: str) -> None:
    """Wait until all units of a host have started.

    :raises BedError: if some did not, or systemd has ended or takes too long.
    """
    deadline = time.monotonic() + _BOOT_TIMEOUT_S
    while True:
        state = docker("exec", name, "systemctl", "is-system-running", check=False).stdout.strip()
        if state == "running":
            return
        if state == "degraded":
            failed = docker("exec", name, "systemctl", "--failed", "--plain", "--no-legend").stdout
            units = ", ".join(line.split()[0] for line in failed.splitlines())
            raise BedError(f"Host {name} is up, but units failed: {units}. Look with `docker exec {name} journalctl`.")
        if time.monotonic() > deadline or not _runs(name):
            raise BedError(f"Host {name} did not boot (state: {state or 'none'}). {_logs(name)}")
        time.sleep(0.3)


def _hub_address() -> str:
    found = _own(HUB)
    if found is None:
        raise BedError("The hub does not run. Start it with `python -m testbed up`.")
    if not found["State"]["Running"]:
        raise BedError(f"The hub has ended. {_logs(HUB)}")
    address: str = found["NetworkSettings"]["Networks"][NETWORK]["IPAddress"]
    return address


def _wait_for_hub() -> None:
    deadline = time.monotonic() + _HUB_TIMEOUT_S
    while True:
        try:
            with socket.create_connection((_hub_address(), HUB_PORT), timeout=1):
                return
        except OSError as error:
            if time.monotonic() > deadline:
                raise BedError(f"The hub does not answer. {_logs(HUB)}") from error
            time.sleep(0.2)
