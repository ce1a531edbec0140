"""What follows when the leader answers a play, or the operator, that asks it for a change of the membership."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from raftkv.raft.configuration import Change
from raftkv.replica import Applied, NotLeader, Outcome, Refused, Unknown
from tests.simulation.memberships import Operator
from tests.simulation.plan import draw
from tests.simulation.replacing import add, remove
from tests.simulation.simulation import Simulation
from tests.simulation.stage import Stage


class Asked:
    """A leader that keeps what it is asked for; nobody else runs."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        simulation = Simulation(draw(5))
        self.stage = Stage(
            simulation.world, simulation.network, simulation.members, simulation.clients, simulation.plan
        )
        self.operator = Operator(self.stage, simulation.checks)
        self.leader, self.member, *_ = simulation.members.values()
        self.changes: list[Change] = []
        self._answered: list[Callable[[Outcome], None]] = []
        self.done: list[str] = []
        """What was to be done then, and has been."""
        monkeypatch.setattr(self.leader, "change_configuration", self._take)
        self.member.is_wanted = False

    def _take(self, change: Change, answered: Callable[[Outcome], None]) -> None:
        self.changes.append(change)
        self._answered.append(answered)

    def for_it_to(self, do: Callable[..., None]) -> None:
        do(self.stage, self.leader, self.member, self.done.append, "then")

    def answer(self, outcome: Outcome) -> None:
        self._answered.pop()(outcome)

    def a_step_passes(self) -> None:
        self.stage.world.run(self.stage.world.now + self.stage.step)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Asked:
    return Asked(monkeypatch)


def test_it_goes_on_when_the_change_is_applied_but_not_in_the_middle_of_the_leaders_turn(asked: Asked) -> None:
    asked.for_it_to(remove)
    asked.answer(Applied([]))
    assert not asked.done
    asked.a_step_passes()
    assert asked.done == ["then"]


def test_it_asks_again_for_what_is_refused_for_now(asked: Asked) -> None:
    asked.for_it_to(add)
    asked.answer(Refused("not yet", try_again=True))
    asked.a_step_passes()
    first, again = asked.changes
    assert first == again
    asked.answer(Applied([]))
    asked.a_step_passes()
    assert asked.done == ["then"]


@pytest.mark.parametrize("outcome", [Refused("never", try_again=False), NotLeader(0), Unknown("who knows")])
def test_any_other_answer_ends_the_play(asked: Asked, outcome: Outcome) -> None:
    asked.for_it_to(add)
    asked.answer(outcome)
    asked.a_step_passes()
    assert len(asked.changes) == 1
    assert not asked.done
    assert not asked.member.is_wanted


@pytest.mark.parametrize("outcome", [Applied([]), Unknown("who knows")])
def test_when_the_storm_is_over_who_may_have_been_added_comes_up(asked: Asked, outcome: Outcome) -> None:
    asked.for_it_to(add)
    asked.stage.is_over = True
    asked.answer(outcome)
    assert asked.member.is_up
    asked.a_step_passes()
    assert not asked.done


@pytest.mark.parametrize("outcome", [Refused("not yet", try_again=True), NotLeader(0)])
def test_when_the_storm_is_over_who_has_not_been_added_stays_off(asked: Asked, outcome: Outcome) -> None:
    asked.for_it_to(add)
    asked.stage.is_over = True
    asked.answer(outcome)
    asked.a_step_passes()
    assert not asked.member.is_wanted
    assert len(asked.changes) == 1


def test_when_the_storm_is_over_who_has_been_removed_stays_off(asked: Asked) -> None:
    asked.for_it_to(remove)
    asked.stage.is_over = True
    asked.answer(Applied([]))
    assert not asked.member.is_wanted


@pytest.mark.parametrize(
    ("outcome", "comes_up"), [(Applied([]), True), (Unknown("who knows"), True), (NotLeader(0), False)]
)
def test_whom_the_operator_may_have_added_comes_up_also_when_the_storm_is_over(
    asked: Asked, outcome: Outcome, comes_up: bool
) -> None:
    asked.operator._add_one(asked.leader, asked.member)
    asked.stage.is_over = True
    asked.answer(outcome)
    assert asked.member.is_up is comes_up
