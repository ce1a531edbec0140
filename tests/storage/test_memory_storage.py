"""The storage in memory fails when it is told to; for the rest see test_contract."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from raftkv.log_storage import StorageError
from raftkv.memory_storage import MemoryStorage
from raftkv.raft.types import HardState
from tests.storage.helpers import append, entries


def test_a_storage_told_to_fail_fails_and_changes_nothing() -> None:
    storage = MemoryStorage()
    append(storage, entries(1, 3), commit_index=2)
    storage.failure = "out of order"
    calls: list[Callable[[], object]] = [
        lambda: storage.persist(HardState(9), entries(4, 4, term=9), 3),
        lambda: storage.entries(1, 3, 1000),
        lambda: storage.replay(),
        lambda: storage.remember_cluster(b"c" * 16),
    ]
    for call in calls:
        with pytest.raises(StorageError, match="out of order"):
            call()
    assert (storage.last_index(), storage.hard_state, storage.identity.cluster_id) == (3, HardState(1), b"")
