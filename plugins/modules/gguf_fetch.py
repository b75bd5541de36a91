#!/usr/bin/python
# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: gguf_fetch
short_description: Keep a GGUF model of a hub on a host, merged into one file
version_added: 0.1.0
description:
  - Downloads the files of a model, checks each against the checksum that the hub lists, and merges the shards of a
    split model into one file.
  - A download that was cut off, even by a killed process, goes on where it ended.
  - A second run asks nobody for anything when the files of the same commit are in place.
author:
  - llmfleet.serving maintainers (@llmfleet)
extends_documentation_fragment:
  - ansible.builtin.action_common_attributes
  - ansible.builtin.files
attributes:
  check_mode:
    support: full
    details: The hub is asked for its list of files.
  diff_mode:
    support: full
  platform:
    platforms: posix
requirements:
  - requests
notes:
  - The proxy and the CA certificates of the environment are used (E(HTTPS_PROXY), E(NO_PROXY), E(REQUESTS_CA_BUNDLE)).
  - While the module works, a file named C(.NAME.llmfleet.progress) beside the destination tells how far it is, in JSON.
options:
  hub:
    description:
      - Where the model is published. V(huggingface), V(modelscope), the address of a server with the API of Hugging
        Face, or the absolute path of a directory on the host in which O(repo) is a subdirectory.
      - The files of a directory are taken as they are, because it lists no checksums.
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
      - For a directory it is only a label. Name another one after the directory has changed.
    type: str
    required: true
  allow_floating_revision:
    description:
      - Accept a branch or a tag as O(revision). Then the hub is asked at each run for which commit it stands.
    type: bool
    default: false
  files:
    description:
      - Shell pattern of the paths to fetch, such as V(Q4_K_M/*.gguf). V(*) matches V(/) too.
    type: str
    required: true
  dest:
    description:
      - With O(merge), the file. Otherwise the directory in which the files keep their paths.
      - Directories above it are created when they are missing.
    type: path
    required: true
  merge:
    description:
      - Merge the shards into one file. The files must be all shards of one model, or one GGUF file that is not split.
    type: bool
    default: true
  keep_shards:
    description:
      - Leave the shards in the directory C(.NAME.llmfleet.shards) beside O(dest) after they are merged.
    type: bool
    default: false
  force:
    description:
      - Replace other content at the destination even when this collection did not put it there.
    type: bool
    default: false
  token:
    description:
      - Token for the hub, for gated repositories. It is sent to no other host. Prefer O(token_file).
    type: str
  token_file:
    description:
      - File on the host that holds the token and nothing else.
    type: path
  workers:
    description:
      - How many files are downloaded at the same time.
    type: int
    default: 4
  timeout:
    description:
      - Seconds without data after which a connection is given up and made again.
    type: int
    default: 60
  deadline:
    description:
      - Seconds after which the download fails. What has been fetched is kept for the next run.
    type: int
    default: 86400
"""

EXAMPLES = r"""
---
- name: Keep the model of the original procedure on the host
  llmfleet.serving.gguf_fetch:
    hub: modelscope
    repo: unsloth/DeepSeek-R1-GGUF
    revision: 0123456789abcdef0123456789abcdef01234567
    files: DeepSeek-R1-Q4_K_M/*.gguf
    dest: /srv/models/DeepSeek-R1-Q4_K_M.gguf
    mode: "0644"

- name: Keep the shards of a gated model as they are, from a mirror
  llmfleet.serving.gguf_fetch:
    hub: https://hub.example.com
    repo: example/gated-GGUF
    revision: 0123456789abcdef0123456789abcdef01234567
    files: "*.gguf"
    dest: /srv/models/gated
    merge: false
    token_file: /etc/llmfleet/hub-token
"""

RETURN = r"""
dest:
  description: The file or the directory.
  returned: success
  type: str
  sample: /srv/models/DeepSeek-R1-Q4_K_M.gguf
commit:
  description: The commit that the files are of.
  returned: success
  type: str
  sample: 0123456789abcdef0123456789abcdef01234567
sha256:
  description: SHA-256 of the file at RV(dest). V(null) when that is a directory, or a file that is yet to be made.
  returned: success
  type: str
  sample: 9f1c1de0e9f4ba6ff0e4cfcbb7a3b2ac5e6f0dba4ba83db6c1e42da04a76cd7f
shards:
  description: The files of the hub, with their paths, their sizes in bytes, and SHA-256 as far as it is known.
  returned: success
  type: list
  elements: dict
  sample:
    - name: DeepSeek-R1-Q4_K_M/DeepSeek-R1-Q4_K_M-00001-of-00009.gguf
      size: 48339779936
      sha256: 2ed2fd2f0c2f9b2a8c1a5ed5e6f0e1f3b7c1d0a9e8f7c6b5a4938271605f4e3d
bytes_total:
  description: Bytes of all RV(shards).
  returned: success
  type: int
  sample: 404430186336
bytes_fetched:
  description: Bytes that came from the hub in this run.
  returned: success
  type: int
  sample: 404430186336
"""

import contextlib
import time
import typing as t
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.llmfleet.serving.plugins.module_utils._errors import LlmError
from ansible_collections.llmfleet.serving.plugins.module_utils._fetch import Fetch
from ansible_collections.llmfleet.serving.plugins.module_utils._files import os_errors
from ansible_collections.llmfleet.serving.plugins.module_utils._http import Retries
from ansible_collections.llmfleet.serving.plugins.module_utils._hub import pinned, read_token, source


def run(module: AnsibleModule) -> dict[str, t.Any]:
    params = module.params
    for name in ("workers", "timeout", "deadline"):
        if params[name] < 1:
            raise LlmError(f"{name} is {params[name]}; expected 1 or more.")
    deadline = time.monotonic() + params["deadline"]
    token = read_token(Path(params["token_file"])) if params["token_file"] else params["token"]
    hub = source(params["hub"], params["repo"], endpoint=params["endpoint"], token=token, timeout=params["timeout"])
    commit = pinned(hub, params["revision"], floating=params["allow_floating_revision"], retries=Retries(deadline))
    fetch = Fetch(params["repo"], commit, params["files"], Path(params["dest"]), merge=params["merge"])

    def set_attributes(path: Path, changed: bool = False, diff: dict[str, t.Any] | None = None) -> bool:
        wanted = module.load_file_common_arguments(params, path=str(path))
        return bool(module.set_fs_attributes_if_different(wanted, changed, diff=diff))

    changed = False
    before = manifest = fetch.current
    if not fetch.done:
        with contextlib.nullcontext() if module.check_mode else fetch.locked():
            manifest = fetch.plan(hub, Retries(deadline), force=params["force"])
            changed = fetch.changes
            if not module.check_mode:
                limits = {name: params[name] for name in ("workers", "timeout", "keep_shards")}
                changed = fetch.run(set_attributes, deadline=deadline, **limits)
    diff = {"before": _content(before), "after": _content(manifest)}
    for path in filter(Path.exists, fetch.paths):
        changed = set_attributes(path, changed, diff)

    shards = (fetch.current if fetch.done else manifest)["shards"]
    return {
        "changed": changed,
        "diff": diff,
        "dest": params["dest"],
        "commit": commit,
        "sha256": fetch.sha256 if fetch.done else None,
        "shards": shards,
        "bytes_total": sum(shard["size"] for shard in shards),
        "bytes_fetched": fetch.fetched,
    }


def _content(manifest: dict[str, t.Any]) -> dict[str, t.Any]:
    return {name: manifest[name] for name in ("hub", "wanted", "shards") if name in manifest}


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "hub": {"type": "str", "default": "huggingface"},
            "endpoint": {"type": "str"},
            "repo": {"type": "str", "required": True},
            "revision": {"type": "str", "required": True},
            "allow_floating_revision": {"type": "bool", "default": False},
            "files": {"type": "str", "required": True},
            "dest": {"type": "path", "required": True},
            "merge": {"type": "bool", "default": True},
            "keep_shards": {"type": "bool", "default": False},
            "force": {"type": "bool", "default": False},
            "token": {"type": "str", "no_log": True},
            "token_file": {"type": "path", "no_log": False},
            "workers": {"type": "int", "default": 4},
            "timeout": {"type": "int", "default": 60},
            "deadline": {"type": "int", "default": 86400},
        },
        add_file_common_args=True,
        mutually_exclusive=[("token", "token_file")],
        supports_check_mode=True,
    )
    try:
        with os_errors(f"Fetching to {module.params['dest']}"):
            module.exit_json(**run(module))
    except LlmError as exc:
        module.fail_json(msg=str(exc))


if __name__ == "__main__":
    main()
