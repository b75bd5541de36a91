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
  - Downloads the files of a model and checks each against the checksum that the hub lists. The shards of a split model
    become one file on their way, so that they take up neither time nor space of their own.
  - All that can be wrong with the shards by their headers is found before their data is asked for.
  - Uses as many connections as bring more than fewer of them, and goes on from another source where one fails.
  - A download that was cut off, even by a killed process, goes on where it ended.
  - A second run asks nobody for anything when the files of the same commit are in place.
author:
  - llmfleet.serving maintainers (@llmfleet)
extends_documentation_fragment:
  - ansible.builtin.action_common_attributes
  - ansible.builtin.files
  - llmfleet.serving._supply
attributes:
  check_mode:
    support: full
    details: The hub is asked for its list of files, and for the headers of those that are to be merged.
  diff_mode:
    support: full
  platform:
    platforms: posix
notes:
  - While the module works, a file named C(.NAME.llmfleet.progress) beside the destination tells how far it is, in JSON.
    What has come stays in C(.NAME.llmfleet.part) with its journal until all is there and checked.
options:
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
  force:
    description:
      - Replace other content at the destination even when this collection did not put it there.
    type: bool
    default: false
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

- name: The same, from whichever of three places is fastest
  llmfleet.serving.gguf_fetch:
    hub: modelscope
    repo: unsloth/DeepSeek-R1-GGUF
    revision: 0123456789abcdef0123456789abcdef01234567
    sources:
      - hub: huggingface
        revision: 89abcdef0123456789abcdef0123456789abcdef
      - hub: url
        endpoint: https://models.example.com
    files: DeepSeek-R1-Q4_K_M/*.gguf
    dest: /srv/models/DeepSeek-R1-Q4_K_M.gguf

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
  description: Bytes of files that came in this run. In check mode these are the headers.
  returned: success
  type: int
  sample: 404430186336
bytes_missing:
  description: Bytes that this run had, or in check mode would have, still to take up on the file system of RV(dest).
  returned: success
  type: int
  version_added: 0.2.0
  sample: 404430186336
"""

import typing as t
from pathlib import Path

from ansible_collections.llmfleet.serving.plugins.module_utils._ansible_fetch import run_module
from ansible_collections.llmfleet.serving.plugins.module_utils._fetch import Fetch


def make(params: dict[str, t.Any], commit: str) -> Fetch:
    return Fetch(params["repo"], commit, params["files"], Path(params["dest"]), merge=params["merge"])


def main() -> None:
    run_module(
        {"files": {"type": "str", "required": True}, "merge": {"type": "bool", "default": True}},
        make,
        "shards",
        lambda fetch: {"sha256": fetch.sha256 if fetch.done else None},
    )


if __name__ == "__main__":
    main()
