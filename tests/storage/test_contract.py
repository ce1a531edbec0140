"""What every storage promises (`LogStorage`): one suite, for all kinds of it."""

from __future__ import annotations

import random

import pytest

from raftkv.log_storage import LogStorage
from raftkv.raft.types import Entry, EntryKind, HardState
from tests.storage.conftest import Restart
from tests.storage.helpers import MEMBERS, append, entries, entry, log_of


def test_a_new_storage_is_empty(storage: LogStorage) -> None:
    assert (storage.first_index(), storage.last_index(), storage.commit_index) == (1, 0, 0)
    assert storage.hard_state == HardState(term=0, voted_for=0, longest_promise_ms=0)
    assert storage.term(0) == 0
    assert list(storage.replay()) == []
    assert storage.identity.member_id == 1
    assert storage.identity.members == MEMBERS
    assert storage.identity.cluster_id == b""
    assert len(storage.identity.incarnation) == 16


def test_what_was_persisted_is_there_at_once_and_after_a_restart(storage: LogStorage, restart: Restart) -> None:
    log = [Entry(1, 1, EntryKind.NO_OP, b"settings", 5), Entry(2, 1, EntryKind.TEXT, b"SET a b", 6)]
    log += [Entry(3, 3, EntryKind.BATCH, bytes(range(256)), 7), Entry(4, 3, EntryKind.BATCH)]
    state = HardState(term=3, voted_for=2, longest_promise_ms=1500)
    storage.persist(state, log[:2], 0)
    storage.persist(None, log[2:], 3)
    for _ in range(2):
        assert log_of(storage) == log
        assert storage.hard_state == state
        assert [storage.term(index) for index in range(5)] == [0, 1, 1, 3, 3]
        assert storage.commit_index == 3
        assert list(storage.replay()) == log[:3]
        storage = restart(storage)


def test_a_hard_state_alone_is_persisted(storage: LogStorage, restart: Restart) -> None:
    storage.persist(HardState(4), [], 0)
    storage.persist(HardState(4, voted_for=3), [], 0)
    storage.persist(HardState(4, voted_for=3, longest_promise_ms=9), [], 0)
    assert restart(storage).hard_state == HardState(4, voted_for=3, longest_promise_ms=9)


def test_it_knows_which_entries_are_configurations(storage: LogStorage, restart: Restart) -> None:
    first, second = (Entry(i, 1, EntryKind.CONFIGURATION, b"members %d" % i, i) for i in (2, 4))
    append(storage, [*entries(1, 1), first, entry(3), second, entry(5)])
    for _ in range(2):
        assert storage.configurations() == [first, second]
        storage = restart(storage)

    append(storage, [Entry(4, 2, EntryKind.TEXT, b"SET k v")], term=2)  # takes the place of the second one
    for _ in range(2):
        assert storage.configurations() == [first]
        storage = restart(storage)

    third = Entry(2, 3, EntryKind.CONFIGURATION, b"others", 9)
    append(storage, [third], term=3)
    for _ in range(2):
        assert storage.configurations() == [third]
        storage = restart(storage)


def test_to_persist_nothing_changes_nothing(storage: LogStorage, restart: Restart) -> None:
    append(storage, entries(1, 3), commit_index=2)
    storage.persist(None, [], 3)
    storage = restart(storage)
    assert log_of(storage) == entries(1, 3)
    assert storage.commit_index == 2


@pytest.mark.parametrize("first", [2, 3, 4, 5, 6, 7])
def test_a_batch_replaces_everything_from_its_first_index_on(storage: LogStorage, restart: Restart, first: int) -> None:
    append(storage, entries(1, 3), entries(4, 6), commit_index=1)
    append(storage, entries(first, first + 1, term=2), term=2)
    for _ in range(2):
        assert log_of(storage) == entries(1, 6)[: first - 1] + entries(first, first + 1, term=2)
        assert storage.last_index() == first + 1
        assert [storage.term(first - 1), storage.term(first)] == [1, 2]
        storage = restart(storage)


def test_a_replaced_tail_may_be_longer_than_what_replaces_it_and_never_shows_again(
    storage: LogStorage, restart: Restart
) -> None:
    append(storage, entries(1, 9))
    append(storage, entries(4, 4, term=2), term=2)
    append(storage, entries(5, 5, term=3), term=3)
    storage = restart(storage)
    expected = entries(1, 3) + entries(4, 4, term=2) + entries(5, 5, term=3)
    assert log_of(storage) == expected
    assert storage.entries(3, 4, 10**6) == expected[2:4]
    with pytest.raises(IndexError):
        storage.term(6)


def test_term_raises_index_error_outside_the_log(storage: LogStorage) -> None:
    append(storage, entries(1, 3))
    for index in (-1, 4, 100):
        with pytest.raises(IndexError):
            storage.term(index)


def test_entries_are_cut_at_max_bytes_of_payload_but_never_to_nothing(storage: LogStorage, restart: Restart) -> None:
    append(storage, entries(1, 4, payload=b"x" * 100), entries(5, 8, payload=b"y" * 100))
    for _ in range(2):
        for max_bytes, count in ((0, 1), (99, 1), (100, 1), (199, 1), (200, 2), (399, 3), (500, 5), (10**6, 6)):
            assert [e.index for e in storage.entries(2, 7, max_bytes)] == list(range(2, 2 + count))
        storage = restart(storage)


def test_every_range_of_entries_can_be_read(storage: LogStorage, restart: Restart) -> None:
    append(storage, entries(1, 3), entries(4, 4), entries(5, 9), commit_index=2)
    append(storage, entries(7, 8, term=2), entries(9, 9, term=2), term=2)
    log = entries(1, 6) + entries(7, 9, term=2)
    for _ in range(2):
        for first in range(1, 10):
            for last in range(first, 10):
                assert storage.entries(first, last, 10**6) == log[first - 1 : last]
        storage = restart(storage)


def test_the_remembered_commit_index_never_exceeds_the_batch_it_came_with(
    storage: LogStorage, restart: Restart
) -> None:
    append(storage, entries(1, 3), commit_index=100)
    assert storage.commit_index == 3
    assert restart(storage).commit_index == 3


def test_replay_gives_only_what_is_committed(storage: LogStorage, restart: Restart) -> None:
    append(storage, entries(1, 3), entries(4, 6), commit_index=2)
    append(storage, entries(5, 6, term=2), term=2, commit_index=5)
    storage = restart(storage)
    assert list(storage.replay()) == entries(1, 4) + entries(5, 5, term=2)


def test_the_clusters_id_is_remembered_once_for_all(storage: LogStorage, restart: Restart) -> None:
    storage.remember_cluster(b"c" * 16)
    storage.remember_cluster(b"c" * 16)
    storage = restart(storage)
    assert storage.identity.cluster_id == b"c" * 16
    with pytest.raises(AssertionError):
        storage.remember_cluster(b"d" * 16)


def test_the_incarnation_stays_the_same(storage: LogStorage, restart: Restart) -> None:
    incarnation = storage.identity.incarnation
    assert restart(storage).identity.incarnation == incarnation


MISUSES: dict[str, tuple[HardState | None, list[Entry], int]] = {
    "a gap": (None, entries(8, 8, term=3), 4),
    "a committed entry": (None, entries(4, 8, term=3), 4),
    "entries that do not follow each other": (None, [entry(7, 3), entry(9, 3)], 4),
    "a term above the hard state's": (None, entries(7, 7, term=4), 4),
    "a term below the one before": (None, entries(7, 7, term=1), 4),
    "a commit index that goes back": (None, entries(7, 7, term=3), 3),
    "a term that goes back": (HardState(2), [], 4),
    "a second vote": (HardState(3, voted_for=2), [], 4),
}


@pytest.mark.parametrize("misuse", MISUSES)
def test_a_callers_mistake_is_an_assertion_and_writes_nothing(
    storage: LogStorage, restart: Restart, misuse: str
) -> None:
    storage.persist(HardState(3, voted_for=1), entries(1, 6, term=2), 4)
    with pytest.raises(AssertionError):
        storage.persist(*MISUSES[misuse])
    storage = restart(storage)
    assert log_of(storage) == entries(1, 6, term=2)
    assert storage.hard_state == HardState(3, voted_for=1)


@pytest.mark.parametrize("seed", range(10))
def test_random_batches_truncations_and_restarts_leave_what_a_list_would_hold(
    storage: LogStorage, restart: Restart, seed: int
) -> None:
    """Replay a failure with: pytest tests/storage/test_contract.py -k "truncations and SEED"."""
    rng = random.Random(seed)
    log: list[Entry] = []
    committed = 0
    for term in range(1, 25):
        first = rng.randint(committed + 1, len(log) + 1)
        sizes = [rng.choice([0, 10, 100, 400]) for _ in range(rng.randint(1, 6))]
        batch = [entry(first + n, term, rng.randbytes(size)) for n, size in enumerate(sizes)]
        log[first - 1 :] = batch
        committed = max(committed, rng.randint(0, len(log) + 2) - 5)
        state = HardState(term, rng.choice([0, 1]))
        storage.persist(state, batch, committed)
        if rng.random() < 0.4:
            storage = restart(storage)
        assert storage.last_index() == len(log)
        assert log_of(storage) == log
        assert [storage.term(i) for i in range(1, len(log) + 1)] == [e.term for e in log]
        assert storage.hard_state == state
        assert storage.commit_index == min(committed, len(log))
        assert list(storage.replay()) == log[: storage.commit_index]
        first = rng.randint(1, len(log))
        last = rng.randint(first, len(log))
        found = storage.entries(first, last, rng.randint(0, 500))
        assert found == log[first - 1 : first - 1 + len(found)]
        assert found
