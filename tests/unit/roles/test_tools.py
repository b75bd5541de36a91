"""What the roles mirrors, uv and llama_cpp refuse, and what they take back, on a host of the bed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from testbed import archives, hosts, offline
from testbed.engine import docker
from testbed.hub.tls import make_certificates

pytestmark = pytest.mark.bed

HOST = "llmfleet-test-tools"
# Where the host has the mirror's authority for a test of one command, which need not trust it altogether.
AUTHORITY = "/srv/authority.pem"
NO_DIGITS = "sha256:" + "0" * 64


@pytest.fixture(scope="module")
def role(tmp_path_factory):
    """`role(name, *options, **variables)` runs a role on the host, with an `environment`: exit status and output."""
    # Not the mirror of the scenario `offline`, which may run at the same time.
    mirror = pytest.MonkeyPatch()
    mirror.setattr(offline, "MIRROR", "llmfleet-test-mirror")
    hosts.up_hub()
    hosts.up([HOST])
    folder = tmp_path_factory.mktemp("tools")
    connection = {"ansible_connection": "community.docker.docker", "ansible_python_interpreter": "/usr/bin/python3"}
    (folder / "hosts.json").write_text(json.dumps({"all": {"hosts": {HOST: connection}}}))

    def run(name, *options, environment=None, **variables):
        play = {"hosts": "all", "gather_facts": False, "environment": environment or {}}
        (folder / "play.json").write_text(json.dumps([{**play, "roles": [{"role": f"llmfleet.serving.{name}"}]}]))
        argv = [Path(sys.executable).with_name("ansible-playbook"), "-i", folder / "hosts.json", *options]
        done = subprocess.run(
            [*map(str, argv), "-e", json.dumps(variables), str(folder / "play.json")],
            env={**os.environ, "ANSIBLE_NOCOLOR": "1", "ANSIBLE_CALLBACK_RESULT_FORMAT": "json"},
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )
        return done.returncode, done.stdout + done.stderr

    try:
        yield run
    finally:
        hosts.down([HOST, offline.MIRROR])
        mirror.undo()


def on_host(command):
    return docker("exec", HOST, "sh", "-c", command).stdout


def refusal(said):
    """The message without the breaks and indents that the output gives it."""
    return " ".join(said.split())


def test_a_distribution_without_llama_cpp_is_refused(role):
    status, said = role("llama_cpp")
    assert status != 0
    assert "expected the package llama.cpp-tools, found that this host's package sources have none" in refusal(said)
    assert "Set llama_cpp_source to archive" in refusal(said)


@pytest.mark.parametrize(
    ("tool", "variables"),
    [
        ("llama_cpp", {"llama_cpp_version": "b4741"}),
        ("llama_cpp", {"llama_cpp_checksum": NO_DIGITS}),
        ("llama_cpp", {"llama_cpp_version": "../b4741", "llama_cpp_checksum": NO_DIGITS}),
        ("llama_cpp", {"llama_cpp_version": "b4741", "llama_cpp_checksum": "sha256:https://example.com/sums"}),
        ("uv", {"uv_version": "0.13.9"}),
        ("uv", {"uv_version": "latest", "uv_checksum": NO_DIGITS}),
    ],
)
def test_an_archive_that_is_not_pinned_is_refused(role, tool, variables):
    status, said = role(tool, **{f"{tool}_source": "archive"}, **variables)
    assert status != 0
    assert f"{tool}_checksum to be sha256: and 64 hexadecimal digits" in refusal(said)
    assert "changed=0" in said


def test_an_archive_that_is_another_one_is_refused(role):
    variables = {"uv_source": "archive", "uv_version": archives.UV_VERSION, "uv_checksum": NO_DIGITS}
    archives.ensure("uv")
    status, said = role("uv", uv_mirror=f"http://llmfleet-hub:{hosts.HUB_PORT}/mirror/uv", **variables)
    assert status != 0
    assert "checksum" in said
    assert on_host("ls /usr/local/bin") == ""


def test_a_build_for_gpus_without_the_compiler_is_refused(role):
    variables = {"llama_cpp_version": "b4741", "llama_cpp_checksum": NO_DIGITS}
    status, said = role("llama_cpp", llama_cpp_source="archive", **variables)
    assert status != 0
    assert "expected the CUDA compiler as /usr/local/cuda/bin/nvcc or /usr/bin/nvcc, found none" in refusal(said)
    assert "changed=0" in said


def test_pythons_that_the_host_lacks_are_refused_or_asked_of_the_mirror(role):
    mirror = offline.start_mirror()
    variables = {
        "uv_source": "archive",
        "uv_version": archives.UV_VERSION,
        "uv_checksum": archives.checksum("uv"),
        "uv_mirror": f"http://llmfleet-hub:{hosts.HUB_PORT}/mirror/uv",
        "uv_python": "3.12",
    }
    status, said = role("uv", uv_python_preference="only-system", **variables)
    assert status != 0
    assert "expected one of the host's own that is 3.12, found none" in refusal(said)
    docker("cp", str(offline.authority()), f"{HOST}:{AUTHORITY}")
    # The bed has no Python for uv, so the mirror's answer is that there is none; what was asked for is what counts.
    variables |= {"uv_python_mirror": f"{mirror}/pythons", "environment": {"SSL_CERT_FILE": AUTHORITY}}
    status, said = role("uv", **variables)
    assert status != 0
    assert [path for path in offline.requests() if path.startswith("/pythons/") and "/cpython-3.12." in path], said


def test_a_bundle_that_is_none_is_refused(role, tmp_path):
    certificates = make_certificates(tmp_path)
    empty = tmp_path / "empty.pem"
    empty.write_text("nothing\n")
    for file, found in ((certificates.server, "1 certificates and a private key"), (empty, "found 0 certificates")):
        status, said = role("mirrors", mirrors_ca_bundle=str(file))
        assert status != 0
        assert found in refusal(said)
    assert on_host("ls /usr/local/share/ca-certificates") == ""


def test_mirrors_are_taken_back(role):
    sources = "find /etc/apt -name 'sources*' -type f -exec grep -H . {} +; ls /etc/apt/sources.list.d"
    watched = f"{sources}; ls /etc/apt/apt.conf.d /etc/xdg /etc/ssl/certs"
    before = on_host(watched)
    variables = {
        "mirrors_apt": offline.start_mirror(),
        "mirrors_apt_proxy": "http://user:s3cret@proxy.example.com:3128",
        "mirrors_no_proxy": f"localhost,{offline.MIRROR},.example.com",
        "mirrors_ca_bundle": str(offline.authority()),
        "mirrors_index_url": "https://user:s3cret@pypi.example.com/simple",
    }
    status, said = role("mirrors", **variables)
    assert status == 0, said
    assert "changed=0" in role("mirrors", **variables)[1]
    assert on_host("stat --format=%a /etc/apt/apt.conf.d/90llmfleet-proxy").strip() == "600"
    assert "https://pypi.example.com/simple" in on_host("cat /etc/xdg/pip/pip.conf")
    assert "s3cret" not in on_host("cat /etc/xdg/pip/pip.conf /etc/xdg/uv/uv.toml")
    assert [path for path in offline.requests() if path.startswith("/debian/dists/")]

    assert "changed=0" not in role("mirrors", "--check")[1]
    status, said = role("mirrors")
    assert status == 0, said
    assert "changed=0" in role("mirrors")[1]
    on_host("rmdir /etc/xdg/pip /etc/xdg/uv")
    assert on_host(watched) == before
