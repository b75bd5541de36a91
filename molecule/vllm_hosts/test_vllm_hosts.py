"""One service, half of each layer on either of two hosts: who answers, who computes, and how it is started anew."""

import json
import os
import time

import pytest
import testinfra

NAME = os.environ["MOLECULE_SCENARIO_NAME"]
START_S = 900
ASK = (
    "import json, urllib.request; key = open('/etc/llmfleet/vllm.key').read().strip();"
    "body = {'model': 'tiny', 'max_tokens': 16, 'ignore_eos': True, 'prompt': 'Why is the sky blue?'};"
    "request = urllib.request.Request('http://127.0.0.1:8000/v1/completions', json.dumps(body).encode(),"
    " {'Content-Type': 'application/json', 'Authorization': 'Bearer ' + key});"
    "print(json.load(urllib.request.urlopen(request, timeout=120))['usage']['completion_tokens'])"
)


@pytest.fixture(scope="module")
def second():
    return testinfra.get_host(f"docker://molecule-{NAME}-second")


def tokens(host):
    return host.run(f'python3 -c "{ASK}"').stdout.strip()


def test_answers(host):
    assert tokens(host) == "16"


def test_only_the_head_listens(host, second):
    assert "127.0.0.1:8000 " in host.check_output("ss --no-header --listening --tcp --numeric")
    assert ":8000 " not in second.check_output("ss --no-header --listening --tcp --numeric")


def test_both_compute(host, second):
    for rank, each in enumerate((host, second)):
        assert f"Worker_TP{rank}" in each.check_output("ps -eo args=")


def test_the_key_is_in_no_process_list_or_log_of_either(host, second):
    for each in (host, second):
        for where in ("cat /proc/[0-9]*/cmdline", "journalctl --no-pager --output=export"):
            found = each.run(f"{where} 2>/dev/null | grep --text --count --file=/etc/llmfleet/vllm.key")
            assert found.stdout.strip() == "0"


def answers_again(host):
    deadline = time.monotonic() + START_S
    while tokens(host) != "16":
        assert time.monotonic() < deadline, host.check_output("journalctl --unit=vllm --lines=40")
        time.sleep(5)


def watched(host):
    return json.loads(host.file("/var/lib/llmfleet/watchdog/vllm.json").content_string)


def test_starts_anew_when_all_are_stopped_before_the_first_is_started(host, second):
    for each in (host, second):
        each.check_output("systemctl stop vllm.service")
    for each in (host, second):
        each.check_output("systemctl start vllm.service")
    answers_again(host)


def test_is_restarted_as_one_when_the_head_alone_is_killed(host, second):
    while not (watched(second)["verdict"] == "joined" and watched(host)["peers"]):
        time.sleep(1)
    # It may have been restarted already in the test before, where the head was stopped a while before it was.
    before = len(watched(second)["restarts"])
    host.check_output("systemctl kill --signal=KILL vllm.service")
    answers_again(host)
    state = watched(second)
    assert len(state["restarts"]) == before + 1
    assert state["reason"] == "instance of the hosts that share it, or what ran there, has gone"
    # What belongs together stays so.
    time.sleep(30)
    assert (watched(second)["verdict"], watched(host)["missed"]) == ("joined", 0)
    assert len(watched(second)["restarts"]) == before + 1
