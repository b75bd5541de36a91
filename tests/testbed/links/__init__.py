# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Networks with links of a chosen bandwidth and delay, on one machine: hosts are network namespaces on one bridge.

Bandwidth is the kernel's (tc tbf, both directions). Delay and limits for each connection are toxiproxy's, a proxy in
front of a server: they need no queueing discipline that a kernel may lack.
"""

from __future__ import annotations

from testbed.links.lab import PAYLOAD, Node, lab
from testbed.links.toxiproxy import far_away

__all__ = ["PAYLOAD", "Node", "far_away", "lab"]
