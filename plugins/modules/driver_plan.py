#!/usr/bin/python
# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: driver_plan
short_description: Tell which exact packages make one NVIDIA driver on a host
version_added: 0.2.0
description:
  - Resolves one version of all parts of an NVIDIA driver, from one origin. These are the CUDA and management libraries,
    the tools, the source of the kernel module, and the fabric manager. It simulates their installation and changes
    nothing.
  - Names of packages are known for NVIDIA's network repository and for the distributions' own, on Debian 12 and 13,
    Ubuntu 22.04 and 24.04, and RHEL 9 and what is built from it. The repositories must be configured and the lists of
    packages up to date.
  - The module fails, with all reasons at once, when a part cannot be had in the version of the others, when a package
    is preferred from another origin or is there in the same version from two, when something that is not of the driver
    would be removed, changed against a hold or to an older version, or brought by somebody else than the distribution,
    when packages do not go together, when a package is only half installed, and when there are no headers for the
    kernel.
  - Nothing is installed only because it is recommended. Install the packages without recommendations, too.
  - On RHEL, enable the module stream of the branch first, for example C(nvidia-driver:580-open).
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
  state:
    description:
      - With V(absent), tell what has to go for no driver to be there.
    type: str
    choices: [present, absent]
    default: present
  source:
    description:
      - Whose packages are taken, of NVIDIA's network repository or of the distribution.
    type: str
    choices: [nvidia, distribution]
    default: nvidia
  version:
    description:
      - The driver's exact version, like V(550.163.01), or a branch, like V(550), for the newest version of it that
        every part has.
      - Required unless O(state=absent).
    type: str
  module:
    description:
      - Which kernel module is built. With V(none), somebody else brings it, as the host of a container does.
    type: str
    choices: [open, proprietary, none]
    default: open
  fabric_manager:
    description:
      - Whether the service of NVSwitches belongs to the driver. With V(auto), where NVSwitches are on the PCI bus.
    type: str
    choices: [auto, "true", "false"]
    default: auto
  kernel:
    description:
      - Release of the kernel that the module is going to be built for. Its headers must be on the host or in a
        repository. Without it, headers are not looked for.
    type: str
requirements:
  - apt, or dnf 4
seealso:
  - module: ansible.builtin.apt
  - module: ansible.builtin.dnf
"""

EXAMPLES = r"""
---
- name: Resolve the driver
  llmfleet.serving.driver_plan:
    version: 550.163.01
    kernel: "{{ ansible_facts.kernel }}"
  register: plan

- name: Install it
  ansible.builtin.apt:
    name: "{{ plan.packages }}"
    install_recommends: false
    allow_downgrade: true
    allow_change_held_packages: true
"""

RETURN = r"""
version:
  description: The driver's version. V(null) with O(state=absent).
  returned: success
  type: str
  sample: 550.163.01
branch:
  description: The branch of that version.
  returned: success
  type: str
  sample: "550"
origin:
  description: Who publishes all of these packages. V(null) with O(state=absent).
  returned: success
  type: dict
  contains:
    origin:
      description: C(Origin) of the repository's Release file, or the id of an RPM repository.
      type: str
      sample: NVIDIA
    label:
      description: C(Label) of the repository's Release file.
      type: str
      sample: NVIDIA CUDA
    site:
      description: The host that the repository is on.
      type: str
      sample: developer.download.nvidia.com
packages:
  description: All packages of the driver with their versions, as the package manager wants them.
  returned: success
  type: list
  elements: str
  sample: [libnvidia-compute-550=550.163.01-0ubuntu1, nvidia-utils-550=550.163.01-0ubuntu1]
names:
  description: The names of these packages. With O(state=absent), of those to remove.
  returned: success
  type: list
  elements: str
hold:
  description: Names of packages that must be kept from being upgraded by themselves.
  returned: success
  type: list
  elements: str
held:
  description: Those of them that the package manager holds now.
  returned: success
  type: list
  elements: str
kernel_packages:
  description: The packages that the kernel module is built from. None with O(module=none).
  returned: success
  type: list
  elements: str
  sample: [nvidia-open-kernel-dkms=550.163.01-2]
headers:
  description:
    - The package with the headers of O(kernel). V(null) when they are there already, or not needed.
  returned: success
  type: str
  sample: linux-headers-6.1.0-50-amd64=6.1.176-1
fabric_manager:
  description: The package of the fabric manager. V(null) when it does not belong to the driver.
  returned: success
  type: str
  sample: nvidia-fabricmanager-550
obsolete:
  description:
    - Names of installed packages of another driver that have no place in this one. Remove them after the installation,
      where they are still there.
  returned: success
  type: list
  elements: str
installed:
  description: Versions of the driver's packages that are installed now, by name.
  returned: success
  type: dict
  sample: {libnvidia-compute-550: 550.144.03-0ubuntu1}
loaded:
  description: Version of the kernel module that is loaded now. V(null) when none is.
  returned: success
  type: str
  sample: 550.144.03
pending:
  description: Whether what is installed now is not what is loaded now, so that the host has to be rebooted.
  returned: success
  type: bool
transaction:
  description: What installing RV(packages) and removing RV(obsolete) would do.
  returned: success
  type: dict
  contains:
    install:
      description: Packages that would be new. Each has C(name), C(from), C(to) and C(origin).
      type: list
      elements: dict
      sample: [{name: libcuda1, from: null, to: 550.163.01-2, origin: "Debian:13.8/stable"}]
    upgrade:
      description: Packages that would get a newer version, likewise.
      type: list
      elements: dict
    downgrade:
      description: Packages that would get an older version, likewise.
      type: list
      elements: dict
    remove:
      description: Packages that would go, likewise.
      type: list
      elements: dict
changed_needed:
  description: Whether anything has to be changed for the driver to be there, or to be gone.
  returned: success
  type: bool
"""

import typing as t

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.llmfleet.serving.plugins.module_utils._apt import Apt
from ansible_collections.llmfleet.serving.plugins.module_utils._dnf import Dnf
from ansible_collections.llmfleet.serving.plugins.module_utils._driver_names import Request, System
from ansible_collections.llmfleet.serving.plugins.module_utils._driver_packages import plan_driver, plan_removal
from ansible_collections.llmfleet.serving.plugins.module_utils._errors import LlmError
from ansible_collections.llmfleet.serving.plugins.module_utils._gpu_host import pci_devices


def run(module: AnsibleModule) -> dict[str, t.Any]:
    system = System.read()
    manager = (Dnf if system.family == "rhel" else Apt)(module.run_command)
    if module.params["state"] == "absent":
        return {"changed": False, **plan_removal(manager)}
    fabric_manager = module.params["fabric_manager"]
    if fabric_manager == "auto":
        fabric_manager = "true" if any(device.switch for device in pci_devices()) else "false"
    request = Request(
        source=module.params["source"],
        version=module.params["version"],
        module=module.params["module"],
        fabric_manager=fabric_manager == "true",
        kernel=module.params["kernel"] or "",
    )
    return {"changed": False, **plan_driver(manager, system, request)}


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
            "source": {"type": "str", "choices": ["nvidia", "distribution"], "default": "nvidia"},
            "version": {"type": "str"},
            "module": {"type": "str", "choices": ["open", "proprietary", "none"], "default": "open"},
            "fabric_manager": {"type": "str", "choices": ["auto", "true", "false"], "default": "auto"},
            "kernel": {"type": "str"},
        },
        required_if=[("state", "present", ["version"])],
        supports_check_mode=True,
    )
    try:
        module.exit_json(**run(module))
    except LlmError as exc:
        module.fail_json(msg=str(exc))


if __name__ == "__main__":
    main()
