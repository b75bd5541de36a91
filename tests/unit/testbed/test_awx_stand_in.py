# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The stand-in for AWX refuses what AWX refuses, in AWX's form: messages by field, and nothing is kept."""

from __future__ import annotations

import json
import urllib.error
import urllib.request

import pytest

from testbed.awx import Awx
from testbed.awx.store import RESOURCES

PLAYBOOK = "playbooks/gate.yml"
NIGHTLY = "DTSTART:20260101T020000Z RRULE:FREQ=DAILY;INTERVAL=1"
WEBHOOK = {"url": "https://hooks.example.com", "headers": {}, "http_method": "POST"}
CHOICE = {"variable": "v", "question_name": "V?", "type": "multiplechoice", "choices": ["a"], "required": False}


@pytest.fixture
def awx():
    with Awx([PLAYBOOK]) as awx:
        yield awx


def ask(awx, method, path, body=None, token=None):
    """Status and body of a request over HTTP."""
    request = urllib.request.Request(  # noqa: S310 -- its own address
        f"{awx.url}/api/v2/{path}",
        method=method,
        data=None if body is None else json.dumps(body).encode(),
        headers={"Authorization": f"Bearer {token or awx.token}", "Content-Type": "application/json"},
    )
    try:
        with urllib.request.urlopen(request) as answer:  # noqa: S310
            content = answer.read()
            return answer.status, json.loads(content) if content else None
    except urllib.error.HTTPError as refused:
        return refused.code, json.loads(refused.read())


@pytest.fixture
def things(awx):
    """The ids of one object of each kind that others need."""

    def make(kind, **fields):
        status, made = ask(awx, "POST", f"{kind}/", fields)
        assert status == 201, made
        return made["id"]

    organization = make("organizations", name="O")
    project = make("projects", name="P", organization=organization, scm_type="git", scm_url="https://x.example.com")
    inventory = make("inventories", name="I", organization=organization)
    job = make("job_templates", name="J", project=project, inventory=inventory, playbook=PLAYBOOK)
    return {"organization": organization, "project": project, "inventory": inventory, "job": job}


REFUSED = [
    ("organizations", {}, "name"),
    ("organizations", {"name": ""}, "name"),
    ("organizations", {"name": 5}, "name"),
    ("organizations", {"name": None}, "name"),
    ("organizations", {"name": "x" * 513}, "name"),
    ("organizations", {"name": "x", "nam": "y"}, "nam"),
    ("organizations", {"name": "O"}, "__all__"),
    ("organizations", {"name": "x", "max_hosts": "many"}, "max_hosts"),
    ("organizations", {"name": "x", "max_hosts": -1}, "max_hosts"),
    ("projects", {"name": "x", "organization": 999}, "organization"),
    ("projects", {"name": "x", "organization": "O"}, "organization"),
    ("projects", {"name": "x", "scm_type": "cvs"}, "scm_type"),
    ("projects", {"name": "x", "scm_type": "git"}, "scm_url"),
    ("projects", {"name": "x", "scm_clean": "yes"}, "scm_clean"),
    ("inventories", {"name": "x"}, "organization"),
    ("inventories", {"name": "x", "organization": "O!", "variables": "- 1"}, "variables"),
    ("inventories", {"name": "x", "organization": "organization", "kind": None}, "kind"),
    ("inventory_sources", {"name": "x", "inventory": "inventory", "source": "scm"}, "source_project"),
    ("inventory_sources", {"name": "x", "inventory": "inventory", "source": "ec2", "source_path": "y"}, "detail"),
    ("credential_types", {"name": "x", "kind": "ssh"}, "kind"),
    ("credential_types", {"name": "x", "kind": "cloud", "inputs": {"fields": [{"id": "a"}]}}, "inputs"),
    ("credential_types", {"name": "x", "kind": "cloud", "injectors": {"env": {"A": "{{ b }}"}}}, "injectors"),
    (
        "credential_types",
        {"name": "x", "kind": "cloud", "injectors": {"env": {"A": "{{ tower.filename }}"}}},
        "injectors",
    ),
    ("credential_types", {"name": "x", "kind": "cloud", "injectors": {"env": {"ANSIBLE_A": "b"}}}, "injectors"),
    ("credential_types", {"name": "x", "kind": "cloud", "injectors": {"files": {}}}, "injectors"),
    ("execution_environments", {"name": "x"}, "image"),
    ("job_templates", {"name": "x", "inventory": "inventory", "playbook": PLAYBOOK}, "project"),
    ("job_templates", {"name": "x", "project": "project", "playbook": PLAYBOOK}, "inventory"),
    ("job_templates", {"name": "x", "project": "project", "inventory": "inventory", "playbook": "no.yml"}, "playbook"),
    ("job_templates", {"name": "x", "project": "project", "inventory": "inventory"}, "playbook"),
    ("job_templates", {"name": "x", "forks": "8"}, "forks"),
    ("job_templates", {"name": "x", "verbosity": 6}, "verbosity"),
    (
        "notification_templates",
        {"name": "x", "organization": "organization", "notification_type": "webhook"},
        "__all__",
    ),
    ("workflow_job_template_nodes", {"identifier": "x"}, "workflow_job_template"),
    ("schedules", {"name": "x", "rrule": NIGHTLY}, "unified_job_template"),
    ("schedules", {"name": "x", "unified_job_template": "job", "rrule": "RRULE:FREQ=DAILY;INTERVAL=1"}, "rrule"),
    ("schedules", {"name": "x", "unified_job_template": "job", "rrule": NIGHTLY.replace(";INTERVAL=1", "")}, "rrule"),
    ("schedules", {"name": "x", "unified_job_template": "job", "rrule": NIGHTLY.replace("DAILY", "SECONDLY")}, "rrule"),
]


@pytest.mark.parametrize(("kind", "body", "field"), REFUSED)
def test_a_wrong_object_is_refused_with_the_field_named(awx, things, kind, body, field):
    given = {name: things.get(value, value) if isinstance(value, str) else value for name, value in body.items()}
    before = json.dumps(awx.store.objects[kind])
    status, answer = ask(awx, "POST", f"{kind}/", given)
    assert status == 400
    assert field in answer
    assert json.dumps(awx.store.objects[kind]) == before


@pytest.mark.parametrize(
    ("spec", "problem"),
    [
        ({"name": "", "description": ""}, "Field 'spec' is missing"),
        ({"name": "", "description": "", "spec": []}, "doesn't contain any items"),
        ({"spec": [{**CHOICE, "type": "choice"}]}, "is not one of"),
        ({"spec": [{**CHOICE, "required": "no"}]}, "'required' expected to be bool"),
        ({"spec": [{**CHOICE, "default": "b"}]}, "Default choice must be answered from the choices listed"),
        ({"spec": [{name: CHOICE[name] for name in CHOICE if name != "choices"}]}, "must specify choices"),
        ({"spec": [CHOICE, CHOICE]}, "duplicated"),
        ({"spec": [{**CHOICE, "type": "integer", "default": "1"}]}, "expected to be int"),
        ({"spec": [{**CHOICE, "type": "integer", "min": "1"}]}, "The min limit expected to be integer"),
    ],
)
def test_a_wrong_survey_is_refused(awx, things, spec, problem):
    path = f"job_templates/{things['job']}/survey_spec/"
    status, answer = ask(awx, "POST", path, {"name": "", "description": "", **spec} if "name" not in spec else spec)
    assert status == 400
    assert problem in answer["error"]
    assert ask(awx, "GET", path) == (200, {})


def test_a_change_is_held_to_the_same_rules(awx, things):
    path = f"job_templates/{things['job']}/"
    assert ask(awx, "PATCH", path, {"playbook": "no.yml"})[0] == 400
    assert ask(awx, "PATCH", path, {"forks": "8"})[0] == 400
    assert ask(awx, "GET", path)[1]["playbook"] == PLAYBOOK
    assert ask(awx, "PATCH", path, {"forks": 8})[1]["forks"] == 8


def test_what_awx_computes_itself_is_taken_and_ignored(awx, things):
    other = ask(awx, "POST", "organizations/", {"name": "other"})[1]["id"]
    status, job = ask(awx, "PATCH", f"job_templates/{things['job']}/", {"organization": other})
    assert status == 200
    assert job["organization"] == things["organization"]


def test_an_association_needs_an_object_that_is_there(awx, things):
    path = f"job_templates/{things['job']}/credentials/"
    assert ask(awx, "POST", path, {"id": 999})[0] == 404
    assert ask(awx, "POST", path, {"name": "x"})[0] == 400
    assert ask(awx, "GET", path)[1]["count"] == 0


def test_a_removal_takes_what_cannot_be_without(awx, things):
    ask(awx, "POST", "schedules/", {"name": "S", "unified_job_template": things["job"], "rrule": NIGHTLY})
    assert ask(awx, "DELETE", f"job_templates/{things['job']}/")[0] == 204
    assert ask(awx, "GET", "schedules/")[1]["count"] == 0
    assert ask(awx, "DELETE", f"inventories/{things['inventory']}/")[0] == 202
    assert ask(awx, "GET", f"organizations/{things['organization']}/")[0] == 200


def test_a_credential_type_in_use_stays_and_a_secret_is_never_shown(awx):
    kind = ask(awx, "POST", "credential_types/", {"name": "K", "kind": "cloud"})[1]["id"]
    body = {"name": "C", "credential_type": kind, "inputs": {"token": "s3cret"}}
    assert ask(awx, "POST", "credentials/", body)[1]["inputs"] == {"token": "$encrypted$"}
    assert ask(awx, "DELETE", f"credential_types/{kind}/")[0] == 403


def test_lists_are_asked_by_fields_and_relations_and_come_in_pages(awx, things):
    for number in range(3):
        ask(awx, "POST", "inventories/", {"name": f"I{number}", "organization": things["organization"]})
    assert ask(awx, "GET", "inventories/?organization__name=O&page_size=3")[1]["count"] == 4
    assert len(ask(awx, "GET", "inventories/?page_size=3&page=2")[1]["results"]) == 1
    assert ask(awx, "GET", "inventories/?or__id=999&or__name=I1")[1]["count"] == 1
    assert ask(awx, "GET", "unified_job_templates/?name=J&type=job_template")[1]["count"] == 1
    assert ask(awx, "GET", "inventories/I1++O/")[1]["name"] == "I1"
    assert ask(awx, "GET", "inventories/I1++P/")[0] == 404
    assert ask(awx, "GET", "inventories/?colour=red") == (400, {"detail": "inventory has no field named 'colour'"})


def test_nobody_gets_in_without_a_token(awx):
    assert ask(awx, "GET", "organizations/", token="another")[0] == 401  # noqa: S106
    assert ask(awx, "GET", "jobs/")[0] == 404
    assert ask(awx, "PUT", "organizations/", {})[0] in (405, 501)


def test_every_relation_of_the_field_lists_names_a_kind_that_is_there():
    for entry in RESOURCES.values():
        targets = {field["to"] for field in entry["fields"].values() if field["type"] == "id"}
        assert targets | set(entry.get("associations", {}).values()) <= {*RESOURCES, "unified_job_templates"}
