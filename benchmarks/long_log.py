"""A long log of small entries, made quickly: what a client that is alone leaves behind, one write an entry and one
entry a batch.

To wait for the answers to so many writes would take many minutes. So they are written into the directory of a member
that is down by its own `Storage`, one by one as its node would, but for the syncs: of these there is one at the end,
for everything.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from benchmarks.work import key, value
from raftkv.disk import File, OsDisk
from raftkv.operations import Code, Operation, encode_operations
from raftkv.raft.types import Entry, EntryKind
from raftkv.storage import Storage


class _Unsynced(OsDisk):
    """The operating system's files, none of which is ever synced."""

    def create(self, path: str) -> File:
        return _without_sync(super().create(path))

    def open(self, path: str, *, writable: bool = False) -> File:
        return _without_sync(super().open(path, writable=writable))

    def sync_directory(self, directory: str) -> None:
        pass


def _without_sync(file: File) -> File:
    file.sync = lambda: None  # type: ignore[method-assign]
    return file


def lengthen(directory: Path, member_id: int, address: str, writes: int, prefix: str) -> int:
    """Add so many writes to the log of a member of a cluster of one, which must not run: new keys of 16 bytes with
    values of 100, in a client's session. Gives back the index of the last entry."""
    storage = Storage(directory, member_id=member_id, members={member_id: address}, disk=_Unsynced())
    try:
        for entry in _entries(storage, writes, prefix):
            storage.persist(None, [entry], entry.index - 1)
        return storage.last_index()
    finally:
        storage.close()
        os.sync()


def _entries(storage: Storage, writes: int, prefix: str) -> Iterator[Entry]:
    first = storage.last_index() + 1
    [last] = storage.entries(first - 1, first - 1, 1)
    session = first << 16  # what the state machine calls the one that entry `first` opens
    payload = encode_operations([Operation(Code.OPEN_SESSION)], 0, 0)
    content = value(prefix, 100)
    for i in range(writes + 1):
        yield Entry(first + i, last.term, EntryKind.BATCH, payload, last.time_ms)
        payload = encode_operations([Operation(Code.SET, key(prefix, i), content, sequence=i + 1)], session, i + 1)
