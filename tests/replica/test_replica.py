"""One member as a whole: in which order it carries out what the core asks, and that each caller is answered once."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from raftkv.kv import KEY_OVERHEAD_BYTES, StateMachine
from raftkv.log_storage import StorageError
from raftkv.memory_storage import MemoryStorage
from raftkv.operations import Code, Operation, Result, Status, TermSettings, encode_settings
from raftkv.raft.core import Config
from raftkv.raft.lease import Grant
from raftkv.raft.log import InvariantBroken
from raftkv.raft.messages import (
    AppendEntries,
    AppendEntriesReply,
    Message,
    RequestVote,
    RequestVoteReply,
    TimeoutNow,
    TimeoutNowReply,
)
from raftkv.raft.types import ORIGIN, Configuration, Entry, EntryKind, HardState, LogPosition, Proposal
from raftkv.replica import (
    Applied,
    NotLeader,
    NotTransferred,
    Outcome,
    Query,
    Replica,
    Served,
    TransferOutcome,
    Transferred,
    TransferRequest,
    Unknown,
    Unreachable,
    Write,
)
from tests.support.raft_cluster import Answer, Cluster, Machine, entries_of

DONE = Result(Status.DONE)
NO_LEASES = Config(lease_duration=0.0)


class RecordingStorage(MemoryStorage):
    def __init__(self, record: Callable[[str], None]) -> None:
        super().__init__()
        self._record = record

    def persist(self, hard_state: HardState | None, entries: Sequence[Entry], commit_index: int) -> None:
        super().persist(hard_state, entries, commit_index)
        self._record(f"persist {len(entries)} entries" if entries else "persist the hard state")


@dataclass
class Lone:
    """A replica whose peers and callers the test plays. What it does is kept in `events`, in order."""

    size: int = 3
    config: Config = NO_LEASES
    now: float = 0.0
    events: list[str] = field(default_factory=list)
    sent: list[Message] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.storage = RecordingStorage(self.events.append)
        self.start(Machine(lambda entry: self.events.append(f"apply {entry.index}")))

    def start(self, machine: StateMachine) -> None:
        members = Configuration(frozenset(range(1, self.size + 1)))
        self.replica = Replica(
            members, 1, self.config, self.storage, machine, random.Random(1), self.now, self.send, self.notes.append
        )

    def send(self, message: Message) -> None:
        self.sent.append(message)
        self.events.append(f"send {type(message).__name__}")

    def turn(self, *inputs: Any) -> None:
        more = self.replica.turn(inputs, self.now)
        while more:
            more = self.replica.turn([], self.now)

    def caller(self, name: str = "answer") -> Answer:
        def record(outcome: Outcome) -> None:
            self.events.append(f"{name} {type(outcome).__name__}")

        return Answer(callback=record)

    def write(self, command: str = "SET k v") -> tuple[Write, Answer]:
        caller = self.caller()
        return Write(Proposal(EntryKind.TEXT, command.encode()), caller), caller

    def query(self, read: Callable[[StateMachine], Any] = lambda machine: machine.get(b"k")) -> tuple[Query, Answer]:
        caller = self.caller()
        return Query(read, caller), caller

    def ack(self, sender: int, round: int | None = None) -> AppendEntriesReply:
        raft = self.replica.raft
        role: Any = raft.role
        round = role.rounds.current if round is None else round
        return AppendEntriesReply(sender, 1, raft.current_term, True, round, raft.log.last_index)

    def lead(self) -> None:
        """Become the leader of term 1, and commit its NO-OP."""
        self.now = self.replica.deadline()
        self.turn()
        if self.size > 1:
            self.turn(RequestVoteReply(2, 1, 1, True, pre_vote=True))
            self.turn(RequestVoteReply(2, 1, 1, True))
            self.turn(self.ack(2), self.ack(3))
        assert self.replica.status().serving
        self.events.clear()
        self.sent.clear()

    def append_of_term_2(self, prev: LogPosition, terms: Sequence[int] = (), commit: int = 0) -> AppendEntries:
        new = tuple(Entry(i, t, EntryKind.TEXT, b"SET k other") for i, t in enumerate(terms, prev.index + 1))
        return AppendEntries(3, 1, 2, prev, new, commit, 0, 1)


def leading(**options: Any) -> Lone:
    lone = Lone(**options)
    lone.lead()
    return lone


# ---- the order in which things are done ------------------------------------------------------------------------------


def test_a_write_goes_out_to_the_disk_and_back_before_it_is_applied_and_answered() -> None:
    lone = leading()
    write, answer = lone.write()

    lone.turn(write)
    lone.turn(lone.ack(3))

    assert lone.events == [
        "send AppendEntries",
        "send AppendEntries",
        "persist 1 entries",
        "apply 2",
        "answer Applied",
    ]
    assert answer.outcome == Applied([DONE])
    assert lone.replica.machine.get(b"k") == b"v"


def test_a_vote_goes_to_the_disk_before_the_reply_leaves() -> None:
    lone = Lone()

    lone.turn(RequestVote(2, 1, 1, ORIGIN))

    assert lone.events == ["persist the hard state", "send RequestVoteReply"]


def test_a_followers_entries_go_to_the_disk_before_they_are_acknowledged_and_applied() -> None:
    lone = Lone()

    lone.turn(lone.append_of_term_2(ORIGIN, [1, 2], commit=2))

    assert lone.events == ["persist 2 entries", "send AppendEntriesReply", "apply 1", "apply 2"]
    assert lone.storage.hard_state == HardState(2)


def test_many_writes_take_one_write_to_the_disk() -> None:
    """Group commit."""
    lone = leading()
    writes = [lone.write(f"SET k{i} v") for i in range(100)]

    lone.turn(*(write for write, _ in writes))
    lone.turn(lone.ack(2))

    assert [event for event in lone.events if event.startswith("persist")] == ["persist 100 entries"]
    assert all(answer.outcome == Applied([DONE]) for _, answer in writes)


def test_a_read_is_served_after_what_was_committed_before_it_has_been_applied() -> None:
    lone = leading()
    write, _ = lone.write()
    query, answer = lone.query()
    lone.turn(write)
    lone.events.clear()

    lone.turn(lone.ack(2), query)
    lone.turn(lone.ack(2))

    assert lone.events == ["send AppendEntries"] * 2 + ["apply 2", "answer Applied", "answer Served"]
    assert answer.outcome == Served(b"v")


def test_there_is_more_to_do_until_nothing_is_ready() -> None:
    lone = leading(size=1)
    write, answer = lone.write()

    first = lone.replica.turn([write], lone.now)
    outcome = answer.outcome
    second = lone.replica.turn([], lone.now)

    assert (first, outcome) == (True, None), "what has just become durable is committed, and still to be applied"
    assert (second, answer.outcome) == (False, Applied([DONE]))
    assert lone.replica.raft.ready() is None


def test_answers_that_have_arrived_count_before_the_time_that_has_passed() -> None:
    """After a stall the inbox may hold what a timeout would say is missing."""
    lone = leading()
    lone.now = lone.replica.deadline()
    lone.turn()  # a round of heartbeats
    late_answer = lone.ack(2)

    lone.now += NO_LEASES.election_timeout - 0.001
    lone.turn(late_answer)

    assert lone.replica.status().role == "leader"


def test_a_failed_disk_ends_it_before_anything_leaves() -> None:
    lone = Lone()
    lone.storage.failure = "no space left on device"

    with pytest.raises(StorageError, match="no space left"):
        lone.turn(RequestVote(2, 1, 1, ORIGIN))

    assert lone.events == []


def test_a_leaders_failed_disk_commits_and_answers_nothing() -> None:
    lone = leading(size=1)
    write, answer = lone.write()
    lone.storage.failure = "no space left on device"

    with pytest.raises(StorageError):
        lone.turn(write)

    assert answer.outcome is None
    assert lone.events == []
    lone.replica.abandon("the disk failed")
    assert answer.outcome == Unknown("the disk failed")


def test_a_broken_invariant_ends_it() -> None:
    lone = leading()

    with pytest.raises(InvariantBroken, match="member 3 leads term 1 too"):
        lone.turn(AppendEntries(3, 1, 1, ORIGIN, (), 0, 0, 1))


def test_a_broken_invariant_is_noticed_before_a_reply_leaves_or_anything_is_applied() -> None:
    lone = Lone()
    lone.replica.raft.lease = Grant(term=1, until=99.0)

    with pytest.raises(InvariantBroken, match="only a leader holds a lease"):
        lone.turn(lone.append_of_term_2(ORIGIN, [1], commit=1))

    assert lone.events == ["persist 1 entries"]


# ---- each caller is answered once ------------------------------------------------------------------------------------


def test_who_asks_a_follower_is_told_the_leader_and_nothing_is_done() -> None:
    lone = Lone()
    lone.turn(lone.append_of_term_2(ORIGIN))
    (write, written), (query, read) = lone.write(), lone.query()

    lone.turn(write, query)

    assert written.outcome == read.outcome == NotLeader(3)
    assert lone.replica.status().last_log_index == 0


def test_who_asks_while_nobody_leads_is_told_so() -> None:
    lone = Lone()
    (write, written), (query, read) = lone.write(), lone.query()

    lone.turn(write, query)

    assert written.outcome == read.outcome == NotLeader(0)


def test_a_write_that_is_not_wanted_any_more_is_not_proposed() -> None:
    """Its caller may repeat it elsewhere, and what it wrote before it may not have been carried out."""
    lone = leading()
    write, written = lone.write()
    written.wanted = False
    before = lone.replica.status().last_log_index

    lone.turn(write)

    assert written.outcome == NotLeader(1)
    assert lone.replica.status().last_log_index == before


def test_the_answers_are_those_of_the_operations_in_order() -> None:
    lone = leading(size=1)
    writes = [lone.write(command) for command in ("SETNX k 1", "SETNX k 2", "CAS k 1 3", "DEL missing", "garbage")]

    lone.turn(*(write for write, _ in writes))

    statuses = [answer.outcome.results[0].status for _, answer in writes if isinstance(answer.outcome, Applied)]
    assert statuses == [Status.DONE, Status.NOT_DONE, Status.DONE, Status.NOT_DONE, Status.MALFORMED]


def test_hazard_48_a_write_of_a_lost_leadership_is_unknown_and_not_failed() -> None:
    lone = leading()
    write, answer = lone.write()
    lone.turn(write)

    lone.turn(lone.append_of_term_2(LogPosition(1, 1)))

    assert answer.outcome == Unknown("leadership was lost before the write was committed")


def test_a_write_whose_place_was_taken_before_anybody_noticed_is_unknown() -> None:
    lone = leading()
    write, answer = lone.write()
    lone.turn(write)

    lone.turn(lone.append_of_term_2(LogPosition(1, 1), [2], commit=2))

    assert answer.outcome == Unknown("another leader's entry has taken its place at index 2")
    assert lone.replica.machine.get(b"k") == b"other"


def test_a_write_that_the_next_leader_commits_at_once_is_applied_after_all() -> None:
    lone = leading()
    write, answer = lone.write()
    lone.turn(write)

    lone.turn(lone.append_of_term_2(LogPosition(1, 2), commit=2))

    assert answer.outcome == Applied([DONE])


def test_a_write_that_was_never_even_sent_is_unknown_as_well() -> None:
    lone = leading()
    write, answer = lone.write()

    lone.turn(write, lone.append_of_term_2(LogPosition(1, 1), [2]))

    assert isinstance(answer.outcome, Unknown)
    assert [type(message) for message in lone.sent] == [AppendEntriesReply]


def test_a_read_of_a_lost_leadership_has_not_been_done() -> None:
    lone = leading()
    query, answer = lone.query()
    lone.turn(query)

    lone.turn(lone.append_of_term_2(LogPosition(1, 1)))

    assert answer.outcome == NotLeader(3)


def test_a_leader_that_loses_its_majority_answers_everybody() -> None:
    lone = leading()
    (write, written), (query, read) = lone.write(), lone.query()
    lone.turn(write, query)

    lone.now += NO_LEASES.election_timeout
    lone.turn()

    assert isinstance(written.outcome, Unknown)
    assert read.outcome == NotLeader(0)


def test_a_write_handed_in_together_with_what_ends_the_leadership_is_refused() -> None:
    lone = leading()
    write, answer = lone.write()

    lone.turn(lone.append_of_term_2(LogPosition(1, 1)), write)

    assert answer.outcome == NotLeader(3)


def test_a_member_that_stops_answers_everybody() -> None:
    lone = leading()
    (write, written), (query, read) = lone.write(), lone.query()
    lone.turn(write, query)

    lone.replica.abandon("the node is stopping")
    lone.replica.abandon("the node is stopping")

    assert written.outcome == Unknown("the node is stopping")
    assert read.outcome == NotLeader(0), "nothing has been read: it can be asked of another member"


def test_a_failed_call_reaches_the_core() -> None:
    lone = leading()
    lone.turn(lone.write()[0])
    lone.sent.clear()

    lone.turn(Unreachable(3))
    lone.now = lone.replica.deadline()
    lone.turn()

    assert [(m.recipient, m.entries) for m in lone.sent if isinstance(m, AppendEntries) and m.recipient == 3] == [
        (3, ())
    ]
    lone.sent.clear()
    lone.turn(replace(lone.ack(3), match_index=1))
    again = [entry.index for m in lone.sent if isinstance(m, AppendEntries) for entry in m.entries]
    assert again == [2], "what was in flight counts as lost"


# ---- starting, and what it says of itself ----------------------------------------------------------------------------


def test_it_starts_with_what_was_committed_applied() -> None:
    lone = Lone()
    lone.storage.persist(HardState(1), entries_of([1, 1, 1]), 2)
    machine = StateMachine()
    with pytest.raises(ValueError, match="applied up to 0, not to 2, before the start"):
        lone.start(machine)

    for entry in lone.storage.replay():
        machine.apply(entry)
    lone.start(machine)

    assert lone.replica.status().applied_index == lone.replica.status().commit_index == 2


def test_what_was_applied_before_a_restart_is_not_applied_again() -> None:
    cluster = Cluster(3)
    leader = cluster.run_until_serving()
    cluster.write(leader.id, *(f"SET k {i}" for i in range(10)))
    cluster.run(1.0)
    revision = leader.machine.revision

    for id in cluster.members:
        cluster.restart(id)
    cluster.run_until_serving()
    cluster.run(1.0)

    assert {m.machine.revision for m in cluster.members.values()} == {revision} == {10}


def test_only_a_leader_that_has_applied_all_it_knows_committed_may_say_that_there_is_no_room() -> None:
    settings = encode_settings(TermSettings(b"c" * 16, 10, 1000, 10, max_state_bytes=KEY_OVERHEAD_BYTES + 2))
    lone = leading(config=replace(NO_LEASES, term_settings=settings))
    write, _ = lone.write("SET a 1")
    lone.turn(write)
    more = Operation(Code.SET, b"b", b"1")
    assert not lone.replica.lacks_room_for(more), "not committed, so nobody knows"
    lone.turn(lone.ack(2))
    assert lone.replica.lacks_room_for(more)
    assert not lone.replica.lacks_room_for(Operation(Code.SET, b"a", b"2"))
    lone.replica.machine.applied_index -= 1
    assert not lone.replica.lacks_room_for(more), "what has not been applied may make room"
    lone.replica.machine.applied_index += 1
    lone.turn(lone.append_of_term_2(LogPosition(1, 2)))
    assert not lone.replica.lacks_room_for(more), "the leader does not say so"


def test_the_status_is_that_of_now() -> None:
    lone = Lone()
    before = lone.replica.status()
    lone.lead()
    lone.turn(lone.write()[0])
    leader = lone.replica.status()
    lone.turn(lone.append_of_term_2(LogPosition(1, 2), commit=2))
    follower = lone.replica.status()

    assert (before.role, before.term, before.leader_id, before.serving) == ("follower", 0, 0, False)
    assert (leader.role, leader.term, leader.leader_id, leader.serving) == ("leader", 1, 1, True)
    assert (leader.commit_index, leader.applied_index, leader.last_log_index) == (1, 1, 2)
    assert (follower.role, follower.term, follower.leader_id, follower.serving) == ("follower", 2, 3, False)
    assert (follower.commit_index, follower.applied_index, follower.last_log_index) == (2, 2, 2)


def test_the_end_of_the_log_can_be_asked_while_the_turn_writes_it() -> None:
    """`status()` needs no turn: the holder of the turn may have the log's end made durable between two looks at it."""
    lone = leading()
    log = lone.replica.raft.log
    log.append([Entry(2, 1, EntryKind.TEXT)])

    class WrittenMeanwhile(list[Entry]):
        def __bool__(self) -> bool:
            lone.storage.persist(None, list(self), 1)
            log.persisted(list(self))
            return True

    log._tail = WrittenMeanwhile(log._tail)

    assert lone.replica.status().last_log_index == 2
    assert log.pending() == []


def test_what_a_person_should_know_is_noted() -> None:
    lone = leading()

    assert lone.notes == [
        "hears no leader in term 0, asks for pre-votes",
        "stands for election in term 1",
        "leads term 1, elected by 1, 2",
    ]


# ---- handing over ----------------------------------------------------------------------------------------------------


def ask_to_transfer(lone: Lone, target: int = 0) -> list[TransferOutcome]:
    """Bring a request for a transfer: the list that will hold its answer."""
    answers: list[TransferOutcome] = []
    lone.turn(TransferRequest(target, answers.append))
    return answers


def test_a_transfer_is_answered_once_somebody_else_leads() -> None:
    lone = leading()
    answers = ask_to_transfer(lone, 3)
    told = [message for message in lone.sent if isinstance(message, TimeoutNow)]

    lone.turn(TimeoutNowReply(3, 1, 2, accepted=True))
    before = list(answers)
    lone.turn(lone.append_of_term_2(LogPosition(1, 1)))

    assert told == [TimeoutNow(1, 3, 1)]
    assert (before, answers) == ([], [Transferred(3)])


def test_a_write_during_a_transfer_is_refused_and_told_who_is_to_lead() -> None:
    lone = leading()
    ask_to_transfer(lone, 3)
    write, answer = lone.write()

    lone.turn(write)

    assert answer.outcome == NotLeader(3)
    assert lone.storage.last_index() == 1


def test_a_write_from_before_a_transfer_is_answered_before_the_target_is_told() -> None:
    lone = leading()
    write, answer = lone.write()
    lone.turn(write)
    ask_to_transfer(lone, 3)
    lone.turn(lone.ack(3))
    lone.events.clear()

    lone.turn(TimeoutNowReply(3, 1, 2, accepted=True))

    assert answer.outcome == Applied([DONE])
    assert lone.replica.status().role == "follower"


def test_a_transfer_that_is_refused_is_answered_at_once() -> None:
    lone = leading()

    assert ask_to_transfer(lone, 7) == [NotTransferred("node 7 is not a voting member", was_refused=True)]
    assert not lone.replica.raft.is_handing_over


def test_a_second_transfer_does_not_take_the_answer_of_the_first() -> None:
    lone = leading()
    first, second = ask_to_transfer(lone, 3), ask_to_transfer(lone, 2)

    lone.turn(lone.append_of_term_2(LogPosition(1, 1)))

    assert first == [Transferred(3)]
    assert second == [NotTransferred("leadership is being handed over to node 3 already", was_refused=True)]


def test_who_does_not_lead_says_who_does() -> None:
    lone = Lone()
    lone.turn(lone.append_of_term_2(ORIGIN))

    assert ask_to_transfer(lone) == [NotLeader(3)]


def test_a_transfer_that_comes_to_nothing_is_answered_when_it_is_given_up() -> None:
    lone = leading()
    answers = ask_to_transfer(lone, 3)
    while not answers:
        lone.now = lone.replica.deadline()
        lone.turn(lone.ack(2))

    [outcome] = answers
    assert isinstance(outcome, NotTransferred)
    assert not outcome.was_refused
    assert outcome.reason == "node 3 has not taken over in time, node 1 goes on leading"
    assert lone.now < 2 * lone.config.election_timeout + 1.0


def test_a_transfer_that_is_under_way_when_the_node_stops_is_answered() -> None:
    lone = leading()
    answers = ask_to_transfer(lone, 3)

    lone.replica.abandon("the node is stopping")

    assert answers == [NotTransferred("the node is stopping", was_refused=False)]
