#!/usr/bin/python
# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: service_snapshot
short_description: Keep what defines a service while it is changed, and put it back
version_added: 0.2.0
description:
  - Keeps the unit of a service and the files that go with it, until the change that follows is settled. When the change
    turns out badly, the files are put back with their owners and modes, and what has come since is removed.
  - A snapshot that nobody has settled, as when a run was killed, is never overwritten, so that what comes back is what
    worked before.
  - The service is neither stopped nor started.
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
  name:
    description:
      - The service's unit, without C(.service).
    type: str
    required: true
  state:
    description:
      - V(present) keeps what defines the service now, unless it is at O(target) or a snapshot is there that nobody has
        settled.
      - V(restored) makes the files what they were. Without a snapshot there is nothing to do.
      - V(absent) settles the change. The snapshot is removed, because it may hold keys.
    type: str
    choices: [present, restored, absent]
    default: present
  files:
    description:
      - Patterns of files that define the service beside its unit, such as its environment file and its keys. Of a
        symbolic link, it is kept where it leads.
    type: list
    elements: path
    default: []
  target:
    description:
      - Paths of the environment that the service is to run on, also as patterns (V(/usr/bin/*)).
        With one that it runs on already, nothing is kept.
    type: list
    elements: str
    default: []
  context:
    description:
      - What to remember with the snapshot. Every later call returns it.
    type: dict
    default: {}
  root:
    description:
      - Directory of the snapshots.
    type: path
    default: /var/lib/llmfleet/previous
"""

EXAMPLES = r"""
---
- name: Keep what defines the service
  llmfleet.serving.service_snapshot:
    name: llmfleet-deepseek-r1
    files: [/etc/llmfleet/llmfleet-deepseek-r1.env]
    target: /opt/llmfleet/ollama/0.34.0

- name: Put it back
  llmfleet.serving.service_snapshot:
    name: llmfleet-deepseek-r1
    files: [/etc/llmfleet/llmfleet-deepseek-r1.env]
    state: restored
"""

RETURN = r"""
release:
  description: Path of the environment that the service runs on, in check mode as it was.
  returned: success
  type: str
  sample: /opt/llmfleet/ollama/0.5.11
previous:
  description: Path of the one that it ran on before, V(null) when none is known.
  returned: success
  type: str
  sample: /opt/llmfleet/ollama/0.5.11
pending:
  description: Whether there is a snapshot that nobody has settled.
  returned: success
  type: bool
  sample: true
due:
  description: Whether the service is not at O(target), or its last change is not settled.
  returned: success
  type: bool
  sample: true
context:
  description: The O(context) of the snapshot.
  returned: success
  type: dict
  sample: {}
"""

import typing as t
from fnmatch import fnmatchcase
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.llmfleet.serving.plugins.module_utils._errors import LlmError
from ansible_collections.llmfleet.serving.plugins.module_utils._service_snapshot import ServiceSnapshot


def run(module: AnsibleModule) -> dict[str, t.Any]:
    options = module.params
    snapshot = ServiceSnapshot(options["name"], options["files"], Path(options["root"]))
    pending = snapshot.pending
    due = bool(pending) or not any(fnmatchcase(snapshot.release, target) for target in options["target"])
    # What is restored or absent is what changes; what is to be kept shows as such.
    files = snapshot.differs()
    changed, act = {
        "present": (due and not pending, lambda: snapshot.take(options["context"])),
        "restored": (bool(files), snapshot.restore),
        "absent": (bool(pending), snapshot.settle),
    }[options["state"]]
    if changed and not module.check_mode:
        act()
    kept = snapshot.pending or pending or {"context": options["context"]}
    return {
        "changed": changed,
        "diff": {"before": {"changed_files": files}, "after": {"changed_files": [] if changed else files}},
        "release": snapshot.release,
        "previous": snapshot.previous,
        "pending": bool(snapshot.pending),
        "due": due,
        "context": kept["context"],
    }


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str", "required": True},
            "state": {"type": "str", "choices": ["present", "restored", "absent"], "default": "present"},
            "files": {"type": "list", "elements": "path", "default": []},
            "target": {"type": "list", "elements": "str", "default": []},
            "context": {"type": "dict", "default": {}},
            "root": {"type": "path", "default": "/var/lib/llmfleet/previous"},
        },
        supports_check_mode=True,
    )
    try:
        module.exit_json(**run(module))
    except LlmError as exc:
        module.fail_json(msg=str(exc))


if __name__ == "__main__":
    main()
