"""docs/gate.md names every rule with what breaking it means."""

from __future__ import annotations

import re
from pathlib import Path

from ansible_collections.llmfleet.serving.plugins.module_utils._gate_rules import DRIVER_ANSWERS, RULES


def test_docs_name_every_rule():
    text = (Path(__file__).parents[3] / "docs/gate.md").read_text()
    documented = re.findall(r"^\| `([\w-]+)` \| (refuses|warns) \|", text, re.MULTILINE)
    assert documented == [
        (rule.id, "refuses" if rule.severity == "fail" else "warns")
        for rule in (DRIVER_ANSWERS, *(rule for rule in RULES if rule.id != DRIVER_ANSWERS.id))
    ]
