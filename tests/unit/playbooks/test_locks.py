# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""playbooks/stacks/locks: a lock for each engine of each stack, of exactly its version, with every line hashed."""

from __future__ import annotations

import datetime
import re

import pytest
import yaml

from ansible_collections.llmfleet.serving.plugins.module_utils._lock_file import normal, parse
from ansible_collections.llmfleet.serving.plugins.module_utils._stack import PYTHON_ENGINES
from ansible_collections.llmfleet.serving.plugins.module_utils._stack_rules import Knowledge
from ansible_collections.llmfleet.serving.plugins.plugin_utils import _stacks

FOLDER = _stacks.FOLDER / "locks"
SOURCES = yaml.safe_load((FOLDER / "locks.yml").read_text())
KNOWN: Knowledge = _stacks.shared()
ROWS = [
    (row, engine, _stacks.row(row)["engines"][engine])
    for row in _stacks.rows()
    for engine in PYTHON_ENGINES
    if engine in _stacks.row(row)["engines"]
]


def lock(name):
    engine, _dash, version = name.partition("-")
    return parse((FOLDER / f"{name}.txt").read_text(), f"{name}.txt", engine, version)


@pytest.mark.parametrize(("row", "engine", "entry"), ROWS, ids=[f"{row}-{engine}" for row, engine, _entry in ROWS])
def test_a_stack_s_engine_has_its_lock(row, engine, entry):
    packages = lock(f"{engine}-{entry['version']}").packages
    assert packages[engine] == entry["version"]
    assert {name: packages.get(normal(name)) for name in entry.get("packages", {})} == entry.get("packages", {})


@pytest.mark.parametrize("name", SOURCES)
def test_a_lock_has_what_its_source_asks_for(name):
    packages = lock(name).packages
    asked = [re.sub(r"\[.*\]", "", requirement).partition("==") for requirement in SOURCES[name]["requirements"]]
    assert {package: packages[normal(package)] for package, _sign, _version in asked} == {
        package: version for package, _sign, version in asked
    }
    assert isinstance(SOURCES[name]["until"], datetime.date)


@pytest.mark.parametrize("name", SOURCES)
def test_a_lock_has_the_cuda_that_its_engine_is_known_to_bring(name):
    engine, _dash, version = name.partition("-")
    lane = next(lane for lane in KNOWN.lanes[engine] if lane.holds(version))
    packages = lock(name).packages
    # Up to CUDA 12 the release's number is in the package's name.
    runtime = packages.get("nvidia-cuda-runtime-cu12") or packages["nvidia-cuda-runtime"]
    assert runtime.startswith(f"{lane.cuda}.")


def test_there_is_no_lock_without_a_source():
    assert {path.stem for path in FOLDER.glob("*.txt")} == set(SOURCES)


@pytest.mark.parametrize("path", sorted(FOLDER.iterdir()), ids=lambda path: path.name)
def test_no_file_says_from_where(path):
    assert "://" not in path.read_text()
