"""Every invariant notices the state, or the step, that breaks it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from raftkv.raft.invariants import Observed, check_state, check_transition, observe
from raftkv.raft.lease import Grant
from raftkv.raft.log import InvariantBroken
from raftkv.raft.roles import Candidate, Follower
from raftkv.raft.types import HardState
from tests.raft.lone import Lone


def serving() -> Lone:
    lone = Lone([1, 1], committed=1)
    lone.serve()
    return lone


def corrupt_commit_index(lone: Lone) -> None:
    lone.raft.log.committed_index = lone.raft.log.last_index + 1


def corrupt_handed_out_index(lone: Lone) -> None:
    lone.raft.handed_out_index = lone.raft.committed_index + 1


def corrupt_vote(lone: Lone) -> None:
    lone.raft._hard_state = HardState(lone.term, voted_for=2)


def corrupt_candidates_vote(lone: Lone) -> None:
    lone.raft.lease = None
    lone.raft.role = Candidate(election_deadline=1.0)
    corrupt_vote(lone)


def corrupt_match_index(lone: Lone) -> None:
    lone.leader.progress[2].match_index = lone.leader.progress[2].next_index


def corrupt_next_index(lone: Lone) -> None:
    lone.leader.progress[2].next_index = lone.raft.log.last_index + 2


def keep_the_lease_of_a_lost_leadership(lone: Lone) -> None:
    lone.raft.role = Follower(election_deadline=1.0)


def keep_the_lease_of_an_earlier_term(lone: Lone) -> None:
    lone.raft.lease = Grant(lone.term - 1, until=99.0)


def take_a_lease_before_the_first_commit(lone: Lone) -> None:
    lone.leader.term_start_index = lone.raft.committed_index + 1


def lose_the_log_behind_the_commit_index(lone: Lone) -> None:
    lone.storage._entries.clear()


@pytest.mark.parametrize(
    ("corrupt", "message"),
    [
        (corrupt_commit_index, "committed 4 <= last 3"),
        (corrupt_handed_out_index, "handed out 4 <= committed 3"),
        (corrupt_vote, "a Leader has voted for itself, not 2"),
        (corrupt_candidates_vote, "a Candidate has voted for itself, not 2"),
        (corrupt_match_index, "of 2: match 4 < next 4"),
        (corrupt_next_index, "of 2: match 3 < next 5 <= 4"),
        (keep_the_lease_of_a_lost_leadership, "only a leader holds a lease"),
        (keep_the_lease_of_an_earlier_term, "the lease is of term 1"),
        (take_a_lease_before_the_first_commit, "a lease needs a committed entry of the leader's own term"),
        (lose_the_log_behind_the_commit_index, "committed 3 <= last 0"),
    ],
)
def test_a_state_that_must_never_be_is_noticed(corrupt: Callable[[Lone], None], message: str) -> None:
    lone = serving()
    check_state(lone.raft)
    corrupt(lone)
    with pytest.raises(InvariantBroken, match=message):
        check_state(lone.raft)


def test_a_broken_state_stops_the_member_at_its_next_step() -> None:
    lone = serving()
    keep_the_lease_of_an_earlier_term(lone)
    with pytest.raises(InvariantBroken, match="the lease is of term 1"):
        lone.propose("SET k v")


BEFORE = Observed(
    term=3,
    voted_for=1,
    longest_promise_ms=400,
    committed_index=5,
    handed_out_index=4,
    last_index=9,
    leads=True,
    voters=frozenset({1, 2, 3}),
)


@pytest.mark.parametrize(
    ("after", "message"),
    [
        (replace(BEFORE, term=2), "the term went back from 3 to 2"),
        (replace(BEFORE, voted_for=2), "the vote of term 3 changed from 1 to 2"),
        (replace(BEFORE, voted_for=0), "the vote of term 3 changed from 1 to 0"),
        (replace(BEFORE, last_index=8), "a leader's log only grows"),
        (replace(BEFORE, longest_promise_ms=399), "the longest promise only grows"),
        (replace(BEFORE, committed_index=4), "the commit index went back from 5 to 4"),
        (replace(BEFORE, handed_out_index=3), "what was handed out went back"),
        (replace(BEFORE, voters=frozenset({1, 2, 3, 4, 5})), "the voters change one at a time, not 2"),
        (replace(BEFORE, voters=frozenset({1, 2, 4})), "the voters change one at a time, not 2"),
    ],
)
def test_a_step_that_must_never_be_is_noticed(after: Observed, message: str) -> None:
    with pytest.raises(InvariantBroken, match=message):
        check_transition(BEFORE, after)


@pytest.mark.parametrize(
    "after",
    [
        BEFORE,
        replace(BEFORE, term=4, voted_for=2, leads=False),
        replace(BEFORE, term=4, voted_for=0, last_index=6, leads=False),
        replace(BEFORE, leads=False, last_index=7),
        replace(BEFORE, voters=frozenset({2, 3})),
        replace(BEFORE, voters=frozenset({4, 5}), leads=False),
        replace(BEFORE, longest_promise_ms=500, committed_index=9, handed_out_index=9, last_index=12),
    ],
)
def test_a_step_that_may_be_is_let_pass(after: Observed) -> None:
    check_transition(BEFORE, after)
    check_transition(replace(BEFORE, voted_for=0), after)


def test_each_step_is_compared_with_the_one_before() -> None:
    lone = serving()
    before = observe(lone.raft)
    lone.raft._hard_state = replace(lone.raft._hard_state, longest_promise_ms=-1)
    with pytest.raises(InvariantBroken, match="the longest promise only grows"):
        lone.propose("SET k v")
    assert before.longest_promise_ms == 0
