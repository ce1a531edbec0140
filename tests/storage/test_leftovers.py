"""Files that no longer count: they go a piece at a time, but not from under a reader."""

from __future__ import annotations

import errno
import os

import pytest

from raftkv.leftovers import Leftovers
from tests.support.memory_disk import MemoryDisk

MIB = 1 << 20
OLD, OTHER = "/node/snapshot-1", "/node/log-1"


@pytest.fixture
def disk() -> MemoryDisk:
    disk = MemoryDisk()
    disk.make_directory("/node")
    for path, size in ((OLD, 10 * MIB + 1), (OTHER, 100)):
        file = disk.create(path)
        file.write(0, bytes(size))
        file.close()
    return disk


def size_of(disk: MemoryDisk, path: str) -> int:
    """0 if there is no such file."""
    return len(disk.files("/node").get(os.path.basename(path), b""))


def test_a_large_file_goes_a_piece_at_a_time_and_one_file_after_the_other(disk: MemoryDisk) -> None:
    leftovers = Leftovers(disk, 4 * MIB)
    leftovers.add([OLD, OTHER])
    assert [(size_of(disk, OLD), size_of(disk, OTHER)) for _ in leftovers.remove()] == [
        (10 * MIB + 1, 100),
        (6 * MIB + 1, 100),
        (2 * MIB + 1, 100),
        (0, 100),
    ]
    assert disk.names("/node") == []
    assert list(leftovers.remove()) == []


def test_nothing_is_cut_from_under_a_reader(disk: MemoryDisk) -> None:
    leftovers = Leftovers(disk, 4 * MIB)
    closed, reader = leftovers.open_snapshot(OLD), leftovers.open_snapshot(OLD)
    closed.close()
    leftovers.add([OLD])
    for _ in leftovers.remove():
        assert reader.read(reader.size - 1, 10) == b"\0"
    assert disk.names("/node") == [os.path.basename(OTHER)]
    assert reader.read(reader.size - 1, 10) == b"\0"


def test_once_all_readers_have_closed_a_file_it_is_cut(disk: MemoryDisk) -> None:
    leftovers = Leftovers(disk, 4 * MIB)
    leftovers.open_snapshot(OLD).close()
    leftovers.add([OLD])
    assert len(list(leftovers.remove())) == 3


def test_hazard_19_nothing_is_opened_to_be_removed(disk: MemoryDisk) -> None:
    """Running out of file descriptors kills the node: those that are held back are for what must be written."""
    leftovers = Leftovers(disk, 4 * MIB)
    leftovers.add([OLD, OTHER])
    disk.operations.clear()
    list(leftovers.remove())
    assert {operation for operation, _ in disk.operations} == {"truncate", "remove"}


@pytest.mark.parametrize("operation", ["truncate", "remove"])
def test_what_the_disk_refuses_stops_nothing(disk: MemoryDisk, operation: str) -> None:
    leftovers = Leftovers(disk, 4 * MIB)
    leftovers.add([OLD, OTHER])

    def fail(now: str, on: str) -> None:
        if now == operation and on == OLD:
            raise OSError(errno.EIO, os.strerror(errno.EIO), on)

    disk.before = fail
    list(leftovers.remove())
    assert disk.names("/node") == ([os.path.basename(OLD)] if operation == "remove" else [])


def test_who_goes_on_later_begins_with_what_is_left(disk: MemoryDisk) -> None:
    leftovers = Leftovers(disk, 4 * MIB)
    leftovers.add([OLD, OTHER])
    steps = leftovers.remove()
    next(steps)
    next(steps)
    steps.close()
    assert [size_of(disk, OLD) for _ in leftovers.remove()] == [6 * MIB + 1, 2 * MIB + 1, 0]
    assert disk.names("/node") == []
