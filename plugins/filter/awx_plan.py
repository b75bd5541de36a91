# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
name: awx_plan
short_description: Which objects the modules of awx.awx can be asked for now
version_added: 0.2.0
description:
  - The modules of C(awx.awx) fail where an object names another that is not in AWX. So they do in check mode, where
    nothing has been made that could be named, and when everything is removed a second time.
  - This filter tells which objects can be asked for. In check mode the others are certain to change.
  - Objects that belong to somebody else, and credentials that are not there, are an error.
author:
  - llmfleet.serving maintainers (@llmfleet)
positional: there
options:
  _input:
    description: The objects that are to be in AWX, by kind as its API names it, in the words of the modules.
    type: dict
    required: true
  there:
    description: What is in AWX, by kind.
    type: dict
    required: true
  simulated:
    description: Whether this is check mode.
    type: bool
    default: false
  gone:
    description: Whether the objects are to be removed.
    type: bool
    default: false
"""

EXAMPLES = r"""
---
- name: Tell what is not made yet
  ansible.builtin.debug:
    msg: "{{ (wanted | llmfleet.serving.awx_plan(there, simulated=true)).waiting }}"
"""

RETURN = r"""
_value:
  description: The plan.
  type: dict
  contains:
    ready:
      description: The objects that can be asked for, by kind.
      type: dict
    waiting:
      description: Those that wait for others.
      type: list
      elements: str
    strangers:
      description: What else the organization has.
      type: list
      elements: str
    credentials:
      description: Credentials of the credential types, which keep these from being removed.
      type: list
      elements: str
"""

import typing as t
from collections.abc import Callable, Mapping

from ansible.errors import AnsibleFilterError

from ansible_collections.llmfleet.serving.plugins.module_utils import _awx
from ansible_collections.llmfleet.serving.plugins.module_utils._errors import LlmError


def awx_plan(
    wanted: Mapping[str, list[dict[str, t.Any]]],
    there: Mapping[str, list[dict[str, t.Any]]],
    simulated: bool = False,
    gone: bool = False,
) -> _awx.Plan:
    try:
        return _awx.plan(wanted, there, simulated, gone)
    except LlmError as exc:
        raise AnsibleFilterError(str(exc)) from exc


class FilterModule:
    def filters(self) -> dict[str, Callable[..., t.Any]]:
        return {"awx_plan": awx_plan}
