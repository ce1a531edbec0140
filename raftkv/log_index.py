"""What storage keeps in memory of the log: theory of operation.

The log itself stays on disk. `LogIndex` knows where each batch lies and where the term changes: some 40 bytes a batch,
whatever is in it, found by bisection. A later batch that begins at index i replaces everything from i on; the older
batches stay in their files, and the index forgets the part of them that no longer counts. Once a snapshot stands for
the front of the log, whole segments are forgotten, and `previous` is the last entry before the rest.

`RecentEntries` holds the end of the log, which is what followers are usually sent.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate
from typing import NamedTuple

from raftkv.raft.log import Compacted
from raftkv.raft.types import ORIGIN, Entry, LogPosition


class Place(NamedTuple):
    """Where some consecutive entries lie: in a frame, which may hold others before and behind them."""

    segment: int
    offset: int
    frame_bytes: int
    first: int
    last: int

    @property
    def end(self) -> int:
        """The offset behind the frame."""
        return self.offset + self.frame_bytes


class LogIndex:
    """Where the entries previous.index + 1..last_index lie, and their terms."""

    def __init__(self, previous: LogPosition = ORIGIN) -> None:
        self.previous = previous
        self.last_index = previous.index
        # A batch is a row of these four columns; `_first` is ascending, and a batch reaches to the next one's first.
        self._first = array("Q")
        self._segment = array("Q")
        self._offset = array("Q")
        self._frame_bytes = array("Q")
        # A run of entries with the same term is a row of these two; both are ascending.
        self._run_first = array("Q")
        self._run_term = array("Q")
        self.configurations: list[int] = []
        """The indexes of the entries that are configurations, ascending."""

    @property
    def last_term(self) -> int:
        """The term of the last entry, held or not; 0 if there has been none."""
        return self._run_term[-1] if self._run_term else self.previous.term

    @property
    def first_segment(self) -> int:
        """The first segment that is needed; 0 if none is."""
        return self._segment[0] if self._segment else 0

    @property
    def batches(self) -> int:
        """How many batches count."""
        return len(self._first)

    def append(self, place: Place, terms: Iterable[int], configurations: Iterable[int] = ()) -> None:
        """Take in a batch whose entries have these terms, those at `configurations` being such. It replaces all from
        its first entry on."""
        assert self.previous.index < place.first <= self.last_index + 1, f"{place} does not fit {self}"
        if place.first <= self.last_index:
            self._cut(place.first)
        self._first.append(place.first)
        self._segment.append(place.segment)
        self._offset.append(place.offset)
        self._frame_bytes.append(place.frame_bytes)
        latest = self._run_term[-1] if self._run_term else None
        for index, term in enumerate(terms, place.first):
            if term != latest:
                self._run_first.append(index)
                self._run_term.append(term)
                latest = term
        self.configurations.extend(configurations)
        self.last_index = place.last

    def _cut(self, first: int) -> None:
        """What there is from `first` on is about to be replaced."""
        batches = bisect_left(self._first, first)
        for column in (self._first, self._segment, self._offset, self._frame_bytes):
            del column[batches:]
        runs = bisect_left(self._run_first, first)
        del self._run_first[runs:], self._run_term[runs:]
        del self.configurations[bisect_left(self.configurations, first) :]

    def term(self, index: int) -> int:
        """The term of the entry at `index`, also at previous.index. Raises Compacted below that, IndexError beyond."""
        if index == self.previous.index:
            return self.previous.term
        if 0 <= index < self.previous.index:
            raise Compacted(f"entry {index} of {self}")
        if not 0 <= index <= self.last_index:
            raise IndexError(f"no entry {index} in {self}")
        return self._run_term[bisect_right(self._run_first, index) - 1]

    def places(self, first: int, last: int) -> Iterator[Place]:
        """Where the entries first..last lie, in order. The log must not change meanwhile."""
        batch = bisect_right(self._first, first) - 1
        while first <= last:
            is_last = batch + 1 == len(self._first)
            end = self.last_index if is_last else self._first[batch + 1] - 1
            yield Place(self._segment[batch], self._offset[batch], self._frame_bytes[batch], first, min(end, last))
            first = end + 1
            batch += 1

    def forget(self, keep_from: int) -> None:
        """Forget the segments that hold no entry from `keep_from` on; but not the last one."""
        row = bisect_right(self._first, keep_from) - 1
        row = bisect_left(self._segment, self._segment[row], hi=row) if row > 0 else 0
        if row == 0:
            return
        first = self._first[row]
        self.previous = LogPosition(self.term(first - 1), first - 1)
        for column in (self._first, self._segment, self._offset, self._frame_bytes):
            del column[:row]
        runs = bisect_right(self._run_first, first) - 1
        del self._run_first[:runs], self._run_term[:runs]
        self._run_first[0] = first
        del self.configurations[: bisect_left(self.configurations, first)]

    def bytes_from(self, first: int) -> int:
        """What the batches with the entries from `first` on take."""
        row = bisect_right(self._first, first) - 1
        return sum(self._frame_bytes[max(row, 0) :]) if first <= self.last_index else 0

    def tail(self, max_bytes: int) -> int:
        """The lowest index from which on the batches take no more than that; last_index + 1 if not even the last."""
        rows = bisect_right(list(accumulate(reversed(self._frame_bytes))), max_bytes)
        return self._first[len(self._first) - rows] if rows else self.last_index + 1

    def __str__(self) -> str:
        return f"a log of {self.previous.index + 1}..{self.last_index}"


class RecentEntries:
    """The end of the log, as much of it as fits into a number of bytes."""

    _ENTRY_BYTES = 150
    """What an entry weighs besides its payload, roughly."""

    def __init__(self, capacity_bytes: int) -> None:
        self._capacity_bytes = capacity_bytes
        self._entries: list[Entry] = []
        self._bytes = 0

    def append(self, entries: Sequence[Entry]) -> None:
        """Take in a batch; it replaces all from its first entry on."""
        if self._entries and entries[0].index <= self._entries[-1].index:
            kept = max(0, entries[0].index - self._entries[0].index)
            self._bytes -= self._weight(self._entries[kept:])
            del self._entries[kept:]
        self._entries.extend(entries)
        self._bytes += self._weight(entries)
        if self._bytes > self._capacity_bytes:
            self._shrink()

    def read(self, first: int, last: int) -> Iterator[Entry] | None:
        """The entries first..last, or None if not all of them are held."""
        if not self._entries or first < self._entries[0].index:
            return None
        start = self._entries[0].index
        return map(self._entries.__getitem__, range(first - start, last - start + 1))

    def clear(self) -> None:
        """Hold nothing."""
        self._entries.clear()
        self._bytes = 0

    def _shrink(self) -> None:
        # Down to half, so that its cost is spread over many appends.
        dropped = 0
        while self._bytes > self._capacity_bytes // 2 and dropped < len(self._entries):
            self._bytes -= self._weight(self._entries[dropped : dropped + 1])
            dropped += 1
        del self._entries[:dropped]

    def _weight(self, entries: Sequence[Entry]) -> int:
        return sum([len(entry.payload) for entry in entries]) + self._ENTRY_BYTES * len(entries)
