# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import pytest

from ansible_collections.llmfleet.serving.plugins.module_utils import _manifest
from ansible_collections.llmfleet.serving.plugins.module_utils._errors import LlmError
from ansible_collections.llmfleet.serving.plugins.module_utils._manifest import Manifest, parse_manifest, read_manifest

A, B = "a" * 64, "b" * 64
TEXT = f"""\
# repo: acme/model
# commit: {"c" * 40}
# files: *.gguf
# source: https://hub.example.com
{A}  5  Q4/a b.gguf
{B}  0  ünïcode.gguf
"""


def test_a_manifest_is_read_and_written(tmp_path):
    (tmp_path / "manifest").write_text(TEXT, encoding="utf-8")
    manifest = read_manifest(tmp_path / "manifest")
    assert [(file.path, file.size, file.sha256) for file in manifest.files] == [
        ("Q4/a b.gguf", 5, A),
        ("ünïcode.gguf", 0, B),
    ]
    assert manifest.about["commit"] == "c" * 40
    assert manifest.about["source"] == "https://hub.example.com"
    assert manifest.text == TEXT


def test_comments_and_empty_lines_are_passed_over():
    manifest = parse_manifest(f"# whatever\n#\n\n{A}  1  x\n", "it")
    assert (manifest.about, len(manifest.files)) == ({}, 1)
    assert Manifest({}, []).text == ""


@pytest.mark.parametrize(
    "line",
    [
        f"{A} x",
        f"{A}  x  y",
        f"{A}  -1  y",
        f"{A}  01  y",
        f"{A}  1",
        f"{A[:-1]}  1  y",
        f"{A.upper()}  1  y",
        f"{A}\t1\ty",
        f"{A}  {'9' * 19}  y",
        f" {A}  1  y",
        "not a line",
    ],
)
def test_what_is_no_line_is_named(line):
    with pytest.raises(LlmError, match=r"^it, line 2: .* is no line of a manifest; expected 'sha256  size  path'"):
        parse_manifest(f"{B}  1  x\n{line}\n", "it")


@pytest.mark.parametrize("path", ["/etc/passwd", "../x", "a/../../x", "-x", "a\tb", "x" * 300])
def test_a_path_that_leads_astray_is_refused(path):
    with pytest.raises(LlmError, match=r"^it, line 1: The file name .* is refused"):
        parse_manifest(f"{A}  1  {path}\n", "it")


def test_a_path_that_is_there_twice_is_refused():
    with pytest.raises(LlmError, match=r"^it, line 2: 'x' is listed twice"):
        parse_manifest(f"{A}  1  x\n{B}  1  x\n", "it")


def test_a_manifest_of_nothing_is_refused():
    with pytest.raises(LlmError, match="it lists no file"):
        parse_manifest("# repo: acme/model\n", "it")


@pytest.mark.parametrize("content", [b"", b"GGUF\xff\xfe", b"\n" * 1001])
def test_what_is_no_text_is_not_read(tmp_path, monkeypatch, content):
    monkeypatch.setattr(_manifest, "_MAX_BYTES", 1000)
    (tmp_path / "model.gguf").write_bytes(content)
    with pytest.raises(LlmError, match=r"model\.gguf is no manifest"):
        read_manifest(tmp_path / "model.gguf")


def test_a_missing_manifest_is_named(tmp_path):
    with pytest.raises(LlmError, match=f"Reading the manifest failed at {tmp_path}/none: No such file"):
        read_manifest(tmp_path / "none")
