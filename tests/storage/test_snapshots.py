"""What every storage promises about snapshots (`LogStorage`): one suite, for all kinds of it."""

from __future__ import annotations

import random

import pytest

from raftkv.log_storage import LogStorage
from raftkv.raft.log import Compacted
from raftkv.raft.types import ORIGIN, Entry, HardState, LogPosition, SnapshotMeta
from raftkv.storage import Storage
from tests.storage.conftest import Restart
from tests.storage.helpers import (
    append,
    compact,
    content_of,
    entries,
    entry,
    install,
    log_of,
    open_storage,
    remove_leftovers,
    save_snapshot,
)
from tests.support.memory_disk import MemoryDisk


def test_a_new_storage_has_no_snapshot(storage: LogStorage) -> None:
    assert storage.snapshot is None
    assert storage.previous() == ORIGIN


def test_an_adopted_snapshot_is_there_at_once_and_after_a_restart(storage: LogStorage, restart: Restart) -> None:
    append(storage, entries(1, 6), entries(7, 9), commit_index=8)
    compact(storage, 8, b"the state after entry 8")
    for _ in range(2):
        assert storage.snapshot == SnapshotMeta(LogPosition(1, 8), 1008, b"configuration")
        assert content_of(storage) == b"the state after entry 8"
        assert storage.commit_index == 8
        assert storage.last_index() == 9
        assert log_of(storage) == entries(storage.first_index(), 9)
        storage = restart(storage)


def test_replay_begins_after_the_snapshot(storage: LogStorage, restart: Restart) -> None:
    append(storage, entries(1, 6), entries(7, 9), commit_index=8)
    compact(storage, 5)
    for _ in range(2):
        assert list(storage.replay()) == entries(6, 8)
        storage = restart(storage)


def test_a_snapshot_beyond_the_remembered_commit_index_raises_it(storage: LogStorage, restart: Restart) -> None:
    append(storage, entries(1, 6), commit_index=2)
    compact(storage, 5)
    for _ in range(2):
        assert storage.commit_index == 5
        assert list(storage.replay()) == []
        storage = restart(storage)
    append(storage, entries(6, 7, term=2), term=2, commit_index=6)
    assert restart(storage).commit_index == 6


def test_what_is_forgotten_is_compacted_and_what_is_kept_can_be_read(storage: LogStorage, restart: Restart) -> None:
    append(storage, *(entries(i, i + 2) for i in range(1, 30, 3)), commit_index=28)
    compact(storage, 28, keep_from=20)
    for _ in range(2):
        first = storage.first_index()
        assert 1 <= first <= 20
        assert storage.previous() == (LogPosition(1, first - 1) if first > 1 else ORIGIN)
        assert storage.term(first - 1) == (1 if first > 1 else 0)
        assert log_of(storage) == entries(first, 30)
        for index in range(first - 1):
            with pytest.raises(Compacted):
                storage.term(index)
        if first > 1:
            with pytest.raises(Compacted):
                storage.entries(first - 1, 30, 100)
        storage = restart(storage)


def test_with_small_segments_most_of_what_may_be_forgotten_is(storage: LogStorage) -> None:
    if isinstance(storage, Storage) and storage._segment_bytes > 10_000:
        pytest.skip("its segments are large")
    append(storage, *(entries(i, i) for i in range(1, 40)), commit_index=38)
    compact(storage, 38)
    assert storage.first_index() > 30


def test_a_log_that_is_nothing_but_a_snapshot_goes_on(storage: LogStorage, restart: Restart) -> None:
    append(storage, entries(1, 3), commit_index=3)
    storage.persist(HardState(4), [], 3)
    install(storage, 10, term=2)
    assert (storage.first_index(), storage.last_index()) == (11, 10)
    storage = restart(storage)
    append(storage, entries(11, 13, term=4), term=4)
    for _ in range(2):
        assert log_of(storage) == entries(11, 13, term=4)
        storage = restart(storage)


def test_several_snapshots_in_turn(storage: LogStorage, restart: Restart) -> None:
    last = 0
    for term in range(1, 8):
        append(storage, entries(last + 1, last + 4, term), entries(last + 5, last + 9, term), term=term)
        last += 9
        compact(storage, last - term, b"state %d" % term, keep_from=last - 2 * term)
        if term % 2:
            storage = restart(storage)
        assert content_of(storage) == b"state %d" % term
        assert storage.snapshot == SnapshotMeta(LogPosition(term, last - term), 1000 + last - term, b"configuration")
        assert [e.index for e in log_of(storage)] == list(range(storage.first_index(), last + 1))
        remove_leftovers(storage)


def test_a_reader_reads_on_though_a_newer_snapshot_takes_the_place(storage: LogStorage) -> None:
    append(storage, entries(1, 9), commit_index=9)
    compact(storage, 4, b"0123456789")
    reader = storage.open_snapshot()
    assert reader.size == 10
    assert reader.read(2, 3) == b"234"
    compact(storage, 8, b"another")
    remove_leftovers(storage)
    assert reader.read(5, 100) == b"56789"
    reader.close()
    assert content_of(storage) == b"another"


def test_two_snapshots_in_the_making_do_not_disturb_each_other(storage: LogStorage, restart: Restart) -> None:
    append(storage, entries(1, 9), commit_index=9)
    one, other = storage.begin_snapshot(), storage.begin_snapshot()
    one.write(b"one")
    other.write(b"other")
    one.write(b", and more")
    assert one.read(0, 100) == b"one, and more"
    assert one.size == 13
    one.finish()
    other.finish()
    storage.adopt_snapshot(SnapshotMeta(LogPosition(1, 5)), one, 6)
    other.discard()
    assert content_of(storage) == b"one, and more"
    assert content_of(restart(storage)) == b"one, and more"


def test_what_was_given_up_leaves_nothing(storage: LogStorage, restart: Restart) -> None:
    append(storage, entries(1, 9), commit_index=9)
    for is_finished in (False, True):
        writer = storage.begin_snapshot()
        writer.write(b"half")
        if is_finished:
            writer.finish()
        writer.discard()
    assert storage.snapshot is None
    assert restart(storage).snapshot is None


# ---- from a leader ---------------------------------------------------------------------------------------------------


def test_hazard_31_an_installed_snapshot_replaces_a_log_that_does_not_hold_its_last_entry(
    storage: LogStorage, restart: Restart
) -> None:
    """InstallSnapshot keeps a conflicting entry. Snapshot to a divergent follower."""
    append(storage, entries(1, 4), commit_index=2)
    append(storage, entries(5, 9, term=2), term=2)
    storage.persist(HardState(3), [], 2)
    install(storage, 7, term=3, content=b"of the leader")
    for _ in range(2):
        assert content_of(storage) == b"of the leader"
        assert storage.previous() == LogPosition(3, 7)
        assert (storage.first_index(), storage.last_index(), storage.commit_index) == (8, 7, 7)
        assert log_of(storage) == []
        assert storage.hard_state == HardState(3)
        storage = restart(storage)
    append(storage, entries(8, 9, term=3), commit_index=8)
    assert log_of(storage) == entries(8, 9, term=3)
    assert list(restart(storage).replay()) == entries(8, 8, term=3)


def test_an_installed_snapshot_replaces_a_log_that_holds_its_last_entry_too(
    storage: LogStorage, restart: Restart
) -> None:
    """In a part that another leader's entries, not durable yet, have replaced: the algorithm's log does not hold it."""
    append(storage, entries(1, 4), entries(5, 9), commit_index=2)
    install(storage, 7, term=1)
    for _ in range(2):
        assert storage.previous() == LogPosition(1, 7)
        assert (storage.last_index(), storage.commit_index) == (7, 7)
        storage = restart(storage)


# ---- its size --------------------------------------------------------------------------------------------------------


def test_the_size_of_the_log_is_told_roughly(storage: LogStorage) -> None:
    append(storage, *([entry(i, 1, b"x" * 1000)] for i in range(1, 11)))
    assert storage.log_bytes(11) == 0
    for first in range(1, 11):
        assert (11 - first) * 1000 <= storage.log_bytes(first) <= (11 - first) * 1200
    assert storage.tail(0) == 11
    assert storage.tail(999) == 11
    assert storage.tail(3700) == 8
    assert storage.tail(10**6) == 1
    storage.persist(None, [], 10)
    compact(storage, 6)
    assert storage.tail(10**6) == storage.first_index()
    assert storage.log_bytes(storage.first_index()) <= (11 - storage.first_index()) * 1200


# ---- misuse ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("last", "keep_from"),
    [(LogPosition(1, 6), 8), (LogPosition(2, 6), 7), (LogPosition(1, 10), 11), (LogPosition(1, 4), 5)],
    ids=["forgets too much", "another term", "beyond the log", "older than the last one"],
)
def test_a_callers_mistake_is_an_assertion(storage: LogStorage, last: LogPosition, keep_from: int) -> None:
    append(storage, entries(1, 9), commit_index=9)
    compact(storage, 5)
    writer = save_snapshot(storage, b"state")
    with pytest.raises((AssertionError, IndexError)):
        storage.adopt_snapshot(SnapshotMeta(last), writer, keep_from)
    assert storage.snapshot is not None
    assert storage.snapshot.last.index == 5


def test_a_snapshot_of_what_is_committed_already_is_never_installed(storage: LogStorage) -> None:
    append(storage, entries(1, 9), commit_index=7)
    with pytest.raises(AssertionError):
        install(storage, 7, term=1)


def test_a_snapshot_of_a_later_term_than_the_durable_one_is_never_installed(storage: LogStorage) -> None:
    append(storage, entries(1, 9), commit_index=7)
    with pytest.raises(AssertionError):
        install(storage, 12, term=2)


def test_a_snapshot_that_is_not_durable_is_never_adopted(storage: LogStorage) -> None:
    append(storage, entries(1, 9), commit_index=7)
    writer = storage.begin_snapshot()
    writer.write(b"state")
    with pytest.raises(AssertionError):
        storage.adopt_snapshot(SnapshotMeta(LogPosition(1, 5)), writer, 6)


# ---- random histories ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(20))
def test_random_histories_with_snapshots_leave_what_a_list_would_hold(
    storage: LogStorage, restart: Restart, seed: int
) -> None:
    """Replay a failure with: pytest tests/storage/test_snapshots.py -k "random_histories and SEED"."""
    rng = random.Random(seed)
    log: list[Entry] = []
    committed, snapshot = 0, 0
    for term in range(1, 40):
        first = rng.randint(committed + 1, len(log) + 1)
        sizes = [rng.choice([0, 10, 100, 400]) for _ in range(rng.randint(1, 6))]
        log[first - 1 :] = batch = [entry(first + n, term, rng.randbytes(size)) for n, size in enumerate(sizes)]
        committed = max(committed, rng.randint(0, len(log) + 2) - 5)
        storage.persist(HardState(term), batch, committed)
        if rng.random() < 0.3 and committed > snapshot:
            snapshot = rng.randint(snapshot + 1, committed)
            compact(storage, snapshot, b"state %d" % snapshot, keep_from=rng.randint(1, snapshot + 1))
            remove_leftovers(storage)
        elif rng.random() < 0.1:
            snapshot = committed = committed + rng.randint(1, 8)
            last_term = log[committed - 1].term if committed <= len(log) else term
            install(storage, snapshot, last_term, b"state %d" % snapshot)
            log = [entry(i, last_term) for i in range(1, committed + 1)]
        if rng.random() < 0.4:
            storage = restart(storage)
        assert storage.last_index() == len(log)
        assert log_of(storage) == log[storage.first_index() - 1 :]
        assert [storage.term(i) for i in range(storage.first_index(), len(log) + 1)] == [
            e.term for e in log[storage.first_index() - 1 :]
        ]
        assert content_of(storage) == (b"state %d" % snapshot if snapshot else None)
        assert max(snapshot, storage.commit_index) <= max(committed, snapshot)
        assert list(storage.replay()) == log[snapshot : storage.commit_index]


@pytest.mark.parametrize(("at_disks_pace", "syncs"), [(True, 3), (False, 0)])
def test_only_what_is_written_at_the_disks_pace_is_synced_on_the_way(at_disks_pace: bool, syncs: int) -> None:
    """And both are synced at the end."""
    disk = MemoryDisk()
    storage = open_storage(disk)
    done: list[str] = []
    disk.before = lambda operation, _: done.append(operation)
    writer = storage.begin_snapshot(at_disks_pace)
    for _ in range(20):
        writer.write(bytes(100 << 10))
    assert done.count("sync") == syncs
    writer.finish()
    assert done[-1] == "sync"
