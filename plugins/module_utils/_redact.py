# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What may be shown of arguments, variables and messages: everything but secrets. Private to this collection."""

from __future__ import annotations

import re
import typing as t
from collections.abc import Iterable

HIDDEN = "(hidden)"

# Words of a name whose value is a secret: api-key, HF_TOKEN, basic_auth. Not `tokenizer`, which is another word.
_SECRET_WORDS = frozenset(
    (
        *("apikey", "auth", "authorization", "credential", "credentials", "key", "keys", "passphrase", "passwd"),
        *("password", "pwd", "secret", "secrets", "token"),
    )
)
# What is a number or a switch keeps nobody out: max_num_batched_tokens, key: true.
_HARMLESS = re.compile(r"[-+]?[0-9.]*|true|false|none|null", re.IGNORECASE)
_WORD = re.compile(r"[A-Za-z][a-z]*|[A-Z]+(?![a-z])")

# What is a secret wherever it stands.
_IN_TEXT = (
    # The account of an address: scheme://user:password@host.
    (re.compile(r"(?<=://)[^\s/@\"'<>]+@"), HIDDEN + "@"),
    # Signed addresses: everything behind the question mark of one that has a signature, a token or a key.
    (
        re.compile(
            r"\?[^\s\"'<>]*(?:sig|signature|token|key|secret|credential)[^\s\"'<>=]*=[^\s\"'<>]*", re.IGNORECASE
        ),
        "?" + HIDDEN,
    ),
    (re.compile(r"\b(bearer|basic)\s+[A-Za-z0-9._~+/=-]{8,}", re.IGNORECASE), rf"\1 {HIDDEN}"),
    # Tokens of Hugging Face and GitHub, keys in the style of OpenAI, JSON web tokens.
    (re.compile(r"\b(?:hf_|gh[pousr]_|github_pat_|sk-|ms-)[A-Za-z0-9_-]{16,}"), HIDDEN),
    (re.compile(r"\beyJ[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]*"), HIDDEN),
    (re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)", re.DOTALL), HIDDEN),
)
# `--api-key VALUE`; `--api-key=VALUE`, `NAME=VALUE`, `"name": "VALUE"`. Each begins where a word does.
_VALUE = r"""("[^"]*"|'[^']*'|[^\s,;&|)\]}]+)"""
_ASSIGNED = (
    re.compile(r"(?<![\w-])(--?([A-Za-z][\w.-]*)\s+)(?!-)" + _VALUE),
    re.compile(r"""(?<![\w-])(["']?-{0,2}([A-Za-z][\w.-]*)["']?\s*[=:]\s*)""" + _VALUE),
)


def is_secret(name: str) -> bool:
    """Whether a value of that name is one that only its owner should know."""
    return any(word.lower() in _SECRET_WORDS for word in _WORD.findall(name)) or any(
        part in _SECRET_WORDS for part in re.split(r"[^a-z]+", name.lower())
    )


def in_text(text: str) -> str:
    """A text without what is a secret by its own form, or by the name before it."""
    for pattern, instead in _IN_TEXT:
        text = pattern.sub(instead, text)
    for pattern in _ASSIGNED:
        text = pattern.sub(_assigned, text)
    return text


def in_argv(argv: Iterable[str]) -> list[str]:
    """A command line without the values of options whose names say that they are secrets."""
    shown: list[str] = []
    hide = False
    for word in argv:
        name, equals, value = word.partition("=")
        is_option = word.startswith("-")
        if hide and not is_option:
            shown.append(word if _HARMLESS.fullmatch(word) else HIDDEN)
        elif equals and is_secret(name):
            shown.append(f"{name}={_hidden(value)}")
        else:
            shown.append(in_text(word))
        # An option may have several values.
        hide = not equals and is_secret(name) if is_option else hide
    return shown


def in_data(data: t.Any, name: str = "") -> t.Any:
    """Data without secrets, at any depth: by the names of keys, and by what texts look like.

    :param name: of the data itself.
    """
    if isinstance(data, dict):
        return {key: in_data(value, str(key)) for key, value in data.items()}
    if isinstance(data, (list, tuple)):
        return [in_data(value, name) for value in data]
    if not isinstance(data, str):
        return data
    return _hidden(data) if is_secret(name) else in_text(data)


def _hidden(value: str) -> str:
    return value if _HARMLESS.fullmatch(value) else HIDDEN


def _assigned(match: re.Match[str]) -> str:
    before, name, value = match.groups()
    if not is_secret(name) or _HARMLESS.fullmatch(value) or HIDDEN in value:
        return match.group()
    return f"{before}{HIDDEN}"
