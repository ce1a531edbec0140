"""What lease a leader should have, worked out anew: the algorithm renews it only when something has changed."""

from __future__ import annotations

from raftkv.raft.core import Raft
from raftkv.raft.lease import Grant
from raftkv.raft.quorum import reached_by_majority
from raftkv.raft.roles import Leader


def lease_due(raft: Raft) -> Grant | None:
    """The lease that follows from what the voters have acknowledged so far; None if none does."""
    role, config = raft.role, raft.config
    if not isinstance(role, Leader) or role.has_let_go or not raft.is_serving or not config.lease_duration:
        return None
    rounds = role.rounds
    reached = reached_by_majority(raft.configuration.voters, {**rounds._acknowledged, raft.me: rounds.current})
    began = dict(rounds._began).get(reached)
    if began is None:
        return None
    return Grant(raft.current_term, began + config.lease_duration_ms / 1000 * (1 - config.clock_drift))
