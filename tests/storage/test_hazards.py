"""Bugs that real Raft systems shipped, as far as storage alone can have them.

The number in each name is that of the list of such bugs that the project keeps; the docstring tells the bug.
"""

from __future__ import annotations

import errno
import os
import random

import pytest

from raftkv.log_storage import StorageError
from raftkv.raft.types import HardState
from raftkv.storage import Storage
from tests.storage.helpers import (
    DIRECTORY,
    MEMBERS,
    Crash,
    append,
    assert_goes_on,
    entries,
    entry,
    log_of,
    open_storage,
    reopen_storage,
)
from tests.support.memory_disk import MemoryDisk

LOG = f"{DIRECTORY}/log-1"
METADATA = f"{DIRECTORY}/metadata"


def test_hazard_1_a_vote_is_durable_when_persist_returns() -> None:
    """Term or vote not persisted before the reply. Crash right after a grant."""
    disk = MemoryDisk()
    open_storage(disk).persist(HardState(term=5, voted_for=2), [], 0)
    disk.lose_power()
    assert open_storage(disk).hard_state == HardState(term=5, voted_for=2)


def test_hazard_2_no_crash_separates_a_term_from_its_vote() -> None:
    """Term and vote written as two records. Crash between them."""
    old, new = HardState(3, voted_for=1), HardState(4, voted_for=2)
    for number in range(20):
        for seed in range(8):
            disk = MemoryDisk()
            storage = open_storage(disk)
            storage.persist(old, [], 0)
            crash_before_operation(disk, number)
            try:
                storage.persist(new, [], 0)
                outcomes = [new]
            except Crash:
                outcomes = [old, new]
            disk.before = MemoryDisk().before
            disk.lose_power(random.Random(seed))
            assert open_storage(disk).hard_state in outcomes


def crash_before_operation(disk: MemoryDisk, number: int) -> None:
    done = len(disk.operations)

    def before(operation: str, path: str) -> None:
        if len(disk.operations) - done >= number:
            raise Crash

    disk.before = before


def test_hazard_5_the_metadata_is_never_truncated_or_written_in_place() -> None:
    """Metadata truncated, then rewritten, without fsync. Crash after the truncate."""
    disk = MemoryDisk()
    storage = open_storage(disk)
    disk.operations.clear()
    storage.persist(HardState(1, 1), [], 0)
    storage.persist(HardState(2, 2), [], 0)
    assert [operation for operation, path in disk.operations if path == METADATA] == ["replace", "close"] * 2


@pytest.mark.parametrize("seed", [None, *range(10)])
def test_hazard_8_new_names_are_durable_when_the_call_returns(seed: int | None) -> None:
    """No directory fsync after create or rename. Drop unsynced directory entries at a crash."""
    disk = MemoryDisk()
    storage = open_storage(disk, segment_bytes=1)
    assert disk.unsynced() == []
    append(storage, entries(1, 1), entries(2, 2), entries(3, 3))
    storage.remember_cluster(b"c" * 16)
    assert disk.unsynced() == []
    disk.lose_power(None if seed is None else random.Random(seed))
    storage = open_storage(disk, segment_bytes=1)
    assert log_of(storage) == entries(1, 3)
    assert storage.identity.cluster_id == b"c" * 16


@pytest.mark.parametrize("above", ["/data", "/data/cluster"])
def test_hazard_8_the_directory_itself_and_those_above_it_are_durable(above: str) -> None:
    disk = MemoryDisk()
    disk.make_directory("/data")  # by a start that did not live to sync it
    Storage(f"{above}/node", member_id=1, members=MEMBERS, disk=disk)
    assert disk.unsynced() == []
    disk.lose_power()
    assert disk.names(above) == ["node"]


def test_hazard_8_a_directory_whose_sync_has_failed_is_made_anew() -> None:
    """For the next sync would be called a success, and do nothing."""
    disk = MemoryDisk()

    def fail(operation: str, path: str) -> None:
        if operation == "sync_directory":
            raise OSError(errno.EIO, os.strerror(errno.EIO), path)

    before, disk.before = disk.before, fail
    with pytest.raises(StorageError, match="/: Input/output error"):
        open_storage(disk)
    disk.before = before
    open_storage(disk)
    disk.lose_power()
    assert "identity" in disk.names(DIRECTORY)


@pytest.mark.parametrize("seed", range(100))
def test_hazard_9_a_torn_or_reordered_tail_never_prevents_a_start(seed: int) -> None:
    """A torn or reordered unsynced tail makes the node unbootable. (Every prefix: test_recovery.)"""
    disk = MemoryDisk()
    storage = open_storage(disk, fill_bytes=random.Random(seed).choice([0, 4096, 2**14]))
    append(storage, entries(1, 3))

    def before(operation: str, path: str) -> None:
        if (operation, path) == ("sync", LOG):
            raise Crash

    disk.before = before
    with pytest.raises(Crash):  # the batch lies in the page cache, many sectors long, when the power goes
        append(storage, entries(4, 6, payload=b"x" * 2000))
    disk.before = MemoryDisk().before
    disk.lose_power(random.Random(seed))
    assert [e.index for e in log_of(open_storage(disk))] in ([1, 2, 3], [1, 2, 3, 4, 5, 6])
    disk.crash_process()
    assert_goes_on(disk)


def test_hazard_10_what_follows_a_torn_tail_survives_the_next_crash() -> None:
    """New records appended after a torn tail. Crash, write, crash, recover."""
    disk = MemoryDisk()
    append(open_storage(disk), entries(1, 3), entries(4, 6))
    for torn in (1, 30, 100):
        disk.lose_power()
        disk.overwrite(LOG, disk.content(LOG)[:-torn])
        storage = open_storage(disk)
        assert log_of(storage) == entries(1, 3)
        append(storage, entries(4, 6))
        disk.lose_power()
        assert log_of(open_storage(disk)) == entries(1, 6)


def test_hazard_11_damage_in_the_middle_is_refused() -> None:
    """Damage in the middle of the log treated as a torn tail. Flip a bit far from the end.

    (Every byte: test_recovery.)"""
    disk = MemoryDisk()
    append(open_storage(disk), *(entries(10 * n + 1, 10 * n + 10) for n in range(100)))
    disk.lose_power()
    whole = bytearray(disk.content(LOG))
    whole[len(whole) // 2] ^= 4
    disk.overwrite(LOG, bytes(whole))
    with pytest.raises(
        StorageError, match=r"^/node/log-1: damaged at byte \d+: .*; start this node from a copy made since"
    ):
        open_storage(disk)
    assert disk.content(LOG) == bytes(whole)


def test_hazard_12_the_commit_index_on_disk_is_never_ahead_of_the_log() -> None:
    """Commit index on disk ahead of the log. Flush metadata only: it does not hold the commit index at all."""
    disk = MemoryDisk()
    storage = open_storage(disk)
    append(storage, entries(1, 3), commit_index=3)
    storage.persist(HardState(2), entries(4, 6, term=2), 6)
    metadata = disk.content(METADATA)
    for length in range(64, len(disk.content(LOG)) + 1):
        old = MemoryDisk()
        open_storage(old)
        old.crash_process()
        old.overwrite(LOG, disk.content(LOG)[:length])
        old.overwrite(METADATA, metadata)
        found = open_storage(old)
        assert found.commit_index == found.last_index()
        assert [e.index for e in found.replay()] == list(range(1, found.commit_index + 1))


def test_hazard_13_a_sync_that_failed_is_not_tried_again() -> None:
    """fsync retried after EIO. EIO once: the node stops."""
    disk = MemoryDisk()
    storage = open_storage(disk)
    append(storage, entries(1, 3))
    fail_next_sync(disk)
    disk.operations.clear()
    with pytest.raises(StorageError, match="log-1: Input/output error"):
        append(storage, entries(4, 6))
    assert disk.operations == [("write", LOG)]
    with pytest.raises(StorageError, match="an earlier write failed"):
        append(storage, entries(4, 6))
    assert disk.operations == [("write", LOG)]


def fail_next_sync(disk: MemoryDisk) -> None:
    def before(operation: str, path: str) -> None:
        if operation == "sync":
            disk.before = MemoryDisk().before
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    disk.before = before


def test_hazard_13_the_next_start_writes_anew_what_the_failed_sync_left_in_the_page_cache() -> None:
    """The kernel shows the batch and calls its pages clean: to sync them once more would do nothing."""
    disk = MemoryDisk()
    storage = open_storage(disk)
    append(storage, entries(1, 3))
    fail_next_sync(disk)
    with pytest.raises(StorageError):
        append(storage, entries(4, 6))
    assert disk.unsynced() == []
    assert log_of(reopen_storage(disk)) == entries(1, 6)
    disk.lose_power()
    assert log_of(open_storage(disk)) == entries(1, 6)


SIZES = [2**k + d for k in (9, 12, 16, 20, 22) for d in (-1, 0, 1)]


@pytest.mark.parametrize("size", SIZES)
def test_hazard_15_entries_of_any_size_survive(size: int) -> None:
    """A large entry corrupts a follower's log. Largest size, one less, one more; restart."""
    disk = MemoryDisk()
    storage = open_storage(disk, segment_bytes=2**16, cache_bytes=2**20)
    log = [entry(1), entry(2, payload=random.Random(size).randbytes(size)), entry(3), entry(4, payload=bytes(size))]
    append(storage, log[:2], log[2:])
    for _ in range(2):
        assert log_of(storage) == log
        assert storage.entries(2, 4, size) == log[1:2]
        disk.lose_power()
        storage = open_storage(disk, segment_bytes=2**16, cache_bytes=0)


def test_hazard_18_a_full_disk_does_not_prevent_the_restart_once_there_is_room() -> None:
    """A full disk prevents the restart. Fill, kill, free, start. (Full at every byte: test_crashes.)"""
    disk = MemoryDisk(capacity_bytes=2000)
    storage = open_storage(disk)
    append(storage, entries(1, 5))
    with pytest.raises(StorageError, match="No space left on device; free some space"):
        append(storage, entries(6, 50))
    assert sum(map(len, disk.files(DIRECTORY).values())) == 2000
    disk.crash_process()
    disk.capacity_bytes = 3000
    assert log_of(open_storage(disk)) == entries(1, 5)
    disk.crash_process()
    assert_goes_on(disk)


def test_hazard_28_a_failed_read_is_an_error_and_not_a_shorter_answer() -> None:
    """A failed read of the leader's log yields a malformed append. EIO on read."""
    disk = MemoryDisk()
    storage = open_storage(disk, cache_bytes=0, segment_bytes=1)
    append(storage, entries(1, 3), entries(4, 6), commit_index=6)

    def before(operation: str, path: str) -> None:
        if operation == "read" and "log-3" in path:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    disk.before = before
    for first in (1, 4, 5):
        with pytest.raises(StorageError, match="log-3: Input/output error"):
            storage.entries(first, 6, 10**6)
    with pytest.raises(StorageError, match="log-3: Input/output error"):
        list(storage.replay())
    assert storage.entries(1, 3, 10**6) == entries(1, 3)


@pytest.mark.parametrize("offset", [-1, -60, 3, 30])
def test_hazard_28_an_entry_that_has_rotted_since_the_start_is_an_error(offset: int) -> None:
    disk = MemoryDisk()
    append(open_storage(disk), entries(1, 3), entries(4, 6))
    second = disk.content(LOG).index(b"\xf5RKV", 100)
    storage = reopen_storage(disk, cache_bytes=0)
    rotten = bytearray(disk.content(LOG))
    rotten[offset if offset < 0 else second + offset] ^= 1
    disk.rot(LOG, bytes(rotten))
    assert storage.entries(1, 3, 10**6) == entries(1, 3)
    for first in (1, 4, 6):
        with pytest.raises(StorageError, match=f"log-1: damaged at byte {second}: entry {max(first, 4)} can't be read"):
            storage.entries(first, 6, 10**6)


def test_hazard_53_a_tail_found_after_a_kill_is_durable_before_anything_is_promised_of_it() -> None:
    """A recovered tail, only in the page cache, taken for durable. Crash the process between write and sync, restart,
    acknowledge, then lose power."""
    disk = MemoryDisk()
    storage = open_storage(disk)
    append(storage, entries(1, 3))

    def before(operation: str, path: str) -> None:
        if (operation, path) == ("sync", LOG):
            raise Crash

    disk.before = before
    with pytest.raises(Crash):
        append(storage, entries(4, 6))
    disk.before = MemoryDisk().before
    assert disk.unsynced() == [LOG]
    assert log_of(reopen_storage(disk)) == entries(1, 6)
    assert disk.unsynced() == []
    disk.lose_power()
    assert log_of(open_storage(disk)) == entries(1, 6)
