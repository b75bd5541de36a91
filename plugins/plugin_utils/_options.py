# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The lists of the engines' options, on the controller. Private to this collection."""

from __future__ import annotations

import functools
import json

import yaml

from ansible_collections.llmfleet.serving.plugins.module_utils._arguments import Knowledge, knowledge
from ansible_collections.llmfleet.serving.plugins.plugin_utils._stacks import FOLDER as STACKS

FOLDER = STACKS / "options"


@functools.lru_cache(maxsize=1)
def shared() -> Knowledge:
    """What is known of the engines' options."""
    lists = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(FOLDER.glob("*.json"))]
    return knowledge(lists, yaml.safe_load((FOLDER / "removed.yml").read_text(encoding="utf-8")))
