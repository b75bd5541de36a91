"""The names that surveys offer are those that the collection knows."""

from __future__ import annotations

import pytest
from ansible.errors import AnsibleError

from ansible_collections.llmfleet.serving.plugins.lookup.choices import LookupModule
from ansible_collections.llmfleet.serving.plugins.module_utils._gate_profiles import PROFILES
from ansible_collections.llmfleet.serving.plugins.plugin_utils import _stacks


def choices(*terms):
    return LookupModule().run([*terms])


def test_they_are_the_collection_s_own():
    stacks, profiles, engines = choices("stacks", "profiles", "engines")
    assert stacks == _stacks.rows()
    assert {"cuda-12.4", "current"} <= set(stacks)
    assert profiles == sorted(PROFILES)
    assert engines == ["llama_cpp", "ollama", "sglang", "vllm"]


def test_another_list_is_refused_by_name():
    with pytest.raises(AnsibleError, match="no choices called 'hubs': expected one of engines, profiles, stacks"):
        choices("hubs")
