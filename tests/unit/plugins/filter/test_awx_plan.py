"""The filter, as a playbook meets it."""

from __future__ import annotations

import pytest
from ansible.errors import AnsibleFilterError

from ansible_collections.llmfleet.serving.plugins.filter.awx_plan import FilterModule


def test_a_refusal_is_an_error_of_ansible_s_own():
    wanted = {
        "organizations": [{"name": "x"}],
        "credential_types": [],
        "execution_environments": [],
        "job_templates": [],
    }
    there = {"organizations": [{"id": 1, "name": "x", "description": ""}], "credential_types": [], "credentials": []}
    awx_plan = FilterModule().filters()["awx_plan"]
    with pytest.raises(AnsibleFilterError, match="'x' is in AWX already"):
        awx_plan(wanted, {**there, "execution_environments": []})
