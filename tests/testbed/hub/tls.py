# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A certificate authority for an afternoon, made by the ``openssl`` command."""

from __future__ import annotations

import subprocess
import typing as t
from pathlib import Path


class Certificates(t.NamedTuple):
    """`authority` is what clients have to trust (``REQUESTS_CA_BUNDLE``); `server` is key and certificate for `Hub`."""

    authority: Path
    server: Path


def make_certificates(folder: Path, names: t.Sequence[str] = ("DNS:localhost", "IP:127.0.0.1")) -> Certificates:
    """Make an authority, and a certificate of it for a server of these names, in an existing folder."""
    authority, authority_key, request, key, signed, server, extension = (
        folder / name for name in ("ca.pem", "ca.key", "hub.csr", "hub.key", "hub.crt", "hub.pem", "hub.ext")
    )
    extension.write_text(f"subjectAltName={','.join(names)}\n")
    new = ("req", "-newkey", "rsa:2048", "-nodes", "-sha256")
    trusted = ("-x509", "-days", "2", "-subj", "/CN=CA of the bed", "-addext", "keyUsage=critical,keyCertSign")
    _openssl(*new, *trusted, "-keyout", authority_key, "-out", authority)
    _openssl(*new, "-subj", "/CN=hub of the bed", "-keyout", key, "-out", request)
    issuer = ("-CA", authority, "-CAkey", authority_key, "-CAcreateserial")
    _openssl("x509", "-req", "-sha256", "-days", "2", *issuer, "-extfile", extension, "-in", request, "-out", signed)
    server.write_bytes(key.read_bytes() + signed.read_bytes())
    return Certificates(authority, server)


def _openssl(*arguments: str | Path) -> None:
    subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True)
