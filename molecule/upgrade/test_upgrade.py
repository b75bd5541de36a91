"""Ollama of 2025 becomes one of 2026 on two hosts, one after the other, and comes back where the new one is no good.

The tests build on each other, in the order in which they stand: each leaves the hosts as the next one finds them.
"""

import json
from pathlib import Path

import pytest

from testbed.playbooks import run

HERE = Path(__file__).parent
OLD, NEW = "0.5.11", "0.34.0"
UNIT = "llmfleet-deepseek-r1.service"
MODEL = "/data/models/deepseek-r1-q4.gguf"

ASK = """
import json, urllib.request
url = "http://127.0.0.1:11434/api/"
body = {"model": "deepseek-r1", "prompt": "Why?", "stream": False, "options": {"num_predict": 4}}
answer = json.load(urllib.request.urlopen(url + "generate", json.dumps(body).encode()))
version = json.load(urllib.request.urlopen(url + "version"))["version"]
print(json.dumps({"tokens": answer["eval_count"], "version": version}))
"""


@pytest.fixture(scope="module")
def second(host):
    return host.get_host("docker://molecule-upgrade-second")


def upgrade(*options, **variables):
    inventories = [f"--inventory={path}" for path in (HERE.parent / "inventory", HERE / "hosts.yml")]
    playbook = HERE.parents[1] / "playbooks" / "upgrade.yml"
    extra = f"--extra-vars={json.dumps({'bed_ollama': NEW, **variables})}"
    return run(
        ["ansible-playbook", *inventories, str(playbook), extra, *options],
        {"ANSIBLE_NOCOLOR": "1", "ANSIBLE_PIPELINING": "true"},
    )


def version(host):
    """The version that answers, once it has answered with tokens."""
    answer = json.loads(host.check_output(f"python3 -c '{ASK}'"))
    assert answer["tokens"] > 0
    return answer["version"]


def process_of(host):
    return host.service(UNIT).systemd_properties["MainPID"]


def drained(host):
    record = host.file("/etc/llmfleet/edge/drained")
    return "deepseek-r1" in record.content_string


def definition(host):
    return host.check_output(f"sha256sum /etc/systemd/system/{UNIT} /etc/llmfleet/llmfleet-deepseek-r1.*")


def test_a_canary_that_is_too_slow_is_put_back_and_the_roll_out_ends(host, second):
    before, process = definition(host), process_of(second)
    outcome = upgrade(acceptance_drop_max=-1000000)  # nothing is that much faster
    assert outcome.status == 2
    assert (
        "instance was not upgraded, and answers with the version that it had: /opt/llmfleet/ollama/0.5.11."
        in outcome.said
    )
    assert f"deepseek-r1 (engine {NEW}) delivers less than what was accepted" in outcome.said
    assert version(host) == OLD
    assert definition(host) == before
    assert not drained(host)
    assert host.file(f"/opt/llmfleet/ollama/{NEW}/bin/ollama").exists
    # The second host has not been touched.
    assert process_of(second) == process
    assert not second.file(f"/opt/llmfleet/ollama/{NEW}").exists
    assert outcome.changed[-1]["second"] == 0


def test_check_mode_predicts_and_changes_nothing(host):
    before = definition(host), process_of(host)
    outcome = upgrade("--check", "--limit=instance")
    assert outcome.status == 0
    assert outcome.changed[-1]["instance"] > 0
    assert (definition(host), process_of(host)) == before
    assert not host.file("/var/lib/llmfleet/previous/llmfleet-deepseek-r1/pending").exists


def test_both_hosts_are_upgraded_and_pruned_one_after_the_other(host, second):
    for each in (host, second):
        each.check_output("mkdir -p /opt/llmfleet/ollama/0.1.0/bin")
    outcome = upgrade(llmfleet_upgrade_prune=True)
    assert outcome.status == 0
    assert outcome.said.count("PLAY [Upgrade]") == 2
    for each in (host, second):
        assert version(each) == NEW
        assert not drained(each)
        assert each.check_output("ls /opt/llmfleet/ollama").split() == [NEW, OLD]
        assert each.check_output("ls -A /var/lib/llmfleet/previous/llmfleet-deepseek-r1") == "record.json"
        # The model is still the one file.
        blobs = each.check_output("find /data/llmfleet-deepseek-r1/models/blobs -size +1M -printf '%i '").split()
        assert blobs == [each.check_output(f"stat --format=%i {MODEL}")]


def test_a_second_run_changes_nothing(host, second):
    processes = [process_of(each) for each in (host, second)]
    outcome = upgrade(llmfleet_upgrade_prune=True)
    assert outcome.status == 0
    assert outcome.changed[-1] == {"instance": 0, "second": 0}
    assert [process_of(each) for each in (host, second)] == processes
