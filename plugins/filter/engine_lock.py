# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
name: engine_lock
short_description: The lock file of a stack's vLLM or SGLang
version_added: 0.2.0
description:
  - Gives the file that the stack names, or else the collection's own for that version. It is an error when there is
    neither.
author:
  - llmfleet.serving maintainers (@llmfleet)
positional: engine
options:
  _input:
    description: The stack, as P(llmfleet.serving.stack#lookup) gives it.
    type: dict
    required: true
  engine:
    description: The engine.
    type: str
    choices: [vllm, sglang]
    required: true
"""

EXAMPLES = r"""
---
- name: Show what vLLM is installed from
  ansible.builtin.debug:
    msg: "{{ lookup('llmfleet.serving.stack', 'current') | llmfleet.serving.engine_lock('vllm') }}"
"""

RETURN = r"""
_value:
  description: Path of the file, on the controller.
  type: path
  sample: /usr/share/ansible/collections/ansible_collections/llmfleet/serving/playbooks/stacks/locks/vllm-0.32.0.txt
"""

import typing as t
from collections.abc import Callable, Mapping

from ansible.errors import AnsibleFilterError

from ansible_collections.llmfleet.serving.plugins.module_utils._errors import LlmError


def engine_lock(stack: Mapping[str, t.Any], engine: str) -> str:
    # Ansible loads all filters of a collection in the process of each task: what is large waits until it is called.
    from ansible_collections.llmfleet.serving.plugins.plugin_utils import _stacks

    try:
        return _stacks.lock(stack, engine)
    except LlmError as exc:
        raise AnsibleFilterError(str(exc)) from exc


class FilterModule:
    def filters(self) -> dict[str, Callable[..., t.Any]]:
        return {"engine_lock": engine_lock}
