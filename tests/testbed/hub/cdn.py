# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The storage host behind both hubs: large files under signed URLs that expire."""

from __future__ import annotations

import hashlib
import hmac
import secrets
import time
from http import HTTPStatus
from urllib.parse import quote, urlencode, urlsplit

from testbed.hub.messages import Content, Reply, Request
from testbed.hub.repo import File, Repository, Store


class Cdn:
    """Signs URLs and answers them. `port` is where it listens, on the host name by which the client knows the hub:
    another port is another origin, so a client that hands its token on is caught."""

    def __init__(self, store: Store, port: int, url_seconds: float) -> None:
        self._store = store
        self._port = port
        self._url_seconds = url_seconds
        self._key = secrets.token_bytes()
        self._revoked: set[str] = set()

    def url(self, request: Request, repository: Repository, file: File) -> str:
        """Return a URL of `file` that is good for ``url_seconds``; every call gives another one."""
        path = f"/{repository.id}/{file.sha256}/{file.path}"
        expires, nonce = f"{time.time() + self._url_seconds:.3f}", secrets.token_hex(4)
        query = urlencode({"Expires": expires, "Nonce": nonce, "Signature": self._sign(path, expires, nonce)})
        return f"{request.scheme}://{urlsplit(request.origin).hostname}:{self._port}{quote(path)}?{query}"

    def revoke(self, request: Request) -> None:
        """Let the URL of this request have expired."""
        self._revoked.add(request.query["Nonce"])

    def answer(self, request: Request) -> Reply:
        """Answer GET and HEAD of a signed URL."""
        owner, name, sha256, *path = [*request.segments, "", "", ""]
        path = [segment for segment in path if segment]
        subject = "/".join([owner, name, *path])
        if not self._valid(request):
            return Reply(subject, _error("AccessDenied", "Request has expired"), HTTPStatus.FORBIDDEN, _XML)
        repository = self._store.repository(owner, name)
        file = repository.files.get("/".join(path)) if repository else None
        if file is None or file.sha256 != sha256:
            return Reply(subject, _error("NoSuchKey", "The object does not exist"), HTTPStatus.NOT_FOUND, _XML)
        # The storage's own ETag is not the file's hash, as on the real ones; ModelScope's storage adds the hash.
        content = Content(file.source, file.size, etag=f'"{file.sha256[:32]}"', pointer=file.pointer)
        return Reply(subject, content, headers={"X-Linked-ETag": file.sha256})

    def _valid(self, request: Request) -> bool:
        expires, nonce, signature = (request.query.get(name, "") for name in ("Expires", "Nonce", "Signature"))
        genuine = hmac.compare_digest(signature, self._sign(f"/{request.path}", expires, nonce))
        return genuine and float(expires) > time.time() and nonce not in self._revoked

    def _sign(self, path: str, expires: str, nonce: str) -> str:
        return hmac.new(self._key, f"{path}\n{expires}\n{nonce}".encode(), hashlib.sha256).hexdigest()


_XML = {"Content-Type": "application/xml"}


def _error(code: str, message: str) -> bytes:
    return f'<?xml version="1.0"?>\n<Error><Code>{code}</Code><Message>{message}</Message></Error>\n'.encode()
