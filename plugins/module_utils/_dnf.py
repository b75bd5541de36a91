# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What dnf 4 and rpm know of packages, and what they would do. Private to this collection.

Written from dnf's documentation and from listings of NVIDIA's repository, and tested on such text only.
"""

from __future__ import annotations

import re
import typing as t

from ansible_collections.llmfleet.serving.plugins.module_utils._errors import LlmError
from ansible_collections.llmfleet.serving.plugins.module_utils._gpu_facts import RunCommand
from ansible_collections.llmfleet.serving.plugins.module_utils._packages import (
    Change,
    Installed,
    Needs,
    Offer,
    Origin,
    Package,
    Transaction,
)

# A version lock hides what it locks out, so that no other version could ever be planned.
_FLAGS = ("--assumeno", "--disableplugin=versionlock", "--setopt=install_weak_deps=False", "--allowerasing")
_INSTALLED = "%{NAME}\\t%{EPOCHNUM}:%{VERSION}-%{RELEASE}\\n"
_AVAILABLE = "%{name}\\t%{epoch}:%{version}-%{release}\\t%{repoid}\\n"

_SECTION = re.compile(r"^(?P<title>[A-Z][a-z ]+):\n(?P<rows>(?: .*\n)+)", re.MULTILINE)
# A row whose name is too long for its column goes on in the next line.
_ROW = re.compile(
    r"^ (?P<name>\S+)\s+(?:x86_64|aarch64|i686|noarch)\s+(?P<version>\S+)\s+(?P<repository>\S+)", re.MULTILINE
)
_REPLACED = re.compile(r"^     replacing  (?P<name>\S+)\.\w+ (?P<version>\S+)$", re.MULTILINE)


class Dnf:
    """dnf of this host.

    :param run: AnsibleModule.run_command, or what takes and gives the same.
    """

    def __init__(self, run: RunCommand) -> None:
        self._run = run

    def installed(self) -> dict[str, Installed]:
        rows = self._ask("rpm", "--query", "--all", f"--queryformat={_INSTALLED}")
        return {name: Installed(version) for name, version in (row.split("\t") for row in rows.splitlines())}

    def packages(self, names: t.Iterable[str]) -> dict[str, Package]:
        query = ("repoquery", "--available", "--showduplicates", f"--queryformat={_AVAILABLE}")
        return parse_available(self._ask("dnf", "--quiet", "--disableplugin=versionlock", *query, *sorted(set(names))))

    def needs(self, specs: t.Mapping[str, str]) -> dict[str, Needs]:  # noqa: ARG002 - the protocol's name
        """Nothing: unlike apt, dnf looks for versions of the dependencies that fit together."""
        return {}

    def providers(self, names: t.Iterable[str]) -> dict[str, list[str]]:  # noqa: ARG002 - the protocol's name
        """Nothing, as `needs` asks for nothing."""
        return {}

    def simulate(self, specs: t.Mapping[str, str], remove: t.Collection[str]) -> Transaction:
        installed = self.installed()
        result = self._simulate(installed, "install", *(self.spec(*each) for each in sorted(specs.items())))
        if remove and not result.refused:
            more = self._simulate(installed, "remove", *sorted(remove))
            gone = {change.name for change in result.remove}
            result.remove += [change for change in more.remove if change.name not in gone]
            result.refused = more.refused
        return result

    def headers(self, kernel: str) -> str | None:
        wanted = kernel.rsplit(".", 1)[0]
        for offer in self.packages(["kernel-devel"]).get("kernel-devel", Package()).offers:
            if offer.version.split(":", 1)[-1] == wanted:
                return self.spec("kernel-devel", offer.version)
        return None

    def spec(self, name: str, version: str) -> str:
        return f"{name}-{version}"

    def _simulate(self, installed: t.Mapping[str, Installed], *words: str) -> Transaction:
        _status, output, errors = self._call("dnf", *_FLAGS, *words)
        # dnf says no, as it was told to, with the status of an error.
        if "Transaction Summary" in output or "Nothing to do" in output:
            return parse_transaction(output, installed)
        return Transaction(refused="; ".join(line.strip() for line in (errors or output).splitlines() if line.strip()))

    def _ask(self, *command: str) -> str:
        status, output, errors = self._call(*command)
        if status:
            raise LlmError(
                f"`{' '.join(command[:4])}` ended with {status}: {errors.strip()}. Are the repositories of "
                "this host in order? Run `dnf makecache` on it and look."
            )
        return output

    def _call(self, *command: str) -> tuple[int, str, str]:
        try:
            return self._run(list(command), environ_update={"LC_ALL": "C"}, handle_exceptions=False)
        except OSError as exc:
            raise LlmError(f"{command[0]} cannot be run: {exc}. Packages are resolved by dnf on this host.") from exc


def parse_available(text: str) -> dict[str, Package]:
    """Versions in what `dnf repoquery` tells of name, version and repository, newest first."""
    found: dict[str, dict[str, list[Origin]]] = {}
    for row in text.splitlines():
        if row:
            name, version, repository = row.split("\t")
            found.setdefault(name, {}).setdefault(version, []).append(Origin(repository))
    return {
        name: Package(tuple(Offer(version, tuple(versions[version])) for version in sorted(versions, key=_age)[::-1]))
        for name, versions in found.items()
    }


def parse_transaction(text: str, installed: t.Mapping[str, Installed]) -> Transaction:
    """The table that dnf shows before it asks."""
    result = Transaction()
    for section in _SECTION.finditer(text):
        for row in _ROW.finditer(section["rows"]):
            name, version = row["name"], _full(row["version"])
            before = installed[name].version if name in installed else None
            if section["title"].startswith("Install"):
                result.install.append(Change(name, None, version, row["repository"]))
            elif section["title"].startswith("Upgrad"):
                result.upgrade.append(Change(name, before, version, row["repository"]))
            elif section["title"].startswith("Downgrad"):
                result.downgrade.append(Change(name, before, version, row["repository"]))
            elif section["title"].startswith("Remov"):
                result.remove.append(Change(name, version, None))
        for old in _REPLACED.finditer(section["rows"]):
            result.remove.append(Change(old["name"], _full(old["version"]), None))
    return result


def _full(version: str) -> str:
    """With the epoch, which the table leaves out where it is 0."""
    return version if ":" in version else f"0:{version}"


def _age(version: str) -> list[tuple[bool, int, str]]:
    """rpm's order, for versions without its signs for before (~) and after (^): numbers are newer than words."""
    parts = re.findall(r"[0-9]+|[A-Za-z]+", version)
    return [(part.isdigit(), int(part) if part.isdigit() else 0, part) for part in parts]
