"""Raft dissertation, sections 4.2.1 and 4.2.2: catching up of new servers, and the removal of a leader.

Each test quotes its rule, and has three parts: init, test, check. (4.2.3 has its own file.)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import pytest

from raftkv.raft.catching_up import CatchingUp
from raftkv.raft.configuration import Add, Promote, Remove, encode_configuration
from raftkv.raft.core import Config
from raftkv.raft.messages import AppendEntries, RequestVote, RequestVoteReply, TimeoutNow
from raftkv.raft.types import NOBODY, Configuration, SnapshotMeta
from raftkv.replica import Applied, NotLeader
from tests.raft.lone import DEFAULTS, Lone, at, members_entry, only
from tests.support.raft_cluster import Cluster, Member

TIMEOUT = DEFAULTS.election_timeout


# ---- 4.2.1: catching up ----------------------------------------------------------------------------------------------


def test_a_round_is_over_once_the_learner_holds_what_the_log_held_when_it_began() -> None:
    """'The replication of entries to the new server is split into rounds [...]. Each round replicates all the log
    entries present in the leader's log at the start of the round.'"""
    rounds = CatchingUp(target=100, began=0.0)

    assert not rounds.is_done(99, 150, 0.1, TIMEOUT)
    assert rounds.target == 100
    assert not rounds.is_done(100, 200, 2.0, TIMEOUT)
    assert (rounds.target, rounds.began) == (200, 2.0)


def test_a_learner_that_ends_a_round_within_an_election_timeout_has_caught_up() -> None:
    """'If the last round lasts less than an election timeout, then the leader adds the new server to the cluster, under
    the assumption that there are not enough unreplicated entries to create a significant availability gap.'"""
    assert CatchingUp(target=100, began=0.0).is_done(100, 150, TIMEOUT, TIMEOUT)
    assert not CatchingUp(target=100, began=0.0).is_done(100, 150, TIMEOUT + 0.001, TIMEOUT)


def test_a_learner_that_has_everything_has_caught_up_however_long_it_took() -> None:
    assert CatchingUp(target=100, began=0.0).is_done(150, 150, 99.0, TIMEOUT)


def test_a_new_member_gets_all_of_the_log_and_then_its_vote() -> None:
    """'[...] a new server joins the cluster as a non-voting member. The leader replicates log entries to it, but it is
    not yet counted towards majorities [...]. Once the new server has caught up [...], the reconfiguration can
    proceed.'"""
    cluster = Cluster(3)
    leader = cluster.run_until_serving()
    cluster.write(leader.id, *(f"SET k{i} {i}" for i in range(50)))

    added = cluster.add(4)

    assert added.raft.configuration.voters == {1, 2, 3, 4}
    cluster.run(1.0)
    assert added.machine.digest() == leader.machine.digest()


def test_a_member_that_does_not_come_up_gets_no_vote_and_holds_up_nobody() -> None:
    cluster = Cluster(3)
    leader = cluster.run_until_serving()
    cluster.join(4)
    cluster.crash(4)

    assert isinstance_applied(cluster, leader.id, Add(4, "d"))
    cluster.run(5.0)

    assert leader.raft.configuration.learners == {4}
    assert isinstance(_written(cluster, leader.id), Applied)


def isinstance_applied(cluster: Cluster, leader: int, change: Add | Remove) -> bool:
    answer = cluster.change(leader, change)
    cluster.run_until(lambda: answer.outcome is not None, within=5.0)
    return isinstance(answer.outcome, Applied)


def _written(cluster: Cluster, leader: int) -> object:
    answer = cluster.write(leader, "SET k v")
    cluster.run(1.0)
    return answer.outcome


def test_the_next_leader_goes_on_with_the_learners_that_it_finds() -> None:
    cluster = Cluster(3)
    first = cluster.run_until_serving()
    cluster.join(4)
    cluster.isolate(4)
    assert isinstance_applied(cluster, first.id, Add(4, "d"))
    cluster.crash(first.id)
    second = cluster.run_until_serving()

    cluster.heal()
    cluster.run(3.0)

    assert second.raft.configuration.voters == {1, 2, 3, 4}


def test_a_promotion_waits_for_the_change_before_it() -> None:
    lone = Lone(learners=[4])
    lone.serve()
    lone.change(Remove(3))
    lone.step(lone.ack(4))
    assert 4 in lone.raft.configuration.learners

    lone.step(lone.ack(2))
    lone.wait(DEFAULTS.heartbeat_interval)
    lone.step(lone.ack(4))

    assert lone.raft.configuration.voters == {1, 2, 4}


def test_what_was_known_of_the_log_of_a_removed_member_is_not_true_of_the_one_that_comes_back() -> None:
    """It may have lost its disk: a match that its earlier self acknowledged must not count."""
    lone = Lone()
    lone.serve(by=[2, 3])
    lone.change(Remove(3))
    lone.step(lone.ack(2), lone.ack(3))
    assert lone.leader.progress[3].match_index == 2

    lone.change(Add(3, "c:2"))

    assert lone.leader.progress[3].match_index == 0


def test_an_answer_of_a_removed_member_is_not_taken_for_one_of_the_member_that_comes_back() -> None:
    """It may have been under way for long, and the disk be gone on which it rested."""
    lone = Lone()
    lone.serve()
    late = lone.ack(3)
    lone.change(Remove(3))
    lone.step(lone.ack(2))

    asked = lone.change(Add(3, "c:2"))
    lone.step(lone.ack(2), late)
    assert lone.leader.progress[3].match_index == 0

    assert 3 in {message.recipient for message in only(AppendEntries, asked)}, "it need not wait for a heartbeat"
    lone.step(lone.ack(3, match=1))
    assert lone.leader.progress[3].match_index == 1


def test_the_end_of_a_transfer_to_a_removed_member_is_none_to_the_member_that_comes_back() -> None:
    """The same, of a snapshot."""
    lone = Lone([1, 1, 1, 2], compacted=3)
    lone.serve(by=[2])
    lone.step(lone.rejection(3, rejected=4, conflicting_index=1))
    late = lone.installed(3, match=3)
    lone.change(Remove(3))
    lone.step(lone.ack(2))
    lone.change(Add(3, "c:2"))
    last, now = lone.raft.log.last_index, lone.leader.rounds.current
    lone.step(lone.ack(2), lone.rejection(3, rejected=last, conflicting_index=1, round=now))
    assert lone.leader.progress[3].state.value == "snapshot"

    lone.step(late)

    assert lone.leader.progress[3].match_index == 0
    assert lone.leader.progress[3].state.value == "probe", "nothing is under way to it"


def newcomer(joined: int = 0) -> Lone:
    """Member 3, added again with an empty disk."""
    lone = Lone(me=3)
    lone.configuration = NOBODY
    lone.storage.identity = replace(lone.storage.identity, joined=joined)
    lone.restart()
    return lone


def test_a_member_that_belongs_to_nothing_yet_has_no_vote() -> None:
    """Beyond the dissertation: it may have been a member before, and have voted in this very term."""
    lone = newcomer()

    replies = lone.step(lone.vote_request(1, term=5, pre_vote=True), lone.vote_request(1, term=5))

    assert [reply.granted for reply in only(RequestVoteReply, replies)] == [False, False]


def test_once_it_has_followed_a_leader_it_votes_for_nobody_else_in_that_term() -> None:
    """The same, when its log has told it that it is a member."""
    lone = newcomer()
    lone.step(AppendEntries(2, 3, 5, at(0, 0), (members_entry(1, 1, 2, 3, term=1, joined={3: 1}),), 0, 0, 1))
    lone.restart()

    [refused] = only(RequestVoteReply, lone.step(lone.vote_request(1, term=5, last=at(9, 4))))
    [granted] = only(RequestVoteReply, lone.step(lone.vote_request(1, term=6, last=at(9, 4))))

    assert (refused.granted, granted.granted) == (False, True)


def test_a_newcomer_is_not_the_founding_member_that_had_its_id() -> None:
    """The front of its log tells of that one, which has lost its disk: who has no more of the log neither votes nor
    stands, not even after a restart."""
    lone = newcomer()
    lone.step(AppendEntries(2, 3, 5, at(0, 0), (members_entry(1, 1, 2, 3, term=1),), 0, 0, 1))
    lone.restart()

    replies = lone.step(
        lone.vote_request(1, term=6, last=at(9, 4), pre_vote=True), lone.vote_request(1, term=6, last=at(9, 4))
    )

    assert [reply.granted for reply in only(RequestVoteReply, replies)] == [False, False]
    assert only(RequestVote, lone.wait(10.0)) == []


def test_a_newcomer_is_not_the_member_that_was_added_under_its_id_before() -> None:
    """As above; it votes as soon as its log tells of its own adding."""
    lone = newcomer(joined=7)
    lone.step(AppendEntries(2, 3, 5, at(0, 0), (members_entry(1, 1, 2, 3, term=1, joined={3: 1}),), 0, 0, 1))
    lone.restart()

    replies = lone.step(
        lone.vote_request(1, term=6, last=at(9, 4), pre_vote=True), lone.vote_request(1, term=6, last=at(9, 4))
    )
    assert [reply.granted for reply in only(RequestVoteReply, replies)] == [False, False]
    assert only(RequestVote, lone.wait(10.0)) == []

    lone.step(AppendEntries(2, 3, 6, at(1, 1), (), 0, 0, 1), TimeoutNow(2, 3, 6))
    assert lone.role == "follower"

    own = members_entry(2, 1, 2, 3, term=1, joined={3: 7})
    lone.step(AppendEntries(2, 3, 6, at(1, 1), (own,), 0, 0, 1))
    lone.restart()
    [granted] = only(RequestVoteReply, lone.step(lone.vote_request(1, term=7, last=at(9, 4))))
    assert granted.granted


def test_a_snapshot_that_tells_of_a_former_member_with_its_id_makes_no_member_of_a_newcomer() -> None:
    lone = newcomer(joined=7)
    configuration = Configuration(frozenset({1, 2, 3}), joined=((3, 4),))
    snapshot = SnapshotMeta(at(5, 1), configuration=encode_configuration(configuration))
    lone.step(lone.install(2, snapshot, term=5))
    assert lone.raft.configuration.voters == {1, 2, 3}

    [refused] = only(RequestVoteReply, lone.step(lone.vote_request(1, term=6, last=at(9, 4))))
    assert not refused.granted
    assert only(RequestVote, lone.wait(10.0)) == []


def assert_only_the_old_leader_can_lead(cluster: Cluster, leader: Member, newcomers: Sequence[Member]) -> None:
    """While it is down nobody is elected; with it the cluster comes to all three members."""
    cluster.crash(leader.id)

    cluster.run(10.0)
    assert not any(newcomer.leads for newcomer in newcomers)

    cluster.heal()
    cluster.start(leader.id)
    assert cluster.run_until(lambda: leader.raft.configuration.voters == {1, 2, 3})
    cluster.run(3.0)
    cluster.check_logs()


def test_newcomers_with_the_ids_of_founding_members_do_not_elect_each_other_by_the_front_of_their_log() -> None:
    """Two of three are removed and added again with empty disks. When the leader goes they have no more of the log than
    what names the founding members: they would be a majority of these, and know nothing of what is committed.
    `Cluster` checks that nobody commits anything else."""
    cluster = Cluster(3, config=Config(max_append_bytes=1, max_appends_in_flight=1), patience={1: 0.0})
    leader = cluster.run_until_serving()
    cluster.change(leader.id, Add(leader.id, "elsewhere"))  # a configuration with the founding members
    assert cluster.run_until(lambda: not leader.raft.is_changing)
    others = [id for id in cluster.members if id != leader.id]
    for id in others:
        cluster.remove(id)
        cluster.crash(id)
    cluster.write(leader.id, "SET key value")
    newcomers = []
    for id in others:
        newcomers.append(cluster.join(id))
        cluster.cut_between([leader.id], [id])
        cluster.change(leader.id, Add(id, f"address of {id}"))
    for newcomer in newcomers:
        cluster.cut -= {(leader.id, newcomer.id), (newcomer.id, leader.id)}
        cluster.run_until(partial(lambda raft: raft.configuration.voters == {1, 2, 3}, newcomer.raft))
        cluster.cut_between([leader.id], [newcomer.id])
        assert newcomer.raft.configuration.joined == ()
    assert_only_the_old_leader_can_lead(cluster, leader, newcomers)


def test_newcomers_do_not_elect_each_other_by_what_tells_of_earlier_ones_with_their_ids() -> None:
    """The same, for the second time: two of three have lost their disks before, and were added again. What the front of
    the log says of those who came then is not true of these."""
    cluster = Cluster(3, config=Config(max_append_bytes=1, max_appends_in_flight=1), patience={1: 0.0})
    leader = cluster.run_until_serving()
    for id in (2, 3):
        cluster.remove(id)
        cluster.crash(id)
    for id in (2, 3):
        cluster.add(id)
    former = leader.raft.log.configurations.latest_index
    for id in (2, 3):
        cluster.remove(id)
        cluster.crash(id)
    cluster.write(leader.id, "SET key value")
    newcomers = []
    for id in (2, 3):
        added = cluster.change(leader.id, Add(id, f"new address of {id}"))
        cluster.cut_between([leader.id], [id])
        newcomers.append(cluster.join(id, joined=leader.raft.log.last_index))
        assert isinstance(added.outcome, Applied), "nobody else has a vote yet"
    for newcomer in newcomers:
        cluster.cut -= {(leader.id, newcomer.id), (newcomer.id, leader.id)}
        cluster.run_until(partial(lambda raft: raft.log.last_index >= former, newcomer.raft))
        cluster.cut_between([leader.id], [newcomer.id])
        assert newcomer.raft.configuration.voters == {1, 2, 3}
        assert newcomer.raft.log.last_index < newcomer.storage.identity.joined
    assert_only_the_old_leader_can_lead(cluster, leader, newcomers)


# ---- 4.2.2: removing the current leader ------------------------------------------------------------------------------


def test_a_leader_that_is_removed_does_not_count_itself() -> None:
    """'[...] there will be a period of time (while it is committing Cnew) when a leader can manage a cluster that does
    not include itself; it replicates log entries but does not count itself in majorities.'"""
    lone = Lone()
    lone.serve()

    lone.change(Remove(1))
    lone.step(lone.ack(2))
    assert (lone.role, lone.raft.is_changing) == ("leader", True)
    lone.step(lone.ack(3))

    assert lone.role == "follower"
    assert lone.raft.committed_index == 2


def test_it_steps_down_once_the_entry_is_committed_and_says_so_to_the_others() -> None:
    """'[...] a leader that is removed from the configuration steps down once the Cnew entry is committed.'"""
    lone = Lone()
    lone.serve()
    lone.change(Remove(1))

    sent = lone.step(lone.ack(2), lone.ack(3))

    assert {message.recipient for message in only(AppendEntries, sent) if message.leader_commit == 2} == {2, 3}
    assert lone.raft.lease is None
    assert lone.wait(10.0) == [], "it is quiet from now on"


def test_it_does_not_step_down_before_all_up_to_there_has_been_handed_out() -> None:
    """Those who wait for what they have written would be told that it may not have been done."""
    lone = Lone(config=Config(max_apply_bytes=1))
    lone.serve()
    lone.propose(*(f"SET k{i} {i}" for i in range(3)))
    lone.change(Remove(1))
    removed_at = lone.raft.log.last_index
    for ack in (lone.ack(2), lone.ack(3)):
        lone.raft.step(ack, lone.now)
    assert lone.raft.committed_index == removed_at

    while (ready := lone.raft.ready()) is not None:
        assert lone.role == "leader"
        lone.raft.advance(ready)
        assert (lone.role == "leader") is (lone.raft.handed_out_index < removed_at)
        if lone.role == "follower":
            break

    assert lone.raft.handed_out_index == removed_at


def test_it_names_its_successor_so_that_nobody_has_to_time_out() -> None:
    """3.10: 'Leadership transfer is useful [...] when the leader must step down [...] when it is removed from the
    cluster.' The lease, which was long, is not in the successor's way."""
    cluster = Cluster(3, config=Config(lease_duration=5.0))
    leader = cluster.run_until_serving()
    cluster.run(0.3)
    began = cluster.now

    assert isinstance_applied(cluster, leader.id, Remove(leader.id))
    cluster.run_until(lambda: cluster.serving() not in (None, leader))

    assert cluster.now - began < DEFAULTS.heartbeat_interval


def test_it_names_nobody_who_has_not_got_everything() -> None:
    """As above: 'fully updates the target server's log' (3.10)."""
    lone = Lone()
    lone.serve()
    lone.change(Remove(1))
    lone.propose("SET k v")

    sent = lone.step(lone.ack(2, match=2), lone.ack(3, match=2))

    assert lone.role == "follower"
    assert only(TimeoutNow, sent) == []


def test_the_cluster_goes_on_without_its_leader() -> None:
    cluster = Cluster(3)
    leader = cluster.run_until_serving()

    assert isinstance_applied(cluster, leader.id, Remove(leader.id))

    assert not leader.leads
    successor = cluster.run_until_serving()
    assert successor is not leader
    assert successor.raft.configuration.voters == {1, 2, 3} - {leader.id}
    assert isinstance(_written(cluster, successor.id), Applied)
    assert isinstance(cluster.write(leader.id, "SET k v").outcome, NotLeader)


def test_a_server_that_is_not_in_its_own_latest_configuration_still_stands_for_election() -> None:
    """'[...] a server that is not part of its own latest configuration should still start new elections, as it might
    still be needed until the Cnew entry is committed (as in Figure 4.6). It does not count its own vote in elections
    unless it is part of its latest configuration.'"""
    cluster = Cluster(2, patience={1: 0.0, 2: 1.0})
    assert cluster.run_until_serving().id == 1
    cluster.isolate(2)
    cluster.change(1, Remove(1))
    cluster.crash(1)
    cluster.heal()

    cluster.run(3.0)
    assert not cluster.members[2].leads, "its log lacks what the first one has"
    cluster.start(1)
    cluster.run_until(lambda: cluster.members[2].leads)

    assert cluster.members[2].raft.configuration.voters == {2}
    assert not cluster.members[1].leads


def test_once_the_removal_is_committed_it_does_not_stand_any_more() -> None:
    lone = Lone(term=1)
    lone.step(lone.append_members(2, 3))
    assert only(AppendEntries, lone.wait(3.0)) == []
    assert lone.role == "pre-candidate"

    lone.step(lone.append(2, prev=at(1, 1), commit=1))

    assert lone.wait(10.0) == []
    assert lone.role == "follower"
    assert any("is no member of the cluster any more" in note for note in lone.notes)


# ---- who is removed --------------------------------------------------------------------------------------------------


def test_a_removed_follower_is_told_of_it_and_is_quiet() -> None:
    cluster = Cluster(3)
    leader = cluster.run_until_serving()
    gone = next(i for i in cluster.members if i != leader.id)

    cluster.remove(gone)
    cluster.run(10.0)

    removed = cluster.members[gone]
    assert gone not in removed.raft.configuration.members
    assert not removed.raft.is_changing
    assert (removed.replica.status().role, cluster.max_term()) == ("follower", leader.raft.current_term)
    assert set(leader.leader.progress) == {1, 2, 3} - {leader.id, gone}, "nobody goes on talking to it"


def test_a_removed_member_that_never_heard_of_it_disturbs_nobody() -> None:
    """4.2.3: it times out again and again, and the others go on hearing their leader."""
    cluster = Cluster(5)
    leader = cluster.run_until_serving()
    gone = next(i for i in cluster.members if i != leader.id)
    cluster.isolate(gone)
    cluster.remove(gone)
    cluster.run(5.0)
    term = leader.raft.current_term

    cluster.heal()
    cluster.run(20.0)

    assert cluster.serving() is leader
    assert leader.raft.current_term == term
    assert cluster.members[gone].raft.current_term <= term


def test_a_member_that_is_removed_while_it_is_down_is_forgotten_after_a_while() -> None:
    cluster = Cluster(3)
    leader = cluster.run_until_serving()
    gone = next(i for i in cluster.members if i != leader.id)
    cluster.crash(gone)

    cluster.remove(gone)
    cluster.run(5 * TIMEOUT)

    assert gone not in leader.leader.progress


@pytest.mark.parametrize("size", [1, 2, 3])
def test_each_member_is_replaced_in_turn(size: int) -> None:
    cluster = Cluster(size)
    for old in range(1, size + 1):
        leader = cluster.run_until_serving()
        cluster.write(leader.id, f"SET before {old}")
        cluster.add(old + size)
        cluster.remove(old)
        cluster.crash(old)
    leader = cluster.run_until_serving()
    assert leader.raft.configuration.voters == set(range(size + 1, 2 * size + 1))
    assert isinstance(_written(cluster, leader.id), Applied)
    cluster.run(1.0)
    up = [member for member in cluster.members.values() if member.is_up]
    assert {member.machine.digest() for member in up} == {leader.machine.digest()}
    assert leader.machine.get(b"before") == b"%d" % size


def test_who_is_wanted_again_while_it_is_leaving_is_a_learner_again() -> None:
    lone = Lone()
    lone.serve()
    lone.change(Remove(3))
    lone.step(lone.ack(2))

    lone.change(Add(3, "c:1"))

    assert not lone.leader.leaving
    assert lone.raft.configuration.learners == {3}
    assert Promote(3).member in lone.leader.catching_up
