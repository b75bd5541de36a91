# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a host has on record: its models, its units, its accepted figures. Private to this collection.

Nothing is changed, and nothing that is returned is a secret.
"""

from __future__ import annotations

import datetime
import hashlib
import json
import re
import typing as t
from collections.abc import Iterator, Sequence
from pathlib import Path

from ansible_collections.llmfleet.serving.plugins.module_utils import _redact
from ansible_collections.llmfleet.serving.plugins.module_utils._errors import LlmError
from ansible_collections.llmfleet.serving.plugins.module_utils._files import read_json, read_record
from ansible_collections.llmfleet.serving.plugins.module_utils._gpu_facts import RunCommand

_MANIFEST = re.compile(r"\.(.+)\.llmfleet\.manifest")
_PROPERTIES = (
    *("Id", "Description", "LoadState", "ActiveState", "SubState", "UnitFileState", "Result", "NRestarts"),
    *("ActiveEnterTimestamp", "ExecStart", "EnvironmentFiles"),
)
_ARGV = re.compile(r"argv\[\]=(.*?) ; ignore_errors=")
_INSTALLED = re.compile(r"/opt/llmfleet/([^/]+)/([^/]+)/")
_SCORE = re.compile(r"Overall exposure level for \S+: ([0-9.]+) (\S+)")
# Words in other languages, and times of other zones, are not parsed.
_PLAIN = {"LC_ALL": "C", "TZ": "UTC", "SYSTEMD_COLORS": "0", "SYSTEMD_PAGER": "cat"}


class StoredModel(t.TypedDict):
    """A model in a directory of models, as it was fetched and verified.

    :ivar sha256: of its file; of the sorted lines `sha256  path` where it has several.
    :ivar bytes: what was written.
    :ivar written: when the last of it was, in UTC.
    :ivar seconds: what the run took that brought it; less than all of it where an earlier one had been stopped.
    :ivar intact: whether all files still are what was verified: of that size, at that time, in that place.
    """

    name: str
    source: str
    repo: str
    commit: str
    files: int
    bytes: int
    sha256: str
    written: str | None
    seconds: float | None
    intact: bool


class Unit(t.TypedDict):
    """A unit of systemd: its state, what it runs, and how exposed `systemd-analyze security` finds it (0 to 10)."""

    name: str
    description: str
    state: str
    since: str | None
    enabled: str
    result: str
    restarts: int
    engine: str | None
    version: str | None
    argv: list[str]
    environment: dict[str, str]
    score: float | None
    rating: str | None


def models(directory: Path) -> list[StoredModel]:
    """The models in a directory, whichever of `gguf_fetch` and `model_snapshot` has brought them, by their names."""
    found = [_model(directory, manifest) for manifest in _manifests(directory)]
    return sorted((model for model in found if model), key=lambda model: model["name"])


def _manifests(directory: Path) -> Iterator[Path]:
    """Beside a model in one file, or in the directory of a model with several."""
    for folder in (directory, *(path for path in _entries(directory) if path.is_dir() and not path.is_symlink())):
        yield from (path for path in _entries(folder) if _MANIFEST.fullmatch(path.name))


def _entries(directory: Path) -> list[Path]:
    try:
        return sorted(directory.iterdir())
    except FileNotFoundError:
        return []


def _model(directory: Path, manifest: Path) -> StoredModel | None:
    content = read_json(manifest)
    outputs, wanted = content.get("outputs"), content.get("wanted")
    if not isinstance(outputs, dict) or not outputs or not isinstance(wanted, dict):
        return None
    folder, transfer = manifest.parent, content.get("transfer")
    records = {name: read_record(folder / name) for name in outputs}
    intact = all(record and record.get("sha256") == outputs[name] for name, record in records.items())
    known = [record for record in records.values() if record]
    lines = "".join(f"{sha256}  {name}\n" for name, sha256 in sorted(outputs.items()))
    (only, *others) = outputs.values()
    return {
        # As the list of models has it.
        "name": folder.name if folder != directory else next(iter(outputs)).removesuffix(".gguf"),
        "source": _redact.in_text(str(content.get("hub", ""))),
        "repo": str(wanted.get("repo", "")),
        "commit": str(wanted.get("commit", "")),
        "files": len(outputs),
        "bytes": sum(record["file"]["size"] for record in known),
        "sha256": hashlib.sha256(lines.encode()).hexdigest() if others else str(only),
        "written": _utc(max(record["file"]["mtime_ns"] for record in known) / 1e9) if known else None,
        "seconds": transfer.get("seconds") if isinstance(transfer, dict) else None,
        "intact": intact,
    }


def _utc(seconds: float) -> str:
    return datetime.datetime.fromtimestamp(int(seconds), datetime.timezone.utc).isoformat().replace("+00:00", "Z")


def units(run: RunCommand, patterns: Sequence[str]) -> list[Unit]:
    """The units that match one of the patterns and are installed, by their names.

    :raises LlmError: when systemd does not answer.
    """
    listed = _systemctl(run, "list-unit-files", "--no-legend", "--plain", "--full", *patterns)
    names = sorted({line.split()[0] for line in listed.splitlines() if line.strip()})
    if not names:
        return []
    shown = _systemctl(run, "show", "--timestamp=utc", f"--property={','.join(_PROPERTIES)}", *names)
    blocks = [dict(line.partition("=")[::2] for line in block.splitlines()) for block in shown.strip().split("\n\n")]
    return [_unit(run, block) for block in blocks if block.get("LoadState") == "loaded"]


def _systemctl(run: RunCommand, *arguments: str) -> str:
    argv = ["systemctl", *arguments]
    status, output, error = run(argv, environ_update=_PLAIN)
    if status != 0 and not (arguments[0] == "list-unit-files" and not error.strip()):
        raise LlmError(
            f"`{' '.join(argv[:2])}` ended with status {status}: {' '.join(error.split()) or 'no word'}. "
            "Expected a host that systemd runs."
        )
    return output


def _unit(run: RunCommand, shown: dict[str, str]) -> Unit:
    name = shown["Id"]
    found = _ARGV.search(shown.get("ExecStart", ""))
    argv = _redact.in_argv(found.group(1).split()) if found else []
    installed = _INSTALLED.match(argv[0]) if argv else None
    _status, said, _error = run(["systemd-analyze", "security", "--no-pager", name], environ_update=_PLAIN)
    score = _SCORE.search(said)
    return {
        "name": name,
        "description": shown.get("Description", ""),
        "state": f"{shown.get('ActiveState', 'unknown')} ({shown.get('SubState', '')})",
        "since": _since(shown.get("ActiveEnterTimestamp", "")),
        "enabled": shown.get("UnitFileState", ""),
        "result": shown.get("Result", ""),
        "restarts": int(shown.get("NRestarts") or 0),
        "engine": installed.group(1) if installed else None,
        "version": installed.group(2) if installed else None,
        "argv": argv,
        "environment": _environment(shown.get("EnvironmentFiles", "")),
        "score": float(score.group(1)) if score else None,
        "rating": score.group(2) if score else None,
    }


def _since(text: str) -> str | None:
    try:
        return datetime.datetime.strptime(text, "%a %Y-%m-%d %H:%M:%S UTC").isoformat() + "Z"
    except ValueError:
        return None


def _environment(files: str) -> dict[str, str]:
    """The variables of a unit's environment file, which only root may read, without those that are secrets."""
    path = files.partition(" (")[0]
    if not path:
        return {}
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except OSError:
        return {}
    pairs = (line.partition("=")[::2] for line in lines if "=" in line and not line.lstrip().startswith(("#", ";")))
    return t.cast("dict[str, str]", _redact.in_data({name.strip(): _unquoted(value) for name, value in pairs}))


def _unquoted(value: str) -> str:
    try:
        return str(json.loads(value)) if value.startswith('"') else value
    except ValueError:
        return value


def figures(path: Path) -> dict[str, t.Any]:
    """The figures of each service in the record of `llm_bench`; nothing before there are any."""
    services = read_json(path).get("services", {})
    return services if isinstance(services, dict) else {}
