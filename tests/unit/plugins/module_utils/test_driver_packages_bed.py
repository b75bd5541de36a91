# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Drivers put together by the real apt of a simulated host, from the bed's stand-in for NVIDIA's repository."""

from __future__ import annotations

import json
import typing as t
from dataclasses import dataclass
from pathlib import Path

import pytest

from testbed import apt_repository, hosts
from testbed.engine import docker

pytestmark = pytest.mark.bed
REPOSITORY = Path(__file__).parents[4]
HOST = "llmfleet-test-driver"
NAMES = {
    "firmware-nvidia-gsp",
    "libcuda1",
    "libnvidia-cfg1",
    "libnvidia-ml1",
    "libnvidia-pkcs11-openssl3",
    "libnvidia-ptxjitcompiler1",
    "nvidia-alternative",
    "nvidia-fabricmanager-550",
    "nvidia-kernel-open-dkms",
    "nvidia-kernel-support",
    "nvidia-legacy-check",
    "nvidia-modprobe",
    "nvidia-persistenced",
    "nvidia-smi",
}

# What the module does, without Ansible.
PROBE = """
import json, sys
from ansible_collections.llmfleet.serving.plugins.module_utils._apt import Apt
from ansible_collections.llmfleet.serving.plugins.module_utils._driver_names import Request, System
from ansible_collections.llmfleet.serving.plugins.module_utils._driver_packages import plan_driver, plan_removal
from ansible_collections.llmfleet.serving.plugins.module_utils._errors import LlmError
from run_command import run_command
wanted, system = json.loads(sys.argv[1])
system = System(*system) if system else System.read()
try:
    plan = plan_driver(Apt(run_command), system, Request(**wanted)) if wanted else plan_removal(Apt(run_command))
    print(json.dumps(plan))
except LlmError as exc:
    print(json.dumps({"refused": str(exc)}))
"""
KEYRING = "/etc/apt/keyrings/nvidia.asc"
FETCH_KEY = f"""
import pathlib, urllib.request
with urllib.request.urlopen("{apt_repository.URL}/good/debian13/x86_64/8793F200.pub") as answer:
    pathlib.Path("{KEYRING}").write_bytes(answer.read())
"""
# apt as the role calls it.
INSTALL = "apt-get --yes --quiet --no-install-recommends --allow-downgrades --allow-change-held-packages install"


@dataclass(frozen=True)
class Bed:
    """A simulated host that plans its own driver."""

    name: str

    def run(self, command: str, *, check: bool = True) -> str:
        return docker("exec", "--env=PYTHONPATH=/opt/llmfleet", self.name, "sh", "-c", command, check=check).stdout

    def configure(self, *variants: str, system: str = "debian13", priority: int = 600) -> None:
        """Have these of the bed's repositories for a system, and NVIDIA's preferred as the role does it."""
        sources = "".join(
            f"Types: deb\nURIs: {apt_repository.URL}/{variant}/{system}/x86_64/\nSuites: /\nSigned-By: {KEYRING}\n\n"
            for variant in variants
        )
        self._write("/etc/apt/sources.list.d/nvidia.sources", sources)
        pin = f"Package: *\nPin: release l=NVIDIA CUDA\nPin-Priority: {priority}\n"
        self._write("/etc/apt/preferences.d/nvidia", pin)
        self.run("apt-get update --quiet")

    def plan(self, version: str, *system: str, **wanted: t.Any) -> dict[str, t.Any]:
        """The plan or the refusal, as this host or as another system."""
        request = {"source": "nvidia", "version": version, "module": "open", "fabric_manager": True, **wanted}
        return self._probe(request, *system)

    def plan_removal(self) -> dict[str, t.Any]:
        return self._probe({})

    def carry_out(self, plan: dict[str, t.Any]) -> None:
        """What the role does with a plan."""
        if plan["obsolete"]:
            self.run(f"apt-mark unhold {' '.join(plan['obsolete'])}")
        self.run(f"{INSTALL} {' '.join(plan['packages'])}")
        if plan["obsolete"]:
            self.run(f"apt-get --yes --quiet purge {' '.join(plan['obsolete'])}")
        self.run(f"apt-mark hold {' '.join(plan['hold'])}")

    def install_package(self, name: str, field: str) -> None:
        """Install an empty package with one field more than it needs."""
        control = (
            f"Package: {name}\nVersion: 1\nArchitecture: all\nMaintainer: a <a@example.org>\nDescription: a\n{field}\n"
        )
        self.run(f"mkdir -p /opt/{name}/DEBIAN")
        self._write(f"/opt/{name}/DEBIAN/control", control)
        self.run(f"dpkg-deb --build /opt/{name} && dpkg --install /opt/{name}.deb")

    def _probe(self, request: dict[str, t.Any], *system: str) -> dict[str, t.Any]:
        wanted = json.dumps([request, system])
        argv = ("exec", "--env=PYTHONPATH=/opt/llmfleet", self.name, "python3", "-c", PROBE, wanted)
        return json.loads(docker(*argv).stdout)

    def _write(self, path: str, text: str) -> None:
        self.run(f"cat > {path} << 'END'\n{text}END\n")


@pytest.fixture(scope="module")
def bed() -> t.Iterator[Bed]:
    apt_repository.ensure()
    hosts.up_hub()
    hosts.up([HOST])
    bed = Bed(HOST)
    try:
        bed.run("mkdir -p /opt/llmfleet/ansible_collections/llmfleet/serving /etc/llmfleet-bed")
        collection = f"{HOST}:/opt/llmfleet/ansible_collections/llmfleet/serving/"
        docker("cp", str(REPOSITORY / "plugins"), collection)
        docker("cp", str(REPOSITORY / "tests/run_command.py"), f"{HOST}:/opt/llmfleet/")
        bed.run(f"mkdir -p /etc/apt/keyrings && python3 -c '{FETCH_KEY}'")
        bed.run("sed -i 's/ main.*/ main contrib/' /etc/apt/sources.list")
        yield bed
    finally:
        hosts.down([HOST])


@pytest.fixture
def installed(bed) -> Bed:
    """The host with driver 550.163.01, all of it held."""
    bed.configure("good")
    plan = bed.plan("550.163.01")
    if plan["changed_needed"]:
        bed.carry_out(plan)
    return bed


def test_brings_one_version_of_every_part_and_nothing_the_second_time(bed):
    bed.configure("good")
    plan = bed.plan("550")
    assert plan["version"] == "550.163.01"
    assert set(plan["names"]) == NAMES
    assert plan["origin"] == {"origin": "NVIDIA", "label": "NVIDIA CUDA", "site": "llmfleet-hub"}
    bed.carry_out(plan)
    again = bed.plan("550")
    assert again["changed_needed"] is False
    assert set(again["held"]) == NAMES
    assert {version.split("-")[0] for version in again["installed"].values()} == {"550.163.01"}


def test_goes_to_another_branch_and_back(installed):
    plan = installed.plan("580.126.09")
    assert plan["fabric_manager"] == "nvidia-fabricmanager"
    assert plan["obsolete"] == ["nvidia-fabricmanager-550"]
    assert [change["name"] for change in plan["transaction"]["remove"]] == ["nvidia-fabricmanager-550"]
    installed.carry_out(plan)
    assert installed.plan("580.126.09")["changed_needed"] is False

    back = installed.plan("550.163.01")
    assert {change["name"] for change in back["transaction"]["downgrade"]} == NAMES - {"nvidia-fabricmanager-550"}
    installed.carry_out(back)
    after = installed.plan("550.163.01")
    assert after["changed_needed"] is False
    assert {version.split("-")[0] for version in after["installed"].values()} == {"550.163.01"}


def test_changes_the_flavour_of_the_module(installed):
    plan = installed.plan("550.163.01", module="proprietary")
    assert plan["obsolete"] == ["nvidia-kernel-open-dkms"]
    installed.carry_out(plan)
    assert installed.plan("550.163.01", module="proprietary")["changed_needed"] is False
    installed.carry_out(installed.plan("550.163.01"))


def test_leaves_a_driver_alone_that_no_repository_has_any_more(installed):
    installed.configure()
    assert installed.plan("550.163.01")["changed_needed"] is False
    assert "One version of branch 580 is expected" in installed.plan("580")["refused"]


def test_refuses_a_fabric_manager_one_patch_newer(bed):
    bed.configure("fm-newer")
    for version in ("550", "550.144.03"):
        refused = bed.plan(version)["refused"]
        assert "nvidia-fabricmanager-550 has 550.163.01" in refused


def test_refuses_a_version_that_two_origins_have(installed):
    installed.configure("good", "shadow")
    assert "Elsewhere has that version too" in installed.plan("550.163.01")["refused"]


def test_refuses_what_apt_prefers_from_another_origin(installed):
    installed.configure("good", "shadow", priority=400)
    assert "libcuda1: 550.144.03-1 is expected from NVIDIA; apt prefers" in installed.plan("550.144.03")["refused"]
    installed.configure("good", "shadow")
    assert installed.plan("550.144.03")["changed_needed"] is True


def test_refuses_to_take_away_what_is_not_of_the_driver(installed):
    installed.install_package("engine", "Depends: nvidia-fabricmanager-550")
    try:
        for plan in (installed.plan("580"), installed.plan_removal()):
            assert "engine 1 is not of the driver and would be removed" in plan["refused"]
    finally:
        installed.run("dpkg --purge engine")


def test_refuses_a_host_whose_packages_are_not_whole(installed):
    installed.run("touch /etc/llmfleet-bed/postinst-fails")
    try:
        installed.run(f"{INSTALL} {' '.join(installed.plan('550.144.03')['packages'])}", check=False)
        assert "nvidia-kernel-open-dkms is half-configured" in installed.plan("550.163.01")["refused"]
    finally:
        installed.run("rm /etc/llmfleet-bed/postinst-fails && dpkg --configure -a")
    assert "refused" not in installed.plan("550.163.01")


def test_refuses_packages_that_do_not_go_together(installed):
    installed.install_package("old", "Conflicts: libnvidia-gpucomp")
    installed.run("apt-mark hold old")
    try:
        refused = installed.plan("580")["refused"]
        assert "The packages do not go together on this host" in refused
        assert "libnvidia-gpucomp" in refused
    finally:
        installed.run("dpkg --purge old")


def test_tells_the_headers_of_a_kernel(bed):
    bed.configure("good")
    kernel = bed.run("apt-cache depends linux-headers-amd64 | sed -n 's/.*Depends: linux-headers-//p'").split()[0]
    assert bed.plan("550", kernel=kernel)["headers"].startswith(f"linux-headers-{kernel}=")
    assert "Headers of kernel 6.1.0-own are expected" in bed.plan("550", kernel="6.1.0-own")["refused"]


def test_removes_every_part(installed):
    plan = installed.plan_removal()
    assert set(plan["names"]) == NAMES
    installed.run(f"apt-get --yes --quiet --allow-change-held-packages purge {' '.join(plan['names'])}")
    assert installed.plan_removal()["changed_needed"] is False


def test_goes_through_the_renames_of_ubuntu_and_back(bed):
    """With the names and dependencies of Ubuntu's packages; apt and all else are Debian's."""
    ubuntu = ("ubuntu", "24.04")
    bed.configure("good", system="ubuntu2404")
    for version, library in (
        ("550.163.01", "libnvidia-compute-550"),
        ("580.126.09", "libnvidia-compute-580"),
        ("595.71.05", "libnvidia-compute"),
        ("550.163.01", "libnvidia-compute-550"),
    ):
        plan = bed.plan(version, *ubuntu)
        assert library in plan["names"]
        bed.carry_out(plan)
        after = bed.plan(version, *ubuntu)
        assert after["changed_needed"] is False
        assert {have.split("-")[0] for have in after["installed"].values()} == {version}
