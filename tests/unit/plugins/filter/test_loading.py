# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Ansible loads all filters of a collection to find one, in a process of its own for each task of each host.

So what they are made of is part of the price of every task, unless it waits until it is called.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

PLUGINS = "ansible_collections.llmfleet.serving.plugins"
FILTERS = sorted(
    path.stem for path in (Path(__file__).parents[4] / "plugins" / "filter").glob("*.py") if path.stem != "__init__"
)
# The largest: options of engines, rules, and the report.
LARGE = ("_arguments", "_gate_rules", "_pairs", "_report", "_service_rules", "_stack", "_stack_rules")

PROGRAM = f"""
import importlib, sys
for name in {FILTERS!r}:
    importlib.import_module("{PLUGINS}.filter." + name)
print(*sorted(name.rpartition(".")[2] for name in sys.modules if name.startswith("{PLUGINS}.")))
"""


def test_what_is_large_is_not_loaded_with_the_filters():
    loaded = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True).stdout.split()
    assert set(FILTERS) <= set(loaded)
    assert set(loaded).isdisjoint(LARGE)
