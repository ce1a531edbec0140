"""The core's interface: what it may be asked, what `Ready` promises, and what it refuses as a bug of its driver or
peer."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from raftkv.raft.core import Config, NotLeader, Raft
from raftkv.raft.log import InvariantBroken
from raftkv.raft.messages import AppendEntries, AppendEntriesReply, RequestVote, RequestVoteReply
from raftkv.raft.ready import Ready
from raftkv.raft.roles import Follower, PreCandidate
from raftkv.raft.types import ORIGIN, Entry, EntryKind
from tests.raft.lone import DEFAULTS, Lone, Persisted, at, entries, only, text

HEARTBEAT = DEFAULTS.heartbeat_interval


# ---- ready() and advance() -------------------------------------------------------------------------------------------


def test_nothing_is_ready_when_nothing_has_happened() -> None:
    assert Lone([1, 1]).raft.ready() is None


def test_what_is_ready_is_handed_out_once() -> None:
    lone = Lone()
    lone.time_out()

    assert lone.raft.ready() is None


def test_ready_does_not_come_twice_before_its_advance() -> None:
    lone = Lone()
    lone.raft.step(lone.vote_request(2, term=1), lone.now)
    lone.raft.ready()

    with pytest.raises(InvariantBroken, match=r"ready\(\) before advance"):
        lone.raft.ready()


@pytest.mark.parametrize("outstanding", [False, True])
def test_advance_takes_only_the_ready_that_is_outstanding(outstanding: bool) -> None:
    lone = Lone()
    lone.raft.step(lone.vote_request(2, term=1), lone.now)
    if outstanding:
        lone.raft.ready()

    with pytest.raises(InvariantBroken, match=r"advance\(\) without its ready"):
        lone.raft.advance(Ready())


def test_no_input_is_taken_between_ready_and_advance() -> None:
    lone = Lone()
    lone.serve()
    lone.raft.propose(text("SET k v"), lone.now)
    assert lone.raft.ready() is not None

    for an_input in (
        lambda: lone.raft.step(lone.ack(2), lone.now),
        lambda: lone.raft.tick(lone.now),
        lambda: lone.raft.propose(text("SET k w"), lone.now),
        lambda: lone.raft.read(1, lone.now),
        lambda: lone.raft.unreachable(2, lone.now),
    ):
        with pytest.raises(InvariantBroken, match="an input between"):
            an_input()


def test_a_driver_that_has_not_persisted_is_noticed() -> None:
    lone = Lone(term=1)
    lone.raft.step(lone.append(2, terms=[1]), lone.now)
    ready = lone.raft.ready()
    assert ready is not None

    with pytest.raises(InvariantBroken, match="the store ends at 0, not at 1"):
        lone.raft.advance(ready)


# ---- what waits for the disk -----------------------------------------------------------------------------------------


def test_only_a_leaders_append_entries_overtake_its_disk() -> None:
    """Dissertation, 10.2.1."""
    lone = Lone()
    lone.serve(by=[2, 3])
    lone.events.clear()

    lone.raft.propose(text("SET k v"), lone.now)
    lone.step(lone.vote_request(3, term=1))

    kinds = [type(event) for event in lone.events]
    assert kinds == [AppendEntries, AppendEntries, Persisted, RequestVoteReply]


def test_all_that_happened_at_once_is_written_at_once() -> None:
    """Group commit: one write for the term, the vote and all entries."""
    lone = Lone()

    lone.step(
        lone.vote_request(2, term=1),
        lone.append(2, ORIGIN, [1], term=1, lease_ms=400),
        lone.append(2, at(1, 1), [1, 1], term=1),
        lone.append(2, at(3, 1), [1], term=1),
    )

    [persisted] = [event for event in lone.events if isinstance(event, Persisted)]
    assert persisted.entries == tuple(entries([1, 1, 1, 1]))
    assert [type(e) for e in lone.events] == [Persisted, RequestVoteReply, *[AppendEntriesReply] * 3]


def test_an_entry_replaced_before_it_was_written_is_never_written() -> None:
    lone = Lone(term=2)

    lone.step(lone.append(2, ORIGIN, [1, 1, 1], term=2), lone.append(3, at(1, 1), [3], term=3))

    [persisted] = [event for event in lone.events if isinstance(event, Persisted)]
    assert [entry.term for entry in persisted.entries] == [1, 3]


def test_an_entry_may_be_committed_and_written_by_the_same_ready() -> None:
    lone = Lone(term=1)

    lone.step(lone.append(2, ORIGIN, [1, 1], commit=2))

    kinds = [type(event) for event in lone.events]
    assert kinds == [Persisted, AppendEntriesReply, Entry, Entry], "written first, applied last"
    assert lone.storage.commit_index == 2, "and the commit index is remembered with the entries"


def test_heartbeats_of_a_leadership_that_has_just_been_lost_may_still_go() -> None:
    """They are of the old term, which was durable before the election was won: nothing is wrong with them."""
    lone = Lone()
    lone.serve()
    lone.now = lone.leader.heartbeat_due

    lone.raft.tick(lone.now)
    sent = lone.step(lone.append(3, at(1, 1), term=2))

    assert lone.role == "follower"
    assert [m.term for m in only(AppendEntries, sent)] == [1, 1]
    assert [m.term for m in only(AppendEntriesReply, sent)] == [2]


def test_a_leaders_message_never_leaves_before_its_term_is_durable() -> None:
    lone = Lone()
    lone.lead()
    lone.raft._durable_hard_state = replace(lone.raft._durable_hard_state, term=0)

    lone.raft.propose(text("SET k v"), lone.now)
    lone.raft.step(lone.ack(2, match=1), lone.now)
    with pytest.raises(InvariantBroken, match="before its term is durable"):
        lone.raft.ready()


def test_a_candidates_own_vote_counts_only_once_it_is_durable() -> None:
    lone = Lone(size=5)
    lone.time_out()
    for peer in (2, 3):
        lone.raft.step(lone.pre_vote(peer), lone.now)
    assert lone.role == "candidate"

    for peer in (2, 3, 4, 5):
        lone.raft.step(lone.vote(peer), lone.now)
    before = lone.role
    lone.settle()

    assert (before, lone.role) == ("candidate", "leader")


def test_what_is_handed_out_to_be_applied_is_cut_by_its_size() -> None:
    lone = Lone([1] * 10, config=Config(max_apply_bytes=1))

    lone.raft.step(lone.append(2, at(10, 1), commit=10), lone.now)
    portions = []
    while (ready := lone.raft.ready()) is not None:
        portions.append([entry.index for entry in ready.committed])
        if ready.hard_state or ready.entries:
            lone.storage.persist(ready.hard_state, ready.entries, ready.commit_index)
        lone.raft.advance(ready)

    assert portions == [[index] for index in range(1, 11)]


def test_what_was_applied_before_a_restart_is_not_handed_out_again() -> None:
    lone = Lone([1, 1, 1], committed=2)

    lone.step(lone.append(2, at(3, 1), commit=3))

    assert [entry.index for entry in lone.applied] == [3]


# ---- time ------------------------------------------------------------------------------------------------------------


def test_a_tick_before_the_deadline_does_nothing() -> None:
    lone = Lone()
    lone.now = lone.raft.deadline() - 0.001

    assert lone.tick() == []
    assert lone.role == "follower"


def test_a_leader_wants_to_be_called_for_its_heartbeats() -> None:
    lone = Lone()
    lone.serve()
    assert lone.raft.deadline() == lone.now + HEARTBEAT

    lone.oversleep(10 * HEARTBEAT - 0.6)
    sent = lone.tick()

    assert len(sent) == 2, "one heartbeat each, however many were missed"
    assert lone.raft.deadline() == lone.now + HEARTBEAT


def test_a_leader_that_waits_wants_to_be_called_when_the_wait_is_over() -> None:
    lone = Lone()
    lone.lead(remaining_lease_ms=30)

    assert lone.raft.deadline() == lone.leader.serve_from
    lone.wait_until(lone.raft.deadline())
    assert lone.raft.deadline() > lone.now


def test_the_log_time_of_entries_follows_the_leaders_clock_from_where_it_was() -> None:
    lone = Lone()
    lone.serve()
    lone.wait(0.25)
    lone.propose("SET a 1")
    lone.step(lone.ack(2), lone.append(3, at(2, 1), term=2))
    lone.wait(0.3)

    lone.serve()
    lone.oversleep(10.0)
    lone.propose("SET b 2")

    times = [lone.raft.log.entries(i, i, 0)[0].time_ms for i in range(1, 5)]
    assert times[0] == 0
    assert times[1] in (249, 250)
    assert times[2] == times[1], "between two leaders it stands still"
    assert times[3] - times[2] in (9_999, 10_000)


# ---- what it refuses -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("sender", "recipient"), [(1, 1), (2, 3), (0, 1)])
def test_a_message_that_does_not_belong_here_is_the_drivers_mistake(sender: int, recipient: int) -> None:
    lone = Lone()

    with pytest.raises(ValueError, match=f"message from {sender} to {recipient} reached member 1"):
        lone.raft.step(RequestVote(sender, recipient, 1, ORIGIN), lone.now)


def test_two_leaders_of_one_term_stop_the_member() -> None:
    lone = Lone()
    lone.lead()

    with pytest.raises(InvariantBroken, match="member 3 leads term 1 too"):
        lone.raft.step(lone.append(3, term=1), lone.now)


def test_an_acknowledgement_of_what_was_never_sent_stops_the_member() -> None:
    lone = Lone()
    lone.lead()

    with pytest.raises(InvariantBroken, match="2 acknowledges entry 2, which was never sent"):
        lone.raft.step(lone.ack(2, match=2), lone.now)


def test_a_leader_that_would_replace_what_is_committed_stops_the_member() -> None:
    lone = Lone([1, 1], committed=2)

    with pytest.raises(InvariantBroken, match="entry 2 is committed"):
        lone.raft.step(lone.append(2, at(1, 1), [2], term=2), lone.now)


@pytest.mark.parametrize("known", [0, 3])
def test_a_refusal_says_who_might_lead(known: int) -> None:
    lone = Lone(term=1)
    if known:
        lone.step(lone.append(known))

    with pytest.raises(NotLeader, match="the leader is 3" if known else "the leader is not known") as refused:
        lone.raft.read(1, lone.now)

    assert refused.value.leader_id == known


def test_proposing_nothing_appends_nothing() -> None:
    lone = Lone()
    lone.serve()

    assert lone.raft.propose([], lone.now) == []
    assert lone.log_terms == [1]


# ---- what may come at any time ---------------------------------------------------------------------------------------


def test_a_failed_call_concerns_only_a_leader_and_its_followers() -> None:
    follower, leader = Lone(), Lone()
    leader.serve()
    before = replace(leader.leader.progress[2])

    follower.raft.unreachable(2, follower.now)
    leader.raft.unreachable(99, leader.now)

    assert follower.settle() == []
    assert leader.leader.progress[2] == before


def test_an_acknowledgement_that_reaches_a_follower_is_ignored() -> None:
    lone = Lone(term=1)

    assert lone.step(AppendEntriesReply(2, 1, 1, True, 1, 5)) == []
    assert lone.role == "follower"


def test_who_leads_can_be_asked_without_the_turn() -> None:
    """Another thread may change the role while this one looks at it; it must not fail by that."""
    lone = Lone()
    lone.serve()
    roles: list[Any] = []

    class Flickering(Raft):
        @property
        def role(self) -> Any:  # type: ignore[override]
            return roles.pop(0)

    leader, follower, pre_candidate = lone.leader, Follower(1.0, leader_id=2), PreCandidate(1.0)
    lone.raft.__class__ = Flickering
    roles[:] = [leader, follower]
    assert lone.raft.leader_id == 1
    roles[:] = [follower, pre_candidate]
    assert lone.raft.leader_id == 2
    roles[:] = [leader, follower]
    assert lone.raft.is_serving


# ---- learners --------------------------------------------------------------------------------------------------------


def test_a_learner_never_stands_for_election() -> None:
    lone = Lone(me=4, learners=[4])

    assert lone.wait(10.0) == []
    assert (lone.role, lone.term) == ("follower", 0)


def test_a_learner_is_sent_the_log_and_counts_for_nothing() -> None:
    lone = Lone(learners=[4])
    sent = lone.stand()
    assert [m.recipient for m in sent] == [2, 3], "it is not asked for its vote"

    sent = lone.step(lone.vote(4))
    assert lone.role == "candidate"
    sent = lone.step(lone.vote(2))
    assert sorted(m.recipient for m in only(AppendEntries, sent)) == [2, 3, 4]

    lone.step(lone.ack(4))
    assert lone.raft.committed_index == 0
    lone.step(lone.ack(2))
    assert lone.raft.committed_index == 1


# ---- what a person reads in the log ----------------------------------------------------------------------------------


def test_the_notes_tell_the_story_of_a_leader() -> None:
    lone = Lone(term=3)
    lone.step(lone.append(3))
    lone.lead(by=[2])
    lone.wait(2.0)

    assert [note for note in lone.notes if "pre-votes" not in note] == [
        "follows 3, the leader of term 3",
        "stands for election in term 4",
        "leads term 4, elected by 1, 2",
        "steps down as the leader of term 4: no majority has answered for 0.5 s (CheckQuorum)",
    ]


def test_a_leader_deposed_by_a_later_term_says_so() -> None:
    lone = Lone()
    lone.serve()

    lone.step(lone.append(3, at(1, 1), term=2))

    assert lone.notes[-2:] == [
        "steps down as the leader of term 1: term 2 has begun",
        "follows 3, the leader of term 2",
    ]


def test_a_no_op_carries_the_settings_of_the_term() -> None:
    lone = Lone(size=1, config=Config(term_settings=b"settings"))
    lone.serve(by=[])

    assert [(entry.kind, entry.payload) for entry in lone.applied] == [(EntryKind.NO_OP, b"settings")]
