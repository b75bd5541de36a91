# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""GPUs are put to work through libcuda and cuBLAS, and what goes wrong has CUDA's own name and a next step."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

import cuda_mock
import pytest

from ansible_collections.llmfleet.serving.plugins.module_utils import _cuda


@pytest.fixture(autouse=True)
def _host(monkeypatch):
    cuda_mock.install(monkeypatch)


def product(index: int = 0) -> _cuda.Product:
    return _cuda.matrix_product(index, cuda_mock.library())


def test_gpus_are_counted_as_nvidia_smi_numbers_them(monkeypatch):
    monkeypatch.setenv("MOCK_CUDA", "gpus=5")
    assert _cuda.count_gpus() == 5
    assert os.environ["CUDA_DEVICE_ORDER"] == "PCI_BUS_ID"


@pytest.mark.parametrize(("words", "intact"), [("", True), ("corrupt@0", True), ("corrupt@1", False)])
def test_memory_is_compared_byte_by_byte(monkeypatch, words, intact):
    monkeypatch.setenv("MOCK_CUDA", words)
    assert _cuda.memory_intact(1) is intact


def test_rates_of_copies_are_those_of_the_gpu(monkeypatch):
    monkeypatch.setenv("MOCK_CUDA", "device-rate@1=1234 host-rate@1=21")
    rates = _cuda.copy_rates(1)
    assert rates == pytest.approx({"device": 1234, "host_to_device": 21, "device_to_host": 21}, rel=1e-3)


def test_copies_to_and_from_the_host_begin_on_the_near_cpus(monkeypatch, tmp_path):
    everywhere = os.sched_getaffinity(0)
    near = min(everywhere)
    (tmp_path / "0000:1b:00.0").mkdir()
    (tmp_path / "0000:1b:00.0" / "local_cpulist").write_text(f"{near}-{near},{near}\n")
    monkeypatch.setattr(_cuda, "PCI_DEVICES", tmp_path)
    try:
        _cuda.copy_rates(1)
        assert os.sched_getaffinity(0) == {near}
    finally:
        os.sched_setaffinity(0, everywhere)


@pytest.mark.parametrize("cpulist", [None, "", "100000-100001", "all"])
def test_a_host_that_does_not_tell_its_near_cpus_is_no_obstacle(monkeypatch, tmp_path, cpulist):
    (tmp_path / "0000:1a:00.0").mkdir()
    if cpulist is not None:
        (tmp_path / "0000:1a:00.0" / "local_cpulist").write_text(cpulist)
    monkeypatch.setattr(_cuda, "PCI_DEVICES", tmp_path)
    before = os.sched_getaffinity(0)
    assert _cuda.copy_rates(0)["host_to_device"] > 0
    assert os.sched_getaffinity(0) == before


def test_peers_are_copied_to_one_by_one(monkeypatch):
    monkeypatch.setenv("MOCK_CUDA", "gpus=4 peer-rate@1=150")
    copies = _cuda.peer_copies(1, [0, 2, 3])
    assert [(copy["peer"], copy["access"], copy["intact"]) for copy in copies] == [
        (0, True, True),
        (2, True, True),
        (3, True, True),
    ]
    assert [copy["rate"] for copy in copies] == pytest.approx([150] * 3, rel=1e-3)


@pytest.mark.parametrize(("words", "access", "intact"), [("no-access@0", False, True), ("peer-corrupt@0", True, False)])
def test_a_copy_without_access_or_with_other_bytes_is_told(monkeypatch, words, access, intact):
    monkeypatch.setenv("MOCK_CUDA", words)
    (copy,) = _cuda.peer_copies(0, [1])
    assert (copy["access"], copy["intact"]) == (access, intact)


@pytest.mark.parametrize(("words", "right"), [("", True), ("product-corrupt", False), ("product-wrong", False)])
def test_all_of_a_product_is_verified(monkeypatch, words, right):
    monkeypatch.setenv("MOCK_CUDA", f"product-rate=456 {words}")
    assert product()["right"] is right
    assert product()["rate"] == pytest.approx(456, rel=1e-3)


@pytest.mark.parametrize(
    ("code", "name", "advice"),
    [
        (2, "CUDA_ERROR_OUT_OF_MEMORY", "Stop what uses the GPU's memory"),
        (3, "CUDA_ERROR_NOT_INITIALIZED", "ldconfig -p | grep libcuda"),
        (46, "CUDA_ERROR_DEVICE_UNAVAILABLE", "nvidia-smi -c 0"),
        (100, "CUDA_ERROR_NO_DEVICE", "CUDA_VISIBLE_DEVICES"),
        (101, "CUDA_ERROR_INVALID_DEVICE", "power-cycle"),
        (802, "CUDA_ERROR_SYSTEM_NOT_READY", "nvidia-fabricmanager"),
        (999, "CUDA_ERROR_UNKNOWN", "modprobe nvidia-uvm"),
        (4321, "the unknown error 4321", "journalctl -k"),
    ],
)
def test_an_error_has_the_drivers_name_and_a_next_step(monkeypatch, code, name, advice):
    monkeypatch.setenv("MOCK_CUDA", f"cuInit={code}")
    with pytest.raises(_cuda.CudaError, match=rf"^{name}.* from cuInit$") as raised:
        _cuda.count_gpus()
    assert advice in raised.value.advice


@pytest.mark.parametrize(
    ("work", "function"),
    [
        (lambda: _cuda.memory_intact(1), "cuDevicePrimaryCtxRetain"),
        (lambda: _cuda.memory_intact(1), "cuMemAlloc_v2"),
        (lambda: _cuda.memory_intact(1), "cuMemHostAlloc"),
        (lambda: _cuda.memory_intact(1), "cuMemcpyDtoD_v2"),
        (lambda: _cuda.copy_rates(1), "cuMemcpyDtoHAsync_v2"),
        (lambda: _cuda.copy_rates(1), "cuEventSynchronize"),
        (lambda: _cuda.peer_copies(0, [1]), "cuMemAlloc_v2"),
        (lambda: _cuda.peer_copies(1, [0]), "cuCtxEnablePeerAccess"),
        (lambda: _cuda.peer_copies(1, [0]), "cuMemcpyPeerAsync"),
        (lambda: product(1), "cuMemcpyHtoD_v2"),
    ],
)
def test_an_error_of_one_gpu_names_the_call(monkeypatch, work, function):
    monkeypatch.setenv("MOCK_CUDA", f"{function}@1=719")
    with pytest.raises(_cuda.CudaError, match=rf"^CUDA_ERROR_LAUNCH_FAILED \(719, .*\) from {function}$"):
        work()


@pytest.mark.parametrize(
    ("words", "found"),
    [
        ("cublasCreate_v2=1", r"CUBLAS_STATUS_NOT_INITIALIZED \(1\) from cublasCreate_v2"),
        ("cublasGemmEx@0=13", r"CUBLAS_STATUS_EXECUTION_FAILED \(13\) from cublasGemmEx"),
        ("cublasGemmEx=99", r"an error of cuBLAS \(99\) from cublasGemmEx"),
    ],
)
def test_an_error_of_cublas_has_its_name(monkeypatch, words, found):
    monkeypatch.setenv("MOCK_CUDA", words)
    with pytest.raises(_cuda.CudaError, match=f"^{found}$"):
        product()


def test_a_host_without_libcuda_is_told_what_to_install(monkeypatch):
    monkeypatch.setattr(_cuda, "LIBCUDA", "/nowhere/libcuda.so.1")
    with pytest.raises(_cuda.CudaError, match=r"cannot be loaded: /nowhere/libcuda\.so\.1: ") as raised:
        _cuda.count_gpus()
    assert "libnvidia-compute" in raised.value.advice


@pytest.fixture
def loaded(monkeypatch, tmp_path):
    """Names of the libraries that are loaded. The dynamic linker of this machine knows none by its bare name."""
    names: list[str] = []
    load = ctypes.CDLL

    def load_by_path(name, *mode):
        if name is not None and "/" not in name:
            raise OSError(f"{name}: cannot open shared object file")
        library = load(name, *mode)
        names.append(Path(name).name if name else "")
        return library

    monkeypatch.setattr(_cuda.ctypes, "CDLL", load_by_path)
    monkeypatch.setattr(_cuda, "CUBLAS_PATTERNS", (f"{tmp_path}/*/libcublas.so.*".lstrip("/"),))
    return names


def test_the_newest_cublas_that_the_driver_runs_is_taken(monkeypatch, tmp_path, loaded):
    for path in (
        "old/libcublas.so.11",
        "new/libcublas.so.12.4.5.8",
        "new/libcublasLt.so.12.4.5.8",
        "next/libcublas.so.13",
    ):
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).symlink_to(cuda_mock.library())
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken/libcublas.so.12").write_text("no library")
    monkeypatch.setenv("MOCK_CUDA", "version=12080")
    assert _cuda.matrix_product(0)["right"] is True
    # What cuBLAS needs is loaded from beside it, before it.
    assert [name for name in loaded if "cublas" in name] == ["libcublasLt.so.12.4.5.8", "libcublas.so.12.4.5.8"]


@pytest.mark.usefixtures("loaded")
def test_a_host_without_cublas_is_no_failure_of_the_gpu():
    with pytest.raises(_cuda.MissingError, match=r"^no cuBLAS of a version from 11 to 12 is on this host$"):
        _cuda.matrix_product(0)


def test_a_file_that_is_no_cublas_is_told(tmp_path):
    (tmp_path / "libcublas.so.12").write_text("no library")
    with pytest.raises(_cuda.MissingError, match=r"^cuBLAS cannot be loaded: "):
        _cuda.matrix_product(0, str(tmp_path / "libcublas.so.12"))
