# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What is asked of a host's package manager, whichever it has, and what it answers. Private to this collection."""

from __future__ import annotations

import typing as t
from dataclasses import dataclass, field


class Origin(t.NamedTuple):
    """Who publishes a repository: `Origin` and `Label` of its Release file, and the host that it is fetched from.

    A repository of RPMs has its id in `origin` and nothing else.
    """

    origin: str
    label: str = ""
    site: str = ""


@dataclass(frozen=True)
class Offer:
    """A version of a package, and who has it: nobody, when it is only installed."""

    version: str
    origins: tuple[Origin, ...] = ()

    def of(self, origin: str) -> bool:
        """Whether a publisher has it."""
        return any(each.origin == origin for each in self.origins)


@dataclass(frozen=True)
class Package:
    """What is known of a package by name: its versions, newest first, and the one that is taken when none is named."""

    offers: tuple[Offer, ...] = ()
    candidate: str | None = None


@dataclass(frozen=True)
class Installed:
    """An installed package.

    :ivar held: whether the package manager was told to leave its version as it is.
    :ivar broken: why it is not whole, like "half-configured"; "" when it is.
    """

    version: str
    held: bool = False
    broken: str = ""


@dataclass(frozen=True)
class Change:
    """What a transaction does to one package: `before` is None when it is new, `after` when it goes."""

    name: str
    before: str | None
    after: str | None
    origin: str = ""


@dataclass
class Transaction:
    """What would be done, in the package manager's own words for it.

    :ivar refused: why nothing would be done, in the package manager's words; "" when it would be.
    """

    install: list[Change] = field(default_factory=list)
    upgrade: list[Change] = field(default_factory=list)
    downgrade: list[Change] = field(default_factory=list)
    remove: list[Change] = field(default_factory=list)
    refused: str = ""

    def __bool__(self) -> bool:
        return bool(self.install or self.upgrade or self.downgrade or self.remove)


class Needs(t.NamedTuple):
    """Of one package: the names that it provides, and what it depends on, each with its alternatives."""

    provides: frozenset[str]
    depends: list[list[str]]


class PackageManager(t.Protocol):
    """All of this only asks; nothing on the host is changed."""

    def installed(self) -> dict[str, Installed]:
        """All packages of the host."""

    def packages(self, names: t.Iterable[str]) -> dict[str, Package]:
        """What is known of these packages. A name that is not known is not in it."""

    def needs(self, specs: t.Mapping[str, str]) -> dict[str, Needs]:
        """What these packages, a version by name, provide and depend on, where they have to be named to get it."""

    def providers(self, names: t.Iterable[str]) -> dict[str, list[str]]:
        """The packages that provide each of these names, which no package has itself."""

    def simulate(self, specs: t.Mapping[str, str], remove: t.Collection[str]) -> Transaction:
        """What installing these versions, and removing these packages with them, would do."""

    def headers(self, kernel: str) -> str | None:
        """The package with the headers of a kernel release, as `spec` writes it; None where no repository has it."""

    def spec(self, name: str, version: str) -> str:
        """How a package in a version is asked for."""


def upstream(version: str) -> str:
    """A version without its epoch and its packaging: 550.163.01 of 1:550.163.01-0ubuntu1."""
    return version.split(":", 1)[-1].rsplit("-", 1)[0]
