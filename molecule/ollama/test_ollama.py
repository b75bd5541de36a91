"""Ollama runs as a service that a platform team would sign for, and its model costs no space."""

import json
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


def watchdog(host):
    """Its state after a look."""
    host.run("systemctl start ollama-watchdog.service")
    return json.loads(host.file("/var/lib/llmfleet/watchdog/ollama.json").content_string)


def question(host, tokens, again=False):
    """A command that asks for so many tokens, and once more whenever the answer has come."""
    body = json.dumps({"model": "tiny", "prompt": "Why?", "options": {"num_predict": tokens}}).encode()
    ask = f"urllib.request.urlopen('http://127.0.0.1:11434/api/generate', {body!r}).read()"
    program = f"import urllib.request\n{ask}\nwhile {again}:\n    {ask}\n"
    host.check_output("printf '%%s' %s > /root/question.py", program)
    return "python3 /root/question.py"


@pytest.fixture(autouse=True)
def starts(host):
    """These tests start the service more often than systemd lets a service that fails."""
    host.run(f"systemctl reset-failed {UNIT}")


@pytest.fixture
def impatient(host):
    """The watchdog's usual figures are minutes."""
    file = "/etc/llmfleet/ollama.json"
    config = json.loads(host.file(file).content_string)
    config["watchdog"].update(probe_interval=5, probe_timeout=10, hung_after=10)
    host.check_output(f"cp --archive {file} /root/ && printf '%%s' %s > {file}", json.dumps(config))
    yield
    host.check_output(f"cp --archive /root/ollama.json {file}")


@pytest.fixture
def fault(host):
    yield lambda words: host.check_output(f"gpu-fault {words}")
    host.check_output("gpu-fault none")


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


def test_start_waits_for_the_memory_of_the_last_run(host, fault):
    fault("memory-in-use 5")  # of another service's GPU
    host.check_output(f"systemctl restart {UNIT}")
    fault("memory-in-use 3")
    before = host.check_output("date +%s")
    host.check_output(f"systemctl restart --no-block {UNIT}")
    log = f"journalctl --unit {UNIT} --output cat --since @{before}"
    words = "GPU 3: 40934 MiB are in use by no process that can be seen"
    until(lambda: words in host.check_output(log), "nothing was waited for")
    assert host.check_output(f"systemctl show --property=ActiveState --value {UNIT}") == "activating"
    fault("none")
    until(lambda: host.service(UNIT).is_running, "the service did not start")


def test_busy_service_is_left_alone(host, impatient):
    before = run_of(host)
    host.check_output(f"systemd-run --unit=question --collect {question(host, tokens=20_000, again=True)}")
    until(lambda: watchdog(host)["verdict"] == "busy", "it does not compute")
    # With one request at a time every probe would wait behind this one, and twice as long as a hung engine has.
    looks = []
    for _look in range(8):
        time.sleep(5)
        looks.append(watchdog(host))
    host.check_output("systemctl stop question")
    assert run_of(host) == before
    assert not looks[-1]["restarts"]
    # One that comes right behind the timer's own may see too little.
    assert [look["verdict"] for look in looks].count("busy") >= 5, looks


def test_hung_service_is_restarted_and_the_reason_told(host, impatient):
    host.check_output(f"systemd-run --unit=question --collect {question(host, tokens=20_000, again=True)}")
    until(lambda: watchdog(host)["verdict"] == "busy", "it does not compute")
    before = run_of(host)
    # What computes stands still with a request in flight; the server in front of it goes on to answer.
    host.check_output("pkill -STOP --full 'ollama runne[r]'")
    until(lambda: watchdog(host)["restarts"], watchdog(host))
    until(lambda: host.service(UNIT).is_running and run_of(host) != before, "it was not restarted")
    told = host.check_output("journalctl --unit ollama-watchdog --output cat")
    assert "ollama.service: restarted: no sign of life for " in told
    assert "was silent for 10 s" in told
    until(lambda: host.run(question(host, tokens=1)).rc == 0, "it does not answer")
    assert len(watchdog(host)["restarts"]) == 1


def test_stopped_service_is_left_alone(host):
    host.check_output(f"systemctl stop {UNIT}")
    until(lambda: watchdog(host)["verdict"] == "stopped", watchdog(host))
    assert not host.service(UNIT).is_running
    host.check_output(f"systemctl start {UNIT}")
