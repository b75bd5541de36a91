# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Merge the shards of one model with `llama-gguf-split --merge` and with ours, and compare time, memory and bytes.

    PYTHONPATH=tests .venv/bin/python tests/bench/merge.py --size 4G

Both work on the same files in the same file system, in turns: the real tool in a container of the test bed, ours as a
process of its own. Neither figure holds the start of a container. `written` ends when all bytes are handed to the
kernel, which is where the real tool ends; `on disk` when they are synchronised, which the real tool leaves to others:
fsync(2) is called on its result. Each figure is the median of all rounds. Cold means that the shards are not in the
page cache; only pages of the benchmark's own files are dropped. The exit code is 1 when the bytes differ.
"""

from __future__ import annotations

import dataclasses
import functools
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from bench._harness import (
    Model,
    Rows,
    Running,
    Sample,
    arguments,
    gguf_split,
    in_turns,
    machine,
    median,
    sha256_of,
    show,
    synchronise,
    workspace,
)
from bench._harness import model as model_of
from testbed import BedError

REFERENCE = "llama-gguf-split"

# A whole process as the module is one: interpreter, imports, headers, merge, synchronisation, rename and record.
OURS = """
import sys, time
from pathlib import Path
from ansible_collections.llmfleet.serving.plugins.module_utils._gguf_files import LocalMerge

LocalMerge([Path(sys.argv[1])], Path(sys.argv[2])).write(finish=lambda stage: print(time.time()))
"""

Merge = Callable[[Path, Path], Sample]


def ours(first: Path, dest: Path) -> Sample:
    log = dest.with_name("log")
    log.unlink(missing_ok=True)
    start = time.time()
    with Running([sys.executable, "-c", OURS, first, dest], dest.parent) as running:
        sample = running.wait()
    return dataclasses.replace(sample, seconds=float(log.read_text()) - start)


def chill(shards: Sequence[Path]) -> None:
    """Put the shards out of the page cache."""
    synchronise(shards)
    for path in shards:
        with path.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def warm(shards: Sequence[Path]) -> None:
    for path in shards:
        sha256_of(path)


def run(model: Model, folder: Path, prepare: Callable[[Sequence[Path]], None], merge: Merge) -> Sample:
    """Merge once, and look at every byte of the result.

    :raises BedError: when they are not the real tool's.
    """
    dest = folder / "merged.gguf"
    prepare(model.shards)
    sample = merge(model.shards[0], dest)
    if sha256_of(dest) != model.sha256:
        raise BedError(f"{dest} has other bytes than what llama-gguf-split makes.")
    dest.unlink()
    return sample


def rows(cache: str, samples: dict[str, list[Sample]]) -> Rows:
    """Medians; the columns with x are times as parts of the real tool's."""
    base = samples[REFERENCE]
    return [
        {
            "page cache": cache,
            "program": name,
            "written, s": median(runs, "seconds"),
            "x": median(runs, "seconds") / median(base, "seconds"),
            "on disk, s": median(runs, "on_disk"),
            "x on disk": median(runs, "on_disk") / median(base, "on_disk"),
            "peak memory, MiB": median(runs, "peak_memory") / 2**20,
        }
        for name, runs in samples.items()
    ]


def main() -> None:
    options = arguments("Compare our merge with llama-gguf-split --merge.").parse_args()
    model = model_of(options.size, options.shards)
    with workspace(options.folder) as folder, gguf_split(folder, model.root) as tool:
        facts, found = machine(folder), []
        for cache, prepare in (("cold", chill), ("warm", warm)):
            merges = {REFERENCE: tool.merge, "gguf_merge": ours}
            ways = {name: functools.partial(run, model, folder, prepare, merge) for name, merge in merges.items()}
            found += rows(cache, in_turns(ways, options.rounds))
    print(f"{options.size / 1e9:g} GB in {options.shards} shards; median of {options.rounds}; all bytes equal")
    print(f"llama-gguf-split {tool.version}; {facts}")
    show("Merging shards", found)


if __name__ == "__main__":
    try:
        main()
    except BedError as error:
        sys.exit(f"merge: {error}")
