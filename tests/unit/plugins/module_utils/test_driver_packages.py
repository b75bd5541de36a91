# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""One driver is put together or refused, by what a package manager offers. In test_driver_packages_bed that is apt."""

from __future__ import annotations

import typing as t
from dataclasses import replace

import pytest

from ansible_collections.llmfleet.serving.plugins.module_utils._driver_names import Request, System
from ansible_collections.llmfleet.serving.plugins.module_utils._driver_packages import (
    plan_driver,
    plan_removal,
    read_loaded,
)
from ansible_collections.llmfleet.serving.plugins.module_utils._errors import LlmError
from ansible_collections.llmfleet.serving.plugins.module_utils._packages import (
    Change,
    Installed,
    Needs,
    Offer,
    Origin,
    Package,
    Transaction,
)

NVIDIA, UBUNTU = Origin("NVIDIA", "NVIDIA CUDA", "developer.download.nvidia.com"), Origin("Ubuntu", "Ubuntu", "archive")
ELSEWHERE = Origin("Elsewhere", "Elsewhere", "example.org")
SYSTEM = System("ubuntu", "24.04")
REQUEST = Request("nvidia", "550.163.01", "open", fabric_manager=True)
V = "550.163.01-0ubuntu1"
DRIVER = (
    "libnvidia-cfg1-550",
    "libnvidia-compute-550",
    "nvidia-compute-utils-550",
    "nvidia-dkms-550-open",
    "nvidia-fabricmanager-550",
    "nvidia-firmware-550-550.163.01",
    "nvidia-kernel-common-550",
    "nvidia-kernel-source-550-open",
    "nvidia-modprobe",
    "nvidia-utils-550",
)
NEEDS = {
    "nvidia-dkms-550-open": [["dkms"], ["nvidia-kernel-source-550-open"], ["nvidia-kernel-common-550"]],
    "nvidia-kernel-common-550": [["nvidia-firmware-550-550.163.01"], ["nvidia-nothing"]],
    "nvidia-compute-utils-550": [["libnvidia-compute-550"], ["adduser"]],
}


class Shelf:
    """A package manager with NVIDIA's driver 550.163.01 for Ubuntu on offer, and what a test changes of it.

    :ivar beside: what a transaction does beyond what it was asked for.
    """

    def __init__(self) -> None:
        self.offers: dict[str, list[Offer]] = {name: [Offer(V, (NVIDIA,))] for name in DRIVER}
        self.offers.update({name: [Offer("1.0-1", (UBUNTU,))] for name in ("dkms", "adduser")})
        self.candidates: dict[str, str] = {}
        self.have: dict[str, Installed] = {}
        self.beside = Transaction()
        self.known_headers: dict[str, str] = {}
        self.depends = dict(NEEDS)
        self.provides: dict[str, str] = {}
        self.simulated: list[tuple[dict[str, str], list[str]]] = []

    def offer(self, version: str, *names: str, origin: Origin = NVIDIA) -> None:
        """Put a version in front of what there is."""
        for name in names:
            self.offers.setdefault(name, []).insert(0, Offer(version, (origin,)))

    def install(self, plan: dict[str, t.Any]) -> None:
        for spec in plan["packages"]:
            name, version = spec.split("=")
            self.have[name] = Installed(version, held=True)

    def installed(self) -> dict[str, Installed]:
        return self.have

    def packages(self, names: t.Iterable[str]) -> dict[str, Package]:
        found = {name: tuple(self.offers[name]) for name in names if name in self.offers}
        return {name: Package(offers, self.candidates.get(name, offers[0].version)) for name, offers in found.items()}

    def needs(self, specs: t.Mapping[str, str]) -> dict[str, Needs]:
        return {name: Needs(frozenset(), self.depends.get(name, [])) for name in specs}

    def providers(self, names: t.Iterable[str]) -> dict[str, list[str]]:
        return {name: [self.provides[name]] for name in names if name in self.provides}

    def headers(self, kernel: str) -> str | None:
        return self.known_headers.get(kernel)

    def spec(self, name: str, version: str) -> str:
        return f"{name}={version}"

    def simulate(self, specs: t.Mapping[str, str], remove: t.Collection[str]) -> Transaction:
        self.simulated.append((dict(specs), list(remove)))
        result = replace(self.beside)
        for name, version in specs.items():
            before = self.have[name].version if name in self.have else None
            if before is None:
                result.install = [*result.install, Change(name, None, version, "NVIDIA CUDA:somewhere")]
            elif before != version:
                result.upgrade = [*result.upgrade, Change(name, before, version, "NVIDIA CUDA:somewhere")]
        result.remove = [*result.remove, *(Change(name, self.have[name].version, None) for name in remove)]
        return result


@pytest.fixture
def shelf():
    return Shelf()


@pytest.fixture
def plan(shelf, tmp_path):
    """plan(version="550", ...) returns the plan for a host whose files are in an empty folder."""

    def plan(**wanted: t.Any) -> dict[str, t.Any]:
        return plan_driver(shelf, SYSTEM, replace(REQUEST, **wanted), tmp_path)

    return plan


@pytest.fixture
def refusal(plan):
    """refusal(version="550", ...) returns the lines of the error, each a reason but for the first."""

    def refusal(**wanted: t.Any) -> list[str]:
        with pytest.raises(LlmError) as caught:
            plan(**wanted)
        heading, *reasons = str(caught.value).splitlines()
        assert "cannot be put together from NVIDIA, and nothing was changed:" in heading
        return reasons

    return refusal


class TestPlan:
    def test_has_every_part_in_one_version(self, plan):
        result = plan()
        assert result["names"] == sorted(DRIVER)
        assert result["packages"] == [f"{name}={V}" for name in sorted(DRIVER)]
        assert result["hold"] == result["names"]
        assert result["version"] == "550.163.01"
        assert result["branch"] == "550"
        assert result["origin"] == {"origin": "NVIDIA", "label": "NVIDIA CUDA", "site": NVIDIA.site}
        assert result["kernel_packages"] == [f"nvidia-kernel-source-550-open={V}", f"nvidia-dkms-550-open={V}"]
        assert result["fabric_manager"] == "nvidia-fabricmanager-550"
        assert result["obsolete"] == result["held"] == []
        assert result["changed_needed"] is True
        assert {change["name"] for change in result["transaction"]["install"]} == set(DRIVER)

    def test_has_the_newest_version_of_a_branch(self, shelf, plan):
        shelf.offer("550.99.01-0ubuntu1", *DRIVER)
        assert plan(version="550")["version"] == "550.163.01"

    def test_takes_the_newest_that_every_part_has(self, shelf, plan):
        shelf.offer("550.200.01-0ubuntu1", *(name for name in DRIVER if "fabricmanager" not in name))
        assert plan(version="550")["version"] == "550.163.01"

    def test_names_what_the_parts_depend_on_as_apt_would_take_the_newest(self, shelf, plan):
        shelf.offer("595.71.05-1ubuntu1", *DRIVER)
        assert plan()["packages"] == [f"{name}={V}" for name in sorted(DRIVER)]

    def test_finds_who_provides_what_no_package_is_called(self, shelf, plan):
        shelf.depends["nvidia-kernel-common-550"] = [["nvidia-firmware--v1"]]
        shelf.provides["nvidia-firmware--v1"] = "nvidia-firmware-550-550.163.01"
        assert "nvidia-firmware-550-550.163.01" in plan()["names"]

    def test_takes_one_alternative_and_the_planned_one_first(self, shelf, plan):
        shelf.offer(V, "nvidia-dkms-550")
        shelf.depends["nvidia-compute-utils-550"] = [["nvidia-dkms-550", "nvidia-dkms-550-open"]]
        assert plan()["names"] == sorted(DRIVER)

    def test_needs_no_kernel_part_where_somebody_else_brings_it(self, plan):
        result = plan(module="none", kernel="6.8.0-60-generic")
        assert result["kernel_packages"] == []
        assert result["headers"] is None
        assert not [name for name in result["names"] if "dkms" in name or "source" in name]

    def test_leaves_out_the_fabric_manager_where_there_are_no_switches(self, plan):
        result = plan(fabric_manager=False)
        assert result["fabric_manager"] is None
        assert "nvidia-fabricmanager-550" not in result["names"]

    def test_brings_along_what_is_installed_of_the_driver_beside_it(self, shelf, plan):
        shelf.have["nvidia-fabricmanager-550"] = Installed("550.144.03-1")
        assert "nvidia-fabricmanager-550" in plan(fabric_manager=False)["names"]

    def test_of_debian_has_tools_in_the_version_that_there_is(self, shelf, tmp_path):
        debian = Origin("Debian", "Debian", "deb.debian.org")
        for name in ("libcuda1", "libnvidia-cfg1", "libnvidia-ml1", "nvidia-smi", "nvidia-open-kernel-dkms"):
            shelf.offer("535.261.03-1~deb12u1", name, origin=debian)
        shelf.offer("535.171.04-1~deb12u1", "nvidia-persistenced", origin=debian)
        request = Request("distribution", "535", "open", fabric_manager=False)
        result = plan_driver(shelf, System("debian", "12"), request, tmp_path)
        assert result["version"] == "535.261.03"
        assert "nvidia-persistenced=535.171.04-1~deb12u1" in result["packages"]
        shelf.install(result)
        shelf.offer("535.171.04-1~deb12u2", "nvidia-persistenced", origin=debian)
        again = plan_driver(shelf, System("debian", "12"), request, tmp_path)
        assert again["changed_needed"] is False

    def test_leaves_a_part_alone_that_fits_and_nobody_offers(self, shelf, plan):
        shelf.have["nvidia-legacy-check"] = Installed("550.163.01-2")
        assert plan()["obsolete"] == []


class TestSecondPlan:
    def test_changes_nothing(self, shelf, plan):
        shelf.install(plan())
        again = plan()
        assert again["changed_needed"] is False
        assert again["held"] == again["hold"]
        assert set(again["installed"].values()) == {V}

    def test_leaves_a_new_packaging_of_the_same_driver_alone(self, shelf, plan):
        shelf.install(plan())
        shelf.offer("550.163.01-0ubuntu2", *DRIVER)
        assert plan()["changed_needed"] is False

    def test_leaves_a_version_alone_that_the_archive_has_replaced(self, shelf, plan):
        shelf.install(plan())
        shelf.offers = {name: [Offer("550.200.01-1", (NVIDIA,)), Offer(V)] for name in DRIVER}
        assert plan()["changed_needed"] is False

    def test_does_not_take_anothers_packages_for_what_the_archive_has_replaced(self, shelf, plan):
        shelf.install(plan())
        shelf.offers = {name: [Offer("550.200.01-1", (NVIDIA,)), Offer(V, (UBUNTU,))] for name in DRIVER}
        with pytest.raises(LlmError, match=f"libnvidia-compute-550 has 550.200.01 and {V} from Ubuntu"):
            plan()

    def test_leaves_a_driver_alone_beside_a_newer_one_of_another_origin(self, shelf, plan):
        shelf.install(plan())
        shelf.offer("550.163.01-0ubuntu9", "libnvidia-compute-550", origin=ELSEWHERE)
        assert plan()["changed_needed"] is False

    def test_takes_the_origins_packages_in_place_of_those_of_another(self, shelf, plan):
        shelf.have["libnvidia-compute-550"] = Installed("550.163.01-0ubuntu9")
        shelf.offers["libnvidia-compute-550"].insert(0, Offer("550.163.01-0ubuntu9", (UBUNTU,)))
        assert f"libnvidia-compute-550={V}" in plan()["packages"]


class TestUpgrade:
    def test_to_a_branch_with_other_names_makes_the_old_ones_obsolete(self, shelf, plan):
        shelf.install(plan())
        shelf.have["nvidia-settings"] = Installed("550.163.01-0ubuntu1")
        renamed = [name.replace("-550-550.163.01", "").replace("-550", "-580") for name in DRIVER]
        new = [
            *(name for name in renamed if "fabricmanager" not in name),
            "nvidia-fabricmanager",
            "nvidia-persistenced",
        ]
        shelf.offer("580.126.09-1ubuntu1", *new)
        result = plan(version="580.126.09")
        assert result["fabric_manager"] == "nvidia-fabricmanager"
        assert result["obsolete"] == sorted(set(DRIVER) - {"nvidia-modprobe"})
        assert shelf.simulated[-1] == (
            {spec.split("=")[0]: "580.126.09-1ubuntu1" for spec in result["packages"]},
            result["obsolete"],
        )
        assert {change["name"] for change in result["transaction"]["remove"]} == set(result["obsolete"])

    def test_to_the_other_flavour_of_the_module_takes_the_first_away(self, shelf, plan):
        shelf.install(plan())
        shelf.offer(V, "nvidia-dkms-550", "nvidia-kernel-source-550")
        result = plan(module="proprietary")
        assert result["obsolete"] == ["nvidia-dkms-550-open", "nvidia-kernel-source-550-open"]
        assert not set(result["obsolete"]) & set(result["names"])
        assert plan(module="none")["obsolete"] == []

    def test_brings_along_the_tools_of_its_origin(self, shelf, plan):
        shelf.have["nvidia-settings"] = Installed("580.126.09-1ubuntu1")
        shelf.offer(V, "nvidia-settings")
        assert f"nvidia-settings={V}" in plan()["packages"]

    def test_gives_up_a_tool_that_came_with_another_driver_and_no_other(self, shelf, plan):
        shelf.have["nvidia-persistenced"] = Installed("580.126.09-1ubuntu1", held=True)
        shelf.have["nvidia-xconfig"] = Installed("580.126.09-1ubuntu1")
        assert plan()["obsolete"] == ["nvidia-persistenced"]

    def test_reports_that_another_module_is_still_loaded(self, shelf, plan, tmp_path):
        shelf.install(plan())
        (tmp_path / "sys/module/nvidia").mkdir(parents=True)
        (tmp_path / "sys/module/nvidia/version").write_text("550.144.03\n")
        assert (plan()["loaded"], plan()["pending"]) == ("550.144.03", True)
        (tmp_path / "sys/module/nvidia/version").write_text("550.163.01\n")
        shelf.have["nvidia-settings"] = Installed("570.133.07-1")
        assert (plan()["loaded"], plan()["pending"]) == ("550.163.01", False)

    def test_waits_for_nothing_while_no_package_is_there(self, plan, tmp_path):
        (tmp_path / "sys/module/nvidia").mkdir(parents=True)
        (tmp_path / "sys/module/nvidia/version").write_text("550.144.03\n")
        assert plan()["pending"] is False

    def test_waits_for_a_module_where_none_is_loaded(self, shelf, plan):
        assert plan()["pending"] is False
        shelf.install(plan())
        assert plan()["pending"] is True
        assert plan(module="none")["pending"] is False


class TestHeaders:
    def test_come_from_a_repository(self, shelf, plan):
        shelf.known_headers["6.8.0-60-generic"] = "linux-headers-6.8.0-60-generic=6.8.0-60.63"
        assert plan(kernel="6.8.0-60-generic")["headers"] == "linux-headers-6.8.0-60-generic=6.8.0-60.63"

    def test_may_be_there_already(self, plan, tmp_path):
        (tmp_path / "lib/modules/6.8.0-own/build").mkdir(parents=True)
        assert plan(kernel="6.8.0-own")["headers"] is None

    def test_that_nobody_has_are_a_reason_to_refuse(self, refusal):
        (reason,) = refusal(kernel="6.8.0-own")
        assert "Headers of kernel 6.8.0-own are expected" in reason
        assert "Boot a kernel whose headers can be had" in reason


class TestRefusals:
    def test_a_part_that_is_not_there_in_this_version(self, shelf, refusal):
        shelf.offers["nvidia-fabricmanager-550"] = [Offer("550.163.02-1", (NVIDIA,))]
        (reason,) = refusal()
        assert reason.startswith("- 550.163.01 is expected of every part from NVIDIA; ")
        assert "; nvidia-fabricmanager-550 has 550.163.02. Choose a version that every part has" in reason

    def test_a_part_that_is_not_there_at_all(self, shelf, refusal):
        del shelf.offers["nvidia-fabricmanager-550"]
        assert "nvidia-fabricmanager-550 has none." in refusal()[0]

    def test_a_part_that_only_somebody_else_has(self, shelf, refusal):
        shelf.offers["libnvidia-compute-550"] = [Offer("550.163.01-0ubuntu0.24.04.1", (UBUNTU,))]
        assert "libnvidia-compute-550 has none and 550.163.01-0ubuntu0.24.04.1 from Ubuntu." in refusal()[0]

    def test_a_branch_without_a_version_that_every_part_has(self, shelf, refusal):
        shelf.offers["nvidia-fabricmanager-550"] = [Offer("550.163.02-1", (NVIDIA,))]
        (reason,) = refusal(version="550")
        assert reason.startswith("- One version of branch 550 is expected of every part from NVIDIA; ")
        assert "nvidia-utils-550 has 550.163.01; " in reason
        assert "nvidia-fabricmanager-550 has 550.163.02" in reason

    def test_the_same_version_from_two_origins(self, shelf, refusal):
        shelf.offer(V, "libnvidia-compute-550", origin=ELSEWHERE)
        assert refusal() == [
            f"- libnvidia-compute-550: {V} is expected from NVIDIA alone; Elsewhere has that version too. Remove "
            "or disable that repository."
        ]

    def test_a_version_of_another_origin_that_apt_prefers(self, shelf, refusal):
        shelf.offer("550.163.01-0ubuntu9", "nvidia-firmware-550-550.163.01", origin=ELSEWHERE)
        (reason,) = refusal()
        assert f"nvidia-firmware-550-550.163.01: {V} is expected from NVIDIA; apt prefers 550.163.01-0ubuntu9" in reason
        assert "from Elsewhere. Pin NVIDIA higher" in reason

    def test_but_not_one_that_is_pinned_lower(self, shelf, plan):
        shelf.offer("550.163.01-0ubuntu9", "libnvidia-compute-550", origin=ELSEWHERE)
        shelf.candidates["libnvidia-compute-550"] = V
        assert f"libnvidia-compute-550={V}" in plan()["packages"]

    def test_packages_that_do_not_go_together(self, shelf, refusal):
        shelf.beside.refused = "a : Conflicts: b"
        assert refusal() == [
            "- The packages do not go together on this host: a : Conflicts: b. Remove what is in the way."
        ]

    def test_a_part_that_comes_in_another_version(self, shelf, refusal):
        shelf.beside.install = [Change("nvidia-kernel-support", None, "595.71.05-1", "NVIDIA CUDA:somewhere")]
        (reason,) = refusal()
        assert "nvidia-kernel-support: 550.163.01 is expected of every part; 595.71.05-1 from NVIDIA CUDA" in reason

    def test_a_part_that_changes_to_another_version(self, shelf, refusal):
        shelf.beside.upgrade = [Change("libnvidia-gl-550", "550.144.03-1", "550.200.01-1", "Ubuntu:24.04/noble")]
        assert "libnvidia-gl-550: 550.163.01 is expected of every part; 550.200.01-1" in refusal()[0]

    def test_but_not_a_tool_in_a_version_of_its_own(self, shelf, plan):
        shelf.beside.install = [Change("nvidia-settings", None, "570.133.07-1", "Ubuntu:24.04/noble")]
        assert plan()["changed_needed"] is True

    def test_what_would_take_something_else_away(self, shelf, refusal):
        shelf.beside.remove = [Change("datacenter-gpu-manager", "1:3.3.9", None)]
        assert refusal() == [
            "- datacenter-gpu-manager 1:3.3.9 is not of the driver and would be removed. Remove it first if it may go."
        ]

    def test_but_not_what_takes_another_driver_away(self, shelf, plan):
        shelf.beside.remove = [Change("libnvidia-gl-535", "535.261.03-0ubuntu1", None)]
        assert plan()["transaction"]["remove"][0]["name"] == "libnvidia-gl-535"

    def changed(self, shelf: Shelf, kind: str, origin: str = "Ubuntu:24.04/noble-updates", held: bool = False) -> None:
        shelf.have["libc6"] = Installed("2.39-0ubuntu8", held=held)
        setattr(shelf.beside, kind, [Change("libc6", "2.39-0ubuntu8", "2.39-0ubuntu9", origin)])

    def test_what_would_make_something_else_older(self, shelf, refusal):
        self.changed(shelf, "downgrade")
        (reason,) = refusal()
        assert (
            "libc6 is not of the driver and would change from 2.39-0ubuntu8 to 2.39-0ubuntu9, which is older" in reason
        )

    def test_what_would_change_something_else_that_is_held(self, shelf, refusal):
        self.changed(shelf, "upgrade", held=True)
        assert "though it is held. Release it first" in refusal()[0]

    def test_what_would_change_something_else_to_that_of_a_stranger(self, shelf, refusal):
        self.changed(shelf, "upgrade", "NVIDIA CUDA:somewhere")
        assert "from NVIDIA CUDA:somewhere. Upgrade it first" in refusal()[0]

    def test_but_not_a_newer_version_of_the_distribution(self, shelf, plan):
        self.changed(shelf, "upgrade")
        assert plan()["transaction"]["upgrade"][0]["name"] == "libc6"

    def test_a_package_that_is_not_whole(self, shelf, refusal):
        shelf.have["libc6"] = Installed("2.39-0ubuntu8", broken="half-configured")
        (reason,) = refusal()
        assert "libc6 is half-configured. Run `dpkg --configure -a`" in reason

    def test_tell_all_reasons_at_once_before_the_transaction(self, shelf, refusal):
        shelf.have["a"] = Installed("1", broken="unpacked")
        del shelf.offers["nvidia-modprobe"]
        assert len(refusal(kernel="own")) == 3
        assert shelf.simulated == []

    def test_tell_all_reasons_at_once_after_it(self, shelf, refusal):
        shelf.offer(V, "nvidia-utils-550", origin=ELSEWHERE)
        shelf.beside.install = [Change("nvidia-kernel-support", None, "595.71.05-1", "NVIDIA CUDA:somewhere")]
        shelf.beside.remove = [Change("b", "1", None)]
        assert len(refusal()) == 3


class TestRemoval:
    def test_takes_all_that_is_of_a_driver(self, shelf, plan, tmp_path):
        shelf.install(plan())
        shelf.have["nvidia-container-toolkit"] = Installed("1.19.1-1")
        result = plan_removal(shelf, tmp_path)
        assert result["names"] == result["obsolete"] == result["held"] == sorted(DRIVER)
        assert result["changed_needed"] is True
        assert result["packages"] == result["hold"] == []

    def test_of_nothing_changes_nothing(self, shelf, tmp_path):
        result = plan_removal(shelf, tmp_path)
        assert result["changed_needed"] is False
        assert shelf.simulated == []

    def test_is_refused_where_something_else_would_go(self, shelf, plan, tmp_path):
        shelf.install(plan())
        shelf.beside.remove = [Change("nvidia-cuda-toolkit", "12.4.131~12.4.1-2", None)]
        with pytest.raises(
            LlmError, match=r"(?s)The driver cannot be removed, and .*nvidia-cuda-toolkit 12.* is not of"
        ):
            plan_removal(shelf, tmp_path)


@pytest.mark.parametrize(
    ("line", "version"),
    [
        ("NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.163.01  Tue Apr  8 12:41:17 UTC 2025", "550.163.01"),
        (
            "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.126.09  Release Build  (root@host)  "
            "Mon Jan  5 UTC 2026\nGCC version:  gcc version 12.3.0",
            "580.126.09",
        ),
    ],
)
def test_loaded_version_is_that_of_the_module(line, version, tmp_path):
    (tmp_path / "proc/driver/nvidia").mkdir(parents=True)
    (tmp_path / "proc/driver/nvidia/version").write_text(line)
    assert read_loaded(tmp_path) == version


def test_no_version_is_loaded_without_a_module(tmp_path):
    assert read_loaded(tmp_path) is None
