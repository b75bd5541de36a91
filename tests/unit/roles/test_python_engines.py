"""vLLM and SGLang: what the roles tell them, and that their key is nowhere to be seen."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from ansible_collections.llmfleet.serving.plugins.module_utils._arguments import command_line
from ansible_collections.llmfleet.serving.plugins.plugin_utils._options import shared
from testbed.options.examples import examples

ROLES = Path(__file__).parents[3] / "roles"
SERVE = ROLES / "_python_engine" / "files" / "serve.py"
OWN = {
    "vllm": ["serve", "/models/r1", "--served-model-name", "r1", "--host", "127.0.0.1", "--port", "8000"],
    "sglang": ["--model-path", "/models/r1", "--served-model-name", "r1", "--host", "127.0.0.1", "--port", "30000"],
}
EXAMPLES = [(engine, version, args) for engine, version, args in examples() if engine in OWN]
CASES = {f"{engine}-{version}": (engine, {f"{engine}_version": version}) for engine, version, _args in EXAMPLES} | {
    "four": ("vllm", {"vllm_version": "0.32.0", "vllm_gpus": [0, 1, 2, 3]}),
    "args": ("vllm", {"vllm_version": "0.32.0", "vllm_args": {"tp": 2, "quantization": None, "seed": 1}}),
    "drained": ("vllm", {"vllm_version": "0.32.0", "vllm_args": {"shutdown-timeout": 600}}),
    "alone": (
        "sglang",
        {"sglang_version": "0.5.23", "sglang_defaults": {}, "sglang_args": {"trust_remote_code": True}},
    ),
}
VARIABLES = {
    engine: {
        f"{engine}_model": "/models/r1",
        f"{engine}_served_name": "r1",
        "ansible_python_interpreter": sys.executable,
    }
    for engine in OWN
}


def play(engine, tasks):
    files = [str(ROLES / engine / name / "main.yml") for name in ("defaults", "vars")]
    # A task's variables count more than files with variables do, and those of a role's caller more than its defaults.
    tasks = [{**task, "vars": {**VARIABLES[engine], **task["vars"]}} for task in tasks]
    return {"hosts": "localhost", "gather_facts": False, "vars_files": files, "tasks": tasks}


def run(folder, plays):
    (folder / "play.yml").write_text(json.dumps(plays))
    argv = [str(Path(sys.executable).with_name("ansible-playbook")), "-i", "localhost,", "-c", "local", "play.yml"]
    env = {**os.environ, "ANSIBLE_NOCOLOR": "1"}
    return subprocess.run(argv, cwd=folder, env=env, capture_output=True, text=True, timeout=180, check=False)


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    """The words and the time to drain of each case."""
    folder = tmp_path_factory.mktemp("engines")
    plays = []
    for name, (engine, variables) in CASES.items():
        drain = "__vllm_drain | int" if engine == "vllm" else "0"
        content = (
            f"{{{{ {{'words': (__{engine}_own + __{engine}_options) | map('string'), 'drain': {drain}}} | to_json }}}}"
        )
        task = {"ansible.builtin.copy": {"content": content, "dest": f"{folder}/{name}.json"}, "vars": variables}
        plays.append(play(engine, [task]))
    done = run(folder, plays)
    assert done.returncode == 0, done.stdout + done.stderr
    return {name: json.loads((folder / f"{name}.json").read_text()) for name in CASES}


def options(words):
    """Each with its values, in any order."""
    return sorted(" ".join(words).split(" --"))


@pytest.mark.parametrize(("engine", "version", "args"), EXAMPLES, ids=[f"{one}-{two}" for one, two, _three in EXAMPLES])
def test_an_engine_is_told_by_default_what_the_documentation_has_for_deepseek_r1(told, engine, version, args):
    expected = OWN[engine] + command_line(shared(), engine, version, args)
    assert options(told[f"{engine}-{version}"]["words"]) == options(expected)


def test_there_are_as_many_ranks_as_gpus(told):
    words = told["four"]["words"]
    assert words[words.index("--tensor-parallel-size") + 1] == "4"


def test_args_replace_defaults_and_take_them_back(told):
    words = told["args"]["words"]
    assert words[-4:] == ["--tensor-parallel-size", "2", "--seed", "1"]
    assert words.count("--tensor-parallel-size") == 1
    assert "--quantization" not in words


def test_without_defaults_the_engine_has_its_own(told):
    assert told["alone"]["words"] == [*OWN["sglang"], "--trust-remote-code"]


def test_code_of_a_model_is_run_only_where_it_is_asked_for(told):
    assert {name for name, told in told.items() if "--trust-remote-code" in told["words"]} == {"alone"}


def test_requests_have_the_time_to_end_that_the_engine_gives_them(told):
    times = {name: case["drain"] for name, case in told.items() if CASES[name][0] == "vllm"}
    assert times == {
        "vllm-0.8.5.post1": 0, "vllm-0.32.0": 120, "vllm-0.33.0": 120, "four": 120, "args": 120, "drained": 600,
    }  # fmt: skip


def test_a_wrong_flag_is_refused_with_what_to_do_instead(tmp_path):
    variables = {"vllm_version": "0.32.0", "vllm_args": {"swap_space": 4, "enforce_eagre": True}}
    done = run(tmp_path, [play("vllm", [{"ansible.builtin.debug": {"var": "__vllm_options"}, "vars": variables}])])
    said = " ".join((done.stdout + done.stderr).split())
    assert done.returncode != 0
    assert "Removed in 0.18.0." in said
    assert "enforce-eager" in said


def test_the_two_roles_have_the_same_options():
    def names(engine):
        spec = yaml.safe_load((ROLES / engine / "meta/argument_specs.yml").read_text())["argument_specs"]["main"]
        return [name.removeprefix(engine) for name in spec["options"]]

    assert names("vllm") == names("sglang")


# An engine that writes all it was told into its log, in its own process and in another, as the real ones do.
ENGINE = """
import logging, multiprocessing, os, sys
from pathlib import Path

def child(queue):
    queue.put("child runs")

if __name__ == "__main__":
    logging.basicConfig(level="INFO")
    logging.info("args: %s, environment: %r", sys.argv, os.environ.get("VLLM_API_KEY"))
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    process = context.Process(target=print, args=("child runs",))
    process.start()
    process.join()
    key = os.environ.get("VLLM_API_KEY") or sys.argv[sys.argv.index("--api-key") + 1]
    assert key == "canary-key"
    assert b"canary" not in Path("/proc/self/cmdline").read_bytes()
    print(sys.argv[:3])
    sys.exit(7)
"""


@pytest.mark.parametrize(
    ("engine", "module"), [("vllm", "vllm/entrypoints/cli/main.py"), ("sglang", "sglang/launch_server.py")]
)
def test_the_key_is_given_inside_the_process_and_stays_out_of_the_log(tmp_path, engine, module):
    (tmp_path / module).parent.mkdir(parents=True)
    (tmp_path / module).write_text(ENGINE)
    (tmp_path / "key").write_text("canary-key\n")
    done = subprocess.run(
        [sys.executable, str(SERVE), engine, "serve", "--port=1"],
        env={**os.environ, "PYTHONPATH": str(tmp_path), "CREDENTIALS_DIRECTORY": str(tmp_path)},
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 7, done.stderr
    assert "canary" not in done.stdout + done.stderr
    assert "***" in done.stderr
    assert "child runs" in done.stdout
    assert f"['{engine}', 'serve', '--port=1']" in done.stdout
