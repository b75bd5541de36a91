# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What dnf and rpm say by their documentation, and what is read from it. Nothing here was recorded on a host."""

from __future__ import annotations

from pathlib import Path

import pytest

from ansible_collections.llmfleet.serving.plugins.module_utils._dnf import Dnf, parse_available, parse_transaction
from ansible_collections.llmfleet.serving.plugins.module_utils._errors import LlmError
from ansible_collections.llmfleet.serving.plugins.module_utils._packages import (
    Change,
    Installed,
    Offer,
    Origin,
    Package,
)

WRITTEN = Path(__file__).parent / "fixtures/dnf-4-rhel9"
NVIDIA = Origin("cuda-rhel9-x86_64")
INSTALLED = {
    "dkms": Installed("0:3.2.2-1.el9"),
    "kmod-nvidia-open-dkms": Installed("3:570.172.08-1.el9"),
    "nvidia-driver-cuda": Installed("3:570.172.08-1.el9"),
}


def written(name: str) -> str:
    return (WRITTEN / name).read_text()


class Answers:
    """Commands by their first distinguishing words, with what they answer."""

    def __init__(self, **answers: tuple[int, str, str]) -> None:
        self.answers = {"query": (0, "dkms\t0:3.2.2-1.el9\n", ""), **answers}
        self.asked: list[list[str]] = []

    def __call__(self, argv: list[str], **_options: object) -> tuple[int, str, str]:
        self.asked.append(argv)
        return next(answer for word, answer in self.answers.items() if word in {each.lstrip("-") for each in argv})


class TestAvailable:
    def test_is_newest_first_with_its_repositories(self):
        assert parse_available(written("repoquery")) == {
            "nvidia-driver-cuda": Package(
                (
                    Offer("3:580.126.09-1.el9", (NVIDIA, Origin("rpmfusion-nonfree-updates"))),
                    Offer("3:580.95.05-1.el9", (NVIDIA,)),
                    Offer("3:550.163.01-1.el9", (NVIDIA,)),
                )
            ),
            "nvidia-fabricmanager": Package((Offer("0:580.95.05-1", (NVIDIA,)),)),
        }


class TestTransaction:
    def test_has_what_is_in_the_table(self):
        transaction = parse_transaction(written("install"), INSTALLED)
        assert transaction.install == [
            Change("nvidia-fabricmanager", None, "0:580.126.09-1", "cuda-rhel9-x86_64"),
            Change("a-name-that-is-too-long-for-its-column", None, "0:1.0-1.el9", "appstream"),
        ]
        assert transaction.upgrade == [
            Change(name, "3:570.172.08-1.el9", "3:580.126.09-1.el9", "cuda-rhel9-x86_64")
            for name in ("kmod-nvidia-open-dkms", "nvidia-driver-cuda")
        ]
        assert transaction.downgrade == [Change("dkms", "0:3.2.2-1.el9", "0:3.1.0-1.el9", "epel")]
        assert transaction.remove == [
            Change("nvidia-fabric-manager", "0:570.172.08-1", None),
            Change("nvidia-settings", "3:570.172.08-1.el9", None),
        ]


class TestDnf:
    def test_says_no_and_means_yes(self):
        run = Answers(install=(1, written("install"), "Operation aborted.\n"))
        assert Dnf(run).simulate({"nvidia-fabricmanager": "0:580.126.09-1"}, []).install
        assert run.asked[-1][-2:] == ["install", "nvidia-fabricmanager-0:580.126.09-1"]
        assert "--assumeno" in run.asked[-1]

    def test_has_nothing_to_do_when_all_is_there(self):
        transaction = Dnf(Answers(install=(0, "Dependencies resolved.\nNothing to do.\n", ""))).simulate(
            {"a": "0:1-1"}, []
        )
        assert not transaction
        assert not transaction.refused

    def test_says_why_packages_do_not_go_together(self):
        run = Answers(install=(1, "", written("refused.errors")))
        assert "requires nvidia-persistenced = 3:580.126.09" in Dnf(run).simulate({"a": "0:1-1"}, []).refused

    def test_tells_what_goes_beside(self):
        rows = "".join(f" {name} x86_64 3:570.172.08-1.el9 @a 1 M\n" for name in ("libnvidia-old", "nvidia-settings"))
        table = f"Removing:\n{rows}\nTransaction Summary\n"
        run = Answers(install=(1, written("install"), ""), remove=(1, table, ""))
        removed = [change.name for change in Dnf(run).simulate({"a": "0:1-1"}, ["libnvidia-old"]).remove]
        assert removed == ["nvidia-fabric-manager", "nvidia-settings", "libnvidia-old"]

    def test_knows_the_headers_of_a_kernel(self):
        rows = "kernel-devel\t0:5.14.0-503.el9\tbaseos\nkernel-devel\t0:5.14.0-570.el9_6\tbaseos\n"
        dnf = Dnf(Answers(repoquery=(0, rows, "")))
        assert dnf.headers("5.14.0-570.el9_6.x86_64") == "kernel-devel-0:5.14.0-570.el9_6"
        assert dnf.headers("5.14.0-1.el9.x86_64") is None

    def test_looks_behind_a_version_lock(self):
        run = Answers(repoquery=(0, "", ""))
        Dnf(run).packages(["nvidia-driver-cuda"])
        assert "--disableplugin=versionlock" in run.asked[0]

    def test_that_fails_is_one_error(self):
        with pytest.raises(LlmError, match=r"`rpm --query.*ended with 1: rpmdb.*dnf makecache"):
            Dnf(Answers(query=(1, "", "rpmdb is broken"))).installed()

    def test_that_is_not_there_is_one_error(self):
        def run(_argv, **_options):
            raise FileNotFoundError(2, "No such file or directory")

        with pytest.raises(LlmError, match=r"rpm cannot be run.*resolved by dnf"):
            Dnf(run).installed()
