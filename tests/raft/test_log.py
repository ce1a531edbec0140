"""The log as the core sees it, against a model that keeps everything in two plain lists."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raftkv.log_storage import StorageError
from raftkv.memory_storage import MemoryStorage
from raftkv.raft.log import Compacted, InvariantBroken, Log
from raftkv.raft.types import ORIGIN, Entry, EntryKind, HardState, SnapshotMeta
from tests.raft.lone import at, entries

EVERYTHING = 1 << 30


def log_of(*terms: int, durable: int | None = None, committed: int = 0) -> Log:
    """A log with these terms, of which the first `durable` (default: all) are in the store."""
    storage = MemoryStorage()
    all_entries = entries(terms)
    durable = len(terms) if durable is None else durable
    storage.persist(HardState(term=100), all_entries[:durable], 0)
    log = Log(storage, committed)
    log.append(all_entries[durable:])
    return log


def terms_of(log: Log) -> list[int]:
    return [log.term(i) for i in range(1, log.last_index + 1)]


def write(log: Log) -> None:
    """What a driver does between ready() and advance()."""
    pending = log.pending()
    storage = log._store
    assert isinstance(storage, MemoryStorage)
    storage.persist(None, pending, 0)
    log.persisted(pending)


# ---- looking at it ---------------------------------------------------------------------------------------------------


def test_an_empty_log_ends_at_the_origin() -> None:
    log = log_of()
    assert (log.last_index, log.durable_index, log.last) == (0, 0, ORIGIN)
    assert log.holds(ORIGIN)


def test_what_is_appended_is_there_at_once_and_durable_once_written() -> None:
    log = log_of(1, 1, 2, durable=1)
    assert (log.last, log.durable_index) == (at(3, 2), 1)
    assert log.pending() == entries([1, 2], first=2)
    write(log)
    assert (log.last, log.durable_index, log.pending()) == (at(3, 2), 3, [])


def test_a_position_is_held_if_index_and_term_agree() -> None:
    log = log_of(1, 1, 2, durable=2)
    assert log.holds(at(2, 1))
    assert log.holds(at(3, 2))
    assert not log.holds(at(3, 1))
    assert not log.holds(at(4, 2))


def test_the_term_beyond_the_end_is_an_index_error() -> None:
    with pytest.raises(IndexError):
        log_of(1, 1).term(3)
    with pytest.raises(IndexError):
        log_of(1, 1, durable=1).term(3)


def test_a_commit_index_beyond_the_durable_log_is_refused() -> None:
    with pytest.raises(InvariantBroken, match=r"commit index 3 is not within the durable log \(0..2\)"):
        log_of(1, 1, committed=3)


# ---- reading entries -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("durable", range(6))
def test_entries_come_from_the_store_and_from_memory_alike(durable: int) -> None:
    log = log_of(1, 1, 2, 3, 3, durable=durable)
    for first in range(1, 6):
        for last in range(first, 6):
            assert log.entries(first, last, EVERYTHING) == entries([1, 1, 2, 3, 3])[first - 1 : last]


@pytest.mark.parametrize("durable", range(5))
@pytest.mark.parametrize(("max_bytes", "count"), [(0, 1), (9, 1), (10, 1), (19, 1), (20, 2), (39, 3), (40, 4), (99, 4)])
def test_entries_are_cut_by_their_bytes_but_there_is_at_least_one(durable: int, max_bytes: int, count: int) -> None:
    storage = MemoryStorage()
    of_ten_bytes = [Entry(i, 1, EntryKind.TEXT, b"x" * 10) for i in range(1, 5)]
    storage.persist(HardState(1), of_ten_bytes[:durable], 0)
    log = Log(storage, 0)
    log.append(of_ten_bytes[durable:])
    assert log.entries(1, 4, max_bytes) == of_ten_bytes[:count]


def test_an_entry_that_is_cut_off_has_no_successor_though_that_would_fit() -> None:
    storage = MemoryStorage()
    small, large, last = (Entry(i, 1, EntryKind.TEXT, b"x" * size) for i, size in ((1, 1), (2, 10), (3, 1)))
    storage.persist(HardState(1), [small, large], 0)
    log = Log(storage, 0)
    log.append([last])
    assert log.entries(1, 3, max_bytes=5) == [small]


@pytest.mark.parametrize(("first", "last"), [(0, 1), (2, 1), (1, 4), (4, 4)])
def test_entries_that_are_not_there_are_not_asked_for(first: int, last: int) -> None:
    with pytest.raises(InvariantBroken, match="asked of a log that ends at 3"):
        log_of(1, 1, 1).entries(first, last, EVERYTHING)


def test_hazard_28_a_failed_read_is_an_error_and_never_a_shorter_answer() -> None:
    log = log_of(1, 1, 1, durable=2)
    assert isinstance(log._store, MemoryStorage)
    log._store.failure = "input/output error"
    with pytest.raises(StorageError):
        log.entries(1, 3, EVERYTHING)


# ---- changing it -----------------------------------------------------------------------------------------------------


def test_a_leader_appends_only_at_the_end() -> None:
    for first in (2, 4):
        with pytest.raises(InvariantBroken, match="does not follow"):
            log_of(1, 1).append(entries([2], first))


def test_appending_nothing_changes_nothing() -> None:
    log = log_of(1, 1)
    log.append([])
    assert terms_of(log) == [1, 1]


def test_hazard_21_entries_that_are_here_already_cut_nothing_off() -> None:
    log = log_of(1, 1, 2, 2)
    log.merge(entries([1, 2], first=2))
    log.merge([])
    assert terms_of(log) == [1, 1, 2, 2]
    assert log.pending() == []


def test_new_entries_behind_known_ones_are_appended() -> None:
    log = log_of(1, 1)
    log.merge(entries([1, 2, 2], first=2))
    assert terms_of(log) == [1, 1, 2, 2]
    assert log.pending() == entries([2, 2], first=3)


@pytest.mark.parametrize("durable", range(5))
def test_a_conflict_replaces_everything_from_there_on(durable: int) -> None:
    log = log_of(1, 1, 2, 2, durable=durable)
    log.merge(entries([1, 3], first=2))
    assert terms_of(log) == [1, 1, 3]
    assert log.durable_index == min(durable, 2), "what the store still holds beyond does not belong to the log any more"
    write(log)
    assert terms_of(log) == [1, 1, 3]
    assert log.durable_index == 3


def test_a_second_conflict_before_the_first_was_written_replaces_both() -> None:
    log = log_of(1, 1, 2, 2, 2)
    log.merge(entries([3, 3], first=4))
    log.merge(entries([4], first=2))
    assert terms_of(log) == [1, 4]
    assert log.pending() == entries([4], first=2)


def test_a_conflict_in_what_is_not_written_yet_keeps_what_is_before_it() -> None:
    log = log_of(1, 2, 2, 2, durable=1)
    log.merge(entries([3], first=4))
    assert terms_of(log) == [1, 2, 2, 3]
    assert log.pending() == entries([2, 2, 3], first=2)


def test_what_is_committed_is_never_replaced() -> None:
    with pytest.raises(InvariantBroken, match="entry 2 is committed"):
        log_of(1, 1, 1, committed=2).merge(entries([2], first=2))


def test_what_is_appended_while_the_disk_works_has_still_to_be_written() -> None:
    log = log_of(1, 1, durable=1)
    handed_out = log.pending()
    log.append(entries([1, 1], first=3))
    assert isinstance(log._store, MemoryStorage)
    log._store.persist(None, handed_out, 0)
    log.persisted(handed_out)
    assert log.pending() == entries([1, 1], first=3)
    assert (log.durable_index, log.last_index) == (2, 4)


def test_a_store_that_does_not_hold_what_it_was_told_to_is_noticed() -> None:
    log = log_of(1, 1, durable=1)
    with pytest.raises(InvariantBroken, match="the store ends at 1, not at 2"):
        log.persisted(log.pending())


# ---- where logs part (5.3, end) --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("index", "conflict"),
    [(1, (1, 1)), (3, (1, 1)), (4, (4, 4)), (5, (4, 4)), (6, (6, 6)), (7, (6, 6)), (8, (0, 8)), (20, (0, 8))],
)
def test_a_conflict_is_named_by_its_term_and_that_terms_first_index(index: int, conflict: tuple[int, int]) -> None:
    assert log_of(1, 1, 1, 4, 4, 6, 6).conflict(index) == conflict
    assert log_of(1, 1, 1, 4, 4, 6, 6, durable=4).conflict(index) == conflict


def test_the_search_for_a_conflict_stops_at_what_is_committed() -> None:
    assert log_of(1, 4, 4, 4, committed=2).conflict(4) == (4, 3)


@pytest.mark.parametrize(
    ("term", "at_most", "index"),
    [(1, 7, 3), (4, 7, 5), (4, 4, 4), (6, 7, 7), (6, 99, 7), (5, 7, 0), (9, 7, 0), (1, 0, 0)],
)
def test_the_last_entry_of_a_term_is_found(term: int, at_most: int, index: int) -> None:
    assert log_of(1, 1, 1, 4, 4, 6, 6).last_index_of_term(term, at_most) == index


# ---- with its front compacted ----------------------------------------------------------------------------------------


def compacted(*terms: int, previous: int, committed: int = 0) -> Log:
    """A log with these terms that has forgotten those up to index `previous`."""
    storage = MemoryStorage()
    storage.persist(HardState(term=100), entries(terms), 0)
    writer = storage.begin_snapshot()
    writer.finish()
    last = at(previous, terms[previous - 1])
    storage.adopt_snapshot(SnapshotMeta(last, time_ms=77), writer, previous + 1)
    return Log(storage, committed or previous)


def test_of_a_compacted_log_the_last_forgotten_position_is_still_known() -> None:
    log = compacted(1, 1, 2, 2, 3, previous=3)
    assert log.previous == at(3, 2)
    assert [log.term(i) for i in (3, 4, 5)] == [2, 2, 3]
    assert (log.last_index, log.last) == (5, at(5, 3))
    for index in (0, 1, 2):
        with pytest.raises(Compacted):
            log.term(index)
    with pytest.raises(Compacted):
        log.entries(3, 5, EVERYTHING)
    assert log.entries(4, 5, EVERYTHING) == entries([2, 3], first=4)


def test_hazard_33_a_log_that_is_nothing_but_a_snapshot_knows_its_last_term_and_time() -> None:
    log = compacted(1, 1, 2, previous=3)
    assert log.last == at(3, 2)
    assert log.last_time_ms == 77
    log.append(entries([4], first=4))
    assert log.last == at(4, 4)


def test_what_has_been_compacted_matches_whatever_a_leader_has_there() -> None:
    log = compacted(1, 1, 2, 2, 3, previous=3)
    assert log.holds(at(1, 1))
    assert log.holds(at(3, 2))
    assert not log.holds(at(3, 1))
    assert not log.holds(at(4, 3))


def test_entries_that_have_been_compacted_are_skipped() -> None:
    log = compacted(1, 1, 2, 2, 3, previous=3)
    log.merge(entries([1, 2], first=2))
    log.merge(entries([1, 2, 2, 4, 4], first=2))
    assert [log.term(i) for i in range(4, 7)] == [2, 4, 4]
    assert log.pending() == entries([4, 4], first=5)


@pytest.mark.parametrize(("term", "at_most", "index"), [(2, 9, 4), (2, 3, 3), (1, 9, 0), (3, 9, 5), (2, 2, 0)])
def test_the_last_entry_of_a_term_is_found_as_far_as_the_log_goes(term: int, at_most: int, index: int) -> None:
    assert compacted(1, 1, 2, 2, 3, previous=3).last_index_of_term(term, at_most) == index


def test_a_commit_index_before_what_has_been_compacted_is_refused() -> None:
    with pytest.raises(InvariantBroken, match=r"commit index 2 is not within the durable log \(3..5\)"):
        compacted(1, 1, 2, 2, 3, previous=3, committed=2)


# ---- against the model -----------------------------------------------------------------------------------------------


@dataclass
class Model:
    """The same log, kept as simply as can be."""

    log: list[int] = field(default_factory=list)
    """The term of each entry."""
    durable: int = 0

    def merge(self, prev: int, terms: list[int]) -> None:
        for offset, term in enumerate(terms):
            index = prev + offset + 1
            if index <= len(self.log) and self.log[index - 1] != term:
                del self.log[index - 1 :]
                self.durable = min(self.durable, index - 1)
            if index > len(self.log):
                self.log.append(term)

    def conflict(self, index: int) -> tuple[int, int]:
        if index > len(self.log):
            return 0, len(self.log) + 1
        return self.log[index - 1], self.log.index(self.log[index - 1]) + 1


@given(st.data())
def test_any_history_of_appends_merges_and_writes_leaves_the_log_that_the_model_has(data: st.DataObject) -> None:
    log, model = log_of(), Model()
    term = 1
    for _ in range(data.draw(st.integers(1, 12), label="steps")):
        action = data.draw(st.sampled_from(["append", "merge", "write"]), label="action")
        term += data.draw(st.integers(0, 2), label="terms passed")
        if action == "append":
            count = data.draw(st.integers(0, 3), label="count")
            log.append(entries([term] * count, first=log.last_index + 1))
            model.log += [term] * count
        elif action == "merge":
            prev = data.draw(st.integers(0, len(model.log)), label="prev")
            # Some of what is there already, as a duplicate would have it, then entries of the leader's own.
            known = model.log[prev : prev + data.draw(st.integers(0, 3), label="known")]
            new = known + [term] * data.draw(st.integers(0, 3), label="new")
            log.merge(entries(new, first=prev + 1))
            model.merge(prev, new)
        else:
            write(log)
            model.durable = len(model.log)
        last = len(model.log)
        assert terms_of(log) == model.log
        assert (log.last_index, log.durable_index) == (last, model.durable)
        assert log.last == (at(last, model.log[-1]) if model.log else ORIGIN)
        for index in range(1, last + 2):
            assert log.conflict(index) == model.conflict(index)
            assert log.last_index_of_term(term, index) == max(
                (i for i in range(1, min(index, last) + 1) if model.log[i - 1] == term), default=0
            )
        if last:
            assert log.entries(1, last, EVERYTHING) == entries(model.log)
