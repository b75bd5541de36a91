# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
name: service_findings
short_description: What is wrong with services taken together
version_added: 0.2.0
description:
  - Holds the services of a host against each other, against the fleet and against the stack, and gives everything that
    is wrong at once, in the form of P(llmfleet.serving.stack_findings#filter).
  - What a host itself is needed for, such as GPUs that two services share, is asked by M(llmfleet.serving.host_check).
  - C(docs/preflight.md) has all rules.
author:
  - llmfleet.serving maintainers (@llmfleet)
positional: services
options:
  _input:
    description: The stack, as P(llmfleet.serving.stack#lookup) gives it.
    type: dict
    required: true
  services:
    description: What the host shall run, in the form of the playbooks' C(llmfleet_services).
    type: list
    elements: dict
    required: true
  fleet:
    description: All hosts of the fleet, in the inventory's order.
    type: list
    elements: str
    required: true
  host:
    description: The host, one of the fleet's.
    type: str
    required: true
  gpus:
    description: How many GPUs the host has. Without it, their number does not matter.
    type: int
  ports:
    description: Ports that something else has, with what that is.
    type: dict
    default: {}
"""

EXAMPLES = r"""
---
- name: Refuse services that do not hold together
  ansible.builtin.assert:
    that: findings | selectattr('severity', 'equalto', 'fail') | length == 0
    fail_msg: "{{ findings }}"
  vars:
    stack: "{{ lookup('llmfleet.serving.stack', llmfleet_stack) }}"
    fleet: "{{ groups.llmfleet }}"
    findings: "{{ stack | llmfleet.serving.service_findings(llmfleet_services, fleet, inventory_hostname, gpus=8) }}"
"""

RETURN = r"""
_value:
  description: What was found, in the order of the services.
  type: list
  elements: dict
  sample:
    - id: service-parallel
      severity: fail
      object: service deepseek-r1
      expected: 8, the number of its GPUs
      found: tensor_parallel_size 8 x pipeline_parallel_size 2 = 16
      advice: Change the sizes in args, or gpus.
"""

import typing as t
from collections.abc import Callable, Mapping, Sequence

from ansible.errors import AnsibleFilterError

from ansible_collections.llmfleet.serving.plugins.module_utils._errors import LlmError

if t.TYPE_CHECKING:
    from ansible_collections.llmfleet.serving.plugins.module_utils._stack_rules import Finding


def service_findings(
    stack: Mapping[str, t.Any],
    services: Sequence[Mapping[str, t.Any]],
    fleet: Sequence[str],
    host: str,
    gpus: int | None = None,
    ports: Mapping[str, str] | None = None,
) -> list[Finding]:
    # Ansible loads all filters of a collection in the process of each task: what is large waits until it is called.
    from ansible_collections.llmfleet.serving.plugins.module_utils import _service_rules, _stack
    from ansible_collections.llmfleet.serving.plugins.plugin_utils import _options

    try:
        parsed = _stack.parse(stack, "given to service_findings")
        taken = {int(port): owner for port, owner in (ports or {}).items()}
        around = _service_rules.Fleet(fleet, host, gpus, taken)
        return _service_rules.findings(parsed, _options.shared(), services, around)
    except LlmError as exc:
        raise AnsibleFilterError(str(exc)) from exc


class FilterModule:
    def filters(self) -> dict[str, Callable[..., t.Any]]:
        return {"service_findings": service_findings}
