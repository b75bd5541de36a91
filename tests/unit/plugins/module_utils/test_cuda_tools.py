# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What nvbandwidth, dcgmi and all_reduce_perf print is read, or refused with what was printed."""

from __future__ import annotations

import contextlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.llmfleet.serving.plugins.module_utils import _cuda_tools as tools
from ansible_collections.llmfleet.serving.plugins.module_utils._errors import LlmError

PARSERS = [tools.parse_nvbandwidth, tools.parse_dcgm, tools.parse_all_reduce]


def nvbandwidth(*tests: dict) -> str:
    return json.dumps({"nvbandwidth": {"Driver Version": "550.90.12", "testcases": list(tests)}})


def dcgm(*results: dict, name: str = "DCGM Diagnostic") -> str:
    categories = [{"category": "Deployment", "tests": [{"name": "software", "results": list(results)}]}]
    return json.dumps({name: {"test_categories": categories}, "metadata": {"version": "4.2.3"}})


def test_nvbandwidth_of_two_gpus():
    output = nvbandwidth(
        {"name": "host_to_device_memcpy_ce", "status": "Passed", "bandwidth_matrix": [["55.2", "54.9"]]},
        {"name": "device_to_host_memcpy_ce", "status": "Passed", "bandwidth_matrix": [["55", "54.1"]]},
        {
            "name": "device_to_device_memcpy_read_ce",
            "status": "Passed",
            "bandwidth_matrix": [["N/A", "390.5"], ["391.25", "N/A"]],
        },
    )
    assert tools.parse_nvbandwidth(output) == [
        {"measure": "host-to-device", "gpu": 0, "peer": None, "rate": 55.2},
        {"measure": "host-to-device", "gpu": 1, "peer": None, "rate": 54.9},
        {"measure": "device-to-host", "gpu": 0, "peer": None, "rate": 55.0},
        {"measure": "device-to-host", "gpu": 1, "peer": None, "rate": 54.1},
        {"measure": "peer-copy", "gpu": 0, "peer": 1, "rate": 390.5},
        {"measure": "peer-copy", "gpu": 1, "peer": 0, "rate": 391.25},
    ]


def test_nvbandwidth_waives_peers_of_one_gpu():
    assert tools.parse_nvbandwidth(nvbandwidth({"name": "device_to_device_memcpy_read_ce", "status": "Waived"})) == []


@pytest.mark.parametrize(
    ("output", "msg"),
    [
        (
            nvbandwidth({"name": "host_to_device_memcpy_ce", "status": "Error", "error": "out of memory"}),
            "host_to_device_memcpy_ce of nvbandwidth: Error, out of memory",
        ),
        (
            nvbandwidth({"name": "host_to_device_memcpy_ce", "status": "Passed", "bandwidth_matrix": []}),
            "host_to_device_memcpy_ce of nvbandwidth: no figure",
        ),
        (nvbandwidth({"name": "other", "status": "Passed"}), "other of nvbandwidth: Passed, without a reason"),
        (
            '{"nvbandwidth": {"error": "no device"}}',
            'no result of nvbandwidth: {"nvbandwidth": {"error": "no device"}}',
        ),
        ("Invalid argument -j", "no JSON from nvbandwidth: Invalid argument -j"),
        ("", "no JSON from nvbandwidth: it printed nothing"),
    ],
)
def test_other_outputs_of_nvbandwidth_are_refused(output, msg):
    with pytest.raises(LlmError) as raised:
        tools.parse_nvbandwidth(output)
    assert str(raised.value) == msg


def test_dcgm_4():
    output = "Successfully ran diagnostic.\n" + dcgm(
        {"entity_group": "GPU", "entity_id": 0, "status": "Pass"},
        {
            "entity_group": "GPU",
            "entity_id": 1,
            "status": "Fail",
            "warnings": [{"error_id": 29, "warning": "A row waits."}],
        },
        {"entity_group": "CPU", "entity_id": 0, "status": "Skip"},
    )
    assert tools.parse_dcgm(output) == [
        {"test": "software", "gpu": 0, "status": "pass", "words": ""},
        {"test": "software", "gpu": 1, "status": "fail", "words": "A row waits."},
        {"test": "software", "gpu": None, "status": "skip", "words": ""},
    ]


def test_dcgm_2_and_3():
    output = dcgm(
        {"gpu_ids": "0,1", "status": "PASS"},
        {"gpu_id": "1", "status": "Warn", "warnings": "Clocks are held down."},
        {"status": "SKIPPED"},
        name="DCGM GPU Diagnostic",
    )
    assert tools.parse_dcgm(output) == [
        {"test": "software", "gpu": 0, "status": "pass", "words": ""},
        {"test": "software", "gpu": 1, "status": "pass", "words": ""},
        {"test": "software", "gpu": 1, "status": "warn", "words": "Clocks are held down."},
        {"test": "software", "gpu": None, "status": "skip", "words": ""},
    ]


@pytest.mark.parametrize(
    "output",
    [
        '{"DCGM GPU Diagnostic": {"runtime_error": "The host engine does not answer."}}',
        dcgm(),
        "Error: unable to establish a connection to the specified host: localhost",
    ],
)
def test_other_outputs_of_dcgm_are_refused(output):
    with pytest.raises(LlmError, match=r"does not answer|no result of DCGM|unable to establish"):
        tools.parse_dcgm(output)


ALL_REDUCE = """\
#  Rank  0 Group  0 Pid 10 on host device  0 [0x18] NVIDIA H100 80GB HBM3
#       size         count      type   redop    root     time   algbw   busbw #wrong     time   algbw   busbw #wrong
  1073741824     268435456     float     sum      -1   5204.3  206.32  361.06      0   5203.1  206.37  361.14      0
# Out of bounds values : {wrong} {verdict}
# Avg bus bandwidth    : 361.1
#
"""


def test_all_reduce():
    assert tools.parse_all_reduce(ALL_REDUCE.format(wrong=0, verdict="OK")) == {"rate": 361.1, "wrong": 0}
    assert tools.parse_all_reduce(ALL_REDUCE.format(wrong=7, verdict="FAILED")) == {"rate": 361.1, "wrong": 7}


@pytest.mark.parametrize("output", ["", ALL_REDUCE.splitlines()[0], "Test NCCL failure: unhandled cuda error"])
def test_other_outputs_of_all_reduce_are_refused(output):
    with pytest.raises(LlmError, match="no result of all_reduce_perf"):
        tools.parse_all_reduce(output)


@pytest.mark.parametrize("parse", PARSERS)
@given(text=st.text())
def test_no_text_crashes_a_parser(parse, text):
    with contextlib.suppress(LlmError):
        parse(text)


KEYS = ["nvbandwidth", "testcases", "name", "status", "bandwidth_matrix", "DCGM Diagnostic", "test_categories", "tests"]
KEYS += ["results", "entity_group", "entity_id", "gpu_ids", "warnings", "warning"]
WORDS = st.sampled_from([*KEYS, *tools.NVBANDWIDTH_TESTS, "Passed", "GPU", "Pass"])
TREES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | WORDS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=4),
    max_leaves=30,
)


@given(tree=TREES)
def test_no_json_crashes_a_parser(tree):
    for parse in PARSERS[:2]:
        for document in (tree, {"nvbandwidth": tree}, {"DCGM Diagnostic": {"test_categories": tree}}):
            with contextlib.suppress(LlmError):
                parse(json.dumps(document))
