# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""``python -m testbed.options``: the lists in playbooks/stacks/options, and command lines for the real parsers."""

from __future__ import annotations

import argparse
import datetime
import functools
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from testbed import BedError
from testbed.options import RELEASES, Environment, Options, Release
from testbed.options.examples import command_lines
from testbed.options.texts import llama_server, ollama
from testbed.tools import tool

FOLDER = Path(__file__).parents[3] / "playbooks" / "stacks" / "options"
_LLAMA_CPP = "b11669"
_OLLAMA = ("0.5.11", "0.34.0")


def main() -> int:
    """Run one command; 1 and one message on standard error if it fails."""
    parser = argparse.ArgumentParser(prog="python -m testbed.options", description=__doc__)
    parser.add_argument("releases", nargs="*", metavar="ENGINE-VERSION", help="(default: all)")
    parser.add_argument(
        "--python", default="3.12", help="for the environments, as uv venv takes it (default: %(default)s)"
    )
    parser.add_argument(
        "--parse", action="store_true", help="write nothing; have the examples of docs/arguments.md parsed"
    )
    arguments = parser.parse_args()
    try:
        for name, run in _jobs(arguments.python, arguments.parse):
            if not arguments.releases or name in arguments.releases:
                print(f"{name}: {run()}", flush=True)
    except BedError as error:
        print(f"testbed.options: {error}", file=sys.stderr)
        return 1
    return 0


def _jobs(python: str, parse: bool) -> Iterator[tuple[str, Callable[[], str]]]:
    for release in RELEASES:
        yield f"{release.engine}-{release.version}", functools.partial(_with_parser, release, python, parse)
    if not parse:
        yield f"llama_cpp-{_LLAMA_CPP}", _llama_cpp
        for version in _OLLAMA:
            yield f"ollama-{version}", functools.partial(_ollama, version)


def _with_parser(release: Release, python: str, parse: bool) -> str:
    with tempfile.TemporaryDirectory(prefix="llmfleet-options-") as folder:
        environment = Environment(release, Path(folder) / "env", python)
        if parse:
            return _parse(release, environment)
        way = f"the parser of the wheel {release.requirement}, asked"
        return _write(release.engine, release.version, way, environment.options())


def _parse(release: Release, environment: Environment) -> str:
    lines = list(command_lines(release.engine, release.version))
    environment.parse(lines)
    return f"{len(lines)} command lines parsed"


def _llama_cpp() -> str:
    with tempfile.TemporaryDirectory() as folder:
        version = tool(Path(folder), "llama-server", "--version").stderr
        if f"build {_LLAMA_CPP[1:]}," not in version:
            raise BedError(f"llama-server is expected to be {_LLAMA_CPP}; found {version.strip()}.")
        text = tool(Path(folder), "llama-server", "--help").stdout
    way = "llama-server --help of Debian testing's llama.cpp-tools"
    return _write("llama_cpp", _LLAMA_CPP, way, llama_server(text))


def _ollama(version: str) -> str:
    module = f"github.com/ollama/ollama@v{version}"
    result = subprocess.run(["go", "mod", "download", "-json", module], capture_output=True, text=True, check=False)
    answer = json.loads(result.stdout or "{}")
    if "Dir" not in answer:
        raise BedError(f"{module}: {answer.get('Error') or result.stderr.strip()}")
    way = f"api/types.go and envconfig/config.go of the Go module {module}"
    return _write("ollama", version, way, ollama(Path(answer["Dir"])))


def _write(engine: str, version: str, way: str, options: Options) -> str:
    """One line an option, so that a difference shows."""
    made = datetime.date.today().isoformat()
    head = {"engine": engine, "version": version, "made": made, "from": way}
    lines = ",\n".join(f"  {json.dumps(name)}: {json.dumps(options[name])}" for name in sorted(options))
    path = FOLDER / f"{engine}-{version}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(f'{json.dumps(head)[:-1]}, "options": {{\n{lines}\n}}}}\n')
    return f"{len(options)} options"


if __name__ == "__main__":
    sys.exit(main())
