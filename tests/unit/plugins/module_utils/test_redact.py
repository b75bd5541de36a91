# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What is a secret is hidden, and nothing else is."""

from __future__ import annotations

import pytest

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
