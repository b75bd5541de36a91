# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""support_archive writes one file, and in check mode none."""

from __future__ import annotations

import json
import re
import tarfile

import pytest

from ansible_collections.llmfleet.serving.plugins.modules import support_archive

OPTIONS = {"name": "gpu 01", "units": ["llmfleet-no-such-*"], "source_seconds": 10, "collection_version": "1.2.3"}


def test_check_mode_then_real(run_module, tmp_path):
    options = {**OPTIONS, "path": str(tmp_path / "x.tar.gz"), "model_directory": str(tmp_path)}
    predicted = run_module(support_archive, check=True, **options)
    assert list(tmp_path.iterdir()) == []
    result = run_module(support_archive, **options)
    assert (predicted["changed"], result["changed"]) == (True, True)
    assert (predicted["path"], predicted["name"]) == (result["path"], result["name"]) == (options["path"], "gpu_01")
    assert re.fullmatch(r"\d{8}T\d{6}Z", result["made"])
    assert result["bytes"] == (tmp_path / "x.tar.gz").stat().st_size
    with tarfile.open(tmp_path / "x.tar.gz") as tar:
        index = json.load(tar.extractfile("gpu_01/index.json"))
    assert index["sources"] == result["sources"]
    assert {name: index[name] for name in ("host", "made", "collection")} == {
        "host": "gpu 01",
        "made": result["made"],
        "collection": "1.2.3",
    }


@pytest.mark.parametrize("check", [False, True])
def test_a_limit_that_makes_no_sense(run_module, tmp_path, check):
    options = {**OPTIONS, "path": str(tmp_path / "x.tar.gz"), "total_seconds": 0}
    result = run_module(support_archive, check=check, **options)
    assert result["failed"]
    assert result["msg"] == "total_seconds: expected 1 to 3600, found 0. Name another figure."
    assert list(tmp_path.iterdir()) == []


def test_a_directory_that_is_not_there(run_module, tmp_path):
    result = run_module(support_archive, **OPTIONS, path=str(tmp_path / "no/x.tar.gz"))
    assert result["failed"]
    assert str(tmp_path / "no") in result["msg"]
