# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The programs that bring a model from the bed's hub to a folder, each as people run it, and ours."""

from __future__ import annotations

import json
import sys
import typing as t
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from bench._harness import PATTERN, REPOSITORY, Model, need
from testbed.engine import command

MODULE = "ansible_collections.llmfleet.serving.plugins.modules.gguf_fetch"
MERGED = "merged.gguf"
LIMIT = "thrown away, 16 connections"

_BIN = Path(sys.executable).parent
# As `git lfs install` writes it, but for this run alone.
_GIT_CONFIG = """\
[filter "lfs"]
    process = git-lfs filter-process
    smudge = git-lfs smudge -- %f
    clean = git-lfs clean -- %f
    required = true
"""


class Command(t.NamedTuple):
    """A command line, and variables on top of the environment."""

    argv: list[str]
    env: dict[str, str]


@dataclass(frozen=True)
class Job:
    """What is to be fetched.

    :ivar hub: the hub's address.
    :ivar commit: of the repository.
    :ivar folder: where everything that is written belongs.
    """

    model: Model
    hub: str
    commit: str
    folder: Path

    def url(self, path: str) -> str:
        """The address of one file of the repository."""
        return f"{self.hub}/{REPOSITORY}/resolve/{self.commit}/{path}"


@dataclass(frozen=True)
class Program:
    """One way to fetch.

    :ivar begin: the command for a job; run again after it was killed, it goes on as well as it can.
    :ivar version: what is measured, for people.
    :ivar leaves: what it makes of the model.
    """

    begin: Callable[[Job], Command]
    version: Callable[[], str]
    leaves: t.Literal["one file", "shards", "nothing"] = "shards"


def gguf_fetch(job: Job, **options: t.Any) -> Command:
    """Ours, as Ansible runs a module on a host."""
    known = {"hub": job.hub, "repo": REPOSITORY, "revision": job.commit, "files": PATTERN}
    arguments = job.folder / "arguments.json"
    dest = {"dest": str(job.folder / MERGED)}
    arguments.write_text(json.dumps({"ANSIBLE_MODULE_ARGS": {**known, **dest, **options}}))
    return Command([sys.executable, "-m", MODULE, str(arguments)], {})


def _requests(job: Job, streams: int) -> Command:
    files = zip(job.model.paths, job.model.digests, strict=True)
    listed = [f"{sha256} {job.url(path)}" for path, sha256 in files]
    script = Path(__file__).with_name("_requests_download.py")
    return Command([sys.executable, str(script), str(streams), str(job.folder), *listed], {})


def _nowhere(job: Job) -> Command:
    script = Path(__file__).with_name("_null_download.py")
    return Command([sys.executable, str(script), "16", *map(job.url, job.model.paths)], {})


def _hf(job: Job) -> Command:
    argv = ["download", REPOSITORY, "--revision", job.commit, "--include", PATTERN, "--local-dir", str(job.folder)]
    env = {"HF_ENDPOINT": job.hub, "HF_HOME": str(job.folder / "home"), "HF_HUB_DISABLE_TELEMETRY": "1"}
    return Command([str(_BIN / "hf"), *argv], env)


def _modelscope(job: Job) -> Command:
    argv = ["download", REPOSITORY, "--revision", "master", "--include", PATTERN, "--local-dir", str(job.folder)]
    homes = {name: str(job.folder / "home") for name in ("MODELSCOPE_HOME", "MODELSCOPE_CACHE")}
    return Command([str(_BIN / "modelscope"), *argv], {"MODELSCOPE_ENDPOINT": job.hub, **homes})


def _aria2c(job: Job) -> Command:
    files = zip(job.model.paths, job.model.digests, strict=True)
    wanted = [f"{job.url(path)}\n out={Path(path).name}\n checksum=sha-256={sha256}\n" for path, sha256 in files]
    listed = job.folder / "aria2.txt"
    listed.write_text("".join(wanted))
    options = ["-x16", "-s16", "--file-allocation=falloc", "--continue", "--quiet"]
    return Command(["aria2c", *options, f"--input-file={listed}", f"--dir={job.folder}"], {})


def _git_lfs(job: Job) -> Command:
    config = job.folder / "gitconfig"
    config.write_text(_GIT_CONFIG)
    url, clone = f"{job.hub}/{REPOSITORY}", str(job.folder / "clone")
    # What was there before a kill is what `git lfs pull` begins with, if git itself had ended.
    script = 'test -f "$2/.git/ok" || { rm -rf "$2"; git clone --quiet "$1" "$2" && touch "$2/.git/ok"; } && '
    script += 'cd "$2" && git lfs pull'
    env = {"GIT_CONFIG_GLOBAL": str(config), "GIT_LFS_SKIP_SMUDGE": "1", "GIT_TERMINAL_PROMPT": "0"}
    return Command(["bash", "-c", script, "bash", url, clone], env)


def _first_line(*argv: str) -> Callable[[], str]:
    def version() -> str:
        return command(list(argv)).stdout.splitlines()[0].strip()

    return version


def _package(name: str) -> Callable[[], str]:
    return lambda: f"{name} {metadata.version(name)}"


PROGRAMS: Mapping[str, Program] = {
    "gguf_fetch": Program(gguf_fetch, lambda: "this collection", "one file"),
    "requests, 4 threads": Program(lambda job: _requests(job, 4), _package("requests")),
    "one stream": Program(lambda job: _requests(job, 1), _package("requests")),
    "hf download": Program(_hf, _package("huggingface_hub")),
    "modelscope download": Program(_modelscope, _package("modelscope")),
    "aria2c -x16": Program(_aria2c, _first_line("aria2c", "--version")),
    "git lfs": Program(_git_lfs, _first_line("git-lfs", "version")),
    # What the hub, the link and this machine can do.
    LIMIT: Program(_nowhere, lambda: "http.client", "nothing"),
}


def check_programs() -> None:
    """:raises BedError: if a program is not on this machine."""
    for program, package in (("aria2c", "aria2"), ("git", "git"), ("git-lfs", "git-lfs")):
        need(program, package)
