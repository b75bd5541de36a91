# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A stand-in for the AWX API: what the modules of awx.awx and `awx export` call, and no jobs."""

from testbed.awx.server import Awx

__all__ = ["Awx"]
