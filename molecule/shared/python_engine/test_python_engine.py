"""The real engine on CPUs: its key, its environment, what it does when it is stopped, or a part is killed or hangs."""

import json
import os
import subprocess
import time

import pytest

from testbed.options import PROBE, SETTINGS
from testbed.options.examples import command_lines

ENGINE = os.environ["MOLECULE_SCENARIO_NAME"]
UNIT = f"{ENGINE}.service"
KEY = f"/etc/llmfleet/{ENGINE}.key"
VERSION = {"vllm": "0.32.0", "sglang": "0.5.23"}[ENGINE]
PORT = {"vllm": 8000, "sglang": 30000}[ENGINE]
# What computes, in a process of its own.
INNER = {"vllm": "EngineCore", "sglang": "scheduler"}[ENGINE]
RUNNING = {"vllm": "vllm:num_requests_running", "sglang": "sglang:num_running_reqs"}[ENGINE]
# Who can measure it under load.
CLIENTS = {"vllm": ("own", "vllm"), "sglang": ("own",)}[ENGINE]
# In one request, one after the other: ten to twenty seconds. vLLM has 400 tokens in two, SGLang in half of one.
ANSWERS = {"vllm": 10, "sglang": 16}[ENGINE]
# An engine imports for a minute on two idle cores.
START_S = 900

ASK = """
import json, sys, urllib.error, urllib.request
url, key, body = sys.argv[1:]
headers = {"Content-Type": "application/json"}
if key:
    headers["Authorization"] = "Bearer " + open(key).read().strip() if key.startswith("/") else key
request = urllib.request.Request(url, body.encode() or None, headers)
try:
    with urllib.request.urlopen(request, timeout=600) as answer:
        print(json.dumps([answer.status, answer.read().decode()]))
except urllib.error.HTTPError as error:
    print(json.dumps([error.code, ""]))
"""

# One question after the other, whatever becomes of each: there is always one in flight.
KEEP_ASKING = """
import sys, time, urllib.request
url, key, body = sys.argv[1:]
headers = {"Content-Type": "application/json", "Authorization": "Bearer " + open(key).read().strip()}
while True:
    try:
        urllib.request.urlopen(urllib.request.Request(url, body.encode(), headers)).read()
    except OSError:
        time.sleep(1)
"""


def chat(tokens, answers=1):
    question = {"role": "user", "content": "Why is the sky blue?"}
    asked = {"model": "tiny", "max_tokens": tokens, "ignore_eos": True, "n": answers, "messages": [question]}
    return json.dumps(asked)


def words(path, key=KEY, body="", program=ASK):
    return ["python3", "-c", program, f"http://127.0.0.1:{PORT}{path}", key, body]


def quoted(argv):
    return " ".join("'" + word.replace("'", "'\\''") + "'" for word in argv)


def ask(host, path, key=KEY, body=""):
    status, text = json.loads(host.check_output(quoted(words(path, key, body))))
    return status, text


def wait(what, condition, timeout=START_S):
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, f"waited {timeout} s for {what}"
        time.sleep(1)


def is_ready(host):
    return host.run(quoted(words("/health", ""))).stdout.startswith("[200")


def run_of(host):
    """Names a run of the service."""
    return host.check_output(f"systemctl show --property=InvocationID --value {UNIT}")


def inner(host):
    """The process that computes."""
    (pid,) = [line.split()[0] for line in host.check_output("ps -eo pid=,args=").splitlines() if INNER in line]
    return pid


def watched(host):
    """What the watchdog knows."""
    return json.loads(host.file(f"/var/lib/llmfleet/watchdog/{ENGINE}.json").content_string)


def bench(client):
    """What llm_bench returns that measures on the host."""
    inventory = f"{os.environ['MOLECULE_PROJECT_DIRECTORY']}/molecule/inventory"
    options = {"url": f"http://127.0.0.1:{PORT}", "model": "tiny", "client": client, "unit": UNIT, "api_key_file": KEY}
    load = {"concurrencies": [2], "requests": 4, "max_tokens": 32}
    argv = ["ansible", "instance", f"--inventory={inventory}", "--module-name=llmfleet.serving.llm_bench"]
    # Molecule has asked for colours.
    environment = {**os.environ, "ANSIBLE_CALLBACK_RESULT_FORMAT": "json", "ANSIBLE_FORCE_COLOR": "false"}
    done = subprocess.run(
        [*argv, "--args", json.dumps({**options, **load})],
        env=environment, capture_output=True, text=True, timeout=START_S, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout.partition("=>")[2])


@pytest.fixture
def command_lines_seen(host):
    """All of them from now on, in a file of the host."""
    file = "/root/command-lines"
    look = f"while sleep 0.3; do cat /proc/[0-9]*/cmdline 2> /dev/null | tr '\\0' ' '; done > {file}"
    host.check_output(f"systemd-run --unit=looking --collect sh -c {quoted([look])}")
    yield file
    host.check_output("systemctl stop looking")


@pytest.fixture
def questions(host):
    asking = words("/v1/chat/completions", body=chat(400, ANSWERS), program=KEEP_ASKING)
    host.check_output(f"systemd-run --unit=questions --collect {quoted(asking)}")
    try:
        wait("the engine to be busy", lambda: watched(host)["verdict"] == "busy", 300)
        yield
    finally:
        host.check_output("systemctl stop questions")


def test_runs_from_the_environment_of_its_lock(host):
    assert host.service(UNIT).is_running
    assert host.service(UNIT).is_enabled
    (environment,) = host.check_output(f"ls -d /opt/llmfleet/{ENGINE}/*/").split()
    assert f"{environment}bin/python" in host.check_output(f"systemctl cat {UNIT}")
    host.check_output(f"cmp {environment.rstrip('/')}.txt {environment}llmfleet-lock.txt")


def test_listens_on_loopback_only(host):
    listening = host.check_output("ss --no-header --listening --tcp --numeric").splitlines()
    assert [line.split()[3] for line in listening if f":{PORT} " in line] == [f"127.0.0.1:{PORT}"]


def test_unit_is_hardened(host):
    # The threshold is the exposure score times ten.
    assert host.run(f"systemd-analyze security --threshold=20 {UNIT}").rc == 0


def test_key_and_environment_are_for_root_only(host):
    for path in (KEY, f"/etc/llmfleet/{ENGINE}.env"):
        file = host.file(path)
        assert (file.user, file.mode) == ("root", 0o600)


def test_answers_with_the_key(host):
    status, text = ask(host, "/v1/chat/completions", body=chat(16))
    assert status == 200
    assert json.loads(text)["usage"]["completion_tokens"] == 16
    assert json.loads(ask(host, "/v1/models")[1])["data"][0]["id"] == "tiny"


def test_each_client_measures_the_same_load(host, command_lines_seen):
    measured = {client: bench(client) for client in CLIENTS}
    for client, result in measured.items():
        [row] = result["results"]
        assert result["client"].split()[0] == client
        assert result["engine_version"].startswith(VERSION)
        assert (row["requests"], row["failures"], row["output_tokens"]) == (8, 0, 8 * 32)
        assert 0 < row["ttft_seconds"]["p50"] <= row["latency_seconds"]["p50"]
    speeds = [result["results"][0]["output_tokens_per_second"] for result in measured.values()]
    # A machine that has other work is not as fast a minute later.
    assert max(speeds) < 10 * min(speeds)
    seen = host.check_output(f"cat {command_lines_seen}")
    assert ("bench serve" in seen) == ("vllm" in CLIENTS)
    assert host.file(KEY).content_string.strip() not in seen
    assert "llmfleet-bench-" not in host.check_output("ls /tmp")


@pytest.mark.parametrize("key", ["", "Bearer wrong"])
def test_refuses_whoever_has_not_the_key(host, key):
    assert ask(host, "/v1/chat/completions", key, chat(1))[0] == 401
    assert ask(host, "/v1/models", key)[0] == 401


@pytest.mark.parametrize(
    "where",
    [
        "cat /proc/[0-9]*/cmdline",
        "journalctl --no-pager --output=export",
        f"systemctl show {UNIT}",
        "cat /etc/systemd/system/*.service /etc/systemd/system/*.timer",
        f"cat /etc/llmfleet/{ENGINE}.json /etc/llmfleet/{ENGINE}.env",
        f"cat /opt/llmfleet/{ENGINE}/*.txt /opt/llmfleet/{ENGINE}/*.py",
    ],
)
def test_key_is_in_no(host, where):
    # The key itself must not be in the command that looks for it.
    found = host.run(f"{where} 2>/dev/null | grep --text --count --file={KEY}")
    assert found.stdout.strip() == "0"


def test_service_may_not_write_to_its_model_or_environment(host):
    unit = host.check_output(f"systemctl cat {UNIT}")
    (line,) = [line for line in unit.splitlines() if line.startswith("ReadOnlyPaths=")]
    assert "/data/models/tiny-llama" in line
    assert f"/opt/llmfleet/{ENGINE}/" in line


def running_requests(host):
    lines = ask(host, "/metrics")[1].splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith(f"{RUNNING}{{"))


def test_a_request_in_flight_ends_before_the_service_stops(host):
    host.check_output("rm -f /root/answer")
    asked = quoted(words("/v1/chat/completions", body=chat(400, ANSWERS)))
    host.check_output(
        f"nohup sh -c {quoted([f'{asked} > /root/part && mv /root/part /root/answer'])} > /dev/null 2>&1 &"
    )
    wait("the request to run", lambda: running_requests(host) > 0, 300)
    host.check_output(f"systemctl stop {UNIT}")
    wait("the answer", lambda: host.file("/root/answer").exists, 60)
    status, text = json.loads(host.file("/root/answer").content_string)
    assert status == 200
    assert json.loads(text)["usage"]["completion_tokens"] == 400 * ANSWERS
    assert host.check_output(f"systemctl show --property=Result --value {UNIT}") == "success"
    host.check_output(f"systemctl start {UNIT}")
    wait("the service", lambda: is_ready(host))


def test_comes_back_when_a_part_of_it_is_killed(host):
    before = run_of(host)
    host.check_output(f"kill -9 {inner(host)}")
    wait("another run", lambda: run_of(host) != before, 300)
    wait("the service", lambda: is_ready(host))
    assert ask(host, "/v1/chat/completions", body=chat(4))[0] == 200


def test_busy_service_is_left_alone(host, questions):
    before = run_of(host), watched(host)["restarts"]
    verdicts = []
    # Twice as long as a hung one has. It takes one request at a time, so every probe would wait behind this one.
    end = time.monotonic() + 60
    while time.monotonic() < end:
        time.sleep(2)
        verdicts.append(watched(host)["verdict"])
    assert (run_of(host), watched(host)["restarts"]) == before
    assert verdicts.count("busy") > 0.7 * len(verdicts), verdicts


def test_hung_service_is_restarted_and_the_reason_told(host, questions):
    before = run_of(host)
    # What computes stands still with a request in flight; the server in front of it goes on to answer.
    host.check_output(f"kill -STOP {inner(host)}")
    wait("the watchdog to act", lambda: watched(host)["restarts"], 300)
    wait("another run", lambda: run_of(host) != before, 300)
    told = host.check_output(f"journalctl --unit {ENGINE}-watchdog --output cat")
    assert f"{UNIT}: restarted: no sign of life for " in told
    assert "probes failed: " in told
    assert "was silent for 10 s" in told
    wait("the service", lambda: is_ready(host))
    assert ask(host, "/v1/chat/completions", body=chat(4))[0] == 200
    assert len(watched(host)["restarts"]) == 1


def test_its_parser_takes_the_examples_and_all_flags(host):
    (python,) = host.check_output(f"ls /opt/llmfleet/{ENGINE}/*/bin/python").split()
    lines = json.dumps(list(command_lines(ENGINE, VERSION)))
    host.check_output("printf '%%s' %s > /root/probe.py", PROBE.read_text())
    host.check_output("printf '%%s' %s > /root/lines.json", lines)
    settings = [f"{name}={value}" for name, value in SETTINGS.items()]
    host.check_output(quoted(["env", *settings, python, "/root/probe.py", "parse", ENGINE, "/root/lines.json"]))
