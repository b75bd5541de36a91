# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The GPU gate without Ansible, for the unit that runs at boot: the module's code, with the options of its last pass.

Then CUDA has to start, which a driver that answers does not imply. It prints the verdict, keeps or removes the mark of
a fenced host, and exits with 1 when the host is not fit.
"""

from __future__ import annotations

import json
import sys
import time
import typing as t
from pathlib import Path

from ansible_collections.llmfleet.serving.plugins.module_utils._cuda_checks import ready
from ansible_collections.llmfleet.serving.plugins.module_utils._errors import LlmError
from ansible_collections.llmfleet.serving.plugins.module_utils._gate import gate
from ansible_collections.llmfleet.serving.plugins.module_utils._gate_marker import mark
from ansible_collections.llmfleet.serving.plugins.module_utils._gate_verdict import describe
from ansible_collections.llmfleet.serving.plugins.module_utils._run import run_command

_PAUSE_S = 5
# What comes up some time after the kernel: the driver, the fabric manager, and with it the NVLinks. Nothing else heals.
_LATE = ("driver-answers", "fabric", "nvlink", "topology", "gpu-count", "gpu-on-bus", "cuda-init", "device-nodes")


def main(config: dict[str, t.Any]) -> int:
    """Ask until the host is fit, or is not going to be."""
    end = time.monotonic() + config["wait"]
    while True:
        rules, reasons = _ask(config)
        if not reasons or not all(rule.startswith(_LATE) for rule in rules) or time.monotonic() >= end:
            break
        time.sleep(_PAUSE_S)
    return _conclude(Path(config["marker"]), reasons)


def _ask(config: dict[str, t.Any]) -> tuple[set[str], list[str]]:
    """The rules that are broken, and the reasons to refuse the host."""
    verdict = gate(run_command, config["options"])
    if verdict["verdict"] == "fail":
        rules = {finding["rule"] for finding in verdict["findings"] if finding["severity"] == "fail"}
        return rules, verdict["msg"].splitlines()
    if not config["cuda"]:
        return set(), []
    findings = ready(run_command, len(verdict["facts"]["gpus"]), config["options"]["timeout"])
    return {finding["rule"] for finding in findings}, describe(findings)


def _conclude(marker: Path, reasons: list[str]) -> int:
    print("\n".join(reasons) or "The GPUs are fit.", file=sys.stderr if reasons else sys.stdout)
    mark(marker, reasons)
    return 1 if reasons else 0


if __name__ == "__main__":
    try:
        sys.exit(main(json.loads(Path(sys.argv[1]).read_text())))
    except LlmError as error:
        sys.exit(str(error))
