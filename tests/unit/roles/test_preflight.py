"""The role preflight: its documented rules and table are the real ones, and it passes every option of the module."""

from __future__ import annotations

import re
import typing as t
from pathlib import Path

import yaml

from ansible_collections.llmfleet.serving.plugins.module_utils._fit import ENGINES
from ansible_collections.llmfleet.serving.plugins.module_utils._gate_profiles import AUTO, PROFILES
from ansible_collections.llmfleet.serving.plugins.module_utils._host_rules import RULES
from ansible_collections.llmfleet.serving.plugins.modules import host_check

ROOT = Path(__file__).parents[3]
ROLE = ROOT / "roles/preflight"


def load(path: str) -> t.Any:
    return yaml.safe_load((ROLE / path).read_text())


SPEC = load("meta/argument_specs.yml")["argument_specs"]["main"]["options"]
OPTIONS = yaml.safe_load(host_check.DOCUMENTATION)["options"]


def test_docs_name_every_rule_with_its_source():
    text = (ROOT / "docs/preflight.md").read_text()
    documented = re.findall(r"^\| `([\w-]+)` \| (refuses|warns) \| [^|]+ \| ([^|]+) \|$", text, re.MULTILINE)
    severities = {"fail": "refuses", "warn": "warns"}
    assert documented == [(rule.id, severities[rule.severity], rule.source) for rule in RULES]


def test_docs_have_the_table_of_sizes():
    text = (ROOT / "docs/preflight.md").read_text()
    rows = re.findall(r"^\| ([\d.]+)b \| (\S+) \| (\d+) GB \| (\d+) GB \| (\d+) GB \|", text, re.MULTILINE)
    sizes = load("defaults/main.yml")["preflight_sizes"]
    keys = ("parameters", "cores", "gpu_memory", "memory", "disk")
    assert rows == [tuple(str(size.get(key, "-")) for key in keys) for size in sizes]


def test_every_option_of_the_module_is_a_variable_of_the_role():
    task = load("tasks/main.yml")[-1]["llmfleet.serving.host_check"]
    assert list(task) == list(OPTIONS)
    variables = {name: re.findall(r"\b(?:__)?preflight_\w+", value) for name, value in task.items()}
    # What was found elsewhere is what the filters find.
    assert variables.pop("findings") == ["__preflight_findings"]
    assert variables == {name: [f"preflight_{name}"] for name in variables}


def test_role_and_module_take_the_same_values():
    assert SPEC["preflight_gpu_profile"]["choices"] == ["", *sorted([AUTO, *PROFILES])]
    assert SPEC["preflight_sizes"]["options"].keys() == OPTIONS["sizes"]["suboptions"].keys()
    assert SPEC["preflight_disk"]["options"].keys() == OPTIONS["disk"]["suboptions"].keys()


def test_services_may_have_every_engine_that_models_are_planned_for():
    assert set(SPEC["preflight_services"]["options"]["engine"]["choices"]) == set(ENGINES)
