"""The open kernel module of Debian 12's driver has been built and installed for a kernel that does not run here."""

MODULES = {"nvidia", "nvidia-drm", "nvidia-modeset", "nvidia-peermem", "nvidia-uvm"}


def kernel(host):
    return host.check_output("ls /lib/modules")


def test_every_part_of_the_module_is_there_in_the_version_of_the_rest(host):
    listed = host.check_output(f"find /lib/modules/{kernel(host)}/updates/dkms -name '*.ko'").splitlines()
    names = {path.rpartition("/")[2].replace("nvidia-current-open", "nvidia").removesuffix(".ko") for path in listed}
    assert names == MODULES
    # Modules carry their version, and the kernel's that they are for.
    for path in listed:
        assert host.check_output(f"modinfo --field vermagic {path}").split()[0] == kernel(host)
    nvidia = next(path for path in listed if path.endswith("/nvidia-current-open.ko"))
    driver = host.check_output(f"modinfo --field version {nvidia}")
    assert driver == "535.261.03"
    assert f"{kernel(host)}, x86_64: installed" in host.check_output("dkms status")
    assert host.check_output("dpkg-query --show --showformat '${Version}' nvidia-open-kernel-dkms") == f"{driver}-1"
    assert host.check_output("dpkg-query --show --showformat '${Version}' libcuda1") == f"{driver}-1"


def test_the_module_is_held_with_the_rest(host):
    assert {"nvidia-open-kernel-dkms", "libcuda1"} <= set(host.check_output("apt-mark showhold").split())


def test_dpkg_is_clean_and_nothing_is_left_of_the_trial(host):
    assert host.check_output("dpkg --audit") == ""
    assert not host.file("/var/log/llmfleet").exists
    (record,) = host.file("/var/lib/llmfleet/dkms").listdir()
    assert record == f"nvidia-open-kernel-dkms-535.261.03-1-{kernel(host)}.json"
