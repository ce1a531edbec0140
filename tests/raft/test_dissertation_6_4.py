"""Raft dissertation, section 6.4: linearizable reads without writing to the log; 6.4.1: leases.

Each test quotes its rule, and has three parts: init, test, check. The rules that go beyond it are in
test_read_rules.py and test_lease_rules.py.
"""

from __future__ import annotations

import pytest

from raftkv.raft.core import NotLeader
from raftkv.raft.messages import AppendEntries
from tests.raft.lone import DEFAULTS, NO_LEASES, Lone, only
from tests.support.raft_cluster import Cluster


def test_step_1_a_leader_waits_until_it_has_committed_in_its_term() -> None:
    """'If the leader has not yet marked an entry from its current term committed, it waits until it has done so.'"""
    lone = Lone([1, 1], config=NO_LEASES)
    lone.lead()

    lone.read(7)
    lone.wait(DEFAULTS.heartbeat_interval)
    lone.step(lone.ack(2, match=2))  # of the round, but not of the NO-OP
    before = list(lone.served)
    lone.step(lone.ack(2, match=3))

    assert (before, lone.served) == ([], [7])


def test_step_2_the_read_index_is_what_is_committed_when_the_read_arrives() -> None:
    """'The leader saves its current commit index in a local variable readIndex. This will be used as a lower bound for
    the version of the state that the query operates against.'"""
    lone = Lone(config=NO_LEASES)
    lone.serve()
    lone.propose("SET a 1")
    lone.step(lone.ack(2))

    lone.read(7)

    assert [read.index for read in lone.leader.reads] == [2]


def test_step_2_of_a_new_leader_it_is_at_least_the_start_of_its_term() -> None:
    """'As soon as this no-op entry is committed, the leader's commit index will be at least as large as any other
    servers' during its term.'"""
    lone = Lone([1, 1], committed=0, config=NO_LEASES)
    lone.lead()
    lone.read(7)

    lone.wait(DEFAULTS.heartbeat_interval)
    lone.raft.step(lone.ack(2), lone.now)
    ready = lone.raft.ready()

    assert ready is not None
    assert [(read.token, read.index) for read in ready.reads] == [(7, 3)]


def test_step_3_a_majority_has_to_acknowledge_a_new_round_of_heartbeats() -> None:
    """'The leader needs to make sure it hasn't been superseded by a newer leader of which it is unaware. It issues a
    new round of heartbeats and waits for their acknowledgments from a majority of the cluster.'"""
    lone = Lone(size=5, config=NO_LEASES)
    lone.serve(by=[2, 3, 4, 5])

    sent = lone.read(7)

    assert sorted(message.recipient for message in only(AppendEntries, sent)) == [2, 3, 4, 5]
    lone.step(lone.ack(2))
    assert lone.served == []
    lone.step(lone.ack(3))
    assert lone.served == [7]


def test_step_3_a_leader_that_was_superseded_does_not_serve() -> None:
    """'[...] the leader knows that there could not have existed a leader for a greater term at the moment it sent the
    heartbeats.'"""
    lone = Lone(config=NO_LEASES)
    lone.serve()
    lone.read(7)

    lone.step(lone.rejection(2, 1, term=2))
    lone.step(lone.ack(3, match=1, round=2, term=1))

    assert lone.served == []
    assert lone.lost_reads == [7]


def test_step_4_the_state_machine_advances_at_least_as_far_as_the_read_index() -> None:
    """'The leader waits for its state machine to advance at least as far as the readIndex; this is current enough to
    satisfy linearizability.'"""
    lone = Lone(size=1, config=NO_LEASES)
    lone.serve(by=[])
    lone.raft.propose([], lone.now)

    lone.propose("SET a 1", "SET a 2")
    lone.read(7)

    events = lone.events[:]
    read = next(i for i, event in enumerate(events) if getattr(event, "token", None) == 7)
    assert lone.applied[-1].index == 3
    assert events.index(lone.applied[-1]) < read


def test_one_round_serves_all_reads_that_have_accumulated() -> None:
    """'[...] the leader can use a single round of heartbeats for any number of read-only queries that it has
    accumulated.'"""
    lone = Lone(config=NO_LEASES)
    lone.serve()

    for token in range(100):
        lone.raft.read(token, lone.now)
    sent = lone.settle()
    lone.step(lone.ack(2))

    assert len(sent) == 2
    assert lone.served == list(range(100))


def test_a_follower_does_not_serve() -> None:
    """6.4: 'linearizable reads [...] by the leader'."""
    lone = Lone(term=1)
    lone.step(lone.append(3))

    with pytest.raises(NotLeader) as refused:
        lone.raft.read(7, lone.now)

    assert refused.value.leader_id == 3


def test_a_cluster_of_one_serves_at_once() -> None:
    """'[...] acknowledgments from a majority of the cluster': itself."""
    lone = Lone(size=1, config=NO_LEASES)
    lone.serve(by=[])

    sent = lone.read(7)

    assert sent == []
    assert lone.served == [7]


def test_6_4_1_with_a_lease_reads_need_no_communication() -> None:
    """'While the leader held its lease, it would service read-only queries without communication.' (6.4.1)"""
    lone = Lone()
    lone.serve()

    sent = lone.read(7)

    assert sent == []
    assert lone.served == [7]


def test_6_4_1_the_heartbeats_maintain_the_lease() -> None:
    """'[...] the leader would use the normal heartbeat mechanism to maintain a lease. Once the leader's heartbeats were
    acknowledged by a majority of the cluster, it would extend its lease.' (6.4.1)"""
    lone = Lone()
    lone.serve()

    for _ in range(20):
        lone.wait(DEFAULTS.heartbeat_interval)
        assert lone.has_lease()
        lone.step(lone.ack(2))

    lone.wait(DEFAULTS.lease_duration)
    assert not lone.has_lease()


def test_reads_at_any_moment_see_all_that_was_committed() -> None:
    """6.4: 'linearizability [...] requires the results of a read to reflect a state of the system sometime after the
    read was initiated.' `Cluster.query` checks each read it is asked for."""
    cluster = Cluster(3)
    leader = cluster.run_until_serving()
    answers = []

    for i in range(100):
        cluster.write(leader.id, f"SET k {i}")
        answers += [cluster.read_key(member, b"k") for member in cluster.members]
        cluster.run(0.0007)
    cluster.run(1.0)

    assert all(answer.outcome is not None for answer in answers)
    assert leader.machine.get(b"k") == b"99"
