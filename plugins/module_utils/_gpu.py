# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a host's NVIDIA GPUs are and how they are. Private to this collection.

NVML (Python module pynvml) is asked first; where it is not installed, nvidia-smi is. All questions are asked at the
same time, each in a child process with a time limit, because a sick driver can block a caller for ever, and because
NVML is a C library that can take its process down.
"""

from __future__ import annotations

import datetime
import typing as t

from ansible_collections.llmfleet.serving.plugins.module_utils import _gpu_host, _gpu_nvml, _gpu_smi
from ansible_collections.llmfleet.serving.plugins.module_utils._child import Answer, Work, in_children
from ansible_collections.llmfleet.serving.plugins.module_utils._errors import LlmError
from ansible_collections.llmfleet.serving.plugins.module_utils._gpu_facts import (
    ANY_STEP,
    SCHEMA,
    DriverError,
    Facts,
    RunCommand,
)

# Seconds for what is asked of the host beside the driver: the rest is worth having without it.
_HOST_S = 10.0


def read_facts(run: RunCommand, source: str = "auto", timeout: int = 60, xid_since: float = 0) -> Facts:
    """Ask this host, for at most `timeout` seconds.

    :param run: runs nvidia-smi, journalctl and systemctl.
    :param source: `nvml`, `nvidia-smi`, or `auto`: NVML where pynvml is installed, else nvidia-smi.
    :param xid_since: seconds since 1970; Xids before are left out, and all before this boot.
    :raises DriverError: when there are no facts to be had.
    :raises LlmError: when the time limit is none.
    """
    if not 1 <= timeout <= 3600:
        raise LlmError(f"A time limit of {timeout} s is refused: expected 1 to 3600.")
    if source == "auto":
        source = "nvml" if _gpu_nvml.available() else "nvidia-smi"
    driver = {"nvml": _gpu_nvml.read_nvml} if source == "nvml" else _smi_works(run)
    host: dict[str, Work] = {
        "xids": lambda: _gpu_host.read_xids(run, xid_since),
        "fabric_manager": lambda: _gpu_host.read_fabric_manager(run),
    }
    answers = in_children(
        {
            **{name: (work, float(timeout)) for name, work in driver.items()},
            **{name: (work, min(_HOST_S, timeout)) for name, work in host.items()},
        }
    )
    try:
        told = answers["nvml"].get() if source == "nvml" else _smi_facts(answers)
    except TimeoutError as exc:
        raise DriverError(
            f"The NVIDIA driver did not answer {source} within {timeout} s: it hangs, or a GPU is lost. "
            f"{ANY_STEP} Then reboot the host. If it is only slow, raise the time limit or turn persistence mode on."
        ) from exc
    except ChildProcessError as exc:
        raise DriverError(f"Reading the GPUs through {source} ended with {exc} and no answer. {ANY_STEP}") from exc
    except LlmError as exc:
        raise DriverError(str(exc)) from exc
    return t.cast(
        Facts,
        {
            "schema": SCHEMA,
            "source": source,
            **told,
            "pci_gpus": _gpu_host.pci_gpus(),
            **{name: _value(answers[name]) for name in host},
        },
    )


def parse_time(text: str | None) -> float:
    """Seconds since 1970 of a time in ISO 8601 with its offset from UTC; 0 without one.

    :raises LlmError: when it is something else.
    """
    if text is None:
        return 0
    try:
        # Python 3.9 and 3.10 do not know the letter.
        time = datetime.datetime.fromisoformat(text.replace("Z", "+00:00"))
    except ValueError:
        time = None
    if time is None or time.tzinfo is None:
        raise LlmError(
            f"{text[:40]!r} is not a time: expected one like 2026-11-23T14:05:00Z or 2026-11-23T22:05:00+08:00."
        )
    return time.timestamp()


_SMI_QUESTIONS = {
    " ".join(("nvidia-smi", *question)): question
    for question in (
        _gpu_smi.QUERY,
        _gpu_smi.LINK_STATES,
        _gpu_smi.LINK_ERRORS,
        _gpu_smi.LINK_PEERS,
        _gpu_smi.TOPOLOGY,
        _gpu_smi.TABLE,
    )
}


def _smi_works(run: RunCommand) -> dict[str, Work]:
    def asking(question: tuple[str, ...]) -> Work:
        return lambda: _gpu_smi.run_smi(run, question)

    return {name: asking(question) for name, question in _SMI_QUESTIONS.items()}


def _smi_facts(answers: dict[str, Answer]) -> dict[str, t.Any]:
    query = _gpu_smi.QUERY
    said = {question: _value(answers[name]) for name, question in _SMI_QUESTIONS.items() if question != query}
    main = answers[" ".join(("nvidia-smi", *query))].get()
    facts = _gpu_smi.facts_of({query: main, **{question: answer for question, answer in said.items() if answer}})
    for gpu in facts["gpus"]:
        for process in gpu["processes"] or []:
            process["unit"] = _gpu_host.systemd_unit(process["pid"])
    return facts


def _value(answer: Answer) -> t.Any:
    """The result of work that may fail: None then, unless the failure is a bug of ours."""
    if isinstance(answer.error, RuntimeError):
        raise answer.error
    return answer.value
