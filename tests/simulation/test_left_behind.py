"""Followers that are left behind: that each play comes about, and that the bugs which they ask for would be found."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from raftkv.raft.log import Log
from raftkv.raft.types import LogPosition
from tests.simulation import left_behind
from tests.simulation.member import Member
from tests.simulation.plan import Fault, Plan, draw
from tests.simulation.simulation import Simulation
from tests.simulation.stage import Stage
from tests.simulation.world import Violation

Play = Callable[[Stage, Member, Member], None]

PLANS = [
    replace(plan, faults=frozenset({Fault.LEFT_BEHIND}))
    for plan in map(draw, range(1, 300))
    if plan.has(Fault.LEFT_BEHIND) and len(plan.members) in (3, 5) and not plan.drift_violated
]
"""Nothing else happens in these."""


LATE: dict[Play, int] = {left_behind._the_leader_crashes: 26, left_behind._it_piles_up: 65}
"""The first seed that gets to what these are about, so that it can be tried first."""


def run(plan: Plan) -> tuple[Simulation, str]:
    """A run, and its story."""
    lines: list[str] = []
    simulation = Simulation(plan, lines.append)
    simulation.run()
    return simulation, "\n".join(lines)


@pytest.mark.parametrize(
    ("play", "what_comes_of_it"),
    [
        (left_behind._all_goes_well, "has installed the state after entry"),
        (left_behind._it_crashes, "crashes at: "),
        (left_behind._the_leader_crashes, "snapshots sent: gone on with where another had stopped"),
        (left_behind._the_leader_changes, "snapshots sent: given up, as the term was over"),
        (left_behind._it_stands_still, "goes on"),
        (left_behind._it_has_no_room, "snapshots sent: refused, as the disk failed"),
        (left_behind._it_breaks_off, "snapshots sent: given up, as nothing came"),
        (left_behind._it_piles_up, "snapshots sent: given up, as nothing came"),
        (left_behind._it_comes_again, "snapshots sent: not wanted"),
    ],
)
def test_a_play_gets_to_what_it_is_about(monkeypatch: pytest.MonkeyPatch, play: Play, what_comes_of_it: str) -> None:
    monkeypatch.setattr(left_behind, "_PLAYS", [play])
    plans = sorted(PLANS, key=lambda plan: plan.seed != LATE.get(play))
    assert any(what_comes_of_it in run(plan)[1] for plan in plans)  # as many as it takes


def run_many() -> None:
    for plan in PLANS[:20]:
        Simulation(plan).run()


def hold_by_length(log: Log, position: LogPosition) -> bool:
    return position.index <= log.last_index


def test_a_log_that_is_kept_though_it_conflicts_would_be_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hazard 31."""
    monkeypatch.setattr(Log, "holds", hold_by_length)
    with pytest.raises(Violation):
        run_many()
