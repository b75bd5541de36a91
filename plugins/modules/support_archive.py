#!/usr/bin/python
# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: support_archive
short_description: What a host tells of itself, without its secrets, as one archive for a vendor or a colleague
version_added: 0.2.0
description:
  - Asks the host for versions, packages, units, logs, GPUs, the PCI bus, disks and what this collection has on record,
    and writes one C(tar.gz) with a file for each source and C(index.json), which says what became of each.
  - A source that hangs, fails or says too much costs its own file and no other. Nothing else on the host is changed.
  - Secrets are left out. Keys, tokens, passwords, signed addresses and private keys are hidden by their names, by what
    they look like and by what this collection keeps as secrets on the host; what people have asked engines, and were
    told, by the names that engines log it with.
  - Files that are reached through a symbolic link below the directory that was asked for are not read.
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
    description:
      - The archive. It is written anew, with mode 0600. Its directory must exist and have O(total_bytes) free.
    type: path
    required: true
  name:
    description:
      - Name of the host in the archive.
    type: str
    required: true
  collection_version:
    description:
      - Version of this collection, for the index.
    type: str
    default: ""
  units:
    description:
      - Patterns of the systemd units whose files, states, journals and processes are told.
    type: list
    elements: str
    default: [llmfleet-*, nvidia-*, haproxy.service]
  model_directory:
    description:
      - The directory of models. Only what is on record of them is told.
    type: path
    default: /data/models
  secret_files:
    description:
      - Further files with secrets, also as patterns. The last word of each line is hidden wherever it stands.
    type: list
    elements: path
    default: []
  hours:
    description:
      - How far the logs go back.
    type: int
    default: 72
  source_seconds:
    description:
      - How long one source may take before it is ended.
    type: int
    default: 30
  source_bytes:
    description:
      - How much of one source is kept; of logs the end, of everything else the beginning.
    type: int
    default: 4194304
  total_seconds:
    description:
      - How long all sources may take. What is not asked then is left out.
    type: int
    default: 300
  total_bytes:
    description:
      - How much all sources may say, before it is compressed. What has no room is left out.
    type: int
    default: 67108864
"""

EXAMPLES = r"""
---
- name: Write down what the host tells of itself
  llmfleet.serving.support_archive:
    path: /root/support.tar.gz
    name: "{{ inventory_hostname }}"
"""

RETURN = r"""
path:
  description: The archive.
  returned: success
  type: str
  sample: /root/support.tar.gz
made:
  description: When it was begun, in UTC, fit for the name of a file.
  returned: success
  type: str
  sample: 20261130T064500Z
name:
  description: The O(name), fit for the name of a file.
  returned: success
  type: str
  sample: gpu-01
bytes:
  description: Size of the archive; V(0) in check mode.
  returned: success
  type: int
  sample: 412672
sources:
  description: What became of each source, as C(index.json) has it; none in check mode.
  returned: success
  type: list
  elements: dict
  contains:
    file:
      description: Its file in the archive.
      type: str
      sample: gpu/nvidia-smi-q.xml
    command:
      description: The command, or the file of the host.
      type: str
      sample: nvidia-smi -q -x
    status:
      description: V(ok), V(failed), V(ended) when its time was up, V(absent), V(refused) or V(left out).
      type: str
      sample: ok
    seconds:
      description: How long it took.
      type: float
      sample: 0.4
    bytes:
      description: Size of its file, V(null) when it has none.
      type: int
      sample: 182044
    truncated:
      description: Whether it had more to say.
      type: bool
      sample: false
    note:
      description: Why it is not V(ok).
      type: str
      sample: there is no program dkms
"""

import time
import typing as t
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.llmfleet.serving.plugins.module_utils._errors import LlmError
from ansible_collections.llmfleet.serving.plugins.module_utils._support import Limits, safe_name, write_archive
from ansible_collections.llmfleet.serving.plugins.module_utils._support_sources import Host, secrets, sources

LIMITS = ("source_seconds", "source_bytes", "total_seconds", "total_bytes")


def run(module: AnsibleModule) -> dict[str, t.Any]:
    options = module.params
    limits = Limits(**{name: options[name] for name in LIMITS})
    host = Host(module.run_command, options["units"], Path(options["model_directory"]), options["hours"])
    path = Path(options["path"])
    made = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    entries = []
    if not module.check_mode:
        about = {"host": options["name"], "made": made, "collection": options["collection_version"]}
        known = secrets(host, options["secret_files"])
        entries = write_archive(path, about, sources(host), known, limits)
    return {
        "changed": True,
        "path": str(path),
        "made": made,
        "name": safe_name(options["name"]),
        "bytes": 0 if module.check_mode else path.stat().st_size,
        "sources": entries,
    }


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "path": {"type": "path", "required": True},
            "name": {"type": "str", "required": True},
            "collection_version": {"type": "str", "default": ""},
            "units": {"type": "list", "elements": "str", "default": ["llmfleet-*", "nvidia-*", "haproxy.service"]},
            "model_directory": {"type": "path", "default": "/data/models"},
            "secret_files": {"type": "list", "elements": "path", "default": [], "no_log": False},
            "hours": {"type": "int", "default": 72},
            **{name: {"type": "int", "default": getattr(Limits, name)} for name in LIMITS},
        },
        supports_check_mode=True,
    )
    try:
        module.exit_json(**run(module))
    except LlmError as exc:
        module.fail_json(msg=str(exc))


if __name__ == "__main__":
    main()
