# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The Hugging Face API, as far as downloading needs it (facts: huggingface_hub 2.4)."""

from __future__ import annotations

import datetime
import json
import typing as t
from http import HTTPStatus
from urllib.parse import parse_qs, quote, urlencode

from testbed.hub.cdn import Cdn
from testbed.hub.faults import Faults
from testbed.hub.messages import Content, Reply, Request
from testbed.hub.repo import BRANCHES, TAGS, Directory, File, Repository, Store

Json = dict[str, t.Any]


class _Refusal(Exception):
    """A request that is answered with an error; `code` is what the client picks its exception by."""

    def __init__(self, status: int, code: str, message: str, commit: str = "") -> None:
        super().__init__(message)
        self.status = status
        self.headers = {"X-Error-Code": code, "X-Error-Message": message.encode("ascii", "replace").decode()}
        if commit:
            self.headers["X-Repo-Commit"] = commit


class HuggingFace:
    """Answers ``/api/models/...`` and ``/<owner>/<name>/resolve/...``."""

    def __init__(self, store: Store, cdn: Cdn, faults: Faults, token: str, page_size: int) -> None:
        self._store = store
        self._cdn = cdn
        self._faults = faults
        self._token = token
        self._page_size = page_size

    def answer(self, request: Request) -> Reply | None:
        """Answer a request, or return None if it is not one of this API."""
        try:
            return self._route(request)
        except _Refusal as refusal:
            return Reply.json(_subject(request), {"error": str(refusal)}, refusal.status, refusal.headers)

    def _route(self, request: Request) -> Reply | None:
        match request.segments:
            case ("api", "models", owner, name):
                return self._info(request, self._repository(request, owner, name, BRANCHES[0]))
            case ("api", "models", owner, name, "refs"):
                return self._refs(request, self._repository(request, owner, name, BRANCHES[0]))
            case ("api", "models", owner, name, "revision", revision):
                return self._info(request, self._repository(request, owner, name, revision))
            case ("api", "models", owner, name, "tree", revision, *path):
                return self._tree(request, self._repository(request, owner, name, revision), "/".join(path))
            case ("api", "models", owner, name, "paths-info", revision):
                return self._paths_info(request, self._repository(request, owner, name, revision))
            case (owner, name, "resolve", revision, *path):
                return self._resolve(request, self._repository(request, owner, name, revision), "/".join(path))
        return None

    def _repository(self, request: Request, owner: str, name: str, revision: str) -> Repository:
        repository = self._store.repository(owner, name)
        if repository is None:
            # The real hub does not tell strangers whether a repository exists: without a token it asks for one.
            status = HTTPStatus.NOT_FOUND if request.token == self._token else HTTPStatus.UNAUTHORIZED
            raise _Refusal(status, "RepoNotFound", "Repository not found")
        if not repository.has_revision(revision):
            raise _Refusal(HTTPStatus.NOT_FOUND, "RevisionNotFound", f"Invalid rev id: {revision}")
        return repository

    def _info(self, request: Request, repository: Repository) -> Reply:
        blobs = request.query.get("blobs", "").lower() in ("1", "true")
        siblings = [self._sibling(repository, file, blobs) for file in repository.files.values()]
        info = {
            "id": repository.id,
            "modelId": repository.id,
            "author": repository.id.partition("/")[0],
            "sha": repository.commit,
            "private": False,
            "gated": "manual" if repository.gated else False,
            "disabled": False,
            "lastModified": _date(repository.modified),
            "createdAt": _date(repository.modified),
            "downloads": 0,
            "likes": 0,
            "tags": [],
            "siblings": siblings,
        }
        return Reply.json(_subject(request), info)

    def _sibling(self, repository: Repository, file: File, blobs: bool) -> Json:
        if not blobs:
            return {"rfilename": file.path}
        entry = self._entry(repository, file, expand=False)
        details: Json = {"rfilename": file.path, "size": entry["size"], "blobId": entry["oid"]}
        if file.lfs:
            lfs = entry["lfs"]
            details["lfs"] = {"sha256": lfs["oid"], "size": lfs["size"], "pointerSize": lfs["pointerSize"]}
        return details

    def _refs(self, request: Request, repository: Repository) -> Reply:
        def refs(kind: str, names: t.Iterable[str]) -> list[Json]:
            return [{"name": name, "ref": f"refs/{kind}/{name}", "targetCommit": repository.commit} for name in names]

        return Reply.json(
            _subject(request), {"branches": refs("heads", BRANCHES), "tags": refs("tags", TAGS), "converts": []}
        )

    def _tree(self, request: Request, repository: Repository, root: str) -> Reply:
        query = request.query
        entries = repository.below(root, recursive=query.get("recursive", "").lower() in ("1", "true"))
        if root and not entries:
            raise _not_found(repository, root)
        start = int(query.get("cursor", "0"))
        end = start + self._page_size
        expand = query.get("expand", "").lower() in ("1", "true")
        page = [self._entry(repository, entry, expand) for entry in entries[start:end]]
        if end >= len(entries):
            return Reply.json(_subject(request), page)
        path = "/".join(quote(segment, safe="") for segment in request.segments)
        link = f"{request.origin}/{path}?{urlencode({**query, 'cursor': end})}"
        return Reply.json(_subject(request), page, headers={"Link": f'<{link}>; rel="next"'})

    def _paths_info(self, request: Request, repository: Repository) -> Reply:
        if "json" in request.headers.get("content-type", ""):
            form = json.loads(request.body)
            paths, expand = form["paths"], bool(form.get("expand"))
        else:
            fields = parse_qs(request.body.decode())
            paths, expand = fields["paths"], fields.get("expand", [""])[0].lower() == "true"
        found = (repository.entries.get(path) for path in paths)
        return Reply.json(_subject(request), [self._entry(repository, entry, expand) for entry in found if entry])

    def _entry(self, repository: Repository, entry: Directory | File, expand: bool) -> Json:
        known: Json = {"type": "directory", "path": entry.path, "oid": entry.oid, "size": 0}
        if isinstance(entry, File):
            size = self._listed_size(repository, entry)
            known |= {"type": "file", "size": size}
            if entry.lfs:
                known["lfs"] = {"oid": entry.sha256, "size": size, "pointerSize": len(entry.pointer)}
        if expand:
            date = _date(repository.modified)
            known["lastCommit"] = {"id": repository.commit, "title": "Upload of the bed", "date": date}
        return known

    def _resolve(self, request: Request, repository: Repository, path: str) -> Reply:
        if repository.gated and request.token != self._token:
            status = HTTPStatus.FORBIDDEN if request.token else HTTPStatus.UNAUTHORIZED
            raise _Refusal(status, "GatedRepo", f"Access to model {repository.id} is restricted.")
        file = repository.files.get(path)
        if file is None:
            raise _not_found(repository, path)
        headers = {"X-Repo-Commit": repository.commit}
        if not file.lfs:
            return Reply(_subject(request), Content(file.source, file.size, f'"{file.oid}"'), headers=headers)
        headers |= {
            "X-Linked-Etag": f'"{file.sha256}"',
            "X-Linked-Size": str(self._listed_size(repository, file)),
            "ETag": f'"{file.sha256}"',
            "Location": self._cdn.url(request, repository, file),
            "Content-Type": "text/plain",
        }
        return Reply(_subject(request), b"Found. Redirecting.\n", HTTPStatus.FOUND, headers)

    def _listed_size(self, repository: Repository, file: File) -> int:
        return self._faults.listed_size(f"{repository.id}/{file.path}", file.size)


def _not_found(repository: Repository, path: str) -> _Refusal:
    return _Refusal(HTTPStatus.NOT_FOUND, "EntryNotFound", f"{path} does not exist", repository.commit)


def _subject(request: Request) -> str:
    match request.segments:
        case (owner, name, "resolve", _, *path):
            return "/".join([owner, name, *path])
    return request.path


def _date(seconds: float) -> str:
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC).strftime("%Y-%m-%dT%H:%M:%S.000Z")
