"""Backups of a live cluster, at the client: theory of operation.

What the leader sends (backup.py) goes into `<path>.part`, piece by piece. When all has come it is synced, and read once
more from beginning to end: a backup that could not be restored is none. Only then it gets its name. So a file with that
name is whole, whenever the client or its machine may have died; a `.part` that is left over is overwritten next time.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

import google_crc32c
import grpc

from raftkv.disk import OS_DISK
from raftkv.errors import NotApplied, WrongValue
from raftkv.kv_snapshot import check
from raftkv.log_storage import StorageError
from raftkv.routing import Backoff, Member, Router
from raftkv.snapshot_file import SnapshotFile
from raftkv.wire.raft_pb2 import BackupReply, BackupRequest

PART_SUFFIX: Final = ".part"

Progress = Callable[[int, int], None]
"""Called with the bytes that have come, and of how many; (0, 0) while the leader saves its state."""


@dataclass(frozen=True, slots=True)
class BackupInfo:
    """What a backup holds."""

    last_index: int
    """It holds the state as the log up to this entry has made it."""
    last_term: int
    keys: int
    size: int
    """Of the file, in bytes."""
    cluster_id: bytes


def make_backup(router: Router, path: str, timeout: float, progress: Progress) -> BackupInfo:
    """Ask the leader for a backup, and write it to `path`, which does not exist yet. `timeout` is how long there may
    be no leader, and how long nothing may come from it, in seconds. Raises NotApplied."""
    if os.path.lexists(path):
        raise WrongValue(
            f"{path} exists already: name another file, or remove it; nothing was done", "INVALID_ARGUMENT"
        )
    path = os.path.abspath(path)
    directory = os.path.dirname(path)
    if not os.path.isdir(directory):
        raise WrongValue(
            f"{directory} is no directory: make it, or name a file in another one; nothing was done", "INVALID_ARGUMENT"
        )
    try:
        return _write(router, path, timeout, progress)
    except StorageError as error:
        # Of the disk here, which this machine's owner can mend; or what has come is damaged.
        code = "FAILED_PRECONDITION" if isinstance(error.__cause__, OSError) else "DATA_LOSS"
        raise NotApplied(f"{str(error).partition('; ')[0]}; no backup was made", code) from None


def _write(router: Router, path: str, timeout: float, progress: Progress) -> BackupInfo:
    file = SnapshotFile.create(OS_DISK, path + PART_SUFFIX)
    try:
        _receive(router, file, timeout, progress)
        file.finish()
        contents = check(file)
        file.move_to(path)
    except BaseException:
        file.discard()
        raise
    last = contents.meta.last
    return BackupInfo(last.index, last.term, contents.keys, contents.size, contents.cluster_id)


def _receive(router: Router, file: SnapshotFile, timeout: float, progress: Progress) -> None:
    """Try until a leader has begun to send; then no more."""
    deadline = time.monotonic() + timeout
    backoff = Backoff(deadline, router.closed)
    while True:
        leader = router.leader(deadline, "no backup was made")
        try:
            with _watched(leader, timeout, router) as replies:
                _take(replies, file, progress)
            return
        except _Silent:
            raise NotApplied(f"nothing has come for {timeout:g} s; no backup was made", "DEADLINE_EXCEEDED") from None
        except grpc.RpcError as error:
            code, details = error.code(), error.details() or error.code().name
            if router.closed.is_set():
                raise NotApplied("the client is closed; no backup was made", "CANCELLED") from None
            router.doubt(leader)
            if file.size or not backoff.pause():
                raise NotApplied(f"{leader.address}: {details}; no backup was made", code.name) from None


def _take(replies: Iterator[BackupReply], file: SnapshotFile, progress: Progress) -> None:
    size = 0
    for reply in replies:
        size = size or reply.size
        if reply.data:
            if reply.offset != file.size or google_crc32c.value(reply.data) != reply.data_checksum:
                raise NotApplied(f"what came at byte {file.size} is damaged; no backup was made", "DATA_LOSS")
            file.write(reply.data)
        progress(file.size, size)
    if not size or file.size != size:
        raise NotApplied(f"only {file.size} of {size} bytes have come; no backup was made", "DATA_LOSS")


class _Silent(Exception):
    """Nothing has come for too long."""


@contextmanager
def _watched(leader: Member, timeout: float, router: Router) -> Iterator[Iterator[BackupReply]]:
    """The leader's replies. The call is given up if nothing comes for so many seconds, or the client is closed."""
    call: Any = leader.stub.Backup(BackupRequest())
    heard = [time.monotonic()]
    is_over, is_silent = threading.Event(), threading.Event()

    def watch() -> None:
        while not is_over.wait(min(0.1, timeout / 4)):
            if time.monotonic() - heard[0] > timeout:
                is_silent.set()
            if is_silent.is_set() or router.closed.is_set():
                call.cancel()
                return

    def listen() -> Iterator[BackupReply]:
        for reply in call:
            heard[0] = time.monotonic()
            yield reply

    threading.Thread(target=watch, name="backup", daemon=True).start()
    try:
        yield listen()
    except grpc.RpcError:
        if is_silent.is_set():
            raise _Silent from None
        raise
    finally:
        is_over.set()
        call.cancel()
