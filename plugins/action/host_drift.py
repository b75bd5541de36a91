# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Finds out what is wanted of a host, for `host_drift` to compare. All work on the host is the module's."""

from __future__ import annotations

import typing as t
from collections.abc import Sequence
from pathlib import Path

from ansible.plugins.action.normal import ActionModule as OrdinaryAction

from ansible_collections.llmfleet.serving.plugins.module_utils._errors import LlmError
from ansible_collections.llmfleet.serving.plugins.plugin_utils import _wanted

Json = dict[str, t.Any]

# What the module on the host does not need.
_OURS = ("wanted", "about", "files", "ignore")


class ActionModule(OrdinaryAction):
    def run(self, tmp: str | None = None, task_vars: Json | None = None) -> Json:
        args, variables = self._task.args, task_vars or {}
        names = args.get("wanted") or _wanted.chosen(variables, args.get("ignore") or [])
        try:
            inputs = self._inputs(variables, names)
        except LlmError as exc:
            # Then nothing is known, and nothing is remembered; the run itself is as good as any.
            compared = args.get("state") != "recorded"
            unknown = {"drifted": True, "reasons": [str(exc)]} if compared else {"warnings": [f"Not recorded: {exc}."]}
            return {"changed": False, "wanted": names, **unknown}
        self._task.args = {**{key: value for key, value in args.items() if key not in _OURS}, "inputs": inputs}
        return {**t.cast(Json, super().run(tmp, task_vars)), "wanted": names}

    def _inputs(self, variables: Json, names: Sequence[str]) -> str:
        args = self._task.args
        folders = [Path(self._loader.get_basedir()), Path.cwd()]
        wanted = {name: self._value(name, variables[name]) for name in names}
        return _wanted.digest_of_all(wanted, args.get("about"), args.get("files") or [], folders)

    def _value(self, name: str, value: t.Any) -> t.Any:
        try:
            return self._templar.template(value)
        except Exception as exc:
            # Whatever goes wrong in somebody's template; its text may have what the value has.
            raise LlmError(f"the variable {name} comes to nothing ({type(exc).__name__})") from exc
