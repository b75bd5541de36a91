"""node_check passes or refuses a host with all reasons, in check mode too."""

from __future__ import annotations

import json
import socket

import pytest
from ansible.module_utils.basic import AnsibleModule

from ansible_collections.llmfleet.serving.plugins.module_utils import _links
from ansible_collections.llmfleet.serving.plugins.modules import node_check

ADDRESS = "127.77.1.1"


@pytest.fixture
def unit(monkeypatch):
    """Whether the unit runs; and a host that has the address."""
    state = {"active": False}

    def run_command(_self, argv, **_options):
        if argv[0] == "systemctl":
            return (0 if state["active"] else 3), "", ""
        link = {"ifname": "eth1", "flags": ["UP", "LOWER_UP"], "addr_info": [{"local": ADDRESS}]}
        return 0, json.dumps([link]), ""

    monkeypatch.setattr(AnsibleModule, "run_command", run_command)
    monkeypatch.setattr(_links, "private", lambda address: address.startswith("127."))
    return state


@pytest.fixture
def taken():
    with socket.create_server((ADDRESS, 0)) as other:
        yield other.getsockname()[1]


def options(port, **changes):
    return {"host": "a", "addresses": {"a": ADDRESS}, "meeting_port": port, "unit": "chat.service", **changes}


@pytest.mark.parametrize("check", [False, True])
def test_passes_a_host_and_names_its_interface(run_module, unit, taken, check):
    unit["active"] = True  # Then the port is the service's own.
    result = run_module(node_check, **options(taken), check=check)
    assert (result["changed"], result["interface"], result["findings"]) == (False, "eth1", [])


def test_refuses_with_the_reason(run_module, unit, taken):
    result = run_module(node_check, **options(taken))
    assert result["failed"]
    assert [one["id"] for one in result["findings"]] == ["node-port"]
    assert f"port {taken} free, where the hosts meet, found [Errno 98] Address already in use" in result["msg"]


def test_a_host_that_does_not_wait_for_others_at_its_port_may_have_it_taken(run_module, unit, taken):
    peers = {"b": "127.77.1.2", "a": ADDRESS}
    result = run_module(node_check, **options(taken, addresses=peers, patience=1))
    assert [one["id"] for one in result["findings"]] == ["node-link"]


def test_a_host_that_is_none_of_them_is_one_message(run_module, unit):
    result = run_module(node_check, **options(29501, host="z"))
    assert result["msg"] == "z is none of the hosts that share the service: a."
