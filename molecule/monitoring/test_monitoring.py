"""The real Prometheus sees a real engine behind the real edge, and GPUs; two faults reach alerts that fire."""

import contextlib
import json
import subprocess
import time
import urllib.parse
from pathlib import Path

import pytest

HOST = "molecule-monitoring"
KEY = (Path(__file__).parent / "prometheus.key").read_text().strip()
PROMETHEUS = "http://127.0.0.1:9090/api/v1"
TEXTFILE = "/var/lib/prometheus/node-exporter/llmfleet.prom"
# As a client: one question after the other through the edge, whatever the answers. They take about a second, so that a
# scrape finds one running.
LOAD = """
import json, ssl, time, urllib.request
question = {"role": "user", "content": "Why?"}
body = json.dumps({"model": "chat", "max_tokens": 1000, "ignore_eos": True, "messages": [question]})
headers = {"Authorization": "Bearer canary-of-alice-0123456789abcdef", "Content-Type": "application/json"}
context = ssl._create_unverified_context()
while True:
    try:
        asked = urllib.request.Request("https://localhost/v1/chat/completions", body.encode(), headers)
        urllib.request.urlopen(asked, context=context).read()
    except OSError:
        time.sleep(0.5)
"""
# A GPU whose clocks are held down: the engine stands still nine tenths of the time.
SLOW = """
import os, signal, subprocess, time
pid = int(subprocess.check_output(["systemctl", "show", "--value", "--property=MainPID", "llmfleet-chat.service"]))
try:
    while True:
        os.kill(pid, signal.SIGSTOP)
        time.sleep(0.45)
        os.kill(pid, signal.SIGCONT)
        time.sleep(0.05)
finally:
    os.kill(pid, signal.SIGCONT)
"""


@contextlib.contextmanager
def running(host, name, code):
    """A program on the host, until the block ends. It is interrupted, so that it tidies up."""
    unit = f"bed-{name}.service"
    argv = ["systemd-run", "--quiet", "--collect", "--property=KillSignal=SIGINT", f"--unit={unit}"]
    subprocess.run(["docker", "exec", HOST, *argv, "python3", "-c", code], check=True)
    try:
        yield
    finally:
        host.run(f"systemctl stop {unit}")


def asked(host, path, **parameters):
    url = f"{PROMETHEUS}/{path}?{urllib.parse.urlencode(parameters)}"
    read = f"import urllib.request; print(urllib.request.urlopen({url!r}).read().decode())"
    return json.loads(host.check_output(f'python3 -c "{read}"'))["data"]


def values(host, query):
    return [float(found["value"][1]) for found in asked(host, "query", query=query)["result"]]


def alerts(host):
    """The alerts that fire, each with its labels."""
    found = asked(host, "alerts")["alerts"]
    return {alert["labels"]["alertname"]: alert["labels"] for alert in found if alert["state"] == "firing"}


def wait(what, condition, seconds=90):
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, f"waited {seconds} s for {what}"
        time.sleep(1)
    return found


def test_every_target_answers(host):
    wait("all targets", lambda: len(values(host, "up == 1")) == 4, 60)
    targets = asked(host, "targets")["activeTargets"]
    assert {target["labels"]["job"] for target in targets} == {
        f"llmfleet-{name}" for name in ("edge", "engine", "gpu", "node")
    }
    assert all(target["scrapeUrl"].startswith("https://localhost:443/metrics") for target in targets)


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ('count(gpu_temperature_C{host="instance"})', 8),
        ('llmfleet_gpu_gate_pass{host="instance"}', 1),
        ("llmfleet_gpu_gate_fenced", 0),
        ('llmfleet_model_intact{model="tiny"}', 1),
        ("llmfleet_model_store_quarantined_files", 0),
        ('llmfleet:edge_backends_up{service="chat"}', 1),
    ],
)
def test_prometheus_knows(host, query, expected):
    wait(query, lambda: values(host, query) == [expected], 60)


def test_watchdog_is_seen_by_the_name_of_its_service(host):
    wait("the watchdog's first look", lambda: values(host, 'llmfleet_watchdog_restarts{service="chat"}') == [0], 60)


def test_nothing_but_the_edge_is_reached_from_elsewhere(host):
    listening = host.check_output("ss --no-header --listening --tcp --numeric").splitlines()
    open_ports = {line.split()[3].rpartition(":")[2] for line in listening if not line.split()[3].startswith("127.")}
    assert not open_ports & {"8100", "9090", "9100", "9401"}


def test_key_is_for_prometheus_only(host):
    file = host.file("/etc/prometheus/llmfleet/key")
    assert (file.user, file.group, file.mode) == ("root", "prometheus", 0o640)
    assert host.run(f"grep -rl '[{KEY[0]}]{KEY[1:]}' /etc /var/log /run /opt /usr/local").stdout.split() == [file.path]
    assert host.run(f"journalctl | grep '[{KEY[0]}]{KEY[1:]}'").stdout == ""


@pytest.mark.parametrize("unit", ["llmfleet-gpu-exporter", "llmfleet-host-metrics", "prometheus-node-exporter"])
def test_units_are_hardened(host, unit):
    # The threshold is the exposure score times ten.
    limit = {"llmfleet-gpu-exporter": 20}.get(unit, 65)
    assert host.run(f"systemd-analyze security --threshold={limit} {unit}.service").rc == 0
    assert host.file(TEXTFILE).mode == 0o644


def test_nothing_fires_on_a_healthy_host(host):
    with running(host, "load", LOAD):
        wait("tokens", lambda: values(host, "llmfleet:tokens_per_request:rate1m"), 90)
        assert alerts(host) == {}


def test_slow_answers_while_a_gpu_throttles_fire(host):
    with running(host, "load", LOAD):
        wait(
            "a minute of load",
            lambda: values(host, "count_over_time(llmfleet:tokens_per_request:rate1m[1h]) > 10"),
            120,
        )
        host.check_output("gpu-fault throttling 3")
        wait("the GPU to throttle", lambda: values(host, "llmfleet:gpus_throttling") == [1], 60)
        with running(host, "slow", SLOW):
            labels = wait("the alert", lambda: alerts(host).get("LlmfleetTokensFallWhileThrottling"), 120)
        assert (labels["host"], labels["service"]) == ("instance", "chat")
        # It answers, and would not pass the gate.
        assert "LlmfleetUnfitHostServes" in alerts(host)
        host.check_output("gpu-fault none")
        wait("silence", lambda: "LlmfleetTokensFallWhileThrottling" not in alerts(host), 60)


def test_requests_to_a_fenced_host_fire(host):
    host.check_output("gpu-fault ecc-uncorrectable 3")
    # As at the next boot: the gate refuses the host, and what requires it stops.
    assert host.run("systemctl restart llmfleet-gpu-ready.service").rc != 0
    try:
        wait("the fence", lambda: values(host, "llmfleet_gpu_gate_fenced") == [1], 60)
        assert values(host, 'llmfleet_gpu_gate_rule_broken{rule="ecc-volatile",gpu="3"}') == [1]
        # Nobody has asked for anything yet but Prometheus.
        assert "LlmfleetRequestsFailWhileFenced" not in alerts(host)
        with running(host, "load", LOAD):
            labels = wait("the alert", lambda: alerts(host).get("LlmfleetRequestsFailWhileFenced"))
        assert (labels["host"], labels["service"]) == ("instance", "chat")
    finally:
        host.check_output("gpu-fault none")
        host.check_output("systemctl restart llmfleet-gpu-ready.service")
    wait("the release", lambda: values(host, "llmfleet_gpu_gate_fenced") == [0], 60)
