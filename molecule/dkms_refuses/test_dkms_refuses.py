"""What the refused driver has left on the host: a log that tells why, and nothing in anybody's way."""


def test_the_log_has_the_compilers_error(host):
    (name,) = host.file("/var/log/llmfleet").listdir()
    assert name.startswith("dkms-nvidia-open-kernel-dkms-550.163.01-2-6.12.")
    assert host.file(f"/var/log/llmfleet/{name}").contains("nv-pci.c:237:9: error: too few arguments to function")


def test_packages_are_whole(host):
    assert host.check_output("dpkg --audit") == ""
    assert "not fully installed" not in host.check_output("apt-get --simulate install hello")
    assert not host.package("nvidia-open-kernel-dkms").is_installed


def test_nothing_of_the_trial_is_left(host):
    assert host.file("/var/lib/llmfleet/dkms").listdir() == []
