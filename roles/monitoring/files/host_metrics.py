# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What this collection knows of the host, as a text file of node exporter's, without Ansible.

    python3 -I host-metrics.pyz CONFIG

CONFIG is JSON, which the role writes: `output`, `fence`, `gate`, `watchdog` and `models` are paths. Nothing is told of
what is not there. An error is one line, and exit status 1; the file then keeps its age, which tells it.
"""

from __future__ import annotations

import os
import shutil
import sys
import time
from pathlib import Path

from ansible_collections.llmfleet.serving.plugins.module_utils import _host_metrics
from ansible_collections.llmfleet.serving.plugins.module_utils._errors import LlmError
from ansible_collections.llmfleet.serving.plugins.module_utils._files import existing, os_errors, read_json, write_text
from ansible_collections.llmfleet.serving.plugins.module_utils._gate import gate
from ansible_collections.llmfleet.serving.plugins.module_utils._host_records import models
from ansible_collections.llmfleet.serving.plugins.module_utils._run import run_command
from ansible_collections.llmfleet.serving.plugins.module_utils._watchdog import State


def main(path: Path) -> int:
    """Find out, and write."""
    config = read_json(path)
    if not config:
        raise LlmError(f"{path} is missing or is not JSON. Run the role monitoring again.")
    # The options that the boot unit asks with. Nobody is fenced here: that is the gate's own business.
    options = read_json(Path(config["gate"])).get("options")
    verdict = gate(run_command, options) if options else None
    kept = [read_json(file) for file in sorted(Path(config["watchdog"]).glob("*.json"))]
    # As the fleet's description has them: the playbooks put the collection's name before it.
    states = {str(one["service"]).removeprefix("llmfleet-"): State.load(one) for one in kept if "service" in one}
    now, store = time.time(), Path(config["models"])
    with os_errors(f"Reading {store}"):
        quarantined = sum(1 for _file in store.rglob("*.quarantined"))
        stored = models(store)
        disk = shutil.disk_usage(existing(store))
    families = [
        *_host_metrics.gate(verdict, fenced=Path(config["fence"]).exists(), checked=now),
        *_host_metrics.watchdog(states, now),
        *_host_metrics.store(stored, quarantined, disk.total, disk.free),
    ]
    with os_errors(f"Writing {config['output']}"):
        write_text(Path(config["output"]), _host_metrics.render(families))
    return 0


if __name__ == "__main__":
    # Node exporter reads it under an account of its own.
    os.umask(0o022)
    try:
        sys.exit(main(Path(sys.argv[1])))
    except LlmError as error:
        sys.exit(str(error))
