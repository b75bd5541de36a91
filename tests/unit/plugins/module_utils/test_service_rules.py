"""What is wrong with services taken together: each rule fires, alone, and is silent where it should be."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml

from ansible_collections.llmfleet.serving.plugins.module_utils import _arguments, _service_rules
from ansible_collections.llmfleet.serving.plugins.module_utils._errors import LlmError
from ansible_collections.llmfleet.serving.plugins.module_utils._service_rules import Fleet
from ansible_collections.llmfleet.serving.plugins.module_utils._stack import Engine, Stack

FOLDER = Path(__file__).parents[4] / "playbooks" / "stacks" / "options"
DOCS = Path(__file__).parents[4] / "docs" / "preflight.md"
KNOWN = _arguments.knowledge(
    [json.loads(path.read_text()) for path in FOLDER.glob("*.json")],
    yaml.safe_load((FOLDER / "removed.yml").read_text()),
)
VERSIONS = {"ollama": "0.34.0", "vllm": "0.32.0", "sglang": "0.5.23", "llama_cpp": "b11669"}
STACK = Stack("580.178.04", None, {engine: Engine(version, {}) for engine, version in VERSIONS.items()}, {})
HOSTS = ["one", "two", "three", "four"]
FLEET = Fleet(HOSTS, "two", 8, {8017: "llmfleet-peers.service"})
CHAT = {"name": "chat", "engine": "vllm", "port": 8000, "args": {"tensor_parallel_size": 8}}


def judge(fleet=FLEET, **changes):
    found = _service_rules.findings(STACK, KNOWN, [{**CHAT, **changes}], fleet)
    return [(one["id"].removeprefix("service-"), one["severity"], one["expected"], one["found"]) for one in found]


HOW_MANY = "how many hosts share the service, or their names, the first of which others connect to"
UNIT = "a name of at most 23 small letters, digits, dashes and underscores, with none of these at an end"


# (what is changed of the service, what is found)
CASES = [
    # Names.
    *[
        ({"name": name}, [("unit", "fail", UNIT, repr(name))])
        for name in ("Chat", "chat bot", "chat/2", "-chat", "chat-", "", "c" * 24, "deepseek:671b", "chat\n")
    ],
    ({"name": "gpu-ready"}, [("unit", "fail", "a name that is free", "llmfleet-gpu-ready, the unit of the gate")]),
    *[({"name": name}, []) for name in ("c", "c" * 23, "deepseek-r1", "a_1")],
    # Ports of the collection's own units.
    (
        {"port": 8017},
        [("port-taken", "fail", "a port that nothing else has", "8017, which llmfleet-peers.service has")],
    ),
    (
        {"port": "8017"},
        [("port-taken", "fail", "a port that nothing else has", "8017, which llmfleet-peers.service has")],
    ),
    ({"port": 8018}, []),
    ({"port": None}, []),
    # Hosts.
    *[({"hosts": hosts}, [("hosts", "fail", HOW_MANY, repr(hosts))]) for hosts in (0, -2, "two", None, True, {})],
    (
        {"hosts": 3, "args": {"tensor_parallel_size": 24, "pp": 1}},
        [("hosts", "fail", "a multiple of 3 hosts in the fleet", "4")],
    ),
    ({"hosts": 2, "args": {"tensor_parallel_size": 8, "pipeline_parallel_size": 2}}, []),
    ({"hosts": 4, "args": {"tensor_parallel_size": 32, "pp": 1}}, []),
    ({"hosts": ["four", "two"], "args": {"tp": 16, "pp": 1}}, []),
    ({"hosts": ["two"]}, []),
    (
        {"hosts": ["two", "five"], "args": {"tp": 16, "pp": 1}},
        [("hosts", "fail", "names of hosts of the fleet", "five")],
    ),
    ({"hosts": ["two", "two"], "args": {"tp": 16, "pp": 1}}, [("hosts", "fail", "each host once", "two, two")]),
    (
        {"hosts": ["one", "three"], "args": {"tp": 16, "pp": 1}},
        [("hosts", "fail", "two among the service's hosts", "one, three")],
    ),
    *[
        (
            {"hosts": 2, "engine": engine, "args": {}},
            [("hosts", "fail", "one host, or the engine sglang or vllm", f"2 hosts for {engine}")],
        )
        for engine in ("ollama", "llama_cpp")
    ],
    # GPUs and the sizes of parallel groups, by all names that the option has.
    (
        {"args": {"tp": 8, "pipeline-parallel-size": 2}},
        [
            (
                "parallel",
                "fail",
                "8, the number of its GPUs",
                "tensor_parallel_size 8 x pipeline_parallel_size 2 = 16",
            )
        ],
    ),
    ({"gpus": [0, 1], "args": {"tp": 2}}, []),
    (
        {"gpus": [0, 1], "args": {"tp": 4}},
        [("parallel", "fail", "2, the number of its GPUs", "tensor_parallel_size 4")],
    ),
    ({"args": {"tp": 4}}, [("parallel", "warn", "8, the number of its GPUs", "tensor_parallel_size 4")]),
    ({"args": None}, []),
    ({"args": {"tp": 1}}, [("parallel", "warn", "8, the number of its GPUs", "1")]),
    ({"hosts": 2, "args": {}}, []),
    ({"hosts": 2, "args": {"tp": 8}}, []),
    ({"hosts": 2, "engine": "sglang", "args": {}}, []),
    ({"gpus": [3], "args": {}}, []),
    ({"gpus": "some"}, []),
    ({"args": {"tp": 2, "data_parallel_size": 4}}, []),
    ({"engine": "sglang", "args": {"tp_size": 8, "dp-size": 8, "enable_dp_attention": True}}, []),
    (
        {"engine": "sglang", "args": {"tp_size": 8, "dp-size": 2}},
        [("parallel", "fail", "8, the number of its GPUs", "tensor_parallel_size 8 x data_parallel_size 2 = 16")],
    ),
    (
        {"hosts": 2, "args": {"tp": 8, "pp": 3}},
        [
            (
                "parallel",
                "fail",
                "8 GPUs x 2 hosts = 16",
                "tensor_parallel_size 8 x pipeline_parallel_size 3 = 24",
            )
        ],
    ),
    (
        {"hosts": 2, "args": {"tp": 15, "pp": 1}},
        [("parallel", "fail", "8 GPUs x 2 hosts = 16", "tensor_parallel_size 15")],
    ),
    (
        {"hosts": 2, "args": {"tp": 8, "pp": 1}},
        [("parallel", "warn", "8 GPUs x 2 hosts = 16", "tensor_parallel_size 8")],
    ),
    ({"engine": "ollama", "args": {"num_ctx": 1}}, []),
    # What an advisory says of several hosts.
    (
        {"engine": "sglang", "hosts": 2, "args": {"tp_size": 16, "enable_dp_attention": True, "dp_size": 2}},
        [("exposed", "warn", "no data-parallel attention over several hosts", "enable_dp_attention")],
    ),
    ({"engine": "sglang", "hosts": 2, "args": {"tp_size": 16, "enable_dp_attention": False}}, []),
]


@pytest.mark.parametrize(("changes", "expected"), CASES)
def test_rule_fires_alone_and_says_what_is_wrong(changes, expected):
    assert judge(**changes) == expected


def test_docs_name_every_rule_with_its_effect():
    rows = re.findall(r"^\| `service-([\w-]+)` \| [^|]+ \| (\w+) \|$", DOCS.read_text(), re.MULTILINE)
    effects = {"refuses": "fail", "warns": "warn"}
    documented = {(rule, effects[effect]) for rule, effect in rows}
    assert documented == {(rule, severity) for _changes, found in CASES for rule, severity, *_rest in found}


def test_gpus_that_do_not_matter_are_not_counted():
    assert judge(Fleet(HOSTS, "two"), args={"tp": 64}) == []


def test_an_engine_that_the_stack_lacks_is_left_to_the_rules_for_stacks():
    assert judge(engine="vlm", args={"tp": 64}) == []


def test_a_release_that_knows_one_host_only():
    stack = Stack("550.163.01", "12.4", {"vllm": Engine("0.8.5.post1", {})}, {})
    found = _service_rules.findings(stack, KNOWN, [{**CHAT, "hosts": 2}], FLEET)
    assert [(one["id"], one["found"]) for one in found] == [("service-hosts", "2 hosts for vllm 0.8.5.post1")]
    assert "from 0.11.1 on" in found[0]["advice"]


def test_hosts_meet_at_a_port_of_their_own():
    shared = {**CHAT, "hosts": 2}
    others = [
        {**shared, "name": "same"},
        {**shared, "name": "free", "meeting_port": 29502},
        {**CHAT, "name": "plain", "port": "29501"},
        {**CHAT, "name": "alone", "port": 8001},
        {**shared, "name": "peers-port", "port": 8002, "meeting_port": 8017},
    ]
    found = _service_rules.findings(STACK, KNOWN, [shared, *others], FLEET)
    assert [(one["id"], one["object"], one["found"]) for one in found] == [
        ("service-port-taken", "service chat", "29501, which service same has"),
        ("service-port-taken", "service chat", "29501, which service plain has"),
        ("service-port-taken", "service same", "29501, which service chat has"),
        ("service-port-taken", "service same", "29501, which service plain has"),
        ("service-port-taken", "service peers-port", "8017, which llmfleet-peers.service has"),
    ]


def test_everything_comes_at_once():
    services = [{**CHAT, "name": "A", "port": 8017}, {**CHAT, "engine": "ollama", "hosts": 2}, {"name": "peers"}]
    found = _service_rules.findings(STACK, KNOWN, services, FLEET)
    assert [(one["object"], one["id"]) for one in found] == [
        ("service A", "service-unit"),
        ("service A", "service-port-taken"),
        ("service chat", "service-hosts"),
        ("service peers", "service-unit"),
    ]
    assert all(set(one) == {"id", "severity", "object", "expected", "found", "advice"} for one in found)


@pytest.mark.parametrize(
    ("host", "hosts", "expected"),
    [
        ("one", 1, ["one"]),
        ("one", 2, ["one", "two"]),
        ("two", 2, ["one", "two"]),
        ("three", 2, ["three", "four"]),
        ("four", 2, ["three", "four"]),
        ("two", 4, HOSTS),
        ("two", ["four", "two"], ["four", "two"]),
    ],
)
def test_hosts_of_a_service(host, hosts, expected):
    assert _service_rules.hosts_of({**CHAT, "hosts": hosts}, Fleet(HOSTS, host)) == expected


@pytest.mark.parametrize(
    ("host", "hosts", "said"),
    [
        ("one", 3, "The hosts of service chat: expected a multiple of 3 hosts in the fleet, found 4."),
        ("one", ["two", "three"], "expected one among the service's hosts, found two, three."),
        ("five", 2, "five is none of the fleet."),
    ],
)
def test_hosts_that_a_service_cannot_have(host, hosts, said):
    with pytest.raises(LlmError) as caught:
        _service_rules.hosts_of({**CHAT, "hosts": hosts}, Fleet(HOSTS, host))
    assert said in str(caught.value)
