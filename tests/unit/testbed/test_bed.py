# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The bed itself: cache, engine, images, hosts, releases and command line."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from testbed import BedError, __main__, egress, engine, hosts, images, ollama
from testbed.cache import cache_dir, key_of, size_of
from testbed.engine import docker
from testbed.tools import tool

TESTS = Path(__file__).parents[2]
# Other runs on this machine have their own hosts.
PREFIX = f"bedtest-{os.getpid()}"


def on(host: str, *argv: str) -> str:
    """What a command prints on a host; its failure is an error."""
    return docker("exec", host, *argv).stdout


@pytest.fixture(autouse=True)
def no_egress_from_outside(monkeypatch, request):
    """Tests without Docker see no proxy, index or authority of the machine that they run on."""
    if "bed" not in request.keywords:
        for name in ("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy"):
            monkeypatch.delenv(name, raising=False)
        for name in (*egress._INDEXES, *egress._CA_VARIABLES):
            monkeypatch.delenv(name, raising=False)


class TestCache:
    @pytest.fixture
    def tree(self, tmp_path):
        (tmp_path / "sub").mkdir()
        (tmp_path / "sub/a.c").write_text("int a;")
        (tmp_path / "b").write_text("b")
        return tmp_path

    @pytest.mark.parametrize(
        "change",
        [
            lambda tree: (tree / "sub/a.c").write_text("int b;"),
            lambda tree: (tree / "b").rename(tree / "c"),
            lambda tree: (tree / "b").rename(tree / "sub/b"),
            lambda tree: (tree / "new").touch(),
            lambda tree: (tree / "b").unlink(),
            lambda tree: (tree / "b").chmod(0o755),
            shutil.rmtree,
        ],
        ids=["content", "name", "place", "new file", "lost file", "executable", "nothing left"],
    )
    def test_the_key_changes_with_the_tree(self, tree, change):
        before = key_of(tree)
        change(tree)
        assert key_of(tree) != before

    def test_the_key_stays_with_copies_and_compiled_python(self, tree, tmp_path_factory):
        copy = tmp_path_factory.mktemp("other") / "copy"
        shutil.copytree(tree, copy)
        (copy / "__pycache__").mkdir()
        (copy / "__pycache__/x.pyc").touch()
        assert key_of(copy) == key_of(tree)

    def test_strings_count_with_their_borders_and_order(self):
        keys = {key_of("ab", "c"), key_of("a", "bc"), key_of("c", "ab"), key_of("abc")}
        assert len(keys) == 4

    def test_the_nearest_variable_names_the_folder(self, monkeypatch, tmp_path):
        monkeypatch.setenv("HOME", str(tmp_path / "home"))
        monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
        monkeypatch.delenv("LLMFLEET_BED_CACHE", raising=False)
        assert cache_dir() == tmp_path / "home/.cache/llmfleet-bed"
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
        assert cache_dir() == tmp_path / "xdg/llmfleet-bed"
        monkeypatch.setenv("LLMFLEET_BED_CACHE", str(tmp_path / "own"))
        assert cache_dir() == tmp_path / "own"
        assert (tmp_path / "own").is_dir()

    def test_a_folder_with_other_things_is_refused(self, monkeypatch, tmp_path):
        (tmp_path / "thesis.tex").touch()
        monkeypatch.setenv("LLMFLEET_BED_CACHE", str(tmp_path))
        with pytest.raises(BedError, match="holds other things"):
            cache_dir()
        assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]

    def test_sizes_are_those_of_the_files(self, tree):
        (tree / "link").symlink_to(tree / "b")
        assert size_of(tree) == len("int a;") + len("b")


class TestEgress:
    def test_an_open_network_needs_nothing(self):
        assert egress.docker_options() == []
        assert egress.variables() == {}

    def test_the_authorities_of_this_machine_are_mounted(self, monkeypatch, tmp_path):
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tmp_path / "ca.pem"))
        inside = "/etc/ssl/llmfleet-bed-ca.crt"
        assert f"--volume={tmp_path}/ca.pem:{inside}:ro" in egress.docker_options()
        assert egress.variables() == {"SSL_CERT_FILE": inside, "REQUESTS_CA_BUNDLE": inside, "PIP_CERT": inside}

    def test_the_hub_is_reached_without_the_proxy(self, monkeypatch):
        monkeypatch.setenv("https_proxy", "http://proxy:3128")
        monkeypatch.setenv("NO_PROXY", "intranet")
        ours = "localhost,127.0.0.1,llmfleet-hub,.llmfleet-bed"
        assert egress.variables() == {
            "https_proxy": "http://proxy:3128",
            "NO_PROXY": f"intranet,{ours}",
            "no_proxy": ours,
        }

    def test_passwords_stay_off_the_command_line(self, monkeypatch):
        monkeypatch.setenv("HTTPS_PROXY", "http://me:canary@proxy:3128")
        monkeypatch.setenv("PIP_INDEX_URL", "https://me:canary@index/simple")
        assert "--env=PIP_INDEX_URL" in egress.docker_options()
        assert "canary" not in " ".join(egress.docker_options())


class TestEngine:
    def test_without_an_engine_and_the_rights_to_start_one_there_is_one_clear_error(self, monkeypatch):
        monkeypatch.setenv("DOCKER_HOST", "unix:///nonexistent/docker.sock")
        monkeypatch.setattr(os, "geteuid", lambda: 1000)
        with pytest.raises(BedError, match="No Docker engine answers"):
            engine.ensure_engine()

    def test_an_engine_that_does_not_start_is_reported_with_its_log(self, monkeypatch, tmp_path):
        monkeypatch.setenv("LLMFLEET_BED_CACHE", str(tmp_path / "cache"))
        (tmp_path / "dockerd").write_text("#!/bin/sh\necho broken >&2\nexit 1\n")
        (tmp_path / "dockerd").chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
        monkeypatch.setenv("DOCKER_HOST", "unix:///nonexistent/docker.sock")
        # Otherwise it would wait for the end of the engine that the other tests use.
        monkeypatch.setattr(engine, "_PID_FILE", tmp_path / "docker.pid")
        with pytest.raises(BedError, match="its log is"):
            engine._start()
        assert (tmp_path / "cache/dockerd.log").read_text() == "broken\n"

    def test_a_failing_command_is_quoted_with_its_error(self):
        with pytest.raises(BedError, match=r"`sh -c echo no space >&2; exit 3` ended with status 3: no space"):
            engine.command(["sh", "-c", "echo no space >&2; exit 3"])


@pytest.mark.bed
class TestImages:
    @pytest.fixture
    def context(self, tmp_path, monkeypatch):
        """A build context whose image `name` holds one file."""
        (tmp_path / "Dockerfile").write_text("ARG BASE\nFROM ${BASE}\nCOPY file /file\n")
        (tmp_path / "file").write_text("one")
        monkeypatch.setattr(images, "_BED", tmp_path)
        monkeypatch.setitem(images._IMAGES, PREFIX, images._Image("trixie", "Dockerfile", ("file",)))
        yield tmp_path
        listed = docker("images", "--quiet", f"llmfleet-bed/{PREFIX}").stdout.split()
        docker("image", "rm", "--force", *listed, check=False)

    def test_an_image_is_built_once_for_each_state_of_its_inputs(self, context):
        first = images.ensure_image(PREFIX)
        identity = docker("image", "inspect", "--format={{.Id}}{{.Created}}", first).stdout
        assert images.ensure_image(PREFIX) == first
        assert docker("image", "inspect", "--format={{.Id}}{{.Created}}", first).stdout == identity

        (context / "file").write_text("two")
        second = images.ensure_image(PREFIX)
        assert second != first
        assert docker("run", "--rm", second, "cat", "/file").stdout == "two"
        listed = docker("images", "--format={{.Repository}}:{{.Tag}}", f"llmfleet-bed/{PREFIX}").stdout.split()
        assert listed == [second]

    def test_a_build_that_fails_says_why_and_leaves_no_image(self, context):
        (context / "Dockerfile").write_text("ARG BASE\nFROM ${BASE}\nCOPY missing /\n")
        with pytest.raises(BedError, match="missing"):
            images.ensure_image(PREFIX)
        assert docker("images", "--quiet", f"llmfleet-bed/{PREFIX}").stdout == ""

    def test_without_a_registry_and_root_there_is_one_clear_error(self, monkeypatch):
        monkeypatch.setattr(os, "geteuid", lambda: 1000)
        with pytest.raises(BedError, match="No image registry sends debian:trixie-slim"):
            images._bootstrap("trixie", "llmfleet-bed/never")


@pytest.mark.bed
class TestTools:
    def test_a_tool_works_on_files_of_this_machine(self, tmp_path):
        (tmp_path / "in").write_text("text")
        assert tool(tmp_path, "cp", "in", f"{tmp_path}/out").stdout == ""
        assert (tmp_path / "out").read_text() == "text"
        assert (tmp_path / "out").stat().st_uid == os.getuid()

    def test_the_oracles_are_there(self, tmp_path):
        for program in ("llama-gguf-split", "llama-server"):
            assert "Debian" in tool(tmp_path, program, "--version").stderr
        assert tool(tmp_path, "which", "llama-quantize", "zstd").stdout.count("/usr/bin/") == 2

    def test_a_failing_tool_is_an_error_unless_asked_for(self, tmp_path):
        with pytest.raises(BedError, match="llama-gguf-split"):
            tool(tmp_path, "llama-gguf-split", "--merge", "missing.gguf", "out.gguf")
        assert tool(tmp_path, "llama-gguf-split", "--merge", "missing.gguf", "out.gguf", check=False).returncode != 0


@pytest.fixture(scope="module", params=hosts.IMAGES)
def host(request):
    """A running host of either image."""
    name = f"{PREFIX}-{request.param}"
    hosts.up([name], request.param)
    yield name
    hosts.down([name])


@pytest.fixture
def decoy():
    """A container that is not the bed's."""
    name = f"{PREFIX}-decoy"
    # A container has its image's labels, and this image is the bed's: so the label is set to something else.
    docker(
        "run", "--detach", f"--name={name}", "--label=llmfleet-bed=not", images.ensure_image("tools"), "sleep", "600"
    )
    yield name
    docker("rm", "--force", name)


def identity(name: str) -> str:
    return docker("container", "inspect", "--format={{.Id}}", name).stdout


@pytest.mark.bed
class TestHosts:
    def test_systemd_is_up_and_no_unit_failed(self, host):
        assert on(host, "systemctl", "is-system-running").strip() == "running"
        assert on(host, "cat", "/proc/1/comm").strip() == "systemd"

    def test_credentials_reach_units(self, host):
        read = "cat $CREDENTIALS_DIRECTORY/name"
        unit = ("systemd-run", "--quiet", "--wait", "--pipe", "--property=LoadCredential=name:/etc/hostname")
        assert on(host, *unit, "sh", "-c", read).strip() == host

    def test_units_are_confined_as_on_a_real_host(self, host):
        unit = (
            "systemd-run",
            "--quiet",
            "--wait",
            "--pipe",
            "--property=ProtectSystem=strict",
            "--property=DynamicUser=yes",
        )
        assert on(host, *unit, "sh", "-c", "touch /etc/x 2>/dev/null || id --user").strip() not in {"", "0"}

    def test_eight_gpus_answer(self, host):
        lines = on(host, "nvidia-smi", "-L").splitlines()
        assert len(lines) == 8
        assert all("NVIDIA H800" in line for line in lines)

    def test_a_host_that_runs_is_kept(self, host):
        before = identity(host)
        on(host, "touch", "/root/mark")
        hosts.up([host], host.removeprefix(f"{PREFIX}-"))
        assert identity(host) == before
        on(host, "test", "-e", "/root/mark")

    def test_a_unit_that_fails_is_named(self, host):
        docker("exec", host, "systemd-run", "--unit=broken", "--wait", "false", check=False)
        with pytest.raises(BedError, match=r"units failed: broken\.service"):
            hosts._wait_for_systemd(host)
        on(host, "systemctl", "reset-failed")

    def test_hosts_find_each_other_and_share_no_units(self, host):
        other = f"{host}-b"
        try:
            hosts.up([other])
            assert on(host, "getent", "hosts", other)
            assert on(host, "getent", "hosts", f"{other}.llmfleet-bed")
            for name in (host, other):
                on(name, "systemd-run", "--unit=same", "sleep", "600")
            on(host, "systemctl", "stop", "same")
            assert on(other, "systemctl", "is-active", "same").strip() == "active"
        finally:
            hosts.down([other])

    def test_what_the_network_needs_reaches_tasks_and_units_and_changes_the_host(self, monkeypatch):
        name = f"{PREFIX}-egress"
        try:
            hosts.up([name])
            bare = identity(name)
            monkeypatch.setenv("PIP_INDEX_URL", "https://index.example/simple")
            hosts.up([name])
            assert identity(name) != bare
            line = "PIP_INDEX_URL=https://index.example/simple"
            assert line in on(name, "env").splitlines()
            assert line in on(name, "systemd-run", "--quiet", "--wait", "--pipe", "env").splitlines()
        finally:
            hosts.down([name])

    def test_a_host_that_does_not_boot_is_reported_with_its_last_words(self, monkeypatch):
        name = f"{PREFIX}-dead"
        monkeypatch.setattr(hosts, "_SYSTEMD_OPTIONS", ())
        try:
            with pytest.raises(BedError, match=r"did not boot.*mount"):
                hosts.up([name])
        finally:
            hosts.down([name])

    def test_a_foreign_container_is_neither_replaced_nor_removed(self, decoy):
        before = identity(decoy)
        for act in (hosts.up, hosts.down):
            with pytest.raises(BedError, match="not the bed's"):
                act([decoy])
        assert identity(decoy) == before
        assert decoy not in hosts.containers()

    def test_to_remove_a_host_twice_is_no_error(self):
        hosts.down([f"{PREFIX}-never", f"{PREFIX}-never"])


@pytest.mark.bed
class TestHub:
    def test_releases_come_from_the_mirror_to_hosts_and_to_this_machine(self, host):
        release = ollama.ensure_release("0.5.11")
        hosts.up_hub()
        path = "/mirror/ollama/v0.5.11/sha256sum.txt"
        with urllib.request.urlopen(hosts.hub_url() + path) as answer:  # noqa: S310
            assert answer.read() == (release / "sha256sum.txt").read_bytes()
        script = f"import urllib.request as r; print(r.urlopen('http://{engine.HUB}:{hosts.HUB_PORT}{path}').read().decode())"
        assert on(host, "python3", "-c", script).strip() == (release / "sha256sum.txt").read_text().strip()

    def test_it_is_kept_while_nothing_changes(self):
        hosts.up_hub()
        before = identity(engine.HUB)
        hosts.up_hub()
        assert identity(engine.HUB) == before

    def test_a_missing_hub_is_one_clear_error(self, monkeypatch):
        monkeypatch.setattr(hosts, "HUB", f"{PREFIX}-never")
        with pytest.raises(BedError, match="Start it with"):
            hosts.hub_url()


@pytest.mark.bed
class TestOllama:
    @pytest.mark.parametrize("version", ollama.VERSIONS)
    def test_a_release_is_complete_and_runs_on_its_host(self, version, tmp_path):
        release = ollama.ensure_release(version)
        name = ollama.archive_name(version)
        digest = hashlib.sha256((release / name).read_bytes()).hexdigest()
        assert f"{digest}  ./{name}" in (release / "sha256sum.txt").read_text().splitlines()

        shutil.copy(release / name, tmp_path)
        tool(tmp_path, "tar", "--extract", f"--file={name}")
        assert (tmp_path / "lib/ollama").is_dir()
        image = images.ensure_image("debian13" if version == "0.5.11" else "debian-testing")
        said = docker("run", "--rm", f"--volume={tmp_path}:/opt/ollama:ro", "--entrypoint=sh", image, "-c",
                      "/opt/ollama/bin/ollama --version 2>&1; test ! -L /opt/ollama/lib/ollama/llama-server "
                      "|| test -x /opt/ollama/lib/ollama/llama-server && echo complete")  # fmt: skip
        assert version in said.stdout
        assert "complete" in said.stdout

    @pytest.mark.parametrize(
        ("version", "name"),
        [
            ("0.5.11", "ollama-linux-amd64.tgz"),
            ("0.13.5", "ollama-linux-amd64.tgz"),
            ("0.14.0", "ollama-linux-amd64.tar.zst"),
            ("1.0.0", "ollama-linux-amd64.tar.zst"),
        ],
    )
    def test_archives_are_named_as_the_release_names_them(self, version, name):
        assert ollama.archive_name(version) == name

    def test_a_version_that_does_not_exist_is_an_error_and_leaves_nothing(self):
        with pytest.raises(BedError, match=r"ollama@v0\.0\.99999"):
            ollama.ensure_release("0.0.99999")
        assert not (ollama.mirror_dir() / "ollama/v0.0.99999").exists()


class TestFetch:
    """Where releases can be had, they are the makers' own."""

    @pytest.fixture
    def site(self, tmp_path, monkeypatch):
        monkeypatch.setattr(ollama, "_URL", (tmp_path / "site").as_uri())
        folder = tmp_path / "site/v0.5.11"
        folder.mkdir(parents=True)
        (folder / "ollama-linux-amd64.tgz").write_bytes(b"archive")
        digest = hashlib.sha256(b"archive").hexdigest()
        (folder / "sha256sum.txt").write_text(f"{digest}  ./ollama-linux-amd64.tgz\n")
        return folder

    @pytest.mark.usefixtures("site")
    def test_a_whole_release_is_taken(self, tmp_path):
        (tmp_path / "release").mkdir()
        assert ollama._fetch("0.5.11", tmp_path / "release")
        assert (tmp_path / "release/ollama-linux-amd64.tgz").read_bytes() == b"archive"

    def test_a_damaged_a_late_and_a_missing_one_are_not(self, site, tmp_path, monkeypatch):
        (tmp_path / "release").mkdir()
        assert not ollama._fetch("0.5.12", tmp_path / "release")
        with monkeypatch.context() as slow:
            slow.setattr(ollama, "_DOWNLOAD_TIMEOUT_S", -1)
            assert not ollama._fetch("0.5.11", tmp_path / "release")
        (site / "ollama-linux-amd64.tgz").write_bytes(b"archivE")
        assert not ollama._fetch("0.5.11", tmp_path / "release")


@pytest.mark.bed
class TestCommandLine:
    def run(self, *argv: str) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "PYTHONPATH": str(TESTS)}
        return subprocess.run(
            [sys.executable, "-m", "testbed", *argv], env=environment, capture_output=True, text=True, check=False
        )

    def test_up_list_and_down_work_on_one_host(self):
        name = f"{PREFIX}-cli"
        started = self.run("up", name)
        assert started.returncode == 0, started.stderr
        listed = self.run("list").stdout
        assert name in listed
        assert str(cache_dir()) in listed
        assert self.run("down", name).returncode == 0
        assert name not in self.run("list").stdout

    def test_an_error_is_one_message_without_a_traceback(self, decoy):
        result = self.run("down", decoy)
        assert result.returncode == 1
        assert result.stderr.startswith(f"testbed: A container named {decoy}")
        assert "Traceback" not in result.stderr

    def test_remove_takes_what_has_the_label_and_nothing_else(self, decoy, monkeypatch, tmp_path):
        # Another label than the bed's: this run must not remove the bed that the other tests use.
        label = f"{PREFIX}=1"
        monkeypatch.setattr(hosts, "LABEL", label)
        monkeypatch.setattr(images, "LABEL", label)
        monkeypatch.setenv("LLMFLEET_BED_CACHE", str(tmp_path / "cache"))
        cache_dir()
        image = images.ensure_image("tools")
        own, network, other_network = f"{PREFIX}-own", f"{PREFIX}-net", f"{PREFIX}-other"
        docker("network", "create", f"--label={label}", network)
        docker("network", "create", other_network)
        (tmp_path / "Dockerfile").write_text(f"FROM {image}\nLABEL {label}\n")
        docker("build", f"--tag={own}", f"--file={tmp_path}/Dockerfile", str(tmp_path))
        docker("run", "--detach", f"--name={own}", f"--label={label}", f"--network={network}", own, "sleep", "600")
        try:
            __main__._remove(None)
            for kind, name in (("container", own), ("network", network), ("image", own)):
                assert docker(kind, "inspect", name, check=False).returncode != 0
            for kind, name in (("container", decoy), ("network", other_network), ("image", image)):
                docker(kind, "inspect", name)
            assert not (tmp_path / "cache").exists()
        finally:
            docker("network", "rm", other_network)


@pytest.mark.parametrize(("pid", "left"), [("self", True), ("1000000000", False), (None, False)])
def test_only_the_pid_file_of_a_living_dockerd_stands_in_the_way(tmp_path, monkeypatch, pid, left):
    file = tmp_path / "docker.pid"
    monkeypatch.setattr(engine, "_PID_FILE", file)
    monkeypatch.setattr(engine, "_START_TIMEOUT_S", 0)
    # The tests' own process plays the engine that still runs.
    monkeypatch.setattr(engine, "_COMMAND", Path("/proc/self/comm").read_text().strip())
    if pid:
        file.write_text(pid)
    engine._clear_the_way()
    assert file.exists() is left
