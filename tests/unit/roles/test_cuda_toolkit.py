"""What the role cuda_toolkit makes of what apt, nvcc and the driver say."""

from __future__ import annotations

import typing as t
from pathlib import Path

import pytest
import yaml
from ansible.parsing.dataloader import DataLoader
from ansible.template import Templar, trust_as_template

ROLE = Path(__file__).parents[3] / "roles" / "cuda_toolkit"
# apt-cache madison, with the distribution's sources configured too.
MADISON = """\
nvidia-cuda-toolkit | 12.4.131~12.4.1-3 | http://deb.debian.org/debian trixie-proposed-updates/non-free amd64 Packages
nvidia-cuda-toolkit | 12.4.131~12.4.1-2 | http://deb.debian.org/debian trixie/non-free amd64 Packages
nvidia-cuda-toolkit |   12.4.1-2 | http://deb.debian.org/debian trixie/non-free Sources
"""
NVCC = """\
nvcc: NVIDIA (R) Cuda compiler driver
Cuda compilation tools, release 12.4, V12.4.131
Build cuda_12.4.r12.4/compiler.34097967_0
"""
MODULE = "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  550.163.01  Release Build"
SKIPPED = "skipped, since /proc/driver/nvidia/version does not exist"


def trusted(value: t.Any) -> t.Any:
    if isinstance(value, dict):
        return {name: trusted(item) for name, item in value.items()}
    if isinstance(value, list):
        return [trusted(item) for item in value]
    return trust_as_template(value) if isinstance(value, str) else value


@pytest.fixture
def value():
    """`value("pin", madison=...)` is what the role's variable `__cuda_toolkit_pin` is when apt says that."""
    files = (ROLE / "defaults/main.yml", ROLE / "vars/main.yml")
    # Its own name has the source's hash in it, by a lookup that only a play has.
    program = trust_as_template("{{ __cuda_toolkit_check }}/cuda_check-0123456789ab")
    role = {name: trusted(text) for path in files for name, text in yaml.safe_load(path.read_text()).items()}

    def evaluate(name: str, **said: t.Any) -> t.Any:
        options = {key: said.pop(key) for key in list(said) if key.startswith("cuda_toolkit_")}
        answers = {f"__cuda_toolkit_{key}": {"stdout": text} for key, text in said.items()}
        variables = {**role, "__cuda_toolkit_program": program, **options, **answers}
        templar = Templar(loader=DataLoader(), variables=variables)
        return templar.template(trust_as_template("{{ __cuda_toolkit_" + name + " }}"))

    return evaluate


def test_newest_binary_package_of_the_release_is_chosen(value):
    pin = value("pin", cuda_toolkit_source="distribution", status="", madison=MADISON)
    assert pin == "nvidia-cuda-toolkit=12.4.131~12.4.1-3"


def test_installed_version_of_the_release_stays(value):
    said = {"cuda_toolkit_source": "distribution", "status": "installed 12.4.131~12.4.1-2", "madison": MADISON}
    assert value("pin", **said) == "nvidia-cuda-toolkit=12.4.131~12.4.1-2"
    assert value("installed", **said) is True


def test_installed_version_of_another_release_does_not(value):
    said = {
        "cuda_toolkit_source": "distribution",
        "status": "installed 11.8.89~11.8.0-5~deb12u1",
        "madison": MADISON,
    }
    assert value("pin", **said) == "nvidia-cuda-toolkit=12.4.131~12.4.1-3"
    assert value("installed", **said) is False


def test_package_that_was_removed_does_not_count(value):
    said = {"cuda_toolkit_source": "distribution", "status": "config-files 12.4.131~12.4.1-2", "madison": MADISON}
    assert value("installed", **said) is False


@pytest.mark.parametrize("release", ["12.5", "12.40", "1.4", "2.4"])
def test_another_release_does_not_fit(value, release):
    said = {"cuda_toolkit_version": release, "cuda_toolkit_source": "distribution", "status": "", "madison": MADISON}
    assert value("fitting", **said) == []


def test_nvidia_names_the_release_in_the_package(value):
    madison = "cuda-toolkit-12-10 |  12.10.1-1 | https://example.invalid/ubuntu2204/x86_64  Packages\n"
    assert value("pin", cuda_toolkit_version="12.10", status="", madison=madison) == "cuda-toolkit-12-10=12.10.1-1"
    assert value("held", cuda_toolkit_version="12.10") == "?and(?installed, ?name(-12-10$))"


def test_each_gpu_that_is_asked_for_is_compiled_for(value):
    options = " ".join(value("compile"))
    assert all(f"[{target}," in options or f"code={target}" in options for target in value("targets"))


def test_compiler_tells_release_and_build(value):
    assert list(value("release", nvcc_says=NVCC)) == ["12.4", "12.4.131"]
    assert list(value("release", nvcc_says="skipped, since /usr/bin/nvcc does not exist")) == ["", ""]


def test_kernel_runs_only_where_the_driver_does(value):
    assert value("runs", module=MODULE) is True
    assert value("runs", module=SKIPPED) is False
    assert value("runs", module=MODULE, cuda_toolkit_run_check=False) is False


def test_another_driver_runs_it_again(value):
    before = value("passed", module=MODULE)
    assert before.startswith("/usr/local/lib/llmfleet/cuda-nvidia-12.4/cuda_check-")
    assert value("passed", module=MODULE.replace("550.163.01", "580.126.09")) != before


def test_only_what_the_role_has_brought_is_removed(value):
    unneeded = "Remv cuda-toolkit-12-4 [12.4.1-1]\nRemv libfoo [1]\nRemv cuda-nvcc-12-4 [12.4.131-1]\n"
    record = '{\n    "packages": ["cuda-nvcc-12-4", "cuda-toolkit-12-4", "g++"]\n}'
    removable = value("removable", unneeded=unneeded, record_text=record)
    assert sorted(removable) == ["cuda-nvcc-12-4", "cuda-toolkit-12-4"]
    assert value("removable", unneeded=unneeded, record_text="skipped, since x does not exist") == []
