# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Whether a packaged kernel module builds for a kernel, tried where nothing can break. Private to this collection.

The build is DKMS's own, of the very package that apt would install, in trees that nobody else uses. What /usr/src,
/var/lib/dkms and /lib/modules hold is not touched.
"""

from __future__ import annotations

import contextlib
import re
import shutil
import typing as t
from dataclasses import dataclass
from pathlib import Path

from ansible_collections.llmfleet.serving.plugins.module_utils._errors import LlmError
from ansible_collections.llmfleet.serving.plugins.module_utils._files import (
    locked,
    os_errors,
    read_json,
    require_space,
    sha256_file,
    write_json,
)
from ansible_collections.llmfleet.serving.plugins.module_utils._gpu_facts import RunCommand
from ansible_collections.llmfleet.serving.plugins.module_utils._packages import upstream
from ansible_collections.llmfleet.serving.plugins.module_utils._stack import version

_RECORD_SCHEMA = 1
_RECORDS = "var/lib/llmfleet/dkms"
_LOGS = "var/log/llmfleet"
# For the source of a driver, its objects and its modules. Driver 535's take 700 MB.
_SCRATCH_NEED = 1 << 30

# Words of compilers, of the linker and of modpost; `-Werror=...` in the commands between them is not one.
_ERROR = re.compile(r"(?:^|:|\s)(?:fatal )?error: \S", re.IGNORECASE)
_MAKE_ERROR = re.compile(r"^make.*\*\*\* ")


@dataclass(frozen=True)
class Package:
    """A package in an exact version of the distribution or the repository: 535.261.03-1."""

    name: str
    version: str

    def __str__(self) -> str:
        return f"{self.name}={self.version}"

    @property
    def flavour(self) -> str:
        """`open` or `proprietary`. The open one's name says so: nvidia-open-kernel-dkms, nvidia-dkms-580-open."""
        return "open" if "open" in self.name.split("-") else "proprietary"


@dataclass(frozen=True)
class Kernel:
    """A kernel that modules are built for, as its headers describe it.

    :ivar version: what it is made from, such as 6.1.176. Its release, 6.1.0-50-amd64, need not tell.
    :ivar compiler: the command that built it, such as gcc-12.
    :ivar gcc: major version of that gcc; 0 for another compiler.
    :ivar symbols: sha256 of what modules are linked against.
    """

    version: str
    compiler: str
    gcc: int
    symbols: str


@dataclass(frozen=True)
class Range:
    """Versions from `since` to below `before`, or from `since` on."""

    since: str
    before: str | None

    def __str__(self) -> str:
        return f"{self.since} to below {self.before}" if self.before else f"{self.since} and newer"

    def holds(self, found: str) -> bool:
        below = self.before is None or version(found) < version(self.before)
        return below and version(found) >= version(self.since)


class Trial(t.NamedTuple):
    """:ivar new: whether the module was built now (in check mode: would be); else an earlier build still counts."""

    new: bool
    kernel_version: str
    compiler: str


def trial(
    run: RunCommand,
    packages: t.Sequence[str],
    release: str,
    known_bad: t.Sequence[t.Mapping[str, t.Any]],
    *,
    check: bool = False,
    root: Path = Path("/"),
) -> Trial:
    """Find out whether the module whose source is in `packages` builds for a kernel. What has built once is remembered.

    :param packages: as name=version; all are unpacked together, and the first has the driver's version.
    :param release: what `uname -r` tells of the kernel, which need not be the running one.
    :param known_bad: entries of `playbooks/stacks/kernels.yml`.
    :param check: only tell whether a build would be made.
    :raises LlmError: with all that is in the way of a build, or with the compiler's first error.
    """
    wanted = [_package(one) for one in packages]
    if not wanted or not re.fullmatch(r"[0-9A-Za-z][0-9A-Za-z.+_~-]*", release):
        raise LlmError(
            f"A trial takes packages and a kernel's release, as `uname -r` tells it; found {packages} and {release!r}."
        )
    driver = wanted[0]
    kernel, compiler = _tools(run, driver, release, known_bad, root)
    inputs = {
        "schema": _RECORD_SCHEMA,
        "packages": {str(package): _sha256(run, package) for package in wanted},
        "kernel": release,
        "symbols": kernel.symbols,
        "compiler": compiler,
    }
    stem = f"{driver.name}-{driver.version}-{release}"
    record, log = root / _RECORDS / f"{stem}.json", root / _LOGS / f"dkms-{stem}.log"
    new = read_json(record) != inputs
    if new and not check:
        with os_errors(f"Building {driver} for kernel {release}"), _scratch(record.parent / "build") as scratch:
            _build(run, wanted, release, scratch, log)
            log.unlink(missing_ok=True)
            write_json(record, inputs)
    return Trial(new, kernel.version, compiler)


def _package(text: str) -> Package:
    name, _equals, number = text.partition("=")
    if not re.fullmatch(r"[a-z0-9][a-z0-9+.-]+", name) or not re.fullmatch(r"[0-9][A-Za-z0-9.+:~-]*", number):
        raise LlmError(
            f"{text[:80]!r} is no package in an exact version: expected one like nvidia-open-kernel-dkms=535.261.03-1, "
            "as `apt-cache policy` lists them."
        )
    return Package(name, number)


# --- What is known before a build


def _tools(
    run: RunCommand, driver: Package, release: str, known_bad: t.Sequence[t.Mapping[str, t.Any]], root: Path
) -> tuple[Kernel, str]:
    """The kernel and the compiler of a build for which everything is there and nothing is known to go wrong."""
    kernel = read_kernel(release, root)
    compiler = _compiler(run, kernel) if kernel else ""
    problems = [] if _said(run, "dkms", "--version") else ["dkms is not installed. Install the package dkms."]
    if kernel is None:
        problems.append(f"its headers are not installed. Install linux-headers-{release}.")
    else:
        problems += _obstacles(kernel, compiler, driver, known_bad)
    if kernel is None or problems:
        title = f"The kernel module of {driver} cannot be built for kernel {release}:"
        raise LlmError("\n".join([title, *(f"- {problem}" for problem in problems)]))
    return kernel, compiler


def read_kernel(release: str, root: Path = Path("/")) -> Kernel | None:
    """What the headers of a kernel tell of it; None where they are not installed."""
    headers = root / "lib/modules" / release / "build"
    try:
        header = (headers / "include/generated/uapi/linux/version.h").read_text()
        config = (headers / "include/config/auto.conf").read_text()
        symbols = sha256_file(headers / "Module.symvers")
    except OSError:
        return None
    code = _number(r"^#define LINUX_VERSION_CODE (\d+)$", header)
    # Kernels before 5.17 have quotes around it.
    compiler = re.search(r'^CONFIG_CC_VERSION_TEXT="?([^" ]+)', config, re.MULTILINE)
    return Kernel(
        version=f"{code >> 16}.{code >> 8 & 255}.{code & 255}",
        compiler=compiler[1] if compiler else "gcc",
        gcc=_number(r"^CONFIG_GCC_VERSION=(\d+)$", config) // 10000,
        symbols=symbols,
    )


def _number(pattern: str, text: str) -> int:
    found = re.search(pattern, text, re.MULTILINE)
    return int(found[1]) if found else 0


def _compiler(run: RunCommand, kernel: Kernel) -> str:
    """The compiler with its version, as in "gcc-12 12.2.0", that a build for the kernel would use; "" without one.

    DKMS and the kernel's own makefiles take the one of the kernel's name if it is here, else what is called gcc.
    """
    for command in (kernel.compiler, "gcc"):
        number = _said(run, command, "-dumpfullversion", "-dumpversion")
        if number:
            return f"{command} {number}"
    return ""


def _obstacles(
    kernel: Kernel, compiler: str, package: Package, known_bad: t.Sequence[t.Mapping[str, t.Any]]
) -> t.Iterator[str]:
    """What is known to be wrong before a build is tried. Of a kernel that clang built, the build tells."""
    if kernel.gcc and compiler.partition(" ")[2].partition(".")[0] != str(kernel.gcc):
        yield (
            f"it was built with gcc {kernel.gcc}, which a module for it needs too; found {compiler or 'no compiler'}. "
            f"Install gcc-{kernel.gcc}."
        )
    for pair in known_bad:
        drivers, kernels = _ranges(pair["driver"]), _ranges(pair["kernel"])
        driver = upstream(package.version)
        if package.flavour in pair["module"] and _within(driver, drivers) and _within(kernel.version, kernels):
            yield (
                f"driver {driver} is known not to build for kernel {kernel.version}: {pair['symptom']} ({pair['id']}; "
                f"{pair['source']}). This is so for drivers {_words(drivers)} with kernels {_words(kernels)}: take "
                "another driver or kernel."
            )


def _ranges(entries: t.Sequence[t.Mapping[str, t.Any]]) -> list[Range]:
    return [Range(one["since"], one.get("before")) for one in entries]


def _within(found: str, ranges: list[Range]) -> bool:
    return any(one.holds(found) for one in ranges)


def _words(ranges: list[Range]) -> str:
    return " and ".join(map(str, ranges))


# --- The build


def _sha256(run: RunCommand, package: Package) -> str:
    """The checksum of a package's file, as its repository gives it and apt will verify it."""
    sums = re.findall(r"^SHA256: ([0-9a-f]{64})$", _done(run, "apt-cache", "show", str(package)), re.MULTILINE)
    if not sums:
        raise LlmError(
            f"apt knows no {package}. `apt-cache policy {package.name}` on the host shows what it knows, and "
            "`apt-get update` brings that up to date."
        )
    return str(sums[0])


@contextlib.contextmanager
def _scratch(directory: Path) -> t.Iterator[Path]:
    """An empty directory for one build at a time, also where one was killed before; it is gone afterwards."""
    directory.parent.mkdir(parents=True, exist_ok=True)
    with locked(directory):
        shutil.rmtree(directory, ignore_errors=True)
        directory.mkdir()
        try:
            yield directory
        finally:
            shutil.rmtree(directory)


def _build(run: RunCommand, packages: t.Sequence[Package], release: str, scratch: Path, log: Path) -> None:
    """Build the module in an empty directory; keep the log of a failure."""
    require_space(scratch, _SCRATCH_NEED, f"building the kernel module of {packages[0]}")
    _done(run, "apt-get", "download", *map(str, packages), cwd=str(scratch))
    for archive in sorted(scratch.glob("*.deb")):
        _done(run, "dpkg-deb", "--extract", str(archive), str(scratch))
    source = _source(scratch, packages)
    # DKMS takes the folder's name apart at a place of our choice and puts it together again.
    module, _dash, number = source.name.rpartition("-")
    tree = scratch / "dkms"
    tree.mkdir()
    status, output, errors = _call(
        run,
        *("dkms", "build", "-m", module, "-v", number, "-k", release),
        *("--sourcetree", str(source.parent), "--dkmstree", str(tree)),
    )
    if status:
        raise LlmError(_failure(packages[0], release, tree, log, output + errors))


def _source(scratch: Path, packages: t.Sequence[Package]) -> Path:
    """The folder with the module's source. On Ubuntu its two parts are in two packages."""
    found = [conf.parent for conf in scratch.glob("usr/src/*/dkms.conf")]
    if len(found) != 1:
        names = " and ".join(map(str, packages))
        raise LlmError(
            f"{names} should have one usr/src/*/dkms.conf, and {len(found)} are there. Name the packages of one kernel "
            "module: one has dkms in its name, and on Ubuntu nvidia-kernel-source-... belongs to it."
        )
    return found[0]


def _failure(package: Package, release: str, tree: Path, log: Path, output: str) -> str:
    """Keep the log of a build that failed, and tell what went wrong in it."""
    made = next(tree.glob("*/*/build/make.log"), None)
    text = made.read_text(errors="replace") if made else output
    log.parent.mkdir(parents=True, exist_ok=True)
    log.write_text(text, errors="replace")
    error = _first_error(text).replace(f"{made.parent}/" if made else "", "")
    return (
        f"The kernel module of {package} does not build for kernel {release}:\n{error}\n"
        f"Nothing was installed. The log is {log} on the host. Take another version of the driver or kernel."
    )


def _first_error(log: str) -> str:
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    for pattern in (_ERROR, _MAKE_ERROR):
        found = next((line for line in lines if pattern.search(line)), None)
        if found:
            return found[:500]
    return "DKMS says: " + " ".join(lines[-3:])[-500:]


def _call(run: RunCommand, *command: str, cwd: str | None = None) -> tuple[int, str, str]:
    # The module of a trial is never loaded, and signing it would make a key in /var/lib/dkms where there is none yet.
    # DKMS signs nothing with a program that does not exist.
    environment = {"LC_ALL": "C", "sign_file": "/nonexistent"}
    try:
        return run(list(command), environ_update=environment, handle_exceptions=False, cwd=cwd)
    except OSError as exc:
        raise LlmError(f"{command[0]} cannot be run: {exc.strerror}. The build of a kernel module needs it.") from exc


def _said(run: RunCommand, *command: str) -> str:
    """What a command prints; "" when it fails or is not there."""
    try:
        status, output, _errors = _call(run, *command)
    except LlmError:
        return ""
    return "" if status else output.strip()


def _done(run: RunCommand, *command: str, cwd: str | None = None) -> str:
    """What a command prints that has to succeed."""
    status, output, errors = _call(run, *command, cwd=cwd)
    if status:
        said = " ".join(errors.split())[-500:] or "without a word"
        raise LlmError(f"`{' '.join(command)}` ended with status {status}: {said}")
    return output
