# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The trial on a host whose programs answer as they did on Debian. With the real ones it is in test_dkms_bed."""

from __future__ import annotations

import typing as t
from pathlib import Path

import pytest
import yaml
from ansible.module_utils.basic import AnsibleModule

from ansible_collections.llmfleet.serving.plugins.module_utils import _dkms
from ansible_collections.llmfleet.serving.plugins.module_utils._files import locked
from ansible_collections.llmfleet.serving.plugins.modules import dkms_trial

KERNELS = Path(__file__).parents[4] / "playbooks/stacks/kernels.yml"
# Ansible makes dates texts on their way to a module.
KNOWN_BAD = [{**pair, "checked": str(pair["checked"])} for pair in yaml.safe_load(KERNELS.read_text())]
DEBIAN_12, DEBIAN_13 = "6.1.0-50-amd64", "6.12.117+deb13-amd64"
OPEN_535, OPEN_550 = "nvidia-open-kernel-dkms=535.261.03-1", "nvidia-open-kernel-dkms=550.163.01-2"
# What the headers of the two say: version, compiler, its major version.
HEADERS = {
    DEBIAN_12: (393648, "gcc-12 (Debian 12.2.0-14+deb12u1) 12.2.0", 120200),
    DEBIAN_13: (396405, "x86_64-linux-gnu-gcc-14 (Debian 14.2.0-19) 14.2.0", 140200),
}
# Of the log of driver 550 for Debian 13. The names of programs and checks have the word error in them too.
MAKE_LOG = """DKMS (dkms-3.2.2) make.log for nvidia-current-open/550.163.01 for kernel 6.12.117+deb13-amd64 (x86_64)
 CONFTEST: dma_fence_set_error
   x86_64-linux-gnu-gcc-14 -Werror=strict-prototypes -Wno-error=format-overflow -c -o {build}/nvidia/nv-pci.o
{build}/nvidia/nv-pci.c: In function 'nv_resize_pcie_bars':
{build}/nvidia/nv-pci.c:237:9: error: too few arguments to function 'pci_resize_resource'
  237 |     r = pci_resize_resource(pci_dev, NV_GPU_BAR1, requested_size);
make[4]: *** [/usr/src/linux-headers-6.12.117+deb13-common/scripts/Makefile.build:234: {build}/nvidia/nv-pci.o] Error 1
"""


class Host:
    """A host with headers; `answers` overrides what a program answers, None takes it away."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.ran: list[list[str]] = []
        self.answers: dict[str, tuple[int, str, str] | None] = {}
        self.contents = {"nvidia-open-kernel-dkms": ["usr/src/nvidia-current-open-535.261.03/dkms.conf"]}
        self.sha256 = "5" * 64
        self.make_log = ""
        for release, (code, compiler, gcc) in HEADERS.items():
            self.write(release, "include/generated/uapi/linux/version.h", f"#define LINUX_VERSION_CODE {code}\n")
            config = f"CONFIG_CC_VERSION_TEXT={compiler}\nCONFIG_CC_IS_GCC=y\nCONFIG_GCC_VERSION={gcc}\n"
            self.write(release, "include/config/auto.conf", config)
            self.write(release, "Module.symvers", "0x092997ed\t_printk\tvmlinux\tEXPORT_SYMBOL\t\n")

    def write(self, release: str, name: str, text: str) -> None:
        path = self.root / "lib/modules" / release / "build" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def run(
        self, argv: list[str], *, environ_update: dict[str, str], handle_exceptions: bool, cwd: str | None = None
    ) -> tuple[int, str, str]:
        assert not handle_exceptions
        self.ran.append(argv)
        name = f"{argv[0]} {argv[1]}" if f"{argv[0]} {argv[1]}" in self.answers else argv[0]
        if name in self.answers:
            answer = self.answers[name]
            if answer is None:
                raise FileNotFoundError(2, "No such file or directory")
            return answer
        return getattr(self, "_" + argv[0].replace("-", "_"))(argv, Path(cwd or "/nowhere"), environ_update)

    def _gcc_12(self, *_rest: t.Any) -> tuple[int, str, str]:
        return 0, "12.2.0\n", ""

    _gcc = _gcc_12

    def _x86_64_linux_gnu_gcc_14(self, *_rest: t.Any) -> tuple[int, str, str]:
        return 0, "14.2.0\n", ""

    def _apt_cache(self, *_rest: t.Any) -> tuple[int, str, str]:
        return 0, f"Package: x\nSize: 30732576\nSHA256: {self.sha256}\nDescription: x\n", ""

    def _apt_get(self, argv: list[str], cwd: Path, _env: t.Any) -> tuple[int, str, str]:
        for spec in argv[2:]:
            (cwd / f"{spec.replace('=', '_')}_amd64.deb").touch()
        return 0, "", "W: Download is performed unsandboxed as root"

    def _dpkg_deb(self, argv: list[str], *_rest: t.Any) -> tuple[int, str, str]:
        for name in self.contents[Path(argv[2]).name.split("_")[0]]:
            path = Path(argv[3], name)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        return 0, "", ""

    def _dkms(self, argv: list[str], _cwd: Path, env: dict[str, str]) -> tuple[int, str, str]:
        if argv[1] == "--version":
            return 0, "dkms-3.0.10\n", ""
        module, number, _kernel, source, tree = argv[3:12:2]
        assert (Path(source) / f"{module}-{number}").is_dir()
        assert not Path(env["sign_file"]).exists(), "DKMS would make a key for signing"
        if not self.make_log:
            return 0, "", ""
        build = Path(tree, module, number, "build")
        build.mkdir(parents=True)
        (build / "make.log").write_text(self.make_log.format(build=build))
        return 10, "Building module...(bad exit status: 2)\n", "Error! Bad return status for module build on kernel\n"

    def left(self) -> list[str]:
        return [path.name for path in (self.root / "var/lib/llmfleet/dkms").glob("*")]

    def builds(self) -> int:
        return sum(argv[:2] == ["dkms", "build"] for argv in self.ran)


@pytest.fixture
def host(tmp_path, monkeypatch) -> Host:
    host = Host(tmp_path)
    monkeypatch.setattr(AnsibleModule, "run_command", lambda _module, *args, **options: host.run(*args, **options))
    real = _dkms.trial
    monkeypatch.setattr(dkms_trial, "trial", lambda *args, **options: real(*args, **options, root=tmp_path))
    return host


@pytest.fixture
def run(run_module, host):
    """`run(kernel=..., check=...)` runs the module on `host`."""
    return lambda **params: run_module(
        dkms_trial, **{"packages": [OPEN_535], "kernel": DEBIAN_12, "known_bad": KNOWN_BAD, **params}
    )


def test_check_real_check_real(run, host):
    predicted = run(check=True)
    assert host.builds() == 0
    made = run()
    assert host.builds() == 1
    again = [run(check=True), run()]
    assert host.builds() == 1, "what has built is not built again"
    assert [result["changed"] for result in (predicted, made, *again)] == [True, True, False, False]
    assert made == {"changed": True, "kernel": DEBIAN_12, "kernel_version": "6.1.176", "compiler": "gcc-12 12.2.0"}
    assert host.left() == [f"nvidia-open-kernel-dkms-535.261.03-1-{DEBIAN_12}.json"], "nothing is left of the build"


@pytest.mark.parametrize("part", ["packages", "symbols", "compiler", "kernel"])
def test_a_build_counts_for_the_very_same_parts_only(run, host, part):
    run()
    if part == "packages":
        host.sha256 = "6" * 64
    elif part == "symbols":
        host.write(DEBIAN_12, "Module.symvers", "0x12345678\t_printk\tvmlinux\tEXPORT_SYMBOL\t\n")
    elif part == "compiler":
        host.answers["gcc-12"] = (0, "12.3.0\n", "")
    assert run(kernel=DEBIAN_13 if part == "kernel" else DEBIAN_12, known_bad=[])["changed"]
    assert host.builds() == 2


def test_both_packages_of_ubuntu_are_one_source(run, host):
    host.contents = {
        "nvidia-dkms-580-open": ["usr/src/nvidia-580.95.05/dkms.conf"],
        "nvidia-kernel-source-580-open": ["usr/src/nvidia-580.95.05/Kbuild"],
    }
    packages = [f"{name}=580.95.05-0ubuntu1" for name in host.contents]
    assert run(packages=packages)["changed"]
    (build,) = (argv for argv in host.ran if argv[:2] == ["dkms", "build"])
    assert build[2:8] == ["-m", "nvidia", "-v", "580.95.05", "-k", DEBIAN_12]


# --- Refusals before a build


def test_everything_that_is_missing_is_told_at_once(run, host):
    host.answers["dkms"] = None
    result = run(kernel="6.1.0-51-amd64")
    assert result["msg"].splitlines() == [
        f"The kernel module of {OPEN_535} cannot be built for kernel 6.1.0-51-amd64:",
        "- dkms is not installed. Install the package dkms.",
        "- its headers are not installed. Install linux-headers-6.1.0-51-amd64.",
    ]


@pytest.mark.parametrize(
    ("kernel", "gcc", "found"),
    [(DEBIAN_13, "gcc", "gcc 12.2.0. Install gcc-14."), (DEBIAN_12, None, "no compiler. Install gcc-12.")],
)
def test_another_compiler_than_the_kernels(run, host, kernel, gcc, found):
    host.answers |= {"gcc-12": None, "x86_64-linux-gnu-gcc-14": None}
    if gcc is None:
        host.answers["gcc"] = None
    assert found in run(kernel=kernel)["msg"]
    assert host.builds() == 0


def test_gcc_of_the_right_version_by_another_name_will_do(run, host):
    host.answers["gcc-12"] = None
    assert run()["compiler"] == "gcc 12.2.0"


def test_the_known_pair_is_refused_also_in_check_mode(run, host):
    for check in (True, False):
        msg = run(packages=[OPEN_550], kernel=DEBIAN_13, check=check)["msg"]
        assert "driver 550.163.01 is known not to build for kernel 6.12.117" in msg
        assert "(pci-resize-resource; NVIDIA/open-gpu-kernel-modules #1272" in msg
        assert "drivers 535 to below 580.126.09 with kernels 6.12.97 to below 6.13 and 6.18.40 and newer" in msg
    assert host.builds() == 0


@pytest.mark.parametrize(
    ("driver", "flavour", "kernel", "bad"),
    [
        ("550.163.01", "open", "6.12.96", False),
        ("550.163.01", "open", "6.12.97", True),
        ("550.163.01", "proprietary", "6.12.97", True),
        ("550.163.01", "open", "6.13", False),
        ("550.163.01", "open", "6.18.39", False),
        ("550.163.01", "open", "6.18.40", True),
        ("550.163.01", "open", "7.2.12", True),
        ("535.261.03", "open", "6.1.176", False),
        ("580.126.09", "open", "6.12.117", False),
        ("580.105.08", "open", "6.12.117", True),
        ("610.43.02", "open", "7.1.9", False),
        ("610.43.02", "open", "7.2", True),
        ("610.57.04", "open", "7.2", False),
    ],
)
def test_known_pairs(run, host, driver, flavour, kernel, bad):
    major, minor, patch = (int(part) for part in (kernel + ".0").split(".")[:3])
    host.write(DEBIAN_12, "include/generated/uapi/linux/version.h",
               f"#define LINUX_VERSION_CODE {(major << 16) + (minor << 8) + patch}\n")  # fmt: skip
    name = "nvidia-open-kernel-dkms" if flavour == "open" else "nvidia-kernel-dkms"
    result = run(packages=[f"{name}={driver}-1"], check=True)
    assert ("known not to build" in result.get("msg", "")) is bad, result


def test_a_pair_may_concern_one_kind_of_module(run):
    pair = {**KNOWN_BAD[0], "module": ["proprietary"], "driver": [{"since": "535"}], "kernel": [{"since": "6"}]}
    assert run(known_bad=[pair])["changed"]
    assert run(known_bad=[pair], packages=["nvidia-kernel-dkms=535.261.03-1"])["failed"]


@pytest.mark.parametrize("options", [{"packages": []}, {"kernel": "../../etc"}, {"kernel": "x y"}])
def test_a_trial_needs_a_package_and_a_kernel(run, host, options):
    assert "A trial takes packages and a kernel's release" in run(**options)["msg"]
    assert host.ran == []


@pytest.mark.parametrize(
    "package", ["nvidia-open-kernel-dkms", "nvidia-open-kernel-dkms=", "nvidia dkms=1", "../x=1", "x=-o Dir=/", "=1"]
)
def test_a_package_has_an_exact_version(run, host, package):
    assert "is no package in an exact version: expected one like" in run(packages=[package])["msg"]
    assert host.ran == []


# --- Builds that fail


def test_the_compilers_first_error_is_told_and_the_log_is_kept(run, host):
    host.make_log = MAKE_LOG
    result = run(packages=[OPEN_550], kernel=DEBIAN_13, known_bad=[])
    log = host.root / f"var/log/llmfleet/dkms-nvidia-open-kernel-dkms-550.163.01-2-{DEBIAN_13}.log"
    assert result["msg"] == (
        f"The kernel module of {OPEN_550} does not build for kernel {DEBIAN_13}:\n"
        "nvidia/nv-pci.c:237:9: error: too few arguments to function 'pci_resize_resource'\n"
        f"Nothing was installed. The log is {log} on the host. Take another version of the driver or kernel."
    )
    assert "pci_resize_resource(pci_dev" in log.read_text()
    assert host.left() == []

    host.make_log = ""
    assert run(packages=[OPEN_550], kernel=DEBIAN_13, known_bad=[])["changed"], "a failure is not remembered"
    assert not log.exists(), "the log of a failure goes when there is none any more"


@pytest.mark.parametrize(
    ("log", "told"),
    [
        ("ERROR: modpost: GPL-incompatible module nvidia.ko uses GPL-only symbol '__vma_start_write'\n", "GPL-only"),
        ("/bin/sh: 1: ld: not found\nmake[1]: *** [Makefile:1] Error 127\nmake: *** [x] Error 2\n", "Error 127"),
        ("In file included from a.h:1:\nnv.h:22:10: fatal error: linux/x.h: No such file\n", "fatal error: linux/x.h"),
        ("nothing\nthat\nis known\n", "DKMS says: nothing that is known"),
    ],
)
def test_what_is_told_of_other_logs(run, host, log, told):
    host.make_log = log
    assert told in run()["msg"]


def test_dkms_that_does_not_come_to_building(run, host):
    host.answers["dkms build"] = (
        77,
        "",
        "Error! The dkms.conf has a BUILD_EXCLUSIVE directive that does not match\n",
    )
    assert "DKMS says: Error! The dkms.conf has a BUILD_EXCLUSIVE directive" in run()["msg"]


@pytest.mark.parametrize(
    ("program", "answer", "told"),
    [
        (
            "apt-cache",
            (100, "", "E: No packages found\n"),
            f"`apt-cache show {OPEN_535}` ended with status 100",
        ),
        ("apt-cache", (0, "Package: x\n", ""), f"apt knows no {OPEN_535}."),
        ("apt-cache", None, "apt-cache cannot be run: No such file or directory"),
        ("apt-get", (100, "", "E: Failed to fetch http://h/x.deb  404  Not Found\n"), "404 Not Found"),
        ("dpkg-deb", (2, "", "dpkg-deb: error: unexpected end of file\n"), "unexpected end of file"),
    ],
)
def test_programs_that_fail(run, host, program, answer, told):
    host.answers[program] = answer
    assert told in run()["msg"]
    assert host.left() == []


def test_a_package_without_a_source(run, host):
    host.contents["nvidia-open-kernel-dkms"] = ["usr/share/doc/x"]
    assert "should have one usr/src/*/dkms.conf, and 0 are there" in run()["msg"]


def test_a_full_disk(run, host, monkeypatch):
    monkeypatch.setattr(_dkms, "_SCRATCH_NEED", 1 << 60)
    assert "too little free space for building the kernel module" in run()["msg"]
    assert host.builds() == 0


def test_a_trial_after_one_that_was_killed(run, host):
    build = host.root / "var/lib/llmfleet/dkms/build"
    (build / "usr/src/nvidia-550.163.01").mkdir(parents=True)
    (build / "usr/src/nvidia-550.163.01/dkms.conf").touch()
    assert run()["changed"]
    assert not build.exists()


def test_one_trial_at_a_time(run, host):
    build = host.root / "var/lib/llmfleet/dkms/build"
    build.parent.mkdir(parents=True)
    with locked(build):
        assert f"{build} is being written by process" in run()["msg"]
    assert host.builds() == 0
