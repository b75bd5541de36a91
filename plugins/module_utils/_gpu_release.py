# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Whether the GPUs of a service have released the memory of its last run. Private to this collection.

An engine that was killed holds its memory until the driver has cleaned up behind it; one whose process cannot end
holds it for ever. An engine that is started meanwhile fails with a lack of memory that is none.
"""

from __future__ import annotations

import time
import typing as t

from ansible_collections.llmfleet.serving.plugins.module_utils._errors import LlmError
from ansible_collections.llmfleet.serving.plugins.module_utils._gpu_facts import Facts, Gpu, Process

# What the driver itself and a display take on a GPU that nobody uses, in MiB; the gate's limit for an idle GPU, too.
_IDLE_MIB = 256
_PAUSE_S = 2.0


def wait(
    read: t.Callable[[], Facts],
    uuids: t.Collection[str],
    unit: str,
    limit: float,
    tell: t.Callable[[str], None],
    clock: t.Callable[[], float] = time.monotonic,
    sleep: t.Callable[[float], None] = time.sleep,
) -> None:
    """Return as soon as the memory is released; say once what is waited for.

    :param limit: seconds after which it is an error.
    :raises LlmError: with what still holds memory, or what hides the GPUs.
    """
    end = clock() + limit
    said: list[str] = []
    while held := holders(read(), uuids, unit):
        if clock() >= end:
            raise LlmError(
                f"The GPUs have not released the memory of the last run in {limit:g} s: {'; '.join(held)}. "
                "It is tried again. If it stays so, end the processes; if there are none to end, reset the GPUs or "
                "reboot the host."
            )
        if held != said:
            tell(f"Waiting for the GPUs to release the memory of the last run: {'; '.join(held)}.")
            said = held
        sleep(_PAUSE_S)


def require_places(facts: Facts, places: t.Mapping[str, int]) -> None:
    """Refuse a start with indices that mean other GPUs by now.

    :param places: the index that each GPU, by its UUID, had when the service was set up.
    :raises LlmError: when a GPU has another one.
    """
    now = {gpu["uuid"]: gpu["index"] for gpu in facts["gpus"]}
    moved = [
        f"GPU {index} ({uuid}) is {'gone' if uuid not in now else f'GPU {now[uuid]} now'}"
        for uuid, index in places.items()
        if now.get(uuid) != index
    ]
    if moved:
        raise LlmError(
            f"The GPUs have changed their places since the service was set up: {'; '.join(moved)}. "
            "Look at them with nvidia-smi, then run the role of the service again."
        )


def holders(facts: Facts, uuids: t.Collection[str], unit: str) -> list[str]:
    """What holds memory of these GPUs and is not a running service beside this one, in words; nothing when all is free.

    :param unit: the service that is about to start: what belongs to it is left over.
    """
    found = {gpu["uuid"]: gpu for gpu in facts["gpus"] if gpu["uuid"] in uuids}
    missing = [f"GPU {uuid} does not answer" for uuid in uuids if uuid not in found]
    return missing + [reason for gpu in found.values() for reason in _holders(gpu, unit)]


def _holders(gpu: Gpu, unit: str) -> t.Iterator[str]:
    processes = gpu["processes"] or []
    left = [process for process in processes if not _neighbour(process, unit)]
    for process in left:
        yield (
            f"GPU {gpu['index']}: process {process['pid']} ({process['name'] or 'without a name'}) holds "
            f"{'memory' if process['memory'] is None else str(process['memory']) + ' MiB'}"
        )
    # Where the driver does not tell how much a process holds, the sum says nothing.
    known = all(process["memory"] is not None for process in processes)
    if left or not known or gpu["memory_used"] is None:
        return
    rest = gpu["memory_used"] - sum(process["memory"] or 0 for process in processes)
    if rest > _IDLE_MIB:
        yield f"GPU {gpu['index']}: {rest} MiB are in use by no process that can be seen"


def _neighbour(process: Process, unit: str) -> bool:
    """Whether it runs in another service. What runs in none is left over, or somebody's who has to be asked."""
    other = process["unit"]
    return other is not None and other != unit and other.endswith(".service")
