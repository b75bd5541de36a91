# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import pytest

from ansible_collections.llmfleet.serving.plugins.module_utils._errors import LlmError
from ansible_collections.llmfleet.serving.plugins.module_utils._hub import RemoteFile
from ansible_collections.llmfleet.serving.plugins.module_utils._snapshot import Choice


def listed(*paths):
    return [RemoteFile(path, 1, "", "", 0, "") for path in paths]


def chosen(files, include=("*",), exclude=(), *, pickles=False):
    return [file.path for file in Choice(include, exclude, pickles).of(files)]


def test_sorted_and_filtered():
    files = listed("b.json", "a/b.safetensors", "original/x.pth", "a.json")
    assert chosen(files, exclude=["original/*"]) == ["a.json", "a/b.safetensors", "b.json"]
    assert chosen(files, include=["*.json"], exclude=["b*"]) == ["a.json"]


@pytest.mark.parametrize(
    "name",
    ["../x.json", "/etc/passwd", "a/../../x", "-rf", "a\nb.json", "a/./b", "x.llmfleet.json", f"{'x' * 256}.json"],
)
def test_an_unsafe_name_is_refused_when_it_is_wanted(name):
    files = listed("config.json", name)
    with pytest.raises(LlmError, match="is refused"):
        chosen(files)
    assert chosen(files, include=["config.json"]) == ["config.json"]


def test_all_pickles_are_counted():
    with pytest.raises(LlmError, match=r"^2 files may be Python pickles.*: a\.bin, b/c\.PKL\. Exclude them"):
        chosen(listed("b/c.PKL", "a.bin", "config.json"))
    assert chosen(listed("a.bin"), pickles=True) == ["a.bin"]


def test_nothing_chosen():
    with pytest.raises(LlmError, match=r"^No file of the repository matches \['\*'\] and not \['\*\.json'\]\."):
        chosen(listed("a.json"), exclude=["*.json"])
