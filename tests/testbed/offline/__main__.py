# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""``python -m testbed.offline``: a host that reaches the bed's mirror and hub only."""

from __future__ import annotations

import argparse
import sys

from testbed import BedError, hosts, offline


def main() -> int:
    """Run one command; 1 and one message on standard error if it fails."""
    parser = argparse.ArgumentParser(prog="python -m testbed.offline", description=offline.__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    up = commands.add_parser("up", help="start a new mirror and the host")
    up.add_argument("name", metavar="NAME", help="the host")
    up.add_argument("--image", choices=hosts.IMAGES, default=hosts.IMAGES[0], help="(default: %(default)s)")
    up.set_defaults(command=lambda arguments: offline.up(arguments.name, arguments.image))
    authority = commands.add_parser("authority", help="tell the file with the mirror's authority")
    authority.set_defaults(command=lambda _arguments: print(offline.authority()))
    arguments = parser.parse_args()
    try:
        arguments.command(arguments)
    except BedError as error:
        print(f"testbed: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
