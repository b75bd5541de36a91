# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""How containers reach the outside: the same way as this machine.

In many companies programs reach package indexes only through a proxy, an index of the company's, or a gateway that
opens TLS and signs with its own authority. This machine's environment then says so, and containers on it have no other
way out. Where the environment says nothing, containers get nothing: the bed is as it would be anywhere.

Proxies and indexes may hold passwords. So the command line names variables only (``--env=NAME``) and Docker takes their
values from its environment: pass `variables` or `proxies` to it.
"""

from __future__ import annotations

import os
from pathlib import Path

from testbed.engine import HUB, NETWORK

_INDEXES = ("PIP_INDEX_URL", "UV_DEFAULT_INDEX", "UV_INDEX_URL", "GOPROXY", "GOSUMDB")
# One is enough for each kind of program: OpenSSL, Go and uv; requests; pip.
_CA_VARIABLES = ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "PIP_CERT")
# Not the distribution's own bundle: a package script that renames a new one over it would fail on a mounted file.
_CA_IN_CONTAINER = "/etc/ssl/llmfleet-bed-ca.crt"


def proxies() -> dict[str, str]:
    """The proxy variables that are set here, in both spellings that programs look for."""
    names = ("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY")
    return {name: os.environ[name] for known in names for name in (known, known.lower()) if os.environ.get(name)}


def variables() -> dict[str, str]:
    """The variables that a container needs to reach the outside.

    What is on the bed's network is reached without a proxy: the hub, and hosts by their long names
    (``node1.llmfleet-bed``).
    """
    values = proxies()
    if values:
        direct = f"localhost,127.0.0.1,{HUB},.{NETWORK}"
        for name in ("NO_PROXY", "no_proxy"):
            values[name] = f"{values[name]},{direct}" if name in values else direct
    values |= {name: os.environ[name] for name in _INDEXES if os.environ.get(name)}
    if ca_bundle() is not None:
        values |= dict.fromkeys(_CA_VARIABLES, _CA_IN_CONTAINER)
    return values


def docker_options() -> list[str]:
    """Options of ``docker run`` that give a container `variables` and the authorities that this machine trusts.

    Docker's variables reach PID 1 and every command of ``docker exec``, so every task of Ansible; units get them by the
    host image's ``service.conf``.
    """
    options = [f"--env={name}" for name in variables()]
    bundle = ca_bundle()
    if bundle is not None:
        options.append(f"--volume={bundle}:{_CA_IN_CONTAINER}:ro")
    return options


def ca_bundle() -> Path | None:
    """The authorities that programs on this machine are told to trust, where the environment tells it."""
    set_here = (os.environ[name] for name in _CA_VARIABLES if os.environ.get(name))
    return next((Path(value).resolve() for value in set_here), None)
