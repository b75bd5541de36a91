"""The filters about args, as a playbook meets them."""

from __future__ import annotations

import pytest
from ansible.errors import AnsibleFilterError

from ansible_collections.llmfleet.serving.plugins.filter import argument_findings, command_line, ollama_settings
from ansible_collections.llmfleet.serving.plugins.plugin_utils import _stacks

STACK = _stacks.row("current")


def call(plugin, *args):
    (function,) = plugin.FilterModule().filters().values()
    return function(*args)


def test_findings_come_for_all_services_at_once():
    services = [
        {"name": "one", "engine": "vllm", "args": {"swap_space": 4, "port": 1}},
        {"name": "two", "engine": "sglang", "args": {"reasoning_parser": "deepseek_r1"}},
        {"name": "three", "engine": "llama_cpp"},
    ]
    found = call(argument_findings, STACK, services)
    assert [(finding["id"], finding["object"]) for finding in found] == [
        ("argument-removed", "service one: args.swap_space"),
        ("argument-owned", "service one: args.port"),
        ("argument-value", "service two: args.reasoning_parser"),
    ]


def test_args_are_written():
    assert call(command_line, {"tp": 8}, "vllm", "0.32.0") == ["--tensor-parallel-size", "8"]
    settings = {"parameters": {"num_ctx": 1}, "environment": {"OLLAMA_NUM_PARALLEL": "2"}}
    assert call(ollama_settings, {"num_ctx": 1, "OLLAMA_NUM_PARALLEL": 2}, "0.34.0") == settings


@pytest.mark.parametrize(
    ("plugin", "args", "said"),
    [
        (argument_findings, ({}, []), "The stack given to argument_findings is malformed: driver: missing"),
        (
            argument_findings,
            (STACK, [{"name": "a", "engine": "vllm", "args": "x"}]),
            "The args of service a are malformed",
        ),
        (command_line, ({"port": 1}, "vllm", "0.32.0"), "vllm 0.32.0 does not take these args:"),
        (command_line, ({}, "vllm", "newest"), "'newest' is not a version"),
        (command_line, ({}, "vlm", "0.32.0"), "'vlm' is no engine: expected vllm."),
        (ollama_settings, ({"ctx": 1}, "0.34.0"), "ollama 0.34.0 does not take these args:"),
    ],
)
def test_a_mistake_is_one_message(plugin, args, said):
    with pytest.raises(AnsibleFilterError) as caught:
        call(plugin, *args)
    assert said in str(caught.value)
