"""The distribution's archive comes from a mirror, nothing else does, and the host's own sources come back."""

from __future__ import annotations

import pytest

from ansible_collections.llmfleet.serving.plugins.module_utils._apt_sources import rewritten
from ansible_collections.llmfleet.serving.plugins.modules import apt_mirror

MIRROR = "https://mirrors.example.com"
DEB822 = """\
Types: deb
URIs: http://archive.ubuntu.com/ubuntu/
Suites: noble noble-updates
Components: main universe
Signed-By: /usr/share/keyrings/ubuntu-archive-keyring.gpg
"""
DOCKER = "deb [arch=amd64] https://download.docker.com/linux/ubuntu noble stable\n"


@pytest.fixture
def apt(tmp_path):
    parts = tmp_path / "sources.list.d"
    parts.mkdir()
    (tmp_path / "sources.list").write_text("# nothing here\n")
    (parts / "ubuntu.sources").write_text(DEB822)
    (parts / "docker.list").write_text(DOCKER)
    return tmp_path


def state(apt):
    return {path.name: path.read_text() for path in apt.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("line", "wanted"),
    [
        ("deb http://deb.debian.org/debian trixie main", f"deb {MIRROR}/debian trixie main"),
        (
            "deb http://security.debian.org/debian-security trixie-security main",
            f"deb {MIRROR}/debian-security trixie-",
        ),
        (
            "deb [signed-by=/a.gpg] http://ec2.archive.ubuntu.com/ubuntu/ jammy main",
            f"/a.gpg] {MIRROR}/ubuntu/ jammy",
        ),
        ("URIs: mirror+file:///etc/apt/mirrors/debian-security.list", f"URIs: {MIRROR}/debian-security"),
        ("URIs: http://a.example/debian http://b.example/debian", f"URIs: {MIRROR}/debian {MIRROR}/debian"),
    ],
)
def test_an_archive_is_taken_from_the_mirror(line, wanted):
    assert wanted in rewritten(line, MIRROR)


@pytest.mark.parametrize(
    "line",
    [
        DOCKER,
        "deb https://ppa.launchpadcontent.net/someone/ppa/ubuntu jammy main",
        "URIs: https://developer.download.nvidia.com/compute/cuda/repos/debian12/x86_64/",
        "deb http://deb.debian.org/debian-debug trixie-debug main",
    ],
)
def test_what_others_offer_stays(line):
    assert rewritten(line, MIRROR) == line


def test_check_predicts_and_the_second_run_changes_nothing(run_module, apt):
    before = state(apt)
    predicted = run_module(apt_mirror, directory=str(apt), url=f"{MIRROR}/", check=True)
    assert state(apt) == before
    done = run_module(apt_mirror, directory=str(apt), url=f"{MIRROR}/")
    again = run_module(apt_mirror, directory=str(apt), url=MIRROR, check=True)
    once_more = run_module(apt_mirror, directory=str(apt), url=MIRROR)
    assert [result["changed"] for result in (predicted, done, again, once_more)] == [True, True, False, False]
    assert predicted["diff"] == done["diff"]
    assert done["files"] == once_more["files"] == [str(apt / "sources.list.d" / "ubuntu.sources")]
    after = state(apt)
    assert after["ubuntu.sources"] == done["diff"][0]["after"] == DEB822.replace("http://archive.ubuntu.com", MIRROR)
    assert after["docker.list"] == DOCKER


def test_the_hosts_own_sources_come_back(run_module, apt):
    before = state(apt)
    run_module(apt_mirror, directory=str(apt), url=MIRROR)
    run_module(apt_mirror, directory=str(apt), url="https://another.example.com")
    assert "another.example.com/ubuntu" in state(apt)["ubuntu.sources"]
    predicted = run_module(apt_mirror, directory=str(apt), check=True)
    done = run_module(apt_mirror, directory=str(apt))
    again = run_module(apt_mirror, directory=str(apt))
    assert [result["changed"] for result in (predicted, done, again)] == [True, True, False]
    assert state(apt) == before


def test_sources_that_name_the_mirror_already_are_left_alone(run_module, apt):
    (apt / "sources.list.d" / "ubuntu.sources").write_text(rewritten(DEB822, MIRROR))
    before = state(apt)
    assert run_module(apt_mirror, directory=str(apt), url=MIRROR)["changed"] is False
    assert run_module(apt_mirror, directory=str(apt))["changed"] is False
    assert state(apt) == before


def test_a_mirror_may_lie_deeper(run_module, apt):
    done = [run_module(apt_mirror, directory=str(apt), url=f"{MIRROR}/some/where") for _run in range(2)]
    assert [result["changed"] for result in done] == [True, False]
    assert f"URIs: {MIRROR}/some/where/ubuntu/\n" in state(apt)["ubuntu.sources"]


def test_a_host_without_the_archives_sources_is_refused(run_module, apt):
    (apt / "sources.list.d" / "ubuntu.sources").unlink()
    result = run_module(apt_mirror, directory=str(apt), url=MIRROR)
    assert result["failed"]
    assert "expected sources of Debian's or Ubuntu's archive" in result["msg"]
    assert "Restore the distribution's own sources" in result["msg"]
