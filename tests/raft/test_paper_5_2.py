"""Raft paper, section 5.2: leader election. Each test quotes its rule, and has three parts: init, test, check.

With PreVote an election is preceded by a question that changes nothing (test_dissertation_9_6.py); `Lone.stand` answers
it with yes, and what the paper calls "begins an election" is what comes then.
"""

from __future__ import annotations

import random

import pytest

from raftkv.raft.core import Config
from raftkv.raft.messages import AppendEntries, RequestVote, RequestVoteReply
from raftkv.raft.types import EntryKind
from tests.raft.lone import DEFAULTS, Lone, Persisted, at, only

ELECTION_TIMEOUT = DEFAULTS.election_timeout


def test_servers_begin_as_followers() -> None:
    """'When servers start up, they begin as followers.'"""
    lone = Lone([1, 1, 2], term=3, voted_for=1)

    lone.settle()

    assert (lone.role, lone.term) == ("follower", 3)


def test_a_server_remains_follower_as_long_as_it_hears_from_a_leader() -> None:
    """'A server remains in follower state as long as it receives valid RPCs from a leader or candidate.'"""
    lone = Lone(term=1)

    for _ in range(50):
        lone.step(lone.append(2))
        sent = lone.wait(ELECTION_TIMEOUT - 0.001)
        assert sent == []

    assert lone.role == "follower"
    assert lone.raft.leader_id == 2


def test_a_granted_vote_holds_back_the_voters_own_election() -> None:
    """'A server remains in follower state as long as it receives valid RPCs from a leader or candidate.' Figure 2: 'If
    election timeout elapses without receiving AppendEntries RPC from current leader or granting vote to candidate'."""
    lone = Lone()
    lone.wait_until(lone.raft.deadline() - 0.001)

    lone.step(lone.vote_request(2, term=1))

    assert lone.raft.deadline() >= lone.now + ELECTION_TIMEOUT


def test_a_refused_vote_holds_nothing_back() -> None:
    """Figure 2: only 'granting vote to candidate' counts, so that a candidate that can't win does not keep those that
    could from standing."""
    lone = Lone([1, 1])
    deadline = lone.raft.deadline()
    lone.wait_until(deadline - 0.001)

    lone.step(lone.vote_request(2, term=2))

    assert lone.raft.deadline() == deadline


def test_leaders_send_heartbeats_to_all_followers() -> None:
    """'Leaders send periodic heartbeats (AppendEntries RPCs that carry no log entries) to all followers in order to
    maintain their authority.'"""
    lone = Lone(size=5)
    lone.serve(by=[2, 3, 4, 5])
    lone.step(*(lone.ack(peer) for peer in (2, 3, 4, 5)))

    for _ in range(10):
        sent = lone.wait(DEFAULTS.heartbeat_interval)

        assert [message.recipient for message in sent] == [2, 3, 4, 5]
        assert all(message.entries == () and message.term == 1 for message in only(AppendEntries, sent))
        lone.step(*(lone.ack(peer) for peer in (2, 3, 4, 5)))


@pytest.mark.parametrize("heard_leader", [True, False])
def test_a_follower_that_hears_nothing_begins_an_election(heard_leader: bool) -> None:
    """'If a follower receives no communication over a period of time called the election timeout, then it assumes there
    is no viable leader and begins an election to choose a new leader.'"""
    lone = Lone(term=1)
    if heard_leader:
        lone.step(lone.append(2))

    early = lone.wait(ELECTION_TIMEOUT - 0.001)
    sent = lone.wait(ELECTION_TIMEOUT)

    assert early == []
    assert [message.recipient for message in only(RequestVote, sent)] == [2, 3]


def test_a_candidate_increments_its_term_votes_for_itself_and_asks_everybody() -> None:
    """'To begin an election, a follower increments its current term and transitions to candidate state. It then votes
    for itself and issues RequestVote RPCs in parallel to each of the other servers in the cluster.'"""
    lone = Lone([1, 1], size=5)

    sent = lone.stand(by=[2, 3])

    assert (lone.role, lone.term, lone.raft.voted_for) == ("candidate", 2, 1)
    assert sent == [RequestVote(1, peer, 2, at(2, 1)) for peer in (2, 3, 4, 5)]


def test_a_candidates_own_vote_is_durable_before_it_asks_for_others() -> None:
    """Figure 2, 'persistent state': a vote that a crash could undo might be given a second time."""
    lone = Lone()

    lone.stand()

    persisted = next(i for i, event in enumerate(lone.events) if isinstance(event, Persisted))
    asked = next(i for i, event in enumerate(lone.events) if isinstance(event, RequestVote) and not event.pre_vote)
    assert persisted < asked
    assert (lone.storage.hard_state.term, lone.storage.hard_state.voted_for) == (1, 1)


@pytest.mark.parametrize(
    ("size", "grants", "denials", "role"),
    [
        (1, [], [], "leader"),
        (2, [], [], "candidate"),
        (2, [2], [], "leader"),
        (3, [2], [], "leader"),
        (3, [3], [2], "leader"),
        (3, [], [2, 3], "candidate"),
        (4, [2], [], "candidate"),
        (4, [2, 3], [], "leader"),
        (5, [2], [3, 4, 5], "candidate"),
        (5, [2, 5], [3, 4], "leader"),
        (7, [2, 3], [4], "candidate"),
        (7, [2, 3, 7], [4, 5, 6], "leader"),
    ],
)
def test_a_majority_of_the_votes_wins(size: int, grants: list[int], denials: list[int], role: str) -> None:
    """'A candidate wins an election if it receives votes from a majority of the servers in the full cluster for the
    same term.'"""
    lone = Lone(size=size)
    lone.stand(by=range(2, size + 1))

    lone.step(*(lone.vote(peer, granted=False) for peer in denials), *(lone.vote(peer) for peer in grants))

    assert (lone.role, lone.term) == (role, 1)


def test_votes_of_another_term_do_not_add_up() -> None:
    """'[...] from a majority of the servers in the full cluster for the same term.'"""
    lone = Lone(size=5)
    lone.stand(by=[2, 3])
    lone.step(lone.vote(2))
    lone.stand(by=[4, 5])

    lone.step(lone.vote(3, term=1), lone.vote(4, term=2))

    assert (lone.role, lone.term) == ("candidate", 2)
    assert lone.candidate.granted_by == {1, 4}


@pytest.mark.parametrize("first", [2, 3])
def test_a_server_votes_once_a_term_for_who_asks_first(first: int) -> None:
    """'Each server will vote for at most one candidate in a given term, on a first-come-first-served basis.'"""
    lone = Lone()
    second = 5 - first

    sent = lone.step(lone.vote_request(first, term=1), lone.vote_request(second, term=1))
    later = lone.step(lone.vote_request(first, term=1), lone.vote_request(second, term=2))

    answers = only(RequestVoteReply, sent + later)
    assert [(a.recipient, a.term, a.granted) for a in answers] == [
        (first, 1, True),
        (second, 1, False),
        (first, 1, True),  # the same vote, said again
        (second, 2, True),
    ]


def test_the_vote_outlives_a_restart() -> None:
    """'Each server will vote for at most one candidate in a given term.'"""
    lone = Lone()
    lone.step(lone.vote_request(2, term=1))

    lone.restart()
    sent = lone.step(lone.vote_request(3, term=1), lone.vote_request(2, term=1))

    assert [answer.granted for answer in only(RequestVoteReply, sent)] == [False, True]


def test_a_new_leader_tells_everybody_at_once() -> None:
    """'Once a candidate wins an election, it becomes leader. It then sends heartbeat messages to all of the other
    servers to establish its authority and prevent new elections.' (With its NO-OP in them, section 8.)"""
    lone = Lone([1, 1], size=5)
    lone.stand(by=[2, 3])

    sent = lone.step(lone.vote(2), lone.vote(3))

    assert lone.role == "leader"
    assert [message.recipient for message in sent] == [2, 3, 4, 5]
    for message in only(AppendEntries, sent):
        assert (message.term, message.prev) == (2, at(2, 1))
        assert [(e.index, e.term, e.kind) for e in message.entries] == [(3, 2, EntryKind.NO_OP)]


@pytest.mark.parametrize("term", [2, 3])
def test_a_candidate_recognizes_a_leader_of_its_term_or_a_later_one(term: int) -> None:
    """'While waiting for votes, a candidate may receive an AppendEntries RPC from another server claiming to be leader.
    If the leader's term is at least as large as the candidate's current term, then the candidate recognizes the leader
    as legitimate and returns to follower state.'"""
    lone = Lone(term=1)
    lone.stand()
    assert (lone.role, lone.term) == ("candidate", 2)

    lone.step(lone.append(3, term=term))

    assert (lone.role, lone.term, lone.raft.leader_id) == ("follower", term, 3)


def test_a_candidate_rejects_a_leader_of_an_earlier_term() -> None:
    """'If the term in the RPC is smaller than the candidate's current term, then the candidate rejects the RPC and
    continues in candidate state.'"""
    lone = Lone(term=1)
    lone.stand()

    sent = lone.step(lone.append(3, term=1))

    assert (lone.role, lone.term, lone.raft.leader_id) == ("candidate", 2, 0)
    assert [(m.recipient, m.term) for m in sent] == [(3, 2)]


def test_after_a_split_vote_a_new_election_begins() -> None:
    """'[...] votes could be split so that no candidate obtains a majority. When this happens, each candidate will time
    out and start a new election by incrementing its term and initiating another round of RequestVote RPCs.'"""
    lone = Lone(size=5)
    lone.stand(by=[2, 3])
    lone.step(lone.vote(2), lone.vote(3, granted=False), lone.vote(4, granted=False))
    assert (lone.role, lone.term) == ("candidate", 1)

    sent = lone.stand(by=[2, 3])

    assert (lone.role, lone.term, lone.raft.voted_for) == ("candidate", 2, 1)
    assert [request.term for request in only(RequestVote, sent)] == [2, 2, 2, 2]


@pytest.mark.parametrize("role", ["follower", "pre-candidate", "candidate"])
def test_election_timeouts_are_spread_over_an_interval(role: str) -> None:
    """'[...] election timeouts are chosen randomly from a fixed interval (e.g., 150-300ms).' Here: from one to two
    times ELECTION_TIMEOUT. 'Each candidate restarts its randomized election timeout at the start of an election.'"""
    lone = Lone(term=1, seed=5)
    timeouts = []

    for _ in range(400):
        if role == "follower":
            lone.step(lone.append(2))
        elif role == "pre-candidate":
            lone.time_out()
        else:
            lone.stand()
        timeouts.append(lone.raft.deadline() - lone.now)

    assert all(ELECTION_TIMEOUT <= t <= 2 * ELECTION_TIMEOUT for t in timeouts)
    assert min(timeouts) < 1.05 * ELECTION_TIMEOUT
    assert max(timeouts) > 1.95 * ELECTION_TIMEOUT


def test_members_seldom_time_out_together() -> None:
    """'Raft uses randomized election timeouts to ensure that split votes are rare and that they are resolved
    quickly.'"""
    rng = random.Random(7)
    together = 0

    for _ in range(500):
        first, second, *_ = sorted(Lone(me=me, seed=rng.randrange(1 << 30)).raft.deadline() for me in (1, 2, 3))
        together += second - first < 0.005

    assert together < 0.05 * 500


def test_a_cluster_of_one_elects_itself_at_once() -> None:
    """'A candidate wins an election if it receives votes from a majority of the servers': its own is one, once it is
    durable, and there is nobody to wait for."""
    lone = Lone(size=1)

    sent = lone.wait(0.0)

    assert sent == []
    assert (lone.role, lone.term, lone.raft.voted_for) == ("leader", 1, 1)
    assert lone.raft.is_serving


def test_the_election_timeout_is_the_configured_one() -> None:
    """'[...] chosen randomly from a fixed interval'."""
    lone = Lone(config=Config(election_timeout=5.0))

    assert lone.wait(4.999) == []
    assert lone.wait(5.0) != []
