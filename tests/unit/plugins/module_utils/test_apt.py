# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What apt and dpkg said on a host, as recorded, and what is read from it."""

from __future__ import annotations

from pathlib import Path

import pytest

from ansible_collections.llmfleet.serving.plugins.module_utils._apt import (
    Apt,
    parse_needs,
    parse_origins,
    parse_policy,
    parse_providers,
    parse_simulation,
    parse_states,
)
from ansible_collections.llmfleet.serving.plugins.module_utils._errors import LlmError
from ansible_collections.llmfleet.serving.plugins.module_utils._packages import (
    Change,
    Installed,
    Offer,
    Origin,
    Package,
    upstream,
)

RECORDED = Path(__file__).parent / "fixtures/apt-3.0-debian13"
DEBIAN = Origin("Debian", "Debian", "deb.debian.org")
NVIDIA = Origin("NVIDIA", "NVIDIA CUDA", "llmfleet-hub")
ELSEWHERE = Origin("Elsewhere", "Elsewhere", "llmfleet-hub")


def recorded(name: str) -> str:
    return (RECORDED / name).read_text()


class TestOrigins:
    def test_are_those_of_the_release_files(self):
        origins = parse_origins(recorded("policy-shadow"))
        assert origins == {
            "http://deb.debian.org/debian trixie/contrib amd64 Packages": DEBIAN,
            "http://deb.debian.org/debian trixie/main amd64 Packages": DEBIAN,
            "http://llmfleet-hub:8000/mirror/nvidia/good/debian13/x86_64  Packages": NVIDIA,
            "http://llmfleet-hub:8000/mirror/nvidia/shadow/debian13/x86_64  Packages": ELSEWHERE,
        }

    def test_fall_back_on_the_host_without_a_release_file(self):
        text = "Package files:\n 500 http://example.org/flat  Packages\n     release c=\n     origin example.org\n"
        assert parse_origins(text) == {
            "http://example.org/flat  Packages": Origin("example.org", "", "example.org"),
        }

    def test_may_have_commas_in_them(self):
        text = " 500 http://a.example/flat  Packages\n     release o=One, and two,l=A, too,c=\n     origin a.example\n"
        assert [*parse_origins(text).values()] == [Origin("One, and two", "A, too", "a.example")]


class TestPolicy:
    def test_tells_versions_with_their_origins(self):
        packages = parse_policy(recorded("policy-names"), parse_origins(recorded("policy")))
        assert packages == {
            "libcuda1": Package((Offer("550.163.01-2", (DEBIAN,)),), "550.163.01-2"),
            "nvidia-modprobe": Package((Offer("570.133.07-1", (DEBIAN,)),), "570.133.07-1"),
            "nvidia-open-kernel-support--v1": Package(),
            "nvidia-smi": Package((Offer("550.163.01-2", (DEBIAN,)),), "550.163.01-2"),
        }

    def test_keeps_the_same_version_from_two_origins_apart(self):
        package = parse_policy(recorded("policy-names-shadow"), parse_origins(recorded("policy-shadow")))["libcuda1"]
        assert [offer.version for offer in package.offers][:2] == ["595.71.05-1", "580.178.04-1"]
        assert [offer for offer in package.offers if offer.version == "550.163.01-1"] == [
            Offer("550.163.01-1", (NVIDIA,)),
            Offer("550.163.01-1", (ELSEWHERE,)),
        ]
        assert package.candidate == "595.71.05-1"

    def test_reads_priorities_of_any_width_and_phased_updates(self):
        text = (
            "libcuda1:\n  Installed: (none)\n  Candidate: 2-1\n  Version table:\n"
            "     2-1 1001 (phased 20%)\n       1001 http://deb.debian.org/debian trixie/main amd64 Packages\n"
            "     1-1 -1\n         -1 http://deb.debian.org/debian trixie/main amd64 Packages\n"
        )
        offers = parse_policy(text, parse_origins(recorded("policy")))["libcuda1"].offers
        assert offers == (Offer("2-1", (DEBIAN,)), Offer("1-1", (DEBIAN,)))

    def test_of_what_is_only_installed_has_no_origin(self):
        text = "a:\n  Installed: 1\n  Candidate: 1\n  Version table:\n *** 1 100\n        100 /var/lib/dpkg/status\n"
        assert parse_policy(text, parse_origins(recorded("policy"))) == {"a": Package((Offer("1"),), "1")}


class TestNeeds:
    def test_are_the_names_that_it_provides_and_depends_on(self):
        needs = parse_needs(recorded("show"))
        assert needs["nvidia-open-kernel-dkms"].depends == [
            ["nvidia-installer-cleanup"],
            ["firmware-nvidia-gsp", "firmware-nvidia-gsp-550.163.01"],
            ["nvidia-open-kernel-support--v1"],
            ["dkms"],
        ]
        assert needs["firmware-nvidia-gsp"].provides == {"firmware-nvidia-gsp", "firmware-nvidia-gsp-550.163.01"}

    def test_may_be_folded_qualified_and_preceding(self):
        text = "Package: a\nPre-Depends: b:any (>= 1)\nDepends:\n c (= 1),\n\td [amd64] | e\nDescription: x\n y: z\n"
        assert parse_needs(text)["a"].depends == [["b"], ["c"], ["d", "e"]]

    def test_may_be_met_by_others_that_provide_it(self):
        assert parse_providers(recorded("showpkg")) == {
            "nvidia-open-kernel-support--v1": ["nvidia-open-kernel-support"]
        }


class TestStates:
    def test_are_versions_by_name(self):
        states = parse_states(recorded("states"))
        assert states["nvidia-smi"] == Installed("550.163.01-2")
        assert all(not package.held and not package.broken for package in states.values())

    def test_say_what_is_not_whole_and_what_is_held(self):
        states = parse_states(recorded("states-broken"))
        assert states["nvidia-kernel-open-dkms"] == Installed("550.144.03-1", broken="half-configured")
        assert [name for name, package in states.items() if package.broken] == ["nvidia-kernel-open-dkms"]
        assert parse_states("a\t1\thold\tinstalled\n") == {"a": Installed("1", held=True)}

    def test_leave_out_what_is_gone(self):
        assert parse_states("a\t1\tdeinstall\tconfig-files\nb\t\tunknown\tnot-installed\n") == {}


class TestSimulation:
    def test_lists_what_is_new_with_its_origin(self):
        transaction = parse_simulation(recorded("simulate-install"))
        assert Change("nvidia-open-kernel-dkms", None, "550.163.01-2", "Debian:13.8/stable") in transaction.install
        assert not transaction.upgrade
        assert not transaction.downgrade
        assert not transaction.remove

    def test_tells_a_downgrade_from_an_upgrade(self):
        transaction = parse_simulation(recorded("simulate-downgrade"))
        assert len(transaction.downgrade) == 14
        assert transaction.downgrade[0] == Change(
            "nvidia-smi", "550.163.01-1", "550.144.03-1", "NVIDIA CUDA:llmfleet-hub"
        )
        assert not transaction.upgrade
        upgrade = "Inst libc6:i386 [1] (2 Debian:13.8/stable, Debian-Security:13/stable-security [i386]) []\n"
        assert parse_simulation(upgrade).upgrade == [Change("libc6", "1", "2", "Debian:13.8/stable")]

    def test_tells_what_goes(self):
        transaction = parse_simulation(recorded("simulate-remove"))
        assert transaction.remove == [
            Change("nvidia-smi", "550.163.01-2", None),
            Change("libnvidia-ml1", "550.163.01-2", None),
        ]
        assert parse_simulation("Purg a [1]\n").remove == [Change("a", "1", None)]

    def test_of_nothing_is_nothing(self):
        assert not parse_simulation("Inst a [1] (1 Debian:13.8/stable [amd64])\n")
        assert not parse_simulation("Reading package lists...\n0 upgraded, 0 newly installed\n")


class TestApt:
    def answering(self, status: int, output: str = "", errors: str = "") -> Apt:
        return Apt(lambda _argv, **_options: (status, output, errors))

    def test_says_why_packages_do_not_go_together(self):
        apt = self.answering(100, recorded("simulate-conflict"), recorded("simulate-conflict.errors"))
        assert apt.simulate({"nvidia-fabricmanager": "580.126.09-1"}, []).refused == (
            "nvidia-fabricmanager-550 : Conflicts: nvidia-fabricmanager"
        )

    def test_says_what_apt_says_where_it_says_no_more(self):
        apt = self.answering(100, errors="W: a warning\nE: Version '1' for 'a' was not found\n")
        assert apt.simulate({"a": "1"}, []).refused == "Version '1' for 'a' was not found"

    def test_that_fails_is_one_error(self):
        with pytest.raises(LlmError, match=r"`dpkg-query --show` ended with 2: no such file.*apt-get update"):
            self.answering(2, errors="no such file").installed()

    def test_that_is_not_there_is_one_error(self):
        def run(_argv, **_options):
            raise FileNotFoundError(2, "No such file or directory")

        with pytest.raises(LlmError, match=r"dpkg-query cannot be run.*resolved by apt"):
            Apt(run).installed()

    def test_knows_the_headers_of_a_kernel(self):
        answers = {
            ("apt-cache", "policy"): recorded("policy"),
            ("apt-cache", "policy", "linux-headers-6.1.0-50-amd64"): (
                "linux-headers-6.1.0-50-amd64:\n  Installed: (none)\n  Candidate: 6.1.176-1\n  Version table:\n"
            ),
            ("apt-cache", "policy", "linux-headers-own"): "",
        }
        apt = Apt(lambda argv, **_options: (0, answers[tuple(argv)], ""))
        assert apt.headers("6.1.0-50-amd64") == "linux-headers-6.1.0-50-amd64=6.1.176-1"
        assert apt.headers("own") is None

    def test_is_asked_in_no_other_language(self):
        asked = []

        def run(_argv, **options):
            asked.append(options)
            return 0, "", ""

        Apt(run).installed()
        assert asked == [{"environ_update": {"LC_ALL": "C"}, "handle_exceptions": False}]


@pytest.mark.parametrize(
    ("version", "expected"),
    [
        ("550.163.01-0ubuntu0.22.04.1", "550.163.01"),
        ("550.163.01-1", "550.163.01"),
        ("535.261.03-1~deb12u1", "535.261.03"),
        ("3:580.126.09-1.el9", "580.126.09"),
        ("1:1.2-3-4", "1.2-3"),
        ("20240109+1", "20240109+1"),
        ("", ""),
    ],
)
def test_upstream_version_is_without_epoch_and_packaging(version, expected):
    assert upstream(version) == expected
