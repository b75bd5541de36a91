# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the handbook tells people to type, and what it says they will read, exists under that name."""

from __future__ import annotations

import ast
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from ansible_collections.llmfleet.serving.plugins.module_utils._gate_rules import DRIVER_ANSWERS, RULES

ROOT = Path(__file__).parents[3]
PAGES = [*sorted((ROOT / "docs" / "handbook").glob("*.md"))]
PAGES += [ROOT / "docs" / f"{name}.md" for name in ("getting-started", "playbooks", "reliability")]
# What stands for a name of the reader's own.
OURS = ("inventories/ours", "NAME")

# How the variables that the playbooks themselves read go on; those of AWX have a page of their own.
FAMILIES = "stack|models|services|mirrors|peer|node|secret|report|plan|upgrade"


def names_of(options: dict) -> set[str]:
    """Options, those within options, and what they may be."""
    found = set(options)
    for option in options.values():
        found |= {str(choice) for choice in option.get("choices") or []}
        found |= names_of(option.get("options") or option.get("suboptions") or {})
    return found


def documentation(path: Path) -> dict:
    assigned = {
        node.targets[0].id: node.value.value
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.Assign)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.targets[0], ast.Name)
    }
    return yaml.safe_load(assigned["DOCUMENTATION"])


MODULES = {path.stem: documentation(path) for path in (ROOT / "plugins" / "modules").glob("*.py")}
ROLES = {path.name for path in (ROOT / "roles").iterdir() if not path.name.startswith("_")}
PLAYBOOKS = {path.stem for path in (ROOT / "playbooks").glob("*.yml")}
SCENARIOS = {path.parent.name for path in (ROOT / "molecule").glob("*/molecule.yml")}
CODE = "\n".join(
    path.read_text()
    for folder in ("playbooks", "plugins", "roles")
    for path in sorted((ROOT / folder).rglob("*"))
    if path.suffix in {".py", ".yml", ".j2"}
)
# A text that is longer than a line is in the code as several.
MESSAGES = re.sub(r'"\s*\n\s*f?"', "", CODE)


def identifiers() -> set[str]:
    """Every name with a low line in it that a reader may give to Ansible, or sees in what it says."""
    found = set(MODULES) | ROLES | PLAYBOOKS | SCENARIOS | set(re.findall(r"\bllmfleet_\w+", CODE))
    for module in MODULES.values():
        found |= names_of(module["options"])
    for role in ROLES:
        specs = yaml.safe_load((ROOT / "roles" / role / "meta" / "argument_specs.yml").read_text())
        for spec in specs["argument_specs"].values():
            found |= names_of(spec.get("options") or {})
    # Keys of a fleet's description that no role has an option for.
    return (
        found
        | set(re.findall(r"__llmfleet_service\.(\w+)", CODE))
        | {"http_proxy", "no_proxy", "ca_bundle", "uv_python"}
    )


KNOWN = identifiers()


def spans(text: str) -> list[str]:
    """What stands in backquotes within the text, and not in blocks of code."""
    return re.findall(r"`([^`\n]+)`", re.sub(r"(?ms)^\s*```.*?^\s*```", "", text))


def faults(text: str) -> list[str]:
    """Everything that a page names and that is not there."""
    return [*absent_words(text), *absent_names(text), *wrong_options(text)]


def absent_words(text: str) -> Iterator[str]:
    """What stands in backquotes."""
    for name in spans(text):
        if re.fullmatch(r"[a-z][a-z0-9]*(_[a-z0-9]+)+", name) and name not in KNOWN:
            yield f"no variable, option, module, role or playbook: {name}"
        in_tree = re.fullmatch(r"(docs|inventories|molecule|playbooks|plugins|roles|tests)/[\w./-]+", name)
        if in_tree and name not in OURS and not (ROOT / name).exists():
            yield f"no such path: {name}"
        if re.fullmatch(r"[\w-]+\.(service|timer)", name) and name not in CODE:
            yield f"no such unit: {name}"


def absent_names(text: str) -> Iterator[str]:
    """What is typed."""
    for name in re.findall(r"llmfleet\.serving\.(\w+)", text):
        if name not in {*MODULES, *PLAYBOOKS, *OURS}:
            yield f"no module or playbook: llmfleet.serving.{name}"
    for set_in_file, set_in_command in re.findall(r"(?m)^ *-? *(\w+_\w+):|-e (\w+)=", text):
        if (name := set_in_file or set_in_command) not in KNOWN:
            yield f"no such variable: {name}"
    for names in re.findall(r"\./dev molecule ([\w ]+)", text):
        yield from (f"no such scenario: {name}" for name in names.split() if name not in SCENARIOS)


def wrong_options(text: str) -> Iterator[str]:
    """What modules are given on a command line."""
    for module, arguments in re.findall(r'-m llmfleet\.serving\.(\w+) -a "([^"]+)"', text):
        given = {word.partition("=")[0] for word in shlex.split(arguments)}
        options = MODULES.get(module, {"options": {}})["options"]
        yield from (f"{module} has no option {name}" for name in given - set(options))
        yield from (f"{module} needs {name}" for name in set(options) - given if options[name].get("required"))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_what_a_page_names_is_there(page):
    assert faults(page.read_text()) == []


def test_playbooks_and_their_variables_are_listed():
    text = (ROOT / "docs" / "playbooks.md").read_text()
    listed = set(re.findall(r"(?m)^\| `(\w+)` \|[^|]*\|[^|]*\]\(", text)) & PLAYBOOKS
    assert listed >= {
        "site",
        "plan",
        "preflight",
        "driver",
        "gate",
        "tools",
        "secrets",
        "edge",
        "verify",
        "report",
        "upgrade",
        "awx",
    }
    playbooks = "\n".join(path.read_text() for path in (ROOT / "playbooks").rglob("*.yml"))
    used = set(re.findall(rf"(?<![\w.])(llmfleet_(?:{FAMILIES})\w*)", playbooks))
    told = {"llmfleet_plan", "llmfleet_report"}  # what set_stats leaves for a workflow
    assert {name for name in used - told if f"`{name}`" not in text} == set()


def test_the_rules_of_a_fenced_host_are_the_gates():
    table = re.findall(r"(?m)^\| ((?:`[\w-]+`(?:, )?)+) \|", (ROOT / "docs/handbook/fenced-host.md").read_text())
    named = {name for row in table for name in re.findall(r"`([\w-]+)`", row)}
    refusing = {rule.id for rule in (DRIVER_ANSWERS, *RULES) if rule.severity == "fail"}
    assert named
    assert named - refusing == set()


def test_the_messages_of_a_failed_download_are_those_of_the_code():
    table = re.findall(r"(?m)^\| ([^|]+) \|", (ROOT / "docs/handbook/download-fails.md").read_text())
    quoted = [part.strip() for cell in table for said in re.findall(r"`([^`]+)`", cell) for part in said.split("...")]
    assert len(quoted) > 5
    assert [part for part in quoted if part and part not in MESSAGES] == []


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("Set `gpu_gate_profil`.", "no variable, option, module, role or playbook: gpu_gate_profil"),
        ("See `playbooks/sites.yml`.", "no such path: playbooks/sites.yml"),
        ("Stop `llmfleet-gpu-reddy.service`.", "no such unit: llmfleet-gpu-reddy.service"),
        ("ansible-playbook llmfleet.serving.repair", "no module or playbook: llmfleet.serving.repair"),
        ("edge_client:\n", "no such variable: edge_client"),
        ("... -e acceptance_agian=true", "no such variable: acceptance_agian"),
        ('-m llmfleet.serving.gpu_check -a "profile=h800 tiemout=9"', "gpu_check has no option tiemout"),
        ('-m llmfleet.serving.edge_backend -a "service=a name=b"', "edge_backend needs state"),
        ("./dev molecule upgrades", "no such scenario: upgrades"),
    ],
)
def test_what_is_not_there_is_found(text, fault):
    assert faults(text) == [fault]
