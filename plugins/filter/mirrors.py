# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
name: mirrors
short_description: Tell each role where to get things from
version_added: 0.2.0
description:
  - Merges a preset with the addresses that a fleet's owner has set, so that every role gets its own from one variable.
  - A key that does not exist, or a value that is no address, is an error that names the nearest key.
author:
  - llmfleet.serving maintainers (@llmfleet)
options:
  _input:
    description: The addresses, by key. An empty value is as good as none.
    type: dict
    required: true
    suboptions:
      preset:
        description:
          - V(global) for the makers' own addresses.
          - V(cn) for mirrors in mainland China of the distribution's archive, NVIDIA's repository, the package index,
            uv's Pythons and Hugging Face.
        type: str
        choices: [global, cn]
        default: global
      apt:
        description: Address below which the archives C(debian), C(debian-security) and C(ubuntu) lie.
        type: str
      apt_proxy:
        description: Proxy or cache for apt only. Otherwise O(_input.http_proxy) is apt's too.
        type: str
      nvidia:
        description: Address below which NVIDIA's repositories lie, each in a directory such as C(ubuntu2204/x86_64).
        type: str
      python:
        description: Package index, in the form that pip takes.
        type: str
      github:
        description: What to put before C(https://github.com/...) for what has no address of its own here.
        type: str
      ollama:
        description: Address below which Ollama's releases lie, each in a directory C(v<version>).
        type: str
      uv:
        description: Address below which uv's releases lie, each in a directory C(<version>).
        type: str
      uv_python:
        description: Address below which uv's own Pythons lie, each in a directory C(<date>).
        type: str
      llama_cpp:
        description: Address below which llama.cpp's source archives lie, as C(<tag>.tar.gz).
        type: str
      huggingface:
        description: Address of Hugging Face, or of a hub that speaks its API.
        type: str
      modelscope:
        description: Address of ModelScope, or of a hub that speaks its API.
        type: str
      ca_bundle:
        description: File on the controller with further certificate authorities that hosts are to trust.
        type: path
      http_proxy:
        description: Proxy for HTTP and HTTPS.
        type: str
      no_proxy:
        description: Hosts and domains that are reached without the proxy, besides the host itself.
        type: list
        elements: str
"""

EXAMPLES = r"""
- name: Install nvitop from the fleet's index, behind the fleet's proxy
  hosts: llmfleet
  vars:
    llmfleet_mirrors:
      preset: cn
      python: https://pypi.example.com/simple
      http_proxy: http://proxy.example.com:3128
    mirrors: "{{ llmfleet_mirrors | llmfleet.serving.mirrors }}"
  environment: "{{ mirrors.environment }}"
  roles:
    - role: llmfleet.serving.nvitop
      nvitop_index_url: "{{ mirrors.python }}"
"""

RETURN = r"""
_value:
  description:
    - Every key of the input, resolved. An address that is empty leaves a program's own setting alone.
    - C(hubs) has the model hubs' addresses by name.
    - C(environment) has the variables that commands on hosts need for the proxy and the authorities.
  type: dict
"""

import typing as t

from ansible.errors import AnsibleFilterError

from ansible_collections.llmfleet.serving.plugins.module_utils._errors import LlmError
from ansible_collections.llmfleet.serving.plugins.module_utils._mirrors import resolve


def mirrors(value: t.Any) -> dict[str, t.Any]:
    try:
        return resolve(value)
    except LlmError as exc:
        raise AnsibleFilterError(str(exc)) from exc


class FilterModule:
    def filters(self) -> dict[str, t.Callable[..., t.Any]]:
        return {"mirrors": mirrors}
