# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
name: choices
short_description: What a variable of the playbooks may be
version_added: 0.2.0
description:
  - Gives the names that this collection knows, for a survey or a form, so that they are written down in one place only.
author:
  - llmfleet.serving maintainers (@llmfleet)
options:
  _terms:
    description:
      - V(stacks) for the rows of versions that C(llmfleet_stack) names.
      - V(engines) for the engines of C(llmfleet_services).
      - V(profiles) for the classes of GPUs that the gate knows.
    type: list
    elements: str
    choices: [engines, profiles, stacks]
    required: true
"""

EXAMPLES = r"""
---
- name: Show the stacks
  ansible.builtin.debug:
    msg: "{{ lookup('llmfleet.serving.choices', 'stacks') }}"
"""

RETURN = r"""
_raw:
  description: A list of names for each term, in the order of the alphabet.
  type: list
  elements: list
"""

import typing as t

from ansible.errors import AnsibleError
from ansible.plugins.lookup import LookupBase

from ansible_collections.llmfleet.serving.plugins.module_utils._gate_profiles import PROFILES
from ansible_collections.llmfleet.serving.plugins.plugin_utils import _stacks

_LISTS = {
    "engines": lambda: sorted(_stacks.shared().lanes),
    "profiles": lambda: sorted(PROFILES),
    "stacks": _stacks.rows,
}


class LookupModule(LookupBase):
    def run(self, terms: list[str], *_arguments: t.Any, **_kwargs: t.Any) -> list[list[str]]:
        for term in terms:
            if term not in _LISTS:
                raise AnsibleError(f"There are no choices called {term!r}: expected one of {', '.join(_LISTS)}.")
        return [_LISTS[term]() for term in terms]
