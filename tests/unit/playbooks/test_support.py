"""playbooks/support.yml, as one runs it: with hosts that do not answer, and on a host with the real nvidia-smi."""

from __future__ import annotations

import json
import os
import re
import stat
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]


@pytest.fixture
def made():
    """Where a run makes what it needs for a while: Ansible its sockets too, whose paths have to be short."""
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


@pytest.fixture
def support(tmp_path, made, silent_plugin):
    """support(hosts, **variables): exit status and output of a run with these hosts and their connections."""
    environment = {**os.environ, "ANSIBLE_CONNECTION_PLUGINS": str(silent_plugin), "ANSIBLE_NOCOLOR": "1"}

    def run(hosts, *options, **variables):
        inventory = {name: {"ansible_connection": kind} for name, kind in hosts.items()}
        for host in inventory.values():
            if host["ansible_connection"] == "local":
                host["ansible_python_interpreter"] = sys.executable
        (tmp_path / "hosts.yml").write_text(json.dumps({"llmfleet": {"hosts": inventory}}))
        argv = [
            *(Path(sys.executable).with_name("ansible-playbook"), ROOT / "playbooks/support.yml"),
            *("-i", tmp_path / "hosts.yml", "-e", json.dumps(variables), *options),
        ]
        there = {**environment, "TMPDIR": str(made)}
        done = subprocess.run(
            [*map(str, argv)], cwd=tmp_path, env=there, capture_output=True, text=True, timeout=300, check=False
        )
        return done.returncode, done.stdout + done.stderr

    return run


def test_an_archive_in_a_folder_that_only_its_owner_may_read(support, made, tmp_path):
    status, output = support({"here": "local"}, "--check")
    assert status == 0, output
    assert not (tmp_path / ".cache").exists()
    status, output = support({"here": "local"})
    assert status == 0, output
    (archive,) = (tmp_path / ".cache/support").iterdir()
    assert re.fullmatch(r"here-\d{8}T\d{6}Z\.tar\.gz", archive.name)
    assert stat.S_IMODE(archive.stat().st_mode) == 0o600
    assert stat.S_IMODE(archive.parent.stat().st_mode) == 0o700
    assert str(archive) in output
    with tarfile.open(archive) as tar:
        index = json.load(tar.extractfile("here/index.json"))
    assert re.fullmatch(r"\d+\.\d+\.\d+\S*", index["collection"])
    assert list(made.glob("*llmfleet-support")) == []


def test_silent_hosts_are_named_and_cost_nobody_else_the_archive(support, tmp_path):
    (tmp_path / "given").mkdir(mode=0o755)
    hosts = {"silent-1": "silent", "here": "local", "silent-2": "silent"}
    status, output = support(hosts, llmfleet_support_directory="given", llmfleet_support_hours=1)
    assert status != 0
    assert "did not answer, or gave no archive: silent-1, silent-2." in " ".join(output.split())
    assert [path.name.partition("-")[0] for path in (tmp_path / "given").iterdir()] == ["here"]
    assert stat.S_IMODE((tmp_path / "given").stat().st_mode) == 0o755


def test_no_host_answers(support, tmp_path):
    status, output = support({"silent-1": "silent"})
    assert status != 0
    assert "silent-1" in output


def test_a_refused_limit_leaves_nothing(support, made, tmp_path):
    status, output = support({"here": "local"}, llmfleet_support_seconds=0)
    assert status == 2
    assert "total_seconds: expected 1 to 3600, found 0" in output
    assert list((tmp_path / ".cache/support").iterdir()) == []
    assert list(made.glob("*llmfleet-support")) == []


@pytest.mark.bed
def test_a_simulated_host_with_the_real_nvidia_smi(support, tmp_path):
    from testbed.engine import docker
    from testbed.hosts import down, up

    name = "support-test"
    try:
        up([name])
        docker("exec", name, "mkdir", "--parents", "/etc/llmfleet")
        docker("exec", name, "sh", "-c", "echo canary-of-the-key-0123456789 > /etc/llmfleet/llmfleet-r1.key")
        docker("exec", name, "sh", "-c", "echo said canary-of-the-key-0123456789 | systemd-cat --identifier=NVRM")
        status, output = support({name: "community.docker.docker"})
        assert status == 0, output
        (archive,) = (tmp_path / ".cache/support").iterdir()
        with tarfile.open(archive) as tar:
            texts = {one.name.partition("/")[2]: tar.extractfile(one).read().decode() for one in tar}
    finally:
        down([name])
    index = {entry["file"]: entry for entry in json.loads(texts["index.json"])["sources"]}
    assert {index[f"gpu/{file}"]["status"] for file in ("nvidia-smi.txt", "nvidia-smi-q.xml", "facts.json")} == {"ok"}
    assert texts["gpu/nvidia-smi-q.xml"].count("<gpu id=") == 8
    assert len(json.loads(texts["gpu/facts.json"])["gpus"]) == 8
    assert "NVIDIA-SMI 550.163.01" in texts["gpu/nvidia-smi.txt"]
    assert "nvidia-smi\t550.163.01" in texts["packages/dpkg.txt"]
    assert len(json.loads(texts["pci/devices.json"])) > 8
    assert {index[file]["status"] for file in ("units/list.txt", "disk/space.txt", "disk/inodes.txt")} == {"ok"}
    assert not [entry for entry in index.values() if entry["status"] in ("ended", "refused", "left out")]
    assert not [name for name, text in texts.items() if "canary" in text]
