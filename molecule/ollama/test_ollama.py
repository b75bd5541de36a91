"""Ollama runs as a service that a platform team would sign for, and its model costs no space."""

import time

import pytest

UNIT = "ollama.service"
MODEL = "/data/models/deepseek-r1-q4.gguf"
PROGRAM = "python3 -I /usr/local/lib/llmfleet/service.pyz"
RELEASE = "/opt/llmfleet/ollama/0.5.11/bin/ollama"
# A busy machine is slow; what is waited for comes within seconds on an idle one.
PATIENCE_S = 180


def until(true, what):
    end = time.monotonic() + PATIENCE_S
    while not true():
        assert time.monotonic() < end, what
        time.sleep(0.5)


def run_of(host):
    """Names the current run of the service."""
    return host.check_output(f"systemctl show --property=InvocationID --value {UNIT}")


def test_runs_the_pinned_release(host):
    assert host.service(UNIT).is_running
    assert host.service(UNIT).is_enabled
    assert "0.5.11" in host.check_output(f"{RELEASE} --version")


def test_listens_on_loopback_only(host):
    listening = host.check_output("ss --no-header --listening --tcp --numeric")
    assert [line.split()[3] for line in listening.splitlines() if ":11434" in line] == ["127.0.0.1:11434"]


@pytest.mark.parametrize("unit", [UNIT, "ollama-watchdog.service"])
def test_unit_is_hardened(host, unit):
    # The threshold is the exposure score times ten.
    assert host.run(f"systemd-analyze security --threshold=20 {unit}").rc == 0


def test_environment_is_for_root_only(host):
    environment = host.file("/etc/llmfleet/ollama.env")
    assert (environment.user, environment.mode) == ("root", 0o600)


def test_service_sees_its_gpus_by_uuid(host):
    uuids = host.check_output("nvidia-smi --query-gpu=uuid --format=csv,noheader --id=2,3").split()
    main = host.check_output(f"systemctl show --property=MainPID --value {UNIT}")
    environment = host.file(f"/proc/{main}/environ").content_string.split("\0")
    assert f"CUDA_VISIBLE_DEVICES={','.join(uuids)}" in environment
    assert "CUDA_DEVICE_ORDER=PCI_BUS_ID" in environment


def test_model_is_linked_and_not_copied(host):
    blobs = host.check_output("find /data/ollama/models/blobs -size +1M -printf '%i %n '").split()
    inode = host.check_output(f"stat --format=%i {MODEL}")
    assert blobs == [inode, "2"]


def test_model_survives_a_restart_and_its_pruning(host):
    before = run_of(host)
    # At its start Ollama removes the blobs that no model has.
    host.check_output("install -o ollama -g ollama /dev/null /data/ollama/models/blobs/sha256-%s", "0" * 64)
    host.check_output(f"systemctl restart {UNIT}")
    until(lambda: host.run(f"{RELEASE} list").rc == 0, "the service does not answer")
    assert run_of(host) != before
    until(lambda: not host.file(f"/data/ollama/models/blobs/sha256-{'0' * 64}").exists, "nothing was pruned")
    assert "tiny" in host.check_output(f"{RELEASE} list")
    answer = host.check_output(f"{RELEASE} run tiny 'Why is the sky blue?'")
    assert len(answer.split()) > 8


def test_restart_that_was_lost_is_known(host):
    assert host.check_output(f"{PROGRAM} compare ollama") == "same"
    host.check_output("cp -a /etc/llmfleet/ollama.env /root/; echo >> /etc/llmfleet/ollama.env")
    assert host.check_output(f"{PROGRAM} compare ollama") == "other"
    host.check_output("cp -a /root/ollama.env /etc/llmfleet/")
