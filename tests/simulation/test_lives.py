"""Members that lose their disks and come back: that the play gets to its last act, and that the bugs which it asks for
would be found."""

from __future__ import annotations

from dataclasses import replace

import pytest

from raftkv.raft import elections
from raftkv.raft.core import Raft
from raftkv.raft.roles import Leader
from raftkv.raft.types import Configuration
from tests.simulation.plan import Fault, draw
from tests.simulation.simulation import Simulation
from tests.simulation.world import Violation

PLANS = [
    replace(plan, faults=frozenset({Fault.LIVES}))
    for plan in map(draw, range(1, 80))
    if plan.has(Fault.LIVES) and not plan.drift_violated
]
"""Nothing else happens in these."""


def run_them() -> int:
    """How often all that were added again knew of their earlier lives when the leader went."""
    simulations = [Simulation(plan) for plan in PLANS[:8]]
    for simulation in simulations:
        simulation.run()
    return sum(simulation.world.counts["membership", "all know of their earlier lives"] for simulation in simulations)


def test_the_leader_goes_when_the_others_know_only_of_their_earlier_lives() -> None:
    assert run_them() >= 5


def test_members_that_take_a_founding_one_for_themselves_would_be_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(elections, "is_meant_by", lambda raft, configuration: True)
    with pytest.raises(Violation, match=r"Leader Completeness|by the votes of"):
        run_them()


def test_members_that_take_one_that_was_added_earlier_for_themselves_would_be_found(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """If the others let them: two rules stand in the way."""

    def by_its_id(raft: Raft, configuration: Configuration) -> bool:
        return not raft._joined or raft.me in dict(configuration.joined)

    monkeypatch.setattr(elections, "is_meant_by", by_its_id)
    assert run_them()
    monkeypatch.setattr(Configuration, "disk_of", lambda configuration, member: b"")
    with pytest.raises(Violation, match="Leader Completeness"):
        run_them()


def test_answers_of_the_member_that_had_the_id_before_would_be_found_to_count(monkeypatch: pytest.MonkeyPatch) -> None:
    adopt = Leader.adopt

    def and_take_any_answer(leader: Leader, configuration: Configuration, me: int, last_index: int, now: float) -> None:
        adopt(leader, configuration, me, last_index, now)
        for progress in leader.progress.values():
            progress.first_round = 1

    monkeypatch.setattr(Leader, "adopt", and_take_any_answer)
    with pytest.raises(Violation, match="durable"):
        run_them()
