"""Raft dissertation, section 4.1: changes of the membership, one server at a time; and what follows for the lease.

Each test quotes its rule, and has three parts: init, test, check.
"""

from __future__ import annotations

import pytest

from raftkv.raft.configuration import Add, ChangeRefused, Promote, Remove
from raftkv.raft.core import NotLeader
from raftkv.raft.messages import AppendEntries, AppendEntriesReply, RequestVote, RequestVoteReply
from raftkv.raft.types import NOBODY, EntryKind
from raftkv.replica import Applied, Refused
from tests.raft.lone import DEFAULTS, NO_LEASES, Lone, at, members_entry, only
from tests.support.raft_cluster import Cluster

LEASE = DEFAULTS.lease_duration


def voters(lone: Lone) -> set[int]:
    return set(lone.raft.configuration.voters)


def serving(size: int = 3) -> Lone:
    lone = Lone(size=size)
    lone.serve(by=range(2, 2 + size // 2))
    return lone


# ---- which configuration is used -------------------------------------------------------------------------------------


def test_a_leader_uses_the_new_configuration_as_soon_as_it_has_appended_it() -> None:
    """'The Cnew entry is [...] used [...] as soon as it is added to each server's log.'"""
    lone = serving()

    sent = lone.change(Add(4, "d:1"))

    assert lone.raft.configuration.learners == {4}
    assert 4 in {message.recipient for message in only(AppendEntries, lone.wait(DEFAULTS.heartbeat_interval))}
    assert only(AppendEntries, sent)[0].entries[-1].kind is EntryKind.CONFIGURATION


def test_a_follower_uses_it_at_once_whether_it_is_committed_or_not() -> None:
    """'A server always uses the latest configuration in its log, regardless of whether the entry is committed.'"""
    lone = Lone(term=1)

    lone.step(lone.append_members(1, 2, 3, 4))

    assert voters(lone) == {1, 2, 3, 4}
    assert lone.raft.committed_index == 0


def test_who_restarts_finds_it_in_its_log() -> None:
    lone = Lone(term=1)
    lone.step(lone.append_members(1, 2))

    lone.restart()

    assert voters(lone) == {1, 2}


def test_a_follower_goes_back_if_the_entry_is_replaced() -> None:
    """'[...] it is possible for a log entry for a configuration change to be removed (if leadership changes); in this
    case, a server must be prepared to fall back to the previous configuration in its log.'"""
    lone = Lone(term=1)
    lone.step(lone.append_members(1, 2, 3, 4))

    lone.step(lone.append(3, terms=[2], term=2))

    assert voters(lone) == {1, 2, 3}
    lone.restart()
    assert voters(lone) == {1, 2, 3}


def test_a_deposed_leader_goes_back_too() -> None:
    """'[...] if leadership changes.'"""
    lone = serving(size=2)
    lone.change(Add(3, "c:1"))
    lone.step(lone.ack(2))
    lone.step(lone.ack(3))  # has caught up: gets its vote
    assert voters(lone) == {1, 2, 3}

    lone.step(lone.append(2, prev=at(2, 1), terms=[2], term=2))

    assert voters(lone) == {1, 2}
    assert lone.raft.configuration.learners == {3}


def test_an_entry_that_is_no_configuration_changes_nothing_and_stops_nobody() -> None:
    """Hazard 54."""
    lone = Lone(term=1)
    entry = members_entry(1, 1, 2, term=1)
    nonsense = entry.__class__(1, 1, EntryKind.CONFIGURATION, b"\xff")

    lone.step(AppendEntries(2, 1, 1, at(0, 0), (nonsense,), 1, 0, 1))

    assert voters(lone) == {1, 2, 3}
    assert lone.applied == [nonsense]
    lone.restart()
    assert voters(lone) == {1, 2, 3}


# ---- whom a server talks to ------------------------------------------------------------------------------------------


def test_a_server_takes_entries_from_a_leader_that_is_not_in_its_configuration() -> None:
    """'A server accepts AppendEntries requests from a leader that is not part of the server's latest configuration.
    Otherwise, a new server could never be added to the cluster.'"""
    lone = Lone(me=4, size=3)
    lone.configuration = NOBODY
    lone.restart()

    [reply] = lone.step(lone.append(1, terms=[1], term=1))

    assert isinstance(reply, AppendEntriesReply)
    assert (reply.success, reply.match_index) == (True, 1)


def test_a_server_votes_for_a_candidate_that_is_not_in_its_configuration() -> None:
    """'A server also grants its vote to a candidate that is not part of the server's latest configuration (if the
    candidate has a sufficiently up-to-date log and a current term).'"""
    lone = Lone()

    replies = lone.step(lone.vote_request(4, term=1, pre_vote=True), lone.vote_request(4, term=1))

    assert [reply.granted for reply in only(RequestVoteReply, replies)] == [True, True]


def test_only_members_of_the_candidates_own_configuration_count() -> None:
    """'[...] servers process incoming RPC requests without consulting their current configurations': it is the
    sender's that counts."""
    lone = Lone(learners=[4, 5])
    lone.stand(by=[2])

    lone.step(lone.vote(4), lone.vote(5), lone.vote(9))
    assert lone.role == "candidate"
    lone.step(lone.vote(2))
    assert lone.role == "leader"


def test_a_learner_counts_for_nothing() -> None:
    """'[...] joins the cluster as a non-voting member' (4.2.1): neither for an entry, nor for the lease, nor for
    CheckQuorum."""
    lone = Lone(learners=[4, 5])
    lone.lead()

    lone.step(lone.ack(4), lone.ack(5))

    assert lone.raft.committed_index == 0
    assert not lone.raft.is_serving
    lone.now += DEFAULTS.election_timeout
    lone.step(lone.ack(4), lone.ack(5))
    lone.tick()
    assert lone.role == "follower"


def test_a_learner_never_stands_for_election() -> None:
    lone = Lone(me=4, learners=[4])

    assert lone.wait(10.0) == []
    assert (lone.role, lone.term) == ("follower", 0)


def test_a_member_of_nothing_never_stands_for_election() -> None:
    lone = Lone()
    lone.configuration = NOBODY
    lone.restart()

    assert lone.wait(10.0) == []


# ---- one change at a time --------------------------------------------------------------------------------------------


def test_a_second_change_waits_for_the_first_to_be_committed() -> None:
    """'If another configuration change were started before the previous one is committed, [...] majorities of the two
    need not overlap': 'another membership change can be started' only 'once the Cnew entry is committed'."""
    lone = serving()
    lone.change(Remove(3))

    with pytest.raises(ChangeRefused, match="another change is not committed yet") as refused:
        lone.change(Add(4, "d:1"))
    assert refused.value.try_again

    lone.step(lone.ack(2))
    lone.change(Add(4, "d:1"))
    assert voters(lone) == {1, 2}


def test_hazard_45_no_change_before_the_leader_has_committed_in_its_term() -> None:
    """'[...] a leader must not append a new configuration entry until it has committed an entry from its current term'
    (the bug of the published algorithm, raft-dev, July 2015)."""
    lone = Lone([1, 1], committed=2)
    lone.lead()

    with pytest.raises(ChangeRefused, match="has not committed an entry in its term yet") as refused:
        lone.change(Add(4, "d:1"))

    assert refused.value.try_again
    lone.step(lone.ack(2))
    lone.change(Add(4, "d:1"))


def test_hazard_45_two_leaders_and_two_changes_do_not_part_the_cluster() -> None:
    """The example of that message: S1 adds a server and is cut off with it; S2 leads, and removes one, with a majority
    that knows nothing of the first change; then S1 is elected again. Had S2's change counted before S2 had committed
    anything, {S1, S4, S5} and {S2, S3} would both be majorities."""
    cluster = Cluster(4, config=NO_LEASES, patience={1: 0.0, 2: 0.2, 3: 0.9, 4: 0.95})
    assert cluster.run_until_serving().id == 1
    cluster.join(5)
    cluster.cut_between([1, 5], [2, 3, 4])
    assert cluster.change(1, Add(5, "e")).outcome is None  # never committed
    cluster.run_until(lambda: cluster.members[2].leads)

    refused = cluster.change(2, Remove(1)).outcome

    assert isinstance(refused, Refused)
    cluster.run_until_serving()
    removed = cluster.change(2, Remove(1))
    cluster.run(1.0)
    assert isinstance(removed.outcome, Applied)
    cluster.heal()
    cluster.run(5.0)
    leader = cluster.run_until_serving()
    assert set(leader.raft.configuration.members) == {2, 3, 4}
    cluster.check_logs()


def test_who_does_not_lead_changes_nothing() -> None:
    with pytest.raises(NotLeader):
        Lone().change(Remove(3))


def test_a_change_that_would_leave_no_majority_that_answers_is_refused() -> None:
    """Beyond the dissertation: with 3 of 5 there, the removal of one of the three would stop the cluster for good."""
    lone = serving(size=5)
    for _ in range(6):
        lone.wait(DEFAULTS.heartbeat_interval)
        lone.step(lone.ack(2), lone.ack(3))

    with pytest.raises(ChangeRefused, match="too few of those who would have a vote"):
        lone.change(Remove(3))

    lone.change(Remove(5))
    assert voters(lone) == {1, 2, 3, 4}


def test_an_address_can_be_changed_without_a_change_of_the_voters() -> None:
    lone = serving()

    lone.change(Add(3, "new:1"))

    assert dict(lone.raft.configuration.addresses) == {3: "new:1"}
    assert voters(lone) == {1, 2, 3}


# ---- majorities of the configuration of now --------------------------------------------------------------------------


def test_an_entry_is_committed_by_a_majority_of_the_latest_configuration() -> None:
    """'[...] majorities of the latest configuration in its log', and not of the one before."""
    lone = serving(size=4)
    lone.step(lone.ack(2), lone.ack(3))
    lone.change(Remove(4))

    lone.step(lone.ack(4))
    assert lone.raft.is_changing
    lone.step(lone.ack(2))

    assert not lone.raft.is_changing


def test_the_lease_rests_on_a_majority_of_the_latest_configuration() -> None:
    """Any majority of a configuration meets any of the next, but not of the one after that: a lease that was granted by
    a majority of three is worth nothing among five."""
    lone = Lone(learners=[4])
    lone.serve()
    assert lone.has_lease()
    lone.step(lone.ack(4))  # caught up at once: gets its vote
    assert voters(lone) == {1, 2, 3, 4}

    # 1, 2 and 4 have acknowledged the round: a majority of the four.
    assert lone.has_lease()
    lone.now = lone.raft.lease.until if lone.raft.lease else 0.0
    assert not lone.has_lease()


def test_a_lease_of_the_former_majority_ends_with_the_change() -> None:
    """Voters that have acknowledged a round long ago do not prolong it: what the former majority has acknowledged since
    then is not what the present one has."""
    lone = Lone(size=4)
    lone.serve(by=[2, 3])
    lone.wait(DEFAULTS.heartbeat_interval)
    lone.step(lone.ack(4))  # in the second round: 4 has answered but once
    lone.wait(DEFAULTS.heartbeat_interval)
    lone.step(lone.ack(2), lone.ack(3))
    before = lone.raft.lease
    assert before is not None

    lone.change(Remove(3))

    # 1 and 2 have acknowledged the third round, and 4 only the second: two of three have the third.
    after = lone.raft.lease
    assert after is None or after.until <= before.until


def test_the_lease_is_dropped_if_it_is_not_known_when_the_present_majority_was_last_heard() -> None:
    lone = Lone([1, 1], size=3, learners=[4])
    lone.serve()
    lone.step(lone.ack(4, match=0))  # a learner far behind, heard in the first round
    for _ in range(3):
        lone.wait(DEFAULTS.heartbeat_interval)
        lone.step(lone.ack(2))
    assert lone.has_lease()

    lone.raft.change_configuration(Promote(4), lone.now)

    assert voters(lone) == {1, 2, 3, 4}
    assert lone.raft.lease is None, "of the four only 1 and 2 have answered lately"


def test_reads_go_through_a_majority_of_the_latest_configuration() -> None:
    lone = Lone(size=3, learners=[4], config=NO_LEASES)
    lone.serve()
    lone.step(lone.ack(4))
    assert voters(lone) == {1, 2, 3, 4}
    lone.step(lone.ack(2), lone.ack(3))

    lone.read(7)
    lone.step(lone.ack(2))
    assert lone.served == []
    lone.step(lone.ack(4))

    assert lone.served == [7]


def test_no_two_leaders_serve_across_two_changes_in_a_row() -> None:
    """The leader is cut off after two changes, and the newcomers, who know of both, elect another with those who know
    of none: the lease of the first must have run out by then. `Cluster` checks it at every step."""
    cluster = Cluster(3, patience={1: 0.0, 2: 0.5, 3: 0.6})
    cluster.run_until_serving()
    cluster.add(4)
    cluster.add(5)
    leader = cluster.run_until_serving()
    assert len(leader.raft.configuration.voters) == 5
    others = [i for i in (2, 3, 4, 5) if i != leader.id]

    cluster.cut_between([leader.id, others[0]], others[1:])
    cluster.run_until(lambda: cluster.serving() not in (None, leader), within=20.0)

    assert cluster.serving() is not leader
    cluster.heal()
    cluster.run(3.0)
    cluster.check_logs()


def test_a_candidate_asks_those_of_its_own_latest_configuration() -> None:
    lone = Lone([1], term=1)
    lone.step(lone.append_members(1, 2, 4, prev=at(1, 1)))

    requests = only(RequestVote, lone.time_out())

    assert {request.recipient for request in requests} == {2, 4}
