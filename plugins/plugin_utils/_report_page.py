# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The report as one HTML page. Private to this collection.

The page has no script at all, and says so to the browser; everything that a host has said is escaped by the template
engine, not by the template.
"""

from __future__ import annotations

import hashlib
import json
import typing as t
from collections.abc import Iterable
from pathlib import Path

import jinja2
import yaml
from markupsafe import Markup, escape

from ansible_collections.llmfleet.serving.plugins.module_utils._report import VERDICTS, Document, Json, natural
from ansible_collections.llmfleet.serving.plugins.module_utils._report_chart import PALETTE, fleet_charts, host_charts

LANGUAGES = ("en", "zh")
_ROLE = Path(__file__).parents[2] / "roles" / "report"
WORDS: dict[str, tuple[str, str]] = yaml.safe_load((_ROLE / "files" / "words.yml").read_text(encoding="utf-8"))
_SHORT_LIST = 6
# So many hosts are shown unfolded; of more, those that are not fit.
_UNFOLDED = 4


def page(document: Document, text: str, language: str) -> str:
    """The page.

    :param text: the file with the same facts, whose checksum the page bears.
    :param language: which of `LANGUAGES` it opens in.
    """
    environment = jinja2.Environment(
        autoescape=True,
        loader=jinja2.FileSystemLoader(str(_ROLE / "templates")),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(bytes=_bytes, figure=_figure, moment=_moment, value=_value, listed=_listed)
    environment.globals.update(w=_words, ws=_svg_words, host_charts=lambda host: host_charts(document, host))
    hosts = sorted(document["hosts"], key=lambda host: (VERDICTS.index(host["verdict"]), natural(host["name"])))
    return environment.get_template("report.html.j2").render(
        report=document,
        hosts=[
            {**host, "id": f"host-{number}", "open": _unfolded(host, hosts)} for number, host in enumerate(hosts, 1)
        ],
        changes=_alike(document["changes"]["items"]),
        models=_models(document),
        charts=fleet_charts(document),
        palette=PALETTE,
        digest=hashlib.sha256(text.encode()).hexdigest(),
        language=language,
    )


def _unfolded(host: Json, hosts: list[Json]) -> bool:
    return len(hosts) <= _UNFOLDED or host["verdict"] in ("fail", "silent")


# --- What many hosts have in common is one row


def _alike(items: Iterable[Json]) -> list[Json]:
    """Changes that are the same on several hosts, with the names of these hosts."""
    rows: dict[str, Json] = {}
    for item in items:
        # Each host's own verdict is of interest by its name, which is the subject, too.
        subject = "" if item["kind"] == "host" else item["subject"]
        key = json.dumps([item["kind"], subject, item["what"], item["before"], item["after"]], sort_keys=True)
        row = rows.setdefault(key, {**item, "subject": subject, "hosts": []})
        row["hosts"] += [item["host"]] if item["host"] else []
    return list(rows.values())


def _models(document: Document) -> list[Json]:
    """Models that are the same on several hosts, how many these are, when the first and the last were written."""
    rows: dict[tuple[str, ...], Json] = {}
    for model in (model for host in document["hosts"] for model in host["models"]):
        key = tuple(str(model[name]) for name in ("name", "source", "repo", "commit", "sha256", "intact", "wanted"))
        row = rows.setdefault(key, {**model, "hosts": 0, "times": []})
        row["hosts"] += 1
        row["times"] += [model["written"]] if model["written"] else []
    return [
        {**row, "first": min(row["times"], default=None), "last": max(row["times"], default=None)}
        for row in rows.values()
    ]


# --- Words and numbers


def _words(name: str) -> Markup:
    """A word in both languages, of which the page shows one."""
    return _spans("span", name)


def _svg_words(name: str) -> Markup:
    """The same in a drawing."""
    return _spans("tspan", name)


def _spans(tag: str, name: str) -> Markup:
    spans = (f'<{tag} lang="{language}">{escape(word)}</{tag}>' for language, word in zip(LANGUAGES, WORDS[name]))
    return Markup("".join(spans))  # noqa: S704 -- our own words, escaped


def _bytes(size: int) -> str:
    value = float(size)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} TB"


def _figure(value: float | None) -> str:
    """Three digits that mean something."""
    if value is None:
        return "—"
    digits = 0 if abs(value) >= 100 else 1
    return f"{value:.{digits}f}" if abs(value) >= 10 else f"{value:.3g}"


def _moment(text: str | None) -> str:
    return text.replace("T", " ").replace("Z", " UTC") if text else "—"


def _value(value: t.Any) -> str:
    """A fact of a comparison."""
    if value is None or value in ("", [], {}):
        return "—"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, sort_keys=True)


def _listed(names: list[str]) -> str:
    """Some names, and how many there are."""
    shown = ", ".join(names[:_SHORT_LIST])
    return shown if len(names) <= _SHORT_LIST else f"{shown}, … ({len(names)})"
