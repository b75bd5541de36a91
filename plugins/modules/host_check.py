#!/usr/bin/python
# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: host_check
short_description: Refuse a bare host, or a fleet's description, that cannot do the job
version_added: 0.2.0
description:
  - Looks at a host on which nothing has been installed yet, and at what it shall run, evaluates all rules at once, and
    fails with all reasons, each with what was expected, what was found and what to do. It changes nothing.
  - These rules fail. C(operating-system), C(architecture), C(service-manager), C(python), C(memory), C(disk),
    C(kernel-default), C(kernel-headers), C(compiler), C(secure-boot), C(gpu-count), C(gpu-model), C(model-name),
    C(model-source), C(model-manifest), C(model-disk), C(service-name), C(service-model), C(service-format),
    C(service-port), C(service-gpus) and C(service-overlap).
  - These rules only warn. C(clock), C(kernel-version), C(nvswitch), C(model-gpu-memory), C(size-cores), C(size-memory),
    C(size-gpu-memory) and C(size-disk).
  - GPUs and NVSwitches are looked for on the PCI bus, so it needs no driver.
author:
  - llmfleet.serving maintainers (@llmfleet)
extends_documentation_fragment:
  - ansible.builtin.action_common_attributes
attributes:
  check_mode:
    support: full
  diff_mode:
    support: none
  platform:
    platforms: posix
options:
  memory_min:
    description:
      - The least memory that the host must have, in GiB.
    type: int
    default: 64
  disk:
    description:
      - Space that must be free.
    type: list
    elements: dict
    default: []
    suboptions:
      path:
        description:
          - A path on the file system, which need not exist yet.
        type: path
        required: true
      free:
        description:
          - Free space in GiB.
        type: int
        required: true
  gpu_profile:
    description:
      - The GPUs that the host must have, see O(llmfleet.serving.gpu_gate#module:profile). Without it, any host will do.
    type: str
    choices: [a100, auto, h100, h20, h200, h800]
  gpu_count:
    description:
      - How many GPUs the host must have. The numbers of the services' GPUs are held against it, too.
    type: int
    default: 8
  kernel_module:
    description:
      - Whether a kernel module will be built on the host. Only then the kernel, its headers, its compiler and Secure
        Boot matter. They never do in a container, which has its kernel from another system.
    type: bool
    default: false
  secure_boot_signed:
    description:
      - Whether that module will be signed with a key that the firmware knows.
    type: bool
    default: false
  model_directory:
    description:
      - The directory that models are kept in. It need not exist yet.
    type: path
    default: /data/models
  models:
    description:
      - The models that the host shall hold, as the role C(llmfleet.serving.model_store) takes them.
    type: list
    elements: dict
    default: []
  services:
    description:
      - What the host shall run, as the role C(llmfleet.serving.preflight) takes it.
    type: list
    elements: dict
    default: []
  sizes:
    description:
      - A table of what models need by their number of parameters. It is held against models of which the size of the
        files is not known, and only ever warns.
    type: list
    elements: dict
    default: []
    suboptions:
      parameters:
        description:
          - Parameters in thousand millions. A model gets the row that is nearest to the number in its name.
        type: float
        required: true
      names:
        description:
          - Parts of the names of models that do not have their number in their name.
        type: list
        elements: str
        default: []
      cores:
        description:
          - Processor cores. Not judged when it is not given.
        type: int
      gpu_memory:
        description:
          - Memory of all GPUs together, in GB of 10^9 bytes.
        type: int
        required: true
      memory:
        description:
          - Memory in GB.
        type: int
        required: true
      disk:
        description:
          - Disk space in GB.
        type: int
        required: true
  findings:
    description:
      - Findings that were made elsewhere, in the form of this module's own. They count as if they were its own, so that
        all reasons come at once.
    type: list
    elements: dict
    default: []
    suboptions:
      id:
        description:
          - Name of the rule.
        type: str
        required: true
      severity:
        description:
          - Whether the host is refused for it.
        type: str
        choices: [fail, warn]
        required: true
      object:
        description:
          - What breaks the rule.
        type: str
        required: true
      expected:
        description:
          - What the rule wants.
        type: str
        required: true
      found:
        description:
          - What is there.
        type: str
        required: true
      advice:
        description:
          - What to do about it.
        type: str
        required: true
seealso:
  - module: llmfleet.serving.gpu_gate
  - module: llmfleet.serving.model_fit
"""

EXAMPLES = r"""
---
- name: Refuse anything but a bare host with eight H800, on which a driver can be built
  llmfleet.serving.host_check:
    gpu_profile: h800
    kernel_module: true
    disk:
      - path: /data
        free: 500
"""

RETURN = r"""
verdict:
  description: V(pass), or V(fail) when a rule of severity V(fail) is broken. The module fails with the latter.
  returned: always, unless an option is refused
  type: str
  sample: pass
findings:
  description: What breaks a rule, those of O(findings) included.
  returned: always, unless an option is refused
  type: list
  elements: dict
  contains:
    id:
      description: Name of the rule.
      type: str
      sample: kernel-default
    severity:
      description: V(fail) or V(warn).
      type: str
      sample: fail
    object:
      description: What breaks the rule.
      type: str
      sample: the host
    expected:
      description: What the rule wants.
      type: str
      sample: 5.15.0-94-generic, which runs, to boot next, too
    found:
      description: What is there.
      type: str
      sample: 5.15.0-101-generic
    advice:
      description: What to do about it.
      type: str
      sample: "Reboot into it first, or set GRUB_DEFAULT: the module is built for the kernel that runs."
facts:
  description: What the rules were evaluated on.
  returned: always, unless an option is refused
  type: dict
  sample:
    system: ubuntu
    version: "22.04"
    architecture: x86_64
    systemd: true
    container: false
    python: 3.10.12
    cores: 112
    memory: 2164163923968
    kernel:
      running: 5.15.0-94-generic
      default: 5.15.0-101-generic
      headers: [5.15.0-94-generic]
      compiler: 11
      compilers: [11]
      available: [gcc-11]
    secure_boot: false
    pci:
      - address: 0000:18:00.0
        device: "0x2324"
        driver: null
        switch: false
    filesystems:
      /data/models:
        mount: /data
        free: 3200000000000
    clock_synchronized: true
needs:
  description: What each model that is to be there needs.
  returned: always, unless an option is refused
  type: list
  elements: dict
  contains:
    name:
      description: Name of the model.
      type: str
      sample: deepseek-r1-q4
    files:
      description: Bytes of its files, V(null) where neither a manifest nor the model itself tells.
      type: int
      sample: 404430187616
    missing:
      description: Bytes that are still to be written, V(null) where they are not known.
      type: int
      sample: 404430187616
    started:
      description: Whether at least a part of it is there.
      type: bool
      sample: false
    size:
      description: Its row of O(sizes), V(null) where none is for it.
      type: dict
      sample: {parameters: 671.0, names: [deepseek-r1], cores: null, gpu_memory: 320, memory: 256, disk: 1000}
    unreadable:
      description: Why its manifest cannot be read, V(null) where it can.
      type: str
      sample: null
"""

import typing as t
from dataclasses import asdict
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.llmfleet.serving.plugins.module_utils._errors import LlmError
from ansible_collections.llmfleet.serving.plugins.module_utils._files import os_errors
from ansible_collections.llmfleet.serving.plugins.module_utils._gate_profiles import AUTO, PROFILES
from ansible_collections.llmfleet.serving.plugins.module_utils._host import read_host
from ansible_collections.llmfleet.serving.plugins.module_utils._host_checks import Wanted
from ansible_collections.llmfleet.serving.plugins.module_utils._host_models import needs
from ansible_collections.llmfleet.serving.plugins.module_utils._host_rules import describe, evaluate

# Options that are fields of what is wanted.
_FIELDS = (
    "memory_min",
    "gpu_profile",
    "gpu_count",
    "secure_boot_signed",
    "kernel_module",
    "model_directory",
    "models",
    "services",
)


def run(module: AnsibleModule) -> t.NoReturn:
    params = module.params
    disk = {entry["path"]: entry["free"] for entry in params["disk"]}
    with os_errors("Looking at the host"):
        needed = needs(params["models"], Path(params["model_directory"]), params["sizes"])
        facts = read_host(module.run_command, [*disk, params["model_directory"]])
    wanted = Wanted(disk=disk, needs=needed, **{name: params[name] for name in _FIELDS})
    findings = [*evaluate(facts, wanted), *params["findings"]]
    refused = [describe(one) for one in findings if one["severity"] == "fail"]
    result: dict[str, t.Any] = {
        "verdict": "fail" if refused else "pass",
        "findings": findings,
        "facts": asdict(facts),
        "needs": [asdict(need) for need in needed],
    }
    for one in findings:
        if one["severity"] == "warn":
            module.warn(describe(one))
    if refused:
        module.fail_json(msg="\n- ".join(["This host cannot do the job:", *refused]), **result)
    module.exit_json(changed=False, **result)


def main() -> None:
    text = {"type": "str", "required": True}
    number = {"type": "int", "required": True}
    module = AnsibleModule(
        argument_spec={
            "memory_min": {"type": "int", "default": 64},
            "disk": {
                "type": "list",
                "elements": "dict",
                "default": [],
                "options": {"path": {"type": "path", "required": True}, "free": number},
            },
            "gpu_profile": {"type": "str", "choices": sorted([AUTO, *PROFILES])},
            "gpu_count": {"type": "int", "default": 8},
            "kernel_module": {"type": "bool", "default": False},
            "secure_boot_signed": {"type": "bool", "default": False},
            "model_directory": {"type": "path", "default": "/data/models"},
            "models": {"type": "list", "elements": "dict", "default": []},
            "services": {"type": "list", "elements": "dict", "default": []},
            "sizes": {
                "type": "list",
                "elements": "dict",
                "default": [],
                "options": {
                    "parameters": {"type": "float", "required": True},
                    "names": {"type": "list", "elements": "str", "default": []},
                    "cores": {"type": "int"},
                    "gpu_memory": number,
                    "memory": number,
                    "disk": number,
                },
            },
            "findings": {
                "type": "list",
                "elements": "dict",
                "default": [],
                "options": {
                    "id": text,
                    "severity": {"type": "str", "choices": ["fail", "warn"], "required": True},
                    "object": text,
                    "expected": text,
                    "found": text,
                    "advice": text,
                },
            },
        },
        supports_check_mode=True,
    )
    try:
        run(module)
    except LlmError as exc:
        module.fail_json(msg=str(exc))


if __name__ == "__main__":
    main()
