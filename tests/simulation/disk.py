"""A member's disk: theory of operation.

`tests.support.memory_disk` is the disk itself: page cache and platter, what survives a crash of the process and what a
loss of power. `SimulatedDisk` adds what a simulation needs: every change passes a boundary, at which the member may
crash (a write also in its middle); a sync takes time; and the disk fails as it is told.
"""

from __future__ import annotations

import errno
import os
import random
from collections.abc import Callable
from contextlib import suppress
from enum import Enum

from raftkv.metadata import decode_metadata
from raftkv.segment import decode_frame, decode_segment_header
from raftkv.segmented_log import segment_numbers
from raftkv.snapshot_file import snapshot_name
from tests.support.memory_disk import MemoryDisk, _Directory, _MemoryFile


class Boundary(Enum):
    """Where a member can crash: before each of these, and so also after the one before."""

    CREATE = "create"
    WRITE = "write"
    TRUNCATE = "truncate"
    SYNC = "fsync"
    RENAME = "rename"
    SYNC_DIRECTORY = "fsync of a directory"
    REMOVE = "remove"
    MESSAGE = "message sent"
    ANSWER = "reply sent"
    APPLY = "entry applied"


_BOUNDARIES = {
    "create": Boundary.CREATE,
    "make_directory": Boundary.CREATE,
    "truncate": Boundary.TRUNCATE,
    "sync": Boundary.SYNC,
    "replace": Boundary.RENAME,
    "sync_directory": Boundary.SYNC_DIRECTORY,
    "remove": Boundary.REMOVE,
}
"""By the disk's name of an operation; the others change nothing."""


class Crashed(BaseException):
    """The process is no more. Not an Exception, so that nothing in it can catch this."""

    def __init__(self, where: str, power_lost: bool, in_the_middle: bool) -> None:
        super().__init__(where)
        self.power_lost = power_lost
        """The whole machine is down, not the process alone."""
        self.in_the_middle = in_the_middle
        """Of a write: a part of it is done yet."""


class SimulatedDisk(MemoryDisk):
    def __init__(
        self, rng: random.Random, cross: Callable[[Boundary, str], None], spend: Callable[[float], None]
    ) -> None:
        """`cross` is called before each change of a path, and may raise `Crashed`; `spend` is told what a sync
        takes."""
        super().__init__()
        self.before = self._before
        self._rng = rng
        self.cross = cross
        self._spend = spend
        self.sync_time = 0.0
        """A sync takes up to so many seconds."""
        self.has_failed = False
        """Since the process started: it may give up."""
        self._failing: str | None = None
        self._stall = 0.0
        self._flips: list[tuple[str, int, int]] = []

    # ---- faults ------------------------------------------------------------------------------------------------------

    def fail_next(self, operation: str) -> None:
        """The next operation of this kind, by the disk's name of it, is an I/O error."""
        self._failing = operation

    def stall_next_sync(self, seconds: float) -> None:
        self._stall = seconds

    def fill_up(self, room: int) -> None:
        """Let only so many bytes more be written."""
        files = {} if self.is_empty else self.files(self.directory)
        self.capacity_bytes = sum(map(len, files.values())) + room

    def free_space(self) -> None:
        self.capacity_bytes = None

    def end_faults(self) -> None:
        """Free the space, and fail no more."""
        self.free_space()
        self._failing = None
        self._stall = 0.0

    def exchange(self, content: _Directory | None = None) -> _Directory:
        """Have another one in its place, without faults; an empty one if nothing else is said. What was on it."""
        self.restore()
        self.end_faults()
        self.has_failed = False
        return super().exchange(content)

    def restore(self) -> None:
        """Put the intact data back over what was damaged."""
        for path, offset, mask in reversed(self._flips):
            self._flip(path, offset, mask)
        self._flips.clear()

    @property
    def directory(self) -> str:
        return "/data"

    @property
    def is_damaged(self) -> bool:
        """A bit has been flipped: the member must refuse to start."""
        return bool(self._flips)

    def flip_a_bit(self) -> str | None:
        """Flip a bit that a start must notice: anywhere but in the last batch (damage there can't be told from a torn
        write), and not in what is no data. Says where, None if there is no such bit."""
        places = self._damageable()
        if not places:
            return None
        name, length = self._rng.choice(places)
        path, offset, mask = (
            os.path.join(self.directory, name),
            self._rng.randrange(length),
            1 << self._rng.randrange(8),
        )
        self._flips.append((path, offset, mask))
        self._flip(path, offset, mask)
        return f"{path} at byte {offset}"

    def _damageable(self) -> list[tuple[str, int]]:
        """(file, how many bytes of it from the start may be damaged)."""
        files = {} if self.is_empty else self.files(self.directory)
        if "identity" not in files or self.unsynced():
            return []  # the very first start has not ended, or a crash may have lost some of it
        metadata = decode_metadata(files["metadata"], "metadata")
        numbers = [number for number in segment_numbers(files) if number >= metadata.first_segment]
        whole = ["identity", "metadata"]
        if metadata.snapshot is not None:
            whole.append(snapshot_name(metadata.snapshot.last.index))
        places = [(name, len(files[name])) for name in whole]
        for number in numbers:
            name = f"log-{number}"
            places.append((name, len(files[name]) if number < numbers[-1] else _before_last_batch(files[name], name)))
        return [(name, length) for name, length in places if length]

    def _flip(self, path: str, offset: int, mask: int) -> None:
        data = bytearray(self.content(path))
        data[offset] ^= mask
        self.overwrite(path, bytes(data))

    # ---- Disk --------------------------------------------------------------------------------------------------------

    def create(self, path: str) -> _MemoryFile:
        super().create(path)
        return _TearingFile(self, path, self._inode(path), writable=True)

    def open(self, path: str, *, writable: bool = False) -> _MemoryFile:
        super().open(path, writable=writable)
        return _TearingFile(self, path, self._inode(path), writable)

    def _before(self, operation: str, path: str) -> None:
        self.operations.clear()  # nobody reads the list
        boundary = _BOUNDARIES.get(operation)
        if boundary is not None:
            self.cross(boundary, path)
        if operation == self._failing:
            self._failing = None
            self.has_failed = True
            if operation == "sync":
                self._sync_in_part(path)
            raise OSError(errno.EIO, os.strerror(errno.EIO), path)
        if operation in ("sync", "sync_directory"):
            self._spend(self.sync_time * self._rng.random() + self._stall)
            self._stall = 0.0

    def random_part(self, length: int) -> int:
        """How many of `length` bytes are written before a crash."""
        return self._rng.randrange(length + 1)

    def _sync_in_part(self, path: str) -> None:
        """Of what a failing sync was to write, any part may have reached the platter."""
        inode = self._inode(path)
        for change in inode.unsynced:
            for survivor in change.survivors(self._rng):
                survivor.apply(inode.platter)


class _TearingFile(_MemoryFile):
    _disk: SimulatedDisk

    def write(self, offset: int, data: bytes) -> None:
        try:
            self._disk.cross(Boundary.WRITE, self._inode.path)
        except Crashed as crash:
            if crash.in_the_middle:
                with suppress(OSError):
                    super().write(offset, data[: self._disk.random_part(len(data))])
            raise
        try:
            super().write(offset, data)
        except OSError:
            self._disk.has_failed = True
            raise


def _before_last_batch(data: bytes, name: str) -> int:
    """Where the last whole batch of a segment begins."""
    segment = decode_segment_header(data, name)
    start = offset = len(segment.encode())
    while (frame := decode_frame(data, segment, offset, offset)) is not None:
        start, offset = offset, offset + frame[0].frame_bytes
    return start
