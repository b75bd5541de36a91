# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the packages of a driver are called, by origin, system and branch."""

from __future__ import annotations

import pytest

from ansible_collections.llmfleet.serving.plugins.module_utils._driver_names import (
    Request,
    System,
    is_driver,
    names_of,
)
from ansible_collections.llmfleet.serving.plugins.module_utils._errors import LlmError

UBUNTU, DEBIAN, RHEL = System("ubuntu", "24.04"), System("debian", "12"), System("rhel", "9")


def request(source: str = "nvidia", version: str = "550.163.01", module: str = "open", fabric_manager: bool = True):
    return Request(source, version, module, fabric_manager)


class TestNames:
    @pytest.mark.parametrize(
        ("system", "version", "library", "module", "fabric_manager"),
        [
            (UBUNTU, "550", "libnvidia-compute-550", "nvidia-dkms-550-open", "nvidia-fabricmanager-550"),
            (UBUNTU, "580", "libnvidia-compute-580", "nvidia-dkms-580-open", "nvidia-fabricmanager"),
            (UBUNTU, "590.48.01", "libnvidia-compute", "nvidia-dkms-open", "nvidia-fabricmanager"),
            (DEBIAN, "550.163.01", "libcuda1", "nvidia-kernel-open-dkms", "nvidia-fabricmanager-550"),
            (DEBIAN, "580", "libcuda1", "nvidia-kernel-open-dkms", "nvidia-fabricmanager"),
            (RHEL, "550", "nvidia-driver-cuda-libs", "kmod-nvidia-open-dkms", "nvidia-fabric-manager"),
            (RHEL, "580", "nvidia-driver-cuda-libs", "kmod-nvidia-open-dkms", "nvidia-fabricmanager"),
        ],
    )
    def test_of_nvidia_follow_the_branch(self, system, version, library, module, fabric_manager):
        names = names_of(request(version=version), system)
        assert library in names.userland
        assert module in names.module
        assert names.fabric_manager == fabric_manager
        assert names.origin == ("cuda-rhel9-x86_64" if system is RHEL else "NVIDIA")

    def test_of_ubuntu_are_those_of_its_server_branch(self):
        names = names_of(request("distribution", "580", "proprietary"), UBUNTU)
        assert names.origin == "Ubuntu"
        assert "nvidia-utils-580-server" in names.userland
        assert names.module == ("nvidia-kernel-source-580-server", "nvidia-dkms-580-server")
        assert names.fabric_manager == "nvidia-fabricmanager-580"

    def test_of_debian_are_in_non_free(self):
        names = names_of(request("distribution", fabric_manager=False), DEBIAN)
        assert names.origin == "Debian"
        assert names.module == ("nvidia-open-kernel-dkms",)
        assert names.any_version == ("nvidia-persistenced",)

    @pytest.mark.parametrize(
        ("system", "module"),
        [(DEBIAN, "nvidia-kernel-dkms"), (UBUNTU, "nvidia-dkms-550"), (RHEL, "kmod-nvidia-latest-dkms")],
    )
    def test_of_the_proprietary_module_are_others(self, system, module):
        assert module in names_of(request(module="proprietary"), system).module

    def test_with_the_split_of_branch_570_have_the_daemon_and_the_library(self):
        assert "nvidia-persistenced" not in names_of(request(version="550"), UBUNTU).userland
        assert "nvidia-persistenced" in names_of(request(version="580"), UBUNTU).userland
        assert "nvidia-driver-NVML" in names_of(request(version="550"), RHEL).userland
        assert "libnvidia-ml" in names_of(request(version="580"), RHEL).userland

    def test_leave_out_what_is_not_wanted(self):
        names = names_of(request(module="none", fabric_manager=False), UBUNTU)
        assert names.parts == names.userland

    @pytest.mark.parametrize(
        "other",
        ["nvidia-kernel-dkms", "nvidia-open-kernel-dkms", "nvidia-kernel-source-550", "nvidia-open-kernel-source"],
    )
    def test_exclude_what_builds_the_module_otherwise(self, other):
        names = names_of(request(), DEBIAN)
        assert names.excludes(other)
        assert not any(names.excludes(name) for name in (*names.parts, "nvidia-kernel-support", "nvidia-kernel-common"))
        assert not names_of(request(module="none"), DEBIAN).excludes(other)


class TestRefusals:
    def test_debian_has_no_fabric_manager(self):
        with pytest.raises(LlmError, match=r"A fabric manager is wanted.*Debian has none.*source to nvidia"):
            names_of(request("distribution"), DEBIAN)

    def test_rhel_has_no_driver_of_its_own(self):
        with pytest.raises(LlmError, match=r"RHEL.*no NVIDIA driver of its own.*source to nvidia"):
            names_of(request("distribution"), RHEL)

    @pytest.mark.parametrize("version", ["", "latest", "5500", "12.4", "550.", "550.163.1.2", "550.163.01-0ubuntu1"])
    def test_a_version_must_be_one(self, version):
        with pytest.raises(LlmError, match=r"must be one like 550\.163\.01 or a branch like 550, and is "):
            names_of(request(version=version), UBUNTU)

    @pytest.mark.parametrize(
        "os_release",
        [
            'ID=ubuntu\nVERSION_ID="20.04"\n',
            "ID=debian\n",
            'ID="sles"\nVERSION_ID="15.6"\n',
            'ID=rhel\nVERSION_ID="8.10"\n',
        ],
    )
    def test_other_systems_are_not_known(self, os_release, tmp_path):
        (tmp_path / "etc").mkdir()
        (tmp_path / "etc/os-release").write_text(os_release)
        with pytest.raises(
            LlmError, match=r"known for debian 12, 13; ubuntu 22.04, 24.04; rhel 9; this host has \w+ .*none"
        ):
            System.read(tmp_path)


@pytest.mark.parametrize(
    ("os_release", "expected"),
    [
        (
            'NAME="Ubuntu"\nID=ubuntu\nVERSION_ID="22.04"\nID_LIKE=debian\n',
            System("ubuntu", "22.04"),
        ),
        ('VERSION_ID="13"\nID=debian\n', System("debian", "13")),
        ('ID="rocky"\nID_LIKE="rhel centos fedora"\nVERSION_ID="9.4"\n', System("rhel", "9")),
        ("ID='almalinux'\nVERSION_ID='9.6'\n", System("rhel", "9")),
    ],
)
def test_system_is_read_from_os_release(os_release, expected, tmp_path):
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/os-release").write_text(os_release)
    assert System.read(tmp_path) == expected


@pytest.mark.parametrize(
    ("name", "version", "expected"),
    [
        ("libcuda1", "550.163.01-2", True),
        ("nvidia-fabricmanager", "580.126.09-1ubuntu1", True),
        ("libnvidia-compute-580", "580.142-0ubuntu0.24.04.1", True),
        ("cuda-drivers-550", "550.163.01-1", True),
        ("nvidia-container-toolkit", "1.19.1-1", False),
        ("nvidia-cuda-toolkit", "12.4.131~12.4.1-2", False),
        ("nvidia-installer-cleanup", "20240109+1", False),
        ("nvidia-driver-pinning-580", "580-1", False),
        ("cuda-compat-12-4", "550.163.01-1", False),
        ("systemd", "257.91-1", False),
        ("libcuda1", None, False),
    ],
)
def test_a_part_of_a_driver_is_known_by_name_and_version(name, version, expected):
    assert is_driver(name, version) is expected
