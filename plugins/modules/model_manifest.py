#!/usr/bin/python
# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: model_manifest
short_description: Keep a list of a model's files with their checksums
version_added: 0.2.0
description:
  - Asks a hub for the files of one commit, and writes path, size and SHA-256 of each into a small text file.
  - With that as O(llmfleet.serving.gguf_fetch#module:manifest) no hub is asked for a list any more, and every source
    must have exactly these files. It can be kept with the inventory, and used where only a mirror can be reached.
  - Files that the hub lists no SHA-256 of, which are the small ones on Hugging Face, are read to compute it.
  - A second run asks nobody when the file is of the same commit.
author:
  - llmfleet.serving maintainers (@llmfleet)
extends_documentation_fragment:
  - ansible.builtin.action_common_attributes
  - ansible.builtin.files
attributes:
  check_mode:
    support: full
    details: The hub is asked all the same.
  diff_mode:
    support: full
  platform:
    platforms: posix
requirements:
  - requests
notes:
  - The proxy and the CA certificates of the environment are used (E(HTTPS_PROXY), E(NO_PROXY), E(REQUESTS_CA_BUNDLE)).
options:
  hub:
    description:
      - Where the model is published. V(huggingface), V(modelscope), the address of a server with the API of Hugging
        Face, or the absolute path of a directory on the host in which O(repo) is a subdirectory.
    type: str
    default: huggingface
  endpoint:
    description:
      - Address of a mirror that answers like the O(hub). This is how a mirror of ModelScope is named.
    type: str
  repo:
    description:
      - The repository, as V(OWNER/NAME).
    type: str
    required: true
  revision:
    description:
      - The commit, 40 hexadecimal digits.
      - A branch or a tag is refused unless O(allow_floating_revision), because it may name other files tomorrow.
    type: str
    required: true
  allow_floating_revision:
    description:
      - Accept a branch or a tag as O(revision). Then the hub is asked at each run for which commit it stands.
    type: bool
    default: false
  files:
    description:
      - Shell pattern of the paths to list, such as V(Q4_K_M/*.gguf). V(*) matches V(/) too.
    type: str
    default: "*"
  dest:
    description:
      - The file to keep. One that exists and is no manifest is refused.
      - Directories above it are created when they are missing.
    type: path
    required: true
  token:
    description:
      - Token for the hub, for gated repositories. It is sent to no other host. Prefer O(token_file).
    type: str
  token_file:
    description:
      - File on the host that holds the token and nothing else.
    type: path
  timeout:
    description:
      - Longest silence of the hub, in seconds.
    type: int
    default: 60
  deadline:
    description:
      - Seconds after which nothing is tried any more.
    type: int
    default: 3600
"""

EXAMPLES = r"""
---
- name: Keep the list of the original procedure's model with the inventory
  llmfleet.serving.model_manifest:
    repo: unsloth/DeepSeek-R1-GGUF
    revision: 0123456789abcdef0123456789abcdef01234567
    files: DeepSeek-R1-Q4_K_M/*.gguf
    dest: "{{ inventory_dir }}/manifests/deepseek-r1-q4"
    mode: "0644"
  delegate_to: localhost
  run_once: true
"""

RETURN = r"""
dest:
  description: The manifest.
  returned: success
  type: str
  sample: /srv/inventory/manifests/deepseek-r1-q4
commit:
  description: The commit that the files are of.
  returned: success
  type: str
  sample: 0123456789abcdef0123456789abcdef01234567
files:
  description: The files, with their paths, their sizes in bytes, and SHA-256.
  returned: success
  type: list
  elements: dict
  sample:
    - path: DeepSeek-R1-Q4_K_M/DeepSeek-R1-Q4_K_M-00001-of-00009.gguf
      size: 48339779936
      sha256: 2ed2fd2f0c2f9b2a8c1a5ed5e6f0e1f3b7c1d0a9e8f7c6b5a4938271605f4e3d
bytes_total:
  description: Bytes of all RV(files).
  returned: success
  type: int
  sample: 404430186336
"""

import threading
import time
import typing as t
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.llmfleet.serving.plugins.module_utils._errors import LlmError
from ansible_collections.llmfleet.serving.plugins.module_utils._files import os_errors, require_plain, write_text
from ansible_collections.llmfleet.serving.plugins.module_utils._http import Retries
from ansible_collections.llmfleet.serving.plugins.module_utils._hub import pinned, select
from ansible_collections.llmfleet.serving.plugins.module_utils._manifest import Manifest, read_manifest
from ansible_collections.llmfleet.serving.plugins.module_utils._sources import Origin
from ansible_collections.llmfleet.serving.plugins.module_utils._supply import Supply, first_source


def run(module: AnsibleModule) -> dict[str, t.Any]:
    params = module.params
    for name in ("timeout", "deadline"):
        if params[name] < 1:
            raise LlmError(f"{name} is {params[name]}; expected 1 or more.")
    dest = Path(params["dest"])
    require_plain(dest)
    deadline = time.monotonic() + params["deadline"]
    hub = first_source(params)
    commit = pinned(hub, params["revision"], floating=params["allow_floating_revision"], retries=Retries(deadline))
    about = {"repo": params["repo"], "commit": commit, "files": params["files"]}

    before = manifest = read_manifest(dest) if dest.exists() else Manifest({}, [])
    changed = not about.items() <= before.about.items()
    if changed:
        supply = Supply([Origin(hub, commit)], deadline=deadline, halt=threading.Event(), timeout=params["timeout"])
        files = select(supply.files(), params["files"])
        manifest = Manifest({**about, "source": supply.address}, [supply.summed(file) for file in files])
        if not module.check_mode:
            dest.parent.mkdir(parents=True, exist_ok=True)
            write_text(dest, manifest.text)
    diff = {"before": before.text, "after": manifest.text}
    if dest.exists():
        changed = module.set_fs_attributes_if_different(module.load_file_common_arguments(params), changed)
    return {
        "changed": changed,
        "diff": diff,
        "dest": params["dest"],
        "commit": commit,
        "files": [{"path": file.path, "size": file.size, "sha256": file.sha256} for file in manifest.files],
        "bytes_total": sum(file.size for file in manifest.files),
    }


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "hub": {"type": "str", "default": "huggingface"},
            "endpoint": {"type": "str"},
            "repo": {"type": "str", "required": True},
            "revision": {"type": "str", "required": True},
            "allow_floating_revision": {"type": "bool", "default": False},
            "files": {"type": "str", "default": "*"},
            "dest": {"type": "path", "required": True},
            "token": {"type": "str", "no_log": True},
            "token_file": {"type": "path", "no_log": False},
            "timeout": {"type": "int", "default": 60},
            "deadline": {"type": "int", "default": 3600},
        },
        add_file_common_args=True,
        mutually_exclusive=[("token", "token_file")],
        supports_check_mode=True,
    )
    try:
        with os_errors(f"Writing {module.params['dest']}"):
            module.exit_json(**run(module))
    except LlmError as exc:
        module.fail_json(msg=str(exc))


if __name__ == "__main__":
    main()
