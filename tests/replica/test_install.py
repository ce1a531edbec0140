"""A member that gets a leader's snapshot: in which order it is installed, and what becomes of what there was."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

from raftkv.kv import StateMachine
from raftkv.log_storage import SnapshotWriter, StorageError
from raftkv.memory_storage import MemoryStorage
from raftkv.raft.core import Config
from raftkv.raft.log import InvariantBroken
from raftkv.raft.messages import AppendEntries, InstallSnapshot, InstallSnapshotReply, Message
from raftkv.raft.types import ORIGIN, Configuration, Entry, EntryKind, HardState, LogPosition, SnapshotMeta
from raftkv.replica import Replica, SnapshotReceived
from raftkv.snapshots import Save, Saver, SnapshotFailed, SnapshotPolicy, SnapshotSaved, write_snapshot
from tests.raft.lone import at, entries
from tests.support.snapshots import encoded, file_with, machine_after


@dataclass(eq=False)
class Recording(MemoryStorage):
    """Notes what is done to it."""

    events: list[str] = field(default_factory=list)
    discarded: list[SnapshotWriter] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()

    def persist(self, hard_state: HardState | None, entries: Sequence[Entry], commit_index: int) -> None:
        super().persist(hard_state, entries, commit_index)
        what = [f"term {hard_state.term}"] if hard_state else []
        self.events.append(" ".join(["persist", *what, *(str(entry.index) for entry in entries)]))

    def install_snapshot(self, meta: SnapshotMeta, writer: SnapshotWriter) -> None:
        super().install_snapshot(meta, writer)
        self.events.append(f"install {meta.last.index}")


class Follower:
    """Member 1 of three, with some entries in its log."""

    def __init__(self, policy: SnapshotPolicy = SnapshotPolicy(), saver: Saver | None = None) -> None:  # noqa: B008
        self.storage = Recording()
        self.storage.persist(HardState(1), entries([1, 1]), 2)
        self.machine = StateMachine()
        for entry in self.storage.replay():
            self.machine.apply(entry)
        self.storage.events.clear()
        self.events = self.storage.events
        self.sent: list[Message] = []
        self.replica = Replica(
            Configuration(frozenset({1, 2, 3})),
            1,
            Config(),
            self.storage,
            self.machine,
            random.Random(1),
            0.0,
            self.send,
            lambda note: None,
            policy,
            saver,
        )

    def send(self, message: Message) -> None:
        self.sent.append(message)
        self.events.append(f"send {type(message).__name__}")

    def turn(self, *inputs: Any) -> None:
        while self.replica.turn(inputs, 0.0):
            inputs = ()

    def received(self, last: int, term: int = 3, last_term: int = 2) -> SnapshotReceived:
        """All of a snapshot of the leader, member 2."""
        machine = machine_after([1] * (last - 1) + [last_term])
        meta, data = encoded(machine)
        writer = file_with(self.storage, data)
        discard = writer.discard

        def note_discarded() -> None:
            self.storage.discarded.append(writer)
            discard()

        writer.discard = note_discarded  # type: ignore[method-assign]
        return SnapshotReceived(InstallSnapshot(2, 1, term, meta), writer, machine.freeze())


def append(prev: LogPosition, terms: Sequence[int], commit: int = 0) -> AppendEntries:
    return AppendEntries(2, 1, 3, prev, tuple(entries(terms, prev.index + 1)), commit, 0, 1)


def test_the_snapshot_takes_the_place_of_the_log_and_of_the_state_machine() -> None:
    follower = Follower()
    item = follower.received(9)

    follower.turn(item)

    assert follower.machine.applied_index == 9
    assert (follower.storage.previous(), follower.storage.snapshot) == (at(9, 2), item.message.snapshot)
    assert follower.replica.status().applied_index == 9
    assert follower.storage.discarded == []


def test_first_the_term_then_the_snapshot_then_the_answer() -> None:
    """Hazard 34: a crash in between must leave a directory that a start accepts; no log ends in a later term than the
    hard state's."""
    follower = Follower()

    follower.turn(follower.received(9), append(at(9, 2), [3]))

    assert follower.events == [
        "persist term 3",
        "install 9",
        "persist 10",
        "send InstallSnapshotReply",
        "send AppendEntriesReply",
    ]


def test_entries_behind_it_are_applied_to_the_new_state_machine() -> None:
    """Hazard 32: the snapshot and what comes after it in one turn."""
    follower = Follower()
    item = follower.received(9)

    follower.turn(item, append(at(9, 2), [3], commit=10))

    assert follower.machine.applied_index == 10
    assert (follower.machine.get(b"k9"), follower.machine.get(b"k10")) == (b"2", b"3")


def test_hazard_35_what_clients_were_answered_comes_with_it() -> None:
    """The state machine is taken as a whole: keys, revisions, sessions."""
    follower = Follower()

    follower.turn(follower.received(9))

    assert follower.machine.digest() == machine_after([1] * 8 + [2]).digest()
    assert follower.machine.get(b"k1") == b"1"


@pytest.mark.parametrize("last", [1, 2])
def test_hazard_32_a_snapshot_of_what_is_there_is_thrown_away(last: int) -> None:
    follower = Follower()
    item = follower.received(last, last_term=1)

    follower.turn(item)

    assert follower.machine.applied_index == 2
    assert follower.storage.snapshot is None
    assert follower.storage.discarded == [item.writer]
    assert follower.sent == [InstallSnapshotReply(1, 2, 3, success=True, match_index=2)]


def test_hazard_32_of_two_snapshots_the_later_one_is_installed_and_the_other_thrown_away() -> None:
    follower = Follower()
    longer, shorter = follower.received(9), follower.received(5)

    follower.turn(shorter, longer, follower.received(4))

    assert follower.machine.applied_index == 9
    assert follower.storage.snapshot == longer.message.snapshot
    assert len(follower.storage.discarded) == 2
    assert longer.writer not in follower.storage.discarded


def test_a_log_that_is_about_to_be_replaced_is_not_kept_because_the_disk_still_has_it() -> None:
    """Figure 8, and this disk stands still: those of term 1 have been replaced by one of term 3, in memory as yet, when
    the leader of term 4 sends a snapshot that ends with one of these."""
    follower = Follower()
    follower.turn(append(LogPosition(1, 2), [1, 1]))
    item = follower.received(4, term=4, last_term=1)

    follower.turn(append(LogPosition(1, 2), [3]), item)

    assert follower.machine.applied_index == 4
    assert follower.storage.snapshot == item.message.snapshot
    assert follower.storage.previous() == LogPosition(1, 4)
    assert follower.replica.raft.log.last_index == 4


def test_a_snapshot_of_a_leader_that_is_none_any_more_is_thrown_away() -> None:
    follower = Follower()
    item = follower.received(9, term=3)
    follower.turn(AppendEntries(3, 1, 4, ORIGIN, (), 0, 0, 1))

    follower.turn(item)

    assert follower.machine.applied_index == 2
    assert follower.storage.discarded == [item.writer]


def test_if_it_can_not_be_installed_nothing_leaves() -> None:
    """Rule 2: after a failure to write the node stops."""
    follower = Follower()
    item = follower.received(9)
    follower.storage.failure = "no space left"

    with pytest.raises(StorageError, match="no space left"):
        follower.turn(item)

    assert follower.sent == []


def test_a_snapshot_that_has_not_come_in_can_not_be_installed() -> None:
    follower = Follower()
    with pytest.raises(InvariantBroken, match="has not come in"):
        follower.turn(follower.received(9).message)


def test_a_restart_begins_from_the_snapshot() -> None:
    follower = Follower()
    follower.turn(follower.received(9), append(at(9, 2), [3], commit=9))

    assert follower.storage.commit_index == 9
    assert list(follower.storage.replay()) == []
    assert follower.storage.entries(10, 10, 0) == [Entry(10, 3, EntryKind.TEXT, b"SET k10 3")]


def carry_out(save: Save, storage: MemoryStorage) -> SnapshotSaved | SnapshotFailed:
    steps = write_snapshot(save, storage)
    try:
        while True:
            next(steps)
    except StopIteration as end:
        result: SnapshotSaved | SnapshotFailed = end.value
        return result


class HeldBack:
    """A saver that works when the test says so."""

    def __init__(self) -> None:
        self.saves: list[Save] = []
        self.cleans = 0

    def save(self, save: Save) -> None:
        self.saves.append(save)

    def clean(self) -> None:
        self.cleans += 1


def test_hazard_32_an_installed_snapshot_makes_a_save_under_way_worthless() -> None:
    """A snapshot races with apply, or two snapshots race."""
    saver = HeldBack()
    follower = Follower(policy=SnapshotPolicy(log_entries=1), saver=saver)
    follower.turn(append(at(2, 1), [1], commit=3))
    [save] = saver.saves

    follower.turn(follower.received(9))
    follower.turn(carry_out(save, follower.storage))
    follower.turn(append(at(9, 2), [3], commit=10))

    assert follower.storage.snapshot is not None
    assert follower.storage.snapshot.last == at(9, 2)
    assert saver.cleans == 1, "what the installed one has made superfluous"
    assert [save.meta.last.index for save in saver.saves] == [3, 10], "the next save is of the new state"
