# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Work in a child process comes back, fails, hangs or crashes without harm to the caller."""

from __future__ import annotations

import faulthandler
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from ansible_collections.llmfleet.serving.plugins.module_utils._child import in_child, in_children
from ansible_collections.llmfleet.serving.plugins.module_utils._errors import LlmError


@pytest.fixture(autouse=True)
def no_child_is_left():
    yield
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)


def runs(pid: int) -> bool:
    """Whether a process exists and is no zombie that only its new parent has to collect."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_the_answer_comes_back_from_another_process():
    assert in_child(lambda: {"pid": os.getpid()}, 10)["pid"] != os.getpid()


def test_an_answer_larger_than_the_pipe_comes_back_whole():
    assert in_child(lambda: "x" * 1_000_000, 10) == "x" * 1_000_000


def test_an_llmerror_keeps_its_words():
    def refuse():
        raise LlmError("the word")

    with pytest.raises(LlmError, match=r"^the word$"):
        in_child(refuse, 10)


def test_a_bug_shows_its_traceback():
    with pytest.raises(RuntimeError, match="ZeroDivisionError"):
        in_child(lambda: 1 // 0, 10)


def test_a_crash_is_reported_with_its_signal():
    def crash():
        faulthandler.disable()  # pytest's, which would print the child's stack
        os.kill(os.getpid(), signal.SIGSEGV)

    with pytest.raises(ChildProcessError, match=f"signal {signal.SIGSEGV:d}"):
        in_child(crash, 10)


def test_an_exit_without_an_answer_is_reported_with_its_status():
    with pytest.raises(ChildProcessError, match="status 3"):
        in_child(lambda: os._exit(3), 10)


def test_what_hangs_is_killed_with_all_that_it_started(tmp_path):
    def hang():
        program = subprocess.Popen(["sleep", "600"])
        (tmp_path / "pids").write_text(f"{os.getpid()} {program.pid}")
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        program.wait()

    with pytest.raises(TimeoutError):
        in_child(hang, 1)
    pids = [int(pid) for pid in (tmp_path / "pids").read_text().split()]
    for _dummy in range(500):
        if not any(runs(pid) for pid in pids):
            break
        time.sleep(0.01)
    assert [pid for pid in pids if runs(pid)] == []


def test_several_run_at_the_same_time():
    first, second = os.pipe(), os.pipe()

    def meet(mine, other):
        os.write(mine[1], b"x")
        return os.read(other[0], 1).decode()

    works = {"one": (lambda: meet(first, second), 10), "other": (lambda: meet(second, first), 10)}
    assert {name: answer.get() for name, answer in in_children(works).items()} == {"one": "x", "other": "x"}


def test_each_has_its_own_end():
    def refuse():
        raise LlmError("the word")

    answers = in_children(
        {
            "slow": (lambda: time.sleep(600), 0.5),
            "fine": (lambda: "x" * 1_000_000, 60),
            "refused": (refuse, 60),
            "dead": (lambda: os._exit(3), 60),
        }
    )
    assert answers["fine"].get() == "x" * 1_000_000
    errors = {name: answer.error for name, answer in answers.items() if answer.error}
    assert {name: type(error) for name, error in errors.items()} == {
        "slow": TimeoutError,
        "refused": LlmError,
        "dead": ChildProcessError,
    }
    assert str(errors["slow"]) == "no answer within 0.5 s"


def test_none_is_nothing():
    assert in_children({}) == {}
