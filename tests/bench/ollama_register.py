# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What it costs to make a local GGUF file a model of Ollama: `ollama create` against the module ollama_model.

Both register the same file in the same empty server, in turns; the file is in the page cache. Seconds are those of the
command, process start included. Bytes are those that the server and the command wrote to disk, as the kernel counts
them. Run it with the development environment's Python and ``tests`` on PYTHONPATH.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from testbed.engine import docker
from testbed.models import make
from testbed.ollama_server import OllamaServer, serve

MODULE = "ansible_collections.llmfleet.serving.plugins.modules.ollama_model"
NAME = "bench"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mb", type=int, default=256, help="size of the model in 10^6 bytes")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--version", default="0.5.11", help="release of Ollama")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        [src] = make(folder / "models", NAME, architecture="llama", size=options.mb * 1_000_000)
        with serve(options.version, folder) as server:
            ways = {
                "ollama create": lambda: create(server, src),
                "ollama_model, file not yet hashed": lambda: register(server, src, recorded=False),
                "ollama_model, sha256 on record": lambda: register(server, src, recorded=True),
            }
            rounds = [{way: measure(server, run) for way, run in ways.items()} for _dummy in range(options.rounds)]
    print(f"Ollama {options.version}, model of {options.mb} MB, medians of {options.rounds}")
    print(f"{'way':36}{'seconds':>10}{'bytes written':>16}")
    for way in ways:
        seconds, written = (statistics.median(column) for column in zip(*(found[way] for found in rounds), strict=True))
        print(f"{way:36}{seconds:10.2f}{written:16,.0f}")


def create(server: OllamaServer, src: Path) -> None:
    modelfile = src.with_name("Modelfile")
    modelfile.write_text(f"FROM {src}\nPARAMETER num_ctx 512\n")
    server.command("create", NAME, "--file", str(modelfile))


def register(server: OllamaServer, src: Path, *, recorded: bool) -> None:
    """Run the module as Ansible does on a host."""
    if not recorded:
        src.with_name(f".{src.name}.llmfleet.json").unlink(missing_ok=True)
    arguments = {
        "name": NAME,
        "src": str(src),
        "models_dir": str(server.models_dir),
        "url": server.url,
        "parameters": {"num_ctx": 512},
    }
    payload = json.dumps({"ANSIBLE_MODULE_ARGS": arguments})
    run = subprocess.run([sys.executable, "-m", MODULE], input=payload, capture_output=True, text=True, check=True)
    assert json.loads(run.stdout)["changed"], run.stdout


def measure(server: OllamaServer, run: Callable[[], None]) -> tuple[float, int]:
    """Seconds and bytes of one registration; the model is removed again."""
    os.sync()
    before = written_by(server)
    start = time.perf_counter()
    run()
    seconds = time.perf_counter() - start
    os.sync()
    written = written_by(server) - before
    server.command("rm", NAME)
    return seconds, written


def written_by(server: OllamaServer) -> int:
    """Bytes that the server, this program's commands, and what either has started and ended, have written."""
    pids = docker("top", server.container, "-o", "pid").stdout.split()[1:]
    counts = [Path("/proc", pid, "io").read_text().split() for pid in pids]
    served = sum(int(words[words.index("write_bytes:") + 1]) for words in counts)
    # The kernel counts in blocks of 512 bytes here, whatever the file system's are.
    return served + resource.getrusage(resource.RUSAGE_CHILDREN).ru_oublock * 512


if __name__ == "__main__":
    main()
