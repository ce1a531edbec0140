"""What a member keeps through a crash: the interface.

`LogStorage` is all that a member asks of its disk: the durable log, one small record (`HardState`), and the answer to
"whose directory is this". `Storage` (storage.py) keeps them in files, `MemoryStorage` in memory for tests; one suite of
tests holds for both.

A `StorageError` is final. What was to be written may or may not have reached the disk, and asking the system to sync
it again may be answered with a success that is not true; so nothing is retried, and the member stops.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from raftkv.raft.log import LogStore
from raftkv.raft.types import Entry, HardState

RESTORE: Final = "start this node from a copy made since it last stopped; if there is none, leave it stopped"
"""What a person can do about a directory that is damaged or incomplete. An older copy has forgotten votes and entries
that this member has acknowledged: starting from it can lose what the cluster has acknowledged."""


class StorageError(Exception):
    """The disk failed, or holds what it should not. The message is one line: the thing, what is wrong, the mend."""


@dataclass(frozen=True, slots=True)
class Identity:
    """Whose data this is. A directory keeps its identity from its first start to its end."""

    member_id: int
    members: Mapping[int, str]
    """The addresses of the initial members, by id."""
    incarnation: bytes
    """16 random bytes, made with the directory: a member whose disk was wiped comes back with others."""
    cluster_id: bytes = b""
    """16 random bytes, the same for all members; empty until this member has learned them."""


class LogStorage(LogStore, Protocol):
    """The durable state of one member. It has one owner, who calls from one thread at a time."""

    @property
    def identity(self) -> Identity: ...

    @property
    def hard_state(self) -> HardState:
        """As last made durable."""

    @property
    def commit_index(self) -> int:
        """As remembered with the last entries: a lower bound of what is committed, never beyond the durable log."""

    def persist(self, hard_state: HardState | None, entries: Sequence[Entry], commit_index: int) -> None:
        """Make it durable before returning: the hard state first (None: unchanged), then the entries as one batch.

        Of one batch a crash leaves either all entries or none. The first entry may be at or below last_index(): it
        replaces everything from there, but never what is committed. `commit_index` is remembered with the entries, as
        far as these reach. Raises StorageError, and then refuses all further use.
        """

    def remember_cluster(self, cluster_id: bytes) -> None:
        """Make the cluster's id durable, once for all. Raises StorageError, and then refuses all further use."""

    def replay(self) -> Iterator[Entry]:
        """The entries 1..commit_index in their order, for the state machine's recovery. Raises StorageError."""

    def close(self) -> None: ...


def assert_allowed(
    storage: LogStorage, hard_state: HardState | None, entries: Sequence[Entry], commit_index: int
) -> None:
    """Assert what `persist` takes for granted: a caller that breaks it would write what no restart may accept."""
    old = storage.hard_state
    new = hard_state or old
    assert old.term <= new.term, f"the term goes back: {old}, {new}"
    assert old.term < new.term or old.voted_for in (0, new.voted_for), f"a second vote in a term: {old}, {new}"
    assert storage.commit_index <= commit_index, f"the commit index goes back to {commit_index}"
    if entries:
        first = entries[0].index
        assert storage.commit_index < first <= storage.last_index() + 1, f"entry {first} does not fit onto the log"
        assert all(entry.index == first + n for n, entry in enumerate(entries)), "the entries are not consecutive"
        terms = [storage.term(first - 1), *(entry.term for entry in entries), new.term]
        assert terms == sorted(terms), f"terms fall along the log, or go beyond the current one: {terms}"


def cut(entries: Iterable[Entry], max_bytes: int) -> list[Entry]:
    """The first entries, up to `max_bytes` of payload, but at least one."""
    kept: list[Entry] = []
    size = 0
    for entry in entries:
        size += len(entry.payload)
        if kept and size > max_bytes:
            break
        kept.append(entry)
    return kept
