# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The GPU gate in the test bed, by the real nvidia-smi and the real pynvml: each named fault gives exactly its rule."""

from __future__ import annotations

import json
import typing as t
from pathlib import Path

import pynvml
import pytest

from ansible_collections.llmfleet.serving.plugins.module_utils._gate_rules import RULES
from testbed import hosts
from testbed.engine import docker
from testbed.nvml.faults import FAULTS

REPOSITORY = Path(__file__).parents[4]
SOURCES = ("nvml", "nvidia-smi")
BAD = 3  # the GPU that gets the fault

# What the module and the boot unit do, without Ansible.
PROBE = """
import json, sys
from ansible_collections.llmfleet.serving.plugins.module_utils._gate import gate
from run_command import run_command
options = json.loads(sys.argv[1])
print(json.dumps({source: gate(run_command, {"source": source, **options}) for source in ("nvml", "nvidia-smi")}))
"""


class Bed:
    """A simulated host of eight GPUs that judges itself."""

    def __init__(self, name: str) -> None:
        self.name = name

    def run(self, *argv: str) -> str:
        return docker("exec", "--env=PYTHONPATH=/opt/llmfleet", self.name, *argv).stdout

    def gate(self, **options: t.Any) -> dict[str, dict[str, t.Any]]:
        """The verdict by what each source tells."""
        floors = {"driver_version_min": "550.54.14", "cuda_version_min": "12.4", "timeout": 5}
        return json.loads(self.run("python3", "-c", PROBE, json.dumps({**floors, **options})))

    def set(self, **settings: str) -> None:
        """Other settings of one GPU than its profile's."""
        lines = "".join(f"{key} = {value}\\n" for key, value in settings.items())
        self.run("sh", "-c", f"printf '\\n[gpu {BAD}]\\n{lines}' >> /etc/nvml-mock/profile.ini")


@pytest.fixture(scope="module")
def host() -> t.Iterator[Bed]:
    name = "llmfleet-test-gate"
    collection = "/opt/llmfleet/ansible_collections/llmfleet/serving/plugins"
    hosts.up([name])
    try:
        docker("exec", name, "mkdir", "-p", collection)
        docker("cp", str(REPOSITORY / "plugins/module_utils"), f"{name}:{collection}/")
        for file in (pynvml.__file__, str(REPOSITORY / "tests/run_command.py")):
            docker("cp", file, f"{name}:/opt/llmfleet/")
        yield Bed(name)
    finally:
        hosts.down([name])


@pytest.fixture
def bed(host: Bed) -> Bed:
    """A healthy 8x H800."""
    host.run("gpu-fault", "profile", "h800")
    return host


def told(result: dict[str, t.Any]) -> dict[str, t.Any]:
    """The facts that both sources tell with driver 550: NVML alone knows its version, nvidia-smi alone the margin."""
    facts = result["facts"]
    only_one = ("unanswered", "temperature_margin")
    gpus = [{key: value for key, value in gpu.items() if key not in only_one} for gpu in facts["gpus"]]
    return {**facts, "source": None, "nvml_version": None, "gpus": gpus}


def broken(result: dict[str, t.Any]) -> set[tuple[str, int | None]]:
    """The broken rules and their GPUs. The reference host runs without persistence mode, and is warned about it."""
    return {(one["rule"], one["gpu"]) for one in result["findings"]} - {("persistence-mode", gpu) for gpu in range(8)}


# --- Healthy hosts

HEALTHY = {"h800": (81559, 8), "h100": (81559, 18), "h200": (143771, 18)}
# What driver 550 does not tell, and what a simulated host does not have: a fabric manager.
SKIPPED = {"memory-repair", "memory-unrepairable", "fabric-health", "fabric-manager"}


@pytest.mark.bed
@pytest.mark.parametrize("profile", HEALTHY)
def test_both_sources_tell_the_same_and_it_passes(bed, profile):
    bed.run("gpu-fault", "profile", profile)
    results = bed.gate(profile="auto")
    assert told(results["nvml"]) == told(results["nvidia-smi"])
    memory, links = HEALTHY[profile]
    facts = results["nvml"]["facts"]
    assert facts["nvml_version"] == "12.550.163.01"
    assert (facts["driver_version"], facts["cuda_version"]) == ("550.163.01", "12.4")
    assert facts["topology"] == [["X" if a == b else f"NV{links}" for a in range(8)] for b in range(8)]
    assert facts["xids"] == []
    assert [gpu["index"] for gpu in facts["gpus"]] == list(range(8))
    assert [gpu["numa_node"] for gpu in facts["gpus"]] == [0, 0, 0, 0, 1, 1, 1, 1]
    for gpu in facts["gpus"]:
        assert gpu["memory_total"] == memory
        assert [(link["active"], link["speed"]) for link in gpu["nvlinks"]] == [(True, 26562)] * links
        assert gpu["nvlinks"][0]["peer"] == "00000000:05:00.0"
        assert {key for key, value in gpu.items() if value is None} == {
            "error", "temperature_margin", "temperature_slowdown", "temperature_shutdown", "fabric_health",
            "repair_pending", "unrepairable_memory",
        }  # fmt: skip
    for result in results.values():
        assert (result["verdict"], result["profile"], broken(result)) == ("pass", profile, set())
        assert {one["rule"] for one in result["rules"] if one["outcome"] == "skip"} == SKIPPED
    assert results["nvidia-smi"]["facts"]["gpus"][0]["temperature_margin"] == 50


# --- Faults

# Which rule a named fault breaks on its GPU.
ON_THE_GPU = {
    "lost-gpu": "gpu-answers",
    "lost-gpu-silent": "gpu-answers",
    "wrong-name": "gpu-name",
    "less-memory": "gpu-memory",
    "inforom-corrupted": "inforom",
    "ecc-off": "ecc-mode",
    "ecc-off-next": "ecc-pending",
    "ecc-uncorrectable": "ecc-volatile",
    "ecc-uncorrectable-before": "ecc-aggregate",
    "ecc-correctable": "ecc-corrected",
    "ecc-sram-threshold": "ecc-sram-threshold",
    "row-remap-pending": "row-remap-pending",
    "row-remap-failed": "row-remap-failure",
    "row-remap-spare": "row-remap-spare",
    "reset-required": "recovery-action",
    "mig-on": "mig-mode",
    "mig-on-next": "mig-pending",
    "compute-exclusive": "compute-mode",
    "throttling": "throttling",
    "too-hot": "temperature",
    "warm": "temperature-warm",
    "power-limited": "power-limit",
    "pcie-narrow": "pcie-width",
    "pcie-slow": "pcie-gen",
    "pcie-replays": "pcie-replays",
    "nvlink-down": "nvlink-count",
    "nvlink-slow": "nvlink-speed",
    "nvlink-errors": "nvlink-errors",
    "fabric-not-completed": "fabric",
    "fabric-degraded": "fabric-health",
    "foreign-process": "processes",
    "memory-in-use": "idle",
    "xid-79": "xid",
    "xid-unknown": "xid-unknown",
}
# ... and on the host as a whole.
ON_THE_HOST = {
    "old-driver": "driver-version",
    "old-cuda": "cuda-version",
    "vbios-differs": "vbios",
    "fabric-manager-failed": "fabric-manager",
    "fabric-manager-old": "fabric-manager",
}
# Faults with which a source gives no facts, and what it says instead.
MUTE = {
    "driver-mismatch": {
        "nvml": "version mismatch. The loaded kernel",
        "nvidia-smi": "version mismatch. The loaded kernel",
    },
    "nvidia-smi-hangs": {
        "nvml": "did not answer nvml within 5 s",
        "nvidia-smi": "did not answer nvidia-smi within 5 s",
    },
    "nvidia-smi-missing": {"nvidia-smi": "nvidia-smi cannot be run: No such file"},
    "lost-gpu": {"nvidia-smi": "GPU is lost"},
}
# These have tests of their own.
OTHERS = {"gpu-missing", "persistence-off", "nvlinks-down"}


def test_no_fault_is_forgotten():
    assert {*ON_THE_GPU, *ON_THE_HOST, *MUTE, *OTHERS} == set(FAULTS)


def test_no_rule_is_forgotten():
    """But those of a newer driver than the bed's."""
    # These have tests of their own.
    others = {"driver-answers", "gpu-count", "gpu-on-bus", "persistence-mode", "topology", "kernel-log"}
    fired = {*ON_THE_GPU.values(), *ON_THE_HOST.values(), *others}
    assert fired | {"memory-repair", "memory-unrepairable"} == {rule.id for rule in RULES}


@pytest.mark.bed
@pytest.mark.parametrize("fault", [*ON_THE_GPU, *ON_THE_HOST])
def test_a_fault_breaks_its_rule_and_no_other(bed, fault):
    bed.run("gpu-fault", fault, str(BAD))
    results = bed.gate(profile="h800")
    rule = {**ON_THE_GPU, **ON_THE_HOST}[fault]
    fails = rule in {rule.id for rule in RULES if rule.severity == "fail"}
    for source in set(SOURCES) - set(MUTE.get(fault, {})):
        assert broken(results[source]) == {(rule, BAD if fault in ON_THE_GPU else None)}, source
        assert results[source]["verdict"] == ("fail" if fails else "pass")
    if fault not in MUTE and fault != "lost-gpu-silent":
        assert told(results["nvml"]) == told(results["nvidia-smi"])


@pytest.mark.bed
@pytest.mark.parametrize("fault", MUTE)
def test_a_driver_or_tool_that_does_not_work_is_a_verdict(bed, fault):
    bed.run("gpu-fault", fault)
    results = bed.gate(profile="h800")
    for source, said in MUTE[fault].items():
        assert said in results[source]["msg"]
        assert [one["rule"] for one in results[source]["findings"]] == ["driver-answers"]
        assert results[source]["facts"] is None
    for source in set(SOURCES) - set(MUTE[fault]):
        assert results[source]["facts"]["attached_gpus"] == 8


@pytest.mark.bed
def test_a_gpu_that_the_driver_did_not_take_up_is_still_on_the_bus(bed):
    bed.run("gpu-fault", "gpu-missing")
    for result in bed.gate(profile="h800").values():
        assert broken(result) == {("gpu-count", None), ("gpu-on-bus", None)}
        assert (result["facts"]["pci_gpus"], result["facts"]["attached_gpus"]) == (8, 7)


@pytest.mark.bed
def test_without_persistence_mode_it_warns(bed):
    bed.run("gpu-fault", "profile", "h100")
    assert [one["findings"] for one in bed.gate(profile="h100").values()] == [[], []]
    bed.run("gpu-fault", "persistence-off", str(BAD))
    for result in bed.gate(profile="h100").values():
        assert [(one["rule"], one["gpu"]) for one in result["findings"]] == [("persistence-mode", BAD)]
        assert result["verdict"] == "pass"


@pytest.mark.bed
def test_a_gpu_without_links_is_not_joined_with_the_others(bed):
    bed.run("gpu-fault", "nvlinks-down", str(BAD))
    results = bed.gate(profile="h800")
    for source, result in results.items():
        assert broken(result) == {("nvlink-count", BAD), *(("topology", gpu) for gpu in range(8))}, source
        assert result["facts"]["topology"][BAD] == ["NODE", "NODE", "NODE", "X", "SYS", "SYS", "SYS", "SYS"]


@pytest.mark.bed
def test_what_was_logged_before_a_repair_may_be_left_out(bed):
    bed.run("gpu-fault", "xid-79", str(BAD))
    repaired = bed.run("date", "--utc", "--date=+1 second", "+%Y-%m-%dT%H:%M:%SZ").strip()
    for result in bed.gate(profile="h800", xid_since=repaired).values():
        assert (broken(result), result["facts"]["xids"]) == (set(), [])


@pytest.mark.bed
def test_a_host_whose_log_cannot_be_read_is_warned_about(bed):
    bed.run("sh", "-c", "rm /run/log/journal/*/kernel-of-gpu-fault.journal")
    for result in bed.gate(profile="h800").values():
        assert broken(result) == {("kernel-log", None)}
        assert result["verdict"] == "pass"


# --- Values that are not told

# A setting without which rules are broken, those rules, and what they find then and after an error of the driver.
REQUIRED = {
    "vbios_version": ({"vbios"}, "Unknown Error"),
    "persistence_mode": ({"persistence-mode"}, "Unknown Error"),
    "compute_mode": ({"compute-mode"}, "Unknown Error"),
    "mig_mode": ({"mig-mode", "mig-pending"}, "Unknown Error"),
    "row_remap_pending": ({"row-remap-pending", "row-remap-failure"}, "Unknown Error"),
    "clock_event_reasons": ({"throttling"}, "Unknown Error"),
    "temperature_c": ({"temperature"}, "Unknown Error"),
    "pcie_width_now": ({"pcie-width"}, "Unknown Error"),
    "pcie_generation": ({"pcie-gen"}, "Unknown Error"),
    "utilization_gpu": ({"idle"}, "N/A"),
}
OPTIONAL = {"power_limit_w": {"power-limit"}, "pcie_replays": {"pcie-replays"}, "row_remap_banks": {"row-remap-spare"}}


@pytest.mark.bed
@pytest.mark.parametrize("setting", REQUIRED)
@pytest.mark.parametrize("value", ["", "!999"])
def test_what_is_required_and_not_told_breaks_its_rule(bed, setting, value):
    bed.run("gpu-fault", "profile", "h100")
    bed.set(**{setting: value})
    rules, error = REQUIRED[setting]
    for source, result in bed.gate(profile="h100").items():
        # nvidia-smi leaves out the histogram of spare rows when it cannot tell the rest.
        assert {one["rule"] for one in result["findings"]} - {"row-remap-spare"} == rules, source
        assert all((error if value else "N/A") in one["found"] for one in result["findings"]), source


@pytest.mark.bed
@pytest.mark.parametrize("setting", OPTIONAL)
def test_what_may_be_lacking_breaks_its_rule_only_by_an_error(bed, setting):
    bed.set(**{setting: ""})
    assert [broken(result) for result in bed.gate(profile="h800").values()] == [set(), set()]
    bed.run("gpu-fault", "none")
    bed.set(**{setting: "!999"})
    for result in bed.gate(profile="h800").values():
        assert {one[0] for one in broken(result)} == OPTIONAL[setting]


# --- Processes and services


@pytest.mark.bed
def test_nothing_is_left_of_what_asked_a_driver_that_hangs(bed):
    before = bed.run("ps", "--no-headers", "-eo", "comm").split().count("python3")
    bed.run("gpu-fault", "nvidia-smi-hangs")
    bed.gate(profile="h800")
    running = bed.run("ps", "--no-headers", "-eo", "comm").split()
    assert (running.count("nvidia-smi"), running.count("python3")) == (0, before)


@pytest.mark.bed
def test_a_service_is_known_by_its_unit_and_may_be_allowed(bed):
    bed.run("systemd-run", "--unit=engine", "sleep", "600")
    pid = int(bed.run("systemctl", "show", "--property=MainPID", "--value", "engine.service"))
    bed.set(process=f"{pid} 40930 /usr/bin/sleep", memory_used_mib="40934", utilization_gpu="90")
    results = {units: bed.gate(profile="h800", allowed_units=list(units)) for units in ((), ("engine.service",))}
    bed.run("systemctl", "stop", "engine.service")
    for source in SOURCES:
        refused, allowed = (results[units][source] for units in ((), ("engine.service",)))
        assert refused["facts"]["gpus"][BAD]["processes"] == [
            {"pid": pid, "name": "/usr/bin/sleep", "memory": 40930, "unit": "engine.service"}
        ]
        assert (refused["verdict"], broken(refused)) == ("fail", {("processes", BAD)})
        assert (allowed["verdict"], broken(allowed)) == ("pass", set())


# --- Baselines


@pytest.mark.bed
def test_a_host_is_held_to_what_was_measured_on_it(bed):
    recorded = bed.gate(baseline="/root/baseline.json", record_baseline=True)
    assert [result["verdict"] for result in recorded.values()] == ["pass", "pass"]
    assert recorded["nvml"]["baseline"]["nvlinks"] == 8
    bed.run("sh", "-c", f"printf '%s' '{json.dumps(recorded['nvml']['baseline'])}' > /root/baseline.json")
    assert [broken(result) for result in bed.gate(baseline="/root/baseline.json").values()] == [set(), set()]
    bed.run("gpu-fault", "vbios-differs", str(BAD))
    assert [broken(one) for one in bed.gate(baseline="/root/baseline.json").values()] == [{("vbios", None)}] * 2
    bed.run("gpu-fault", "profile", "h200")
    for result in bed.gate(baseline="/root/baseline.json").values():
        assert {rule for rule, _gpu in broken(result)} == {"gpu-name", "vbios"}
