# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What is measured on a host is what is expected of it. Other hosts and files are refused."""

from __future__ import annotations

import copy
import dataclasses
import json
import typing as t
from pathlib import Path

import pytest

from ansible_collections.llmfleet.serving.plugins.module_utils._errors import LlmError
from ansible_collections.llmfleet.serving.plugins.module_utils._gate_baseline import (
    expected_of,
    measure,
    read_baseline,
    record,
)
from ansible_collections.llmfleet.serving.plugins.module_utils._gate_profiles import PROFILES, Expectation
from ansible_collections.llmfleet.serving.plugins.module_utils._gpu_facts import Facts, Gpu

LINK = {"active": True, "speed": 26562, "peer": None, "replay_errors": 0, "recovery_errors": 0, "crc_errors": 0}
MEASURED = {
    "schema": 1,
    "count": 2,
    "name": "NVIDIA H800",
    "memory_min": 81559,
    "nvlinks": 8,
    "nvlink_speed_min": 26562,
    "pcie_gen": 5,
    "pcie_width": 16,
    "vbios_version": "96.00.4B.00.01",
    "topology": [["X", "NV8"], ["NV8", "X"]],
    "absent": ["fabric_health"],
}


@pytest.fixture
def facts() -> Facts:
    """Two H800, of which only what is measured, and one more fact that they do not have, matters."""
    gpu: dict[str, t.Any] = {
        **dict.fromkeys(Gpu.__annotations__, 0),
        "error": None,
        "unanswered": {"name": "missing", "uuid": "Unknown Error"},
        "uuid": None,
        "fabric_health": None,
        "name": MEASURED["name"],
        "memory_total": 81559,
        "vbios_version": MEASURED["vbios_version"],
        "pcie_gen_max": 5,
        "pcie_width_max": 16,
        "nvlinks": [{"link": n, **LINK} for n in range(8)],
    }
    host = {"attached_gpus": 2, "gpus": [gpu, copy.deepcopy(gpu)], "topology": MEASURED["topology"]}
    return t.cast(Facts, host)


def test_is_what_the_gpus_have(facts):
    assert measure(facts) == MEASURED


def test_is_the_least_that_a_gpu_has(facts):
    facts["gpus"][1].update(memory_total=81000, pcie_gen_max=4, pcie_width_max=8)
    facts["gpus"][1]["nvlinks"][0].update(speed=25000)
    facts["gpus"][1]["nvlinks"][7].update(active=False, speed=None)
    lesser = {"memory_min": 81000, "pcie_gen": 4, "pcie_width": 8, "nvlinks": 7, "nvlink_speed_min": 25000}
    assert measure(facts) == {**MEASURED, **lesser}


def test_gpus_without_links_have_none(facts):
    for gpu in facts["gpus"]:
        gpu["nvlinks"] = None
    measured = measure(facts)
    assert (measured["nvlinks"], measured["nvlink_speed_min"]) == (0, 0)
    assert measured["absent"] == ["fabric_health", "nvlinks"]


@pytest.mark.parametrize(
    ("values", "found"),
    [
        ({"name": "NVIDIA H100 80GB HBM3"}, "names NVIDIA H100 80GB HBM3, NVIDIA H800"),
        ({"name": None}, "names NVIDIA H800, none"),
        ({"vbios_version": "1"}, "VBIOS 1, 96.00.4B.00.01"),
        ({"memory_total": None}, "not told: memory_min"),
        ({"pcie_gen_max": None, "pcie_width_max": None}, "not told: pcie_gen, pcie_width"),
    ],
)
def test_gpus_that_differ_or_do_not_tell_are_no_measure(facts, values, found):
    facts["gpus"][1].update(values)
    with pytest.raises(LlmError, match=f"cannot be a baseline: expected GPUs that all answer, .*{found}.*Repair it"):
        measure(facts)


@pytest.mark.parametrize("gpus", [0, 1])
def test_gpus_that_are_left_out_are_no_measure(facts, gpus):
    del facts["gpus"][gpus:]
    with pytest.raises(LlmError, match=f"found {gpus} of 2 GPUs"):
        measure(facts)


def test_is_recorded_once_and_read_again(tmp_path):
    path = tmp_path / "etc/llmfleet/baseline.json"
    first = record(path, MEASURED, write=False)
    assert (first["changed"], path.exists(), path.parent.exists()) == (True, False, False)
    assert record(path, MEASURED, write=True) == first
    assert read_baseline(path) == MEASURED
    assert [file.name for file in path.parent.iterdir()] == ["baseline.json"]
    for write in (False, True):
        assert record(path, MEASURED, write=write)["changed"] is False


def test_another_one_takes_its_place_and_shows_how_it_differs(tmp_path):
    path = tmp_path / "baseline.json"
    record(path, MEASURED, write=True)
    again = record(path, {**MEASURED, "nvlinks": 18}, write=True)
    assert again["changed"]
    assert '"nvlinks": 8' in again["diff"]["before"]
    assert '"nvlinks": 18' in again["diff"]["after"]
    assert read_baseline(path)["nvlinks"] == 18


def test_is_not_written_over_what_is_no_file(tmp_path):
    with pytest.raises(LlmError, match=f"{tmp_path} is a directory; expected a regular file or nothing"):
        record(tmp_path, MEASURED, write=True)


@pytest.mark.parametrize(
    ("folder", "msg"),
    [
        ("/proc/llmfleet", "cannot be written: No such file"),
        (__file__, "cannot be used as a destination: Not a dir"),
    ],
)
def test_a_place_that_cannot_be_written_is_told(folder, msg):
    with pytest.raises(LlmError, match=f"{folder}/baseline.json {msg}"):
        record(Path(folder) / "baseline.json", MEASURED, write=True)


def test_that_is_not_there_names_the_way_to_it(tmp_path):
    with pytest.raises(LlmError, match=r"The baseline .*none.json is not there. Record it with record_baseline"):
        read_baseline(tmp_path / "none.json")


def test_that_cannot_be_read_is_told(tmp_path):
    with pytest.raises(LlmError, match=r"The baseline .* cannot be read: .*Is a directory"):
        read_baseline(tmp_path)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "nothing",
        "[]",
        "{}",
        json.dumps({**MEASURED, "schema": 2}),
        json.dumps({**MEASURED, "nvlinks": "8"}),
        json.dumps({**MEASURED, "nvlinks": True}),
        json.dumps({**MEASURED, "name": None}),
        json.dumps({name: value for name, value in MEASURED.items() if name != "count"}),
    ],
)
def test_a_file_that_is_something_else_is_refused(tmp_path, text):
    (tmp_path / "baseline.json").write_text(text)
    with pytest.raises(LlmError, match=r"baseline.json is no baseline: expected the JSON that record_baseline writes"):
        read_baseline(tmp_path / "baseline.json")


def test_bytes_that_are_no_text_are_refused(tmp_path):
    (tmp_path / "baseline.json").write_bytes(b"\xff\xfe")
    with pytest.raises(LlmError, match="cannot be read"):
        read_baseline(tmp_path / "baseline.json")


def test_gives_fields_of_an_expectation(tmp_path):
    fields = expected_of({**MEASURED, "topology": None})
    assert fields == {**{name: value for name, value in MEASURED.items() if name != "schema"}, "topology": None}
    assert fields.keys() <= {field.name for field in dataclasses.fields(Expectation)}
    assert dataclasses.replace(PROFILES["h100"], **fields).name == "NVIDIA H800"
