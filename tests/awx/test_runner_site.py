# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The jobs that bring a host up and keep it: Site from a bare one, then Verify, Drift, Upgrade and Support."""

from __future__ import annotations

import contextlib
import json
import re
import subprocess
from pathlib import Path

import pytest
from awx_data import described
from awx_jobs import CANARY, ROOT, artifacts_of, by_hand, outcomes, runner

from testbed import hosts
from testbed.engine import NETWORK, docker
from testbed.hub import Hub

pytestmark = pytest.mark.bed

HOST = "llmfleet-test-site"
REPOSITORY = "unsloth/DeepSeek-R1-GGUF"


@pytest.fixture(scope="module")
def templates(tmp_path_factory):
    data = described(tmp_path_factory.mktemp("data"))
    return {template["name"]: template for template in data["job_templates"]}


@pytest.fixture(scope="module")
def inventory(tmp_path_factory):
    """The demo's fleet with one bare host of our own, what the controller keeps in a folder of its own."""
    folder = tmp_path_factory.mktemp("fleet")
    stack = contextlib.ExitStack()
    stack.callback(hosts.down, [HOST])
    variables = folder / "inventory" / "group_vars" / "llmfleet"
    variables.mkdir(parents=True)
    for path in (ROOT / "inventories" / "demo" / "group_vars" / "llmfleet").glob("*.yml"):
        (variables / path.name).write_text(path.read_text())
    # The hub's models are made with packages that only the shared environment has.
    python = ROOT / ".venv" / "bin" / "python"
    subprocess.run([python, "-m", "testbed", "up", HOST], check=True)
    where = [python, "-c", "from testbed.hosts import models_dir; print(models_dir())"]
    models = subprocess.run(where, check=True, capture_output=True, text=True).stdout.strip()
    gateway = docker("network", "inspect", "--format={{(index .IPAM.Config 0).Gateway}}", NETWORK).stdout.strip()
    # So slow that somebody who waits wants to know how far it is.
    hub = stack.enter_context(Hub(Path(models), host=gateway, connection_rate=50_000))
    model = {"name": "deepseek-r1-q4", "hub": hub.url, "repo": REPOSITORY, "files": "DeepSeek-R1-Q4_K_M/*.gguf"}
    (folder / "support").mkdir()
    own = {
        "llmfleet_models": [{**model, "revision": hub.repository(REPOSITORY).commit}],
        "llmfleet_secret_files": [{"env": "LLMFLEET_HUB_TOKEN_FILE", "dest": "/etc/llmfleet/hub.token"}],
        "llmfleet_report_directory": str(folder / "report"),
        "llmfleet_support_directory": str(folder / "support"),
        "edge_authority": str(folder / "authority"),
    }
    # The last file counts.
    (variables / "zz-test.yml").write_text(json.dumps(own))
    facts = {"ansible_connection": "community.docker.docker", "ansible_python_interpreter": "/usr/bin/python3"}
    (folder / "inventory" / "hosts.json").write_text(json.dumps({"llmfleet": {"hosts": {HOST: facts}}}))
    with stack:
        yield folder / "inventory"


@pytest.fixture(scope="module")
def site(tmp_path_factory, templates, inventory):
    """What the job Site has made of the bare host."""
    return runner(tmp_path_factory.mktemp("site") / "job", templates["Site"], inventory, {})


def test_site_brings_a_bare_host_up(site):
    assert site.rc == "0", site.said[-3000:]
    assert artifacts_of(site.events)["llmfleet_report"]["verdict"] == "pass"
    assert CANARY not in site.text
    assert docker("exec", HOST, "cat", "/etc/llmfleet/hub.token").stdout == CANARY


def test_the_progress_of_a_download_is_a_line_of_the_job(site):
    lines = [line for event in site.events for line in event["stdout"].splitlines()]
    progress = [line for line in lines if re.match(rf"{HOST}: deepseek-r1-q4\.gguf: \d+ %, ", line)]
    assert progress
    assert not [line for line in progress if "\x1b" in line or "\r" in line]


@pytest.mark.parametrize("name", ["Site", "Verify", "Drift", "Upgrade", "Support"])
def test_a_job_does_what_the_playbook_does_where_nothing_is_left_to_do(tmp_path, templates, inventory, site, name):
    assert site.rc == "0"
    job = runner(tmp_path / "job", templates[name], inventory, {})
    assert job.rc == "0", job.said[-3000:]
    (tmp_path / "token").write_text(CANARY)
    status, found = by_hand(templates[name], inventory, {}, {"LLMFLEET_HUB_TOKEN_FILE": str(tmp_path / "token")})
    assert status == 0
    assert [entry for entry in outcomes(job.events) if entry[2] != "skipped"] == [
        entry for entry in found if entry[2] != "skipped"
    ]
    assert CANARY not in job.text
