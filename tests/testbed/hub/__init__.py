# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A small model hub for the test bed: the Hugging Face API, the ModelScope API, a static mirror, and faults by name.

It is used in two ways: in-process by tests (``with Hub(root) as hub: hub.url``) and as a server in a container
(``python3 -m testbed.hub --root DIR``). It needs the standard library of Python 3.11 and nothing else.
"""

from __future__ import annotations

from testbed.hub.faults import KINDS, Fault
from testbed.hub.server import Hub

__all__ = ["KINDS", "Fault", "Hub"]
