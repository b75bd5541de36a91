#!/usr/bin/python
# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: llm_probe
short_description: Ask an LLM endpoint one question and measure its answer
version_added: 0.1.0
description:
  - Sends one chat question to an engine, reads the streamed answer to its end, and returns it and how fast it came.
  - This is the readiness test that counts. It covers the address, the key, the name of the model, its chat template and
    real tokens; the health address of an engine covers none of these.
  - Fails when the engine does not answer or lacks the model, when the answer is empty, broken off, late, or comes from
    another model. The names of the models that the engine does have are part of the message.
author:
  - llmfleet.serving maintainers (@llmfleet)
extends_documentation_fragment:
  - ansible.builtin.action_common_attributes
attributes:
  check_mode:
    support: full
    details: The module changes nothing. It asks its question in check mode as well.
  diff_mode:
    support: none
  platform:
    platforms: posix
requirements:
  - requests (Python library)
options:
  url:
    description:
      - Address of the engine as seen from this host, for example V(http://127.0.0.1:8000). It may end in C(/v1).
    type: str
    required: true
  api:
    description:
      - V(openai) asks C(/v1/chat/completions), which vLLM, SGLang, llama.cpp and Ollama have.
      - V(ollama) asks C(/api/chat) of Ollama.
    type: str
    choices: [ollama, openai]
    default: openai
  model:
    description:
      - Name under which the engine serves the model. For Ollama, the tag V(latest) may be left out.
    type: str
    required: true
  prompt:
    description:
      - The question.
    type: str
    default: Name three rivers.
  max_tokens:
    description:
      - The engine ends its answer after this many tokens, reasoning included.
    type: int
    default: 64
  timeout:
    description:
      - Seconds in which the whole answer must be here. Ollama loads the model at the first question, which takes
        minutes for a large one.
    type: int
    default: 600
  api_key:
    description:
      - The engine's API key. It is sent as a bearer token.
    type: str
  api_key_file:
    description:
      - A file on this host that holds the API key and nothing else.
    type: path
  gpu_percent_min:
    description:
      - Warn when less than this share of the model lies in the memory of GPUs, in percent. What lies in the host's own
        memory is computed by its processors, and is what makes the whole slow.
      - Nothing is warned of where the engine does not tell.
    type: int
    version_added: 0.2.0
seealso:
  - module: llmfleet.serving.ollama_model
"""

EXAMPLES = r"""
---
- name: Prove that the model answers
  llmfleet.serving.llm_probe:
    url: http://127.0.0.1:11434
    api: ollama
    model: deepseek-r1-q4
    prompt: How many legs has a spider?
  register: probe

- name: Show how fast it was
  ansible.builtin.debug:
    msg: "{{ probe.ttft_seconds }} s to the first token, then {{ probe.tokens_per_second }} tokens/s"
"""

RETURN = r"""
engine_version:
  description: Version of the engine, V(null) where it does not tell.
  returned: success
  type: str
  sample: 0.5.11
model_sha256:
  description: SHA-256 of the GGUF file that the engine serves, V(null) but for Ollama's own API, which tells.
  returned: success
  type: str
  sample: 1f12af26590c8a4709d9358b0d9f9a9e250e314fdf68e6829c67351650f0166d
gpu_percent:
  description:
    - How much of the model lies in the memory of GPUs, as C(ollama ps) shows it. V(null) where the engine does not
      tell. Only Ollama's own API tells.
  returned: success
  type: int
  sample: 16
  version_added: 0.2.0
model:
  description: Name under which the engine says it answered.
  returned: success
  type: str
  sample: deepseek-r1-q4
text:
  description: The answer, without the reasoning where the engine tells them apart.
  returned: success
  type: str
  sample: A spider has eight legs.
reasoning:
  description: What the model thought first, if the engine tells it apart from the answer.
  returned: success
  type: str
  sample: ""
finish_reason:
  description: Why the answer ended. V(stop) says that the model was done, V(length) that O(max_tokens) was reached.
  returned: success
  type: str
  sample: stop
prompt_tokens:
  description: Tokens of the question with the chat template, as the engine counts them; V(null) if it does not.
  returned: success
  type: int
  sample: 12
tokens:
  description: Tokens of the answer, reasoning included, as the engine counts them; V(null) if it does not.
  returned: success
  type: int
  sample: 8
ttft_seconds:
  description: Seconds from the question to the first text, with the time to load the model if it was not loaded.
  returned: success
  type: float
  sample: 0.412
total_seconds:
  description: Seconds from the question to the last text.
  returned: success
  type: float
  sample: 1.937
tokens_per_second:
  description:
    - Speed of decoding. Ollama's own API and llama.cpp tell it. For other engines it is the number of tokens after the
      first, divided by the seconds from the first text to the last.
    - V(null) where it cannot be known, as with an answer of one token or with one that arrives in one piece.
  returned: success
  type: float
  sample: 4.59
"""

import typing as t

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.llmfleet.serving.plugins.module_utils._errors import LlmError
from ansible_collections.llmfleet.serving.plugins.module_utils._probe import (
    Question,
    ask,
    gpu_percent,
    identify,
    read_key,
)


def run(module: AnsibleModule) -> dict[str, t.Any]:
    options = dict(module.params)
    file = options.pop("api_key_file")
    key = options.pop("api_key")
    least = options.pop("gpu_percent_min")
    question = Question(**options, key=read_key(file) if file else key)
    answer = ask(question)
    version, sha256 = identify(question)
    percent = gpu_percent(question)
    if percent is not None and least is not None and percent < least:
        module.warn(
            f"{question.model} at {question.url} lies in the memory of the processors by {100 - percent} %, and of the "
            f"GPUs by {percent} %; expected {least} % or more. It answers as slowly as the processors compute. Give it "
            "more layers (num_gpu), less context (num_ctx), or more GPUs, or see the engine's log for why it uses none."
        )
    return {
        "changed": False,
        "gpu_percent": percent,
        "engine_version": version,
        "model_sha256": sha256,
        "model": answer.model,
        "text": answer.text,
        "reasoning": answer.reasoning,
        "finish_reason": answer.finish_reason,
        "prompt_tokens": answer.prompt_tokens,
        "tokens": answer.tokens,
        "ttft_seconds": answer.first,
        "total_seconds": answer.end,
        "tokens_per_second": answer.tokens_per_second,
    }


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "url": {"type": "str", "required": True},
            "api": {"type": "str", "choices": ["ollama", "openai"], "default": "openai"},
            "model": {"type": "str", "required": True},
            "prompt": {"type": "str", "default": "Name three rivers."},
            "max_tokens": {"type": "int", "default": 64, "no_log": False},
            "timeout": {"type": "int", "default": 600},
            "api_key": {"type": "str", "no_log": True},
            "api_key_file": {"type": "path", "no_log": False},
            "gpu_percent_min": {"type": "int"},
        },
        mutually_exclusive=[("api_key", "api_key_file")],
        supports_check_mode=True,
    )
    try:
        module.exit_json(**run(module))
    except LlmError as exc:
        module.fail_json(msg=str(exc))


if __name__ == "__main__":
    main()
