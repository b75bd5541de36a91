# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The jobs as AWX runs them: by the real ansible-runner, with what the surveys yield, on a simulated host."""

from __future__ import annotations

import json
from unittest.mock import ANY

import model_headers
import pytest
from awx_data import described
from awx_jobs import CANARY, artifacts_of, by_hand, outcomes, runner, survey_variables

from testbed import hosts
from testbed.engine import docker

pytestmark = pytest.mark.bed

HOST = "llmfleet-test-runner"
MODEL = {"name": "m", "hub": "/srv/models", "repo": "acme/model", "revision": "0" * 40}
SERVICES = [{"name": "chat", "engine": "ollama", "model": "m"}]
ANSWERS = {
    "Gate": {"gpu_gate_profile": "h800", "gpu_gate_count": 8},
    "Plan": {"llmfleet_plan_parallel": 2},
    "Report": {},
}


@pytest.fixture(scope="module")
def templates(tmp_path_factory):
    data = described(tmp_path_factory.mktemp("data"))
    return {template["name"]: template for template in data["job_templates"]}


@pytest.fixture(scope="module")
def inventory(tmp_path_factory):
    """One simulated host with eight GPUs, and a fleet that wants a small model on it."""
    folder = tmp_path_factory.mktemp("fleet")
    (folder / "models" / "acme" / "model").mkdir(parents=True)
    model_headers.dense(folder / "models" / "acme" / "model" / "model.gguf", layers=4, width=256, words=1000)
    facts = {"ansible_connection": "community.docker.docker", "ansible_python_interpreter": "/usr/bin/python3"}
    secret = {"env": "LLMFLEET_HUB_TOKEN_FILE", "dest": "/etc/llmfleet/hub.token"}
    fleet = {"llmfleet_models": [MODEL], "llmfleet_services": SERVICES, "llmfleet_secret_files": [secret]}
    fleet["llmfleet_report_directory"] = str(folder / "report")
    (folder / "inventory").mkdir()
    (folder / "inventory" / "hosts.json").write_text(json.dumps({"llmfleet": {"hosts": {HOST: facts}, "vars": fleet}}))
    hosts.up([HOST])
    try:
        docker("cp", str(folder / "models"), f"{HOST}:/srv/models")
        yield folder / "inventory"
    finally:
        hosts.down([HOST])


@pytest.mark.parametrize(
    ("name", "rc", "artifacts"),
    [
        ("Gate", "0", {"llmfleet_gate": {HOST: "pass"}}),
        ("Plan", "0", {"llmfleet_plan": {HOST: {"chat": True}}}),
        # The service is not there yet.
        ("Report", "2", {"llmfleet_report": ANY}),
    ],
)
def test_a_job_does_what_the_playbook_does(tmp_path, templates, inventory, name, rc, artifacts):
    template = templates[name]
    variables = survey_variables(template, **ANSWERS[name])
    job = runner(tmp_path / "job", template, inventory, variables)
    assert job.rc == rc, job.said
    assert artifacts_of(job.events) == artifacts
    status, found = by_hand(template, inventory, variables)
    assert status == job.status
    assert [entry for entry in outcomes(job.events) if entry[2] != "skipped"] == [
        entry for entry in found if entry[2] != "skipped"
    ]
    assert CANARY not in job.text


@pytest.mark.parametrize(
    ("name", "answers", "artifacts", "reason"),
    [
        ("Gate", {"gpu_gate_count": 7}, {"llmfleet_gate": {HOST: "fail"}}, "expected 7"),
        ("Plan", {}, {"llmfleet_plan": {HOST: {"chat": False}}}, "does not fit"),
    ],
)
def test_a_refusal_says_why_and_leaves_its_verdict(tmp_path, templates, inventory, name, answers, artifacts, reason):
    variables = survey_variables(templates[name], **answers)
    if name == "Plan":
        # More users than there is memory for.
        variables = survey_variables(templates[name], llmfleet_plan_parallel=1024)
        variables["llmfleet_services"] = [{**SERVICES[0], "args": {"num_ctx": 1 << 24}}]
    job = runner(tmp_path / "job", templates[name], inventory, variables)
    assert job.rc == "2"
    assert artifacts_of(job.events) == artifacts
    output = "\n".join(event["stdout"] for event in job.events)
    assert reason in output
    assert "Traceback" not in output


def test_a_secret_reaches_the_host_and_nothing_else(tmp_path, templates, inventory):
    job = runner(tmp_path / "job", templates["Site"], inventory, {}, playbook="playbooks/secrets.yml")
    assert job.rc == "0", job.said
    look = "cd /etc/llmfleet; stat -c '%a %U' hub.token; cat hub.token"
    assert docker("exec", HOST, "sh", "-c", look).stdout.split() == ["600", "root", CANARY]
    assert CANARY not in job.text
    assert str(tmp_path / "job" / "token") in job.text
    again = runner(tmp_path / "again", templates["Site"], inventory, {}, playbook="playbooks/secrets.yml")
    (stats,) = [event["event_data"] for event in again.events if event["event"] == "playbook_on_stats"]
    assert stats["changed"] == {}
