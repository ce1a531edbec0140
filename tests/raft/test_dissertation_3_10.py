"""Raft dissertation, section 3.10: leadership transfer extension.

Each test quotes its rule, and has three parts: init, test, check. What becomes of the lease is in
test_transfer_rules.py.
"""

from __future__ import annotations

import pytest

from raftkv.raft.core import NotLeader
from raftkv.raft.messages import RequestVote, RequestVoteReply, TimeoutNow, TimeoutNowReply
from raftkv.raft.progress import State
from raftkv.raft.transfer import TransferRefused
from raftkv.raft.types import HardState, Leadership
from tests.raft.lone import DEFAULTS, Lone, Persisted, at, only
from tests.support.raft_cluster import Cluster

HEARTBEAT, ELECTION_TIMEOUT = DEFAULTS.heartbeat_interval, DEFAULTS.election_timeout


def serving(size: int = 3) -> Lone:
    """A leader whose followers have all that it has."""
    lone = Lone(size=size)
    lone.serve(by=range(2, size + 1))
    return lone


def keep_in_touch(lone: Lone, *peers: int) -> None:
    """Let more than an election timeout pass in which only these answer, with what they have."""
    end = lone.now + 2 * ELECTION_TIMEOUT
    while lone.now < end:
        lone.wait(HEARTBEAT)
        lone.step(*(lone.ack(peer, match=lone.leader.progress[peer].match_index) for peer in peers))


# ---- 'The prior leader stops accepting new client requests.' ---------------------------------------------------------


def test_step_1_the_prior_leader_stops_accepting_new_client_requests() -> None:
    """'1. The prior leader stops accepting new client requests.' They are told who is to lead; nothing is done."""
    lone = serving()
    lone.raft.transfer(3, lone.now)
    last = lone.raft.log.last_index

    with pytest.raises(NotLeader) as refused:
        lone.propose("SET k v")

    assert refused.value.leader_id == 3
    assert lone.raft.log.last_index == last
    assert lone.raft.is_handing_over


def test_step_1_reads_are_served_as_long_as_it_leads() -> None:
    """'[...] stops accepting new client requests': the log must not grow; what reads can be served all the same."""
    lone = serving()
    lone.transfer(2)

    lone.read(7)
    before = list(lone.served)
    lone.step(lone.ack(3))

    assert (before, lone.served) == ([], [7])


# ---- 'The prior leader fully updates the target server's log to match its own' ---------------------------------------


def test_step_2_the_target_is_told_only_once_its_log_matches() -> None:
    """'2. The prior leader fully updates the target server's log to match its own, using the normal log replication
    mechanism described in Section 3.5.'"""
    lone = serving()
    lone.propose("SET k v")
    lone.step(lone.ack(2))

    asked = lone.transfer(3)
    caught_up = lone.step(lone.ack(3))

    assert only(TimeoutNow, asked) == []
    assert only(TimeoutNow, caught_up) == [TimeoutNow(1, 3, lone.term)]


def test_step_2_the_prior_leader_goes_on_replicating() -> None:
    """'[...] using the normal log replication mechanism': also what a heartbeat, or a rejection, sets going."""
    lone = Lone([1, 1, 1])
    lone.serve(by=[2])
    lone.step(lone.rejection(3, 3, 0, 1))

    asked = lone.transfer(3)
    caught_up = lone.step(lone.ack(3))

    assert (only(TimeoutNow, asked), lone.leader.progress[3].state) == ([], State.REPLICATE)
    assert [m.recipient for m in only(TimeoutNow, caught_up)] == [3]


def test_step_2_everything_is_committed_first_so_that_no_client_is_left_in_doubt() -> None:
    """'[...] fully updates': and beyond it, whose write was taken before the transfer gets its answer from here."""
    lone = serving(size=5)
    lone.propose("SET k v")

    matching = lone.transfer(3) + lone.step(lone.ack(3))
    committed = lone.step(lone.ack(2))

    assert only(TimeoutNow, matching) == []
    assert [m.recipient for m in only(TimeoutNow, committed)] == [3]
    assert lone.applied[-1].index == lone.raft.log.last_index


# ---- 'The prior leader sends a TimeoutNow request to the target server' ----------------------------------------------


def test_step_3_a_target_that_is_up_to_date_is_told_at_once() -> None:
    """'3. The prior leader sends a TimeoutNow request to the target server.'"""
    lone = serving()

    sent = lone.transfer(3)

    assert only(TimeoutNow, sent) == [TimeoutNow(1, 3, lone.term)]


def test_step_3_it_is_sent_again_with_each_heartbeat() -> None:
    """'[...] sends a TimeoutNow request': the first may get lost."""
    lone = serving()
    lone.transfer(3)
    lone.step(lone.timeout_now_reply(3, accepted=False))

    sent = lone.wait(HEARTBEAT)

    assert only(TimeoutNow, sent) == [TimeoutNow(1, 3, lone.term)]


def test_step_3_the_target_starts_a_new_election_at_once() -> None:
    """'This request has the same effect as the target server's election timer firing: the target server starts a new
    election (incrementing its term and becoming a candidate).' Without a pre-vote, which the others would not grant."""
    lone = Lone(term=1)
    lone.step(lone.append(2))

    sent = lone.step(lone.timeout_now(2, call=5))

    assert (lone.role, lone.term, lone.raft.voted_for) == ("candidate", 2, 1)
    assert [(m.recipient, m.term, m.pre_vote) for m in only(RequestVote, sent)] == [(2, 2, False), (3, 2, False)]
    assert only(TimeoutNowReply, sent) == [TimeoutNowReply(1, 2, 2, True, 5)]


def test_step_3_its_term_and_vote_are_durable_before_it_asks() -> None:
    """As of any candidate: figure 2, 'updated on stable storage before responding to RPCs'."""
    lone = Lone(term=1)
    lone.step(lone.append(2))
    lone.events.clear()

    lone.step(lone.timeout_now(2))

    assert lone.events[0] == Persisted(HardState(2, voted_for=1), ())


@pytest.mark.parametrize("case", ["another sender", "an older term", "a later term", "no leader yet", "a candidate"])
def test_step_3_only_the_leader_that_it_follows_can_tell_a_member_to_stand(case: str) -> None:
    """'The prior leader sends': anything else is a message that has lost its way, or comes late."""
    lone = Lone(term=3)
    if case == "a candidate":
        lone.stand()
    elif case != "no leader yet":
        lone.step(lone.append(2))
    role, term = lone.role, lone.term
    request = {"another sender": lone.timeout_now(3), "an older term": lone.timeout_now(2, 2)}.get(case)
    late = lone.timeout_now(2, 4)

    sent = lone.step(late if case == "a later term" else request or lone.timeout_now(2))

    assert lone.role == role
    assert only(RequestVote, sent) == []
    assert [(reply.accepted, reply.term) for reply in only(TimeoutNowReply, sent)] == [
        (False, 4 if case == "a later term" else term)
    ]


def test_step_3_a_learner_does_not_stand() -> None:
    """3.10 is about servers that can lead; learners count for nothing (4.2.1)."""
    lone = Lone(me=4, size=3, learners=[4], term=1)
    lone.step(lone.append(2))

    sent = lone.step(lone.timeout_now(2))

    assert [reply.accepted for reply in only(TimeoutNowReply, sent)] == [False]
    assert lone.role == "follower"


def test_the_target_is_likely_to_lead_before_anybody_else_times_out() -> None:
    """'At this point, the target server [...] is highly likely to start an election before any other server and become
    leader in the next term.'"""
    cluster = Cluster(5)
    first = cluster.run_until_serving()
    cluster.run(0.5)
    target = cluster.members[first.id % 5 + 1]
    began, term = cluster.now, first.raft.current_term

    first.raft.transfer(target.id, cluster.now)
    cluster.turn(first, [])
    assert cluster.run_until(lambda: cluster.serving() is target, within=1.0)

    assert target.raft.current_term == term + 1
    assert cluster.now - began < HEARTBEAT, "nobody has waited for a timer, nor for the old lease"


# ---- 'Its next message to the prior leader' --------------------------------------------------------------------------


def test_the_targets_next_message_makes_the_prior_leader_step_down() -> None:
    """'Its next message to the prior leader will include its new term number, causing the prior leader to step down. At
    this point, leadership transfer is complete.'"""
    lone = serving()
    lone.transfer(3)

    lone.step(lone.timeout_now_reply(3))

    assert (lone.role, lone.term) == ("follower", 2)
    assert not lone.raft.is_handing_over


def test_the_prior_leader_votes_for_the_target() -> None:
    """'[...] causing the prior leader to step down': it is a voter like any other, and holds on to nobody."""
    lone = serving()
    [told] = only(TimeoutNow, lone.transfer(3))
    released = Leadership(1, told.term)

    sent = lone.step(lone.vote_request(3, told.term + 1, lone.raft.log.last, released=released))

    assert [reply.granted for reply in only(RequestVoteReply, sent)] == [True]
    assert lone.raft.voted_for == 3


# ---- 'If leadership transfer does not complete after about an election timeout' --------------------------------------


@pytest.mark.parametrize("told", [True, False])
def test_after_an_election_timeout_it_resumes_accepting_client_requests(told: bool) -> None:
    """'It is also possible for the target server to fail; in this case, the cluster must resume client operations. If
    leadership transfer does not complete after about an election timeout, the prior leader aborts the transfer and
    resumes accepting client requests.'"""
    lone = serving()
    if not told:
        lone.propose("SET k v")
        lone.step(lone.ack(2))
    lone.transfer(3)
    began = lone.now
    while lone.raft.is_handing_over:
        lone.wait_until(lone.raft.deadline())
        lone.step(lone.ack(2))

    lone.propose("SET k w")

    assert began + ELECTION_TIMEOUT == pytest.approx(lone.now)
    assert lone.role == "leader"
    assert lone.leader.has_let_go == told
    assert any("node 3 has not taken over" in note for note in lone.notes)


def test_it_is_safe_if_the_target_takes_over_after_all() -> None:
    """'If the prior leader was mistaken and the target server is actually operational, then at worst this mistake will
    result in an extra election, after which client operations will be restored.'"""
    cluster = Cluster(3, patience={1: 0.0, 2: 1.0, 3: 1.0})
    first = cluster.run_until_serving()
    cluster.run(0.5)
    cluster.network = lambda message: [2.0 if isinstance(message, TimeoutNow) else 0.001]
    first.raft.transfer(3, cluster.now)
    cluster.turn(first, [])

    cluster.run(1.0)
    resumed = cluster.write(first.id, "SET k v")
    cluster.run(0.1)
    late_arrival = cluster.run_until(lambda: cluster.serving() is cluster.members[3], within=3.0)

    assert resumed.outcome is not None
    assert late_arrival
    assert cluster.write(3, "SET k w") is not None
    cluster.run(1.0)
    assert first.machine.get(b"k") == b"w"


# ---- who may be asked, and who may be named --------------------------------------------------------------------------


def test_only_a_leader_can_hand_over() -> None:
    """3.10: 'the prior leader'."""
    lone = Lone(term=1)
    lone.step(lone.append(3))

    with pytest.raises(NotLeader) as refused:
        lone.raft.transfer(2, lone.now)

    assert refused.value.leader_id == 3


@pytest.mark.parametrize(
    ("target", "why"),
    [(1, "node 1 leads already"), (9, "node 9 is not a voting member"), (4, "node 4 is not a voting member")],
)
def test_a_target_has_to_be_another_voter(target: int, why: str) -> None:
    """'[...] transfers its leadership to another server': one that can win (4 is a learner)."""
    lone = Lone(learners=[4])
    lone.serve()

    with pytest.raises(TransferRefused, match=why):
        lone.raft.transfer(target, lone.now)

    assert not lone.raft.is_handing_over


def test_a_target_that_does_not_answer_is_refused_since_clients_would_wait_in_vain() -> None:
    """'It is also possible for the target server to fail': known before, it costs nothing."""
    lone = Lone()
    lone.serve(by=[2])
    keep_in_touch(lone, 2)

    with pytest.raises(TransferRefused, match="node 3 does not answer"):
        lone.raft.transfer(3, lone.now)


def test_there_is_one_transfer_at_a_time() -> None:
    """3.10 describes one; a second one would name another successor to the same clients."""
    lone = serving()
    lone.transfer(2)

    with pytest.raises(TransferRefused, match="handed over to node 2 already"):
        lone.raft.transfer(3, lone.now)


def test_a_leader_alone_has_nobody_to_hand_over_to() -> None:
    """3.10: 'another server'."""
    lone = Lone(size=1)
    lone.serve(by=[])

    with pytest.raises(TransferRefused, match="there is no other voter"):
        lone.raft.transfer(0, lone.now)


def test_without_a_target_the_most_up_to_date_voter_is_chosen() -> None:
    """3.10 leaves the choice to the caller; whoever is most up to date is ready first."""
    lone = serving(size=5)
    lone.propose("SET a 1")
    lone.step(lone.ack(4))
    lone.propose("SET a 2")

    assert lone.raft.transfer(0, lone.now) == 4


def test_without_a_target_nobody_is_chosen_who_does_not_answer() -> None:
    """As above: a member that has gone may have been the most up-to-date one."""
    lone = serving(size=5)
    lone.propose("SET a 1")
    lone.step(lone.ack(2))
    keep_in_touch(lone, 3, 4)

    assert lone.raft.transfer(0, lone.now) == 3


def test_if_nobody_answers_there_is_no_transfer() -> None:
    """As above."""
    lone = serving()
    lone.oversleep(ELECTION_TIMEOUT + 0.001)

    with pytest.raises(TransferRefused, match="no other voter answers"):
        lone.raft.transfer(0, lone.now)


def test_a_leader_that_has_not_committed_in_its_term_does_not_hand_over() -> None:
    """It does not know yet what is committed, so it can't say that everything is."""
    lone = Lone()
    lone.lead()

    with pytest.raises(TransferRefused, match="it has only just been elected"):
        lone.raft.transfer(0, lone.now)


def test_losing_leadership_otherwise_ends_the_transfer() -> None:
    """A transfer belongs to a term (roles.py)."""
    lone = serving()
    lone.transfer(3)
    lone.step(lone.append(2, at(1, 1), term=5))

    lone.lead()

    assert not lone.raft.is_handing_over
    assert not lone.leader.has_let_go


# ---- a leader that is kept from its turn (hazard 17) -----------------------------------------------------------------


def test_a_leader_that_could_not_send_a_heartbeat_for_an_election_timeout_hands_over() -> None:
    """3.10: 'Leadership transfer might be useful [...] the current leader may not be as well suited'. Its disk is too
    slow to lead, most likely: all its followers have heard nothing for so long."""
    lone = serving()
    lone.oversleep(ELECTION_TIMEOUT + HEARTBEAT)
    lone.raft.step(lone.ack(2, round=lone.leader.rounds.current), lone.now)
    lone.leader.rounds.begin(lone.now)
    lone.raft.step(lone.ack(2), lone.now)

    lone.tick()

    assert lone.raft.is_handing_over
    assert lone.leader.transfer is not None
    assert lone.leader.transfer.target == 2
    assert any("is the disk too slow?" in note for note in lone.notes)


def test_a_leader_that_is_a_little_late_goes_on() -> None:
    """As above; what is late by less than that, nobody minds."""
    lone = serving()
    lone.oversleep(ELECTION_TIMEOUT - 0.01)
    lone.leader.rounds.begin(lone.now)
    lone.raft.step(lone.ack(2), lone.now)

    lone.tick()

    assert lone.role == "leader"
    assert not lone.raft.is_handing_over


def test_a_slow_leader_that_nobody_can_take_over_from_goes_on() -> None:
    """As above: alone, it has to do what it can."""
    lone = Lone(size=1)
    lone.serve(by=[])
    lone.oversleep(10 * ELECTION_TIMEOUT)

    lone.tick()

    assert lone.raft.is_serving
    assert not lone.raft.is_handing_over
