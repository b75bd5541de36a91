# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Python environments that are whole or absent, and never changed once they are made. Private to this collection."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from ansible_collections.llmfleet.serving.plugins.module_utils._errors import LlmError
from ansible_collections.llmfleet.serving.plugins.module_utils._files import (
    companion,
    locked,
    os_errors,
    require_space,
    sync_directory,
)
from ansible_collections.llmfleet.serving.plugins.module_utils._gpu_facts import RunCommand

# A copy of the lock file, in the environment that was made from it.
_RECORD = "llmfleet-lock.txt"
# Compiling what an engine brings takes a while on a host that has other work, and a wheel of a gigabyte on a slow line.
_SETTINGS = {"UV_HTTP_TIMEOUT": "600", "UV_COMPILE_BYTECODE_TIMEOUT": "600", "UV_NO_PROGRESS": "1"}


def is_made(path: Path, requirements: Path) -> bool:
    """Whether the environment is there, made from this lock file.

    :raises LlmError: when something else is there.
    """
    if not path.exists():
        return False
    try:
        made_from = (path / _RECORD).read_bytes()
    except OSError as exc:
        raise LlmError(
            f"{path} exists and is no environment that was made here. Remove it, or name another path."
        ) from exc
    if requirements.is_file() and made_from != requirements.read_bytes():
        raise LlmError(
            f"The environment {path} was made from another lock file than {requirements}. An environment is never "
            "changed: name another path, or remove this one where nothing runs from it."
        )
    return True


def make(
    run: RunCommand,
    path: Path,
    requirements: Path,
    python: str,
    uv: str,
    need: int,
    settings: Mapping[str, str] | None = None,
) -> None:
    """Make an environment in a scratch directory beside it, and give it its name when it is whole.

    What a killed run left is replaced.

    :param python: as ``uv venv --python`` takes it.
    :param need: bytes that have to be free.
    :param settings: further environment variables of uv.
    :raises LlmError: when there is no room, a hash is wrong, or uv fails otherwise. Nothing is left then.
    """
    if not requirements.is_file():
        raise LlmError(f"The lock file {requirements} is missing. Copy it to the host first.")
    stage, cache = companion(path, "stage"), companion(path, "cache")
    with os_errors(f"Making {path}"):
        path.parent.mkdir(parents=True, exist_ok=True)
        with locked(path):
            _remove(stage, cache)
            require_space(path.parent, need, f"the environment {path}")
            # On the file system of the environment, packages are linked out of the cache and not copied.
            environment = {**_SETTINGS, **(settings or {}), "UV_CACHE_DIR": str(cache)}
            try:
                words = ["venv", "--no-python-downloads", "--relocatable", "--python", python, str(stage)]
                _uv(run, uv, words, environment)
                words = ["pip", "sync", "--python", str(stage / "bin" / "python"), "--require-hashes", "--no-build"]
                _uv(run, uv, [*words, "--compile-bytecode", str(requirements)], environment)
                shutil.copyfile(requirements, stage / _RECORD)
                os.sync()
                stage.rename(path)
                sync_directory(path.parent)
            finally:
                _remove(stage, cache)


def remove(path: Path) -> None:
    """Take an environment away: its name first, so that no half of it is left under it."""
    stage = companion(path, "stage")
    with os_errors(f"Removing {path}"), locked(path):
        _remove(stage)
        path.rename(stage)
        _remove(stage)


def _remove(*paths: Path) -> None:
    for path in paths:
        if path.exists():
            shutil.rmtree(path)


def _uv(run: RunCommand, uv: str, words: list[str], environment: Mapping[str, str]) -> None:
    if not os.access(uv, os.X_OK):
        raise LlmError(f"uv: expected {uv} on the host, found nothing. Run the role llmfleet.serving.uv first.")
    status, _said, complaint = run([uv, *words], environ_update=environment)
    if status:
        raise LlmError(f"uv {words[0]} {words[1] if words[0] == 'pip' else ''} failed: {_tail(complaint)}")


def _tail(text: str) -> str:
    """What uv said last; an address in it has no user or password, uv leaves these out itself."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return " ".join(lines[-12:])[-1500:]
