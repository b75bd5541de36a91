# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The test bed: simulated 8-GPU hosts in Docker, and all that they need.

``python -m testbed build`` makes it, ``up`` starts hosts, ``list`` shows it, ``remove`` takes everything away again.
It needs Python 3.12 and nothing beyond the standard library. Where there is no Docker engine or no image registry it
starts an engine and makes the base images itself, for which it must be root on Debian or Ubuntu.
"""


class BedError(Exception):
    """What is wrong with the bed and what to do about it, in one message for the user."""
