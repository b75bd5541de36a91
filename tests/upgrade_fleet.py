# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Hosts that are folders, for the real upgrade.yml under the real ansible-playbook.

The playbook, its filters and its lookups are the collection's own, and so is service_snapshot, on the host's folder.
Roles and the other modules that change a host are stand-ins: they note what they are asked for, and fail, or cut a host
off, where a test says so.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import typing as t
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from ansible_collections.llmfleet.serving.plugins.module_utils._lock_file import parse

ROOT = Path(__file__).parents[1]
OLD, NEW = "0.5.11", "0.34.0"


def locked(engine: str, version: str) -> str:
    """The name of an environment that is made from the collection's own lock file."""
    lock = ROOT / "playbooks" / "stacks" / "locks" / f"{engine}-{version}.txt"
    return f"{version}-{parse(lock.read_text(), lock.name, engine, version).digest}"


# The version that each engine is upgraded to, and the names of the environments before and after. SGLang's old one is
# of the same version: only its lock file was another.
ENGINES = {
    "ollama": (NEW, OLD, NEW),
    "vllm": ("0.32.0", locked("vllm", "0.8.5.post1"), locked("vllm", "0.32.0")),
    "sglang": ("0.5.23", "0.5.23-0123abcd", locked("sglang", "0.5.23")),
    "llama_cpp": ("b11669", "b4741-cuda", "b11669-cuda"),
}

CONNECTION = '''"""A connection to a host that is a folder, until it is lost."""

import os
from pathlib import Path

from ansible.errors import AnsibleConnectionFailure
from ansible.plugins.connection.local import Connection as Local

DOCUMENTATION = """
name: folder
short_description: A host that is a folder
description: A host that is a folder.
extends_documentation_fragment:
  - connection_pipelining
"""


class Connection(Local):
    transport = "folder"

    def exec_command(self, cmd, in_data=None, sudoable=True):
        host = Path(os.environ["FLEET"], self._play_context.remote_addr)
        if (host / "lost").exists():
            raise AnsibleConnectionFailure(f"{host.name} is gone")
        return super().exec_command(f"FLEET_HOST={host} {cmd}", in_data=in_data, sudoable=sudoable)
'''

STEP = '''#!/usr/bin/python
"""Note a step; fail, or cut a host off, where a test says so."""

import json
import os
import re
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule

module = AnsibleModule(
    {"step": {"type": "str"}, "name": {"type": "str"}, "release": {"type": "str"}, "variables": {"type": "dict"}},
    supports_check_mode=True,
)
host = Path(os.environ["FLEET_HOST"])
step, name, release, variables = (module.params[key] for key in ("step", "name", "release", "variables"))
runs = {unit.stem: unit.read_text() for unit in (host / "etc/systemd/system").glob("*.service")}
drained = Path(os.environ["FLEET"], "edge", f"drained-{host.name}").exists()
noted = {"host": host.name, "step": step, "drained": drained, "variables": variables}
with Path(os.environ["FLEET"], "journal").open("a") as journal:
    journal.write(json.dumps(noted) + "\\n")
fault = json.loads(os.environ["FLEET_FAULTS"]).get(host.name, {})
if release and step == "switch" and not module.check_mode:
    (host / f"etc/systemd/system/{name}.service").write_text(f"[Service]\\nExecStart={release}/bin/serve\\n")
for what, does in fault.items():
    wanted, _space, version = what.partition(" ")
    if wanted == step and all(version in unit for unit in runs.values()):
        if does == "fails":
            module.fail_json(msg=f"{step} has failed here.")
        Path(os.environ["FLEET"], does, "lost").touch()
module.exit_json(changed=False)
'''

EDGE = '''#!/usr/bin/python
"""An edge's backend: drained where there is a file of its name."""

import os
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule

module = AnsibleModule(
    {"service": {"type": "str"}, "name": {"type": "str"}, "state": {"type": "str"}, "timeout": {"type": "int"}},
    supports_check_mode=True,
)
host = Path(os.environ["FLEET_HOST"])
file = host / f"drained-{module.params['name']}"
before = "drained" if file.exists() else "ready"
if not module.check_mode:
    file.touch() if module.params["state"] == "drained" else file.unlink(missing_ok=True)
module.exit_json(changed=before != module.params["state"], diff={"before": {"state": before}})
'''

SYSTEMCTL = """#!/bin/sh
[ "$1" = show ] && exec printf 'LoadState=loaded\\nActiveState=active\\nUnitFileState=enabled\\n'
echo "{\\"host\\": \\"${FLEET_HOST##*/}\\", \\"step\\": \\"systemctl $1\\"}" >> "$FLEET/journal"
"""


def step(what: str, **options: t.Any) -> dict[str, t.Any]:
    return {"name": what, "llmfleet.serving.step": {"step": what, **options}}


def engine_tasks(engine: str) -> dict[str, list[dict[str, t.Any]]]:
    """What a role that runs an engine does here: it makes the environment, and switches to it."""
    known = f"query('ansible.builtin.varnames', '^({engine}|uv)_')"
    options = {
        "name": f"{{{{ {engine}_name }}}}",
        "release": f"/opt/llmfleet/{engine}/{ENGINES[engine][2]}",
        "variables": f"{{{{ dict({known} | zip(query('ansible.builtin.vars', *{known}))) }}}}",
    }
    environment = step("environment", **options)
    tasks = {"main": [environment, step("switch", **options)], "install": [environment]}
    if engine == "ollama":
        tasks["registered"] = [{"name": "registered", "ansible.builtin.set_fact": {"ollama_registered": {"m": None}}}]
        tasks["register_again"] = [step("register_again", **options)]
    return tasks


def write_collection(path: Path) -> None:
    """A collection like this one, but for what changes a host."""
    (path / "plugins" / "modules").mkdir(parents=True)
    (path / "playbooks").symlink_to(ROOT / "playbooks")
    for kind in ("filter", "lookup", "module_utils", "plugin_utils"):
        (path / "plugins" / kind).symlink_to(ROOT / "plugins" / kind)
    for module in (ROOT / "plugins" / "modules").glob("*.py"):
        (path / "plugins" / "modules" / module.name).symlink_to(module)
    prune = STEP.replace('"step": {"type": "str"}', '"step": {"default": "prune"}, "engines": {"type": "list"}')
    modules = {"step": STEP, "edge_backend": EDGE, "service_snapshot": snapshot_module(), "release_prune": prune}
    for name, source in modules.items():
        file = path / "plugins" / "modules" / f"{name}.py"
        file.unlink(missing_ok=True)
        file.write_text(source)
    roles = {
        "preflight": {"main": [step("preflight")]},
        "gpu_gate": {"judge": [step("judge")]},
        "acceptance": {"ask": [step("ask", variables={"concurrencies": "{{ acceptance_concurrencies }}"})]},
        **{engine: engine_tasks(engine) for engine in ENGINES},
    }
    for role, entries in roles.items():
        for entry, tasks in entries.items():
            file = path / "roles" / role / "tasks" / f"{entry}.yml"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(yaml.safe_dump(tasks, sort_keys=False, width=1000))
        # The real role's own idea of its variables: Ansible refuses what is not of it.
        for folder in ("meta/argument_specs.yml", "defaults", "vars"):
            (path / "roles" / role / folder).parent.mkdir(exist_ok=True)
            if (ROOT / "roles" / role / folder).exists():
                (path / "roles" / role / folder).symlink_to(ROOT / "roles" / role / folder)


def snapshot_module() -> str:
    """The real module, with a host's folder for its root."""
    source = (ROOT / "plugins" / "modules" / "service_snapshot.py").read_text()
    real = 'ServiceSnapshot(options["name"], options["files"], Path(options["root"]))'
    assert real in source
    there = (
        'ServiceSnapshot(options["name"], [HERE + file for file in options["files"]], '
        'Path(HERE + options["root"]), Path(HERE + "/etc/systemd/system"))'
    )
    source = source.replace(real, there)
    return source.replace("def run(module", 'import os\n\nHERE = os.environ["FLEET_HOST"]\n\n\ndef run(module', 1)


@dataclass(frozen=True)
class Outcome:
    """How a run has ended, what it said with each white space one blank, and the steps that it noted."""

    status: int
    said: str
    steps: list[dict[str, t.Any]] = field(default_factory=list)

    def of(self, host: str) -> list[str]:
        """The steps of one host, in their order."""
        return [noted["step"] for noted in self.steps if noted["host"] == host]


class Fleet:
    """Hosts with one service each, and an edge that sends requests to all of them.

    :ivar hosts: their names, in the order in which they are upgraded.
    """

    def __init__(self, folder: Path, hosts: t.Sequence[str], engine: str, port: int) -> None:
        self.hosts = hosts
        self._folder = folder / "fleet"
        self._collections = folder / "collections"
        self._engine = engine
        self._port = port
        write_collection(self._collections / "ansible_collections" / "llmfleet" / "serving")
        _version, old, _new = ENGINES[engine]
        for host in (*hosts, "edge"):
            (self._folder / host / "etc" / "systemd" / "system").mkdir(parents=True)
            if host != "edge":
                release = f"/opt/llmfleet/{engine}/{old}"
                self._unit(host).write_text(f"[Service]\nExecStart={release}/bin/serve\n")
        (self._folder / "bin").mkdir()
        (self._folder / "bin" / "systemctl").write_text(SYSTEMCTL)
        (self._folder / "bin" / "systemctl").chmod(0o755)
        (self._folder / "connections").mkdir()
        (self._folder / "connections" / "folder.py").write_text(CONNECTION)

    def upgrade(self, faults: dict[str, dict[str, str]] | None = None, **variables: t.Any) -> Outcome:
        """Run upgrade.yml.

        :param faults: for a host and a step there, "fails", or the name of a host that does not answer from then on. A
            step may be named with a version, and counts while the host runs that one.
        """
        journal = self._folder / "journal"
        journal.write_text("")
        inventory = self._folder / "hosts.json"
        inventory.write_text(json.dumps(self._inventory(variables)))
        playbook = self._collections / "ansible_collections/llmfleet/serving/playbooks/upgrade.yml"
        argv = [Path(sys.executable).with_name("ansible-playbook"), "-i", inventory, playbook]
        environment = {
            **os.environ,
            "ANSIBLE_COLLECTIONS_PATH": str(self._collections),
            "ANSIBLE_COLLECTIONS_SCAN_SYS_PATH": "false",
            "ANSIBLE_CONNECTION_PLUGINS": str(self._folder / "connections"),
            "ANSIBLE_CALLBACK_RESULT_FORMAT": "yaml",
            "ANSIBLE_NOCOLOR": "1",
            "ANSIBLE_PIPELINING": "true",
            "FLEET": str(self._folder),
            "FLEET_FAULTS": json.dumps(faults or {}),
            "PATH": f"{self._folder}/bin:{os.environ['PATH']}",
        }
        done = subprocess.run(
            [*map(str, argv)],
            cwd=self._folder,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=300,
            check=False,
        )
        print(done.stdout)
        steps = [json.loads(line) for line in journal.read_text().splitlines()]
        return Outcome(done.returncode, " ".join(done.stdout.split()), steps)

    def runs(self, host: str) -> str:
        """The name of the environment that the host's unit starts its program in."""
        return self._unit(host).read_text().partition(f"/{self._engine}/")[2].partition("/")[0]

    def state(self, host: str) -> tuple[str, bool, bool]:
        """What the host's unit starts, whether its edge sends requests, and whether a change is pending."""
        pending = self._folder / host / "var/lib/llmfleet/previous/llmfleet-chat/pending"
        return self.runs(host), not (self._folder / "edge" / f"drained-{host}").exists(), pending.exists()

    def lose(self, host: str) -> None:
        """Have a host not answer."""
        (self._folder / host / "lost").touch()

    def find(self, host: str) -> None:
        """Have a lost host answer again."""
        (self._folder / host / "lost").unlink()

    def _unit(self, host: str) -> Path:
        return self._folder / host / "etc/systemd/system/llmfleet-chat.service"

    def _inventory(self, variables: dict[str, t.Any]) -> dict[str, t.Any]:
        row = yaml.safe_load((ROOT / "playbooks/stacks/cuda-12.4.yml").read_text())
        row["engines"][self._engine]["version"] = ENGINES[self._engine][0]
        service = {"name": "chat", "engine": self._engine, "model": "m", "port": self._port}
        shared = {
            "ansible_connection": "folder",
            "ansible_python_interpreter": sys.executable,
            "llmfleet_models": [{"name": "m", "repo": "a/b", "revision": "0" * 40}],
            "llmfleet_services": [service],
            "llmfleet_stack": row,
            "llmfleet_upgrade_batches": [1, 2],
            **variables,
        }
        backends = [{"name": host, "address": host} for host in self.hosts]
        edge = {"edge_services": [{"name": "chat", "backends": backends}]}
        children = {"llmfleet": {"hosts": {host: {} for host in self.hosts}}}
        return {"all": {"children": children, "hosts": {"edge": edge}, "vars": shared}}
