#!/usr/bin/python
# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: host_drift
short_description: Whether a host still is what the last run has left, and the same is wanted of it
version_added: 0.2.0
description:
  - Compares what is wanted of a host, and what the host is like, with what was written down at the end of a run. Where
    all of it is the same, a run of the roles would change nothing.
  - Wanted is what all variables say whose names begin with C(llmfleet_) or the name of a role of this collection, the
    content of the files on the controller that they name, and the collection itself.
  - Looked at on the host are all files of C(/etc) and C(/var/lib/llmfleet) by content, owner and mode, all packages,
    C(/opt/llmfleet), C(/usr/local), C(/boot), C(/lib/modules) and O(trees) by sizes and times, the O(units), kernel,
    driver, and whether the host was started anew. It differs rather too easily than not.
  - It is no proof that services answer or that GPUs are fit, which M(llmfleet.serving.llm_probe) and
    M(llmfleet.serving.gpu_gate) are for.
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
  state:
    description:
      - V(compared) changes nothing.
      - V(recorded) writes down what the host is like now. To be used at the end of a run that has brought about all
        that is wanted, with O(wanted) from its beginning.
    type: str
    choices: [compared, recorded]
    default: compared
  wanted:
    description:
      - What RV(wanted) was at the beginning of the run, which adds variables of its own. By default it is found out.
    type: list
    elements: str
  about:
    description:
      - What else the host's state depends on.
    type: raw
  files:
    description:
      - Files on the controller whose content counts, whatever their names are.
    type: list
    elements: str
    default: []
  ignore:
    description:
      - Names of variables that do not count.
    type: list
    elements: str
    default: []
  trees:
    description:
      - Further directories of the host to look at. One that is not there has no files.
    type: list
    elements: path
    default: []
  units:
    description:
      - Patterns of the systemd units to look at.
    type: list
    elements: str
    default: [llmfleet-*, nvidia-*, haproxy.service]
  days_max:
    description:
      - For how many days a record counts. With V(0) none does.
    type: float
    default: 7
  record:
    description:
      - The record.
    type: path
    default: /var/lib/llmfleet/drift.json
  inputs:
    description:
      - The digest of what is wanted. The action plugin of this module computes it.
    type: str
    default: ""
"""

EXAMPLES = r"""
---
- name: Look whether anything is to be done
  llmfleet.serving.host_drift:
    trees: [/data/models]
  register: drift

- name: Do it
  ansible.builtin.include_role:
    name: llmfleet.serving.model_store
  when: drift.drifted

- name: Remember what the host is like now
  llmfleet.serving.host_drift:
    state: recorded
    wanted: "{{ drift.wanted }}"
    trees: [/data/models]
"""

RETURN = r"""
drifted:
  description: Whether the host, or what is wanted of it, is something else than at the end of that run.
  returned: when O(state=compared)
  type: bool
reasons:
  description: What is different, at most 20 lines.
  returned: when O(state=compared)
  type: list
  elements: str
  sample: [file /etc/llmfleet/llmfleet-r1.env has changed, "unit llmfleet-r1.service was active, is failed"]
wanted:
  description: Names of the variables that say what is wanted of the host.
  returned: always
  type: list
  elements: str
  sample: [llmfleet_models, llmfleet_services, llmfleet_stack]
"""

import typing as t
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.llmfleet.serving.plugins.module_utils import _footprint
from ansible_collections.llmfleet.serving.plugins.module_utils._errors import LlmError

# More of them tell nothing more.
_REASONS_MAX = 20


def run(module: AnsibleModule) -> t.NoReturn:
    params = module.params
    record = Path(params["record"])
    try:
        found = _footprint.footprint(module.run_command, params["units"], params["trees"])
        if params["state"] == "recorded":
            module.exit_json(changed=_footprint.remember(record, params["inputs"], found, dry=module.check_mode))
        reasons = _footprint.drift(record, params["inputs"], found, params["days_max"] * 86400)
    except LlmError as exc:
        if params["state"] == "recorded":
            raise
        reasons = [str(exc)]
    more = [f"and {len(reasons) - _REASONS_MAX} more"] if len(reasons) > _REASONS_MAX else []
    module.exit_json(changed=False, drifted=bool(reasons), reasons=reasons[:_REASONS_MAX] + more)


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "state": {"type": "str", "choices": ["compared", "recorded"], "default": "compared"},
            "wanted": {"type": "list", "elements": "str"},
            "about": {"type": "raw"},
            "files": {"type": "list", "elements": "str", "default": []},
            "ignore": {"type": "list", "elements": "str", "default": []},
            "trees": {"type": "list", "elements": "path", "default": []},
            "units": {"type": "list", "elements": "str", "default": ["llmfleet-*", "nvidia-*", "haproxy.service"]},
            "days_max": {"type": "float", "default": 7},
            "record": {"type": "path", "default": "/var/lib/llmfleet/drift.json"},
            "inputs": {"type": "str", "default": ""},
        },
        supports_check_mode=True,
    )
    try:
        run(module)
    except LlmError as exc:
        module.fail_json(msg=str(exc))


if __name__ == "__main__":
    main()
