"""A service starts when its GPUs have released the memory of its last run, and says what it waits for."""

from __future__ import annotations

import pytest

from ansible_collections.llmfleet.serving.plugins.module_utils import _gpu_release
from ansible_collections.llmfleet.serving.plugins.module_utils._errors import LlmError
from ansible_collections.llmfleet.serving.plugins.module_utils._gpu_facts import silent_gpu

UNIT = "llmfleet-r1.service"


def process(unit, memory=70000, pid=4242):
    return {"pid": pid, "name": "/opt/engine", "memory": memory, "unit": unit}


def facts(*gpus):
    """GPUs as (MiB in use, processes)."""
    return {
        "gpus": [
            {**silent_gpu(index, ""), "uuid": f"GPU-{index}", "memory_used": used, "processes": processes}
            for index, (used, processes) in enumerate(gpus)
        ]
    }


@pytest.mark.parametrize(
    ("used", "processes", "words"),
    [
        (4, [], None),
        (256, [], None),
        (257, [], "GPU 0: 257 MiB are in use by no process that can be seen"),
        (70010, [process("llmfleet-other.service")], None),
        (75000, [process("llmfleet-other.service")], "GPU 0: 5000 MiB are in use by no process that can be seen"),
        (70010, [process(UNIT)], "GPU 0: process 4242 (/opt/engine) holds 70000 MiB"),
        (70010, [process(None)], "GPU 0: process 4242 (/opt/engine) holds 70000 MiB"),
        (70010, [process("session-3.scope")], "GPU 0: process 4242 (/opt/engine) holds 70000 MiB"),
        (70010, [process("x.service"), process(None, 5, 7)], "GPU 0: process 7 (/opt/engine) holds 5 MiB"),
        # What the driver does not tell is not made up.
        (70010, [process("llmfleet-other.service", None)], None),
        (70010, [process(UNIT, None)], "GPU 0: process 4242 (/opt/engine) holds memory"),
        (None, [], None),
        (4, None, None),
    ],
)
def test_holders(used, processes, words):
    assert _gpu_release.holders(facts((used, processes)), ["GPU-0"], UNIT) == ([words] if words else [])


def test_only_the_gpus_of_the_service_count():
    host = facts((4, []), (70000, []))
    assert _gpu_release.holders(host, ["GPU-0"], UNIT) == []
    assert len(_gpu_release.holders(host, ["GPU-0", "GPU-1"], UNIT)) == 1


def test_gpu_that_is_gone_is_said():
    assert _gpu_release.holders(facts((4, [])), ["GPU-9"], UNIT) == ["GPU GPU-9 does not answer"]


class Host:
    """GPUs that are free after so many seconds."""

    def __init__(self, free_after):
        self.free_after, self.now, self.said = free_after, 0.0, []

    def wait(self):
        _gpu_release.wait(
            lambda: facts((4 if self.now >= self.free_after else 70000, [])),
            ["GPU-0"],
            UNIT,
            60,
            self.said.append,
            clock=lambda: self.now,
            sleep=self._sleep,
        )

    def _sleep(self, seconds):
        self.now += seconds


def test_free_gpus_are_not_waited_for():
    host = Host(0)
    host.wait()
    assert (host.now, host.said) == (0, [])


def test_memory_that_is_released_late_is_waited_for_and_said_once():
    host = Host(21)
    host.wait()
    assert 21 <= host.now < 24
    assert host.said == [
        "Waiting for the GPUs to release the memory of the last run: "
        "GPU 0: 70000 MiB are in use by no process that can be seen."
    ]


def test_memory_that_stays_is_an_error_with_a_next_step():
    host = Host(1000)
    with pytest.raises(LlmError, match=r"in 60 s: GPU 0: 70000 MiB .* It is tried again\. .* reset the GPUs"):
        host.wait()
    assert 60 <= host.now < 64


@pytest.mark.parametrize(
    ("places", "words"),
    [
        ({"GPU-0": 0, "GPU-1": 1}, None),
        ({}, None),
        ({"GPU-1": 2}, r"GPU 2 \(GPU-1\) is GPU 1 now\. Look"),
        ({"GPU-0": 0, "GPU-9": 3}, r": GPU 3 \(GPU-9\) is gone\. Look"),
    ],
)
def test_indices_that_mean_other_gpus_are_refused(places, words):
    host = facts((4, []), (4, []))
    if words is None:
        _gpu_release.require_places(host, places)
        return
    with pytest.raises(LlmError, match=words):
        _gpu_release.require_places(host, places)
