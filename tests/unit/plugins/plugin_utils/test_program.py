"""A program that is one file has all that it imports, runs without the collection, and has the same bytes each time."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from ansible_collections.llmfleet.serving.plugins.module_utils._errors import LlmError
from ansible_collections.llmfleet.serving.plugins.plugin_utils._program import bundle

UTILS = "ansible_collections.llmfleet.serving.plugins.module_utils"
SOURCE = f"from {UTILS} import _xid\nfrom {UTILS}._files import read_json\nprint(_xid.__name__, read_json.__name__)\n"


@pytest.fixture
def program(tmp_path):
    file = tmp_path / "program.py"
    file.write_text(SOURCE)
    return file


def test_runs_alone(program, tmp_path):
    archive = tmp_path / "program.pyz"
    archive.write_bytes(bundle(program))
    argv = [sys.executable, "-I", "-S", str(archive)]
    done = subprocess.run(argv, capture_output=True, text=True, cwd="/", env={}, check=False)
    assert (done.returncode, done.stdout) == (0, f"{UTILS}._xid read_json\n"), done.stderr


def test_same_sources_are_the_same_bytes(program):
    first = bundle(program)
    os.utime(program, (0, 0))
    assert bundle(program) == first
    program.write_text(SOURCE + "\n")
    assert bundle(program) != first


def test_what_is_not_imported_is_left_out(program):
    assert b"module_utils/_gguf.py" not in bundle(program)
    # What is imported by what is imported is not.
    assert b"module_utils/_errors.py" in bundle(program)


@pytest.mark.parametrize("source", [None, f"from {UTILS} import _nothing\n", "def"])
def test_what_cannot_be_put_together_is_one_error(tmp_path, source):
    file: Path = tmp_path / "broken.py"
    if source is not None:
        file.write_text(source)
    with pytest.raises(LlmError, match=r"broken\.py cannot be put together: "):
        bundle(file)
