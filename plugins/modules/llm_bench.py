#!/usr/bin/python
# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: llm_bench
short_description: Put an LLM endpoint under load and measure what it delivers
version_added: 0.2.0
description:
  - Asks an engine by so many streams at the same time, each of which asks again as soon as it has its answer, and
    returns throughput and latencies for each number of streams. The answers are streamed.
  - The figures are defined as vLLM's own benchmark defines them. TTFT, the time to first token, lasts from the request
    to the first text. TPOT, the time per output token, is the time from the first text to the last, divided by the
    number of tokens after the first. The latency lasts from the request to the last text. Reasoning counts as text.
  - Fails when a request fails or the time is over, with what was measured up to then. A stream whose request has failed
    makes no more, and no further number of streams is tried.
  - With O(record), the figures are kept on the host and held against those that were accepted last.
author:
  - llmfleet.serving maintainers (@llmfleet)
extends_documentation_fragment:
  - ansible.builtin.action_common_attributes
attributes:
  check_mode:
    support: full
    details: No load is put on the engine. With O(record), it is asked for its version, to tell whether there would be.
  diff_mode:
    support: none
  platform:
    platforms: posix
requirements:
  - requests (Python library)
options:
  client:
    description:
      - Who asks and measures.
      - V(own) is this module. It asks all engines alike, so their figures compare, and begins at once.
      - V(vllm) is vLLM's own client, C(vllm bench serve), in the Python environment that O(unit) runs from, of vLLM
        0.11 or newer. It puts the same load on vLLM. It is started for each concurrency, which takes seconds, and up to
        minutes on a busy host. The requests of O(warmup) are made by this module.
      - vLLM's own client takes prompts of 4 to 1024 tokens, and no more than 2048 tokens with their answers. The
        tokenizer is that of the model's directory, and nothing is asked of a hub. The key is handed over in the
        environment.
    type: str
    choices: [own, vllm]
    default: own
  unit:
    description:
      - The unit of systemd that runs vLLM, for example V(llmfleet-deepseek-r1.service). Required for O(client=vllm).
    type: str
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
  concurrencies:
    description:
      - Numbers of streams, in the order in which they are tried.
    type: list
    elements: int
    required: true
  requests:
    description:
      - Requests of each stream at each concurrency. With few of them, the end counts more, where not all streams are
        busy any more.
    type: int
    default: 4
  warmup:
    description:
      - Requests of each stream at each concurrency before those, which do not count. The first requests may load the
        model and compile kernels.
    type: int
    default: 1
  prompts:
    description:
      - What to ask, in turn.
    type: list
    elements: str
    default: ['Why is the sky blue?']
  unique_prompts:
    description:
      - Begin each prompt with a random word, so that no prefix cache has seen it.
    type: bool
    default: true
  max_tokens:
    description:
      - The engine ends each answer after this many tokens, reasoning included.
    type: int
    default: 128
  timeout:
    description:
      - Seconds in which all requests together must be answered.
    type: int
    default: 1800
  api_key_file:
    description:
      - A file on this host that holds the engine's API key and nothing else. It is sent as a bearer token.
    type: path
  record:
    description:
      - A JSON file on this host with the figures of its services, the current ones and those that were accepted last.
      - When those that were accepted last are of this engine version, this model, this O(fingerprint), this very load
        and this client, nothing is measured, and they are returned.
    type: path
  fingerprint:
    description:
      - Text that is another one whenever something else is that decides about the figures, such as a checksum of the
        engine's arguments. It is kept in O(record).
    type: str
    default: ""
  drop_max:
    description:
      - Refuse figures whose output tokens per second are more than this percentage below the accepted ones, at any
        concurrency that both have. They are compared when the model, the load and O(client) are the same.
    type: float
    default: 10
  force:
    description:
      - Measure although the figures on record stand.
    type: bool
    default: false
seealso:
  - module: llmfleet.serving.llm_probe
"""

EXAMPLES = r"""
---
- name: Measure one, eight and sixty-four streams
  llmfleet.serving.llm_bench:
    url: http://127.0.0.1:8000
    model: deepseek-r1
    concurrencies: [1, 8, 64]
    api_key_file: /etc/llmfleet/deepseek-r1.key

- name: Refuse an engine that has become slower by more than five percent
  llmfleet.serving.llm_bench:
    url: http://127.0.0.1:11434
    api: ollama
    model: deepseek-r1-q4
    concurrencies: [1, 2]
    record: /var/lib/llmfleet/acceptance.json
    drop_max: 5

- name: Have vLLM's own client measure the same
  llmfleet.serving.llm_bench:
    client: vllm
    unit: llmfleet-deepseek-r1.service
    url: http://127.0.0.1:8000
    model: deepseek-r1
    concurrencies: [1, 8, 64]
    api_key_file: /etc/llmfleet/llmfleet-deepseek-r1.key
"""

RETURN = r"""
client:
  description: Who has measured, V(own), or V(vllm) with its version.
  returned: success, unless the engine does not answer in check mode
  type: str
  sample: own
measured:
  description: Whether the figures were measured now. Otherwise they are those of the record, or there are none.
  returned: success
  type: bool
  sample: true
date:
  description: When they were measured, in UTC; V(null) when there are none.
  returned: success
  type: str
  sample: "2026-11-23T14:05:00Z"
engine_version:
  description: Version of the engine, V(null) where it does not tell.
  returned: success, unless the engine does not answer in check mode
  type: str
  sample: 0.5.11
model_sha256:
  description: SHA-256 of the GGUF file that the engine serves, V(null) but for Ollama's own API, which tells.
  returned: success, unless the engine does not answer in check mode
  type: str
  sample: 1f12af26590c8a4709d9358b0d9f9a9e250e314fdf68e6829c67351650f0166d
results:
  description: The figures of each concurrency. A module that fails returns those that it has.
  returned: always, unless an option is refused
  type: list
  elements: dict
  contains:
    concurrency:
      description: Number of streams.
      type: int
      sample: 8
    requests:
      description: Requests that were made.
      type: int
      sample: 32
    failures:
      description: How many of them failed. Nothing below counts them.
      type: int
      sample: 0
    seconds:
      description: Seconds from the first request to the last answer.
      type: float
      sample: 52.8
    output_tokens:
      description: Tokens of all answers, reasoning included.
      type: int
      sample: 4096
    tokens_from:
      description: V(usage) when the engine has counted the tokens, V(chunks) when the messages with text were counted.
      type: str
      sample: usage
    output_tokens_per_second:
      description: RV(results[].output_tokens) divided by RV(results[].seconds).
      type: float
      sample: 77.6
    output_tokens_per_second_stream:
      description: The same, divided by the number of streams.
      type: float
      sample: 9.7
    total_tokens_per_second:
      description: The same as of all streams, with the tokens of the prompts; V(null) where the engine has not counted.
      type: float
      sample: 84.2
    ttft_seconds:
      description: Time to first token, its mean and percentiles (C(mean), C(p50), C(p90), C(p99)).
      type: dict
      sample: {mean: 0.412, p50: 0.401, p90: 0.52, p99: 0.61}
    tpot_seconds:
      description: Time per output token, likewise; V(null) where it cannot be known, as with answers in one piece.
      type: dict
      sample: {mean: 0.0998, p50: 0.0991, p90: 0.1083, p99: 0.1107}
    latency_seconds:
      description: Time to the last token, likewise.
      type: dict
      sample: {mean: 13.1, p50: 13.0, p90: 14.2, p99: 14.5}
"""

import time
import typing as t
from dataclasses import replace
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.llmfleet.serving.plugins.module_utils._bench import Load, measure
from ansible_collections.llmfleet.serving.plugins.module_utils._bench_record import OWN, Record, Subject
from ansible_collections.llmfleet.serving.plugins.module_utils._bench_vllm import client_of, measure_by
from ansible_collections.llmfleet.serving.plugins.module_utils._errors import LlmError
from ansible_collections.llmfleet.serving.plugins.module_utils._probe import Question, identify, read_key, require_model


def load_of(options: dict[str, t.Any]) -> Load:
    question = Question(options["url"], options["api"], options["model"], "", options["max_tokens"], options["timeout"])
    names = ("concurrencies", "requests", "warmup", "prompts")
    return Load(question, **{name: options[name] for name in names}, unique=options["unique_prompts"])


def with_key(load: Load, file: str | None) -> Load:
    return replace(load, question=replace(load.question, key=read_key(file))) if file else load


def subject_of(load: Load, fingerprint: str, client: str) -> Subject:
    require_model(load.question)
    return Subject(*identify(load.question), fingerprint, load.each(), list(load.concurrencies), client)


def predict(record: Record | None) -> dict[str, t.Any]:
    said = "Check mode: no load is put on the engine."
    return {"changed": bool(record), "measured": False, "date": None, "results": [], "msg": said}


def run(module: AnsibleModule, results: list[dict[str, t.Any]]) -> dict[str, t.Any]:
    options = module.params
    load = load_of(options)
    record = Record(Path(options["record"]), options["model"]) if options["record"] else None
    try:
        load = with_key(load, options["api_key_file"])
        vllm = client_of(options["unit"], module.run_command) if options["client"] == "vllm" else None
        subject = subject_of(load, options["fingerprint"], vllm.name if vllm else OWN)
    except LlmError:
        if module.check_mode:  # what is to run here need not run yet
            return predict(record)
        raise
    told = {name: getattr(subject, name) for name in ("client", "engine_version", "model_sha256")}
    if record and record.has(subject) and not options["force"]:
        accepted = t.cast("dict[str, t.Any]", record.accepted)
        return {"changed": False, "measured": False, **told, **{name: accepted[name] for name in ("date", "results")}}
    if module.check_mode:
        return {**predict(record), **told}
    date = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    for figures in measure_by(vllm, load) if vllm else measure(load):
        results.append(figures)  # one by one: they are not lost when the next ones fail
    if record:
        record.keep(subject, results, date, options["drop_max"])
    return {"changed": bool(record), "measured": True, "date": date, **told, "results": results}


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "client": {"type": "str", "choices": ["own", "vllm"], "default": "own"},
            "unit": {"type": "str"},
            "url": {"type": "str", "required": True},
            "api": {"type": "str", "choices": ["ollama", "openai"], "default": "openai"},
            "model": {"type": "str", "required": True},
            "concurrencies": {"type": "list", "elements": "int", "required": True},
            "requests": {"type": "int", "default": 4},
            "warmup": {"type": "int", "default": 1},
            "prompts": {"type": "list", "elements": "str", "default": ["Why is the sky blue?"]},
            "unique_prompts": {"type": "bool", "default": True},
            "max_tokens": {"type": "int", "default": 128, "no_log": False},
            "timeout": {"type": "int", "default": 1800},
            "api_key_file": {"type": "path", "no_log": False},
            "record": {"type": "path"},
            "fingerprint": {"type": "str", "default": ""},
            "drop_max": {"type": "float", "default": 10},
            "force": {"type": "bool", "default": False},
        },
        required_if=[("client", "vllm", ("unit",))],
        supports_check_mode=True,
    )
    results: list[dict[str, t.Any]] = []
    try:
        module.exit_json(**run(module, results))
    except LlmError as exc:
        module.fail_json(msg=str(exc), results=results)


if __name__ == "__main__":
    main()
