# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What options an engine's release takes, asked of the release itself. `__main__` writes the lists.

vLLM and SGLang: the release's wheel is installed into an environment of its own, without the packages that need a GPU,
and its parser is asked (`probe.py`). llama.cpp: the program tells. Ollama has no options for a model; its Go module
says which parameters a model has, and which variables the server reads (`texts.py`).
"""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from testbed import BedError

Options = dict[str, dict[str, Any]]

PROBE = Path(__file__).with_name("probe.py")
# Without a GPU vLLM does not know what it is for, and neither may ask a hub for anything.
SETTINGS = {"VLLM_TARGET_DEVICE": "cpu", "CUDA_VISIBLE_DEVICES": "", "HF_HUB_OFFLINE": "1"}
# Kernels and what comes with them: gigabytes that no parser needs.
_KERNELS = (
    "av", "cuda-bindings", "cuda-python", "decord", "decord2", "fastsafetensors", "flash-attn-4", "flashinfer-cubin",
    "flashinfer-python", "humming-kernels", "instanttensor", "numba", "nvidia-cudnn-frontend", "nvidia-cutlass-dsl",
    "nvidia-mathdx", "nvshmem4py-cu13", "opencv-python-headless", "outlines", "pynvvideocodec", "quack-kernels", "ray",
    "sgl-deep-ep", "sgl-deep-gemm", "sgl-flash-mla", "sgl-kernel", "sglang-kernel", "tilelang", "timm",
    "tokenspeed-mla", "torch-memory-saver", "torchao", "torchaudio", "torchcodec", "xformers",
)  # fmt: skip
# One PyTorch for all: it is the largest package, and none of the parsers cares which it is.
_PINS = {"torch": "2.13.0", "torchvision": "0.28.0", "triton": "3.7.1"}


@dataclasses.dataclass(frozen=True)
class Release:
    """A release whose parser can be asked.

    :ivar pins: other versions of packages than the newest, where it needs them.
    """

    engine: str
    version: str
    extra: str = ""
    pins: dict[str, str] = dataclasses.field(default_factory=dict)

    @property
    def requirement(self) -> str:
        return f"{self.engine}{self.extra}=={self.version}"


# Releases of early 2025 leave transformers open, or triton, and the newest do not fit them.
_EARLY_VLLM = {"transformers": "4.51.3", "huggingface-hub": "0.36.0"}
RELEASES = (
    Release("vllm", "0.7.3", pins=_EARLY_VLLM),
    Release("vllm", "0.8.5.post1", pins=_EARLY_VLLM),
    Release("vllm", "0.32.0"),
    Release("vllm", "0.33.0"),
    Release("sglang", "0.4.3.post2", extra="[srt]", pins={"transformers": "4.48.3", "triton": "3.2.0"}),
    Release("sglang", "0.4.6.post5", extra="[srt]", pins={"triton": "3.2.0"}),
    Release("sglang", "0.5.8.post1"),
    Release("sglang", "0.5.23"),
)


class Environment:
    """A release's environment, in a folder that the caller removes."""

    def __init__(self, release: Release, folder: Path, python: str) -> None:
        """
        :param python: a Python 3.12, in the words of ``uv venv --python``.
        :raises BedError: when it cannot be made.
        """
        self._release = release
        self._python = folder / "bin" / "python"
        overrides = folder.with_suffix(".overrides")
        overrides.write_text(_overrides(release))
        uv = os.environ.get("UV", "uv")
        _run(uv, "venv", "--quiet", f"--python={python}", str(folder))
        _run(
            uv, "pip", "install", "--quiet", f"--python={self._python}", f"--override={overrides}", release.requirement
        )

    def options(self) -> Options:
        """What the release's parser takes."""
        with tempfile.TemporaryDirectory() as folder:
            output = Path(folder) / "options.json"
            self._probe("list", output)
            found: Options = json.loads(output.read_text())
            return found

    def parse(self, command_lines: list[list[str]]) -> None:
        """
        :raises BedError: with the parser's words, when it refuses one of the command lines.
        """
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "lines.json"
            file.write_text(json.dumps(command_lines))
            self._probe("parse", file)

    def _probe(self, task: str, file: Path) -> None:
        _run(str(self._python), str(PROBE), task, self._release.engine, str(file))


def _overrides(release: Release) -> str:
    """What is installed in place of what the release asks for; a condition that never holds leaves a package out."""
    # The newest certifi there is will do: vLLM 0.33.0 asks for a newer one.
    pins = {**_PINS, **release.pins}
    lines = ["certifi", *(f"{name}=={version}" for name, version in pins.items())]
    return "\n".join([*lines, *(f"{name}; python_version < '3'" for name in _KERNELS)]) + "\n"


def _run(program: str, *words: str) -> str:
    result = subprocess.run(
        [program, *words], env={**os.environ, **SETTINGS}, capture_output=True, text=True, check=False
    )
    if result.returncode:
        raise BedError(f"{program} {' '.join(words)[:200]}: {result.stderr.strip()[-2000:]}")
    return result.stdout
