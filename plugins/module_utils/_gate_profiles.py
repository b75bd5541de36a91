# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a host's GPUs are expected to be: classes of hosts. Private to this collection."""

from __future__ import annotations

import collections
import dataclasses
import re
import typing as t

from ansible_collections.llmfleet.serving.plugins.module_utils._errors import LlmError
from ansible_collections.llmfleet.serving.plugins.module_utils._gpu_facts import Facts


@dataclasses.dataclass(frozen=True)
class Expectation:
    """What a host must be. Memory is in MiB, rates are in MB/s per NVLink and direction, utilization in percent.

    None is what is not expected to be anything in particular.
    """

    name: str
    memory_min: int
    nvlinks: int
    nvlink_speed_min: int = 26562  # NVLink 4: `nvidia-smi nvlink -s` of two H200s shows 26.562 GB/s on every link
    pcie_gen: int = 5
    pcie_width: int = 16
    vbios_version: str | None = None
    topology: list[list[str | None]] | None = None
    # Facts that this class of GPU does not have, so that "N/A" breaks no rule.
    absent: t.Collection[str] = ()
    count: int = 8
    driver_version_min: str | None = None
    cuda_version_min: str | None = None
    # An idle GPU was seen with 0 to 4 MiB in use; the smallest CUDA context takes several hundred.
    idle_memory_max: int = 256
    idle_utilization_max: int = 5
    allowed_units: t.Sequence[str] = ()

    def __post_init__(self) -> None:
        """Refuse what no host can be measured against, before any is asked."""
        if self.count < 1:
            raise LlmError(f"A count of {self.count} GPUs is refused: expected at least 1.")
        for floor in (self.driver_version_min, self.cuda_version_min):
            if floor is not None:
                version(floor)


def version(text: str) -> tuple[int, ...]:
    """A version of numbers and dots, comparable.

    :raises LlmError: when it is something else.
    """
    if not re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,9})*", text):
        raise LlmError(f"{text[:40]!r} is not a version: expected numbers with dots between them, like 550.90.12.")
    return tuple(int(part) for part in text.split("."))


PROFILES = {
    # Name and memory: `nvidia-smi` on a host with eight of them, driver 550.90.12. Links: 400 GB/s as published, by
    # 50 GB/s for both directions of an NVLink 4. No recorded host confirms the number of links.
    "h800": Expectation(name="NVIDIA H800", memory_min=81559, nvlinks=8),
    # Name and memory: recorded from one H100 SXM, driver 580.159.04. Links: 900 GB/s as published, by 50 GB/s.
    "h100": Expectation(name="NVIDIA H100 80GB HBM3", memory_min=81559, nvlinks=18),
    # All figures: recorded from two H200 SXM, driver 580.159.04.
    "h200": Expectation(name="NVIDIA H200", memory_min=143771, nvlinks=18),
    # Name and links: `nvidia-smi topo -m` of hosts with eight of them in public reports (NV18, 26 GB/s a link). Memory:
    # 96 GB as published, which leaves room for what the driver does not show.
    "h20": Expectation(name="NVIDIA H20", memory_min=97000, nvlinks=18),
    # Name, links and their rate: `nvidia-smi nvlink -s` in public reports (12 links of 25 GB/s). Memory: 80 GB as
    # published. The fabric and the SRAM threshold came with Hopper.
    "a100": Expectation(
        name="NVIDIA A100-SXM4-80GB",
        memory_min=81000,
        nvlinks=12,
        nvlink_speed_min=25000,
        pcie_gen=4,
        absent=("ecc_sram_threshold_exceeded",),
    ),
}
AUTO = "auto"


def profile_of(facts: Facts) -> str | None:
    """The name of the profile that most of a host's GPUs are named in; None when none of them is in any."""
    profiles = {profile.name: name for name, profile in PROFILES.items()}
    names = collections.Counter(gpu["name"] for gpu in facts["gpus"] if gpu["name"] in profiles)
    return profiles[names.most_common(1)[0][0]] if names else None
