# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What playbooks/vars/awx.yml comes to when its templates are evaluated."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
# What only a fleet's owner knows.
GIVEN = {
    "llmfleet_awx_image": "registry.example.com/llmfleet/ee:1",
    "llmfleet_awx_inventory_url": "https://git.example.com/fleet.git",
}


def described(folder, **variables):
    """The objects, by kind."""
    data = folder / "data.json"
    play = {
        "hosts": "localhost",
        "connection": "local",
        "gather_facts": False,
        "vars_files": [str(ROOT / "playbooks" / "vars" / "awx.yml")],
        "vars": {"ansible_python_interpreter": sys.executable},
        "tasks": [{"ansible.builtin.copy": {"content": "{{ __awx_objects | to_json }}", "dest": str(data)}}],
    }
    playbook = folder / "describe.yml"
    playbook.write_text(json.dumps([play]))
    command = [Path(sys.executable).with_name("ansible-playbook"), "-i", "localhost,", playbook]
    argv = [*map(str, command), "-e", json.dumps({**GIVEN, **variables})]
    subprocess.run(argv, capture_output=True, timeout=300, check=True)
    return json.loads(data.read_text())
