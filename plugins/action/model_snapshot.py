# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Shows how far `model_snapshot` is. All work is the module's."""

from __future__ import annotations

from pathlib import Path

from ansible_collections.llmfleet.serving.plugins.module_utils._files import companion
from ansible_collections.llmfleet.serving.plugins.plugin_utils._watched import WatchedAction


class ActionModule(WatchedAction):
    def progress_file(self, dest: Path) -> Path:
        return companion(dest / "snapshot", "progress")
