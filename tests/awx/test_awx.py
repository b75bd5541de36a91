# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""playbooks/awx.yml, as one runs it, against the stand-in for AWX: with the real awx.awx and the real `awx export`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import types
from pathlib import Path

import pytest
from awx_data import GIVEN, described

from testbed.awx import Awx
from testbed.awx.store import RESOURCES

ROOT = Path(__file__).parents[2]
PLAYBOOKS = [f"playbooks/{path.name}" for path in (ROOT / "playbooks").glob("*.yml")]
CHANGED = {
    "llmfleet_awx_forks": 8,
    "llmfleet_awx_gate_rrule": "DTSTART:20260101T030000Z RRULE:FREQ=DAILY;INTERVAL=2",
    "llmfleet_awx_webhook_url": "https://hooks.example.com/awx",
}
# What playbooks/tasks/awx_present.yml says of all objects of a kind.
CONSTANTS = {
    "inventory_sources": {"source": "scm", "overwrite": True, "overwrite_vars": True, "update_on_launch": True},
    "job_templates": {"job_type": "run"},
    "workflow_job_templates": {"survey_enabled": True},
}
# How an export calls the kinds.
SECTIONS = {kind: kind for kind in ("organizations", "credential_types", "execution_environments", "projects")}
SECTIONS |= {"inventories": "inventory", "inventory_sources": "inventory_sources", "schedules": "schedules"}
SECTIONS |= {kind: kind for kind in ("notification_templates", "job_templates", "workflow_job_templates")}
# Their organization is that of what they hang on.
COMPUTED = ("job_templates", "schedules")
GONE = {"llmfleet_awx_state": "absent"}


def run(awx, *options, playbook=ROOT / "playbooks" / "awx.yml", **variables):
    """Exit status of the playbook, the names of what it has changed or would change, and its messages."""
    command = [Path(sys.executable).with_name("ansible-playbook"), "-i", "localhost,", playbook, *options]
    env = {**os.environ, **awx.environment, "ANSIBLE_STDOUT_CALLBACK": "ansible.posix.json"}
    done = subprocess.run(
        [*map(str, command), "-e", json.dumps({**GIVEN, **variables})],
        cwd=ROOT,
        env=env,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    said = done.stdout + done.stderr
    results = [
        task["hosts"]["localhost"]
        for play in json.loads(done.stdout[done.stdout.index("{") :])["plays"]
        for task in play["tasks"]
    ]
    changed = []
    for result in results:
        for item in result.get("results", []):
            if item.get("changed"):
                # What is not logged is the hook, whose address may be a secret.
                thing = item.get("item", {"name": "LLM fleet webhook"})
                changed.append(thing.get("identifier") or thing["name"])
        if result.get("changed") and "results" not in result:
            # What check mode could not ask for.
            changed += [entry.partition(": ")[2] for entry in result["msg"]]
    messages = [str(one["msg"]) for result in results for one in [result, *result.get("results", [])] if "msg" in one]
    return types.SimpleNamespace(status=done.returncode, changed=sorted(changed), messages=messages, said=said)


def ask(awx, method, path, **body):
    """Send a request past HTTP."""
    return awx.answer(method, path, [], body)[1]


def others(awx):
    """What somebody else has in the same AWX."""
    organization = ask(awx, "POST", "organizations", name="Default")["id"]
    project = ask(awx, "POST", "projects", name="Web", organization=organization)["id"]
    inventory = ask(awx, "POST", "inventories", name="LLM fleet", organization=organization)["id"]
    ask(awx, "POST", "job_templates", name="Gate", project=project, inventory=inventory, playbook="playbooks/gate.yml")
    ask(awx, "POST", "credential_types", name="Vault", kind="cloud")
    ask(awx, "POST", "execution_environments", name="AWX EE", image="quay.io/ansible/awx-ee:latest")
    return state(awx)


def state(awx):
    return {kind: json.dumps(list(things.values()), sort_keys=True) for kind, things in awx.store.objects.items()}


def exported(awx):
    """What `awx export` says."""
    argv = [str(Path(sys.executable).with_name("awx")), "export", *(f"--{section}" for section in SECTIONS.values())]
    env = {**os.environ, **awx.environment}
    done = subprocess.run(argv, capture_output=True, text=True, timeout=300, env=env, check=True)
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def story(tmp_path_factory):
    """A life in an AWX that others use too: made, changed, removed."""
    with Awx(PLAYBOOKS) as awx:
        told = types.SimpleNamespace(before=others(awx))
        told.predicted = run(awx, "--check")
        told.untouched = state(awx)
        told.made = run(awx)
        told.again = run(awx)
        told.predicted_again = run(awx, "--check")
        told.predicted_change = run(awx, "--check", **CHANGED)
        told.change = run(awx, **CHANGED)
        told.data = described(tmp_path_factory.mktemp("data"), **CHANGED)
        told.export = exported(awx)

        # Somebody comes to use what is there.
        kinds = awx.store.objects
        (ours,) = (number for number, thing in kinds["organizations"].items() if thing["name"] == "LLM fleet")
        (token,) = (number for number, thing in kinds["credential_types"].items() if "token" in thing["name"])
        credential = ask(awx, "POST", "credentials", name="hub", credential_type=token, inputs={"token": "s3cret"})[
            "id"
        ]
        team = ask(awx, "POST", "teams", name="Operators", organization=ours)["id"]
        told.used = run(awx, **GONE)
        told.stays = {
            kind: sorted(thing["name"] for thing in kinds[kind].values()) for kind in ("organizations", "teams")
        }
        told.types = sorted(thing["name"] for thing in kinds["credential_types"].values())
        ask(awx, "DELETE", f"credentials/{credential}")
        ask(awx, "DELETE", f"teams/{team}")
        told.predicted_end = run(awx, "--check", **GONE)
        told.end = run(awx, **GONE)
        told.after = state(awx)
        told.end_again = run(awx, **GONE)
        yield told


def test_everything_runs(story):
    for name, outcome in vars(story).items():
        assert getattr(outcome, "status", 0) == 0, f"{name}: {outcome.messages}"


def test_check_mode_predicts_what_is_made_and_makes_nothing(story):
    assert story.predicted.changed == story.made.changed
    # All of the data, but for the hook, which comes later.
    assert len(story.made.changed) == sum(map(len, story.data.values())) - 1
    assert story.untouched == story.before


def test_a_second_run_changes_nothing_and_predicts_so(story):
    assert story.again.changed == []
    assert story.predicted_again.changed == []


def test_a_change_is_predicted_and_made(story):
    assert story.predicted_change.changed == story.change.changed
    assert {"Gate", "Gate every night", "Bring up", "LLM fleet webhook"} <= set(story.change.changed)
    assert "LLM fleet" not in story.change.changed


def test_what_others_use_stays_until_they_are_done(story):
    assert story.stays == {"organizations": ["Default", "LLM fleet"], "teams": ["Operators"]}
    assert story.types == ["LLM fleet: model hub token", "Vault"]
    assert "teams: Operators, credentials: hub" in story.used.messages[-1]


def test_nothing_is_left_behind_and_nobody_else_s_touched(story):
    assert story.predicted_end.changed == story.end.changed == ["LLM fleet", "LLM fleet: model hub token"]
    assert story.after == story.before
    assert story.end_again.changed == []


def name_of(value):
    """Natural keys are what an export names other objects by."""
    return value["name"] if isinstance(value, dict) and "type" in value and "name" in value else value


@pytest.mark.parametrize("kind", SECTIONS)
def test_the_export_is_the_data(story, kind):
    found = {thing["name"]: thing for thing in story.export[SECTIONS[kind]] if is_ours(thing)}
    assert found.keys() == {thing["name"] for thing in story.data[kind]}
    for wanted in story.data[kind]:
        thing = found[wanted["name"]]
        related = thing.get("related", {})
        for parameter, value in wanted.items():
            if parameter == "survey":
                assert related["survey_spec"].get("spec", []) == value
                assert thing["survey_enabled"] == bool(value)
            elif parameter in related:
                assert [other["name"] for other in related[parameter]] == value
            elif parameter != "organization" or kind not in COMPUTED:
                assert name_of(thing[parameter]) == value, parameter
        # What is not said is as AWX has it anyhow.
        for name, value in thing.items():
            field = RESOURCES[kind]["fields"].get(name, {})
            if "default" in field and name != "survey_enabled" and name not in wanted | CONSTANTS.get(kind, {}):
                assert value == field["default"], name
        assert {**thing, **CONSTANTS.get(kind, {})} == thing


def is_ours(thing):
    home = thing.get("organization") or thing["natural_key"].get("organization")
    if home is None:
        near = thing.get("inventory") or thing.get("unified_job_template") or thing
        home = near.get("organization") or near
    return home["name"].startswith("LLM fleet") and thing["name"] != "AWX EE"


def test_the_export_has_the_workflow_s_graph(story):
    (workflow,) = story.export["workflow_job_templates"]
    nodes = {node["identifier"]: node for node in workflow["related"]["workflow_nodes"]}
    assert nodes.keys() == {node["identifier"] for node in story.data["workflow_job_template_nodes"]}
    for node in story.data["workflow_job_template_nodes"]:
        found = nodes[node["identifier"]]
        if "approval_node" in node:
            assert found["related"]["create_approval_template"].items() >= node["approval_node"].items()
        else:
            assert found["unified_job_template"]["name"] == node["unified_job_template"]
    for link in story.data["workflow_links"]:
        related = nodes[link["identifier"]]["related"]
        for way in ("success_nodes", "failure_nodes"):
            assert [other["identifier"] for other in related[way]] == link[way]


def test_no_credential_type_puts_a_secret_into_extra_variables(story):
    for kind in story.data["credential_types"]:
        assert kind["injectors"].keys() == {"file", "env"}
        secret = {field["id"] for field in kind["inputs"]["fields"] if field.get("secret")}
        assert not any("{{ " + name + " }}" in text for name in secret for text in kind["injectors"]["env"].values())


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"llmfleet_awx_image": ""}, "Expected llmfleet_awx_image"),
        ({"llmfleet_awx_state": "gone"}, "llmfleet_awx_state either present or absent"),
        ({"llmfleet_awx_credentials": ["ssh"]}, "AWX has no credential 'ssh'"),
        ({"llmfleet_awx_name": "Default"}, "'Default' is in AWX already"),
        ({"llmfleet_awx_name": "Default", **GONE}, "'Default' is in AWX already"),
    ],
)
def test_it_refuses_in_one_message_before_anything_is_changed(variables, expected):
    with Awx(PLAYBOOKS) as awx:
        before = others(awx)
        outcome = run(awx, **variables)
        assert outcome.status == 2
        assert expected in outcome.messages[-1]
        assert "Traceback" not in outcome.said
        assert state(awx) == before
        assert {method for method, _path in awx.requests} <= {"GET"}


def test_a_wrong_token_is_said_so():
    with Awx(PLAYBOOKS) as awx:
        wrong = {**awx.environment, "CONTROLLER_OAUTH_TOKEN": "wr0ng-t0ken"}
        outcome = run(types.SimpleNamespace(environment=wrong))
        assert outcome.status == 2
        assert "Invalid authentication credentials" in outcome.messages[-1]
        assert "wr0ng-t0ken" not in outcome.said
