# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the modules that fetch models have in common: options, and how they go about it. Private to this collection.

The options are documented in the fragment `_supply`.
"""

from __future__ import annotations

import contextlib
import signal
import threading
import time
import typing as t
from collections.abc import Callable
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.llmfleet.serving.plugins.module_utils._errors import LlmError
from ansible_collections.llmfleet.serving.plugins.module_utils._files import os_errors
from ansible_collections.llmfleet.serving.plugins.module_utils._http import Retries
from ansible_collections.llmfleet.serving.plugins.module_utils._hub import pinned
from ansible_collections.llmfleet.serving.plugins.module_utils._kept import Kept
from ansible_collections.llmfleet.serving.plugins.module_utils._supply import first_source, supply

_SOURCE = {
    "hub": {"type": "str", "required": True},
    "endpoint": {"type": "str"},
    "repo": {"type": "str"},
    "revision": {"type": "str"},
    "token_file": {"type": "path", "no_log": False},
}
_ARGUMENTS = {
    "hub": {"type": "str", "default": "huggingface"},
    "endpoint": {"type": "str"},
    "sources": {"type": "list", "elements": "dict", "default": [], "options": _SOURCE},
    "manifest": {"type": "path"},
    "repo": {"type": "str", "required": True},
    "revision": {"type": "str", "required": True},
    "allow_floating_revision": {"type": "bool", "default": False},
    "token": {"type": "str", "no_log": True},
    "token_file": {"type": "path", "no_log": False},
    "workers": {"type": "int", "default": 16},
    "peers": {"type": "list", "elements": "str", "default": []},
    "followers": {"type": "list", "elements": "str", "default": []},
    "peer_token_file": {"type": "path", "no_log": False},
    "patience": {"type": "int", "default": 60},
    "timeout": {"type": "int", "default": 60},
    "deadline": {"type": "int", "default": 86400},
    "dest": {"type": "path", "required": True},
    "force": {"type": "bool", "default": False},
}


_K = t.TypeVar("_K", bound=Kept)


def run_module(
    arguments: dict[str, t.Any],
    make: Callable[[dict[str, t.Any], str], _K],
    listed: str,
    own: Callable[[_K], dict[str, t.Any]],
) -> None:
    """The whole of a module that fetches.

    :param arguments: the options that only it has.
    :param make: what it keeps, from its options and the commit.
    :param listed: the name under which the manifest, and the module's result, list the files.
    :param own: what only it returns.
    """
    module = AnsibleModule(
        argument_spec={**_ARGUMENTS, **arguments},
        add_file_common_args=True,
        mutually_exclusive=[("token", "token_file")],
        supports_check_mode=True,
    )
    try:
        with os_errors(f"Fetching to {module.params['dest']}"):
            module.exit_json(**_run(module, make, listed, own))
    except LlmError as exc:
        module.fail_json(msg=str(exc))
    except KeyboardInterrupt:
        module.fail_json(msg="Stopped by a signal. What has been fetched is kept: run again to go on.")


def _run(
    module: AnsibleModule,
    make: Callable[[dict[str, t.Any], str], _K],
    listed: str,
    own: Callable[[_K], dict[str, t.Any]],
) -> dict[str, t.Any]:
    params = module.params
    for name in ("workers", "timeout", "deadline", "patience"):
        if params[name] < 1:
            raise LlmError(f"{name} is {params[name]}; expected 1 or more.")
    deadline = time.monotonic() + params["deadline"]
    floating = params["allow_floating_revision"]
    commit = pinned(first_source(params), params["revision"], floating=floating, retries=Retries(deadline))
    kept = make(params, commit)

    def set_attributes(path: Path, changed: bool = False, diff: dict[str, t.Any] | None = None) -> bool:
        wanted = module.load_file_common_arguments(params, path=str(path))
        return bool(module.set_fs_attributes_if_different(wanted, changed, diff=diff))

    changed = False
    before = manifest = kept.current
    if not kept.done:
        sources = supply(params, commit, deadline=deadline, halt=threading.Event())
        with contextlib.nullcontext() if module.check_mode else kept.locked():
            manifest = kept.plan(sources, force=params["force"])
            changed = kept.changes
            if not module.check_mode:
                # Whoever stops a play sends this signal. Before, there is nothing to be saved.
                signal.signal(signal.SIGTERM, signal.default_int_handler)
                changed = kept.run(sources, set_attributes, workers=params["workers"], deadline=deadline)
        for warning in sources.warnings:
            module.warn(warning)
    diff = {side: _content(one, listed) for side, one in (("before", before), ("after", manifest))}
    for path in filter(Path.exists, kept.paths):
        changed = set_attributes(path, changed, diff)

    files = (kept.current if kept.done else manifest)[listed]
    return {
        "changed": changed,
        "diff": diff,
        "dest": params["dest"],
        "commit": commit,
        listed: files,
        "bytes_total": sum(file["size"] for file in files),
        "bytes_fetched": kept.fetched,
        "bytes_missing": kept.missing,
        **own(kept),
    }


def _content(manifest: dict[str, t.Any], listed: str) -> dict[str, t.Any]:
    return {name: manifest[name] for name in ("hub", "wanted", listed) if name in manifest}
