"""Where the gate refuses, nothing is installed after it."""

import pytest


@pytest.mark.parametrize("path", ["/opt/llmfleet", "/etc/llmfleet", "/data", "/usr/local/bin/nvitop"])
def test_nothing_was_made(host, path):
    assert not host.file(path).exists


@pytest.mark.parametrize("package", ["python3-requests", "python3-venv", "zstd"])
def test_nothing_was_installed(host, package):
    assert not host.package(package).is_installed


def test_host_that_has_passed_is_released(host):
    assert not host.file("/etc/ansible/facts.d/llmfleet_gpu_gate.fact").exists
