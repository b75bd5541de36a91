# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
name: python_lock
short_description: What a lock file of Python packages pins
version_added: 0.2.0
description:
  - Reads a requirements file, and refuses it where a line is not one package by version and hash, or names an index.
  - Refuses it too where it is not of the wanted version of the package. A local version such as C(0.32.0+cu128) is one
    of C(0.32.0).
author:
  - llmfleet.serving maintainers (@llmfleet)
positional: package, version, name
options:
  _input:
    description: Content of the file.
    type: str
    required: true
  package:
    description: Name of the package that the file is for.
    type: str
    required: true
  version:
    description: Its version.
    type: str
    required: true
  name:
    description: What the file is called in an error.
    type: str
    required: true
"""

EXAMPLES = r"""
---
- name: Show what is installed with vLLM
  ansible.builtin.debug:
    msg: "{{ content | llmfleet.serving.python_lock('vllm', '0.32.0', 'vllm.txt') }}"
  vars:
    content: "{{ lookup('ansible.builtin.file', 'vllm.txt') }}"
"""

RETURN = r"""
_value:
  description: The versions by package, C(packages), and 8 digits that change with the file, C(digest).
  type: dict
  sample: {digest: 4f1a90c2, packages: {torch: "2.13.0", vllm: "0.32.0"}}
"""

import dataclasses
import typing as t
from collections.abc import Callable

from ansible.errors import AnsibleFilterError

from ansible_collections.llmfleet.serving.plugins.module_utils import _lock_file
from ansible_collections.llmfleet.serving.plugins.module_utils._errors import LlmError


def python_lock(text: str, package: str, version: str, name: str) -> dict[str, t.Any]:
    try:
        return dataclasses.asdict(_lock_file.parse(text, name, package, version))
    except LlmError as exc:
        raise AnsibleFilterError(str(exc)) from exc


class FilterModule:
    def filters(self) -> dict[str, Callable[..., t.Any]]:
        return {"python_lock": python_lock}
