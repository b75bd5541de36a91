#!/usr/bin/python
# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: gpu_info
short_description: Tell what the NVIDIA GPUs of a host are and how they are
version_added: 0.1.0
description:
  - Reads identity, memory, health, links and processes of all NVIDIA GPUs of the host in one call and changes nothing.
  - NVML is asked through the Python module C(pynvml). Where that is not installed, C(nvidia-smi) is run and its output
    is parsed into the same result.
  - A value that the GPU or the driver does not have is V(null). A GPU that does not answer is listed with its
    RV(gpus[].error).
  - Without a driver, or with one that does not work or does not answer in time, the module fails and names the next
    step.
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
  source:
    description:
      - Where the facts come from. V(auto) is V(nvml) where C(pynvml) is installed, else V(nvidia-smi).
    type: str
    choices: [auto, nvml, nvidia-smi]
    default: auto
  timeout:
    description:
      - Seconds after which a driver that has not answered is given up, and what asked it is killed.
    type: int
    default: 60
requirements:
  - Either C(pynvml) (package C(python3-pynvml) or C(nvidia-ml-py)) or C(nvidia-smi), and the NVIDIA driver.
seealso:
  - module: llmfleet.serving.gpu_gate
"""

EXAMPLES = r"""
---
- name: Look at the GPUs
  llmfleet.serving.gpu_info:
  register: gpu

- name: Show their names and temperatures
  ansible.builtin.debug:
    msg: "GPU {{ item.index }}: {{ item.name }}, {{ item.temperature }} C"
  loop: "{{ gpu.gpus }}"
"""

RETURN = r"""
schema:
  description: Version of the structure of this result. It rises when a key changes its meaning or goes away.
  returned: success
  type: int
  sample: 1
source:
  description: V(nvml) or V(nvidia-smi), whichever was asked.
  returned: success
  type: str
  sample: nvml
driver_version:
  description: Version of the NVIDIA driver.
  returned: success
  type: str
  sample: 550.90.12
cuda_version:
  description: Highest CUDA version that the driver supports.
  returned: success
  type: str
  sample: "12.4"
nvml_version:
  description: Version of the NVML library. C(nvidia-smi) does not tell it.
  returned: success
  type: str
  sample: 12.550.90.12
attached_gpus:
  description: How many GPUs the driver counts, with those that do not answer.
  returned: success
  type: int
  sample: 8
gpus:
  description: The GPUs.
  returned: success
  type: list
  elements: dict
  contains:
    index:
      description: Number of the GPU. V(null) where C(nvidia-smi) left out a GPU, so that the others cannot be numbered.
      type: int
    error:
      description: Why this GPU does not answer. All other keys but RV(gpus[].index) are V(null) then.
      type: str
    name:
      description: Product name.
      type: str
    uuid:
      description: The GPU's unique identifier.
      type: str
    serial:
      description: Serial number of the board.
      type: str
    pci_bus_id:
      description: Address on the PCI bus, in upper case, with a domain of eight digits.
      type: str
    memory_total:
      description: Memory in MiB.
      type: int
    memory_used:
      description: Memory in use in MiB, without what the driver keeps for itself.
      type: int
    utilization:
      description: Share of the last moment in which the GPU was computing, in percent.
      type: int
    temperature:
      description: Temperature of the GPU in degrees Celsius.
      type: int
    power_draw:
      description: Power draw in watts, averaged over a second.
      type: float
    power_limit:
      description: Enforced power limit in watts.
      type: float
    persistence_mode:
      description: Whether the driver keeps the GPU initialised while nothing uses it.
      type: bool
    compute_mode:
      description: Who may use the GPU. V(Default), V(Exclusive_Process), V(Exclusive_Thread) or V(Prohibited).
      type: str
    mig_mode:
      description: Whether the GPU is cut into instances (MIG).
      type: bool
    ecc_mode:
      description: Whether error correction is on.
      type: bool
    ecc_uncorrected_volatile:
      description: Uncorrectable memory errors since the driver was loaded.
      type: int
    ecc_uncorrected_aggregate:
      description: Uncorrectable memory errors ever.
      type: int
    remapped_rows_pending:
      description: Whether a memory row waits for the reset that remaps it.
      type: bool
    remapped_rows_failure:
      description: Whether a memory row could not be remapped.
      type: bool
    clocks_event_reasons:
      description:
        - What holds the clocks down now. Some of V(gpu_idle), V(applications_clocks_setting), V(sw_power_cap),
          V(hw_slowdown), V(sync_boost), V(sw_thermal_slowdown), V(hw_thermal_slowdown),
          V(hw_power_brake_slowdown), V(display_clocks_setting).
      type: list
      elements: str
    pcie_gen:
      description: PCIe generation of the link now. An idle GPU can step down.
      type: int
    pcie_gen_max:
      description: Highest PCIe generation of the GPU in this host.
      type: int
    pcie_width:
      description: PCIe lanes in use.
      type: int
    pcie_width_max:
      description: PCIe lanes of the GPU in this host.
      type: int
    nvlinks:
      description: The NVLinks that the GPU has, V(null) where it has none.
      type: list
      elements: dict
      contains:
        link:
          description: Number of the link.
          type: int
        active:
          description: Whether it is up.
          type: bool
        speed:
          description: Raw rate for each direction in MB/s, V(null) while the link is down.
          type: int
    fabric_state:
      description:
        - Registration with the NVSwitch fabric. V(Not Started), V(In Progress) or V(Completed), V(null) without a
          fabric.
      type: str
    fabric_status:
      description: Result of a completed registration. V(Success) or an error.
      type: str
    processes:
      description: Processes that use the GPU.
      type: list
      elements: dict
      contains:
        pid:
          description: Number of the process. V(0) where the driver does not tell it.
          type: int
        name:
          description: Name as the driver tells it.
          type: str
        memory:
          description: GPU memory in MiB.
          type: int
        unit:
          description: The systemd service or scope that the process runs in, V(null) without one.
          type: str
"""

import typing as t

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.llmfleet.serving.plugins.module_utils._errors import LlmError
from ansible_collections.llmfleet.serving.plugins.module_utils._gpu import read_facts


def run(module: AnsibleModule) -> dict[str, t.Any]:
    return {"changed": False, **read_facts(module.run_command, module.params["source"], module.params["timeout"])}


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "source": {"type": "str", "choices": ["auto", "nvml", "nvidia-smi"], "default": "auto"},
            "timeout": {"type": "int", "default": 60},
        },
        supports_check_mode=True,
    )
    try:
        module.exit_json(**run(module))
    except LlmError as exc:
        module.fail_json(msg=str(exc))


if __name__ == "__main__":
    main()
