"""Debian's own CUDA 12.4 is there, held and found, and compiles for the GPUs that serve. No GPU is here to run on."""

import json

import pytest

RECORD = "/var/lib/llmfleet/cuda_toolkit-distribution-12.4.json"


@pytest.fixture(scope="module")
def program(host):
    (path,) = host.check_output("ls -d /usr/local/lib/llmfleet/cuda-distribution-12.4/cuda_check-*").split()
    return path


def test_compiler_is_of_the_release(host):
    assert "release 12.4, V12.4.131" in host.check_output("nvcc --version")


def test_login_shell_has_it(host):
    assert host.check_output("bash -lc 'echo $CUDA_HOME $(command -v nvcc)'") == "/usr /usr/bin/nvcc"
    assert "/usr/bin:/usr/bin" not in host.check_output("bash -lc 'echo $PATH'")
    assert "cuda" not in host.file("/etc/profile").content_string


def test_upgrade_leaves_it(host):
    assert "nvidia-cuda-toolkit" in host.check_output("apt-mark showhold").split()


def test_compiled_program_has_code_for_each_gpu(host, program):
    listed = host.check_output(f"cuobjdump --list-elf --list-ptx {program}")
    for kind in ("sm_80.cubin", "sm_90.cubin", "sm_90.ptx"):
        assert kind in listed


def test_program_needs_nothing_of_the_toolkit(host, program):
    assert "cuda" not in host.check_output(f"ldd {program}")


def test_program_does_not_pass_without_a_gpu(host, program):
    ran = host.run(program)
    assert ran.rc == 1
    assert ran.stdout == ""
    assert "CUDA does not start" in ran.stderr


def test_no_gpu_is_said_to_have_computed(host):
    assert not host.run("ls /usr/local/lib/llmfleet/cuda-distribution-12.4/*.passed-*").succeeded


def test_record_has_what_the_role_has_brought_and_no_more(host):
    packages = json.loads(host.file(RECORD).content_string)["packages"]
    assert {"nvidia-cuda-toolkit", "nvidia-cuda-dev", "g++-13"} <= set(packages)
    assert not {"libc6", "nvidia-smi", "systemd"} & set(packages)
