"""What the driver's roles compute: which repository and key a system has, what is opened, pinned and left alone.

The RPM side has no other test than this and the recorded output of dnf that driver_plan's tests have.
"""

from __future__ import annotations

import fnmatch
import re
import typing as t
from pathlib import Path

import pytest
import yaml
from ansible.parsing.dataloader import DataLoader
from ansible.template import Templar

try:
    from ansible.template import trust_as_template
except ImportError:  # ansible-core before 2.19 trusts every template

    def trust_as_template(value: str) -> str:
        return value


from ansible_collections.llmfleet.serving.plugins.module_utils._driver_names import (
    Request,
    System,
    is_driver,
    names_of,
)

ROLES = Path(__file__).parents[3] / "roles"
REPOSITORY = ROLES / "_nvidia_repository"
DRIVER = ROLES / "nvidia_driver"
OWN = "https://developer.download.nvidia.com/compute/cuda/repos"
DEBIAN_KEY = "EB693B3035CD5710E231E123A4B469963BF863CC"
SYSTEMS = {
    ("Debian", "12", "debian12"): ("3bf863cc.pub", DEBIAN_KEY),
    ("Debian", "13.2", "debian13"): ("8793F200.pub", "02182E60104FCDC26EAE1B8597A5D4CB8793F200"),
    ("Ubuntu", "22.04", "ubuntu2204"): ("3bf863cc.pub", DEBIAN_KEY),
    ("Ubuntu", "24.04", "ubuntu2404"): ("3bf863cc.pub", DEBIAN_KEY),
    ("RedHat", "9.6", "rhel9"): ("D42D0685.pub", "610C7B14E068A878070DA4E99CD0A493D42D0685"),
    ("Rocky", "9.5", "rhel9"): ("D42D0685.pub", "610C7B14E068A878070DA4E99CD0A493D42D0685"),
}
RPM_FAMILY = ("RedHat", "Rocky")
# As apt 3.0 of Debian 13 tells it: a source that says its keyring, one that does not, backports, and somebody else's.
TARGETS = """\
Debian|main|http://deb.debian.org/debian/|trixie|/etc/apt/sources.list:1|$(SIGNED_BY)
Debian|main|http://security.debian.org/|trixie-security|/etc/apt/sources.list.d/debian.sources:7|/usr/share/keyrings/debian-archive-keyring.gpg
Debian Backports|main|http://deb.debian.org/debian/|trixie-backports|/etc/apt/sources.list:3|$(SIGNED_BY)
Elsewhere|main|https://packages.example.com/|stable|/etc/apt/sources.list.d/example.list:1|$(SIGNED_BY)
"""
OPENED = "Debian|contrib|http://deb.debian.org/debian/|trixie|/etc/apt/sources.list.d/llmfleet-contrib.sources:5|$(SIGNED_BY)\n"
OFFERED = "Debian|contrib|http://deb.debian.org/debian/|trixie|/etc/apt/sources.list:1|$(SIGNED_BY)\n"


def load(path: Path) -> t.Any:
    return yaml.safe_load(path.read_text())


def trusted(value: t.Any) -> t.Any:
    if isinstance(value, dict):
        return {name: trusted(item) for name, item in value.items()}
    if isinstance(value, list):
        return [trusted(item) for item in value]
    return trust_as_template(value) if isinstance(value, str) else value


def compute(expression: str, role: dict[str, t.Any], **variables: t.Any) -> t.Any:
    templar = Templar(loader=DataLoader(), variables={**trusted(role), **variables})
    return templar.template(trust_as_template(f"{{{{ {expression} }}}}"))


def repository(expression: str, distribution: str = "Debian", version: str = "13.2", **variables: t.Any) -> t.Any:
    facts = {
        "distribution": distribution,
        "distribution_version": version,
        "distribution_major_version": version.split(".")[0],
        "os_family": "RedHat" if distribution in RPM_FAMILY else "Debian",
    }
    given = {
        "_nvidia_repository_source": "nvidia",
        "_nvidia_repository_url": "",
        "_nvidia_repository_key_fingerprint": "",
        **variables,
    }
    return compute(expression, load(REPOSITORY / "tasks/main.yml")[1]["vars"], ansible_facts=facts, **given)


def rendered(template: Path, **variables: t.Any) -> str:
    templar = Templar(loader=DataLoader(), variables={"ansible_managed": "managed", **variables})
    return str(templar.template(trust_as_template(template.read_text())))


@pytest.mark.parametrize(("system", "key"), SYSTEMS.items(), ids=[f"{each[0]}-{each[1]}" for each in SYSTEMS])
def test_each_system_has_its_repository_and_its_key(system, key):
    distribution, version, name = system
    assert repository("__nvidia_repository_address", distribution, version) == f"{OWN}/{name}/x86_64"
    found = repository("[__nvidia_repository_key.key, __nvidia_repository_fingerprint]", distribution, version)
    assert tuple(found) == key
    assert key[1].endswith(key[0].split(".")[0].upper())


def test_mirror_and_its_own_key():
    mirror = {"_nvidia_repository_url": "http://m/n/", "_nvidia_repository_key_fingerprint": "F" * 40}
    found = repository("[__nvidia_repository_address, __nvidia_repository_fingerprint]", **mirror)
    assert found == ["http://m/n/debian13/x86_64", "F" * 40]


@pytest.mark.parametrize(("distribution", "version"), [("Debian", "11.9"), ("Ubuntu", "20.04"), ("Rocky", "8.10")])
def test_a_system_without_a_repository_is_known_as_such(distribution, version):
    assert repository("__nvidia_repository_system in __nvidia_repository_systems", distribution, version) is False


@pytest.mark.parametrize(
    ("source", "more", "opened"),
    [
        ("nvidia", "", ["contrib"]),
        ("distribution", "", ["contrib", "non-free", "non-free-firmware"]),
        ("distribution", OPENED, ["contrib", "non-free", "non-free-firmware"]),
        ("distribution", OFFERED, ["non-free", "non-free-firmware"]),
        ("nvidia", OFFERED, []),
    ],
)
def test_components_are_opened_where_no_source_offers_them(source, more, opened):
    targets = {"stdout_lines": (TARGETS + more).splitlines()}
    given = {"_nvidia_repository_source": source, "__nvidia_repository_targets": targets}
    assert repository("__nvidia_repository_opened", **given) == opened


def test_nothing_is_opened_on_ubuntu():
    targets = {"stdout_lines": TARGETS.replace("Debian|", "Ubuntu|").splitlines()}
    assert repository("__nvidia_repository_opened", "Ubuntu", "24.04", __nvidia_repository_targets=targets) == []


def test_components_come_from_where_the_host_has_its_other_packages():
    targets = {"stdout_lines": (TARGETS + OPENED).splitlines()}
    main = repository("__nvidia_repository_main", __nvidia_repository_targets=targets)
    text = rendered(
        REPOSITORY / "templates/component.sources.j2",
        __nvidia_repository_main=main,
        __nvidia_repository_file={"component": "non-free"},
    )
    stanzas = [yaml.safe_load(stanza) for stanza in text.split("\n\n")[1:]]
    assert stanzas == [
        {"Types": "deb", "URIs": "http://deb.debian.org/debian/", "Suites": "trixie", "Components": "non-free"},
        {
            "Types": "deb",
            "URIs": "http://security.debian.org/",
            "Suites": "trixie-security",
            "Components": "non-free",
            "Signed-By": "/usr/share/keyrings/debian-archive-keyring.gpg",
        },
    ]


def families() -> list[dict[str, str]]:
    found: list[dict[str, str]] = load(DRIVER / "vars/main.yml")["__nvidia_driver_families"]
    return found


@pytest.mark.parametrize(
    "name",
    [
        *("libcuda1", "libcudadebugger1", "libnvidia-ml1", "libnvidia-compute-550", "nvidia-fabricmanager-550"),
        *("firmware-nvidia-gsp", "xserver-xorg-video-nvidia-550", "cuda-drivers-550", "nvidia-persistenced"),
        *("libnvoptix1", "libnvsdm"),
    ],
)  # fmt: skip
def test_parts_of_the_driver_are_pinned_and_left_alone(name):
    assert is_driver(name, "550.163.01-1")
    assert any(fnmatch.fnmatchcase(name, family["glob"]) for family in families())
    assert any(re.match(family["regex"], name) for family in families())


@pytest.mark.parametrize("name", ["cuda-toolkit-12-4", "libcublas-12-4", "dkms", "linux-image-amd64", "libcuda12"])
def test_other_packages_are_not(name):
    assert not any(fnmatch.fnmatchcase(name, family["glob"]) for family in families())
    assert not any(re.match(family["regex"], name) for family in families())


@pytest.mark.parametrize(("source", "priority"), [("nvidia", 600), ("distribution", -1)])
def test_driver_is_pinned_to_its_source(source, priority):
    text = rendered(
        DRIVER / "templates/preferences.j2", nvidia_driver_source=source, __nvidia_driver_families=families()
    )
    fields = dict(line.split(": ") for line in text.splitlines() if not line.startswith("#"))
    assert fields["Pin"] == "release l=NVIDIA CUDA"
    assert fields["Pin-Priority"] == str(priority)
    assert fields["Package"].split() == [family["glob"] for family in families()]


def test_what_fails_is_put_back_in_one_command():
    plan = {
        "installed": {"libcuda1": "550.163.01-1", "nvidia-smi": "550.163.01-1"},
        "transaction": {"install": [{"name": "libnvidia-gpucomp"}, {"name": "nvidia-fabricmanager"}]},
    }
    before = compute("__nvidia_driver_before", load(DRIVER / "vars/main.yml"), __nvidia_driver_plan=plan)
    assert before == [
        *("libcuda1=550.163.01-1", "nvidia-smi=550.163.01-1"),
        *("libnvidia-gpucomp-", "nvidia-fabricmanager-"),
    ]


def test_only_check_mode_simulates():
    role = load(DRIVER / "vars/main.yml")
    for variable in ("__nvidia_driver_apt", "__nvidia_driver_mark"):
        assert "--simulate" in compute(variable, role, ansible_check_mode=True)
        assert "--simulate" not in compute(variable, role, ansible_check_mode=False)


def test_rpm_repository_is_the_one_that_the_plan_asks_for():
    task = next(task for task in load(REPOSITORY / "tasks/dnf.yml") if "ansible.builtin.yum_repository" in task)
    names = names_of(Request("nvidia", "580", "open", True), System("rhel", "9"))
    assert task["ansible.builtin.yum_repository"]["name"] == names.origin
    assert task["ansible.builtin.yum_repository"]["gpgcheck"] is True


def test_rpm_versions_are_held_before_they_are_installed():
    tasks = load(DRIVER / "tasks/dnf.yml")
    held = next(no for no, task in enumerate(tasks) if "ansible.builtin.blockinfile" in task)
    installed = next(no for no, task in enumerate(tasks) if task.get("ansible.builtin.dnf", {}).get("allow_downgrade"))
    assert held < installed
    packages = ["nvidia-driver-cuda-3:580.95.05-1.el9.x86_64", "nvidia-fabricmanager-580.95.05-1.x86_64"]
    block = tasks[held]["ansible.builtin.blockinfile"]["block"].strip("{} ")
    assert compute(block, {}, __nvidia_driver_plan={"packages": packages}).splitlines() == packages


def test_docs_have_the_fingerprints_that_are_trusted():
    text = (ROLES.parent / "docs/driver.md").read_text()
    assert set(re.findall(r"`([0-9A-F]{40})`", text)) == {fingerprint for _file, fingerprint in SYSTEMS.values()}
