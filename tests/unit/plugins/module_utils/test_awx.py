"""What is asked of AWX now, what waits, and what is somebody else's."""

from __future__ import annotations

import pytest

from ansible_collections.llmfleet.serving.plugins.module_utils._awx import MARK, plan
from ansible_collections.llmfleet.serving.plugins.module_utils._errors import LlmError

OURS = {"id": 1, "name": "Fleet", "description": f"Ours. {MARK}"}
KINDS = ("credential_types", "execution_environments", "projects", "job_templates", "workflow_job_template_nodes")


@pytest.fixture
def wanted():
    jobs = [{"name": name, "organization": "Fleet", "project": "Code", "credentials": []} for name in ("Gate", "Site")]
    return {
        "organizations": [{"name": "Fleet"}],
        "credential_types": [{"name": "token"}],
        "execution_environments": [],
        "projects": [{"name": "Code", "organization": "Fleet"}],
        "job_templates": jobs,
        "workflow_job_template_nodes": [{"identifier": "gate", "unified_job_template": "Gate"}],
    }


@pytest.fixture
def there():
    return {"organizations": [], "credentials": [], "teams": [], **{kind: [] for kind in KINDS}}


def names(things):
    return [thing.get("identifier") or thing["name"] for thing in things]


def test_all_can_be_asked_for_when_what_they_name_is_made_on_the_way(wanted, there):
    made = plan(wanted, there, simulated=False, gone=False)
    assert {kind: names(things) for kind, things in made["ready"].items()} == {k: names(t) for k, t in wanted.items()}
    assert made["waiting"] == []


def test_in_check_mode_what_names_others_waits_for_them(wanted, there):
    made = plan(wanted, there, simulated=True, gone=False)
    assert names(made["ready"]["organizations"]) == ["Fleet"]
    assert made["waiting"] == [
        "projects: Code",
        "job_templates: Gate",
        "job_templates: Site",
        "workflow_job_template_nodes: gate",
    ]
    there |= {"organizations": [OURS], "projects": [{"name": "Code"}], "job_templates": [{"name": "Gate"}]}
    made = plan(wanted, there, simulated=True, gone=False)
    assert made["waiting"] == []
    assert names(made["ready"]["workflow_job_template_nodes"]) == ["gate"]


def test_removed_is_what_is_there(wanted, there):
    there |= {"organizations": [OURS], "job_templates": [{"name": "Site"}]}
    made = plan(wanted, there, simulated=False, gone=True)
    assert {kind: names(things) for kind, things in made["ready"].items() if things} == {
        "organizations": ["Fleet"],
        "job_templates": ["Site"],
    }


def test_what_others_have_in_the_organization_is_told(wanted, there):
    there |= {"teams": [{"name": "Operators"}], "projects": [{"name": "Code"}, {"name": "Web"}]}
    assert plan(wanted, there, simulated=False, gone=True)["strangers"] == ["projects: Web", "teams: Operators"]


def test_a_credential_type_stays_while_a_credential_is_made_of_it(wanted, there):
    kind = {"id": 7, "name": "token", "description": MARK}
    there |= {"credential_types": [kind], "credentials": [{"name": "hub", "credential_type": 7}]}
    made = plan(wanted, there, simulated=False, gone=True)
    assert made["ready"]["credential_types"] == []
    assert made["credentials"] == ["hub"]
    there["credentials"] = [{"name": "ssh", "credential_type": 1}]
    assert names(plan(wanted, there, simulated=False, gone=True)["ready"]["credential_types"]) == ["token"]


@pytest.mark.parametrize("kind", ["organizations", "credential_types"])
@pytest.mark.parametrize("gone", [False, True])
def test_somebody_else_s_object_of_our_name_is_refused(wanted, there, kind, gone):
    there[kind] = [{"id": 1, "name": wanted[kind][0]["name"], "description": "Theirs."}]
    with pytest.raises(LlmError, match="is in AWX already") as refused:
        plan(wanted, there, simulated=False, gone=gone)
    assert "llmfleet_awx_name" in str(refused.value)


def test_a_missing_credential_is_refused_but_not_when_all_is_removed(wanted, there):
    wanted["job_templates"][0]["credentials"] = ["ssh"]
    with pytest.raises(LlmError, match="AWX has no credential 'ssh'"):
        plan(wanted, there, simulated=True, gone=False)
    plan(wanted, there, simulated=False, gone=True)
    there["credentials"] = [{"name": "ssh", "credential_type": 1}]
    assert plan(wanted, there, simulated=False, gone=False)["waiting"] == []
