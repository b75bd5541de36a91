# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Where model files come from: hubs, mirrors, web servers, directories. Private to this collection."""

from __future__ import annotations

import contextlib
import os
import re
import typing as t
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from urllib.parse import quote, urlencode, urlsplit

from ansible_collections.llmfleet.serving.plugins.module_utils._errors import LlmError
from ansible_collections.llmfleet.serving.plugins.module_utils._files import os_errors, safe_relative
from ansible_collections.llmfleet.serving.plugins.module_utils._http import (
    CHUNK,
    Retries,
    Targets,
    get_pages,
    open_body,
    request_json,
)

_ENDPOINTS = {"huggingface": "https://huggingface.co", "modelscope": "https://www.modelscope.cn"}
_COMMIT = re.compile(r"[0-9a-f]{40}")
# ModelScope ends a list at this many entries without a word.
_MODELSCOPE_CAP = 3000


@dataclass(frozen=True)
class RemoteFile:
    """A file as its hub lists it.

    :ivar path: relative to the repository, with '/' between its parts; proved safe by `select`.
    :ivar size: bytes.
    :ivar sha256: 64 hexadecimal digits, "" if the hub does not tell.
    :ivar git_blob: git's id of the content, 40 hexadecimal digits; "" if the hub does not tell. Hugging Face tells
        nothing else of files that are not in LFS.
    :ivar modified_ns: time of a local file's last change, all that tells its content from another; 0 at a hub.
    :ivar url: where its source opens it, at the commit it was listed for: an address of the hub, or a local path.
    """

    path: str
    size: int
    sha256: str
    git_blob: str
    modified_ns: int
    url: str

    @property
    def facts(self) -> dict[str, str | int]:
        """What tells this content from any other, wherever it comes from."""
        return {"size": self.size, "sha256": self.sha256, "git_blob": self.git_blob, "modified_ns": self.modified_ns}


class Content(t.Protocol):
    """A file's bytes from the offset `start` to the offset `stop`, as `_http.Body` gives them."""

    @property
    def start(self) -> int:
        """Offset of the first byte that comes, which may be 0 where another one was asked for."""

    @property
    def stop(self) -> int | None:
        """Offset behind the last byte that comes, None if it is not told."""

    @property
    def total(self) -> int | None:
        """Size of the whole file, None if it is not told."""

    @property
    def etag(self) -> str | None:
        """A mark of this very content, None if there is none."""

    def chunks(self) -> Iterator[bytes]:
        """The bytes, as they come."""

    def abort(self) -> None:
        """Make `chunks` fail in the thread that reads it."""


class Source(t.Protocol):
    """One repository at its hub. All methods raise LlmError; none repeats a request that failed.

    :ivar address: the hub, as a URL or a path.
    :ivar lists: whether it can tell what files there are.
    """

    address: str
    lists: bool

    def commit(self, revision: str) -> str:
        """The commit that a branch or tag stands for now."""

    def files(self, commit: str, /) -> list[RemoteFile]:
        """All files of the repository at a commit."""

    def locate(self, commit: str, path: str, /) -> str:
        """What `RemoteFile.url` is for the file at a path. Nothing is asked."""

    def open(
        self, file: RemoteFile, start: int, etag: str | None, stop: int | None = None, /
    ) -> contextlib.AbstractContextManager[Content]:
        """Open a file from the offset `start` to the offset `stop`, on the conditions of `_http.open_body`."""


def source(
    hub: str, repo: str, *, endpoint: str | None = None, token: str | None = None, timeout: float = 60.0
) -> Source:
    """The repository `repo` of a hub.

    :param hub: `huggingface`, `modelscope`, the address of a server with the API of Hugging Face, the absolute path of
        a directory in which `repo` is a subdirectory, or `url`: a web server with such a directory at `endpoint`.
    :param endpoint: address of a mirror that has the API of `hub`; by default the hub itself.
    :param token: is sent to that address only.
    :param timeout: longest silence of the hub, in seconds.
    """
    if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", repo, re.ASCII):
        raise LlmError(f"{repo!r} is not the name of a repository; expected OWNER/NAME.")
    safe_relative(repo)
    if hub.startswith("/"):
        return _Directory(Path(hub), repo)
    if hub.startswith(("http://", "https://")):
        hub, endpoint = "huggingface", endpoint or hub
    if hub not in _KINDS:
        raise LlmError(
            f"{hub!r} is no hub; expected huggingface, modelscope, url, http(s)://... or the path of a directory."
        )
    base = (endpoint or _ENDPOINTS.get(hub, "")).rstrip("/")
    if not base:
        raise LlmError("The hub is a plain web server (url), but not which one; name its address as the endpoint.")
    if "@" in urlsplit(base).netloc:
        raise LlmError(f"The address of the {hub} hub holds a password, which logs would show. Give a token instead.")
    return _KINDS[hub](base, repo, token, timeout)


def read_token(path: Path) -> str:
    """The token that a file holds, and nothing else."""
    with os_errors("Reading the token file"):
        token = path.read_text(errors="replace").strip()
    if not token.isascii() or not token.isprintable() or not token or " " in token:
        raise LlmError(f"{path} is not a token file: expected one line with the token and nothing else.")
    return token


def pinned(origin: Source, revision: str, *, floating: bool, retries: Retries) -> str:
    """The commit of a revision.

    :param floating: whether a branch or a tag will do; what it stands for may be another commit tomorrow.
    """
    if _COMMIT.fullmatch(revision):
        return revision
    if not floating:
        raise LlmError(
            f"The revision {revision!r} is refused: expected a commit of 40 hexadecimal digits, because a branch or a "
            "tag may name other files tomorrow. Name a commit, or set allow_floating_revision."
        )
    return retries.run(lambda: origin.commit(revision))


def select(files: t.Iterable[RemoteFile], pattern: str) -> list[RemoteFile]:
    """The files whose path matches a shell pattern ('*' matches '/' too), sorted by path.

    :raises LlmError: if there is none, or one that may not be written under its name.
    """
    chosen = sorted((file for file in files if fnmatchcase(file.path, pattern)), key=lambda file: file.path)
    if not chosen:
        raise LlmError(f"No file of the repository matches {pattern!r}. Compare it with the hub's list of files.")
    for file in chosen:
        safe_relative(file.path)
        if ".llmfleet." in file.path:
            raise LlmError(
                f"The file name {file.path!r} is refused: this collection keeps its own facts in such files."
            )
    return chosen


class _Hub:
    """What is common to all that is reached by HTTP."""

    lists = True

    def __init__(self, address: str, repo: str, token: str | None, timeout: float) -> None:
        self.address = address
        self._repo = repo
        self._token = token
        self._timeout = timeout
        self._targets = Targets()

    def open(
        self, file: RemoteFile, start: int, etag: str | None, stop: int | None = None
    ) -> contextlib.AbstractContextManager[Content]:
        return open_body(
            file.url,
            start=start,
            stop=stop,
            etag=etag,
            token=self._token,
            timeout=self._timeout,
            targets=self._targets,
        )

    def _ask(self, url: str) -> t.Any:
        return request_json("GET", url, token=self._token, timeout=self._timeout)


class _HuggingFace(_Hub):
    """The API of huggingface.co and of its mirrors. Sizes and sums are taken from the tree, which mirrors pass on."""

    def commit(self, revision: str) -> str:
        url = f"{self.address}/api/models/{self._repo}/revision/{quote(revision, safe='')}"
        with _expected_shape(url):
            return _checked_commit(self._ask(url)["sha"])

    def files(self, commit: str) -> list[RemoteFile]:
        url = f"{self.address}/api/models/{self._repo}/tree/{commit}?recursive=true&expand=false"
        with _expected_shape(url):
            pages = get_pages(url, token=self._token, timeout=self._timeout)
            return [self._file(commit, entry) for page in pages for entry in page if entry["type"] == "file"]

    def locate(self, commit: str, path: str) -> str:
        return f"{self.address}/{self._repo}/resolve/{commit}/{quote(path)}"

    def _file(self, commit: str, entry: dict[str, t.Any]) -> RemoteFile:
        # The oid of a file in LFS is that of its pointer.
        sums = {"sha256": entry["lfs"]["oid"]} if entry.get("lfs") else {"git_blob": entry["oid"]}
        return _checked_file(entry["path"], entry["size"], self.locate(commit, entry["path"]), **sums)


class _ModelScope(_Hub):
    """The API of modelscope.cn. Its errors can come with HTTP status 200; its lists end at 3000 entries, silently."""

    def commit(self, revision: str) -> str:
        # The list of revisions tells names only; a file's Revision is the commit that changed it last.
        with _expected_shape(self._url):
            newest = max(self._list(revision, "", recursive=True), key=lambda entry: int(entry["CommittedDate"]))
            return _checked_commit(newest["Revision"])

    def files(self, commit: str) -> list[RemoteFile]:
        with _expected_shape(self._url):
            return [self._file(commit, entry) for entry in self._all(commit, "") if entry["Type"] == "blob"]

    def locate(self, commit: str, path: str) -> str:
        return f"{self._url}?{urlencode({'Revision': commit, 'FilePath': path})}"

    @property
    def _url(self) -> str:
        return f"{self.address}/api/v1/models/{self._repo}/repo"

    def _file(self, commit: str, entry: dict[str, t.Any]) -> RemoteFile:
        return _checked_file(entry["Path"], entry["Size"], self.locate(commit, entry["Path"]), sha256=entry["Sha256"])

    def _all(self, commit: str, root: str) -> list[dict[str, t.Any]]:
        """Everything below `root`; where the list may have been cut, directory by directory."""
        entries = self._list(commit, root, recursive=True)
        if len(entries) < _MODELSCOPE_CAP:
            return entries
        entries = self._list(commit, root, recursive=False)
        if len(entries) >= _MODELSCOPE_CAP:
            raise LlmError(
                f"{self._url} has {_MODELSCOPE_CAP} or more entries in the directory {root!r}: ModelScope lists no "
                "more than that, so some would be missed. Use another hub for this repository."
            )
        below = [entry["Path"] for entry in entries if entry["Type"] == "tree"]
        return entries + [entry for path in below for entry in self._all(commit, path)]

    def _list(self, revision: str, root: str, *, recursive: bool) -> list[dict[str, t.Any]]:
        query = {"Revision": revision, "Recursive": str(recursive), **({"Root": root} if root else {})}
        answer = self._ask(f"{self._url}/files?{urlencode(query)}")
        if answer["Code"] != 200 or not answer["Success"]:
            raise LlmError(f"{self._url} does not list revision {revision!r}: {str(answer['Message'])[:300]}.")
        return list(answer["Data"]["Files"] or [])


class _PlainUrl(_Hub):
    """The files of a repository below an address of any web server. It has no list, and no commits."""

    lists = False

    def commit(self, revision: str) -> str:
        return revision

    def files(self, _commit: str) -> list[RemoteFile]:
        raise LlmError(
            f"{self.address} is a plain web server, which has no list of files. Name a manifest, or a hub beside it."
        )

    def locate(self, _commit: str, path: str) -> str:
        return f"{self.address}/{self._repo}/{quote(path)}"


_KINDS: dict[str, t.Callable[[str, str, str | None, float], Source]] = {
    "huggingface": _HuggingFace,
    "modelscope": _ModelScope,
    "url": _PlainUrl,
}


class _Directory:
    """A directory with the files of a repository, for hosts without a network. Its files are taken as they are."""

    lists = True

    def __init__(self, root: Path, repo: str) -> None:
        self.address = str(root)
        self._top = root / repo

    def commit(self, revision: str) -> str:
        return revision

    def files(self, _commit: str) -> list[RemoteFile]:
        if not self._top.is_dir():
            raise LlmError(f"{self._top} is not a directory; expected the files of the repository there.")
        found = (path for path in self._top.rglob("*") if path.is_file())
        return [self._file(path, path.stat()) for path in found]

    def locate(self, _commit: str, path: str) -> str:
        return str(self._top / path)

    @contextlib.contextmanager
    def open(self, file: RemoteFile, start: int, _etag: str | None, stop: int | None = None) -> Iterator[Content]:
        # Not os_errors() around it all: what fails in the caller's block is none of this file's doing.
        with os_errors("Reading the source"):
            stream = Path(file.url).open("rb")  # noqa: SIM115 (closed below)
        with stream:
            stream.seek(start)
            size = os.fstat(stream.fileno()).st_size
            yield _FileContent(start, size if stop is None else min(stop, size), size, stream)

    def _file(self, path: Path, status: os.stat_result) -> RemoteFile:
        return RemoteFile(path.relative_to(self._top).as_posix(), status.st_size, "", "", status.st_mtime_ns, str(path))


@dataclass(frozen=True)
class _FileContent:
    start: int
    stop: int
    total: int
    _stream: t.BinaryIO
    etag: str | None = None

    def chunks(self) -> Iterator[bytes]:
        left = self.stop - self.start
        while left > 0:
            with os_errors(f"Reading {self._stream.name}"):
                data = self._stream.read(min(CHUNK, left))
            if not data:
                return
            left -= len(data)
            yield data

    def abort(self) -> None:
        """Reading a disk ends by itself."""


def _checked_commit(answer: str) -> str:
    if not _COMMIT.fullmatch(answer):
        raise ValueError(answer)
    return answer


def _checked_file(path: t.Any, size: t.Any, url: str, sha256: t.Any = "", git_blob: t.Any = "") -> RemoteFile:
    """A listed file whose every part has the right type and form: from here on it is trusted to have."""
    if not isinstance(path, str) or not isinstance(size, int) or isinstance(size, bool) or size < 0:
        raise TypeError(path, size)
    if not re.fullmatch(r"([0-9a-f]{64})?", sha256) or not re.fullmatch(r"([0-9a-f]{40})?", git_blob):
        raise ValueError(sha256, git_blob)
    return RemoteFile(path, size, sha256, git_blob, 0, url)


@contextlib.contextmanager
def _expected_shape(url: str) -> Iterator[None]:
    """An answer that is JSON but not of the API: `url` is that of another kind of server."""
    try:
        yield
    except (KeyError, TypeError, ValueError, AttributeError) as exc:
        address = url.partition("?")[0]
        raise LlmError(
            f"{address} did not answer as a hub does ({type(exc).__name__}: {exc}). Check hub and endpoint."
        ) from exc
