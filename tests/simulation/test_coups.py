"""Coups: that each comes about, and that the one which a bug of this core's past asked for would have found it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from raftkv.raft.core import Raft
from raftkv.raft.messages import AppendEntries, Message
from tests.simulation import coups
from tests.simulation.member import Member
from tests.simulation.plan import Fault, Plan, draw
from tests.simulation.simulation import Simulation
from tests.simulation.stage import Stage
from tests.simulation.world import Violation

Coup = Callable[[Stage, Member], None]

PLANS = [
    replace(plan, faults=frozenset({Fault.COUP}))
    for plan in map(draw, range(1, 120))
    if plan.has(Fault.COUP) and len(plan.members) > 1 and not plan.drift_violated
]
"""Nothing else happens in these."""


def run(plan: Plan) -> str:
    """The story of a run."""
    lines: list[str] = []
    Simulation(plan, lines.append).run()
    return "\n".join(lines)


@pytest.mark.parametrize(
    ("coup", "last_act"),
    [
        (coups._it_stands_still, "goes on"),
        (coups._it_oversleeps, "goes on"),
        (coups._a_short_reign, "ends the reign of"),
        (coups._a_rival_is_ready, "is ready"),
        (coups._some_are_deaf, "goes on"),
        (coups._one_remembers, "goes on"),
        (coups._a_rejection_is_a_promise, "goes on"),
        (coups._answers_come_late, "all cuts heal"),
        (coups._it_is_elected_again, "requests of earlier terms of"),
        (coups._a_longer_log, "and keeps"),
        (coups._figure_8, "and keeps"),
    ],
)
def test_a_coup_gets_to_its_last_act(monkeypatch: pytest.MonkeyPatch, coup: Coup, last_act: str) -> None:
    monkeypatch.setattr(coups, "_COUPS", [coup])
    assert any(last_act in run(plan) for plan in PLANS[:5])


def test_an_answer_to_a_request_of_an_earlier_term_would_be_found_to_renew_a_lease(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The bug of tests/raft/test_regressions.py: a follower's answer to an old request named the round of that, and the
    sender, which led again, counted it among those of its new term."""
    settle = Raft._settle_term

    def with_the_bug(raft: Raft, message: Message) -> bool:
        if isinstance(message, AppendEntries) and message.term < raft.current_term:
            raft._send(message.rejected(raft.current_term))
            return False
        return settle(raft, message)

    def run_them() -> None:
        for plan in PLANS[:20]:
            Simulation(plan).run()

    monkeypatch.setattr(coups, "_COUPS", [coups._it_is_elected_again])
    monkeypatch.setattr(Raft, "_settle_term", with_the_bug)
    with pytest.raises(Violation, match="lease"):
        run_them()
