#!/usr/bin/python
# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: gguf_merge
short_description: Merge the shards of a GGUF model into one file
version_added: 0.1.0
description:
  - Writes the same bytes as C(llama-gguf-split --merge), in constant memory.
  - Refuses shards that are truncated, missing, given twice, out of order or from different models, before it writes.
  - The merged file gets its name when it is complete and on disk. Until then, and after any failure, O(dest) is what it
    was before.
  - What was merged is kept in a hidden file beside O(dest), so that a second run reads only headers. Without that file,
    an existing O(dest) is compared with the shards byte by byte.
author:
  - llmfleet.serving maintainers (@llmfleet)
extends_documentation_fragment:
  - ansible.builtin.action_common_attributes
  - ansible.builtin.files
attributes:
  check_mode:
    support: full
  diff_mode:
    support: full
  platform:
    platforms: posix
options:
  src:
    description:
      - Path of the first shard on the host; the others are found beside it by their names.
      - Or the paths of all shards, in order.
      - Names are those that llama.cpp gives to shards, such as C(model-00001-of-00009.gguf).
    type: list
    elements: path
    required: true
  dest:
    description:
      - Path of the merged file. Its directory must exist and have room for it.
    type: path
    required: true
  checksum:
    description:
      - SHA-256 that the merged file must have, as 64 hexadecimal digits. The file is read once more to compute it.
    type: str
  force:
    description:
      - Replace O(dest) when it has other bytes than the merged file. Otherwise that is an error.
    type: bool
    default: false
notes:
  - With C(general.alignment) other than 32, C(llama-gguf-split) writes files that do not load. This module keeps that
    alignment, so its bytes differ there.
  - Shards are not deleted.
seealso:
  - module: llmfleet.serving.gguf_info
"""

EXAMPLES = r"""
---
- name: Make one file of nine shards
  llmfleet.serving.gguf_merge:
    src: /srv/shards/DeepSeek-R1-Q4_K_M-00001-of-00009.gguf
    dest: /srv/models/DeepSeek-R1-Q4_K_M.gguf
    owner: ollama
    mode: "0640"
"""

RETURN = r"""
dest:
  description: Path of the merged file.
  returned: success
  type: str
  sample: /srv/models/DeepSeek-R1-Q4_K_M.gguf
size:
  description: Its size in bytes.
  returned: success
  type: int
  sample: 404430379008
tensors:
  description: Number of tensors in it.
  returned: success
  type: int
  sample: 1025
shards:
  description: Paths of the shards, in order.
  returned: success
  type: list
  elements: str
  sample:
    - /srv/shards/DeepSeek-R1-Q4_K_M-00001-of-00009.gguf
    - /srv/shards/DeepSeek-R1-Q4_K_M-00002-of-00009.gguf
"""

import contextlib
import typing as t
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.llmfleet.serving.plugins.module_utils._errors import LlmError
from ansible_collections.llmfleet.serving.plugins.module_utils._files import locked, os_errors
from ansible_collections.llmfleet.serving.plugins.module_utils._gguf_files import LocalMerge


def run(module: AnsibleModule) -> dict[str, t.Any]:
    dest = Path(module.params["dest"])
    merge = LocalMerge([Path(path) for path in module.params["src"]], dest, module.params["checksum"])
    after = {"path": str(dest), "state": "file", "size": merge.plan.size}

    def set_attributes(path: Path, diff: dict[str, t.Any] | None = None) -> bool:
        wanted = module.load_file_common_arguments(module.params, path=str(path))
        return bool(module.set_fs_attributes_if_different(wanted, changed=False, diff=diff))

    with contextlib.nullcontext() if module.check_mode else locked(dest):
        before = {**after, "size": dest.stat().st_size} if dest.exists() else {"path": str(dest), "state": "absent"}
        diff = {"before": before, "after": after}
        changed = not merge.done()
        if changed:
            merge.require_writable(module.params["force"])
            if not module.check_mode:
                merge.write(finish=set_attributes)
        else:
            if not module.check_mode:
                merge.record()
            changed = set_attributes(dest, diff)

    return {
        "changed": changed,
        "diff": diff,
        "dest": str(dest),
        "size": merge.plan.size,
        "tensors": merge.plan.tensors,
        "shards": [str(shard.path) for shard in merge.shards],
    }


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "src": {"type": "list", "elements": "path", "required": True},
            "dest": {"type": "path", "required": True},
            "checksum": {"type": "str"},
            "force": {"type": "bool", "default": False},
        },
        add_file_common_args=True,
        supports_check_mode=True,
    )
    try:
        with os_errors(f"Merging to {module.params['dest']}"):
            result = run(module)
    except LlmError as exc:
        module.fail_json(msg=str(exc))
    module.exit_json(**result)


if __name__ == "__main__":
    main()
