# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the real systemd says of units, by its versions in Debian 12 and 13."""

from __future__ import annotations

import time

import pytest

from ansible_collections.llmfleet.serving.plugins.module_utils._systemd import Unit, read_unit
from testbed import hosts
from testbed.engine import docker

UNITS = {
    "ends": "Restart=always\nRestartSec=100ms\nExecStart=false",
    "starts": "Type=oneshot\nExecStart=sleep infinity",
    "runs": "ExecStart=sleep infinity",
    "idles": "ExecStart=sleep infinity",
}


@pytest.fixture(scope="module", params=["debian12", "debian13"])
def host(request):
    name = f"llmfleet-test-systemd-{request.param}"
    hosts.up([name], request.param)
    try:
        for unit, service in UNITS.items():
            content = f"[Unit]\\nStartLimitBurst=2\\n[Service]\\n{service}\\n".replace("\n", "\\n")
            docker("exec", name, "sh", "-c", f"printf '{content}' > /etc/systemd/system/{unit}.service")
        docker("exec", name, "systemctl", "daemon-reload")
        docker("exec", name, "systemctl", "start", "--no-block", "ends", "starts", "runs")
        yield name
    finally:
        hosts.down([name])


@pytest.mark.bed
def test_units_are_told_apart(host):
    def unit(name: str) -> Unit:
        def run(argv, **_options):
            return 0, docker("exec", host, *argv).stdout, ""

        return read_unit(run, f"{name}.service")

    end = time.monotonic() + 60
    while unit("ends").active != "failed" and time.monotonic() < end:
        time.sleep(0.2)
    found = {name: unit(name) for name in UNITS}
    assert {name: (one.active, one.job, one.result) for name, one in found.items()} == {
        "ends": ("failed", False, "exit-code"),
        "starts": ("activating", True, "success"),
        "runs": ("active", False, "success"),
        "idles": ("inactive", False, "success"),
    }
