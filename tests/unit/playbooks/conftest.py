"""What the tests of playbooks share: hosts that do not answer, and this machine as a host with GPUs."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

H200 = Path(__file__).parents[2] / "fixtures/recordings/h200-x2-driver580"
PROGRAMS = {
    "nvidia-smi": f"""case "$*" in
        "-q -x") cat {H200}/smi-q.xml ;;
        "nvlink -s" | "topo -m") cat {H200}/topo.txt ;;
        "") echo "Driver Version: 580.159.04" ;;
    esac""",
    "journalctl": "echo '1795443369.0 host kernel: Linux version 6.8.0-60-generic'",
    "systemctl": "true",
}

SILENT = '''"""A connection to a host that does not answer."""

from ansible.errors import AnsibleConnectionFailure
from ansible.plugins.connection import ConnectionBase

DOCUMENTATION = """
name: silent
short_description: A host that does not answer
description: A host that does not answer.
"""


class Connection(ConnectionBase):
    transport = "silent"
    has_pipelining = False

    def _connect(self):
        raise AnsibleConnectionFailure("No route to <b>host</b>")

    exec_command = put_file = fetch_file = close = lambda self, *args, **kwargs: self._connect()
'''


@pytest.fixture
def silent_plugin(tmp_path):
    """The folder of a connection plugin by the name "silent", with which no host answers."""
    (tmp_path / "silent.py").write_text(SILENT)
    return tmp_path


@pytest.fixture
def two_h200(tmp_path, silent_plugin):
    """An environment for Ansible in which this machine has two H200, and a systemctl that knows no unit."""
    for name, script in PROGRAMS.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / name).chmod(0o755)
    # What is recorded is what nvidia-smi has said.
    (tmp_path / "hidden").mkdir()
    (tmp_path / "hidden/pynvml.py").write_text("raise ImportError")
    return {
        **os.environ,
        "ANSIBLE_CONNECTION_PLUGINS": str(silent_plugin),
        "ANSIBLE_NOCOLOR": "1",
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
        "PYTHONPATH": str(tmp_path / "hidden"),
    }
