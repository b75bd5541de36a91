# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What is wanted of a host, as a digest: variables, the files that they name, the collection."""

from __future__ import annotations

import os

import pytest

from ansible_collections.llmfleet.serving.plugins.module_utils._errors import LlmError
from ansible_collections.llmfleet.serving.plugins.plugin_utils import _wanted


@pytest.fixture
def digest(tmp_path):
    """digest(wanted): of variables, on a controller with a folder of files."""

    def make(wanted=None, about=None, files=()):
        return _wanted.digest_of_all(wanted or {}, about, files, [tmp_path])

    return make


def test_variables_of_this_collection_are_chosen_by_their_names():
    found = ["llmfleet_models", "edge_tls", "vllm_version", "ansible_host", "edges", "__llmfleet_drift", "my_edge_tls"]
    assert _wanted.chosen(found, ["edge_tls"]) == ["llmfleet_models", "vllm_version"]
    # Not of the private ones, which the public ones give their values.
    assert not _wanted.names().fullmatch("service_name")


def test_each_value_counts(digest):
    assert digest({"a": 1}) == digest({"a": 1})
    assert len({digest({"a": one}) for one in (1, "2", None, [1], {"b": 1}, {"b": 2})}) == 6
    assert digest(about=["host1"]) != digest(about=["host2"])


@pytest.mark.parametrize("text", ["pair.pem", "deep/pair.pem"])
def test_files_that_variables_name_count_by_their_content(digest, tmp_path, text):
    wanted = {"edge": [{"certificate": text}]}
    missing = digest(wanted)
    (tmp_path / "deep").mkdir()
    (tmp_path / text).write_text("one")
    one = digest(wanted)
    (tmp_path / text).write_text("two")
    two = digest(wanted)
    os.utime(tmp_path / text, (1, 1))
    assert len({missing, one, two}) == 3
    assert digest(wanted) == two


def test_a_directory_counts_by_its_files(digest, tmp_path):
    wanted = {"edge_authority": str(tmp_path / "authority")}
    missing = digest(wanted)
    (tmp_path / "authority").mkdir()
    (tmp_path / "authority" / "ca.pem").write_text("one")
    one = digest(wanted)
    (tmp_path / "authority" / "gpu-01.pem").write_text("two")
    assert len({missing, one, digest(wanted)}) == 3


def test_a_directory_with_more_files_than_somebody_writes(digest, tmp_path, monkeypatch):
    monkeypatch.setattr(_wanted, "_ENTRIES_MAX", 2)
    (tmp_path / "many").mkdir()
    for name in "ab":
        (tmp_path / "many" / name).touch()
    before = digest({"a": "./many"})
    (tmp_path / "many" / "c").touch()
    assert digest({"a": "./many"}) == before


def test_files_count_whatever_their_names_are(digest, tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).write_text("token")
    assert digest(files=["a"]) == digest(files=["b", ""])
    (tmp_path / "b").write_text("another")
    assert digest(files=["a"]) != digest(files=["b"])


def test_a_large_file_counts_by_size_and_time(digest, tmp_path, monkeypatch):
    monkeypatch.setattr(_wanted, "_READ_MAX", 2)
    (tmp_path / "a.bin").write_text("abc")
    before = digest({"a": "a.bin"})
    os.utime(tmp_path / "a.bin", (1, 1))
    assert digest({"a": "a.bin"}) != before


@pytest.mark.parametrize("text", ["a sentence. And another/one", "http://a/b", "..", "/", "x" * 300 + "/a", "a.\0"])
def test_texts_that_are_no_files(digest, text):
    assert len(digest({"a": text})) == 64


def test_a_file_that_cannot_be_read(digest, tmp_path, monkeypatch):
    def refuse(_path):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(_wanted, "_file", refuse)
    (tmp_path / "a.pem").touch()
    with pytest.raises(LlmError, match=r"a\.pem on the controller cannot be read"):
        _wanted.digest_of_all({"a": "a.pem"}, None, [], [tmp_path])
