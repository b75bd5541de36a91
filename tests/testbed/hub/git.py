# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Repositories as git and git-lfs fetch them: loose objects by the "dumb" protocol, large files by the batch API.

Facts: gitprotocol-http(5), gitformat-loose(5), and docs/api/batch.md of git-lfs 3.
"""

from __future__ import annotations

import base64
import json
import zlib
from http import HTTPStatus

from testbed.hub.cdn import Cdn
from testbed.hub.messages import Reply, Request
from testbed.hub.repo import BRANCHES, TAGS, Repository, Store

LFS_TYPE = {"Content-Type": "application/vnd.git-lfs+json"}
URL_SECONDS = 3600


class Git:
    """Answers ``/<owner>/<name>[.git]/...`` as a static web server with a bare repository does, and git-lfs."""

    def __init__(self, store: Store, cdn: Cdn, token: str) -> None:
        self._store = store
        self._cdn = cdn
        self._token = token

    def answer(self, request: Request) -> Reply | None:
        """Answer a request, or return None if it is not one of git."""
        owner, name, *path = [*request.segments, "", ""]
        repository = self._store.repository(owner, name.removesuffix(".git"))
        if repository is None:
            return None
        match request.method, [segment for segment in path if segment]:
            case "GET", ["HEAD"]:
                found = f"ref: refs/heads/{BRANCHES[0]}\n".encode()
            case "GET", ["info", "refs"]:
                found = _references(repository)
            case "GET", ["objects", start, rest] if start + rest in repository.snapshot.objects:
                found = zlib.compress(repository.snapshot.objects[start + rest]())
            case "POST", ["info", "lfs", "objects", "batch"]:
                found = self._batch(request, repository)
            case _:
                return None
        if repository.gated and _password(request) != self._token:
            challenge = {"WWW-Authenticate": 'Basic realm="the bed"'}
            return Reply(request.path, b"A token is needed.\n", HTTPStatus.UNAUTHORIZED, challenge)
        headers = LFS_TYPE if request.method == "POST" else {"Content-Type": "text/plain"}
        return Reply(request.path, found, headers=headers)

    def _batch(self, request: Request, repository: Repository) -> bytes:
        large = {file.sha256: file for file in repository.files.values() if file.lfs}
        objects = []
        for wanted in json.loads(request.body)["objects"]:
            file = large.get(wanted["oid"])
            if file is None:
                told = {"error": {"code": int(HTTPStatus.NOT_FOUND), "message": "Object does not exist"}}
            else:
                link = {"href": self._cdn.url(request, repository, file), "expires_in": URL_SECONDS}
                told = {"authenticated": True, "actions": {"download": link}}
            objects.append({"oid": wanted["oid"], "size": wanted["size"], **told})
        return json.dumps({"transfer": "basic", "objects": objects, "hash_algo": "sha256"}).encode()


def _references(repository: Repository) -> bytes:
    names = [*(f"refs/heads/{name}" for name in BRANCHES), *(f"refs/tags/{name}" for name in TAGS)]
    return "".join(f"{repository.commit}\t{name}\n" for name in names).encode()


def _password(request: Request) -> str | None:
    """The token as git sends it: the password of Basic authentication."""
    scheme, _dummy, value = request.headers.get("authorization", "").partition(" ")
    return base64.b64decode(value).decode().partition(":")[2] if scheme == "Basic" else request.token
