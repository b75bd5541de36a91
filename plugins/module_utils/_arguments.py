# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A service's args: does its engine take them, and how are they written for it? Private to this collection.

What each release takes is data, `playbooks/stacks/options`, which becomes `Knowledge`.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import re
import typing as t
from collections.abc import Iterable, Iterator, Mapping, Sequence

from ansible_collections.llmfleet.serving.plugins.module_utils._errors import LlmError
from ansible_collections.llmfleet.serving.plugins.module_utils._stack import Stack, nearest, version
from ansible_collections.llmfleet.serving.plugins.module_utils._stack_rules import FAIL, WARN, Finding

_ADDRESS = "A service listens on 127.0.0.1 and its own port, and a proxy is what others reach."
_MODEL = "The service's model says which."
_NAME = "A service is asked for by its name."
_SECRET = "Everybody on a host can read its command lines. Secrets go to a service as credentials."  # noqa: S105  # no secret
_TLS = "The proxy in front of the service has the certificates."
_GPUS = "The service's gpus say which."
_NODES = "The service's hosts say how many there are, and which is the first."
_FILE = "What stands in a file of options is not checked. Write it into args."

# Options that the collection sets itself, and why a service's args must not.
OWNED: Mapping[str, Mapping[str, str]] = {
    "vllm": {
        **dict.fromkeys(("host", "port", "uds"), _ADDRESS),
        **dict.fromkeys(("api-key", "hf-token"), _SECRET),
        **dict.fromkeys(("ssl-keyfile", "ssl-certfile", "ssl-ca-certs", "ssl-cert-reqs", "ssl-ciphers"), _TLS),
        **dict.fromkeys(("enable-ssl-refresh",), _TLS),
        **dict.fromkeys(("nnodes", "node-rank", "master-addr", "master-port", "headless"), _NODES),
        "model": _MODEL,
        "served-model-name": _NAME,
        "device-ids": _GPUS,
        "config": _FILE,
    },
    "sglang": {
        **dict.fromkeys(("host", "port"), _ADDRESS),
        **dict.fromkeys(("api-key", "admin-api-key", "ssl-keyfile-password"), _SECRET),
        **dict.fromkeys(("ssl-keyfile", "ssl-certfile", "ssl-ca-certs"), _TLS),
        **dict.fromkeys(("nnodes", "node-rank", "dist-init-addr"), _NODES),
        "model-path": _MODEL,
        "served-model-name": _NAME,
        "base-gpu-id": _GPUS,
        "config": _FILE,
    },
    "llama_cpp": {
        **dict.fromkeys(("host", "port"), _ADDRESS),
        **dict.fromkeys(("api-key", "api-key-file", "hf-token"), _SECRET),
        **dict.fromkeys(("ssl-key-file", "ssl-cert-file"), _TLS),
        **dict.fromkeys(("model", "model-url", "docker-repo", "hf-repo", "hf-file"), _MODEL),
        "alias": _NAME,
        "device": _GPUS,
    },
    "ollama": {
        **dict.fromkeys(("OLLAMA-HOST", "OLLAMA-ORIGINS"), _ADDRESS),
        "OLLAMA-MODELS": "The collection keeps the models.",
    },
}


def normal(name: str) -> str:
    """The one form of an option's name: without dashes in front, and with dashes for underscores."""
    return name.lstrip("-").replace("_", "-")


@dataclasses.dataclass(frozen=True)
class Option:
    """What a release takes under one name.

    :ivar name: as the engine writes it, without the dashes in front.
    :ivar type: "flag" takes no value; "bool" is true or false as a value; "size" is a whole number, or one like 64k;
        "list" has commas between its items; else "int", "float", "json" or "text".
    :ivar aliases: other names.
    :ivar opposite: names that say the contrary; of flags.
    :ivar choices: the values there are; empty where any is taken.
    :ivar many: takes several values.
    :ivar repeat: is given once for each of several values.
    :ivar bare: may be given without its value.
    :ivar removed: what to use instead, where the name is known only to say so.
    """

    name: str
    type: str
    aliases: Sequence[str] = ()
    opposite: Sequence[str] = ()
    choices: Sequence[str] = ()
    many: bool = False
    repeat: bool = False
    bare: bool = False
    deprecated: bool = False
    removed: Sequence[str] | None = None

    @property
    def names(self) -> Sequence[str]:
        """In normal form."""
        return [normal(name) for name in (self.name, *self.aliases)]


@dataclasses.dataclass(frozen=True)
class Release:
    """The options of one release of an engine, by all their names in normal form."""

    engine: str
    version: str
    options: Mapping[str, Option]

    def __str__(self) -> str:
        return f"{self.engine} {self.version}"

    def find(self, name: str) -> Option | None:
        option = self.options.get(normal(name))
        return None if option is None or option.removed is not None else option


@dataclasses.dataclass(frozen=True)
class Removal:
    """:ivar instead: what to do, in a sentence.
    :ivar removed: the first version without the option; empty where none ever had it.
    :ivar back: the first version that has it again; empty where none has.
    """

    instead: str
    removed: str = ""
    back: str = ""

    def __str__(self) -> str:
        return f"{f'Removed in {self.removed}.' if self.removed else 'No version has it.'} {self.instead}"

    def holds(self, wanted: str) -> bool:
        gone = not self.removed or version(wanted) >= version(self.removed)
        return gone and (not self.back or version(wanted) < version(self.back))


@dataclasses.dataclass(frozen=True)
class Knowledge:
    """:ivar releases: of each engine, oldest first.
    :ivar removals: of each engine, by the option's name in normal form.
    """

    releases: Mapping[str, Sequence[Release]]
    removals: Mapping[str, Mapping[str, Removal]]

    def release(self, engine: str, wanted: str) -> Release:
        """The release, or else the newest before it, or else the oldest, of which there is a list.

        :raises LlmError: when the engine is none, or the version.
        """
        if engine not in self.releases:
            raise LlmError(f"{engine!r} is no engine: expected {nearest(engine, self.releases)}.")
        before = [one for one in self.releases[engine] if version(one.version) <= version(wanted)]
        return before[-1] if before else self.releases[engine][0]

    def removal(self, engine: str, wanted: str, name: str) -> Removal | None:
        """Why the version does not have the option, where that is known."""
        removal = self.removals.get(engine, {}).get(normal(name))
        return removal if removal is not None and removal.holds(wanted) else None


def knowledge(lists: Iterable[Mapping[str, t.Any]], removals: Mapping[str, t.Any]) -> Knowledge:
    """The contents of the lists and of `removed.yml`."""
    releases: dict[str, list[Release]] = {}
    for content in lists:
        releases.setdefault(content["engine"], []).append(_release(content))
    return Knowledge(
        releases={engine: sorted(found, key=lambda one: version(one.version)) for engine, found in releases.items()},
        removals={
            engine: {
                normal(name): Removal(entry["instead"], entry.get("removed", ""), entry.get("back", ""))
                for name, entry in entries.items()
            }
            for engine, entries in removals.items()
        },
    )


def _release(content: Mapping[str, t.Any]) -> Release:
    options: dict[str, Option] = {}
    for name, entry in content["options"].items():
        option = Option(name=name, **entry)
        for known in (*option.names, *map(normal, option.opposite)):
            options[known] = option
    return Release(content["engine"], content["version"], options)


def findings(stack: Stack, known: Knowledge, services: Sequence[Mapping[str, t.Any]]) -> list[Finding]:
    """Everything that is wrong with the args of the services, all at once.

    A service whose engine the stack does not have is left to the rules for stacks.

    :param services: the playbooks' `llmfleet_services`: name, engine, args.
    :raises LlmError: when the args of a service are not a dictionary.
    """
    found: list[Finding] = []
    for service in services:
        engine = service.get("engine", "")
        if engine in stack.engines:
            args = _dictionary(service.get("args"), f"service {service.get('name')}")
            found += _service(known, engine, stack.engines[engine].version, args, f"service {service.get('name')}")
    return found


def _dictionary(args: object, thing: str) -> Mapping[str, t.Any]:
    if args is None:
        return {}
    if not isinstance(args, Mapping):
        raise LlmError(f"The args of {thing} are malformed: expected a dictionary, found {_shown(args)}.")
    return args


def _service(known: Knowledge, engine: str, wanted: str, args: Mapping[str, t.Any], thing: str) -> Iterator[Finding]:
    release = known.release(engine, wanted)
    if args and version(release.version) != version(wanted):
        expected, found = "a version whose options are known", "one of which they are not"
        advice = f"Its args were held against those of {release}."
        yield _finding("unlisted", WARN, f"{thing}: {engine} {wanted}", expected, found, advice)
    for name, (rule, severity, expected, found, advice) in _obstacles(known, release, wanted, args):
        yield _finding(rule, severity, f"{thing}: args.{name}", expected, found, advice)


def _finding(rule: str, severity: str, thing: str, expected: str, found: str, advice: str) -> Finding:
    return Finding(
        id=f"argument-{rule}", severity=severity, object=thing, expected=expected, found=found, advice=advice
    )  # fmt: skip


# What keeps an argument from an engine: (rule, severity, expected, found, advice).
_Obstacle = tuple[str, str, str, str, str]


def _obstacles(
    known: Knowledge, release: Release, wanted: str, args: Mapping[str, t.Any]
) -> Iterator[tuple[str, _Obstacle]]:
    """What is wrong with each argument."""
    # What the list of another version says may be otherwise in this one.
    exact = version(release.version) == version(wanted)
    unsure = FAIL if exact else WARN
    seen: dict[str, str] = {}
    for name, value in args.items():
        option = release.find(name)
        owned = _owner(release, name, option)
        same = seen.setdefault(option.name if option else normal(name), name)
        removal = None if exact and option else known.removal(release.engine, wanted, name)
        if owned:
            yield name, ("owned", FAIL, "nothing, since the collection sets it", f"{name} in args", owned)
        elif same != name:
            yield name, ("twice", FAIL, "each option once", f"{same} and {name}, which are one", "Take one out.")
        elif removal is not None:
            yield name, ("removed", FAIL, f"an option of {release.engine} {wanted}", name, str(removal))
        elif option is None:
            rule, advice = _absent(known, release, name)
            yield name, (rule, unsure, f"an option of {release}", name, advice)
        elif value is not None:
            yield from ((name, obstacle) for obstacle in _unfit(release, option, value, unsure))


def _owner(release: Release, name: str, option: Option | None) -> str:
    """Why the collection keeps this option to itself; nothing where it does not."""
    owned = OWNED[release.engine]
    return next((owned[each] for each in (normal(name), *(option.names if option else ())) if each in owned), "")


def _absent(known: Knowledge, release: Release, name: str) -> tuple[str, str]:
    """Why the list has no option of this name, as a rule, and what to do about it."""
    told = release.options.get(normal(name))
    if told is not None:
        return "removed", f"Use {' or '.join(told.removed)} instead." if told.removed else "Leave it out."
    having = [one for one in known.releases[release.engine] if one.find(name)]
    if not having:
        return "unknown", _nearest(release, name)
    if version(having[0].version) > version(release.version):
        return "newer", f"It came later: {having[0].version} has it."
    return "removed", f"{having[-1].version} had it. {_nearest(release, name)}"


def _nearest(release: Release, name: str) -> str:
    """What the name may mean: options that begin with it, and those spelled nearly like it."""
    wanted = normal(name)
    names = sorted(known for known, option in release.options.items() if option.removed is None and len(known) > 1)
    near = difflib.get_close_matches(wanted, names, n=3, cutoff=0.7)
    begun = [known for known in names if known.startswith(wanted)][:3]
    found = list(dict.fromkeys([*near, *begun]))
    if not found:
        return "None is spelled like it: docs/arguments.md tells where all are."
    return f"Nearest: {', '.join(found)}."


def _unfit(release: Release, option: Option, value: object, unsure: str = FAIL) -> Iterator[_Obstacle]:
    """What is wrong with a value, and with its option.

    :param unsure: the severity of what a parser of another version may see otherwise.
    """
    if option.deprecated:
        expected, advice = "an option that stays", "Later versions are going to be without it."
        yield "deprecated", WARN, expected, option.name, advice
    several = option.many or option.repeat or option.type == "list"
    if option.bare and value is True:
        return
    if isinstance(value, (list, tuple)) and option.type != "json":
        if not several or not value:
            yield "value", unsure, "at least one value" if several else "one value", _shown(value), ""
            return
        items: Sequence[object] = value
    else:
        items = [value]
    for item in items:
        expected = _expected(option, item)
        if expected:
            yield "value", unsure, expected, _shown(item), f"So the parser of {release} has it."


_SIZE = re.compile(r"-?[0-9]+|[0-9]+(?:\.[0-9]+)?[kKmMgGtT]|auto")
_INT = re.compile(r"-?[0-9]+")
_FLOAT = re.compile(r"-?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?")


def _is_scalar(value: object) -> bool:
    return isinstance(value, (str, int, float)) and not isinstance(value, bool)


# Type -> what is expected, and whether a value is that.
_TYPES: Mapping[str, tuple[str, t.Callable[[object], bool]]] = {
    "flag": ("true or false", lambda value: isinstance(value, bool)),
    "bool": ("true or false", lambda value: isinstance(value, bool)),
    "int": ("a whole number", lambda value: _is_scalar(value) and bool(_INT.fullmatch(str(value)))),
    "size": ("a whole number, or one like 64k", lambda value: _is_scalar(value) and bool(_SIZE.fullmatch(str(value)))),
    "float": ("a number", lambda value: _is_scalar(value) and bool(_FLOAT.fullmatch(str(value)))),
    "json": ("a dictionary, a list, or JSON", lambda value: isinstance(value, (Mapping, list)) or _is_scalar(value)),
    "text": ("text", lambda value: isinstance(value, Mapping) or _is_scalar(value)),
    "list": ("a list, or text with commas", _is_scalar),
}


def _expected(option: Option, value: object) -> str:
    """What is expected instead of a value; nothing where it is right."""
    if option.choices:
        return "" if _word(option, value) in option.choices else f"one of {', '.join(option.choices)}"
    expected, fits = _TYPES[option.type]
    return "" if fits(value) else expected


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _word(option: Option, value: object) -> str:
    """A value as one word of a command line."""
    if isinstance(value, bool):
        # YAML reads on and off as these.
        words = (("off", "on"), ("0", "1"), ("false", "true"))
        return next((pair[value] for pair in words if pair[value] in option.choices), str(value).lower())
    if isinstance(value, (Mapping, list)):
        return json.dumps(value, separators=(",", ":"), ensure_ascii=False)
    return str(value)


def command_line(
    known: Knowledge, engine: str, wanted: str, args: Mapping[str, t.Any], defaults: Mapping[str, t.Any] | None = None
) -> list[str]:
    """The args as words of the engine's command line, in their order. What is null is left out.

    Where there is no list for the version, what is unknown is written as it looks.

    :param defaults: args that come first, but for those that the args have too, by whichever of their names.
    :raises LlmError: when an argument is wrong, with all of them.
    """
    if engine == "ollama":
        raise LlmError("Ollama takes no arguments: its parameters are the model's, its settings the environment's.")
    release = known.release(engine, wanted)
    named = {_one_name(release, name) for name in _dictionary(args, engine)}
    args = {name: value for name, value in (defaults or {}).items() if _one_name(release, name) not in named} | {**args}
    _refuse(known, engine, wanted, args)
    words: list[str] = []
    for name, value in args.items():
        if value is not None:
            option = _known_or_guessed(release, name, value)
            words += _flag(option, name, value) if option.type == "flag" else _valued(engine, option, value)
    return words


def _one_name(release: Release, name: str) -> str:
    option = release.find(name)
    return option.name if option else normal(name)


def ollama_settings(known: Knowledge, wanted: str, args: Mapping[str, t.Any]) -> dict[str, dict[str, t.Any]]:
    """What of a service's args is parameters of its model, and what, in capitals, the server's environment.

    :return: "parameters" with their values, and "environment" with text. What is null is left out.
    :raises LlmError: when an argument is wrong, with all of them.
    """
    _refuse(known, "ollama", wanted, args)
    settings: dict[str, dict[str, t.Any]] = {"parameters": {}, "environment": {}}
    for name, value in args.items():
        written = name.replace("-", "_")
        if value is None:
            continue
        if written.isupper():
            settings["environment"][written] = _word(Option(written, "text", choices=("0", "1")), value)
        else:
            settings["parameters"][written] = value
    return settings


def _refuse(known: Knowledge, engine: str, wanted: str, args: Mapping[str, t.Any]) -> None:
    found = _service(known, engine, wanted, _dictionary(args, engine), engine)
    wrong = [
        f"- {one['object']}: expected {one['expected']}, found {one['found']}. {one['advice']}".rstrip()
        for one in found
        if one["severity"] == FAIL
    ]
    if wrong:
        raise LlmError("\n".join([f"{engine} {wanted} does not take these args:", *wrong]))


def _known_or_guessed(release: Release, name: str, value: object) -> Option:
    """The option; or what it looks like, where a newer version than the list's seems to have another."""
    option = release.find(name)
    if option is not None and not any(rule == "value" for rule, *_rest in _unfit(release, option, value)):
        return option
    return Option(normal(name), "flag" if isinstance(value, bool) else "text", many=isinstance(value, list))


def _flag(option: Option, name: str, value: bool) -> list[str]:
    """An option without a value, or its opposite; nothing where it has none."""
    given = value if normal(name) in option.names else not value
    if given:
        return [f"--{option.name}"]
    # Of the opposites there are, all versions of vLLM know this one.
    opposites = [f"no-{option.name}"] if f"no-{option.name}" in option.opposite else option.opposite
    return [f"--{opposite}" for opposite in opposites[:1]]


def _valued(engine: str, option: Option, value: object) -> list[str]:
    flag = f"--{option.name}"
    if option.bare and value is True:
        return [flag]
    items = value if isinstance(value, (list, tuple)) and option.type != "json" else [value]
    words = [_word(option, item) for item in items]
    if option.repeat:
        return [word for each in words for word in _pair(engine, flag, each)]
    if option.type == "list":
        words = [",".join(words)]
    return [flag, *words] if len(words) > 1 else _pair(engine, flag, words[0])


def _pair(engine: str, flag: str, word: str) -> list[str]:
    """An option and its value, as one word where a Python parser would take the value for an option."""
    return [f"{flag}={word}"] if word.startswith("-") and engine != "llama_cpp" else [flag, word]
