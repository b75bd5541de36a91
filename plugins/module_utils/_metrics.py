# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The metrics of an engine, as a sign of life. Private to this collection.

Engines write Prometheus text: https://prometheus.io/docs/instrumenting/exposition_formats/.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass

# What an engine counts itself begins with its name. What Python and the web server count (process_*, http_*) moves
# with the question for the metrics alone.
_ENGINES = ("vllm:", "sglang:", "llamacpp:")
# What moves while the engine hangs: the web server in front of it counts who comes (the watchdog too: SGLang counts
# questions for the metrics), is refused or goes; a process that spins computes; a clock of idle time goes on.
_NO_SIGN = re.compile(
    "abort|admission_rejections|(cpu|idle)_seconds|get_loads|sglang:(http_|routing_keys_active)|vllm:websocket_"
)
_REQUESTS = {
    "vllm:num_requests_running",
    "vllm:num_requests_waiting",
    "sglang:num_running_reqs",
    "sglang:num_queue_reqs",
    "llamacpp:requests_processing",
    "llamacpp:requests_deferred",
}
_SAMPLE = re.compile(r"^([a-zA-Z_:][\w:]*)(\{.*\})?\s+(\S+)", re.ASCII)


@dataclass(frozen=True)
class Metrics:
    """What the engine counts.

    :ivar state: stands for all of it: another state means that the engine has done something.
    :ivar requests: how many run or wait; None when it does not tell.
    """

    state: str
    requests: int | None


def parse(text: str) -> Metrics | None:
    """None when there is nothing that an engine counts."""
    samples = [sample for line in text.splitlines() if (sample := _SAMPLE.match(line))]
    own = [sample for sample in samples if sample[1].startswith(_ENGINES) and not _NO_SIGN.search(sample[0])]
    if not own:
        return None
    state = hashlib.sha256("\n".join(sorted(sample[0] for sample in own)).encode()).hexdigest()
    counts = [_number(sample[3]) for sample in own if sample[1] in _REQUESTS]
    return Metrics(state, round(sum(counts)) if counts else None)


def _number(text: str) -> float:
    """A sample's value; nothing for "NaN" and the like, which no count is."""
    return float(text) if re.fullmatch(r"[0-9]+(\.[0-9]+)?([eE][+-]?[0-9]+)?", text) else 0.0
