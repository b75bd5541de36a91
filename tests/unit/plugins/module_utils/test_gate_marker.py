# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The marker of a fenced host: who may read it, and when it is written."""

from __future__ import annotations

import json
import os

import pytest

from ansible_collections.llmfleet.serving.plugins.module_utils._errors import LlmError
from ansible_collections.llmfleet.serving.plugins.module_utils._gate_marker import mark


@pytest.fixture
def marker(tmp_path):
    before = os.umask(0o077)
    yield tmp_path / "a/b/gate.fact"
    os.umask(before)


def test_everybody_may_read_it_whatever_the_umask(marker):
    assert mark(marker, ["zu heiß"])["changed"] is True
    assert (
        marker.read_text()
        == """{
    "reasons": [
        "zu heiß"
    ],
    "verdict": "fail"
}
"""
    )
    assert [path.stat().st_mode & 0o777 for path in (marker, *list(marker.parents)[:2])] == [0o644, 0o755, 0o755]
    assert list(marker.parent.iterdir()) == [marker]


def test_other_reasons_are_written_and_the_same_are_not(marker):
    mark(marker, ["a"])
    inode = marker.stat().st_ino
    assert mark(marker, ["a"])["changed"] is False
    assert marker.stat().st_ino == inode
    assert mark(marker, ["b"], write=False)["changed"] is True
    assert json.loads(marker.read_text())["reasons"] == ["a"]
    mark(marker, ["b"])
    assert json.loads(marker.read_text())["reasons"] == ["b"]


def test_an_empty_marker_is_one(marker):
    marker.parent.mkdir(parents=True)
    marker.touch()
    assert (mark(marker, [])["changed"], marker.exists()) == (True, False)
    assert mark(marker, [])["changed"] is False


def test_a_link_is_not_followed(marker, tmp_path):
    marker.parent.mkdir(parents=True)
    marker.symlink_to(tmp_path / "else")
    with pytest.raises(LlmError, match="is a symbolic link"):
        mark(marker, ["a"])
    assert not (tmp_path / "else").exists()
