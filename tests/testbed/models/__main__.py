# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""``python -m testbed.models``: make the hub's models, or one model of any size."""

from __future__ import annotations

import argparse
import re
from pathlib import Path

from testbed import BedError
from testbed.models import TINY, ensure, make

_UNITS = {"MB": 10**6, "GB": 10**9}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m testbed.models", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("ensure", help="make the repositories that the bed's hub serves and print where they are")
    maker = commands.add_parser("make", help="make one GGUF model and print its files")
    maker.add_argument("--architecture", choices=("llama", "deepseek2"), default="deepseek2")
    maker.add_argument("--size", type=_bytes, default=TINY, help="of the weights, such as 128MB or 4GB (default 1MB)")
    maker.add_argument("--shards", type=int, default=1, help="split into this many files (default 1: not split)")
    maker.add_argument("--seed", type=int, default=0)
    maker.add_argument("--name", default="model", help="of the files, before their number (default: model)")
    maker.add_argument("--out", type=Path, required=True, metavar="DIR")
    options = vars(parser.parse_args())
    try:
        if options.pop("command") == "ensure":
            print(ensure())
        else:
            print(*make(options.pop("out"), options.pop("name"), **options), sep="\n")
    except (ValueError, BedError) as error:
        parser.error(str(error))


def _bytes(text: str) -> int:
    match = re.fullmatch(r"(\d+)(MB|GB)", text)
    if not match:
        raise argparse.ArgumentTypeError(f"{text!r}: expected a number with MB or GB, such as 128MB")
    return int(match[1]) * _UNITS[match[2]]


if __name__ == "__main__":
    main()
