# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What apt and dpkg know of packages, and what they would do. Private to this collection.

Versions are never compared here: apt lists them in dpkg's order and says itself what is a downgrade.
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

# What is installed and whole, or not installed at all. Everything else is a transaction that did not end.
_WHOLE = ("installed", "config-files", "not-installed")
_STATES = "-f=${Package}\\t${Version}\\t${db:Status-Want}\\t${db:Status-Status}\\n"
# The flags that the role installs with: versions go down as well as up, held ones too, and nothing comes that no part
# depends on (libcuda1 recommends the proprietary kernel module).
_FLAGS = ("--no-install-recommends", "--allow-downgrades", "--allow-change-held-packages")

_SOURCE = re.compile(r"^ *-?\d+ (?P<source>\S.*)$")
_RELEASE = re.compile(r"^ +release (?P<fields>.*)$")
_SITE = re.compile(r"^ +origin (?P<site>\S+)$")
_CANDIDATE = re.compile(r"^  Candidate: (?P<version>\S+)$")
_VERSION = re.compile(r"^ (?:\*\*\*|   ) (?P<version>\S+) ")
_VERSION_SOURCE = re.compile(r"^ {7} *-?\d+ (?P<source>\S.*)$")
_INSTALL = re.compile(
    r"^Inst (?P<name>[^\s:]+)(?::\S+)?(?: \[(?P<before>\S+)\])? \((?P<after>\S+)(?: (?P<origin>.*?))? \["
)
_REMOVE = re.compile(r"^(?:Remv|Purg) (?P<name>[^\s:]+)(?::\S+)? \[(?P<before>\S+)\]")
_DOWNGRADED = re.compile(r"^The following packages will be DOWNGRADED:\n(?P<names>(?: .*\n)+)", re.MULTILINE)


class Apt:
    """apt of this host.

    :param run: AnsibleModule.run_command, or what takes and gives the same.
    """

    def __init__(self, run: RunCommand) -> None:
        self._run = run
        self._origins: dict[str, Origin] | None = None

    def installed(self) -> dict[str, Installed]:
        return parse_states(self._ask("dpkg-query", "--show", _STATES))

    def packages(self, names: t.Iterable[str]) -> dict[str, Package]:
        if self._origins is None:
            self._origins = parse_origins(self._ask("apt-cache", "policy"))
        asked = sorted(set(names))
        return parse_policy(self._ask("apt-cache", "policy", *asked), self._origins) if asked else {}

    def needs(self, specs: t.Mapping[str, str]) -> dict[str, Needs]:
        return parse_needs(self._ask("apt-cache", "show", *_words(specs))) if specs else {}

    def providers(self, names: t.Iterable[str]) -> dict[str, list[str]]:
        asked = sorted(set(names))
        return parse_providers(self._ask("apt-cache", "showpkg", *asked)) if asked else {}

    def simulate(self, specs: t.Mapping[str, str], remove: t.Collection[str]) -> Transaction:
        # In one command, as a package that goes may be what keeps another from coming.
        words = [*_words(specs), *(f"{name}-" for name in sorted(remove))]
        status, output, errors = self._call("apt-get", "--simulate", "--yes", *_FLAGS, "install", *words)
        if status:
            return Transaction(refused=_complaint(output, errors))
        return parse_simulation(output)

    def headers(self, kernel: str) -> str | None:
        name = f"linux-headers-{kernel}"
        package = self.packages([name]).get(name, Package())
        return self.spec(name, package.candidate) if package.candidate else None

    def spec(self, name: str, version: str) -> str:
        return f"{name}={version}"

    def _ask(self, *command: str) -> str:
        status, output, errors = self._call(*command)
        if status:
            raise LlmError(
                f"`{' '.join(command[:2])}` ended with {status}: {_complaint('', errors)}. Are apt's lists "
                "in order on this host? Run `apt-get update` on it and look."
            )
        return output

    def _call(self, *command: str) -> tuple[int, str, str]:
        try:
            return self._run(list(command), environ_update={"LC_ALL": "C"}, handle_exceptions=False)
        except OSError as exc:
            raise LlmError(f"{command[0]} cannot be run: {exc}. Packages are resolved by apt on this host.") from exc


def parse_states(text: str) -> dict[str, Installed]:
    """The installed packages in what dpkg-query tells of name, version, selection and state."""
    rows = (line.split("\t") for line in text.splitlines())
    return {
        name: Installed(version, want == "hold", "" if state in _WHOLE else state)
        for name, version, want, state in rows
        if state not in _WHOLE[1:]
    }


def parse_origins(text: str) -> dict[str, Origin]:
    """Who publishes each source of `apt-cache policy` without names, by the words that name it everywhere."""
    origins: dict[str, Origin] = {}
    source, fields = "", {}
    for line in text.splitlines():
        if line.startswith("Pinned packages"):
            break
        if release := _RELEASE.match(line):
            # A value may have commas ("l=Debian, of sorts"), a key is one letter.
            fields = dict(re.findall(r"(?:^|,)([a-z])=(.*?)(?=,[a-z]=|$)", release["fields"]))
            origins[source] = Origin(fields.get("o", ""), fields.get("l", ""))
        elif site := _SITE.match(line):
            known = origins.get(source, Origin(""))
            # Without a Release file only the host tells repositories apart.
            origins[source] = Origin(known.origin or site["site"], known.label, site["site"])
        elif found := _SOURCE.match(line):
            source = found["source"]
    # dpkg's own record of what is installed is nobody's.
    return {source: origin for source, origin in origins.items() if origin.origin}


def parse_policy(text: str, origins: t.Mapping[str, Origin]) -> dict[str, Package]:
    """Versions and candidates in `apt-cache policy NAME...`, of the sources that `parse_origins` knows."""
    packages = {}
    for block in re.split(r"^(?=\S)", text, flags=re.MULTILINE):
        lines = block.splitlines()
        if not lines or not lines[0].endswith(":"):
            continue
        candidate, offers = None, []
        for line in lines[1:]:
            if found := _CANDIDATE.match(line):
                candidate = None if found["version"] == "(none)" else found["version"]
            elif found := _VERSION.match(line):
                offers.append(Offer(found["version"]))
            elif (found := _VERSION_SOURCE.match(line)) and (origin := origins.get(found["source"])):
                offers[-1] = Offer(offers[-1].version, (*offers[-1].origins, origin))
        packages[lines[0][:-1]] = Package(tuple(offers), candidate)
    return packages


def parse_needs(text: str) -> dict[str, Needs]:
    """What packages provide and depend on, in `apt-cache show NAME=VERSION...`."""
    needs: dict[str, Needs] = {}
    for stanza in re.split(r"\n\s*\n", text):
        fields = dict(re.findall(r"^([A-Za-z-]+):[ \t]*(.*(?:\n[ \t].*)*)", stanza, re.MULTILINE))
        if "Package" in fields:
            groups = [
                [_name(word) for word in group.split("|")]
                for key in ("Pre-Depends", "Depends")
                for group in fields.get(key, "").split(",")
                if group.strip()
            ]
            provided = frozenset(_name(word) for word in fields.get("Provides", "").split(",") if word.strip())
            needs[fields["Package"].strip()] = Needs(provided, groups)
    return needs


def parse_providers(text: str) -> dict[str, list[str]]:
    """Who provides each package of `apt-cache showpkg NAME...`."""
    providers = {}
    for block in re.split(r"^Package: ", text, flags=re.MULTILINE)[1:]:
        rows = block.partition("\nReverse Provides: \n")[2].splitlines()
        providers[block.split("\n", 1)[0].strip()] = list(dict.fromkeys(_name(row) for row in rows if row.strip()))
    return providers


def parse_simulation(text: str) -> Transaction:
    """What `apt-get --simulate` says that it would do."""
    section = _DOWNGRADED.search(text)
    downgraded = {_name(word) for word in section["names"].split()} if section else set()
    result = Transaction()
    for line in text.splitlines():
        if found := _INSTALL.match(line):
            change = Change(found["name"], found["before"], found["after"], (found["origin"] or "").split(", ")[0])
            if change.before is None:
                result.install.append(change)
            elif change.name in downgraded:
                result.downgrade.append(change)
            elif change.before != change.after:
                result.upgrade.append(change)
        elif found := _REMOVE.match(line):
            result.remove.append(Change(found["name"], found["before"], None))
    return result


def _words(specs: t.Mapping[str, str]) -> list[str]:
    return [f"{name}={version}" for name, version in sorted(specs.items())]


def _name(word: str) -> str:
    """The name in "libcuda1:any (>= 550)"."""
    return re.split(r"[\s:(]", word.strip(), maxsplit=1)[0]


def _complaint(output: str, errors: str) -> str:
    """Why apt refuses, in its words: what does not go together, else its errors."""
    unmet = output.partition("The following packages have unmet dependencies:\n")[2].splitlines()
    said = [re.sub(r"\s+", " ", line.strip()) for line in unmet if line.startswith(" ")]
    said = said or [line[3:] for line in errors.splitlines() if line.startswith("E: ")]
    return "; ".join(said) or errors.strip() or "it does not say why"
