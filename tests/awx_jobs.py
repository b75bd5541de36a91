# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Job templates as AWX runs them: by the real ansible-runner, with what the surveys yield, a credential in a file."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import types
from pathlib import Path

from testbed.awx.rules import QUESTION_TYPES

ROOT = Path(__file__).parents[1]
CANARY = "hf_c4n4ry"


def survey_variables(template, **answers):
    """What AWX makes of answers: the form is held to, and a question without an answer gives no variable."""
    questions = {question["variable"]: question for question in template["survey"]}
    assert answers.keys() <= questions.keys()
    for name, answer in answers.items():
        assert isinstance(answer, QUESTION_TYPES[questions[name]["type"]])
        assert answer in questions[name].get("choices", [answer])
    required = {name for name, question in questions.items() if question["required"]}
    assert required <= answers.keys()
    return answers


def runner(folder, template, inventory, variables, playbook=None):
    """Run a job template as AWX does, its credential a file whose path is in the environment."""
    (folder / "env").mkdir(parents=True)
    token = folder / "token"
    token.write_text(CANARY)
    token.chmod(0o600)
    (folder / "env" / "extravars").write_text(json.dumps(variables))
    (folder / "env" / "envvars").write_text(json.dumps({"LLMFLEET_HUB_TOKEN_FILE": str(token)}))
    (folder / "env" / "settings").write_text(json.dumps({"job_timeout": template["timeout"]}))
    shutil.copytree(inventory, folder / "inventory")
    (folder / "project").symlink_to(ROOT)
    program = Path(sys.executable).with_name("ansible-runner")
    options = ["-p", playbook or template["playbook"], "-i", "job", "--limit", template["limit"]]
    # It looks for ansible-playbook on the path.
    env = {**os.environ, "PATH": f"{program.parent}:{os.environ['PATH']}"}
    argv = [str(program), "run", str(folder), *options]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=1500, env=env, check=False)
    artifacts = folder / "artifacts" / "job"
    events = [json.loads(path.read_text()) for path in (artifacts / "job_events").glob("*.json")]
    token.unlink()
    return types.SimpleNamespace(
        status=done.returncode,
        said=done.stdout + done.stderr,
        events=sorted(events, key=lambda event: event["counter"]),
        rc=(artifacts / "rc").read_text(),
        text="".join(path.read_text(errors="replace") for path in folder.rglob("*") if _is_kept(path, folder)),
    )


def _is_kept(path, folder):
    return path.is_file() and not path.is_relative_to(folder / "project")


def outcomes(events):
    """Task, host and result of each event that is a result."""
    kinds = {f"runner_on_{kind}": kind for kind in ("ok", "failed", "skipped", "unreachable")}
    return [
        (event["event_data"]["task"], event["event_data"]["host"], kinds[event["event"]])
        for event in events
        if event["event"] in kinds
    ]


def by_hand(template, inventory, variables, environment=None):
    """The same by ansible-playbook.

    :param environment: variables on top of this process's.
    """
    command = [Path(sys.executable).with_name("ansible-playbook"), "-i", inventory, ROOT / template["playbook"]]
    env = {**os.environ, "ANSIBLE_STDOUT_CALLBACK": "ansible.posix.json", **(environment or {})}
    argv = [*map(str, command), "--limit", template["limit"], "-e", json.dumps(variables)]
    done = subprocess.run(argv, cwd=ROOT, env=env, capture_output=True, text=True, timeout=1500, check=False)
    found = []
    for play in json.loads(done.stdout[done.stdout.index("{") :])["plays"]:
        for task in play["tasks"]:
            for host, result in task["hosts"].items():
                kind = "failed" if result.get("failed") else "skipped" if result.get("skipped") else "ok"
                found.append((task["task"]["name"].rpartition(" : ")[2], host, kind))
    return done.returncode, found


def artifacts_of(events):
    """What AWX keeps of `set_stats` and hands to a workflow's next jobs."""
    (last,) = [event for event in events if event["event"] == "playbook_on_stats"]
    return last["event_data"]["artifact_data"]
