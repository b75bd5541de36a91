# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""gpu_gate passes or refuses a host, with all reasons, in check mode too."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from xml.etree import ElementTree

import pytest
import yaml
from ansible.module_utils.basic import AnsibleModule
from run_command import run_command

from ansible_collections.llmfleet.serving.plugins.doc_fragments import _gate as _gate_doc
from ansible_collections.llmfleet.serving.plugins.doc_fragments import _gpu as _gpu_doc
from ansible_collections.llmfleet.serving.plugins.module_utils import _gate, _gate_profiles, _gpu, _gpu_host
from ansible_collections.llmfleet.serving.plugins.module_utils._gate_rules import RULES
from ansible_collections.llmfleet.serving.plugins.modules import gpu_gate

OPTIONS = {
    name: option
    for fragment in (_gate_doc, _gpu_doc)
    for name, option in yaml.safe_load(fragment.ModuleDocFragment.DOCUMENTATION)["options"].items()
}
H200 = Path(__file__).parents[4] / "tests/fixtures/recordings/h200-x2-driver580"
KEYS = {"changed", "facts", "verdict", "profile", "findings", "rules", "table", "junit"}
LOG = "1795443369.0 host kernel: Linux version 6.8.0-60-generic"


@pytest.fixture
def two_h200(tmp_path, monkeypatch):
    """two_h200({old: new, ...}): a host whose nvidia-smi answers what was recorded from two H200, words replaced."""
    program = tmp_path / "nvidia-smi"
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")

    def install(replaced: dict[str, str] | None = None, log: str = LOG) -> None:
        xml = (H200 / "smi-q.xml").read_text()
        for old, new in (replaced or {}).items():
            assert old in xml
            xml = xml.replace(old, new)
        (tmp_path / "smi-q.xml").write_text(xml)
        answers = f"""case "$*" in
            "-q -x") cat {tmp_path}/smi-q.xml ;;
            "nvlink -s" | "topo -m") cat {H200}/topo.txt ;;
            "") echo "Driver Version: 580.159.04" ;;
        esac"""
        program.write_text(f"#!/bin/sh\n{answers}\n")
        (tmp_path / "journalctl").write_text(f"#!/bin/sh\necho '{log}'\n")
        for name in ("nvidia-smi", "journalctl"):
            (tmp_path / name).chmod(0o755)

    return install


@pytest.fixture
def warnings(monkeypatch):
    said: list[str] = []
    monkeypatch.setattr(AnsibleModule, "warn", lambda _self, warning: said.append(warning))
    return said


@pytest.mark.parametrize("check", [False, True])
def test_passes_a_host_that_is_fit(run_module, two_h200, warnings, check):
    two_h200()
    result = run_module(gpu_gate, profile="h200", count=2, source="nvidia-smi", check=check)
    assert set(result) == KEYS
    assert (result["changed"], result["verdict"], result["findings"]) == (False, "pass", [])
    assert result["profile"] == "h200"
    assert result["facts"] == _gpu.read_facts(run_command, "nvidia-smi", 60)
    assert warnings == []


@pytest.mark.parametrize("check", [False, True])
def test_refuses_with_all_reasons_at_once(run_module, two_h200, warnings, check):
    two_h200(
        {"<current_mig>Disabled": "<current_mig>Enabled", "<persistence_mode>Enabled": "<persistence_mode>Disabled"}
    )
    result = run_module(gpu_gate, profile="h800", source="nvidia-smi", driver_version_min="600", check=check)
    assert set(result) == {"failed", "findings", "junit", "msg", "profile", "rules", "table", "verdict"}
    assert (result["failed"], result["verdict"]) == (True, "fail")
    assert [line.split(". ")[0] for line in result["msg"].splitlines()] == [
        "The GPUs are not fit for the profile h800:",
        "gpu-count: expected 8 GPUs, found 2",
        "gpu-name (GPUs 0, 1): expected NVIDIA H800, found NVIDIA H200",
        "driver-version: expected driver 600 or newer, found 580.159.04",
        "mig-mode (GPUs 0, 1): expected MIG off, found on",
    ]
    assert [(one["rule"], one["gpu"]) for one in result["findings"]] == [
        ("gpu-count", None),
        ("gpu-name", 0),
        ("gpu-name", 1),
        ("driver-version", None),
        ("mig-mode", 0),
        ("mig-mode", 1),
        ("persistence-mode", 0),
        ("persistence-mode", 1),
    ]
    assert [one["rule"] for one in result["rules"]] == [rule.id for rule in RULES]
    suite = ElementTree.fromstring(result["junit"])  # noqa: S314 - the module's own
    assert [suite.get(name) for name in ("name", "tests", "failures")] == ["gpu_gate h800", str(len(RULES)), "4"]
    assert [line.split()[:2] for line in result["table"].splitlines()[:7]] == [
        ["RESULT", "RULE"],
        ["fail", "gpu-count"],
        ["fail", "gpu-name"],
        ["fail", "driver-version"],
        ["fail", "mig-mode"],
        ["warn", "persistence-mode"],
        ["pass", "driver-answers"],
    ]
    assert [one.split(". ")[0] for one in warnings] == [
        "persistence-mode (GPUs 0, 1): expected persistence mode on, found off"
    ]


def test_warns_but_passes(run_module, two_h200, warnings):
    two_h200({"<persistence_mode>Enabled": "<persistence_mode>Disabled"})
    result = run_module(gpu_gate, profile="h200", count=2, source="nvidia-smi")
    assert result["verdict"] == "pass"
    assert len(result["findings"]) == 2
    assert len(warnings) == 1


def test_a_driver_that_hangs_is_a_verdict(run_module, tmp_path, monkeypatch):
    (tmp_path / "nvidia-smi").write_text("#!/bin/sh\nexec sleep 600\n")
    (tmp_path / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    result = run_module(gpu_gate, profile="h800", source="nvidia-smi", timeout=1)
    assert result["verdict"] == "fail"
    assert [one["rule"] for one in result["findings"]] == ["driver-answers"]
    assert "did not answer nvidia-smi within 1 s" in result["msg"]


@pytest.mark.parametrize(
    ("option", "fit", "unfit", "rule"),
    [
        ("count", 2, 3, "gpu-count"),
        ("nvlinks", 18, 19, "nvlink-count"),
        ("driver_version_min", "580.159.04", "580.159.05", "driver-version"),
        ("cuda_version_min", "13.0", "13.1", "cuda-version"),
        ("idle_memory_max", 0, -1, "idle"),
        ("idle_utilization_max", 0, -1, "idle"),
    ],
)
def test_each_option_sets_its_limit(run_module, two_h200, option, fit, unfit, rule):
    two_h200()
    options = {"profile": "h200", "count": 2, "source": "nvidia-smi"}
    assert run_module(gpu_gate, **{**options, option: fit})["verdict"] == "pass"
    refused = run_module(gpu_gate, **{**options, option: unfit})
    assert {one["rule"] for one in refused["findings"]} == {rule}


def test_a_host_that_already_serves_passes_with_its_unit_allowed(run_module, two_h200, monkeypatch):
    process = """<processes><process_info><pid>4242</pid><process_name>ollama</process_name>
        <used_memory>90000 MiB</used_memory></process_info>"""
    two_h200({"<processes>": process, "<used>0 MiB": "<used>90000 MiB"})
    monkeypatch.setattr(_gpu_host, "systemd_unit", {4242: "ollama.service"}.get)
    options = {"profile": "h200", "count": 2, "source": "nvidia-smi"}
    assert run_module(gpu_gate, **options, allowed_units=["ollama.service"])["verdict"] == "pass"
    refused = run_module(gpu_gate, **options)
    assert {one["rule"] for one in refused["findings"]} == {"processes"}


@pytest.mark.parametrize(
    ("options", "msg"),
    [
        ({"count": 0}, "A count of 0 GPUs is refused: expected at least 1."),
        (
            {"driver_version_min": "new"},
            "'new' is not a version: expected numbers with dots between them, like 550.90.12.",
        ),
        ({"timeout": 0}, "A time limit of 0 s is refused: expected 1 to 3600."),
        ({"record_baseline": True}, "record_baseline has no file to write: name one in baseline."),
        (
            {"baseline": "/nowhere/baseline.json"},
            "The baseline /nowhere/baseline.json is not there. "
            "Record it with record_baseline on a host that is known to be good.",
        ),
        (
            {"xid_since": "yesterday"},
            "'yesterday' is not a time: expected one like 2026-11-23T14:05:00Z or 2026-11-23T22:05:00+08:00.",
        ),
    ],
)
def test_an_option_that_makes_no_sense_is_refused_without_a_verdict(run_module, options, msg):
    assert run_module(gpu_gate, profile="h800", **options) == {"failed": True, "msg": msg}


def test_something_has_to_be_expected(run_module):
    msg = run_module(gpu_gate)["msg"]
    assert "profile" in msg
    assert "baseline" in msg


def test_auto_takes_the_profile_of_the_gpus(run_module, two_h200):
    two_h200()
    result = run_module(gpu_gate, profile="auto", count=2, source="nvidia-smi")
    assert (result["verdict"], result["profile"]) == ("pass", "h200")


def test_auto_refuses_gpus_that_no_profile_is_for(run_module, two_h200):
    two_h200({"<product_name>NVIDIA H200<": "<product_name>NVIDIA H300<"})
    result = run_module(gpu_gate, profile="auto", count=2, source="nvidia-smi")
    assert (result["verdict"], result["profile"]) == ("fail", None)
    assert [(one["rule"], one["gpu"], one["found"]) for one in result["findings"]] == [
        ("gpu-name", None, "NVIDIA H300")
    ]
    assert {one["outcome"] for one in result["rules"]} == {"fail", "skip"}
    assert "expected one of NVIDIA H800, NVIDIA H100 80GB HBM3, NVIDIA H200," in result["msg"]


@pytest.mark.parametrize(
    ("since", "verdict"), [(None, "fail"), ("2026-11-23T14:16:09Z", "fail"), ("2026-11-23T14:16:10Z", "pass")]
)
def test_an_xid_refuses_a_host_until_it_is_repaired(run_module, two_h200, since, verdict):
    two_h200(log="1795443369.0 host kernel: NVRM: Xid (PCI:0000:00:07): 79, GPU has fallen off the bus.")
    result = run_module(gpu_gate, profile="h200", count=2, source="nvidia-smi", xid_since=since)
    assert result["verdict"] == verdict
    assert [(one["rule"], one["gpu"]) for one in result["findings"]] == ([] if verdict == "pass" else [("xid", 1)])


class TestBaseline:
    def test_check_real_check_real(self, run_module, two_h200, tmp_path):
        two_h200()
        path = tmp_path / "etc/baseline.json"

        def record(check):
            return run_module(gpu_gate, baseline=str(path), record_baseline=True, source="nvidia-smi", check=check)

        predicted = record(check=True)
        assert (predicted["changed"], path.parent.exists()) == (True, False)
        done = record(check=False)
        assert (done["changed"], done["diff"]) == (True, predicted["diff"])
        assert json.loads(path.read_text()) == done["baseline"]
        assert done["profile"] is None
        for check in (True, False):
            assert record(check)["changed"] is False

    def test_a_host_that_is_not_fit_is_not_recorded(self, run_module, two_h200, tmp_path):
        two_h200({"<current_mig>Disabled": "<current_mig>Enabled"})
        path = tmp_path / "baseline.json"
        result = run_module(gpu_gate, baseline=str(path), record_baseline=True, source="nvidia-smi")
        assert (result["verdict"], path.exists()) == ("fail", False)
        assert {one["rule"] for one in result["findings"]} == {"mig-mode"}

    def test_what_was_measured_is_expected_from_then_on(self, run_module, two_h200, tmp_path):
        two_h200()
        options = {"baseline": str(tmp_path / "baseline.json"), "source": "nvidia-smi"}
        run_module(gpu_gate, **options, record_baseline=True)
        assert run_module(gpu_gate, **options)["verdict"] == "pass"
        two_h200({"<product_name>NVIDIA H200<": "<product_name>NVIDIA H300<", "143771 MiB": "143770 MiB"})
        refused = run_module(gpu_gate, **options)
        assert {one["rule"] for one in refused["findings"]} == {"gpu-name", "gpu-memory"}

    def test_it_counts_more_than_the_profile_and_an_option_more_than_both(self, run_module, two_h200, tmp_path):
        two_h200()
        options = {"baseline": str(tmp_path / "baseline.json"), "source": "nvidia-smi"}
        run_module(gpu_gate, **options, record_baseline=True)
        assert run_module(gpu_gate, **options, profile="h800")["verdict"] == "pass"
        refused = run_module(gpu_gate, **options, profile="h800", nvlinks=19)
        assert {one["rule"] for one in refused["findings"]} == {"nvlink-count"}

    def test_a_driver_that_does_not_answer_is_a_verdict_as_ever(self, run_module, tmp_path, monkeypatch):
        monkeypatch.setenv("PATH", str(tmp_path))
        path = tmp_path / "baseline.json"
        result = run_module(gpu_gate, baseline=str(path), record_baseline=True, source="nvidia-smi")
        assert ([one["rule"] for one in result["findings"]], path.exists()) == (["driver-answers"], False)


class TestMarker:
    @pytest.fixture
    def ask(self, run_module, tmp_path):
        """ask(check=..., **options): the result, with a marker in a folder that is not there yet."""

        def run(**options):
            marker = str(tmp_path / "facts.d/gate.fact")
            return run_module(gpu_gate, count=2, source="nvidia-smi", marker=marker, **options)

        return run

    def test_a_refused_host_is_marked_until_it_passes(self, ask, two_h200, tmp_path):
        two_h200()
        marker = tmp_path / "facts.d/gate.fact"
        predicted = ask(profile="h100", check=True)
        assert (predicted["failed"], predicted["changed"], marker.parent.exists()) == (True, True, False)
        refused = ask(profile="h100")
        assert (refused["failed"], refused["changed"], refused["diff"]) == (True, True, predicted["diff"])
        assert json.loads(marker.read_text()) == {"verdict": "fail", "reasons": refused["msg"].splitlines()}
        assert len(refused["msg"].splitlines()) == 2
        assert ask(profile="h100")["changed"] is False
        assert (ask(profile="h200", check=True)["changed"], marker.exists()) == (True, True)
        released = ask(profile="h200")
        assert (released["changed"], released["verdict"], marker.exists()) == (True, "pass", False)
        for check in (True, False):
            assert ask(profile="h200", check=check)["changed"] is False

    def test_a_host_that_cannot_be_asked_is_marked(self, ask, tmp_path):
        refused = ask(baseline="/nowhere/baseline.json")
        assert refused["changed"] is True
        assert json.loads((tmp_path / "facts.d/gate.fact").read_text())["reasons"] == [refused["msg"]]

    def test_what_is_in_the_way_is_one_more_reason(self, ask, two_h200, tmp_path):
        two_h200()
        (tmp_path / "facts.d/gate.fact").mkdir(parents=True)
        *reasons, last = ask(profile="h100")["msg"].splitlines()
        assert len(reasons) == 2
        assert last.startswith(f"{tmp_path}/facts.d/gate.fact is a directory;")
        assert ask(profile="h200")["msg"] == last

    def test_beside_a_baseline(self, ask, two_h200, tmp_path):
        two_h200()
        done = ask(baseline=str(tmp_path / "baseline.json"), record_baseline=True)
        assert (done["changed"], len(done["diff"])) == (True, 2)
        assert ask(baseline=str(tmp_path / "baseline.json"), record_baseline=True)["changed"] is False


def test_defaults_and_rules_are_documented_as_they_are():
    documentation = yaml.safe_load(gpu_gate.DOCUMENTATION)
    assert set(OPTIONS) == set(_gate.ARGUMENTS)
    fields = {field.name: field.default for field in dataclasses.fields(_gate_profiles.Expectation)}
    shared = {name: OPTIONS[name]["default"] for name in OPTIONS if "default" in OPTIONS[name] and name in fields}
    assert shared == {name: list(fields[name]) if name == "allowed_units" else fields[name] for name in shared}
    assert set(shared) == {"idle_memory_max", "idle_utilization_max", "allowed_units"}
    assert set(_gate.FIELDS) <= set(fields) & set(OPTIONS)
    fails, warns = documentation["description"][1:3]
    for rule in RULES:
        assert (f"C({rule.id})" in fails, f"C({rule.id})" in warns) == (
            rule.severity == "fail",
            rule.severity == "warn",
        )


def test_figures_of_the_profiles_are_documented():
    text = " ".join(" ".join(OPTIONS["profile"]["description"]).split())
    for name, profile in _gate_profiles.PROFILES.items():
        described = text.split(f"V({name})", 1)[1]
        assert described.index(f"{profile.memory_min} MiB and {profile.nvlinks} NVLinks") < 40
        assert f"{profile.nvlink_speed_min} MB/s" in described
