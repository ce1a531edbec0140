"""Bugs that this core once had, each with the way it was found."""

from __future__ import annotations

from raftkv.raft.messages import AppendEntriesReply
from tests.raft.lone import Lone, at, only


def test_the_answer_to_a_request_of_an_earlier_term_acknowledges_no_round_of_this_one() -> None:
    """Found by reading. Rounds are counted anew in each term, and a follower answers a request of an earlier term with
    its own term: delayed for long enough, such an answer reached a leader that had lost and won an election meanwhile,
    named a round as high as those of its new term, and renewed its lease though nobody had heard from it."""
    follower = Lone([1], term=2)
    (answer,) = only(AppendEntriesReply, follower.step(follower.append(sender=2, term=1, round=14)))
    assert (answer.term, answer.success, answer.round) == (2, False, 0)

    leader = Lone([1], term=1)
    leader.serve()
    assert leader.term == answer.term
    for _ in range(20):
        leader.wait(leader.config.heartbeat_interval / 2)
        leader.step(leader.ack(2))
    next_index = leader.leader.progress[3].next_index
    heard_at = leader.leader.rounds.majority_heard_at(leader.configuration.voters)
    leader.wait(leader.config.heartbeat_interval)
    late = AppendEntriesReply(3, 1, answer.term, answer.success, answer.round, rejected_index=at(1, 1).index)
    leader.step(late)
    assert leader.leader.rounds.majority_heard_at(leader.configuration.voters) == heard_at
    assert leader.leader.progress[3].next_index == next_index


def test_a_leader_whose_disk_was_slow_stays_if_it_has_been_answered_meanwhile() -> None:
    """Found with a slow sync. CheckQuorum counted from when the answered round had begun, as the lease must; so a
    leader that came back after most of an election timeout stepped down with everybody's answers in its hands."""
    leader = Lone()
    leader.serve()
    leader.wait(leader.config.heartbeat_interval)
    leader.oversleep(leader.config.election_timeout)
    leader.raft.step(leader.ack(2), leader.now)
    leader.tick()
    assert leader.role == "leader"
    leader.wait(leader.config.election_timeout * 0.99)
    assert leader.role == "leader"
    leader.wait(leader.config.election_timeout * 0.2)
    assert leader.role == "follower"
