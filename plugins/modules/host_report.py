#!/usr/bin/python
# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: host_report
short_description: What a host has on record of its models, services and figures
version_added: 0.2.0
description:
  - Reads what this collection has written down on a host, and what systemd says of its units.
  - Nothing is changed. Arguments and variables whose names or forms say that they are secrets are not returned.
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
  model_directory:
    description:
      - The directory of models. A missing one has no models.
    type: path
    default: /data/models
  units:
    description:
      - Patterns of the systemd units to tell about.
    type: list
    elements: str
    default: [llmfleet-*.service]
  record:
    description:
      - The record of M(llmfleet.serving.llm_bench).
    type: path
    default: /var/lib/llmfleet/acceptance.json
"""

EXAMPLES = r"""
---
- name: Read what the host has on record
  llmfleet.serving.host_report:
    model_directory: /data/models
  register: host
"""

RETURN = r"""
models:
  description: The models in the directory, as they were fetched and verified.
  returned: success
  type: list
  elements: dict
  contains:
    name:
      description: Its name in the list of models.
      type: str
      sample: deepseek-r1-q4
    source:
      description: The hub that listed its files.
      type: str
      sample: https://modelscope.cn
    repo:
      description: The repository.
      type: str
      sample: unsloth/DeepSeek-R1-GGUF
    commit:
      description: The commit of the repository.
      type: str
      sample: 0123456789abcdef0123456789abcdef01234567
    files:
      description: Number of its files on this host.
      type: int
      sample: 1
    bytes:
      description: Bytes that were written for it.
      type: int
      sample: 404430186336
    sha256:
      description: SHA-256 of its file, or, where it has several, of the sorted lines of C(sha256sum) for them.
      type: str
      sample: 9f1c1de0e9f4ba6ff0e4cfcbb7a3b2ac5e6f0dba4ba83db6c1e42da04a76cd7f
    written:
      description: When the last of them was written, in UTC; V(null) where none is there any more.
      type: str
      sample: "2026-11-23T14:05:00Z"
    intact:
      description: Whether all of them still have the size, inode and modification time of what was verified.
      type: bool
      sample: true
units:
  description: The units that are installed.
  returned: success
  type: list
  elements: dict
  contains:
    name:
      description: Its name.
      type: str
      sample: llmfleet-deepseek-r1.service
    description:
      description: Its description.
      type: str
      sample: Ollama 0.5.11
    state:
      description: Its state, as C(systemctl status) has it.
      type: str
      sample: active (running)
    since:
      description: When it became active, in UTC; V(null) when it never has.
      type: str
      sample: "2026-11-23T14:05:00Z"
    enabled:
      description: Whether it starts at boot.
      type: str
      sample: enabled
    result:
      description: How it ended last.
      type: str
      sample: success
    restarts:
      description: How often systemd has started it again.
      type: int
      sample: 0
    engine:
      description: The engine that it runs, V(null) for what is no engine of this collection.
      type: str
      sample: ollama
    version:
      description: The engine's version.
      type: str
      sample: 0.5.11
    argv:
      description: Its command line.
      type: list
      elements: str
      sample: [/opt/llmfleet/ollama/0.5.11/bin/ollama, serve]
    environment:
      description: The variables of its environment file.
      type: dict
      sample: {OLLAMA_KEEP_ALIVE: 10m}
    score:
      description: Its exposure as C(systemd-analyze security) rates it, from 0 (none) to 10; V(null) when it does not.
      type: float
      sample: 1.4
    rating:
      description: The same as a word.
      type: str
      sample: OK
figures:
  description: What each service has delivered, C(current) and C(accepted), by M(llmfleet.serving.llm_bench).
  returned: success
  type: dict
  sample: {}
"""

from pathlib import Path

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.llmfleet.serving.plugins.module_utils import _host_records
from ansible_collections.llmfleet.serving.plugins.module_utils._errors import LlmError
from ansible_collections.llmfleet.serving.plugins.module_utils._files import os_errors


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "model_directory": {"type": "path", "default": "/data/models"},
            "units": {"type": "list", "elements": "str", "default": ["llmfleet-*.service"]},
            "record": {"type": "path", "default": "/var/lib/llmfleet/acceptance.json"},
        },
        supports_check_mode=True,
    )
    params = module.params
    try:
        with os_errors("Reading what the host has on record"):
            module.exit_json(
                changed=False,
                models=_host_records.models(Path(params["model_directory"])),
                units=_host_records.units(module.run_command, params["units"]),
                figures=_host_records.figures(Path(params["record"])),
            )
    except LlmError as exc:
        module.fail_json(msg=str(exc))


if __name__ == "__main__":
    main()
