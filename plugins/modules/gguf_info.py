#!/usr/bin/python
# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: gguf_info
short_description: Tell what a GGUF file holds
version_added: 0.1.0
description:
  - Reads the header of a GGUF file, checks it as strictly as a loader does, and returns what it says.
  - Only the header is read, which is a few megabytes at most. A file that is no sound GGUF file is an error.
author:
  - llmfleet.serving maintainers (@llmfleet)
extends_documentation_fragment:
  - ansible.builtin.action_common_attributes
attributes:
  check_mode:
    support: full
    details: This module never changes anything.
  diff_mode:
    support: none
  platform:
    platforms: posix
options:
  src:
    description:
      - Path of the file on the host. Of a model in several shards, the first one holds the metadata.
    type: path
    required: true
seealso:
  - module: llmfleet.serving.gguf_merge
"""

EXAMPLES = r"""
---
- name: Look at a model
  llmfleet.serving.gguf_info:
    src: /srv/models/DeepSeek-R1-Q4_K_M.gguf
  register: model

- name: Refuse a file that was not transferred completely
  ansible.builtin.assert:
    that: model.complete
"""

RETURN = r"""
architecture:
  description: The model's architecture. V(null) in a shard other than the first.
  returned: success
  type: str
  sample: deepseek2
name:
  description: The model's own name. V(null) when the file does not tell it.
  returned: success
  type: str
  sample: DeepSeek R1 BF16
quantization:
  description:
    - How most tensors are stored, by the name that llama.cpp gives to C(general.file_type).
    - V(null) when the file does not tell it or the type is unknown.
  returned: success
  type: str
  sample: Q4_K_M
parameters:
  description: Number of elements of all tensors in this file.
  returned: success
  type: int
  sample: 671026419200
context_length:
  description: Number of tokens that the model was made for. V(null) when the file does not tell it.
  returned: success
  type: int
  sample: 163840
block_count:
  description: Number of layers. V(null) when the file does not tell it.
  returned: success
  type: int
  sample: 61
tokenizer:
  description: The kind of tokenizer. V(null) when the file has none.
  returned: success
  type: str
  sample: gpt2
version:
  description: Version of the GGUF format.
  returned: success
  type: int
  sample: 3
alignment:
  description: Each tensor's data starts at a multiple of this number of bytes.
  returned: success
  type: int
  sample: 32
tensors:
  description: Number of tensors in this file.
  returned: success
  type: int
  sample: 1025
tensor_types:
  description: How many tensors are stored in which type.
  returned: success
  type: dict
  sample:
    F32: 361
    Q4_K: 606
    Q6_K: 58
split:
  description: Place of the file among the shards of a model. V(null) when it says nothing of shards.
  returned: success
  type: dict
  contains:
    "no":
      description: Number of the shard; V(0) is the first.
      type: int
    count:
      description: Number of shards; V(0) in a file that was merged.
      type: int
    tensors:
      description: Number of tensors in all shards.
      type: int
  sample:
    "no": 0
    count: 9
    tensors: 1025
size:
  description: Sizes in bytes.
  returned: success
  type: dict
  contains:
    header:
      description: Header with its padding; the data starts there.
      type: int
    data:
      description: All tensors with their padding, by the header.
      type: int
    file:
      description: The file as it is.
      type: int
  sample:
    header: 5265408
    data: 404425113600
    file: 404430379008
complete:
  description: Whether the file has exactly the bytes that its header speaks of.
  returned: success
  type: bool
  sample: true
"""

import typing as t
from collections import Counter
from dataclasses import asdict
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.llmfleet.serving.plugins.module_utils._errors import LlmError
from ansible_collections.llmfleet.serving.plugins.module_utils._gguf import FILE_TYPES, TENSOR_TYPES
from ansible_collections.llmfleet.serving.plugins.module_utils._gguf_files import open_gguf


def run(module: AnsibleModule) -> dict[str, t.Any]:
    header = open_gguf(Path(module.params["src"])).header
    architecture = header.value("general.architecture")
    return {
        "changed": False,
        "architecture": architecture,
        "name": header.value("general.name"),
        "quantization": FILE_TYPES.get(header.value("general.file_type")),
        "parameters": sum(tensor.elements for tensor in header.tensors),
        "context_length": header.value(f"{architecture}.context_length"),
        "block_count": header.value(f"{architecture}.block_count"),
        "tokenizer": header.value("tokenizer.ggml.model"),
        "version": header.version,
        "alignment": header.alignment,
        "tensors": len(header.tensors),
        "tensor_types": dict(Counter(TENSOR_TYPES[tensor.type].name for tensor in header.tensors)),
        "split": header.split and asdict(header.split),
        "size": {"header": header.data_offset, "data": header.data_size, "file": header.file_size},
        "complete": header.complete,
    }


def main() -> None:
    module = AnsibleModule(
        argument_spec={"src": {"type": "path", "required": True}},
        supports_check_mode=True,
    )
    try:
        module.exit_json(**run(module))
    except LlmError as exc:
        module.fail_json(msg=str(exc))


if __name__ == "__main__":
    main()
