"""Machines that were given up and come back: that the play gets to its end, and that it finds the bugs that it asks
for."""

from __future__ import annotations

from dataclasses import replace

import pytest

from raftkv.raft.core import Raft
from raftkv.raft.messages import AppendEntriesReply, Message, RequestVoteReply
from tests.simulation.plan import Fault, draw
from tests.simulation.simulation import Simulation
from tests.simulation.world import Violation

PLANS = [
    replace(plan, faults=frozenset({Fault.FORMER_DISK}))
    for plan in map(draw, range(1, 150))
    if plan.has(Fault.FORMER_DISK) and not plan.drift_violated
]
"""Nothing else happens in these."""


def run_them() -> int:
    """How often a former disk came back."""
    simulations = [Simulation(plan) for plan in PLANS[:8]]
    for simulation in simulations:
        simulation.run()
    return sum(simulation.world.counts["membership", "former disks come back"] for simulation in simulations)


def test_former_disks_come_back() -> None:
    assert run_them() >= 8


def test_votes_of_a_former_disk_would_be_found_to_count(monkeypatch: pytest.MonkeyPatch) -> None:
    check = Raft._is_from_anothers_disk

    def but_votes(raft: Raft, message: Message) -> bool:
        return not isinstance(message, RequestVoteReply) and check(raft, message)

    monkeypatch.setattr(Raft, "_is_from_anothers_disk", but_votes)
    with pytest.raises(Violation, match="by the votes of"):
        run_them()


def test_acknowledgements_of_a_former_disk_would_be_found_to_count(monkeypatch: pytest.MonkeyPatch) -> None:
    check = Raft._is_from_anothers_disk

    def but_acknowledgements(raft: Raft, message: Message) -> bool:
        return not isinstance(message, AppendEntriesReply) and check(raft, message)

    monkeypatch.setattr(Raft, "_is_from_anothers_disk", but_acknowledgements)
    # Or the leader never believes the one that it comes back to: it has one disk, as far as a leader knows.
    with pytest.raises(Violation, match=r"counts on|durable only on|no rest"):
        run_them()
