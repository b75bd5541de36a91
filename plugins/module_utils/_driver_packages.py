# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Which packages make ONE NVIDIA driver: one version of every part, from one origin. Private to this collection.

The fabric manager refuses to start beside another version, NVML and CUDA fail beside another kernel module, and apt
mixes branches and repositories as it goes. So every part is named with its version, and what would be done is looked at
before it is done.
"""

from __future__ import annotations

import re
import typing as t
from pathlib import Path

from ansible_collections.llmfleet.serving.plugins.module_utils._driver_names import (
    TOOLS,
    Names,
    Request,
    System,
    is_driver,
    is_driver_version,
    names_of,
)
from ansible_collections.llmfleet.serving.plugins.module_utils._errors import LlmError
from ansible_collections.llmfleet.serving.plugins.module_utils._packages import (
    Change,
    Installed,
    Offer,
    Origin,
    Package,
    PackageManager,
    Transaction,
    upstream,
)


def plan_driver(manager: PackageManager, system: System, request: Request, root: Path = Path("/")) -> dict[str, t.Any]:
    """What has to be installed for this driver to be there, and what that would change.

    :param root: where the host's files are.
    :raises LlmError: with all reasons at once why it must not be installed.
    """
    names = names_of(request, system)
    installed = manager.installed()
    known = manager.packages([*names.parts, *names.any_version])
    version = request.version if request.exact else _newest(request.version, names, known)
    resolver = _Resolver(manager, names, version, installed, known)
    lacks_headers = _lacks_headers(request, root)
    headers = manager.headers(request.kernel) if lacks_headers else None

    problems = _broken(installed)
    problems += resolver.missing() if version else [_no_common(request.version, names, known)]
    if lacks_headers and not headers:
        problems.append(
            f"Headers of kernel {request.kernel} are expected, to build the module; neither the host nor a repository "
            "has them. Boot a kernel whose headers can be had."
        )
    _refuse(problems, request, names)

    resolver.resolve()
    transaction = manager.simulate(resolver.plan, resolver.obsolete)
    _refuse([*resolver.shadowed(), *_unwanted(transaction, resolver, system)], request, names)

    plan = resolver.plan
    return {
        "version": version,
        "branch": str(request.branch),
        "origin": resolver.published_by()._asdict(),
        "packages": [manager.spec(*each) for each in sorted(plan.items())],
        "names": sorted(plan),
        "hold": sorted(plan),
        "held": [name for name in sorted(plan) if name in installed and installed[name].held],
        "kernel_packages": [manager.spec(name, plan[name]) for name in names.module],
        "headers": headers,
        "fabric_manager": names.fabric_manager,
        "obsolete": resolver.obsolete,
        **_state(installed, request.module != "none", root),
        **_as_result(transaction),
    }


def plan_removal(manager: PackageManager, root: Path = Path("/")) -> dict[str, t.Any]:
    """What has to go for no driver to be there. Raises LlmError when something else would go with it."""
    installed = manager.installed()
    names = _parts_of(installed)
    transaction = manager.simulate({}, names) if names else Transaction()
    problems = [*_broken(installed), *_refused(transaction), *_lost(transaction)]
    if problems:
        raise LlmError(_listed("The driver cannot be removed", problems))
    return {
        "version": None,
        "branch": None,
        "origin": None,
        "packages": [],
        "names": names,
        "hold": [],
        "held": [name for name in names if installed[name].held],
        "kernel_packages": [],
        "headers": None,
        "fabric_manager": None,
        "obsolete": names,
        **_state(installed, False, root),
        **_as_result(transaction),
    }


def read_loaded(root: Path = Path("/")) -> str | None:
    """Version of the kernel module that is loaded; None when none is."""
    for path, pattern in (
        ("proc/driver/nvidia/version", r"Kernel Module(?: for \S+)?\s+([0-9.]+)"),
        ("sys/module/nvidia/version", r"([0-9.]+)"),
    ):
        try:
            text = (root / path).read_text(encoding="ascii", errors="replace")
        except OSError:
            continue
        if found := re.search(pattern, text):
            return found[1]
    return None


class _Resolver:
    """Finds the packages that have the driver's version, from one origin.

    :ivar plan: version by name of all that belongs to the driver.
    :ivar obsolete: installed parts of another driver that have no place in it.
    """

    def __init__(
        self,
        manager: PackageManager,
        names: Names,
        version: str,
        installed: t.Mapping[str, Installed],
        known: dict[str, Package],
    ) -> None:
        self._manager = manager
        self._names = names
        self._known = known
        self.origin = names.origin
        self.version = version
        self.installed = installed
        self.plan: dict[str, str] = {}
        self.obsolete: list[str] = []

    def find(self, name: str) -> str | None:
        """The package's version that has the driver's: the installed one where that is among them; None without."""
        if self._names.excludes(name):
            return None
        fitting = [
            offer.version
            for offer in self._offers(name)
            if offer.of(self.origin) and upstream(offer.version) == self.version
        ]
        have = self._have(name)
        if have in fitting or (upstream(have) == self.version and self._withdrawn(name, have)):
            return have
        return fitting[0] if fitting else None

    def missing(self) -> list[str]:
        """Which parts cannot be had in this version."""
        lacking = [f"{name} has {self._other_versions(name)}" for name in self._names.parts if not self.find(name)]
        return [_incomplete(f"{self.version} is expected", self.origin, lacking)] if lacking else []

    def resolve(self) -> None:
        """Plan the parts, what they depend on, and what is installed of a driver beside them."""
        self._follow(self._names.parts)
        for name in self._names.any_version:
            versions = [offer.version for offer in self._offers(name) if offer.of(self.origin)]
            if versions:
                self.plan.setdefault(name, self._have(name) or versions[0])
        beside = [name for name in _parts_of(self.installed) if name not in self.plan]
        self._learn(beside)
        self._follow(name for name in beside if self.find(name))
        self.obsolete = [name for name in beside if not self.find(name) and self._obsolete(name)]

    def shadowed(self) -> list[str]:
        """What somebody else would bring in place of the planned."""
        return [problem for name in sorted(self.plan) if (problem := self._shadowed(name))]

    def published_by(self) -> Origin:
        """Who publishes the first part of the plan."""
        offers = (offer for name in sorted(self.plan) for offer in self._offers(name))
        publishers = (origin for offer in offers for origin in offer.origins if origin.origin == self.origin)
        return next(publishers, Origin(self.origin))

    def _follow(self, names: t.Iterable[str]) -> None:
        """Plan these, and what they depend on wherever that has the driver's version.

        apt takes the newest version of whatever is not named, and gives up when that does not fit.
        """
        provided: set[str] = set()
        todo = {name: version for name in names if (version := self.find(name))}
        while todo:
            self.plan.update(todo)
            needs = self._manager.needs(todo).values()
            provided.update(name for need in needs for name in need.provides)
            unmet = [group for need in needs for group in need.depends if not {*provided, *self.plan} & {*group}]
            self._learn(name for group in unmet for name in group)
            virtual = [name for group in unmet if not any(map(self._offers, group)) for name in group]
            providers = self._manager.providers(virtual)
            self._learn(name for names in providers.values() for name in names)
            choices = [[*group, *(name for word in group for name in providers.get(word, ()))] for group in unmet]
            fitting = [[(name, version) for name in names if (version := self.find(name))] for names in choices]
            todo = dict(pairs[0] for pairs in fitting if pairs)

    def _learn(self, names: t.Iterable[str]) -> None:
        self._known.update(self._manager.packages({*names} - {*self._known}))

    def _offers(self, name: str) -> tuple[Offer, ...]:
        return self._known.get(name, Package()).offers

    def _have(self, name: str) -> str:
        return self.installed[name].version if name in self.installed else ""

    def _obsolete(self, name: str) -> bool:
        """Whether an installed part is another driver's. A tool may have any version; one that is held came with it."""
        package = self.installed[name]
        other = upstream(package.version) != self.version and (name not in TOOLS or package.held)
        return other or self._names.excludes(name)

    def _withdrawn(self, name: str, have: str) -> bool:
        """Whether the origin has this driver no more, as archives keep only the newest: what is there then stays."""
        elsewhere = any(offer.origins for offer in self._offers(name) if offer.version == have)
        offers = [offer for package in self._known.values() for offer in package.offers if offer.of(self.origin)]
        return not elsewhere and all(upstream(offer.version) != self.version for offer in offers)

    def _other_versions(self, name: str) -> str:
        found = [upstream(offer.version) for offer in self._offers(name) if offer.of(self.origin)][:5] or ["none"]
        for offer in self._offers(name):
            if upstream(offer.version) == self.version and offer.origins and not offer.of(self.origin):
                found.append(f"{offer.version} from {offer.origins[0].origin}")
        return _and(found)

    def _shadowed(self, name: str) -> str | None:
        version, package = self.plan[name], self._known[name]
        owners = {origin.origin for offer in package.offers if offer.version == version for origin in offer.origins}
        if others := sorted(owners - {self.origin}):
            return (
                f"{name}: {version} is expected from {self.origin} alone; {_and(others)} has that version too. Remove "
                "or disable that repository."
            )
        preferred = next((offer for offer in package.offers if offer.version == package.candidate), Offer(""))
        # What is there already is going to be held. What is there and goes may well be newer and another's.
        if self._have(name) in (version, preferred.version) or not preferred.origins or preferred.of(self.origin):
            return None
        return (
            f"{name}: {version} is expected from {self.origin}; apt prefers {preferred.version} from "
            f"{preferred.origins[0].origin}. Pin {self.origin} higher for this package, or remove that repository."
        )


def _newest(branch: str, names: Names, known: t.Mapping[str, Package]) -> str:
    """The newest version of a branch that all parts have; "" without."""
    common = set.intersection(*({*_versions(branch, names.origin, known.get(name))} for name in names.parts))
    return max(common, key=_numbers, default="")


def _versions(branch: str, origin: str, package: Package | None) -> list[str]:
    """The driver's versions of a branch that a package can be had in."""
    offers = package.offers if package else ()
    versions = {upstream(offer.version) for offer in offers if offer.of(origin)}
    found = (version for version in versions if version.startswith(f"{branch}.") and is_driver_version(version))
    return sorted(found, key=_numbers, reverse=True)


def _numbers(version: str) -> list[int]:
    return [int(number) for number in version.split(".")]


def _lacks_headers(request: Request, root: Path) -> bool:
    """Whether the module is built for a kernel whose headers are not there yet."""
    return bool(
        request.module != "none" and request.kernel and not (root / "lib/modules" / request.kernel / "build").exists()
    )


def _incomplete(expected: str, origin: str, found: list[str]) -> str:
    return (
        f"{expected} of every part from {origin}; {'; '.join(found)}. Choose a version that every part has; or, where "
        "there is one, look whether the repository (on RHEL, the module stream) is enabled and its lists are new."
    )


def _no_common(branch: str, names: Names, known: t.Mapping[str, Package]) -> str:
    found = ((name, _versions(branch, names.origin, known.get(name))) for name in names.parts)
    has = [f"{name} has {_and(versions[:3]) if versions else 'none'}" for name, versions in found]
    return _incomplete(f"One version of branch {branch} is expected", names.origin, has)


def _broken(installed: t.Mapping[str, Installed]) -> list[str]:
    broken = [f"{name} is {package.broken}" for name, package in sorted(installed.items()) if package.broken]
    if not broken:
        return []
    repair = "Run `dpkg --configure -a`, then `apt-get --fix-broken install` on the host."
    return [f"Packages are expected to be whole; {_and(broken)}. {repair}"]


def _unwanted(transaction: Transaction, resolver: _Resolver, system: System) -> list[str]:
    """What the transaction would do beyond bringing one driver."""
    changed = [*transaction.upgrade, *transaction.downgrade]
    beside = [change for change in (*transaction.install, *changed) if change.name not in resolver.plan]
    others = [change for change in beside if _of_another(change, resolver)]
    problems = [*_refused(transaction), *_lost(transaction)]
    problems += [
        f"{change.name}: {resolver.version} is expected of every part; {change.after} from {change.origin} would come. "
        "Pin its repository lower, or remove it."
        for change in others
    ]
    foreign = [change for change in changed if change in beside and change not in others]
    problems += [problem for change in foreign if (problem := _beyond(change, transaction, resolver, system))]
    return problems


def _refused(transaction: Transaction) -> list[str]:
    if not transaction.refused:
        return []
    return [f"The packages do not go together on this host: {transaction.refused}. Remove what is in the way."]


def _lost(transaction: Transaction) -> list[str]:
    """What is not of the driver and would go all the same."""
    lost = [change for change in transaction.remove if not is_driver(change.name, change.before)]
    return [
        f"{change.name} {change.before} is not of the driver and would be removed. Remove it first if it may go."
        for change in lost
    ]


def _of_another(change: Change, resolver: _Resolver) -> bool:
    after = t.cast(str, change.after)
    return change.name not in TOOLS and is_driver(change.name, after) and upstream(after) != resolver.version


def _beyond(change: Change, transaction: Transaction, resolver: _Resolver, system: System) -> str | None:
    """Why an installed package beside the driver must not change. A newer one of the distribution may come."""
    said = f"{change.name} is not of the driver and would change from {change.before} to {change.after}"
    if resolver.installed[change.name].held:
        return f"{said}, though it is held. Release it first if it may change."
    if change in transaction.downgrade:
        return f"{said}, which is older. Have its newer version in a repository, or go back to the older one first."
    if system.family != "rhel" and not change.origin.lower().startswith(system.family):
        return f"{said} from {change.origin}. Upgrade it first if it may change."
    return None


def _parts_of(installed: t.Mapping[str, Installed]) -> list[str]:
    return sorted(name for name, package in installed.items() if is_driver(name, package.version))


def _state(installed: t.Mapping[str, Installed], has_module: bool, root: Path) -> dict[str, t.Any]:
    """What is there now, and whether its kernel module waits for being loaded."""
    parts = {name: installed[name].version for name in _parts_of(installed)}
    versions = {upstream(version) for name, version in parts.items() if name not in TOOLS}
    loaded = read_loaded(root)
    pending = versions != {loaded} if loaded and versions else bool(versions and has_module)
    return {"installed": parts, "loaded": loaded, "pending": pending}


def _as_result(transaction: Transaction) -> dict[str, t.Any]:
    changes = {
        kind: [
            {"name": change.name, "from": change.before, "to": change.after, "origin": change.origin or None}
            for change in getattr(transaction, kind)
        ]
        for kind in ("install", "upgrade", "downgrade", "remove")
    }
    return {"transaction": changes, "changed_needed": bool(transaction)}


def _refuse(problems: list[str], request: Request, names: Names) -> None:
    if problems:
        raise LlmError(_listed(f"Driver {request.version} cannot be put together from {names.origin}", problems))


def _listed(what: str, problems: list[str]) -> str:
    return "\n".join([f"{what}, and nothing was changed:", *(f"- {problem}" for problem in problems)])


def _and(words: t.Sequence[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"
