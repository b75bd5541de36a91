"""All parts of the driver are there in one version, from one origin, and stay."""

import pytest

VERSION = "550.163.01"
PARTS = [
    "libcuda1",
    "libnvidia-ml1",
    "nvidia-fabricmanager-550",
    "nvidia-modprobe",
    "nvidia-persistenced",
    "nvidia-smi",
]
BLACKLIST = "/etc/apt/apt.conf.d/52nvidia-driver"


def installed(host) -> str:
    return host.check_output("dpkg-query --show --showformat '${Package} ${Version} ${db:Status-Abbrev}\n'")


@pytest.fixture(scope="module")
def unattended_upgrades(host):
    """The real tool, which is allowed to take all that the repository has: newer drivers, too."""
    host.check_output(
        "DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends unattended-upgrades"
    )
    allow = 'Unattended-Upgrade::Origins-Pattern { "origin=NVIDIA"; };'
    host.check_output(f"echo '{allow}' > /etc/apt/apt.conf.d/60bed")
    yield
    host.check_output("rm /etc/apt/apt.conf.d/60bed")


@pytest.mark.parametrize("name", PARTS)
def test_each_part_has_the_version(host, name):
    assert host.package(name).version.startswith(f"{VERSION}-1")


def test_every_part_is_held(host):
    assert set(PARTS) <= set(host.check_output("apt-mark showhold").split())


def test_nothing_is_left_half_done(host):
    assert host.check_output("dpkg --audit") == ""


@pytest.mark.parametrize("unit", ["nvidia-persistenced", "nvidia-fabricmanager"])
def test_its_services_run(host, unit):
    assert host.service(unit).is_running
    assert host.service(unit).is_enabled


def test_fabric_manager_and_driver_are_of_one_version(host):
    assert VERSION in host.check_output("nv-fabricmanager --version")
    answers = host.check_output("nvidia-smi --query-gpu=driver_version --format=csv,noheader")
    assert answers.split() == [VERSION] * 8


def test_key_is_trusted_for_this_repository_only(host):
    keyring = "/etc/apt/keyrings/nvidia-cuda.gpg"
    source = host.file("/etc/apt/sources.list.d/nvidia-cuda.sources").content_string
    assert f"Signed-By: {keyring}" in source
    assert host.file(keyring).mode == 0o644
    assert not host.file("/etc/apt/trusted.gpg").exists


def test_only_the_driver_is_drawn_from_the_repository(host):
    policies = {name: host.check_output(f"apt-cache policy {name}") for name in ("libcuda1", "cuda-toolkit-12-4")}
    assert f" {VERSION}-1 600" in policies["libcuda1"]
    assert " 100\n" in policies["cuda-toolkit-12-4"]


def test_nouveau_is_kept_away(host):
    assert "blacklist nouveau" in host.check_output("modprobe --showconfig").splitlines()


def test_module_for_the_device_groups_is_loaded_at_boot(host):
    assert "nvidia_uvm" in host.file("/etc/modules-load.d/nvidia-driver.conf").content_string.splitlines()


def test_an_upgrade_by_hand_leaves_it(host):
    simulated = host.check_output("apt-get --simulate dist-upgrade")
    assert not [line for line in simulated.splitlines() if line.startswith(("Inst", "Remv")) and "nvidia" in line]


def test_unattended_upgrades_change_nothing(host, unattended_upgrades):
    before = installed(host)
    host.check_output("unattended-upgrade --verbose")
    assert installed(host) == before


@pytest.mark.parametrize("kept", ["held", "blacklisted"])
def test_either_guard_is_enough(host, unattended_upgrades, kept):
    names = host.check_output("apt-mark showhold").split()
    release = f"mv {BLACKLIST} /root/" if kept == "held" else f"apt-mark unhold {' '.join(names)}"
    restore = f"mv /root/52nvidia-driver {BLACKLIST}" if kept == "held" else f"apt-mark hold {' '.join(names)}"
    host.check_output(release)
    said = host.run("unattended-upgrade --dry-run --verbose")
    host.check_output(restore)
    assert said.rc == 0
    assert "libcuda1" not in upgraded(said.stdout + said.stderr)


def test_without_both_guards_the_driver_would_be_upgraded(host, unattended_upgrades):
    names = " ".join(host.check_output("apt-mark showhold").split())
    host.check_output(f"mv {BLACKLIST} /root/; apt-mark unhold {names}")
    said = host.run("unattended-upgrade --dry-run --verbose")
    host.check_output(f"mv /root/52nvidia-driver {BLACKLIST}; apt-mark hold {names}")
    assert "libcuda1" in upgraded(said.stdout + said.stderr)


def upgraded(said: str) -> list[str]:
    """The packages that unattended-upgrades says it would upgrade."""
    lines = said.splitlines()
    return [word for line in lines if line.startswith("Packages that will be upgraded:") for word in line.split()]
