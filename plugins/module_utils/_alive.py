# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Does an engine answer at all? The smallest question that makes it compute. Private to this collection."""

from __future__ import annotations

import typing as t

from ansible_collections.llmfleet.serving.plugins.module_utils._http import HttpError, request_json, stream_lines
from ansible_collections.llmfleet.serving.plugins.module_utils._probe import APIS, Question

# An address that needs no computing answers at once, unless what answers stands still.
ASK_S = 10.0
_BUSY = 503


def complaint(question: Question) -> str | None:
    """Why the engine did not answer a question for one token; None when it did.

    A refusal is an answer too: whoever refuses is not hung.
    """
    try:
        if question.api == "ollama":
            _ask_ollama(question)
        else:
            body = {"model": question.model, "messages": [{"role": "user", "content": question.prompt}]}
            _post(question, APIS["openai"].chat_path, {**body, "max_tokens": question.max_tokens})
    except HttpError as exc:
        if exc.status is None or (exc.status >= 500 and exc.status != _BUSY):
            return str(exc).rstrip(".")
    return None


def silence(url: str) -> str | None:
    """Why an address does not answer with success; None when it does, or when there is none to ask."""
    if not url:
        return None
    try:
        for _line in stream_lines("GET", url, timeout=ASK_S):
            pass
    except HttpError as exc:
        return str(exc).rstrip(".")
    return None


def _ask_ollama(question: Question) -> None:
    """Ask the model that is loaded: to load one may take minutes, and may cost another one its place."""
    running = request_json("GET", f"{question.base}/api/ps", timeout=ASK_S).get("models") or []
    if not running:
        return
    model = running[0]
    options = {"num_predict": question.max_tokens}
    if model.get("context_length"):
        # Another size than it is loaded with would load it anew.
        options["num_ctx"] = model["context_length"]
    # Without keep_alive, which would hold for the questions of others too.
    body = {"model": model["name"], "prompt": question.prompt, "stream": False, "options": options}
    _post(question, "/api/generate", body)


def _post(question: Question, path: str, body: dict[str, t.Any]) -> None:
    request_json("POST", question.base + path, body=body, token=question.key, timeout=question.timeout)
