#!/usr/bin/python
# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: node_check
short_description: Refuse hosts that cannot share a service
version_added: 0.2.0
description:
  - Looks whether hosts that are to share one service have private addresses on interfaces that are up, reach each other
    there in all ways, and are alike, and fails with all reasons. It changes nothing.
  - The hosts wait for each other, so it has to run on all of them at the same time, with as many C(forks) as hosts.
  - While it runs, each host listens on the port before O(meeting_port) of its private address.
  - These rules fail. C(node-private), C(node-address), C(node-interface), C(node-port), C(node-link) and C(node-alike).
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
  host:
    description:
      - The host that the module runs on, by its name in O(addresses).
    type: str
    required: true
  addresses:
    description:
      - The address of each host in the private network. The first host is the head, where the others meet.
    type: dict
    required: true
  meeting_port:
    description:
      - Port of the head, which must be free.
    type: int
    default: 29501
  unit:
    description:
      - Unit of the service. While it runs, it has the port itself.
    type: str
    required: true
  alike:
    description:
      - What must be the same on all hosts, by what it is.
    type: dict
    default: {}
  patience:
    description:
      - Seconds in which every host has to have heard every other one.
    type: int
    default: 60
"""

EXAMPLES = r"""
---
- name: Refuse hosts that cannot share a service
  llmfleet.serving.node_check:
    host: "{{ inventory_hostname }}"
    addresses: {n1: 10.0.0.1, n2: 10.0.0.2}
    unit: llmfleet-deepseek-r1.service
    alike:
      engine: sglang 0.5.23
"""

RETURN = r"""
interface:
  description: The network interface that has the host's address. Empty when none has.
  returned: always
  type: str
  sample: eth1
findings:
  description: What is wrong.
  returned: always
  type: list
  elements: dict
  sample:
    - id: node-alike
      severity: fail
      object: host n2
      expected: engine sglang 0.5.23, as on n1
      found: sglang 0.5.8.post1
      advice: All hosts of a service run the same.
"""

import typing as t

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.llmfleet.serving.plugins.module_utils._errors import LlmError
from ansible_collections.llmfleet.serving.plugins.module_utils._host_rules import describe
from ansible_collections.llmfleet.serving.plugins.module_utils._links import Node, check


def run(module: AnsibleModule) -> t.NoReturn:
    params = module.params
    host, addresses = params["host"], {name: str(address) for name, address in params["addresses"].items()}
    if host not in addresses:
        raise LlmError(f"{host} is none of the hosts that share the service: {', '.join(addresses)}.")
    meets = host == next(iter(addresses)) and module.run_command(["systemctl", "is-active", params["unit"]])[0] != 0
    node = Node(
        host=host,
        addresses=addresses,
        port=params["meeting_port"] - 1,
        meeting_port=params["meeting_port"] if meets else None,
        alike={name: str(value) for name, value in params["alike"].items()},
    )
    interface, findings = check(node, module.run_command, params["patience"])
    result: dict[str, t.Any] = {"interface": interface, "findings": findings}
    if findings:
        reasons = [describe(t.cast("t.Any", finding)) for finding in findings]
        module.fail_json(msg="\n- ".join(["This host cannot share the service:", *reasons]), **result)
    module.exit_json(changed=False, **result)


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "host": {"type": "str", "required": True},
            "addresses": {"type": "dict", "required": True},
            "meeting_port": {"type": "int", "default": 29501},
            "unit": {"type": "str", "required": True},
            "alike": {"type": "dict", "default": {}},
            "patience": {"type": "int", "default": 60},
        },
        supports_check_mode=True,
    )
    try:
        run(module)
    except LlmError as exc:
        module.fail_json(msg=str(exc))


if __name__ == "__main__":
    main()
