#!/usr/bin/python
# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: release_prune
short_description: Remove environments of engines that no service needs any more
version_added: 0.2.0
description:
  - Engines are installed side by side, one directory for each version. This removes those that are neither in use nor
    the ones before.
  - An environment is kept when a unit or a drop-in names it, when a service ran on it before its last change
    (M(llmfleet.serving.service_snapshot)), and when a link in C(/usr/local/bin) leads into it.
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
  engines:
    description:
      - Names of the engines whose environments are looked through.
    type: list
    elements: str
    required: true
  root:
    description:
      - Directory of the engines, each of which has a directory of its own there.
    type: path
    default: /opt/llmfleet
  units:
    description:
      - Directory of the units.
    type: path
    default: /etc/systemd/system
  snapshots:
    description:
      - Directory in which it stands what services ran on before.
    type: path
    default: /var/lib/llmfleet/previous
  programs:
    description:
      - Directory of the links to programs.
    type: path
    default: /usr/local/bin
"""

EXAMPLES = r"""
---
- name: Keep the current release of Ollama and the one before
  llmfleet.serving.release_prune:
    engines: [ollama]
"""

RETURN = r"""
removed:
  description: Paths of the environments that were removed, in check mode of those that would be.
  returned: success
  type: list
  elements: str
  sample: [/opt/llmfleet/ollama/0.5.5]
"""

import typing as t
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.llmfleet.serving.plugins.module_utils._errors import LlmError
from ansible_collections.llmfleet.serving.plugins.module_utils._releases import remove, unused


def run(module: AnsibleModule) -> dict[str, t.Any]:
    options = module.params
    folders = (Path(options[name]) for name in ("units", "snapshots", "programs"))
    releases = unused(Path(options["root"]), options["engines"], *folders)
    for release in [] if module.check_mode else releases:
        remove(release)
    removed = [str(release) for release in releases]
    diff = {"before": {"unused": removed}, "after": {"unused": []}}
    return {"changed": bool(removed), "diff": diff, "removed": removed}


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "engines": {"type": "list", "elements": "str", "required": True},
            "root": {"type": "path", "default": "/opt/llmfleet"},
            "units": {"type": "path", "default": "/etc/systemd/system"},
            "snapshots": {"type": "path", "default": "/var/lib/llmfleet/previous"},
            "programs": {"type": "path", "default": "/usr/local/bin"},
        },
        supports_check_mode=True,
    )
    try:
        module.exit_json(**run(module))
    except LlmError as exc:
        module.fail_json(msg=str(exc))


if __name__ == "__main__":
    main()
