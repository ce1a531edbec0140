"""The rules of the leader lease, sentence by sentence (rule 7 of the design; Raft dissertation, 6.4.1).

Each test quotes the sentence that it tests.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from raftkv import clock
from raftkv.raft.core import Config
from raftkv.raft.messages import AppendEntries, AppendEntriesReply, Message, RequestVoteReply
from raftkv.raft.types import ORIGIN, HardState
from tests.raft.lone import DEFAULTS, NO_LEASES, Lone, Persisted, at, only, text
from tests.support.raft_cluster import Cluster

HEARTBEAT = DEFAULTS.heartbeat_interval
NO_DRIFT = Config(lease_duration=0.4, clock_drift=0.0)
LONG = Config(lease_duration=2.0)
"""Longer than an election takes, so that a new leader has to wait for it."""


def lease_ends(lone: Lone) -> float:
    assert lone.raft.lease is not None
    return lone.raft.lease.until


# ---- 'It starts when the request that a quorum acknowledged was *sent*' ----------------------------------------------


def test_a_lease_starts_when_the_request_was_sent_not_when_the_answer_came() -> None:
    """'It starts when the request that a quorum acknowledged was *sent*.'"""
    lone = Lone(config=NO_DRIFT)
    lone.serve()
    lone.wait(HEARTBEAT)
    sent_at = lone.now

    lone.oversleep(0.07)
    lone.step(lone.ack(2))

    assert lease_ends(lone) == pytest.approx(sent_at + 0.4)


def test_a_request_sent_later_in_a_round_counts_from_the_beginning_of_the_round() -> None:
    """'It starts when the request [...] was *sent*': earlier is safe, later would not be."""
    lone = Lone(config=NO_DRIFT)
    lone.serve()
    lone.wait(HEARTBEAT)
    began_at = lone.now
    lone.oversleep(0.05)

    lone.propose("SET k v")
    lone.step(lone.ack(2))

    assert lease_ends(lone) == pytest.approx(began_at + 0.4)


def test_it_takes_a_quorum_and_counts_from_the_request_that_the_slowest_of_it_acknowledged() -> None:
    """'[...] the request that a *quorum* acknowledged.'"""
    lone = Lone(size=5, config=NO_DRIFT)
    lone.serve(by=[2, 3])
    lone.wait(HEARTBEAT)
    first_round, first_at = lone.leader.rounds.current, lone.now
    lone.wait(HEARTBEAT)

    lone.step(lone.ack(2))
    of_one = lease_ends(lone)
    lone.step(lone.ack(3, round=first_round))
    of_both = lease_ends(lone)

    assert of_one < first_at + 0.4
    assert of_both == pytest.approx(first_at + 0.4)


def test_a_rejected_request_was_acknowledged_too() -> None:
    """'[...] the request that a quorum *acknowledged*': a follower whose log differs has promised all the same."""
    lone = Lone([1, 1], size=5, config=NO_DRIFT)
    lone.lead(by=[2, 3])
    lone.step(lone.ack(2), lone.ack(3))
    lone.wait(HEARTBEAT)
    current = lone.leader.rounds.current

    lone.step(lone.ack(2), lone.rejection(4, 2, 0, 1, round=current))

    assert lease_ends(lone) == pytest.approx(lone.now + 0.4)


def test_an_answer_of_an_earlier_round_does_not_shorten_the_lease() -> None:
    """'It starts when the request that a quorum acknowledged was *sent*': the last such request."""
    lone = Lone(config=NO_DRIFT)
    lone.serve()
    old = lone.ack(2)
    lone.wait(HEARTBEAT)
    lone.step(lone.ack(2))
    before = lease_ends(lone)

    lone.step(old, old)

    assert lease_ends(lone) == before


# ---- 'it is shortened by the assumed clock drift at the leader and lengthened by it at the followers' ----------------


def test_the_leader_takes_the_drift_off() -> None:
    """'It is shortened by the assumed clock drift at the leader.'"""
    lone = Lone(config=Config(lease_duration=0.4, clock_drift=0.1))
    lone.serve()
    lone.wait(HEARTBEAT)

    lone.step(lone.ack(2))

    assert lease_ends(lone) == pytest.approx(lone.now + 0.4 * 0.9)


def test_a_follower_puts_the_drift_on() -> None:
    """'[...] and lengthened by it at the followers.'"""
    lone = Lone(config=Config(clock_drift=0.1), term=1)
    lone.step(lone.append(2, lease_ms=400))

    [reply] = lone.step(lone.vote_request(3, term=1))

    assert isinstance(reply, RequestVoteReply)
    assert reply.remaining_lease_ms in (440, 441)  # rounded up


def test_a_follower_that_rejects_the_entries_has_promised_all_the_same() -> None:
    """'It starts when the request that a quorum acknowledged was *sent*': a rejection acknowledges its round too."""
    lone = Lone(config=Config(clock_drift=0.1), term=1)

    [rejection] = lone.step(lone.append(2, prev=at(7, 1), lease_ms=400))
    [reply] = lone.step(lone.vote_request(3, term=1))

    assert isinstance(rejection, AppendEntriesReply)
    assert not rejection.success
    assert rejection.round > 0
    assert isinstance(reply, RequestVoteReply)
    assert reply.remaining_lease_ms in (440, 441)


def elect_another_while_the_leader_is_stopped(
    drift: float, rate_of_the_leader: float, rate_of_the_others: float
) -> Cluster:
    """The first leader's process stands still; its clock goes on, and so does its lease. The cluster checks at every
    step that nobody else commits meanwhile."""
    cluster = Cluster(
        3,
        config=Config(lease_duration=3.0, clock_drift=drift),
        patience={1: 0.0, 2: 1.6, 3: 2.0},
        rates={1: rate_of_the_leader, 2: rate_of_the_others, 3: rate_of_the_others},
    )
    cluster.run_until(lambda: cluster.serving() is cluster.members[1])
    cluster.run(1.0)
    assert cluster.members[1].has_lease(cluster.now)
    cluster.pause(1)
    committed = len(cluster.committed)
    assert cluster.run_until(lambda: len(cluster.committed) > committed)
    return cluster


@pytest.mark.parametrize("leader", [0.9, 1.0, 1.1])
@pytest.mark.parametrize("others", [0.9, 1.0, 1.1])
def test_clocks_within_the_drift_cannot_make_two_leases_overlap(leader: float, others: float) -> None:
    """'It is shortened by the assumed clock drift at the leader and lengthened by it at the followers.'"""
    cluster = elect_another_while_the_leader_is_stopped(0.1, leader, others)

    assert not cluster.members[1].has_lease(cluster.now)


def test_clocks_beyond_the_assumed_drift_can_and_the_check_of_this_notices() -> None:
    """'[...] the *assumed* clock drift': what the other tests rely on is not true by itself."""
    with pytest.raises(AssertionError, match="while S1 holds a lease"):
        elect_another_while_the_leader_is_stopped(0.01, rate_of_the_leader=0.4, rate_of_the_others=1.0)


# ---- 'durations only, on a clock that also runs during suspend' ------------------------------------------------------


def test_no_message_tells_what_time_it_is() -> None:
    """'Durations only': two members whose clocks are years apart say the same."""

    def conversation(now: float) -> list[Message]:
        lone = Lone([1], now=now, config=Config(lease_duration=0.5, heartbeat_interval=0.125, clock_drift=0.0))
        sent = lone.lead()
        sent += lone.step(lone.ack(2), lone.ack(3))
        sent += lone.wait(0.125)
        sent += lone.step(lone.append(3, at(1, 1), term=9, lease_ms=500))
        lone.oversleep(0.25)
        return sent + lone.step(lone.vote_request(3, term=10, last=at(9, 9)), lone.vote_request(2, term=9))

    assert conversation(0.0) == conversation(2.0**26)


@pytest.mark.skipif(not hasattr(time, "CLOCK_BOOTTIME"), reason="only Linux tells how long it was suspended")
def test_the_clock_also_runs_during_suspend(monkeypatch: pytest.MonkeyPatch) -> None:
    """'[...] on a clock that also runs during suspend.'"""
    monkeypatch.setattr(time, "clock_gettime", {time.CLOCK_BOOTTIME: 1234.5}.__getitem__)

    assert clock.now() == 1234.5


# ---- 'A follower's promise to a leader only grows, and is kept where its own leases are off' -------------------------


def test_a_shorter_promise_later_does_not_take_back_a_longer_one() -> None:
    """'A follower's promise to a leader only grows.'"""
    lone = Lone(term=1, config=NO_DRIFT)
    lone.step(lone.append(2, lease_ms=1000))
    lone.oversleep(0.25)

    lone.step(lone.append(2, lease_ms=100), lone.append(2, lease_ms=0))
    [reply] = lone.step(lone.vote_request(3, term=1))

    assert isinstance(reply, RequestVoteReply)
    assert 750 <= reply.remaining_lease_ms <= 751


def test_a_promise_outlives_the_leader_it_was_given_to() -> None:
    """'A follower's promise to a leader only grows': others come and go meanwhile."""
    lone = Lone(term=1, config=NO_DRIFT)
    lone.step(lone.append(2, lease_ms=1000))
    lone.oversleep(0.25)

    lone.step(lone.append(3, term=2, lease_ms=100), lone.append(2, term=3, lease_ms=100))
    [reply] = lone.step(lone.vote_request(3, term=3))

    assert isinstance(reply, RequestVoteReply)
    assert 750 <= reply.remaining_lease_ms <= 751


def test_a_promise_is_kept_where_own_leases_are_off() -> None:
    """'[...] and is kept where its own leases are off': in its votes, and when it wins itself."""
    lone = Lone(term=1, config=NO_LEASES)
    lone.step(lone.append(2, lease_ms=2000))

    [reply] = lone.step(lone.vote_request(3, term=1))
    lone.lead(by=[3])
    while lone.raft.committed_index == 0:
        lone.step(lone.ack(3))
        lone.wait(HEARTBEAT)

    assert isinstance(reply, RequestVoteReply)
    assert reply.remaining_lease_ms >= 2000
    assert 2.0 <= lone.now <= 2.0 + 2 * HEARTBEAT


# ---- 'Vote replies carry what remains of it' -------------------------------------------------------------------------


@pytest.mark.parametrize("pre_vote", [False, True])
@pytest.mark.parametrize(("later", "remaining"), [(0.0, 400), (0.1, 300), (0.399, 1), (0.4, 0), (5.0, 0)])
def test_vote_replies_carry_what_remains_of_the_promise(later: float, remaining: int, pre_vote: bool) -> None:
    """'Vote replies carry what remains of it.'"""
    lone = Lone(term=1, config=NO_DRIFT)
    lone.step(lone.append(2, lease_ms=400))
    lone.oversleep(later)

    [reply] = lone.step(lone.vote_request(3, term=1, pre_vote=pre_vote))

    assert isinstance(reply, RequestVoteReply)
    assert remaining <= reply.remaining_lease_ms <= remaining + 1


def test_who_has_promised_nothing_says_so() -> None:
    """'Vote replies carry what remains of it.'"""
    lone = Lone()

    [reply] = lone.step(lone.vote_request(3, term=1))

    assert isinstance(reply, RequestVoteReply)
    assert reply.remaining_lease_ms == 0


# ---- 'The winner waits for the longest promise among those that voted for it, *its own included*' --------------------


@pytest.mark.parametrize(
    ("own", "of_2", "of_3", "longest"),
    [(0, 0, 0, 0), (0, 700, 300, 700), (0, 300, 700, 700), (900, 300, 700, 900), (900, 0, 0, 900), (100, 0, 800, 800)],
)
def test_the_winner_waits_for_the_longest_promise_its_own_included(
    own: int, of_2: int, of_3: int, longest: int
) -> None:
    """'The winner waits for the longest promise among those that voted for it, *its own included*.'"""
    config = Config(clock_drift=0.0, election_timeout=0.1, heartbeat_interval=0.05)
    lone = Lone(size=5, term=1, config=config)
    lone.stand(by=[2, 3])
    lone.raft._promises.promise(leader=5, term=1, duration_ms=own, now=lone.now)

    lone.step(lone.vote(2, remaining_lease_ms=of_2), lone.vote(3, remaining_lease_ms=of_3))

    assert lone.role == "leader"
    assert max(lone.leader.serve_from, lone.now) == pytest.approx(lone.now + longest / 1000)


def test_the_wait_counts_from_when_the_vote_came() -> None:
    """'The winner waits for the longest promise': a duration, of which nothing is known to have passed on the way."""
    lone = Lone(size=5)
    lone.stand(by=[2, 3])
    lone.step(lone.vote(2, remaining_lease_ms=300))
    first_vote_at = lone.now
    lone.oversleep(0.2)

    lone.step(lone.vote(3, remaining_lease_ms=50))

    assert lone.leader.serve_from == pytest.approx(first_vote_at + 0.3)


def test_who_did_not_vote_for_it_does_not_hold_it_up() -> None:
    """'[...] among those that voted for it': any quorum holds one member of the quorum that a lease rests on."""
    lone = Lone(size=5)
    lone.stand(by=[2, 3])

    lone.step(lone.vote(4, granted=False, remaining_lease_ms=9000), lone.vote(2), lone.vote(3))
    lone.step(lone.vote(5, remaining_lease_ms=9000))

    assert lone.leader.serve_from <= lone.now


def test_the_wait_is_said_in_the_log() -> None:
    """'[...] and says so': a person who wonders why nothing happens finds it there."""
    lone = Lone(size=3)

    lone.lead(remaining_lease_ms=300)

    assert any(note.startswith("waits 0.300 s for an earlier leader's lease") for note in lone.notes)


# ---- 'it replicates at once, but neither commits, acknowledges nor serves before' ------------------------------------


def test_a_waiting_leader_replicates_at_once() -> None:
    """'It replicates at once.'"""
    lone = Lone()

    first = lone.lead(remaining_lease_ms=1000)
    second = lone.propose("SET k v") + lone.step(lone.ack(2, match=1))

    assert [[e.index for e in m.entries] for m in only(AppendEntries, first)] == [[1], [1]]
    assert [2] in [[e.index for e in m.entries] for m in only(AppendEntries, second)]


def test_a_waiting_leader_neither_commits_nor_serves_nor_takes_a_lease() -> None:
    """'[...] but neither commits, acknowledges nor serves before.'"""
    lone = Lone()
    lone.lead(remaining_lease_ms=350)
    end = lone.now + 0.35
    lone.read(7)
    lone.propose("SET k v")

    while lone.now < end - HEARTBEAT:
        lone.wait(HEARTBEAT)
        lone.step(lone.ack(2), lone.ack(3))
    lone.wait_until(end - 1e-6)
    lone.tick()
    waiting = (lone.raft.committed_index, lone.applied, lone.served, lone.raft.lease, lone.raft.is_serving)
    lone.wait_until(end + 0.001)  # no answer comes: the end of the wait itself is what it was waiting for

    assert waiting == (0, [], [], None, False)
    assert (lone.raft.committed_index, [e.index for e in lone.applied], lone.served) == (2, [1, 2], [7])
    assert lone.has_lease()


def test_a_waiting_leader_tells_nobody_that_anything_is_committed() -> None:
    """'[...] neither commits': what a follower would apply then, it could also show."""
    lone = Lone([1, 1], committed=1)
    sent = lone.lead(remaining_lease_ms=350)

    for _ in range(3):
        sent += lone.step(lone.ack(2), lone.ack(3))
        sent += lone.wait(HEARTBEAT)

    assert {message.leader_commit for message in only(AppendEntries, sent)} == {1}


def test_a_waiting_leader_acknowledges_no_write_and_serves_no_read() -> None:
    """'[...] neither commits, acknowledges nor serves before': as clients see it."""
    cluster = Cluster(3, config=LONG, patience={1: 0.0, 2: 0.5, 3: 1.0})
    first = cluster.run_until_serving()
    cluster.run(0.2)
    cluster.pause(first.id)
    promised_at = cluster.now
    assert cluster.run_until(lambda: cluster.members[2].leads)

    write = cluster.write(2, "SET k v")
    read = cluster.read_key(2, b"k")
    cluster.run_until(lambda: write.outcome is not None or read.outcome is not None)

    assert cluster.now >= promised_at + LONG.lease_duration - HEARTBEAT - 0.01
    assert not first.has_lease(cluster.now)


# ---- 'The longest duration a node has ever promised is durable before the first reply that promises it' --------------


def test_the_longest_promise_is_durable_before_the_reply_that_gives_it() -> None:
    """'The longest duration a node has ever promised is durable before the first reply that promises it.'"""
    lone = Lone(term=1)

    lone.step(lone.append(2, lease_ms=400))

    persisted, reply = lone.events
    assert persisted == Persisted(HardState(1, 0, longest_promise_ms=400), ())
    assert isinstance(reply, AppendEntriesReply)


def test_also_a_reply_that_rejects_the_entries_promises() -> None:
    """'[...] durable before the first reply that promises it.'"""
    lone = Lone(term=1)

    lone.step(lone.append(2, at(9, 1), lease_ms=400))

    persisted, reply = lone.events
    assert persisted == Persisted(HardState(1, 0, longest_promise_ms=400), ())
    assert isinstance(reply, AppendEntriesReply)
    assert not reply.success


def test_only_a_longer_promise_costs_a_write() -> None:
    """'The *longest* duration a node has *ever* promised': heartbeats must not write to the disk."""
    lone = Lone(term=1)
    lone.step(lone.append(2, lease_ms=400))
    lone.events.clear()

    lone.step(lone.append(2, lease_ms=400), lone.append(2, lease_ms=100), lone.append(2, lease_ms=0))
    assert only_persisted(lone) == []
    lone.step(lone.append(3, term=2, lease_ms=500))

    assert only_persisted(lone) == [Persisted(HardState(2, 0, longest_promise_ms=500), ())]


def only_persisted(lone: Lone) -> list[Persisted]:
    return [event for event in lone.events if isinstance(event, Persisted)]


# ---- 'and a restart assumes that one in full' ------------------------------------------------------------------------


def test_a_restart_assumes_the_longest_promise_in_full() -> None:
    """'[...] and a restart assumes that one in full.'"""
    lone = Lone(term=1, config=NO_DRIFT)
    lone.step(lone.append(2, lease_ms=1000), lone.append(2, lease_ms=100))
    lone.oversleep(0.9)

    lone.restart()
    [reply] = lone.step(lone.vote_request(3, term=1))

    assert isinstance(reply, RequestVoteReply)
    assert 1000 <= reply.remaining_lease_ms <= 1001


def test_a_restarted_member_that_wins_waits_for_what_it_may_have_promised() -> None:
    """'[...] and a restart assumes that one in full'; 'its own included'."""
    lone = Lone(term=1, longest_promise_ms=2000, config=NO_DRIFT)

    lone.lead()
    lone.step(lone.ack(2))

    assert lone.leader.serve_from == pytest.approx(2.0)
    assert lone.raft.committed_index == 0


def test_a_member_that_never_promised_restarts_without_a_wait() -> None:
    """'The longest duration a node has *ever* promised.'"""
    lone = Lone([1], term=1)

    lone.restart()
    lone.serve()

    assert lone.raft.committed_index == 2


# ---- 'The lease ends with leadership, and is revoked *before* any message leaves that depends on stepping down' ------


def higher_append(lone: Lone) -> None:
    lone.raft.step(lone.append(3, term=2), lone.now)


def higher_append_reply(lone: Lone) -> None:
    lone.raft.step(lone.rejection(2, 1, term=2), lone.now)


def higher_vote_reply(lone: Lone) -> None:
    lone.raft.step(lone.vote(2, granted=False, term=2), lone.now)


def higher_pre_vote_refusal(lone: Lone) -> None:
    lone.raft.step(lone.pre_vote(2, granted=False, term=2), lone.now)


def vote_request_without_majority(lone: Lone) -> None:
    lone.oversleep(DEFAULTS.election_timeout)
    lone.raft.step(lone.vote_request(2, term=2, last=at(9, 9)), lone.now)


def check_quorum(lone: Lone) -> None:
    lone.oversleep(DEFAULTS.election_timeout)
    lone.raft.tick(lone.now)


@pytest.mark.parametrize(
    "step_down",
    [
        higher_append,
        higher_append_reply,
        higher_vote_reply,
        higher_pre_vote_refusal,
        vote_request_without_majority,
        check_quorum,
    ],
)
def test_the_lease_is_gone_before_anything_tells_of_stepping_down(step_down: Callable[[Lone], None]) -> None:
    """'The lease ends with leadership, and is revoked *before* any message leaves that depends on stepping down.' What
    reads without the turn sees it gone while the messages are not even handed out."""
    lone = Lone(config=Config(lease_duration=60.0))
    lone.serve()
    assert lone.has_lease()

    step_down(lone)

    assert lone.role == "follower"
    assert lone.raft.lease is None
    ready = lone.raft.ready()
    assert ready is not None


def test_a_leader_elected_again_begins_without_a_lease() -> None:
    """'The lease ends with leadership.'"""
    lone = Lone(config=Config(lease_duration=60.0))
    lone.serve()
    old_round = lone.ack(2, round=99)
    lone.step(lone.append(3, term=2))

    lone.lead()
    lone.step(old_round)

    assert lone.raft.lease is None


# ---- 'While the lease has lapsed, reads go through ReadIndex' --------------------------------------------------------


def test_while_the_lease_has_lapsed_a_read_takes_a_round() -> None:
    """'While the lease has lapsed, reads go through ReadIndex.'"""
    lone = Lone()
    lone.serve()
    lone.oversleep(DEFAULTS.lease_duration)
    assert not lone.has_lease()

    sent = lone.read(7)
    before = list(lone.served)
    lone.step(lone.ack(2))

    assert [message.recipient for message in only(AppendEntries, sent)] == [2, 3]
    assert (before, lone.served) == ([], [7])
    assert lone.has_lease(), "and the round has renewed it"


def test_with_leases_off_there_is_none_and_none_is_asked_for() -> None:
    """LEASE_DURATION off: 'every read goes through ReadIndex'."""
    lone = Lone(config=NO_LEASES)
    sent = lone.lead()
    sent += lone.step(lone.ack(2), lone.ack(3))
    sent += lone.wait(HEARTBEAT)
    lone.step(lone.ack(2), lone.ack(3))

    asked = lone.read(7)

    assert {m.lease_duration_ms for m in only(AppendEntries, sent)} == {0}
    assert lone.raft.lease is None
    assert len(only(AppendEntries, asked)) == 2


def test_the_requests_carry_the_duration_in_milliseconds() -> None:
    """'Its AppendEntries carry the duration', also those without entries."""
    lone = Lone(config=Config(lease_duration=0.25))
    sent = lone.lead()
    sent += lone.wait(HEARTBEAT)

    assert {m.lease_duration_ms for m in only(AppendEntries, sent)} == {250}


def test_a_promise_of_nothing_is_no_promise() -> None:
    """A leader whose leases are off asks for none, and nobody waits for it."""
    lone = Lone(term=1)
    lone.step(lone.append(2, ORIGIN, [1], lease_ms=0))

    [reply] = lone.step(lone.vote_request(3, term=1, last=at(1, 1)))

    assert isinstance(reply, RequestVoteReply)
    assert reply.remaining_lease_ms == 0
    assert lone.raft.longest_promise_ms == 0


def test_a_lease_needs_a_commit_in_the_leaders_own_term() -> None:
    """Rule 8: 'never before the leader has committed an entry of its own term'."""
    lone = Lone([1, 1])
    lone.lead()

    lone.step(lone.ack(2, match=2), lone.ack(3, match=2))
    before = lone.raft.lease
    lone.step(lone.ack(2, match=3))

    assert before is None
    assert lone.has_lease()


def test_a_leader_alone_in_its_cluster_renews_its_lease_by_itself() -> None:
    """'[...] a quorum acknowledged': of one member that is the leader itself."""
    lone = Lone(size=1)
    lone.serve(by=[])

    lone.wait(5.0)
    idle = lone.has_lease()
    lone.raft.propose(text("SET k v"), lone.now)
    lone.settle()

    assert idle
    assert lone.has_lease()


@pytest.mark.parametrize("config", [DEFAULTS, NO_LEASES])
@pytest.mark.parametrize("hands_over", [False, True])
def test_a_leader_forgets_the_rounds_of_before_whether_it_has_a_lease_or_not(config: Config, hands_over: bool) -> None:
    """Or one that leads for a year would remember some hundred million of them."""
    lone = Lone(config=config)
    lone.serve()
    if hands_over:
        lone.transfer(2)

    for _ in range(50):
        lone.wait(HEARTBEAT)
        lone.step(lone.ack(2))

    assert lone.leader.rounds.current > 50
    assert len(lone.leader.rounds._began) <= 2
