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
  - The kernel's log and systemd are asked at the same time, for the driver's error messages (Xids) since boot and for
    the service of the NVSwitch fabric. What the account may not read is V(null).
  - Without a driver, or with one that does not work or does not answer in time, the module fails and names the next
    step.
author:
  - llmfleet.serving maintainers (@llmfleet)
extends_documentation_fragment:
  - ansible.builtin.action_common_attributes
  - llmfleet.serving._gpu
attributes:
  check_mode:
    support: full
  diff_mode:
    support: none
  platform:
    platforms: posix
options:
  xid_since:
    description:
      - Leave out Xids before this time, in ISO 8601 with the offset from UTC, like V(2026-11-23T14:05:00Z). Without it,
        all since boot are told.
    type: str
    version_added: 0.2.0
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
  sample: 2
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
pci_gpus:
  description:
    - How many NVIDIA GPUs are on the PCI bus, without those given to virtual machines.
    - V(null) where C(/sys) shows none.
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
      description:
        - Number of the GPU. V(null) where C(nvidia-smi) left out a GPU, so that the others cannot be numbered.
      type: int
    error:
      description: Why this GPU does not answer. All other keys but RV(gpus[].index) are V(null) then.
      type: str
    unanswered:
      description:
        - By the name of a key that is V(null), what came instead of a value, when it was not "N/A". V(missing) is
          what the driver or the tool does not know; anything else is the driver's words.
      type: dict
    name:
      description: Product name.
      type: str
    uuid:
      description: The GPU's unique identifier.
      type: str
    serial:
      description: Serial number of the board.
      type: str
    part_number:
      description: Part number of the board.
      type: str
    pci_bus_id:
      description: Address on the PCI bus, in upper case, with a domain of eight digits.
      type: str
    vbios_version:
      description: Version of the VBIOS.
      type: str
    inforom_version:
      description: Version of the InfoROM's image.
      type: str
    inforom_valid:
      description: Whether the checksums of the InfoROM are right.
      type: bool
    numa_node:
      description: The NUMA node whose memory is nearest.
      type: int
    memory_total:
      description: Memory in MiB.
      type: int
    memory_used:
      description: Memory in use in MiB, without what the driver keeps for itself.
      type: int
    memory_reserved:
      description: Memory in MiB that the driver keeps for itself.
      type: int
    utilization:
      description: Share of the last moment in which the GPU was computing, in percent.
      type: int
    temperature:
      description: Temperature of the GPU in degrees Celsius.
      type: int
    temperature_memory:
      description: Temperature of the memory in degrees Celsius.
      type: int
    temperature_slowdown:
      description: Temperature at which the GPU slows down, in degrees Celsius. Newer GPUs have margins instead.
      type: int
    temperature_shutdown:
      description: Temperature at which the GPU shuts down, in degrees Celsius. Newer GPUs have margins instead.
      type: int
    temperature_margin:
      description: Degrees Celsius left to the GPU's limit. NVML tells it in newer drivers than 550.
      type: int
    temperature_margin_slowdown:
      description: The margin at which the GPU slows down.
      type: int
    temperature_margin_shutdown:
      description: The margin at which the GPU shuts down.
      type: int
    power_draw:
      description: Power draw in watts, averaged over a second.
      type: float
    power_limit:
      description: Enforced power limit in watts.
      type: float
    power_limit_default:
      description: Power limit in watts that the GPU starts with.
      type: float
    power_limit_min:
      description: Lowest power limit in watts that may be set.
      type: float
    power_limit_max:
      description: Highest power limit in watts that may be set.
      type: float
    performance_state:
      description: From V(P0), the fastest, to V(P15).
      type: str
    clock_graphics:
      description: Graphics clock in MHz.
      type: int
    clock_memory:
      description: Memory clock in MHz.
      type: int
    clock_graphics_max:
      description: Highest graphics clock in MHz.
      type: int
    clock_memory_max:
      description: Highest memory clock in MHz.
      type: int
    clocks_event_reasons:
      description:
        - What holds the clocks down now. Some of V(gpu_idle), V(applications_clocks_setting), V(sw_power_cap),
          V(hw_slowdown), V(sync_boost), V(sw_thermal_slowdown), V(hw_thermal_slowdown), V(hw_power_brake_slowdown),
          V(display_clocks_setting).
        - NVML is asked twice, and what was there both times is told.
      type: list
      elements: str
    persistence_mode:
      description: Whether the driver keeps the GPU initialised while nothing uses it.
      type: bool
    compute_mode:
      description: Who may use the GPU. V(Default), V(Exclusive_Process), V(Exclusive_Thread) or V(Prohibited).
      type: str
    mig_mode:
      description: Whether the GPU is cut into instances (MIG).
      type: bool
    mig_mode_pending:
      description: The same after the next reset.
      type: bool
    ecc_mode:
      description: Whether error correction is on.
      type: bool
    ecc_mode_pending:
      description: The same after the next reset.
      type: bool
    ecc_uncorrected_volatile:
      description: Uncorrectable memory errors since the driver was loaded.
      type: int
    ecc_uncorrected_aggregate:
      description: Uncorrectable memory errors ever.
      type: int
    ecc_sram_corrected_volatile:
      description: Corrected errors in SRAM since the driver was loaded.
      type: int
    ecc_sram_uncorrected_volatile:
      description: Uncorrectable errors in SRAM since the driver was loaded.
      type: int
    ecc_dram_corrected_volatile:
      description: Corrected errors in DRAM since the driver was loaded.
      type: int
    ecc_dram_uncorrected_volatile:
      description: Uncorrectable errors in DRAM since the driver was loaded.
      type: int
    ecc_sram_corrected_aggregate:
      description: Corrected errors in SRAM ever.
      type: int
    ecc_sram_uncorrected_aggregate:
      description: Uncorrectable errors in SRAM ever.
      type: int
    ecc_dram_corrected_aggregate:
      description: Corrected errors in DRAM ever.
      type: int
    ecc_dram_uncorrected_aggregate:
      description: Uncorrectable errors in DRAM ever.
      type: int
    ecc_sram_threshold_exceeded:
      description: Whether the GPU has more errors in SRAM than it may have.
      type: bool
    remapped_rows_corrected:
      description: Memory rows remapped for errors that could be corrected.
      type: int
    remapped_rows_uncorrected:
      description: Memory rows remapped for errors that could not be corrected.
      type: int
    remapped_rows_pending:
      description: Whether a memory row waits for the reset that remaps it.
      type: bool
    remapped_rows_failure:
      description: Whether a memory row could not be remapped.
      type: bool
    remapped_rows_histogram:
      description:
        - How many memory banks have all their spare rows (C(max)), many (C(high)), some (C(partial)), few (C(low)) or
          none (C(none)).
      type: dict
    repair_pending:
      description:
        - Whether a memory channel or a processor cluster waits for the reset that repairs it. From driver 575 on.
      type: bool
    unrepairable_memory:
      description: Whether there is memory that cannot be repaired. From driver 575 on.
      type: bool
    recovery_action:
      description:
        - What the driver asks for. V(None), V(Reset), V(Reboot), V(Drain P2P), V(Drain and Reset) or, with newer
          drivers, more.
      type: str
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
    pcie_replays:
      description: Times that a packet had to be sent again over PCIe, since the driver was loaded.
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
        peer:
          description: PCI address of what is at the other end, a GPU or an NVSwitch, V(null) while the link is down.
          type: str
        replay_errors:
          description: Times that data had to be sent again.
          type: int
        recovery_errors:
          description: Times that the link had to be trained again.
          type: int
        crc_errors:
          description: Checksum errors.
          type: int
    fabric_state:
      description:
        - Registration with the NVSwitch fabric. V(Not Started), V(In Progress) or V(Completed), V(null) without a
          fabric.
      type: str
    fabric_status:
      description: Result of a completed registration. V(Success) or an error.
      type: str
    fabric_clique:
      description: Number of the group of GPUs that the fabric joins.
      type: int
    fabric_cluster:
      description: Identifier of the fabric, all zeros within one host.
      type: str
    fabric_health:
      description:
        - Names of what is wrong with the fabric, V(null) where the driver does not judge it. Some of V(bandwidth),
          V(route_recovery_in_progress), V(route_unhealthy), V(access_timeout_recovery), V(incorrect_configuration).
      type: list
      elements: str
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
topology:
  description:
    - A row for each GPU with how it reaches each GPU, as C(nvidia-smi topo -m) names it. V(NV18) is over 18 NVLinks,
      V(PIX), V(PXB), V(PHB), V(NODE) and V(SYS) are ever longer ways over PCIe, V(X) is the GPU itself.
  returned: success
  type: list
  elements: list
  sample: [[X, NV18], [NV18, X]]
fabric_manager:
  description: The service of the NVSwitch fabric, V(null) where systemd knows no unit C(nvidia-fabricmanager).
  returned: success
  type: dict
  contains:
    state:
      description: What systemd calls the unit's state, like V(active) or V(failed).
      type: str
    version:
      description: Version of its program.
      type: str
xids:
  description:
    - Errors that the driver has written to the kernel's log since boot, one entry for each device and number. V(null)
      where the log cannot be read.
  returned: success
  type: list
  elements: dict
  contains:
    kind:
      description:
        - V(Xid), or V(SXid) when the device is an NVSwitch.
      type: str
    code:
      description: NVIDIA's number of the error.
      type: int
    pci_bus_id:
      description: Address of the device on the PCI bus.
      type: str
    count:
      description: How often it was written.
      type: int
    first:
      description: When it was first written, in seconds since 1970.
      type: float
    last:
      description: When it was last written, in seconds since 1970.
      type: float
    message:
      description: The last line.
      type: str
"""

import typing as t

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.llmfleet.serving.plugins.module_utils._errors import LlmError
from ansible_collections.llmfleet.serving.plugins.module_utils._gpu import parse_time, read_facts


def run(module: AnsibleModule) -> dict[str, t.Any]:
    params = module.params
    facts = read_facts(module.run_command, params["source"], params["timeout"], parse_time(params["xid_since"]))
    return {"changed": False, **facts}


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "xid_since": {"type": "str"},
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
