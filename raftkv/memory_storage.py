"""A member's durable state without a disk, for tests.

The same contract as `Storage`, and the same suite of tests. What `persist` was given is "durable" at once; a restart is
simulated by handing the same object to the next member.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence

from raftkv.log_storage import Identity, StorageError, assert_allowed, cut
from raftkv.raft.types import Entry, HardState


class MemoryStorage:
    """See `LogStorage`."""

    def __init__(self, member_id: int = 1, members: Mapping[int, str] | None = None) -> None:
        self.identity = Identity(member_id, dict(members or {member_id: "memory"}), incarnation=bytes(16))
        self.hard_state = HardState()
        self.commit_index = 0
        self.failure = ""
        """Once set, every call that would use a disk raises StorageError with it."""
        self._entries: list[Entry] = []

    def first_index(self) -> int:
        return 1

    def last_index(self) -> int:
        return len(self._entries)

    def term(self, index: int) -> int:
        if not 0 <= index <= len(self._entries):
            raise IndexError(f"no entry {index} in a log of {len(self._entries)}")
        return self._entries[index - 1].term if index else 0

    def entries(self, first: int, last: int, max_bytes: int) -> list[Entry]:
        self._fail_if_told()
        assert 1 <= first <= last <= self.last_index(), f"entries {first}..{last} of a log of {self.last_index()}"
        return cut(self._entries[first - 1 : last], max_bytes)

    def replay(self) -> Iterator[Entry]:
        self._fail_if_told()
        return iter(self._entries[: self.commit_index])

    def persist(self, hard_state: HardState | None, entries: Sequence[Entry], commit_index: int) -> None:
        assert_allowed(self, hard_state, entries, commit_index)
        self._fail_if_told()
        self.hard_state = hard_state or self.hard_state
        if entries:
            self._entries[entries[0].index - 1 :] = entries
            self.commit_index = min(commit_index, self.last_index())

    def remember_cluster(self, cluster_id: bytes) -> None:
        assert self.identity.cluster_id in (b"", cluster_id), "a directory never changes its cluster"
        self._fail_if_told()
        self.identity = dataclasses.replace(self.identity, cluster_id=cluster_id)

    def close(self) -> None:
        pass

    def _fail_if_told(self) -> None:
        if self.failure:
            raise StorageError(self.failure)
