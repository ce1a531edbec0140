"""A crash at every operation on the disk while snapshots are saved, adopted and installed; full disks and failing ones.

After each, a start finds a snapshot that counts, with all of the log that comes after it.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from itertools import count

import pytest

from raftkv.log_storage import StorageError
from raftkv.raft.types import Entry, HardState
from raftkv.segment import HEADER_BYTES
from raftkv.storage import Storage
from tests.storage.helpers import (
    DIRECTORY,
    append,
    assert_goes_on,
    compact,
    content_of,
    entries,
    install,
    log_of,
    open_storage,
    remove_leftovers,
    reopen_storage,
    save_snapshot,
)
from tests.storage.test_crashes import DOWN, Down, error_of, failing_at, run_until_crash
from tests.support.memory_disk import MemoryDisk

SEGMENT_BYTES = HEADER_BYTES + 200


@dataclass
class State:
    """What a restart begins from."""

    hard_state: HardState
    snapshot: bytes | None
    log: list[Entry]
    """What comes after the snapshot."""

    @classmethod
    def of(cls, storage: Storage) -> State:
        after = storage.snapshot.last.index if storage.snapshot else 0
        return cls(storage.hard_state, content_of(storage), [e for e in log_of(storage) if e.index > after])


STORY: list[Callable[[Storage], None]] = [
    lambda storage: storage.persist(HardState(1, voted_for=1), entries(1, 3), 1),
    lambda storage: append(storage, entries(4, 6), commit_index=4),
    lambda storage: append(storage, entries(7, 9), commit_index=7),
    lambda storage: compact(storage, 7, b"the state after entry 7"),
    lambda storage: storage.persist(HardState(2), [], 7),
    # These replace entries of another segment than their own, which is forgotten next.
    lambda storage: append(storage, entries(8, 12, term=2), commit_index=11),
    lambda storage: compact(storage, 11, b"after entry 11"),
    remove_leftovers,
    lambda storage: append(storage, entries(13, 14, term=2), commit_index=12),
    lambda storage: storage.persist(HardState(3), [], 12),
    lambda storage: install(storage, 20, term=3, content=b"another member's state after entry 20"),
    lambda storage: append(storage, entries(21, 25, term=3), commit_index=22),
    lambda storage: install(storage, 24, term=3, content=b"a leader's, whose last entry is held"),
    remove_leftovers,
    lambda storage: append(storage, entries(25, 27, term=3), commit_index=27),
    lambda storage: compact(storage, 27, b"after entry 27", keep_from=25),
]


def live(disk: MemoryDisk, acknowledged: list[State]) -> None:
    storage = open_storage(disk, segment_bytes=SEGMENT_BYTES)
    for step in STORY:
        step(storage)
        acknowledged.append(State.of(storage))


@cache
def possible_states() -> list[State]:
    states = [State(HardState(), None, [])]
    live(MemoryDisk(), states)
    return states


def assert_nothing_lost(disk: MemoryDisk, acknowledged: list[State]) -> None:
    """What the directory holds is the last acknowledged state, or the next; what is before the snapshot may be held."""
    storage = open_storage(disk, segment_bytes=SEGMENT_BYTES)
    found = State.of(storage)
    states = possible_states()
    done = states[len(acknowledged)]
    begun = states[min(len(acknowledged) + 1, len(states) - 1)]
    assert found in (done, begun, State(begun.hard_state, done.snapshot, done.log))
    names = set(disk.names(DIRECTORY))
    assert sum(name.startswith("snapshot-") for name in names) == (found.snapshot is not None)
    assert not any(name.endswith(".tmp") for name in names)
    assert f"log-{storage._log.first_segment}" in names
    assert f"log-{storage._log.first_segment - 1}" not in names
    disk.crash_process()


@pytest.mark.parametrize("down", DOWN.values(), ids=DOWN)
def test_hazard_34_after_a_crash_at_any_operation_snapshot_and_log_fit_together(down: Down) -> None:
    """A gap between snapshot and log, or half a snapshot, at restart. Crash at each step of the save."""
    for number in count():
        disk, acknowledged = MemoryDisk(), list[State]()
        crashed = run_until_crash(disk, number, partial(live, disk, acknowledged))
        down(disk)
        assert_nothing_lost(disk, acknowledged)
        assert_goes_on(disk, segment_bytes=SEGMENT_BYTES)
        if not crashed:
            assert number > 150
            assert acknowledged == possible_states()[1:]
            return


def test_what_a_start_has_found_is_durable_before_it_returns() -> None:
    for number in count():
        disk, acknowledged = MemoryDisk(), list[State]()
        crashed = run_until_crash(disk, number, partial(live, disk, acknowledged))
        found = State.of(reopen_storage(disk, segment_bytes=SEGMENT_BYTES))
        disk.lose_power()
        assert State.of(open_storage(disk, segment_bytes=SEGMENT_BYTES)) == found
        if not crashed:
            return


@pytest.mark.parametrize("operation", ["create", "write", "sync", "replace", "sync_directory"])
def test_after_a_failure_of_any_operation_nothing_is_lost(operation: str) -> None:
    for number in count():
        disk, acknowledged = MemoryDisk(), list[State]()
        open_storage(disk).close()
        disk.before = failing_anywhere(operation, number)
        failed = error_of(partial(live, disk, acknowledged))
        disk.crash_process()
        disk.before = MemoryDisk().before
        assert_nothing_lost(disk, acknowledged)
        disk.lose_power()
        assert_nothing_lost(disk, acknowledged)
        assert_goes_on(disk, segment_bytes=SEGMENT_BYTES)
        if not failed:
            assert number > 10
            return


def failing_anywhere(operation: str, number: int) -> Callable[[str, str], None]:
    """Fail the `number`th such operation."""
    passed = count()

    def before(now: str, on: str) -> None:
        if now == operation and next(passed) == number:
            raise OSError(errno.EIO, os.strerror(errno.EIO), on)

    return before


def test_hazard_18_a_disk_that_is_full_at_any_byte_leaves_what_was_acknowledged() -> None:
    """A full disk prevents the restart. Fill, kill, free, start."""
    for capacity in count(0, 7):
        disk, acknowledged = MemoryDisk(capacity), list[State]()
        error = error_of(partial(live, disk, acknowledged))
        assert not error or "No space left on device; free some space" in error
        disk.crash_process()
        disk.capacity_bytes = None
        assert_nothing_lost(disk, acknowledged)
        if not error:
            return


# ---- a save that fails costs nothing ---------------------------------------------------------------------------------


@pytest.mark.parametrize("operation", ["create", "write", "sync"])
@pytest.mark.parametrize("error", [errno.EIO, errno.ENOSPC, errno.EMFILE])
def test_hazard_16_a_save_that_fails_costs_nothing(operation: str, error: int) -> None:
    """Log cut though the snapshot's save failed. ENOSPC while saving."""
    disk = MemoryDisk()
    storage = open_storage(disk, segment_bytes=SEGMENT_BYTES)
    append(storage, entries(1, 3), entries(4, 6), entries(7, 9), commit_index=7)
    compact(storage, 3, b"an earlier one", keep_from=1)
    remove_leftovers(storage)
    before, names = State.of(storage), set(disk.names(DIRECTORY))

    def fail(now: str, on: str) -> None:
        if now == operation and "snapshot" in on:
            raise OSError(error, os.strerror(error), on)

    disk.before = fail
    with pytest.raises(StorageError, match="snapshot"):
        save_or_discard(storage)
    disk.before = MemoryDisk().before
    assert set(disk.names(DIRECTORY)) == names
    append(storage, entries(10, 12), commit_index=10)
    assert State.of(storage) == State(before.hard_state, before.snapshot, before.log + entries(10, 12))
    assert log_of(storage) == entries(1, 12)
    compact(storage, 9, b"at last")
    assert content_of(reopen_storage(disk, segment_bytes=SEGMENT_BYTES)) == b"at last"


def save_or_discard(storage: Storage) -> None:
    writer = storage.begin_snapshot()
    try:
        writer.write(b"the state")
        writer.finish()
    except StorageError:
        writer.discard()
        raise


def test_what_cannot_be_removed_now_is_removed_at_the_next_start() -> None:
    disk = MemoryDisk()
    storage = open_storage(disk, segment_bytes=SEGMENT_BYTES)
    append(storage, entries(1, 3), entries(4, 6), entries(7, 9), entries(10, 12), commit_index=9)
    disk.before = failing_at("remove", f"{DIRECTORY}/log-1", 0)
    compact(storage, 9)
    remove_leftovers(storage)
    assert "log-1" in disk.names(DIRECTORY)
    disk.before = MemoryDisk().before
    assert log_of(reopen_storage(disk, segment_bytes=SEGMENT_BYTES))[-1].index == 12
    assert "log-1" not in disk.names(DIRECTORY)


def test_a_storage_that_is_closed_removes_nothing_any_more() -> None:
    """Nor does it finish what it has begun."""
    disk = MemoryDisk()
    storage = open_storage(disk, segment_bytes=SEGMENT_BYTES)
    append(storage, entries(1, 3), entries(4, 6), entries(7, 9), entries(10, 12), commit_index=9)
    compact(storage, 9)
    begun, names = storage.remove_leftovers(), disk.names(DIRECTORY)
    next(begun)
    storage.close()
    assert list(begun) == []
    remove_leftovers(storage)
    assert disk.names(DIRECTORY) == names


# ---- damage ----------------------------------------------------------------------------------------------------------


def directory_with_snapshot() -> MemoryDisk:
    disk = MemoryDisk()
    storage = open_storage(disk, segment_bytes=SEGMENT_BYTES)
    append(storage, *(entries(i, i + 2) for i in range(1, 19, 3)), commit_index=12)
    compact(storage, 12)
    remove_leftovers(storage)
    assert storage.first_index() > 1
    disk.crash_process()
    return disk


def test_a_snapshot_that_is_missing_is_refused() -> None:
    disk = directory_with_snapshot()
    disk.drop(f"{DIRECTORY}/snapshot-12")
    with pytest.raises(StorageError, match=r"snapshot-12: No such file or directory; start this node from a copy"):
        open_storage(disk)


@pytest.mark.parametrize("change", [-1, 1])
def test_a_snapshot_of_another_size_is_refused(change: int) -> None:
    disk = directory_with_snapshot()
    content = disk.content(f"{DIRECTORY}/snapshot-12")
    disk.overwrite(f"{DIRECTORY}/snapshot-12", (content + b"x")[: len(content) + change])
    with pytest.raises(StorageError, match=r"snapshot-12: damaged: it has \d+ bytes and should have 9"):
        open_storage(disk)


@pytest.mark.parametrize("offset", range(9))
def test_a_flipped_bit_in_a_snapshot_is_refused_before_anything_is_changed(offset: int) -> None:
    disk = directory_with_snapshot()
    content = bytearray(disk.content(f"{DIRECTORY}/snapshot-12"))
    content[offset] ^= 4
    disk.overwrite(f"{DIRECTORY}/snapshot-12", bytes(content))
    before = disk.files(DIRECTORY)
    with pytest.raises(StorageError, match=r"snapshot-12: damaged \(its checksum does not fit its 9 bytes\)"):
        open_storage(disk)
    assert disk.files(DIRECTORY) == before


def test_a_missing_segment_after_the_snapshot_is_refused() -> None:
    for name in sorted(directory_with_snapshot().names(DIRECTORY)):
        if name.startswith("log-"):
            disk = directory_with_snapshot()
            disk.drop(f"{DIRECTORY}/{name}")
            with pytest.raises(StorageError, match=f"{name}: missing"):
                open_storage(disk)


def test_a_log_that_ends_before_its_snapshot_is_refused() -> None:
    """What looks like a torn batch can't be one: the state after it has been saved, so it had been durable."""
    disk = MemoryDisk()
    storage = open_storage(disk)
    append(storage, entries(1, 9), commit_index=7)
    append(storage, entries(10, 12), commit_index=12)
    compact(storage, 12)
    disk.crash_process()
    disk.overwrite(f"{DIRECTORY}/log-1", disk.content(f"{DIRECTORY}/log-1")[:-1])
    with pytest.raises(StorageError, match=r"the snapshot ends with entry 12, which a log of 1..9 does not hold"):
        open_storage(disk)


def test_a_save_that_never_ended_is_removed_at_the_next_start() -> None:
    disk = directory_with_snapshot()
    storage = open_storage(disk)
    storage.begin_snapshot().write(b"half of the")
    save_snapshot(storage, b"whole, but not adopted")
    disk.lose_power()
    before = set(directory_with_snapshot().names(DIRECTORY))
    assert content_of(open_storage(disk)) == b"the state"
    assert set(disk.names(DIRECTORY)) == before
