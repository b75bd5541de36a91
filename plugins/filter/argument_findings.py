# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
name: argument_findings
short_description: What is wrong with the args of services
version_added: 0.2.0
description:
  - Holds the args of each service against the options of its engine in the version that the stack has, and gives
    everything that is wrong at once, in the form of P(llmfleet.serving.stack_findings#filter).
  - C(docs/arguments.md) has all rules.
author:
  - llmfleet.serving maintainers (@llmfleet)
positional: services
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
"""

EXAMPLES = r"""
---
- name: Refuse args that an engine does not take
  ansible.builtin.assert:
    that: findings | selectattr('severity', 'equalto', 'fail') | length == 0
    fail_msg: "{{ findings }}"
  vars:
    stack: "{{ lookup('llmfleet.serving.stack', llmfleet_stack) }}"
    findings: "{{ stack | llmfleet.serving.argument_findings(llmfleet_services) }}"
"""

RETURN = r"""
_value:
  description: What was found, in the order of the services and their args.
  type: list
  elements: dict
  sample:
    - id: argument-removed
      severity: fail
      object: "service deepseek-r1: args.swap_space"
      expected: an option of vllm 0.32.0
      found: swap_space
      advice: Removed in 0.18.0. kv_offloading_size (from 0.11.1) keeps parts of the KV cache in host memory, in GiB.
"""

import typing as t
from collections.abc import Callable, Mapping, Sequence

from ansible.errors import AnsibleFilterError

from ansible_collections.llmfleet.serving.plugins.module_utils._errors import LlmError

if t.TYPE_CHECKING:
    from ansible_collections.llmfleet.serving.plugins.module_utils._stack_rules import Finding


def argument_findings(stack: Mapping[str, t.Any], services: Sequence[Mapping[str, t.Any]]) -> list[Finding]:
    # Ansible loads all filters of a collection in the process of each task: what is large waits until it is called.
    from ansible_collections.llmfleet.serving.plugins.module_utils import _arguments, _stack
    from ansible_collections.llmfleet.serving.plugins.plugin_utils import _options

    try:
        parsed = _stack.parse(stack, "given to argument_findings")
        return _arguments.findings(parsed, _options.shared(), services)
    except LlmError as exc:
        raise AnsibleFilterError(str(exc)) from exc


class FilterModule:
    def filters(self) -> dict[str, Callable[..., t.Any]]:
        return {"argument_findings": argument_findings}
