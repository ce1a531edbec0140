"""What a member keeps through a crash: the interface.

`LogStorage` is all that a member asks of its disk: the durable log, the snapshot that stands for what the log has
forgotten, one small record (`HardState`), and the answer to "whose directory is this". `Storage` (storage.py) keeps
them in files, `MemoryStorage` in memory for tests; one suite of tests holds for both.

A `StorageError` is final. What was to be written may or may not have reached the disk, and asking the system to sync
it again may be answered with a success that is not true; so nothing is retried, and the member stops.

A snapshot comes into being in two steps. First a file of its own is written, by any thread, beside everything else:
an error there costs nothing but this file. Then, in the turn, `adopt_snapshot` or `install_snapshot` makes it the one
that a restart begins from; errors there are final. To storage a snapshot is bytes without meaning.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

from raftkv.raft.log import LogStore
from raftkv.raft.types import Entry, HardState, LogPosition, SnapshotMeta

RESTORE: Final = (
    "start this node from a copy made since it last stopped; if there is none, leave it stopped, or give it an empty "
    "directory after REMOVE and ADD"
)
"""What a person can do about a directory that is damaged or incomplete. An older copy has forgotten votes and entries
that this member has acknowledged: starting from it can lose what the cluster has acknowledged."""


class StorageError(Exception):
    """The disk failed, or holds what it should not. The message is one line: the thing, what is wrong, the mend."""


@dataclass(frozen=True, slots=True)
class Identity:
    """Whose data this is. A directory keeps its identity from its first start to its end."""

    member_id: int
    members: Mapping[int, str]
    """The addresses of the founding members, by id; of a member that has joined later there are none."""
    incarnation: bytes
    """16 random bytes, made with the directory: a member whose disk was wiped comes back with others."""
    cluster_id: bytes = b""
    """16 random bytes, the same for all members; empty until this member has learned them."""
    address: str = ""
    """That this member listens on, if the configuration says so; empty: the one in `members`."""
    joined: int = 0
    """The index of the entry that had brought this member in when the directory was made: an earlier one brought in
    somebody else, under the same id. 0: a founding member, or not known."""
    peers: Mapping[int, tuple[int, bytes]] = field(default_factory=dict)
    """Of each founding member that has been heard of: 0, and its incarnation. Who has another one has lost its disk.
    (Of members that were added later the configuration says it.)"""


class SnapshotReader(Protocol):
    """A snapshot's bytes, readable until `close`, even if a newer one takes its place. One thread at a time."""

    @property
    def name(self) -> str:
        """Where they are, for messages."""

    @property
    def size(self) -> int:
        """In bytes."""

    def read(self, offset: int, length: int) -> bytes:
        """`length` bytes from `offset`; fewer only at the end. Raises StorageError."""

    def close(self) -> None: ...


class SnapshotWriter(Protocol):
    """A snapshot in the making. One thread at a time."""

    @property
    def name(self) -> str: ...

    @property
    def size(self) -> int:
        """Of what has been written, in bytes."""

    @property
    def checksum(self) -> int:
        """Of what has been written, CRC32C."""

    def write(self, data: bytes) -> None:
        """Add to the end. Raises StorageError; the writer is then good for `discard` alone."""

    def read(self, offset: int, length: int) -> bytes:
        """What has been written, as from a reader. Raises StorageError."""

    def finish(self) -> None:
        """Make it durable; nothing more can be written. Raises StorageError, as `write`."""

    def discard(self) -> None:
        """Give it up, at any time before it has been adopted or installed. Raises nothing."""


class LogStorage(LogStore, Protocol):
    """The durable state of one member. It has one owner, who calls from one thread at a time; what any thread may call
    says so."""

    @property
    def identity(self) -> Identity: ...

    @property
    def hard_state(self) -> HardState:
        """As last made durable."""

    @property
    def commit_index(self) -> int:
        """As remembered with the last entries: a lower bound of what is committed, never beyond the durable log, nor
        below the snapshot."""

    @property
    def snapshot_bytes(self) -> int:
        """The size of the snapshot; 0 if there is none."""

    def persist(self, hard_state: HardState | None, entries: Sequence[Entry], commit_index: int) -> None:
        """Make it durable before returning: the hard state first (None: unchanged), then the entries as one batch.

        Of one batch a crash leaves either all entries or none. The first entry may be at or below last_index(): it
        replaces everything from there, but never what is committed. `commit_index` is remembered with the entries, as
        far as these reach. Raises StorageError, and then refuses all further use.
        """

    def remember_cluster(self, cluster_id: bytes) -> None:
        """Make the cluster's id durable, once for all. Raises StorageError, and then refuses all further use."""

    def remember_address(self, address: str) -> None:
        """Make it durable that this member is to listen there. Raises StorageError, and then refuses all further
        use."""

    def remember_peer(self, member: int, joined: int, incarnation: bytes) -> None:
        """Make it durable with which disk another member has been met. Raises StorageError, as above."""

    def replay(self) -> Iterator[Entry]:
        """The entries after the snapshot, or from the first one if there is none, up to commit_index, in their order:
        for the state machine's recovery. Raises StorageError."""

    def log_bytes(self, first: int) -> int:
        """How many bytes the entries from `first` on take, roughly. first_index() <= first <= last_index() + 1."""

    def tail(self, max_bytes: int) -> int:
        """The lowest index from which on the entries take no more than `max_bytes`, roughly; last_index() + 1 if not
        even the last one does."""

    def begin_snapshot(self, at_disks_pace: bool = False) -> SnapshotWriter:
        """Begin a snapshot, beside any others that are being written. `at_disks_pace`: it must not be written faster
        than the disk takes it, as one that somebody sends, who would send the faster. From any thread. Raises
        StorageError, which is not final."""

    def open_snapshot(self) -> SnapshotReader:
        """Open the snapshot, of which there must be one. Raises StorageError."""

    def adopt_snapshot(self, meta: SnapshotMeta, writer: SnapshotWriter, keep_from: int) -> None:
        """Begin every restart from a snapshot of this member's own state: `writer` has finished it.

        Then forget log entries below `keep_from`, which is at most meta.last.index + 1, as far as that is worth the
        trouble. The log holds `meta.last`, and no other snapshot is newer. Raises StorageError, and then refuses all
        further use.
        """

    def install_snapshot(self, meta: SnapshotMeta, writer: SnapshotWriter) -> None:
        """Begin every restart from a snapshot that a leader has sent, and that is beyond `commit_index`.

        All of the log goes, and begins anew after `meta.last`: the algorithm asks for this only if its own log does not
        hold that entry (section 7; hazard 31). What is durable may hold it all the same, in a part that another leader
        has replaced just before. The durable hard state's term is at least that of `meta.last`. A crash leaves either
        everything done or nothing. Raises StorageError, and then refuses all further use.
        """

    def remove_leftovers(self) -> Generator[None, None, None]:
        """Remove the files that the last calls have made superfluous, a piece from one `yield` to the next, each in
        about a millisecond. By one thread at a time, whichever. Raises nothing: what stays is removed at the next
        start."""

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
        first, indexes = entries[0].index, [entry.index for entry in entries]
        assert storage.commit_index < first <= storage.last_index() + 1, f"entry {first} does not fit onto the log"
        assert indexes == list(range(first, first + len(entries))), "the entries are not consecutive"
        terms = [storage.term(first - 1), *[entry.term for entry in entries], new.term]
        assert terms == sorted(terms), f"terms fall along the log, or go beyond the current one: {terms}"


def assert_adoptable(storage: LogStorage, meta: SnapshotMeta, keep_from: int) -> None:
    """Assert what `adopt_snapshot` takes for granted."""
    last = meta.last
    assert last.term == storage.term(last.index), f"the log does not hold {last}"
    assert storage.snapshot is None or storage.snapshot.last < last, f"{storage.snapshot} is newer than {last}"
    assert keep_from <= last.index + 1, f"entries below {keep_from} are beyond the snapshot, {last}"


def assert_installable(storage: LogStorage, meta: SnapshotMeta) -> None:
    """Assert what `install_snapshot` takes for granted."""
    assert meta.last.index > storage.commit_index, f"{meta.last} is committed already, up to {storage.commit_index}"
    assert meta.last.term <= storage.hard_state.term, f"{meta.last} is of a later term than {storage.hard_state}"


def holds(storage: LogStore, position: LogPosition) -> bool:
    """Whether the durable log has an entry with this index and term."""
    is_within = storage.previous().index <= position.index <= storage.last_index()
    return is_within and storage.term(position.index) == position.term


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
