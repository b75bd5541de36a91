# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
name: stack
short_description: A row of versions that work together
version_added: 0.2.0
description:
  - Gives a stack as a dictionary, after a check of its form. Whether its versions do work together on a host is what
    P(llmfleet.serving.stack_findings#filter) tells.
  - C(docs/stacks.md) has the format.
author:
  - llmfleet.serving maintainers (@llmfleet)
options:
  _terms:
    description:
      - Name of a stack of this collection (V(cuda-12.4), V(current)), path of a YAML file, or the dictionary itself.
      - What has a slash in it or ends in C(.yml) or C(.yaml) is a path. A relative one is looked for beside the
        playbook and in its folder C(vars).
    type: list
    elements: raw
    required: true
"""

EXAMPLES = r"""
---
- name: Show the driver of the default stack
  ansible.builtin.debug:
    msg: "{{ lookup('llmfleet.serving.stack', 'cuda-12.4').driver.version }}"

- name: Show a stack that differs in one version
  ansible.builtin.debug:
    msg: "{{ lookup('llmfleet.serving.stack', current | combine(other, recursive=true)) }}"
  vars:
    current: "{{ lookup('llmfleet.serving.stack', 'current') }}"
    other: {engines: {ollama: {version: "0.34.3"}}}
"""

RETURN = r"""
_raw:
  description: The stacks, one for each term.
  type: list
  elements: dict
"""

import typing as t
from collections.abc import Mapping
from pathlib import Path

from ansible.errors import AnsibleError
from ansible.plugins.lookup import LookupBase

from ansible_collections.llmfleet.serving.plugins.module_utils._errors import LlmError
from ansible_collections.llmfleet.serving.plugins.module_utils._stack import parse
from ansible_collections.llmfleet.serving.plugins.plugin_utils import _stacks


class LookupModule(LookupBase):
    def run(self, terms: list[t.Any], variables: dict[str, t.Any] | None = None, **_kwargs: t.Any) -> list[t.Any]:
        try:
            return [self._stack(term, variables or {}) for term in terms]
        except LlmError as exc:
            raise AnsibleError(str(exc)) from exc

    def _stack(self, term: t.Any, variables: dict[str, t.Any]) -> t.Any:
        if isinstance(term, Mapping):
            row, name = term, "given as a dictionary"
        elif isinstance(term, str) and ("/" in term or term.endswith((".yml", ".yaml"))):
            path = self.find_file_in_search_path(variables, "vars", term, ignore_missing=True)
            row, name = _stacks.read(Path(path or term)), term
        else:
            row, name = _stacks.row(str(term)), str(term)
        parse(row, name)
        return row
