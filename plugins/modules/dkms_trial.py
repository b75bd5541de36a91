#!/usr/bin/python
# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: dkms_trial
short_description: Build a packaged kernel module before it is installed
version_added: 0.2.0
description:
  - A package whose kernel module DKMS cannot build is left half-configured, and from then on stands in the way of every
    other installation. This module makes the build beforehand, where nothing can break, and fails with the compiler's
    first error.
  - The packages are downloaded as C(apt) would install them, unpacked into C(/var/lib/llmfleet/dkms/build) and built by
    C(dkms build) in trees of its own. The directory is removed afterwards. C(/usr/src), C(/var/lib/dkms) and
    C(/lib/modules) are not touched, and nothing is signed.
  - Before that it refuses, with all reasons at once, a host without DKMS, without the headers of the kernel or without
    a gcc of the major version that the kernel was built with, and pairs of driver and kernel that are known to fail.
  - What has built is remembered in C(/var/lib/llmfleet/dkms), with the checksums of the packages and of the symbols in
    the headers, and with the version of the compiler. While these stay the same nothing is built again.
  - A build takes a minute or two, and 1 GB of disk space for that time.
author:
  - llmfleet.serving maintainers (@llmfleet)
extends_documentation_fragment:
  - ansible.builtin.action_common_attributes
attributes:
  check_mode:
    support: full
    details: Tells whether a build would be made. Whether it would succeed is known only after it.
  diff_mode:
    support: none
  platform:
    platforms: debian
options:
  packages:
    description:
      - Packages with the source of the kernel module, each as C(name=version). The first one has the driver's version.
      - Debian has it in one package. On Ubuntu the source and what DKMS needs to know are in two.
    type: list
    elements: str
    required: true
  kernel:
    description:
      - Kernel to build for, as C(uname -r) tells it. Without this option, the running one.
    type: str
  known_bad:
    description:
      - Pairs of driver and kernel to refuse without a trial. C(playbooks/stacks/kernels.yml) of this collection lists
        those that are known.
    type: list
    elements: dict
    default: []
    suboptions:
      id:
        description:
          - Name of the defect.
        type: str
        required: true
      module:
        description:
          - Kinds of the driver's kernel module that have it.
        type: list
        elements: str
        choices: [open, proprietary]
        required: true
      driver:
        description:
          - Versions of the driver that have it.
        type: list
        elements: dict
        required: true
        suboptions:
          since:
            description:
              - First version.
            type: str
            required: true
          before:
            description:
              - First version that no longer has it. Without it, there is none known.
            type: str
      kernel:
        description:
          - Versions of the kernel for which it cannot be built, as C(kernel.org) counts them. The headers have this
            version also where a distribution calls its kernel otherwise.
        type: list
        elements: dict
        required: true
        suboptions:
          since:
            description:
              - First version.
            type: str
            required: true
          before:
            description:
              - First version for which it builds again. Without it, there is none known.
            type: str
      symptom:
        description:
          - What the compiler says.
        type: str
        required: true
      source:
        description:
          - Where that can be read.
        type: str
        required: true
      checked:
        description:
          - When it was looked up there.
        type: str
requirements:
  - The packages C(dkms) and C(linux-headers-...) of the kernel.
"""

EXAMPLES = r"""
---
- name: See that the driver's module builds for the running kernel
  llmfleet.serving.dkms_trial:
    packages: [nvidia-open-kernel-dkms=535.261.03-1]

- name: The same for the kernel that boots next, of a driver from Ubuntu's repository
  llmfleet.serving.dkms_trial:
    packages:
      - nvidia-dkms-580-open=580.95.05-0ubuntu1
      - nvidia-kernel-source-580-open=580.95.05-0ubuntu1
    kernel: 6.8.0-86-generic
    known_bad: "{{ lookup('ansible.builtin.file', 'kernels.yml') | from_yaml }}"
"""

RETURN = r"""
kernel:
  description: The kernel that the module builds for.
  returned: success
  type: str
  sample: 6.1.0-50-amd64
kernel_version:
  description: Version of this kernel as C(kernel.org) counts it.
  returned: success
  type: str
  sample: 6.1.176
compiler:
  description: The compiler that is used, with its version.
  returned: success
  type: str
  sample: gcc-12 12.2.0
"""

import os
import typing as t

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.llmfleet.serving.plugins.module_utils._dkms import trial
from ansible_collections.llmfleet.serving.plugins.module_utils._errors import LlmError


def run(module: AnsibleModule) -> dict[str, t.Any]:
    kernel: str = module.params["kernel"] or os.uname().release
    packages: list[str] = module.params["packages"]
    result = trial(module.run_command, packages, kernel, module.params["known_bad"], check=module.check_mode)
    return {
        "changed": result.new,
        "kernel": kernel,
        "kernel_version": result.kernel_version,
        "compiler": result.compiler,
    }


def main() -> None:
    versions = {
        "type": "list",
        "elements": "dict",
        "required": True,
        "options": {"since": {"type": "str", "required": True}, "before": {"type": "str"}},
    }
    module = AnsibleModule(
        argument_spec={
            "packages": {"type": "list", "elements": "str", "required": True},
            "kernel": {"type": "str"},
            "known_bad": {
                "type": "list",
                "elements": "dict",
                "default": [],
                "options": {
                    "id": {"type": "str", "required": True},
                    "module": {
                        "type": "list",
                        "elements": "str",
                        "choices": ["open", "proprietary"],
                        "required": True,
                    },
                    "driver": versions,
                    "kernel": versions,
                    "symptom": {"type": "str", "required": True},
                    "source": {"type": "str", "required": True},
                    "checked": {"type": "str"},
                },
            },
        },
        supports_check_mode=True,
    )
    try:
        module.exit_json(**run(module))
    except LlmError as exc:
        module.fail_json(msg=str(exc))


if __name__ == "__main__":
    main()
