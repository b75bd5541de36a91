# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""``python3 -m testbed.hub``: the hub as a server of its own."""

from __future__ import annotations

import argparse
import logging
import signal
from pathlib import Path

from testbed.hub.faults import KINDS
from testbed.hub.server import Hub


def main() -> None:
    """Serve until SIGINT or SIGTERM."""
    faults = "\n".join(f"  {name:20} {kind.meaning}" for name, kind in KINDS.items())
    parser = argparse.ArgumentParser(
        prog="python3 -m testbed.hub",
        description="A model hub for the test bed.",
        epilog=f"faults, set by POST /-/faults:\n{faults}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--root", type=Path, required=True, help="directory of <owner>/<name>/files")
    parser.add_argument("--mirror", type=Path, help="directory served under /mirror/")
    parser.add_argument("--host", default="0.0.0.0", help="address to listen on")  # noqa: S104
    parser.add_argument("--port", type=int, default=8000, help="port of both APIs")
    parser.add_argument("--cdn-port", type=int, default=8001, help="port of the storage that large files come from")
    parser.add_argument("--token", default="hf_bed_token", help="token that opens gated repositories")
    parser.add_argument("--url-seconds", type=float, default=3600.0, help="life of a signed URL")
    parser.add_argument("--page-size", type=int, default=1000, help="entries in one page of a Hugging Face tree")
    parser.add_argument("--list-cap", type=int, default=3000, help="entries at which a ModelScope list ends")
    parser.add_argument("--connection-rate", type=int, help="bytes per second that one connection gets at most")
    parser.add_argument("--certificate", type=Path, help="PEM file of key and certificate: both ports also take TLS")
    arguments = parser.parse_args()

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    # The threads that serve inherit the mask, so the signal waits for sigwait().
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    with Hub(**vars(arguments)) as hub:
        logging.info("hub %s, storage %s", hub.url, hub.cdn_url)
        signal.sigwait({signal.SIGINT, signal.SIGTERM})


if __name__ == "__main__":
    main()
