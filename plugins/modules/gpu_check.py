#!/usr/bin/python
# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: gpu_check
short_description: Put the NVIDIA GPUs of a host to work and refuse those that fail
version_added: 0.2.0
description:
  - Where M(llmfleet.serving.gpu_gate) reads what the driver tells, this module makes the GPUs work. It fails with all
    reasons at once, each with what was expected, what was found and what to do.
  - C(cuda-init), C(cuda-count) and C(memory-intact) are always made. CUDA starts, which it does not while the fabric
    manager or a kernel module is missing; it sees all GPUs; each of them gives back the bytes that it stored.
  - C(copy-rate) copies within each GPU's memory, and between it and page-locked memory of the host.
  - C(peer-copy) copies from each GPU to each other one, compares the bytes and wants direct access.
  - C(matrix-product) multiplies bf16 matrices with cuBLAS and verifies the product. cuBLAS is in a CUDA toolkit, in
    Ollama and in Python environments of vLLM and SGLang.
  - C(nvbandwidth), C(dcgm-diag) (C(dcgmi diag -r 1)) and C(all-reduce) (C(all_reduce_perf) of NCCL's tests, on two GPUs
    or more) run the programs of these names where they are installed, and hold their figures against the same floors.
  - Each check of each GPU runs in a process of its own with a time limit. A GPU that hangs is a reason, not a hang.
  - The GPUs should be idle. The checks take about 1 GB of the memory of each GPU and 600 MB of the host's; they
    change nothing. On eight GPUs they take about a minute without the programs.
author:
  - llmfleet.serving maintainers (@llmfleet)
extends_documentation_fragment:
  - ansible.builtin.action_common_attributes
attributes:
  check_mode:
    support: full
  diff_mode:
    support: none
  platform:
    platforms: posix
options:
  profile:
    description:
      - Class of the host, which says how fast its GPUs must be. All of them are SXM boards.
      - The floors are parts of published figures, which good hosts were seen to reach. 0.75 of the bandwidth of memory,
        0.7 of the dense bf16 rate, 0.74 of the NVLinks in one direction, 0.62 of it for the all-reduce.
    type: str
    choices: [a100, h100, h20, h200, h800]
    required: true
  count:
    description:
      - Number of GPUs.
    type: int
    default: 8
  checks:
    description:
      - Checks to make. One that is named and cannot be made on the host is a reason to fail.
      - Without this option, all are made that the host has what is needed for. The others are skipped.
    type: list
    elements: str
    choices: [copy-rate, peer-copy, matrix-product, nvbandwidth, dcgm-diag, all-reduce]
  device_copy_min:
    description:
      - GB/s within the memory of a GPU, bytes read and bytes written counted, in place of the profile's.
    type: float
  host_copy_min:
    description:
      - GB/s between host and GPU, in each direction, in place of the profile's.
    type: float
  peer_copy_min:
    description:
      - GB/s from one GPU to another, in place of the profile's.
    type: float
  matrix_product_min:
    description:
      - TFLOP/s of bf16 products with sums in fp32, in place of the profile's.
    type: float
  all_reduce_min:
    description:
      - GB/s of bus bandwidth in an all-reduce of 1 GiB, in place of the profile's.
    type: float
  cublas:
    description:
      - Path of the cuBLAS library. Without it, the newest one is taken that the driver can run, of those that the
        dynamic linker knows and those that are in the usual places of CUDA, of Ollama and of this collection's roles.
    type: path
  timeout:
    description:
      - Seconds that one check of one GPU, or one program, may take.
    type: int
    default: 120
requirements:
  - The NVIDIA driver with its CUDA library, C(libcuda.so.1).
seealso:
  - module: llmfleet.serving.gpu_gate
"""

EXAMPLES = r"""
---
- name: Put eight H800 to work
  llmfleet.serving.gpu_check:
    profile: h800

- name: Insist on DCGM's diagnostic, and on nine tenths of what a good host reached
  llmfleet.serving.gpu_check:
    profile: h800
    checks: [copy-rate, peer-copy, dcgm-diag]
    peer_copy_min: "{{ 0.9 * 163 }}"
"""

RETURN = r"""
verdict:
  description: V(pass), or V(fail) when there is a finding. The module fails with the latter.
  returned: always, unless an option is refused
  type: str
  sample: pass
findings:
  description: What is wrong, once for each GPU.
  returned: always, unless an option is refused
  type: list
  elements: dict
  contains:
    rule:
      description: Name of the check.
      type: str
      sample: cuda-count
    severity:
      description: Always V(fail).
      type: str
      sample: fail
    gpu:
      description: Number of the GPU as in C(nvidia-smi), V(null) when the host as a whole is meant.
      type: int
      sample: null
    expected:
      description: What the check wants.
      type: str
      sample: 8 GPUs
    found:
      description: What is there.
      type: str
      sample: "7"
    advice:
      description: What to do about it.
      type: str
      sample: Compare with `nvidia-smi -L` and `lspci -d 10de:`.
rules:
  description: All checks with what became of them.
  returned: always, unless an option is refused
  type: list
  elements: dict
  contains:
    rule:
      description: Name of the check.
      type: str
      sample: matrix-product
    severity:
      description: Always V(fail).
      type: str
      sample: fail
    outcome:
      description: V(pass), V(fail) or V(skip).
      type: str
      sample: skip
    reason:
      description: Why the check could not be made, V(null) when it was.
      type: str
      sample: no cuBLAS of a version from 11 to 12 is on this host
measurements:
  description: All that was measured, of GPUs that pass too.
  returned: always, unless an option is refused
  type: list
  elements: dict
  contains:
    rule:
      description: Name of the check.
      type: str
      sample: copy-rate
    measure:
      description:
        - V(device-copy), V(host-to-device), V(device-to-host), V(peer-copy), V(matrix-product) or V(all-reduce).
      type: str
      sample: device-copy
    gpu:
      description: Number of the GPU, V(null) when the host as a whole is meant.
      type: int
      sample: 0
    peer:
      description: Number of the GPU that was copied to, V(null) in other measurements.
      type: int
      sample: 1
    value:
      description: What was measured.
      type: float
      sample: 2987.4
    unit:
      description: V(GB/s) or V(TFLOP/s).
      type: str
      sample: GB/s
    minimum:
      description: The floor that holds.
      type: float
      sample: 2512
"""

import dataclasses
import typing as t

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.llmfleet.serving.plugins.module_utils._cuda_checks import CHECKS, FLOORS, Floors, Host, check
from ansible_collections.llmfleet.serving.plugins.module_utils._errors import LlmError
from ansible_collections.llmfleet.serving.plugins.module_utils._gate_verdict import describe


def run(module: AnsibleModule) -> dict[str, t.Any]:
    params = module.params
    given = {field.name: params[f"{field.name}_min"] for field in dataclasses.fields(Floors)}
    floors = dataclasses.replace(
        FLOORS[params["profile"]], **{name: floor for name, floor in given.items() if floor is not None}
    )
    host = Host(module.run_command, floors, params["count"], params["timeout"], params["cublas"])
    verdict = check(host, params["checks"])
    if verdict["verdict"] == "fail":
        title = f"The GPUs do not work as those of the profile {params['profile']} must:"
        module.fail_json(msg="\n".join([title, *describe(verdict["findings"])]), **verdict)
    return {"changed": False, **verdict}


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "profile": {"type": "str", "choices": sorted(FLOORS), "required": True},
            "count": {"type": "int", "default": 8},
            "checks": {"type": "list", "elements": "str", "choices": list(CHECKS)},
            **{f"{field.name}_min": {"type": "float"} for field in dataclasses.fields(Floors)},
            "cublas": {"type": "path"},
            "timeout": {"type": "int", "default": 120},
        },
        supports_check_mode=True,
    )
    try:
        module.exit_json(**run(module))
    except LlmError as exc:
        module.fail_json(msg=str(exc))


if __name__ == "__main__":
    main()
