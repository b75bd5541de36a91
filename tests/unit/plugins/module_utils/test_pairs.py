"""What each host of a service that several share is told: for every release, only options that it has."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from ansible_collections.llmfleet.serving.plugins.module_utils import _arguments, _pairs
from ansible_collections.llmfleet.serving.plugins.module_utils._errors import LlmError

FOLDER = Path(__file__).parents[4] / "playbooks" / "stacks" / "options"
KNOWN = _arguments.knowledge(
    [json.loads(path.read_text()) for path in FOLDER.glob("*.json")],
    yaml.safe_load((FOLDER / "removed.yml").read_text()),
)
RELEASES = {str(release): release for engine in ("sglang", "vllm") for release in KNOWN.releases[engine]}
ABLE = {name: release for name, release in RELEASES.items() if _pairs.several(release)}
ADDRESSES = {"a": "10.0.0.1", "b": "10.0.0.2"}
LINK = _pairs.Link(ADDRESSES, "eth1")


def test_which_releases_spread_a_service_by_themselves():
    assert sorted(set(RELEASES) - set(ABLE)) == ["vllm 0.7.3", "vllm 0.8.5.post1"]
    assert {release.engine for release in ABLE.values()} == {"sglang", "vllm"}
    assert not any(_pairs.several(KNOWN.releases[engine][0]) for engine in ("ollama", "llama_cpp"))


@pytest.mark.parametrize("name", ABLE)
@pytest.mark.parametrize("host", ADDRESSES)
def test_words_are_options_of_the_release_and_the_collection_s_own(name, host):
    release = ABLE[name]
    words = _pairs.part(release, LINK, host, 8, {}).words
    options = [word for word in words if word.startswith("--")]
    assert len(options) in (3, 4, 5)
    for option in options:
        assert release.find(option), option
        assert _arguments.normal(option) in _arguments.OWNED[release.engine]
    # What a parser would take for a value of the option before.
    values = [word for word in words if not word.startswith("--")]
    assert len(values) == len([option for option in options if release.find(option).type != "flag"])


@pytest.mark.parametrize("name", ABLE)
def test_args_are_taken_by_the_release(name):
    release = ABLE[name]
    args = _pairs.part(release, LINK, "a", 8, {}).args
    assert _arguments.command_line(KNOWN, release.engine, release.version, args)


def test_vllm():
    head, other = (_pairs.part(RELEASES["vllm 0.32.0"], LINK, host, 8, {"seed": 1}) for host in "ab")
    among = ["--nnodes", "2", "--node-rank"]
    meet = ["--master-addr", "10.0.0.1", "--master-port", "29501"]
    assert head.words == [*among, "0", *meet]
    assert other.words == [*among, "1", *meet, "--headless"]
    # What all layers exchange stays within a host.
    sizes = {"tensor-parallel-size": 8, "pipeline-parallel-size": 2}
    assert head.args == other.args == {**sizes, "seed": 1}
    assert (head.rank, head.serves, head.health) == (0, True, True)
    assert (other.rank, other.serves, other.health) == (1, False, False)
    assert other.environment == {
        "VLLM_HOST_IP": "10.0.0.2",
        "NCCL_SOCKET_IFNAME": "=eth1",
        "GLOO_SOCKET_IFNAME": "eth1",
    }


def test_sglang():
    link = _pairs.Link({"b": "fd00::2", "a": "fd00::1"}, "eth1", 5000)
    head, other = (_pairs.part(RELEASES["sglang 0.5.23"], link, host, 8, {}) for host in "ba")
    assert head.words == ["--nnodes", "2", "--node-rank", "0", "--dist-init-addr", "[fd00::2]:5000"]
    assert other.words == ["--nnodes", "2", "--node-rank", "1", "--dist-init-addr", "[fd00::2]:5000"]
    assert head.args == other.args == {"tp-size": 16}
    assert (head.serves, head.health, other.serves, other.health) == (True, True, False, True)
    assert other.environment["SGLANG_HOST_IP"] == "fd00::1"


@pytest.mark.parametrize(
    ("name", "args", "expected"),
    [
        ("vllm 0.32.0", {"tp": 16}, {"tp": 16, "pipeline-parallel-size": 2}),
        ("vllm 0.32.0", {"tp": 16, "pp": 1}, {"tp": 16, "pp": 1}),
        ("sglang 0.5.23", {"tensor_parallel_size": 8}, {"tensor_parallel_size": 8}),
        ("sglang 0.4.3.post2", {}, {"tensor-parallel-size": 16}),
    ],
)
def test_sizes_that_a_service_has_are_its_own(name, args, expected):
    assert _pairs.part(RELEASES[name], LINK, "a", 8, args).args == expected


@pytest.mark.parametrize(
    ("address", "private"),
    [
        ("10.1.2.3", True),
        ("172.31.255.255", True),
        ("172.32.0.1", False),
        ("192.168.1.1", True),
        ("100.64.0.1", True),
        ("100.128.0.1", False),
        ("fd00::1", True),
        ("2001:db8::1", False),
        ("127.0.0.1", False),
        ("169.254.1.1", False),
        ("8.8.8.8", False),
    ],
)
def test_private_addresses(address, private):
    assert _pairs.private(address) is private


@pytest.mark.parametrize(
    ("name", "addresses", "said"),
    [
        ("vllm 0.8.5.post1", ADDRESSES, "vllm 0.8.5.post1 runs on one host. vLLM spreads over hosts from 0.11.1 on"),
        ("sglang 0.5.23", {"a": "10.0.0.1", "b": "8.8.8.8"}, "in a private network: b has 8.8.8.8."),
        ("sglang 0.5.23", {"a": "10.0.0.1", "b": "10.0.0.1"}, "need an address each, found 10.0.0.1, 10.0.0.1."),
        ("sglang 0.5.23", {"a": "n1.example", "b": "10.0.0.1"}, "'n1.example' is not an IP address."),
    ],
)
def test_a_mistake_is_one_message(name, addresses, said):
    with pytest.raises(LlmError) as caught:
        _pairs.part(RELEASES[name], _pairs.Link(addresses, "eth1"), "a", 8, {})
    assert said in str(caught.value)


def test_a_host_without_an_address_is_named():
    assert _pairs.addresses_of(["b", "a"], {**ADDRESSES, "c": "10.0.0.3"}) == {"b": "10.0.0.2", "a": "10.0.0.1"}
    with pytest.raises(LlmError, match=r"c, d has none\. Set llmfleet_node_address for each"):
        _pairs.addresses_of(["a", "c", "d"], {**ADDRESSES, "c": ""})


def test_each_host_watches_those_that_it_is_connected_to():
    release = ABLE["vllm 0.32.0"]
    head, other = (_pairs.part(release, LINK, host, 8, {}).meeting for host in LINK.addresses)
    names, own = zip(*LINK.addresses.items())
    assert head == {"own": own[0], "port": LINK.port, "head": True, "peers": {names[1]: own[1]}}
    assert other == {"own": own[1], "port": LINK.port, "head": False, "peers": {names[0]: own[0]}}
    assert _pairs.alone("n1", {}).meeting == {}
