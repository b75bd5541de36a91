# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The bed's apt repositories, as the real apt of a host sees them."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from testbed import __main__, apt_repository, hosts
from testbed.apt_repository import URL
from testbed.engine import LABEL, docker
from testbed.images import ensure_image

HOST = f"apttest-{os.getpid()}"
KEYS = {
    "debian12": "3bf863cc.pub",
    "debian13": "8793F200.pub",
    "ubuntu2204": "3bf863cc.pub",
    "ubuntu2404": "3bf863cc.pub",
}
# NVIDIA's packages for Debian depend on some of Debian's own section contrib.
CONTRIB = """Types: deb
URIs: http://deb.debian.org/debian
Suites: trixie
Components: contrib
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg
"""
PIN = "Package: *\nPin: release o=NVIDIA\nPin-Priority: 600\n"
SOURCE = "/etc/apt/sources.list.d/nvidia.sources"
MARKERS = "/usr/share/llmfleet-bed/packages"
MANAGER = "nvidia-fabricmanager.service"
# A driver without its kernel module, which would bring a compiler.
USERLAND = (
    "libcuda1",
    "libnvidia-cfg1",
    "libnvidia-ml1",
    "libnvidia-pkcs11-openssl3",
    "libnvidia-ptxjitcompiler1",
    "nvidia-alternative",
    "nvidia-legacy-check",
    "nvidia-modprobe",
    "nvidia-smi",
)
UBUNTU = ("libnvidia-cfg1", "libnvidia-compute", "nvidia-compute-utils", "nvidia-kernel-common", "nvidia-utils")

pytestmark = pytest.mark.bed


def run(*argv: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    command = ("docker", "exec", "--interactive", "--env=DEBIAN_FRONTEND=noninteractive", HOST, *argv)
    return subprocess.run(command, input=stdin, capture_output=True, text=True, check=False)


def ok(*argv: str, stdin: str = "") -> str:
    result = run(*argv, stdin=stdin)
    assert result.returncode == 0, f"{argv}: {result}"
    return result.stdout


def write(path: str, text: str) -> None:
    ok("sh", "-c", 'cat > "$1"', "sh", path, stdin=text)


def update(source: str = SOURCE) -> subprocess.CompletedProcess[str]:
    """Fetch the lists of one source alone; the others' stay as they are."""
    alone = (f"Dir::Etc::SourceList={source}", "Dir::Etc::SourceParts=-", "APT::Get::List-Cleanup=0")
    return run("apt-get", "update", "--error-on=any", *(f"--option={option}" for option in alone))


def use(*repositories: str, key: str = "good/debian13") -> subprocess.CompletedProcess[str]:
    """Make repositories, each a variant and a system, the host's source beside Debian, trusted by the key of one."""
    folder = apt_repository.ensure().path / key / "x86_64"
    write("/etc/apt/keyrings/nvidia.asc", (folder / KEYS[folder.parent.name]).read_text())
    urls = " ".join(f"{URL}/{repository}/x86_64/" for repository in repositories)
    write(SOURCE, f"Types: deb\nURIs: {urls}\nSuites: /\nSigned-By: /etc/apt/keyrings/nvidia.asc\n")
    return update()


def offered(name: str) -> list[str]:
    """The versions of a package, newest first."""
    return [line.split("|")[1].strip() for line in ok("apt-cache", "madison", name).splitlines()]


def install(*packages: str) -> None:
    ok("apt-get", "install", "--yes", "--no-install-recommends", "--allow-downgrades", *packages)


def driver(version: str, manager: str) -> list[str]:
    newer = ["libnvidia-gpucomp"] if version > "580" else []
    exact = [f"{name}={version}-1" for name in (*USERLAND, manager, *newer)]
    return [*exact, f"nvidia-persistenced={version}-1+bed1"]


def fingerprints(*repositories: str) -> list[str]:
    """Of the keys that lie in repositories, by gpg."""
    root = apt_repository.ensure().path
    keys = [f"/root/{one}/x86_64/{KEYS[one.partition('/')[2]]}" for one in repositories]
    shown = docker(
        "run", "--rm", f"--label={LABEL}", "--network=none", f"--volume={root}:/root:ro", "--entrypoint=gpg",
        ensure_image("apt_repository"), "--homedir=/tmp", "--show-keys", "--with-colons", *keys,
    ).stdout  # fmt: skip
    return [line.split(":")[9] for line in shown.splitlines() if line.startswith("fpr")]


@pytest.fixture(scope="module")
def _host():
    hosts.up_hub()
    hosts.up([HOST])
    write("/etc/apt/sources.list.d/contrib.sources", CONTRIB)
    write("/etc/apt/preferences.d/nvidia", PIN)
    ok("apt-get", "update")
    yield
    hosts.down([HOST])


@pytest.fixture
def _good(_host):
    """A host that has the repository, and of the driver what the image has: the real nvidia-smi of Debian."""
    updated = use("good/debian13")
    assert (updated.returncode, updated.stderr) == (0, "")


def test_it_is_built_once():
    repository = apt_repository.ensure()
    built = (repository.path / "good/debian13/x86_64/Release").stat().st_mtime_ns
    assert apt_repository.ensure() == repository
    assert (repository.path / "good/debian13/x86_64/Release").stat().st_mtime_ns == built


def test_its_key_is_told(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["testbed", "key"])
    assert __main__.main() == 0
    assert capsys.readouterr().out == f"{apt_repository.ensure().fingerprint}\n"


@pytest.mark.usefixtures("_host")
class TestSources:
    def test_one_key_signs_all_but_one_variant(self):
        repositories = [f"{variant}/{system}" for variant in ("good", "fm-newer", "shadow") for system in KEYS]
        assert fingerprints(*repositories) == [apt_repository.ensure().fingerprint] * 12
        updated = use(*repositories)
        assert (updated.returncode, updated.stderr) == (0, "")

    def test_another_key_has_the_right_name_and_signs_what_is_with_it(self):
        (other,) = {*fingerprints(*(f"wrong-key/{system}" for system in KEYS))}
        assert len(other) == 40
        assert other != apt_repository.ensure().fingerprint
        assert use("wrong-key/debian13", key="wrong-key/debian13").returncode == 0
        refused = use("wrong-key/debian13")
        assert refused.returncode != 0
        assert "Missing key" in refused.stderr

    def test_origin_and_label_are_nvidias_and_there_is_no_suite(self):
        use("good/debian13")
        line = f"{URL}/good/debian13/x86_64  Packages\n     release o=NVIDIA,l=NVIDIA CUDA,c="
        assert line in ok("apt-cache", "policy")

    def test_all_branches_are_offered_at_once(self):
        use("good/debian13")
        versions = ["595.71.05-1", "580.178.04-1", "580.126.09-1", "580.95.05-1", "550.163.01-1", "550.144.03-1"]
        assert offered("libcuda1") == versions
        assert offered("nvidia-fabricmanager") == versions[:4]
        assert offered("nvidia-fabricmanager-550") == versions[4:]
        assert offered("cuda-toolkit-12-4") == ["12.4.1-1"]

    def test_a_fabric_manager_is_newer_than_its_driver(self):
        use("fm-newer/debian13")
        assert offered("nvidia-fabricmanager-550") == ["550.163.01-1"]
        assert offered("nvidia-kernel-open-dkms") == offered("cuda-drivers-550") == ["550.144.03-1"]

    def test_somebody_else_has_the_same_version_and_a_newer_one(self):
        use("shadow/debian13")
        assert "release o=Elsewhere,l=Elsewhere" in ok("apt-cache", "policy")
        assert offered("libcuda1") == ["550.163.01-2", "550.163.01-1"]

    def test_drivers_for_ubuntu_fit_together(self):
        """Solved by this host's apt: Debian has what these packages need of the distribution, too."""
        use("good/ubuntu2404", key="good/ubuntu2404")
        for version, suffix in (
            ("550.163.01-0ubuntu1", "-550"),
            ("580.126.09-1ubuntu1", "-580"),
            ("595.71.05-1ubuntu1", ""),
        ):
            upstream = version.partition("-")[0]
            old = suffix == "-550"
            names = [
                *(f"{name}{suffix}" for name in UBUNTU),
                *([f"nvidia-firmware-550-{upstream}"] if old else [f"nvidia-firmware{suffix}", "nvidia-persistenced"]),
                *([] if old else [f"libnvidia-gpucomp{suffix}"]),
                f"nvidia-dkms{suffix}-open",
                f"nvidia-kernel-source{suffix}-open",
                "nvidia-modprobe",
            ]
            manager = "nvidia-fabricmanager-550" if old else "nvidia-fabricmanager"
            plan = [*(f"{name}={version}" for name in names), f"{manager}={upstream}-1"]
            said = ok("apt-get", "install", "--simulate", "--no-install-recommends", *plan)
            chosen = {line.split()[1] for line in said.splitlines() if line.startswith("Inst") and "NVIDIA" in line}
            assert chosen == {*names, manager}


@pytest.mark.usefixtures("_good")
class TestPackages:
    def test_a_driver_comes_changes_and_goes_and_nvidia_smi_works(self):
        install(*driver("550.163.01", "nvidia-fabricmanager-550"))
        assert ok("nvidia-smi", "-L").count("NVIDIA H800") == 8
        assert ok("cat", f"{MARKERS}/libcuda1") == "550.163.01-1\n"
        for unit in ("nvidia-persistenced.service", MANAGER):
            assert run("systemctl", "is-enabled", unit).stdout == "disabled\n"
            ok("systemctl", "enable", "--now", unit)
            assert ok("systemctl", "is-active", unit) == "active\n"
        assert "550.163.01" in ok("nv-fabricmanager", "--version")

        install(*driver("580.95.05", "nvidia-fabricmanager"))
        assert run("test", "-e", f"{MARKERS}/nvidia-fabricmanager-550").returncode == 1
        assert ok("cat", f"{MARKERS}/libnvidia-gpucomp") == "580.95.05-1\n"
        assert run("systemctl", "is-active", MANAGER).stdout == "inactive\n"
        assert "580.95.05" in ok("nv-fabricmanager", "--version")

        install(*driver("550.144.03", "nvidia-fabricmanager-550"), "libnvidia-gpucomp-")
        assert ok("cat", f"{MARKERS}/libcuda1") == "550.144.03-1\n"
        assert ok("nvidia-smi", "-L").count("NVIDIA H800") == 8

        names = [package.partition("=")[0] for package in driver("550.144.03", "nvidia-fabricmanager-550")]
        ok("apt-get", "purge", "--yes", *names, "nvidia-fabricmanager")
        assert ok("dpkg", "--audit") == ""
        assert run("test", "-e", MARKERS).returncode == 1
        assert run("sh", "-c", "command -v nvidia-smi").returncode != 0
        assert ok("systemctl", "list-units", "--all", "--plain", "--no-legend", "nvidia-*") == ""

    def test_a_kernel_module_fails_to_build_when_told_to(self):
        ok("mkdir", "--parents", "/etc/llmfleet-bed")
        ok("touch", "/etc/llmfleet-bed/postinst-fails")
        ok("sh", "-c", "cd /root && apt-get download nvidia-kernel-open-dkms=550.163.01-1")
        # Its dependency dkms would bring a compiler, and nothing is asked of it here.
        command = ("sh", "-c", "dpkg --force-depends --install /root/nvidia-kernel-open-dkms_*.deb")
        failed = run(*command)
        assert failed.returncode != 0
        assert "Bad return status for module build" in failed.stderr
        assert "nvidia-kernel-open-dkms" in ok("dpkg", "--audit")
        ok("rm", "/etc/llmfleet-bed/postinst-fails")
        ok(*command)
        ok("dpkg", "--purge", "nvidia-kernel-open-dkms")
        assert ok("dpkg", "--audit") == ""

    def test_the_keyring_brings_source_and_key(self):
        install("cuda-keyring")
        ok("rm", SOURCE)
        updated = update("/etc/apt/sources.list.d/cuda-debian13-x86_64.list")
        assert (updated.returncode, updated.stderr) == (0, "")
        assert offered("cuda-toolkit-12-4") == ["12.4.1-1"]
        ok("dpkg", "--purge", "cuda-keyring")
        assert run("sh", "-c", "ls /etc/apt/sources.list.d/cuda*").returncode != 0
