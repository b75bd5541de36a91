# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What has changed from one report to the next. Private to this collection."""

from __future__ import annotations

import typing as t

from ansible_collections.llmfleet.serving.plugins.module_utils._report import VERDICTS, Document, Json

# What is compared of a host: of each thing, by its kind and its name, its facts. Each value is shown as it is.
Facts = dict[tuple[str, str], dict[str, t.Any]]

_IDENTITY = ("system", "kernel", "serial", "product", "threads", "memory_mib")
_DRIVER = ("version", "cuda", "fabric_manager", "fabric_manager_state")
_GPU = ("name", "uuid", "vbios_version", "memory_total", "nvlinks", "error")
_MODEL = ("commit", "sha256", "bytes", "intact", "source")
_SERVICE = ("state", "since", "enabled", "engine", "version", "model", "port", "args", "argv", "environment", "score")
# Of these, none is a finding, too.
_APPEARING = ("model", "service", "figures")
# What stands for a thing that comes or goes.
_LABELS = {"gpu": "name", "model": "commit", "service": "state", "rule": ""}
_OUTCOMES = ("fail", "warn", "skip", "pass")


class Change(t.TypedDict):
    """One difference.

    :ivar kind: host, identity, driver, gpu, rule, model, service, figures or fleet.
    :ivar subject: the name of the thing; `what` is the fact that differs, "" for the thing itself.
    :ivar before, after: None where there was, or is, no such thing.
    :ivar better: whether that is for the better; None where that is not for a program to say.
    """

    host: str
    kind: str
    subject: str
    what: str
    before: t.Any
    after: t.Any
    better: bool | None


def changes(before: Document | None, after: Document) -> Json:
    """What is new in a report, host by host. A host that was or is silent has told nothing that could be compared."""
    if before is None:
        return {"since": None, "items": []}
    items = list(_differences("", ("fleet", "stack"), {"": before["stack"]}, {"": after["stack"]}))
    old, new = ({host["name"]: host for host in document["hosts"]} for document in (before, after))
    for name in [*new, *(name for name in old if name not in new)]:
        items += _of_host(name, old.get(name), new.get(name))
    return {"since": before["generated"], "items": items}


def _of_host(name: str, old: Json | None, new: Json | None) -> t.Iterator[Change]:
    verdicts = [host["verdict"] if host else None for host in (old, new)]
    yield from _differences(name, ("host", name), {"verdict": verdicts[0]}, {"verdict": verdicts[1]})
    if old is None or new is None or "silent" in verdicts:
        return
    was, is_now = _facts(old), _facts(new)
    told = {kind for kind, _subject in was} & {kind for kind, _subject in is_now}
    for key in [*is_now, *(key for key in was if key not in is_now)]:
        if key[0] in told or key[0] in _APPEARING:
            yield from _thing(name, key, was.get(key), is_now.get(key))


def _thing(
    host: str, key: tuple[str, str], old: dict[str, t.Any] | None, new: dict[str, t.Any] | None
) -> t.Iterator[Change]:
    label = _LABELS.get(key[0])
    if label is None or (old is not None and new is not None):
        yield from _differences(host, key, old or {}, new or {})
    else:
        before, after = (thing and thing[label] for thing in (old, new))
        yield _change(host, (*key, ""), before, after)


def _differences(host: str, key: tuple[str, str], old: dict[str, t.Any], new: dict[str, t.Any]) -> t.Iterator[Change]:
    for what in [*new, *(what for what in old if what not in new)]:
        if old.get(what) != new.get(what):
            yield _change(host, (*key, what), old.get(what), new.get(what))


def _facts(host: Json) -> Facts:
    """What a host has told. Nothing is known of a kind of which there is nothing."""
    facts: Facts = {}
    for kind, names in (("identity", _IDENTITY), ("driver", _DRIVER)):
        if any(host[kind].values()):
            facts[kind, ""] = {what: host[kind][what] for what in names}
    facts.update({("gpu", str(gpu["index"])): {what: gpu[what] for what in _GPU} for gpu in host["gpus"]})
    facts.update({("rule", rule["rule"]): {"": rule["outcome"]} for rule in host["gate"]["rules"]})
    facts.update({("model", model["name"]): {what: model[what] for what in _MODEL} for model in host["models"]})
    facts.update({("service", one["name"]): {what: one[what] for what in _SERVICE} for one in host["services"]})
    for figure in host["figures"]:
        rows = (figure["current"] or {"results": []})["results"]
        facts["figures", figure["service"]] = {str(row["concurrency"]): row["output_tokens_per_second"] for row in rows}
    return facts


def _change(host: str, key: tuple[str, str, str], before: t.Any, after: t.Any) -> Change:
    kind, subject, what = key
    return {
        "host": host,
        "kind": kind,
        "subject": subject,
        "what": what,
        "before": before,
        "after": after,
        "better": _better(kind, what, before, after),
    }


def _better(kind: str, what: str, before: t.Any, after: t.Any) -> bool | None:
    scale: tuple[t.Any, ...] = ()
    if kind == "host":
        scale = VERDICTS
    elif kind == "rule":
        scale = _OUTCOMES
    elif what == "intact":
        scale = (False, True)
    elif what == "state":
        return str(after).startswith("active")
    elif kind == "figures" and before and after:
        return bool(after > before)
    elif what == "score" and before is not None and after is not None:
        return bool(after < before)
    return scale.index(after) > scale.index(before) if before in scale and after in scale else None
