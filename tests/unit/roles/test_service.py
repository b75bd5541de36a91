"""The program behind services: their keys, what they were started with, and what is passed on of their logs."""

from __future__ import annotations

import importlib.util
import json
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from ansible_collections.llmfleet.serving.plugins.module_utils._errors import LlmError
from ansible_collections.llmfleet.serving.plugins.plugin_utils._program import bundle

PROGRAM = Path(__file__).parents[3] / "roles/_service/files/service.py"


@pytest.fixture
def program(tmp_path, monkeypatch):
    """The program as a module, with its files below `tmp_path`."""
    spec = importlib.util.spec_from_file_location("service_program", PROGRAM)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "service_program", module)
    spec.loader.exec_module(module)
    for name in ("_ETC", "_UNITS", "_CACHE", "_STARTED", "_WATCHDOG", "_FENCE"):
        monkeypatch.setattr(module, name, tmp_path / name)
        if name not in ("_FENCE", "_STARTED"):
            (tmp_path / name).mkdir()
    (tmp_path / "_ETC/x.json").write_text(
        json.dumps({"gpus": {}, "gpus_by": "uuid", "key": True, "ready_url": "http://127.0.0.1:9/"})
    )
    return module


@pytest.fixture
def etc(tmp_path):
    return tmp_path / "_ETC"


@pytest.fixture
def systemd(program, monkeypatch):
    """`systemd(active="active", reload=False, log="")` is what systemctl and journalctl say."""

    def say(active="active", reload=False, log=""):
        shown = (
            f"LoadState=loaded\nActiveState={active}\nInvocationID=1\nJob=\n"
            f"NeedDaemonReload={'yes' if reload else 'no'}\n"
        )
        answers = {"systemctl": shown, "journalctl": log}
        monkeypatch.setattr(program, "run_command", lambda argv, **_options: (0, answers[argv[0]], ""))

    say()
    return say


def said(capsys, function, *words):
    status = function(list(words))
    return status, capsys.readouterr().out.strip()


def test_key_is_made_once_and_for_root_only(program, etc, capsys):
    assert said(capsys, program.main, "key", "x", "file", "--check") == (0, "changed")
    assert not (etc / "x.key").exists()
    assert said(capsys, program.main, "key", "x", "file") == (0, "changed")
    key = (etc / "x.key").read_text()
    assert len(bytes.fromhex(key.strip())) == 32
    assert stat.S_IMODE((etc / "x.key").stat().st_mode) == 0o600
    assert said(capsys, program.main, "key", "x", "file") == (0, "same")
    assert (etc / "x.key").read_text() == key


def test_options_hold_the_same_key_and_follow_it(program, etc, capsys):
    program.main(["key", "x", "yaml"])
    first = (etc / "x.key").read_text().strip()
    assert (etc / "x.key.yaml").read_text() == f"api-key: {first}\n"
    (etc / "x.key").unlink()
    capsys.readouterr()
    assert said(capsys, program.main, "key", "x", "yaml", "--check") == (0, "changed")
    assert said(capsys, program.main, "key", "x", "yaml") == (0, "changed")
    second = (etc / "x.key").read_text().strip()
    assert second != first
    assert (etc / "x.key.yaml").read_text() == f"api-key: {second}\n"
    assert said(capsys, program.main, "key", "x", "yaml") == (0, "same")


def test_key_of_ones_own_is_kept_and_closed(program, etc, capsys):
    (etc / "x.key").write_text("sk-own\n")
    (etc / "x.key").chmod(0o644)
    assert said(capsys, program.main, "key", "x", "file") == (0, "changed")
    assert (etc / "x.key").read_text() == "sk-own\n"
    assert stat.S_IMODE((etc / "x.key").stat().st_mode) == 0o600


def test_what_is_no_key_is_refused_and_not_shown(program, etc):
    (etc / "x.key").write_text("two words\n")
    with pytest.raises(LlmError, match="holds 2 words") as refused:
        program.main(["key", "x", "file"])
    assert "two words" not in str(refused.value)


@pytest.mark.parametrize("file", ["_UNITS/x.service", "_ETC/x.env", "_ETC/x.key", "_ETC/x.key.yaml"])
def test_service_runs_on_other_files_than_are_written(program, systemd, capsys, tmp_path, file):
    program.main(["start", "x"])
    assert said(capsys, program.main, "compare", "x") == (0, "same")
    (tmp_path / file).write_text("new\n")
    assert said(capsys, program.main, "compare", "x") == (0, "other")
    # What does not run will be started with the new ones.
    systemd("inactive", reload=True)
    assert said(capsys, program.main, "compare", "x") == (0, "reload")


def test_running_service_without_a_record_is_started_anew(program, systemd, capsys):
    assert said(capsys, program.main, "compare", "x") == (0, "other")


def test_start_tidies_up(program, tmp_path):
    left = tmp_path / "_CACHE/x/tmp"
    (left / "folder/file").mkdir(parents=True)
    (left / "link").symlink_to(tmp_path)
    program.main(["start", "x"])
    assert list(left.iterdir()) == []
    assert tmp_path.exists()


def test_service_that_ended_is_told_with_its_last_words_without_the_key(program, systemd, etc, capsys):
    program.main(["key", "x", "file"])
    key = (etc / "x.key").read_text().strip()
    systemd("failed", log=f"args: {{'api_key': '{key}'}}\nCUDA error\n")
    capsys.readouterr()
    assert program.main(["ready", "x"]) == 1
    words = capsys.readouterr().err
    assert words.startswith("x.service is failed (result: success). http://127.0.0.1:9/ cannot be reached")
    assert words.endswith("args: {'api_key': '(key)'}\nCUDA error\n")


def test_service_that_starts_is_not_ready_yet(program, systemd, monkeypatch):
    monkeypatch.setattr(program, "_READY_S", 0)
    systemd("activating")
    assert program.main(["ready", "x"]) == 2


def test_bundle_says_one_line_without_its_configuration(tmp_path):
    (tmp_path / "service.pyz").write_bytes(bundle(PROGRAM))
    argv = [sys.executable, "-I", str(tmp_path / "service.pyz"), "watch", "nothing"]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("/etc/llmfleet/nothing.json is missing")
    assert done.stderr.count("\n") == 1


@pytest.fixture
def watched(program, systemd, monkeypatch, etc, tmp_path):
    """A service that hangs, at its second failed probe: `watched(run)` looks at it, tells what was run, and the state.

    `run` names the service's run when the probe is over.
    """
    watchdog = {"api": "openai", "url": "http://127.0.0.1:9", "model": "x", "metrics_url": "http://127.0.0.1:9/"}
    config = {"gpus": {}, "key": False, "ready_url": "http://127.0.0.1:9/", "start_timeout": 60}
    (etc / "x.json").write_text(json.dumps({**config, "watchdog": {**watchdog, "hung_after": 1}}))
    file = tmp_path / "_WATCHDOG/x.json"
    file.write_text(json.dumps({"run": "1", "ready": True, "failed": 1, "suspected": 1.0, "verdict": "suspect"}))

    def look(run="1"):
        commands, runs = [], iter(["1", run])

        def answer(argv, **_options):
            commands.append(argv[1])
            shown = "LoadState=loaded\nActiveState=active\n"
            return 0, f"{shown}InvocationID={next(runs)}\n" if argv[1] == "show" else "", ""

        monkeypatch.setattr(program, "run_command", answer)
        program.main(["watch", "x"])
        return commands, json.loads(file.read_text())

    return look


def test_hung_service_is_restarted_once_it_is_written_down(watched, capsys):
    commands, state = watched()
    assert commands == ["show", "show", "kill", "try-restart"]
    assert (state["service"], state["verdict"], len(state["restarts"])) == ("x", "restarted", 1)
    assert capsys.readouterr().out.startswith("<4>x.service: restarted: no sign of life for ")


def test_service_that_somebody_restarted_meanwhile_is_not_restarted_again(watched, capsys):
    commands, state = watched(run="2")
    assert commands == ["show", "show"]
    assert state["verdict"] == "suspect"
    assert capsys.readouterr().out == ""


def test_fenced_host_is_left_alone(watched, program):
    program._FENCE.touch()
    commands, state = watched()
    assert (commands, state["verdict"]) == (["show"], "fenced")


def test_part_of_a_service_is_restarted_when_the_head_s_connection_has_ended(
    program, monkeypatch, etc, tmp_path, capsys
):
    meeting = {"own": "10.0.0.2", "port": 29501, "head": False, "peers": {"n1": "10.0.0.1"}}
    watchdog = {"api": "openai", "url": "http://127.0.0.1:9", "model": "x", "metrics_url": ""}
    config = {"gpus": {}, "key": True, "ready_url": "", "start_timeout": 60}
    (etc / "x.json").write_text(json.dumps({**config, "watchdog": {**watchdog, "serves": False, "meeting": meeting}}))
    connection = "0 0 [::ffff:10.0.0.2]:56232 [::ffff:10.0.0.1]:29501\n"
    connections = iter([connection, connection, "", ""])
    monkeypatch.setattr(program._meeting, "unreachable", lambda _meeting: [])
    monkeypatch.setattr(program, "cpu_seconds", lambda _unit: 1.0)
    commands, verdicts = [], []

    def answer(argv, **_options):
        commands.append(argv[1])
        shown = "LoadState=loaded\nActiveState=active\nInvocationID=1\n"
        return 0, next(connections) if argv[0] == "ss" else shown, ""

    monkeypatch.setattr(program, "run_command", answer)
    for _look in range(4):
        assert program.main(["watch", "x"]) == 0
        verdicts.append(json.loads((tmp_path / "_WATCHDOG/x.json").read_text())["verdict"])
    assert verdicts == ["joined", "joined", "joined", "restarted"]
    assert commands[-2:] == ["kill", "try-restart"]
    assert "restarted: n1 of the hosts that share it, or what ran there, has gone." in capsys.readouterr().out
