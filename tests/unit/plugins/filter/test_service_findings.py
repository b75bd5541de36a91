"""The filter, as a playbook meets it."""

from __future__ import annotations

import pytest
from ansible.errors import AnsibleFilterError

from ansible_collections.llmfleet.serving.plugins.filter.service_findings import FilterModule
from ansible_collections.llmfleet.serving.plugins.plugin_utils import _stacks

SERVICE = {"name": "chat", "engine": "vllm", "port": 8017, "args": {"tp": 16}}


def service_findings(*args, **options):
    return FilterModule().filters()["service_findings"](*args, **options)


@pytest.mark.parametrize("name", _stacks.rows())
def test_findings_come_for_all_rules_at_once(name):
    found = service_findings(_stacks.row(name), [SERVICE], ["a", "b"], "a", gpus=8, ports={"8017": "another"})
    assert [finding["id"] for finding in found] == ["service-port-taken", "service-parallel"]
    assert service_findings(_stacks.row(name), [SERVICE], ["a", "b"], "a") == []


def test_a_mistake_is_one_message():
    with pytest.raises(AnsibleFilterError, match="The stack given to service_findings is malformed: driver: missing"):
        service_findings({}, [], [], "a")
