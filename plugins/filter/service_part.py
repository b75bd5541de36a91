# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
name: service_part
short_description: What one host is told of a service that several share
version_added: 0.2.0
description:
  - Gives what a host's engine needs besides the options of a service on one host; of such a service, nothing.
  - C(docs/hosts.md) tells what the engines do then.
author:
  - llmfleet.serving maintainers (@llmfleet)
positional: version, fleet, host
options:
  _input:
    description: The service, in the form of the playbooks' C(llmfleet_services).
    type: dict
    required: true
  version:
    description: Version of its engine.
    type: str
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
  addresses:
    description: Addresses of the hosts in the private network that they share. A service on one host needs none.
    type: dict
    default: {}
  interface:
    description: The network interface of the host that has its address. A service on one host needs none.
    type: str
    default: ""
  gpus:
    description: How many GPUs each host has.
    type: int
    default: 8
"""

EXAMPLES = r"""
---
- name: Show what this host is told
  ansible.builtin.debug:
    msg: "{{ service | llmfleet.serving.service_part('0.5.23', ['n1', 'n2'], 'n2', addresses, 'eth1') }}"
  vars:
    service: {name: deepseek-r1, engine: sglang, model: deepseek-r1, port: 30000, hosts: 2}
    addresses: {n1: 10.0.0.1, n2: 10.0.0.2}
"""

RETURN = r"""
_value:
  description: The host's part.
  type: dict
  contains:
    hosts:
      description: The hosts that share the service, with their addresses. The first, the head, answers requests.
      type: dict
      sample: {n1: 10.0.0.1, n2: 10.0.0.2}
    rank:
      description: The host's number among them.
      type: int
      sample: 1
    serves:
      description: Whether it answers requests.
      type: bool
      sample: false
    health:
      description: Whether it tells by HTTP that it is up.
      type: bool
      sample: true
    args:
      description: The args of the service, with the sizes of parallel groups where it had none.
      type: dict
      sample: {tp-size: 16}
    words:
      description: What the command line has besides them.
      type: list
      elements: str
      sample: ["--nnodes", "2", "--node-rank", "1", "--dist-init-addr", "10.0.0.1:29501"]
    environment:
      description: Environment variables.
      type: dict
      sample: {NCCL_SOCKET_IFNAME: "=eth1", GLOO_SOCKET_IFNAME: eth1, SGLANG_HOST_IP: 10.0.0.2}
    meeting:
      description: Where it meets the others, for its watchdog. Of a service on one host it is empty.
      type: dict
      sample: {own: 10.0.0.2, port: 29501, head: false, peers: {n1: 10.0.0.1}}
"""

import typing as t
from collections.abc import Callable, Mapping, Sequence

from ansible.errors import AnsibleFilterError

from ansible_collections.llmfleet.serving.plugins.module_utils._errors import LlmError


def service_part(
    service: Mapping[str, t.Any],
    version: str,
    fleet: Sequence[str],
    host: str,
    addresses: Mapping[str, str] | None = None,
    interface: str = "",
    gpus: int = 8,
) -> dict[str, t.Any]:
    # Ansible loads all filters of a collection in the process of each task: what is large waits until it is called.
    from ansible_collections.llmfleet.serving.plugins.module_utils import _pairs, _service_rules
    from ansible_collections.llmfleet.serving.plugins.plugin_utils import _options

    around = _service_rules.Fleet(fleet, host, gpus)
    args = service.get("args") or {}
    try:
        hosts = _service_rules.hosts_of(service, around)
        # Not asdict(): that copies the containers, and those of templates are not to be made anew.
        if len(hosts) == 1:
            return dict(vars(_pairs.alone(host, args)))
        release = _options.shared().release(service["engine"], version)
        link = _pairs.Link(_pairs.addresses_of(hosts, addresses or {}), interface, _service_rules.meeting_port(service))
        count = _service_rules.gpu_count(service, around) or gpus
        return dict(vars(_pairs.part(release, link, host, count, args)))
    except LlmError as exc:
        raise AnsibleFilterError(str(exc)) from exc


class FilterModule:
    def filters(self) -> dict[str, Callable[..., t.Any]]:
        return {"service_part": service_part}
