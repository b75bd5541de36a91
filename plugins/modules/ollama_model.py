#!/usr/bin/python
# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: ollama_model
short_description: Keep a local GGUF file present in, or absent from, an Ollama server
version_added: 0.1.0
description:
  - Registers a GGUF file of this host as a model of the Ollama server of this host, with parameters, template and
    system text as a Modelfile has them, or takes the model out again.
  - The model file is not copied. It gets a second name in the server's model folder (a hard link, or a symbolic link
    where the folder is on another file system), and a manifest of about a kilobyte is written beside it.
    C(ollama create) writes the whole file again. A copy that it made of the same file earlier is replaced by the link.
  - Afterwards the server is asked whether it lists the model and can read all of it. If not, the task fails and the
    model folder is as it was before.
  - Works with Ollama 0.5.5 and newer. It must run as root or as the account of the server.
author:
  - llmfleet.serving maintainers (@llmfleet)
extends_documentation_fragment:
  - ansible.builtin.action_common_attributes
attributes:
  check_mode:
    support: full
    details: In check mode the server, O(models_dir) and O(src) need not exist yet.
  diff_mode:
    support: full
  platform:
    platforms: posix
requirements:
  - requests (Python library)
options:
  name:
    description:
      - Name of the model, with or without a tag. Without a tag, V(latest) is meant.
    type: str
    required: true
  state:
    description:
      - With V(present), the model exists and is made of exactly what is given here.
      - With V(absent), it does not exist. It is unloaded first if the server has it in memory. The file it was made of
        stays, as the model folder only loses its own name of it.
    type: str
    choices: [present, absent]
    default: present
  src:
    description:
      - The GGUF file on this host, one file with all tensors. Required with O(state=present).
      - The account of the server must be able to read it, and with a symbolic link also all folders above it.
      - Its SHA-256 is computed at most once, and kept in a hidden file beside it.
    type: path
  parameters:
    description:
      - What C(PARAMETER) sets in a Modelfile.
      - Whole numbers are C(num_ctx), C(num_batch), C(num_gpu) (layers on GPUs), C(main_gpu), C(num_thread),
        C(num_keep), C(num_predict), C(repeat_last_n), C(seed) and C(top_k).
      - Numbers are C(top_p), C(min_p), C(typical_p), C(temperature), C(repeat_penalty), C(presence_penalty) and
        C(frequency_penalty).
      - C(use_mmap) is true or false, C(stop) is a list of texts.
    type: dict
    default: {}
  template:
    description:
      - What C(TEMPLATE) sets in a Modelfile, in Ollama's own template language.
      - Without it, Ollama 0.30 and newer use the chat template in the GGUF file, older ones send the bare prompt.
    type: str
  system:
    description:
      - What C(SYSTEM) sets in a Modelfile.
    type: str
  models_dir:
    description:
      - The model folder of the server, its E(OLLAMA_MODELS).
    type: path
    required: true
  url:
    description:
      - Address of the server, which must run on this host.
    type: str
    default: http://127.0.0.1:11434
seealso:
  - module: llmfleet.serving.llm_probe
"""

EXAMPLES = r"""
---
- name: Serve the merged file without a second copy of its 404 GB
  llmfleet.serving.ollama_model:
    name: deepseek-r1-q4
    src: /data/models/DeepSeek-R1-Q4_K_M.gguf
    models_dir: /data/ollama/models
    parameters:
      num_ctx: 8192
      num_gpu: 62
      temperature: 0.6
      stop: ["<｜User｜>", "<｜end▁of▁sentence｜>"]
    template: !unsafe "<｜User｜>{{ .System }} {{ .Prompt }}<｜Assistant｜>"

- name: Take it away again and keep the file
  llmfleet.serving.ollama_model:
    name: deepseek-r1-q4
    state: absent
    models_dir: /data/ollama/models
"""  # noqa: RUF001 (DeepSeek's tokens are written with these bars)

RETURN = r"""
model:
  description: The model as it is registered, in check mode as it would be; V(null) when it is absent.
  returned: success
  type: dict
  sample:
    name: deepseek-r1-q4:latest
    digest: 1d8ef98ce5e71e1a8a4e0b6a2d3e6e7d2f0c9e8b5a4d3c2b1a0f9e8d7c6b5a49
    file_sha256: 2a58f1b0b1f5b36d7a9f1c0e8d5b4a3f2e1d0c9b8a7f6e5d4c3b2a1908f7e6d5
    parameters: {num_ctx: 8192, num_gpu: 62, temperature: 0.6}
    template: "{{ .System }} {{ .Prompt }}"
    system: null
"""

import typing as t
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.llmfleet.serving.plugins.module_utils._errors import LlmError
from ansible_collections.llmfleet.serving.plugins.module_utils._ollama import (
    Server,
    ensure_absent,
    ensure_present,
    require_ready,
    typed_parameters,
)
from ansible_collections.llmfleet.serving.plugins.module_utils._ollama_store import (
    Model,
    ModelName,
    Registration,
    Store,
)


def run(module: AnsibleModule) -> dict[str, t.Any]:
    check: bool = module.check_mode
    name = ModelName.parse(module.params["name"])
    parameters = typed_parameters(module.params["parameters"])
    store = Store(Path(module.params["models_dir"]))
    server = Server(module.params["url"])
    before = store.describe(name)

    if module.params["state"] == "absent":
        if before and not check:
            ensure_absent(store, server, name)
        return result(before is not None, before, None)

    src = Path(module.params["src"])
    if check and not src.exists():
        module.warn(f"{src} does not exist yet; an earlier task is expected to make it.")
        return result(True, before, {"name": str(name)})
    require_ready(store, server, src, needed=not check)
    wanted = Registration.of(
        name,
        src,
        parameters=parameters,
        template=module.params["template"],
        system=module.params["system"],
        remember=not check,
    )
    changed = not store.holds(wanted)
    if not check:
        ensure_present(store, server, wanted)
    return result(changed, before, wanted.describe())


def result(changed: bool, before: Model | None, after: Model | None) -> dict[str, t.Any]:
    return {"changed": changed, "diff": {"before": {"model": before}, "after": {"model": after}}, "model": after}


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str", "required": True},
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
            "src": {"type": "path"},
            "parameters": {"type": "dict", "default": {}},
            "template": {"type": "str"},
            "system": {"type": "str"},
            "models_dir": {"type": "path", "required": True},
            "url": {"type": "str", "default": "http://127.0.0.1:11434"},
        },
        required_if=[("state", "present", ("src",))],
        supports_check_mode=True,
    )
    try:
        module.exit_json(**run(module))
    except LlmError as exc:
        module.fail_json(msg=str(exc))


if __name__ == "__main__":
    main()
