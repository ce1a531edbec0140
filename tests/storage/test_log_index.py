"""What is kept in memory of a log: it stays small, and knows where everything lies."""

from __future__ import annotations

import sys
from array import array

from raftkv.log_index import LogIndex, Place, RecentEntries
from raftkv.raft.types import Entry
from tests.storage.helpers import entries


def test_the_index_of_a_million_entries_takes_a_few_bytes_a_batch() -> None:
    index = LogIndex()
    for batch in range(10_000):
        index.append(Place(1, 5000 * batch, 5000, 100 * batch + 1, 100 * batch + 100), [1 + batch // 1000] * 100)
    assert index.last_index == 1_000_000
    assert index.batches == 10_000
    assert [index.term(i) for i in (1, 100_000, 100_001, 1_000_000)] == [1, 1, 2, 10]
    assert sum(sys.getsizeof(column) for column in vars(index).values() if isinstance(column, array)) < 400_000


def test_places_are_clipped_to_what_was_asked_and_to_what_still_counts() -> None:
    index = LogIndex()
    index.append(Place(1, 0, 10, 1, 9), [1] * 9)
    index.append(Place(1, 10, 20, 6, 8), [2] * 3)
    assert list(index.places(3, 7)) == [Place(1, 0, 10, 3, 5), Place(1, 10, 20, 6, 7)]
    assert list(index.places(6, 8)) == [Place(1, 10, 20, 6, 8)]
    index.append(Place(2, 0, 5, 6, 6), [3])
    assert index.last_index == 6
    assert list(index.places(1, 6)) == [Place(1, 0, 10, 1, 5), Place(2, 0, 5, 6, 6)]
    assert index.last_term == 3


def test_the_recent_entries_are_the_end_of_the_log_and_never_above_their_capacity() -> None:
    recent = RecentEntries(10_000)
    log: list[Entry] = []
    for first in range(1, 1000, 3):
        log += entries(first, first + 2, payload=bytes(first))
        recent.append(log[-3:])
        held = [e for e in log if recent.read(e.index, len(log)) is not None]
        assert held == log[len(log) - len(held) :]
        assert sum(len(e.payload) for e in held) <= 10_000
        assert len(held) >= 3


def test_what_replaces_entries_from_before_the_recent_ones_is_all_that_is_held() -> None:
    recent = RecentEntries(10_000)
    recent.append(entries(1, 60, payload=bytes(100)))
    assert recent.read(40, 60) is None
    assert recent.read(41, 60) is not None
    recent.append(entries(35, 37, term=2))
    assert recent.read(34, 37) is None
    found = recent.read(35, 37)
    assert found is not None
    assert list(found) == entries(35, 37, term=2)


def test_replaced_entries_take_no_room() -> None:
    recent = RecentEntries(10_000)
    for term in range(1, 100):
        recent.append(entries(1, 10, term, payload=bytes(100)))
    assert recent.read(1, 10) is not None


def test_an_entry_larger_than_the_capacity_is_not_kept() -> None:
    recent = RecentEntries(1000)
    recent.append(entries(1, 1, payload=bytes(2000)))
    assert recent.read(1, 1) is None
    recent.append(entries(2, 2))
    found = recent.read(2, 2)
    assert found is not None
    assert list(found) == entries(2, 2)
