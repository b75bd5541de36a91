# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Checks that put a host's GPUs to work: do they do it right, and fast enough? Private to this collection.

All checks are made at once. Each makes its work in child processes with a time limit, so that a GPU that hangs, or a
library that crashes, is a finding. What a host cannot be checked for is skipped with the reason, never passed.
"""

from __future__ import annotations

import dataclasses
import typing as t
from functools import partial
from pathlib import Path

from ansible_collections.llmfleet.serving.plugins.module_utils import _cuda, _cuda_tools
from ansible_collections.llmfleet.serving.plugins.module_utils._child import in_child
from ansible_collections.llmfleet.serving.plugins.module_utils._cuda import CudaError, MissingError
from ansible_collections.llmfleet.serving.plugins.module_utils._errors import LlmError
from ansible_collections.llmfleet.serving.plugins.module_utils._gate_verdict import Finding, Outcome
from ansible_collections.llmfleet.serving.plugins.module_utils._gpu_facts import RunCommand


@dataclasses.dataclass(frozen=True)
class Floors:
    """What a GPU must reach: GB/s, and TFLOP/s for the product of bf16 matrices with sums in fp32.

    `device_copy` counts bytes read and bytes written, `host_copy` holds for each direction, `peer_copy` from one GPU to
    another, `all_reduce` is the bus bandwidth that NCCL's tests print.
    """

    device_copy: float
    host_copy: float
    peer_copy: float
    matrix_product: float
    all_reduce: float


def _floors(memory: float, tensor: float, links: float, host: float) -> Floors:
    """From published figures: bandwidth of memory and of all NVLinks in one direction in GB/s, dense bf16 in TFLOP/s.

    The checks themselves measured, on an H100 SXM with driver 580 and cuBLAS 13.1: 0.88 to 0.89 of `memory`, 0.84 to
    0.88 of `tensor`, and 55 GB/s in both directions of `host`. Azure's node health checks want 335 of the 450 GB/s of
    `links` of H100 and H200 SXM, 0.74. NCCL reduced 1 GiB on two to eight H100 SXM at 329 to 361 GB/s, 0.73 and more,
    without help of the switches. No figures of H800, H20 and A100 were measured.
    """
    return Floors(
        device_copy=round(0.75 * memory),
        host_copy=host,
        peer_copy=round(0.74 * links),
        matrix_product=round(0.7 * tensor),
        all_reduce=round(0.62 * links),
    )


# The floors of copies to and from the host are Azure's: 48 GB/s of H100 and H200 SXM (PCIe 5), 24 of A100 (PCIe 4).
FLOORS = {
    "a100": _floors(memory=2039, tensor=312, links=300, host=24),
    "h100": _floors(memory=3350, tensor=989, links=450, host=48),
    "h20": _floors(memory=4000, tensor=148, links=450, host=48),
    "h200": _floors(memory=4800, tensor=989, links=450, host=48),
    "h800": _floors(memory=3350, tensor=989, links=200, host=48),
}


class Check(Outcome):
    """What became of one check. `reason` says why it was skipped, and is None otherwise."""

    reason: str | None


class Measurement(t.TypedDict):
    """One figure, in GB/s or TFLOP/s. `gpu` is None for the host as a whole, `peer` the other GPU of a copy."""

    rule: str
    measure: str
    gpu: int | None
    peer: int | None
    value: float
    unit: str
    minimum: float


class Verdict(t.TypedDict):
    """`verdict` is "fail" when there is a finding, else "pass"."""

    verdict: str
    findings: list[Finding]
    rules: list[Check]
    measurements: list[Measurement]


@dataclasses.dataclass(frozen=True)
class Host:
    """What is asked of a host: so many GPUs above these floors, no child process longer than `timeout` seconds.

    :param run: runs the tools that are on the host.
    :param cublas: path of cuBLAS; None for the one that is found.
    """

    run: RunCommand
    floors: Floors
    count: int = 8
    timeout: int = 120
    cublas: str | None = None

    def __post_init__(self) -> None:
        """Refuse what no host can be measured against, before any is asked."""
        if self.count < 1:
            raise LlmError(f"A count of {self.count} GPUs is refused: expected at least 1.")
        if not 1 <= self.timeout <= 3600:
            raise LlmError(f"A time limit of {self.timeout} s is refused: expected 1 to 3600.")
        if self.cublas is not None and not Path(self.cublas).is_file():
            raise LlmError(f"{self.cublas} is no file: expected the library of cuBLAS, like libcublas.so.12.")


def check(host: Host, chosen: t.Sequence[str] | None = None) -> Verdict:
    """Make the checks.

    :param chosen: names in `CHECKS`, all of which must be possible here; None for all that are.
    """
    results, gpus = _start(host)
    for name in CHECKS if chosen is None else chosen:
        result = CHECKS[name](host, gpus) if gpus else _Result(name, skipped="no GPU is fit for it")
        if gpus and chosen is not None and result.skipped:
            found = f"it skipped: {result.skipped}"
            result.wrong(None, "a check that was asked for", found, "Provide what it needs, or leave it out.")
        results.append(result)
    findings = [finding for result in results for finding in result.findings]
    return {
        "verdict": "fail" if findings else "pass",
        "findings": findings,
        "rules": [result.check() for result in results],
        "measurements": [measurement for result in results for measurement in result.measurements],
    }


def ready(run: RunCommand, count: int, timeout: int, devices: Path = Path("/dev")) -> list[Finding]:
    """What keeps programs from using CUDA on this host: it does not start, a GPU is missing, or a device node is.

    Whoever may make device nodes, as root may, has them made by starting CUDA. Services are not allowed to.

    :param count: how many GPUs there should be.
    :param timeout: seconds that CUDA may take to start.
    """
    # Nothing is measured, so the floors are anybody's.
    host = Host(run, FLOORS["h800"], count, timeout)
    init, counted, nodes = _Result("cuda-init"), _Result("cuda-count"), _Result("device-nodes")
    _count(host, init, counted)
    missing = [name for name in ("nvidiactl", "nvidia-uvm") if not (devices / name).exists()]
    if missing:
        nodes.wrong(None, "device nodes of the driver", f"no {' and no '.join(missing)} in {devices}", _NODE_STEP)
    found = len(list(devices.glob("nvidia[0-9]*")))
    if found < count:
        nodes.wrong(None, f"device nodes of {count} GPUs", f"{found} in {devices}", _NODE_STEP)
    return [*init.findings, *counted.findings, *nodes.findings]


@dataclasses.dataclass
class _Result:
    """What one check has found out so far."""

    rule: str
    skipped: str | None = None
    findings: list[Finding] = dataclasses.field(default_factory=list)
    measurements: list[Measurement] = dataclasses.field(default_factory=list)

    def check(self) -> Check:
        outcome = "fail" if self.findings else "skip" if self.skipped else "pass"
        return {"rule": self.rule, "severity": "fail", "outcome": outcome, "reason": self.skipped}

    def wrong(self, gpu: int | None, expected: str, found: str, advice: str) -> None:
        self.findings.append(
            {
                "rule": self.rule,
                "severity": "fail",
                "gpu": gpu,
                "expected": expected,
                "found": found,
                "advice": advice,
            }
        )

    def attempt(self, host: Host, gpu: int | None, expected: str, work: t.Callable[[], t.Any]) -> t.Any:
        """What `work` returns in a child process; None when it fails, hangs or crashes, which is a finding.

        :raises MissingError: when `work` raises one.
        """
        try:
            answer = in_child(lambda: _answered(work), host.timeout)
        except TimeoutError as exc:
            self.wrong(gpu, expected, str(exc), f"It hangs. {_ANY_STEP} Then reset the GPU or reboot.")
        except ChildProcessError as exc:
            self.wrong(gpu, expected, f"an end by {exc}", _ANY_STEP)
        else:
            if "missing" in answer:
                raise MissingError(answer["missing"])
            if "value" in answer:
                return answer["value"]
            self.wrong(gpu, expected, answer["found"], answer["advice"])
        return None

    def measured(self, host: Host, name: str, gpu: int | None, values: t.Mapping[int | None, float]) -> None:
        """Hold figures of one GPU, by its peers (None where there is none), against the floor."""
        measure = _MEASURES[name]
        minimum = t.cast(float, getattr(host.floors, measure.floor))
        for peer, value in values.items():
            self.measurements.append(
                {
                    "rule": self.rule,
                    "measure": name,
                    "gpu": gpu,
                    "peer": peer,
                    "value": round(value, 1),
                    "unit": measure.unit,
                    "minimum": minimum,
                }
            )
        slow = [(peer, value) for peer, value in values.items() if value < minimum]
        if slow:
            expected = f"at least {minimum:g} {measure.unit} {measure.where}"
            found = ", ".join(
                f"{value:.1f} {measure.unit}" + ("" if peer is None else f" to GPU {peer}") for peer, value in slow
            )
            self.wrong(gpu, expected, found, measure.advice)


def _answered(work: t.Callable[[], t.Any]) -> dict[str, t.Any]:
    """In the child: what `work` returns or how it fails, as JSON."""
    try:
        return {"value": work()}
    except MissingError as exc:
        return {"missing": str(exc)}
    except CudaError as exc:
        return {"found": str(exc), "advice": exc.advice}
    except LlmError as exc:
        return {"found": str(exc), "advice": _BY_HAND}


_ANY_STEP = "Read `journalctl -k | grep -i -e nvrm -e xid` for what the driver says."
_BY_HAND = "Run it by hand to see all that it says."
_TOO_FEW = "it takes two GPUs that work"
_COUNT_STEP = "Compare with `nvidia-smi -L` and `lspci -d 10de:`; MIG and CUDA_VISIBLE_DEVICES change what CUDA sees."
_NODE_STEP = "Run `nvidia-modprobe -c 0 -u`; have nvidia and nvidia_uvm loaded at boot, and the persistence daemon run."
_RESET = "Reset the GPU or reboot; if it comes back, have the GPU replaced."


@dataclasses.dataclass(frozen=True)
class _Measure:
    """What is measured: its field in Floors, its unit, where the rate is reached, and what to do where it is not."""

    floor: str
    unit: str
    where: str
    advice: str


_PCIE_STEP = (
    "Look at `nvidia-smi --query-gpu=pcie.link.gen.current,pcie.link.width.current --format=csv` under load; "
    "other work on the host counts too."
)
_NVLINK_STEP = "Look at `nvidia-smi nvlink -s`, `nvidia-smi nvlink -e` and the fabric manager's log."
_CLOCK_STEP = (
    "Look for other work on the GPU, then at `nvidia-smi -q -d PERFORMANCE,CLOCK,POWER,TEMPERATURE` under load."
)
_MEASURES = {
    "device-copy": _Measure("device_copy", "GB/s", "within its memory", _CLOCK_STEP),
    "host-to-device": _Measure("host_copy", "GB/s", "from the host", _PCIE_STEP),
    "device-to-host": _Measure("host_copy", "GB/s", "to the host", _PCIE_STEP),
    "peer-copy": _Measure("peer_copy", "GB/s", "to each other GPU", _NVLINK_STEP),
    "matrix-product": _Measure("matrix_product", "TFLOP/s", "with bf16 matrices", _CLOCK_STEP),
    "all-reduce": _Measure("all_reduce", "GB/s", "of bus bandwidth", _NVLINK_STEP),
}


# --- Checks by ourselves


def _start(host: Host) -> tuple[list[_Result], list[int]]:
    """Without these, nothing else can be checked. Also returns the GPUs that are fit for more."""
    init, count, memory = results = [_Result("cuda-init"), _Result("cuda-count"), _Result("memory-intact")]
    gpus: list[int] = []
    found = _count(host, init, count)
    if found is None:
        memory.skipped = count.skipped
        return results, gpus
    for gpu in range(found):
        intact = memory.attempt(host, gpu, "a GPU that stores data", partial(_cuda.memory_intact, gpu))
        if intact:
            gpus.append(gpu)
        elif intact is not None:
            memory.wrong(gpu, "the bytes that were stored", "others", _RESET)
    return results, gpus


def _count(host: Host, init: _Result, count: _Result) -> int | None:
    """Start CUDA and compare how many GPUs it has; None when it does not start."""
    found: int | None = init.attempt(host, None, "CUDA to start", _cuda.count_gpus)
    if found is None:
        count.skipped = "CUDA does not start"
    elif found != host.count:
        count.wrong(None, f"{host.count} GPUs", str(found), _COUNT_STEP)
    return found


def _copy_rate(host: Host, gpus: list[int]) -> _Result:
    result = _Result("copy-rate")
    for gpu in gpus:
        rates = result.attempt(host, gpu, "copies", partial(_cuda.copy_rates, gpu))
        if rates is not None:
            result.measured(host, "device-copy", gpu, {None: rates["device"]})
            result.measured(host, "host-to-device", gpu, {None: rates["host_to_device"]})
            result.measured(host, "device-to-host", gpu, {None: rates["device_to_host"]})
    return result


def _peer_copy(host: Host, gpus: list[int]) -> _Result:
    result = _Result("peer-copy")
    if len(gpus) < 2:
        result.skipped = _TOO_FEW
        return result
    for gpu in gpus:
        peers = [peer for peer in gpus if peer != gpu]
        copies = result.attempt(host, gpu, "copies to the other GPUs", partial(_cuda.peer_copies, gpu, peers)) or []
        remote = [str(copy["peer"]) for copy in copies if not copy["access"]]
        if remote:
            advice = (
                "Look at `nvidia-smi topo -p2p r`, and for an IOMMU or PCIe access control that stands between them."
            )
            result.wrong(gpu, "direct access to each other GPU", f"none to GPU {', '.join(remote)}", advice)
        torn = [str(copy["peer"]) for copy in copies if not copy["intact"]]
        if torn:
            result.wrong(gpu, "the bytes that were copied", f"others on GPU {', '.join(torn)}", _NVLINK_STEP)
        result.measured(host, "peer-copy", gpu, {copy["peer"]: copy["rate"] for copy in copies})
    return result


def _matrix_product(host: Host, gpus: list[int]) -> _Result:
    result = _Result("matrix-product")
    try:
        for gpu in gpus:
            work = partial(_cuda.matrix_product, gpu, host.cublas)
            product = result.attempt(host, gpu, "products of matrices", work)
            if product is not None:
                result.measured(host, "matrix-product", gpu, {None: product["rate"]})
                if not product["right"]:
                    result.wrong(gpu, "the right product", "another", _RESET)
    except MissingError as exc:
        result.skipped = str(exc)
    return result


# --- Checks by programs that are on the host


def _program(
    host: Host,
    result: _Result,
    argv: list[str],
    parse: t.Callable[[str], t.Any],
    judge: t.Callable[[Host, _Result, t.Any], None],
) -> _Result:
    """Run a program and judge what `parse` makes of its output. One that is not there skips the check."""

    def work() -> t.Any:
        environment = {"LC_ALL": "C", "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
        try:
            status, output, complaint = host.run(argv, environ_update=environment, handle_exceptions=False)
        except OSError as exc:
            raise MissingError(f"{argv[0]} cannot be run: {exc.strerror}") from exc
        return {"status": status, "parsed": parse(output or complaint)}

    try:
        answer = result.attempt(host, None, f"results of {argv[0]}", work)
    except MissingError as exc:
        result.skipped = str(exc)
        return result
    if answer is not None:
        judge(host, result, answer["parsed"])
        if answer["status"] and not result.findings:
            result.wrong(None, f"{argv[0]} to end well", f"exit status {answer['status']}", _BY_HAND)
    return result


def _nvbandwidth(host: Host, _gpus: list[int]) -> _Result:
    argv = ["nvbandwidth", "-j", "-t", *_cuda_tools.NVBANDWIDTH_TESTS]
    return _program(host, _Result("nvbandwidth"), argv, _cuda_tools.parse_nvbandwidth, _judge_rates)


def _judge_rates(host: Host, result: _Result, rates: list[_cuda_tools.Rate]) -> None:
    by_gpu: dict[tuple[str, int], dict[int | None, float]] = {}
    for rate in rates:
        by_gpu.setdefault((rate["measure"], rate["gpu"]), {})[rate["peer"]] = rate["rate"]
    for (measure, gpu), values in by_gpu.items():
        result.measured(host, measure, gpu, values)


def _dcgm_diag(host: Host, _gpus: list[int]) -> _Result:
    argv = ["dcgmi", "diag", "-r", "1", "-j"]
    return _program(host, _Result("dcgm-diag"), argv, _cuda_tools.parse_dcgm, _judge_dcgm)


def _judge_dcgm(_host: Host, result: _Result, tests: list[_cuda_tools.DcgmResult]) -> None:
    for test in tests:
        if test["status"] not in ("pass", "skip"):
            found = f"{test['status']}: {test['words'] or 'no reason given'}"
            result.wrong(test["gpu"], f"DCGM's test {test['test']} to pass", found, "Do what DCGM says.")
    if all(test["status"] == "skip" for test in tests):
        result.skipped = f"DCGM skipped all of its tests. {tests[0]['words']}"


def _all_reduce(host: Host, gpus: list[int]) -> _Result:
    result = _Result("all-reduce")
    if len(gpus) < 2:
        result.skipped = _TOO_FEW
        return result
    argv = ["all_reduce_perf", "-b", "1G", "-e", "1G", "-g", str(len(gpus))]
    return _program(host, result, argv, _cuda_tools.parse_all_reduce, _judge_all_reduce)


def _judge_all_reduce(host: Host, result: _Result, reduced: _cuda_tools.AllReduce) -> None:
    result.measured(host, "all-reduce", None, {None: reduced["rate"]})
    if reduced["wrong"]:
        result.wrong(None, "the right sums", f"{reduced['wrong']} wrong numbers", _NVLINK_STEP)


CHECKS: dict[str, t.Callable[[Host, list[int]], _Result]] = {
    "copy-rate": _copy_rate,
    "peer-copy": _peer_copy,
    "matrix-product": _matrix_product,
    "nvbandwidth": _nvbandwidth,
    "dcgm-diag": _dcgm_diag,
    "all-reduce": _all_reduce,
}
