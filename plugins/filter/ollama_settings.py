# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
name: ollama_settings
short_description: The args of a service of Ollama, for its model and for its server
version_added: 0.2.0
description:
  - Ollama has no options for a model. Some of a service's args are parameters of its model, and those in capitals are
    the server's environment.
  - What Ollama does not take is refused with everything that is wrong.
author:
  - llmfleet.serving maintainers (@llmfleet)
positional: version
options:
  _input:
    description: The args of a service. What is null is left out.
    type: dict
    required: true
  version:
    description: Ollama's version.
    type: str
    required: true
"""

EXAMPLES = r"""
---
- name: Show the parameters of a model
  ansible.builtin.debug:
    msg: "{{ (args | llmfleet.serving.ollama_settings('0.34.0')).parameters }}"
  vars:
    args: {num_ctx: 8192, num_gpu: 62, OLLAMA_KEEP_ALIVE: 10m}
"""

RETURN = r"""
_value:
  description: Two dictionaries.
  type: dict
  contains:
    parameters:
      description: Parameters of the model.
      type: dict
      sample: {num_ctx: 8192, num_gpu: 62}
    environment:
      description: Variables of the server, as text.
      type: dict
      sample: {OLLAMA_KEEP_ALIVE: 10m}
"""

import typing as t
from collections.abc import Callable, Mapping

from ansible.errors import AnsibleFilterError

from ansible_collections.llmfleet.serving.plugins.module_utils._errors import LlmError


def ollama_settings(args: Mapping[str, t.Any], version: str) -> dict[str, dict[str, t.Any]]:
    # Ansible loads all filters of a collection in the process of each task: what is large waits until it is called.
    from ansible_collections.llmfleet.serving.plugins.module_utils import _arguments
    from ansible_collections.llmfleet.serving.plugins.plugin_utils import _options

    try:
        return _arguments.ollama_settings(_options.shared(), version, args)
    except LlmError as exc:
        raise AnsibleFilterError(str(exc)) from exc


class FilterModule:
    def filters(self) -> dict[str, Callable[..., t.Any]]:
        return {"ollama_settings": ollama_settings}
