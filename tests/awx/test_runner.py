# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The jobs as AWX runs them: by the real ansible-runner, with what the surveys yield, on a simulated host."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import types
from pathlib import Path
from unittest.mock import ANY

import model_headers
import pytest
from awx_data import described

from testbed import hosts
from testbed.awx.rules import QUESTION_TYPES
from testbed.engine import docker

pytestmark = pytest.mark.bed

ROOT = Path(__file__).parents[2]
HOST = "llmfleet-test-runner"
CANARY = "hf_c4n4ry"
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
    path = folder / "hosts.json"
    path.write_text(json.dumps({"llmfleet": {"hosts": {HOST: facts}, "vars": fleet}}))
    hosts.up([HOST])
    try:
        docker("cp", str(folder / "models"), f"{HOST}:/srv/models")
        yield path
    finally:
        hosts.down([HOST])


def survey_variables(template, **answers):
    """What AWX makes of answers: the form is held to, and a question without an answer gives no variable."""
    questions = {question["variable"]: question for question in template["survey"]}
    assert answers.keys() <= questions.keys()
    for name, answer in answers.items():
        assert isinstance(answer, QUESTION_TYPES[questions[name]["type"]])
        assert answer in questions[name].get("choices", [answer])
    required = {name for name, question in questions.items() if question["required"]}
    assert required <= answers.keys()
    return answers


def runner(folder, template, inventory, variables, playbook=None):
    """Run a job template as AWX does, its credential a file whose path is in the environment."""
    (folder / "env").mkdir(parents=True)
    (folder / "inventory").mkdir()
    token = folder / "token"
    token.write_text(CANARY)
    token.chmod(0o600)
    (folder / "env" / "extravars").write_text(json.dumps(variables))
    (folder / "env" / "envvars").write_text(json.dumps({"LLMFLEET_HUB_TOKEN_FILE": str(token)}))
    (folder / "env" / "settings").write_text(json.dumps({"job_timeout": template["timeout"]}))
    shutil.copy(inventory, folder / "inventory" / "hosts.json")
    (folder / "project").symlink_to(ROOT)
    program = Path(sys.executable).with_name("ansible-runner")
    options = ["-p", playbook or template["playbook"], "-i", "job", "--limit", template["limit"]]
    # It looks for ansible-playbook on the path.
    env = {**os.environ, "PATH": f"{program.parent}:{os.environ['PATH']}"}
    argv = [str(program), "run", str(folder), *options]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=600, env=env, check=False)
    artifacts = folder / "artifacts" / "job"
    events = [json.loads(path.read_text()) for path in (artifacts / "job_events").glob("*.json")]
    token.unlink()
    return types.SimpleNamespace(
        status=done.returncode,
        said=done.stdout + done.stderr,
        events=sorted(events, key=lambda event: event["counter"]),
        rc=(artifacts / "rc").read_text(),
        text="".join(path.read_text(errors="replace") for path in folder.rglob("*") if _is_kept(path, folder)),
    )


def _is_kept(path, folder):
    return path.is_file() and not path.is_relative_to(folder / "project")


def outcomes(events):
    """Task, host and result of each event that is a result."""
    kinds = {f"runner_on_{kind}": kind for kind in ("ok", "failed", "skipped", "unreachable")}
    return [
        (event["event_data"]["task"], event["event_data"]["host"], kinds[event["event"]])
        for event in events
        if event["event"] in kinds
    ]


def by_hand(template, inventory, variables):
    """The same by ansible-playbook."""
    command = [Path(sys.executable).with_name("ansible-playbook"), "-i", inventory, ROOT / template["playbook"]]
    env = {**os.environ, "ANSIBLE_STDOUT_CALLBACK": "ansible.posix.json"}
    argv = [*map(str, command), "--limit", template["limit"], "-e", json.dumps(variables)]
    done = subprocess.run(argv, cwd=ROOT, env=env, capture_output=True, text=True, timeout=600, check=False)
    found = []
    for play in json.loads(done.stdout[done.stdout.index("{") :])["plays"]:
        for task in play["tasks"]:
            for host, result in task["hosts"].items():
                kind = "failed" if result.get("failed") else "skipped" if result.get("skipped") else "ok"
                found.append((task["task"]["name"].rpartition(" : ")[2], host, kind))
    return done.returncode, found


def artifacts_of(events):
    """What AWX keeps of `set_stats` and hands to a workflow's next jobs."""
    (last,) = [event for event in events if event["event"] == "playbook_on_stats"]
    return last["event_data"]["artifact_data"]


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
