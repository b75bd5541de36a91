# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The options that say what is expected of a host's GPUs. Private to this collection."""

from __future__ import annotations


class ModuleDocFragment:
    DOCUMENTATION = r"""
options:
  profile:
    description:
      - Class of the host, which says the name of its GPUs, their memory, their NVLinks and their PCIe generation.
        Required without O(baseline).
      - V(h800) has 81559 MiB and 8 NVLinks, V(h100) is the SXM board with 81559 MiB and 18 NVLinks, V(h200) is the SXM
        board with 143771 MiB and 18 NVLinks, V(h20) has 97000 MiB and 18 NVLinks. Each NVLink must run at 26562 MB/s.
        V(a100) is the SXM board with 81000 MiB and 12 NVLinks of 25000 MB/s.
      - V(auto) takes the one of these that the GPUs are named in, and refuses GPUs with other names. Added in 0.2.0, as
        were V(h20) and V(a100).
    type: str
    choices: [a100, auto, h100, h20, h200, h800]
  count:
    description:
      - Number of GPUs. With one GPU, NVLinks are not required.
      - Without it, O(baseline) counts, else 8.
    type: int
  nvlinks:
    description:
      - NVLinks that must be up on each GPU, where the figure of the profile does not hold. That of V(h800) is computed
        from the published bandwidth.
    type: int
  baseline:
    description:
      - A file on the host with what was measured on it. Where this has a figure, it counts instead of the profile's.
        It has the number of GPUs, their name, memory, VBIOS, PCIe generation and width, the number and rate of their
        NVLinks, and how each GPU is joined with each other one.
    type: path
    version_added: 0.2.0
  driver_version_min:
    description:
      - Oldest driver that is accepted, like V(550.90.12). Without it, any driver is.
    type: str
  cuda_version_min:
    description:
      - Lowest CUDA version that the driver must support, like V(12.4). Without it, any is accepted.
    type: str
  idle_memory_max:
    description:
      - Memory in MiB that may be in use on an idle GPU.
    type: int
    default: 256
  idle_utilization_max:
    description:
      - Utilization in percent that an idle GPU may show.
    type: int
    default: 5
  allowed_units:
    description:
      - Systemd services and scopes, with their suffix, whose processes may use the GPUs. Shell patterns are allowed.
    type: list
    elements: str
    default: []
  xid_since:
    description:
      - Leave out Xids before this time, in ISO 8601 with the offset from UTC, like V(2026-11-23T14:05:00Z). Without it,
        all since boot count. Give the time of a repair after which the host was not rebooted.
    type: str
    version_added: 0.2.0
"""
