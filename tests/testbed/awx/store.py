# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The objects, and what AWX refuses of them: fields by `resources.yml`, the rest by rules of their kinds."""

from __future__ import annotations

import copy
import json
import typing as t
from pathlib import Path

import yaml

from testbed.awx.rules import RULES

Object = dict[str, t.Any]
RESOURCES: dict[str, t.Any] = yaml.safe_load((Path(__file__).parent / "resources.yml").read_text())
UNIFIED = "unified_job_templates"
# What awx.awx asks a list for besides fields.
_PARAMETERS = {"page", "page_size", "order_by"}


class RefusedError(Exception):
    """An answer other than success: its status, and the body."""

    def __init__(self, status: int, body: t.Any) -> None:
        self.status = status
        self.body = body


def kinds_of(kind: str) -> list[str]:
    """The kind itself, or all that are one of it."""
    return [name for name, entry in RESOURCES.items() if entry.get("unified")] if kind == UNIFIED else [kind]


class Store:
    """:ivar playbooks: what every project holds."""

    def __init__(self, playbooks: list[str]) -> None:
        self.playbooks = playbooks
        self.objects: dict[str, dict[int, Object]] = {kind: {} for kind in RESOURCES}
        self._last = 0

    def find(self, kind: str, number: int) -> tuple[str, Object]:
        """An object and its kind, which is another than asked for where that is a family."""
        for name in kinds_of(kind):
            if number in self.objects[name]:
                return name, self.objects[name][number]
        raise RefusedError(404, {"detail": "Not found."})

    def create(self, kind: str, given: Object) -> Object:
        entry = RESOURCES[kind]
        fields = entry["fields"]
        errors = {
            name: ["This field is required."]
            for name, field in fields.items()
            if field.get("required") and name not in given
        }
        thing = {name: copy.deepcopy(field.get("default")) for name, field in fields.items()}
        thing |= self._accept(kind, given, errors)
        self._last += 1
        thing["id"] = self._last
        thing |= {name: [] for name in entry.get("associations", {})}
        self._settle(kind, thing)
        self.objects[kind][thing["id"]] = thing
        return thing

    def update(self, kind: str, number: int, given: Object) -> Object:
        kind, old = self.find(kind, number)
        thing = {**old, **self._accept(kind, given, {})}
        self._settle(kind, thing)
        old.update(thing)
        return old

    def delete(self, kind: str, number: int) -> None:
        kind, thing = self.find(kind, number)
        if kind == "credential_types" and any(
            credential["credential_type"] == number for credential in self.objects["credentials"].values()
        ):
            raise RefusedError(403, {"detail": "Credential types that are in use cannot be deleted"})
        del self.objects[kind][number]
        for other in RESOURCES:
            for relative in list(self.objects[other].values()):
                self._let_go(other, relative, kind, number)
        node_of_approval = kind == "workflow_job_template_nodes" and thing["unified_job_template"]
        if node_of_approval in self.objects["workflow_approval_templates"]:
            self.delete("workflow_approval_templates", node_of_approval)

    def _let_go(self, kind: str, thing: Object, gone: str, number: int) -> None:
        entry = RESOURCES[kind]
        for name, target in entry.get("associations", {}).items():
            if target == gone and number in thing[name]:
                thing[name].remove(number)
        for name, field in entry["fields"].items():
            if field["type"] == "id" and gone in kinds_of(field["to"]) and thing[name] == number:
                if field.get("with") == "goes" and thing["id"] in self.objects[kind]:
                    self.delete(kind, thing["id"])
                    return
                thing[name] = None

    def search(self, kind: str, question: list[tuple[str, str]]) -> list[Object]:
        """Objects for which each part of a query string is true, those that begin with ``or__`` together."""
        asked = [(name, value) for name, value in question if name not in _PARAMETERS]
        found = []
        for name in kinds_of(kind):
            if RESOURCES[name].get("hidden"):
                continue
            for thing in self.objects[name].values():
                either = [self._is(name, thing, key[4:], value) for key, value in asked if key.startswith("or__")]
                every = [self._is(name, thing, key, value) for key, value in asked if not key.startswith("or__")]
                if all(every) and (any(either) or not either):
                    found.append(thing)
        return found

    def _is(self, kind: str, thing: Object, path: str, value: str) -> bool:
        name, _dashes, rest = path.partition("__")
        if path == "type":
            return RESOURCES[kind]["type"] == value
        field = {"type": "integer"} if name == "id" else RESOURCES[kind]["fields"].get(name)
        if field is None:
            raise RefusedError(400, {"detail": f"{RESOURCES[kind]['type']} has no field named '{name}'"})
        if not rest:
            found = thing[name]
            return str(found).lower() == value.lower() if isinstance(found, bool) else str(found) == value
        if field["type"] != "id":
            raise RefusedError(400, {"detail": f"{name} is no relation, {rest} cannot be looked up"})
        return thing[name] is not None and self._is(*self.find(field["to"], thing[name]), rest, value)

    def _accept(self, kind: str, given: t.Any, errors: dict[str, list[str]]) -> Object:
        """What may be written of what was sent."""
        fields = RESOURCES[kind]["fields"]
        if not isinstance(given, dict):
            raise RefusedError(400, {"detail": "JSON parse error - not a JSON object"})
        accepted = {}
        for name, value in given.items():
            field = fields.get(name)
            if field is None:
                errors[name] = ["This field is unknown."]
            elif field.get("read_only"):
                continue
            elif (problem := self._problem(field, value)) is not None:
                errors[name] = [problem]
            else:
                accepted[name] = value
        if errors:
            raise RefusedError(400, errors)
        return accepted

    def _problem(self, field: Object, value: t.Any) -> str | None:
        if value is None:
            return None if field.get("nullable") or field["type"] == "id" else "This field may not be null."
        return _CHECKS[field["type"]](self, field, value)

    def _settle(self, kind: str, thing: Object) -> None:
        """What AWX computes from other fields, and what must be true of all together."""
        for name, field in RESOURCES[kind]["fields"].items():
            if "from" in field and thing[field["from"]] is not None:
                origin = RESOURCES[kind]["fields"][field["from"]]["to"]
                thing[name] = self.find(origin, thing[field["from"]])[1][name]
        for group in RESOURCES[kind]["unique"]:
            for other in self.objects[kind].values():
                if other["id"] != thing["id"] and all(other[name] == thing[name] for name in group):
                    label = " and ".join(name.replace("_", " ").capitalize() for name in group)
                    raise RefusedError(
                        400, {"__all__": [f"{RESOURCES[kind]['type']} with this {label} already exists."]}
                    )
        if kind in RULES and (errors := RULES[kind](thing, self)):
            raise RefusedError(400, errors)


def _string(_store: Store, field: Object, value: t.Any) -> str | None:
    if not isinstance(value, str):
        return "Not a valid string."
    if not value and field.get("required"):
        return "This field may not be blank."
    if len(value) > field.get("max_length", len(value)):
        return f"Ensure this field has no more than {field['max_length']} characters."
    return None


def _integer(_store: Store, field: Object, value: t.Any) -> str | None:
    if not isinstance(value, int) or isinstance(value, bool):
        return "A valid integer is required."
    if value < field.get("min", value):
        return f"Ensure this value is greater than or equal to {field['min']}."
    if value > field.get("max", value):
        return f"Ensure this value is less than or equal to {field['max']}."
    return None


def _boolean(_store: Store, _field: Object, value: t.Any) -> str | None:
    return None if isinstance(value, bool) else "Must be a valid boolean."


def _choice(_store: Store, field: Object, value: t.Any) -> str | None:
    return None if value in field["choices"] else f'"{value}" is not a valid choice.'


def _json(_store: Store, _field: Object, value: t.Any) -> str | None:
    return None if isinstance(value, dict) else "Expected a dictionary."


def _variables(_store: Store, _field: Object, value: t.Any) -> str | None:
    if not isinstance(value, str):
        return "Not a valid string."
    try:
        parsed = json.loads(value or "{}")
    except ValueError:
        try:
            parsed = yaml.safe_load(value)
        except yaml.YAMLError:
            parsed = None
    return None if isinstance(parsed, dict) else "Cannot parse as JSON or YAML."


def _id(store: Store, field: Object, value: t.Any) -> str | None:
    if not isinstance(value, int) or isinstance(value, bool):
        return f"Incorrect type. Expected pk value, received {type(value).__name__}."
    try:
        store.find(field["to"], value)
    except RefusedError:
        return f'Invalid pk "{value}" - object does not exist.'
    return None


_CHECKS: dict[str, t.Callable[[Store, Object, t.Any], str | None]] = {
    "boolean": _boolean,
    "choice": _choice,
    "id": _id,
    "integer": _integer,
    "json": _json,
    "string": _string,
    "variables": _variables,
}
