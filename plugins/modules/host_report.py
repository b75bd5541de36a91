#!/usr/bin/python
# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: host_report
short_description: What a host is, whether its GPUs are fit, and what it has on record
version_added: 0.2.0
description:
  - Reads what a host is, judges its GPUs as M(llmfleet.serving.gpu_gate) does, and reads what this collection has
    written down on it of models, services and figures, and what systemd says of its units. GPUs that are not fit are
    no failure.
  - Nothing is changed. Arguments and variables whose names or forms say that they are secrets are not returned.
  - Where something cannot be read, it fails, and returns what was read before.
  - The return value is what P(llmfleet.serving.fleet_report#filter) takes for a host.
author:
  - llmfleet.serving maintainers (@llmfleet)
extends_documentation_fragment:
  - ansible.builtin.action_common_attributes
  - llmfleet.serving._gate
  - llmfleet.serving._gpu
attributes:
  check_mode:
    support: full
  diff_mode:
    support: none
  platform:
    platforms: posix
options:
  model_directory:
    description:
      - The directory of models. A missing one has no models.
    type: path
    default: /data/models
  units:
    description:
      - Patterns of the systemd units to tell about.
    type: list
    elements: str
    default: [llmfleet-*.service]
  record:
    description:
      - The record of M(llmfleet.serving.llm_bench).
    type: path
    default: /var/lib/llmfleet/acceptance.json
  answers:
    description:
      - What the services of the host have answered, as the role acceptance sums it up. It is not sent to the host, and
        is returned as it is, also of a host that does not answer. So are O(models) and O(services).
    type: dict
    default: {}
  models:
    description:
      - What the host is to have, in the form of the playbooks' C(llmfleet_models).
    type: list
    elements: dict
    default: []
  services:
    description:
      - What the host is to run, in the form of the playbooks' C(llmfleet_services).
    type: list
    elements: dict
    default: []
"""

EXAMPLES = r"""
---
- name: Read what the host is and has
  llmfleet.serving.host_report:
    profile: h800
    allowed_units: [llmfleet-*.service]
    model_directory: /data/models
  register: host
"""

RETURN = r"""
identity:
  description: Facts of M(ansible.builtin.setup) that say which host it is.
  returned: always, unless they cannot be read
  type: dict
  sample: {ansible_kernel: 6.8.0-60-generic}
gate:
  description:
    - Of what M(llmfleet.serving.gpu_gate) returns, C(verdict), C(profile), C(findings), C(rules) and C(facts); these
      also where the GPUs are not fit.
  returned: always, unless an option is refused
  type: dict
  sample: {verdict: pass}
records:
  description: What the host has on record.
  returned: success
  type: dict
  contains:
    models:
      description: The models in the directory, as they were fetched and verified.
      type: list
      elements: dict
      contains:
        name:
          description: Its name in the list of models.
          type: str
          sample: deepseek-r1-q4
        source:
          description: The hub that listed its files.
          type: str
          sample: https://modelscope.cn
        repo:
          description: The repository.
          type: str
          sample: unsloth/DeepSeek-R1-GGUF
        commit:
          description: The commit of the repository.
          type: str
          sample: 0123456789abcdef0123456789abcdef01234567
        files:
          description: Number of its files on this host.
          type: int
          sample: 1
        bytes:
          description: Bytes that were written for it.
          type: int
          sample: 404430186336
        sha256:
          description: SHA-256 of its file, or, where it has several, of the sorted lines of C(sha256sum) for them.
          type: str
          sample: 9f1c1de0e9f4ba6ff0e4cfcbb7a3b2ac5e6f0dba4ba83db6c1e42da04a76cd7f
        written:
          description: When the last of them was written, in UTC; V(null) where none is there any more.
          type: str
          sample: "2026-11-23T14:05:00Z"
        seconds:
          description:
            - What the run took that brought it, where that is known. It is less than all of it where an earlier run had
              been stopped.
          type: float
          sample: 338.4
        intact:
          description: Whether all of them still have the size, inode and modification time of what was verified.
          type: bool
          sample: true
    units:
      description: The units that are installed.
      type: list
      elements: dict
      contains:
        name:
          description: Its name.
          type: str
          sample: llmfleet-deepseek-r1.service
        description:
          description: Its description.
          type: str
          sample: Ollama 0.5.11
        state:
          description: Its state, as C(systemctl status) has it.
          type: str
          sample: active (running)
        since:
          description: When it became active, in UTC; V(null) when it never has.
          type: str
          sample: "2026-11-23T14:05:00Z"
        enabled:
          description: Whether it starts at boot.
          type: str
          sample: enabled
        result:
          description: How it ended last.
          type: str
          sample: success
        restarts:
          description: How often systemd has started it again.
          type: int
          sample: 0
        engine:
          description: The engine that it runs, V(null) for what is no engine of this collection.
          type: str
          sample: ollama
        version:
          description: The engine's version.
          type: str
          sample: 0.5.11
        argv:
          description: Its command line.
          type: list
          elements: str
          sample: [/opt/llmfleet/ollama/0.5.11/bin/ollama, serve]
        environment:
          description: The variables of its environment file.
          type: dict
          sample: {OLLAMA_KEEP_ALIVE: 10m}
        score:
          description:
            - Its exposure as C(systemd-analyze security) rates it, from 0 (none) to 10; V(null) when it does not.
          type: float
          sample: 1.4
        rating:
          description: The same as a word.
          type: str
          sample: OK
    figures:
      description: What each service has delivered, C(current) and C(accepted), by M(llmfleet.serving.llm_bench).
      type: dict
      sample: {}
answers:
  description: The option.
  returned: always
  type: dict
  sample: {}
models:
  description: The option.
  returned: always
  type: list
  elements: dict
  sample: []
services:
  description: The option.
  returned: always
  type: list
  elements: dict
  sample: []
"""

import typing as t
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.facts import ansible_collector, default_collectors
from ansible.module_utils.facts.namespace import PrefixFactNamespace

from ansible_collections.llmfleet.serving.plugins.module_utils import _host_records
from ansible_collections.llmfleet.serving.plugins.module_utils._errors import LlmError
from ansible_collections.llmfleet.serving.plugins.module_utils._files import os_errors
from ansible_collections.llmfleet.serving.plugins.module_utils._gate import ARGUMENTS, gate

# What the report says of a host: facts of the module setup.
_FACTS = (
    *("fqdn", "distribution", "distribution_version", "kernel", "architecture", "system_vendor", "product_name"),
    *("product_serial", "machine_id", "processor", "processor_vcpus", "memtotal_mb"),
)
_VERDICT = ("verdict", "profile", "findings", "rules", "facts")


def identity(module: AnsibleModule) -> dict[str, t.Any]:
    names = [f"ansible_{name}" for name in _FACTS]
    collector = ansible_collector.get_ansible_collector(
        all_collector_classes=default_collectors.collectors,
        namespace=PrefixFactNamespace(namespace_name="ansible", prefix="ansible_"),
        filter_spec=names,
        gather_subset=["!all", "!min", "distribution", "hardware", "platform"],
        gather_timeout=10,
    )
    facts = collector.collect(module=module)
    return {name: facts[name] for name in names if name in facts}


def read(module: AnsibleModule, told: dict[str, t.Any]) -> None:
    """Add what the host tells, one thing after another."""
    params = module.params
    told["identity"] = identity(module)
    verdict = gate(module.run_command, params)
    told["gate"] = {name: verdict[name] for name in _VERDICT}
    with os_errors("Reading what the host has on record"):
        told["records"] = {
            "models": _host_records.models(Path(params["model_directory"])),
            "units": _host_records.units(module.run_command, params["units"]),
            "figures": _host_records.figures(Path(params["record"])),
        }


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            **ARGUMENTS,
            "model_directory": {"type": "path", "default": "/data/models"},
            "units": {"type": "list", "elements": "str", "default": ["llmfleet-*.service"]},
            "record": {"type": "path", "default": "/var/lib/llmfleet/acceptance.json"},
            "answers": {"type": "dict", "default": {}},
            "models": {"type": "list", "elements": "dict", "default": []},
            "services": {"type": "list", "elements": "dict", "default": []},
        },
        required_one_of=[("profile", "baseline")],
        supports_check_mode=True,
    )
    told: dict[str, t.Any] = {"changed": False}
    try:
        read(module, told)
    except LlmError as exc:
        module.fail_json(msg=str(exc), **told)
    module.exit_json(**told)


if __name__ == "__main__":
    main()
