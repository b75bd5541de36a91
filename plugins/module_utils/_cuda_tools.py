# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What nvbandwidth, DCGM's diagnostic and NCCL's all-reduce test print, as figures. Private to this collection.

None of these outputs is a promised interface, so nothing is taken for granted in them: a result that cannot be found is
an error, never a pass.
"""

from __future__ import annotations

import json
import re
import typing as t

from ansible_collections.llmfleet.serving.plugins.module_utils._errors import LlmError

# The tests of nvbandwidth with copy engines, and what each measures.
NVBANDWIDTH_TESTS = {
    "host_to_device_memcpy_ce": "host-to-device",
    "device_to_host_memcpy_ce": "device-to-host",
    "device_to_device_memcpy_read_ce": "peer-copy",
}


class Rate(t.TypedDict):
    """One figure of nvbandwidth in GB/s. `peer` is the other GPU of a copy between two."""

    measure: str
    gpu: int
    peer: int | None
    rate: float


class DcgmResult(t.TypedDict):
    """One test of DCGM on one GPU, or on the host as a whole. `status` is in lower case: pass, fail, warn or skip."""

    test: str
    gpu: int | None
    status: str
    words: str


class AllReduce(t.TypedDict):
    """The bus bandwidth of NCCL's all-reduce in GB/s, and how many numbers of its results were wrong."""

    rate: float
    wrong: int


def parse_nvbandwidth(output: str) -> list[Rate]:
    """The figures in the output of `nvbandwidth -j`. A test that the host waives (peers of a single GPU) has none.

    :raises LlmError: when the output is something else or has a test that did not pass.
    """
    report = _document(output, "nvbandwidth").get("nvbandwidth")
    tests = _dicts(report.get("testcases")) if isinstance(report, dict) else []
    if not tests:
        raise LlmError(f"no result of nvbandwidth: {_excerpt(output)}")
    rates: list[Rate] = []
    for test in tests:
        name, status = str(test.get("name")), test.get("status")
        if name not in NVBANDWIDTH_TESTS or status not in ("Passed", "Waived"):
            raise LlmError(f"{name} of nvbandwidth: {status}, {test.get('error', 'without a reason')}")
        figures = _matrix(NVBANDWIDTH_TESTS[name], test.get("bandwidth_matrix"))
        if status == "Passed" and not figures:
            raise LlmError(f"{name} of nvbandwidth: no figure")
        rates += figures
    return rates


def _matrix(measure: str, rows: t.Any) -> list[Rate]:
    """Rows are GPUs in copies between two, else there is one for the host. What was not measured is no number."""
    rates: list[Rate] = []
    for row, cells in enumerate(rows if isinstance(rows, list) else []):
        for column, cell in enumerate(cells if isinstance(cells, list) else []):
            if re.fullmatch(r"[0-9]+(\.[0-9]+)?", str(cell)):
                gpu, peer = (row, column) if measure == "peer-copy" else (column, None)
                rates.append({"measure": measure, "gpu": gpu, "peer": peer, "rate": float(cell)})
    return rates


def parse_dcgm(output: str) -> list[DcgmResult]:
    """The results in the output of `dcgmi diag -j`, DCGM 2 to 4.

    :raises LlmError: when there are none.
    """
    document = _document(output, "dcgmi")
    # The name up to DCGM 3 has the word GPU in it.
    report = document.get("DCGM Diagnostic", document.get("DCGM GPU Diagnostic"))
    categories = _dicts(report.get("test_categories")) if isinstance(report, dict) else []
    tests = [test for category in categories for test in _dicts(category.get("tests"))]
    results = [
        one
        for test in tests
        for result in _dicts(test.get("results"))
        for one in _dcgm_results(test.get("name"), result)
    ]
    if not results:
        raise LlmError(f"no result of DCGM: {_excerpt(output)}")
    return results


def _dcgm_results(test: t.Any, result: dict[str, t.Any]) -> list[DcgmResult]:
    """A result holds for one GPU, for some ("0,1"), or for the host."""
    warnings = result.get("warnings")
    words = [str(one.get("warning", one)) for one in _dicts(warnings)] or ([str(warnings)] if warnings else [])
    numbers = str(result.get("gpu_ids", result.get("gpu_id", "")))
    if result.get("entity_group") == "GPU":
        numbers = str(result.get("entity_id"))
    gpus: list[int | None] = [int(number) for number in re.findall(r"[0-9]+", numbers)]
    status = str(result.get("status")).lower()
    # Up to DCGM 2, "SKIPPED".
    status = "skip" if status.startswith("skip") else status
    return [{"test": str(test), "gpu": gpu, "status": status, "words": " ".join(words)} for gpu in gpus or [None]]


def parse_all_reduce(output: str) -> AllReduce:
    """The figures in the output of `all_reduce_perf`.

    :raises LlmError: when they are not in it.
    """
    rate = re.search(r"^# Avg bus bandwidth\s*: ([0-9.]+)", output, re.MULTILINE)
    wrong = re.search(r"^# Out of bounds values : ([0-9]+) ", output, re.MULTILINE)
    if rate is None or wrong is None:
        raise LlmError(f"no result of all_reduce_perf: {_excerpt(output)}")
    return {"rate": float(rate[1]), "wrong": int(wrong[1])}


def _document(output: str, program: str) -> dict[str, t.Any]:
    """The JSON object that a program printed, perhaps after words of its own."""
    try:
        document = json.JSONDecoder().raw_decode(output, max(output.find("{"), 0))[0]
    except (ValueError, RecursionError) as exc:
        raise LlmError(f"no JSON from {program}: {_excerpt(output)}") from exc
    return document if isinstance(document, dict) else {}


def _dicts(value: t.Any) -> list[dict[str, t.Any]]:
    return [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []


def _excerpt(output: str) -> str:
    return " ".join(output.split())[-300:] or "it printed nothing"
