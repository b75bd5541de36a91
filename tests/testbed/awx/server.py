# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The HTTP side of the stand-in: addresses, methods, lists, OPTIONS, tokens."""

from __future__ import annotations

import base64
import http.server
import json
import secrets
import threading
import typing as t
import urllib.parse

from testbed.awx.rules import survey
from testbed.awx.store import RESOURCES, UNIFIED, Object, RefusedError, Store

API = "/api/v2/"
# The version whose modules of awx.awx are tested.
VERSION = "24.6.1"
_PAGE = 25
Answer = tuple[int, t.Any]


class Awx:
    """An AWX that serves while it is open.

    `playbooks` is what its projects hold. `requests` are method and path of what has been asked, in order.
    """

    def __init__(self, playbooks: list[str]) -> None:
        self.store = Store(playbooks)
        self.username, self.password, self.token = "admin", secrets.token_hex(16), secrets.token_hex(16)
        self.requests: list[tuple[str, str]] = []
        self.lock = threading.Lock()
        self._surveys: dict[int, t.Any] = {}
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), type("_Bound", (_Handler,), {"awx": self}))

    def __enter__(self) -> Awx:
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *_exception: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    @property
    def environment(self) -> dict[str, str]:
        """What tells awx.awx and awxkit where it is."""
        return {"CONTROLLER_HOST": self.url, "CONTROLLER_OAUTH_TOKEN": self.token, "CONTROLLER_VERIFY_SSL": "false"}

    def answer(self, method: str, path: str, query: list[tuple[str, str]], body: t.Any) -> Answer:
        """Status and body for a request to what lies below /api/v2/."""
        words = path.strip("/").split("/")
        kind = words[0]
        if kind not in (*RESOURCES, UNIFIED):
            return self._besides(method, words)
        match words[1:]:
            case []:
                return self._list(method, kind, query, body)
            case [number] if number.isdigit():
                return self._one(method, kind, int(number), body)
            case [named] if named.count("++") == 1:
                return self._named(method, kind, named, body)
            case [number, part] if number.isdigit():
                return self._part(method, *self.store.find(kind, int(number)), part, body)
        raise RefusedError(404, {"detail": "The requested resource could not be found."})

    def _besides(self, method: str, words: list[str]) -> Answer:
        """What is no list of objects."""
        match words:
            case [""]:
                return 200, {kind if kind != "inventories" else "inventory": f"{API}{kind}/" for kind in RESOURCES}
            case ["tokens"] if method == "POST":
                return 201, {"id": 1, "token": self.token, "type": "o_auth2_access_token"}
            case ["tokens", _]:
                return 204, None
            case ["project_updates", number]:
                return 200, {"id": int(number), "status": "successful", "failed": False}
        raise RefusedError(404, {"detail": "The requested resource could not be found."})

    def _named(self, method: str, kind: str, named: str, body: t.Any) -> Answer:
        """An object by its name and its organization's."""
        name, _plus, organization = named.partition("++")
        for thing in self.store.search(kind, [("name", name), ("organization__name", organization)]):
            return self._one(method, kind, thing["id"], body)
        raise RefusedError(404, {"detail": "Not found."})

    def _list(self, method: str, kind: str, query: list[tuple[str, str]], body: t.Any) -> Answer:
        if method == "POST" and kind in RESOURCES and not RESOURCES[kind].get("hidden"):
            return 201, self._shown(kind, self.store.create(kind, body), fresh=True)
        if method == "OPTIONS":
            return 200, self._options(kind)
        if method != "GET":
            raise RefusedError(405, {"detail": f'Method "{method}" not allowed.'})
        asked = dict(query)
        found = [self._shown(self._kind(thing), thing) for thing in self.store.search(kind, query)]
        page, size = int(asked.get("page", 1)), int(asked.get("page_size", _PAGE))
        more = urllib.parse.urlencode({**asked, "page": page + 1})
        return 200, {
            "count": len(found),
            "next": f"{API}{kind}/?{more}" if page * size < len(found) else None,
            "previous": None,
            "results": found[(page - 1) * size : page * size],
        }

    def _one(self, method: str, kind: str, number: int, body: t.Any) -> Answer:
        kind, thing = self.store.find(kind, number)
        match method:
            case "GET":
                return 200, self._shown(kind, thing)
            case "PATCH":
                return 200, self._shown(kind, self.store.update(kind, number, body))
            case "DELETE":
                self.store.delete(kind, number)
                return (202 if kind == "inventories" else 204), {}
            case "OPTIONS":
                return 200, self._options(kind)
        raise RefusedError(405, {"detail": f'Method "{method}" not allowed.'})

    def _part(self, method: str, kind: str, thing: Object, part: str, body: t.Any) -> Answer:
        entry = RESOURCES[kind]
        if part in entry.get("associations", {}):
            return self._association(method, thing, part, entry["associations"][part], body)
        if part == "survey_spec" and entry.get("survey"):
            return self._survey(method, thing["id"], body)
        if part == "create_approval_template" and kind == "workflow_job_template_nodes":
            return self._approval(method, thing, body)
        listed = {"schedules": "unified_job_template", "workflow_nodes": "workflow_job_template"}
        if part in listed and part in _lists(kind):
            target = "schedules" if part == "schedules" else "workflow_job_template_nodes"
            return self._list(method, target, [(listed[part], str(thing["id"]))], body)
        raise RefusedError(404, {"detail": "Not found."})

    def _association(self, method: str, thing: Object, part: str, kind: str, body: t.Any) -> Answer:
        if method == "OPTIONS":
            return 200, {"name": part, "actions": {"POST": {"id": {"type": "integer", "required": False}}}}
        if method == "POST":
            if not isinstance(body, dict) or not isinstance(body.get("id"), int):
                raise RefusedError(400, {"msg": '"id" field must be an integer.'})
            if not body.keys() <= {"id", "associate", "disassociate"}:
                raise RefusedError(400, {name: ["This field is unknown."] for name in body})
            self.store.find(kind, body["id"])
            if body.get("disassociate"):
                thing[part].remove(body["id"])
            elif body["id"] not in thing[part]:
                thing[part].append(body["id"])
            return 204, None
        things = [self.store.find(kind, number)[1] for number in thing[part]]
        results = [self._shown(kind, other) for other in things]
        return 200, {"count": len(results), "next": None, "previous": None, "results": results}

    def _survey(self, method: str, number: int, body: t.Any) -> Answer:
        match method:
            case "OPTIONS":
                return 200, {"name": "Survey", "actions": {"POST": {}}}
            case "POST":
                if problem := survey(body):
                    raise RefusedError(400, {"error": problem})
                self._surveys[number] = body
                return 200, {}
            case "DELETE":
                self._surveys.pop(number, None)
                return 200, {}
        return 200, self._surveys.get(number, {})

    def _approval(self, method: str, node: Object, body: t.Any) -> Answer:
        kind = "workflow_approval_templates"
        if method == "OPTIONS":
            return 200, self._options(kind)
        made = self.store.create(kind, body)
        node[UNIFIED[:-1]] = made["id"]
        return 201, self._shown(kind, made)

    def _kind(self, thing: Object) -> str:
        return next(kind for kind in RESOURCES if self.store.objects[kind].get(thing["id"]) is thing)

    def _options(self, kind: str) -> t.Any:
        fields = RESOURCES[kind]["fields"] if kind in RESOURCES else {}
        post = {
            name: {"type": field["type"], "required": bool(field.get("required"))}
            for name, field in fields.items()
            if not field.get("read_only")
        }
        return {"name": kind, "description": "", "actions": {"POST": post}, "search_fields": ["name", "description"]}

    def _shown(self, kind: str, thing: Object, fresh: bool = False) -> Object:
        """An object as AWX answers it."""
        entry = RESOURCES[kind]
        url = f"{API}{kind}/{thing['id']}/"
        related = {name: f"{url}{name}/" for name in (*entry.get("associations", {}), *_lists(kind))}
        shown = {"id": thing["id"], "type": entry["type"], "url": url, "summary_fields": {}}
        for name, field in entry["fields"].items():
            shown[name] = thing[name]
            if field["type"] == "id" and thing[name] is not None:
                target = self.store.find(field["to"], thing[name])[0]
                related[name] = f"{API}{target}/{thing[name]}/"
            if field.get("secret"):
                shown[name] = dict.fromkeys(thing[name], "$encrypted$")
        if kind == "projects":
            # AWX fetches a new project at once.
            shown["scm_revision"] = "0" * 40
            shown["summary_fields"] = {"current_update": {"id": thing["id"]}} if fresh else {}
        return {**shown, "related": related}


def _lists(kind: str) -> list[str]:
    """Addresses below an object that are no associations."""
    entry = RESOURCES[kind]
    names = ["schedules"] if entry.get("unified") and not entry.get("hidden") else []
    names += ["survey_spec"] if entry.get("survey") else []
    names += ["workflow_nodes"] if kind == "workflow_job_templates" else []
    return names + (["create_approval_template"] if kind == "workflow_job_template_nodes" else [])


class _Handler(http.server.BaseHTTPRequestHandler):
    """One connection."""

    awx: t.ClassVar[Awx]
    protocol_version = "HTTP/1.1"

    def _serve(self) -> None:
        address = urllib.parse.urlsplit(self.path)
        path = urllib.parse.unquote(address.path).replace(f"{API}inventory/", f"{API}inventories/")
        raw = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        with self.awx.lock:
            self.awx.requests.append((self.command, path))
            try:
                status, answer = self._answer(path, urllib.parse.parse_qsl(address.query), raw)
            except RefusedError as refused:
                status, answer = refused.status, refused.body
        self._send(status, answer)

    def _answer(self, path: str, query: list[tuple[str, str]], raw: bytes) -> Answer:
        if path == "/api/":
            return 200, {"current_version": API, "available_versions": {"v2": API}}
        if not path.startswith(API):
            raise RefusedError(404, {"detail": "Not found."})
        if path != API and not self._may():
            raise RefusedError(401, {"detail": "Authentication credentials were not provided."})
        try:
            body = json.loads(raw) if raw else {}
        except ValueError as exc:
            raise RefusedError(400, {"detail": f"JSON parse error - {exc}"}) from exc
        return self.awx.answer(self.command, path[len(API) :], query, body)

    def _may(self) -> bool:
        given = self.headers.get("Authorization", "")
        basic = base64.b64encode(f"{self.awx.username}:{self.awx.password}".encode()).decode()
        return given in (f"Bearer {self.awx.token}", f"Basic {basic}")

    def _send(self, status: int, answer: t.Any) -> None:
        content = b"" if status == 204 else json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Allow", "GET, POST, PATCH, DELETE, HEAD, OPTIONS")
        self.send_header("X-API-Product-Name", "AWX")
        self.send_header("X-API-Product-Version", VERSION)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *_arguments: object) -> None:  # noqa: A002 (the name of the base class)
        """Say nothing: `requests` has it all."""

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = do_OPTIONS = do_HEAD = _serve  # noqa: N815 (the names of the base class)
