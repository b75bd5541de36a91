# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The execution environment: built by the real ansible-builder, and jobs of its collection run inside, over SSH."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from testbed import egress, hosts, models
from testbed.engine import LABEL, NETWORK, docker
from testbed.images import base_image
from testbed.ollama_server import unpacked
from testbed.tools import tool

pytestmark = pytest.mark.bed

ROOT = Path(__file__).parents[2]
TOOLS = ROOT / ".cache" / "venv" / "awx" / "bin"
HOST = "llmfleet-test-image"
IMAGE = "llmfleet-bed/execution-environment:test"
BASE = "llmfleet-bed/execution-environment-base:test"
# The newest wants programs that simulated hosts have on Debian testing only.
OLLAMA = "0.5.11"


def command(*argv, cwd=ROOT):
    env = {**os.environ, "PATH": f"{TOOLS}:{os.environ['PATH']}"}
    done = subprocess.run(
        [*map(str, argv)], cwd=cwd, env=env, capture_output=True, text=True, timeout=1800, check=False
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]


@pytest.fixture(scope="module")
def image(tmp_path_factory):
    """Built from the checkout as the documentation says, on the bed's own Debian where no registry sends one."""
    folder = tmp_path_factory.mktemp("image")
    # A build has no volumes: what this machine needs to reach the outside is in its base image.
    lines = [f"FROM {base_image('trixie')}"]
    bundle = egress.ca_bundle()
    if bundle is not None:
        shutil.copy(bundle, folder / "ca.crt")
        lines += ["COPY ca.crt /etc/ssl/llmfleet-bed-ca.crt", "ENV PIP_CERT=/etc/ssl/llmfleet-bed-ca.crt"]
    lines += [f"ENV {name}={os.environ[name]}" for name in ("PIP_INDEX_URL",) if name in os.environ]
    (folder / "Dockerfile").write_text("\n".join(lines))
    docker("build", f"--tag={BASE}", f"--label={LABEL}", str(folder))
    command("ansible-galaxy", "collection", "build", "--force")
    command(
        *("ansible-builder", "build", "--file", "meta/execution-environment.yml", "--container-runtime", "docker"),
        *("--context", folder / "context", "--tag", IMAGE, "--build-arg", f"EE_BASE_IMAGE={BASE}"),
    )
    return IMAGE


@pytest.fixture(scope="module")
def key(tmp_path_factory):
    """A key as a machine credential has, and a simulated host that takes it and serves a model with real Ollama."""
    folder = tmp_path_factory.mktemp("key")
    command("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / "key")
    hosts.up([HOST])
    try:
        packages = "openssh-server python3-requests"
        install = f"apt-get update && apt-get install --yes --no-install-recommends {packages}"
        docker("exec", HOST, "sh", "-c", install)
        docker("exec", HOST, "mkdir", "-p", "/root/.ssh", "/opt/ollama")
        docker("cp", str(folder / "key.pub"), f"{HOST}:/root/.ssh/authorized_keys")
        docker("exec", HOST, "chown", "-R", "root:root", "/root/.ssh")
        docker("cp", f"{unpacked(OLLAMA)}/.", f"{HOST}:/opt/ollama")
        docker("exec", "--detach", HOST, "/opt/ollama/bin/ollama", "serve")
        docker("cp", str(chat_model(folder)), f"{HOST}:/srv/model.gguf")
        serve = "printf 'FROM /srv/model.gguf' > /srv/Modelfile; cd /srv; for n in $(seq 20); do"
        serve += " /opt/ollama/bin/ollama create chat -f Modelfile && exit; sleep 1; done; exit 1"
        docker("exec", HOST, "sh", "-c", serve)
        yield folder / "key"
    finally:
        hosts.down([HOST])


def chat_model(folder):
    """A tiny model that answers, its shards merged."""
    source = models.ensure() / "bed" / "tiny-llama-GGUF"
    (first,) = source.glob("*-00001-of-*.gguf")
    shards = folder / "shards"
    shutil.copytree(source, shards)
    tool(folder, "llama-gguf-split", "--merge", str(shards / first.name), str(folder / "model.gguf"))
    return folder / "model.gguf"


def job(folder, image, key, playbook):
    """Run a playbook inside the image by its own ansible-runner, with the key as AWX hands it over."""
    for name in ("env", "inventory", "project"):
        (folder / name).mkdir()
    (folder / "env" / "ssh_key").write_text(key.read_text())
    (folder / "env" / "envvars").write_text(json.dumps({"ANSIBLE_HOST_KEY_CHECKING": "False"}))
    services = [{"name": "chat", "engine": "ollama", "model": "m", "port": 11434}]
    fleet = {"ansible_user": "root", "llmfleet_services": services, "gpu_gate_fence": False}
    inventory = {"llmfleet": {"hosts": {HOST: {}}, "vars": fleet}}
    (folder / "inventory" / "hosts.json").write_text(json.dumps(inventory))
    # The collection in the image is what is tested: the project has only the name of its playbook.
    play = [{"name": "Job", "ansible.builtin.import_playbook": f"llmfleet.serving.{playbook}"}]
    (folder / "project" / "job.yml").write_text(json.dumps(play))
    done = docker(
        *(
            "run",
            "--rm",
            f"--network={NETWORK}",
            f"--label={LABEL}",
            "--user=root",
            f"--volume={folder}:/runner",
            image,
        ),
        *("ansible-runner", "run", "/runner", "-p", "job.yml", "-i", "job"),
        check=False,
        timeout_s=900,
    )
    events = [json.loads(path.read_text()) for path in (folder / "artifacts" / "job" / "job_events").glob("*.json")]
    return done, events


@pytest.mark.parametrize("playbook", ["gate", "verify"])
def test_a_job_runs_inside(tmp_path, image, key, playbook):
    done, events = job(tmp_path, image, key, playbook)
    assert done.returncode == 0, done.stdout
    (last,) = [event["event_data"] for event in events if event["event"] == "playbook_on_stats"]
    assert last["artifact_data"]["llmfleet_gate"] == {HOST: "pass"}
    if playbook == "verify":
        assert "chat" in done.stdout
        assert any(event["event_data"].get("task") == "Ask every service" for event in events)


def test_it_has_this_collection_and_nothing_of_the_checkout(image):
    listed = docker("run", "--rm", image, "ansible-galaxy", "collection", "list", "--format=json").stdout
    found = {name: entry["version"] for path in json.loads(listed).values() for name, entry in path.items()}
    assert found == {"llmfleet.serving": "0.1.0"}
