# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The report of a fleet as a document: what was found on each host, what it amounts to. Private to this collection.

docs/report.md and docs/report.schema.json describe it.
"""

from __future__ import annotations

import dataclasses
import json
import re
import typing as t
from collections.abc import Mapping, Sequence

from ansible_collections.llmfleet.serving.plugins.module_utils import _redact
from ansible_collections.llmfleet.serving.plugins.module_utils._bench_record import OWN
from ansible_collections.llmfleet.serving.plugins.module_utils._errors import LlmError
from ansible_collections.llmfleet.serving.plugins.module_utils._gate_rules import RULES

NAME = "llmfleet-report"
# It rises when a key changes its meaning or goes away.
VERSION = 1

# The first question of the procedure that this collection replaces: 8x H800, one stream, the same model.
REFERENCE = (
    {
        "engine": "ollama",
        "version": "0.5.11",
        "model": "DeepSeek-R1 671B Q4_K_M",
        "concurrency": 1,
        "tokens_per_second": 4.59,
    },
    {"engine": "vllm", "version": "0.7", "model": "DeepSeek-R1 671B AWQ", "concurrency": 1, "tokens_per_second": 6.3},
)

Document = dict[str, t.Any]
Json = dict[str, t.Any]

_PASSING = ("generated", "changes", "answers", "units")
# From what has to be looked at first to what need not be.
VERDICTS = ("silent", "fail", "warn", "pass")
# What a host has told: fields of Found.
_TOLD = ("identity", "gate", "records", "answers", "models", "services")
_RULES = {rule.id: rule for rule in RULES}
_DIGITS = re.compile(r"(\d+)")


@dataclasses.dataclass(frozen=True)
class Found:
    """What came from one host.

    :ivar silent: why it did not answer; "" if it did.
    :ivar unread: why not everything could be read; "" if it could.
    :ivar identity, gate, records: as `host_report` returns them. They are empty where the host did not tell.
    :ivar answers: what each service has answered, by the role acceptance.
    :ivar models, services: what the host is to have, as the playbooks' `llmfleet_models` and `llmfleet_services`.
    """

    silent: str = ""
    unread: str = ""
    identity: Mapping[str, t.Any] = dataclasses.field(default_factory=dict)
    gate: Mapping[str, t.Any] = dataclasses.field(default_factory=dict)
    records: Mapping[str, t.Any] = dataclasses.field(default_factory=dict)
    answers: Mapping[str, t.Any] = dataclasses.field(default_factory=dict)
    models: Sequence[Mapping[str, t.Any]] = ()
    services: Sequence[Mapping[str, t.Any]] = ()

    @classmethod
    def of(cls, told: Mapping[str, t.Any]) -> Found:
        """What `host_report` has returned, or failed with; nothing of a host that was not asked."""
        if not told:
            return cls(silent="It dropped out before it was asked")
        facts: dict[str, t.Any] = {name: told[name] for name in _TOLD if name in told}
        if told.get("unreachable") or told.get("failed"):
            facts["silent" if told.get("unreachable") else "unread"] = told.get("msg") or "no message"
        return cls(**facts)

    @property
    def model_names(self) -> list[str]:
        """The models that are to be there."""
        return [str(model["name"]) for model in self.models if model.get("state", "present") == "present"]


def natural(name: str) -> list[t.Any]:
    """What names sort by, so that node2 comes before node10."""
    return [int(part) if part.isdigit() else part for part in _DIGITS.split(name)]


def build(found: Mapping[str, Found], *, generated: str, title: str, stack: str) -> Document:
    """The document, but for what has changed.

    :param found: every host that was expected, by its name.
    :param generated: the time in UTC.
    """
    hosts = [_host(name, found[name]) for name in sorted(found, key=natural)]
    document = {
        "schema": NAME,
        "version": VERSION,
        "generated": generated,
        "title": title,
        "stack": stack,
        "verdict": "pass" if all(host["verdict"] in ("pass", "warn") for host in hosts) else "fail",
        "summary": _summary(hosts, found),
        "reference": [dict(figure) for figure in REFERENCE],
        "hosts": hosts,
        "changes": {"since": None, "items": []},
    }
    return t.cast(Document, _redact.in_data(document))


def parse(text: str, name: str) -> Document:
    """A document that was written before.

    :param name: of its file, for the error.
    :raises LlmError: when it is none of this version: what was reported must not be forgotten unnoticed.
    """
    try:
        document = json.loads(text)
    except ValueError:
        document = None
    if not isinstance(document, dict) or (document.get("schema"), document.get("version")) != (NAME, VERSION):
        raise LlmError(
            f"{name} is no report of version {VERSION}: expected JSON with schema {NAME!r}. Move it away; the next "
            "report is then written without a comparison."
        )
    return document


def settled(document: Document) -> Document:
    """The document without what may differ each time: date, comparison, answers, units that run now and then, and what
    a rule has found that is right, such as a temperature.
    """
    hosts = [
        {**{key: value for key, value in host.items() if key not in _PASSING}, "gate": _settled(host["gate"])}
        for host in document["hosts"]
    ]
    return {**{key: value for key, value in document.items() if key not in _PASSING}, "hosts": hosts}


def _settled(gate: Json) -> Json:
    return {**gate, "rules": [{**rule, "found": ""} if rule["outcome"] == "pass" else rule for rule in gate["rules"]]}


def reasons(document: Document) -> list[str]:
    """Why the fleet is not as it should be: a line for each reason, with its host."""
    return [f"{host['name']}: {reason['text']}" for host in document["hosts"] for reason in host["reasons"]]


def _summary(hosts: Sequence[Json], found: Mapping[str, Found]) -> Json:
    """What a silent host is to have counts, and counts as missing."""
    count = {verdict: sum(host["verdict"] == verdict for host in hosts) for verdict in VERDICTS}
    return {
        "hosts": len(hosts),
        **count,
        "gpus": sum(len(host["gpus"]) for host in hosts),
        "gpu_names": sorted({gpu["name"] for host in hosts for gpu in host["gpus"] if gpu["name"]}),
        "services": sum(len(one.services) for one in found.values()),
        "services_running": sum(one["wanted"] and one["running"] for host in hosts for one in host["services"]),
        "models": sum(len(one.model_names) for one in found.values()),
        "models_intact": sum(one["wanted"] and one["intact"] for host in hosts for one in host["models"]),
        "model_bytes": sum(model["bytes"] for host in hosts for model in host["models"]),
    }


# --- One host


def _host(name: str, found: Found) -> Json:
    answered = not found.silent
    host: Json = {
        "name": name,
        "verdict": "silent",
        "reasons": [],
        "identity": _identity(found.identity),
        "driver": _driver(found.gate),
        "gpus": _gpus(found.gate),
        "gate": _gate(found.gate),
        "models": _models(found.records, found.model_names) if found.records else [],
        "services": _services(found.records, found.services) if found.records else [],
        "units": _other_units(found.records, found.services),
        "figures": _figures(found.records),
        "answers": _answers(found.answers) if answered else [],
    }
    host["reasons"] = list(_reasons(found, host))
    if answered:
        warned = any(rule["outcome"] == "warn" for rule in host["gate"]["rules"])
        host["verdict"] = "fail" if host["reasons"] else "warn" if warned else "pass"
    return host


def _reasons(found: Found, host: Json) -> t.Iterator[Json]:
    if found.silent:
        # Ansible adds a command with names that it has made up, which would make each report another one.
        said = found.silent.partition("Failed command was")[0]
        yield _reason("silent", host["name"], f"It did not answer: {_line(said)}")
        return
    if found.unread:
        yield _reason("unread", host["name"], f"Not everything could be read: {_line(found.unread)}")
    yield from _of_rules(host["gate"]["rules"])
    yield from _of_models(model for model in host["models"] if model["wanted"] and not model["intact"])
    yield from _of_services(service for service in host["services"] if service["wanted"] and not service["running"])
    for figure in host["figures"]:
        for text in figure["refused"]:
            yield _reason("figures", figure["service"], f"Service {figure['service']} is slower than accepted: {text}.")


def _of_rules(rules: t.Iterable[Json]) -> t.Iterator[Json]:
    for rule in rules:
        for finding in rule["findings"] if rule["outcome"] == "fail" else []:
            yield _reason("gate", rule["rule"], _broken(rule["rule"], finding))


def _of_models(models: t.Iterable[Json]) -> t.Iterator[Json]:
    for model in models:
        are = "are not what was verified any more" if model["sha256"] else "are not there"
        yield _reason("model", model["name"], f"Model {model['name']}: its files {are}. Run site.yml.")


def _of_services(services: t.Iterable[Json]) -> t.Iterator[Json]:
    for service in services:
        text = f"Service {service['name']}: expected that {service['unit']} runs, found it {service['state']}."
        advice = (
            "Run site.yml." if service["state"] == _NO_UNIT["state"] else f"Read `journalctl -u {service['unit']}`."
        )
        yield _reason("service", service["name"], f"{text} {advice}")


def _reason(code: str, subject: str, text: str) -> Json:
    return {"code": code, "subject": subject, "text": text}


def _broken(rule: str, finding: Json) -> str:
    gpus = finding["gpus"]
    named = f" (GPU{'s' * (len(gpus) > 1)} {', '.join(map(str, gpus))})" if gpus else ""
    return f"{rule}{named}: expected {finding['expected']}, found {finding['found']}. {finding['advice']}"


def _line(text: str) -> str:
    """On one line, with one full stop, and not without end."""
    return (" ".join(text.split())[:500].rstrip(".") or "no reason was given") + "."


def _identity(facts: Mapping[str, t.Any]) -> Json:
    def fact(name: str) -> t.Any:
        value = facts.get(f"ansible_{name}")
        return None if value == "NA" else value

    # A number, a maker and a model for each thread of the processor.
    processors = [str(word) for word in fact("processor") or []]
    return {
        "fqdn": fact("fqdn"),
        "system": " ".join(str(word) for word in (fact("distribution"), fact("distribution_version")) if word) or None,
        "kernel": fact("kernel"),
        "architecture": fact("architecture"),
        "vendor": fact("system_vendor"),
        "product": fact("product_name"),
        "serial": fact("product_serial"),
        "machine_id": fact("machine_id"),
        "processor": processors[2] if len(processors) > 2 else None,
        "threads": fact("processor_vcpus"),
        "memory_mib": fact("memtotal_mb"),
    }


def _driver(gate: Mapping[str, t.Any]) -> Json:
    facts = gate.get("facts") or {}
    manager = facts.get("fabric_manager") or {}
    return {
        "version": facts.get("driver_version"),
        "cuda": facts.get("cuda_version"),
        "nvml": facts.get("nvml_version"),
        "fabric_manager": manager.get("version"),
        "fabric_manager_state": manager.get("state"),
    }


# What does not change by itself. What does is judged by the gate.
_GPU_FACTS = ("index", "name", "uuid", "serial", "pci_bus_id", "vbios_version", "memory_total", "error")


def _gpus(gate: Mapping[str, t.Any]) -> list[Json]:
    facts = gate.get("facts") or {}
    return [
        {
            **{name: gpu.get(name) for name in _GPU_FACTS},
            "nvlinks": sum(bool(link["active"]) for link in gpu.get("nvlinks") or []),
        }
        for gpu in facts.get("gpus") or []
    ]


def _gate(gate: Mapping[str, t.Any]) -> Json:
    rules = [
        {
            "rule": one["rule"],
            "severity": one["severity"],
            "outcome": one["outcome"],
            "expected": one["expected"],
            "found": one["found"],
            "source": _RULES[one["rule"]].source if one["rule"] in _RULES else "",
            "findings": _findings(finding for finding in gate["findings"] if finding["rule"] == one["rule"]),
        }
        for one in gate.get("rules") or []
    ]
    return {"verdict": gate.get("verdict"), "profile": gate.get("profile"), "rules": rules}


def _findings(findings: t.Iterable[Mapping[str, t.Any]]) -> list[Json]:
    """One for each thing that is wrong, with all GPUs on which it is."""
    merged: dict[tuple[str, str], Json] = {}
    for one in findings:
        kept = merged.setdefault(
            (one["expected"], one["found"]),
            {"gpus": [], "expected": one["expected"], "found": one["found"], "advice": one["advice"]},
        )
        kept["gpus"] += [] if one["gpu"] is None else [one["gpu"]]
    return list(merged.values())


def _models(records: Mapping[str, t.Any], wanted: Sequence[str]) -> list[Json]:
    there = {model["name"]: {**model, "wanted": model["name"] in wanted} for model in records.get("models", [])}
    nothing = {
        **dict.fromkeys(("source", "repo", "commit", "sha256"), ""),
        **dict.fromkeys(("files", "bytes"), 0),
        **dict.fromkeys(("written", "seconds")),
    }
    absent = {name: {"name": name, **nothing, "intact": False, "wanted": True} for name in wanted if name not in there}
    return sorted([*there.values(), *absent.values()], key=lambda model: natural(model["name"]))


def _unit_of(service: Mapping[str, t.Any]) -> str:
    return f"llmfleet-{service['name']}.service"


_NO_UNIT: Json = {
    "state": "not installed",
    "since": None,
    "enabled": "",
    "result": "",
    "restarts": 0,
    "engine": None,
    "version": None,
    "argv": [],
    "environment": {},
    "score": None,
    "rating": None,
}


def _services(records: Mapping[str, t.Any], wanted: Sequence[Mapping[str, t.Any]]) -> list[Json]:
    """The wanted ones, and what else is an engine."""
    units = {unit["name"]: unit for unit in records.get("units", [])}
    known = {_unit_of(service): service for service in wanted}
    others = [name for name, unit in units.items() if unit["engine"] and name not in known]
    return [
        _service(name, units.get(name, _NO_UNIT), known.get(name)) for name in [*known, *sorted(others, key=natural)]
    ]


def _service(name: str, unit: Mapping[str, t.Any], wanted: Mapping[str, t.Any] | None) -> Json:
    about = wanted or {}
    return {
        "name": about.get("name") or name.removeprefix("llmfleet-").removesuffix(".service"),
        "unit": name,
        "wanted": wanted is not None,
        "running": str(unit["state"]).startswith("active"),
        "engine": unit["engine"] or about.get("engine"),
        "model": about.get("model"),
        "port": about.get("port"),
        "args": dict(about.get("args") or {}),
        **{key: unit[key] for key in _NO_UNIT if key != "engine"},
    }


def _other_units(records: Mapping[str, t.Any], services: Sequence[Mapping[str, t.Any]]) -> list[Json]:
    known = {_unit_of(service) for service in services}
    return [
        {key: unit[key] for key in ("name", "description", "state", "score", "rating")}
        for unit in records.get("units", [])
        if not unit["engine"] and unit["name"] not in known
    ]


_FIGURES = (
    *("concurrency", "requests", "failures", "output_tokens_per_second", "output_tokens_per_second_stream"),
    *("ttft_seconds", "tpot_seconds", "latency_seconds"),
)


def _figures(records: Mapping[str, t.Any]) -> list[Json]:
    figures = records.get("figures") or {}
    return [
        {
            "service": name,
            "current": _run(one.get("current")),
            "accepted": _run(one.get("accepted")),
            "refused": list((one.get("current") or {}).get("refused") or []),
        }
        for name, one in sorted(figures.items(), key=lambda item: natural(item[0]))
    ]


def _run(run: Mapping[str, t.Any] | None) -> Json | None:
    if not run:
        return None
    results = [{name: row.get(name) for name in _FIGURES} for row in run.get("results") or []]
    told = {key: run.get(key) for key in ("date", "engine_version", "model_sha256")}
    return {**told, "client": run.get("client", OWN), "results": results}


def _answers(answers: Mapping[str, t.Any]) -> list[Json]:
    return [
        {
            "service": one["name"],
            "question": answers.get("question", ""),
            "answer": one["answer"],
            **{key: one.get(key) for key in ("engine_version", "tokens", "tokens_per_second", "ttft_seconds")},
        }
        for one in answers.get("services", [])
    ]
