# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
name: command_line
short_description: The args of a service as words of its engine's command line
version_added: 0.2.0
description:
  - Writes each argument as the engine spells it in that version, in the order of the args.
  - What the engine does not take is refused with everything that is wrong.
  - The words are not quoted for a shell or a unit file.
author:
  - llmfleet.serving maintainers (@llmfleet)
positional: engine, version, defaults
options:
  _input:
    description: The args of a service. What is null is left out.
    type: dict
    required: true
  engine:
    description: The engine. Ollama has no such options; see P(llmfleet.serving.ollama_settings#filter).
    type: str
    choices: [vllm, sglang, llama_cpp]
    required: true
  version:
    description: The engine's version.
    type: str
    required: true
  defaults:
    description: Args that come first, but for those that the input has too, by whichever of their names.
    type: dict
"""

EXAMPLES = r"""
---
- name: Show a command line
  ansible.builtin.debug:
    msg: "{{ args | llmfleet.serving.command_line('vllm', '0.32.0') }}"
  vars:
    args: {tensor_parallel_size: 8, enable_prefix_caching: false}
"""

RETURN = r"""
_value:
  description: The words.
  type: list
  elements: str
  sample: ["--tensor-parallel-size", "8", "--no-enable-prefix-caching"]
"""

import typing as t
from collections.abc import Callable, Mapping

from ansible.errors import AnsibleFilterError

from ansible_collections.llmfleet.serving.plugins.module_utils._errors import LlmError


def command_line(
    args: Mapping[str, t.Any], engine: str, version: str, defaults: Mapping[str, t.Any] | None = None
) -> list[str]:
    # Ansible loads all filters of a collection in the process of each task: what is large waits until it is called.
    from ansible_collections.llmfleet.serving.plugins.module_utils import _arguments
    from ansible_collections.llmfleet.serving.plugins.plugin_utils import _options

    try:
        return _arguments.command_line(_options.shared(), engine, version, args, defaults)
    except LlmError as exc:
        raise AnsibleFilterError(str(exc)) from exc


class FilterModule:
    def filters(self) -> dict[str, Callable[..., t.Any]]:
        return {"command_line": command_line}
