# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Is an engine busy or hung, and is it time to restart it? Private to this collection.

A sign of life is that the engine's own counters move, that it computes where it has none, or that it answers a probe
with a token. It is probed only when nothing moves: with one request at a time, a probe waits behind a long answer.
Hung is what gives no sign of life for a while and fails more than one probe. Restarts keep a growing distance.
Of a service that several hosts share, each part is restarted when one that it has met has gone.
"""

from __future__ import annotations

import dataclasses
import typing as t

from ansible_collections.llmfleet.serving.plugins.module_utils._errors import LlmError

_HOUR_S = 3600.0
# Of one core. The front of an engine takes less while what computes behind it stands still.
_COMPUTES = 0.1
# Looks in a row in which a peer is missed before it counts as gone.
_MISSED = 2

# Says why there was no answer; None when there was one.
Probe = t.Callable[[], "str | None"]


@dataclasses.dataclass(frozen=True)
class Policy:
    """When to act; seconds.

    :ivar probe_interval: between two probes of an engine that has nothing to do.
    :ivar hung_after: from the first failed probe until the engine counts as hung.
    :ivar probes: how many have to fail.
    :ivar restarts_max: restarts in an hour; then a person is needed.
    :ivar computing_max: how long computing alone is a sign of life.
    """

    probe_interval: float = 300.0
    hung_after: float = 300.0
    probes: int = 2
    restarts_max: int = 3
    computing_max: float = 3600.0

    def __post_init__(self) -> None:
        for name, value in dataclasses.asdict(self).items():
            if value <= 0:
                raise LlmError(f"The watchdog's {name} is {value}; expected a number above 0.")


@dataclasses.dataclass(frozen=True)
class Look:
    """What one look at a service shows.

    :ivar run: names this run of the service; empty when it does not run, because someone wants it so or for an error
        that systemd deals with.
    :ivar fenced: whether the GPU gate has refused the host.
    :ivar ready: whether it answers at its address for readiness.
    :ivar uptime: seconds since it was started, of which it may take `start_timeout` to become ready.
    :ivar counters: stand for all that the engine counts; None when it did not tell.
    :ivar requests: how many run or wait, None when it does not tell.
    :ivar cpu: seconds that its processes have computed or waited for a processor; None where counters tell more.
    :ivar serves: whether it answers requests; a part of a service that does not can only be judged by its peers.
    :ivar peers: the connections with each host that it shares the service with, as `_meeting` tells them.
    :ivar silent: those of them whose hosts do not answer at all.
    """

    run: str
    fenced: bool = False
    ready: bool = True
    uptime: float = 0.0
    start_timeout: float = 0.0
    counters: str | None = None
    requests: int | None = None
    cpu: float | None = None
    serves: bool = True
    peers: t.Mapping[str, t.Sequence[str]] = dataclasses.field(default_factory=dict)
    silent: t.Sequence[str] = ()


@dataclasses.dataclass(frozen=True)
class State:
    """What is known of a service, kept from look to look, and read by monitoring. Times are seconds since 1970.

    :ivar verdict: stopped, fenced, starting, idle, busy, suspect, hung, restarted, or given-up; waiting or joined where
        it does not serve; at first nothing.
    :ivar since: when this verdict began.
    :ivar checked: when it was last looked at.
    :ivar restarts: times of the restarts of the last hour.
    :ivar reason: why it was last suspected.
    :ivar run: as in `Look`; what follows is known of this run alone.
    :ivar ready: whether it was ready once.
    :ivar alive: the last answer, or movement of counters.
    :ivar probed: the last probe; `failed` how many have failed since the last sign of life, the first at `suspected`.
    :ivar peers: the connections with each peer, once it had met all of them; `missed` in how many looks one was gone.
    """

    verdict: str = ""
    since: float = 0.0
    checked: float = 0.0
    restarts: tuple[float, ...] = ()
    reason: str = ""
    run: str = ""
    ready: bool = False
    alive: float = 0.0
    probed: float = 0.0
    failed: int = 0
    suspected: float = 0.0
    counters: str | None = None
    cpu: float | None = None
    peers: t.Mapping[str, t.Sequence[str]] = dataclasses.field(default_factory=dict)
    missed: int = 0

    @classmethod
    def load(cls, kept: t.Mapping[str, t.Any]) -> State:
        """What `dataclasses.asdict` made of one. What makes no sense counts as nothing known."""
        names = {field.name for field in dataclasses.fields(cls)}
        try:
            state = cls(**{name: value for name, value in kept.items() if name in names})
            return dataclasses.replace(state, restarts=tuple(float(time) for time in state.restarts))
        except (TypeError, ValueError):
            return cls()


def judge(state: State, look: Look, policy: Policy, now: float, probe: Probe) -> State:
    """The state after a look. The verdict `restarted` asks the caller to restart the service, now.

    :param probe: asks the engine for one token; called only when nothing else tells that it lives.
    """
    state = dataclasses.replace(state, restarts=tuple(time for time in state.restarts if 0 <= now - time < _HOUR_S))
    if look.fenced or not look.run:
        return _verdict(State(**_kept(state)), "fenced" if look.fenced else "stopped", now)
    if look.run != state.run:
        state = State(**_kept(state), run=look.run, alive=now, probed=now, counters=look.counters, cpu=look.cpu)
    state, gone = _meet(state, look)
    if gone and state.missed >= _MISSED:
        return _hung(
            state, f"{' and '.join(gone)} of the hosts that share it, or what ran there, has gone", policy, now
        )
    if not look.serves:
        return _verdict(state, "joined" if state.peers else "waiting", now)
    return _listen(state, look, policy, now, probe)


def _listen(state: State, look: Look, policy: Policy, now: float, probe: Probe) -> State:
    """The state of a service that runs and answers requests."""
    if not state.ready and not look.ready:
        if look.uptime < look.start_timeout:
            return _verdict(state, "starting", now)
        return _hung(state, f"not ready {look.uptime:.0f} s after its start", policy, now)
    if not state.ready:
        # The first look at a run: what moves is seen at the next one.
        state = dataclasses.replace(_alive(state, now), ready=True, probed=now, counters=look.counters, cpu=look.cpu)
        return _verdict(state, "busy" if look.requests else "idle", now)
    moves, computes = _moves(state, look), _computes(state, look, now)
    seen = dataclasses.replace(state, counters=look.counters, cpu=look.cpu)
    if moves:
        return _verdict(_alive(seen, now), "busy", now)
    if computes and now - state.alive < policy.computing_max:
        return _verdict(dataclasses.replace(seen, failed=0), "busy", now)
    return _ask(seen, look, policy, now, probe)


def _meet(state: State, look: Look) -> tuple[State, list[str]]:
    """What is known of the peers after a look, and those that are gone. Until all have come, none can go."""
    if not state.peers:
        met = bool(look.peers) and all(look.peers.values())
        return (dataclasses.replace(state, peers=dict(look.peers)) if met else state), []
    # A run may open more connections, and close these; one at least stays from look to look.
    ended = {peer for peer, known in state.peers.items() if not set(known) & set(look.peers.get(peer, ()))}
    if gone := sorted(ended | set(look.silent)):
        return dataclasses.replace(state, missed=state.missed + 1), gone
    return dataclasses.replace(state, peers=dict(look.peers), missed=0), []


def _ask(state: State, look: Look, policy: Policy, now: float, probe: Probe) -> State:
    wanted = state.failed or look.requests or not look.ready or now - state.probed >= policy.probe_interval
    if not wanted:
        return _verdict(state, "idle", now)
    complaint = probe()
    state = dataclasses.replace(state, probed=now)
    if complaint is None:
        return _verdict(_alive(state, now), "idle", now)
    suspected = state.suspected if state.failed else now
    state = dataclasses.replace(state, failed=state.failed + 1, suspected=suspected)
    reason = f"no sign of life for {now - state.alive:.0f} s, and the last of {state.failed} probes failed: {complaint}"
    if state.failed >= policy.probes and now - suspected >= policy.hung_after:
        return _hung(state, reason, policy, now)
    return _verdict(dataclasses.replace(state, reason=reason), "suspect", now)


def _hung(state: State, reason: str, policy: Policy, now: float) -> State:
    state = dataclasses.replace(state, reason=reason)
    if len(state.restarts) >= policy.restarts_max:
        return _verdict(state, "given-up", now)
    if state.restarts and now - state.restarts[-1] < policy.hung_after * 2 ** len(state.restarts):
        return _verdict(state, "hung", now)
    return _verdict(dataclasses.replace(state, restarts=(*state.restarts, now)), "restarted", now)


def _moves(state: State, look: Look) -> bool:
    return None not in (state.counters, look.counters) and look.counters != state.counters


def _computes(state: State, look: Look, now: float) -> bool:
    if state.cpu is None or look.cpu is None or now <= state.checked:
        return False
    # A process that has ended takes its seconds away with it.
    return look.cpu - state.cpu >= _COMPUTES * (now - state.checked)


def _alive(state: State, now: float) -> State:
    return dataclasses.replace(state, alive=now, failed=0)


def _verdict(state: State, verdict: str, now: float) -> State:
    since = state.since if verdict == state.verdict else now
    return dataclasses.replace(state, verdict=verdict, since=since, checked=now)


def _kept(state: State) -> dict[str, t.Any]:
    """What outlives a run of the service."""
    return {name: getattr(state, name) for name in ("verdict", "since", "checked", "restarts", "reason")}
