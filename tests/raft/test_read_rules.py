"""The rules of reads, sentence by sentence (rule 8 of the design; Raft dissertation, 6.4).

Each test quotes the sentence that it tests.
"""

from __future__ import annotations

import pytest

from raftkv.kv import StateMachine
from raftkv.operations import Code, Operation
from raftkv.raft.core import Config
from raftkv.raft.messages import AppendEntries
from raftkv.raft.types import Entry
from raftkv.replica import NotLeader, Served
from tests.raft.lone import DEFAULTS, NO_LEASES, Lone, only
from tests.support.raft_cluster import Cluster, Member

HEARTBEAT = DEFAULTS.heartbeat_interval


def without_lease() -> Lone:
    """A leader that serves, whose last round has been acknowledged, and that has no lease."""
    lone = Lone(config=NO_LEASES)
    lone.serve(by=[2, 3])
    lone.step(lone.ack(2), lone.ack(3))
    return lone


# ---- 'From a valid lease' --------------------------------------------------------------------------------------------


def test_under_a_valid_lease_a_read_is_served_at_once() -> None:
    """'From a valid lease [...].'"""
    lone = Lone()
    lone.serve()

    assert lone.read(7) == []
    assert lone.served == [7]


def test_a_lease_is_valid_until_its_last_moment_and_not_a_moment_longer() -> None:
    """'From a *valid* lease [...].'"""
    lone = Lone()
    lone.serve()
    assert lone.raft.lease is not None

    lone.now = lone.raft.lease.until - 0.0001
    lone.read(7)
    lone.now = lone.raft.lease.until
    lone.read(8)

    assert lone.served == [7]


def test_a_clock_that_seems_to_go_back_does_not_bring_a_lease_back() -> None:
    """'From a *valid* lease [...]': validity is judged by the latest time that the member has seen."""
    lone = Lone()
    lone.serve()
    lone.oversleep(DEFAULTS.lease_duration)
    lone.tick()

    lone.now -= DEFAULTS.lease_duration
    lone.read(7)

    assert lone.served == []


# ---- 'or after a round to a quorum (ReadIndex) whose requests were sent, in the current term, after the read arrived'


def test_a_round_to_a_quorum_confirms_a_read() -> None:
    """'[...] or after a round to a quorum (ReadIndex).'"""
    lone = Lone(size=5, config=NO_LEASES)
    lone.serve(by=[2, 3, 4, 5])
    lone.read(7)

    lone.step(lone.ack(2))
    of_one = list(lone.served)
    lone.step(lone.ack(3))

    assert (of_one, lone.served) == ([], [7])


def test_a_rejection_confirms_as_well() -> None:
    """'[...] a round to a quorum': who rejects the entries has still recognized the leader of the term."""
    lone = without_lease()
    lone.read(7)

    lone.step(lone.rejection(2, 1, 0, 1, round=lone.leader.rounds.current))

    assert lone.served == [7]


def test_hazard_38_acknowledgements_of_requests_that_were_sent_before_do_not_count() -> None:
    """'[...] whose requests were sent [...] *after the read arrived*.'"""
    lone = without_lease()
    lone.wait(HEARTBEAT)
    before_the_read = [lone.ack(2), lone.ack(3)]

    lone.read(7)
    lone.step(*before_the_read)  # sets off the round that the read needs
    lone.step(*before_the_read, *before_the_read)
    replayed = list(lone.served)
    lone.step(lone.ack(2))

    assert (replayed, lone.served) == ([], [7])


def test_entries_sent_before_the_read_do_not_count_either() -> None:
    """'[...] whose requests were sent [...] *after the read arrived*.'"""
    lone = without_lease()
    round_of_the_write = lone.leader.rounds.current
    lone.propose("SET k v")

    lone.read(7)
    lone.step(lone.ack(2, round=round_of_the_write), lone.ack(3, round=round_of_the_write))
    before = list(lone.served)
    lone.step(lone.ack(3))

    assert (before, lone.served) == ([], [7])


def test_acknowledgements_of_an_earlier_term_do_not_count() -> None:
    """'[...] whose requests were sent, *in the current term*.'"""
    lone = without_lease()
    of_the_first_term = [lone.ack(2, match=1, round=round) for round in range(10)]
    lone.step(lone.append(3, term=2))
    lone.serve()
    lone.step(lone.ack(2))
    assert lone.term == 3

    lone.read(7)
    lone.step(*of_the_first_term)

    assert lone.served == []


def test_a_heartbeat_that_is_due_when_the_read_arrives_serves_it() -> None:
    """'[...] sent *after the read arrived*': in the same turn is after."""
    lone = without_lease()
    lone.now = lone.leader.heartbeat_due
    lone.raft.read(7, lone.now)

    sent = lone.tick()
    lone.step(lone.ack(2))

    assert len(only(AppendEntries, sent)) == 2
    assert lone.served == [7]


# ---- '(arrivals during a round wait for the next)' -------------------------------------------------------------------


def test_arrivals_during_a_round_wait_for_the_next() -> None:
    """'(arrivals during a round wait for the next)'."""
    lone = without_lease()

    first = lone.read(1)
    during = lone.read(2) + lone.read(3)
    first_round = [lone.ack(2), lone.ack(3)]
    second = lone.step(first_round[0])
    after_first = list(lone.served)
    lone.step(first_round[1])
    lone.step(lone.ack(3))

    assert (len(first), during, len(only(AppendEntries, second))) == (2, [], 2)
    assert after_first == [1]
    assert lone.served == [1, 2, 3]


def test_a_lost_round_is_made_up_for_by_the_next_heartbeat() -> None:
    """'(arrivals during a round wait for the next)': a round that nobody answers must not hold them up for ever."""
    lone = without_lease()
    lone.read(1)
    lone.read(2)

    lone.wait(HEARTBEAT)
    lone.step(lone.ack(3))

    assert lone.served == [1, 2]


def test_reads_are_served_in_the_order_of_their_arrival() -> None:
    """A read under the lease does not overtake one that waits for a round."""
    lone = Lone()
    lone.serve()
    lone.oversleep(DEFAULTS.lease_duration)
    lone.read(1)
    lone.raft.step(lone.ack(3), lone.now)
    assert lone.has_lease()

    lone.read(2)

    assert lone.served == [1, 2]


# ---- 'never before the leader has committed an entry of its own term' ------------------------------------------------


@pytest.mark.parametrize("config", [DEFAULTS, NO_LEASES], ids=["leases", "no leases"])
def test_hazard_37_never_before_the_leader_has_committed_in_its_own_term(config: Config) -> None:
    """'[...] never before the leader has committed an entry of its own term.'"""
    lone = Lone([1, 1, 1], committed=1, config=config)
    lone.lead()
    lone.read(7)

    for _ in range(3):  # rounds enough, but the followers have only what was there before
        lone.wait(HEARTBEAT)
        lone.step(lone.ack(2, match=3), lone.ack(3, match=3))
    before = list(lone.served)
    lone.step(lone.ack(2, match=4))

    assert (before, lone.served) == ([], [7])
    assert lone.applied[-1].index == 4


# ---- 'never from a state that has not applied what was committed when the read arrived' ------------------------------


def test_never_from_a_state_that_has_not_applied_what_was_committed() -> None:
    """'[...] never from a state that has not applied what was committed when the read arrived.'"""
    lone = Lone([1] * 20, config=Config(max_apply_bytes=1))
    lone.lead()

    lone.raft.step(lone.ack(2), lone.now)
    lone.raft.read(7, lone.now)
    lone.settle()

    kinds = [event for event in lone.events if isinstance(event, Entry) or getattr(event, "token", 0) == 7]
    assert [e.index for e in kinds[:-1] if isinstance(e, Entry)] == list(range(1, 22))
    assert lone.served == [7]
    assert getattr(kinds[-1], "token", 0) == 7, "the entries came in many portions, the read after the last of them"


def test_a_write_that_is_not_committed_when_the_read_arrives_is_not_waited_for() -> None:
    """'[...] what was *committed* when the read arrived.'"""
    lone = Lone()
    lone.serve()
    lone.propose("SET k v")

    lone.read(7)

    assert lone.served == [7]
    assert lone.applied[-1].index == 1


def test_a_read_of_a_lost_leadership_is_given_back() -> None:
    """It was asked of a leader, and nothing has been done: it can be asked again elsewhere."""
    lone = without_lease()
    lone.read(7)
    lone.read(8)

    lone.step(lone.append(3, term=2))
    lone.step(lone.ack(2, match=1, round=5, term=1))

    assert (lone.served, lone.lost_reads) == ([], [7, 8])


# ---- 'Without the turn: check the lease, read *one* key, check that the same lease still stands' ---------------------


def leader_with_lease(config: Config = DEFAULTS) -> tuple[Cluster, Member]:
    """A cluster whose S1 leads, holds a lease, and has applied SET k old."""
    cluster = Cluster(3, config=config, patience={1: 0.0, 2: 0.5, 3: 1.0})
    leader = cluster.run_until_serving()
    cluster.write(leader.id, "SET k old")
    cluster.run(0.2)
    return cluster, leader


def read(cluster: Cluster, member: Member, *keys: bytes) -> list[bytes | None] | None:
    found = member.replica.read_under_lease(keys or [b"k"], lambda: cluster.now)
    return None if found is None else found.values()


def test_a_key_is_read_without_the_turn_under_a_valid_lease() -> None:
    """'Without the turn: check the lease, read *one* key, check that the same lease still stands.'"""
    cluster, leader = leader_with_lease()

    assert read(cluster, leader) == [b"old"]
    assert read(cluster, leader, b"missing") == [None], "that there is no such key is an answer too"


def test_several_keys_under_one_look_at_the_lease_are_each_a_read_by_itself() -> None:
    """docs/divergences.md: each lies between the two looks, which is all that one key has; together they may straddle
    an entry."""
    cluster, leader = leader_with_lease()
    cluster.batch(leader.id, *(Operation(Code.SET, key, b"old") for key in (b"a", b"b")))
    cluster.run(0.2)

    def write_both() -> None:
        leader.machine.meanwhile = lambda: None
        cluster.batch(leader.id, *(Operation(Code.SET, key, b"new") for key in (b"a", b"b")))
        cluster.run(0.2)

    leader.machine.meanwhile = write_both

    assert read(cluster, leader, b"a", b"b", b"c") == [b"old", b"new", None]


def test_hazard_60_a_step_down_between_two_keys_spoils_all_of_them() -> None:
    """'[...] check that the same lease still stands': the first key was read in time, but nobody can tell."""
    cluster, leader = leader_with_lease()

    def sleep() -> None:
        cluster.now += DEFAULTS.lease_duration

    leader.machine.meanwhile = sleep

    assert read(cluster, leader, b"k", b"missing") is None


def test_a_follower_reads_nothing_without_the_turn() -> None:
    """'[...] check the lease.'"""
    cluster, leader = leader_with_lease()

    assert [read(cluster, m) for m in cluster.members.values() if m is not leader] == [None, None]


def test_nothing_is_read_without_the_turn_once_the_lease_has_run_out() -> None:
    """'[...] check the lease': by the clock of now, not by that of the last turn."""
    cluster, leader = leader_with_lease()

    cluster.now += DEFAULTS.lease_duration

    looked_up = []
    leader.machine.meanwhile = lambda: looked_up.append(True)
    assert read(cluster, leader) is None
    assert not looked_up


def test_nothing_is_read_without_the_turn_where_leases_are_off() -> None:
    """LEASE_DURATION off: 'every read goes through ReadIndex'."""
    cluster, leader = leader_with_lease(NO_LEASES)

    assert read(cluster, leader) is None


def test_nothing_is_read_without_the_turn_before_everything_committed_is_applied() -> None:
    """'[...] never from a state that has not applied what was committed when the read arrived.'"""
    cluster, leader = leader_with_lease()
    leader.machine.applied_index -= 1

    assert read(cluster, leader) is None


def test_what_is_applied_while_the_key_is_looked_up_comes_too_late() -> None:
    """'[...] never from a state that has not applied what was committed when the read arrived': whether it has must be
    known before the key is looked up, since another thread goes on applying."""
    cluster, leader = leader_with_lease()
    leader.machine.applied_index -= 1

    def catch_up() -> None:
        leader.machine.applied_index += 1

    leader.machine.meanwhile = catch_up

    assert read(cluster, leader) is None


def test_hazard_60_a_step_down_between_check_and_read_is_noticed() -> None:
    """'[...] check that the same lease still stands': the reader's thread may be stopped in the middle for any time."""
    cluster, leader = leader_with_lease(Config(lease_duration=60.0))
    follower = next(m for m in cluster.members.values() if m is not leader)

    def step_down() -> None:
        request = AppendEntries(follower.id, leader.id, 99, leader.raft.log.last, (), 0, 0, 1)
        leader.raft.step(request, cluster.now)  # the turn of another thread, which has not even ended

    leader.machine.meanwhile = step_down

    assert read(cluster, leader) is None


def test_hazard_60_a_lease_that_runs_out_between_check_and_read_is_noticed() -> None:
    """'[...] check that the same lease *still* stands.'"""
    cluster, leader = leader_with_lease()

    def sleep() -> None:
        cluster.now += DEFAULTS.lease_duration

    leader.machine.meanwhile = sleep

    assert read(cluster, leader) is None


def test_hazard_60_another_lease_is_not_the_same_lease() -> None:
    """'[...] that the *same* lease still stands': between two terms of this leader another one may have led and
    written."""
    cluster, leader = leader_with_lease()

    def lose_leadership_and_win_it_back() -> None:
        leader.machine.meanwhile = lambda: None
        cluster.isolate(1)
        cluster.run_until(lambda: cluster.serving() is cluster.members[2])
        cluster.heal()
        cluster.write(2, "SET k new")
        cluster.run(0.5)
        cluster.crash(2)
        cluster.run_until(lambda: leader.has_lease(cluster.now))

    leader.machine.meanwhile = lose_leadership_and_win_it_back

    assert read(cluster, leader) is None
    assert leader.has_lease(cluster.now)
    assert read(cluster, leader) == [b"new"]


def test_a_lease_renewed_meanwhile_is_the_same_lease() -> None:
    """'[...] that the *same* lease still stands': that of the term, which heartbeats keep prolonging."""
    cluster, leader = leader_with_lease()
    leader.machine.meanwhile = lambda: cluster.run(2.0)

    assert read(cluster, leader) == [b"old"]


# ---- 'More than one key takes the turn' ------------------------------------------------------------------------------


def test_a_read_of_several_keys_is_carried_out_between_two_entries() -> None:
    """'More than one key takes the turn': and so sees all or nothing of each entry."""
    cluster = Cluster(3)
    leader = cluster.run_until_serving()
    answers = []

    def two_keys(machine: StateMachine) -> list[bytes | None]:
        return [machine.get(b"a"), machine.get(b"b")]

    for i in range(20):
        both = (Operation(Code.SET, key, b"%d" % i) for key in (b"a", b"b"))
        cluster.batch(leader.id, *both)
        answers.append(cluster.query(leader.id, two_keys))
        cluster.run(0.0005)
    cluster.run(0.1)

    served = [answer.outcome.value for answer in answers if isinstance(answer.outcome, Served)]
    assert len(served) == 20
    assert all(a == b for a, b in served)


def test_a_read_of_several_keys_asked_of_a_follower_names_the_leader() -> None:
    """'More than one key takes the turn': of the leader."""
    cluster = Cluster(3)
    leader = cluster.run_until_serving()
    cluster.run(0.1)
    follower = next(i for i in cluster.members if i != leader.id)

    answer = cluster.query(follower, lambda machine: sorted(machine.all_keys()))

    assert answer.outcome == NotLeader(leader.id)
