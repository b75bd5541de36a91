# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The report's three forms, of what was found on hosts."""

from __future__ import annotations

import json
import typing as t
from collections.abc import Mapping, Sequence
from pathlib import Path

from ansible_collections.llmfleet.serving.plugins.module_utils import _report, _report_diff, _report_junit
from ansible_collections.llmfleet.serving.plugins.module_utils._errors import LlmError
from ansible_collections.llmfleet.serving.plugins.plugin_utils import _report_page


def make(
    found: Mapping[str, Mapping[str, t.Any]],
    *,
    generated: str,
    title: str,
    stack: str,
    previous: str,
    language: str,
    again: bool,
) -> dict[str, t.Any]:
    """The document, its texts by name, and why the fleet is not as it should be.

    :raises LlmError: if the previous report cannot be read.
    """
    before = _earlier(previous)
    hosts = {str(name): _report.Found.of(_plain(told)) for name, told in found.items()}
    document = _report.build(hosts, generated=str(generated), title=str(title), stack=str(stack))
    if before and not again and _report.settled(before) == _report.settled(document):
        document = before
    else:
        document["changes"] = _report_diff.changes(before, document)
    text = json.dumps(document, ensure_ascii=False, indent=2, sort_keys=True) + "\n"
    # In the order of the file, so that one file has one page.
    document = json.loads(text)
    return {
        "document": document,
        "json": text,
        "html": _report_page.page(document, text, language),
        "junit": _report_junit.junit(document),
        "reasons": _report.reasons(document),
    }


def _earlier(path: str) -> _report.Document | None:
    try:
        return _report.parse(Path(path).read_text(encoding="utf-8"), path) if path else None
    except FileNotFoundError:
        return None
    except OSError as exc:
        raise LlmError(f"{path} cannot be read: {exc.strerror}.") from exc


def _plain(value: t.Any) -> t.Any:
    """Data of Ansible's own classes, which may be templates still, as what JSON has."""
    if isinstance(value, Mapping):
        return {str(key): _plain(one) for key, one in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_plain(one) for one in value]
    if value is None or isinstance(value, (bool, int, float)):
        return value
    return str(value)
