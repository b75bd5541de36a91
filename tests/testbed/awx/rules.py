# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What AWX refuses of an object as a whole, by kind. Each rule gives error messages by field."""

from __future__ import annotations

import re
import typing as t

from jinja2 import StrictUndefined, TemplateSyntaxError, UndefinedError
from jinja2.sandbox import ImmutableSandboxedEnvironment

if t.TYPE_CHECKING:
    from testbed.awx.store import Object, Store

Errors = dict[str, list[str]]
_SUBKEYS = {"id", "label", "help_text", "type", "format", "choices", "multiline", "secret", "ask_at_runtime", "default"}
_ONLY_STRINGS = ("choices", "multiline", "format", "secret")
_NAME = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*")
_FILE = re.compile(r"template(\.[a-zA-Z_][a-zA-Z0-9_]*)?")
# Some of those that AWX lists.
_RESERVED = {"PATH", "HOME", "VIRTUAL_ENV", "JOB_ID", "PROJECT_REVISION"}
# Parameters of a notification by type: whether there is a default, and what it is made of.
_NOTIFICATIONS = {
    "webhook": {
        "url": (None, str),
        "http_method": ("POST", str),
        "disable_ssl_verification": (False, bool),
        "username": ("", str),
        "password": ("", str),
        "headers": ({}, dict),
    },
}
QUESTION_TYPES: dict[str, type] = {
    "text": str,
    "textarea": str,
    "password": str,
    "multiplechoice": str,
    "multiselect": str,
    "integer": int,
    "float": float,
}


def credential_type(thing: Object, _store: Store) -> Errors:
    fields = thing["inputs"].get("fields", [])
    problems = []
    for field in fields:
        if not {"id", "label"} <= field.keys() or not field.keys() <= _SUBKEYS:
            problems.append(f"Additional properties are not allowed, or one is missing: {sorted(field)}")
        field.setdefault("type", "string")
        problems += [
            f"{key} not allowed for {field['type']} type ({field['id']})"
            for key in _ONLY_STRINGS
            if key in field and field["type"] != "string"
        ]
    names = [field["id"] for field in fields]
    problems += [f"field IDs must be unique ({name})" for name in set(names) if names.count(name) > 1]
    unknown = set(thing["inputs"].get("required", [])) - set(names)
    problems += [f"'required' names an unknown field {name}" for name in unknown]
    if "tower" in names:
        problems.append('"tower" is a reserved field name')
    if problems:
        return {"inputs": problems}
    injections = _injections(thing["injectors"], names)
    return {"injectors": injections} if injections else {}


def _injections(injectors: Object, names: list[str]) -> list[str]:
    if not injectors.keys() <= {"file", "env", "extra_vars"}:
        return [f"Additional properties are not allowed ({sorted(injectors)})"]
    files = injectors.get("file", {})
    problems = [f"'{name}' does not match the form of a file's name" for name in files if not _FILE.fullmatch(name)]
    problems += [
        f"Environment variable {name} is not allowed to be used in credentials."
        for name in injectors.get("env", {})
        if not _NAME.fullmatch(name) or name.startswith("ANSIBLE_") or name in _RESERVED
    ]
    if "template" in files and len(files) > 1:
        problems.append("Must use multi-file syntax when injecting multiple files")
    named = {name.partition(".")[2]: "FILE" for name in files}
    tower = {"filename": "FILE" if "template" in files else named} if files else {}
    return problems + _undefined(injectors, {**dict.fromkeys(names, "EXAMPLE"), "tower": tower})


def _undefined(injectors: Object, space: Object) -> list[str]:
    problems = []
    engine = ImmutableSandboxedEnvironment(undefined=StrictUndefined)
    for kind, entries in injectors.items():
        for name, template in entries.items():
            try:
                engine.from_string(template).render(space)
            except UndefinedError as exc:
                problems.append(f"{name} uses an undefined field ({exc})")
            except TemplateSyntaxError as exc:
                problems.append(f"Syntax error rendering template for {name} inside of {kind} ({exc})")
    return problems


def project(thing: Object, _store: Store) -> Errors:
    return {"scm_url": ["SCM URL is required."]} if thing["scm_type"] and not thing["scm_url"] else {}


def inventory(thing: Object, _store: Store) -> Errors:
    if thing["host_filter"] is not None and thing["kind"] != "smart":
        return {"host_filter": ["Host filter can only be set for smart inventories."]}
    return {}


def inventory_source(thing: Object, _store: Store) -> Errors:
    if thing["source"] == "scm" and thing["source_project"] is None:
        return {"source_project": ["Project required for scm type sources."]}
    if thing["source"] != "scm" and (thing["source_project"] is not None or thing["source_path"]):
        return {"detail": ["Cannot set source_path or source_project if not SCM type."]}
    return {}


def notification_template(thing: Object, _store: Store) -> Errors:
    given = thing["notification_configuration"]
    expected = _NOTIFICATIONS.get(thing["notification_type"], {})
    for name, (default, _type) in expected.items():
        if default is not None:
            given.setdefault(name, default)
    missing = sorted(expected.keys() - given.keys())
    if missing:
        return {"__all__": [f"Missing required fields for Notification Configuration: {', '.join(missing)}."]}
    wrong = sorted(name for name, (_default, kind) in expected.items() if not isinstance(given[name], kind))
    if wrong:
        return {"__all__": [f"Configuration field '{wrong[0]}' incorrect type."]}
    return {}


def job_template(thing: Object, store: Store) -> Errors:
    if thing["project"] is None:
        return {"project": ["Job Templates must have a project assigned."]}
    if thing["inventory"] is None and not thing["ask_inventory_on_launch"]:
        return {"inventory": ["You must either set a default value or ask to prompt on launch."]}
    if not thing["playbook"]:
        return {"playbook": ["Must select playbook for project."]}
    source = store.find("projects", thing["project"])[1]
    if not source["allow_override"]:
        if thing["playbook"] not in store.playbooks:
            return {"playbook": ["Playbook not found for project."]}
        for name in ("scm_branch", "ask_scm_branch_on_launch"):
            if thing[name]:
                return {name: ["Project does not allow overriding branch."]}
    return {}


def schedule(thing: Object, _store: Store) -> Errors:
    rule = thing["rrule"]
    starts = re.findall(r"DTSTART(?:;TZID=[^:]+:[0-9]+T[0-9]+|:[0-9]+T[0-9]+Z)", rule)
    rules = re.findall(r"RULE:\S*", rule)
    problems = []
    if not starts:
        problems.append("Valid DTSTART required in rrule. Value should start with: DTSTART:YYYYMMDDTHHMMSSZ")
    if len(starts) > 1:
        problems.append("Multiple DTSTART is not supported.")
    if not rules:
        problems.append("One or more rule required in rrule.")
    for part in rules:
        if "INTERVAL" not in part:
            problems.append(f"INTERVAL required in rrule: {part}")
        if "SECONDLY" in part:
            problems.append(f"SECONDLY is not supported: {part}")
        if not re.search(r"FREQ=(YEARLY|MONTHLY|WEEKLY|DAILY|HOURLY|MINUTELY|SECONDLY)\b", part):
            problems.append(f"rrule parsing failed validation: {part}")
    return {"rrule": problems} if problems else {}


def survey(spec: t.Any) -> str | None:
    """What is wrong with the answer to `survey_spec`, in the one sentence that AWX gives."""
    for field, kind in (("name", str), ("description", str), ("spec", list)):
        if field not in spec:
            return f"Field '{field}' is missing from survey spec."
        if not isinstance(spec[field], kind):
            return f"Expected {kind.__name__} for field '{field}', received {type(spec[field]).__name__} type."
    if not spec["spec"]:
        return "'spec' doesn't contain any items."
    names = [question.get("variable") for question in spec["spec"]]
    for number, question in enumerate(spec["spec"]):
        if names.count(question.get("variable")) > 1:
            return f"'variable' '{question['variable']}' duplicated in survey question {number}."
        if problem := _question(question):
            return f"{problem} in survey question {number}."
    return None


def _question(question: Object) -> str | None:
    for name, kind in (("type", str), ("question_name", str), ("variable", str), ("required", bool)):
        if name not in question:
            return f"'{name}' missing"
        if not isinstance(question[name], kind):
            return f"'{name}' expected to be {kind.__name__}"
    if question["type"] not in QUESTION_TYPES:
        return f"'{question['type']}' is not one of '{', '.join(QUESTION_TYPES)}' allowed question types"
    return _answers(question)


def _answers(question: Object) -> str | None:
    kind, default = question["type"], question.get("default", "")
    if default != "" and not isinstance(default, QUESTION_TYPES[kind]):
        return f"Default value {default} expected to be {QUESTION_TYPES[kind].__name__}"
    for name in ("min", "max"):
        if not isinstance(question.get(name, 0), int | None):
            return f"The {name} limit expected to be integer"
    if kind in ("multiplechoice", "multiselect"):
        if "choices" not in question:
            return f"Type {kind} must specify choices"
        if any(choice not in question["choices"] for choice in default.splitlines()):
            return "Default choice must be answered from the choices listed"
    return None


RULES: dict[str, t.Callable[[Object, Store], Errors]] = {
    "credential_types": credential_type,
    "inventories": inventory,
    "inventory_sources": inventory_source,
    "job_templates": job_template,
    "notification_templates": notification_template,
    "projects": project,
    "schedules": schedule,
}
