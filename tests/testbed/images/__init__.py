# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The bed's Docker images, each built once for each state of its inputs."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from testbed import BedError, egress
from testbed.cache import cache_dir, key_of, locked
from testbed.engine import LABEL, apt_install, command, docker

REPOSITORY = "llmfleet-bed"

_BED = Path(__file__).parent.parent
_MIRROR = "http://deb.debian.org/debian"
_HOST = "images/host/Dockerfile"
# A registry that a firewall swallows must not cost minutes; one that answers sends the 30 MB in less.
_PULL_TIMEOUT_S = 60


@dataclass(frozen=True)
class _Image:
    """How one image is made.

    :ivar suite: Debian release of its base image.
    :ivar dockerfile: path below ``tests/testbed``, which is the build's context.
    :ivar inputs: further paths below ``tests/testbed`` that go into it.
    :ivar packages: Debian packages on top of those that the Dockerfile installs.
    :ivar on_demand: whether it is left out of `NAMES`, because only what takes long needs it.
    """

    suite: str
    dockerfile: str
    inputs: tuple[str, ...] = ()
    packages: str = ""
    on_demand: bool = False


_IMAGES = {
    "debian13": _Image("trixie", _HOST, ("images/host", "nvml", "cuda")),
    # Its driver, 535, is one whose open kernel module can be built for the kernel of its own release.
    "debian12": _Image("bookworm", _HOST, ("images/host", "nvml", "cuda"), on_demand=True),
    # Ollama from v0.30 runs models through the llama-server of its own release archive. Where the bed builds Ollama
    # itself, Debian's llama-server stands for that one, and the archive links to it.
    "debian-testing": _Image("forky", _HOST, ("images/host", "nvml", "cuda"), "llama.cpp-tools"),
    "tools": _Image("forky", "images/tools/Dockerfile"),
    "ollama": _Image("trixie", "images/ollama/Dockerfile", ("images/ollama",)),
    "apt_repository": _Image("trixie", "images/apt_repository/Dockerfile", ("images/apt_repository",)),
}
NAMES = tuple(name for name, image in _IMAGES.items() if not image.on_demand)


def ensure_image(name: str) -> str:
    """Build one of the images if its inputs changed since it was last built.

    :return: its tag, ``llmfleet-bed/<name>:<key of its inputs>``. Images of the same name with another key are removed.
    :raises BedError: if the build fails.
    """
    image = _IMAGES[name]
    key = key_of(image.suite, image.packages, _BED / image.dockerfile, *(_BED / path for path in image.inputs))
    tag = f"{REPOSITORY}/{name}:{key}"
    with locked(f"image-{name}"):
        if not _exists(tag):
            _build(tag, image)
            _remove_other_keys(tag)
    return tag


def remove_all() -> None:
    """Remove every image of the bed, but not the official ones that it is built on.

    :raises BedError: if one of them cannot be removed.
    """

    def own() -> set[str]:
        return set(docker("images", "--all", "--quiet", f"--filter=label={LABEL}").stdout.split())

    # An image takes the unnamed ones below it along, which are an error when their turn comes; one that others are made
    # of goes only after them.
    while images := own():
        said = docker("image", "rm", "--force", *images, check=False).stderr
        if own() == images:
            raise BedError(f"These images cannot be removed: {said}")


def _build(tag: str, image: _Image) -> None:
    proxies = egress.proxies()
    arguments = [f"BASE={base_image(image.suite)}"]
    if image.dockerfile == _HOST:
        arguments += [f"BUILDER_BASE={base_image('trixie')}", f"PACKAGES={image.packages}"]
    # Every Dockerfile has the proxies as arguments without naming them, and they leave no trace in the image.
    docker(
        "build", "--force-rm", f"--tag={tag}", f"--file={_BED / image.dockerfile}", f"--label={LABEL}",
        *(f"--build-arg={argument}" for argument in (*arguments, *proxies)), str(_BED), env=proxies,
    )  # fmt: skip


def base_image(suite: str) -> str:
    """A minimal Debian: the official image where it is here or a registry sends it, else one made by debootstrap."""
    own = f"{REPOSITORY}/base-{suite}:{key_of(suite, _MIRROR)}"
    official = f"debian:{suite}-slim"
    with locked(f"base-{suite}"):
        if _exists(own):
            return own
        if _exists(official) or _pull(official):
            return official
        _bootstrap(suite, own)
    return own


def _pull(reference: str) -> bool:
    try:
        return docker("pull", "--quiet", reference, check=False, timeout_s=_PULL_TIMEOUT_S).returncode == 0
    except subprocess.TimeoutExpired:
        return False


def _bootstrap(suite: str, tag: str) -> None:
    """Install a minimal Debian into a folder and import it as an image.

    :raises BedError: without root's rights, which debootstrap needs, or if it fails.
    """
    if os.geteuid() != 0:
        raise BedError(
            f"No image registry sends debian:{suite}-slim, and making it with debootstrap takes root's rights. "
            "Run this as root once, or bring that image here in another way (`docker load`)."
        )
    if shutil.which("debootstrap") is None:
        apt_install("debootstrap", "debian-archive-keyring")
    with tempfile.TemporaryDirectory(dir=cache_dir(), prefix="debootstrap-") as folder:
        # The script is named because older releases of debootstrap do not know the newest suites.
        command(["debootstrap", "--variant=minbase", suite, folder, _MIRROR, "sid"])
        archive = Path(folder, "debian.tar")
        command(["tar", "--create", f"--file={archive}", f"--directory={folder}", "--exclude=./debian.tar", "."])
        docker("import", f"--change=LABEL {LABEL}", str(archive), tag)


def _exists(reference: str) -> bool:
    return docker("image", "inspect", reference, check=False).returncode == 0


def _remove_other_keys(tag: str) -> None:
    listed = docker("images", "--format={{.Repository}}:{{.Tag}}", tag.partition(":")[0]).stdout.split()
    for other in set(listed) - {tag}:
        # One that a container still runs stays until the next build.
        docker("image", "rm", other, check=False)
