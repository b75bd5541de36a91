# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
name: exec_start
short_description: Words as the command line of a systemd unit
version_added: 0.2.0
description:
  - Quotes words for C(ExecStart=), so that the program gets each as it is. Nothing in them is a specifier, a variable
    or an end of a line to systemd.
author:
  - llmfleet.serving maintainers (@llmfleet)
options:
  _input:
    description: The program, by its absolute path, and its words.
    type: list
    elements: str
    required: true
"""

EXAMPLES = r"""
---
- name: Show a command line
  ansible.builtin.debug:
    msg: "ExecStart={{ ['/usr/bin/printf', '%s', 'two words'] | llmfleet.serving.exec_start }}"
"""

RETURN = r"""
_value:
  description: The command line.
  type: str
  sample: /usr/bin/printf %%s "two words"
"""

import re
import typing as t
from collections.abc import Callable, Sequence

_PLAIN = re.compile(r"[A-Za-z0-9_@%+=:,./$-]+")
_ESCAPES = str.maketrans({"\\": "\\\\", '"': '\\"', "\n": "\\n", "\r": "\\r", "\t": "\\t"})


def exec_start(words: Sequence[str]) -> str:
    return " ".join(_word(str(word)) for word in words)


def _word(word: str) -> str:
    expanded = word.replace("%", "%%").replace("$", "$$")
    return expanded if _PLAIN.fullmatch(expanded) else f'"{expanded.translate(_ESCAPES)}"'


class FilterModule:
    def filters(self) -> dict[str, Callable[..., t.Any]]:
        return {"exec_start": exec_start}
