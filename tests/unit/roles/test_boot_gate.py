"""The GPU gate of the boot unit: what the role copies is all it needs, and it keeps the mark of a fenced host."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import cuda_mock
import pytest
import yaml

from ansible_collections.llmfleet.serving.plugins.plugin_utils._program import bundle

ROOT = Path(__file__).parents[3]
ROLE = ROOT / "roles/gpu_gate"
RECORDING = ROOT / "tests/fixtures/recordings/h100-x1-driver580"


def test_boot_asks_with_the_options_of_the_task():
    block = yaml.safe_load((ROLE / "tasks/judge.yml").read_text())[0]["block"]
    expression = yaml.safe_load((ROLE / "vars/main.yml").read_text())["__gpu_gate_boot"]
    options = expression.partition("'options': {")[2].partition("}")[0]
    boot = {name: f"{{{{ {value} }}}}" for name, value in re.findall(r"'(\w+)': (.+?),?$", options, re.MULTILINE)}
    task = {name: value.replace("omit", "none") for name, value in block[0]["llmfleet.serving.gpu_gate"].items()}
    assert {**boot, "marker": task["marker"]} == task


@pytest.fixture
def boot_gate(tmp_path):
    """`boot_gate(smi=..., wait=...)` runs what the unit runs, on a host whose nvidia-smi is the script `smi`.

    With `cuda`, the words of the stand-in for CUDA, CUDA is started too.
    """
    program = tmp_path / "gpu-gate.pyz"
    program.write_bytes(bundle(ROLE / "files/boot_gate.py"))
    marker, config, tools = tmp_path / "fact", tmp_path / "config.json", tmp_path / "tools"
    tools.mkdir()

    def run(smi: str = "", wait: int = 0, cuda: str = "", **options):
        wanted = {"profile": "h100", "count": 1, "source": "nvidia-smi", "timeout": 10, **options}
        config.write_text(json.dumps({"options": wanted, "marker": str(marker), "cuda": bool(cuda), "wait": wait}))
        if smi:
            (tools / "nvidia-smi").write_text(f"#!/bin/sh\n{smi}\n")
            (tools / "nvidia-smi").chmod(0o755)
        path = {"PATH": f"{tools}:{os.environ['PATH']}"}
        library = {"LD_LIBRARY_PATH": str(Path(cuda_mock.library()).parent), "MOCK_CUDA": cuda} if cuda else {}
        argv = [sys.executable, "-I", str(program), str(config)]
        done = subprocess.run(argv, capture_output=True, text=True, env={**path, **library}, check=False, timeout=60)
        return done, marker

    return run


def recorded() -> str:
    """A script that answers as nvidia-smi did on a host with one H100."""
    return f'case "$1" in nvlink) ;; topo) cat {RECORDING}/topo.txt ;; *) cat {RECORDING}/smi-q.xml ;; esac'


def test_host_without_a_driver_is_marked(boot_gate):
    done, marker = boot_gate()
    assert done.returncode == 1
    assert done.stdout == ""
    assert "driver-answers" in done.stderr
    fact = json.loads(marker.read_text())
    assert fact["verdict"] == "fail"
    assert "\n".join(fact["reasons"]) == done.stderr.strip()


def test_host_that_passes_is_released(boot_gate):
    _done, marker = boot_gate()
    assert marker.exists()
    done, marker = boot_gate(recorded())
    assert (done.returncode, done.stdout) == (0, "The GPUs are fit.\n"), done.stderr
    assert not marker.exists()


def test_what_comes_up_late_is_waited_for(boot_gate, tmp_path):
    count = tmp_path / "count"
    count.touch()
    late = f'[ "$1" != -q ] || echo >> {count}; [ "$(wc -l < {count})" -gt 1 ] || exit 9\n{recorded()}'
    done, marker = boot_gate(late, wait=60)
    assert done.returncode == 0, done.stderr
    assert count.read_text() == "\n\n"
    assert not marker.exists()


def test_what_does_not_heal_is_not_waited_for(boot_gate):
    done, marker = boot_gate(recorded(), wait=600, profile="h200")
    assert done.returncode == 1
    assert "gpu-name" in done.stderr
    assert marker.exists()


def test_host_on_which_cuda_does_not_start_is_refused(boot_gate):
    done, marker = boot_gate(recorded(), cuda="gpus=1 cuInit=802")
    assert done.returncode == 1
    assert done.stderr.startswith("cuda-init: expected CUDA to start, found ")
    assert "(802, " in done.stderr
    assert json.loads(marker.read_text())["reasons"] == done.stderr.splitlines()


def test_refused_option_is_one_line(boot_gate):
    done, _marker = boot_gate(recorded(), driver_version_min="new")
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "'new' is not a version" in done.stderr
