"""The rules by Prometheus' own tool: every alert fires and is silent as it should, and every query can be read."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
import yaml

from testbed.tools import tool

pytestmark = pytest.mark.bed

ROOT = Path(__file__).parents[3]
FILES = ROOT / "roles/monitoring/files"
RULES = (FILES / "rules.yml").read_text()
ALERTS = re.findall(r"- alert: (\w+)", RULES)
WRONG = {"never": "vector(0) > 1", "always": "vector(1)"}
# One container for all, because its start takes longer than promtool.
ALL = "for case in */; do (cd $case && promtool test rules rules_test.yml > said 2>&1; echo $? > status); done"


def with_expr(alert, expr):
    rules = yaml.safe_load(RULES)
    (rule,) = [rule for group in rules["groups"] for rule in group["rules"] if rule.get("alert") == alert]
    rule["expr"] = expr
    return yaml.safe_dump(rules)


@pytest.fixture(scope="module")
def tested(tmp_path_factory):
    """What promtool says of the rules, and of rules with one alert that never or always fires: status and words."""
    folder = tmp_path_factory.mktemp("rules")
    wrong = {f"{alert}-{how}": with_expr(alert, expr) for alert in ALERTS for how, expr in WRONG.items()}
    for name, text in {"as-they-are": RULES, **wrong}.items():
        (folder / name).mkdir()
        (folder / name / "rules.yml").write_text(text)
        shutil.copy(ROOT / "tests/fixtures/alerts/rules_test.yml", folder / name)
    tool(folder, "sh", "-c", ALL)
    return {path.name: (int((path / "status").read_text()), (path / "said").read_text()) for path in folder.iterdir()}


def test_alerts_fire_and_are_silent(tested):
    status, said = tested["as-they-are"]
    assert status == 0, said


@pytest.mark.parametrize("alert", ALERTS)
@pytest.mark.parametrize("how", WRONG)
def test_an_alert_that_never_fires_or_always_does_is_found(tested, alert, how):
    status, said = tested[f"{alert}-{how}"]
    assert status != 0
    assert f"alertname: {alert}" in said


def test_every_query_of_the_dashboards_can_be_read(tmp_path):
    boards = [json.loads(path.read_text()) for path in FILES.glob("dashboards/*.json")]
    queries = [target["expr"] for board in boards for panel in board["panels"] for target in panel["targets"]]
    rules = [{"record": f"query:{number}", "expr": query} for number, query in enumerate(queries)]
    (tmp_path / "rules.yml").write_text(yaml.safe_dump({"groups": [{"name": "dashboards", "rules": rules}]}))
    done = tool(tmp_path, "promtool", "check", "rules", "rules.yml", check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{len(queries)} rules found" in done.stdout
