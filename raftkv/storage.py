"""A member's data directory: theory of operation.

    lock        held while a node runs, so that no two share a directory
    identity    whose directory this is, and whom it has met: replaced as a whole, seldom (metadata.py)
    metadata    the hard state, term and vote, and where a restart begins: replaced as a whole (metadata.py)
    snapshot-<index>    what stands for the log up to there (snapshot_file.py)
    log-<n>     the log in segments, appended to (segmented_log.py, segment.py)

`Storage` puts these together in the order that makes a crash at any moment harmless.

* The very first start makes the log, then the metadata, and the identity last: a directory without identity is one
  whose first start did not end, and in which nothing was ever promised; it starts again. Anything else that is missing
  had been there, and is refused.
* A later start reads and checks everything before it changes anything, so that a refused directory stays as it was.
  Then what was read is written anew and synced, before the constructor returns: it may have been in the page cache only
. No message of this member leaves before.
* `persist` writes the hard state before the entries: no entry is ever of a later term than the hard state.
* A snapshot is durable under its name before the metadata name it; and what it stands for is removed only after that.
  So at every moment there is one snapshot that counts, with all of the log that comes after it (hazards 16, 34).

There is no repair: whatever can't be the trace of a crash raises StorageError.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from itertools import count
from typing import Any, Final

from raftkv.disk import OS_DISK, TEMPORARY_SUFFIX, Disk, Lock, disk_errors, read_file, replace_file
from raftkv.leftovers import Leftovers
from raftkv.log_index import RecentEntries
from raftkv.log_storage import (
    RESTORE,
    Identity,
    LogStorage,
    SnapshotReader,
    SnapshotWriter,
    StorageError,
    assert_adoptable,
    assert_allowed,
    assert_installable,
    cut,
    holds,
)
from raftkv.metadata import Metadata, decode_identity, decode_metadata, encode_identity, encode_metadata
from raftkv.raft.log import Compacted
from raftkv.raft.types import Entry, HardState, LogPosition, SnapshotMeta
from raftkv.segment import HEADER_BYTES
from raftkv.segmented_log import SegmentedLog, segment_name, segment_numbers
from raftkv.snapshot_file import SnapshotFile, check_snapshot, is_snapshot, new_snapshot_name, snapshot_name

__all__ = ["Identity", "LogStorage", "Storage", "StorageError"]

SEGMENT_BYTES: Final = 12 * 2**20
FILL_BYTES: Final = 2**18
"""Twice as much saves little more, and is felt by the write that has to do it."""
CACHE_BYTES: Final = 16 * 2**20
READ_BYTES: Final = 2**20
"""How much of the log is read at a time where all of it is wanted."""
PIECE_BYTES: Final = 4 * 2**20
"""About a millisecond's work for the file system."""

LOCK: Final = "lock"
IDENTITY: Final = "identity"
METADATA: Final = "metadata"
_BEFORE_IDENTITY: Final = {LOCK, METADATA, IDENTITY, segment_name(1), "lost+found"}
"""What a directory may hold before its first start has ended; also with TEMPORARY_SUFFIX."""


class Storage:
    """The durable state of one member, in files: see `LogStorage`. Every method raises StorageError."""

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        member_id: int,
        members: Mapping[int, str] | None,
        disk: Disk = OS_DISK,
        segment_bytes: int = SEGMENT_BYTES,
        fill_bytes: int = FILL_BYTES,
        cache_bytes: int = CACHE_BYTES,
        piece_bytes: int = PIECE_BYTES,
        incarnation: bytes | None = None,
        cluster_id: bytes = b"",
        address: str = "",
        joined: int = 0,
    ) -> None:
        """Open the directory of member `member_id`, or make it. `members` are the founding members; None: the member
        joins a cluster that runs already, `cluster_id`, and listens on `address`; if the directory is new, the entry at
        `joined` has brought it in.

        `segment_bytes` is the size at which a new segment is begun, `fill_bytes` the room that a segment is given at a
        time, `cache_bytes` the size of the end of the log that is kept in memory, and `piece_bytes` how much of a file
        that no longer counts is removed at a time. A new directory's `incarnation` is random unless it is given. Raises
        StorageError if the directory is in use, is another member's, or holds what can't be trusted; it is then
        unchanged.
        """
        self._directory = os.path.abspath(path)
        self._disk = disk
        self._segment_bytes = segment_bytes
        self._recent = RecentEntries(cache_bytes)
        self._unusable = ""
        """Why no more calls are served; empty while they are."""
        self.notes: list[str] = []
        """What a person should read of the recovery."""
        self.hard_state = HardState()
        self.snapshot: SnapshotMeta | None = None
        self.snapshot_bytes = 0
        self._snapshot_checksum = 0
        self._snapshot_numbers = count(1)
        self._leftovers = Leftovers(disk, piece_bytes)
        self._joins = members is None
        incarnation = incarnation or os.urandom(16)
        wanted = Identity(member_id, dict(members or {}), incarnation, cluster_id, address, joined)
        with ExitStack() as opened:
            opened.callback(self._take_lock().release)
            self.identity = self._read_or_create_identity(wanted)
            fill_bytes = min(fill_bytes, segment_bytes)
            self._log = SegmentedLog(disk, self._directory, self.identity.incarnation, fill_bytes)
            opened.callback(self._log.close)
            self._recover()
            self._opened = opened.pop_all()

    # Opening

    def _take_lock(self) -> Lock:
        with disk_errors(self._directory):
            try:
                names = self._disk.names(self._directory)
            except FileNotFoundError:
                names = []
            if IDENTITY not in names:
                self._refuse_strangers(names)
                _make_directories(self._disk, self._directory)
            try:
                return self._disk.lock(self._path(LOCK))
            except BlockingIOError:
                mend = "stop that one first, or give this node a directory of its own"
                raise StorageError(f"{self._directory}: in use by another process; {mend}") from None

    def _refuse_strangers(self, names: Sequence[str]) -> None:
        """Keep away from a directory that is not a member's, or not the whole of one."""
        for name in names:
            if name.removesuffix(TEMPORARY_SUFFIX) not in _BEFORE_IDENTITY:
                mend = f"name an empty directory, or {RESTORE}"
                raise StorageError(f"{self._directory}: holds {name!r}, but no identity of a node; {mend}")

    def _read_or_create_identity(self, wanted: Identity) -> Identity:
        with disk_errors(self._directory):
            names = self._disk.names(self._directory)
        if IDENTITY not in names:
            self._create(wanted, names)
        identity = decode_identity(read_file(self._disk, self._path(IDENTITY)), self._path(IDENTITY))
        if identity.member_id != wanted.member_id:
            what = f"belongs to node {identity.member_id}, not to node {wanted.member_id}"
        elif wanted.cluster_id and identity.cluster_id not in (b"", wanted.cluster_id):
            what = "belongs to another cluster"
        elif self._joins or identity.members == wanted.members:
            cluster_id, address = identity.cluster_id or wanted.cluster_id, wanted.address or identity.address
            return dataclasses.replace(identity, cluster_id=cluster_id, address=address)
        elif not identity.members:
            raise StorageError(f"{self._directory}: joined its cluster while that was running; start it with --join")
        else:
            what = f"belongs to a cluster with other addresses ({_show_members(identity.members)})"
        raise StorageError(f"{self._directory}: {what}; give this node a directory of its own, or start that one")

    def _create(self, identity: Identity, names: Sequence[str]) -> None:
        """Make what a member begins with, in a directory that may hold a part of it already."""
        self._refuse_used(names)
        log = SegmentedLog(self._disk, self._directory, identity.incarnation)
        log.start_segment()
        log.close()
        self._replace(METADATA, encode_metadata(Metadata(HardState(), segments=1)))
        self._replace(IDENTITY, encode_identity(identity))

    def _refuse_used(self, names: Sequence[str]) -> None:
        """Keep away from a directory that has lost its identity: in one whose first start was cut short, nothing has
        been promised yet."""
        used = None
        if METADATA in names:
            metadata = decode_metadata(read_file(self._disk, self._path(METADATA)), self._path(METADATA))
            if metadata != Metadata(HardState(), segments=1):
                used = METADATA
        if segment_name(1) in names and len(read_file(self._disk, self._path(segment_name(1)))) > HEADER_BYTES:
            used = segment_name(1)
        if used:
            raise StorageError(f"{self._path(IDENTITY)}: missing, though {used} has been used; {RESTORE}")

    def _recover(self) -> None:
        metadata = decode_metadata(read_file(self._disk, self._path(METADATA)), self._path(METADATA))
        self.snapshot, self.snapshot_bytes = metadata.snapshot, metadata.snapshot_bytes
        self._snapshot_checksum = metadata.snapshot_checksum
        if self.snapshot is not None:
            path = self._path(snapshot_name(self.snapshot.last.index))
            check_snapshot(self._disk, path, self.snapshot_bytes, self._snapshot_checksum)
        self._log.recover(metadata.segments, metadata.first_segment, metadata.previous)
        if self.snapshot is not None and not holds(self, self.snapshot.last):
            what = f"the snapshot ends with entry {self.snapshot.last.index}, which {self._log.index} does not hold"
            raise StorageError(f"{self._directory}: {what}; {RESTORE}")
        term, last_term = metadata.hard_state.term, self._log.index.last_term
        if last_term > term:
            what = f"says term {term}, though the log has entries of term {last_term}"
            raise StorageError(f"{self._path(METADATA)}: {what}; {RESTORE}")
        # Nothing has been changed up to here. The small files first: they tell if the directory can be written to.
        self._replace(IDENTITY, encode_identity(self.identity))
        # A segment in which there is nothing is not counted before it has been made anew: if it was its making that
        # failed, its name is not on the disk, whatever the directory shows now.
        counted = self._log.last_segment - self._log.is_last_empty
        self._write_metadata(metadata.hard_state, counted)
        if self._log.torn_tail:
            self.notes.append(f"cut off: {self._log.torn_tail}")
        self._clean()
        if self._log.segments:
            self._log.mend()
            if counted < self._log.last_segment:
                self._write_metadata(self.hard_state)
        else:  # a crash came before the first segment after an installed snapshot
            self._start_segment()

    def _clean(self) -> None:
        """Remove what crashes have left of files in the making, and of those that no longer count."""
        snapshot = snapshot_name(self.snapshot.last.index) if self.snapshot else ""
        with disk_errors(self._directory):
            names = self._disk.names(self._directory)
            old = [segment_name(n) for n in segment_numbers(names) if n < self._log.first_segment]
            for name in names:
                if name.endswith(TEMPORARY_SUFFIX) or name in old or (is_snapshot(name) and name != snapshot):
                    self._disk.remove(self._path(name))

    # LogStorage

    def previous(self) -> LogPosition:
        return self._log.index.previous

    def first_index(self) -> int:
        return self._log.index.previous.index + 1

    def last_index(self) -> int:
        return self._log.index.last_index

    def term(self, index: int) -> int:
        return self._log.index.term(index)

    @property
    def commit_index(self) -> int:
        return max(self._log.commit_index, self.snapshot.last.index if self.snapshot else 0)

    def entries(self, first: int, last: int, max_bytes: int) -> list[Entry]:
        self._refuse_if_unusable()
        if first < self.first_index():
            raise Compacted(f"entry {first} of a log that begins with {self.first_index()}")
        assert 1 <= first <= last <= self.last_index(), f"entries {first}..{last} of a log of {self.last_index()}"
        found = self._recent.read(first, last)
        if found is None:
            found = self._log.read(first, last, min(max_bytes, READ_BYTES))
        return cut(found, max_bytes)

    def configurations(self) -> list[Entry]:
        self._refuse_if_unusable()
        return [entry for i in self._log.index.configurations for entry in self._log.read(i, i, READ_BYTES)]

    def replay(self) -> Iterator[Entry]:
        self._refuse_if_unusable()
        first = self.snapshot.last.index + 1 if self.snapshot else 1
        return self._log.read(first, self.commit_index, READ_BYTES)

    def persist(self, hard_state: HardState | None, entries: Sequence[Entry], commit_index: int) -> None:
        assert_allowed(self, hard_state, entries, commit_index)
        with self._writing():
            if hard_state is not None:
                self._write_metadata(hard_state)
            if entries:
                self._append(entries, min(commit_index, entries[-1].index))

    def remember_cluster(self, cluster_id: bytes) -> None:
        if self.identity.cluster_id == cluster_id:
            return
        assert not self.identity.cluster_id, "a directory never changes its cluster"
        self._change_identity(cluster_id=cluster_id)

    def remember_address(self, address: str) -> None:
        if self.identity.address != address:
            self._change_identity(address=address)

    def remember_peer(self, member: int, joined: int, incarnation: bytes) -> None:
        self._change_identity(peers={**self.identity.peers, member: (joined, incarnation)})

    def _change_identity(self, **fields: Any) -> None:
        with self._writing():
            identity = dataclasses.replace(self.identity, **fields)
            self._replace(IDENTITY, encode_identity(identity))
            self.identity = identity

    def log_bytes(self, first: int) -> int:
        return self._log.index.bytes_from(first)

    def tail(self, max_bytes: int) -> int:
        return self._log.index.tail(max_bytes)

    # Snapshots

    def begin_snapshot(self, at_disks_pace: bool = False) -> SnapshotWriter:
        self._refuse_if_unusable()
        path = self._path(new_snapshot_name(next(self._snapshot_numbers)))
        return SnapshotFile.create(self._disk, path, at_disks_pace)

    def open_snapshot(self) -> SnapshotReader:
        self._refuse_if_unusable()
        assert self.snapshot is not None, "there is a snapshot"
        return self._leftovers.open_snapshot(self._path(snapshot_name(self.snapshot.last.index)))

    def adopt_snapshot(self, meta: SnapshotMeta, writer: SnapshotWriter, keep_from: int) -> None:
        assert_adoptable(self, meta, keep_from)
        with self._writing():
            self._move_into_place(meta, writer)
            old_segments = range(self._log.first_segment, self._log.forget(keep_from))
            self._count_snapshot(meta, writer, old_segments)

    def install_snapshot(self, meta: SnapshotMeta, writer: SnapshotWriter) -> None:
        assert_installable(self, meta)
        with self._writing():
            self._move_into_place(meta, writer)
            old_segments = range(self._log.first_segment, self._log.begin_anew(meta.last))
            self._recent.clear()
            # First the metadata: a segment that does not continue the log before it would be refused.
            self._count_snapshot(meta, writer, old_segments)
            self._start_segment()

    def _move_into_place(self, meta: SnapshotMeta, writer: SnapshotWriter) -> None:
        assert isinstance(writer, SnapshotFile)
        writer.move_to(self._path(snapshot_name(meta.last.index)))

    def _count_snapshot(self, meta: SnapshotMeta, writer: SnapshotWriter, old_segments: range) -> None:
        """From here on a restart begins with this snapshot, and the log as it is known now."""
        old, self.snapshot = self.snapshot, meta
        self.snapshot_bytes, self._snapshot_checksum = writer.size, writer.checksum
        self._write_metadata(self.hard_state)
        if old is not None:
            self._leftovers.add([self._path(snapshot_name(old.last.index))])
        self._leftovers.add(self._log.path(number) for number in old_segments)

    def remove_leftovers(self) -> Generator[None, None, None]:
        for _ in self._leftovers.remove():
            yield
            if self._unusable:
                return

    def close(self) -> None:
        """Close the files and give up the lock. Whatever is called afterwards raises StorageError."""
        self._unusable = self._unusable or "closed"
        self._opened.close()

    # Writing

    def _append(self, entries: Sequence[Entry], commit_index: int) -> None:
        if self._log.is_full(self._segment_bytes):
            self._start_segment()
        self._log.append(entries, commit_index)
        self._recent.append(entries)

    def _start_segment(self) -> None:
        self._log.start_segment()
        self._write_metadata(self.hard_state)

    def _write_metadata(self, hard_state: HardState, last_segment: int | None = None) -> None:
        """`last_segment`: the last one that is to be missed if it is not there; None: all there are."""
        log = self._log
        last_segment = log.last_segment if last_segment is None else last_segment
        place = last_segment, log.first_segment, log.index.previous
        metadata = Metadata(hard_state, *place, self.snapshot, self.snapshot_bytes, self._snapshot_checksum)
        self._replace(METADATA, encode_metadata(metadata))
        self.hard_state = hard_state

    def _replace(self, name: str, data: bytes) -> None:
        replace_file(self._disk, self._path(name), data).close()

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """A change that either succeeds or leaves this object unusable, whatever the reason."""
        self._refuse_if_unusable()
        try:
            yield
        except BaseException:
            # Not before: threads that begin or remove files of snapshots look at it, too.
            self._unusable = "an earlier write failed"
            raise

    def _refuse_if_unusable(self) -> None:
        if self._unusable:
            raise StorageError(f"{self._directory}: {self._unusable}; start the node again")

    def _path(self, name: str) -> str:
        return os.path.join(self._directory, name)


def read_identity(path: str | os.PathLike[str], disk: Disk = OS_DISK) -> Identity | None:
    """Whose directory this is, as far as that can be told without opening it; None if it can't."""
    name = os.path.join(os.path.abspath(path), IDENTITY)
    try:
        return decode_identity(read_file(disk, name), name)
    except StorageError:
        return None


class NotAtRest(StorageError):
    """What was named is not the directory of a node that is down. Nothing is wrong with it."""


@contextmanager
def at_rest(directory: str) -> Iterator[None]:
    """Meanwhile no node starts in the directory, so that it may be read; nothing is written. Raises NotAtRest if there
    is no node's directory of that name, or the node is running, and StorageError if the disk fails."""
    with ExitStack() as held:
        with disk_errors(directory):
            try:
                names = OS_DISK.names(directory)
                if IDENTITY not in names:
                    raise NotAtRest(f"{directory}: holds no identity of a node; name a node's data directory")
                if LOCK in names:  # else it is a copy, or on a disk that takes no writes
                    held.callback(OS_DISK.lock(os.path.join(directory, LOCK), shared=True).release)
            except FileNotFoundError:
                raise NotAtRest(f"{directory}: there is no such directory; name a node's data directory") from None
            except BlockingIOError:
                raise NotAtRest(f"{directory}: its node is running; stop it first") from None
        yield


def _make_directories(disk: Disk, path: str) -> None:
    """Make `path` and what is missing above it, durably; also what an earlier start made and did not live to sync."""
    parent = os.path.dirname(path)
    if parent == path:
        return
    _make_directories(disk, parent)
    is_new = False
    try:
        disk.make_directory(path)
        is_new = True
    except FileExistsError:
        pass
    except (FileNotFoundError, PermissionError) as error:  # the former in spite of its parent: in /proc, for example
        mend = "let the user who runs the node make directories there, or name another one with --data-dir"
        raise StorageError(f"{path}: {error.strerror}; {mend}") from error
    try:
        with suppress(PermissionError):  # what we may not read, we have not made
            disk.sync_directory(parent)
    except OSError:
        if is_new:  # or the next start would find it, and the system say that it is synced, which is not true
            with suppress(OSError):
                disk.remove_directory(path)
        raise


def _show_members(members: Mapping[int, str]) -> str:
    return " ".join(f"{member}={address}" for member, address in sorted(members.items()))
