# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""``python -m testbed.demo``: two simulated 8x H800 hosts go from bare to a chat answer, through the real site.yml.

Check mode is asked before and after, and the job is run three times: when it is done there is nothing to do, and when
somebody has meddled with a host only that is put right. What check mode predicts and what the later runs find are part
of what the demo shows, and of its exit status. So is what tests/demo finds on the hosts afterwards.

``--short`` is one host with which nobody meddles, for another ``--ansible-playbook``, such as the oldest that works.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from testbed import BedError, hosts
from testbed.engine import docker
from testbed.playbooks import Outcome, run

_ROOT = Path(__file__).parents[2]
_NODES = ("node1", "node2")
_ENV = {"ANSIBLE_CALLBACK_RESULT_FORMAT": "yaml"}
# How many tasks a host may cost when all of them look and find nothing to do, and when it is known that there is
# nothing; those that are run once for all hosts are the first one's. docs/scale.md says what a task costs. Whoever adds
# one on purpose raises this.
_TASKS, _TASKS_SETTLED = 118, 15
# What somebody does to the second host, and what drift.yml says of it.
_MEDDLED = {
    "chmod 0644 /etc/llmfleet/llmfleet-deepseek-r1.env": "file /etc/llmfleet/llmfleet-deepseek-r1.env has changed",
    "systemctl stop haproxy.service": "unit haproxy.service was active, is inactive",
}


def main() -> int:
    """Run the demo; 0 only if every host has answered and every promise was kept."""
    parser = argparse.ArgumentParser(prog="python -m testbed.demo", description=__doc__)
    parser.add_argument("--keep", action="store_true", help="leave the hosts running afterwards")
    parser.add_argument("--short", action="store_true", help="one host, and nobody meddles with it")
    parser.add_argument("--ansible-playbook", default="ansible-playbook", metavar="PROGRAM")
    options = parser.parse_args()
    demo = _Demo(options.ansible_playbook, _NODES[:1] if options.short else _NODES)
    start = time.monotonic()
    try:
        hosts.down(_NODES)
        hosts.up_hub()
        hosts.up(demo.nodes)
        results = demo.job(meddle=not options.short)
        demo.look()
    except BedError as error:
        print(f"demo: {error}", file=sys.stderr)
        return 1
    finally:
        if not options.keep:
            hosts.down(_NODES)
    _show(results)
    print(f"\nFrom bare to this in {time.monotonic() - start:.0f} s, with the job run again and predicted twice.")
    return 0


@dataclass(frozen=True)
class _Demo:
    """
    :ivar program: the ansible-playbook that runs it.
    :ivar nodes: the hosts.
    """

    program: str
    nodes: Sequence[str]

    def job(self, *, meddle: bool) -> dict[str, dict]:
        """Predict, do, do again, meddle, put right, predict again.

        :raises BedError: if a run fails, a prediction is wrong, or a later run changes what it need not or takes too
            many tasks.
        """
        with tempfile.TemporaryDirectory() as folder:
            report = Path(folder) / "report.json"
            predicted = self._playbook("What check mode predicts for bare hosts", "--check")
            done = self._playbook("The job", f"--extra-vars=acceptance_report={report}")
            _expect_no_change(self._playbook("The job again, which finds nothing to do"), self.nodes, _TASKS_SETTLED)
            if meddle:
                self._meddle()
            # Everything is looked at, also where it is known that there is nothing to do.
            after = self._playbook(
                "What check mode predicts for finished hosts", "--check", "-e", "llmfleet_drift_days=0"
            )
            _expect_no_change(after, self.nodes, _TASKS)
            results = json.loads(report.read_text())
        for host in self.nodes:
            expected, made = predicted.changed[-1][host], done.changed[-1][host]
            if not (expected and made):
                raise BedError(f"{host}: check mode predicted {expected} changes, {made} were made.")
            if not results[host]["services"]:
                raise BedError(f"{host}: no service has answered.")
        return results

    def _meddle(self) -> None:
        """Change what the job has made on the last host, and have that put right.

        :raises BedError: if nobody notices, or something else is changed.
        """
        *others, victim = self.nodes
        for command in _MEDDLED:
            print(f"\n{victim}# {command}", flush=True)
            docker("exec", victim, *command.split())
        repaired = self._playbook("The job again, after somebody has meddled with a host")
        _expect_no_change(repaired, others, _TASKS)
        if missing := [told for told in _MEDDLED.values() if told not in repaired.said]:
            raise BedError(f"Nobody has noticed: {'; '.join(missing)}.")
        if repaired.changed[-1][victim] < len(_MEDDLED):
            raise BedError(f"{victim}: {repaired.changed[-1][victim]} things were put right of {len(_MEDDLED)}.")

    def _playbook(self, title: str, *options: str) -> Outcome:
        print(f"\n=== {title}\n", flush=True)
        playbook, inventory = _ROOT / "playbooks" / "site.yml", _ROOT / "inventories" / "demo"
        limit = f"--limit={','.join(self.nodes)}"
        outcome = run([self.program, f"--inventory={inventory}", limit, str(playbook), *options], _ENV)
        if outcome.status != 0 or not outcome.changed:
            raise BedError(f"{self.program} ended with status {outcome.status}.")
        return outcome

    def look(self) -> None:
        """Look at the finished hosts from outside of Ansible.

        :raises BedError: if one is not as it should be.
        """
        print("\n=== The hosts as they are now\n", flush=True)
        connections = ",".join(f"docker://{host}" for host in self.nodes)
        if run([sys.executable, "-m", "pytest", f"--hosts={connections}", str(_ROOT / "tests" / "demo")]).status != 0:
            raise BedError("The hosts are not as the job should have left them.")


def _expect_no_change(outcome: Outcome, names: Sequence[str], tasks: int) -> None:
    """:raises BedError: if something was changed, or too many tasks were run."""
    for host in names:
        changed, ran = outcome.changed[-1][host], outcome.ran[-1][host]
        if changed:
            raise BedError(f"{host}: {changed} changes where nothing was to be done.")
        if ran > tasks:
            raise BedError(f"{host}: {ran} tasks where {tasks} or fewer are expected. See docs/scale.md.")


def _show(results: dict[str, dict]) -> None:
    for host, result in results.items():
        print(f"\n{host}: {len(result['gpus'])} x {result['gpus'][0]}, gate: {result['gate']}")
        for service in result["services"]:
            print(f"  model     {service['model']}, sha256 {service['model_sha256']}")
            print(f"  engine    {service['engine']} {service['engine_version']}")
            print(f"  question  {result['question']}")
            print(f"  answer    {service['answer'].strip()}")
            print(f"  speed     {service['tokens_per_second']} tokens/s")


if __name__ == "__main__":
    sys.exit(main())
