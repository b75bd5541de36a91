# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""``python -m testbed``: build, start, show and remove the test bed."""

from __future__ import annotations

import argparse
import shutil
import sys
import time
from collections.abc import Callable

from testbed import BedError, apt_repository, hosts, images, ollama, wheels
from testbed.cache import cache_dir, size_of
from testbed.engine import LABEL, docker, ensure_engine, ensure_nginx

_HOSTS = ("node1", "node2")
_DESCRIPTION = """Simulated 8-GPU hosts in Docker, a model hub and a mirror for them. Without a Docker engine or an
image registry the bed starts an engine and makes the base images itself, for which it must be root on Debian or Ubuntu.
"""


def main() -> int:
    """Run one command; 1 and one message on standard error if it fails."""
    arguments = _parser().parse_args()
    try:
        arguments.command(arguments)
    except BedError as error:
        print(f"testbed: {error}", file=sys.stderr)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m testbed", description=_DESCRIPTION)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    build = commands.add_parser("build", help="make everything slow: engine, images, releases, packages, models")
    build.add_argument("--wheels", action="store_true", help="the wheels of vLLM and SGLang too, 3.4 GB")
    build.set_defaults(command=_build)

    up = commands.add_parser("up", help="start hosts and the hub, building what is missing")
    up.add_argument("names", nargs="*", default=_HOSTS, metavar="NAME", help=f"hosts (default: {' '.join(_HOSTS)})")
    up.add_argument("--image", choices=hosts.IMAGES, default=hosts.IMAGES[0], help="(default: %(default)s)")
    up.set_defaults(command=_up)

    down = commands.add_parser("down", help="remove hosts and what is on them, but nothing that was slow to make")
    down.add_argument("names", nargs="*", metavar="NAME", help="hosts (default: all, and the hub)")
    down.set_defaults(command=_down)

    show = commands.add_parser("list", help="show images, containers and the cache, with their sizes")
    show.set_defaults(command=_list)

    commit = commands.add_parser("commit", help="tell at which commit the running hub holds a repository")
    commit.add_argument("repository", metavar="OWNER/NAME")
    commit.set_defaults(command=_commit)

    key = commands.add_parser("key", help="tell the fingerprint of the key that signs the mirror's apt repositories")
    key.set_defaults(command=_key)

    remove = commands.add_parser("remove", help="remove everything that the bed made, except the engine")
    remove.set_defaults(command=_remove)
    return parser


def _build(arguments: argparse.Namespace) -> None:
    _step("engine", ensure_engine)
    for name in images.NAMES:
        _step(f"image {name}", images.ensure_image, name)
    _step("nginx", ensure_nginx)
    for version in ollama.VERSIONS:
        _step(f"Ollama {version}", ollama.ensure_release, version)
    _step("apt repositories", lambda: apt_repository.ensure().path)
    _step("models", hosts.models_dir)
    for engine in wheels.BUILDS if arguments.wheels else ():
        _step(f"wheels of {engine}", wheels.ensure, engine)


def _up(arguments: argparse.Namespace) -> None:
    _step("hub", hosts.up_hub)
    _step(f"hosts {', '.join(arguments.names)}", hosts.up, arguments.names, arguments.image)


def _down(arguments: argparse.Namespace) -> None:
    hosts.down(arguments.names or hosts.containers())


def _list(_arguments: argparse.Namespace) -> None:
    ensure_engine()
    own = f"--filter=label={LABEL}"
    for kind, command, columns in (
        ("images", "images --filter=dangling=false", "{{.Repository}}:{{.Tag}}\t{{.Size}}"),
        ("containers", "ps --all", "{{.Names}}\t{{.Image}}\t{{.Status}}"),
        ("networks", "network ls", "{{.Name}}"),
    ):
        print(f"{kind}:")
        for line in docker(*command.split(), own, f"--format={columns}").stdout.splitlines():
            print("  " + "  ".join(field.ljust(44) for field in line.split("\t")).rstrip())
    print(f"cache {cache_dir()}:")
    for path in sorted(cache_dir().iterdir()):
        print(f"  {path.name:44}  {size_of(path) / 1e6:.1f}MB")


def _commit(arguments: argparse.Namespace) -> None:
    print(hosts.hub_commit(arguments.repository))


def _key(_arguments: argparse.Namespace) -> None:
    print(apt_repository.ensure().fingerprint)


def _remove(_arguments: argparse.Namespace) -> None:
    ensure_engine()
    hosts.down(hosts.containers())
    hosts.remove_network()
    images.remove_all()
    shutil.rmtree(cache_dir())


def _step(what: str, make: Callable[..., object], *arguments: object) -> None:
    """Make a thing and tell what came of it and how long it took."""
    print(f"{what} ...", flush=True)
    start = time.monotonic()
    result = make(*arguments)
    print(f"{what}: {result or 'ready'} ({time.monotonic() - start:.1f} s)", flush=True)


if __name__ == "__main__":
    sys.exit(main())
