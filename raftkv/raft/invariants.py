"""What must hold of one member's state at every step, and between two successive states.

Cheap enough to be checked after every step in production too: a member that finds one broken stops at once, since
whatever it did next could lose data. What must hold *between* members only a test can see (Raft paper, figure 3).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from raftkv.raft.log import InvariantBroken
from raftkv.raft.roles import Candidate, Leader

if TYPE_CHECKING:
    from raftkv.raft.core import Raft


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


def _require(holds: bool, what: str) -> None:
    if not holds:
        raise InvariantBroken(what)


def check_state(raft: Raft) -> None:
    """Raise InvariantBroken if the state is one that must never be."""
    log, role = raft.log, raft.role
    _require(
        log.previous.index <= raft.handed_out_index,
        f"compacted up to {log.previous.index} <= handed out {raft.handed_out_index}",
    )
    _require(
        raft.handed_out_index <= log.committed_index <= log.last_index,
        f"handed out {raft.handed_out_index} <= committed {log.committed_index} <= last {log.last_index}",
    )
    _require(log.durable_index <= log.last_index, f"durable {log.durable_index} <= last {log.last_index}")
    if isinstance(role, Candidate | Leader):
        _require(raft.voted_for == raft.me, f"a {type(role).__name__} has voted for itself, not {raft.voted_for}")
    configurations = log.configurations
    _require(configurations.latest_index <= log.last_index, "the configuration is one of the log's")
    if isinstance(role, Leader):
        others = (raft.configuration.members - {raft.me}) | role.leaving.keys()
        _require(role.progress.keys() == others, f"a leader knows of {sorted(others)}, not {sorted(role.progress)}")
        removed = raft.me not in raft.configuration.voters and raft.handed_out_index >= configurations.latest_index
        _require(not removed, "a leader that is removed has stepped down")
        if raft.is_serving:
            uncommitted = configurations.count_after(log.committed_index)
            _require(uncommitted <= 1, f"one change of the configuration at a time, not {uncommitted}")
        for peer, progress in role.progress.items():
            _require(
                progress.match_index < progress.next_index <= log.last_index + 1,
                f"of {peer}: match {progress.match_index} < next {progress.next_index} <= {log.last_index + 1}",
            )
    if raft.lease is not None:
        _require(isinstance(role, Leader), "only a leader holds a lease")
        _require(raft.lease.term == raft.current_term, f"the lease is of term {raft.lease.term}, not the current one")
        _require(isinstance(role, Leader) and not role.has_let_go, "who hands over has no lease in its term any more")
        _require(raft.is_serving, "a lease needs a committed entry of the leader's own term")


def check_transition(before: Observed, after: Observed) -> None:
    """Raise InvariantBroken if the second state can't follow the first."""
    _require(after.term >= before.term, f"the term went back from {before.term} to {after.term}")
    if after.term == before.term:
        _require(
            before.voted_for in (0, after.voted_for),
            f"the vote of term {after.term} changed from {before.voted_for} to {after.voted_for}",
        )
        if before.leads and after.leads:
            _require(after.last_index >= before.last_index, "a leader's log only grows (Leader Append-Only, 5.3)")
            others = len(before.voters ^ after.voters)
            _require(others <= 1, f"the voters change one at a time, not {others} (diss. 4.1)")
    _require(after.longest_promise_ms >= before.longest_promise_ms, "the longest promise only grows")
    _require(
        after.committed_index >= before.committed_index,
        f"the commit index went back from {before.committed_index} to {after.committed_index}",
    )
    _require(after.handed_out_index >= before.handed_out_index, "what was handed out went back")
