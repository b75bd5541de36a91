# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The cases of the faults that getting a model onto a disk must survive; the table is tests/unit/.../test_faults.py."""

from __future__ import annotations

import pytest

# What these modules assert is shown as that of a test is.
pytest.register_assert_rewrite(*(f"{__name__}.{name}" for name in ("bench", "network", "disk", "process", "model")))
