"""The rules of the leader lease about transfers, sentence by sentence (rule 7 of the design).

Each test quotes the sentence that it tests. The transfer itself is in test_dissertation_3_10.py, all other sentences on
leases are in test_lease_rules.py.
"""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from raftkv.raft.core import Config
from raftkv.raft.messages import Message, RequestVote, RequestVoteReply, TimeoutNow
from raftkv.raft.transfer import TransferRefused
from raftkv.raft.types import HardState, Leadership
from tests.raft.lone import DEFAULTS, Lone, at, only
from tests.support.raft_cluster import Cluster

HEARTBEAT, ELECTION_TIMEOUT = DEFAULTS.heartbeat_interval, DEFAULTS.election_timeout
NO_DRIFT = Config(lease_duration=0.4, clock_drift=0.0)
LONG = Config(lease_duration=5.0)
"""Longer than any transfer or election takes."""


def handing_over(config: Config = LONG) -> Lone:
    """A leader with a lease that has told 3 to take over."""
    lone = Lone(config=config)
    lone.serve(by=[2, 3])
    lone.wait(HEARTBEAT)
    lone.step(lone.ack(2), lone.ack(3))
    assert lone.has_lease()
    assert only(TimeoutNow, lone.transfer(3))
    return lone


def vote_of(replies: Sequence[Message]) -> RequestVoteReply:
    [reply] = only(RequestVoteReply, replies)
    return reply


# ---- 'A transfer revokes the lease for good in its term' -------------------------------------------------------------


def test_the_lease_is_gone_before_timeout_now_leaves() -> None:
    """'A transfer revokes the lease': what reads without the turn sees it gone while the message is just handed out
    (hazard 40)."""
    lone = Lone(config=LONG)
    lone.serve(by=[2, 3])
    assert lone.has_lease()
    lone.raft.transfer(3, lone.now)
    as_long_as_nothing_is_sent = lone.has_lease()

    ready = lone.raft.ready()

    assert ready is not None
    assert only(TimeoutNow, ready.messages)
    assert as_long_as_nothing_is_sent
    assert lone.raft.lease is None


def test_no_answer_brings_the_lease_back() -> None:
    """'[...] for good': the answers to rounds before and after it come in all the same."""
    lone = handing_over()

    lone.step(lone.ack(2), lone.ack(3))
    lone.wait(HEARTBEAT)
    lone.step(lone.ack(2), lone.ack(3))

    assert lone.raft.lease is None


def test_the_lease_stays_revoked_when_the_transfer_has_been_given_up() -> None:
    """'[...] for good in its term': TimeoutNow may still arrive."""
    lone = handing_over()
    while lone.raft.is_handing_over:
        lone.wait(HEARTBEAT)
        lone.step(lone.ack(2))

    lone.propose("SET k v")
    lone.step(lone.ack(2), lone.ack(3))
    lone.wait(HEARTBEAT)
    lone.step(lone.ack(2), lone.ack(3))

    assert lone.raft.committed_index == lone.raft.log.last_index
    assert lone.raft.lease is None


def test_reads_go_through_read_index_then() -> None:
    """'While the lease has lapsed, reads go through ReadIndex': also while it is revoked."""
    lone = handing_over()

    lone.read(7)
    before = list(lone.served)
    lone.step(lone.ack(2))

    assert (before, lone.served) == ([], [7])


def test_a_transfer_that_never_got_so_far_revokes_nothing() -> None:
    """'A transfer revokes the lease [...] TimeoutNow [...]': nothing has been sent that could break the lease."""
    lone = Lone(config=LONG)
    lone.serve(by=[2, 3])
    lone.propose("SET k v")
    lone.step(lone.ack(2))
    lone.transfer(3)

    while lone.raft.is_handing_over:
        lone.wait(HEARTBEAT)
        lone.step(lone.ack(2))

    assert lone.has_lease()


def test_in_a_later_term_it_may_have_a_lease_again() -> None:
    """'[...] in *its* term.'"""
    lone = handing_over()
    lone.step(lone.append(3, at(1, 1), term=2))

    lone.serve(by=[2, 3])

    assert lone.has_lease()


# ---- 'TimeoutNow and the RequestVotes that follow from it carry (leader, term) so released' --------------------------


def test_timeout_now_names_the_leader_and_its_term() -> None:
    """'TimeoutNow [...] carr[ies] (leader, term)': as sender and term."""
    lone = handing_over()

    sent = lone.wait(HEARTBEAT)

    assert {(m.sender, m.term) for m in only(TimeoutNow, sent)} == {(1, lone.term)}


def test_the_requests_for_votes_that_follow_from_it_carry_the_pair() -> None:
    """'[...] and the RequestVotes that follow from it carry (leader, term) so released.'"""
    lone = Lone(term=4)
    lone.step(lone.append(2))

    sent = lone.step(lone.timeout_now(2))

    assert [request.released for request in only(RequestVote, sent)] == [Leadership(2, 4)] * 2


def test_a_later_election_of_the_same_member_releases_nothing() -> None:
    """'[...] the RequestVotes that *follow from it*.'"""
    lone = Lone(term=4)
    lone.step(lone.append(2))
    lone.step(lone.timeout_now(2))

    sent = lone.time_out()
    sent += lone.step(lone.pre_vote(2), lone.pre_vote(3))

    assert [request.released for request in only(RequestVote, sent)] == [None] * 4


# ---- stickiness ------------------------------------------------------------------------------------------------------


def test_a_voter_does_not_hold_on_to_a_leader_that_has_let_go() -> None:
    """'TimeoutNow and the RequestVotes that follow from it carry (leader, term) so released': that leader, in that
    term, is the one that the voter has heard of just now."""
    lone = Lone(term=4)
    lone.step(lone.append(2))

    reply = vote_of(lone.step(lone.vote_request(3, 5, released=Leadership(2, 4))))

    assert reply.granted
    assert lone.term == 5


@pytest.mark.parametrize("released", [None, Leadership(2, 3), Leadership(3, 4), Leadership(1, 4)])
def test_a_voter_holds_on_to_its_leader_against_anybody_else(released: Leadership | None) -> None:
    """'[...] exactly that pair': another leader's word, or of another term, says nothing of the one it hears."""
    lone = Lone(term=4)
    lone.step(lone.append(2))

    reply = vote_of(lone.step(lone.vote_request(3, 5, released=released)))

    assert not reply.granted
    assert lone.term == 4


@pytest.mark.parametrize("released", [None, Leadership(1, 7), Leadership(3, 1)])
def test_a_leader_that_works_is_deposed_by_nobody_it_has_not_asked(released: Leadership | None) -> None:
    """As above, of the leader itself."""
    lone = Lone()
    lone.serve(by=[2, 3])

    reply = vote_of(lone.step(lone.vote_request(3, 9, at(9, 9), released=released)))

    assert not reply.granted
    assert lone.role == "leader"


# ---- 'and a voter leaves out only the promise to exactly that pair' --------------------------------------------------


def test_a_voter_leaves_out_the_promise_to_the_leader_that_has_let_go() -> None:
    """'[...] and a voter leaves out [...] the promise to exactly that pair.'"""
    lone = Lone(term=4, config=NO_DRIFT)
    lone.step(lone.append(2, lease_ms=1000))

    reply = vote_of(lone.step(lone.vote_request(3, 5, released=Leadership(2, 4))))

    assert (reply.granted, reply.remaining_lease_ms) == (True, 0)


@pytest.mark.parametrize("other", [Leadership(3, 3), Leadership(2, 3)])
def test_a_voter_keeps_its_promises_to_others(other: Leadership) -> None:
    """'[...] leaves out *only* the promise to *exactly* that pair': not to another leader, nor to the same one in an
    earlier term."""
    lone = Lone(term=3, config=NO_DRIFT)
    lone.step(lone.append(other.leader, term=other.term, lease_ms=1000))
    lone.step(lone.append(2, term=4, lease_ms=2000))

    reply = vote_of(lone.step(lone.vote_request(3, 5, released=Leadership(2, 4))))

    assert reply.granted
    assert 1000 <= reply.remaining_lease_ms <= 1001


def test_a_voter_keeps_what_a_restart_has_to_assume() -> None:
    """'[...] *only* the promise to exactly that pair': whom it had promised it to is not known any more."""
    lone = Lone(term=4, longest_promise_ms=1000, config=NO_DRIFT)
    lone.step(lone.append(2, lease_ms=400))

    reply = vote_of(lone.step(lone.vote_request(3, 5, released=Leadership(2, 4))))

    assert reply.granted
    assert 1000 <= reply.remaining_lease_ms <= 1001


def test_who_does_not_say_so_gets_to_hear_of_the_promise() -> None:
    """'TimeoutNow and the RequestVotes *that follow from it*': the promise is left out of an answer, not forgotten."""
    lone = Lone(term=4, config=NO_DRIFT)
    lone.step(lone.append(2, lease_ms=1000))
    first = vote_of(lone.step(lone.vote_request(3, 5, released=Leadership(2, 4))))

    second = vote_of(lone.step(lone.vote_request(3, 5)))

    assert first.remaining_lease_ms == 0
    assert second.remaining_lease_ms >= 1000


def test_the_target_leaves_it_out_of_its_own_promises_too() -> None:
    """'*Its own included*': the target is a voter of its own election."""
    lone = Lone(term=4, config=NO_DRIFT)
    lone.step(lone.append(2, lease_ms=1000))
    lone.step(lone.timeout_now(2))

    lone.step(lone.vote(3))

    assert lone.role == "leader"
    assert lone.leader.serve_from <= lone.now


def test_the_target_waits_for_what_it_has_promised_to_others() -> None:
    """'[...] only the promise to exactly that pair', at the target."""
    lone = Lone(term=3, config=NO_DRIFT)
    lone.step(lone.append(3, lease_ms=1000))
    lone.step(lone.append(2, term=4, lease_ms=2000))
    lone.step(lone.timeout_now(2))

    lone.step(lone.vote(3))

    assert lone.leader.serve_from == pytest.approx(lone.now + 1.0)


def test_the_target_waits_for_what_its_voters_have_promised_to_others() -> None:
    """'The winner waits for the longest promise among those that voted for it': of what they still tell."""
    lone = Lone(term=4, config=NO_DRIFT)
    lone.step(lone.append(2, lease_ms=400))
    lone.step(lone.timeout_now(2))

    lone.step(lone.vote(3, remaining_lease_ms=700))

    assert lone.leader.serve_from == pytest.approx(lone.now + 0.7)


# ---- 'a leader that is still waiting does not transfer' --------------------------------------------------------------


def test_a_leader_that_is_still_waiting_does_not_transfer() -> None:
    """'[...] a leader that is still waiting does not transfer.'"""
    lone = Lone()
    lone.lead(remaining_lease_ms=350)
    end = lone.now + 0.35
    lone.step(lone.ack(2), lone.ack(3))

    with pytest.raises(TransferRefused, match="it still waits for an earlier leader's lease"):
        lone.raft.transfer(3, lone.now)
    while lone.now < end:
        lone.wait(HEARTBEAT)
        lone.step(lone.ack(2), lone.ack(3))

    assert only(TimeoutNow, lone.transfer(3))


# ---- any majority of the voters will do (divergences.md) -------------------------------------------------------------


def test_a_vote_that_comes_late_may_shorten_the_wait() -> None:
    """'The winner waits for the longest promise among those that voted for it': any majority of these holds one of the
    voters that an earlier lease rests on. So a member that has just been started does not hold up a transfer."""
    lone = Lone(config=NO_DRIFT)
    lone.stand(by=[2])
    lone.step(lone.vote(2, remaining_lease_ms=400))
    lone.step(lone.ack(2))
    waiting_until, committed = lone.leader.serve_from, lone.raft.committed_index

    lone.step(lone.vote(3))

    assert waiting_until == pytest.approx(lone.now + 0.4)
    assert committed == 0
    assert lone.raft.committed_index == 1


def test_a_vote_that_comes_late_never_makes_the_wait_longer() -> None:
    """As above."""
    lone = Lone(config=NO_DRIFT)
    lone.lead(remaining_lease_ms=200)
    serve_from = lone.leader.serve_from

    lone.step(lone.vote(3, remaining_lease_ms=900))

    assert lone.leader.serve_from == serve_from


def test_a_minority_of_voters_that_have_promised_nothing_is_not_enough() -> None:
    """As above: 'any *majority* of these'."""
    lone = Lone(size=5, config=NO_DRIFT)
    lone.stand(by=[2, 3])
    lone.step(lone.vote(2, remaining_lease_ms=400), lone.vote(3, remaining_lease_ms=300))

    lone.step(lone.vote(4))

    assert lone.leader.serve_from == pytest.approx(lone.now + 0.3)


def test_the_same_vote_twice_is_one_voter() -> None:
    """As above; and what it said first is closer to when it said it."""
    lone = Lone(size=5, config=NO_DRIFT)
    lone.stand(by=[2, 3])
    lone.step(lone.vote(2, remaining_lease_ms=400), lone.vote(3, remaining_lease_ms=300))

    lone.step(*[lone.vote(2), lone.vote(3)] * 3)

    assert lone.leader.serve_from == pytest.approx(lone.now + 0.4)


# ---- all of it together ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [2, 3, 5])
def test_the_successor_serves_at_once_though_the_lease_was_long(size: int) -> None:
    """The whole sentence, from end to end: the cluster checks at every step that no two leases are there at once, and
    that nothing is committed inside an older one."""
    cluster = Cluster(size, config=LONG)
    first = cluster.run_until_serving()
    cluster.run(1.0)
    began = cluster.now
    assert first.has_lease(cluster.now)

    first.raft.transfer(first.id % size + 1, cluster.now)
    cluster.turn(first, [])
    assert cluster.run_until(lambda: cluster.serving() not in (None, first), within=2.0)

    assert cluster.now - began < HEARTBEAT


@pytest.mark.parametrize("seed", range(20))
def test_a_prior_leader_that_hears_of_nothing_serves_nothing_old(seed: int) -> None:
    """'A transfer revokes the lease for good in its term': the prior leader hears nobody any more, and its clock says
    that its lease would last for long (hazard 40)."""
    cluster = Cluster(3, config=LONG, seed=seed)
    first = cluster.run_until_serving()
    cluster.run(1.0)
    target = first.id % 3 + 1
    first.raft.transfer(target, cluster.now)
    cluster.turn(first, [])
    cluster.cut |= {(other, first.id) for other in cluster.members}

    assert cluster.run_until(lambda: cluster.serving() is cluster.members[target], within=2.0)
    write = cluster.write(target, "SET k new")
    cluster.run_until(lambda: write.outcome is not None)

    assert first.leads
    assert not first.has_lease(cluster.now)
    assert first.replica.read_under_lease([b"k"], lambda: first.clock(cluster.now)) is None


def test_what_the_target_has_promised_in_its_hard_state_stays() -> None:
    """'The longest duration a node has ever promised is durable': a released promise was a promise."""
    lone = Lone(term=4)
    lone.step(lone.append(2, lease_ms=1000))

    lone.step(lone.timeout_now(2))

    assert lone.storage.hard_state == HardState(5, voted_for=1, longest_promise_ms=1000)
