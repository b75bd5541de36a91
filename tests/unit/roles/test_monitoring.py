"""The role monitoring: what its program writes; alerts, runbooks, dashboards and recorded scrapes fit each other."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import typing as t
from pathlib import Path

import pytest
import yaml

from ansible_collections.llmfleet.serving.plugins.plugin_utils._program import bundle

ROOT = Path(__file__).parents[3]
ROLE = ROOT / "roles/monitoring"
SCRAPES = ROOT / "tests/fixtures/scrapes"
RECORDING = ROOT / "tests/fixtures/recordings/h100-x1-driver580"
GROUPS = yaml.safe_load((ROLE / "files/rules.yml").read_text())["groups"]
RULES = [rule for group in GROUPS for rule in group["rules"]]
ALERTS = {rule["alert"]: rule for rule in RULES if "alert" in rule}
DASHBOARDS = sorted((ROLE / "files/dashboards").glob("*.json"))
# Written by Prometheus itself.
OWN = {"up", "ALERTS"}
# Of vLLM 0.8.5.post1, which no CPU runs: by its sources, which call it deprecated from 0.9 on.
BY_SOURCE = {"vllm:gpu_cache_usage_perc"}
# Names of metrics as they stand in queries, and what else looks like one.
WORD = re.compile(r"[a-zA-Z_:][\w:]*")
LANGUAGE = {
    *("and", "or", "unless", "on", "by", "group_left", "sum", "max", "avg", "count", "rate", "time", "label_replace"),
    *("avg_over_time", "quantile_over_time", "histogram_quantile", "vector"),
}


def expressions(dashboard: Path) -> list[str]:
    panels = json.loads(dashboard.read_text())["panels"]
    return [target["expr"] for panel in panels for target in panel["targets"]]


def metrics(query: str) -> set[str]:
    """The names of the metrics in a query: those in `__name__=~"a|b"` too."""
    chosen = {name for found in re.findall(r'__name__=~"([^"]*)"', query) for name in found.split("|")}
    bare = re.sub(r'"(?:[^"\\]|\\.)*"', '""', query)
    bare = re.sub(r"\{[^}]*\}|\[[^\]]*\]|\b(?:by|on|group_left)\s*\([^)]*\)", " ", bare)
    return chosen | {word for word in WORD.findall(bare) if word not in LANGUAGE}


def scraped() -> set[str]:
    samples = re.compile(r"^([a-zA-Z_:][\w:]*)", re.MULTILINE)
    return {name for path in SCRAPES.glob("*.prom") for name in samples.findall(path.read_text())}


def recorded() -> set[str]:
    return {rule["record"] for rule in RULES if "record" in rule}


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.get("alert") or rule["record"])
def test_every_metric_of_a_rule_is_in_a_real_scrape(rule: dict[str, t.Any]) -> None:
    assert metrics(rule["expr"])
    assert metrics(rule["expr"]) - scraped() - recorded() - OWN - BY_SOURCE == set()


@pytest.mark.parametrize("dashboard", DASHBOARDS, ids=lambda path: path.stem)
def test_every_metric_of_a_dashboard_is_in_a_real_scrape(dashboard: Path) -> None:
    queries = expressions(dashboard)
    assert queries
    assert set().union(*map(metrics, queries)) - scraped() - recorded() - OWN == set()


@pytest.mark.parametrize("dashboard", DASHBOARDS, ids=lambda path: path.stem)
def test_a_dashboard_is_whole(dashboard: Path) -> None:
    board = json.loads(dashboard.read_text())
    assert board["uid"] == f"llmfleet-{dashboard.stem}"
    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])
    known = {variable["name"] for variable in board["templating"]["list"]}
    assert {name for query in expressions(dashboard) for name in re.findall(r"\$(\w+)", query)} <= known
    places = [tuple(panel["gridPos"][side] for side in "xy") for panel in board["panels"]]
    assert len(set(places)) == len(places)


def test_what_is_no_metric_is_found() -> None:
    assert metrics('sum by (host) (rate(nobody_has_this{a="b"}[5m])) > 0') - scraped() == {"nobody_has_this"}


def test_every_alert_has_its_page_and_every_page_its_alert() -> None:
    pages = {path.stem: path.read_text() for path in (ROOT / "docs/runbooks").glob("Llmfleet*.md")}
    assert set(pages) == set(ALERTS)
    for name, rule in ALERTS.items():
        assert rule["annotations"]["runbook_url"] == f"docs/runbooks/{name}.md"
        assert pages[name].startswith(f"# {name}\n")
        assert re.findall("^## (.*)$", pages[name], re.MULTILINE) == ["Look", "Do", "Over"]


def test_every_alert_is_tested_both_ways() -> None:
    cases = yaml.safe_load((ROOT / "tests/fixtures/alerts/rules_test.yml").read_text())["tests"]
    asked = [one for case in cases for one in case["alert_rule_test"]]
    for name in ALERTS:
        assert {bool(one.get("exp_alerts")) for one in asked if one["alertname"] == name} == {True, False}


def test_ports_are_those_that_the_edge_reaches() -> None:
    play = yaml.safe_load((ROOT / "playbooks/edge.yml").read_text())[0]
    exporters = {one["name"]: one["port"] for one in play["tasks"][0]["vars"]["edge_exporters"]}
    role = yaml.safe_load((ROLE / "vars/main.yml").read_text())
    assert exporters == {
        "node": int(role["__monitoring_node"].rpartition(":")[2]),
        "gpu": role["__monitoring_gpu"]["port"],
    }


@pytest.fixture
def told(tmp_path):
    """`told(smi)` runs what the timer runs, on a host whose nvidia-smi is the script `smi`: how it ended, its file."""
    program = tmp_path / "host-metrics.pyz"
    program.write_bytes(bundle(ROLE / "files/host_metrics.py"))
    (tmp_path / "tools").mkdir()
    (tmp_path / "watchdog").mkdir()
    (tmp_path / "models").mkdir()
    names = ("fence", "gate", "models", "watchdog", "output")
    config = {name: str(tmp_path / name) for name in names}
    (tmp_path / "config.json").write_text(json.dumps(config))

    def run(smi: str = "", **options: t.Any) -> tuple[subprocess.CompletedProcess[str], str]:
        wanted = {"profile": "h100", "count": 1, "source": "nvidia-smi", "timeout": 10, **options}
        (tmp_path / "gate").write_text(json.dumps({"options": wanted}))
        if smi:
            (tmp_path / "tools/nvidia-smi").write_text(f"#!/bin/sh\n{smi}\n")
            (tmp_path / "tools/nvidia-smi").chmod(0o755)
        argv = [sys.executable, "-I", str(program), str(tmp_path / "config.json")]
        env = {"PATH": f"{tmp_path / 'tools'}:{os.environ['PATH']}"}
        done = subprocess.run(argv, capture_output=True, text=True, env=env, check=False, timeout=60)
        output = tmp_path / "output"
        return done, output.read_text() if output.exists() else ""

    run.folder = tmp_path
    return run


def answers() -> str:
    """A script that answers as nvidia-smi did on a host with one H100."""
    return f'case "$1" in nvlink) ;; topo) cat {RECORDING}/topo.txt ;; *) cat {RECORDING}/smi-q.xml ;; esac'


def test_a_fit_host_tells_so(told) -> None:
    done, text = told(answers())
    assert (done.returncode, done.stderr) == (0, "")
    assert "llmfleet_gpu_gate_fenced 0\n" in text
    assert "llmfleet_gpu_gate_pass 1\n" in text
    assert (told.folder / "output").stat().st_mode & 0o777 == 0o644


def test_broken_rules_a_fence_and_a_watchdog_are_told(told) -> None:
    (told.folder / "fence").touch()
    state = {"service": "llmfleet-r1", "verdict": "given-up", "restarts": [], "checked": 5.0}
    (told.folder / "watchdog/llmfleet-r1.json").write_text(json.dumps(state))
    (told.folder / "models/a.gguf.quarantined").touch()
    done, text = told(answers(), profile="h200")
    assert done.returncode == 0
    assert "llmfleet_gpu_gate_fenced 1\n" in text
    assert "llmfleet_gpu_gate_pass 0\n" in text
    assert 'llmfleet_gpu_gate_rule_broken{rule="gpu-name",severity="fail",gpu="0"} 1\n' in text
    assert 'llmfleet_watchdog_verdict{service="r1",verdict="given-up"} 1\n' in text
    assert "llmfleet_model_store_quarantined_files 1\n" in text


def test_a_driver_that_does_not_answer_is_a_broken_rule(told) -> None:
    done, text = told()
    assert done.returncode == 0
    assert 'rule="driver-answers",severity="fail",gpu=""} 1\n' in text


def test_what_cannot_be_asked_is_one_line_and_leaves_the_file(told) -> None:
    _done, before = told(answers())
    done, after = told(answers(), driver_version_min="new")
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "'new' is not a version" in done.stderr
    assert before == after
