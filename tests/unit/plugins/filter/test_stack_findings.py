"""The filter, as a playbook meets it."""

from __future__ import annotations

import pytest
from ansible.errors import AnsibleFilterError

from ansible_collections.llmfleet.serving.plugins.filter.stack_findings import FilterModule
from ansible_collections.llmfleet.serving.plugins.plugin_utils import _stacks

MODELS = [{"name": "r1", "repo": "cognitivecomputations/DeepSeek-R1-AWQ"}]


def stack_findings(*args, **options):
    return FilterModule().filters()["stack_findings"](*args, **options)


@pytest.mark.parametrize("name", _stacks.rows())
def test_the_collection_s_own_stacks_warn_at_most(name):
    row = _stacks.row(name)
    services = [{"name": engine, "engine": engine, "model": "r1"} for engine in row["engines"]]
    found = stack_findings(row, services, MODELS)
    assert {finding["severity"] for finding in found} == {"warn"}
    assert {finding["id"] for finding in found if finding["id"].islower()} == set()


def test_the_loaded_driver_and_consent_are_passed_on():
    services = [{"name": "chat", "engine": "vllm", "model": "r1"}]
    found = stack_findings(_stacks.row("current"), services, MODELS, driver_version="550.163.01")
    assert "engine-driver" in {finding["id"] for finding in found}
    row = {**_stacks.row("cuda-12.4")}
    del row["accepts"]
    refused = {finding["id"] for finding in stack_findings(row, services, MODELS) if finding["severity"] == "fail"}
    assert "CVE-2026-48746" in refused
    allowed = stack_findings(row, services, MODELS, allow_vulnerable=True)
    assert {finding["severity"] for finding in allowed} == {"warn"}


@pytest.mark.parametrize(
    ("stack", "options", "said"),
    [
        ({}, {}, "The stack given to stack_findings is malformed: driver: missing; cuda: missing; engines: missing."),
        (_stacks.row("current"), {"driver_version": "N/A"}, "'N/A' is not a version"),
    ],
)
def test_a_mistake_is_one_message(stack, options, said):
    with pytest.raises(AnsibleFilterError) as caught:
        stack_findings(stack, [], [], **options)
    assert said in str(caught.value)
