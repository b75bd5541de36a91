# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Shows how far `gguf_fetch` is. All work is the module's."""

from __future__ import annotations

from pathlib import Path

from ansible.module_utils.parsing.convert_bool import boolean

from ansible_collections.llmfleet.serving.plugins.module_utils._files import companion
from ansible_collections.llmfleet.serving.plugins.plugin_utils._watched import WatchedAction


class ActionModule(WatchedAction):
    def progress_file(self, dest: Path) -> Path:
        merged = boolean(self._task.args.get("merge", True), strict=False)
        return companion(dest if merged else dest / "fetch", "progress")
