"""The filter, as a playbook meets it."""

from __future__ import annotations

import pytest
from ansible.errors import AnsibleFilterError

from ansible_collections.llmfleet.serving.plugins.filter.services_served import FilterModule

SERVICES = (
    {"name": "alone", "engine": "ollama"},
    {"name": "shared", "engine": "sglang", "hosts": 2},
    {"name": "named", "engine": "vllm", "hosts": ["b", "a"]},
)


def served(host, services=SERVICES):
    return [one["name"] for one in FilterModule().filters()["services_served"](list(services), ["a", "b"], host)]


def test_only_the_head_answers_for_what_several_share():
    assert served("a") == ["alone", "shared"]
    assert served("b") == ["alone", "named"]


def test_a_mistake_is_one_message():
    with pytest.raises(AnsibleFilterError, match="The hosts of service three: expected a multiple of 3 hosts"):
        served("a", [{"name": "three", "engine": "vllm", "hosts": 3}])
