"""The filter, as a playbook meets it."""

from __future__ import annotations

import pytest
from ansible.errors import AnsibleFilterError

from ansible_collections.llmfleet.serving.plugins.filter.service_part import FilterModule

SERVICE = {"name": "chat", "engine": "sglang", "port": 30000, "hosts": 2, "args": {"enable_metrics": True}}
ADDRESSES = {"a": "10.0.0.1", "b": "10.0.0.2"}


def service_part(service, version="0.5.23", **options):
    return FilterModule().filters()["service_part"](service, version, ["a", "b"], "b", **options)


def test_a_host_gets_its_part():
    part = service_part({**SERVICE, "meeting_port": 5000, "gpus": [0, 1]}, addresses=ADDRESSES, interface="eth1")
    assert part["words"][-2:] == ["--dist-init-addr", "10.0.0.1:5000"]
    assert (part["rank"], part["hosts"]) == (1, ADDRESSES)
    assert part["args"] == {"tp-size": 4, "enable_metrics": True}


def test_a_service_on_one_host_is_left_as_it_is():
    part = service_part({**SERVICE, "hosts": 1, "engine": "ollama"})
    assert (part["words"], part["environment"], part["args"]) == ([], {}, SERVICE["args"])
    assert (part["hosts"], part["serves"], part["health"]) == ({"b": ""}, True, True)


def test_a_mistake_is_one_message():
    with pytest.raises(AnsibleFilterError, match="a, b has none"):
        service_part(SERVICE)
