"""A member's durable state without a disk, for tests.

The same contract as `Storage`, and the same suite of tests. What `persist` was given is "durable" at once; a restart is
simulated by handing the same object to the next member.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Generator, Iterator, Mapping, Sequence

import google_crc32c

from raftkv.log_storage import (
    Identity,
    SnapshotReader,
    SnapshotWriter,
    StorageError,
    assert_adoptable,
    assert_allowed,
    assert_installable,
    cut,
)
from raftkv.raft.log import Compacted
from raftkv.raft.types import ORIGIN, Entry, EntryKind, HardState, LogPosition, SnapshotMeta


class MemoryStorage:
    """See `LogStorage`."""

    def __init__(self, member_id: int = 1, members: Mapping[int, str] | None = None, joined: int = 0) -> None:
        self.identity = Identity(member_id, dict(members or {member_id: "memory"}), bytes(16), joined=joined)
        self.hard_state = HardState()
        self.commit_index = 0
        self.snapshot: SnapshotMeta | None = None
        self.failure = ""
        """Once set, every call that would use a disk raises StorageError with it."""
        self._previous = ORIGIN
        self._entries: list[Entry] = []
        self._snapshot = b""

    @property
    def snapshot_bytes(self) -> int:
        return len(self._snapshot)

    def previous(self) -> LogPosition:
        return self._previous

    def first_index(self) -> int:
        return self._previous.index + 1

    def last_index(self) -> int:
        return self._previous.index + len(self._entries)

    def term(self, index: int) -> int:
        if 0 <= index < self._previous.index:
            raise Compacted(f"entry {index} of a log that begins after {self._previous.index}")
        if not 0 <= index <= self.last_index():
            raise IndexError(f"no entry {index} in a log of {self.last_index()}")
        return self._previous.term if index == self._previous.index else self._entries[self._row(index)].term

    def entries(self, first: int, last: int, max_bytes: int) -> list[Entry]:
        self._fail_if_told()
        if first <= self._previous.index:
            raise Compacted(f"entry {first} of a log that begins after {self._previous.index}")
        assert 1 <= first <= last <= self.last_index(), f"entries {first}..{last} of a log of {self.last_index()}"
        return cut(self._entries[self._row(first) : self._row(last) + 1], max_bytes)

    def configurations(self) -> list[Entry]:
        self._fail_if_told()
        return [entry for entry in self._entries if entry.kind is EntryKind.CONFIGURATION]

    def replay(self) -> Iterator[Entry]:
        self._fail_if_told()
        first = self.snapshot.last.index + 1 if self.snapshot else 1
        return iter(self._entries[self._row(first) : self._row(self.commit_index) + 1])

    def persist(self, hard_state: HardState | None, entries: Sequence[Entry], commit_index: int) -> None:
        assert_allowed(self, hard_state, entries, commit_index)
        self._fail_if_told()
        self.hard_state = hard_state or self.hard_state
        if entries:
            self._entries[self._row(entries[0].index) :] = entries
            self.commit_index = max(self.commit_index, min(commit_index, self.last_index()))

    def remember_cluster(self, cluster_id: bytes) -> None:
        assert self.identity.cluster_id in (b"", cluster_id), "a directory never changes its cluster"
        self._fail_if_told()
        self.identity = dataclasses.replace(self.identity, cluster_id=cluster_id)

    def log_bytes(self, first: int) -> int:
        return sum(len(entry.payload) for entry in self._entries[self._row(first) :])

    def tail(self, max_bytes: int) -> int:
        first = self.last_index() + 1
        while first > self.first_index() and self.log_bytes(first - 1) <= max_bytes:
            first -= 1
        return first

    def begin_snapshot(self, at_disks_pace: bool = False) -> SnapshotWriter:
        self._fail_if_told()
        return _Bytes(self)

    def open_snapshot(self) -> SnapshotReader:
        self._fail_if_told()
        assert self.snapshot is not None, "there is a snapshot"
        return _Bytes(self, self._snapshot)

    def adopt_snapshot(self, meta: SnapshotMeta, writer: SnapshotWriter, keep_from: int) -> None:
        assert_adoptable(self, meta, keep_from)
        self._take_snapshot(meta, writer)
        if keep_from > self.first_index():
            previous = LogPosition(self.term(keep_from - 1), keep_from - 1)
            del self._entries[: self._row(keep_from)]
            self._previous = previous

    def install_snapshot(self, meta: SnapshotMeta, writer: SnapshotWriter) -> None:
        assert_installable(self, meta)
        self._take_snapshot(meta, writer)
        self._entries.clear()
        self._previous = meta.last

    def _take_snapshot(self, meta: SnapshotMeta, writer: SnapshotWriter) -> None:
        assert isinstance(writer, _Bytes)
        assert writer.is_finished
        self._fail_if_told()
        self.snapshot, self._snapshot = meta, bytes(writer.data)
        self.commit_index = max(self.commit_index, meta.last.index)

    def remove_leftovers(self) -> Generator[None, None, None]:
        yield from ()

    def remember_address(self, address: str) -> None:
        self._fail_if_told()
        self.identity = dataclasses.replace(self.identity, address=address)

    def remember_peer(self, member: int, joined: int, incarnation: bytes) -> None:
        self._fail_if_told()
        peers = {**self.identity.peers, member: (joined, incarnation)}
        self.identity = dataclasses.replace(self.identity, peers=peers)

    def close(self) -> None:
        pass

    def _row(self, index: int) -> int:
        return index - self._previous.index - 1

    def _fail_if_told(self) -> None:
        if self.failure:
            raise StorageError(self.failure)


class _Bytes:
    """A snapshot's reader, or its writer."""

    name = "the snapshot in memory"

    def __init__(self, storage: MemoryStorage, data: bytes = b"") -> None:
        self._storage = storage
        self.data = bytearray(data)
        self.is_finished = False

    @property
    def size(self) -> int:
        return len(self.data)

    @property
    def checksum(self) -> int:
        checksum: int = google_crc32c.value(bytes(self.data))
        return checksum

    def read(self, offset: int, length: int) -> bytes:
        return bytes(self.data[offset : offset + length])

    def write(self, data: bytes) -> None:
        self._storage._fail_if_told()
        self.data += data

    def finish(self) -> None:
        self._storage._fail_if_told()
        self.is_finished = True

    def discard(self) -> None:
        self.data.clear()

    def close(self) -> None:
        pass
