#!/usr/bin/python
# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: edge_backend
short_description: Take a backend of the edge out of the rotation, or put it back
version_added: 0.2.0
description:
  - Drains one backend of the edge that the role P(llmfleet.serving.edge#role) runs. Its requests run on, new ones go
    to others.
  - Waits until its requests have ended, those that a reload has left with an old process of HAProxy among them.
  - What is drained stays so when HAProxy is reloaded or started again.
  - In check mode nobody is waited for.
author:
  - llmfleet.serving maintainers (@llmfleet)
extends_documentation_fragment:
  - ansible.builtin.action_common_attributes
attributes:
  check_mode:
    support: full
  diff_mode:
    support: full
  platform:
    platforms: posix
options:
  service:
    description: Name of the service.
    type: str
    required: true
  name:
    description: Name of the backend.
    type: str
    required: true
  state:
    description: V(drained) without requests, or V(ready) for them.
    type: str
    choices: [drained, ready]
    required: true
  timeout:
    description:
      - Seconds to wait for the requests to end. If they do not, the module fails, and the backend stays drained.
    type: int
    default: 600
  socket:
    description: HAProxy's master socket.
    type: path
    default: /run/haproxy/master.sock
  record:
    description: File that tells HAProxy, when it starts, what is drained.
    type: path
    default: /etc/llmfleet/edge/drained
"""

EXAMPLES = r"""
- name: Let nobody ask a host that is going to be upgraded
  llmfleet.serving.edge_backend:
    service: deepseek-r1
    name: gpu-01
    state: drained
  delegate_to: edge-01
"""

RETURN = r"""
requests:
  description: Requests that the backend has running.
  returned: success
  type: int
  sample: 0
"""

import typing as t
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.llmfleet.serving.plugins.module_utils._errors import LlmError
from ansible_collections.llmfleet.serving.plugins.module_utils._files import os_errors
from ansible_collections.llmfleet.serving.plugins.module_utils._haproxy import Haproxy, drained


def run(module: AnsibleModule) -> dict[str, t.Any]:
    service, name, state = (module.params[key] for key in ("service", "name", "state"))
    proxy = Haproxy(module.params["socket"])
    before = "drained" if proxy.is_drained(service, name) else "ready"
    if not module.check_mode:
        if before != state:
            proxy.set_state(service, name, "drain" if state == "drained" else "ready")
            states = proxy.states()
            record = Path(module.params["record"])
            with os_errors(f"Writing {record}"):
                record.write_text("\n".join([*states.splitlines()[:2], *drained(states), ""]))
        if state == "drained":
            proxy.wait(service, name, module.params["timeout"])
    diff = {"before": {"state": before}, "after": {"state": state}}
    return {"changed": before != state, "diff": diff, "requests": proxy.requests(service, name)}


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "service": {"type": "str", "required": True},
            "name": {"type": "str", "required": True},
            "state": {"type": "str", "choices": ["drained", "ready"], "required": True},
            "timeout": {"type": "int", "default": 600},
            "socket": {"type": "path", "default": "/run/haproxy/master.sock"},
            "record": {"type": "path", "default": "/etc/llmfleet/edge/drained"},
        },
        supports_check_mode=True,
    )
    try:
        module.exit_json(**run(module))
    except LlmError as exc:
        module.fail_json(msg=str(exc))


if __name__ == "__main__":
    main()
