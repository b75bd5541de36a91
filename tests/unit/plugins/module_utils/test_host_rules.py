# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Every rule for bare hosts and fleets: silent on the reference host, firing alone on what it is for, and with others.

One table has the cases; no rule may be without one.
"""

from __future__ import annotations

import dataclasses
import typing as t
from types import ModuleType

import pytest
from mutants import comparisons, mutant

from ansible_collections.llmfleet.serving.plugins.module_utils import _host_checks, _host_rules
from ansible_collections.llmfleet.serving.plugins.module_utils._gpu_host import PciDevice
from ansible_collections.llmfleet.serving.plugins.module_utils._host import Filesystem, HostFacts, Kernel
from ansible_collections.llmfleet.serving.plugins.module_utils._host_checks import Wanted
from ansible_collections.llmfleet.serving.plugins.module_utils._host_models import Need, Size

GIB = 1 << 30
GB = 10**9
RUNNING = "5.15.0-94-generic"
NEWER = "5.15.0-101-generic"
KERNEL = Kernel(RUNNING, RUNNING, [RUNNING], 11, [11], None)
H800, H100, H20_PLUS, OTHER = "0x2324", "0x2330", "0x232c", "0x1eb8"
ADDRESSES = [f"0000:{bus}:00.0" for bus in ("18", "3a", "4b", "5c", "84", "ac", "b3", "b9")]


def gpus(*devices: str, drivers: t.Sequence[str | None] = (None,) * 8) -> list[PciDevice]:
    return [PciDevice(address, device, driver) for address, device, driver in zip(ADDRESSES, devices, drivers)]


SWITCHES = [PciDevice(f"0000:0{bus}:00.0", "0x22a3", None, switch=True) for bus in range(5, 9)]
BUS = [*gpus(*[H800] * 8), *SWITCHES]
HOST = HostFacts(
    system="ubuntu",
    version="22.04",
    architecture="x86_64",
    systemd=True,
    container=False,
    python="3.10.12",
    cores=112,
    memory=2016 * GIB,
    kernel=KERNEL,
    secure_boot=False,
    pci=BUS,
    filesystems={"/": Filesystem("/", 400 * GIB), "/data/models": Filesystem("/data", 3200 * GB)},
    clock_synchronized=True,
)
MODEL = {"name": "big", "repo": "acme/big", "revision": "0" * 40}
SAFE = {"name": "safe", "format": "safetensors", "repo": "acme/safe", "revision": "0" * 40}
WANTED = Wanted(
    memory_min=64,
    disk={"/": 20},
    gpu_profile="h800",
    gpu_count=8,
    kernel_module=True,
    models=[MODEL, SAFE, {"name": "old", "state": "absent"}],
    services=[
        {"name": "one", "engine": "ollama", "model": "big", "port": 1, "gpus": [0, 1, 2, 3]},
        {"name": "two", "engine": "vllm", "model": "safe", "port": 65535, "gpus": [4, 5, 6, 7]},
    ],
)
ROW: Size = {"parameters": 70, "cores": 16, "gpu_memory": 160, "memory": 128, "disk": 200, "names": []}
SERVER: Size = {**ROW, "parameters": 671, "cores": None, "gpu_memory": 320, "memory": 256, "disk": 1000}


def kernel(**changes: t.Any) -> dict[str, t.Any]:
    return {"kernel": dataclasses.replace(KERNEL, **changes)}


def free(size: int) -> dict[str, t.Any]:
    return {"filesystems": {**HOST.filesystems, "/data/models": Filesystem("/data", size)}}


def known(*sizes: int) -> dict[str, t.Any]:
    return {"needs": [Need(f"m{number}", size, size, False, None) for number, size in enumerate(sizes)]}


def guessed(*rows: Size, started: bool = False) -> dict[str, t.Any]:
    return {"needs": [Need(f"m{number}", None, None, started, row) for number, row in enumerate(rows)]}


def services(*changes: dict[str, t.Any]) -> dict[str, t.Any]:
    return {"services": [{**service, **change} for service, change in zip(WANTED.services, changes)]}


# rule: [(facts changed, wants changed, object, expected, found)]
CASES: dict[str, list[tuple[dict[str, t.Any], dict[str, t.Any], str, str, str]]] = {
    "operating-system": [
        (
            {"system": system, "version": version},
            {},
            "the host",
            "debian 12 or ubuntu 22.04 or newer",
            f"{system} {version}".strip() or "no os-release",
        )
        for system, version in [("ubuntu", "20.04"), ("debian", "11"), ("rhel", "9.4"), ("centos", "9"), ("", "")]
    ],
    "architecture": [({"architecture": "aarch64"}, {}, "the host", "x86_64", "aarch64")],
    "service-manager": [({"systemd": False}, {}, "the host", "systemd", "another one")],
    "python": [({"python": "3.8.10"}, {}, "the host", "3.9 or newer", "3.8.10")],
    "memory": [({"memory": 63 * GIB}, {}, "the host", "64 GiB or more", "63.0 GiB")],
    "disk": [
        (
            {"filesystems": {**HOST.filesystems, "/": Filesystem("/", 19 * GIB)}},
            {},
            "/",
            "20 GiB free or more",
            "19.0 GiB on /",
        )
    ],
    "clock": [
        ({"clock_synchronized": False}, {}, "the host", "a clock that a time service keeps", "one left alone"),
        ({"clock_synchronized": None}, {}, "the host", "a clock that a time service keeps", "not known"),
    ],
    "kernel-version": [
        (
            kernel(running="4.18.0-553", default=None, headers=["4.18.0-553"]),
            {},
            "the host",
            "5 or newer",
            "4.18.0-553",
        )
    ],
    "kernel-default": [
        (kernel(default=NEWER), {}, "the host", f"{RUNNING}, which runs, to boot next, too", NEWER),
    ],
    "kernel-headers": [
        (
            kernel(headers=headers, available=["gcc-11"]),
            {},
            "the host",
            f"headers of {RUNNING} installed, or linux-headers-{RUNNING} in apt's lists",
            found,
        )
        for headers, found in [([], "those of none"), ([NEWER], f"those of {NEWER}")]
    ],
    "compiler": [
        (
            kernel(compiler=12, compilers=there, available=[]),
            {},
            "the host",
            "gcc 12, with which the kernel was built, installed, or gcc-12 in apt's lists",
            found,
        )
        for there, found in [([], "gcc none"), ([11, 13], "gcc 11, 13")]
    ],
    "secure-boot": [
        (
            {"secure_boot": True},
            {},
            "the host",
            "a module signed with a key that the firmware knows, or Secure Boot off",
            "Secure Boot on",
        )
    ],
    "gpu-count": [
        ({"pci": [*gpus(*[H800] * 7), *SWITCHES]}, {}, "the host", "8 GPUs on the PCI bus", "7"),
        ({"pci": []}, {}, "the host", "8 GPUs on the PCI bus", "0"),
        (
            {"pci": [*gpus(*[H800] * 8, drivers=["vfio-pci"] * 2 + ["nvidia"] * 6), *SWITCHES]},
            {},
            "the host",
            "8 GPUs on the PCI bus",
            "6, and 2 that virtual machines have",
        ),
    ],
    "gpu-model": [
        (
            {"pci": [*gpus(*[H800] * 7, H100), *SWITCHES]},
            {},
            "GPU 0000:b9:00.0",
            "NVIDIA H800",
            "NVIDIA H100 80GB HBM3 (10de:2330)",
        ),
        (
            {"pci": [*gpus(*[H800] * 6, OTHER, OTHER), *SWITCHES]},
            {},
            "GPU 0000:b3:00.0, 0000:b9:00.0",
            "NVIDIA H800",
            "another device (10de:1eb8)",
        ),
        (
            {"pci": [*gpus(*[H800] * 7, H100), *SWITCHES]},
            {"gpu_profile": "auto"},
            "GPU 0000:b9:00.0",
            "NVIDIA H800",
            "NVIDIA H100 80GB HBM3 (10de:2330)",
        ),
        (
            {"pci": gpus(H20_PLUS)},
            {"gpu_profile": "auto", "gpu_count": 1, "services": []},
            "GPU 0000:18:00.0",
            "one of NVIDIA A100-SXM4-80GB, NVIDIA H100 80GB HBM3, NVIDIA H20, NVIDIA H200, NVIDIA H800",
            "NVIDIA H20-3e (10de:232c)",
        ),
    ],
    "nvswitch": [
        (
            {"pci": [*gpus(*[H800] * 8), *SWITCHES[:3]]},
            {},
            "the host",
            "4 NVSwitches on the PCI bus, as a board with 8 NVIDIA H800 has",
            "3 (H100 NVSwitch (10de:22a3))",
        ),
        (
            {"pci": gpus(*["0x20b2"] * 8)},
            {"gpu_profile": "a100"},
            "the host",
            "6 NVSwitches on the PCI bus, as a board with 8 NVIDIA A100-SXM4-80GB has",
            "0 (none)",
        ),
    ],
    "model-name": [({}, {"models": [MODEL, MODEL, SAFE]}, "model big", "a name of its own", "2 of that name")],
    "model-source": [
        (
            {},
            {"models": [{"name": "big", **given}, SAFE]},
            "model big",
            "its repo and its revision",
            found,
        )
        for given, found in [
            ({"repo": "acme/big"}, "no revision"),
            ({"revision": "0" * 40}, "no repo"),
            ({"repo": "", "revision": ""}, "no repo and no revision"),
        ]
    ],
    "model-manifest": [
        (
            {},
            {"needs": [Need("big", None, None, False, None, "/m lists no file.")]},
            "model big",
            "a manifest that can be read, or none",
            "/m lists no file",
        )
    ],
    "model-disk": [
        (
            free(400 * GB),
            known(404 * GB),
            "/data/models",
            "404.0 GB free for m0",
            "400.0 GB on /data",
        ),
        (
            free(400 * GB),
            known(201 * GB, 200 * GB),
            "/data/models",
            "401.0 GB free for m0, m1",
            "400.0 GB on /data",
        ),
    ],
    "model-gpu-memory": [
        ({}, known(689 * GB), "model m0", "689.0 GB of GPU memory for its files", "684.2 GB"),
    ],
    "size-cores": [
        ({"cores": 15}, guessed(ROW), "model m0", "16 cores, by the table of sizes", "15"),
    ],
    "size-memory": [
        ({"memory": 127 * GB}, guessed(ROW), "model m0", "128.0 GB of memory, by the table of sizes", "127.0 GB"),
    ],
    "size-gpu-memory": [
        (
            {"pci": gpus(H800)},
            {**guessed(ROW), "gpu_count": 1, "services": []},
            "model m0",
            "160.0 GB of GPU memory, by the table of sizes",
            "85.5 GB",
        ),
    ],
    "size-disk": [
        (
            free(1100 * GB),
            guessed(SERVER, ROW),
            "/data/models",
            "1200.0 GB free for m0, m1, by the table of sizes",
            "1100.0 GB on /data",
        ),
        (
            free(300 * GB),
            {"needs": [*known(101 * GB)["needs"], Need("guess", None, None, False, ROW)]},
            "/data/models",
            "301.0 GB free for m0, guess, by the table of sizes",
            "300.0 GB on /data",
        ),
    ],
    "service-name": [({}, services({}, {"name": "one"}), "service one", "a name of its own", "2 of that name")],
    "service-model": [
        (
            {},
            services({"model": model}, {}),
            "service one",
            "a model that is described and present (big, safe)",
            model,
        )
        for model in ("none", "old")
    ],
    "service-format": [
        (
            {},
            services({"engine": "sglang"}, {}),
            "service one",
            "a model in safetensors, which sglang serves",
            "one in gguf",
        ),
        (
            {},
            services({}, {"engine": "llama_cpp"}),
            "service two",
            "a model in gguf, which llama_cpp serves",
            "one in safetensors",
        ),
    ],
    "service-port": [
        ({}, services({}, {"port": 1}), "service one, two", "for each a port of its own, from 1 to 65535", "1"),
        ({}, services({}, {"port": 65536}), "service two", "for each a port of its own, from 1 to 65535", "65536"),
        ({}, services({}, {"port": 0}), "service two", "for each a port of its own, from 1 to 65535", "0"),
        ({}, services({}, {"port": None}), "service two", "for each a port of its own, from 1 to 65535", "None"),
    ],
    "service-gpus": [
        ({}, services({}, {"gpus": gpus_}), "service two", "all, or some of the GPUs 0 to 7, each once", str(gpus_))
        for gpus_ in ([7, 8], [], [4, 4], "some", ["4"], [{}], None)
    ],
    "service-overlap": [
        (
            {},
            services({}, {"gpus": [2, 3, 4]}),
            "GPU 2, 3",
            "one service on each GPU",
            "one, two",
        ),
        (
            {},
            services({"gpus": "all"}, {}),
            "GPU 4, 5, 6, 7",
            "one service on each GPU",
            "one, two",
        ),
    ],
}
SINGLE = [(rule, *case) for rule, cases in CASES.items() for case in cases]


# Where a rule has nothing to judge, or the host is better than it seems: [(facts changed, wants changed)]
UNFIT_KERNEL = {"kernel": Kernel("4.4.0", NEWER, [], 9, [], []), "secure_boot": True}
SILENT: dict[str, list[tuple[dict[str, t.Any], dict[str, t.Any]]]] = {
    "the reference host": [({}, {})],
    "systems that are known": [
        ({"system": system, "version": version}, {})
        for system, version in [("ubuntu", "24.04"), ("debian", "12"), ("debian", "13"), ("debian", "")]
    ],
    "the least that is asked for": [
        ({"python": "3.9", "memory": 64 * GIB}, {}),
        ({"filesystems": {**HOST.filesystems, "/": Filesystem("/", 20 * GIB)}}, {}),
        (kernel(running="5", default="5", headers=["5"]), {}),
    ],
    "a kernel for which no module is built": [(UNFIT_KERNEL, {"kernel_module": False})],
    "a kernel that can have a module": [
        (kernel(**changes), {})
        for changes in [
            {"default": None},
            {"headers": [], "available": [f"linux-headers-{RUNNING}"]},
            {"headers": [], "available": None},
            {"compiler": None, "compilers": [], "available": []},
            {"compilers": [], "available": ["gcc-11"]},
            {"compilers": [], "available": None},
            {"compilers": [9, 11], "available": []},
        ]
    ],
    "Secure Boot with a signed module": [({"secure_boot": True}, {"secure_boot_signed": True})],
    "Secure Boot without UEFI": [({"secure_boot": None}, {})],
    "the kernel and the clock of a container": [({**UNFIT_KERNEL, "clock_synchronized": False, "container": True}, {})],
    "GPUs that do not matter": [({"pci": gpus(OTHER)}, {"gpu_profile": None})],
    "GPUs that are alike and known": [
        ({"pci": [*gpus(*[device] * 8), *SWITCHES]}, {"gpu_profile": "auto"}) for device in ("0x2329", H100, "0x2335")
    ],
    "NVSwitches of less than a board": [({"pci": gpus(H800, H800)}, {"gpu_count": 2, "services": []})],
    "models that have room": [(free(404 * GB), known(404 * GB)), ({}, known(8 * 81559 << 20))],
    "models that are there": [(free(0), {"needs": [Need("big", 404 * GB, 0, True, SERVER)]})],
    "models on GPUs of unknown memory": [
        ({"pci": gpus(*[device] * 8), **free(9999 * GB)}, {**wanted, "gpu_profile": None})
        for device in ("0x2331", OTHER)
        for wanted in (known(999 * GB), guessed(SERVER))
    ],
    "the table where the files are known": [
        (
            {"cores": 1, "memory": 65 * GIB, **free(5 * GB)},
            {"needs": [Need("m", 5 * GB, 5 * GB, False, SERVER)]},
        )
    ],
    "a host that the table holds for enough": [
        ({"cores": 16, "memory": 128 * GB, **free(200 * GB)}, guessed(ROW)),
        ({"cores": 1}, guessed(SERVER)),
    ],
    "disk for what has been started": [(free(0), guessed(SERVER, started=True))],
    "services on CPUs": [
        ({}, services({"gpus": []}, {})),
        ({}, services({"gpus": [], "engine": "llama_cpp"}, {})),
    ],
    "a service that has all GPUs": [
        ({}, {"services": [{"name": "one", "engine": "ollama", "model": "big", "port": 1}]})
    ],
}
SILENCE = [(name, *case) for name, cases in SILENT.items() for case in cases]


def evaluated(
    facts: dict[str, t.Any], wanted: dict[str, t.Any], rules: ModuleType = _host_rules
) -> list[_host_rules.Finding]:
    """What breaks on the reference host with these changes."""
    found: list[_host_rules.Finding] = rules.evaluate(
        dataclasses.replace(HOST, **facts), dataclasses.replace(WANTED, **wanted)
    )
    return found


def told(findings: list[_host_rules.Finding]) -> list[tuple[str, str, str, str]]:
    return [(one["id"], one["object"], one["expected"], one["found"]) for one in findings]


@pytest.mark.parametrize(
    ("rule", "facts", "wanted", "about", "expected", "found"), SINGLE, ids=[one[0] for one in SINGLE]
)
def test_rule_fires_alone_and_says_what_is_wrong(rule, facts, wanted, about, expected, found):
    findings = evaluated(facts, wanted)
    assert told(findings) == [(rule, about, expected, found)]
    row = next(row for row in _host_rules.RULES if row.id == rule)
    assert (findings[0]["severity"], findings[0]["advice"]) == (row.severity, row.advice)
    assert row.advice.endswith(".")


def test_every_rule_has_a_case():
    assert list(CASES) == [rule.id for rule in _host_rules.RULES]


@pytest.mark.parametrize(("facts", "wanted"), [one[1:] for one in SILENCE], ids=[one[0] for one in SILENCE])
def test_nothing_is_said_about(facts, wanted):
    assert told(evaluated(facts, wanted)) == []


@pytest.mark.parametrize("comparison", comparisons(_host_checks))
def test_a_turned_comparison_is_noticed(comparison, monkeypatch):
    """A proof of the tables: what they do not notice, they do not test."""
    rules = mutant(_host_rules, _host_checks, comparison, monkeypatch)
    cases = [(facts, wanted, [(rule, *broken)]) for rule, facts, wanted, *broken in SINGLE]
    cases += [(facts, wanted, []) for _name, facts, wanted in SILENCE]
    assert any(noticed(rules, *case) for case in cases)


def noticed(rules: ModuleType, facts: dict[str, t.Any], wanted: dict[str, t.Any], findings: list[t.Any]) -> bool:
    try:
        return told(evaluated(facts, wanted, rules)) != findings
    except (TypeError, AttributeError, KeyError, IndexError, ValueError):
        return True


def test_all_reasons_come_at_once():
    facts = {
        "system": "",
        "architecture": "aarch64",
        "systemd": False,
        "python": "3.8.0",
        "memory": 1,
        "cores": 1,
        "clock_synchronized": None,
        "kernel": Kernel("4.4.0", NEWER, [], 9, [], []),
        "secure_boot": True,
        "pci": gpus(H100),
        "filesystems": {"/": Filesystem("/", 0), "/data/models": Filesystem("/", 0)},
    }
    wanted = {
        "models": [MODEL, MODEL, {"name": "bare"}],
        "services": [
            {**WANTED.services[0], "engine": "vllm"},
            {"name": "one", "model": "none", "port": 1, "gpus": [9]},
            {"name": "all"},
        ],
        "needs": [
            Need("known", 689 * GB, 689 * GB, False, None),
            Need("guessed", None, None, False, ROW),
            Need("bad", None, None, False, None, "No manifest."),
        ],
    }
    assert {one[0] for one in told(evaluated(facts, wanted))} == {rule.id for rule in _host_rules.RULES} - {"nvswitch"}


def test_a_finding_is_told_on_one_line():
    assert _host_rules.describe(evaluated({"python": "3.8\n.1"}, {})[0]) == (
        "python (the host): expected 3.9 or newer, found 3.8 .1. Set ansible_python_interpreter to a newer one."
    )
