# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A host with no way out but the bed's own mirror, and the names that it asked for all the same.

The host is on a Docker network of its own that leads nowhere. On it are the hub and a mirror, which passes on the
distribution's archive and the package index, over TLS with an authority that nobody knows yet. The mirror is the host's
name server too: it knows nobody and writes down every question.
"""

from __future__ import annotations

import json
import time
from pathlib import Path

from testbed import BedError, egress, hosts
from testbed.cache import cache_dir
from testbed.engine import HUB, LABEL, NETWORK, docker
from testbed.hub.tls import make_certificates
from testbed.images import ensure_image

MIRROR = "llmfleet-mirror"
MIRROR_PORT = 8443

_NETWORK = "llmfleet-bed-offline"
_TESTS = Path(__file__).parents[2]
_START_TIMEOUT_S = 120


def up(name: str, image: str = hosts.IMAGES[0]) -> None:
    """Have a new mirror, and a simulated host that reaches it and the hub and nothing else.

    :raises BedError: if one of them does not come up.
    """
    hosts.up_hub()
    hosts.up([name], image)
    if docker("network", "inspect", _NETWORK, check=False).returncode != 0:
        docker("network", "create", "--internal", f"--label={LABEL}", _NETWORK)
    start_mirror()
    for container in (HUB, MIRROR, name):
        if _NETWORK not in _addresses(container):
            docker("network", "connect", _NETWORK, container)
    if NETWORK in _addresses(name):
        docker("network", "disconnect", NETWORK, name)
    _be_the_name_server_of(name)


def start_mirror() -> str:
    """Have a new mirror on the bed's network, and tell its address.

    :raises BedError: if it does not come up.
    """
    hosts.down([MIRROR])
    server = make_certificates(_certificates(), [f"DNS:{MIRROR}", f"DNS:{MIRROR}.{NETWORK}"]).server
    python = ("--env=PYTHONPATH=/bed", "--env=PYTHONDONTWRITEBYTECODE=1", "--entrypoint=python3")
    docker(
        "run", "--detach", f"--name={MIRROR}", f"--hostname={MIRROR}", f"--network={NETWORK}", f"--label={LABEL}",
        *egress.docker_options(), f"--volume={_TESTS}:/bed:ro", f"--volume={server}:/server.pem:ro", *python,
        "--stop-signal=SIGKILL", ensure_image(hosts.IMAGES[0]),
        "-m", "testbed.offline.mirror", str(MIRROR_PORT), "/server.pem", env=egress.variables(),
    )  # fmt: skip
    deadline = time.monotonic() + _START_TIMEOUT_S
    while not _log("listening"):
        if time.monotonic() > deadline:
            raise BedError(f"The mirror does not come up. {docker('logs', MIRROR, check=False).stderr[-500:]}")
        time.sleep(0.2)
    return f"https://{MIRROR}:{MIRROR_PORT}"


def authority() -> Path:
    """File with the certificate of the mirror's authority, which is another one each time that a mirror starts."""
    return _certificates() / "ca.pem"


def questions() -> list[str]:
    """Every name that the host has asked the mirror for, as a name server."""
    return _log("asked")


def requests() -> list[str]:
    """Every path that the mirror was asked for."""
    return _log("requested")


def _certificates() -> Path:
    path = cache_dir() / "offline" / MIRROR
    path.mkdir(parents=True, exist_ok=True)
    return path


def _be_the_name_server_of(name: str) -> None:
    """Let the host know the mirror and the hub by itself, and ask the mirror for everybody else."""
    known = {container: _addresses(container)[_NETWORK] for container in (HUB, MIRROR)}
    entries = "".join(f"{address} {container} {container}.{NETWORK}\n" for container, address in known.items())
    # Docker manages both files, so they are written to and not replaced.
    script = f"printf 'nameserver {known[MIRROR]}\\n' > /etc/resolv.conf; printf '{entries}' >> /etc/hosts"
    docker("exec", name, "sh", "-c", script)


def _addresses(container: str) -> dict[str, str]:
    """The container's address in each network that it is on."""
    found = docker("container", "inspect", "--format={{json .NetworkSettings.Networks}}", container)
    return {network: settings["IPAddress"] for network, settings in json.loads(found.stdout).items()}


def _log(word: str) -> list[str]:
    lines = docker("logs", MIRROR).stdout.splitlines()
    return [line.partition(" ")[2] for line in lines if line.partition(" ")[0] == word]
