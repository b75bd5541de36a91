# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Releases of Ollama on the bed's mirror, laid out as on the site that they come from."""

from __future__ import annotations

import hashlib
import tempfile
import time
import urllib.request
from pathlib import Path

from testbed import egress
from testbed.cache import cache_dir, key_of, locked
from testbed.engine import LABEL, docker
from testbed.images import ensure_image

# The original procedure's, and the newest that compiles from its Go module and serves with Debian's llama-server.
VERSIONS = ("0.5.11", "0.34.0")

_URL = "https://github.com/ollama/ollama/releases/download"
_CONNECT_TIMEOUT_S = 10
# An archive has 1 to 2 GB. To compile one takes two minutes: a slower download is not worth waiting for.
_DOWNLOAD_TIMEOUT_S = 300
_SUMS = "sha256sum.txt"


def mirror_dir() -> Path:
    """The folder that the hub serves under ``/mirror/``, named after what its files are made with.

    It is made if it is missing.
    """
    path = cache_dir() / "mirror" / key_of(Path(__file__).parent / "images" / "ollama")
    path.mkdir(parents=True, exist_ok=True)
    return path


def archive_name(version: str) -> str:
    """Name of a release's archive: a gzip one up to v0.13, a zstd one since v0.14."""
    minor = int(version.split(".")[1])
    return "ollama-linux-amd64.tgz" if version.startswith("0.") and minor < 14 else "ollama-linux-amd64.tar.zst"


def ensure_release(version: str) -> Path:
    """Have a release on the mirror: ``ollama/v<version>/`` with the archive for amd64 and its ``sha256sum.txt``.

    It is the makers' own archive where that can be fetched in a few minutes, else one compiled from the Go module.

    :param version: without the ``v``. Not every one compiles from its module: v0.17.4 does not, `VERSIONS` do.
    :return: the release's folder.
    :raises BedError: if it can neither be fetched nor compiled.
    """
    with locked(f"ollama-{version}"):
        folder = mirror_dir() / "ollama" / f"v{version}"
        if not folder.is_dir():
            folder.parent.mkdir(exist_ok=True)
            with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".unfinished-") as unfinished:
                _make(version, Path(unfinished, "release"))
                Path(unfinished, "release").rename(folder)
    return folder


def _make(version: str, folder: Path) -> None:
    folder.mkdir()
    if not _fetch(version, folder):
        _compile(version, folder)


def _fetch(version: str, folder: Path) -> bool:
    """Download a release, and tell whether it came whole and in time."""
    deadline = time.monotonic() + _DOWNLOAD_TIMEOUT_S
    name = archive_name(version)
    try:
        for file in (_SUMS, name):
            _download(f"{_URL}/v{version}/{file}", folder / file, deadline)
    except OSError:
        return False
    return f"{_sha256(folder / name)}  ./{name}" in (folder / _SUMS).read_text().splitlines()


def _download(url: str, dest: Path, deadline: float) -> None:
    """Write what `url` sends to `dest`.

    :raises OSError: if it cannot be had before the deadline; the errors of urllib are of this kind.
    """
    with urllib.request.urlopen(url, timeout=_CONNECT_TIMEOUT_S) as answer, dest.open("wb") as file:  # noqa: S310
        while chunk := answer.read(1 << 20):
            file.write(chunk)
            if time.monotonic() > deadline:
                raise TimeoutError(url)


def _compile(version: str, folder: Path) -> None:
    """Compile and pack a release in a container; images/ollama/build-release has the commands."""
    name = archive_name(version)
    docker(
        "run", "--rm", f"--label={LABEL}", *egress.docker_options(), f"--volume={folder}:/release",
        ensure_image("ollama"), version, f"/release/{name}", env=egress.variables(),
    )  # fmt: skip
    (folder / _SUMS).write_text(f"{_sha256(folder / name)}  ./{name}\n")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
