"""How the tests of storage make, open and compare logs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from raftkv.log_storage import LogStorage, SnapshotWriter
from raftkv.raft.types import Entry, EntryKind, HardState, LogPosition, SnapshotMeta
from raftkv.storage import Storage
from tests.support.memory_disk import MemoryDisk

DIRECTORY = "/node"
MEMBERS = {1: "127.0.0.1:50051", 2: "127.0.0.1:50052", 3: "127.0.0.1:50053"}
INCARNATION = bytes(range(16))


class Crash(BaseException):
    """The process ends here. Not an Exception, so that nothing can catch it by accident."""


def entry(index: int, term: int = 1, payload: bytes | None = None) -> Entry:
    """An entry whose content tells where it belongs."""
    if payload is None:
        payload = b"SET key-%d value-of-term-%d" % (index, term)
    return Entry(index, term, EntryKind.TEXT, payload, time_ms=1000 + index)


def entries(first: int, last: int, term: int = 1, payload: bytes | None = None) -> list[Entry]:
    """Entries first..last."""
    return [entry(index, term, payload) for index in range(first, last + 1)]


def open_storage(disk: MemoryDisk, **options: Any) -> Storage:
    """Open node 1's directory on that disk. Its log is not filled with zeros ahead of the writing, unless asked for:
    most tests say exactly where a file ends. And small files are removed in small pieces, as large ones in large."""
    small = {"fill_bytes": 0, "piece_bytes": 100}
    options = {"member_id": 1, "members": MEMBERS, "incarnation": INCARNATION, **small, **options}
    return Storage(DIRECTORY, disk=disk, **options)


def reopen_storage(disk: MemoryDisk, **options: Any) -> Storage:
    """Open it after a crash of the process."""
    disk.crash_process()
    return open_storage(disk, **options)


def log_of(storage: LogStorage) -> list[Entry]:
    """The whole log, as far as it has not been forgotten."""
    first, last = storage.first_index(), storage.last_index()
    return storage.entries(first, last, max_bytes=2**62) if first <= last else []


def append(storage: LogStorage, *batches: Sequence[Entry], term: int = 1, commit_index: int | None = None) -> None:
    """Persist some batches, after a hard state of that term if need be. Without a commit index it stays as it is."""
    if storage.hard_state.term < term:
        storage.persist(HardState(term), [], storage.commit_index)
    for batch in batches:
        storage.persist(None, batch, storage.commit_index if commit_index is None else commit_index)


def assert_goes_on(disk: MemoryDisk, **options: Any) -> None:
    """The directory takes one more batch, and has everything after one more loss of power."""
    storage = open_storage(disk, **options)
    before, last = log_of(storage), storage.last_index()
    term = max(storage.hard_state.term, 1) + 1
    more = entries(last + 1, last + 3, term)
    append(storage, more, term=term)
    assert log_of(storage) == before + more
    disk.lose_power()
    restarted = open_storage(disk, **options)
    assert log_of(restarted) == before + more
    assert restarted.notes == []
    disk.crash_process()


def save_snapshot(storage: LogStorage, content: bytes) -> SnapshotWriter:
    """A snapshot that is ready to be adopted or installed."""
    writer = storage.begin_snapshot()
    half = len(content) // 2
    writer.write(content[:half])
    writer.write(content[half:])
    writer.finish()
    return writer


def compact(storage: LogStorage, index: int, content: bytes = b"the state", keep_from: int | None = None) -> None:
    """Adopt a snapshot of the log up to `index`, and forget that part of the log, or what is before `keep_from`."""
    meta = SnapshotMeta(LogPosition(storage.term(index), index), 1000 + index, b"configuration")
    storage.adopt_snapshot(meta, save_snapshot(storage, content), index + 1 if keep_from is None else keep_from)


def install(storage: LogStorage, index: int, term: int, content: bytes = b"the leader's state") -> None:
    """Install a leader's snapshot."""
    meta = SnapshotMeta(LogPosition(term, index), 1000 + index, b"configuration")
    storage.install_snapshot(meta, save_snapshot(storage, content))


def remove_leftovers(storage: LogStorage) -> None:
    """All of them at once."""
    for _ in storage.remove_leftovers():
        pass


def content_of(storage: LogStorage) -> bytes | None:
    """What is in the snapshot; None if there is none."""
    if storage.snapshot is None:
        return None
    reader = storage.open_snapshot()
    try:
        return reader.read(0, reader.size)
    finally:
        reader.close()
