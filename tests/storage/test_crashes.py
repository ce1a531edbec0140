"""A crash at every operation on the disk, of the process or of the whole machine; full disks and failing ones.

After each, a start finds what had been acknowledged, or that and the whole of what was being written.
"""

from __future__ import annotations

import errno
import os
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache, partial
from itertools import count

import pytest

from raftkv.log_storage import SnapshotWriter, StorageError
from raftkv.raft.types import Entry, HardState
from raftkv.segment import HEADER_BYTES
from raftkv.segmented_log import segment_name, segment_numbers
from raftkv.storage import Storage
from tests.storage.helpers import (
    DIRECTORY,
    Crash,
    append,
    assert_goes_on,
    entries,
    log_of,
    open_storage,
    reopen_storage,
)
from tests.support.memory_disk import MemoryDisk

LOG = f"{DIRECTORY}/log-1"
SEGMENT_BYTES = HEADER_BYTES + 200
"""Small enough for the story to need several segments."""
FILLS = (0, 128, 1024)
"""Bytes of zeros ahead of the writing: none; some batches reach beyond them; only the first one of a segment does."""


@dataclass
class State:
    """What a directory holds."""

    hard_state: HardState = field(default_factory=HardState)
    log: list[Entry] = field(default_factory=list)
    cluster_id: bytes = b""

    @classmethod
    def of(cls, storage: Storage) -> State:
        return cls(storage.hard_state, log_of(storage), storage.identity.cluster_id)


STORY: list[tuple[HardState | None, list[Entry], int] | bytes] = [
    (HardState(1, voted_for=1), entries(1, 2), 0),
    b"cluster-identity",
    (None, entries(3, 5), 1),
    (HardState(2, voted_for=3), [], 1),
    (None, entries(4, 6, term=2), 3),
    (HardState(2, 3, longest_promise_ms=1000), entries(7, 7, term=2, payload=b"x" * 700), 5),
    (HardState(4), entries(6, 8, term=4), 5),
]
"""What a member persists in its life: some batches, and its cluster's id."""


def live(disk: MemoryDisk, acknowledged: list[State], fill_bytes: int = 0) -> None:
    """Open the directory and persist STORY. Keeps account of what was acknowledged, in order."""
    storage = open_storage(disk, segment_bytes=SEGMENT_BYTES, fill_bytes=fill_bytes)
    for step in STORY:
        if isinstance(step, bytes):
            storage.remember_cluster(step)
        else:
            storage.persist(*step)
        acknowledged.append(State.of(storage))


@cache
def possible_states() -> list[State]:
    """After nothing, after the first step, and so on. A hard state is written before its entries."""
    whole: list[State] = [State()]
    live(MemoryDisk(), whole)
    return whole


def crash_at(number: int) -> Callable[[str, str], None]:
    """Let so many operations pass, and none after them."""
    passed = count()

    def before(operation: str, path: str) -> None:
        if next(passed) >= number:
            raise Crash(f"before {operation} {path}")

    return before


def run_until_crash(disk: MemoryDisk, number: int, run: Callable[[], object]) -> bool:
    """Whether `run` was ended by a crash, before its `number`th operation on the disk."""
    disk.before = crash_at(number)
    try:
        run()
    except Crash:
        return True
    finally:
        disk.before = MemoryDisk().before
    return False


def assert_nothing_lost(disk: MemoryDisk, acknowledged: list[State]) -> None:
    """What the directory holds is the last acknowledged state, or (the hard state comes first) a part of the next."""
    found = State.of(open_storage(disk, segment_bytes=SEGMENT_BYTES))
    states = possible_states()
    done = states[len(acknowledged)]
    begun = states[min(len(acknowledged) + 1, len(states) - 1)]
    assert found in (done, begun, State(begun.hard_state, done.log, done.cluster_id))
    disk.crash_process()


Down = Callable[[MemoryDisk], None]


def lose_power_partly(seed: int) -> Down:
    rng = random.Random(seed)
    return lambda disk: disk.lose_power(rng)


DOWN: dict[str, Down] = {
    "the process is killed": MemoryDisk.crash_process,
    "power is lost, and all that was not synced": MemoryDisk.lose_power,
    **{f"power is lost, and some of what was not synced ({n})": lose_power_partly(n) for n in range(4)},
}


@pytest.mark.parametrize("fill_bytes", FILLS)
@pytest.mark.parametrize("down", DOWN.values(), ids=DOWN)
def test_after_a_crash_at_any_operation_nothing_acknowledged_is_missing(down: Down, fill_bytes: int) -> None:
    for number in count():
        disk, acknowledged = MemoryDisk(), list[State]()
        crashed = run_until_crash(disk, number, partial(live, disk, acknowledged, fill_bytes))
        down(disk)
        assert_nothing_lost(disk, acknowledged)
        assert_goes_on(disk, segment_bytes=SEGMENT_BYTES, fill_bytes=fill_bytes)
        if not crashed:
            assert number > 80
            assert acknowledged == possible_states()[1:]
            return


@pytest.mark.parametrize("down", DOWN.values(), ids=DOWN)
def test_a_crash_at_any_operation_of_a_restart_changes_nothing_either(down: Down) -> None:
    """The first crash leaves a torn batch in the page cache; the second strikes while the restart mends it."""
    for number in count():
        disk = MemoryDisk()
        storage = open_storage(disk)
        append(storage, entries(1, 3), entries(4, 6))
        disk.overwrite(LOG, disk.content(LOG)[:-7])
        disk.crash_process()
        crashed = run_until_crash(disk, number, partial(open_storage, disk))
        down(disk)
        assert log_of(open_storage(disk)) == entries(1, 3)
        disk.crash_process()
        assert_goes_on(disk)
        if not crashed:
            assert number > 20
            return


@pytest.mark.parametrize("first_down", [MemoryDisk.crash_process, MemoryDisk.lose_power])
def test_a_first_start_that_was_cut_short_anywhere_starts_again(first_down: Down) -> None:
    for number in count():
        disk = MemoryDisk()
        crashed = run_until_crash(disk, number, partial(open_storage, disk))
        first_down(disk)
        storage = open_storage(disk, incarnation=b"the second start")
        assert disk.unsynced() == []
        assert State.of(storage) == State()
        disk.lose_power()
        assert open_storage(disk).identity == storage.identity
        if not crashed:
            assert number > 30
            return


@pytest.mark.parametrize("fill_bytes", FILLS)
def test_what_a_start_has_found_is_durable_before_it_returns(fill_bytes: int) -> None:
    """Whatever the process that was killed had left in the page cache."""
    for number in count():
        disk, acknowledged = MemoryDisk(), list[State]()
        crashed = run_until_crash(disk, number, partial(live, disk, acknowledged, fill_bytes))
        found = State.of(reopen_storage(disk))
        assert disk.unsynced() == []
        disk.lose_power()
        assert State.of(open_storage(disk)) == found
        if not crashed:
            return


@pytest.mark.parametrize("fill_bytes", FILLS)
def test_a_batch_costs_one_write_and_one_sync(fill_bytes: int) -> None:
    disk = MemoryDisk()
    storage = open_storage(disk, fill_bytes=fill_bytes)
    append(storage, entries(1, 3))
    disk.operations.clear()
    for n in range(4, 40):
        storage.persist(None, entries(n, n), 3)
    assert disk.operations == [("write", LOG), ("sync", LOG)] * 36


def test_a_segment_grows_in_steps_and_batches_are_written_over_the_zeros() -> None:
    disk = MemoryDisk()
    storage = open_storage(disk, fill_bytes=1024)
    sizes = []
    for n in range(1, 40):
        append(storage, entries(n, n))
        sizes.append(len(disk.content(LOG)))
    assert set(sizes) == {1024, 2048, 3072, 4096}
    append(storage, entries(40, 40, payload=b"x" * 3000))
    assert len(disk.content(LOG)) == 7168
    assert log_of(reopen_storage(disk)) == log_of(storage)


def test_a_small_segment_is_not_filled_beyond_its_size() -> None:
    disk = MemoryDisk()
    append(open_storage(disk, segment_bytes=500, fill_bytes=1024), entries(1, 1))
    assert len(disk.content(LOG)) == 500


def test_a_start_goes_on_writing_over_the_zeros_that_it_finds() -> None:
    disk = MemoryDisk()
    append(open_storage(disk, fill_bytes=1024), entries(1, 3))
    storage = reopen_storage(disk, fill_bytes=1024)
    assert storage.notes == []
    append(storage, entries(4, 5))
    assert len(disk.content(LOG)) == 1024
    disk.lose_power()
    assert log_of(open_storage(disk)) == entries(1, 5)


def test_the_hard_state_is_replaced_durably_before_the_entries_are_written() -> None:
    disk = MemoryDisk()
    storage = open_storage(disk)
    disk.operations.clear()
    storage.persist(HardState(1), entries(1, 3), 0)
    temporary = f"{DIRECTORY}/metadata.tmp"
    assert disk.operations == [
        ("create", temporary),
        ("write", temporary),
        ("sync", temporary),
        ("replace", f"{DIRECTORY}/metadata"),
        ("sync_directory", DIRECTORY),
        ("close", f"{DIRECTORY}/metadata"),
        ("write", LOG),
        ("sync", LOG),
    ]


def test_a_new_segment_is_whole_and_durable_before_its_first_batch() -> None:
    disk = MemoryDisk()
    storage = open_storage(disk, segment_bytes=1)
    append(storage, entries(1, 3))
    disk.operations.clear()
    append(storage, entries(4, 5))
    temporary, segment = f"{DIRECTORY}/log-3.tmp", f"{DIRECTORY}/log-3"
    durable = [operation for operation in disk.operations if operation[0] not in ("create", "close")]
    assert durable[:4] == [
        ("write", temporary),
        ("sync", temporary),
        ("replace", segment),
        ("sync_directory", DIRECTORY),
    ]
    assert durable[-2:] == [("write", segment), ("sync", segment)]


# Full and failing disks


def failing(operation: str, path: str, error: int) -> Callable[[str, str], None]:
    """Fail that operation on that file, once."""
    failures = iter([OSError(error, os.strerror(error), path)])

    def before(now: str, on: str) -> None:
        if (now, on) == (operation, path) and (failure := next(failures, None)):
            raise failure

    return before


FAILURES = [
    ("write", LOG),
    ("sync", LOG),
    *((operation, f"{DIRECTORY}/metadata.tmp") for operation in ("create", "write", "sync")),
    ("replace", f"{DIRECTORY}/metadata"),
    ("sync_directory", DIRECTORY),
]


@pytest.mark.parametrize(("operation", "path"), FAILURES)
def test_after_any_failure_of_persist_every_call_is_refused(operation: str, path: str) -> None:
    disk = MemoryDisk()
    storage = open_storage(disk)
    append(storage, entries(1, 3), commit_index=2)
    disk.before = failing(operation, path, errno.EIO)
    with pytest.raises(StorageError, match=rf"^{path}: Input/output error; check the disk [^\n]*$"):
        storage.persist(HardState(2), entries(4, 5, term=2), 3)
    disk.operations.clear()
    calls: list[Callable[[], object]] = [
        lambda: storage.persist(HardState(3), [], 3),
        lambda: storage.persist(None, [], 3),
        lambda: storage.entries(1, 3, 1000),
        lambda: storage.replay(),
        lambda: storage.remember_cluster(b"c" * 16),
    ]
    for call in calls:
        with pytest.raises(StorageError, match="/node: an earlier write failed; start the node again"):
            call()
    assert disk.operations == []
    storage.close()
    storage = reopen_storage(disk)
    assert log_of(storage) in (entries(1, 3), entries(1, 3) + entries(4, 5, term=2))
    disk.crash_process()
    assert_goes_on(disk)


@pytest.mark.parametrize("fill_bytes", FILLS)
@pytest.mark.parametrize("operation", ["write", "sync", "replace", "sync_directory"])
@pytest.mark.parametrize("name", ["identity", "metadata", "log-1", "log-2", "log-3", "the directory"])
def test_what_is_found_after_a_failure_is_durable_though_no_second_sync_can_help(
    operation: str, name: str, fill_bytes: int
) -> None:
    """A failed sync leaves names and data in the page cache, which the kernel takes for written."""
    path = DIRECTORY if name == "the directory" else f"{DIRECTORY}/{name}"
    for number in range(8):
        disk, acknowledged = MemoryDisk(), list[State]()
        live_disk = partial(live, disk, acknowledged, fill_bytes)
        open_storage(disk).close()
        disk.before = failing_at(operation, path, number)
        failed = error_of(live_disk)
        disk.crash_process()
        disk.before = MemoryDisk().before
        found = State.of(open_storage(disk, segment_bytes=SEGMENT_BYTES))
        disk.lose_power()
        assert State.of(open_storage(disk, segment_bytes=SEGMENT_BYTES)) == found
        disk.crash_process()
        assert_nothing_lost(disk, acknowledged)
        assert_goes_on(disk, segment_bytes=SEGMENT_BYTES)
        if not failed:
            return


def failing_at(operation: str, path: str, number: int) -> Callable[[str, str], None]:
    """Fail the `number`th such operation on that file, or on what is to take its place."""
    passed = count()

    def before(now: str, on: str) -> None:
        if now == operation and on.removesuffix(".tmp") == path and next(passed) == number:
            raise OSError(errno.EIO, os.strerror(errno.EIO), on)

    return before


def test_a_failure_that_is_no_oserror_makes_the_storage_unusable_too() -> None:
    disk = MemoryDisk()
    storage = open_storage(disk)
    disk.before = crash_at(0)
    with pytest.raises(Crash):
        storage.persist(HardState(1), [], 0)
    disk.before = MemoryDisk().before
    with pytest.raises(StorageError, match="an earlier write failed"):
        storage.persist(HardState(1), [], 0)


@pytest.mark.parametrize("fill_bytes", FILLS)
def test_a_disk_that_is_full_at_any_byte_leaves_what_was_acknowledged(fill_bytes: int) -> None:
    """At every third byte, for the time it takes; test_recovery cuts the log at every single one."""
    for capacity in count(0, 3):
        disk, acknowledged = MemoryDisk(capacity), list[State]()
        error = error_of(partial(live, disk, acknowledged, fill_bytes))
        disk.crash_process()
        disk.capacity_bytes = None
        assert_nothing_lost(disk, acknowledged)
        if not error:
            assert capacity > 1000
            assert len(acknowledged) == len(STORY)
            return
        assert error.endswith("No space left on device; free some space, then start the node again")
        if capacity % 10 == 0:
            disk.lose_power()
            assert_nothing_lost(disk, acknowledged)
            assert_goes_on(disk, segment_bytes=SEGMENT_BYTES)


def error_of(run: Callable[[], object]) -> str:
    """The message of the StorageError that ends it; empty if there is none."""
    try:
        run()
    except StorageError as error:
        return str(error)
    return ""


def test_a_start_on_a_full_disk_is_refused_and_harms_nothing() -> None:
    disk = MemoryDisk()
    append(open_storage(disk), entries(1, 9))
    disk.crash_process()
    disk.capacity_bytes = 0
    for _ in range(2):
        with pytest.raises(StorageError, match="No space left on device; free some space"):
            open_storage(disk)
    disk.capacity_bytes = None
    assert log_of(open_storage(disk)) == entries(1, 9)


def test_a_snapshot_can_be_begun_by_another_thread_in_the_middle_of_a_write() -> None:
    """Only a write that has failed makes the directory unusable, not one that is under way."""
    disk = MemoryDisk()
    storage = open_storage(disk)
    begun: list[SnapshotWriter] = []

    def before(operation: str, path: str) -> None:
        if operation == "sync" and not begun:
            begun.append(storage.begin_snapshot())

    disk.before = before
    append(storage, entries(1, 1))

    [writer] = begun
    writer.write(b"x")
    writer.finish()
    assert storage.last_index() == 1


# ---- a segment whose making failed -----------------------------------------------------------------------------------


def disk_on_which_the_making_of_a_segment_failed() -> tuple[MemoryDisk, str]:
    """One with entries 1 to 3. The directory shows the segment's file, but its name is not on the disk, and no later
    sync of the directory will put it there."""
    disk = MemoryDisk()
    storage = open_storage(disk, segment_bytes=1)
    for index in (1, 2, 3):
        append(storage, entries(index, index))

    def fail(operation: str, path: str) -> None:
        if operation == "sync_directory":
            raise OSError(errno.EIO, os.strerror(errno.EIO), path)

    disk.before = fail
    with pytest.raises(StorageError):
        append(storage, entries(4, 4))
    disk.before = MemoryDisk().before
    disk.crash_process()
    return disk, f"{DIRECTORY}/{segment_name(max(segment_numbers(disk.names(DIRECTORY))))}"


def test_wherever_the_next_start_is_cut_short_the_one_after_it_finds_the_log() -> None:
    steps = count()
    while True:
        disk, _ = disk_on_which_the_making_of_a_segment_failed()
        left = next(steps)
        countdown = count(left, -1)

        def crash(operation: str, path: str) -> None:
            if next(countdown) == 0:  # noqa: B023 (called within this round)
                raise Crash(f"{operation} {path}")

        disk.before = crash
        is_cut_short = False
        try:
            open_storage(disk, segment_bytes=1).close()
        except Crash:
            is_cut_short = True
        disk.before = MemoryDisk().before
        disk.crash_process()
        disk.lose_power()
        assert log_of(open_storage(disk, segment_bytes=1)) == entries(1, 3), f"after {left} steps of the start"
        if not is_cut_short:
            break
    assert left > 20


def test_once_it_has_been_made_anew_it_is_missed_if_it_is_not_there() -> None:
    disk, path = disk_on_which_the_making_of_a_segment_failed()
    open_storage(disk, segment_bytes=1).close()
    disk.remove(path)
    with pytest.raises(StorageError, match="missing"):
        open_storage(disk, segment_bytes=1)
