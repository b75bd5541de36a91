# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Long search for a sequence of faults, kills and disk errors that a fetch does not survive: see faults/machine.py.

    FUZZ_EXAMPLES=500 .venv/bin/pytest tests/fuzz/test_fetch.py -q

Not part of the unit tests, where a few examples run. Each takes some seconds.
"""

from __future__ import annotations

import os

from faults.killer import killer
from faults.machine import Fetching, publish
from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test

from ansible_collections.llmfleet.serving.plugins.modules import gguf_fetch
from testbed.hub import Hub


def test_a_fetch_survives_any_sequence(tmp_path):
    merged = publish(tmp_path)
    long = settings(
        max_examples=int(os.environ.get("FUZZ_EXAMPLES", "50")),
        stateful_step_count=12,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    with Hub(tmp_path) as one, Hub(tmp_path) as other, killer(gguf_fetch) as run:
        run_state_machine_as_test(lambda: Fetching(run, (one, other), merged), settings=long)
