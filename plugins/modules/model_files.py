#!/usr/bin/python
# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: model_files
short_description: Look after a directory of model files
version_added: 0.2.0
description:
  - Tells which models of a list are missing from a directory, so that nobody has to be asked for those that are there.
  - Takes files whose content has changed since it was verified out of use, removes models that are to be absent, and
    keeps a list of checksums that C(sha256sum --check) understands.
  - Tells what else lies there. That is never removed.
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
      - The directory. A missing one has no models.
    type: path
    required: true
  models:
    description:
      - The models that the directory is for, as M(llmfleet.serving.gguf_fetch) and M(llmfleet.serving.model_snapshot)
        put them there.
    type: list
    elements: dict
    required: true
    suboptions:
      name:
        description:
          - Name of the model. Its file is C(NAME.gguf), its directory C(NAME).
        type: str
        required: true
      repo:
        description:
          - The repository, as V(OWNER/NAME). Required unless O(models[].state=absent).
        type: str
      revision:
        description:
          - The commit. Required unless O(models[].state=absent).
        type: str
      files:
        description:
          - The pattern of its files.
        type: str
        default: "*"
      kind:
        description:
          - What it is in the directory. V(file) is a GGUF file, V(shards) are GGUF files as they were published,
            V(snapshot) are the files of a repository as M(llmfleet.serving.model_snapshot) puts them there.
        type: str
        choices: [file, shards, snapshot]
        default: file
      state:
        description:
          - Whether it is to be there. Fetching it is not this module's business, removing it is.
        type: str
        choices: [present, absent]
        default: present
  verify:
    description:
      - Read all files and compare their checksums. Without it, only those are read whose size, inode or modification
        time has changed since they were verified.
    type: bool
    default: false
"""

EXAMPLES = r"""
---
- name: Find out what is missing, and read everything that is there
  llmfleet.serving.model_files:
    path: /data/models
    models:
      - name: deepseek-r1-q4
        repo: unsloth/DeepSeek-R1-GGUF
        revision: 0123456789abcdef0123456789abcdef01234567
        files: DeepSeek-R1-Q4_K_M/*.gguf
      - name: deepseek-r1-q2
        state: absent
    verify: true
"""

RETURN = r"""
missing:
  description: Names of the models that are not there, intact, at the commit that is wanted.
  returned: success
  type: list
  elements: str
  sample: [deepseek-r1-q4]
files:
  description: The files of the models that are there, with their paths in the directory, and their sizes in bytes.
  returned: success
  type: list
  elements: dict
  sample:
    - model: deepseek-r1-q4
      path: deepseek-r1-q4.gguf
      size: 404430186336
      sha256: 9f1c1de0e9f4ba6ff0e4cfcbb7a3b2ac5e6f0dba4ba83db6c1e42da04a76cd7f
strays:
  description: What else lies in the directory, and could be removed by hand, with the bytes that it takes on the disk.
  returned: success
  type: list
  elements: dict
  sample:
    - path: old-model.gguf
      size: 404430186336
corrupt:
  description: The files whose content has changed since it was verified.
  returned: success
  type: list
  elements: str
  sample: [/data/models/deepseek-r1-q4.gguf]
free:
  description: Bytes that are free on the file system of the directory.
  returned: success
  type: int
  sample: 7340032000000
quarantined:
  description: Where the RV(corrupt) files are now. Nothing, in check mode.
  returned: success
  type: list
  elements: str
  sample: [/data/models/deepseek-r1-q4.gguf.quarantined]
removed:
  description: The files and directories of absent models that have been removed, or would be in check mode.
  returned: success
  type: list
  elements: str
  sample: [/data/models/deepseek-r1-q2.gguf]
"""

import typing as t
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.llmfleet.serving.plugins.module_utils._errors import LlmError
from ansible_collections.llmfleet.serving.plugins.module_utils._files import os_errors
from ansible_collections.llmfleet.serving.plugins.module_utils._store import Model, Store


def run(module: AnsibleModule) -> dict[str, t.Any]:
    params = module.params
    models = [_model(entry) for entry in params["models"]]
    store = Store(Path(params["path"]), models, thorough=params["verify"])
    changed = store.changes
    quarantined = store.tidy() if changed and not module.check_mode else []
    return {
        "changed": changed,
        "missing": store.missing,
        "files": store.files,
        "strays": store.strays(),
        "free": store.free,
        "corrupt": [str(path) for path in store.corrupt],
        "quarantined": [str(path) for path in quarantined],
        "removed": [str(path) for path in store.unwanted],
    }


def _model(entry: dict[str, t.Any]) -> Model:
    wanted = {name: entry[name] or "" for name in ("name", "repo", "revision", "files")}
    kind, absent = entry["kind"], entry["state"] == "absent"
    return Model(**wanted, merge=kind == "file", snapshot=kind == "snapshot", absent=absent)


def main() -> None:
    model = {
        "name": {"type": "str", "required": True},
        "repo": {"type": "str"},
        "revision": {"type": "str"},
        "files": {"type": "str", "default": "*"},
        "kind": {"type": "str", "choices": ["file", "shards", "snapshot"], "default": "file"},
        "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
    }
    module = AnsibleModule(
        argument_spec={
            "path": {"type": "path", "required": True},
            "models": {
                "type": "list",
                "elements": "dict",
                "required": True,
                "options": model,
                "required_if": [("state", "present", ["repo", "revision"])],
            },
            "verify": {"type": "bool", "default": False},
        },
        supports_check_mode=True,
    )
    try:
        with os_errors(f"Looking after {module.params['path']}"):
            module.exit_json(**run(module))
    except LlmError as exc:
        module.fail_json(msg=str(exc))


if __name__ == "__main__":
    main()
