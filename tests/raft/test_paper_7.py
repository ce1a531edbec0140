"""Raft paper, section 7: log compaction. Each test quotes its rule, and has three parts: init, test, check.

The file of a snapshot is the drivers' business; the algorithm is told of it when all of it is there. So figure 13's
rules about chunks (2 to 4) have their tests with the transfer.
"""

from __future__ import annotations

import pytest

from raftkv.raft.configuration import encode_configuration
from raftkv.raft.core import Config
from raftkv.raft.messages import (
    AppendEntries,
    AppendEntriesReply,
    InstallSnapshot,
    InstallSnapshotReply,
    RequestVote,
)
from raftkv.raft.progress import State
from raftkv.raft.types import ORIGIN, Configuration, HardState, LogPosition, SnapshotMeta
from tests.raft.lone import DEFAULTS, Installed, Lone, Persisted, at, entries, only

HEARTBEAT = DEFAULTS.heartbeat_interval


def leader(terms: list[int], compacted: int, config: Config = DEFAULTS) -> Lone:
    """The leader of the next term, whose NO-OP member 2 has acknowledged."""
    lone = Lone(terms, compacted=compacted, config=config)
    lone.serve(by=[2])
    return lone


# ---- the log ---------------------------------------------------------------------------------------------------------


def test_a_log_that_begins_behind_a_snapshot_goes_on_from_its_last_entry() -> None:
    """'Raft also includes a small amount of metadata in the snapshot: the last included index is the index of the last
    entry in the log that the snapshot replaces [...], and the last included term is the term of this entry. These are
    preserved to support the AppendEntries consistency check for the first log entry following the snapshot, since that
    entry needs a previous log index and term.'"""
    lone = Lone([1, 1, 2], compacted=3)

    [wrong] = lone.step(lone.append(2, prev=at(3, 1), terms=[2]))
    [right] = lone.step(lone.append(2, prev=at(3, 2), terms=[2]))

    assert isinstance(wrong, AppendEntriesReply)
    assert isinstance(right, AppendEntriesReply)
    assert not wrong.success
    assert (right.success, right.match_index) == (True, 4)


def test_hazard_33_a_log_that_is_nothing_but_a_snapshot_has_a_last_term() -> None:
    """'... the last included term is the term of this entry': it is what elections compare (5.4.1)."""
    lone = Lone([1, 1, 2], compacted=3)

    [shorter] = lone.step(lone.vote_request(2, term=3, last=at(9, 1)))
    [equal] = lone.step(lone.vote_request(3, term=3, last=at(3, 2)))
    requests = lone.time_out()

    assert (getattr(shorter, "granted", None), getattr(equal, "granted", None)) == (False, True)
    assert {request.last for request in only(RequestVote, requests)} == {at(3, 2)}


def test_a_leader_whose_log_is_nothing_but_a_snapshot_appends_behind_it() -> None:
    """Section 8: a leader commits 'a blank no-op entry into the log at the start of its term'."""
    lone = Lone([1, 1, 2], compacted=3)

    sent = only(AppendEntries, lone.lead(by=[2]))

    assert {message.prev for message in sent} == {at(3, 2)}
    assert [entry.position for entry in sent[0].entries] == [at(4, 3)]


def test_log_time_goes_on_from_the_snapshot() -> None:
    """No section of the paper: log time never goes back (docs/divergences.md), and sessions expire by it."""
    lone = Lone(term=1)
    lone.step(lone.append(2), lone.install(2, lone.snapshot(5, 1, time_ms=7_000)))

    lone.lead(by=[2])

    [no_op] = lone.storage.entries(6, 6, 0)
    assert no_op.time_ms == 7_000


@pytest.mark.parametrize(("prev", "terms"), [(at(1, 1), [1]), (at(1, 1), [1, 2, 2]), (ORIGIN, [1, 1, 2, 2, 3])])
def test_what_was_compacted_matches_whatever_leader_says_it(prev: LogPosition, terms: list[int]) -> None:
    """5.4.3: 'if a log entry is committed in a given term, then that entry will be present in the logs of the leaders
    for all higher-numbered terms.' So an old request still succeeds, and what has been compacted is left out."""
    lone = Lone([1, 1, 2], compacted=3)

    [reply] = lone.step(lone.append(2, prev=prev, terms=terms, term=3))

    assert isinstance(reply, AppendEntriesReply)
    assert (reply.success, reply.match_index) == (True, prev.index + len(terms))
    assert lone.log_terms == terms[3 - prev.index :]


# ---- the leader ------------------------------------------------------------------------------------------------------


def test_a_leader_sends_a_snapshot_when_it_has_discarded_what_a_follower_needs_next() -> None:
    """'The leader uses a new RPC called InstallSnapshot to send snapshots to followers that are too far behind [...]
    This happens when the leader has already discarded the next log entry that it needs to send to a follower.'"""
    lone = leader([1, 1, 1, 2], compacted=3)

    sent = lone.step(lone.rejection(3, rejected=4, conflicting_index=2))

    assert sent == [InstallSnapshot(1, 3, lone.term, lone.snapshot(3, 1), asked_in=lone.leader.rounds.current)]
    assert lone.leader.progress[3].state is State.SNAPSHOT


def test_the_first_entry_behind_the_snapshot_needs_none() -> None:
    """'... the index of the last entry in the log that the snapshot replaces': that entry's term is known."""
    lone = leader([1, 1, 1, 2], compacted=3)

    [request] = only(AppendEntries, lone.step(lone.rejection(3, rejected=4, conflicting_index=4)))

    assert request.prev == at(3, 1)
    assert [entry.index for entry in request.entries] == [4, 5]


def test_entries_that_are_kept_are_sent_though_a_snapshot_has_them_too() -> None:
    """'Fortunately, this situation is unlikely in normal operation: a follower that has kept up with the leader would
    already have this entry.' For one that is a little behind some are kept."""
    lone = leader([1, 1, 1, 2], compacted=0)
    lone.compact(4, keep_from=2)

    [request] = only(AppendEntries, lone.step(lone.rejection(3, rejected=4, conflicting_index=2)))

    assert (request.prev, request.entries[0].index) == (at(1, 1), 2)


def test_a_divergent_follower_is_sent_a_snapshot_if_the_logs_part_in_what_is_discarded() -> None:
    """'... an exceptionally slow follower or a new server joining the cluster': or one with entries that the leader
    never had, before those that it still has."""
    lone = leader([1, 1, 3, 3], compacted=3)

    sent = lone.step(lone.rejection(3, rejected=4, conflicting_term=2, conflicting_index=2))

    assert [type(message) for message in sent] == [InstallSnapshot]


def test_while_a_snapshot_is_on_its_way_there_are_only_heartbeats() -> None:
    """'The way to bring such a follower up-to-date is for the leader to send it a snapshot over the network': nothing
    else helps, but it must go on hearing its leader."""
    lone = leader([1, 1, 1, 2], compacted=3)
    lone.step(lone.rejection(3, rejected=4, conflicting_index=2))

    sent = [*lone.propose("SET k v"), *lone.wait(3 * HEARTBEAT)]

    to_3 = [message for message in sent if message.recipient == 3]
    assert only(AppendEntries, to_3) == to_3
    assert len(to_3) >= 3
    assert {(message.prev, message.entries) for message in only(AppendEntries, to_3)} == {(ORIGIN, ())}


def test_the_answers_to_these_heartbeats_renew_the_lease_and_change_nothing_else() -> None:
    """5.2: a leader is to be heard. That it is says nothing about the snapshot."""
    lone = leader([1, 1, 1, 2], compacted=3)
    lone.step(lone.rejection(3, rejected=4, conflicting_index=2))
    lone.wait(2 * HEARTBEAT)

    sent = lone.step(lone.ack(3, match=0))

    assert sent == []
    assert lone.leader.progress[3].state is State.SNAPSHOT
    assert lone.has_lease()


def test_when_the_snapshot_is_installed_the_entries_behind_it_follow() -> None:
    """Figure 13: the follower's log begins anew with the snapshot; the leader goes on with what comes after it."""
    lone = leader([1, 1, 1, 2], compacted=3)
    lone.step(lone.rejection(3, rejected=4, conflicting_index=2))

    [request] = only(AppendEntries, lone.step(lone.installed(3, match=3)))

    assert request.prev == at(3, 1)
    assert [entry.index for entry in request.entries] == [4, 5]
    assert lone.leader.progress[3].state is State.REPLICATE


def test_an_installed_snapshot_counts_for_the_majority() -> None:
    """5.3: what is durable in a follower's log counts; a snapshot is."""
    lone = Lone([1, 1, 1], compacted=3)
    lone.lead(by=[2])
    lone.step(lone.rejection(3, rejected=3, conflicting_index=1))

    lone.step(lone.installed(3, match=3), lone.ack(3, match=4))

    assert lone.raft.committed_index == 4


def test_if_the_leader_has_discarded_more_by_then_it_sends_the_next_snapshot() -> None:
    """'This happens when the leader has already discarded the next log entry that it needs to send to a follower.'"""
    lone = leader([1, 1, 1, 2], compacted=3)
    lone.step(lone.rejection(3, rejected=4, conflicting_index=2))
    lone.compact(5)

    sent = lone.step(lone.installed(3, match=3))

    assert sent == [InstallSnapshot(1, 3, lone.term, lone.snapshot(5, 3), asked_in=lone.leader.rounds.current)]


def test_a_follower_that_can_not_be_reached_is_sent_a_snapshot_once_it_answers() -> None:
    """5.3: 'If followers crash or run slowly, or if network packets are lost, the leader retries [...] indefinitely':
    but a snapshot is large, so first a heartbeat has to get through."""
    lone = leader([1, 1, 1, 2], compacted=3)
    lone.step(lone.rejection(3, rejected=4, conflicting_index=2))

    lone.raft.unreachable(3, lone.now)
    while_away = [*lone.settle(), *lone.wait(3 * HEARTBEAT)]
    when_back = lone.step(lone.ack(3, match=0))

    assert only(InstallSnapshot, while_away) == []
    assert {message.prev for message in only(AppendEntries, while_away) if message.recipient == 3} == {ORIGIN}
    [message] = only(InstallSnapshot, when_back)
    assert message == InstallSnapshot(1, 3, lone.term, lone.snapshot(3, 1), asked_in=lone.leader.rounds.current)


def test_the_log_may_be_compacted_under_a_follower_that_is_being_probed_or_replicated_to() -> None:
    """'Servers take snapshots independently, covering just the committed entries': whatever a leader is about to
    send."""
    lone = leader([1, 1, 1, 2], compacted=0)
    lone.step(lone.ack(3, match=2))
    lone.compact(5)

    heartbeats = only(AppendEntries, lone.wait(HEARTBEAT))
    lone.step(lone.rejection(3, rejected=4, conflicting_index=3))

    assert {message.prev for message in heartbeats if message.recipient == 3} == {ORIGIN}
    assert lone.leader.progress[3].state in (State.REPLICATE, State.SNAPSHOT)


def test_a_late_rejection_does_not_disturb_a_snapshot_on_its_way() -> None:
    """Hazard 26: it speaks of what the leader knew before."""
    lone = leader([1, 1, 1, 2], compacted=3)
    lone.step(lone.rejection(3, rejected=4, conflicting_index=2))

    sent = lone.step(lone.rejection(3, rejected=4, conflicting_index=2), lone.rejection(3, rejected=3))

    assert sent == []
    assert lone.leader.progress[3].state is State.SNAPSHOT


def test_an_answer_of_a_request_of_an_earlier_term_changes_nothing() -> None:
    """5.1: an answer is judged by the term of now."""
    lone = leader([1, 1, 1, 2], compacted=3)
    lone.step(lone.rejection(3, rejected=4, conflicting_index=2))

    refused = InstallSnapshotReply(3, 1, lone.term, success=False)
    sent = lone.step(refused, lone.installed(3, match=3, term=lone.term - 1))

    assert sent == []
    assert lone.leader.progress[3].state is State.SNAPSHOT
    assert lone.leader.progress[3].match_index == 0


def test_a_member_that_does_not_lead_any_more_takes_no_notice_of_the_answer() -> None:
    """5.1, as above."""
    lone = leader([1, 1, 1, 2], compacted=3)
    lone.step(lone.append(2, term=lone.term + 1))

    assert lone.step(lone.installed(3, match=3)) == []
    assert lone.role == "follower"


def test_a_leader_steps_down_if_the_answer_is_of_a_later_term() -> None:
    """5.1: 'If a candidate or leader discovers that its term is out of date, it immediately reverts to follower
    state.'"""
    lone = leader([1, 1, 1, 2], compacted=3)

    lone.step(InstallSnapshotReply(3, 1, lone.term + 1, success=False))

    assert lone.role == "follower"


# ---- the follower ----------------------------------------------------------------------------------------------------


def test_rule_1_a_snapshot_of_an_earlier_term_is_refused() -> None:
    """Figure 13, 1: 'Reply immediately if term < currentTerm.'"""
    lone = Lone([1, 1, 2], term=5)

    [reply] = lone.step(lone.install(2, lone.snapshot(9, 3), term=4, call=8))

    assert reply == InstallSnapshotReply(1, 2, 5, success=False, call=8)
    assert lone.log_terms == [1, 1, 2]
    assert lone.raft.leader_id == 0


@pytest.mark.parametrize("role", ["follower", "pre-candidate", "candidate"])
def test_the_sender_of_a_snapshot_is_the_leader(role: str) -> None:
    """5.2: 'If the leader's term (included in its RPC) is at least as large as the candidate's current term, then the
    candidate recognizes the leader as legitimate and returns to follower state.'"""
    lone = Lone([1, 1, 2])
    if role == "pre-candidate":
        lone.time_out()
    elif role == "candidate":
        lone.stand()
    assert lone.role == role
    before = lone.follower.election_deadline if role == "follower" else 0.0
    lone.oversleep(0.2)

    lone.step(lone.install(2, lone.snapshot(9, 2), term=4))

    assert (lone.role, lone.raft.leader_id, lone.term) == ("follower", 2, 4)
    assert lone.follower.election_deadline > before


def test_rules_7_and_8_the_snapshot_takes_the_place_of_a_log_that_is_behind() -> None:
    """'Usually the snapshot will contain new information not already in the recipient's log. In this case, the follower
    discards its entire log; it is all superseded by the snapshot.'"""
    lone = Lone([1, 1, 2], committed=1)
    snapshot = lone.snapshot(9, 3)

    [reply] = lone.step(lone.install(2, snapshot, term=4, call=8))

    assert reply == InstallSnapshotReply(1, 2, 4, success=True, match_index=9, call=8)
    assert lone.raft.log.last == at(9, 3)
    assert (lone.raft.committed_index, lone.raft.handed_out_index) == (9, 9)
    assert lone.log_terms == []
    assert lone.applied == [], "what the snapshot has is not applied again"


def test_hazard_31_conflicting_entries_behind_the_snapshot_go_too() -> None:
    """'... discards its entire log; it is all superseded by the snapshot and may possibly have uncommitted entries that
    conflict with the snapshot.'"""
    lone = Lone([1, 1, 2, 2, 2, 2], committed=2)

    lone.step(lone.install(2, lone.snapshot(4, 3), term=4))
    [reply] = lone.step(lone.append(2, prev=at(4, 3), terms=[4], commit=5))

    assert (lone.raft.log.previous, lone.log_terms) == (at(4, 3), [4])
    assert isinstance(reply, AppendEntriesReply)
    assert (reply.success, reply.match_index) == (True, 5)
    assert [entry.index for entry in lone.applied] == [5]


def test_hazard_31_also_those_that_are_not_written_yet() -> None:
    """'... may possibly have uncommitted entries that conflict with the snapshot.'"""
    lone = Lone([1])

    lone.step(lone.append(3, prev=at(1, 1), terms=[2, 2, 2], term=2), lone.install(2, lone.snapshot(3, 3), term=4))

    assert (lone.raft.log.last, lone.log_terms, lone.storage.last_index()) == (at(3, 3), [], 3)


def test_rule_6_a_log_that_holds_the_last_entry_is_kept() -> None:
    """Figure 13, 6: 'If existing log entry has same index and term as snapshot's last included entry, retain log
    entries following it and reply.' What the snapshot would bring is in the log: it is committed now, and applied."""
    lone = Lone([1, 1, 2, 2], committed=1)

    [reply] = lone.step(lone.install(2, lone.snapshot(3, 2)))

    assert reply == InstallSnapshotReply(1, 2, 2, success=True, match_index=3)
    assert lone.log_terms == [1, 1, 2, 2]
    assert lone.raft.committed_index == 3
    assert [entry.index for entry in lone.applied] == [2, 3]
    assert not any(isinstance(event, Installed) for event in lone.events)


@pytest.mark.parametrize(("committed", "last"), [(3, 3), (4, 3), (4, 1)])
def test_hazard_32_a_snapshot_of_what_is_committed_already_changes_nothing(committed: int, last: int) -> None:
    """'If instead the follower receives a snapshot that describes a prefix of its log (due to retransmission or by
    mistake), then log entries covered by the snapshot are deleted but entries following the snapshot are still valid
    and must be retained.' The answer says what is committed, so that nobody sends it again."""
    lone = Lone([1, 1, 2, 2, 2], committed=committed)

    [reply] = lone.step(lone.install(2, lone.snapshot(last, lone.raft.log.term(last))))

    assert reply == InstallSnapshotReply(1, 2, 2, success=True, match_index=committed)
    assert lone.log_terms == [1, 1, 2, 2, 2]
    assert lone.raft.committed_index == committed


def test_hazard_32_a_snapshot_that_is_older_than_the_logs_beginning_changes_nothing() -> None:
    """'... a prefix of its log', of which nothing but its own snapshot is left."""
    lone = Lone([1, 1, 2, 2], compacted=3)

    [reply] = lone.step(lone.install(2, lone.snapshot(2, 1)))

    assert reply == InstallSnapshotReply(1, 2, 2, success=True, match_index=3)
    assert (lone.raft.log.previous, lone.log_terms) == (at(3, 2), [2])


def test_hazard_32_the_same_snapshot_twice_is_installed_once() -> None:
    """'... due to retransmission'."""
    lone = Lone()
    snapshot = lone.snapshot(9, 3)

    replies = [*lone.step(lone.install(2, snapshot, term=4)), *lone.step(lone.install(2, snapshot, term=4))]

    assert [event for event in lone.events if isinstance(event, Installed)] == [Installed(snapshot)]
    assert {reply.match_index for reply in only(InstallSnapshotReply, replies)} == {9}


@pytest.mark.parametrize("order", [(5, 9), (9, 5)])
def test_hazard_32_of_two_snapshots_in_one_turn_the_longer_stands(order: tuple[int, int]) -> None:
    """'... a snapshot that describes a prefix of its log', though nothing has been installed yet."""
    lone = Lone()

    replies = lone.step(*(lone.install(2, lone.snapshot(last, 3), term=4) for last in order))

    assert [event for event in lone.events if isinstance(event, Installed)] == [Installed(lone.snapshot(9, 3))]
    assert lone.raft.log.last == at(9, 3)
    assert [reply.match_index for reply in only(InstallSnapshotReply, replies)] == [order[0], 9]


def test_entries_that_arrive_with_the_snapshot_go_behind_it() -> None:
    """Several messages may be taken in before anything is written."""
    lone = Lone([1, 1, 1])

    lone.step(
        lone.install(2, lone.snapshot(9, 3), term=4),
        lone.append(2, prev=at(9, 3), terms=[3, 4], term=4, commit=10),
        lone.append(2, prev=at(8, 3), terms=[3, 3], term=4, commit=10),
    )

    assert lone.storage.previous() == at(9, 3)
    assert lone.storage.entries(10, 11, 1 << 20) == entries([3, 4], first=10)
    assert [entry.index for entry in lone.applied] == [10]


def test_the_term_is_durable_before_the_snapshot_and_this_before_the_answer() -> None:
    """Figure 2: persistent state is 'updated on stable storage before responding to RPCs'. A log never has a later term
    than the hard state, also if there is a crash in between."""
    lone = Lone([1])
    order: list[str] = []
    persist, install = lone.storage.persist, lone.storage.install_snapshot

    def note_persist(hard_state, entries, commit_index):  # type: ignore[no-untyped-def]
        order.append(f"persist {hard_state.term if hard_state else ''}")
        persist(hard_state, entries, commit_index)

    def note_install(*arguments):  # type: ignore[no-untyped-def]
        order.append("install")
        install(*arguments)

    lone.storage.persist, lone.storage.install_snapshot = note_persist, note_install  # type: ignore[method-assign]
    lone.step(lone.install(2, lone.snapshot(9, 4), term=4))

    assert order[:2] == ["persist 4", "install"]
    kinds = [type(event) for event in lone.events]
    assert kinds.index(InstallSnapshotReply) > kinds.index(Installed)


def test_a_snapshot_brings_the_configuration() -> None:
    """'To enable cluster membership changes, the snapshot also includes the latest configuration in the log as of last
    included index.'"""
    lone = Lone([1, 1, 1])
    lone.step(lone.append_members(1, 2, sender=3, prev=at(3, 1)))
    new = Configuration(frozenset({1, 2, 3, 4, 5}))

    lone.step(lone.install(2, SnapshotMeta(at(9, 3), 0, encode_configuration(new)), term=4))
    installed = lone.raft.configuration
    lone.restart()

    assert installed == lone.raft.configuration == new


def test_a_snapshot_that_names_no_configuration_leaves_the_one_that_is_committed() -> None:
    """No rule of the paper: there are snapshots from before members could be changed."""
    lone = Lone([1, 1, 1])
    before = lone.raft.configuration
    lone.step(lone.append_members(1, 2, sender=3, prev=at(3, 1)))

    lone.step(lone.install(2, lone.snapshot(9, 3), term=4))

    assert lone.raft.configuration == before


def test_a_snapshot_makes_no_promise() -> None:
    """Dissertation, 6.4.1: a lease rests on requests that were answered; whoever has only received a snapshot has
    promised nothing, and its answer names no round."""
    lone = Lone()

    lone.step(lone.install(2, lone.snapshot(9, 3), term=4))

    assert lone.raft.longest_promise_ms == 0
    assert not hasattr(InstallSnapshotReply, "round")


def test_a_follower_that_starts_again_goes_on_behind_the_snapshot() -> None:
    """'... the snapshot [...] replaces' the log up to there, for good."""
    lone = Lone([1, 1, 1], compacted=0)
    lone.step(lone.install(2, lone.snapshot(9, 3), term=4), lone.append(2, prev=at(9, 3), terms=[4], term=4))

    lone.restart()

    assert (lone.raft.log.previous, lone.log_terms) == (at(9, 3), [4])
    assert (lone.raft.committed_index, lone.raft.handed_out_index) == (9, 9)
    assert lone.storage.hard_state == HardState(4)
    assert any(isinstance(event, Persisted) for event in lone.events)
