# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A host's record of what its services have delivered, and what is held against it. Private to this collection."""

from __future__ import annotations

import json
import typing as t
from dataclasses import asdict, dataclass
from pathlib import Path

from ansible_collections.llmfleet.serving.plugins.module_utils._errors import LlmError
from ansible_collections.llmfleet.serving.plugins.module_utils._files import os_errors, require_plain, write_json

RECORD_SCHEMA = 1
# The client of this collection, and what has measured where a record does not tell: it was the only one.
OWN = "own"


@dataclass(frozen=True)
class Subject:
    """What figures are of. Figures of the very same subject stand, and need not be measured again.

    :ivar engine_version: as the engine tells it, None if it does not; `model_sha256` likewise.
    :ivar fingerprint: another one whenever something else is that decides about the figures.
    :ivar load: what each stream was asked; `concurrencies` how many streams there were.
    :ivar client: who has measured: OWN, or a program and its version.
    """

    engine_version: str | None
    model_sha256: str | None
    fingerprint: str
    load: dict[str, t.Any]
    concurrencies: list[int]
    client: str = OWN


class Record:
    """The figures of one service in a host's record, which has those of all its services.

    :ivar accepted: the last figures that were accepted, with their `date` and the fields of their `Subject`; None
        before there are any.
    :raises LlmError: when the file is there and is no record: what was accepted must not be forgotten unnoticed.
    """

    def __init__(self, path: Path, service: str) -> None:
        self._path = path
        self._service = service
        require_plain(path)
        self._services = _read(path) if path.exists() else {}
        accepted = self._services.get(service, {}).get("accepted")
        self.accepted: dict[str, t.Any] | None = accepted and {"client": OWN, **accepted}

    def has(self, subject: Subject) -> bool:
        """Whether the figures that were accepted last are of this subject."""
        wanted = asdict(subject)
        return self.accepted is not None and {name: self.accepted.get(name) for name in wanted} == wanted

    def keep(self, subject: Subject, results: list[dict[str, t.Any]], date: str, drop_max: float) -> None:
        """Write figures down; they are the accepted ones from now on, unless they are too low.

        :param drop_max: percent by which the tokens per second may be below the accepted ones.
        :raises LlmError: when they are too low, once they are written down.
        """
        drops = self._drops(subject, results, drop_max)
        current = {"date": date, **asdict(subject), "results": results, "refused": drops}
        accepted = self.accepted if drops else current
        with os_errors(f"Writing {self._path}"):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            services = {**self._services, self._service: {"current": current, "accepted": accepted}}
            write_json(self._path, {"schema": RECORD_SCHEMA, "services": services})
        if drops:
            raise LlmError(
                f"{_named(self._service, current)} delivers less than what was accepted: {'; '.join(drops)}. "
                f"drop_max is {drop_max:g} percent. Look for what has changed: GPUs, driver, engine, settings, other "
                "load. To accept it, allow a greater drop_max once."
            )

    def _drops(self, subject: Subject, results: list[dict[str, t.Any]], drop_max: float) -> list[str]:
        """What is too low. Only another run of the same load on the same model by the same client can be."""
        accepted = self.accepted
        if accepted is None or _comparable(accepted) != _comparable(asdict(subject)):
            return []
        before = {row["concurrency"]: row["output_tokens_per_second"] for row in accepted["results"]}
        now = {row["concurrency"]: row["output_tokens_per_second"] for row in results}
        of = _named(f"on {accepted['date']}", accepted)
        return [
            f"{now[streams]:g} tokens/s at concurrency {streams}, {100 * (1 - now[streams] / was):.1f} percent less "
            f"than {was:g} {of}"
            for streams, was in before.items()
            if streams in now and now[streams] < was * (1 - drop_max / 100)
        ]


def _comparable(figures: dict[str, t.Any]) -> tuple[t.Any, ...]:
    """The client in whichever version: the one of vLLM comes with the engine, whose versions are what is compared."""
    return figures["load"], figures["model_sha256"], figures["client"].split()[0]


def _named(subject: str, figures: dict[str, t.Any]) -> str:
    version = figures["engine_version"]
    return f"{subject} (engine {version})" if version else subject


def _read(path: Path) -> dict[str, t.Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as exc:
        raise LlmError(f"The record {path} cannot be read: {exc.strerror}.") from exc
    except ValueError:
        content = None
    services = content.get("services") if isinstance(content, dict) and content.get("schema") == RECORD_SCHEMA else None
    if not isinstance(services, dict):
        raise LlmError(
            f"{path} is no record of llm_bench: expected its JSON (schema {RECORD_SCHEMA}). Put it back from a backup, "
            "or remove it; the next figures are then accepted as they are."
        )
    return services
