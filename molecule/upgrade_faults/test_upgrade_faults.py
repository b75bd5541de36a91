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
def upgrade(*inventories, playbook="upgrade.yml", environment=None, **variables):
    """The playbook as it runs, in a process group of its own."""
    paths = [MOLECULE / "inventory", MOLECULE / "upgrade" / "hosts.yml", *inventories]
    extra = f"--extra-vars={json.dumps({'bed_ollama': NEW, **variables})}"
    argv = ["ansible-playbook", *(f"--inventory={path}" for path in paths), extra]
    argv.append(str(MOLECULE.parent / "playbooks" / playbook))
    with subprocess.Popen(
        argv,
        env={
            **os.environ,
            "ANSIBLE_NOCOLOR": "1",
            "ANSIBLE_PIPELINING": "true",
            "ANSIBLE_CALLBACK_RESULT_FORMAT": "yaml",
            **(environment or {}),
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    ) as process:
        yield process


def end_of(process):
    """Exit status of the playbook, and what it has said that nobody has read yet."""
    said = process.stdout.read()
    print(said)
    return process.wait(), " ".join(said.split())


def run(*inventories, **options):
    with upgrade(*inventories, **options) as process:
        return end_of(process)


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


@contextlib.contextmanager
def lost(name):
    """A container that nobody can reach by its name, and that goes on."""
    subprocess.run(["docker", "rename", name, f"{name}-lost"], check=True)
    try:
        yield
    finally:
        subprocess.run(["docker", "rename", f"{name}-lost", name], check=True)


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


def test_a_damaged_archive_changes_nothing(host, untouched):
    """A mirror on the host itself, whose archive has lost its end."""
    there = f"v{NEW}/ollama-linux-amd64.tar.zst"
    mirror = f"http://llmfleet-hub:8000/mirror/ollama/v{NEW}"
    host.check_output(f"mkdir -p /srv/mirror/v{NEW}")
    fetch = (
        "from urllib.request import urlopen; import sys; sys.stdout.buffer.write(urlopen(sys.argv[1]).read(1 << 20))"
    )
    for name in (there, f"v{NEW}/sha256sum.txt"):
        host.check_output(f"python3 -c '{fetch}' {mirror}/{Path(name).name} > /srv/mirror/{name}")
    host.check_output("systemd-run --unit=damaged-mirror python3 -m http.server --directory /srv/mirror 8999")
    status, said = run(llmfleet_mirrors={"ollama": "http://127.0.0.1:8999"})
    host.check_output("systemctl stop damaged-mirror")
    assert status == 2
    assert f"instance was not upgraded, and answers with the version that it had: /opt/llmfleet/ollama/{OLD}." in said
    assert "install | Download the release archive: The checksum for" in said
    assert not host.file(f"/opt/llmfleet/ollama/{NEW}/bin/ollama").exists
    assert version(host) == OLD


@pytest.fixture
def cut_off(host):
    """What a host has that was cut off while it unpacked: the program, which comes first, and nothing else."""
    host.check_output(f"mkdir -p /opt/llmfleet/ollama/{NEW}/bin")
    host.check_output(f"echo half > /opt/llmfleet/ollama/{NEW}/bin/ollama")


@pytest.mark.usefixtures("cut_off")
def test_gpus_that_fail_after_the_switch_fence_the_host_and_the_old_version_is_put_back(host, second):
    before, process_of_second = definition(host), process_of(second)
    with upgrade() as process:
        until(process, "Prove that each model answers")
        host.check_output("gpu-fault ecc-uncorrectable 3")
        status, said = end_of(process)
    assert status == 2
    assert "instance was not upgraded, and needs a hand. judge | Refuse the host: The GPUs are not fit" in said
    assert "ecc-volatile (GPU 3)" in said
    assert "What was put back does not answer: upgrade | back | Start it:" in said
    # It has the old version, out of its edges; nobody starts it on these GPUs.
    assert definition(host) == before
    assert not host.service(UNIT).is_running
    assert drained(host)
    assert host.file(SNAPSHOT).exists
    assert process_of(second) == process_of_second
    assert not second.file(f"/opt/llmfleet/ollama/{NEW}").exists


def test_the_gate_releases_a_host_whose_gpus_were_repaired(host):
    host.check_output("gpu-fault none")
    status, said = run()
    assert status == 2
    assert "instance is fenced: its GPUs are not fit, see gate.yml." in said
    assert run(playbook="gate.yml")[0] == 0


def test_a_killed_controller_leaves_what_the_next_run_needs(host, second):
    with upgrade() as process:
        until(process, "Judge the GPUs that it runs on")
        os.killpg(process.pid, signal.SIGKILL)
    assert host.file(SNAPSHOT).exists
    assert drained(host)
    assert f"/opt/llmfleet/ollama/{NEW}/bin/ollama" in host.file(f"/etc/systemd/system/{UNIT}").content_string
    assert not second.file(SNAPSHOT).exists


def test_a_host_that_is_lost_after_its_switch_ends_the_roll_out_and_costs_the_other_nothing(host, second):
    """The run before it was killed, and both are in one batch. A lost host is one only without pipelining in Docker."""
    environment = {"ANSIBLE_PIPELINING": "false"}
    with upgrade(environment=environment, llmfleet_upgrade_batches=[2]) as process:
        until(process, "Judge the GPUs that it runs on")
        with lost(f"molecule-{SCENARIO}-second"):
            status, said = end_of(process)
    assert status != 0
    assert "fatal: [second]: UNREACHABLE!" in said
    assert "The roll-out ends here. second has failed or does not answer any more, see above: repair it and" in said
    assert version(host) == NEW
    assert not drained(host)
    assert not host.file(SNAPSHOT).exists
    assert drained(second)
    assert second.file(SNAPSHOT).exists


def test_the_next_run_ends_what_was_left(host, second):
    status, _said = run()
    assert status == 0
    for each in (host, second):
        assert version(each) == NEW
        assert not drained(each)
        assert not each.file(SNAPSHOT).exists
