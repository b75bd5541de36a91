# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Each active check passes GPUs that work, refuses those that do not, and is skipped where it cannot be made."""

from __future__ import annotations

import json

import cuda_mock
import pytest
from run_command import run_command

from ansible_collections.llmfleet.serving.plugins.module_utils import _cuda_checks
from ansible_collections.llmfleet.serving.plugins.module_utils._errors import LlmError

OWN = ["cuda-init", "cuda-count", "memory-intact", "copy-rate", "peer-copy", "matrix-product"]
PROGRAMS = ["nvbandwidth", "dcgm-diag", "all-reduce"]

# What a host of two GPUs is like, and the checks that this breaks, on which GPUs.
FAULTS = {
    "cuInit=802": {("cuda-init", None)},
    "cuDeviceGetCount=999": {("cuda-init", None)},
    "gpus=1": {("cuda-count", None)},
    "gpus=3": {("cuda-count", None)},
    "cuDeviceGet@1=101": {("memory-intact", 1)},
    "cuDevicePrimaryCtxRetain@1=46": {("memory-intact", 1)},
    "cuMemAlloc_v2@1=2": {("memory-intact", 1)},
    "corrupt@1": {("memory-intact", 1)},
    "crash@1": {("memory-intact", 1)},
    "corrupt": {("memory-intact", 0), ("memory-intact", 1)},
    "device-rate@1=2500": {("copy-rate", 1)},
    "host-rate@1=40": {("copy-rate", 1)},
    "cuMemcpyHtoDAsync_v2@1=719": {("copy-rate", 1)},
    "no-access@0": {("peer-copy", 0)},
    "peer-corrupt@1": {("peer-copy", 1)},
    "peer-rate@1=330": {("peer-copy", 1)},
    "cuMemcpyPeerAsync@0=220": {("peer-copy", 0)},
    "product-rate@1=691": {("matrix-product", 1)},
    "product-corrupt@1": {("matrix-product", 1)},
    "cublasCreate_v2@0=1": {("matrix-product", 0)},
}


@pytest.fixture
def check(monkeypatch, tmp_path):
    """check("words", chosen=[...], count=2, ...): what becomes of a host that the words describe, an H100 one.

    Its programs are in tmp_path, and there are none at first.
    """

    def make(words: str = "", chosen=None, **options):
        cuda_mock.install(monkeypatch, words)
        monkeypatch.setenv("PATH", str(tmp_path))
        options = {"count": 2, "timeout": 60, "cublas": cuda_mock.library(), **options}
        return _cuda_checks.check(_cuda_checks.Host(run_command, _cuda_checks.FLOORS["h100"], **options), chosen)

    return make


def broken(verdict: _cuda_checks.Verdict) -> set:
    return {(finding["rule"], finding["gpu"]) for finding in verdict["findings"]}


def outcomes(verdict: _cuda_checks.Verdict) -> dict[str, str]:
    return {rule["rule"]: rule["outcome"] for rule in verdict["rules"]}


def test_gpus_that_work_pass_and_what_is_not_there_is_skipped(check):
    verdict = check()
    assert (verdict["verdict"], verdict["findings"]) == ("pass", [])
    assert outcomes(verdict) == {**dict.fromkeys(OWN, "pass"), **dict.fromkeys(PROGRAMS, "skip")}
    reasons = {rule["rule"]: rule["reason"] for rule in verdict["rules"] if rule["reason"]}
    assert set(reasons) == set(PROGRAMS)
    assert reasons["dcgm-diag"] == "dcgmi cannot be run: No such file or directory"


def test_all_that_was_measured_is_told(check):
    figures = [
        (one["measure"], one["gpu"], one["peer"], one["value"], one["unit"], one["minimum"])
        for one in check("product-rate@1=700.04")["measurements"]
    ]
    assert figures == [
        ("device-copy", 0, None, 3000.0, "GB/s", 2512),
        ("host-to-device", 0, None, 55.0, "GB/s", 48),
        ("device-to-host", 0, None, 55.0, "GB/s", 48),
        ("device-copy", 1, None, 3000.0, "GB/s", 2512),
        ("host-to-device", 1, None, 55.0, "GB/s", 48),
        ("device-to-host", 1, None, 55.0, "GB/s", 48),
        ("peer-copy", 0, 1, 390.0, "GB/s", 333),
        ("peer-copy", 1, 0, 390.0, "GB/s", 333),
        ("matrix-product", 0, None, 780.0, "TFLOP/s", 692),
        ("matrix-product", 1, None, 700.0, "TFLOP/s", 692),
    ]


@pytest.mark.parametrize("words", FAULTS)
def test_a_fault_breaks_its_check_and_no_other(check, words):
    verdict = check(words)
    assert broken(verdict) == FAULTS[words]
    assert verdict["verdict"] == "fail"
    failed = {rule for rule, outcome in outcomes(verdict).items() if outcome == "fail"}
    assert failed == {rule for rule, _gpu in FAULTS[words]}


def test_a_gpu_that_hangs_is_a_finding(check):
    verdict = check("hang@1", chosen=[], timeout=1)
    (finding,) = verdict["findings"]
    assert (finding["rule"], finding["gpu"], finding["found"]) == ("memory-intact", 1, "no answer within 1 s")


def test_without_cuda_nothing_else_is_checked(check):
    verdict = check("cuInit=802")
    (finding,) = verdict["findings"]
    assert finding["found"] == "CUDA_ERROR_SYSTEM_NOT_READY (802, system not yet initialized) from cuInit"
    assert "nvidia-fabricmanager" in finding["advice"]
    assert outcomes(verdict) == {"cuda-init": "fail", **dict.fromkeys([*OWN[1:], *PROGRAMS], "skip")}


def test_gpus_that_lose_data_are_asked_for_nothing_more(check):
    verdict = check("gpus=3 corrupt@1", count=3)
    assert {one["gpu"] for one in verdict["measurements"]} == {0, 2}
    assert {one["peer"] for one in verdict["measurements"]} == {None, 0, 2}


def test_all_slow_peers_of_a_gpu_are_one_finding(check):
    (finding,) = check("gpus=4 peer-rate@2=12.34", chosen=["peer-copy"], count=4)["findings"]
    assert finding["expected"] == "at least 333 GB/s to each other GPU"
    assert finding["found"] == "12.3 GB/s to GPU 0, 12.3 GB/s to GPU 1, 12.3 GB/s to GPU 3"


def test_a_gpu_without_peers_skips_what_takes_two(check):
    verdict = check("gpus=1", count=1)
    assert verdict["verdict"] == "pass"
    reasons = {rule["rule"]: rule["reason"] for rule in verdict["rules"] if rule["outcome"] == "skip"}
    assert reasons["peer-copy"] == reasons["all-reduce"] == "it takes two GPUs that work"


def test_no_cublas_is_no_fault(check, monkeypatch):
    monkeypatch.setattr(_cuda_checks._cuda, "_cublas", lambda *_args: _cuda_checks._cuda._load_cublas(cuda_mock.SOURCE))
    verdict = check(chosen=None, cublas=None)
    (rule,) = [rule for rule in verdict["rules"] if rule["rule"] == "matrix-product"]
    assert rule["outcome"] == "skip"
    assert rule["reason"].startswith("cuBLAS cannot be loaded: ")


def test_a_check_that_was_asked_for_must_be_possible(check):
    verdict = check(chosen=["copy-rate", "nvbandwidth"])
    assert list(outcomes(verdict)) == ["cuda-init", "cuda-count", "memory-intact", "copy-rate", "nvbandwidth"]
    (finding,) = verdict["findings"]
    assert finding["rule"] == "nvbandwidth"
    assert finding["found"] == "it skipped: nvbandwidth cannot be run: No such file or directory"


def test_what_keeps_checks_that_were_asked_for_from_running_is_told_once(check):
    verdict = check("cuInit=100", chosen=["copy-rate", "peer-copy"])
    assert broken(verdict) == {("cuda-init", None)}
    assert outcomes(verdict)["copy-rate"] == "skip"


# --- Programs on the host


def install(folder, name: str, output: str, status: int = 0, check: str = "") -> None:
    (folder / f"{name}.txt").write_text(output)
    (folder / name).write_text(f"#!/bin/sh\n{check}\n/bin/cat {folder}/{name}.txt\nexit {status}\n")
    (folder / name).chmod(0o755)


def nvbandwidth(up: str = "55.1", down: str = "54.9", peer: str = "390") -> str:
    matrices = {
        "host_to_device_memcpy_ce": [[up, "55"]],
        "device_to_host_memcpy_ce": [[down, "55"]],
        "device_to_device_memcpy_read_ce": [["N/A", peer], ["390", "N/A"]],
    }
    tests = [{"name": name, "status": "Passed", "bandwidth_matrix": matrix} for name, matrix in matrices.items()]
    return json.dumps({"nvbandwidth": {"testcases": tests}})


def dcgm(*statuses: str) -> str:
    results = [
        {"entity_group": "GPU", "entity_id": gpu, "status": status, "warnings": [{"warning": f"So it is with {gpu}."}]}
        for gpu, status in enumerate(statuses)
    ]
    tests = [{"name": "software", "results": results}]
    return json.dumps({"DCGM Diagnostic": {"test_categories": [{"category": "Deployment", "tests": tests}]}})


def all_reduce(rate: float = 361.1, wrong: int = 0) -> str:
    return f"# Out of bounds values : {wrong} {'FAILED' if wrong else 'OK'}\n# Avg bus bandwidth    : {rate}\n"


def test_programs_that_are_there_are_run_as_they_must_be(check, tmp_path):
    arguments = "host_to_device_memcpy_ce device_to_host_memcpy_ce device_to_device_memcpy_read_ce"
    order = '[ "$CUDA_DEVICE_ORDER $LC_ALL" = "PCI_BUS_ID C" ] || exit 1;'
    install(tmp_path, "nvbandwidth", nvbandwidth(), check=f'{order} [ "$*" = "-j -t {arguments}" ] || exit 2')
    install(tmp_path, "dcgmi", dcgm("Pass", "Pass"), check=f'{order} [ "$*" = "diag -r 1 -j" ] || exit 2')
    install(tmp_path, "all_reduce_perf", all_reduce(), check=f'{order} [ "$*" = "-b 1G -e 1G -g 2" ] || exit 2')
    verdict = check(chosen=PROGRAMS)
    assert verdict["findings"] == []
    assert outcomes(verdict) == {**dict.fromkeys(OWN[:3], "pass"), **dict.fromkeys(PROGRAMS, "pass")}
    assert [(one["measure"], one["gpu"], one["peer"], one["value"]) for one in verdict["measurements"]] == [
        ("host-to-device", 0, None, 55.1),
        ("host-to-device", 1, None, 55.0),
        ("device-to-host", 0, None, 54.9),
        ("device-to-host", 1, None, 55.0),
        ("peer-copy", 0, 1, 390.0),
        ("peer-copy", 1, 0, 390.0),
        ("all-reduce", None, None, 361.1),
    ]


@pytest.mark.parametrize(
    ("program", "output", "status", "rule", "gpu", "found"),
    [
        ("nvbandwidth", nvbandwidth(up="12"), 0, "nvbandwidth", 0, "12.0 GB/s"),
        ("nvbandwidth", nvbandwidth(down="12"), 0, "nvbandwidth", 0, "12.0 GB/s"),
        ("nvbandwidth", nvbandwidth(peer="12"), 0, "nvbandwidth", 0, "12.0 GB/s to GPU 1"),
        ("nvbandwidth", "CUDA_ERROR", 1, "nvbandwidth", None, "no JSON from nvbandwidth: CUDA_ERROR"),
        ("nvbandwidth", nvbandwidth(), 1, "nvbandwidth", None, "exit status 1"),
        ("dcgmi", dcgm("Pass", "Fail"), 226, "dcgm-diag", 1, "fail: So it is with 1."),
        ("dcgmi", dcgm("Pass", "Warn"), 0, "dcgm-diag", 1, "warn: So it is with 1."),
        ("dcgmi", "", 1, "dcgm-diag", None, "no JSON from dcgmi: it printed nothing"),
        ("all_reduce_perf", all_reduce(rate=100), 0, "all-reduce", None, "100.0 GB/s"),
        ("all_reduce_perf", all_reduce(wrong=3), 1, "all-reduce", None, "3 wrong numbers"),
        ("all_reduce_perf", "NCCL failure", 2, "all-reduce", None, "no result of all_reduce_perf: NCCL failure"),
    ],
)
def test_what_a_program_finds_is_a_finding(check, tmp_path, program, output, status, rule, gpu, found):
    install(tmp_path, program, output, status)
    verdict = check()
    assert [(one["rule"], one["gpu"], one["found"]) for one in verdict["findings"]] == [(rule, gpu, found)]
    assert outcomes(verdict)[rule] == "fail"


def test_dcgm_may_skip_some_of_its_tests(check, tmp_path):
    install(tmp_path, "dcgmi", dcgm("Pass", "Skip"))
    assert outcomes(check())["dcgm-diag"] == "pass"


def test_dcgm_that_skips_everything_has_not_passed(check, tmp_path):
    install(tmp_path, "dcgmi", dcgm("Skip", "Skip"))
    verdict = check()
    assert outcomes(verdict)["dcgm-diag"] == "skip"
    (rule,) = [rule for rule in verdict["rules"] if rule["rule"] == "dcgm-diag"]
    assert rule["reason"] == "DCGM skipped all of its tests. So it is with 0."


def test_a_program_that_hangs_is_a_finding(check, tmp_path):
    install(tmp_path, "dcgmi", "", check="exec /bin/sleep 600")
    (finding,) = check(chosen=["dcgm-diag"], timeout=2)["findings"]
    assert (finding["rule"], finding["found"]) == ("dcgm-diag", "no answer within 2 s")


# --- The policy


def test_every_check_has_a_fault_that_breaks_it():
    assert {rule for broken in FAULTS.values() for rule, _gpu in broken} == set(OWN)
    assert list(_cuda_checks.CHECKS) == [*OWN[3:], *PROGRAMS]


def test_floors_are_the_parts_of_published_figures_that_they_say():
    floors = _cuda_checks.FLOORS["h800"]
    assert (floors.device_copy, floors.peer_copy, floors.matrix_product, floors.all_reduce) == (2512, 148, 692, 124)


@pytest.mark.parametrize(
    ("options", "msg"),
    [
        ({"count": 0}, "A count of 0 GPUs is refused: expected at least 1."),
        ({"timeout": 0}, "A time limit of 0 s is refused: expected 1 to 3600."),
        ({"timeout": 3601}, "A time limit of 3601 s is refused: expected 1 to 3600."),
        ({"cublas": "/nowhere/x"}, "/nowhere/x is no file: expected the library of cuBLAS, like libcublas.so.12."),
    ],
)
def test_what_makes_no_sense_is_refused(check, options, msg):
    with pytest.raises(LlmError) as raised:
        check(**options)
    assert str(raised.value) == msg


@pytest.fixture
def ready(monkeypatch, tmp_path):
    """ready("words", "nvidia0", ...): what keeps a host of two GPUs with these device nodes from using CUDA."""

    def ask(words: str, *nodes: str) -> list[tuple[str, str]]:
        cuda_mock.install(monkeypatch, words)
        for node in nodes:
            (tmp_path / node).touch()
        found = _cuda_checks.ready(run_command, count=2, timeout=60, devices=tmp_path)
        return [(finding["rule"], finding["found"]) for finding in found]

    return ask


NODES = ("nvidiactl", "nvidia-uvm", "nvidia0", "nvidia1")


def test_a_host_whose_programs_can_use_cuda_is_ready(ready):
    assert ready("", *NODES, "nvidia-caps") == []


@pytest.mark.parametrize("words", ["cuInit=802", "gpus=1", "gpus=3"])
def test_a_host_on_which_cuda_does_not_start_on_each_gpu_is_not_ready(ready, words):
    ((rule, _found),) = ready(words, *NODES)
    assert {(rule, None)} == FAULTS[words]


def test_a_host_without_its_device_nodes_is_not_ready(ready):
    assert [rule for rule, _found in ready("", *NODES[:1], *NODES[2:])] == ["device-nodes"]
    assert "no nvidia-uvm in" in ready("")[0][1]


def test_each_gpu_needs_its_node(ready):
    ((rule, found),) = ready("", *NODES[:3])
    assert (rule, found.partition(" in ")[0]) == ("device-nodes", "1")
