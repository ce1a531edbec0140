"""What must hold of one member's state at every step, and between two successive states.

Cheap enough to be checked after every step in production too: a member that finds one broken stops at once, since
whatever it did next could lose data. So what is said of a broken one is put together only then. What must hold
*between* members only a test can see (Raft paper, figure 3).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from raftkv.raft.lease import Grant
from raftkv.raft.log import InvariantBroken
from raftkv.raft.roles import Candidate, Leader

if TYPE_CHECKING:
    from raftkv.raft.core import Raft

_ELECTED = Candidate | Leader


@dataclass(frozen=True, slots=True)
class Observed:
    """What of a state is compared with the next one."""

    term: int
    voted_for: int
    longest_promise_ms: int
    committed_index: int
    handed_out_index: int
    last_index: int
    leads: bool
    voters: frozenset[int]


def observe(raft: Raft) -> Observed:
    return Observed(
        raft.current_term,
        raft.voted_for,
        raft.longest_promise_ms,
        raft.committed_index,
        raft.handed_out_index,
        raft.log.last_index,
        isinstance(raft.role, Leader),
        raft.configuration.voters,
    )


def check_state(raft: Raft) -> None:
    """Raise InvariantBroken if the state is one that must never be."""
    log, role, handed_out = raft.log, raft.role, raft.handed_out_index
    committed, last = log.committed_index, log.last_index
    if not log.previous.index <= handed_out:
        raise InvariantBroken(f"compacted up to {log.previous.index} <= handed out {handed_out}")
    if not handed_out <= committed <= last:
        raise InvariantBroken(f"handed out {handed_out} <= committed {committed} <= last {last}")
    if not log.durable_index <= last:
        raise InvariantBroken(f"durable {log.durable_index} <= last {last}")
    if not log.configurations.latest_index <= last:
        raise InvariantBroken("the configuration is one of the log's")
    if isinstance(role, _ELECTED) and not raft.voted_for == raft.me:
        raise InvariantBroken(f"a {type(role).__name__} has voted for itself, not {raft.voted_for}")
    if isinstance(role, Leader):
        _check_leader(raft, role, last)
    if raft.lease is not None:
        _check_lease(raft, raft.lease)


def _check_leader(raft: Raft, leader: Leader, last: int) -> None:
    configurations, configuration = raft.log.configurations, raft.configuration
    others = (configuration.members - {raft.me}) | leader.leaving.keys()
    if not leader.progress.keys() == others:
        raise InvariantBroken(f"a leader knows of {sorted(others)}, not {sorted(leader.progress)}")
    if raft.me not in configuration.voters and raft.handed_out_index >= configurations.latest_index:
        raise InvariantBroken("a leader that is removed has stepped down")
    if raft.is_serving and not configurations.count_after(raft.committed_index) <= 1:
        uncommitted = configurations.count_after(raft.committed_index)
        raise InvariantBroken(f"one change of the configuration at a time, not {uncommitted}")
    for peer, progress in leader.progress.items():
        if not progress.match_index < progress.next_index <= last + 1:
            indexes = f"match {progress.match_index} < next {progress.next_index} <= {last + 1}"
            raise InvariantBroken(f"of {peer}: {indexes}")


def _check_lease(raft: Raft, lease: Grant) -> None:
    role = raft.role
    if not isinstance(role, Leader):
        raise InvariantBroken("only a leader holds a lease")
    if not lease.term == raft.current_term:
        raise InvariantBroken(f"the lease is of term {lease.term}, not the current one")
    if role.has_let_go:
        raise InvariantBroken("who hands over has no lease in its term any more")
    if not raft.is_serving:
        raise InvariantBroken("a lease needs a committed entry of the leader's own term")


def check_transition(before: Observed, after: Observed) -> None:
    """Raise InvariantBroken if the second state can't follow the first."""
    if not after.term >= before.term:
        raise InvariantBroken(f"the term went back from {before.term} to {after.term}")
    if after.term == before.term:
        if before.voted_for not in (0, after.voted_for):
            votes = f"from {before.voted_for} to {after.voted_for}"
            raise InvariantBroken(f"the vote of term {after.term} changed {votes}")
        if before.leads and after.leads:
            _check_same_leader(before, after)
    if not after.longest_promise_ms >= before.longest_promise_ms:
        raise InvariantBroken("the longest promise only grows")
    if not after.committed_index >= before.committed_index:
        indexes = f"from {before.committed_index} to {after.committed_index}"
        raise InvariantBroken(f"the commit index went back {indexes}")
    if not after.handed_out_index >= before.handed_out_index:
        raise InvariantBroken("what was handed out went back")


def _check_same_leader(before: Observed, after: Observed) -> None:
    if not after.last_index >= before.last_index:
        raise InvariantBroken("a leader's log only grows (Leader Append-Only, 5.3)")
    changed = len(before.voters ^ after.voters)
    if not changed <= 1:
        raise InvariantBroken(f"the voters change one at a time, not {changed} (diss. 4.1)")
