# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What is a secret is hidden, and nothing else is."""

from __future__ import annotations

import time

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ansible_collections.llmfleet.serving.plugins.module_utils import _redact

CANARY = "c4n4ry-0123456789abcdef"


@pytest.mark.parametrize(
    "name",
    [
        "api_key",
        "api-key",
        "--api-key",
        "HF_TOKEN",
        "hfToken",
        "apiKey",
        "basic_auth",
        "DB_PASSWORD",
        "Authorization",
        "ssl_keys",
    ],
)
def test_names_of_secrets(name):
    assert _redact.is_secret(name)


@pytest.mark.parametrize(
    "name", ["tokenizer", "num_ctx", "OLLAMA_KEEP_ALIVE", "monkey", "keyboard", "reasoning_parser", ""]
)
def test_names_of_nothing_secret(name):
    assert not _redact.is_secret(name)


@pytest.mark.parametrize(
    "text",
    [
        f"https://user:{CANARY}@hub.example.com/x",
        f"https://hub.example.com/x?X-Amz-Signature={CANARY}&a=1",
        f"https://hub.example.com/x?a=1&token={CANARY}",
        f"Authorization: Bearer {CANARY}",
        "hf_abcdefghijklmnopqrstuv",
        "sk-abcdefghijklmnopqrstuv",
        f"serve --api-key {CANARY} --port 8000",
        f"serve --api-key={CANARY}",
        f"HF_TOKEN={CANARY} serve",
        f'{{"password": "{CANARY}"}}',
        f"password: '{CANARY}'",
        f"-----BEGIN PRIVATE KEY-----\n{CANARY}\n-----END PRIVATE KEY-----",
    ],
)
def test_secrets_in_a_text_are_hidden(text):
    shown = _redact.in_text(text)
    assert CANARY not in shown
    assert "abcdefghijklmnopqrstuv" not in shown
    assert _redact.HIDDEN in shown


@pytest.mark.parametrize(
    "text",
    [
        "The token rate is 15 tokens/s: more than the key figure of 12.",
        "--max-num-batched-tokens 8192 --tokenizer /data/models/x",
        "https://hub.example.com/x?page=2",
        "user@example.com",
        "expected no uncorrectable memory error, found 2 of them. Reset the GPU or reboot.",
    ],
)
def test_other_texts_stay(text):
    assert _redact.in_text(text) == text


def test_command_lines():
    argv = [
        "vllm",
        "serve",
        "--api-key",
        CANARY,
        "--port",
        "8000",
        f"--hf-token={CANARY}",
        "--max-tokens",
        "64",
        "--use-key",
    ]
    shown = [
        "vllm",
        "serve",
        "--api-key",
        "(hidden)",
        "--port",
        "8000",
        "--hf-token=(hidden)",
        "--max-tokens",
        "64",
        "--use-key",
    ]
    assert _redact.in_argv(argv) == shown


def test_several_values_of_one_option_are_hidden():
    assert _redact.in_argv(["--api-key", CANARY, CANARY, "--port"]) == ["--api-key", "(hidden)", "(hidden)", "--port"]


def test_data_at_any_depth():
    data = {
        "args": {"api_key": CANARY, "keys": [CANARY], "max_tokens": 64, "key": True},
        "url": f"http://a:{CANARY}@b",
        "none": None,
    }
    shown = _redact.in_data(data)
    assert CANARY not in str(shown)
    assert shown["args"]["max_tokens"] == 64
    assert shown["args"]["key"] is True
    assert shown["none"] is None


@pytest.mark.parametrize(
    "text",
    [
        f'Environment="HF_TOKEN={CANARY} and more of it" X=1',
        f"Environment=HF_TOKEN={CANARY}",
        f'"environment": "{{\\"api_key\\": \\"{CANARY}\\"}}"',
        f'--env "HF_TOKEN={CANARY}"',
        f'api_key="a \\" {CANARY}"',
        "PASSWORD=1234567890123456",
    ],
)
def test_assignments_within_others(text):
    shown = _redact.in_text(text)
    assert CANARY not in shown
    assert "and more" not in shown
    assert "1234567890123456" not in shown
    assert _redact.HIDDEN in shown


def test_a_text_that_begins_within_a_private_key():
    lines = [f"kept {number}" for number in range(300)]
    shown = _redact.in_text("\n".join([*lines, CANARY, "-----END RSA PRIVATE KEY-----", "after"]))
    assert CANARY not in shown
    assert shown.startswith("kept 0\n")
    assert shown.endswith("(hidden)\nafter")


QUESTION = "why is my salary 12 and don't tell"


@pytest.mark.parametrize(
    "line",
    [
        f"INFO Received request chatcmpl-1: prompt: {f'the password: x {QUESTION}'!r}, params: SamplingParams(n=1)",
        f"Receive: obj=GenerateReqInput(rid='1', text={QUESTION!r}, sampling_params=1)",
        f'level=DEBUG msg="completion request" images=0 prompt="<|user|>\\"{QUESTION}\\"" n=1',
        f'srv  log: request: {{"messages":[{{"role":"user","content":"{QUESTION}"}}],"stream":true}}',
        f'{{"choices": [{{"delta": {{"content": "{QUESTION}"}}}}]}}',
        f"prompt: {QUESTION}",
        f'prompt="{QUESTION}\n{QUESTION}" n=1',
    ],
)
def test_what_people_have_asked_is_not_in_a_log(line):
    log = f"before\n{line}\n{line}\nafter"
    shown = _redact.in_log(log)
    assert "salary" not in shown
    assert "tell" not in shown
    assert shown.startswith("before\n")
    assert shown.endswith("\nafter")


@pytest.mark.parametrize(
    "line", ["num_prompts=5 prompt tokens: 12", "avg prompt throughput: 5.3 tokens/s", "Content-Type: x"]
)
def test_what_only_counts_questions_stays(line):
    assert _redact.in_log(line) == line


def test_known_secrets_are_hidden_wherever_they_stand():
    assert _redact.in_log(f"xx{CANARY}yy short", [CANARY, "short", ""]) == "xx(hidden)yy short"


def test_configurations_of_haproxy():
    text = f"""
    user bob insecure-password {CANARY}
    stats auth bob:{CANARY}
    http-request set-header X-Api-Key {CANARY}
    http-request set-header Host localhost
    server gpu-01 127.0.0.1:8000
    """
    shown = _redact.in_haproxy(text)
    assert CANARY not in shown
    assert shown.count("(hidden)") == 3
    assert "set-header Host localhost" in shown


@pytest.mark.parametrize("text", ["a=" * 500_000, "key" * 300_000, "?key" * 200_000, 'text="' * 150_000])
def test_long_lines_take_no_longer_than_long(text):
    start = time.process_time()
    _redact.in_log(text)
    assert time.process_time() - start < 10


NEAR = st.text(st.sampled_from("\"'\\\\-=:?&;,()[]{}@/ \n\tkeyToken_prompt1"), max_size=60)


@given(NEAR, st.sampled_from(["token=", "--api-key ", '"password": "', "HF_TOKEN='", "prompt: "]), NEAR)
@example("key=", "token=", "")
@example("prompt: 'a", "token=", "' token")
@example("-----END PRIVATE KEY-----", "token=", "-----BEGIN PRIVATE KEY-----")
def test_nothing_around_a_secret_shows_it(before, name, after):
    assert CANARY not in _redact.in_log(f"{before}\n{name}{CANARY}\n{after}")


def test_records_are_cleared_at_any_depth():
    data = {
        "prompt": QUESTION,
        "messages": [{"role": "user", "content": QUESTION}],
        "input_ids": [1, 2],
        "prompts": 5,
        "deep": [{"text": {"inputs": QUESTION, "n": 1}, "argv": [f"--prompt={QUESTION}", f"xx{CANARY}yy"]}],
        f"http://a:{CANARY}@b": {"api_key": CANARY},
    }
    shown = _redact.in_records(data, [CANARY])
    assert CANARY not in str(shown)
    assert "salary" not in str(shown)
    assert (shown["prompts"], shown["input_ids"], shown["deep"][0]["text"]["n"]) == (5, "(hidden)", 1)
    assert shown["deep"][0]["argv"][1] == "xx(hidden)yy"


@given(NEAR, NEAR)
def test_no_text_in_records_takes_what_follows_it(before, after):
    shown = _redact.in_records({"argv": [before, f"token={CANARY}{after}", "kept"], "pid": 1})
    assert CANARY not in str(shown)
    assert (shown["argv"][2], shown["pid"]) == ("kept", 1)
