"""The lookup gives the path of a program's archive, whose name changes with its content."""

from __future__ import annotations

from pathlib import Path

import pytest
from ansible.errors import AnsibleError

from ansible_collections.llmfleet.serving.plugins.lookup.host_program import LookupModule
from ansible_collections.llmfleet.serving.plugins.plugin_utils._program import bundle


def test_path_of_the_archive(tmp_path):
    program = tmp_path / "program.py"
    program.write_text("print(1)\n")
    [first] = LookupModule().run([str(program)])
    assert LookupModule().run([str(program)], {}) == [first]
    assert Path(first).read_bytes() == bundle(program)
    program.write_text("print(2)\n")
    [second] = LookupModule().run([str(program)])
    assert second != first
    assert Path(second).read_bytes() == bundle(program)


def test_missing_program_is_one_error(tmp_path):
    with pytest.raises(AnsibleError, match=r"nothing\.py cannot be put together"):
        LookupModule().run([str(tmp_path / "nothing.py")])
