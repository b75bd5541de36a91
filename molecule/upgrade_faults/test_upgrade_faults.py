"""Whatever fails in an upgrade, and whenever it is killed, the host answers, and no other one is touched.

The tests build on each other, in the order in which they stand: each leaves the hosts as the next one finds them.
"""

import contextlib
import json
import os
import signal
import subprocess
from pathlib import Path

import pytest

MOLECULE = Path(__file__).parents[1]
OLD, NEW = "0.5.11", "0.34.0"
UNIT = "llmfleet-deepseek-r1.service"
SNAPSHOT = "/var/lib/llmfleet/previous/llmfleet-deepseek-r1/pending"
RUNNER = f"/opt/llmfleet/ollama/{NEW}/lib/ollama"
SCENARIO = os.environ["MOLECULE_SCENARIO_NAME"]

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
    return host.get_host(f"docker://molecule-{SCENARIO}-second")


@contextlib.contextmanager
def upgrade(*inventories, **variables):
    """The playbook as it runs, in a process group of its own."""
    paths = [MOLECULE / "inventory", MOLECULE / "upgrade" / "hosts.yml", *inventories]
    extra = f"--extra-vars={json.dumps({'bed_ollama': NEW, **variables})}"
    argv = ["ansible-playbook", *(f"--inventory={path}" for path in paths), extra]
    argv.append(str(MOLECULE.parent / "playbooks" / "upgrade.yml"))
    with subprocess.Popen(
        argv,
        env={
            **os.environ,
            "ANSIBLE_NOCOLOR": "1",
            "ANSIBLE_PIPELINING": "true",
            "ANSIBLE_CALLBACK_RESULT_FORMAT": "yaml",
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    ) as process:
        yield process


def run(*inventories, **variables):
    with upgrade(*inventories, **variables) as process:
        said = process.stdout.read()
    print(said)
    return process.returncode, " ".join(said.split())


def until(process, task):
    """Read what the playbook says until it begins a task."""
    for line in process.stdout:
        print(line, end="")
        if line.startswith("TASK [") and task in line:
            return
    raise AssertionError(f"no task {task}")


def version(host):
    """The version that answers, once it has answered with tokens."""
    answer = json.loads(host.check_output(f"python3 -c '{ASK}'"))
    assert answer["tokens"] > 0
    return answer["version"]


def drained(host):
    return "deepseek-r1" in host.file("/etc/llmfleet/edge/drained").content_string


def process_of(host):
    return host.service(UNIT).systemd_properties["MainPID"]


def definition(host):
    return host.check_output(f"sha256sum /etc/systemd/system/{UNIT} /etc/llmfleet/llmfleet-deepseek-r1.*")


@pytest.fixture
def untouched(host, second):
    """Neither host was changed, restarted or drained."""
    before = [(definition(each), process_of(each)) for each in (host, second)]
    yield
    assert [(definition(each), process_of(each)) for each in (host, second)] == before
    assert not any(map(drained, (host, second)))
    assert not any(each.file(SNAPSHOT).exists for each in (host, second))


def test_a_host_that_does_not_answer_stops_it_before_it_begins(untouched):
    status, said = run(MOLECULE / "gpu_gate_refuses" / "unreachable.yml")
    assert status != 0
    assert "Nothing was changed. nobody did not answer." in said


def test_a_fenced_host_stops_it_before_it_begins(second, untouched):
    marker = "/etc/ansible/facts.d/llmfleet_gpu_gate.fact"
    second.check_output(f'mkdir -p /etc/ansible/facts.d && echo \'{{"verdict": "fail"}}\' > {marker}')
    status, said = run()
    second.check_output(f"rm {marker}")
    assert status == 2
    assert "second is fenced: its GPUs are not fit, see gate.yml." in said


def test_a_killed_controller_leaves_what_the_next_run_needs(host, second):
    with upgrade() as process:
        until(process, "Judge the GPUs that it runs on")
        os.killpg(process.pid, signal.SIGKILL)
    assert host.file(SNAPSHOT).exists
    assert drained(host)
    assert f"/opt/llmfleet/ollama/{NEW}/bin/ollama" in host.file(f"/etc/systemd/system/{UNIT}").content_string
    assert not second.file(SNAPSHOT).exists


def test_the_next_run_ends_what_was_left(host, second):
    status, _said = run()
    assert status == 0
    for each in (host, second):
        assert version(each) == NEW
        assert not drained(each)
        assert not each.file(SNAPSHOT).exists
