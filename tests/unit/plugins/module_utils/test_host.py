# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a host tells of itself is read from its files, below a root of the test's own, and from two programs."""

from __future__ import annotations

import platform
import shutil
from pathlib import Path

import bare_host
import pytest
from bare_host import KERNEL, SECURE_BOOT, write

from ansible_collections.llmfleet.serving.plugins.module_utils._host import Kernel, read_host


def answering(**answers: str):
    """A run_command that knows some programs, by their name with - as _, and has not the others."""

    def run(argv, *, environ_update, handle_exceptions):
        assert environ_update == {"LC_ALL": "C"}
        assert not handle_exceptions
        if argv[0].replace("-", "_") not in answers:
            raise FileNotFoundError(2, "No such file or directory")
        return 0, answers[argv[0].replace("-", "_")], ""

    return run


NOTHING = answering()


@pytest.fixture
def host(tmp_path):
    return bare_host.build(tmp_path / "host")


def test_reference_host(host):
    facts = read_host(answering(timedatectl="yes\n"), ["/", "/data/models"], host)
    assert (facts.system, facts.version, facts.systemd, facts.container) == ("ubuntu", "22.04", True, False)
    assert (facts.cores, facts.memory) == (112, 2113440000 * 1024)
    assert facts.kernel == Kernel(KERNEL, KERNEL, [KERNEL], 11, [11], None)
    assert (facts.secure_boot, facts.clock_synchronized) == (False, True)
    assert [device.device for device in facts.pci if not device.switch] == ["0x2324"] * 8
    assert [device.device for device in facts.pci if device.switch] == ["0x22a3"] * 4
    assert {path: there.mount for path, there in facts.filesystems.items()} == {"/": "/", "/data/models": "/"}
    assert (facts.architecture, facts.python) == (platform.machine(), platform.python_version())


def test_host_that_tells_nothing(tmp_path):
    facts = read_host(NOTHING, ["/data"], tmp_path)
    assert (facts.system, facts.version, facts.systemd, facts.container) == ("", "", False, False)
    assert (facts.cores, facts.memory, facts.pci) == (0, 0, [])
    assert facts.kernel == Kernel("", None, [], None, [], None)
    assert (facts.secure_boot, facts.clock_synchronized) == (None, None)


def test_debian_testing_has_no_version(host):
    write(host, {"etc/os-release": "ID=debian\nVERSION_CODENAME=forky\n"})
    facts = read_host(NOTHING, [], host)
    assert (facts.system, facts.version) == ("debian", "")


def test_container(host):
    write(host, {"run/systemd/container": "docker\n"})
    assert read_host(NOTHING, [], host).container is True


@pytest.mark.parametrize(
    ("text", "cores"),
    [
        (bare_host.cpuinfo(processors=2, cores=4, threads=2), 8),
        (bare_host.cpuinfo(processors=1, cores=4, threads=1), 4),
        ("processor\t: 0\nmodel name\t: virtual\n\nprocessor\t: 1\nmodel name\t: virtual\n\n", 2),
    ],
)
def test_cores_are_not_threads(host, text, cores):
    write(host, {"proc/cpuinfo": text})
    assert read_host(NOTHING, [], host).cores == cores


@pytest.mark.parametrize(("variable", "on"), [(b"\x06\x00\x00\x00\x01", True), (b"\x06\x00\x00\x00\x00", False)])
def test_secure_boot(host, variable, on):
    write(host, {SECURE_BOOT: variable})
    assert read_host(NOTHING, [], host).secure_boot is on


def test_no_uefi_no_secure_boot(host):
    shutil.rmtree(host / "sys/firmware")
    assert read_host(NOTHING, [], host).secure_boot is None


@pytest.mark.parametrize(("said", "kept"), [("yes\n", True), ("no\n", False), ("Failed to connect to bus\n", None)])
def test_clock(host, said, kept):
    assert read_host(answering(timedatectl=said), [], host).clock_synchronized is kept


class TestFilesystem:
    def test_free_space_is_that_of_the_directory_that_exists(self, host):
        free = shutil.disk_usage(host).free
        told = read_host(NOTHING, ["/data/models"], host).filesystems["/data/models"].free
        assert abs(told - free) < 1 << 30

    def test_is_named_after_its_mount_point(self):
        assert read_host(NOTHING, ["/proc/self/net"]).filesystems["/proc/self/net"].mount == "/proc"


class TestDefaultKernel:
    def kernel(self, root: Path, *releases: str, **files: str) -> str | None:
        shutil.rmtree(root / "boot")
        write(root, {f"boot/vmlinuz-{release}": "" for release in releases})
        write(root, {name.replace("__", "/"): text for name, text in files.items()})
        return read_host(NOTHING, [], root).kernel.default

    @pytest.mark.parametrize(
        ("releases", "newest"),
        [
            (("5.15.0-94-generic", "5.15.0-101-generic"), "5.15.0-101-generic"),
            (("6.1.0-9-amd64", "6.1.0-50-amd64", "5.10.0-99-amd64"), "6.1.0-50-amd64"),
            (("5.14.0-427.13.1.el9_4.x86_64", "5.14.0-70.el9.x86_64"), "5.14.0-427.13.1.el9_4.x86_64"),
            (("0-rescue-c0ffee", "5.14.0-70.el9.x86_64"), "5.14.0-70.el9.x86_64"),
        ],
    )
    def test_is_the_newest(self, host, releases, newest):
        assert self.kernel(host, *releases) == newest

    def test_is_unknown_without_kernels(self, host):
        assert self.kernel(host) is None

    @pytest.mark.parametrize(
        "named",
        [
            "Advanced options for Ubuntu>Ubuntu, with Linux 5.15.0-94-generic",
            "gnulinux-advanced-c0ffee>gnulinux-5.15.0-94-generic-advanced-c0ffee",
        ],
    )
    def test_is_the_one_that_grub_is_told(self, host, named):
        assert self.kernel(host, KERNEL, "5.15.0-101-generic", etc__default__grub=f'GRUB_DEFAULT="{named}"\n') == KERNEL

    def test_is_that_of_the_last_file_of_settings(self, host):
        extra = {"etc__default__grub.d__50-cloud.cfg": f"GRUB_DEFAULT='Ubuntu, with Linux {KERNEL}'\n"}
        assert self.kernel(host, KERNEL, "5.15.0-101-generic", **extra) == KERNEL

    def test_is_the_saved_one(self, host):
        files = {"etc__default__grub": "GRUB_DEFAULT=saved\n", "boot__grub2__grubenv": f"saved_entry=c0ffee-{KERNEL}\n"}
        assert self.kernel(host, KERNEL, "5.15.0-101-generic", **files) == KERNEL

    def test_is_the_newest_where_none_is_saved(self, host):
        files = {"etc__default__grub": "GRUB_DEFAULT=saved\n"}
        assert self.kernel(host, KERNEL, "5.15.0-101-generic", **files) == "5.15.0-101-generic"

    def test_is_unknown_where_the_menu_is_counted(self, host):
        assert self.kernel(host, KERNEL, "5.15.0-101-generic", etc__default__grub='GRUB_DEFAULT="1>2"\n') is None

    def test_is_the_longest_name_that_is_meant(self, host):
        files = {"etc__default__grub": "GRUB_DEFAULT='Debian, with Linux 6.1.0-50-amd64-rt'\n"}
        assert self.kernel(host, "6.1.0-50-amd64", "6.1.0-50-amd64-rt", **files) == "6.1.0-50-amd64-rt"


class TestCompiler:
    @pytest.mark.parametrize(
        ("built", "major"),
        [
            ("(x86_64-linux-gnu-gcc-12 (Debian 12.2.0-14+deb12u1) 12.2.0, GNU ld (GNU Binutils for Debian) 2.40)", 12),
            ("(x86_64-linux-gnu-gcc-13 (Ubuntu 13.2.0-23ubuntu4) 13.2.0, GNU ld (GNU Binutils) 2.42)", 13),
            ("(mockbuild@x86) (gcc (GCC) 11.4.1 20231218 (Red Hat 11.4.1-3), GNU ld version 2.35.2-43.el9)", 11),
            ("(builder@sandbox) (gcc (GCC) 15.3.0, GNU ld (GNU Binutils) 2.46)", 15),
            ("(buildd@lgw01) (gcc version 9.4.0 (Ubuntu 9.4.0-1ubuntu1~20.04.1))", 9),
            ("(clang version 17.0.6, LLD 17.0.6)", None),
        ],
    )
    def test_of_the_kernel(self, host, built, major):
        write(host, {"proc/version": f"Linux version 6.1.0 {built} #1 SMP\n"})
        assert read_host(NOTHING, [], host).kernel.compiler == major

    def test_of_the_host_are_those_that_can_compile(self, host):
        write(host, {"usr/libexec/gcc/x86_64-linux-gnu/14/cc1": "", "usr/lib/gcc/x86_64-linux-gnu/13/lto-wrapper": ""})
        assert read_host(NOTHING, [], host).kernel.compilers == [11, 14]


class TestApt:
    POLICY = """\
linux-headers-5.15.0-94-generic:
  Installed: (none)
  Candidate: 5.15.0-94.104
  Version table:
     5.15.0-94.104 500
gcc-11:
  Installed: 11.4.0-1ubuntu1~22.04
  Candidate: 11.4.0-1ubuntu1~22.04
"""

    @pytest.fixture
    def lists(self, host):
        write(host, {"var/lib/apt/lists/archive.ubuntu.com_ubuntu_dists_jammy_main_binary-amd64_Packages.lz4": ""})
        return host

    @pytest.mark.parametrize(
        ("said", "available"),
        [
            (POLICY, [f"linux-headers-{KERNEL}", "gcc-11"]),
            (POLICY.replace("Candidate: 5.15.0-94.104", "Candidate: (none)"), ["gcc-11"]),
            ("", []),
        ],
    )
    def test_tells_what_it_can_install(self, lists, said, available):
        assert read_host(answering(apt_cache=said), [], lists).kernel.available == available

    def test_that_knows_no_archive_tells_nothing(self, host):
        assert read_host(answering(apt_cache=""), [], host).kernel.available is None

    def test_that_is_not_there_tells_nothing(self, host):
        assert read_host(NOTHING, [], host).kernel.available is None
