# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What is to be made in AWX, held against what is there. Private to this collection."""

from __future__ import annotations

import itertools
import typing as t
from collections.abc import Mapping, Sequence

from ansible_collections.llmfleet.serving.plugins.module_utils._errors import LlmError

Object = t.Mapping[str, t.Any]
# What AWX has, by kind as its API names it.
There = Mapping[str, Sequence[Object]]

# Parameters of the awx.awx modules that name other objects, and the kinds of objects that they name.
_REFERENCES = {
    "credentials": ("credentials",),
    "execution_environment": ("execution_environments",),
    "failure_nodes": ("workflow_job_template_nodes",),
    "inventory": ("inventories",),
    "notification_templates_approvals": ("notification_templates",),
    "notification_templates_error": ("notification_templates",),
    "organization": ("organizations",),
    "project": ("projects",),
    "source_project": ("projects",),
    "success_nodes": ("workflow_job_template_nodes",),
    "unified_job_template": ("job_templates", "workflow_job_templates"),
    "workflow_job_template": ("workflow_job_templates",),
}
# What no organization owns, so that the name may be somebody else's.
_GLOBAL = ("organizations", "credential_types", "execution_environments")
# What lives in an organization, and goes with it.
_OWNED = ("inventories", "job_templates", "notification_templates", "projects", "teams", "workflow_job_templates")
# The description of an object that no organization owns says who has made it.
MARK = "Made by llmfleet.serving."


class Plan(t.TypedDict):
    """What to do, by kind."""

    ready: dict[str, list[Object]]
    waiting: list[str]
    # What else the organization has.
    strangers: list[str]
    # What is made of our credential types.
    credentials: list[str]


def plan(wanted: Mapping[str, Sequence[Object]], there: There, simulated: bool, gone: bool) -> Plan:
    """Which objects the modules of awx.awx can be asked for now.

    They ask AWX for everything that an object names, so that they fail where that is not there: in check mode, because
    it has not been made, and when all is removed a second time. In check mode such an object waits: it will change.

    :param wanted: the objects by kind, in the words of the modules.
    :param there: what AWX has.
    :param simulated: whether nothing is made now that later objects could name.
    :param gone: whether the objects are to be absent.
    :raises LlmError: when a name of ours belongs to somebody else, or a credential is not there.
    """
    names = {kind: {_name(thing) for thing in things} for kind, things in there.items()}
    _refuse_others(wanted, there)
    if not gone:
        _refuse_missing_credentials(wanted, names.get("credentials", set()))
    ready: dict[str, list[Object]] = {}
    waiting = []
    for kind, things in wanted.items():
        ready[kind] = []
        for thing in things:
            if gone:
                ready[kind] += [thing] * (_name(thing) in names.get(kind, set()))
            elif simulated and not _has_all(thing, names):
                waiting.append(f"{kind}: {_name(thing)}")
            else:
                ready[kind].append(thing)
    users = _users_of_types(wanted, there)
    if gone:
        ready["credential_types"] = [thing for thing in ready["credential_types"] if thing["name"] not in users]
    return {
        "ready": ready,
        "waiting": waiting,
        "strangers": _strangers(wanted, names),
        "credentials": sorted(itertools.chain.from_iterable(users.values())),
    }


def _name(thing: Object) -> str:
    """Nodes of a workflow have an identifier instead."""
    return str(thing["identifier"] if "identifier" in thing else thing["name"])


def _has_all(thing: Object, names: Mapping[str, set[str]]) -> bool:
    for parameter, kinds in _REFERENCES.items():
        given = thing.get(parameter) or []
        known = set().union(*(names.get(kind, set()) for kind in kinds))
        if not known.issuperset([given] if isinstance(given, str) else given):
            return False
    return True


def _refuse_others(wanted: Mapping[str, Sequence[Object]], there: There) -> None:
    for kind in _GLOBAL:
        ours = {_name(thing) for thing in wanted[kind]}
        for thing in there[kind]:
            if thing["name"] in ours and not str(thing.get("description") or "").endswith(MARK):
                raise LlmError(
                    f"{kind}: {thing['name']!r} is in AWX already, and its description does not end in {MARK!r}:"
                    " expected one that this playbook has made, or none. Choose other names with llmfleet_awx_name."
                )


def _refuse_missing_credentials(wanted: Mapping[str, Sequence[Object]], known: set[str]) -> None:
    used = {name for thing in wanted["job_templates"] for name in thing["credentials"]}
    if missing := sorted(used - known):
        raise LlmError(
            f"AWX has no credential {', '.join(map(repr, missing))}: expected all that llmfleet_awx_credentials"
            " names. Whoever holds the secrets makes them there, of this playbook's credential types or of AWX's own."
        )


def _strangers(wanted: Mapping[str, Sequence[Object]], names: Mapping[str, set[str]]) -> list[str]:
    """What else lives in the organization, and would go with it."""
    return sorted(
        f"{kind}: {name}"
        for kind in _OWNED
        for name in names.get(kind, set()) - {_name(thing) for thing in wanted.get(kind, ())}
    )


def _users_of_types(wanted: Mapping[str, Sequence[Object]], there: There) -> dict[str, list[str]]:
    """AWX removes no credential type that a credential is made of: the credentials, by the name of their type."""
    ours = {_name(thing) for thing in wanted["credential_types"]}
    types = {thing["id"]: thing["name"] for thing in there["credential_types"] if thing["name"] in ours}
    users: dict[str, list[str]] = {}
    for credential in there["credentials"]:
        if credential["credential_type"] in types:
            users.setdefault(types[credential["credential_type"]], []).append(credential["name"])
    return users
