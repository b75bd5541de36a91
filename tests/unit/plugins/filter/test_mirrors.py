"""The filter, as a playbook meets it."""

from __future__ import annotations

import pytest
from ansible.errors import AnsibleFilterError

from ansible_collections.llmfleet.serving.plugins.filter.mirrors import FilterModule


def test_resolves():
    assert FilterModule().filters()["mirrors"]({"preset": "cn"})["python"] == "https://mirrors.aliyun.com/pypi/simple"


def test_a_mistake_is_one_message():
    with pytest.raises(AnsibleFilterError, match="Did you mean 'python'"):
        FilterModule().filters()["mirrors"]({"pyton": "https://pypi.example.com/simple"})
