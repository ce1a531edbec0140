"""Raft paper, section 5.1: Raft basics. Each test quotes the rule that it tests, and has three parts: init, test,
check."""

from __future__ import annotations

import pytest

from raftkv.raft.messages import AppendEntries, AppendEntriesReply, Message, RequestVote, RequestVoteReply
from raftkv.raft.types import ORIGIN, HardState
from tests.raft.lone import Lone, Persisted, at, only

ROLES = ["follower", "pre-candidate", "candidate", "leader"]


def in_role(role: str) -> Lone:
    """A member of term 2 in that role; its log is one entry of term 1."""
    lone = Lone([1], term=2 if role in ("follower", "pre-candidate") else 1)
    if role == "pre-candidate":
        lone.time_out()
    elif role == "candidate":
        lone.stand()
    elif role == "leader":
        lone.lead()
    assert (lone.role, lone.term) == (role, 2)
    return lone


def of_term(lone: Lone, kind: type[Message], term: int) -> Message:
    """A message from 3 of that kind and term."""
    if kind is AppendEntries:
        return lone.append(3, term=term, round=7)
    if kind is AppendEntriesReply:
        return AppendEntriesReply(3, lone.me, term, success=False, round=0)
    if kind is RequestVote:
        return lone.vote_request(3, term=term)
    return lone.vote(3, granted=False, term=term)


KINDS = [AppendEntries, AppendEntriesReply, RequestVote, RequestVoteReply]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("role", ["follower", "pre-candidate", "candidate"])
def test_a_smaller_term_is_updated_from_any_message(role: str, kind: type[Message]) -> None:
    """'Current terms are exchanged whenever servers communicate; if one server's current term is smaller than the
    other's, then it updates its current term to the larger value.'"""
    lone = in_role(role)

    lone.step(of_term(lone, kind, term=5))

    assert lone.term == 5
    assert lone.storage.hard_state.term == 5


@pytest.mark.parametrize("kind", [AppendEntries, AppendEntriesReply, RequestVoteReply])
@pytest.mark.parametrize("role", ["pre-candidate", "candidate", "leader"])
def test_a_candidate_or_leader_of_a_stale_term_reverts_to_follower(role: str, kind: type[Message]) -> None:
    """'If a candidate or leader discovers that its term is out of date, it immediately reverts to follower state.'"""
    lone = in_role(role)

    lone.step(of_term(lone, kind, term=5))

    assert lone.role == "follower"
    assert lone.term == 5


def test_a_leader_that_has_lost_its_majority_reverts_for_a_vote_request_too() -> None:
    """'If a candidate or leader discovers that its term is out of date, it immediately reverts to follower state.'
    (While it has a majority, it ignores the request: section 6, test_dissertation_4_2_3.py.)"""
    lone = in_role("leader")
    lone.oversleep(lone.config.election_timeout)

    lone.step(lone.vote_request(3, term=5, last=at(9, 4)))

    assert lone.role == "follower"
    assert lone.raft.voted_for == 3


@pytest.mark.parametrize("role", ROLES)
def test_a_request_with_a_stale_term_is_rejected(role: str) -> None:
    """'If a server receives a request with a stale term number, it rejects the request.'"""
    lone = in_role(role)
    log_before = lone.log_terms

    sent = lone.step(lone.append(3, at(1, 1), [1, 1], term=1, commit=1), lone.vote_request(3, term=1, last=at(9, 9)))

    appended, voted = sent
    assert isinstance(appended, AppendEntriesReply)
    assert isinstance(voted, RequestVoteReply)
    assert not appended.success
    assert not voted.granted
    assert appended.term == voted.term == 2, "the sender learns from it that its term is out of date"
    assert (lone.role, lone.log_terms, lone.raft.committed_index) == (role, log_before, 0)


@pytest.mark.parametrize("role", ROLES)
def test_an_answer_to_what_was_asked_in_an_earlier_term_is_ignored(role: str) -> None:
    """'Each server stores a current term number, which increases monotonically over time.'"""
    lone = in_role(role)

    sent = lone.step(
        AppendEntriesReply(2, lone.me, 1, success=True, round=1, match_index=1),
        AppendEntriesReply(3, lone.me, 1, success=True, round=1, match_index=1),
        lone.vote(2, term=1),
        lone.vote(3, term=1),
    )

    assert sent == []
    assert (lone.role, lone.term, lone.raft.committed_index) == (role, 2, 0)


def test_the_term_and_the_vote_survive_a_restart() -> None:
    """Figure 2, 'persistent state on all servers: updated on stable storage before responding to RPCs'."""
    lone = Lone()
    lone.step(lone.vote_request(2, term=5))

    lone.restart()

    assert (lone.term, lone.raft.voted_for, lone.role) == (5, 2, "follower")


@pytest.mark.parametrize("kind", [AppendEntries, RequestVote])
def test_a_new_term_is_durable_before_the_answer_leaves(kind: type[Message]) -> None:
    """Figure 2, 'persistent state on all servers: updated on stable storage before responding to RPCs'."""
    lone = Lone()

    lone.step(of_term(lone, kind, term=5))

    persisted, reply = lone.events
    assert isinstance(persisted, Persisted)
    assert persisted.hard_state == HardState(term=5, voted_for=3 if kind is RequestVote else 0)
    assert isinstance(reply, AppendEntriesReply | RequestVoteReply)


def test_followers_are_passive() -> None:
    """'Followers are passive: they issue no requests on their own but simply respond to requests from leaders and
    candidates.'"""
    lone = Lone([1])

    sent = lone.wait(lone.raft.deadline() - lone.now - 0.001)
    answers = lone.step(lone.append(2, term=1), lone.vote_request(3, term=1))

    assert sent == []
    assert [type(message) for message in answers] == [AppendEntriesReply, RequestVoteReply]


def test_a_request_is_answered_once_and_its_call_comes_back() -> None:
    """'Servers retry RPCs if they do not receive a response in a timely manner': so there is one response to each."""
    lone = in_role("candidate")

    sent = lone.step(
        lone.append(3, term=1, call=11),
        lone.vote_request(3, term=2, call=12),
        lone.vote_request(3, term=3, pre_vote=True, call=13),
        lone.append(3, term=3, call=14),
        lone.append(3, at(7, 3), term=3, call=15),
        lone.vote_request(2, term=4, call=16),
    )

    answers = [m for m in sent if isinstance(m, AppendEntriesReply | RequestVoteReply)]
    assert [answer.call for answer in answers] == [11, 12, 13, 14, 15, 16]
    assert {answer.recipient for answer in answers[:5]} == {3}


def test_requests_are_idempotent() -> None:
    """5.5: 'Raft RPCs are idempotent [...] if a follower receives an AppendEntries request that includes log entries
    already present in its log, it ignores those entries in the new request.'"""
    lone = Lone([1])
    request = lone.append(2, at(1, 1), [1, 2], term=2, commit=2)
    first = lone.step(request)
    state = (lone.log_terms, lone.raft.committed_index, lone.storage.hard_state)

    again = lone.step(request)

    assert again == first
    assert (lone.log_terms, lone.raft.committed_index, lone.storage.hard_state) == state
    assert len([event for event in lone.events if isinstance(event, Persisted)]) == 1


def test_terms_are_consecutive_integers() -> None:
    """'Terms are numbered with consecutive integers. Each term begins with an election.'"""
    lone = Lone(term=6)

    sent = lone.stand()

    assert [request.term for request in only(RequestVote, sent)] == [7, 7]
    assert sent[0] == RequestVote(1, 2, 7, ORIGIN)
