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
    expected, what was found and what to do. It changes nothing, but for the files of O(record_baseline) and
    O(marker).
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
  - llmfleet.serving._gate
  - llmfleet.serving._gpu
attributes:
  check_mode:
    support: full
  diff_mode:
    support: full
  platform:
    platforms: posix
options:
  record_baseline:
    description:
      - Measure this host and write O(baseline), when it breaks no rule that fails. What it has is then expected of it
        from now on. Use it once, on a host that is known to be good, or on purpose after its hardware has changed.
      - With O(profile), the host has to pass that, too, but for what is measured.
    type: bool
    default: false
    version_added: 0.2.0
  marker:
    description:
      - A file on the host that marks it as refused, with C(verdict) and C(reasons) as JSON. It is written when the host
        is refused, for whatever reason, and removed when it passes. Its directory is made.
      - Named F(/etc/ansible/facts.d/NAME.fact), it is a local fact of M(ansible.builtin.setup).
      - Without it, the host is only asked.
    type: path
    version_added: 0.2.0
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
from ansible_collections.llmfleet.serving.plugins.module_utils._gate import ARGUMENTS, gate
from ansible_collections.llmfleet.serving.plugins.module_utils._gate_baseline import record
from ansible_collections.llmfleet.serving.plugins.module_utils._gate_marker import mark


def judge(module: AnsibleModule) -> tuple[list[str], dict[str, t.Any]]:
    """The reasons to refuse the host in lines, and the result."""
    try:
        result = gate(module.run_command, module.params)
        for warning in result.pop("warnings"):
            module.warn(warning)
        msg = result.pop("msg")
        if result["verdict"] == "fail":
            # Without the facts: who reads why sixteen hosts were refused wants the reasons; gpu_info tells the rest.
            del result["facts"]
            return msg.splitlines(), result
        if module.params["record_baseline"]:
            baseline = Path(module.params["baseline"])
            result.update(record(baseline, result["baseline"], write=not module.check_mode))
    except LlmError as exc:
        return str(exc).splitlines(), {}
    return [], result


def keep_marker(module: AnsibleModule, reasons: list[str], result: dict[str, t.Any]) -> None:
    try:
        marked = mark(Path(module.params["marker"]), reasons, write=not module.check_mode)
    except LlmError as exc:
        reasons.append(str(exc))
        return
    result["diff"] = [*([result["diff"]] if "diff" in result else []), marked["diff"]]
    result["changed"] = marked["changed"] or result.get("changed", False)


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            **ARGUMENTS,
            "record_baseline": {"type": "bool", "default": False},
            "marker": {"type": "path"},
        },
        required_one_of=[("profile", "baseline")],
        supports_check_mode=True,
    )
    reasons, result = judge(module)
    if module.params["marker"]:
        keep_marker(module, reasons, result)
    if reasons:
        module.fail_json(msg="\n".join(reasons), **result)
    module.exit_json(**{"changed": False, **result})


if __name__ == "__main__":
    main()
