# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a host has on record is read as it is, without secrets."""

from __future__ import annotations

import json

import pytest

from ansible_collections.llmfleet.serving.plugins.module_utils import _host_records
from ansible_collections.llmfleet.serving.plugins.module_utils._errors import LlmError
from ansible_collections.llmfleet.serving.plugins.module_utils._files import companion, write_json, write_record

COMMIT = "0" * 40
UNIT = """Id=llmfleet-r1.service
Description=vLLM 0.8.5
LoadState=loaded
ActiveState=active
SubState=running
UnitFileState=enabled
Result=success
NRestarts=2
ActiveEnterTimestamp=Mon 2026-11-30 02:20:08 UTC
ExecStart={ path=/x ; argv[]=/opt/llmfleet/vllm/0.8.5/bin/vllm serve --api-key c4n4ry ; ignore_errors=no ; }
EnvironmentFiles=@FILE@ (ignore_errors=no)
"""
TOOL = """Id=llmfleet-tool.service
Description=A tool
LoadState=loaded
ActiveState=inactive
SubState=dead
UnitFileState=static
Result=success
NRestarts=
ActiveEnterTimestamp=
ExecStart=
EnvironmentFiles=
"""
EXPOSURE = "→ Overall exposure level for llmfleet-r1.service: 1.6 OK :-)"


def put_model(folder, guard, names, transfer=None, **wanted):
    outputs = {}
    for number, name in enumerate(names):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x" * (number + 1))
        outputs[name] = f"{number:064d}"
        write_record(path, {"sha256": outputs[name]})
    write_json(
        companion(guard, "manifest"),
        {
            "hub": "https://u:secret@hub",
            "wanted": {"repo": "a/b", "commit": COMMIT, **wanted},
            "outputs": outputs,
            **({"transfer": transfer} if transfer else {}),
        },
    )


@pytest.fixture
def store(tmp_path):
    put_model(tmp_path, tmp_path / "one.gguf", ["one.gguf"], {"bytes": 1, "seconds": 338.4}, files="*")
    put_model(tmp_path / "many", tmp_path / "many" / "snapshot", ["a.safetensors", "b/c.json"])
    return tmp_path


def test_models_in_one_file_and_in_many(store):
    many, one = _host_records.models(store)
    assert one["name"] == "one"
    assert one["sha256"] == "0" * 64
    assert (one["files"], one["bytes"], one["intact"], one["commit"]) == (1, 1, True, COMMIT)
    assert one["written"].endswith("Z")
    assert (one["seconds"], many["seconds"]) == (338.4, None)
    assert (many["name"], many["files"], many["bytes"], many["intact"]) == ("many", 2, 3, True)
    assert len(many["sha256"]) == 64
    assert "secret" not in json.dumps([one, many])


def test_a_model_that_is_another_file_now_is_not_intact(store):
    (store / "one.gguf").write_bytes(b"other")
    (store / "many/a.safetensors").unlink()
    assert [model["intact"] for model in _host_records.models(store)] == [False, False]


def test_a_model_that_is_gone_has_no_time(store):
    (store / "one.gguf").unlink()
    one = _host_records.models(store)[1]
    assert (one["bytes"], one["written"], one["intact"]) == (0, None, False)


@pytest.mark.parametrize("content", ["", "[]", '{"outputs": {}}', '{"outputs": {"a": "b"}}'])
def test_what_is_no_manifest_is_no_model(tmp_path, content):
    (tmp_path / ".x.gguf.llmfleet.manifest").write_text(content)
    assert _host_records.models(tmp_path) == []


def test_no_directory_has_no_models(tmp_path):
    assert _host_records.models(tmp_path / "none") == []


def systemd(shown, listed="llmfleet-r1.service enabled enabled\n", status=0, error=""):
    def run(argv, *, environ_update):
        assert environ_update["LC_ALL"] == "C"
        if argv[0] == "systemd-analyze":
            return 0, EXPOSURE if argv[-1] == "llmfleet-r1.service" else "", ""
        return (status, listed, error) if argv[1] == "list-unit-files" else (0, shown, "")

    return run


def test_units(tmp_path):
    file = tmp_path / "r1.env"
    file.write_text('# managed\nHF_TOKEN="c4n4ry"\nKEEP="10m"\nPLAIN=1\nODD="\n')
    engine, tool = _host_records.units(systemd(UNIT.replace("@FILE@", str(file)) + "\n" + TOOL), ["llmfleet-*"])
    assert engine == {
        "name": "llmfleet-r1.service",
        "description": "vLLM 0.8.5",
        "state": "active (running)",
        "since": "2026-11-30T02:20:08Z",
        "enabled": "enabled",
        "result": "success",
        "restarts": 2,
        "engine": "vllm",
        "version": "0.8.5",
        "score": 1.6,
        "rating": "OK",
        "argv": ["/opt/llmfleet/vllm/0.8.5/bin/vllm", "serve", "--api-key", "(hidden)"],
        "environment": {"HF_TOKEN": "(hidden)", "KEEP": "10m", "PLAIN": "1", "ODD": '"'},
    }
    assert (tool["state"], tool["since"], tool["restarts"], tool["argv"]) == ("inactive (dead)", None, 0, [])
    assert (tool["engine"], tool["score"], tool["rating"], tool["environment"]) == (None, None, None, {})


def test_an_environment_file_that_is_gone(tmp_path):
    (engine,) = _host_records.units(systemd(UNIT.replace("@FILE@", str(tmp_path / "none"))), ["llmfleet-*"])
    assert engine["environment"] == {}


def test_no_units(tmp_path):
    # Some versions of systemctl end with 1 when nothing matches.
    assert _host_records.units(systemd("", "", status=1), ["llmfleet-*"]) == []


def test_a_host_without_systemd_is_told():
    with pytest.raises(
        LlmError, match=r"systemctl list-unit-files.*System has not been booted.*Expected a host that systemd runs"
    ):
        _host_records.units(systemd("", "", status=1, error="System has not been booted\nwith systemd"), ["llmfleet-*"])


@pytest.mark.parametrize("content", ['{"services": {"r1": {"current": {}}}}', '{"services": []}', "no"])
def test_figures(tmp_path, content):
    (tmp_path / "record").write_text(content)
    expected = {"r1": {"current": {}}} if "current" in content else {}
    assert _host_records.figures(tmp_path / "record") == expected


def test_no_figures(tmp_path):
    assert _host_records.figures(tmp_path / "none") == {}
