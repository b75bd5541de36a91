"""The gate accepts a healthy host, and refuses to let services start on a broken one until it is whole again."""

import json

import pytest

UNIT = "llmfleet-gpu-ready.service"
MARKER = "/etc/ansible/facts.d/llmfleet_gpu_gate.fact"
# A service that needs the gate, as the engines do.
START = f"systemd-run --unit=engine --property=Requires={UNIT} --property=After={UNIT} sleep 600"


@pytest.fixture
def broken(host):
    host.check_output("gpu-fault ecc-uncorrectable 3")
    yield
    host.check_output("gpu-fault none")
    host.check_output(f"systemctl reset-failed; systemctl start {UNIT}")


def test_asks_at_each_boot(host):
    assert host.service(UNIT).is_enabled
    assert host.check_output(f"journalctl --unit {UNIT} --output cat").count("The GPUs are fit.") == 1


def test_needs_no_package(host):
    assert not host.package("python3-pynvml").is_installed
    assert not host.file(MARKER).exists


def test_service_runs_while_the_gate_is_up_and_ends_with_it(host):
    host.check_output(START)
    assert host.service("engine").is_running
    host.check_output(f"systemctl stop {UNIT}")
    assert not host.service("engine").is_running
    host.check_output(f"systemctl start {UNIT}")


def test_broken_host_starts_no_service_and_tells_why(host, broken):
    host.check_output(f"systemctl stop {UNIT}")
    refused = host.run(START)
    assert refused.rc != 0
    assert "dependency" in refused.stderr
    assert not host.service("engine").is_running
    reasons = json.loads(host.file(MARKER).content_string)["reasons"]
    assert any("GPU 3" in line and "uncorrectable" in line for line in reasons)
    assert "GPU 3" in host.check_output(f"journalctl --unit {UNIT} --output cat")


def test_whole_host_is_released(host):
    assert host.service(UNIT).is_running
    assert not host.file(MARKER).exists
