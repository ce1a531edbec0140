"""The files of snapshots: theory of operation.

    new-snapshot-<n>.tmp    being written, by some thread, beside everything else
    snapshot-<index>        one that a restart begins from, or did; it does not change while anybody may read it

What is in them storage does not know (kv_snapshot.py does); but it remembers the checksum of the whole, a CRC32C, so
that a start finds out about damage before it changes anything. A file that is being written is nothing to anybody until
it is renamed, so whatever happens to it before costs nothing; a start removes it.
"""

from __future__ import annotations

import os
import re
from contextlib import suppress
from typing import Final

import google_crc32c

from raftkv.disk import TEMPORARY_SUFFIX, Disk, File, disk_errors
from raftkv.log_storage import RESTORE, StorageError

_SYNC_BYTES: Final = 512 << 10
"""Each time so many bytes have been written they are to go to the disk: a sync of the log must not wait for much of
them."""
_READ_BYTES: Final = 1 << 20
_NAME: Final = re.compile(r"snapshot-[1-9][0-9]*")


def snapshot_name(index: int) -> str:
    """The name of the snapshot that stands for the log up to `index`."""
    return f"snapshot-{index}"


def new_snapshot_name(number: int) -> str:
    """A name for one that is being written; different numbers are different files."""
    return f"new-snapshot-{number}{TEMPORARY_SUFFIX}"


def is_snapshot(name: str) -> bool:
    return _NAME.fullmatch(name) is not None


class SnapshotFile:
    """Reads a snapshot's file, or writes one. See `SnapshotReader` and `SnapshotWriter`."""

    def __init__(self, disk: Disk, path: str, file: File, size: int, at_disks_pace: bool = True) -> None:
        self._disk = disk
        self._file = file
        self._at_disks_pace = at_disks_pace
        self.name = path
        self.size = size
        self.checksum = 0
        """Of what has been written."""
        self.is_finished = False
        self.is_closed = False

    @classmethod
    def create(cls, disk: Disk, path: str, at_disks_pace: bool = True) -> SnapshotFile:
        """`at_disks_pace`: `write` waits for the disk now and then."""
        with disk_errors(path):
            return cls(disk, path, disk.create(path), size=0, at_disks_pace=at_disks_pace)

    @classmethod
    def open(cls, disk: Disk, path: str) -> SnapshotFile:
        with disk_errors(path):
            file = disk.open(path)
            return cls(disk, path, file, file.size())

    def read(self, offset: int, length: int) -> bytes:
        with disk_errors(self.name):
            return self._file.read(offset, length)

    def write(self, data: bytes) -> None:
        assert not self.is_finished
        with disk_errors(self.name):
            self._file.write(self.size, data)
            if self.size // _SYNC_BYTES != (self.size + len(data)) // _SYNC_BYTES:
                self._file.sync() if self._at_disks_pace else self._file.begin_sync()
        self.size += len(data)
        self.checksum = google_crc32c.extend(self.checksum, data)

    def finish(self) -> None:
        with disk_errors(self.name):
            self._file.sync()
        self.is_finished = True

    def discard(self) -> None:
        with suppress(OSError):
            self._file.close()
        with suppress(OSError):
            self._disk.remove(self.name)

    def close(self) -> None:
        self.is_closed = True
        self._file.close()

    def move_to(self, path: str) -> None:
        """Give it its name for good, durably. Raises StorageError."""
        assert self.is_finished, "only what is durable may count"
        self.close()
        with disk_errors(path):
            self._disk.replace(self.name, path)
            self._disk.sync_directory(os.path.dirname(path))


def check_snapshot(disk: Disk, path: str, size: int, checksum: int) -> None:
    """Raise StorageError unless the file is what was written."""
    file = SnapshotFile.open(disk, path)
    try:
        if file.size != size:
            raise StorageError(f"{path}: damaged: it has {file.size} bytes and should have {size}; {RESTORE}")
        found = 0
        for offset in range(0, size, _READ_BYTES):
            found = google_crc32c.extend(found, file.read(offset, _READ_BYTES))
        if found != checksum:
            raise StorageError(f"{path}: damaged (its checksum does not fit its {size} bytes); {RESTORE}")
    finally:
        file.close()
