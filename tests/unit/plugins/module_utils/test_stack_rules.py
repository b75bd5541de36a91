"""What speaks against a stack: each rule fires, and is silent where it should be."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import yaml

from ansible_collections.llmfleet.serving.plugins.module_utils._errors import LlmError
from ansible_collections.llmfleet.serving.plugins.module_utils._stack import Engine, Stack
from ansible_collections.llmfleet.serving.plugins.module_utils._stack_rules import findings, knowledge

FOLDER = Path(__file__).parents[4] / "playbooks" / "stacks"
KNOWN = knowledge(*(yaml.safe_load((FOLDER / name).read_text()) for name in ("engines.yml", "advisories.yml")))
REPOS = {"r1": "deepseek-ai/DeepSeek-R1", "r1-awq": "cognitivecomputations/DeepSeek-R1-AWQ"}
DRIVERS = ["525.60.13", "535.309.01", "550.163.01", "575.57.08", "580.178.04"]
NO_MARLIN = {"engine-quantization": "fail", "engine-kernels": "warn"}
UNPINNED = {"engine-packages": "fail", "engine-caution": "warn"}
MODELS = [{"name": name, "repo": repo} for name, repo in REPOS.items()]


def judge(
    engine,
    version,
    *,
    driver="550.163.01",
    toolkit="12.4",
    model="r1",
    args=None,
    packages=None,
    accepts=None,
    **options,
):
    """The findings about one service, without those about advisories unless they are asked for."""
    stack = Stack(driver, toolkit, {engine: Engine(version, packages or {})}, accepts or {})
    service = {"name": "chat", "engine": engine, "model": model, "args": args or {}}
    return findings(stack, KNOWN, [service], MODELS, **options)


def one(found, rule):
    """The only finding of a rule."""
    (finding,) = (finding for finding in found if finding["id"] == rule)
    return finding


def rules(*args, **options):
    """Rule -> severity of the findings that are not about advisories."""
    found = judge(*args, **options)
    return {finding["id"]: finding["severity"] for finding in found if finding["id"].islower()}


@pytest.mark.parametrize(
    ("engine", "version", "options", "expected"),
    [
        # The CUDA release that an engine brings needs a driver.
        ("vllm", "0.32.0", {}, {"engine-driver": "fail"}),
        ("vllm", "0.32.0", {"driver": "575.57.08"}, {"engine-driver": "fail"}),
        ("vllm", "0.32.0", {"driver": "580.65.06"}, {}),
        ("vllm", "0.20.0", {}, {"engine-driver": "fail"}),
        ("sglang", "0.5.11", {}, {"engine-driver": "fail"}),
        ("sglang", "0.5.23", {"driver": "580.178.04"}, {}),
        ("ollama", "0.30.11", {"driver": "535.309.01", "toolkit": None}, {"engine-driver": "fail"}),
        ("ollama", "0.30.11", {}, {}),
        ("ollama", "0.30.10", {"driver": "535.309.01", "toolkit": None}, {}),
        ("vllm", "0.8.5.post1", {}, {}),
        ("sglang", "0.5.8.post1", {"model": "r1-awq"}, {}),
        # Kernels of a quantization without native code.
        ("vllm", "0.12.0", {"model": "r1-awq"}, NO_MARLIN),
        ("vllm", "0.19.1", {"model": "r1-awq", "driver": "570.211.01"}, NO_MARLIN),
        ("vllm", "0.12.0", {"args": {"quantization": "awq_marlin"}}, NO_MARLIN),
        ("vllm", "0.12.0", {"args": {"quantization": "GPTQ"}}, NO_MARLIN),
        ("vllm", "0.12.0", {"model": "r1-awq", "args": {"quantization": "fp8"}}, {"engine-kernels": "warn"}),
        ("vllm", "0.12.0", {"model": "r1-awq", "driver": "575.57.08"}, {}),
        ("vllm", "0.11.2", {"model": "r1-awq"}, {"engine-kernels": "warn"}),
        ("vllm", "0.11.2", {"model": "r1-awq", "driver": "570.211.01"}, {}),
        # Kernels that are compiled on the host.
        ("sglang", "0.5.9", {"toolkit": None}, {"engine-nvcc": "fail"}),
        ("sglang", "0.5.10.post1", {"toolkit": None}, {"engine-nvcc": "fail"}),
        ("sglang", "0.5.10.post1", {}, {}),
        ("sglang", "0.5.8.post1", {"toolkit": None}, {}),
        # Versions that nobody can install.
        ("vllm", "0.8.0", {}, {"engine-unusable": "fail"}),
        ("sglang", "0.4.2", {}, {"engine-unusable": "fail"}),
        ("sglang", "0.4.4", {}, {"engine-unusable": "fail"}),
        ("sglang", "0.5.3", {}, {"engine-unusable": "fail"}),
        ("vllm", "0.8.1", {}, {}),
        # Packages that have to be pinned beside an engine.
        ("sglang", "0.4.3.post2", {}, UNPINNED),
        ("sglang", "0.4.3.post2", {"packages": {"transformers": "4.49.0"}}, UNPINNED),
        ("sglang", "0.4.3.post2", {"packages": {"transformers": "4.48.3"}}, {"engine-caution": "warn"}),
        ("sglang", "0.4.6.post5", {}, {}),
        ("vllm", "0.33.0", {"driver": "580.178.04"}, {"engine-packages": "fail"}),
        ("vllm", "0.33.0", {"driver": "580.178.04", "packages": {"certifi": "2026.10.18"}}, {}),
        # Versions of which nothing is known, and an engine of which nothing needs to be.
        ("vllm", "0.99.0", {}, {"engine-unknown": "warn"}),
        ("ollama", "0.1.0", {}, {"engine-unknown": "warn"}),
        ("llama_cpp", "b4741", {}, {}),
        # The toolkit needs a driver too.
        ("ollama", "0.5.11", {"toolkit": "13.0"}, {"toolkit-driver": "fail"}),
        ("ollama", "0.5.11", {"driver": "550.40.07"}, {"toolkit-driver": "fail"}),
        ("ollama", "0.5.11", {"driver": "550.54.14"}, {}),
        ("ollama", "0.5.11", {"toolkit": "99.0"}, {"toolkit-unknown": "warn"}),
        # The driver that a host has loaded counts beside the stack's.
        ("vllm", "0.32.0", {"driver": "580.178.04", "driver_version": "550.163.01"}, {"engine-driver": "fail"}),
        ("vllm", "0.32.0", {"driver": "580.178.04", "driver_version": "580.65.06"}, {}),
        ("ollama", "0.5.11", {"driver_version": "535.309.01"}, {"toolkit-driver": "fail"}),
    ],
)
def test_a_rule_fires_where_it_should(engine, version, options, expected):
    assert rules(engine, version, **options) == expected


def test_a_finding_names_the_object_what_was_expected_what_was_found_and_what_to_do():
    finding = one(judge("vllm", "0.32.0", model="r1-awq"), "engine-driver")
    assert finding["object"] == "service chat: vllm 0.32.0"
    assert finding["expected"] == "driver 580 or newer, for CUDA 13.0"
    assert finding["found"] == "550.163.01 of the stack"
    assert "The newest that runs here is vllm 0.8.5.post1." in finding["advice"]


def test_a_driver_that_is_the_stack_s_own_is_judged_once():
    found = judge("vllm", "0.32.0", driver_version="550.163.01")
    assert [finding["found"] for finding in found if finding["id"] == "engine-driver"] == ["550.163.01 of the stack"]


def test_both_drivers_are_named():
    found = judge("vllm", "0.32.0", driver_version="570.26")
    places = [finding["found"] for finding in found if finding["id"] == "engine-driver"]
    assert places == ["550.163.01 of the stack", "570.26 loaded on the host"]


@pytest.mark.parametrize(
    ("driver", "model", "newest"),
    [
        ("535.309.01", "r1-awq", "vllm 0.8.5.post1"),
        ("550.163.01", "r1", "vllm 0.8.5.post1"),
        ("570.211.01", "r1-awq", "vllm 0.11.2"),
        ("575.57.08", "r1-awq", "vllm 0.19.1"),
        ("580.178.04", "r1-awq", "vllm 0.32.0"),
        ("470.42.01", "r1", "No known version of vllm runs here."),
    ],
)
def test_the_newest_version_that_runs_is_named(driver, model, newest):
    found = judge("vllm", "0.8.0", driver=driver, model=model, toolkit=None)
    assert newest in one(found, "engine-unusable")["advice"]


@pytest.mark.parametrize(
    ("engine", "driver", "toolkit", "model"),
    [*itertools.product(["ollama", "vllm", "sglang"], DRIVERS, [None, "12.4"], REPOS)],
)
def test_what_is_advised_runs(engine, driver, toolkit, model):
    options = {"driver": driver, "toolkit": toolkit, "model": model}
    advice = one(judge(engine, "0.99.0", **options), "engine-unknown")["advice"]
    if "No known version" in advice:
        assert (engine, driver) == ("ollama", "525.60.13")
        return
    advised = advice.split(f"runs here is {engine} ")[1].rstrip(".")
    assert not [rule for rule in rules(engine, advised, **options) if rule.startswith("engine-")]


def test_an_engine_that_the_stack_lacks():
    stack = Stack("550.163.01", "12.4", {"ollama": Engine("0.5.11", {})}, {})
    found = findings(stack, KNOWN, [{"name": "chat", "engine": "vllm", "model": "r1"}], MODELS)
    finding = one(found, "engine-missing")
    assert (finding["severity"], finding["object"], finding["found"]) == ("fail", "service chat", "vllm")
    assert finding["expected"] == "an engine of the stack: ollama"
    assert finding["advice"] == "Add engines.vllm to the stack."


def test_only_what_the_services_use_is_judged():
    engines = {"ollama": Engine("0.35.1", {}), "vllm": Engine("0.8.0", {})}
    stack = Stack("580.178.04", "12.4", engines, {})
    assert findings(stack, KNOWN, [], MODELS) == []
    assert findings(stack, KNOWN, [{"name": "chat", "engine": "ollama", "model": "r1"}], MODELS) == []
    assert findings(stack, KNOWN, [{"name": "chat", "engine": "vllm", "model": "r1"}], MODELS) != []


@pytest.mark.parametrize("service", [{}, {"name": "chat"}, {"engine": "vllm"}])
def test_a_malformed_service_is_one_error(service):
    stack = Stack("580.178.04", "12.4", {}, {})
    with pytest.raises(LlmError, match="A service is malformed: expected name and engine, found "):
        findings(stack, KNOWN, [service], MODELS)


def test_a_malformed_driver_version_is_one_error():
    with pytest.raises(LlmError, match="'N/A' is not a version"):
        judge("ollama", "0.5.11", driver_version="N/A")


@pytest.mark.parametrize(
    ("engine", "version", "advisory", "severity"),
    [
        ("vllm", "0.21.0", "CVE-2026-48746", "fail"),
        ("vllm", "0.22.0rc1", "CVE-2026-48746", "fail"),
        ("vllm", "0.22.0", "CVE-2026-48746", None),
        ("vllm", "0.10.1", "CVE-2025-62164", None),
        ("vllm", "0.10.2", "CVE-2025-62164", "fail"),
        ("vllm", "0.11.1", "CVE-2025-62164", None),
        ("vllm", "0.31.0", "PYSEC-2026-4344", "warn"),
        ("vllm", "0.32.0", "PYSEC-2026-4344", None),
        ("ollama", "0.34.1", "CVE-2026-103663", None),
        ("ollama", "0.34.2", "CVE-2026-103663", "fail"),
        ("ollama", "0.35.1", "CVE-2026-103663", None),
        ("sglang", "0.5.18", "CVE-2026-86793", "fail"),
        ("sglang", "0.5.19", "CVE-2026-86793", None),
        ("sglang", "0.5.23", "CVE-2026-93034", "fail"),
        ("llama_cpp", "b8145", "CVE-2026-27940", "fail"),
        ("llama_cpp", "b11669", "CVE-2026-27940", None),
    ],
)
def test_an_advisory_has_a_range(engine, version, advisory, severity):
    severities = {finding["id"]: finding["severity"] for finding in judge(engine, version)}
    assert severities.get(advisory) == severity


@pytest.mark.parametrize(
    ("driver", "expected"),
    [
        ("535.230.02", {"NVIDIA-5630": "535.247.01 or newer", "NVIDIA-5861": "580.178.04 or newer"}),
        ("550.90.12", {"NVIDIA-5630": "550.163.01 or newer", "NVIDIA-5861": "580.178.04 or newer"}),
        ("550.163.01", {"NVIDIA-5861": "580.178.04 or newer"}),
        ("580.159.04", {"NVIDIA-5861": "580.178.04 or newer"}),
        ("580.178.04", {}),
        ("595.71.05", {"NVIDIA-5861": "595.91.07 or newer"}),
        ("595.91.07", {}),
    ],
)
def test_drivers_have_a_floor_in_each_branch(driver, expected):
    found = findings(Stack(driver, None, {}, {}), KNOWN, [], MODELS)
    assert {finding["id"]: finding["expected"] for finding in found} == expected
    assert {finding["severity"] for finding in found} <= {"warn"}


def test_an_accepted_advisory_warns_with_the_reason():
    found = judge("sglang", "0.5.23", driver="580.178.04", accepts={"CVE-2026-93034": "One host only."})
    finding = one(found, "CVE-2026-93034")
    assert (finding["severity"], finding["object"], finding["found"]) == ("warn", "sglang", "0.5.23")
    assert "Accepted by the stack: One host only." in finding["advice"]
    assert finding["expected"] == "a version with a fix, of which none is known"


def test_a_refused_advisory_says_how_to_go_on():
    (finding,) = (found for found in judge("ollama", "0.34.2", driver="580.178.04") if found["severity"] == "fail")
    assert finding["expected"] == "0.35.0 or newer"
    assert "Use a version with the fix, or accept the advisory in the stack and say why." in finding["advice"]


def test_what_is_vulnerable_can_be_allowed_as_a_whole():
    assert {found["severity"] for found in judge("vllm", "0.8.5.post1")} == {"fail", "warn"}
    assert {found["severity"] for found in judge("vllm", "0.8.5.post1", allow_vulnerable=True)} == {"warn"}
    assert rules("vllm", "0.8.0", allow_vulnerable=True) == {"engine-unusable": "fail"}
