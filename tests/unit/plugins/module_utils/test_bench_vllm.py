"""vLLM's own client: how it is found and called, and what its figures become. A program of the tests stands in for it.

`molecule/vllm` runs the real one.
"""

from __future__ import annotations

import json
import stat
import sys
import time
from pathlib import Path

import pytest

from ansible_collections.llmfleet.serving.plugins.module_utils._bench import Load
from ansible_collections.llmfleet.serving.plugins.module_utils._bench_vllm import Client, client_of, measure_by
from ansible_collections.llmfleet.serving.plugins.module_utils._errors import LlmError
from ansible_collections.llmfleet.serving.plugins.module_utils._probe import Question

RESULT = json.loads((Path(__file__).parent / "fixtures" / "vllm-bench" / "0.32.0.json").read_text())
KEY = "sk-canary-1234"
CHAT = "POST /v1/chat/completions"
ANSWER = [
    b'data: {"model": "tiny", "choices": [{"delta": {"content": "Rayleigh"}}]}\n\n',
    b"data: [DONE]\n\n",
]
# Takes note of how it was called, and does what the test has written beside it.
PROGRAM = """#!{python}
import json, os, pathlib, sys, time
here = pathlib.Path(__file__).parent
if "-c" in sys.argv:
    print("0.32.0")
    raise SystemExit
words = sys.argv[1:]
options = dict(zip(words, words[1:]))
seen = {{"argv": words, "env": dict(os.environ), "prompts": json.load(open(options["--dataset-path"]))}}
(here / "seen.json").write_text(json.dumps(seen))
exec((here / "does.py").read_text())
"""
WRITE = "pathlib.Path(options['--result-dir'], options['--result-filename']).write_text({!r})"


@pytest.fixture
def program(tmp_path):
    """The stand-in, which writes what the real client has written."""
    path = tmp_path / "env" / "bin" / "python"
    path.parent.mkdir(parents=True)
    path.write_text(PROGRAM.format(python=sys.executable))
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    does(path, WRITE.format(json.dumps(RESULT)))
    return path


@pytest.fixture
def engine(scripted, tmp_path):
    scripted.routes = {"GET /v1/models": {"data": [{"id": "tiny", "root": str(tmp_path)}]}, CHAT: ANSWER}
    return scripted


def does(program, text):
    program.with_name("does.py").write_text(text)


def seen(program):
    return json.loads(program.with_name("seen.json").read_text())


def measured(program, engine, **options):
    question = Question(
        engine.url, options.pop("api", "openai"), "tiny", "", options.pop("max_tokens", 16), options.pop("timeout", 60)
    )
    question = Question(**{**vars(question), "key": KEY})
    options = {
        "concurrencies": [2],
        "requests": 2,
        "warmup": 0,
        "prompts": ["Why?", "How?"],
        "unique": False,
        **options,
    }
    return list(measure_by(Client(str(program), "0.32.0"), Load(question, **options)))


def other_result(**changes):
    return WRITE.format(json.dumps({**RESULT, **changes}))


def test_its_figures_are_ours(program, engine):
    [row] = measured(program, engine)
    assert row == {
        "concurrency": 2,
        "requests": 4,
        "failures": 0,
        "seconds": 1.453088,
        "output_tokens": 64,
        "tokens_from": "usage",
        "output_tokens_per_second": 44.04,
        "output_tokens_per_second_stream": 22.02,
        "total_tokens_per_second": 153.47,
        "ttft_seconds": {"mean": 0.420126, "p50": 0.463018, "p90": 0.598346, "p99": 0.625362},
        "tpot_seconds": {"mean": 0.013288, "p50": 0.010465, "p90": 0.021881, "p99": 0.025289},
        "latency_seconds": {"mean": 0.619448, "p50": 0.57132, "p90": 0.76481, "p99": 0.818107},
    }


def test_it_asks_what_our_own_client_asks(program, engine, tmp_path):
    measured(program, engine)
    argv = seen(program)["argv"]
    assert argv[:6] == ["-I", "-B", "-m", "vllm.entrypoints.cli.main", "bench", "serve"]
    options = dict(zip(argv, argv[1:]))
    wanted = {
        "--backend": "openai-chat",
        "--base-url": engine.url,
        "--endpoint": "/v1/chat/completions",
        "--model": "tiny",
        "--tokenizer": str(tmp_path),
        "--sharegpt-output-len": "16",
        "--num-prompts": "4",
        "--max-concurrency": "2",
        "--request-rate": "inf",
        "--metric-percentiles": "50,90,99",
    }
    assert {name: options[name] for name in wanted} == wanted
    assert "--ignore-eos" not in argv
    asked = [row["conversations"][0]["value"] for row in seen(program)["prompts"]]
    assert asked == ["Why?", "How?", "Why?", "How?"]


def test_prompts_are_unique_where_they_are_to_be(program, engine):
    measured(program, engine, unique=True)
    asked = [row["conversations"][0]["value"] for row in seen(program)["prompts"]]
    assert len(set(asked)) == 4
    assert [prompt.partition("] ")[2] for prompt in asked] == ["Why?", "How?", "Why?", "How?"]


def test_warm_up_is_asked_by_us_with_the_key(program, engine):
    measured(program, engine, warmup=1)
    chats = [headers for line, headers, _body in engine.seen if line == CHAT]
    assert [headers["Authorization"] for headers in chats] == [f"Bearer {KEY}"] * 2


def test_key_is_in_the_environment_and_in_no_argument(program, engine, monkeypatch):
    monkeypatch.setenv("no_proxy", "intranet")
    measured(program, engine)
    called = seen(program)
    assert KEY not in json.dumps(called["argv"])
    assert called["env"]["OPENAI_API_KEY"] == KEY
    assert called["env"]["HF_HUB_OFFLINE"] == "1"
    assert called["env"]["no_proxy"] == "intranet,127.0.0.1,localhost"


def test_nothing_stays_of_it(program, engine):
    measured(program, engine)
    called = seen(program)
    folder = Path(called["env"]["HOME"])
    assert folder.name.startswith("llmfleet-bench-")
    assert called["env"]["TMPDIR"] == str(folder)
    assert not folder.exists()


def test_a_failed_request_fails_with_its_reason(program, engine):
    errors = [
        "",
        "Traceback (most recent call last):\n  File ...\nServerDisconnectedError: Server disconnected\n",
        "",
        "",
    ]
    does(program, other_result(completed=3, errors=errors))
    with pytest.raises(LlmError) as failure:
        measured(program, engine)
    assert str(failure.value) == (
        "1 of 4 requests to tiny failed at concurrency 2, made by vllm 0.32.0, 3 were answered. "
        "The first failure: ServerDisconnectedError: Server disconnected"
    )


def test_what_nobody_answered_has_no_figures(program, engine):
    zeros = {name: 0.0 for name in RESULT if name.endswith("_ms")}
    nothing = {"total_output_tokens": 0, "output_throughput": 0.0, "total_token_throughput": 0.0, **zeros}
    does(program, other_result(completed=0, errors=["Unauthorized"] * 4, **nothing))
    question = Question(engine.url, "openai", "tiny", "", 16, 60)
    rounds = measure_by(Client(str(program), "0.32.0"), Load(question, [2], 2, 0, ["Why?"], False))
    row = next(rounds)
    assert (row["requests"], row["failures"], row["output_tokens"]) == (4, 4, 0)
    assert [name for name, value in row.items() if value is None] == [
        "output_tokens_per_second",
        "output_tokens_per_second_stream",
        "total_tokens_per_second",
        "ttft_seconds",
        "tpot_seconds",
        "latency_seconds",
    ]
    with pytest.raises(LlmError, match=r"4 of 4 requests to tiny failed .* The first failure: Unauthorized"):
        next(rounds)


def test_prompts_that_it_left_out_are_told(program, engine):
    does(program, other_result(completed=3, errors=[""] * 3))
    with pytest.raises(LlmError, match=r"has asked tiny 3 of 4 prompts at concurrency 2.* 4 to 1024 tokens"):
        measured(program, engine)


def test_its_last_words_are_the_reason_without_the_key(program, engine):
    does(
        program, f"print('usage: vllm')\nprint('key {KEY}', file=sys.stderr)\nsys.exit('error: unrecognized arguments')"
    )
    with pytest.raises(LlmError) as failure:
        measured(program, engine)
    assert "vllm 0.32.0 has failed to measure tiny at concurrency 2 (status 1): " in str(failure.value)
    assert "error: unrecognized arguments" in str(failure.value)
    assert "key ***" in str(failure.value)
    assert KEY not in str(failure.value)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("pass", r"has failed to measure tiny at concurrency 2 \(status 0\): no word"),
        (WRITE.format("{}"), "has written a result without figures .KeyError: 'errors'"),
        (WRITE.format("Killed"), "has written a result without figures .JSONDecodeError"),
    ],
    ids=["none", "another", "no JSON"],
)
def test_a_result_that_is_none(program, engine, text, reason):
    does(program, text)
    with pytest.raises(LlmError, match=reason):
        measured(program, engine)


def is_gone(pid):
    try:
        return Path("/proc", pid, "stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def test_it_is_ended_with_what_it_started_when_the_time_is_over(program, engine):
    child = "import subprocess\nchild = subprocess.Popen(['sleep', '971'])\n(here / 'pid').write_text(str(child.pid))\n"
    does(program, child + "time.sleep(971)")
    start = time.monotonic()
    with pytest.raises(LlmError, match=r"5 s were over while vllm 0\.32\.0 measured tiny at concurrency 2"):
        measured(program, engine, timeout=5)
    pid = program.with_name("pid").read_text()
    # It has been killed. On a busy machine it takes its time to go.
    while not is_gone(pid) and time.monotonic() - start < 60:
        time.sleep(0.05)
    assert is_gone(pid)
    assert time.monotonic() - start < 60


@pytest.mark.parametrize("root", [None, "meta-llama/Llama-3.1-8B"])
def test_a_model_that_is_not_on_this_host(program, engine, root):
    engine.routes["GET /v1/models"] = {"data": [{"id": "tiny", "root": root}]}
    with pytest.raises(LlmError, match=f"expected to tell the directory of tiny on this host, .* told {root!r}"):
        measured(program, engine)


@pytest.mark.parametrize("option", [{"max_tokens": 2045}, {"api": "ollama"}])
def test_what_it_cannot_ask_is_refused_before_anything_is_asked(program, engine, option):
    with pytest.raises(LlmError, match=r"cannot ask .* Measure by the client own"):
        measured(program, engine, **option)
    assert engine.seen == []


def systemd(started, version=(0, "0.32.0\n", "")):
    """Answers in place of systemctl, and of the environment's Python."""

    def run(argv, **_options):
        if argv[0] == "systemctl":
            return 0, started, ""
        assert argv[0] == "/opt/llmfleet/vllm/0.32.0-ab/bin/python"
        return version

    return run


STARTED = (
    "{ path=/opt/llmfleet/vllm/0.32.0-ab/bin/python ; argv[]=/opt/llmfleet/vllm/0.32.0-ab/bin/python "
    "/opt/llmfleet/vllm/serve-12.py vllm serve /data/models/tiny ; ignore_errors=no ; start_time=[n/a] }\n"
)


@pytest.mark.parametrize("version", ["0.32.0", "0.11.0", "0.32.0+cpu", "1.0", "dev"])
def test_client_is_in_the_environment_of_the_unit(version):
    client = client_of("llmfleet-r1.service", systemd(STARTED, (0, f"{version}\n", "")))
    assert client == Client("/opt/llmfleet/vllm/0.32.0-ab/bin/python", version)
    assert client.name == f"vllm {version}"


@pytest.mark.parametrize(
    ("run", "reason"),
    [
        (systemd("\n"), "to start a Python environment of vLLM, found no such unit"),
        (systemd("{ path=/opt/llmfleet/ollama/0.5.11/bin/ollama ; argv[]=x }\n"), "found { path=/opt/llmfleet/ollama"),
        (
            systemd(STARTED, (1, "", "Traceback:\nPackageNotFoundError: vllm\n")),
            "has no vLLM: PackageNotFoundError: vllm",
        ),
        (systemd(STARTED, (0, "0.8.5.post1\n", "")), r"runs vLLM 0\.8\.5\.post1, .* Expected vLLM 0\.11 or newer"),
        (systemd(STARTED, (0, "0.10.2\n", "")), r"Expected vLLM 0\.11 or newer"),
    ],
    ids=["no unit", "another engine", "no vLLM", "random tokens only", "other options"],
)
def test_unit_without_such_a_client(run, reason):
    with pytest.raises(LlmError, match=f"llmfleet-r1.service .*{reason}.* Measure by the client own"):
        client_of("llmfleet-r1.service", run)
