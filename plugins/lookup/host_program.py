# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
name: host_program
short_description: A program of this collection as one file that runs without Ansible
version_added: 0.2.0
description:
  - Puts a Python program and what it imports of this collection's C(module_utils) into one zip archive, which Python
    runs, and gives the archive's path on the controller. The same sources give the same bytes.
  - The file is gone when the play ends. Meant for the roles of this collection.
author:
  - llmfleet.serving maintainers (@llmfleet)
options:
  _terms:
    description: Absolute paths of Python programs on the controller.
    type: list
    elements: path
    required: true
"""

EXAMPLES = r"""
---
- name: Install what a unit runs
  ansible.builtin.copy:
    src: "{{ lookup('llmfleet.serving.host_program', role_path ~ '/files/boot_gate.py') }}"
    dest: /usr/local/lib/llmfleet/boot-gate.pyz
    mode: "0644"
"""

RETURN = r"""
_raw:
  description: Paths of the archives on the controller, one for each program.
  type: list
  elements: path
"""

import hashlib
import os
import typing as t
from pathlib import Path

from ansible import constants
from ansible.errors import AnsibleError
from ansible.plugins.lookup import LookupBase

from ansible_collections.llmfleet.serving.plugins.module_utils._errors import LlmError
from ansible_collections.llmfleet.serving.plugins.module_utils._files import os_errors
from ansible_collections.llmfleet.serving.plugins.plugin_utils._program import bundle


class LookupModule(LookupBase):
    def run(self, terms: list[t.Any], *_args: t.Any, **_kwargs: t.Any) -> list[str]:
        try:
            return [_place(Path(term)) for term in terms]
        except LlmError as exc:
            raise AnsibleError(str(exc)) from exc


def _place(program: Path) -> str:
    """Keep the archive in the folder that ansible-core removes at its end, under a name that says what is in it."""
    content = bundle(program)
    digest = hashlib.sha256(content).hexdigest()
    path = Path(vars(constants)["DEFAULT_LOCAL_TMP"]) / f"{program.stem}-{digest[:16]}.pyz"
    if not path.exists():
        # Hosts run in processes of their own, which may write it at the same time.
        stage = path.with_name(f"{path.name}.{os.getpid()}")
        with os_errors(f"Writing {path}"):
            stage.write_bytes(content)
            stage.replace(path)
    return str(path)
