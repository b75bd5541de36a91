"""The filter, as a playbook meets it."""

from __future__ import annotations

from pathlib import Path

import pytest
from ansible.errors import AnsibleFilterError

from ansible_collections.llmfleet.serving.plugins.filter.engine_lock import FilterModule


def lock(**release):
    return FilterModule().filters()["engine_lock"]({"engines": {"vllm": release}}, "vllm")


def test_the_collection_has_one_for_its_versions():
    assert "vllm==0.32.0" in Path(lock(version="0.32.0")).read_text()


def test_a_stack_may_name_one_of_its_own():
    assert lock(version="0.32.0", lock="/locks/ours.txt") == "/locks/ours.txt"


def test_a_version_without_one_is_one_message():
    with pytest.raises(
        AnsibleFilterError, match=r"lock file for \(.*0\.32\.0.*\), found 0\.32\.1\. Name a lock file of your own as "
    ):
        lock(version="0.32.1")
