"""The watchdog's verdicts: tables for each rule, and what must hold whatever happens."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.llmfleet.serving.plugins.module_utils._errors import LlmError
from ansible_collections.llmfleet.serving.plugins.module_utils._watchdog import Look, Policy, State, judge

POLICY = Policy(probe_interval=300, hung_after=120, probes=2, restarts_max=3, computing_max=1000)


def fine():
    return None


def silent():
    return "it was silent for 60 s"


def never():
    raise AssertionError("the engine was probed")


def looks(*steps, policy=POLICY, start=1000.0, every=30.0, state=None):
    """The verdict after each of (look, probe), one every so many seconds."""
    state, verdicts = state or State(), []
    for number, (look, probe) in enumerate(steps):
        state = judge(state, look, policy, start + number * every, probe)
        verdicts.append(state.verdict)
    return state, verdicts


def counting(number, requests=1):
    return Look("a", counters=str(number), requests=requests)


STOPPED = Look("")
STUCK = counting(1)
IDLE = counting(1, requests=0)


@pytest.mark.parametrize(
    ("look", "verdict"),
    [
        (STOPPED, "stopped"),
        (Look("", fenced=True), "fenced"),
        (Look("a", fenced=True), "fenced"),
        (Look("a", ready=False, uptime=10, start_timeout=3600), "starting"),
    ],
)
def test_nothing_is_done(look, verdict):
    state, verdicts = looks(*[(look, never)] * 50)
    assert set(verdicts) == {verdict}
    assert (state.restarts, state.since) == ((), 1000)


def test_engine_that_never_becomes_ready_is_restarted():
    late = Look("a", ready=False, uptime=3601, start_timeout=3600)
    state, verdicts = looks((late, never))
    assert verdicts == ["restarted"]
    assert state.reason == "not ready 3601 s after its start"


def test_counters_that_move_are_enough():
    # One request at a time, and it takes an hour: a probe would wait behind it.
    state, verdicts = looks(*((counting(number), never) for number in range(120)))
    assert verdicts == ["busy"] * 120
    assert state.restarts == ()


def test_idle_engine_is_probed_now_and_then():
    asked = []
    _state, verdicts = looks(*[(IDLE, lambda: asked.append(1))] * 41)
    assert set(verdicts) == {"idle"}
    assert len(asked) == 4  # 1200 s, one each 300 s


def test_hung_engine_is_suspected_then_restarted():
    state, verdicts = looks((counting(0), fine), *[(STUCK, silent)] * 6)
    assert verdicts[1:] == ["busy", "suspect", "suspect", "suspect", "suspect", "restarted"]
    assert state.restarts == (1180,)
    assert state.reason == "no sign of life for 150 s, and the last of 5 probes failed: it was silent for 60 s"


def test_one_failed_probe_is_not_enough():
    slow = dataclasses.replace(POLICY, probes=3)
    _state, verdicts = looks((counting(0), fine), *[(STUCK, silent)] * 4, policy=slow, every=121)
    assert verdicts[1:] == ["busy", "suspect", "suspect", "restarted"]


def test_probe_that_is_answered_ends_a_suspicion():
    state, verdicts = looks((IDLE, fine), *[(STUCK, silent)] * 3, (STUCK, fine), (STUCK, silent))
    assert verdicts[1:] == ["suspect"] * 3 + ["idle", "suspect"]
    assert state.failed == 1


def test_metrics_that_are_silent_too_lead_to_a_probe():
    deaf = Look("a", counters=None, ready=False)
    _state, verdicts = looks((IDLE, fine), *[(deaf, silent)] * 5)
    assert verdicts[1:] == ["suspect"] * 4 + ["restarted"]


def computing(seconds):
    return Look("a", cpu=seconds)


def test_computing_is_a_sign_of_life_where_nothing_is_counted():
    _state, verdicts = looks(*((computing(number * 4.0), never) for number in range(30)))
    assert set(verdicts[1:]) == {"busy"}


def test_front_that_ticks_is_no_sign_of_life():
    steps = [(computing(number * 0.1), silent) for number in range(20)]
    _state, verdicts = looks(*steps)
    assert verdicts[10:14] == ["suspect"] * 4
    assert "restarted" in verdicts


def test_computing_alone_does_not_count_for_ever():
    _state, verdicts = looks(*((computing(number * 30.0), silent) for number in range(45)))
    assert "suspect" in verdicts
    assert "restarted" in verdicts


def hung_for(hours, policy=POLICY):
    """Restart times of an engine that hangs again after each restart."""
    state, now, run = State(), 1000.0, 0
    restarts = []
    while now < 1000 + hours * 3600:
        state = judge(state, Look(f"run {run}", counters="1", requests=1), policy, now, silent)
        if state.verdict == "restarted":
            restarts.append(now)
            run += 1
        now += 30
    return restarts, state


def test_restarts_keep_a_growing_distance_and_are_bounded():
    restarts, state = hung_for(0.9)
    distances = [after - before for before, after in zip(restarts, restarts[1:])]
    assert len(restarts) == 3
    assert distances == sorted(distances)
    assert distances[0] >= 240
    assert distances[1] >= 480
    assert state.verdict == "given-up"


def test_after_an_hour_it_is_tried_again():
    restarts, _state = hung_for(5)
    assert len(restarts) > 9
    assert all(after - before >= 3600 for before, after in zip(restarts, restarts[3:]))


def test_new_run_starts_without_suspicion():
    state, _verdicts = looks((IDLE, fine), *[(STUCK, silent)] * 3)
    state, verdicts = looks((Look("b", counters="1"), never), state=state, start=1200)
    assert (verdicts, state.failed) == (["idle"], 0)


@pytest.mark.parametrize("name", [field.name for field in dataclasses.fields(Policy)])
def test_figure_that_makes_no_sense_is_refused(name):
    with pytest.raises(LlmError, match=f"watchdog's {name} is 0; expected a number above 0"):
        Policy(**{name: 0})


def test_state_survives_its_file_and_a_broken_one():
    state, _verdicts = looks((IDLE, fine), *[(STUCK, silent)] * 3)
    assert State.load({"service": "x", **dataclasses.asdict(state)}) == state
    assert State.load({"restarts": ["soon"]}) == State()
    assert State.load({"restarts": 5}) == State()


@given(
    st.lists(
        st.tuples(
            st.builds(
                Look,
                run=st.sampled_from(["", "a", "a", "a", "b"]),
                fenced=st.booleans(),
                ready=st.booleans(),
                uptime=st.floats(0, 7200),
                start_timeout=st.just(3600.0),
                counters=st.none() | st.sampled_from("12"),
                requests=st.none() | st.integers(0, 2),
                cpu=st.none() | st.floats(0, 1000),
            ),
            st.booleans(),
            st.floats(-100, 900),
        ),
        max_size=60,
    )
)
def test_whatever_happens(steps):
    """Never more restarts in an hour than allowed, none of what does not run, and none of what shows life."""
    state, now = State(), 10_000.0
    for look, answers, pause in steps:
        now += pause
        before, state = state, judge(state, look, POLICY, now, fine if answers else silent)
        assert len(state.restarts) <= POLICY.restarts_max
        if state.verdict == "restarted":
            assert look.run
            assert not look.fenced
            assert look.counters in (None, before.counters) or not look.ready
            assert not answers or not look.ready
        assert state.since == (before.since if state.verdict == before.verdict else now)


def part(*ends, run="a", silent=(), serves=False):
    return Look(run, counters="1", requests=0, serves=serves, peers={"n2": list(ends)}, silent=silent)


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        # Nobody has come yet, which may take as long as it likes.
        ([part()] * 9, ["waiting"] * 9),
        ([part("1")] * 9, ["joined"] * 9),
        # Connections come and go, one stays from look to look.
        ([part("1"), part("1", "2"), part("2"), part("2", "3"), part("3")], ["joined"] * 5),
        ([part("1"), part(), part("1"), part(), part("1")], ["joined"] * 5),
        ([part("1"), part(), part()], ["joined", "joined", "restarted"]),
        # What came in its place is another run.
        ([part("1"), part("2"), part("2")], ["joined", "joined", "restarted"]),
        ([part("1"), part("1", silent=["n2"]), part("1", silent=["n2"])], ["joined", "joined", "restarted"]),
        # The new run knows nobody.
        (
            [part("1"), part(), part(), part(run="b"), part("2", run="b")],
            ["joined"] * 2 + ["restarted", "waiting", "joined"],
        ),
    ],
)
def test_a_part_is_restarted_when_one_that_it_has_met_has_gone(parts, expected):
    assert looks(*[(look, never) for look in parts])[1] == expected


def test_the_head_is_restarted_with_those_that_have_gone():
    head = [part("1", serves=True), part("2", serves=True), part("2", serves=True)]
    state, verdicts = looks(*[(look, fine) for look in head])
    assert verdicts == ["idle", "idle", "restarted"]
    assert state.reason == "n2 of the hosts that share it, or what ran there, has gone"


def test_who_goes_again_and_again_is_not_followed_for_ever():
    again = [
        look for number in range(40) for look in (part(str(number), run=f"{number}"), *[part(run=f"{number}")] * 2)
    ]
    _state, verdicts = looks(*[(look, never) for look in again])
    assert verdicts.count("restarted") == POLICY.restarts_max
    assert verdicts[-1] == "given-up"
