#!/usr/bin/python
# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: python_environment
short_description: A Python environment from a lock file, whole or absent
version_added: 0.2.0
description:
  - Makes an environment with uv, from packages of which each is known by version and hash, in wheels only.
  - It is made in a scratch directory and gets its name when it is whole. What a killed run left is replaced.
  - An environment is never changed once it is made. One that was made from another lock file is refused.
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
  path:
    description: Directory of the environment.
    type: path
    required: true
  state:
    description: V(present) or V(absent).
    type: str
    choices: [present, absent]
    default: present
  requirements:
    description: The lock file, on the host. Needed for an environment that is to be present.
    type: path
  python:
    description: Its Python, as C(uv venv --python) takes it. It has to be on the host already.
    type: str
    default: "3.12"
  index_url:
    description:
      - Package index to install from, for instance a mirror. Empty means what the host has set, or uv's own default.
    type: str
    default: ""
  free:
    description: GiB that must be free before one is made.
    type: int
    default: 16
  uv:
    description: The program uv.
    type: path
    default: /usr/local/bin/uv
seealso:
  - module: llmfleet.serving.release_prune
"""

EXAMPLES = r"""
---
- name: An environment for vLLM
  llmfleet.serving.python_environment:
    path: /opt/llmfleet/vllm/0.32.0
    requirements: /opt/llmfleet/vllm/0.32.0.txt
"""

RETURN = r"""
path:
  description: Directory of the environment.
  returned: success
  type: str
  sample: /opt/llmfleet/vllm/0.32.0
"""

import typing as t
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.llmfleet.serving.plugins.module_utils import _environments
from ansible_collections.llmfleet.serving.plugins.module_utils._errors import LlmError


def run(module: AnsibleModule) -> dict[str, t.Any]:
    path = Path(module.params["path"])
    if module.params["state"] == "absent":
        changed = path.exists()
        if changed and not module.check_mode:
            _environments.remove(path)
    else:
        requirements = Path(module.params["requirements"])
        changed = not _environments.is_made(path, requirements)
        if changed and not module.check_mode:
            python, uv, need = (module.params[key] for key in ("python", "uv", "free"))
            index = module.params["index_url"]
            settings = {"UV_DEFAULT_INDEX": index} if index else {}
            _environments.make(module.run_command, path, requirements, python, uv, need << 30, settings)
    return {"changed": changed, "path": str(path)}


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "path": {"type": "path", "required": True},
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
            "requirements": {"type": "path"},
            "python": {"type": "str", "default": "3.12"},
            "index_url": {"type": "str", "default": ""},
            "free": {"type": "int", "default": 16},
            "uv": {"type": "path", "default": "/usr/local/bin/uv"},
        },
        required_if=[("state", "present", ["requirements"])],
        supports_check_mode=True,
    )
    try:
        module.exit_json(**run(module))
    except LlmError as exc:
        module.fail_json(msg=str(exc))


if __name__ == "__main__":
    main()
