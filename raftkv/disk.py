"""Every file operation of a member's storage: theory of operation.

`Disk` is all that storage knows of an operating system, so that a simulator can own the disk: writes stay in its page
cache until `sync`, a crash loses what was not synced, any call fails as told. `OsDisk` is the real one.

Three things follow from how real disks behave:

* What was written is durable after `File.sync`, and not before. A new, renamed or removed *name* is durable after
  `sync_directory` of the directory it is in.
* All calls raise OSError. After a failed write or sync nothing is known of what is on the disk, even if a second try
  reports success (the kernel marks the pages clean): hence nothing here is ever retried.
* `disk_errors` turns an OSError into a StorageError that names the file and says what a person can do.
"""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Final, Protocol

from raftkv.log_storage import RESTORE, StorageError


class File(Protocol):
    """An open file."""

    def size(self) -> int:
        """Its length in bytes."""

    def read(self, offset: int, length: int) -> bytes:
        """`length` bytes from `offset`; fewer only at the end of the file."""

    def write(self, offset: int, data: bytes) -> None:
        """All of `data`, from `offset` on. When it fails, any part may have been written."""

    def truncate(self, length: int) -> None:
        """Cut everything behind the first `length` bytes."""

    def sync(self) -> None:
        """Make the content and the length durable (fdatasync)."""

    def begin_sync(self) -> None:
        """Have what has been written carried to the disk, without waiting for it: `sync` will have less to do."""

    def close(self) -> None: ...


class Lock(Protocol):
    """A lock that is held until `release`, or until the process dies."""

    def release(self) -> None: ...


class Disk(Protocol):
    """The files and directories of one machine."""

    def names(self, directory: str) -> list[str]:
        """What is in it. Raises FileNotFoundError, NotADirectoryError."""

    def make_directory(self, directory: str) -> None:
        """A new one, for its owner only. Raises FileExistsError."""

    def remove_directory(self, directory: str) -> None:
        """An empty one."""

    def sync_directory(self, directory: str) -> None:
        """Make the names in it durable."""

    def create(self, path: str) -> File:
        """A new file, or an emptied one, to read and write."""

    def open(self, path: str, *, writable: bool = False) -> File:
        """An existing file. Raises FileNotFoundError."""

    def replace(self, source: str, target: str) -> None:
        """Rename, atomically, over whatever `target` was."""

    def remove(self, path: str) -> None: ...

    def shorten(self, path: str, count: int) -> int:
        """Take the last `count` bytes off a file, or what there is, which takes no descriptor. How many are left."""

    def lock(self, path: str, *, shared: bool = False) -> Lock:
        """Lock a file against other holders, making it if need be; a shared lock makes nothing, and excludes only
        the other kind. Raises BlockingIOError at once if it can't be had."""


_datasync = getattr(os, "fdatasync", os.fsync)


class _OsFile:
    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def size(self) -> int:
        return os.fstat(self._descriptor).st_size

    def read(self, offset: int, length: int) -> bytes:
        parts: list[bytes] = []
        while length > 0 and (part := os.pread(self._descriptor, length, offset)):
            parts.append(part)
            offset += len(part)
            length -= len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def write(self, offset: int, data: bytes) -> None:
        written = os.pwrite(self._descriptor, data, offset)
        while written < len(data):  # a disk that is nearly full takes a part, and fails the next call
            written += os.pwrite(self._descriptor, memoryview(data)[written:], offset + written)

    def truncate(self, length: int) -> None:
        os.ftruncate(self._descriptor, length)

    def sync(self) -> None:
        _datasync(self._descriptor)

    def begin_sync(self) -> None:
        # Linux writes what is said not to be needed any more, and forgets it once that is done. Unlike a sync this
        # waits for no commit of the file system's journal, for which the syncs of the log would have to wait as well.
        try:
            os.posix_fadvise(self._descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        except (AttributeError, OSError):  # a system or a file system that has no such hint
            self.sync()

    def close(self) -> None:
        os.close(self._descriptor)

    release = close


class OsDisk:
    """The operating system's files.

    A process that is out of file descriptors, since connections have used them up, must still be able to write down its
    vote (hazard 19). So some can be held back for files; whoever finds that there are no others takes one of these.
    """

    def __init__(self) -> None:
        self._spares: list[int] = []
        """Open, for nothing."""
        self._spares_wanted = 0

    def hold_back(self, descriptors: int) -> None:
        """Keep so many descriptors for files, from now on."""
        self._spares_wanted = descriptors
        self._refill()

    def names(self, directory: str) -> list[str]:
        return os.listdir(directory)

    def make_directory(self, directory: str) -> None:
        os.mkdir(directory, 0o700)

    def remove_directory(self, directory: str) -> None:
        os.rmdir(directory)

    def sync_directory(self, directory: str) -> None:
        descriptor = self._open(directory, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        self._refill()

    def create(self, path: str) -> File:
        return _OsFile(self._open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC))

    def open(self, path: str, *, writable: bool = False) -> File:
        return _OsFile(self._open(path, os.O_RDWR if writable else os.O_RDONLY))

    def replace(self, source: str, target: str) -> None:
        os.replace(source, target)

    def remove(self, path: str) -> None:
        os.remove(path)

    def shorten(self, path: str, count: int) -> int:
        left = max(0, os.stat(path).st_size - count)
        os.truncate(path, left)
        return left

    def lock(self, path: str, *, shared: bool = False) -> Lock:
        descriptor = self._open(path, os.O_RDONLY if shared else os.O_RDWR | os.O_CREAT)
        try:
            fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except OSError:
            os.close(descriptor)
            raise
        return _OsFile(descriptor)

    def _open(self, path: str, flags: int) -> int:
        while True:
            try:
                return os.open(path, flags, 0o600)
            except OSError as error:
                # A connection may be quicker than we are with the one that is given up; so, one after the other.
                if error.errno not in (errno.EMFILE, errno.ENFILE) or not self._give_up_spare():
                    raise

    def _give_up_spare(self) -> bool:
        try:
            os.close(self._spares.pop())
        except IndexError:
            return False
        return True

    def _refill(self) -> None:
        """As far as there are any descriptors now."""
        with suppress(OSError):
            while len(self._spares) < self._spares_wanted:
                self._spares.append(os.open(os.devnull, os.O_RDONLY))


OS_DISK: Final = OsDisk()
TEMPORARY_SUFFIX: Final = ".tmp"
"""Of a file that is being written, until it takes the place of another."""

_MENDS: Final = {
    errno.ENOENT: RESTORE,
    errno.ENOSPC: "free some space, then start the node again",
    errno.EDQUOT: "raise the quota or free some space, then start the node again",
    errno.EACCES: "let the user who runs the node own the directory and what is in it",
    errno.EPERM: "let the user who runs the node own the directory and what is in it",
    errno.EROFS: "mount the file system for writing",
    errno.ENOTDIR: "name a directory",
    errno.EMFILE: "raise the limit of open files (ulimit -n), then start the node again",
    errno.ENFILE: "raise the system's limit of open files, then start the node again",
}


def disk_error(error: OSError, path: str) -> StorageError:
    """It as a StorageError that names the file and the mend."""
    mend = _MENDS.get(error.errno or 0, "check the disk (the kernel's log says more), then start the node again")
    return StorageError(f"{error.filename or path}: {error.strerror or error}; {mend}")


@contextmanager
def disk_errors(path: str) -> Iterator[None]:
    """Raise an OSError of the block as a StorageError."""
    try:
        yield
    except OSError as error:
        raise disk_error(error, path) from error


def read_file(disk: Disk, path: str) -> bytes:
    """All that is in a file. Raises StorageError."""
    with disk_errors(path):
        file = disk.open(path)
        try:
            return file.read(0, file.size())
        finally:
            file.close()


def replace_file(disk: Disk, path: str, data: bytes) -> File:
    """Put `data` at `path`, durably and atomically: a crash leaves the old file or the new one. Raises StorageError.

    Gives the new file back, open for writing.
    """
    with disk_errors(path):
        file = disk.create(path + TEMPORARY_SUFFIX)
        try:
            file.write(0, data)
            file.sync()
            disk.replace(path + TEMPORARY_SUFFIX, path)
            disk.sync_directory(os.path.dirname(path))
        except BaseException:
            file.close()
            raise
        return file
