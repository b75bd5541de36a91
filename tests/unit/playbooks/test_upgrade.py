# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""upgrade.yml under the real ansible-playbook: who is upgraded, who is put back, who is left alone, and what is said.

What real engines and GPUs make of it is shown by molecule/upgrade and molecule/upgrade_faults.
"""

from __future__ import annotations

import socket

import pytest
from upgrade_fleet import ENGINES, NEW, OLD, ROOT, Fleet

SERVES_OLD = (OLD, True, False)
SERVES_NEW = (NEW, True, False)
AGAIN = "run upgrade.yml again, which ends what was begun there or puts it back"


@pytest.fixture
def make(tmp_path):
    """make(engine, hosts): a fleet whose services listen."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield lambda engine, hosts: Fleet(tmp_path, hosts, engine, server.getsockname()[1])


@pytest.fixture
def fleet(make):
    """Three hosts with Ollama: a canary, or a batch of two, and one of a later batch."""
    return make("ollama", "abc")


def states(fleet):
    return [fleet.state(host) for host in fleet.hosts]


def test_each_host_is_drained_for_its_switch_after_the_canary_has_come_to_its_end(fleet):
    outcome = fleet.upgrade()
    assert outcome.status == 0
    assert states(fleet) == [SERVES_NEW] * 3
    for host in fleet.hosts:
        steps = [(noted["step"], noted["drained"]) for noted in outcome.steps if noted["host"] == host]
        assert steps == [
            *(("preflight", False), ("environment", False), ("ask", True), ("environment", True), ("switch", True)),
            *(("judge", True), ("ask", True)),
        ]
    begun = [noted["host"] for noted in outcome.steps if noted["step"] != "preflight"]
    assert begun[:6] == ["a"] * 6
    assert "a" not in begun[6:]


@pytest.mark.parametrize("when", ["at the beginning", "in preflight"])
def test_a_host_that_does_not_answer_before_the_first_batch_stops_it(fleet, when):
    if when == "at the beginning":
        fleet.lose("b")
    outcome = fleet.upgrade({"b": {"preflight": "b"}})
    assert outcome.status != 0
    assert states(fleet) == [SERVES_OLD] * 3
    assert {noted["step"] for noted in outcome.steps} <= {"preflight"}
    assert "fatal: [b]: UNREACHABLE!" in outcome.said
    if when == "at the beginning":
        assert outcome.steps == []
        assert "Nothing was changed. b did not answer." in outcome.said
        assert "Repair them, or leave them out with --limit." in outcome.said


def test_a_host_that_is_lost_after_its_switch_ends_the_roll_out_and_the_next_run_ends_what_was_begun(fleet):
    outcome = fleet.upgrade({"b": {"switch": "b"}}, llmfleet_upgrade_batches=[2, 1], llmfleet_upgrade_prune=True)
    assert outcome.status != 0
    assert states(fleet) == [SERVES_NEW, (NEW, False, True), SERVES_OLD]
    assert outcome.of("c") == ["preflight"]
    assert outcome.of("a")[-1] == "ask"  # and no environment is removed
    assert "The roll-out ends here. b has failed or does not answer any more, see above: repair it and " in outcome.said
    assert AGAIN in outcome.said

    fleet.find("b")
    outcome = fleet.upgrade()
    assert outcome.status == 0
    assert states(fleet) == [SERVES_NEW] * 3
    assert outcome.of("a") == ["preflight"]
    # Without the question to what runs there, which may be the half of something.
    assert outcome.of("b") == ["preflight", "environment", "environment", "switch", "judge", "ask"]


def test_a_canary_that_is_lost_leaves_all_others_alone(fleet):
    outcome = fleet.upgrade({"a": {f"ask {OLD}": "a"}})
    assert outcome.status != 0
    assert states(fleet) == [(OLD, False, True), SERVES_OLD, SERVES_OLD]
    assert outcome.of("b") == outcome.of("c") == ["preflight"]
    # Nobody is left to say so afterwards.
    assert (
        "a: should they not answer any more, the roll-out ends here. Bring them back and run upgrade.yml"
        in outcome.said
    )
    assert "fatal: [a]: UNREACHABLE!" in outcome.said


def test_a_host_that_is_lost_while_it_is_put_back_is_put_back_by_the_next_run(fleet):
    lost = {"a": {"judge": "fails", "register_again": "a"}}
    assert fleet.upgrade(lost).status != 0
    assert states(fleet) == [(OLD, False, True), SERVES_OLD, SERVES_OLD]
    fleet.find("a")
    outcome = fleet.upgrade({"a": {"judge": "fails"}})
    assert outcome.status == 2
    assert "a was not upgraded, and answers with the version that it had" in outcome.said
    assert states(fleet) == [SERVES_OLD] * 3


@pytest.mark.parametrize(
    ("engine", "step", "restarts"),
    [("vllm", "environment", 0), ("ollama", "judge", 1), ("ollama", f"ask {NEW}", 1)],
    ids=["no environment can be made", "the gate refuses", "it is silent or too slow"],
)
def test_what_fails_is_put_back_and_no_other_host_begins(make, engine, step, restarts):
    fleet, old = make(engine, "abc"), ENGINES[engine][1]
    outcome = fleet.upgrade({"a": {step: "fails"}}, llmfleet_upgrade_prune=True)
    assert outcome.status == 2
    assert states(fleet) == [(old, True, False)] * 3
    # Where nothing was switched yet, nothing is started again, and nobody was drained.
    assert outcome.of("a").count("systemctl restart") == restarts
    assert any(noted.get("drained") for noted in outcome.steps) == bool(restarts)
    assert outcome.of("b") == outcome.of("c") == ["preflight"]
    name = step.partition(" ")[0]
    assert (
        f"a was not upgraded, and answers with the version that it had: /opt/llmfleet/{engine}/{old}. "
        f"{name}: {name} has failed here." in outcome.said
    )


def test_a_version_that_cannot_be_put_back_stays_out_of_its_edges(fleet):
    outcome = fleet.upgrade({"a": {"judge": "fails", "register_again": "fails"}})
    assert outcome.status == 2
    assert states(fleet) == [(OLD, False, True), SERVES_OLD, SERVES_OLD]
    assert "a was not upgraded, and needs a hand. judge: judge has failed here." in outcome.said
    assert "What was put back does not answer: register_again: register_again has failed here." in outcome.said
    assert "run gate.yml where the GPUs were refused, and then upgrade.yml again" in outcome.said


def test_the_others_of_a_batch_go_on_to_their_end(fleet):
    outcome = fleet.upgrade({"b": {"judge": "fails"}}, llmfleet_upgrade_batches=[2, 1])
    assert outcome.status == 2
    assert states(fleet) == [SERVES_NEW, SERVES_OLD, SERVES_OLD]
    assert outcome.of("c") == ["preflight"]
    assert "The roll-out ends here. b was not upgraded, see above. The other hosts of this batch" in outcome.said


@pytest.mark.parametrize(
    ("step", "state", "reason"),
    [
        (
            "preflight",
            SERVES_OLD,
            "expected an answer from every edge that has a as a backend. Nothing was changed on a.",
        ),
        ("environment", (OLD, True, True), "may send no requests to a, which answers with the version that it had."),
        (f"ask {NEW}", (NEW, False, True), "may send no requests to a, which answers with the new version."),
    ],
    ids=["before all", "to drain", "to undrain"],
)
def test_an_edge_that_does_not_answer_is_named_and_no_host_is_taken_for_lost(fleet, step, state, reason):
    outcome = fleet.upgrade({"a": {step: "edge"}})
    assert outcome.status == 2
    assert states(fleet) == [state, SERVES_OLD, SERVES_OLD]
    assert outcome.of("b") == outcome.of("c") == ["preflight"]
    assert reason in outcome.said
    assert "unreachable=1" not in outcome.said


@pytest.mark.parametrize("engine", sorted(ENGINES.keys() - {"ollama"}))
def test_another_engine_is_made_and_switched_by_its_own_role(make, engine):
    fleet = make(engine, "a")
    version, _old, new = ENGINES[engine]
    outcome = fleet.upgrade()
    assert outcome.status == 0
    assert fleet.state("a") == (new, True, False)
    # It is installed while the old version serves.
    made = [(noted["step"], noted["drained"]) for noted in outcome.steps if noted["step"] in ("environment", "switch")]
    assert made == [("environment", False), ("environment", True), ("switch", True)]
    (switched,) = [noted["variables"] for noted in outcome.steps if noted["step"] == "switch"]
    assert switched[f"{engine}_version"] == version
    assert switched[f"{engine}_name"] == "llmfleet-chat"
    assert switched[f"{engine}_requires"] == ["llmfleet-gpu-ready.service"]
    assert switched[f"{engine}_model"] == ("/data/models/m.gguf" if engine == "llama_cpp" else "/data/models/m")
    assert switched[f"{engine}_served_name"] == "chat"
    if engine != "llama_cpp":
        lock = switched[f"{engine}_lock"]
        assert lock.endswith(f"/playbooks/stacks/locks/{engine}-{version}.txt")
        assert (ROOT / lock[lock.index("/playbooks/") + 1 :]).is_file()
        assert switched[f"{engine}_part"]["serves"]
    # It is at its target now.
    assert fleet.upgrade().of("a") == ["preflight"]
