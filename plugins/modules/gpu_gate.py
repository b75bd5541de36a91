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
    expected, what was found and what to do. It changes nothing.
  - The rules are C(driver-answers), C(gpu-count), C(gpu-answers), C(gpu-name), C(gpu-memory), C(driver-version),
    C(cuda-version), C(ecc-mode), C(ecc-volatile), C(ecc-aggregate), C(row-remap-pending), C(row-remap-failure),
    C(mig-mode), C(throttling), C(nvlink-count), C(nvlink-speed), C(fabric), C(processes), C(idle) and
    C(persistence-mode). C(ecc-aggregate), C(nvlink-speed) and C(persistence-mode) only warn.
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
    support: none
  platform:
    platforms: posix
options:
  profile:
    description:
      - Class of the host, which says the name of its GPUs, their memory and their NVLinks.
      - V(h800) has 81559 MiB and 8 NVLinks, V(h100) is the SXM board with 81559 MiB and 18 NVLinks, V(h200) is the SXM
        board with 143771 MiB and 18 NVLinks. Each NVLink must run at 26562 MB/s.
    type: str
    choices: [h100, h200, h800]
    required: true
  count:
    description:
      - Number of GPUs. With one GPU, NVLinks are not required.
    type: int
    default: 8
  nvlinks:
    description:
      - NVLinks that must be up on each GPU, where the figure of the profile does not hold. That of V(h800) is computed
        from the published bandwidth.
    type: int
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
"""

RETURN = r"""
verdict:
  description: V(pass), or V(fail) when a rule of severity V(fail) is broken. The module fails with the latter.
  returned: always, unless an option is refused
  type: str
  sample: pass
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
      description: What is there. V(no answer) is a value that the host does not tell.
      type: str
      sample: one waits
    advice:
      description: What to do about it.
      type: str
      sample: Stop what uses the GPU, then reset it with `nvidia-smi -r -i INDEX`, or reboot.
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
facts:
  description:
    - What the rules were evaluated on, as M(llmfleet.serving.gpu_info) returns it.
    - V(null) when the driver does not answer.
  returned: always, unless an option is refused
  type: dict
"""

import dataclasses
import typing as t

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.llmfleet.serving.plugins.module_utils._errors import LlmError
from ansible_collections.llmfleet.serving.plugins.module_utils._gates import PROFILES, describe, evaluate, no_answer
from ansible_collections.llmfleet.serving.plugins.module_utils._gpu import DriverError, read_facts

# These options are fields of the expectation that the profile begins.
_EXPECTATION = {
    "count": {"type": "int", "default": 8},
    "nvlinks": {"type": "int"},
    "driver_version_min": {"type": "str"},
    "cuda_version_min": {"type": "str"},
    "idle_memory_max": {"type": "int", "default": 256},
    "idle_utilization_max": {"type": "int", "default": 5},
    "allowed_units": {"type": "list", "elements": "str", "default": []},
}


def run(module: AnsibleModule) -> dict[str, t.Any]:
    params = module.params
    wanted = {option: params[option] for option in _EXPECTATION if params[option] is not None}
    expectation = dataclasses.replace(PROFILES[params["profile"]], **wanted)
    try:
        facts = read_facts(module.run_command, params["source"], params["timeout"])
        verdict = evaluate(facts, expectation)
    except DriverError as exc:
        facts, verdict = None, no_answer(str(exc))

    fails = [finding for finding in verdict["findings"] if finding["severity"] == "fail"]
    warns = [finding for finding in verdict["findings"] if finding["severity"] == "warn"]
    for line in describe(warns):
        module.warn(line)
    if verdict["verdict"] == "fail":
        title = f"The GPUs are not fit for the profile {params['profile']}:"
        # Without the facts: who reads why sixteen hosts were refused wants the reasons, and gpu_info tells the rest.
        module.fail_json(msg="\n".join([title, *describe(fails)]), **verdict)
    return {"changed": False, "facts": facts, **verdict}


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "profile": {"type": "str", "choices": sorted(PROFILES), "required": True},
            **_EXPECTATION,
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
