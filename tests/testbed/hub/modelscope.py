# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The ModelScope API, as far as downloading needs it (facts: modelscope_hub 0.5).

Every answer of the API is an envelope. An unknown repository or file also has HTTP status 404; an unknown revision of
a listing is an error inside HTTP 200, which a client that looks at the status alone takes for an empty repository.
"""

from __future__ import annotations

import typing as t
import uuid
from http import HTTPStatus

from testbed.hub.cdn import Cdn
from testbed.hub.faults import Faults
from testbed.hub.messages import Content, Reply, Request
from testbed.hub.repo import BRANCHES, TAGS, Directory, File, Repository, Store

NOT_FOUND_CODE = 10010205001
FORBIDDEN_CODE = 10010204001

Json = dict[str, t.Any]


class _Refusal(Exception):
    """A request that is answered with an error envelope."""

    def __init__(self, status: int, code: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code


class ModelScope:
    """Answers ``/api/v1/models/...``."""

    def __init__(self, store: Store, cdn: Cdn, faults: Faults, token: str, list_cap: int) -> None:
        self._store = store
        self._cdn = cdn
        self._faults = faults
        self._token = token
        self._list_cap = list_cap

    def answer(self, request: Request) -> Reply | None:
        """Answer a request, or return None if it is not one of this API."""
        try:
            return self._route(request)
        except _Refusal as refusal:
            return _envelope(_subject(request), None, refusal.status, refusal.code, str(refusal))

    def _route(self, request: Request) -> Reply | None:
        match request.segments:
            case ("api", "v1", "models", owner, name):
                return self._info(request, self._repository(owner, name))
            case ("api", "v1", "models", owner, name, "revisions"):
                return self._revisions(request, self._repository(owner, name))
            case ("api", "v1", "models", owner, name, "repo", "files"):
                return self._files(request, self._repository(owner, name))
            case ("api", "v1", "models", owner, name, "repo"):
                return self._download(request, self._repository(owner, name))
        return None

    def _repository(self, owner: str, name: str) -> Repository:
        repository = self._store.repository(owner, name)
        if repository is None:
            raise _Refusal(HTTPStatus.NOT_FOUND, NOT_FOUND_CODE, f"Record {owner}/{name} not found")
        return repository

    def _info(self, request: Request, repository: Repository) -> Reply:
        owner, name = repository.id.split("/")
        times = {"CreatedTime": int(repository.modified), "LastUpdatedTime": int(repository.modified)}
        return _envelope(request.path, {"Path": owner, "Name": name, "Revision": BRANCHES[1], "Visibility": 5, **times})

    def _revisions(self, request: Request, repository: Repository) -> Reply:
        created = int(repository.modified)
        branches, tags = (
            [{"Revision": name, "CommitId": repository.commit, "CreatedAt": created} for name in names]
            for names in ((BRANCHES[1],), TAGS)
        )
        return _envelope(request.path, {"RevisionMap": {"Branches": branches, "Tags": tags}})

    def _files(self, request: Request, repository: Repository) -> Reply:
        query = request.query
        self._check_revision(request, repository, HTTPStatus.OK)
        root = query.get("Root", "").strip("/")
        entries = repository.below(root, recursive=query.get("Recursive", "").lower() == "true")
        if root and not entries:
            raise _Refusal(HTTPStatus.NOT_FOUND, NOT_FOUND_CODE, f"Directory {root} not found")
        # The real list ends at 3000 entries without a word.
        files = [self._entry(repository, entry) for entry in entries[: self._list_cap]]
        return _envelope(request.path, {"Files": files})

    def _entry(self, repository: Repository, entry: Directory | File) -> Json:
        known: Json = {
            "Name": entry.path.rpartition("/")[2],
            "Path": entry.path,
            "Revision": repository.commit,
            "CommittedDate": int(repository.modified),
            "Id": entry.oid,
        }
        if isinstance(entry, Directory):
            return {**known, "Type": "tree", "Mode": "40000", "Size": 0, "Sha256": "", "IsLFS": False}
        size = self._faults.listed_size(f"{repository.id}/{entry.path}", entry.size)
        blob = {"Type": "blob", "Mode": "33188", "Size": size, "Sha256": entry.sha256, "IsLFS": entry.lfs}
        return {**known, **blob}

    def _download(self, request: Request, repository: Repository) -> Reply:
        if repository.gated and request.token != self._token:
            raise _Refusal(HTTPStatus.FORBIDDEN, FORBIDDEN_CODE, f"No permission to read {repository.id}")
        self._check_revision(request, repository, HTTPStatus.NOT_FOUND)
        file = repository.files.get(request.query.get("FilePath", ""))
        if file is None:
            raise _Refusal(HTTPStatus.NOT_FOUND, NOT_FOUND_CODE, f"File {request.query.get('FilePath')} not found")
        if file.lfs:
            return Reply(
                _subject(request),
                status=HTTPStatus.FOUND,
                headers={"Location": self._cdn.url(request, repository, file)},
            )
        # Small files come from the hub itself, which ignores Range.
        return Reply(_subject(request), Content(file.source, file.size, f'"{file.oid}"', ranges=False))

    def _check_revision(self, request: Request, repository: Repository, status: int) -> None:
        revision = request.query.get("Revision", BRANCHES[1])
        if not repository.has_revision(revision):
            raise _Refusal(status, NOT_FOUND_CODE, f"Revision {revision} not found")


def _subject(request: Request) -> str:
    """Return ``owner/name/file`` for a download, or else the path of the URL."""
    match request.segments:
        case ("api", "v1", "models", owner, name, "repo"):
            return f"{owner}/{name}/{request.query.get('FilePath', '')}"
    return request.path


def _envelope(
    subject: str, data: Json | None, status: int = HTTPStatus.OK, code: int = HTTPStatus.OK, message: str = "success"
) -> Reply:
    body = {
        "Code": code,
        "Data": data,
        "Message": message,
        "RequestId": str(uuid.uuid4()),
        "Success": code == HTTPStatus.OK,
    }
    return Reply.json(subject, body, status)
