"""The real vLLM goes from one lock file to another, and back by itself where what the other one brings cannot start.

The tests build on each other, in the order in which they stand: each leaves the host as the next one finds it.
"""

import contextlib
import json
import os
import re
import signal
import subprocess
import tempfile
from pathlib import Path

import pytest

from ansible_collections.llmfleet.serving.plugins.module_utils._lock_file import parse

HERE = Path(__file__).parent
VERSION = "0.32.0"
UNIT = "llmfleet-tiny.service"
KEY = "/etc/llmfleet/llmfleet-tiny.key"
SNAPSHOT = "/var/lib/llmfleet/previous/llmfleet-tiny/pending"
OLD = (HERE.parents[1] / "tests" / "testbed" / "wheels" / "vllm.txt").read_text()
# The first thing that PyTorch imports: without it the engine ends as soon as it starts.
BROKEN = re.sub(r"(?m)^typing-extensions==.*\n(?: +--hash=.*\n)+", "", OLD)
# The same packages: the file is another one, and so is its environment.
NEW = f"{OLD}# Looked at again.\n"

ASK = """
import json, sys, urllib.request
body = {"model": "tiny", "max_tokens": 4, "ignore_eos": True, "messages": [{"role": "user", "content": "Why?"}]}
headers = {"Content-Type": "application/json", "Authorization": "Bearer " + open(sys.argv[1]).read().strip()}
url = "http://127.0.0.1:8000/v1/chat/completions"
request = urllib.request.Request(url, json.dumps(body).encode(), headers)
print(json.load(urllib.request.urlopen(request))["usage"]["completion_tokens"])
"""


@pytest.fixture
def upgrade():
    """upgrade(lock, ...): the playbook as it runs, with a lock file of this content, in a process group of its own."""

    @contextlib.contextmanager
    def begin(lock, *options, **variables):
        path = Path(folder, "lock.txt")
        path.write_text(lock)
        inventories = [f"--inventory={each}" for each in (HERE.parent / "inventory", HERE / "hosts.yml")]
        extra = f"--extra-vars={json.dumps({'bed_lock': str(path), **variables})}"
        # Molecule has asked for colours, which count for more than the wish for none.
        settings = {
            "ANSIBLE_NOCOLOR": "1",
            "ANSIBLE_FORCE_COLOR": "false",
            "ANSIBLE_PIPELINING": "true",
            "ANSIBLE_CALLBACK_RESULT_FORMAT": "yaml",
        }
        with subprocess.Popen(
            ["ansible-playbook", *inventories, str(HERE.parents[1] / "playbooks" / "upgrade.yml"), extra, *options],
            env={**os.environ, **settings},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        ) as process:
            yield process

    # A folder of pytest's own is removed by other runs that begin meanwhile.
    with tempfile.TemporaryDirectory() as folder:
        yield begin


def end_of(process):
    """Exit status of the playbook, what it has said, and how many tasks have changed something."""
    said = process.stdout.read()
    print(said)
    changed = re.search(r"^instance .*changed=(\d+)", said, re.MULTILINE)
    return process.wait(), " ".join(said.split()), int(changed.group(1))


def until(process, task):
    """Read what the playbook says until it begins a task."""
    for line in process.stdout:
        print(line, end="")
        if line.startswith("TASK [") and task in line:
            return
    raise AssertionError(f"no task {task}")


def environment(lock):
    return f"/opt/llmfleet/vllm/{VERSION}-{parse(lock, 'lock.txt', 'vllm', VERSION).digest}"


def environments(host):
    return host.check_output("ls -d /opt/llmfleet/vllm/*/ | sed 's,/$,,' | sort").split()


def answers_from(host):
    """The environment that the engine runs in, once it has answered with tokens."""
    assert host.check_output(f"python3 -c '{ASK}' {KEY}") == "4"
    words = host.check_output(f"tr '\\0' ' ' < /proc/{process_of(host)}/cmdline").split()
    return words[0].removesuffix("/bin/python")


def process_of(host):
    return host.service(UNIT).systemd_properties["MainPID"]


def drained(host):
    record = host.file("/etc/llmfleet/edge/drained")
    return record.exists and "tiny" in record.content_string


def definition(host):
    return host.check_output(f"sha256sum /etc/systemd/system/{UNIT} /etc/llmfleet/llmfleet-tiny.*")


def test_an_environment_that_cannot_start_is_put_back_by_itself(host, upgrade):
    before = definition(host)
    with upgrade(BROKEN) as process:
        status, said, _changed = end_of(process)
    assert status == 2
    assert f"instance was not upgraded, and answers with the version that it had: {environment(OLD)}." in said
    assert "Insist that the service answers: llmfleet-tiny.service is failed" in said
    assert "No module named 'typing_extensions'" in said
    assert answers_from(host) == environment(OLD)
    assert definition(host) == before
    assert not drained(host)
    assert not host.file(SNAPSHOT).exists
    assert environments(host) == sorted([environment(OLD), environment(BROKEN)])


def test_check_mode_predicts_and_changes_nothing(host, upgrade):
    before = definition(host), process_of(host), environments(host)
    with upgrade(NEW, "--check") as process:
        status, _said, changed = end_of(process)
    assert status == 0
    assert changed > 0
    assert (definition(host), process_of(host), environments(host)) == before
    assert not host.file(SNAPSHOT).exists


def test_another_lock_file_of_the_same_version_is_an_upgrade(host, upgrade):
    process_before = process_of(host)
    with upgrade(NEW, llmfleet_upgrade_prune=True) as process:
        until(process, "Make the environment")
        # Gigabytes are installed now, and it serves as before.
        assert process_of(host) == process_before
        assert not drained(host)
        until(process, "Have the edges send no more requests")
        assert host.file(f"{environment(NEW)}/bin/python").exists
        status, _said, _changed = end_of(process)
    assert status == 0
    assert answers_from(host) == environment(NEW)
    assert not drained(host)
    assert host.check_output("ls -A /var/lib/llmfleet/previous/llmfleet-tiny") == "record.json"
    # What it ran on before is there to go back to; what it never ran on is gone.
    assert environments(host) == sorted([environment(OLD), environment(NEW)])


def test_a_second_run_changes_nothing(host, upgrade):
    before = process_of(host)
    with upgrade(NEW, llmfleet_upgrade_prune=True) as process:
        status, _said, changed = end_of(process)
    assert (status, changed) == (0, 0)
    assert process_of(host) == before


def test_what_a_killed_controller_has_left_is_ended_by_the_next_run(host, upgrade):
    with upgrade(OLD) as process:
        until(process, "Judge the GPUs that it runs on")
        os.killpg(process.pid, signal.SIGKILL)
    assert host.file(SNAPSHOT).exists
    assert drained(host)
    with upgrade(OLD) as process:
        status, _said, _changed = end_of(process)
    assert status == 0
    assert answers_from(host) == environment(OLD)
    assert not drained(host)
    assert not host.file(SNAPSHOT).exists
