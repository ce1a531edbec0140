"""Bugs that real Raft systems shipped, as far as the algorithm can have them (the numbers are HAZARDS.md's).

Hazards 20, 28, 30, 37, 38, 47 and 60 have their tests, named so, beside the rules that they break.
"""

from __future__ import annotations

import random

import pytest

from raftkv.log_storage import StorageError
from raftkv.raft.core import Config, NotLeader
from raftkv.raft.messages import AppendEntries, AppendEntriesReply, RequestVote, RequestVoteReply
from raftkv.raft.progress import State
from raftkv.raft.types import ORIGIN, HardState, SnapshotMeta
from raftkv.replica import Unknown
from tests.raft.lone import DEFAULTS, NO_LEASES, Lone, Persisted, at, entries, only, text
from tests.support.raft_cluster import Cluster

HEARTBEAT = DEFAULTS.heartbeat_interval


# ---- Durability ------------------------------------------------------------------------------------------------------


def test_hazard_1_a_vote_is_durable_before_the_reply() -> None:
    lone = Lone()

    lone.step(lone.vote_request(2, term=1))

    persisted, reply = lone.events
    assert persisted == Persisted(HardState(1, voted_for=2), ())
    assert isinstance(reply, RequestVoteReply)


def test_hazard_2_term_and_vote_are_one_record() -> None:
    lone = Lone()

    lone.step(lone.vote_request(2, term=7))

    assert [e.hard_state for e in lone.events if isinstance(e, Persisted)] == [HardState(7, voted_for=2)]


@pytest.mark.parametrize("how", ["append", "vote reply", "pre-vote"])
def test_hazard_3_the_vote_stands_when_a_candidate_falls_back_in_the_same_term(how: str) -> None:
    lone = Lone()
    lone.stand()
    assert (lone.role, lone.term) == ("candidate", 1)

    if how == "append":
        lone.step(lone.append(2, term=1))
    elif how == "vote reply":
        lone.step(lone.vote(2, granted=False), lone.vote(3, granted=False))
    else:
        lone.time_out()
    [reply] = lone.step(lone.vote_request(3, term=1, last=at(9, 9)))

    assert isinstance(reply, RequestVoteReply)
    assert not reply.granted
    assert lone.raft.voted_for == 1


@pytest.mark.parametrize("pre_vote", [False, True])
def test_hazard_4_a_reply_that_comes_twice_is_one_vote(pre_vote: bool) -> None:
    lone = Lone(size=5)
    if pre_vote:
        lone.time_out()
        lone.step(*[lone.pre_vote(2)] * 5)
        assert lone.role == "pre-candidate"
    else:
        lone.stand(by=[2, 3])
        lone.step(*[lone.vote(2)] * 5)
        assert lone.role == "candidate"


def test_hazard_6_an_acknowledgement_follows_the_entries_to_the_disk() -> None:
    lone = Lone(term=1)
    lone.storage.failure = "the disk is gone"

    lone.raft.step(lone.append(2, terms=[1]), lone.now)
    with pytest.raises(StorageError):
        lone.settle()

    assert lone.events == [], "no reply has left"


def test_hazard_7_a_cluster_of_one_commits_nothing_before_its_disk_has_it() -> None:
    lone = Lone(size=1)
    lone.serve(by=[])
    lone.storage.failure = "the disk is gone"

    lone.raft.propose(text("SET k v"), lone.now)
    with pytest.raises(StorageError):
        lone.settle()

    assert lone.raft.committed_index == 1
    assert [entry.index for entry in lone.applied] == [1]


def test_hazard_7_time_alone_commits_nothing_that_is_not_durable() -> None:
    lone = Lone(size=1)
    lone.serve(by=[])

    lone.raft.propose(text("SET k v"), lone.now)
    lone.raft.tick(lone.now + lone.config.heartbeat_interval)

    assert lone.raft.committed_index == 1
    lone.settle()
    assert lone.raft.committed_index == 2


# ---- Replication -----------------------------------------------------------------------------------------------------


def test_hazard_21_an_older_request_after_a_newer_one_truncates_nothing() -> None:
    lone = Lone(term=1)
    older, newer = lone.append(2, ORIGIN, [1, 1]), lone.append(2, ORIGIN, [1, 1, 1, 1])

    lone.step(newer)
    [reply] = lone.step(older)

    assert lone.log_terms == [1, 1, 1, 1]
    assert isinstance(reply, AppendEntriesReply)
    assert reply.match_index == 2, "and it acknowledges only what it was asked about"


def test_hazard_22_a_heartbeat_to_a_divergent_follower_acknowledges_only_what_it_verified() -> None:
    lone = Lone([1, 1, 2, 2, 2], term=3)

    [reply] = lone.step(lone.append(3, at(2, 1), commit=5))

    assert isinstance(reply, AppendEntriesReply)
    assert (reply.success, reply.match_index) == (True, 2)


def test_hazard_23_an_empty_append_below_a_stale_suffix_does_not_commit_it() -> None:
    lone = Lone([1, 1, 2, 2, 2], term=3)

    lone.step(lone.append(3, at(2, 1), commit=5))

    assert lone.raft.committed_index == 2
    lone.step(lone.append(3, at(2, 1), [3, 3, 3], commit=5))
    assert [entry.term for entry in lone.applied] == [1, 1, 3, 3, 3]


def test_hazard_24_what_is_proposed_after_the_term_was_lost_is_not_appended() -> None:
    lone = Lone()
    lone.serve()
    lone.raft.step(lone.append(3, at(1, 1), term=2), lone.now)

    with pytest.raises(NotLeader):
        lone.raft.propose(text("SET k v"), lone.now)
    lone.settle()

    assert lone.log_terms == [1]


def test_hazard_24_an_entry_has_the_term_in_which_it_was_appended() -> None:
    lone = Lone()
    lone.serve()
    positions = lone.raft.propose(text("SET a 1", "SET b 2"), lone.now)
    lone.raft.step(lone.rejection(2, 1, term=5), lone.now)
    lone.settle()

    assert positions == [at(2, 1), at(3, 1)]
    assert (lone.role, lone.term, lone.log_terms) == ("follower", 5, [1, 1, 1])


def test_hazard_25_a_leader_elected_again_has_forgotten_what_matched_before() -> None:
    lone = Lone()
    lone.serve()
    lone.propose("SET a 1", "SET b 2")
    lone.step(lone.ack(2), lone.ack(3))
    assert lone.raft.committed_index == 3
    lone.step(lone.append(3, at(3, 1), term=2))

    lone.lead()
    lone.propose("SET c 3")

    assert {p.match_index for p in lone.leader.progress.values()} == {0}
    assert lone.raft.committed_index == 3
    lone.step(lone.ack(2, match=5, term=1, round=1))
    assert lone.raft.committed_index == 3, "an acknowledgement of the first term says nothing of the second"


def test_hazard_26_a_rejection_that_comes_after_a_success_changes_nothing() -> None:
    lone = Lone([1, 1, 1], config=NO_LEASES)
    lone.lead()
    lone.step(lone.rejection(2, 3, 0, 2))  # it was too short
    lone.step(lone.ack(2, match=4))
    before = lone.leader.progress[2]
    assert (before.state, before.match_index, before.next_index) == (State.REPLICATE, 4, 5)

    sent = lone.step(lone.rejection(2, 3, 0, 2), lone.rejection(2, 1, 0, 1))

    assert sent == []
    assert lone.leader.progress[2] == before
    assert (before.state, before.match_index, before.next_index) == (State.REPLICATE, 4, 5)


def test_hazard_26_a_rejection_that_comes_twice_moves_the_probe_once() -> None:
    lone = Lone([1, 1, 1, 2, 2, 3])
    lone.lead()

    lone.step(lone.rejection(2, 6, 2, 4))
    place = lone.leader.progress[2].next_index
    sent = lone.step(lone.rejection(2, 6, 1, 1))

    assert sent == []
    assert lone.leader.progress[2].next_index == place


def test_hazard_26_a_follower_that_has_lost_its_log_is_not_asked_as_fast_as_it_can_answer() -> None:
    """What it once acknowledged it must not lose: it can't be helped here, but the others must not suffer."""
    lone = Lone(config=NO_LEASES)
    lone.serve(by=[2, 3])
    lone.raft.unreachable(3, lone.now)
    heartbeat = [m for m in only(AppendEntries, lone.wait(HEARTBEAT)) if m.recipient == 3]

    at_once = lone.step(lone.rejection(3, rejected=1, conflicting_index=1, round=2))
    later = lone.wait(HEARTBEAT)

    assert [m.prev for m in heartbeat] == [at(1, 1)]
    assert at_once == []
    assert 3 in [message.recipient for message in later]


def test_hazard_27_a_pipeline_that_was_stalled_goes_on() -> None:
    cluster = Cluster(3)
    leader = cluster.run_until_serving()
    stalled = next(m for m in cluster.members.values() if m is not leader)
    cluster.pause(stalled.id)
    for i in range(50):
        cluster.write(leader.id, f"SET k {i}")
        cluster.run(0.05)
    cluster.cut_between([leader.id], [stalled.id])  # what was sent meanwhile is lost, and so are the answers
    cluster.resume(stalled.id)
    cluster.run(0.4)
    cluster.heal()

    cluster.write(leader.id, "SET k last")
    caught_up = cluster.run_until(lambda: stalled.machine.get(b"k") == b"last", within=2.0)

    assert caught_up, cluster.tail()
    assert leader.leads


def test_hazard_27_requests_that_are_not_answered_do_not_pile_up() -> None:
    lone = Lone()
    lone.serve(by=[2, 3])
    sent = []
    for _ in range(100):
        sent += lone.propose("SET k v")
        sent += lone.wait(0.01)
        lone.step(lone.ack(2))

    to_3 = [m for m in only(AppendEntries, sent) if m.recipient == 3 and m.entries]
    assert len(to_3) <= 1 + DEFAULTS.max_appends_in_flight + 2


def test_hazard_28_a_failed_read_of_the_log_sends_nothing() -> None:
    lone = Lone([1, 1, 1])
    lone.lead()
    lone.storage.failure = "input/output error"
    events = len(lone.events)

    lone.raft.step(lone.rejection(2, 3, 0, 1), lone.now)
    with pytest.raises(StorageError):
        lone.settle()

    assert len(lone.events) == events


def test_hazard_29_match_and_commit_index_never_go_back() -> None:
    rng = random.Random(29)
    lone = Lone(size=5)
    lone.serve(by=[2, 3])
    for _ in range(300):
        lone.propose("SET k v")
        matches = {peer: progress.match_index for peer, progress in lone.leader.progress.items()}
        committed = lone.raft.committed_index
        last = lone.raft.log.last_index
        for peer in lone.leader.progress:  # answers to anything that was ever sent, in any order
            lone.step(lone.ack(peer, match=rng.randint(0, last), round=rng.randint(0, lone.leader.rounds.current)))
        assert all(progress.match_index >= matches[peer] for peer, progress in lone.leader.progress.items())
        assert lone.raft.committed_index >= committed


# ---- Reads and leases ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [3, 5, 7])
def test_hazard_17_a_leader_that_is_stuck_is_replaced_within_two_election_timeouts(size: int) -> None:
    """Its turn does not end, whatever the reason: a sync that does not come back, say."""
    for seed in range(30):
        cluster = Cluster(size, seed=seed)
        leader = cluster.run_until_serving()
        cluster.run(0.3 + seed * 0.0037)
        cluster.write(leader.id, "SET k v")
        cluster.pause(leader.id)
        stuck_at = cluster.now
        cluster.run_until(lambda: cluster.serving() not in (None, leader))  # noqa: B023
        assert cluster.now - stuck_at <= 2 * Config().election_timeout, f"seed {seed}"


def test_hazard_17_a_leader_whose_turns_take_too_long_hands_over() -> None:
    """Each of them takes a little longer than an election timeout; and the others' timeouts are long, so that they
    never miss it for long enough."""
    patient = Config(election_timeout=2.0)
    cluster = Cluster(3, config={1: Config(), 2: patient, 3: patient}, patience={1: 0.0})
    leader = cluster.run_until_serving()
    assert leader.id == 1
    cluster.run(0.3)
    round = leader.leader.rounds.current
    cluster.run_until(lambda: leader.leader.rounds.current > round)
    cluster.pause(1)  # heartbeats have just left, and their answers wait for it when its turn ends
    cluster.run(0.6)
    cluster.resume(1)
    cluster.run(0.1)

    assert cluster.serving() not in (None, leader)


def test_hazard_40_the_lease_does_not_survive_a_transfer() -> None:
    """Inside the lease, and the old leader hears nothing of what follows."""
    cluster = Cluster(3, config=Config(lease_duration=60.0))
    old = cluster.run_until_serving()
    cluster.write(old.id, "SET k old")
    cluster.run(0.2)
    target = old.id % 3 + 1

    old.raft.transfer(target, cluster.now)
    cluster.turn(old, [])
    cluster.cut |= {(other, old.id) for other in cluster.members}
    cluster.run_until(lambda: cluster.serving() is cluster.members[target])
    cluster.write(target, "SET k new")
    cluster.run(0.1)

    assert old.leads
    assert old.machine.get(b"k") == b"old"
    assert old.replica.read_under_lease([b"k"], lambda: cluster.now) is None


def test_hazard_41_a_leader_that_was_stopped_past_its_lease_does_not_serve_from_it() -> None:
    cluster = Cluster(3)
    old = cluster.run_until_serving()
    cluster.write(old.id, "SET k old")
    cluster.run(0.2)
    cluster.pause(old.id)
    cluster.run_until(lambda: cluster.serving() not in (None, old))
    new = cluster.run_until_serving()
    cluster.write(new.id, "SET k new")
    cluster.run(0.1)

    without_turn = old.replica.read_under_lease([b"k"], lambda: cluster.now)
    cluster.members[old.id].paused = False
    in_its_first_turn = cluster.read_key(old.id, b"k")
    cluster.run(1.0)

    assert without_turn is None
    assert in_its_first_turn.outcome is not None
    assert not hasattr(in_its_first_turn.outcome, "value"), "the cluster would have noticed a stale one anyway"


def test_hazard_41_time_that_seems_to_go_back_does_no_harm() -> None:
    lone = Lone()
    lone.serve()
    lone.propose("SET a 1")
    lone.wait(0.3)
    lone.propose("SET b 2")

    lone.now -= 100.0
    lone.propose("SET c 3")
    lone.tick()

    times = [lone.raft.log.entries(i, i, 0)[0].time_ms for i in range(1, 5)]
    assert times == sorted(times)
    assert lone.role == "leader"


def test_hazard_42_voters_that_were_restarted_still_know_of_the_old_leaders_lease() -> None:
    cluster = Cluster(3, config=Config(lease_duration=2.0), patience={1: 0.0, 2: 0.2, 3: 1.0})
    old = cluster.run_until_serving()
    cluster.run(0.2)
    cluster.pause(old.id)
    stopped_at = cluster.now

    for voter in (2, 3):
        cluster.restart(voter)
    committed = len(cluster.committed)
    assert cluster.run_until(lambda: cluster.members[2].leads, within=1.0)
    assert old.has_lease(cluster.now)
    assert cluster.run_until(lambda: len(cluster.committed) > committed)

    assert not old.has_lease(cluster.now)
    assert cluster.now >= stopped_at + 2.0


def test_hazard_59_members_with_different_lease_durations() -> None:
    """The longest that any of them has asked for holds, whoever asks for what later, and where leases are off too."""
    config = {1: Config(lease_duration=3.0), 2: Config(lease_duration=0.1), 3: NO_LEASES}
    cluster = Cluster(3, config=config, patience={1: 0.0, 2: 0.3, 3: 0.6})
    first = cluster.run_until_serving()
    cluster.run(0.2)
    cluster.pause(first.id)

    # 2 leads for a while, then 3, and each of them asks for less than 1 did; the cluster checks that nobody commits.
    assert cluster.run_until(lambda: cluster.members[2].leads)
    cluster.run(0.3)
    cluster.isolate(2)
    assert cluster.run_until(lambda: not cluster.members[2].leads)
    cluster.heal()
    committed = len(cluster.committed)
    assert first.has_lease(cluster.now)
    assert cluster.run_until(lambda: len(cluster.committed) > committed)

    assert not first.has_lease(cluster.now)


# ---- Liveness and clients --------------------------------------------------------------------------------------------


def test_hazard_44_pre_vote_and_check_quorum_do_not_lock_each_other_out() -> None:
    """Members of all kinds of terms, as an upgrade or a heal leaves them, elect a leader all the same."""
    for seed in range(30):
        rng = random.Random(seed)
        size = rng.choice([2, 3, 5])
        cluster = Cluster(size, seed=seed)
        for member in cluster.members.values():
            cluster.crash(member.id)
            member.storage.persist(HardState(rng.randint(0, 9), rng.choice([0, member.id])), [], 0)
        for id in cluster.members:
            cluster.start(id)

        leader = cluster.run_until_serving(within=10.0)

        cluster.run(3.0)
        assert cluster.serving() is leader, f"seed {seed}\n{cluster.tail()}"


def test_hazard_44_a_member_of_a_later_term_is_taken_back_in() -> None:
    """It was a candidate when it was cut off, and it refuses the leader's term: the leader learns of it and all
    agree."""
    cluster = Cluster(3)
    cluster.run_until_serving()
    away = next(m for m in cluster.members.values() if not m.leads)
    cluster.crash(away.id)
    away.storage.persist(HardState(term=50, voted_for=away.id), [], 0)

    cluster.start(away.id)
    cluster.run(5.0)
    leader = cluster.run_until_serving()

    assert leader.raft.current_term > 50
    assert {m.raft.leader_id for m in cluster.members.values()} == {leader.id}


def nothing_but_a_snapshot() -> Lone:
    """A member whose log of terms 1, 1, 2 has been compacted as a whole."""
    lone = Lone([1, 1, 2], committed=3, config=NO_LEASES)
    writer = lone.storage.begin_snapshot()
    writer.finish()
    lone.storage.adopt_snapshot(SnapshotMeta(at(3, 2), time_ms=5000), writer, keep_from=4)
    assert lone.storage.first_index() == 4
    lone.restart()
    return lone


def test_hazard_33_a_member_with_nothing_but_a_snapshot_knows_who_is_more_up_to_date() -> None:
    """last_log_term is 0 when the log is nothing but a snapshot. Elect in that state."""
    lone = nothing_but_a_snapshot()
    refused = only(RequestVoteReply, lone.step(lone.vote_request(2, term=3, last=at(9, 1))))
    granted = only(RequestVoteReply, lone.step(lone.vote_request(3, term=4, last=at(3, 2))))
    assert [reply.granted for reply in refused + granted] == [False, True]


def test_hazard_33_a_member_with_nothing_but_a_snapshot_is_elected_and_leads() -> None:
    lone = nothing_but_a_snapshot()
    asked = only(RequestVote, lone.stand())
    assert {request.last for request in asked} == {at(3, 2)}
    requests = only(AppendEntries, lone.step(lone.vote(2)))
    assert {request.prev for request in requests} == {at(3, 2)}
    assert [entry.time_ms for entry in requests[0].entries] == [5000], "log time goes on from the snapshot's"
    lone.step(lone.ack(2, match=4))
    assert lone.raft.committed_index == 4


def test_hazard_33_a_follower_with_nothing_but_a_snapshot_takes_what_comes_after_it() -> None:
    lone = nothing_but_a_snapshot()
    [reply] = only(AppendEntriesReply, lone.step(lone.append(2, at(3, 2), [3], term=3)))
    assert (reply.success, reply.match_index) == (True, 4)
    [reply] = only(AppendEntriesReply, lone.step(lone.append(2, at(1, 1), [1, 2, 3, 3], term=3)))
    assert (reply.success, reply.match_index) == (True, 5), "what it has compacted is skipped"
    assert lone.raft.log.entries(4, 5, 1000) == entries([3, 3], first=4)


def test_hazard_48_a_write_whose_leader_was_deposed_is_unknown_and_may_be_committed_yet() -> None:
    cluster = Cluster(3)
    leader = cluster.run_until_serving()
    cluster.cut |= {(peer, leader.id) for peer in cluster.members if peer != leader.id}

    answer = cluster.write(leader.id, "SET k v")
    cluster.run_until(lambda: answer.outcome is not None)
    cluster.heal()
    new = cluster.run_until_serving()

    assert isinstance(answer.outcome, Unknown)
    assert new.machine.get(b"k") == b"v"
