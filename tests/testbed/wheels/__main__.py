# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""``python -m testbed.wheels``: serve an engine's wheels to hosts, or resolve its lock file anew."""

from __future__ import annotations

import argparse
import sys

from testbed import BedError, wheels


def main() -> int:
    """Run one command; 1 and one message on standard error if it fails."""
    parser = argparse.ArgumentParser(prog="python -m testbed.wheels", description=__doc__)
    parser.add_argument("command", choices=["up", "lock"])
    parser.add_argument("engine", choices=sorted(wheels.BUILDS))
    arguments = parser.parse_args()
    try:
        if arguments.command == "up":
            print(wheels.up(arguments.engine))
        else:
            wheels.lock(arguments.engine)
    except BedError as error:
        print(f"testbed.wheels: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
