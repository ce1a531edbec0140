"""Raft dissertation, section 9.6: PreVote. Each test quotes its rule, and has three parts: init, test, check."""

from __future__ import annotations

import pytest

from raftkv.raft.messages import RequestVote, RequestVoteReply
from raftkv.raft.types import HardState
from tests.raft.lone import DEFAULTS, Lone, at, only
from tests.support.raft_cluster import Cluster

ELECTION_TIMEOUT = DEFAULTS.election_timeout


def test_a_candidate_asks_before_it_increments_its_term() -> None:
    """'In the Pre-Vote algorithm, a candidate only increments its term if it first learns from a majority of the
    cluster that they would be willing to grant the candidate their votes.'"""
    lone = Lone([1, 1], term=4, size=5)

    sent = lone.time_out()

    assert (lone.role, lone.term, lone.storage.hard_state) == ("pre-candidate", 4, HardState(4))
    assert sent == [RequestVote(1, peer, 5, at(2, 1), pre_vote=True) for peer in (2, 3, 4, 5)]


@pytest.mark.parametrize(
    ("size", "willing", "role"),
    [
        (1, [], "leader"),
        (2, [], "pre-candidate"),
        (2, [2], "candidate"),
        (3, [2], "candidate"),
        (4, [2], "pre-candidate"),
        (5, [2], "pre-candidate"),
        (5, [2, 2, 2], "pre-candidate"),
        (5, [2, 4], "candidate"),
        (7, [2, 3], "pre-candidate"),
        (7, [2, 3, 4], "candidate"),
    ],
)
def test_it_stands_for_election_once_a_majority_is_willing(size: int, willing: list[int], role: str) -> None:
    """'[...] if it first learns from a majority of the cluster that they would be willing.'"""
    lone = Lone(size=size)
    lone.time_out()

    lone.step(*(lone.pre_vote(peer) for peer in willing))

    assert lone.role == role
    assert lone.term == (0 if role == "pre-candidate" else 1)


@pytest.mark.parametrize(
    ("last", "granted"), [(at(2, 1), True), (at(1, 2), True), (at(1, 1), False), (at(9, 0), False)]
)
def test_a_voter_is_willing_if_the_log_is_up_to_date(last: tuple[int, int], granted: bool) -> None:
    """'[...] (if the candidate's log is sufficiently up-to-date [...]).'"""
    lone = Lone([1, 1], term=2)

    [reply] = lone.step(lone.vote_request(2, term=3, last=last, pre_vote=True))  # type: ignore[arg-type]

    assert isinstance(reply, RequestVoteReply)
    assert reply.granted is granted


@pytest.mark.parametrize(("since_heard", "granted"), [(ELECTION_TIMEOUT - 0.001, False), (ELECTION_TIMEOUT, True)])
def test_a_voter_is_not_willing_while_it_hears_a_leader(since_heard: float, granted: bool) -> None:
    """'[...] and the voters have not received heartbeats from a valid leader for at least a baseline election
    timeout.'"""
    lone = Lone(term=2)
    lone.step(lone.append(2))
    lone.oversleep(since_heard)

    [reply] = lone.step(lone.vote_request(3, term=3, pre_vote=True))

    assert isinstance(reply, RequestVoteReply)
    assert reply.granted is granted


def test_a_leader_with_a_majority_is_not_willing() -> None:
    """'[...] a valid leader': itself."""
    lone = Lone()
    lone.serve()

    [reply] = lone.step(lone.vote_request(3, term=2, last=at(9, 9), pre_vote=True))
    lone.oversleep(ELECTION_TIMEOUT)
    [later] = lone.step(lone.vote_request(3, term=2, last=at(9, 9), pre_vote=True))

    assert isinstance(reply, RequestVoteReply)
    assert isinstance(later, RequestVoteReply)
    assert (reply.granted, later.granted) == (False, True)
    assert lone.role == "leader", "a question changes nothing"


@pytest.mark.parametrize(("term", "granted"), [(4, False), (5, False), (6, True), (9, True)])
def test_a_voter_is_willing_only_for_a_term_that_is_new_to_it(term: int, granted: bool) -> None:
    """'[...] would be willing to grant the candidate their votes': as far as they have not given them away."""
    lone = Lone(term=5)

    [reply] = lone.step(lone.vote_request(2, term=term, pre_vote=True))

    assert isinstance(reply, RequestVoteReply)
    assert (reply.granted, reply.term) == (granted, term if granted else 5)


def test_being_asked_changes_nothing_at_the_voter() -> None:
    """9.6: the question must not have effects, or it would disturb as an election does."""
    lone = Lone(term=5)
    deadline = lone.raft.deadline()

    lone.step(lone.vote_request(2, term=6, pre_vote=True), lone.vote_request(3, term=9, pre_vote=True))

    assert (lone.role, lone.term, lone.raft.voted_for, lone.raft.deadline()) == ("follower", 5, 0, deadline)
    assert lone.storage.hard_state == HardState(5)


def test_a_pre_vote_is_not_a_vote() -> None:
    """'[...] only increments its term if it first learns': what was learned does not count in the election itself."""
    lone = Lone()
    lone.time_out()

    lone.step(lone.vote(2, term=0), lone.vote(3, term=0))
    before = lone.role
    lone.step(lone.pre_vote(2))
    lone.step(lone.pre_vote(3, term=1), lone.pre_vote(2, term=1), lone.pre_vote(2, term=2))

    assert before == "pre-candidate"
    assert (lone.role, lone.term, lone.candidate.granted_by) == ("candidate", 1, {1})


def test_an_answer_to_an_earlier_question_does_not_count() -> None:
    """'[...] that they would be willing to grant the candidate their votes' in this term, not in one that has
    passed."""
    lone = Lone(size=5)
    lone.time_out()
    lone.step(lone.append(4, term=3))
    lone.time_out()

    lone.step(lone.pre_vote(2, term=1), lone.pre_vote(3, term=1), lone.pre_vote(5, term=3))

    assert (lone.role, lone.pre_candidate.granted_by) == ("pre-candidate", {1})


def test_a_refusal_tells_of_a_later_term() -> None:
    """Paper, 5.1: 'if one server's current term is smaller than the other's, then it updates its current term to the
    larger value.' Without it, two members whose terms differ could refuse each other for ever (hazard 44)."""
    lone = Lone(term=2)
    lone.time_out()

    lone.step(lone.pre_vote(2, granted=False, term=7))

    assert (lone.role, lone.term, lone.storage.hard_state.term) == ("follower", 7, 7)


def test_a_refusal_of_the_same_term_changes_nothing() -> None:
    """9.6: it waits for others to be willing, or for its next try."""
    lone = Lone(size=5, term=2)
    lone.time_out()

    lone.step(lone.pre_vote(2, granted=False), lone.pre_vote(3))

    assert (lone.role, lone.term, lone.pre_candidate.granted_by) == ("pre-candidate", 2, {1, 3})


def test_who_is_not_welcome_tries_again_after_another_timeout() -> None:
    """Paper, 5.2: 'each candidate will time out and start a new election'."""
    lone = Lone(term=2)
    lone.time_out()
    asked_at = lone.now

    sent = lone.time_out()

    assert ELECTION_TIMEOUT <= lone.now - asked_at <= 2 * ELECTION_TIMEOUT
    assert [request.term for request in only(RequestVote, sent)] == [3, 3]
    assert len([note for note in lone.notes if "asks for pre-votes" in note]) == 1, "said once"


def test_a_leader_heard_ends_the_question() -> None:
    """Paper, 5.2: 'the candidate recognizes the leader as legitimate and returns to follower state.'"""
    lone = Lone(term=2)
    lone.time_out()

    lone.step(lone.append(3))
    lone.step(lone.pre_vote(2), lone.pre_vote(3))

    assert (lone.role, lone.term, lone.raft.leader_id) == ("follower", 2, 3)


def test_a_member_cut_off_does_not_increment_its_term() -> None:
    """9.6: 'It solves the issue of a partitioned server disrupting the cluster when it rejoins. While a server is
    partitioned, it won't be able to increment its term, since it can't receive permission from a majority of the
    cluster.'"""
    cluster = Cluster(5)
    leader = cluster.run_until_serving()
    away = next(i for i in cluster.members if i != leader.id)

    cluster.isolate(away)
    cluster.run(30.0)

    assert cluster.members[away].raft.current_term == leader.raft.current_term
    assert cluster.serving() is leader


# ---- rivals (divergences.md) -----------------------------------------------------------------------------------------


def test_of_two_that_ask_at_the_same_time_the_lower_id_makes_room() -> None:
    """5.2: 'split votes' are 'rare' with random timeouts, and rarer so: who asks for pre-votes, and is asked by
    somebody who is to be preferred, asks no more."""
    lone = Lone()
    lone.time_out()

    [reply] = lone.step(lone.vote_request(2, term=1, pre_vote=True))
    lone.step(lone.pre_vote(2), lone.pre_vote(3))

    assert isinstance(reply, RequestVoteReply)
    assert reply.granted
    assert (lone.role, lone.term) == ("follower", 0)


def test_of_two_that_ask_at_the_same_time_the_higher_id_goes_on() -> None:
    """As above: one of the two has to."""
    lone = Lone(me=3)
    lone.time_out()

    lone.step(lone.vote_request(2, term=1, pre_vote=True))
    lone.step(lone.pre_vote(2))

    assert lone.role == "candidate"


def test_of_two_that_ask_at_the_same_time_the_one_with_the_newer_log_goes_on() -> None:
    """As above; and the log counts for more than the id does (5.4.1)."""
    lone, rival = Lone([1, 2]), at(9, 1)
    lone.time_out()

    lone.step(lone.vote_request(3, term=3, last=rival, pre_vote=True))
    lone.step(lone.pre_vote(2))

    assert lone.role == "candidate"


def test_who_makes_room_waits_for_an_election_timeout_again() -> None:
    """As above: the rival may be gone the next moment."""
    lone = Lone()
    lone.time_out()

    lone.step(lone.vote_request(2, term=1, pre_vote=True))

    assert lone.now + DEFAULTS.election_timeout <= lone.follower.election_deadline
    lone.time_out()
    assert lone.role == "pre-candidate"
