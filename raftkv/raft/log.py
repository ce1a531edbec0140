"""The log as the core sees it: a durable part, and behind it what is not yet durable.

`Log` owns the distinction between the two and the search for conflicts. It never does input or output of its own: the
durable part is read through `LogStore`, and what is to be written leaves through `pending()` until `persisted()`
says that it has been.

    1 ... previous | first_index ..... durable_index | ............ last_index
    compacted      | in the store                    | in memory, handed out by pending()

    previous.index <= committed_index <= last_index.  Below committed_index nothing ever changes again.

What a snapshot stands for may be forgotten (section 7). Of the last entry that was, `previous`, the position is still
known: the consistency check of the first entry after it needs the term.

A snapshot from the leader takes the place of the whole log: `replace_by` says so at once, the store follows when it has
installed it (`installed`). In between nothing is read from the store.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from typing import Protocol

from raftkv.raft.configuration import Configurations, decode_configuration
from raftkv.raft.types import NOBODY, ORIGIN, Configuration, Entry, LogPosition, SnapshotMeta


class Compacted(IndexError):
    """The entry has been forgotten; a snapshot stands for it."""


class InvariantBroken(Exception):
    """The algorithm found itself in a state that must never be. The member has to stop: going on could lose data."""


class LogStore(Protocol):
    """The durable log, as the core reads it. Indexes are inclusive."""

    @property
    def snapshot(self) -> SnapshotMeta | None:
        """What a restart begins from; None: with the first entry. The log reaches at least as far."""

    def previous(self) -> LogPosition:
        """The position just before `first_index`; ORIGIN while nothing has been compacted."""

    def first_index(self) -> int:
        """The first index held, or the next one if there is none: previous().index + 1."""

    def last_index(self) -> int:
        """The last durable index; previous().index if no entry is held."""

    def term(self, index: int) -> int:
        """The term of the entry at `index`, also at previous().index; 0 for index 0. Raises Compacted below that, and
        IndexError beyond the log."""

    def entries(self, first: int, last: int, max_bytes: int) -> list[Entry]:
        """Entries first..last, cut once they exceed max_bytes of payload, but at least one. Raises on a failed read,
        and Compacted if `first` is not held any more."""

    def configurations(self) -> list[Entry]:
        """The entries held that are configurations, in order. Raises on a failed read."""


def configuration_of(snapshot: SnapshotMeta, otherwise: Configuration) -> Configuration:
    """The one as of a snapshot's last entry; `otherwise`, if it names none."""
    return decode_configuration(snapshot.configuration) if snapshot.configuration else otherwise


def configurations_of(store: LogStore, founding: Configuration) -> Configurations:
    """The configurations of a durable log; `founding` is what holds until it has another."""
    snapshot = store.snapshot
    if snapshot is None:
        configurations = Configurations(founding, store.previous().index)
    else:
        configurations = Configurations(configuration_of(snapshot, founding), snapshot.last.index)
    configurations.take_in(e for e in store.configurations() if e.index > configurations.latest_index)
    return configurations


class Log:
    def __init__(self, store: LogStore, committed_index: int, configuration: Configuration = NOBODY) -> None:
        """`configuration`: the one that holds until the log or the store's snapshot says otherwise."""
        self._store = store
        self.configurations = configurations_of(store, configuration)
        """Those of this log, durable or not."""
        self._tail: list[Entry] = []
        """Not yet durable; may begin at or below the store's end, and then replaces what is there."""
        self._replaced_by: SnapshotMeta | None = None
        """Not installed yet: what the store holds does not belong to this log any more."""
        self.committed_index = committed_index
        if not store.previous().index <= committed_index <= store.last_index():
            held = f"{store.previous().index}..{store.last_index()}"
            raise InvariantBroken(f"commit index {committed_index} is not within the durable log ({held})")

    @property
    def previous(self) -> LogPosition:
        """The position just before the first entry that is held."""
        replaced_by = self._replaced_by  # looked at once: whoever asks without the turn may see it change
        return self._store.previous() if replaced_by is None else replaced_by.last

    @property
    def snapshot(self) -> SnapshotMeta | None:
        """The latest one; None: there is none."""
        return self._replaced_by or self._store.snapshot

    @property
    def durable_index(self) -> int:
        """The last index of *this* log that is durable: what the store holds beyond a pending replacement does not
        belong to it any more."""
        last = self._end_of_store()
        return min(last, self._tail[0].index - 1) if self._tail else last

    @property
    def last_index(self) -> int:
        tail = self._tail  # looked at once: whoever asks without the turn may see it change
        return tail[-1].index if tail else self._end_of_store()

    def _end_of_store(self) -> int:
        replaced_by = self._replaced_by  # as above
        return self._store.last_index() if replaced_by is None else replaced_by.last.index

    @property
    def last(self) -> LogPosition:
        """The position of the last entry: what elections compare (5.4.1)."""
        return self.position(self.last_index)

    @property
    def last_time_ms(self) -> int:
        """The log time of the last entry; 0 if there has been none."""
        last = self.last_index
        if last > self.previous.index:
            return self.entries(last, last, 0)[0].time_ms
        # Nothing is held, so the snapshot stands for all of the log.
        return self.snapshot.time_ms if self.snapshot else 0

    def term(self, index: int) -> int:
        """The term of the entry at `index`, 0 for index 0. Raises Compacted before `previous`, IndexError beyond the
        log."""
        if self._tail and index >= self._tail[0].index:
            return self._tail[index - self._tail[0].index].term
        if self._replaced_by is None:
            return self._store.term(index)
        if index == self._replaced_by.last.index:
            return self._replaced_by.last.term
        raise Compacted(f"entry {index} of a log that begins after {self._replaced_by.last.index}")

    def position(self, index: int) -> LogPosition:
        return LogPosition(self.term(index), index) if index else ORIGIN

    def holds(self, position: LogPosition) -> bool:
        """Whether the log has an entry with that index and term: the consistency check of AppendEntries (5.3).

        What has been compacted was committed, so that a leader can't have another entry there (Leader Completeness)."""
        if position.index < self.previous.index:
            return True
        return position.index <= self.last_index and self.term(position.index) == position.term

    def entries(self, first: int, last: int, max_bytes: int) -> list[Entry]:
        """Entries first..last, cut once they exceed max_bytes of payload, but at least one."""
        if not 1 <= first <= last <= self.last_index:
            raise InvariantBroken(f"entries {first}..{last} asked of a log that ends at {self.last_index}")
        if first <= self.previous.index:
            raise Compacted(f"entry {first} asked of a log that begins after {self.previous.index}")
        durable = self.durable_index
        found: list[Entry] = []
        if first <= durable:
            found = self._store.entries(first, min(last, durable), max_bytes)
        start = first + len(found)
        if start > durable:
            size = sum([len(entry.payload) for entry in found])
            for entry in self._tail[start - durable - 1 : last - durable]:
                size += len(entry.payload)
                if found and size > max_bytes:
                    break
                found.append(entry)
        return found

    def append(self, entries: Sequence[Entry]) -> None:
        """Add entries at the end, as a leader does: it never overwrites anything (Leader Append-Only, 5.3)."""
        if entries and entries[0].index != self.last_index + 1:
            raise InvariantBroken(f"entry {entries[0].index} does not follow the log's last, {self.last_index}")
        self._tail.extend(entries)
        self.configurations.take_in(entries)

    def merge(self, entries: Sequence[Entry]) -> None:
        """Take in a leader's entries, whose predecessor this log holds.

        Cuts the log only where an entry truly conflicts (same index, another term): entries that are here already may
        be followed by newer ones, of a request that overtook this one (5.3; hazard 21). Those that have been compacted
        since are here, too.
        """
        for offset, entry in enumerate(entries):
            if entry.index > self.last_index:
                self.append(entries[offset:])
                return
            if not self.holds(entry.position):
                self._replace(entries[offset:])
                return

    def _replace(self, entries: Sequence[Entry]) -> None:
        """Put these in the place of everything from their first index on; the store learns of it when it is written."""
        index = entries[0].index
        if index <= self.committed_index:
            raise InvariantBroken(f"entry {index} is committed (up to {self.committed_index}) and must not be replaced")
        self._tail = [*(entry for entry in self._tail if entry.index < index), *entries]
        self.configurations.truncate(index)
        self.configurations.take_in(entries)

    @property
    def is_durable(self) -> bool:
        """Whether the store has all of it: nothing is pending, nor is a snapshot to be installed."""
        return not self._tail and self._replaced_by is None

    def pending(self) -> list[Entry]:
        """What has to become durable. Its first index may be at or below the end of the store."""
        return list(self._tail)

    def persisted(self, entries: Sequence[Entry]) -> None:
        """The store now holds these, which `pending` handed out."""
        if entries:
            if self._store.last_index() != entries[-1].index:
                raise InvariantBroken(f"the store ends at {self._store.last_index()}, not at {entries[-1].index}")
            self._tail = self._tail[len(entries) :]

    def replace_by(self, snapshot: SnapshotMeta) -> None:
        """Let a snapshot take the place of the whole log, which does not hold its last entry: what is behind it here is
        of another history (section 7; hazard 31)."""
        if snapshot.last.index <= self.committed_index:
            raise InvariantBroken(f"a snapshot to {snapshot.last.index} would undo commits to {self.committed_index}")
        committed = self.configurations.at(self.committed_index)
        self.configurations = Configurations(configuration_of(snapshot, committed), snapshot.last.index)
        self._tail = []
        self._replaced_by = snapshot
        self.committed_index = snapshot.last.index

    def replacement(self) -> SnapshotMeta | None:
        """The snapshot that the store has to install before it gets what is pending; None: there is none."""
        return self._replaced_by

    def installed(self, snapshot: SnapshotMeta) -> None:
        """The store has installed what `replacement` named."""
        if self._store.previous() != snapshot.last:
            raise InvariantBroken(f"the store begins after {self._store.previous()}, not after {snapshot.last}")
        self._replaced_by = None

    def conflict(self, index: int) -> tuple[int, int]:
        """Why the log does not hold a leader's entry at `index`: (conflicting term, first index of that term here), or
        (0, first index missing). With it the leader skips a whole term a request (5.3, end)."""
        if index > self.last_index:
            return 0, self.last_index + 1
        term = self.term(index)
        return term, self._first_index_of_term(term, index)

    def next_index_after(self, rejected_index: int, conflicting_term: int, conflicting_index: int) -> int:
        """Where a leader tries next, after such an answer: behind its own last entry of the conflicting term, or before
        all of the follower's (5.3, end)."""
        at_most = min(rejected_index, self.last_index)
        if conflicting_term:
            shared = self.last_index_of_term(conflicting_term, at_most)
            if shared:
                return min(shared + 1, at_most)
        return max(1, min(conflicting_index, at_most))

    def _first_index_of_term(self, term: int, at_most: int) -> int:
        # Terms never fall along a log, so it can be searched by halves. Below the commit index nothing can conflict.
        start = self.committed_index + 1
        return start + bisect_left(range(start, at_most), term, key=self.term)

    def last_index_of_term(self, term: int, at_most: int) -> int:
        """The last index <= at_most whose entry has `term`; 0 if there is none, as far as the log still tells."""
        first = self.previous.index
        if at_most < first:
            return 0
        found = bisect_right(range(first, min(at_most, self.last_index) + 1), term, key=self.term)
        index = first + found - 1
        return index if found and self.term(index) == term else 0
