"""llama.cpp's packaged programs are on the path, and its server is a service that a platform team would sign for."""

import json
import time

import pytest

NAME = "llmfleet-chat"
UNIT = f"{NAME}.service"
KEY = f"/etc/llmfleet/{NAME}.key"
ADDRESS = "http://127.0.0.1:8100"
# Of each of several answers, one after the other, which together take longer than a stop without a drain.
TOKENS = 8000
ASKED = 4

# Prints what an address answers: its status, and the JSON.
ASK = f"""
import json, sys, urllib.error, urllib.request
key, path, *body = sys.argv[1:]
request = urllib.request.Request("{ADDRESS}" + path, body[0].encode() if body else None)
request.add_header("Authorization", "Bearer " + key)
request.add_header("Content-Type", "application/json")
try:
    with urllib.request.urlopen(request) as answer:
        print(json.dumps([answer.status, json.load(answer)]))
except urllib.error.HTTPError as refused:
    print(json.dumps([refused.code, None]))
"""
# Asks for long answers, has the unit restarted in the middle of the first, and prints how many tokens came of each.
RESTART = f"""
import json, subprocess, threading, time, urllib.request
key = open("{KEY}").read().strip()
def ask(path, **body):
    request = urllib.request.Request("{ADDRESS}" + path, json.dumps(body).encode() if body else None)
    request.add_header("Authorization", "Bearer " + key)
    request.add_header("Content-Type", "application/json")
    return urllib.request.urlopen(request).read().decode()
answers = []
question = [{{"role": "user", "content": "Why is the sky blue?"}}]
def long():
    answers.append(json.loads(ask("/v1/chat/completions", messages=question, max_tokens={TOKENS}, ignore_eos=True)))
asking = [threading.Thread(target=long) for _number in range({ASKED})]
for thread in asking:
    thread.start()
while "llamacpp:requests_deferred {ASKED - 1}" not in ask("/metrics"):
    time.sleep(0.05)
assert not answers
subprocess.run(["systemctl", "restart", "{UNIT}"], check=True)
for thread in asking:
    thread.join()
print(*(answer["usage"]["completion_tokens"] for answer in answers))
"""


def ask(host, key, path, **body):
    words = [json.dumps(body)] if body else []
    answered = host.run("python3 -c %s" + " %s" * (2 + len(words)), ASK, key, path, *words)
    return json.loads(answered.stdout)


def main_pid(host):
    return host.check_output(f"systemctl show --property=MainPID --value {UNIT}")


def wait_until_ready(host, other_than):
    end = time.monotonic() + 90
    while time.monotonic() < end:
        if main_pid(host) not in ("0", other_than) and host.run("python3 -c %s - /health", ASK).stdout.startswith(
            "[200"
        ):
            return
        time.sleep(0.5)
    pytest.fail(host.check_output(f"journalctl --unit {UNIT} --lines 20 --no-pager"))


@pytest.mark.parametrize("name", ["llama-server", "llama-cli", "llama-quantize", "llama-gguf-split"])
def test_is_on_the_path(host, name):
    assert host.find_command(name) == f"/usr/bin/{name}"


def test_leaves_a_finished_file_alone(host):
    refused = host.run("llama-gguf-split --merge /usr/bin/llama-server /dev/null")
    assert refused.rc != 0


def test_serves_the_shards_under_its_name(host):
    key = host.file(KEY).content_string.strip()
    status, models = ask(host, key, "/v1/models")
    assert (status, [model["id"] for model in models["data"]]) == (200, ["chat"])
    assert host.process.get(pid=main_pid(host)).args.split()[1:5] == [
        "--api-key-file",
        f"/run/credentials/{UNIT}/key",
        "--model",
        "/data/models/tiny/tiny-llama-00001-of-00003.gguf",
    ]


@pytest.mark.parametrize("key", ["", "wrong"])
@pytest.mark.parametrize("path", ["/v1/models", "/metrics", "/slots", "/props"])
def test_refuses_who_has_no_key(host, key, path):
    assert ask(host, key, path) == [401, None]


def test_listens_on_loopback_only(host):
    listening = host.check_output("ss --no-header --listening --tcp --numeric")
    assert [line.split()[3] for line in listening.splitlines() if ":8100" in line] == ["127.0.0.1:8100"]


def test_unit_is_hardened(host):
    # The threshold is the exposure score times ten.
    assert host.run(f"systemd-analyze security --threshold=20 {UNIT}").rc == 0


def test_sees_its_gpus_by_uuid(host):
    uuids = host.check_output("nvidia-smi --query-gpu=uuid --format=csv,noheader").splitlines()
    environment = host.check_output(f"cat /proc/{main_pid(host)}/environ").split("\0")
    assert f"CUDA_VISIBLE_DEVICES={uuids[2]},{uuids[3]}" in environment


def test_key_is_nowhere_but_in_its_file(host):
    key = host.file(KEY)
    assert (key.user, key.mode, len(key.content_string.strip())) == ("root", 0o600, 64)
    # What looks for it must not have it among its own words.
    found = host.run(
        f"(systemctl cat {UNIT}; systemctl show {UNIT}; journalctl --no-pager; "
        "cat /proc/[0-9]*/cmdline /proc/[0-9]*/environ /etc/llmfleet/*.json /etc/llmfleet/*.env) "
        "> /run/looked 2> /dev/null; "
        f"grep --count --text --fixed-strings --file={KEY} /run/looked; rm /run/looked"
    )
    assert found.stdout.strip() == "0"


def test_watchdog_counts_what_the_engine_counts(host):
    assert host.service(f"{NAME}-watchdog.timer").is_running
    assert host.run(f"systemctl start {NAME}-watchdog.service").rc == 0
    verdict = json.loads(host.file(f"/var/lib/llmfleet/watchdog/{NAME}.json").content_string)
    assert verdict["verdict"] in ("idle", "busy")
    assert verdict["counters"]


def test_requests_in_flight_end_before_the_service_does(host):
    before = main_pid(host)
    assert host.check_output("python3 -c %s", RESTART).split() == [str(TOKENS)] * ASKED
    wait_until_ready(host, before)


def test_comes_back_when_it_is_killed(host):
    before = main_pid(host)
    host.check_output(f"kill -KILL {before}")
    wait_until_ready(host, before)
    assert ask(host, host.file(KEY).content_string.strip(), "/v1/models")[0] == 200
