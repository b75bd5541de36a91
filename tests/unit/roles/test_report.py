"""The report keeps to its schema, and its page uses all of its words."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import pytest
import report_fleet

from ansible_collections.llmfleet.serving.plugins.filter.fleet_report import fleet_report
from ansible_collections.llmfleet.serving.plugins.module_utils import _report_diff
from ansible_collections.llmfleet.serving.plugins.plugin_utils._report_page import WORDS

ROOT = Path(__file__).parents[3]
SCHEMA = json.loads((ROOT / "docs/report.schema.json").read_text())


def problems(document):
    validator = jsonschema.Draft202012Validator(SCHEMA)
    return [f"{error.json_path}: {error.message}" for error in validator.iter_errors(document)]


@pytest.fixture(scope="module")
def document():
    return fleet_report(
        {**report_fleet.fleet(12), "gpu13": {"failed": True, "msg": "no"}, "gpu14": {}}, **report_fleet.OPTIONS
    )["document"]


def test_the_schema_is_one():
    jsonschema.Draft202012Validator.check_schema(SCHEMA)


def test_reports_keep_to_the_schema(document):
    assert problems(document) == []
    before = fleet_report({**report_fleet.fleet(11), "gpu13": {}}, **{**report_fleet.OPTIONS, "stack": "current"})[
        "document"
    ]
    changed = {**document, "changes": _report_diff.changes(before, document)}
    assert len(changed["changes"]["items"]) > 3
    assert problems(changed) == []


@pytest.mark.parametrize(
    "broken",
    [{"version": 2}, {"generated": "today"}, {"hosts": [{"name": "gpu01"}]}, {"secret": 1}, {"verdict": "warn"}],
)
def test_the_schema_refuses(document, broken):
    assert problems({**document, **broken})


def test_the_page_uses_each_word():
    template = (ROOT / "roles/report/templates/report.html.j2").read_text()
    made = {word for word in WORDS if word.startswith(("kind-", "rule-", "fleet-"))}
    mentioned = {word for word in WORDS if f"'{word}'" in template}
    assert set(WORDS) - mentioned - made == set()
