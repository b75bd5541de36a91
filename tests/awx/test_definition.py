# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The definition of the execution environment, as ansible-builder reads it. `./dev execution_environment` builds it."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[2]


def test_ansible_builder_takes_it_with_the_collection_as_it_is(tmp_path):
    version = yaml.safe_load((ROOT / "galaxy.yml").read_text())["version"]
    for folder in ("meta", "requirements"):
        shutil.copytree(ROOT / folder, tmp_path / folder)
    archive = tmp_path / f"llmfleet-serving-{version}.tar.gz"
    archive.touch()
    program = Path(sys.executable).with_name("ansible-builder")
    argv = [str(program), "create", "--file", "meta/execution-environment.yml", "--output-filename", "Dockerfile"]
    subprocess.run(argv, cwd=tmp_path, capture_output=True, timeout=120, check=True)
    built = tmp_path / "context" / "_build"
    assert (built / "configs" / archive.name).is_file()
    wanted = yaml.safe_load((built / "requirements.yml").read_text())["collections"]
    assert wanted == [{"name": f"configs/{archive.name}", "type": "file"}]
    assert "--require-hashes" in (tmp_path / "context" / "Dockerfile").read_text()
