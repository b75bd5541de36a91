# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""``python -m testbed.archives NAME``: have a release's archive on the bed's mirror, and tell its checksum.

GitHub, where these are released, cannot be reached from everywhere. But packages of the Python index carry the same
things: uv its programs, llama-cpp-python the whole source of llama.cpp. Out of them come archives that are laid out as
the releases are.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import io
import sys
import tarfile
import tempfile
import typing as t
import venv
import zipfile
from dataclasses import dataclass
from pathlib import Path

from testbed import BedError
from testbed.cache import locked
from testbed.engine import command
from testbed.ollama import mirror_dir

UV_VERSION = "0.13.9"
# Of January 2025: the llama.cpp in it is that of the original procedure's month.
LLAMA_CPP_TAG = "llama-cpp-python-0.3.7"

# Name, mode and content of each file.
_Files = t.Iterator[tuple[str, int, bytes]]


def _uv(package: Path) -> _Files:
    with zipfile.ZipFile(package) as source:
        for program in ("uv", "uvx"):
            content = source.read(f"uv-{UV_VERSION}.data/scripts/{program}")
            yield f"uv-x86_64-unknown-linux-gnu/{program}", 0o755, content


def _llama_cpp(package: Path) -> _Files:
    with tarfile.open(package) as source:
        for member in source:
            inside = member.name.partition("vendor/llama.cpp/")[2]
            # The package has the submodule's link to a repository that is not there.
            if inside and inside != ".git" and (content := source.extractfile(member)):
                yield f"llama.cpp-{LLAMA_CPP_TAG}/{inside}", member.mode, content.read()


@dataclass(frozen=True)
class _Archive:
    """What an archive on the mirror is made of.

    :ivar path: below the mirror.
    :ivar pin: the package on the index, as ``name==version``.
    :ivar sha256: of the one file of the package that is meant.
    :ivar options: of ``pip download``, which select that file.
    :ivar files: what of the package goes into the archive.
    """

    path: str
    pin: str
    sha256: str
    options: tuple[str, ...]
    files: t.Callable[[Path], _Files]


_ARCHIVES = {
    "llama_cpp": _Archive(
        f"llama_cpp/{LLAMA_CPP_TAG}.tar.gz",
        "llama-cpp-python==0.3.7",
        "0566a0dcc0f38005c4093309a87f67c2452449522e3e17e15cd735a62957894c",
        ("--no-binary=llama-cpp-python",),
        _llama_cpp,
    ),
    "uv": _Archive(
        f"uv/{UV_VERSION}/uv-x86_64-unknown-linux-gnu.tar.gz",
        f"uv=={UV_VERSION}",
        "d7f459fe4fd247d830351c75686d3996ace3c6f3f728eb0e85a30b7ada0cef19",
        ("--only-binary=:all:", "--platform=manylinux_2_17_x86_64"),
        _uv,
    ),
}


def ensure(name: str) -> Path:
    """An archive on the mirror, made if it is missing.

    :param name: one of ``llama_cpp`` and ``uv``.
    :raises BedError: if the package cannot be fetched, or is another one.
    """
    archive = _ARCHIVES[name]
    path = mirror_dir() / archive.path
    with locked(f"archive-{name}"):
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=path.parent, prefix=".unfinished-") as unfinished:
                package = _fetch(archive, Path(unfinished))
                _pack(archive.files(package), Path(unfinished, "archive"))
                Path(unfinished, "archive").rename(path)
    return path


def checksum(name: str) -> str:
    """Checksum of an archive on the mirror, in the form that roles take."""
    with ensure(name).open("rb") as file:
        return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"


def _fetch(archive: _Archive, folder: Path) -> Path:
    """Download the package with a pip of its own, which reaches the index in the way that is set up on this machine."""
    venv.create(folder / "pip", with_pip=True)
    (folder / "requirements.txt").write_text(f"{archive.pin} --hash=sha256:{archive.sha256}\n")
    (folder / "package").mkdir()
    command(
        [
            *(str(folder / "pip/bin/pip"), "download", "--quiet", "--no-deps", "--require-hashes"),
            *(f"--requirement={folder / 'requirements.txt'}", f"--dest={folder / 'package'}", *archive.options),
        ]
    )
    return next((folder / "package").iterdir())


def _pack(files: _Files, path: Path) -> None:
    with (
        path.open("wb") as file,
        gzip.GzipFile("", "wb", compresslevel=1, fileobj=file, mtime=0) as packed,
        tarfile.open(fileobj=packed, mode="w") as target,
    ):
        for name, mode, content in files:
            member = tarfile.TarInfo(name)
            member.size, member.mode = len(content), mode
            target.addfile(member, io.BytesIO(content))


def main() -> int:
    """Print the checksum; 1 and one message on standard error if there is no archive."""
    parser = argparse.ArgumentParser(prog="python -m testbed.archives", description=__doc__)
    parser.add_argument("name", choices=_ARCHIVES)
    try:
        print(checksum(parser.parse_args().name))
    except BedError as error:
        print(f"testbed: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
