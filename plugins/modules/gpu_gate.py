#!/usr/bin/python
# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: gpu_gate
short_description: Refuse a host whose NVIDIA GPUs are not fit to serve
version_added: 0.1.0
description:
  - Evaluates all rules for a class of host on its GPUs at once, and fails with all reasons, each with what was
    expected, what was found and what to do. It changes nothing, but for the file of O(record_baseline).
  - These rules fail the host. C(driver-answers), C(gpu-count), C(gpu-on-bus), C(gpu-answers), C(gpu-name),
    C(gpu-memory), C(driver-version), C(cuda-version), C(inforom), C(ecc-mode), C(ecc-pending), C(ecc-volatile),
    C(ecc-sram-threshold), C(row-remap-pending), C(row-remap-failure), C(memory-repair), C(memory-unrepairable),
    C(recovery-action), C(mig-mode), C(mig-pending), C(throttling), C(temperature), C(pcie-width), C(nvlink-count),
    C(topology), C(fabric), C(fabric-health), C(fabric-manager), C(xid), C(processes) and C(idle).
  - These rules only warn. C(vbios), C(ecc-aggregate), C(ecc-corrected), C(row-remap-spare), C(compute-mode),
    C(persistence-mode), C(temperature-warm), C(power-limit), C(pcie-gen), C(pcie-replays), C(nvlink-speed),
    C(nvlink-errors), C(kernel-log) and C(xid-unknown).
  - A value that a rule needs and the host does not tell breaks the rule. A driver that hangs or does not work breaks
    C(driver-answers), and no other rule is evaluated then.
  - On a host that already serves, name its services in O(allowed_units). Their processes are no reason to refuse, and
    the GPUs on which they run need not be idle; anything else on the GPUs still is a reason.
author:
  - llmfleet.serving maintainers (@llmfleet)
extends_documentation_fragment:
  - ansible.builtin.action_common_attributes
attributes:
  check_mode:
    support: full
  diff_mode:
    support: full
  platform:
    platforms: posix
options:
  profile:
    description:
      - Class of the host, which says the name of its GPUs, their memory, their NVLinks and their PCIe generation.
        Required without O(baseline).
      - V(h800) has 81559 MiB and 8 NVLinks, V(h100) is the SXM board with 81559 MiB and 18 NVLinks, V(h200) is the SXM
        board with 143771 MiB and 18 NVLinks, V(h20) has 97000 MiB and 18 NVLinks. Each NVLink must run at 26562 MB/s.
        V(a100) is the SXM board with 81000 MiB and 12 NVLinks of 25000 MB/s.
      - V(auto) takes the one of these that the GPUs are named in, and refuses GPUs with other names. Added in 0.2.0, as
        were V(h20) and V(a100).
    type: str
    choices: [a100, auto, h100, h20, h200, h800]
  count:
    description:
      - Number of GPUs. With one GPU, NVLinks are not required.
      - Without it, O(baseline) counts, else 8.
    type: int
  nvlinks:
    description:
      - NVLinks that must be up on each GPU, where the figure of the profile does not hold. That of V(h800) is computed
        from the published bandwidth.
    type: int
  baseline:
    description:
      - A file on the host with what was measured on it. Where this has a figure, it counts instead of the profile's.
        It has the number of GPUs, their name, memory, VBIOS, PCIe generation and width, the number and rate of their
        NVLinks, and how each GPU is joined with each other one.
    type: path
    version_added: 0.2.0
  record_baseline:
    description:
      - Measure this host and write O(baseline), when it breaks no rule that fails. What it has is then expected of it
        from now on. Use it once, on a host that is known to be good, or on purpose after its hardware has changed.
      - With O(profile), the host has to pass that, too, but for what is measured.
    type: bool
    default: false
    version_added: 0.2.0
  driver_version_min:
    description:
      - Oldest driver that is accepted, like V(550.90.12). Without it, any driver is.
    type: str
  cuda_version_min:
    description:
      - Lowest CUDA version that the driver must support, like V(12.4). Without it, any is accepted.
    type: str
  idle_memory_max:
    description:
      - Memory in MiB that may be in use on an idle GPU.
    type: int
    default: 256
  idle_utilization_max:
    description:
      - Utilization in percent that an idle GPU may show.
    type: int
    default: 5
  allowed_units:
    description:
      - Systemd services and scopes, with their suffix, whose processes may use the GPUs. Shell patterns are allowed.
    type: list
    elements: str
    default: []
  xid_since:
    description:
      - Leave out Xids before this time, in ISO 8601 with the offset from UTC, like V(2026-11-23T14:05:00Z). Without it,
        all since boot count. Give the time of a repair after which the host was not rebooted.
    type: str
    version_added: 0.2.0
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
  - module: llmfleet.serving.gpu_info
"""

EXAMPLES = r"""
---
- name: Refuse anything but eight healthy and idle H800
  llmfleet.serving.gpu_gate:
    profile: h800
    driver_version_min: 550.90.12
    cuda_version_min: "12.4"

- name: Do the same on a host that may already serve
  llmfleet.serving.gpu_gate:
    profile: h800
    allowed_units:
      - ollama.service
      - vllm-*.service

- name: Remember what a good host is, of whatever GPUs
  llmfleet.serving.gpu_gate:
    baseline: /etc/llmfleet/gpu-baseline.json
    record_baseline: true

- name: Refuse it when it is no longer that
  llmfleet.serving.gpu_gate:
    baseline: /etc/llmfleet/gpu-baseline.json
"""

RETURN = r"""
verdict:
  description: V(pass), or V(fail) when a rule of severity V(fail) is broken. The module fails with the latter.
  returned: always, unless an option is refused
  type: str
  sample: pass
profile:
  description: The profile that was used, V(null) when there was only a baseline or V(auto) has found none.
  returned: always, unless an option is refused
  type: str
  sample: h800
findings:
  description: The broken rules, once for each GPU that breaks them.
  returned: always, unless an option is refused
  type: list
  elements: dict
  contains:
    rule:
      description: Name of the rule.
      type: str
      sample: row-remap-pending
    severity:
      description: V(fail) or V(warn).
      type: str
      sample: fail
    gpu:
      description: Number of the GPU, V(null) when the host as a whole is meant or the GPU cannot be numbered.
      type: int
      sample: 3
    expected:
      description: What the rule wants.
      type: str
      sample: no row remapping that waits for a reset
    found:
      description:
        - What is there. V(N/A) is a value that the GPU does not have, V(missing) one that the driver or the tool does
          not know; other words that are no value are the driver's.
      type: str
      sample: one waits
    advice:
      description: What to do about it.
      type: str
      sample: Stop what uses the GPU, then reset it with `nvidia-smi -r -i INDEX`, or reboot.
    source:
      description: Where the threshold comes from.
      type: str
      sample: NVIDIA's GPU memory error management
rules:
  description: All rules with what became of them.
  returned: always, unless an option is refused
  type: list
  elements: dict
  contains:
    rule:
      description: Name of the rule.
      type: str
      sample: row-remap-pending
    severity:
      description: V(fail) or V(warn), what breaking it means.
      type: str
      sample: fail
    outcome:
      description: V(pass), V(warn), V(fail), or V(skip) when the rule does not apply to this host.
      type: str
      sample: pass
    expected:
      description: What was wanted. Empty where nothing was judged.
      type: str
      sample: at least 81000 MiB
    found:
      description: What the GPUs have, of a broken rule those that break it. Empty where nothing was judged.
      type: str
      sample: 81559 MiB
table:
  description: All rules and what breaks them, as a table for people.
  returned: always, unless an option is refused
  type: str
junit:
  description: The same as JUnit XML, with a test case for each rule.
  returned: always, unless an option is refused
  type: str
facts:
  description:
    - What the rules were evaluated on, as M(llmfleet.serving.gpu_info) returns it.
  returned: success
  type: dict
baseline:
  description: What was measured, as O(baseline) has it.
  returned: success, with O(record_baseline)
  type: dict
"""

import typing as t
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.llmfleet.serving.plugins.module_utils._errors import LlmError
from ansible_collections.llmfleet.serving.plugins.module_utils._gate import gate
from ansible_collections.llmfleet.serving.plugins.module_utils._gate_baseline import record
from ansible_collections.llmfleet.serving.plugins.module_utils._gate_profiles import AUTO, PROFILES


def run(module: AnsibleModule) -> dict[str, t.Any]:
    result = gate(module.run_command, module.params)
    for warning in result.pop("warnings"):
        module.warn(warning)
    msg = result.pop("msg")
    if result["verdict"] == "fail":
        # Without the facts: who reads why sixteen hosts were refused wants the reasons, and gpu_info tells the rest.
        del result["facts"]
        module.fail_json(msg=msg, **result)
    if not module.params["record_baseline"]:
        return {"changed": False, **result}
    return {**record(Path(module.params["baseline"]), result["baseline"], write=not module.check_mode), **result}


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "profile": {"type": "str", "choices": sorted([AUTO, *PROFILES])},
            "count": {"type": "int"},
            "nvlinks": {"type": "int"},
            "baseline": {"type": "path"},
            "record_baseline": {"type": "bool", "default": False},
            "driver_version_min": {"type": "str"},
            "cuda_version_min": {"type": "str"},
            "idle_memory_max": {"type": "int", "default": 256},
            "idle_utilization_max": {"type": "int", "default": 5},
            "allowed_units": {"type": "list", "elements": "str", "default": []},
            "xid_since": {"type": "str"},
            "source": {"type": "str", "choices": ["auto", "nvml", "nvidia-smi"], "default": "auto"},
            "timeout": {"type": "int", "default": 60},
        },
        required_one_of=[("profile", "baseline")],
        supports_check_mode=True,
    )
    try:
        module.exit_json(**run(module))
    except LlmError as exc:
        module.fail_json(msg=str(exc))


if __name__ == "__main__":
    main()
