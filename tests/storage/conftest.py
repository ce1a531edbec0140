"""Every kind of storage, for the tests of what all of them promise."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from raftkv.log_storage import LogStorage
from raftkv.memory_storage import MemoryStorage
from raftkv.storage import CACHE_BYTES, SEGMENT_BYTES, Storage
from tests.storage.helpers import MEMBERS

Restart = Callable[[LogStorage], LogStorage]


def _in_files(path: Path, segment_bytes: int = SEGMENT_BYTES, cache_bytes: int = CACHE_BYTES) -> Restart:
    def restart(storage: LogStorage) -> LogStorage:
        storage.close()
        return Storage(path, member_id=1, members=MEMBERS, segment_bytes=segment_bytes, cache_bytes=cache_bytes)

    return restart


@pytest.fixture(params=["memory", "files", "files with a small cache", "small segments and no cache"])
def restart(request: pytest.FixtureRequest, tmp_path: Path) -> Restart:
    """Close a storage and open it again."""
    if request.param == "memory":
        return lambda storage: storage
    if request.param == "files":
        return _in_files(tmp_path / "node")
    if request.param == "files with a small cache":
        return _in_files(tmp_path / "node", cache_bytes=1500)
    return _in_files(tmp_path / "node", segment_bytes=300, cache_bytes=0)


@pytest.fixture
def storage(restart: Restart) -> LogStorage:
    return restart(MemoryStorage(1, MEMBERS))
