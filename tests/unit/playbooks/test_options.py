# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""playbooks/stacks/options: what the lists have to have, and what docs/arguments.md says of them."""

from __future__ import annotations

import datetime
import json
import re
from pathlib import Path

import pytest
import yaml

from ansible_collections.llmfleet.serving.plugins.module_utils._arguments import OWNED, Knowledge, findings
from ansible_collections.llmfleet.serving.plugins.module_utils._stack import Engine, Stack, version
from ansible_collections.llmfleet.serving.plugins.plugin_utils import _options, _stacks
from testbed.options.examples import examples

KNOWN: Knowledge = _options.shared()
REMOVED = yaml.safe_load((_options.FOLDER / "removed.yml").read_text())
REMOVALS = [(engine, name, entry) for engine, entries in REMOVED.items() for name, entry in entries.items()]
DOCUMENT = (Path(__file__).parents[3] / "docs" / "arguments.md").read_text()
EXAMPLES = list(examples())
# The Go module of this release cannot be had.
UNLISTED = {("ollama", "0.35.1")}


def listed(engine: str, wanted: str) -> bool:
    return version(KNOWN.release(engine, wanted).version) == version(wanted)


@pytest.mark.parametrize("name", _stacks.rows())
def test_a_stack_s_engines_have_lists(name):
    engines = {(engine, entry["version"]) for engine, entry in _stacks.row(name)["engines"].items()}
    assert {which for which in engines if not listed(*which)} == engines & UNLISTED


@pytest.mark.parametrize("path", sorted(_options.FOLDER.glob("*.json")), ids=lambda path: path.stem)
def test_a_list_says_when_and_how_it_was_made(path):
    content = json.loads(path.read_text())
    assert path.stem == f"{content['engine']}-{content['version']}"
    assert datetime.date.fromisoformat(content["made"]) >= datetime.date(2026, 11, 23)
    assert content["from"]
    assert len(content["options"]) > 40


@pytest.mark.parametrize(("engine", "name", "entry"), REMOVALS)
def test_a_removal_agrees_with_the_lists(engine, name, entry):
    assert entry["source"].strip()
    assert datetime.date(2026, 11, 1) <= entry["checked"]
    having = [release for release in KNOWN.releases[engine] if release.find(name)]
    removal = {release.version for release in KNOWN.releases[engine] if KNOWN.removal(engine, release.version, name)}
    assert removal.isdisjoint(release.version for release in having)
    assert removal


@pytest.mark.parametrize(("engine", "name"), [(engine, name) for engine, names in OWNED.items() for name in names])
def test_an_owned_option_is_one(engine, name):
    assert any(release.find(name) for release in KNOWN.releases[engine])


@pytest.mark.parametrize(("engine", "wanted", "args"), EXAMPLES)
def test_the_examples_of_the_documentation_pass(engine, wanted, args):
    assert listed(engine, wanted)
    stack = Stack("580.178.04", None, {engine: Engine(wanted, {})}, {})
    assert findings(stack, KNOWN, [{"name": "chat", "engine": engine, "args": args}]) == []


def test_the_examples_are_of_every_engine_of_the_stacks():
    stacks = {
        (engine, entry["version"]) for name in _stacks.rows() for engine, entry in _stacks.row(name)["engines"].items()
    }
    assert stacks - UNLISTED <= {(engine, wanted) for engine, wanted, _args in EXAMPLES}


def test_the_table_of_the_original_procedure_s_options_is_true():
    versions = ["0.7.3", "0.8.5.post1", "0.32.0", "0.33.0"]
    assert f"| group | option | {' | '.join(versions)} | home |" in DOCUMENT
    rows = re.findall(
        r"^\| \w* ?\| `([a-z-]+)` \| (yes|no) \| (yes|no) \| (yes|no) \| (yes|no) \| .+ \|$", DOCUMENT, re.MULTILINE
    )
    # network 7, hardware 4, memory 3, model 4, loading 4, batching 4, access 3, quantisation 4
    assert len(rows) == 33
    for name, *cells in rows:
        found = ["yes" if KNOWN.release("vllm", wanted).find(name) else "no" for wanted in versions]
        assert (name, cells) == (name, found)


# As engines are started elsewhere, with what the collection sets itself.
PUBLISHED = [
    (
        ["0.32.0", "0.33.0"],
        "vllm",
        "--served-model-name deepseek-r1 --host 127.0.0.1 --port 8000"
        " --tensor-parallel-size 8 --quantization awq_marlin"
        " --max-model-len 65536 --gpu-memory-utilization 0.92 --enable-prefix-caching --reasoning-parser deepseek_r1"
        " --trust-remote-code --shutdown-timeout 120",
    ),
    (
        ["0.8.5.post1"],
        "vllm",
        "--served-model-name deepseek-r1 --host 127.0.0.1 --port 8000"
        " --tensor-parallel-size 8 --quantization awq_marlin"
        " --max-model-len 65536 --gpu-memory-utilization 0.92 --enable-prefix-caching --enable-reasoning"
        " --reasoning-parser deepseek_r1 --trust-remote-code --dtype float16",
    ),
    (
        ["0.5.23", "0.5.8.post1"],
        "sglang",
        "--model-path /models/r1 --served-model-name deepseek-r1 --tp-size 16 --trust-remote-code --host 127.0.0.1"
        " --port 30000 --quantization awq_marlin --mem-fraction-static 0.88 --context-length 65536"
        " --reasoning-parser deepseek-r1 --enable-metrics --api-key k --nnodes 2 --dist-init-addr a:5000 --node-rank 0",
    ),
]


@pytest.mark.parametrize(
    ("engine", "wanted", "line"),
    [(engine, wanted, line) for versions, engine, line in PUBLISHED for wanted in versions],
)
def test_published_command_lines_pass_but_for_what_the_collection_sets(engine, wanted, line):
    given = [option.split() for option in line.split("--")[1:]]
    args = {name: value[0] if value else True for name, *value in given}
    stack = Stack("580.178.04", None, {engine: Engine(wanted, {})}, {})
    found = findings(stack, KNOWN, [{"name": "chat", "engine": engine, "args": args}])
    assert {one["id"] for one in found} == {"argument-owned"}
    assert {one["object"].rpartition(".")[2] for one in found} == set(args) & set(OWNED[engine])


def test_the_original_procedure_s_vllm_is_understood():
    """Its command line, and what of it is not args here."""
    args = {
        "served-model-name": "deepseek-r1",
        "trust-remote-code": True,
        "host": "0.0.0.0",  # noqa: S104  # as it was published
        "port": 8000,
        "gpu-memory-utilization": 0.95,
        "tensor-parallel-size": 8,
        "enable-prefix-caching": True,
        "max-model-len": 8192,
        "enforce-eager": True,
        "dtype": "float16",
    }
    stack = Stack("550.163.01", None, {"vllm": Engine("0.7.3", {})}, {})
    found = findings(stack, KNOWN, [{"name": "chat", "engine": "vllm", "args": args}])
    own = ["served-model-name", "host", "port"]
    assert [(one["id"], one["object"]) for one in found] == [
        ("argument-owned", f"service chat: args.{name}") for name in own
    ]
