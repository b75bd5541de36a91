# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
name: services_served
short_description: The services that a host answers for
version_added: 0.2.0
description:
  - Leaves those services out that other hosts answer for. Where several hosts share a service, only the first one does.
author:
  - llmfleet.serving maintainers (@llmfleet)
positional: fleet, host
options:
  _input:
    description: Services, in the form of the playbooks' C(llmfleet_services).
    type: list
    elements: dict
    required: true
  fleet:
    description: All hosts of the fleet, in the inventory's order.
    type: list
    elements: str
    required: true
  host:
    description: The host, one of the fleet's.
    type: str
    required: true
"""

EXAMPLES = r"""
---
- name: Show what this host answers for
  ansible.builtin.debug:
    msg: "{{ llmfleet_services | llmfleet.serving.services_served(groups.llmfleet, inventory_hostname) }}"
"""

RETURN = r"""
_value:
  description: The services.
  type: list
  elements: dict
  sample:
    - {name: deepseek-r1, engine: sglang, model: deepseek-r1, port: 30000, hosts: 2}
"""

import typing as t
from collections.abc import Callable, Mapping, Sequence

from ansible.errors import AnsibleFilterError

from ansible_collections.llmfleet.serving.plugins.module_utils._errors import LlmError


def services_served(
    services: Sequence[Mapping[str, t.Any]], fleet: Sequence[str], host: str
) -> list[Mapping[str, t.Any]]:
    # Ansible loads all filters of a collection in the process of each task: what is large waits until it is called.
    from ansible_collections.llmfleet.serving.plugins.module_utils import _service_rules

    around = _service_rules.Fleet(fleet, host)
    try:
        return [service for service in services if _service_rules.hosts_of(service, around)[0] == host]
    except LlmError as exc:
        raise AnsibleFilterError(str(exc)) from exc


class FilterModule:
    def filters(self) -> dict[str, Callable[..., t.Any]]:
        return {"services_served": services_served}
