"""Engines without GPUs: the lock files are theirs, and what is made here is always the same."""

from __future__ import annotations

import hashlib
import io
import zipfile

import pytest

from ansible_collections.llmfleet.serving.plugins.module_utils._lock_file import parse
from testbed import wheels

VERSIONS = {"vllm": "0.32.0", "sglang": "0.5.23"}


@pytest.mark.parametrize("engine", wheels.BUILDS)
def test_a_lock_is_of_the_engine_s_version_and_names_no_index(engine):
    text = wheels.lock_file(engine).read_text()
    packages = parse(text, "lock", engine, VERSIONS[engine]).packages
    build = wheels.BUILDS[engine]
    assert packages.items() >= {*(tuple(one.split("==")) for one in build.requirements), build.stand_in}
    assert packages.keys().isdisjoint(build.without)
    assert "://" not in text


@pytest.mark.parametrize("engine", wheels.BUILDS)
def test_what_stands_in_has_the_hash_of_the_lock(engine):
    content = wheels.stand_in(wheels.BUILDS[engine])
    assert f"--hash=sha256:{hashlib.sha256(content).hexdigest()}\n" in wheels.lock_file(engine).read_text()
    with zipfile.ZipFile(io.BytesIO(content)) as wheel:
        assert wheel.testzip() is None
        assert set(wheels.BUILDS[engine].files) < set(wheel.namelist())
