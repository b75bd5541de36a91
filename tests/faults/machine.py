# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Any sequence of faults, kills and errors of the disk, as a state machine of Hypothesis around one destination."""

from __future__ import annotations

import errno
import json
import tempfile
import typing as t
from collections.abc import Callable
from pathlib import Path

import gguf_build as build
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from ansible_collections.llmfleet.serving.plugins.module_utils._files import companion
from faults.bench import OLD, REPO
from testbed.hub import Hub

# Beyond the 64 KiB that a plan reads of each shard, and within them.
AFTER = st.sampled_from([0, 1, 1000, 70_000, 150_000, 204_000])
DATA = (
    "reset",
    "short-body",
    "flipped-bit",
    "rotten-byte",
    "chunked",
    "weak-etag",
    "no-etag",
    "expired-url",
    "truncated",
)
OTHERS = (
    "no-range",
    "wrong-content-range",
    "long-body",
    "changed-etag",
    "gzip",
    "html-page",
    "lfs-pointer",
    "error-503",
)
HEADERS = 3 * (64 << 10)


def publish(root: Path) -> bytes:
    """Put a model of three shards of 200 KB where a hub finds it. Returns it merged."""
    keys, _dummy = build.small_model()
    parts = [[build.weights(f"blk.{no}.ffn_up.weight", (256, 200))] for no in range(3)]
    folder = root / REPO / "Q4"
    folder.mkdir(parents=True)
    build.write_shards(folder, build.shards(keys, parts))
    return build.whole([*keys, *build.split_keys(0, 0, 3)], [tensor for part in parts for tensor in part])


class Fetching(RuleBasedStateMachine):
    """`run` is what `faults.killer.killer` gives; `hubs` have the model that is `merged`."""

    def __init__(self, run: Callable[..., dict[str, t.Any]], hubs: tuple[Hub, Hub], merged: bytes) -> None:
        super().__init__()
        self._run = run
        self._hubs = hubs
        self._merged = merged
        self._folder = tempfile.TemporaryDirectory()
        self._dest = Path(self._folder.name) / "models" / "model.gguf"
        self._dest.parent.mkdir()
        self._dest.write_bytes(OLD)
        for hub in hubs:
            hub.clear_faults()

    @rule(name=st.sampled_from(DATA + OTHERS), after=AFTER, times=st.integers(1, 3), shard=st.integers(1, 3))
    def fault(self, name: str, after: int, times: int, shard: int) -> None:
        """The first hub is going to show it."""
        self._hubs[0].fault(name, after=after if name in DATA else 0, times=times, path=f"*0000{shard}-of*")

    @rule()
    def swap(self) -> None:
        """The user names the other hub first."""
        self._hubs = self._hubs[::-1]

    @rule(other=st.booleans())
    def fetch(self, other: bool) -> None:
        """The module ends well, or with one message."""
        self._ends(self._run(self._arguments(other)))

    @rule(number=st.integers(0, 60), other=st.booleans())
    def kill(self, number: int, other: bool) -> None:
        answer = self._run(self._arguments(other), number)
        if not answer["killed"]:
            self._ends(answer)

    @rule(number=st.integers(0, 60), error=st.sampled_from([errno.ENOSPC, errno.EIO]))
    def disk_fails(self, number: int, error: int) -> None:
        self._ends(self._run(self._arguments(other=True), number, error))

    @precondition(lambda self: companion(self._dest, "part").exists())
    @rule(size=st.integers(0, 700_000))
    def truncate(self, size: int) -> None:
        """Somebody has had the file in the making in hand."""
        part = companion(self._dest, "part")
        content = part.read_bytes()
        part.unlink()
        part.write_bytes(content[:size])

    @invariant()
    def old_or_new(self) -> None:
        assert self._dest.read_bytes() in (OLD, self._merged)

    def teardown(self) -> None:
        """Without faults, the next run gets the model, and at most once; the one after has nothing to do."""
        for hub in self._hubs:
            hub.clear_faults()
            hub.clear_stats()
        result = self._run(self._arguments(other=False))["result"]
        assert "failed" not in result, result["msg"]
        assert self._dest.read_bytes() == self._merged
        sent = sum(record["bytes"] for record in self._hubs[0].stats()["cdn"].values())
        assert sent <= 2 * len(self._merged) + HEADERS
        assert self._run(self._arguments(other=False))["result"]["changed"] is False
        self._folder.cleanup()

    def _arguments(self, other: bool) -> dict[str, t.Any]:
        first, second = self._hubs
        return {
            "hub": "huggingface",
            "endpoint": first.url,
            "sources": [{"hub": "huggingface", "endpoint": second.url}] if other else [],
            "repo": REPO,
            "revision": first.repository(REPO).commit,
            "files": "Q4/*.gguf",
            "dest": str(self._dest),
            "force": True,
            "timeout": 2,
            "deadline": 10,
        }

    def _ends(self, answer: dict[str, t.Any]) -> None:
        result = answer["result"]
        shown = json.dumps({name: value for name, value in result.items() if name != "invocation"})
        assert "Signature" not in shown
        assert "Traceback" not in shown
        assert result.get("failed") or result["sha256"]
