# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The same files from several sources: which one serves next, and when one is given up. Private to this collection.

Sources are hubs (`Origin`), in the user's order until a short race has found the fastest, and other hosts of the fleet
(`Peer`), which are asked first. Which of them a byte comes from does not matter: each file is checked against its
listed sum.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import queue
import threading
import time
import typing as t
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from ansible_collections.llmfleet.serving.plugins.module_utils._errors import LlmError
from ansible_collections.llmfleet.serving.plugins.module_utils._http import ASK, HttpError, Retries
from ansible_collections.llmfleet.serving.plugins.module_utils._hub import (
    RemoteFile,
    Source,
    pinned,
    read_token,
    source,
)
from ansible_collections.llmfleet.serving.plugins.module_utils._manifest import read_manifest
from ansible_collections.llmfleet.serving.plugins.module_utils._peers import Peer, Shared
from ansible_collections.llmfleet.serving.plugins.module_utils._sources import (
    ChangedError,
    Opening,
    Origin,
    Provider,
)

_T = t.TypeVar("_T")
_P = t.TypeVar("_P", bound=Provider)

# Waiting is done in such steps: what is waited for may come earlier.
_STEP_S = 1.0
# What a host ahead had so long ago is good enough to know. Each host of a chain is behind by about that much.
_AHEAD_S = 0.2
# What one request to it should bring at least.
_LEAST_BYTES = 1 << 20
# A host behind has what this one lacks only if this one began later.
_BEHIND_S = 5.0
# A host ahead that has brought nothing for so long is not waited for as long as one further ahead has more.
_STALLED_S = 5.0
_RACE_BYTES = 1 << 20
_RACE_S = 5.0


class Supply:
    """Where the bytes of a model's files come from. All methods may be called from several threads.

    :param origins: in order of preference. The files are those that the first of them lists that can.
    :param files: what the files are, if that is known: no source is asked for a list then.
    :param peers: hosts ahead of this one, nearest first. The nearest that gets on is waited for, so that each host
        serves one other; no origin is asked meanwhile.
    :param followers: hosts behind this one, which are not waited for.
    :param deadline: the value of `time.monotonic()` after which nothing is tried any more.
    :param halt: when it is set, all waiting ends. It is a public attribute, too.
    :param timeout: seconds in which a connection has to bring 256 KiB, or its end.
    :param patience: seconds without progress of the hosts ahead, after which an origin is asked; the same again for
        each of them that answers, because it waits for those ahead of it first.
    :ivar label: address of the source that served last, for people.
    :ivar retries: failures so far.
    :ivar waiting: how many threads wait in `open` for a host ahead to get on.
    """

    def __init__(
        self,
        origins: Sequence[Origin],
        *,
        deadline: float,
        halt: threading.Event,
        files: Sequence[RemoteFile] | None = None,
        peers: Sequence[Peer] = (),
        followers: Sequence[Peer] = (),
        timeout: float = 60.0,
        patience: float = 60.0,
    ) -> None:
        self.label = origins[0].address
        self.retries = 0
        self.waiting = 0
        self._deadline = deadline
        self.halt = halt
        self._timeout = timeout
        self._patience = patience
        self._files = files
        self._lister = origins[0]
        self._origins = list(origins)
        self._ahead = peers
        self._behind = followers
        self._fleet = (*peers, *followers)
        self._shared_since: float | None = None
        self._lock = threading.RLock()
        self._race_lock = threading.Lock()
        self._raced = len(origins) == 1
        self._live: set[Opening] = set()
        self._served: dict[str, set[Provider]] = {}
        self._bound: dict[str, Origin] = {}
        self._rangeless: set[str] = set()

    @property
    def address(self) -> str:
        """The source that listed the files, or the first one."""
        return self._lister.address

    @property
    def warnings(self) -> list[str]:
        """What the user should know although it did no harm: who was given up, or refused, or has no ranges."""
        unused = [(peer, peer.conduct.reason if peer.conduct.gone else peer.refusal) for peer in self._fleet]
        return [
            *(f"{one.address} was given up: {one.conduct.reason}" for one in self._origins if one.conduct.gone),
            *(f"The peer {peer.address} was not used: {reason}" for peer, reason in unused if reason),
            *(f"{address} has no ranges: each file came through one connection." for address in self._rangeless),
        ]

    def files(self) -> list[RemoteFile]:
        """All files there are.

        :raises LlmError: if no source can tell.
        """
        if self._files is None:
            if not any(origin.lists for origin in self._origins):
                raise LlmError(f"{self.address} has no list of files. Name a manifest, or a hub beside it.")

            def choose() -> Origin:
                return self._origin("The list of files", lambda origin: origin.lists)

            self._lister, listed = self._tried(choose, lambda origin: (origin, origin.files()))
            self._files = list(listed.values())
        return list(self._files)

    def summed(self, file: RemoteFile) -> RemoteFile:
        """The file with its sha256; it is read, if no source tells that."""
        while not file.sha256:
            sha256 = hashlib.sha256()
            blob = hashlib.sha1(b"blob %d\0" % file.size, usedforsecurity=False)
            with self.open(file, 0, file.size) as opening:
                try:
                    with self._watched():
                        for data in opening.chunks():
                            sha256.update(data)
                            blob.update(data)
                except HttpError as exc:
                    self.failed(opening, exc)
                    continue
            if file.git_blob in ("", blob.hexdigest()):
                return dataclasses.replace(file, sha256=sha256.hexdigest())
            self.distrust(file, f"The data is not what git knows as {file.git_blob}. {ASK}")
        return file

    def share(self, name: str, size: int, facts: t.Any, parts: Iterable[tuple[RemoteFile, int, int]]) -> None:
        """Take the bytes of a file in the making from peers, too. `Shared` and `Peer.share` have the parameters."""
        listed = list(parts)
        for peer in self._fleet:
            peer.share(Shared(name, size, facts), listed)
        self._shared_since = self._shared_since or time.monotonic()

    @contextlib.contextmanager
    def open(self, file: RemoteFile, start: int, stop: int) -> Iterator[Opening]:
        """Open the bytes from the offset `start` to the offset `stop` at the best source that has them.

        Waits as long as that is sensible. What is opened may end before `stop`, where a host ahead has got no further.
        The whole file comes instead from a source without ranges.

        :raises ChangedError: if the file has to be begun again.
        :raises LlmError: if all sources were given up (one line each), or there is no time left.
        """
        with contextlib.ExitStack() as stack:
            opening = self._tried(
                lambda: self._choose(file, start, stop),
                lambda one: self._enter(stack, one, file, start, stop, self._served.setdefault(file.path, set())),
            )
            self.label = opening.source
            if opening.start < start or opening.stop > stop:
                self._rangeless.add(opening.source)
            yield opening

    def failed(self, opening: Opening, error: HttpError) -> None:
        """Say that not all bytes of an opening came. The next `open` waits, or goes elsewhere."""
        self._charge(opening.provider, error, opening.began, slow=opening.slow)

    def progressed(self, opening: Opening, size: int) -> None:
        """Say that so many bytes came that had not been had before."""
        if size:
            with self._lock:
                opening.provider.conduct.clear()

    def distrust(self, file: RemoteFile, error: str) -> None:
        """Say that the bytes of a file, all that came since it was begun, have another sum than is listed.

        Who alone served them is given up; the last source is tried once more before that. Where several served them,
        they are given up if others are left; else the file comes from one of them alone from now on.

        :raises LlmError: if no source is left.
        """
        with self._lock:
            self.retries += 1
            left = [origin for origin in self._origins if not origin.conduct.gone]
            bound = self._bound.get(file.path)
            # Bytes of an earlier run are nobody's: then it is whoever is to send them anew.
            suspects = self._served.pop(file.path, None) or ({bound} if bound in left else set(left))
            for suspect in suspects.intersection(self._fleet):
                suspect.conduct.drop(error)
            guilty = [origin for origin in left if origin in suspects]
            if not guilty or len(guilty) < len(left):
                self._drop(guilty, error)
            elif len(suspects) > 1:
                self._bound[file.path] = guilty[0]
            elif guilty[0].conduct.forgiven:
                self._drop(guilty, error)
                raise self._given_up(file.path)
            else:
                guilty[0].conduct.forgiven = True

    def watch(self) -> None:
        """Break connections that are too slow, and all at the deadline or once `halt` is set.

        To be called about once a second by a thread that does not read.
        """
        over = self.halt.is_set() or time.monotonic() > self._deadline
        for opening in list(self._live):
            if over:
                opening.abort()
            else:
                opening.abort_if_slow(self._timeout)

    @contextlib.contextmanager
    def _watched(self) -> Iterator[None]:
        """Let a thread watch while this one reads."""
        done = threading.Event()

        def work() -> None:
            while not done.wait(_STEP_S):
                self.watch()

        watcher = threading.Thread(target=work, daemon=True)
        watcher.start()
        try:
            yield
        finally:
            done.set()
            watcher.join()

    def _tried(self, choose: Callable[[], _P], action: Callable[[_P], _T]) -> _T:
        """What `action` gives with the first source that does not fail."""
        while True:
            provider = choose()
            began = time.monotonic()
            try:
                return action(provider)
            except ChangedError:
                raise
            except LlmError as exc:
                self._charge(provider, exc, began)

    def _charge(self, provider: Provider, error: LlmError, began: float, *, slow: bool = False) -> None:
        with self._lock:
            self.retries += 1
            provider.conduct.charge(error, began, slow=slow)

    def _choose(self, file: RemoteFile, start: int, stop: int) -> Provider:
        """The source that is to serve next; returns when it is time to ask it."""
        peer, waits = self._peer(file, start, stop)
        if waits:
            with self._counted():
                while waits:
                    self._pause(file.path, _AHEAD_S / 2)
                    peer, waits = self._peer(file, start, stop)
        if peer:
            return peer
        self._race(file)
        return self._origin(file.path, lambda origin: self._may_serve(origin, file))

    @contextlib.contextmanager
    def _counted(self) -> Iterator[None]:
        with self._lock:
            self.waiting += 1
        try:
            yield
        finally:
            with self._lock:
                self.waiting -= 1

    def _peer(self, file: RemoteFile, start: int, stop: int) -> tuple[Peer | None, bool]:
        """The peer that is to serve, and if there is none now, whether to wait for one."""
        ahead, behind = (
            [peer for peer in peers if self._may_serve(peer, file) and peer.shares(file, start)]
            for peers in (self._ahead, self._behind)
        )
        waits = False
        for peer in ahead:
            if _is_ready(peer) and peer.has(file, start, min(stop - start, _LEAST_BYTES), _AHEAD_S):
                return peer, False
            if self._gets_on(peer):
                waits = True
                break
        for peer in behind:
            if _is_ready(peer) and peer.has(file, start, stop - start, _BEHIND_S):
                return peer, False
        return None, waits or not self._patience_is_over([peer for peer in ahead if not peer.refusal])

    def _gets_on(self, peer: Peer) -> bool:
        """Whether a host ahead is likely to have soon what it has not got."""
        if not peer.answers or not _is_ready(peer):
            return False
        now = time.monotonic()
        if peer.moved > float("-inf"):
            return now - peer.moved < min(_STALLED_S, self._patience)
        return now - (self._shared_since or now) < self._patience

    def _may_serve(self, provider: Provider, file: RemoteFile) -> bool:
        if provider.conduct.gone:
            return False
        bound = self._bound.get(file.path)
        # Of a file without a sum, nothing proves that another source has the same.
        proved = bool(file.sha256 or file.git_blob) or provider is self._lister
        return proved and (bound is None or bound is provider or bound.conduct.gone)

    def _patience_is_over(self, ahead: list[Peer]) -> bool:
        if not ahead:
            return True
        moved = max(self._shared_since or 0.0, *(peer.moved for peer in ahead))
        return time.monotonic() - moved >= self._patience * max(1, sum(peer.answers for peer in ahead))

    def _origin(self, subject: str, fits: Callable[[Origin], bool]) -> Origin:
        """The best origin; returns when it is time to ask it."""
        while not self.halt.is_set():
            with self._lock:
                fitting = [origin for origin in self._origins if not origin.conduct.gone and fits(origin)]
                if not fitting:
                    raise self._given_up(subject)
                now = time.monotonic()
                soon = [origin for origin in fitting if origin.conduct.not_before <= now + _STEP_S]
                rested = [origin for origin in soon if origin.conduct.rests_until <= now]
                best = (rested or soon or sorted(fitting, key=lambda origin: origin.conduct.not_before))[0]
            if best.conduct.not_before <= now:
                return best
            if best.conduct.not_before > self._deadline:
                reason = f"{best.conduct.reason} Given up: the next try would come after the deadline."
                raise LlmError(f"{subject}: {reason}")
            self._pause(subject, best.conduct.not_before - now)
        raise _stopped()

    def _pause(self, subject: str, seconds: float) -> None:
        if time.monotonic() > self._deadline:
            raise LlmError(f"{subject}: no source had it before the deadline. Run again: what is there is kept.")
        if self.halt.wait(min(seconds, _STEP_S)):
            raise _stopped()

    def _given_up(self, subject: str) -> LlmError:
        gone = [origin for origin in self._origins if origin.conduct.gone]
        if len(self._origins) == 1:
            return LlmError(f"{subject}: {gone[0].conduct.reason}")
        lines = "".join(f"\n{origin.address}: {origin.conduct.reason}" for origin in gone)
        return LlmError(f"{subject}: no source is left.{lines}")

    def _drop(self, origins: Iterable[Origin], error: str) -> None:
        for origin in origins:
            origin.conduct.drop(error)

    def _enter(
        self,
        stack: contextlib.ExitStack,
        provider: Provider,
        file: RemoteFile,
        start: int,
        stop: int,
        served: set[Provider],
    ) -> Opening:
        """Open at this very source, until `stack` is closed."""
        asked = time.monotonic()
        content = stack.enter_context(provider.open(file, start, stop))
        latency = time.monotonic() - asked
        first, end = content.start, content.stop
        if first != start or end is None or end > stop:
            first, end = 0, file.size
        opening = Opening(provider, content, first, end, latency, served)
        self._live.add(opening)
        stack.callback(self._live.discard, opening)
        return opening

    def _race(self, file: RemoteFile) -> None:
        """Let all origins send the start of a file, once; the first to end is preferred from now on."""
        with self._race_lock:
            if self._raced:
                return
            self._raced = True
            entrants = [origin for origin in self._origins if self._may_serve(origin, file)]
            ended: queue.Queue[Origin | None] = queue.Queue()
            over = threading.Event()
            for origin in entrants:
                threading.Thread(target=self._run, args=(origin, file, ended, over), daemon=True).start()
            winner = _first(ended, len(entrants))
            over.set()
            with self._lock:
                self._origins.sort(key=lambda origin: origin is not winner)

    def _run(self, origin: Origin, file: RemoteFile, ended: queue.Queue[Origin | None], over: threading.Event) -> None:
        """One origin's race."""
        began = time.monotonic()
        try:
            with contextlib.ExitStack() as stack:
                opening = self._enter(stack, origin, file, 0, min(_RACE_BYTES, file.size), set())
                for _dummy in opening.chunks():
                    if over.is_set():
                        return
            ended.put(origin)
        except LlmError as exc:
            self._charge(origin, exc, began)
            ended.put(None)


def first_source(params: dict[str, t.Any]) -> Source:
    """The source that the options `hub`, `endpoint`, `repo`, `token` and `token_file` of a module name."""
    return _source(params, params["repo"], params["timeout"], params["token"])


def supply(params: dict[str, t.Any], commit: str, *, deadline: float, halt: threading.Event) -> Supply:
    """The supply that the options of a module describe.

    :param commit: of the first source; the others have the same unless they name another.
    :param deadline, halt: as `Supply` has them.
    """
    manifest = read_manifest(Path(params["manifest"])) if params["manifest"] else None
    origins = [Origin(first_source(params), commit, lists=manifest is None)]
    for options in params["sources"]:
        other = _source(options, options["repo"] or params["repo"], params["timeout"])
        revision = pinned(other, options["revision"] or commit, floating=False, retries=Retries(deadline))
        origins.append(Origin(other, revision, lists=manifest is None))
    token = read_token(Path(params["peer_token_file"])) if params["peer_token_file"] else None
    peers, followers = (
        [Peer(address, token, params["timeout"]) for address in params[name]] for name in ("peers", "followers")
    )
    return Supply(
        origins,
        deadline=deadline,
        halt=halt,
        files=manifest.files if manifest else None,
        peers=peers,
        followers=followers,
        timeout=params["timeout"],
        patience=params["patience"],
    )


def _source(options: dict[str, t.Any], repo: str, timeout: float, token: str | None = None) -> Source:
    if options["token_file"]:
        token = read_token(Path(options["token_file"]))
    return source(options["hub"], repo, endpoint=options["endpoint"], token=token, timeout=timeout)


def _first(ended: queue.Queue[Origin | None], runners: int) -> Origin | None:
    """Who ended first within the time of a race, None if nobody did."""
    limit = time.monotonic() + _RACE_S
    with contextlib.suppress(queue.Empty):
        for _dummy in range(runners):
            winner = ended.get(timeout=max(0.0, limit - time.monotonic()))
            if winner:
                return winner
    return None


def _is_ready(peer: Peer) -> bool:
    return peer.conduct.not_before <= time.monotonic()


def _stopped() -> LlmError:
    return LlmError("The transfer was stopped.")
