# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""``python -m faults.killer MODULE``: run a module for each line of the input, and stop it at a change to the disk.

A line is JSON: the module's ``arguments``, the ``number`` of the change, and an ``error`` with which that and all later
ones fail; without one the process is killed. So is the answer: whether it was ``killed``, and the ``result`` if not.
Each run is a fork of this process, which has no threads that a fork could leave in the middle of something.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import itertools
import json
import os
import signal
import subprocess
import sys
import typing as t
from collections.abc import Callable, Iterator
from types import ModuleType

# What happens between two of these calls is one state of the disk.
CHANGES = ("open", "ftruncate", "pwrite", "fdatasync", "fsync", "chmod", "replace", "unlink")

Answer = dict[str, t.Any]


@contextlib.contextmanager
def killer(module: ModuleType) -> Iterator[Callable[..., Answer]]:
    """A function ``run(arguments, number=-1, error=None)`` that has such a process do it, and returns its answer."""
    process = subprocess.Popen(
        [sys.executable, "-m", __name__, module.__name__],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )

    def run(arguments: dict[str, t.Any], number: int = -1, error: int | None = None) -> Answer:
        process.stdin.write(json.dumps({"arguments": arguments, "number": number, "error": error}) + "\n")
        process.stdin.flush()
        return json.loads(process.stdout.readline())

    with process:
        yield run
        process.stdin.close()


def main() -> None:
    """Serve until the input ends."""
    module = importlib.import_module(sys.argv.pop(1))
    for line in sys.stdin:
        order = json.loads(line)
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            os.dup2(writing, 1)
            _run(module.main, json.dumps({"ANSIBLE_MODULE_ARGS": order["arguments"]}), order["number"], order["error"])
        os.close(writing)
        with os.fdopen(reading) as output:
            text = output.read()
        killed = os.WIFSIGNALED(os.waitpid(child, 0)[1])
        print(json.dumps({"killed": killed, "result": None if killed else json.loads(text)}), flush=True)


def _run(main: Callable[[], t.Any], arguments: str, number: int, error: int | None) -> t.NoReturn:
    sys.stdin = io.TextIOWrapper(io.BytesIO(arguments.encode()))
    count = itertools.count()
    for name in CHANGES:
        setattr(os, name, _hooked(getattr(os, name), count, number, error))
    try:
        main()
    finally:
        sys.stdout.flush()
        os._exit(0)


def _hooked(real: Callable[..., t.Any], count: Iterator[int], number: int, error: int | None) -> Callable[..., t.Any]:
    def change(*args: t.Any, **kwargs: t.Any) -> t.Any:
        now = next(count)
        if now == number and error is None:
            os.kill(os.getpid(), signal.SIGKILL)
        if error is not None and now >= number:
            raise OSError(error, os.strerror(error))
        return real(*args, **kwargs)

    return change


if __name__ == "__main__":
    main()
