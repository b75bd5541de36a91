#!/usr/bin/python
# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: model_snapshot
short_description: Keep a repository of a hub at one commit in a directory
version_added: 0.2.0
description:
  - Downloads the files of a model, such as one in safetensors for vLLM or SGLang, and checks each against the checksum
    that the hub lists.
  - Files that are there already, or in another snapshot on the same file system, are not downloaded.
  - What an earlier commit had and this one has not is removed, unless somebody has changed it since.
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
    details: The hub is asked for its list of files.
  diff_mode:
    support: full
  platform:
    platforms: posix
options:
  dest:
    description:
      - The directory in which the files keep their paths. It is created when it is missing.
      - While it goes from one commit to another, it has files of both. Where that matters, give each commit a directory
        of its own, and name the earlier one in O(link_from).
    type: path
    required: true
  include:
    description:
      - Shell patterns of the paths to fetch. V(*) matches V(/) too.
    type: list
    elements: str
    default: ["*"]
  exclude:
    description:
      - Shell patterns of the paths not to fetch, though one of O(include) matches.
    type: list
    elements: str
    default: []
  allow_pickle:
    description:
      - Fetch files that may be Python pickles (C(.bin), C(.pt), C(.pth), C(.pkl), C(.pickle), C(.ckpt)), which run code
        when they are loaded. Without it, a choice that has such a file is refused.
    type: bool
    default: false
  link_from:
    description:
      - Directories of other snapshots on the host. A file that one of them has, by its checksum, becomes a hard link
        to it, if both are on one file system. Its owner and mode are the same for both then.
    type: list
    elements: path
    default: []
  force:
    description:
      - Replace other content at the destination even when this collection did not put it there, or when it is a
        snapshot of another repository.
    type: bool
    default: false
"""

EXAMPLES = r"""
---
- name: Keep a quantised model for vLLM on the host
  llmfleet.serving.model_snapshot:
    hub: modelscope
    repo: cognitivecomputations/DeepSeek-R1-AWQ
    revision: 0123456789abcdef0123456789abcdef01234567
    dest: /srv/models/DeepSeek-R1-AWQ

- name: Put the next commit beside it; what has not changed takes no space and no time
  llmfleet.serving.model_snapshot:
    repo: Qwen/Qwen3-8B
    revision: 89abcdef0123456789abcdef0123456789abcdef
    exclude: ["*.bin", "original/*"]
    dest: /srv/models/Qwen3-8B-89abcdef
    link_from: [/srv/models/Qwen3-8B-01234567]
    token_file: /etc/llmfleet/hub-token
"""

RETURN = r"""
dest:
  description: The directory.
  returned: success
  type: str
  sample: /srv/models/DeepSeek-R1-AWQ
commit:
  description: The commit that the files are of.
  returned: success
  type: str
  sample: 0123456789abcdef0123456789abcdef01234567
files:
  description: The files, with their paths, their sizes in bytes, and SHA-256 as far as it is known.
  returned: success
  type: list
  elements: dict
  sample:
    - name: model-00001-of-00074.safetensors
      size: 4995689464
      sha256: 2ed2fd2f0c2f9b2a8c1a5ed5e6f0e1f3b7c1d0a9e8f7c6b5a4938271605f4e3d
bytes_total:
  description: Bytes of all RV(files).
  returned: success
  type: int
  sample: 368123456789
bytes_fetched:
  description: Bytes of files that came in this run.
  returned: success
  type: int
  sample: 368123456789
bytes_linked:
  description: Bytes of files that this run linked, or in check mode would link, instead.
  returned: success
  type: int
  sample: 0
bytes_missing:
  description: Bytes that this run had, or in check mode would have, still to take up on the file system of RV(dest).
  returned: success
  type: int
  sample: 368123456789
"""

import typing as t
from pathlib import Path

from ansible_collections.llmfleet.serving.plugins.module_utils._ansible_fetch import run_module
from ansible_collections.llmfleet.serving.plugins.module_utils._snapshot import Choice, Snapshot


def make(params: dict[str, t.Any], commit: str) -> Snapshot:
    choice = Choice(params["include"], params["exclude"], params["allow_pickle"])
    return Snapshot(params["repo"], commit, choice, Path(params["dest"]), earlier=[*map(Path, params["link_from"])])


def main() -> None:
    run_module(
        {
            "include": {"type": "list", "elements": "str", "default": ["*"]},
            "exclude": {"type": "list", "elements": "str", "default": []},
            "allow_pickle": {"type": "bool", "default": False},
            "link_from": {"type": "list", "elements": "path", "default": []},
        },
        make,
        "files",
        lambda snapshot: {"bytes_linked": snapshot.linked},
    )


if __name__ == "__main__":
    main()
