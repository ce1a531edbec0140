"""Raft dissertation, section 4.2.3 (and the paper's section 6, end): servers that disturb a working leader.

Each test quotes its rule, and has three parts: init, test, check.
"""

from __future__ import annotations

import pytest

from raftkv.raft.messages import RequestVoteReply
from tests.raft.lone import DEFAULTS, Lone, at
from tests.support.raft_cluster import Cluster

ELECTION_TIMEOUT = DEFAULTS.election_timeout


@pytest.mark.parametrize("since_heard", [0.0, ELECTION_TIMEOUT - 0.001])
def test_who_has_just_heard_a_leader_neither_votes_nor_updates_its_term(since_heard: float) -> None:
    """'If a server receives a RequestVote request within the minimum election timeout of hearing from a current leader,
    it does not update its term or grant its vote.'"""
    lone = Lone(term=1)
    lone.step(lone.append(2))
    lone.oversleep(since_heard)

    [reply] = lone.step(lone.vote_request(3, term=9, last=at(5, 5)))

    assert isinstance(reply, RequestVoteReply)
    assert (reply.granted, reply.term) == (False, 1)
    assert (lone.term, lone.raft.voted_for, lone.raft.leader_id) == (1, 0, 2)


def test_once_the_leader_is_silent_for_the_minimum_timeout_it_votes() -> None:
    """'[...] within the minimum election timeout of hearing from a current leader.'"""
    lone = Lone(term=1)
    lone.step(lone.append(2))
    lone.oversleep(ELECTION_TIMEOUT)

    [reply] = lone.step(lone.vote_request(3, term=9, last=at(5, 5)))

    assert isinstance(reply, RequestVoteReply)
    assert (reply.granted, reply.term) == (True, 9)


def test_a_leader_with_a_majority_is_not_deposed_by_a_vote_request() -> None:
    """'[...] a leader that is able to get heartbeats to its cluster should not be deposed by larger term numbers.'"""
    lone = Lone()
    lone.serve()

    [reply] = lone.step(lone.vote_request(3, term=9, last=at(5, 5)))

    assert isinstance(reply, RequestVoteReply)
    assert (reply.granted, reply.term) == (False, 1)
    assert (lone.role, lone.term) == ("leader", 1)


def test_a_request_of_the_leaders_own_term_is_no_disturbance() -> None:
    """'If a server receives a RequestVote request within the minimum election timeout [...]': the rule is there for
    larger terms. A vote request that comes twice, the second time after its sender has won, does not make a follower
    forget whom it follows."""
    lone = Lone()
    request = lone.vote_request(2, term=1)
    lone.step(request)
    lone.step(lone.append(2))

    lone.step(request)
    [disturbing] = lone.step(lone.vote_request(3, term=2))

    assert lone.raft.leader_id == 2
    assert isinstance(disturbing, RequestVoteReply)
    assert not disturbing.granted


def test_a_member_that_knows_no_leader_yet_votes() -> None:
    """'[...] hearing from a current leader': after a start, or in a term whose leader it has not heard, there is
    none."""
    lone = Lone([1], term=4)

    [reply] = lone.step(lone.vote_request(3, term=5, last=at(5, 5)))

    assert isinstance(reply, RequestVoteReply)
    assert reply.granted


def test_a_member_that_was_cut_off_comes_back_without_disturbing_anybody() -> None:
    """'[...] a server that is partitioned and comes back': its leader, and the term, stay."""
    cluster = Cluster(5)
    leader = cluster.run_until_serving()
    term = leader.raft.current_term
    away = next(i for i in cluster.members if i != leader.id)

    cluster.isolate(away)
    cluster.run(10.0)
    cluster.heal()
    cluster.run(10.0)

    assert cluster.serving() is leader
    assert {m.raft.current_term for m in cluster.members.values()} == {term}
    assert cluster.members[away].raft.leader_id == leader.id
