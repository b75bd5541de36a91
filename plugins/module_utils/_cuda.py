# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""GPUs put to work through the CUDA driver's library and cuBLAS, and how fast they did it. Private to this collection.

Each public function is meant to be the whole work of a child process: it starts CUDA, and what it takes (contexts,
memory on the GPU and on the host) is given back by the end of the process. Rates are in GB/s of 10^9 bytes and in
TFLOP/s, timed by the GPU itself.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import struct
import typing as t
from pathlib import Path

from ansible_collections.llmfleet.serving.plugins.module_utils._errors import LlmError

LIBCUDA = "libcuda.so.1"
# Where libraries of cuBLAS are beside those that the dynamic linker finds: a CUDA toolkit, Ollama, Python environments.
CUBLAS_PATTERNS = (
    "usr/local/cuda*/lib64/libcublas.so.*",
    "opt/llmfleet/*/*/lib/ollama/cuda_v*/libcublas.so.*",
    "opt/llmfleet/*/*/lib/python3*/site-packages/nvidia/*/lib/libcublas.so.*",
    "usr/local/lib/ollama/cuda_v*/libcublas.so.*",
    "usr/lib/ollama/cuda_v*/libcublas.so.*",
)
PCI_DEVICES = Path("/sys/bus/pci/devices")
# Large enough that no cache holds it (the H200's second level has 60 MB), and that starting a copy costs nothing.
COPY_SIZE = 256 << 20
COPIES = 8
# Rows of the square matrices. Of this order the tensor cores of an H100 work at full rate.
ORDER = 8192
PRODUCTS = 16
BATCHES = 5
# After how many columns the matrix repeats itself, and with it the product.
PERIOD = 64


class CopyRates(t.TypedDict):
    """GB/s. In memory of the device, bytes read and bytes written both count."""

    device: float
    host_to_device: float
    device_to_host: float


class PeerCopy(t.TypedDict):
    """Copies from one GPU to the GPU `peer`: whether it has direct access, whether all bytes arrived, and GB/s."""

    peer: int
    access: bool
    intact: bool
    rate: float


class Product(t.TypedDict):
    """Products of bf16 matrices: TFLOP/s, and whether all numbers are right."""

    rate: float
    right: bool


class CudaError(LlmError):
    """A call of CUDA failed; the text is what it answered. `advice` is what to do next."""

    def __init__(self, found: str, advice: str) -> None:
        super().__init__(found)
        self.advice = advice


class MissingError(LlmError):
    """What the work needs is not on this host; the text says what."""


# --- Work


def count_gpus() -> int:
    """How many GPUs CUDA can use.

    :raises CudaError: when CUDA does not start.
    """
    driver = _Driver()
    count = ctypes.c_int()
    driver.call("cuDeviceGetCount", ctypes.byref(count))
    return count.value


def memory_intact(index: int) -> bool:
    """Whether bytes come back as they were from the GPU's memory, copied once within it.

    :raises CudaError: when the GPU does not do that work.
    """
    gpu = _Gpu(_Driver(), index)
    sent, received = gpu.pattern(COPY_SIZE), gpu.host_memory(COPY_SIZE)
    first, second = gpu.memory(COPY_SIZE), gpu.memory(COPY_SIZE)
    gpu.call("cuMemcpyHtoD_v2", first, sent, _size(COPY_SIZE))
    gpu.call("cuMemcpyDtoD_v2", second, first, _size(COPY_SIZE))
    gpu.call("cuMemcpyDtoH_v2", received, second, _size(COPY_SIZE))
    return _same(sent, received, COPY_SIZE)


def copy_rates(index: int) -> CopyRates:
    """Copies within the GPU's memory and between it and page-locked memory of the host.

    :raises CudaError: when the GPU does not do that work.
    """
    gpu = _Gpu(_Driver(), index)
    gpu.use_near_cpus()
    first, second, host = gpu.memory(COPY_SIZE), gpu.memory(COPY_SIZE), gpu.pattern(COPY_SIZE)
    device = gpu.seconds(lambda: gpu.call("cuMemcpyDtoDAsync_v2", second, first, _size(COPY_SIZE), None), COPIES)
    up = gpu.seconds(lambda: gpu.call("cuMemcpyHtoDAsync_v2", first, host, _size(COPY_SIZE), None), COPIES)
    down = gpu.seconds(lambda: gpu.call("cuMemcpyDtoHAsync_v2", host, first, _size(COPY_SIZE), None), COPIES)
    return {
        "device": 2 * COPY_SIZE / device / 1e9,
        "host_to_device": COPY_SIZE / up / 1e9,
        "device_to_host": COPY_SIZE / down / 1e9,
    }


def peer_copies(index: int, peers: t.Sequence[int]) -> list[PeerCopy]:
    """Copies from the GPU to each of its peers. Without direct access the driver copies through the host.

    :raises CudaError: when one of the GPUs does not do that work.
    """
    driver = _Driver()
    gpu = _Gpu(driver, index)
    sent = gpu.pattern(COPY_SIZE)
    source = gpu.memory(COPY_SIZE)
    gpu.call("cuMemcpyHtoD_v2", source, sent, _size(COPY_SIZE))
    return [_peer_copy(gpu, source, sent, _Gpu(driver, peer)) for peer in peers]


def _peer_copy(gpu: _Gpu, source: ctypes.c_uint64, sent: ctypes.c_void_p, peer: _Gpu) -> PeerCopy:
    target, received = peer.memory(COPY_SIZE), peer.host_memory(COPY_SIZE)
    access = ctypes.c_int()
    gpu.call("cuDeviceCanAccessPeer", ctypes.byref(access), gpu.device, peer.device)
    if access.value:
        gpu.call("cuCtxEnablePeerAccess", peer.context, ctypes.c_uint(0))
    copy = (target, peer.context, source, gpu.context, _size(COPY_SIZE), None)
    seconds = gpu.seconds(lambda: gpu.call("cuMemcpyPeerAsync", *copy), COPIES)
    peer.call("cuMemcpyDtoH_v2", received, target, _size(COPY_SIZE))
    intact = _same(sent, received, COPY_SIZE)
    peer.call("cuMemFreeHost", received)
    peer.call("cuMemFree_v2", target)
    return {"peer": peer.index, "access": bool(access.value), "intact": intact, "rate": COPY_SIZE / seconds / 1e9}


def matrix_product(index: int, cublas: str | None = None) -> Product:
    """Products of a bf16 matrix with itself on the GPU's tensor cores, summed up in fp32.

    Its numbers are whole and so small that every sum is exact, in whatever order: the product has one right answer.
    Its columns repeat after `PERIOD`, and so do the product's. So the whole product is held against its first columns
    without computing it here, and numbers of these against sums of our own.

    :param cublas: path of the library; by default the newest one on this host that the driver can run.
    :raises MissingError: when there is none.
    :raises CudaError: when the GPU does not do that work.
    """
    driver = _Driver()
    gpu = _Gpu(driver, index)
    library = _cublas(driver.cuda_version(), cublas)
    handle = ctypes.c_void_p()
    gpu.cublas(library, "cublasCreate_v2", ctypes.byref(handle))

    numbers = [byte % 16 - 8 for byte in os.urandom(PERIOD * ORDER)]
    period = b"".join(_BF16[number] for number in numbers)
    matrix, product = gpu.memory(2 * ORDER * ORDER), gpu.memory(4 * ORDER * ORDER)
    gpu.fill(matrix, period, 2 * ORDER * ORDER)

    one, zero, order = ctypes.c_float(1), ctypes.c_float(0), ctypes.c_int(ORDER)
    factor = (matrix, _BF16_TYPE, order)
    result = (product, _FP32_TYPE, order)
    shape = (order, order, order)
    arguments = (handle, 0, 0, *shape, ctypes.byref(one), *factor, *factor, ctypes.byref(zero), *result, *_ALGORITHM)
    seconds = gpu.seconds(lambda: gpu.cublas(library, "cublasGemmEx", *arguments), PRODUCTS)
    return {"rate": 2 * ORDER**3 / seconds / 1e12, "right": _is_square(gpu, product, numbers)}


def _is_square(gpu: _Gpu, product: ctypes.c_uint64, numbers: t.Sequence[int]) -> bool:
    """Whether `product`, stored by columns like all of cuBLAS, is the square of the matrix that repeats `numbers`."""
    size = 4 * PERIOD * ORDER
    first, other = gpu.host_memory(size), gpu.host_memory(size)
    gpu.call("cuMemcpyDtoH_v2", first, product, _size(size))
    for offset in range(size, 4 * ORDER * ORDER, size):
        gpu.call("cuMemcpyDtoH_v2", other, ctypes.c_uint64(product.value + offset), _size(size))
        if not _same(first, other, size):
            return False
    columns = (ctypes.c_float * (PERIOD * ORDER)).from_address(t.cast(int, first.value))
    # One number of each column, each of another row.
    for column in range(PERIOD):
        row = column * (ORDER // PERIOD)
        factors = (numbers[row + ORDER * (k % PERIOD)] * numbers[k + ORDER * column] for k in range(ORDER))
        if columns[row + ORDER * column] != sum(factors):
            return False
    return True


# --- The driver's library


class _Driver:
    """CUDA, started."""

    def __init__(self) -> None:
        # Else CUDA numbers the GPUs from the fastest on, and not as nvidia-smi does.
        os.environ["CUDA_DEVICE_ORDER"] = "PCI_BUS_ID"
        try:
            self._library = ctypes.CDLL(LIBCUDA)
        except OSError as exc:
            raise CudaError(
                f"the driver's CUDA library cannot be loaded: {exc}",
                "Install the package that has it (libcuda1 or libnvidia-compute) in the version of the driver.",
            ) from exc
        self.call("cuInit", ctypes.c_uint(0))

    def call(self, function: str, *arguments: t.Any) -> None:
        """Call a function of the driver, C types or None for its arguments.

        :raises CudaError: with the driver's own name of the error.
        """
        code = getattr(self._library, function)(*arguments)
        if code:
            raise CudaError(f"{self._error(code)} from {function}", _NEXT_STEP.get(code, _ANY_STEP))

    def _error(self, code: int) -> str:
        name, words = ctypes.c_char_p(), ctypes.c_char_p()
        if self._library.cuGetErrorName(code, ctypes.byref(name)):
            return f"the unknown error {code}"
        self._library.cuGetErrorString(code, ctypes.byref(words))
        return f"{(name.value or b'').decode()} ({code}, {(words.value or b'').decode()})"

    def cuda_version(self) -> int:
        """The CUDA version that this driver runs, its major number."""
        version = ctypes.c_int()
        self.call("cuDriverGetVersion", ctypes.byref(version))
        return version.value // 1000


class _Gpu:
    """One GPU, with the context that all programs of this process share on it."""

    def __init__(self, driver: _Driver, index: int) -> None:
        self.index = index
        self.device, self.context = ctypes.c_int(), ctypes.c_void_p()
        self._driver = driver
        driver.call("cuDeviceGet", ctypes.byref(self.device), ctypes.c_int(index))
        driver.call("cuDevicePrimaryCtxRetain", ctypes.byref(self.context), self.device)

    def call(self, function: str, *arguments: t.Any) -> None:
        """Call a function of the driver that acts on this GPU."""
        self._driver.call("cuCtxSetCurrent", self.context)
        self._driver.call(function, *arguments)

    def cublas(self, library: ctypes.CDLL, function: str, *arguments: t.Any) -> None:
        """Call a function of cuBLAS on this GPU."""
        self._driver.call("cuCtxSetCurrent", self.context)
        status = getattr(library, function)(*arguments)
        if status:
            found = f"{_CUBLAS_ERRORS.get(status, 'an error of cuBLAS')} ({status}) from {function}"
            raise CudaError(found, "Free the GPU's memory, or name another cuBLAS that fits the driver's CUDA version.")

    def use_near_cpus(self) -> None:
        """Run on the processors of the GPU's own NUMA node: their memory is where the host's pages come from."""
        bus_id = ctypes.create_string_buffer(16)
        self.call("cuDeviceGetPCIBusId", bus_id, ctypes.c_int(len(bus_id)), self.device)
        with contextlib.suppress(OSError, ValueError):
            cpus = (PCI_DEVICES / bus_id.value.decode().lower() / "local_cpulist").read_text(encoding="ascii")
            ranges = [part.split("-") for part in cpus.strip().split(",")]
            os.sched_setaffinity(0, {cpu for part in ranges for cpu in range(int(part[0]), int(part[-1]) + 1)})

    def memory(self, size: int) -> ctypes.c_uint64:
        """Memory of the GPU."""
        address = ctypes.c_uint64()
        self.call("cuMemAlloc_v2", ctypes.byref(address), _size(size))
        return address

    def host_memory(self, size: int) -> ctypes.c_void_p:
        """Page-locked memory of the host, which the GPU copies from and to by itself."""
        address = ctypes.c_void_p()
        self.call("cuMemHostAlloc", ctypes.byref(address), _size(size), ctypes.c_uint(0))
        return address

    def pattern(self, size: int) -> ctypes.c_void_p:
        """Host memory full of random bytes, which repeat after a prime number: no two pages are alike."""
        address = self.host_memory(size)
        block = os.urandom(1048573)
        for offset in range(0, size, len(block)):
            ctypes.memmove(t.cast(int, address.value) + offset, block, min(len(block), size - offset))
        return address

    def fill(self, memory: ctypes.c_uint64, block: bytes, size: int) -> None:
        """Repeat `block` all over memory of the GPU."""
        for offset in range(0, size, len(block)):
            address = ctypes.c_uint64(memory.value + offset)
            self.call("cuMemcpyHtoD_v2", address, block, _size(len(block)))

    def seconds(self, work: t.Callable[[], None], runs: int) -> float:
        """How long `work`, which only queues something on the GPU, takes: the mean of `runs`, in the best of batches.

        The first batch has an idle GPU's clocks, and what else goes on in the host slows some; a fault slows them all.
        """
        return min(self._batch(work, runs) for _dummy in range(BATCHES)) / runs

    def _batch(self, work: t.Callable[[], None], runs: int) -> float:
        start, stop, milliseconds = ctypes.c_void_p(), ctypes.c_void_p(), ctypes.c_float()
        self.call("cuEventCreate", ctypes.byref(start), ctypes.c_uint(0))
        self.call("cuEventCreate", ctypes.byref(stop), ctypes.c_uint(0))
        self.call("cuEventRecord", start, None)
        for _dummy in range(runs):
            work()
        self.call("cuEventRecord", stop, None)
        self.call("cuEventSynchronize", stop)
        self.call("cuEventElapsedTime", ctypes.byref(milliseconds), start, stop)
        return milliseconds.value / 1000


def _size(size: int) -> ctypes.c_size_t:
    return ctypes.c_size_t(size)


def _same(one: ctypes.c_void_p, other: ctypes.c_void_p, size: int) -> bool:
    return bool(ctypes.CDLL(None).memcmp(one, other, _size(size)) == 0)


_ANY_STEP = "Read `journalctl -k | grep -i -e nvrm -e xid` for what the driver says."
# What to do about a CUresult; its numbers and names are in the CUDA driver API's enumeration of that name.
_NEXT_STEP = {
    2: "Stop what uses the GPU's memory: `nvidia-smi` names it.",
    3: "Check that libcuda comes from the loaded driver: `ldconfig -p | grep libcuda`. Then reboot.",
    34: "Take the CUDA toolkit's directory of stubs out of the library path: its libcuda only serves linking.",
    46: "Stop what holds the GPU, or set its compute mode to the default: `nvidia-smi -c 0`.",
    100: "Look at /dev/nvidia* and its rights, at `nvidia-smi -L`, and for CUDA_VISIBLE_DEVICES in the environment.",
    101: "A GPU is gone since the GPUs were counted: read `journalctl -k | grep -i xid`, then power-cycle the host.",
    214: "The GPU's memory has an error that cannot be corrected: reset the GPU or reboot, then run the check again.",
    217: "Compare with `nvidia-smi topo -p2p r` of a good host.",
    220: "An NVLink has an uncorrectable error: look at `nvidia-smi nvlink -e`, then reset the GPUs or reboot.",
    304: "Give the account access to /dev/nvidia* and /dev/nvidia-uvm, or run as root.",
    719: "Read `journalctl -k | grep -i xid`: the GPU gave up its work.",
    802: "Start the service nvidia-fabricmanager in the driver's version, then wait until `nvidia-smi -q` shows the "
    "fabric as Completed; after boot it needs a minute.",
    803: "The loaded kernel module and libcuda have different versions: reboot, or reload the module.",
    804: "Take the package cuda-compat off the library path: this GPU or driver does not support it.",
    999: "Load the module of unified memory: `modprobe nvidia-uvm`, then `nvidia-modprobe -u -c 0`. If that does not "
    "help, reboot.",
}


# --- cuBLAS

# cudaDataType, cublasComputeType_t and cublasGemmAlgo_t of cuBLAS 11 and later.
_FP32_TYPE, _BF16_TYPE = 0, 14
_ALGORITHM = (68, -1)  # sums in fp32, and whatever suits best
_CUBLAS_OLDEST = 11
_CUBLAS_ERRORS = {
    1: "CUBLAS_STATUS_NOT_INITIALIZED",
    3: "CUBLAS_STATUS_ALLOC_FAILED",
    7: "CUBLAS_STATUS_INVALID_VALUE",
    8: "CUBLAS_STATUS_ARCH_MISMATCH",
    13: "CUBLAS_STATUS_EXECUTION_FAILED",
    14: "CUBLAS_STATUS_INTERNAL_ERROR",
    15: "CUBLAS_STATUS_NOT_SUPPORTED",
}
# A bf16 is the upper half of the fp32; these whole numbers need no more.
_BF16 = {number: struct.pack("<f", number)[2:] for number in range(-8, 8)}


def _cublas(newest: int, path: str | None) -> ctypes.CDLL:
    """cuBLAS at `path`, or the one of the highest major version up to `newest`."""
    if path is not None:
        return _load_cublas(Path(path))
    on_disk = [found for pattern in CUBLAS_PATTERNS for found in sorted(Path("/").glob(pattern))]
    for major in range(newest, _CUBLAS_OLDEST - 1, -1):
        name = f"libcublas.so.{major}"
        for library in (Path(name), *(found for found in on_disk if re.fullmatch(rf"{name}(\.[0-9.]+)?", found.name))):
            try:
                return _load_cublas(library)
            except MissingError:
                continue
    raise MissingError(f"no cuBLAS of a version from {_CUBLAS_OLDEST} to {newest} is on this host")


def _load_cublas(library: Path) -> ctypes.CDLL:
    try:
        # Not every copy knows that the library it needs lies beside it.
        beside = library.with_name(library.name.replace("libcublas", "libcublasLt"))
        if beside.is_file():
            ctypes.CDLL(str(beside), ctypes.RTLD_GLOBAL)
        return ctypes.CDLL(str(library))
    except OSError as exc:
        raise MissingError(f"cuBLAS cannot be loaded: {exc}") from exc
