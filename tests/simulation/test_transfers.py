"""Transfers: that each play comes about, and that the bugs which they ask for would be found."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from raftkv.raft import transfer as steps
from raftkv.raft.core import Raft
from raftkv.raft.lease import Promises
from raftkv.raft.messages import TimeoutNow
from raftkv.raft.roles import Leader
from raftkv.raft.types import Leadership
from tests.simulation import transfers
from tests.simulation.member import Member
from tests.simulation.plan import Fault, Plan, draw
from tests.simulation.simulation import Simulation
from tests.simulation.stage import Stage
from tests.simulation.world import Violation

Play = Callable[[Stage, Member], None]

PLANS = [
    replace(plan, faults=frozenset({Fault.TRANSFER}))
    for plan in map(draw, range(1, 200))
    if plan.has(Fault.TRANSFER) and len(plan.members) > 1 and not plan.drift_violated and plan.fault_pace <= plan.step
]
"""Nothing else happens in these."""


def run(plan: Plan) -> str:
    """The story of a run."""
    lines: list[str] = []
    Simulation(plan, lines.append).run()
    return "\n".join(lines)


@pytest.mark.parametrize(
    ("play", "what_comes_of_it"),
    [
        (transfers._just_so, "asked to hand over: done"),
        (transfers._the_target_is_in_trouble, "asked to hand over: given up"),
        (transfers._somebody_crashes, "crashes at"),
        (transfers._it_stands_still, "all cuts heal"),
        (transfers._timeout_now_comes_late, "asked to hand over: given up"),
        (transfers._one_after_another, "asked to hand over: done"),
        (transfers._during_a_wait, "it still waits for an earlier leader's lease"),
        (transfers._during_an_election, "it does not lead"),
        (transfers._it_comes_again, "does not take over"),
    ],
)
def test_a_play_gets_to_what_it_is_about(monkeypatch: pytest.MonkeyPatch, play: Play, what_comes_of_it: str) -> None:
    monkeypatch.setattr(transfers, "_PLAYS", [play])
    assert any(what_comes_of_it in run(plan) for plan in PLANS[:5])


def run_many() -> None:
    for plan in PLANS[:30]:
        Simulation(plan).run()


def test_a_leader_that_keeps_its_lease_would_be_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def without_revoking(raft: Raft, leader: Leader) -> None:
        transfer = leader.transfer
        if transfer is not None and not transfer.is_told and transfer.target in leader.progress:
            transfer.is_told = True
            raft._send(TimeoutNow(raft.me, transfer.target, raft.current_term))

    monkeypatch.setattr(steps, "go_on_with_transfer", without_revoking)
    with pytest.raises(Violation, match="still holds a lease"):
        run_many()


def test_releases_that_are_too_wide_would_be_found_to_break_a_lease(monkeypatch: pytest.MonkeyPatch) -> None:
    """A leader that waits for an earlier one's lease hands over, and the release is of that lease too."""
    until = Promises.until
    serving = Raft.is_serving

    def of_all(promises: Promises, released: Leadership | None = None) -> float:
        return until(promises) if released is None else float("-inf")

    def always(raft: Raft, leader: Leader, target: int) -> int:
        monkeypatch.setattr(Raft, "is_serving", True)
        try:
            return begin(raft, leader, target)
        finally:
            monkeypatch.setattr(Raft, "is_serving", serving)

    def told_at_once(raft: Raft, leader: Leader) -> None:
        transfer = leader.transfer
        if transfer is not None and not transfer.is_told and transfer.target in leader.progress:
            raft.lease, leader.has_let_go, transfer.is_told = None, True, True
            raft._send(TimeoutNow(raft.me, transfer.target, raft.current_term))

    begin = steps.begin_transfer
    monkeypatch.setattr(transfers, "_PLAYS", [transfers._during_a_wait])
    monkeypatch.setattr(Promises, "until", of_all)
    monkeypatch.setattr(steps, "begin_transfer", always)
    monkeypatch.setattr(steps, "go_on_with_transfer", told_at_once)
    with pytest.raises(Violation, match="lease"):
        run_many()
