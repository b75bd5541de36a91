# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""gpu_check passes or refuses a host by what its GPUs do, with all reasons, in check mode too."""

from __future__ import annotations

import dataclasses

import cuda_mock
import pytest
import yaml

from ansible_collections.llmfleet.serving.plugins.module_utils import _cuda_checks
from ansible_collections.llmfleet.serving.plugins.modules import gpu_check

KEYS = {"verdict", "findings", "rules", "measurements"}


@pytest.fixture
def check(run_module, monkeypatch, tmp_path):
    """check("words", option=value, ...): what the module returns on a host of two GPUs that the words describe."""

    def run(words: str = "", **options):
        cuda_mock.install(monkeypatch, words)
        monkeypatch.setenv("PATH", str(tmp_path))
        return run_module(gpu_check, **{"profile": "h100", "count": 2, "cublas": cuda_mock.library(), **options})

    return run


@pytest.mark.parametrize("check_mode", [False, True])
def test_passes_a_host_whose_gpus_work(check, check_mode):
    result = check(check=check_mode)
    assert set(result) == {"changed", *KEYS}
    assert (result["changed"], result["verdict"], result["findings"]) == (False, "pass", [])
    assert [rule["rule"] for rule in result["rules"]][3:] == list(_cuda_checks.CHECKS)


@pytest.mark.parametrize("check_mode", [False, True])
def test_refuses_with_all_reasons_at_once(check, check_mode):
    words = "gpus=3 cuMemAlloc_v2@2=2 host-rate@1=20 no-access product-wrong@0"
    result = check(words, count=4, check=check_mode)
    assert set(result) == {"failed", "msg", *KEYS}
    assert (result["failed"], result["verdict"]) == (True, "fail")
    assert [line.split(". ")[0] for line in result["msg"].splitlines()] == [
        "The GPUs do not work as those of the profile h100 must:",
        "cuda-count: expected 4 GPUs, found 3",
        "memory-intact (GPU 2): expected a GPU that stores data, "
        "found CUDA_ERROR_OUT_OF_MEMORY (2, out of memory) from cuMemAlloc_v2",
        "copy-rate (GPU 1): expected at least 48 GB/s from the host, found 20.0 GB/s",
        "copy-rate (GPU 1): expected at least 48 GB/s to the host, found 20.0 GB/s",
        "peer-copy (GPU 0): expected direct access to each other GPU, found none to GPU 1",
        "peer-copy (GPU 1): expected direct access to each other GPU, found none to GPU 0",
        "matrix-product (GPU 0): expected the right product, found another",
    ]


@pytest.mark.parametrize(
    ("option", "fit", "unfit", "rule"),
    [
        ("count", 2, 3, "cuda-count"),
        ("device_copy_min", 2999, 3001, "copy-rate"),
        ("host_copy_min", 54, 56, "copy-rate"),
        ("peer_copy_min", 389, 391, "peer-copy"),
        ("matrix_product_min", 779, 781, "matrix-product"),
        ("profile", "h100", "h200", "copy-rate"),
        ("checks", ["copy-rate"], ["dcgm-diag"], "dcgm-diag"),
    ],
)
def test_each_option_sets_its_limit(check, option, fit, unfit, rule):
    assert check(**{option: fit})["verdict"] == "pass"
    assert {one["rule"] for one in check(**{option: unfit})["findings"]} == {rule}


def test_the_floor_of_the_all_reduce_can_be_set(check, tmp_path):
    program = tmp_path / "all_reduce_perf"
    program.write_text("#!/bin/sh\necho '# Out of bounds values : 0 OK'\necho '# Avg bus bandwidth    : 300'\n")
    program.chmod(0o755)
    assert check()["verdict"] == "pass"
    assert {one["rule"] for one in check(all_reduce_min=301)["findings"]} == {"all-reduce"}


def test_a_gpu_that_hangs_is_refused_in_time(check):
    result = check("hang@0", checks=[], timeout=1)
    assert result["msg"].splitlines()[1].startswith("memory-intact (GPU 0): ")


@pytest.mark.parametrize(
    ("options", "msg"),
    [
        ({"count": 0}, "A count of 0 GPUs is refused: expected at least 1."),
        ({"timeout": 0}, "A time limit of 0 s is refused: expected 1 to 3600."),
        ({"cublas": "/nowhere"}, "/nowhere is no file: expected the library of cuBLAS, like libcublas.so.12."),
    ],
)
def test_an_option_that_makes_no_sense_is_refused_without_a_verdict(check, options, msg):
    assert check(**options) == {"failed": True, "msg": msg}


def test_defaults_profiles_and_checks_are_documented_as_they_are():
    options = yaml.safe_load(gpu_check.DOCUMENTATION)["options"]
    defaults = {field.name: field.default for field in dataclasses.fields(_cuda_checks.Host)}
    assert {name: options[name].get("default") for name in ("count", "timeout", "cublas")} == {
        name: defaults[name] for name in ("count", "timeout", "cublas")
    }
    assert options["profile"]["choices"] == sorted(_cuda_checks.FLOORS)
    assert options["checks"]["choices"] == list(_cuda_checks.CHECKS)
    for rule in ("cuda-init", "cuda-count", "memory-intact", *_cuda_checks.CHECKS):
        assert f"C({rule})" in gpu_check.DOCUMENTATION
    measures = yaml.safe_load(gpu_check.RETURN)["measurements"]["contains"]["measure"]["description"][0]
    assert all(f"V({measure})" in measures for measure in _cuda_checks._MEASURES)
