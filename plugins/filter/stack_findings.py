# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
name: stack_findings
short_description: What speaks against running services with a stack
version_added: 0.2.0
description:
  - Holds the versions of a stack against what is known of them, and gives everything that speaks against it at once.
  - Judged are the driver, the CUDA toolkit, and those engines that the services use.
  - C(docs/stacks.md) has all rules.
author:
  - llmfleet.serving maintainers (@llmfleet)
positional: services, models
options:
  _input:
    description: The stack, as P(llmfleet.serving.stack#lookup) gives it.
    type: dict
    required: true
  services:
    description: What the hosts shall run, in the form of the playbooks' C(llmfleet_services).
    type: list
    elements: dict
    required: true
  models:
    description: The models of the services, in the form of the playbooks' C(llmfleet_models).
    type: list
    elements: dict
    required: true
  driver_version:
    description:
      - Version of the driver that a host has loaded. It is judged beside the stack's own.
      - Leave it out where the driver is going to be changed to the stack's.
    type: str
  allow_vulnerable:
    description: Whether advisories that would refuse a version only warn.
    type: bool
    default: false
"""

EXAMPLES = r"""
---
- name: Refuse a stack that cannot run the services
  ansible.builtin.assert:
    that: findings | selectattr('severity', 'equalto', 'fail') | length == 0
    fail_msg: "{{ findings }}"
  vars:
    stack: "{{ lookup('llmfleet.serving.stack', llmfleet_stack) }}"
    findings: "{{ stack | llmfleet.serving.stack_findings(llmfleet_services, llmfleet_models) }}"
"""

RETURN = r"""
_value:
  description: What was found, in the order of the services, advisories last.
  type: list
  elements: dict
  sample:
    - id: engine-driver
      severity: fail
      object: "service deepseek-r1: vllm 0.32.0"
      expected: driver 580 or newer, for CUDA 13.0
      found: 550.163.01 of the stack
      advice: Use a newer driver. The newest that runs here is vllm 0.8.5.post1.
"""

import typing as t
from collections.abc import Callable, Mapping, Sequence

from ansible.errors import AnsibleFilterError

from ansible_collections.llmfleet.serving.plugins.module_utils._errors import LlmError

if t.TYPE_CHECKING:
    from ansible_collections.llmfleet.serving.plugins.module_utils._stack_rules import Finding


def stack_findings(
    stack: Mapping[str, t.Any],
    services: Sequence[Mapping[str, t.Any]],
    models: Sequence[Mapping[str, t.Any]],
    driver_version: str | None = None,
    allow_vulnerable: bool = False,
) -> list[Finding]:
    # Ansible loads all filters of a collection in the process of each task: what is large waits until it is called.
    from ansible_collections.llmfleet.serving.plugins.module_utils import _stack, _stack_rules
    from ansible_collections.llmfleet.serving.plugins.plugin_utils import _stacks

    try:
        parsed = _stack.parse(stack, "given to stack_findings")
        return _stack_rules.findings(parsed, _stacks.shared(), services, models, driver_version, allow_vulnerable)
    except LlmError as exc:
        raise AnsibleFilterError(str(exc)) from exc


class FilterModule:
    def filters(self) -> dict[str, Callable[..., t.Any]]:
        return {"stack_findings": stack_findings}
