# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The 52 faults that getting a model onto a disk must survive: one row each, with what is expected, and its cases.

A case runs the module itself, against the bed's hub and, where a disk is at fault, a file system of its own. `passes`:
the model is there in the end. `fails`: the contract of `faults.bench` is kept, and the next run gets the model.
"""

from __future__ import annotations

import errno
import os
import shutil
import signal
import typing as t
from collections.abc import Iterator

import gguf_build as build
import pytest
from ansible.module_utils.basic import AnsibleModule
from faults import disk, model, network, process
from faults.bench import EARLY, HUBS, LATE, OLD, Bench, Case, Row, fails, fault, passes
from faults.killer import killer
from faults.machine import Fetching, publish
from faults.model import headers, resized, second_shard, set_of_shards, shard, shard_changes
from faults.network import permanent
from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test

from ansible_collections.llmfleet.serving.plugins.modules import gguf_fetch
from testbed.hub import Hub

ASK = "use another one, or ask who runs it"
EIO = "Input/output error (EIO)"

ROWS = [
    # The network
    Row(1, "reset", "goes on where it was, with the bytes it has; time is bounded", {
        "": passes(fault("reset", times=2, after=LATE)),
        "keeps bytes": network.kept_bytes_are_not_asked_for_again,
        "hub goes down": passes(fault("down", times=1, after=LATE, seconds=1.0)),
    }),
    Row(2, "stall", "too few bytes in a time are a broken connection", {
        "": passes(fault("stall", times=1, after=LATE)),
        "trickle": passes(fault("slow", times=1, after=EARLY, rate=1000)),
        "for ever": fails(fault("stall", after=EARLY), said="deadline", todo="Run again", file="", deadline=3),
    }),
    Row(3, "short body", "is a broken connection, never an end", {
        "": passes(fault("short-body", times=3, after=LATE)),
    }),
    Row(4, "long body", "what is too much is not written; the source is at fault", {
        "": fails(fault("long-body"), said="", todo=ASK),
        "once": passes(fault("long-body", times=1, after=EARLY)),
        "wrong listing": fails(fault("wrong-size"), said="3072193", todo=ASK),
    }),
    Row(5, "chunked", "size and sum are known from the list, so that is enough", {
        "": passes(fault("chunked")),
    }),
    Row(6, "wrong Content-Range", "nothing is written at a wrong place", {
        "once": passes(fault("reset", times=1, after=LATE), fault("wrong-content-range", times=1)),
        "always": fails(fault("wrong-content-range"), said="answered with the range", todo=ASK),
    }),
    Row(7, "no Range", "the whole file is taken from its start", {
        "": passes(fault("no-range"), warning="has no ranges"),
    }),
    Row(8, "416, complete", "the sums decide, without a transfer", {
        "": network.complete_part,
    }),
    Row(9, "416, too short", "the source has another file", {
        "once": passes(fault("truncated", times=1, after=EARLY)),
        "always": fails(fault("truncated", after=EARLY), said="", todo=ASK),
    }),
    Row(10, "other ETag", "the sum decides", {
        "": passes(fault("reset", times=1, after=LATE), fault("changed-etag")),
        "other content": fails(
            fault("changed-etag", times=1), fault("rotten-byte", after=LATE), said="sha256", todo=ASK
        ),
    }),
    Row(11, "weak or no ETag", "the sum is enough", {
        "weak": passes(fault("reset", times=1, after=LATE), fault("weak-etag")),
        "none": passes(fault("reset", times=1, after=LATE), fault("no-etag")),
    }),
    Row(12, "429", "waits as it is told, within reason and the deadline", {
        "seconds": passes(fault("rate-limit", times=1, retry_after="1")),
        "date": passes(fault("rate-limit", times=1, retry_after="Wed, 21 Oct 2015 07:28:00 GMT")),
        "nonsense": passes(fault("rate-limit", times=1, retry_after="soon")),
        "absurd": fails(fault("rate-limit", retry_after="86400"), said="429", todo="deadline", deadline=4),
    }),
    Row(13, "5xx and 408", "passes by itself", {
        **{str(status): passes(fault(f"error-{status}", times=2)) for status in (408, 500, 502, 503, 504)},
        "of the API": passes(fault("error-503", times=2, path="api/*")),
    }),
    Row(14, "4xx", "stays: it is asked once, and a token is thought of", {
        **{str(status): permanent(status, "") for status in (404, 410, 451)},
        **{str(status): permanent(status, "The token was not accepted", host="hub") for status in (401, 403)},
        "404 of the storage": permanent(404, "", host="cdn"),
    }),
    Row(15, "page instead of file", "is told by its name", {
        "HTML": fails(fault("html-page"), said="HTML", todo=ASK),
        "LFS pointer": fails(fault("lfs-pointer"), said="Git LFS pointer", todo=ASK),
    }),
    Row(16, "redirect", "no token to another host, no way out of https, no circles", {
        "token": Case(network.a_token_stays_with_its_hub, HUBS),
        "loop": fails(fault("redirect-loop"), said="redirects more than", todo="Check the address"),
        "http": Case(network.https_is_not_left, HUBS),
    }),
    Row(17, "signed URL expires", "a new one is asked for", {
        "on the way": passes(fault("expired-url", times=1, after=LATE)),
        "at once": passes(fault("expired-url", times=1)),
    }),
    Row(18, "gzip", "an encoded file is refused", {
        "": fails(fault("gzip"), said="encoded as 'gzip'", todo="expected the file as it is"),
    }),
    Row(19, "TLS", "no certificate, no request", {
        "unknown authority": network.tls(trusted=False, said="CA"),
        "other name": network.tls("DNS:hub.example.com", trusted=True, said="CA"),
        "login page": fails(fault("html-page", path="*"), said="not JSON", todo="a login page answers", file="/api/"),
    }),
    Row(20, "DNS, IPv6", "is tried again, within bounds, at all addresses", {
        "no name": network.no_name,
        "black hole": network.black_hole,
        "other family": network.one_family_fails,
    }),
    Row(21, "other content", "the sum tells, and the next source serves", {
        "once": passes(fault("rotten-byte", times=1, after=LATE)),
        "one bit of an answer": passes(fault("flipped-bit", times=1, after=EARLY)),
        "always": fails(fault("rotten-byte", after=LATE), said="sha256", todo=ASK),
        "next mirror": network.another_mirror_goes_on,
        "all mirrors": network.the_last_mirror_is_told,
    }),
    Row(22, "proxy", "that of the environment, with its exceptions, and without its password in a message", {
        "used": network.a_proxy_is_used,
        "passed by": network.a_proxy_is_passed_by,
    }),
    # The disk and the process
    Row(23, "too little space", "an error with numbers, before the first byte of data", {
        "": disk.too_small,
    }),
    Row(24, "ENOSPC on the way", "what is there is kept, and goes on when there is room", {
        "": disk.full_on_the_way,
    }),
    Row(25, "short writes", "the rest is written too", {
        "": disk.short_writes,
    }),
    Row(26, "EIO", "is never a success", {
        "fdatasync": disk.disk_fails("fdatasync", errno.EIO, EIO),
        "fsync": disk.disk_fails("fsync", errno.EIO, EIO, after=0, todo=""),
        "pwrite": disk.disk_fails("pwrite", errno.EIO, EIO),
        "replace": disk.disk_fails("replace", errno.EIO, EIO),
    }),
    Row(27, "other errors", "are told by name", {
        "EDQUOT": disk.disk_fails("pwrite", errno.EDQUOT, "(EDQUOT)"),
        "EFBIG": disk.file_size_limit,
        "EROFS": disk.read_only,
        "EACCES": disk.not_allowed,
    }),
    Row(28, "SIGKILL", "old or new, nothing else; the next run goes on", {
        "": process.ended_by(signal.SIGKILL),
        "at any change": process.killed_at_any_change,
    }),
    Row(29, "SIGTERM", "ends quickly and not well; the next run goes on", {
        "": process.ended_by(signal.SIGTERM),
    }),
    Row(30, "power loss", "old or new, nothing else; the journal is behind the data", {
        "nothing before": process.the_power_fails(None),
        "old before": process.the_power_fails(OLD),
    }),
    Row(31, "state without data", "no more is believed than is there", {
        "missing": process.part_becomes(None),
        "shorter": process.part_becomes(b"short"),
        "longer": process.part_becomes(bytes(12_000_000)),
        "torn journal": process.journal_becomes('{"facts": {'),
        "empty journal": process.journal_becomes(""),
        "other journal": process.journal_becomes('{"facts": {"size": 1}, "safe": 9000000, "ranges": [[0, 9000000]]}'),
    }),
    Row(32, "data without state", "is taken over if it is the same, else kept unless the user wants", {
        "other": disk.unknown_origin,
        "equal": disk.adopted,
    }),
    Row(33, "two runs", "the second is told who is at it", {
        "": process.two_runs,
    }),
    Row(34, "two hosts", "double work, and nothing spoiled, where locks do not work", {
        "": process.two_hosts,
    }),
    Row(35, "stale lock", "there is none", {
        "": process.stale_lock,
    }),
    Row(36, "destination is no file", "stays as it is", {
        "link": disk.destination(lambda dest, other: dest.symlink_to(other), "a symbolic link"),
        "directory": disk.destination(lambda dest, _other: dest.mkdir(), "a directory"),
        "FIFO": disk.destination(lambda dest, _other: os.mkfifo(dest), "a special file"),
        "hard link": disk.hard_link,
        "link in the making": disk.part_is_a_link,
    }),
    Row(37, "names", "that lead elsewhere are refused before anything is done", {
        **{name: disk.listed_name(path) for name, path in disk.BAD_NAMES.items()},
        "not UTF-8": disk.listed_name(disk.NOT_UTF8, "did not answer as a hub does"),
        **{f"{name} in a manifest": disk.name_in_a_manifest(path) for name, path in disk.BAD_NAMES.items()},
        "newline in a manifest": disk.name_in_a_manifest(disk.BAD_NAMES["newline"], "is no line of a manifest"),
        "not UTF-8 in a manifest": disk.name_in_a_manifest(disk.NOT_UTF8, "is no manifest"),
    }),
    Row(38, "clock", "decides nothing", {
        "": process.wrong_clock,
    }),
    Row(39, "attributes", "are there before the name", {
        "": disk.attributes_before_the_name,
    }),
    Row(40, "zeros of full size", "size is no proof", {
        "with a journal": process.zeros(journal=True),
        "without": process.zeros(journal=False),
    }),
    # GGUF and merge
    Row(41, "no GGUF", "the field is named", {
        "": headers(
            "empty", "shorter than a header", "HEADER_BAD_MAGIC", "HEADER_BAD_VERSION_0", "HEADER_BAD_VERSION_1",
            "HEADER_BAD_VERSION_FUTURE", "big-endian",
        ),
    }),
    Row(42, "huge claims", "are held against the size of the file", {
        "": headers(
            "HEADER_BAD_N_KV", "HEADER_BAD_N_TENSORS", "key length 2^63", "array in an array", "array of 2^40 numbers"
        ),
        "bounded": model.hostile,
    }),
    Row(43, "keys", "the key is named", {
        "": headers("key not UTF-8", "KV_EMPTY_KEY", "KV_DUPLICATE_KEY", "KV_BAD_TYPE", "TENSORS_BAD_TYPE"),
    }),
    Row(44, "alignment", "is a power of two, and the same in all shards", {
        "": headers("alignment 0", "KV_BAD_ALIGN", "alignment 2^21", "KV_WRONG_TYPE_ALIGN"),
        "of a shard": second_shard(
            lambda parts: shard(parts[1], alignment=64), "the key 'general.alignment' differs"
        ),
    }),
    Row(45, "shapes", "are counted without overflow", {
        "": headers(
            "TENSORS_BAD_N_DIMS", "TENSORS_ZERO_DIM", "TENSORS_BAD_SHAPE", "TENSORS_NE_TOO_BIG",
            "TENSORS_NBYTES_TOO_BIG", "rows that are no blocks",
        ),
    }),
    Row(46, "layout", "tensors follow one another up to the end of the file", {
        "": headers("offset not aligned", "tensors out of order", "overlapping tensors", "TENSORS_BAD_OFFSET"),
        "one byte short": resized(-1),
        "bytes behind": resized(1000),
    }),
    Row(47, "set of shards", "the one that does not fit is named, before anything is written", {
        "missing": set_of_shards(lambda paths: paths[1].unlink(), "expected 3 shards", "Change the pattern"),
        "twice": set_of_shards(
            lambda paths: shutil.copy(paths[0], paths[1]), "is shard 1 of 3 by its metadata", "Give each shard once"
        ),
        "from zero": set_of_shards(
            model.counted_from_zero, "is not the name of a first shard", "expected NAME", "model-00000-of-00003.gguf"
        ),
        "other model": second_shard(
            lambda parts: shard(parts[1], build.key("general.name", build.STRING, "Other")),
            "the key 'general.name' differs",
        ),
        "other count": second_shard(lambda parts: shard(parts[1], count=4), "it is one of 4 shards"),
        "sum of tensors": second_shard(
            lambda parts: shard(parts[1][:1]), "have 5 tensors in all; expected 6", "one origin", "-00001-"
        ),
    }),
    Row(48, "twice", "a tensor has one home", {
        "": second_shard(lambda parts: shard(parts[0]), "has the tensor"),
    }),
    Row(49, "shard changes", "is noticed; nothing gets a name", {
        "content": shard_changes(
            lambda path: path.write_bytes(path.read_bytes()[::-1]), "was changed while it was used"
        ),
        "vanishes": shard_changes(lambda path: path.unlink(), "No such file or directory"),
        "at the hub": model.shard_changes_at_the_hub,
    }),
    Row(50, "short read", "is read on, and an early end is an error", {
        "": model.short_reads,
    }),
    Row(51, "output exists", "the same is no change; another is kept unless the user wants", {
        "": model.output_exists,
    }),
    Row(52, "shards are deleted", "by no merge; those of an earlier release when the file is there", {
        "never": model.shards_stay,
        "of an earlier release": model.shards_of_an_earlier_release,
    }),
]  # fmt: skip


def cases() -> Iterator[t.Any]:
    for row in ROWS:
        for variant, check in row.cases.items():
            case = check if isinstance(check, Case) else Case(check)
            for hub in case.hubs:
                words = [f"{row.number:02}", row.fault, variant, hub if len(case.hubs) > 1 else ""]
                yield pytest.param(case, hub, id="-".join(filter(None, words)).replace(" ", "-"))


@pytest.fixture
def bench(hub, published, tmp_path, token, monkeypatch, run_module, scripted):
    for scheme in ("http", "https", "no", "all"):
        for name in (f"{scheme}_proxy", f"{scheme}_PROXY".upper()):
            monkeypatch.delenv(name, raising=False)
    bench = Bench(hub, published, tmp_path, token, monkeypatch, run_module, scripted, "huggingface")
    monkeypatch.setattr(AnsibleModule, "warn", lambda _module, text, **_more: bench.warnings.append(text))
    return bench


@pytest.mark.parametrize(("case", "kind"), list(cases()))
def test_fault(bench, case, kind):
    bench.kind = kind
    case.run(bench)


def test_any_sequence_of_faults_ends_well(tmp_path):
    """A few of what tests/fuzz/test_fetch.py searches for long."""
    merged = publish(tmp_path)
    short = settings(max_examples=6, stateful_step_count=8, deadline=None, suppress_health_check=list(HealthCheck))
    with Hub(tmp_path) as one, Hub(tmp_path) as other, killer(gguf_fetch) as run:
        run_state_machine_as_test(lambda: Fetching(run, (one, other), merged), settings=short)


def test_all_52_faults_have_a_case():
    assert [row.number for row in ROWS if row.cases] == list(range(1, 53))
