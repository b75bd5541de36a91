#!/usr/bin/python
# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: python_environment_prune
short_description: Remove Python environments that nothing uses
version_added: 0.2.0
description:
  - Removes the environments below a directory that P(llmfleet.serving.python_environment#module) made, but for those
    that a unit of the host names, those that something runs from, and the newest of the rest.
author:
  - llmfleet.serving maintainers (@llmfleet)
extends_documentation_fragment:
  - ansible.builtin.action_common_attributes
attributes:
  check_mode:
    support: full
  diff_mode:
    support: none
  platform:
    platforms: posix
options:
  directory:
    description: Where the environments lie. One that is not there is no error.
    type: path
    required: true
  keep:
    description: How many to keep of those that nothing uses. With one, an upgrade can be taken back.
    type: int
    default: 1
seealso:
  - module: llmfleet.serving.python_environment
"""

EXAMPLES = r"""
---
- name: Keep vLLM's current and previous environments
  llmfleet.serving.python_environment_prune:
    directory: /opt/llmfleet/vllm
"""

RETURN = r"""
removed:
  description: The environments that are gone.
  returned: success
  type: list
  elements: str
  sample: [/opt/llmfleet/vllm/0.31.0-4f1a90c2]
"""

import typing as t
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.llmfleet.serving.plugins.module_utils import _environments
from ansible_collections.llmfleet.serving.plugins.module_utils._errors import LlmError


def run(module: AnsibleModule) -> dict[str, t.Any]:
    unused = _environments.unused(Path(module.params["directory"]), module.params["keep"])
    if not module.check_mode:
        for path in unused:
            _environments.remove(path)
    return {"changed": bool(unused), "removed": [str(path) for path in unused]}


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "directory": {"type": "path", "required": True},
            "keep": {"type": "int", "default": 1},
        },
        supports_check_mode=True,
    )
    try:
        module.exit_json(**run(module))
    except LlmError as exc:
        module.fail_json(msg=str(exc))


if __name__ == "__main__":
    main()
