"""A disk in memory that forgets what was not synced: theory of operation.

`MemoryDisk` is a `raftkv.disk.Disk`. Every file and every directory has two sides: what the system shows (the page
cache), and what is on the platter. A change is made to the first, and remembered as *unsynced* until a sync carries it
over to the second. From that follow the two ways to go down:

* `crash_process()`: locks and open files are gone, the page cache stays.
* `lose_power(rng)`: only the platter stays. Of the unsynced changes none survives, or with an `rng` any legal subset:
  each 512-byte sector of each write for itself, each truncation, each created, renamed or removed name.

Every operation first calls `before(operation, path)`, which may raise: an OSError is what a real disk would raise, any
other exception is a crash at that very boundary, with the operation not done. (`operations` lists what was done.) A
sync that fails with an OSError leaves the pages *clean*, as Linux does, those of a directory too: what they hold is
shown, is not on the platter, and the next sync has nothing to do for them.

`capacity_bytes` makes the disk full: a write that does not fit is done as far as it fits, and raises ENOSPC.
"""

from __future__ import annotations

import errno
import os
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

SECTOR_BYTES = 512


def _nothing(operation: str, path: str) -> None:
    """Let every operation pass."""


@dataclass(frozen=True)
class _Write:
    offset: int
    data: bytes

    def apply(self, content: bytearray) -> None:
        content.extend(bytes(max(0, self.offset - len(content))))
        content[self.offset : self.offset + len(self.data)] = self.data

    def survivors(self, rng: random.Random) -> Iterator[_Write | _Truncate]:
        start = self.offset
        while start < self.offset + len(self.data):
            end = min((start // SECTOR_BYTES + 1) * SECTOR_BYTES, self.offset + len(self.data))
            if rng.random() < 0.5:
                yield _Write(start, self.data[start - self.offset : end - self.offset])
            start = end


@dataclass(frozen=True)
class _Truncate:
    length: int

    def apply(self, content: bytearray) -> None:
        del content[self.length :]

    def survivors(self, rng: random.Random) -> Iterator[_Write | _Truncate]:
        if rng.random() < 0.5:
            yield self


@dataclass(eq=False)
class _Inode:
    content: bytearray = field(default_factory=bytearray)
    platter: bytearray = field(default_factory=bytearray)
    unsynced: list[_Write | _Truncate] = field(default_factory=list)
    path: str = ""
    """Where it shows itself; also to those who opened it under another name."""

    def change(self, change: _Write | _Truncate) -> None:
        change.apply(self.content)
        self.unsynced.append(change)

    def sync(self) -> None:
        for change in self.unsynced:
            change.apply(self.platter)
        self.unsynced.clear()

    def lose_power(self, rng: random.Random | None) -> None:
        for change in self.unsynced if rng else ():
            assert rng is not None
            for survivor in change.survivors(rng):
                survivor.apply(self.platter)
        self.unsynced.clear()
        self.content = bytearray(self.platter)


@dataclass(frozen=True)
class _Names:
    """A change of a directory: some names added, and some removed, atomically."""

    added: dict[str, _Inode | _Directory]
    removed: tuple[str, ...] = ()

    def apply(self, names: dict[str, _Inode | _Directory]) -> None:
        for name in self.removed:
            names.pop(name, None)
        names.update(self.added)


@dataclass(eq=False)
class _Directory:
    names: dict[str, _Inode | _Directory] = field(default_factory=dict)
    platter: dict[str, _Inode | _Directory] = field(default_factory=dict)
    unsynced: list[_Names] = field(default_factory=list)

    def change(self, change: _Names) -> None:
        change.apply(self.names)
        self.unsynced.append(change)

    def sync(self) -> None:
        for change in self.unsynced:
            change.apply(self.platter)
        self.unsynced.clear()

    def lose_power(self, rng: random.Random | None) -> None:
        for change in self.unsynced:
            if rng is not None and rng.random() < 0.5:
                change.apply(self.platter)
        self.unsynced.clear()
        self.names = dict(self.platter)
        for node in self.names.values():
            node.lose_power(rng)


class MemoryDisk:
    def __init__(self, capacity_bytes: int | None = None) -> None:
        self.capacity_bytes = capacity_bytes
        """Of all files together; None: unlimited."""
        self.before: Callable[[str, str], None] = _nothing
        self.operations: list[tuple[str, str]] = []
        """(operation, path) of each operation that was let pass, in order."""
        self._root = _Directory()
        self._locks: dict[str, list[_MemoryLock]] = {}
        self._boots = 0
        """Counts the crashes: a file that was opened before the last one is dead."""

    # What a test does to the disk

    def crash_process(self) -> None:
        """End the process that uses the disk: its locks and open files are gone."""
        self._locks.clear()
        self._boots += 1

    def lose_power(self, rng: random.Random | None = None) -> None:
        """End the whole machine; see the module's docstring."""
        self.crash_process()
        self._root.lose_power(rng)
        for path, node in self._walk("/", self._root):
            if isinstance(node, _Inode):
                node.path = path

    def content(self, path: str) -> bytes:
        """What the file shows."""
        return bytes(self._inode(path).content)

    def overwrite(self, path: str, data: bytes) -> None:
        """Put another file there, behind everybody's back and durably."""
        parent, name = self._parent(path)
        inode = _Inode(bytearray(data), bytearray(data), path=path)
        parent.names[name] = parent.platter[name] = inode

    def rot(self, path: str, data: bytes) -> None:
        """Change what the file holds, behind everybody's back, also of those who have it open."""
        inode = self._inode(path)
        inode.content, inode.platter = bytearray(data), bytearray(data)

    def drop(self, path: str) -> None:
        """Remove a name, behind everybody's back and durably."""
        parent, name = self._parent(path)
        parent.names.pop(name)
        parent.platter.pop(name, None)

    def files(self, directory: str) -> dict[str, bytes]:
        """All files of a directory, as they show themselves."""
        nodes = self._directory(directory).names
        return {name: bytes(node.content) for name, node in nodes.items() if isinstance(node, _Inode)}

    @property
    def is_empty(self) -> bool:
        """Nothing has ever been written."""
        return not self._root.names

    def exchange(self, content: _Directory | None = None) -> _Directory:
        """Have something else on it, or nothing, as if nothing had ever been written. What was on it."""
        self.crash_process()
        before, self._root = self._root, content or _Directory()
        return before

    def unsynced(self) -> list[str]:
        """The paths of all files and directories that a loss of power would change."""
        return [path for path, node in self._walk("/", self._root) if node.unsynced]

    # Disk

    def names(self, directory: str) -> list[str]:
        self._begin("names", directory)
        return list(self._directory(directory).names)

    def make_directory(self, directory: str) -> None:
        self._begin("make_directory", directory)
        parent, name = self._parent(directory)
        if name in parent.names or directory == "/":
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), directory)
        parent.change(_Names({name: _Directory()}))

    def remove_directory(self, directory: str) -> None:
        self._begin("remove_directory", directory)
        if self._directory(directory).names:
            raise OSError(errno.ENOTEMPTY, os.strerror(errno.ENOTEMPTY), directory)
        parent, name = self._parent(directory)
        parent.change(_Names({}, (name,)))

    def sync_directory(self, directory: str) -> None:
        try:
            self._begin("sync_directory", directory)
        except OSError:
            self._directory(directory).unsynced.clear()
            raise
        self._directory(directory).sync()

    def create(self, path: str) -> _MemoryFile:
        self._begin("create", path)
        parent, name = self._parent(path)
        if name in parent.names:
            self._inode(path).change(_Truncate(0))
        else:
            parent.change(_Names({name: _Inode(path=path)}))
        return _MemoryFile(self, path, self._inode(path), writable=True)

    def open(self, path: str, *, writable: bool = False) -> _MemoryFile:
        self._begin("open", path)
        return _MemoryFile(self, path, self._inode(path), writable)

    def replace(self, source: str, target: str) -> None:
        self._begin("replace", target)
        parent, old = self._parent(source)
        target_parent, new = self._parent(target)
        assert parent is target_parent, "a rename within one directory"
        inode = self._inode(source)
        parent.change(_Names({new: inode}, (old,)))
        inode.path = target

    def remove(self, path: str) -> None:
        self._begin("remove", path)
        self._inode(path)
        parent, name = self._parent(path)
        parent.change(_Names({}, (name,)))

    def shorten(self, path: str, count: int) -> int:
        self._begin("truncate", path)
        inode = self._inode(path)
        left = max(0, len(inode.content) - count)
        inode.change(_Truncate(left))
        return left

    def lock(self, path: str, *, shared: bool = False) -> _MemoryLock:
        self._begin("lock", path)
        parent, name = self._parent(path)
        if name not in parent.names and not shared:
            parent.change(_Names({name: _Inode(path=path)}))
        self._inode(path)
        holders = self._locks.setdefault(path, [])
        if any(not (shared and holder.shared) for holder in holders):
            raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN), path)
        holders.append(_MemoryLock(holders, shared))
        return holders[-1]

    # For itself and its files

    def _begin(self, operation: str, path: str) -> None:
        self.before(operation, path)
        self.operations.append((operation, path))

    def _free_bytes(self) -> int | None:
        if self.capacity_bytes is None:
            return None
        used = sum(len(node.content) for _, node in self._walk("/", self._root) if isinstance(node, _Inode))
        return max(0, self.capacity_bytes - used)

    def _walk(self, path: str, node: _Inode | _Directory) -> Iterator[tuple[str, _Inode | _Directory]]:
        yield path, node
        if isinstance(node, _Directory):
            for name, child in node.names.items():
                yield from self._walk(os.path.join(path, name), child)

    def _node(self, path: str) -> _Inode | _Directory:
        node: _Inode | _Directory = self._root
        for name in path.strip("/").split("/") if path != "/" else ():
            if not isinstance(node, _Directory):
                raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), path)
            if name not in node.names:
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
            node = node.names[name]
        return node

    def _directory(self, path: str) -> _Directory:
        node = self._node(path)
        if not isinstance(node, _Directory):
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), path)
        return node

    def _inode(self, path: str) -> _Inode:
        node = self._node(path)
        if not isinstance(node, _Inode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
        return node

    def _parent(self, path: str) -> tuple[_Directory, str]:
        return self._directory(os.path.dirname(path)), os.path.basename(path)


class _MemoryLock:
    def __init__(self, holders: list[_MemoryLock], shared: bool) -> None:
        self._holders = holders
        self.shared = shared

    def release(self) -> None:
        if self in self._holders:
            self._holders.remove(self)


class _MemoryFile:
    def __init__(self, disk: MemoryDisk, path: str, inode: _Inode, writable: bool) -> None:
        assert inode.path == path
        self._disk = disk
        self._inode = inode
        self._writable = writable
        self._boot = disk._boots
        self._is_open = True

    def size(self) -> int:
        self._begin("size")
        return len(self._inode.content)

    def read(self, offset: int, length: int) -> bytes:
        self._begin("read")
        return bytes(self._inode.content[offset : offset + length])

    def write(self, offset: int, data: bytes) -> None:
        self._begin("write")
        assert self._writable
        free = self._disk._free_bytes()
        fits = len(data) if free is None else min(len(data), max(0, len(self._inode.content) - offset) + free)
        if fits:
            self._inode.change(_Write(offset, data[:fits]))
        if fits < len(data):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), self._inode.path)

    def truncate(self, length: int) -> None:
        self._begin("truncate")
        assert self._writable
        self._inode.change(_Truncate(length))

    def sync(self) -> None:
        try:
            self._begin("sync")
        except OSError:
            self._inode.unsynced.clear()
            raise
        self._inode.sync()

    def begin_sync(self) -> None:
        pass  # it promises nothing: what has not been synced may survive in any case

    def close(self) -> None:
        if self._boot == self._disk._boots:
            self._begin("close")
        self._is_open = False

    def _begin(self, operation: str) -> None:
        assert self._is_open, f"{operation} on {self._inode.path}, which is closed"
        assert self._boot == self._disk._boots, f"{operation} on {self._inode.path}, opened before the crash"
        self._disk._begin(operation, self._inode.path)
