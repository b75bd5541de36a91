# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A host, a hub, the modules, and the contract that they keep when something fails.

One message names the file, what was expected, what was found and what to do next, without a traceback, a token or a
signed address; what was there before is untouched; and the next run, when the fault is gone, gets the model.
"""

from __future__ import annotations

import json
import sys
import typing as t
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import gguf_build as build
import pytest

from ansible_collections.llmfleet.serving.plugins.module_utils._files import companion, known_sha256
from ansible_collections.llmfleet.serving.plugins.modules import gguf_fetch, gguf_merge
from testbed.hub import Hub

REPO = "acme/model-GGUF"
NAME = "model-00002-of-00003.gguf"
SHARD = f"{REPO}/Q4/{NAME}"
SHARD_SIZE = 3_072_192
OLD = b"what was there before"
HUBS = ("huggingface", "modelscope")
# What is read of each shard to plan the merge; a fault of the data has to come behind it.
HEADERS = 3 * (64 << 10)
EARLY, LATE = 100_000, 900_000

Result = dict[str, t.Any]


class Refusal(t.NamedTuple):
    """What a message must have in it: the file it is about, what was wrong with it, and what to do."""

    file: str
    said: str
    todo: str


class FaultOf(t.NamedTuple):
    """A fault of the hub: `testbed.hub.Fault`, as arguments."""

    name: str
    limits: dict[str, t.Any]


def fault(name: str, **limits: t.Any) -> FaultOf:
    """A fault of the second shard, unless another path is named."""
    return FaultOf(name, {"path": SHARD, **limits})


@dataclass
class Bench:
    """A host with room for the model, and a hub that has it."""

    hub: Hub
    published: t.Any
    tmp_path: Path
    token: str
    monkeypatch: pytest.MonkeyPatch
    run_module: Callable[..., Result]
    scripted: t.Any
    kind: str
    warnings: list[str] = field(default_factory=list)

    @property
    def dest(self) -> Path:
        return self.tmp_path / "models" / "model.gguf"

    @property
    def part(self) -> Path:
        return companion(self.dest, "part")

    @property
    def journal(self) -> Path:
        return companion(self.dest, "journal")

    def arguments(self, **params: t.Any) -> dict[str, t.Any]:
        return {
            "hub": self.kind,
            "endpoint": self.hub.url,
            "repo": REPO,
            "revision": self.hub.repository(REPO).commit,
            "files": "Q4/*.gguf",
            "dest": str(self.dest),
            "timeout": 2,
            "deadline": 30,
            "token": self.token,
            **params,
        }

    def fetch(self, **params: t.Any) -> Result:
        return self.shown(self.run_module(gguf_fetch, **self.arguments(**params)))

    def merge(self, *shards: Path, **params: t.Any) -> Result:
        self.dest.parent.mkdir(exist_ok=True)
        sources = [str(path) for path in shards or self.published.shards[:1]]
        return self.shown(self.run_module(gguf_merge, src=sources, dest=str(self.dest), **params))

    def got(self, **params: t.Any) -> Result:
        """The module's result, which is the model."""
        result = self.fetch(**params)
        assert "failed" not in result, result["msg"]
        assert self.dest.read_bytes() == self.published.merged
        assert result["sha256"] == self.published.sha256 == known_sha256(self.dest)
        return result

    def refused(self, refusal: Refusal, result: Result) -> None:
        """Hold a failure against the contract, as far as its message goes."""
        assert result.get("failed") is True, result
        assert not result.get("changed")
        for part in refusal:
            assert part in result["msg"]
        assert "Traceback" not in result["msg"]

    def has_old(self) -> None:
        self.dest.parent.mkdir(exist_ok=True)
        self.dest.write_bytes(OLD)

    def sent(self) -> int:
        """Bytes of model files that the hub has sent."""
        return sum(record["bytes"] for record in self.hub.stats()["cdn"].values())

    def shown(self, result: Result) -> Result:
        """The result, in which there is no secret, nor in the warnings, nor in any file beside the destination."""
        shown = json.dumps([self.warnings, {name: value for name, value in result.items() if name != "invocation"}])
        kept = [path.read_bytes() for path in self.dest.parent.rglob("*") if path.is_file() and not path.is_symlink()]
        for secret in ("Signature", self.token, "canary"):
            assert secret not in shown
            assert not any(secret.encode() in content for content in kept)
        return result


Check = Callable[[Bench], None]


class Case(t.NamedTuple):
    """One way to bring a row about. `hubs` are the kinds of hubs it is run with."""

    run: Check
    hubs: tuple[str, ...] = HUBS[:1]


class Row(t.NamedTuple):
    """A fault, what is expected of the modules, and its cases by name."""

    number: int
    fault: str
    expected: str
    cases: dict[str, Check | Case]


def set_(bench: Bench, faults: tuple[FaultOf, ...]) -> Callable[[], None]:
    """Set the faults; the result checks that all have shown."""
    shown = [bench.hub.fault(name, **limits) for name, limits in faults]

    def check() -> None:
        assert [fault.name for fault in shown if not fault.fired] == []

    return check


def passes(*faults: FaultOf, warning: str = "", **params: t.Any) -> Case:
    """The model arrives in spite of the faults, with a warning if there is one to be given."""

    def run(bench: Bench) -> None:
        shown = set_(bench, faults)
        assert bench.got(**params)["changed"] is True
        shown()
        assert not warning or any(warning in text for text in bench.warnings)

    return Case(run, HUBS)


def fails(
    *faults: FaultOf, said: str, todo: str, file: str = NAME, hubs: tuple[str, ...] = HUBS, **params: t.Any
) -> Case:
    """The faults stay, and the contract is kept."""

    def run(bench: Bench) -> None:
        bench.has_old()
        shown = set_(bench, faults)
        bench.refused(Refusal(file, said, todo), bench.fetch(force=True, **params))
        shown()
        assert bench.dest.read_bytes() == OLD
        bench.hub.clear_faults()
        assert bench.got(force=True)["changed"] is True

    return Case(run, hubs)


def command(module: t.Any = gguf_fetch) -> list[str]:
    return [sys.executable, "-m", module.__name__]


def small_shards(bench: Bench) -> bytes:
    """Let the hub have a model of a few kilobytes. Returns it merged."""
    keys, parts = build.small_model()
    for path, content in zip(bench.published.shards, build.shards(keys, parts), strict=True):
        path.write_bytes(content)
    return build.whole([*keys, *build.split_keys(0, 0, 6)], [tensor for part in parts for tensor in part])
