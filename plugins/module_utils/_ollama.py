# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Ollama: parameters of a model, the server, and keeping a model present or absent. Private to this collection."""

from __future__ import annotations

import contextlib
import math
import re
import typing as t
from pathlib import Path

from ansible_collections.llmfleet.serving.plugins.module_utils._errors import LlmError
from ansible_collections.llmfleet.serving.plugins.module_utils._files import locked, os_errors
from ansible_collections.llmfleet.serving.plugins.module_utils._http import HttpError, request_json
from ansible_collections.llmfleet.serving.plugins.module_utils._ollama_store import ModelName, Registration, Store

OLDEST_VERSION = (0, 5, 5)


def _integer(value: t.Any) -> int:
    # A template of ansible-core 2.18 and older hands numbers over as text.
    if isinstance(value, str) and re.fullmatch(r"-?\d+", value):
        return int(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    raise ValueError


def _number(value: t.Any) -> float:
    number = math.nan if isinstance(value, bool) else float(value)
    if not math.isfinite(number):
        raise ValueError
    # Go writes 1.0 as 1; the same bytes give the same digest as `ollama create`.
    return int(number) if number.is_integer() else number


def _flag(value: t.Any) -> bool:
    if isinstance(value, str) and value.lower() in ("true", "false"):
        return value.lower() == "true"
    if isinstance(value, bool):
        return value
    raise ValueError


def _texts(value: t.Any) -> list[str]:
    if isinstance(value, list) and value and all(isinstance(item, str) and item for item in value):
        return value
    raise ValueError


# The options that every supported version knows: `Options` in api/types.go of v0.5.11 and of v0.34.0.
_INTEGERS = ["num_ctx", "num_batch", "num_gpu", "main_gpu", "num_thread", "num_keep", "num_predict"]
_INTEGERS += ["repeat_last_n", "seed", "top_k"]
_NUMBERS = ["top_p", "min_p", "typical_p", "temperature", "repeat_penalty", "presence_penalty", "frequency_penalty"]
_KINDS: dict[str, tuple[str, t.Callable[[t.Any], t.Any]]] = {
    **dict.fromkeys(_INTEGERS, ("an integer", _integer)),
    **dict.fromkeys(_NUMBERS, ("a number", _number)),
    "use_mmap": ("true or false", _flag),
    "stop": ("a list of texts, none of them empty", _texts),
}


def typed_parameters(parameters: dict[str, t.Any]) -> dict[str, t.Any]:
    """The parameters of a Modelfile with the types that the server wants.

    A wrong type would be stored without a word and refused only at the first question, hence the strictness.

    :raises LlmError: for an unknown name and for a value of another type.
    """
    typed = {}
    for name, value in parameters.items():
        if name not in _KINDS:
            raise LlmError(f"The parameter {name!r} is unknown to Ollama. It knows: {', '.join(sorted(_KINDS))}.")
        expected, convert = _KINDS[name]
        try:
            typed[name] = convert(value)
        except (ValueError, TypeError) as exc:
            raise LlmError(f"The parameter {name} is {value!r}; expected {expected}.") from exc
    return typed


class Server:
    """One running, or not running, Ollama server."""

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")

    def running(self) -> bool:
        """Whether a server answers at all.

        :raises LlmError: if what answers is not Ollama, or is older than v0.5.5.
        """
        try:
            answer = self._ask("GET", "/api/version")
        except HttpError as exc:
            # Refused or silent; a wrong address or certificate is an error of its own.
            if exc.status is None and exc.transient:
                return False
            raise
        version = answer.get("version") if isinstance(answer, dict) else None
        numbers = re.match(r"(\d+)\.(\d+)\.(\d+)", str(version))
        if not numbers:
            raise LlmError(f"{self.url} is not an Ollama server: /api/version has no version. Check url.")
        if tuple(map(int, numbers.groups())) < OLDEST_VERSION:
            oldest = ".".join(map(str, OLDEST_VERSION))
            raise LlmError(f"The Ollama server at {self.url} is version {version}; {oldest} or newer is supported.")
        return True

    def confirm(self, wanted: Registration) -> None:
        """Let the server say that it has the model, with this manifest, and can open all of it.

        :raises LlmError: otherwise.
        """
        name, digest = str(wanted.name), wanted.describe()["digest"]
        try:
            # Opens and parses the model file, the template and the parameters.
            self._ask("POST", "/api/show", {"model": name})
            listed = {model["name"]: model["digest"] for model in self._ask("GET", "/api/tags")["models"]}
        except HttpError as exc:
            if exc.status != 404:
                raise
            listed = {}
        if listed.get(name) != digest:
            raise LlmError(
                f"The Ollama server at {self.url} does not have {name} with digest {digest[:12]}; it has "
                f"{listed.get(name, 'no such model')}. Set models_dir to the OLLAMA_MODELS of this very server."
            )

    def unload(self, name: ModelName) -> None:
        """Free the memory that the model holds: deleting it would leave it loaded, for ever if it is kept alive so."""
        running = {model["name"] for model in self._ask("GET", "/api/ps")["models"]}
        if str(name) in running:
            self._ask("POST", "/api/generate", {"model": str(name), "keep_alive": 0, "stream": False})

    def _ask(self, method: str, path: str, body: t.Any = None) -> t.Any:
        return request_json(method, self.url + path, body=body)


def require_ready(store: Store, server: Server, source: Path, *, needed: bool) -> None:
    """Refuse, before the large file `source` is read, to register where no server could confirm it.

    :param needed: whether the server must be running; what runs at its address must be a supported Ollama anyway.
    """
    if (store.root / "blobs").resolve() in source.resolve().parents:
        raise LlmError(
            f"{source} is one of Ollama's own blobs, which go when their model goes; expected a model file of yours."
        )
    if server.running():
        if not store.root.is_dir():
            raise LlmError(
                f"The model folder {store.root} does not exist, though the server at {server.url} runs. Set models_dir "
                "to the OLLAMA_MODELS of this very server."
            )
    elif needed:
        raise LlmError(f"No Ollama server answers at {server.url}. Start it, then run again.")


def ensure_present(store: Store, server: Server, wanted: Registration) -> None:
    """Register `wanted`, unless it is, and have the server confirm it; if it does not, all is as it was before."""
    with _alone_in(store):
        before = store.read(wanted.name)
        try:
            if not store.holds(wanted):
                store.write(wanted)
            server.confirm(wanted)
        except (LlmError, OSError):
            store.replace(wanted.name, before)
            store.prune(wanted.manifest)
            raise
        store.prune(before or b"")


def ensure_absent(store: Store, server: Server, name: ModelName) -> None:
    """Unload the model if a server runs it, then take it out of the store; the file it was made of stays."""
    if server.running():
        server.unload(name)
    with _alone_in(store):
        before = store.read(name)
        store.replace(name, None)
        store.prune(before or b"")


@contextlib.contextmanager
def _alone_in(store: Store) -> t.Iterator[None]:
    with os_errors(f"Changing the model folder {store.root}"), locked(store.root / "store"):
        yield
