# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Lays what the controller knows of a host beside what `host_report` reads on it, which is all the module's."""

from __future__ import annotations

import typing as t

from ansible.errors import AnsibleConnectionFailure
from ansible.plugins.action.normal import ActionModule as OrdinaryAction

Json = dict[str, t.Any]

# What the module on the host does not need, with what stands for nothing.
_OURS: Json = {"answers": {}, "models": [], "services": []}


class ActionModule(OrdinaryAction):
    def run(self, tmp: str | None = None, task_vars: Json | None = None) -> Json:
        args = self._task.args
        known = {name: args.get(name, nothing) for name, nothing in _OURS.items()}
        self._task.args = {name: value for name, value in args.items() if name not in _OURS}
        try:
            return {**t.cast(Json, super().run(tmp, task_vars)), **known}
        except AnsibleConnectionFailure as exc:
            # What a silent host is to have counts as missing.
            return {"changed": False, "unreachable": True, "msg": str(exc), **known}
