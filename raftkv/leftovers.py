"""Files that no longer count, and how they go: theory of operation.

A file system lets go of a large file in one transaction, and whoever syncs another file meanwhile waits for the end of
it: on ext4, for a snapshot of 300 MB, 45 ms, in which nothing is committed. So a file is shortened before it is
removed, a piece at a time, and who removes it rests in between.

But a snapshot may be read still, for a follower or a backup, though a newer one has taken its place. That one is
removed as it is: its reader keeps it to the end, and then it goes in one go.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterable
from contextlib import suppress

from raftkv.disk import Disk
from raftkv.snapshot_file import SnapshotFile


class Leftovers:
    """What a storage has still to remove. Its owner adds files and opens snapshots; any one thread removes."""

    def __init__(self, disk: Disk, piece_bytes: int) -> None:
        self._disk = disk
        self._piece_bytes = piece_bytes
        self._paths: deque[str] = deque()
        self._readers: list[SnapshotFile] = []
        """Of snapshots; some may be closed. Never changed, only replaced."""

    def add(self, paths: Iterable[str]) -> None:
        """These files do not count any more, and will not be opened again."""
        self._paths.extend(paths)

    def open_snapshot(self, path: str) -> SnapshotFile:
        """Open the snapshot that counts, to read it though it may become a leftover meanwhile. Raises StorageError."""
        assert path not in self._paths, "it counts"
        reader = SnapshotFile.open(self._disk, path)
        self._readers = [one for one in self._readers if not one.is_closed] + [reader]
        return reader

    def remove(self) -> Generator[None, None, None]:
        """Remove all, a piece after each `yield`, and nothing before the first. What cannot be removed is left."""
        while self._paths:
            yield
            path = self._paths[0]
            with suppress(OSError):
                while not self._is_read(path) and self._disk.shorten(path, self._piece_bytes):
                    yield
            with suppress(OSError):
                self._disk.remove(path)
            self._paths.popleft()

    def _is_read(self, path: str) -> bool:
        return any(reader.name == path and not reader.is_closed for reader in self._readers)
