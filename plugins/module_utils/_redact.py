# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What may be shown of arguments, variables and messages: everything but secrets. Private to this collection."""

from __future__ import annotations

import functools
import re
import typing as t
from collections.abc import Callable, Iterable

HIDDEN = "(hidden)"

# Words of a name whose value is a secret: api-key, HF_TOKEN, basic_auth. Not `tokenizer`, which is another word.
_SECRET_WORDS = frozenset(
    (
        *("apikey", "auth", "authorization", "credential", "credentials", "key", "keys", "passphrase", "passwd"),
        *("password", "pwd", "secret", "secrets", "token"),
    )
)
# Words of a name whose value is one even if it is a number.
_PASSWORD_WORDS = frozenset(("passphrase", "passwd", "password", "pwd", "secret", "secrets"))
_SWITCH = re.compile(r"true|false|none|null|", re.IGNORECASE)
# What is a number or a switch keeps nobody out: max_num_batched_tokens, key: true.
_HARMLESS = re.compile(r"[-+]?[0-9.]*|true|false|none|null", re.IGNORECASE)
_WORD = re.compile(r"[A-Za-z][a-z]*|[A-Z]+(?![a-z])")

# What is a secret wherever it stands.
_IN_TEXT = (
    # The account of an address: scheme://user:password@host.
    (re.compile(r"(?<=://)[^\s/@\"'<>]+@"), HIDDEN + "@"),
    (re.compile(r"\b(bearer|basic)\s+[A-Za-z0-9._~+/=-]{8,}", re.IGNORECASE), rf"\1 {HIDDEN}"),
    # Tokens of Hugging Face and GitHub, keys in the style of OpenAI, JSON web tokens.
    (re.compile(r"\b(?:hf_|gh[pousr]_|github_pat_|sk-|ms-)[A-Za-z0-9_-]{16,}"), HIDDEN),
    (re.compile(r"\beyJ[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]*"), HIDDEN),
    (re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)", re.DOTALL), HIDDEN),
)
# The end of a private key whose beginning is not there, and the longest one, in lines.
_KEY_END = re.compile(r"-----END [A-Z ]*PRIVATE KEY-----")
_KEY_LINES = 200
# Signed addresses: everything behind the question mark of one that has a signature, a token or a key.
_QUERY = re.compile(r"\?([^\s\"'<>]+)")
_SIGNED = re.compile(r"sig|token|key|secret|credential", re.IGNORECASE)
# `--api-key VALUE`; `--api-key=VALUE`, `NAME=VALUE`, `"name": "VALUE"`. Each begins where a word does. In JSON within
# JSON, quotes have backslashes before them. Names are matched alone, so that each is seen: Environment=HF_TOKEN=VALUE.
_NAMES = (
    re.compile(r"(?<![\w-])()--?([A-Za-z][\w.-]{0,200})()\s+(?!-)"),
    re.compile(r"""(?<![\w-])\\*(["']?)-{0,2}([A-Za-z][\w.-]{0,200})\\*(["']?)\s*[=:]\s*"""),
)
_VALUE = re.compile(r""""(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*'|[^\s,;&|)\]}]+""")
# "NAME=VALUE" as a whole in quotes: everything before the one that ends it.
_QUOTED = {quote: re.compile(rf"(?:\\.|[^{quote}\\\n])+") for quote in ("'", '"')}
# What people have asked and what they were told, as engines log it: prompt: '...', messages=[...], "content": "...".
# In quotes it may go over several lines. Anything else is told from what follows by the end of the line alone.
_SAID_NAMES = (
    r"prompts?|messages|content|text|inputs?|completion|response|generated_text|output_text|input_ids|output_ids"
    r"|token_ids|prompt_token_ids|tool_calls|reasoning_content"
)
_SAID_NAME = re.compile(_SAID_NAMES, re.IGNORECASE)
_SAID = re.compile(
    rf"""(?<![\w-])(-{{0,2}}\\*["']?(?:{_SAID_NAMES})\\*["']?\s*[=:]\s*)"""
    r"""("(?:\\.|[^"\\]){0,65536}"|'(?:\\.|[^'\\]){0,65536}'|[^\n]+)""",
    re.IGNORECASE | re.DOTALL,
)
# What HAProxy's configuration has of secrets: words behind a word, without a sign between.
_CONFIGURED = re.compile(
    r"^([^#\n]*?(?<![\w-])(?:(?:insecure-)?password|stats\s+auth"
    r"|(?:set|add)-header\s+\S*(?:auth|key|token|secret|cookie)\S*)\s+)\S.*$",
    re.IGNORECASE | re.MULTILINE,
)
# Shorter texts are found in too many places to be hidden wherever they stand.
_KNOWN_MIN = 8


def is_secret(name: str) -> bool:
    """Whether a value of that name is one that only its owner should know."""
    return bool(_words(name) & _SECRET_WORDS)


@functools.lru_cache(maxsize=4096)
def _words(name: str) -> frozenset[str]:
    return frozenset({word.lower() for word in _WORD.findall(name)} | set(re.split(r"[^a-z]+", name.lower())))


def in_text(text: str) -> str:
    """A text without what is a secret by its own form, or by the name before it."""
    for pattern, instead in _IN_TEXT:
        text = pattern.sub(instead, text)
    text = _without_key_ends(text)
    text = _QUERY.sub(_query, text)
    return _without_assigned(text)


def in_log(text: str, known: Iterable[str] = ()) -> str:
    """A text without secrets, and without what people have asked engines and were told.

    :param known: secrets that are hidden wherever they stand, whatever they look like.
    """
    for secret in sorted({one for one in known if len(one) >= _KNOWN_MIN}, key=len, reverse=True):
        text = text.replace(secret, HIDDEN)
    # First: what hides a secret in somebody's question could take the quote that ends it.
    return in_text(_SAID.sub(lambda match: match.group(1) + _hidden(match.group(2)), text))


def in_haproxy(text: str) -> str:
    """A configuration of HAProxy without passwords, and without the values of headers that carry secrets."""
    return _CONFIGURED.sub(rf"\1{HIDDEN}", text)


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
            shown.append(f"{name}={_hidden(value, name)}")
        else:
            shown.append(in_text(word))
        # An option may have several values.
        hide = not equals and is_secret(name) if is_option else hide
    return shown


def in_data(data: t.Any, name: str = "", show: Callable[[str], str] = in_text) -> t.Any:
    """Data without secrets, at any depth: by the names of keys, and by what texts look like.

    :param name: of the data itself.
    :param show: what is left of a text whose name is not a secret's.
    """
    if isinstance(data, dict):
        return {
            show(key) if isinstance(key, str) else key: in_data(value, str(key), show) for key, value in data.items()
        }
    if isinstance(data, (list, tuple)):
        return [in_data(value, name, show) for value in data]
    if not isinstance(data, str):
        return data
    return _hidden(data, name) if is_secret(name) else show(data)


def in_records(data: t.Any, known: Iterable[str] = ()) -> t.Any:
    """Data without secrets, and without what people have asked engines and were told, at any depth.

    To be used for data before it is JSON: in its text, what hides an element could take the sign that ends it.

    :param known: as `in_log` takes them.
    """
    return in_data(_without_said(data), show=functools.partial(in_log, known=list(known)))


def _without_said(data: t.Any, name: str = "") -> t.Any:
    if _SAID_NAME.fullmatch(name) and isinstance(data, (list, tuple, str)):
        return _hidden(data) if isinstance(data, str) else HIDDEN
    if isinstance(data, dict):
        return {key: _without_said(value, str(key)) for key, value in data.items()}
    if isinstance(data, (list, tuple)):
        return [_without_said(value) for value in data]
    return data


def _hidden(value: str, name: str = "") -> str:
    passes = _SWITCH if _words(name) & _PASSWORD_WORDS else _HARMLESS
    return value if passes.fullmatch(value) else HIDDEN


def _without_assigned(text: str) -> str:
    for names in _NAMES:
        parts, done = [], 0
        for match in names.finditer(text):
            opened, name, closed = match.groups()
            if match.start() < done or not is_secret(name) or text.startswith(HIDDEN, match.end()):
                continue
            value = (_QUOTED[opened] if opened and not closed else _VALUE).match(text, match.end())
            if value and HIDDEN not in value.group():
                parts += [text[done : match.end()], _hidden(value.group(), name)]
                done = value.end()
        text = "".join([*parts, text[done:]])
    return text


def _query(match: re.Match[str]) -> str:
    names = (part.partition("=")[0] for part in re.split("[&;?]", match.group(1)) if "=" in part)
    return f"?{HIDDEN}" if any(_SIGNED.search(name) for name in names) else match.group()


def _without_key_ends(text: str) -> str:
    """A text that begins, or goes on, within a private key."""
    while end := _KEY_END.search(text):
        lines = text[: end.start()].split("\n")
        text = "\n".join([*lines[: -_KEY_LINES - 1], HIDDEN]) + text[end.end() :]
    return text
