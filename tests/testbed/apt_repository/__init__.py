# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A stand-in for NVIDIA's apt repositories: real names, versions and dependencies, stub contents, the bed's own key.

README.md says what is in which repository, and what of it is made up.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from testbed.cache import cache_dir, key_of, locked
from testbed.engine import HUB, LABEL, docker, ensure_engine
from testbed.images import ensure_image

# Where hosts find the variants.
URL = f"http://{HUB}:8000/mirror/nvidia"

_HERE = Path(__file__).parent
_FAMILIES = {"debian12": "debian", "debian13": "debian", "ubuntu2204": "ubuntu", "ubuntu2404": "ubuntu"}
_RELEASE = 'APT::FTPArchive::Release {{ Origin "{origin}"; Label "{label}"; Architectures "amd64"; }};\n'
# Each upstream version with the revision that Ubuntu's packages have there; Debian's is -1 throughout.
_DRIVERS = {
    "550.144.03": "0ubuntu1",
    "550.163.01": "0ubuntu1",
    "580.95.05": "0ubuntu1",
    "580.126.09": "1ubuntu1",
    "580.178.04": "1ubuntu1",
    "595.71.05": "1ubuntu1",
}
# The real program, which the package that brings nvidia-smi needs, and the image that has it.
_NVIDIA_SMI = "/usr/lib/nvidia/current/nvidia-smi"
_NVIDIA_SMI_IMAGE = "debian13"


@dataclass(frozen=True)
class Repository:
    """The repositories that the hub serves under ``/mirror/nvidia/``.

    :ivar path: folder of the variants: ``<variant>/<os>/x86_64/``.
    :ivar fingerprint: of the key that signs all variants but ``wrong-key``, as 40 hexadecimal digits.
    """

    path: Path
    fingerprint: str


@dataclass(frozen=True)
class _Package:
    """One stub.

    :ivar group: what it is for: a family of distributions, or one release of them, or a variant's own.
    :ivar control: the fields of its control file.
    :ivar contents: name of its folder in ``contents``, or nothing.
    :ivar variables: what stands for ``@NAME@`` in its contents.
    """

    group: str
    control: dict[str, str]
    contents: str
    variables: dict[str, str]

    @property
    def name(self) -> str:
        return self.control["Package"]

    @property
    def version(self) -> str:
        return self.control["Version"]

    @property
    def file(self) -> str:
        """Name of its file, as dpkg-deb gives it."""
        return f"{self.name}_{self.version}_{self.control['Architecture']}.deb"


@dataclass(frozen=True)
class _Variant:
    """One set of repositories, one for each operating system.

    :ivar packages: what the repository for an operating system holds.
    :ivar origin: what its Release file says, as does `label`.
    :ivar signer: whose key signs it: ``bed`` or ``other``.
    """

    packages: Callable[[str], list[_Package]]
    origin: str = "NVIDIA"
    label: str = "NVIDIA CUDA"
    signer: str = "bed"


def ensure(root: Path | None = None) -> Repository:
    """Have the repositories, built if something of which they are made has changed.

    :param root: where to keep them; the bed's cache by default. The folder returned lies below and is named after what
        it was made from.
    :raises BedError: if a package cannot be built or a repository cannot be signed.
    """
    store = root or cache_dir() / "apt-repository"
    inputs = [Path(__file__), _HERE / "packages", _HERE / "contents", _HERE.parent / "images" / "apt_repository"]
    path = store / key_of(*inputs)
    store.mkdir(parents=True, exist_ok=True)
    with locked("apt-repository"):
        if not path.is_dir():
            with tempfile.TemporaryDirectory(dir=store, prefix=".unfinished-") as unfinished:
                folder = Path(unfinished, "repository")
                _lay_out(folder)
                _build(folder)
                folder.rename(path)
    return Repository(path, (path / "fingerprint").read_text().strip())


def _lay_out(folder: Path) -> None:
    """Write what images/apt_repository/build takes."""
    for name, variant in _VARIANTS.items():
        for system in _FAMILIES:
            repository = folder / name / system / "x86_64"
            repository.mkdir(parents=True)
            packages = variant.packages(system)
            (repository / "packages").write_text("".join(f"{package.group}/{package.file}\n" for package in packages))
            for package in packages:
                stub = folder / "stubs" / package.group / package.file.removesuffix(".deb")
                if not stub.exists():
                    _write_stub(stub, package)
        (folder / name / "release.conf").write_text(_RELEASE.format(origin=variant.origin, label=variant.label))
        (folder / name / "signer").write_text(f"{variant.signer}\n")


def _build(folder: Path) -> None:
    """Make repositories of what `_lay_out` has written; images/apt_repository/build has the commands."""
    ensure_engine()
    options = [
        "--rm", f"--label={LABEL}", "--network=none", f"--user={os.getuid()}:{os.getgid()}",
        f"--volume={folder}:/repository",
    ]  # fmt: skip
    docker("run", *options, "--entrypoint=cp", ensure_image(_NVIDIA_SMI_IMAGE), _NVIDIA_SMI, "/repository/")
    docker("run", *options, ensure_image("apt_repository"))


def _write_stub(folder: Path, package: _Package) -> None:
    """Lay out one package for dpkg-deb: its control file, a file that tells that it is installed, its contents."""
    source = _HERE / "contents" / package.contents
    for file in source.rglob("*") if package.contents else ():
        if file.is_file():
            target = folder / _fill_in(str(file.relative_to(source)), package.variables)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(_fill_in(file.read_text(), package.variables))
            shutil.copymode(file, target)
    (folder / "DEBIAN").mkdir(parents=True, exist_ok=True)
    control = "".join(f"{name}: {value}\n" for name, value in package.control.items())
    (folder / "DEBIAN" / "control").write_text(control)
    marker = folder / "usr" / "share" / "llmfleet-bed" / "packages" / package.name
    marker.parent.mkdir(parents=True)
    marker.write_text(f"{package.version}\n")


def _everything(system: str) -> list[_Package]:
    """What NVIDIA's repository for an operating system holds."""
    return [*_drivers(_FAMILIES[system]), *_read("toolkit", "common"), *_read("keyring", system, OS=system, URL=URL)]


def _newer_fabric_manager(system: str) -> list[_Package]:
    """Drivers of one patch, and the fabric manager of the next."""
    older, newer = list(_DRIVERS)[:2]
    return [
        package
        for package in _drivers(_FAMILIES[system])
        if package.variables["UPSTREAM"] == (newer if "fabricmanager" in package.name else older)
    ]


def _shadow(system: str) -> list[_Package]:
    """Somebody else's packages with the names of the driver's, in the same version and in a newer one."""
    name = f"shadow-{_FAMILIES[system]}"
    return _read(name, name)


_VARIANTS = {
    "good": _Variant(_everything),
    "fm-newer": _Variant(_newer_fabric_manager),
    "shadow": _Variant(_shadow, origin="Elsewhere", label="Elsewhere"),
    "wrong-key": _Variant(_everything, signer="other"),
}


def _drivers(family: str) -> list[_Package]:
    """Every version of the driver for one family of distributions."""
    return [package for version in _DRIVERS for package in _driver(family, version)]


def _driver(family: str, version: str) -> Iterator[_Package]:
    branch = version.partition(".")[0]
    # Packages were renamed at 580, and since 590 Ubuntu's have the branch in their name no more.
    generation = "550" if int(branch) < 580 else "580"
    variables = {
        "UPSTREAM": version,
        "BRANCH": branch,
        "SUFFIX": f"-{branch}" if int(branch) < 590 else "",
        "VERSION": f"{version}-{_DRIVERS[version] if family == 'ubuntu' else 1}",
    }
    for stanzas in (family, f"{family}-{generation}"):
        yield from _read(stanzas, family, **variables)


def _read(stanzas: str, group: str, **variables: str) -> list[_Package]:
    """The packages of one file of ``packages``, which is made like a package's control file."""
    text = _fill_in((_HERE / "packages" / f"{stanzas}.control").read_text(), variables)
    packages = []
    for stanza in text.strip().split("\n\n"):
        fields = dict(re.findall(r"^([\w-]+): ((?:.*)(?:\n .*)*)$", stanza, re.MULTILINE))
        contents = fields.pop("Contents", "")
        control = {
            "Version": variables.get("VERSION", ""),
            "Architecture": "amd64",
            "Maintainer": "llmfleet.serving contributors <nobody@example.org>",
            "Description": f"stub of {fields['Package']}, of the test bed of llmfleet.serving",
        }
        packages.append(_Package(group, control | fields, contents, variables))
    return packages


def _fill_in(text: str, variables: dict[str, str]) -> str:
    return re.sub("@([A-Z]+)@", lambda found: variables[found[1]], text)
