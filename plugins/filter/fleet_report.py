# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
name: fleet_report
short_description: What was found on hosts, as JSON, as an HTML page and as JUnit XML
version_added: 0.2.0
description:
  - Makes of what was found on each host one document, and says what has changed since an earlier one.
  - When nothing has, the earlier document and its date are given back.
  - Secrets are left out. C(docs/report.md) describes the document.
author:
  - llmfleet.serving maintainers (@llmfleet)
positional: ""
options:
  _input:
    description:
      - What M(llmfleet.serving.host_report) has returned for each host, or failed with, by the names of all hosts that
        were expected.
      - Of a host that was C(unreachable), and of one that has C(failed), the C(msg) says why nothing, or not
        everything, could be read.
      - One with nothing is a host that did not answer.
    type: dict
    required: true
  generated:
    description: The time of the report, in UTC.
    type: str
    required: true
  title:
    description: Its title.
    type: str
    required: true
  stack:
    description: Name of the stack.
    type: str
    default: ""
  previous:
    description: The file with the earlier document. One that is not there is nothing to compare with.
    type: str
    default: ""
  language:
    description: The language that the page opens in. It has both.
    type: str
    choices: [en, zh]
    default: en
  again:
    description: Whether to make a new document where nothing has changed.
    type: bool
    default: false
"""

EXAMPLES = r"""
---
- name: Write the page
  ansible.builtin.copy:
    content: "{{ report.html }}"
    dest: report.html
    mode: "0644"
  vars:
    report: "{{ found | llmfleet.serving.fleet_report(generated=now(true).isoformat(), title='Fleet') }}"
"""

RETURN = r"""
_value:
  description:
    - C(json), C(html) and C(junit) have the three texts, C(document) what is in the first.
    - C(reasons) says in lines why the fleet is not as it should be. It is empty when it is.
  type: dict
"""

import typing as t
from collections.abc import Mapping

from ansible.errors import AnsibleFilterError

from ansible_collections.llmfleet.serving.plugins.module_utils._errors import LlmError


def fleet_report(
    found: Mapping[str, Mapping[str, t.Any]],
    *,
    generated: str,
    title: str,
    stack: str = "",
    previous: str = "",
    language: str = "en",
    again: bool = False,
) -> dict[str, t.Any]:
    # Ansible loads all filters of a collection in the process of each task: what is large waits until it is called.
    from ansible_collections.llmfleet.serving.plugins.plugin_utils import _report_forms

    try:
        return _report_forms.make(
            found, generated=generated, title=title, stack=stack, previous=previous, language=language, again=again
        )
    except LlmError as exc:
        raise AnsibleFilterError(str(exc)) from exc


class FilterModule:
    def filters(self) -> dict[str, t.Callable[..., t.Any]]:
        return {"fleet_report": fleet_report}
