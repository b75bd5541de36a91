# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The trial by Debian's apt, dkms and compiler, of a module that takes seconds. NVIDIA's is in molecule/dkms."""

from __future__ import annotations

import json
import typing as t
from pathlib import Path

import pytest

from testbed import hosts
from testbed.engine import docker

pytestmark = pytest.mark.bed

REPOSITORY = Path(__file__).parents[4]
NAME = "llmfleet-test-dkms"
# What a build might leave behind, and the packages with their states.
WITNESS = (
    "find /usr/src /var/lib/dkms /lib/modules /etc/dkms -newer /root/before; "
    "dpkg-query --show --showformat '${Package} ${db:Status-Abbrev} ${Version}\\n'; dpkg --audit"
)
PROBE = """
import json, sys
from ansible_collections.llmfleet.serving.plugins.module_utils._dkms import trial
from ansible_collections.llmfleet.serving.plugins.module_utils._errors import LlmError
from run_command import run_command
options = json.loads(sys.argv[1])
try:
    print(json.dumps(trial(run_command, **options)))
except LlmError as error:
    print(json.dumps(str(error)))
"""


def run(*argv: str) -> str:
    return docker("exec", "--env=PYTHONPATH=/opt/llmfleet", NAME, *argv).stdout


@pytest.fixture(scope="module")
def host() -> t.Iterator[dict[str, t.Any]]:
    """A host with DKMS and a kernel's headers; what to try there."""
    collection = "/opt/llmfleet/ansible_collections/llmfleet/serving/plugins"
    hosts.up([NAME])
    try:
        run("mkdir", "-p", collection)
        docker("cp", str(REPOSITORY / "plugins/module_utils"), f"{NAME}:{collection}/")
        docker("cp", str(REPOSITORY / "tests/run_command.py"), f"{NAME}:/opt/llmfleet/")
        install = "apt-get install --yes --no-install-recommends linux-headers-amd64 dkms"
        run("sh", "-c", f"export DEBIAN_FRONTEND=noninteractive; apt-get update && {install}")
        kernel = run("ls", "/lib/modules").strip()
        candidate = run("sh", "-c", "apt-cache policy acpi-call-dkms | sed -n 's/^  Candidate: //p'").strip()
        yield {"packages": [f"acpi-call-dkms={candidate}"], "release": kernel, "known_bad": []}
    finally:
        hosts.down([NAME])


def tried(**options: t.Any) -> t.Any:
    return json.loads(run("python3", "-c", PROBE, json.dumps(options)))


def test_check_real_check_real_and_nothing_of_the_host_is_touched(host):
    run("sh", "-c", "sleep 0.1; touch /root/before")
    before = run("sh", "-c", WITNESS)
    results = [tried(**host, check=check) for check in (True, False, True, False)]
    assert [new for new, _version, _compiler in results] == [True, True, False, False]
    version, compiler = results[0][1:]
    assert host["release"].startswith(version), "Debian 13 names its kernels by their version"
    assert compiler.startswith("x86_64-linux-gnu-gcc-14 14.")
    assert run("sh", "-c", WITNESS) == before


# The same package with a source that no compiler takes, in a repository of its own.
BROKEN = """
set -e
mkdir /srv/broken && cd /srv/broken
apt-get download acpi-call-dkms && dpkg-deb --raw-extract acpi-call-dkms_*.deb package && rm acpi-call-dkms_*.deb
sed -i '1i #error the kernel is too new' package/usr/src/acpi-call-*/acpi_call.c
sed -i 's/^Version: .*/Version: 99/' package/DEBIAN/control
dpkg-deb --build package . && rm -r package
dpkg-scanpackages . > Packages
echo 'deb [trusted=yes] file:/srv/broken ./' > /etc/apt/sources.list.d/broken.list
apt-get update
"""


def test_a_source_that_does_not_build(host):
    run("sh", "-c", BROKEN)
    run("sh", "-c", "sleep 0.1; touch /root/before")
    before = run("sh", "-c", WITNESS)
    log = f"/var/log/llmfleet/dkms-acpi-call-dkms-99-{host['release']}.log"
    broken = {**host, "packages": ["acpi-call-dkms=99"]}
    assert tried(**broken, check=True)[0], "check mode does not build"
    for _again in range(2):
        assert tried(**broken).splitlines() == [
            f"The kernel module of acpi-call-dkms=99 does not build for kernel {host['release']}:",
            "acpi_call.c:1:2: error: #error the kernel is too new",
            f"Nothing was installed. The log is {log} on the host. Take another version of the driver or kernel.",
        ]
    assert "make.log for acpi-call" in run("cat", log)
    assert run("sh", "-c", WITNESS) == before


def test_a_version_that_no_repository_has(host):
    assert "apt knows no acpi-call-dkms=98." in tried(**{**host, "packages": ["acpi-call-dkms=98"]})
