"""Raft dissertation, section 6.2: a leader without a majority (CheckQuorum). Three parts each: init, test, check."""

from __future__ import annotations

import pytest

from tests.raft.lone import DEFAULTS, Lone
from tests.support.raft_cluster import Cluster

ELECTION_TIMEOUT, HEARTBEAT = DEFAULTS.election_timeout, DEFAULTS.heartbeat_interval


def test_a_leader_steps_down_when_no_majority_answers() -> None:
    """'A leader in Raft steps down if an election timeout elapses without a successful round of heartbeats to a
    majority of its cluster; this allows clients to retry their requests with another server.'"""
    lone = Lone()
    lone.serve()

    lone.wait(ELECTION_TIMEOUT + HEARTBEAT)

    assert lone.role == "follower"
    assert lone.raft.leader_id == 0
    assert any("CheckQuorum" in note for note in lone.notes)


def test_it_keeps_its_term_and_its_vote() -> None:
    """Figure 2: 'votedFor: candidateId that received vote in current term'. Stepping down does not make a vote free."""
    lone = Lone()
    lone.serve()

    lone.wait(ELECTION_TIMEOUT + HEARTBEAT)
    sent = lone.step(lone.vote_request(2, term=1))

    assert (lone.term, lone.raft.voted_for) == (1, 1)
    assert [getattr(reply, "granted", None) for reply in sent] == [False]


@pytest.mark.parametrize(("size", "answering"), [(1, []), (2, [2]), (3, [2]), (5, [2, 3]), (7, [2, 3, 4])])
def test_it_leads_on_as_long_as_a_majority_answers(size: int, answering: list[int]) -> None:
    """'[...] without a successful round of heartbeats to a majority of its cluster.'"""
    lone = Lone(size=size)
    lone.serve(by=answering)

    for _ in range(50):
        lone.wait(HEARTBEAT)
        lone.step(*(lone.ack(peer) for peer in answering))

    assert lone.role == "leader"


@pytest.mark.parametrize(("size", "answering"), [(2, []), (3, []), (4, [2]), (5, [2]), (7, [2, 3])])
def test_a_minority_is_not_enough(size: int, answering: list[int]) -> None:
    """'[...] to a majority of its cluster.'"""
    lone = Lone(size=size)
    lone.serve(by=range(2, size + 1))

    while lone.role == "leader" and lone.now < 10.0:
        lone.wait(HEARTBEAT)
        if lone.role == "leader":
            lone.step(*(lone.ack(peer) for peer in answering))

    assert lone.role == "follower"
    assert lone.now < 3 * ELECTION_TIMEOUT


def test_answers_to_old_requests_do_not_count_as_news() -> None:
    """'[...] a successful round of heartbeats': one that began within the election timeout."""
    lone = Lone()
    lone.serve()
    old = lone.ack(2)

    while lone.role == "leader" and lone.now < 10.0:
        lone.wait(HEARTBEAT)
        lone.step(old)

    assert lone.role == "follower"
    assert lone.now < 3 * ELECTION_TIMEOUT + HEARTBEAT


def test_a_rejection_is_a_sign_of_life_too() -> None:
    """'[...] a successful round of heartbeats': a follower whose log has still to be brought in line follows all the
    same."""
    lone = Lone([1, 1, 1])
    lone.lead()

    for _ in range(20):
        lone.wait(HEARTBEAT)
        lone.step(lone.rejection(2, 3, 0, 3, round=lone.leader.rounds.current))

    assert lone.role == "leader"


def test_a_stopped_leader_that_goes_on_notices_at_once() -> None:
    """'[...] this allows clients to retry their requests with another server': also after SIGSTOP and SIGCONT."""
    cluster = Cluster(3)
    old = cluster.run_until_serving()

    cluster.pause(old.id)
    cluster.run(5.0)
    cluster.resume(old.id)

    assert not old.leads
    new = cluster.run_until_serving()
    assert new is not old


def test_a_leader_cut_off_from_the_majority_gives_way() -> None:
    """'[...] this allows clients to retry their requests with another server.'"""
    cluster = Cluster(5)
    old = cluster.run_until_serving()

    cluster.isolate(old.id, *[i for i in cluster.members if i != old.id][:1])
    cluster.run(ELECTION_TIMEOUT + 2 * HEARTBEAT)

    assert not old.leads
    assert cluster.run_until_serving() is not old


def test_a_leader_alone_in_its_cluster_has_nobody_to_lose() -> None:
    """'[...] to a majority of its cluster': itself, however long it was stopped."""
    lone = Lone(size=1)
    lone.serve(by=[])

    lone.oversleep(60.0)
    lone.tick()

    assert lone.role == "leader"
