"""When a member saves its state, what becomes of it, and what of the log is forgotten then."""

from __future__ import annotations

import errno
import random
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from raftkv.kv import StateMachine
from raftkv.kv_snapshot import decode
from raftkv.log_storage import LogStorage, StorageError
from raftkv.memory_storage import MemoryStorage
from raftkv.operations import Code, Operation, encode_operations
from raftkv.raft.configuration import Add, decode_configuration
from raftkv.raft.core import Config
from raftkv.raft.messages import AppendEntriesReply, RequestVoteReply
from raftkv.raft.progress import State
from raftkv.raft.roles import Leader
from raftkv.raft.types import ORIGIN, Configuration, EntryKind, LogPosition, Proposal, SnapshotMeta
from raftkv.records import Records
from raftkv.replica import Applied, ConfigurationChange, Replica, Write
from raftkv.snapshots import (
    Save,
    SnapshotFailed,
    SnapshotPolicy,
    SnapshotSaved,
    SnapshotWanted,
    load_snapshot,
    write_snapshot,
)
from raftkv.storage import Storage
from tests.storage.helpers import DIRECTORY, MEMBERS, remove_leftovers
from tests.support.memory_disk import MemoryDisk
from tests.support.raft_cluster import Answer

POLICY = SnapshotPolicy(log_bytes=1600, log_entries=1000, kept_log_bytes=0, retry_after=10.0, longest_retry=35.0)
OF_THREE = replace(POLICY, log_bytes=6 * POLICY.log_bytes)
"""The first of three members saves for the first time when a sixth of that has come together."""


@dataclass
class HeldBack:
    """A saver that works when the test says so."""

    storage: LogStorage
    saves: list[Save] = field(default_factory=list)
    cleans: int = 0

    def save(self, save: Save) -> None:
        self.saves.append(save)

    def clean(self) -> None:
        self.cleans += 1
        remove_leftovers(self.storage)

    def write(self, save: Save | None = None) -> SnapshotSaved | SnapshotFailed:
        """Carry out a save, by default the last one."""
        steps = write_snapshot(save or self.saves[-1], self.storage)
        try:
            while True:
                next(steps)
        except StopIteration as end:
            result: SnapshotSaved | SnapshotFailed = end.value
            return result


class Lone:
    """A replica with a saver; of several members, the test plays the others."""

    def __init__(
        self, size: int = 1, policy: SnapshotPolicy = POLICY, storage: LogStorage | None = None, me: int = 1
    ) -> None:
        self.size, self.policy, self.me = size, policy, me
        self.storage: LogStorage = storage or MemoryStorage()
        self.notes: list[str] = []
        self.now = 0.0
        self.start()

    def start(self) -> None:
        """Also after a crash, with what is durable."""
        self.machine = StateMachine()
        load_snapshot(self.storage, self.machine)
        for entry in self.storage.replay():
            self.machine.apply(entry)
        self.saver = HeldBack(self.storage)
        self.replica = Replica(
            Configuration(frozenset(range(1, self.size + 1))),
            self.me,
            Config(lease_duration=0.0),
            self.storage,
            self.machine,
            random.Random(1),
            self.now,
            lambda message: None,
            self.notes.append,
            self.policy,
            self.saver,
        )
        self.now = self.replica.deadline()
        self.turn()
        if self.size > 1:
            term = self.replica.raft.current_term + 1
            self.turn(RequestVoteReply(2, self.me, term, True, pre_vote=True))
            self.turn(RequestVoteReply(2, self.me, term, True))
            self.acknowledge(2)

    def turn(self, *inputs: Any) -> None:
        while self.replica.turn(inputs, self.now):
            inputs = ()

    def acknowledge(self, sender: int) -> None:
        raft = self.replica.raft
        assert isinstance(raft.role, Leader)
        last = raft.log.last_index
        self.turn(AppendEntriesReply(sender, self.me, raft.current_term, True, raft.role.rounds.current, last))

    def set(self, key: str, value: str = "v" * 300) -> Answer:
        answer = Answer()
        self.turn(Write(Proposal(EntryKind.TEXT, f"SET {key} {value}".encode()), answer))
        if self.size > 1:
            self.acknowledge(2)
        return answer

    def write(self, keys: list[bytes]) -> None:
        """All in one entry."""
        payload = encode_operations([Operation(Code.SET, key, b"v") for key in keys], 0, 0)
        self.turn(Write(Proposal(EntryKind.BATCH, payload), Answer()))

    def fill(self, count: int) -> None:
        for n in range(count):
            self.set(f"key-{n % 3}")


# ---- what ------------------------------------------------------------------------------------------------------------


def test_a_snapshot_names_the_members_as_of_its_last_entry_and_not_by_what_may_be_replaced_yet() -> None:
    lone = Lone(size=3, policy=OF_THREE)
    lone.set("k")
    assert lone.saver.saves == []

    lone.turn(ConfigurationChange(Add(4, "d:1"), Answer()))
    lone.turn(SnapshotWanted(lone.machine.applied_index, lambda answer: None))

    (save,) = lone.saver.saves
    assert lone.replica.raft.configuration.members == {1, 2, 3, 4}
    assert decode_configuration(save.meta.configuration).members == {1, 2, 3}


# ---- when ------------------------------------------------------------------------------------------------------------


def test_the_state_is_saved_when_the_log_has_grown_by_enough_bytes() -> None:
    lone = Lone()
    lone.fill(4)
    assert lone.saver.saves == []
    lone.fill(1)
    assert [save.meta.last.index for save in lone.saver.saves] == [6]


def test_the_state_is_saved_when_the_log_has_grown_by_enough_entries() -> None:
    lone = Lone(policy=SnapshotPolicy(log_entries=5))
    for _ in range(3):
        lone.set("k", "v")
    assert lone.saver.saves == []
    lone.set("k", "v")
    assert len(lone.saver.saves) == 1


@pytest.mark.parametrize(("size", "me", "part"), [(1, 1, 1), (3, 1, 1 / 6), (3, 3, 5 / 6)])
@pytest.mark.parametrize("policy", [SnapshotPolicy(log_bytes=20_000), SnapshotPolicy(log_entries=60)])
def test_members_do_not_save_all_at_the_same_time(size: int, me: int, part: float, policy: SnapshotPolicy) -> None:
    """Their logs grow alike. So the first save is early, by what member one is, and the next ones as long after it."""
    lone = Lone(size, replace(policy, kept_log_bytes=1000), me=me)
    lone.set("k")
    lone.start()
    assert entries_until_a_save(lone) == pytest.approx(60 * part, abs=4)
    assert entries_until_a_save(lone) == pytest.approx(60, abs=4)
    lone.set("k")
    lone.start()
    assert entries_until_a_save(lone) == pytest.approx(60, abs=4)


def test_members_that_begin_with_the_same_snapshot_do_not_save_all_at_the_same_time() -> None:
    """Of a cluster that has been restored, or sent by the leader; whether they are started again meanwhile or not."""
    policy = SnapshotPolicy(log_entries=60, kept_log_bytes=1000)
    leader = Lone(3, policy)
    entries_until_a_save(leader)
    for me, part in ((1, 1 / 6), (3, 5 / 6)):
        storage = MemoryStorage()
        with_snapshot_of(leader.storage, storage)
        lone = Lone(3, policy, storage, me)
        lone.set("k")
        lone.start()
        assert entries_until_a_save(lone) == pytest.approx(60 * part, abs=4)


def test_a_learner_counts_when_members_save_one_after_the_other() -> None:
    lone = Lone(3, SnapshotPolicy(log_entries=60, kept_log_bytes=1000), me=3)
    lone.turn(ConfigurationChange(Add(4, "d:1"), Answer()))
    lone.acknowledge(2)
    assert entries_until_a_save(lone) == pytest.approx(60 * 5 / 8, abs=5)


def with_snapshot_of(source: LogStorage, target: LogStorage) -> None:
    """Install the snapshot that is in `source`."""
    assert source.snapshot is not None
    reader, writer = source.open_snapshot(), target.begin_snapshot()
    writer.write(reader.read(0, reader.size))
    writer.finish()
    target.persist(source.hard_state, [], 0)
    target.install_snapshot(source.snapshot, writer)


def entries_until_a_save(lone: Lone) -> int:
    """How many writes of 300 bytes it takes; and the save ends well."""
    before, last = len(lone.saver.saves), lone.replica.raft.log.last_index
    while len(lone.saver.saves) == before:
        lone.set("k")
    lone.turn(lone.saver.write())
    return lone.replica.raft.log.last_index - last


def test_only_one_save_is_under_way_at_a_time() -> None:
    lone = Lone()
    lone.fill(20)
    assert len(lone.saver.saves) == 1
    lone.turn(lone.saver.write())
    assert len(lone.saver.saves) == 1, "the next one begins with the next entries"
    lone.fill(5)
    assert len(lone.saver.saves) == 2


def test_what_the_log_has_grown_by_is_counted_from_the_state_that_was_saved_on() -> None:
    lone = Lone()
    lone.fill(5)
    lone.fill(2)  # while it is being saved
    lone.turn(lone.saver.write())
    lone.fill(2)
    assert len(lone.saver.saves) == 1
    lone.fill(1)
    assert len(lone.saver.saves) == 2


def test_a_large_state_is_not_saved_again_before_the_log_has_grown_by_its_size() -> None:
    lone = Lone()
    for n in range(30):
        lone.set(f"key-{n}")
    lone.turn(lone.saver.write())
    assert lone.storage.snapshot_bytes < 2000
    lone.fill(2)
    lone.turn(lone.saver.write())
    assert lone.storage.snapshot_bytes > 9000
    lone.fill(20)
    assert len(lone.saver.saves) == 2
    lone.fill(10)
    assert len(lone.saver.saves) == 3


def test_after_a_restart_the_log_that_is_there_already_counts() -> None:
    lone = Lone()
    lone.fill(4)
    lone.start()
    lone.set("k")
    assert len(lone.saver.saves) == 1


# ---- the save --------------------------------------------------------------------------------------------------------


def test_writes_go_on_while_the_state_is_saved_as_it_was() -> None:
    lone = Lone()
    lone.fill(5)
    before = lone.machine.digest()
    answers = [lone.set("key-1", "new"), lone.set("another", "new")]
    lone.turn(lone.saver.write())
    assert all(isinstance(answer.outcome, Applied) for answer in answers)
    saved = StateMachine()
    reader = lone.storage.open_snapshot()
    saved.restore(decode(reader)[1])
    assert saved.digest() == before
    assert lone.machine.get(b"key-1") == b"new"


def test_a_restart_begins_with_the_snapshot_and_goes_on_with_the_rest_of_the_log() -> None:
    lone = Lone()
    lone.fill(5)
    lone.turn(lone.saver.write())
    lone.fill(2)
    digest_before = lone.machine.digest()
    applied = lone.machine.applied_index
    restarted = StateMachine()
    load_snapshot(lone.storage, restarted)
    assert restarted.applied_index == 6
    for entry in lone.storage.replay():
        restarted.apply(entry)
    restarted.apply(lone.storage.entries(applied, applied, 1)[0])  # its commit was not remembered
    assert restarted.digest() == digest_before


def test_the_status_tells_of_the_snapshot_and_of_where_the_log_begins() -> None:
    lone = Lone()
    lone.fill(5)
    assert (lone.replica.status().first_log_index, lone.replica.status().snapshot_index) == (1, 0)
    lone.turn(lone.saver.write())
    assert (lone.replica.status().first_log_index, lone.replica.status().snapshot_index) == (7, 6)
    assert lone.notes[-1].startswith("has saved its state after entry 6, in ")
    assert lone.notes[-1].endswith(" bytes; its log begins with entry 7")


def test_files_that_no_longer_count_are_removed_elsewhere_than_in_the_turn() -> None:
    lone = Lone()
    lone.fill(5)
    assert lone.saver.cleans == 0
    lone.turn(lone.saver.write())
    assert lone.saver.cleans == 1


def test_the_keys_that_were_written_meanwhile_are_merged_some_in_each_turn() -> None:
    lone = Lone()
    lone.fill(5)
    for n in range(3):
        lone.set(f"new-{n}")
    lone.turn(lone.saver.write())
    assert lone.set("k").outcome is not None
    names = {b"k", *(b"key-%d" % n for n in range(3)), *(b"new-%d" % n for n in range(3))}
    assert lone.machine.freeze().records.keys() == names


def with_5000_keys_to_merge() -> tuple[Lone, Records]:
    """They were written while three were saved; with what they come into."""
    lone = Lone()
    lone.fill(5)
    records = lone.saver.saves[-1].state.records
    lone.write([b"%d" % n for n in range(5000)])
    assert len(records) == 3
    lone.turn(lone.saver.write())
    return lone, records


def test_a_round_merges_more_the_more_it_has_written_so_that_no_short_one_becomes_a_long_one() -> None:
    lone, records = with_5000_keys_to_merge()

    merged = []
    for writes in (1, 1, 200, 200, 1):
        before = len(records)
        lone.write([b"x"] * writes)
        merged.append(len(records) - before)
    assert all(few < 110 < 290 < many < 310 for few in merged[:2] + merged[4:] for many in merged[2:4])

    rounds = 0
    while len(records) < 3 + 5000 + 1:
        lone.write([b"x"])
        rounds += 1
    assert 30 < rounds < 60


def test_a_large_write_merges_as_much_as_many_small_ones_so_that_the_log_does_not_outgrow_the_state() -> None:
    lone, records = with_5000_keys_to_merge()
    lone.set("k", "v" * 128_000)
    assert 1000 < len(records) < 1200


def test_for_who_waits_for_a_snapshot_merging_is_not_drawn_out() -> None:
    lone, _ = with_5000_keys_to_merge()
    rounds = []
    turn = lone.replica.turn
    lone.replica.turn = lambda *arguments: rounds.append(1) or turn(*arguments)  # type: ignore[method-assign, func-returns-value]
    lone.turn(SnapshotWanted(lone.machine.applied_index, lambda answer: None))
    assert len(lone.saver.saves) == 2
    assert len(rounds) < 5


# ---- what is kept ----------------------------------------------------------------------------------------------------


def test_some_of_the_log_is_kept_for_followers_that_are_a_little_behind() -> None:
    lone = Lone(policy=SnapshotPolicy(log_bytes=3000, kept_log_bytes=1000))
    lone.fill(12)
    assert lone.saver.saves[-1].meta.last.index == 10
    lone.turn(lone.saver.write())
    assert lone.storage.first_index() == 11
    assert lone.storage.log_bytes(11) == 3 * len("SET key-0 ") + 3 * 300


def test_a_member_that_does_not_answer_holds_up_nothing() -> None:
    lone = Lone(3, OF_THREE)
    lone.fill(5)
    lone.turn(lone.saver.write())
    assert lone.storage.first_index() == 7


def test_what_a_follower_is_just_being_sent_is_kept() -> None:
    """Or it might be sent one snapshot after the other, and never catch up."""
    lone = Lone(3, OF_THREE)
    lone.acknowledge(3)
    for n in range(5):
        lone.set(f"key-{n}")  # member 3 has nothing of it yet
    lone.turn(lone.saver.write())
    assert lone.storage.first_index() == 2


def test_but_not_more_of_it_than_another_snapshot_would_cost() -> None:
    lone = Lone(3, OF_THREE)
    lone.acknowledge(3)
    lone.set("key", "small")
    lone.fill(5)
    for _ in range(20):
        lone.set("key-0")
    lone.turn(lone.saver.write())
    assert lone.storage.snapshot_bytes < 2500
    lone.fill(5)
    lone.turn(lone.saver.write())
    assert lone.storage.log_bytes(lone.storage.first_index()) <= 2 * 2500
    assert 2 < lone.storage.first_index() <= lone.replica.status().snapshot_index


def test_what_comes_after_a_snapshot_that_is_on_its_way_is_kept() -> None:
    lone = Lone(3, OF_THREE)
    lone.fill(5)
    lone.turn(lone.saver.write())
    sent_up_to = lone.replica.status().snapshot_index
    raft = lone.replica.raft
    assert isinstance(raft.role, Leader)
    round = raft.role.rounds.current
    lone.turn(AppendEntriesReply(3, 1, raft.current_term, False, round, rejected_index=1, conflicting_index=1))
    raft.role.progress[3].probe(1)
    lone.turn(AppendEntriesReply(3, 1, raft.current_term, True, round, match_index=0))
    assert raft.role.progress[3].state is State.SNAPSHOT

    lone.fill(5)
    lone.turn(lone.saver.write())

    assert lone.replica.status().snapshot_index > sent_up_to
    assert lone.storage.first_index() == sent_up_to + 1


# ---- failure ---------------------------------------------------------------------------------------------------------


class FailingWriter:
    """Takes so many pieces."""

    def __init__(self, writer: Any, pieces: int) -> None:
        self._writer, self._pieces = writer, pieces

    def __getattr__(self, name: str) -> Any:
        return getattr(self._writer, name)

    def write(self, data: bytes) -> None:
        self._pieces -= 1
        if self._pieces < 0:
            raise StorageError("snapshot: No space left on device; free some space, then start the node again")
        self._writer.write(data)


@pytest.mark.parametrize("pieces", range(3))
def test_hazard_16_a_save_that_fails_leaves_the_log_and_is_tried_again_later(
    pieces: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Log cut though the snapshot's save failed. ENOSPC while saving."""
    lone = Lone()
    lone.fill(5)
    begin = lone.storage.begin_snapshot
    monkeypatch.setattr(lone.storage, "begin_snapshot", lambda: FailingWriter(begin(), pieces))
    result = lone.saver.write()
    assert result == SnapshotFailed(lone.saver.saves[0], "snapshot: No space left on device")
    lone.turn(result)
    assert lone.replica.status().snapshot_index == 0
    assert lone.storage.first_index() == 1
    assert lone.notes[-1] == "could not save its state (snapshot: No space left on device); tries again in 10 s"
    lone.fill(2)
    assert len(lone.saver.saves) == 1
    for wait, next_wait in ((10, 20), (20, 35), (35, 35)):
        saves = len(lone.saver.saves)
        lone.now += wait - 0.1
        lone.set("k")
        assert len(lone.saver.saves) == saves
        lone.now += 0.1
        lone.set("k")
        assert len(lone.saver.saves) == saves + 1
        lone.turn(lone.saver.write())
        assert lone.notes[-1].endswith(f"tries again in {next_wait} s")
    monkeypatch.undo()
    lone.now += 40
    lone.set("k")
    lone.turn(lone.saver.write())
    assert lone.replica.status().snapshot_index == lone.machine.applied_index
    assert lone.machine.get(b"key-2") == b"v" * 300


@pytest.mark.parametrize("operation", ["create", "write", "sync"])
def test_hazard_18_a_save_that_fails_takes_no_room(operation: str) -> None:
    """A full disk prevents the restart: half a snapshot must not be what fills it."""
    disk = MemoryDisk()
    lone = Lone(storage=Storage(DIRECTORY, member_id=1, members={1: MEMBERS[1]}, disk=disk))
    lone.fill(5)
    names = set(disk.names(DIRECTORY))

    def before(now: str, path: str) -> None:
        if now == operation and "new-snapshot" in path:
            raise OSError(errno.ENOSPC, "No space left on device", path)

    disk.before = before
    result = lone.saver.write()
    assert isinstance(result, SnapshotFailed)
    assert set(disk.names(DIRECTORY)) == names
    lone.turn(result)
    assert isinstance(lone.set("k").outcome, Applied)


def test_a_failure_to_adopt_stops_the_member() -> None:
    """It is a failure to persist: what is on the disk now is not known."""
    disk = MemoryDisk()
    lone = Lone(storage=Storage(DIRECTORY, member_id=1, members={1: MEMBERS[1]}, disk=disk))
    lone.fill(5)
    result = lone.saver.write()

    def before(operation: str, path: str) -> None:
        if operation == "sync_directory":
            raise OSError(errno.EIO, "Input/output error", path)

    disk.before = before
    with pytest.raises(StorageError):
        lone.turn(result)


# ---- two at once -----------------------------------------------------------------------------------------------------


def test_hazard_32_a_snapshot_that_was_overtaken_by_an_installed_one_is_thrown_away() -> None:
    """Two snapshots race. Interleave; duplicate."""
    lone = Lone()
    lone.fill(5)
    late = lone.saver.write()
    assert isinstance(late, SnapshotSaved)
    lone.replica._snapshots.installed()
    lone.turn(late)
    assert [save.is_wanted for save in lone.saver.saves] == [False]
    assert lone.storage.snapshot is None
    assert late.writer.size == 0, "discarded"


def test_hazard_32_a_save_that_is_not_wanted_any_more_ends_early() -> None:
    lone = Lone()
    lone.fill(5)
    lone.saver.saves[0].is_wanted = False
    assert isinstance(lone.saver.write(), SnapshotFailed)


def test_hazard_32_a_result_that_comes_twice_counts_once() -> None:
    lone = Lone()
    lone.fill(5)
    result = lone.saver.write()
    lone.turn(result)
    first = lone.storage.snapshot
    lone.fill(5)
    lone.turn(result)
    assert lone.storage.snapshot == first
    assert len(lone.saver.saves) == 2
    lone.turn(SnapshotFailed(lone.saver.saves[0], "late"))
    lone.turn(lone.saver.write())
    assert lone.storage.snapshot is not None
    assert lone.storage.snapshot.last.index == 11


# ---- damage ----------------------------------------------------------------------------------------------------------


def test_a_snapshot_of_another_place_in_the_log_is_refused() -> None:
    lone = Lone()
    lone.fill(5)
    lone.turn(lone.saver.write())
    assert isinstance(lone.storage, MemoryStorage)
    lone.storage.snapshot = SnapshotMeta(LogPosition(1, 4))
    with pytest.raises(StorageError, match="holds LogPosition"):
        load_snapshot(lone.storage, StateMachine())


def test_without_a_snapshot_nothing_is_loaded() -> None:
    machine = StateMachine()
    load_snapshot(MemoryStorage(), machine)
    assert machine.applied_index == ORIGIN.index
