"""Backups of a live cluster, at the leader: theory of operation.

A backup is a snapshot: the very file that a member saves its state in (kv_snapshot.py), with all its checks. So there
is nothing to freeze or to encode here. The call asks first, as any linearizable read, up to where the log has been
applied: then every write is in that was acknowledged before. It waits for a snapshot that is no older, which is saved
for it unless there is one (`SnapshotWanted`), and sends that file.

The file stays readable while it is open, whatever takes its place. A client that takes it slowly holds up a thread and
a file, and nothing else: there are few of these threads, and only one piece is in memory at a time.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Generator, Iterator
from contextlib import closing, contextmanager
from typing import Any, Final, Protocol

import google_crc32c
import grpc

from raftkv.bounds import Refusal
from raftkv.log_storage import SnapshotReader, StorageError
from raftkv.replica import Input, NotLeader, Query, Served
from raftkv.service import WaitingCaller
from raftkv.snapshots import SnapshotWanted
from raftkv.wire import raft_pb2 as wire

MAX_BACKUPS: Final = 2
"""At a time, of one node."""
PIECE_BYTES: Final = 256 << 10
_SIGN_OF_LIFE: Final = 1.0
"""Seconds between two empty replies while the state is being saved."""


class Host(Protocol):
    """What is asked of the node."""

    def bring(self, item: Input) -> None: ...


class Backups:
    """Answers the calls, each in the thread of its caller."""

    def __init__(self, host: Host, timeout: float) -> None:
        """`timeout`: how long a quorum may take to answer that this member leads, in seconds."""
        self._host = host
        self._timeout = timeout
        self._free = threading.BoundedSemaphore(MAX_BACKUPS)

    @contextmanager
    def serve(self) -> Iterator[Iterator[wire.BackupReply]]:
        """One backup: what to send. Raises Refusal, then or while it is being taken from there."""
        if not self._free.acquire(blocking=False):
            text = f"{MAX_BACKUPS} backups are being made already; nothing has been done: try again later"
            raise Refusal(grpc.StatusCode.RESOURCE_EXHAUSTED, text)
        try:
            with closing(self._replies()) as replies:
                yield replies
        finally:
            self._free.release()

    def _replies(self) -> Generator[wire.BackupReply, None, None]:
        index = self._ask_index()
        snapshot = _Awaited()
        self._host.bring(SnapshotWanted(index, snapshot.take))
        try:
            while (answer := snapshot.wait(_SIGN_OF_LIFE)) is None:
                yield wire.BackupReply()
            if isinstance(answer, str):
                raise Refusal(grpc.StatusCode.UNAVAILABLE, answer)
            yield from _pieces(answer)
        finally:
            snapshot.close()

    def _ask_index(self) -> int:
        """Up to where the log has been applied, asked as a linearizable read."""
        caller = WaitingCaller()
        self._host.bring(Query(lambda machine: machine.applied_index, caller))
        outcome = caller.slot.wait(self._timeout)
        if outcome is None:
            raise Refusal(grpc.StatusCode.UNAVAILABLE, "no answer from a quorum in time")
        if isinstance(outcome, NotLeader):
            raise Refusal(grpc.StatusCode.FAILED_PRECONDITION, "does not lead")
        assert isinstance(outcome, Served)
        index: int = outcome.value
        return index


def _pieces(reader: SnapshotReader) -> Iterator[wire.BackupReply]:
    yield wire.BackupReply(size=reader.size)
    for offset in range(0, reader.size, PIECE_BYTES):
        began = time.perf_counter()
        try:
            data = reader.read(offset, PIECE_BYTES)
        except StorageError as error:
            raise Refusal(grpc.StatusCode.UNAVAILABLE, str(error).partition("; ")[0]) from None
        yield wire.BackupReply(offset=offset, data=data, data_checksum=google_crc32c.value(data))
        # Rest for as long as that has taken, so that those who answer clients are not held up for long.
        time.sleep(min(time.perf_counter() - began, 0.05))


class _Awaited:
    """A snapshot on its way from the turn to the thread that sends it. That may have gone when it comes."""

    def __init__(self) -> None:
        self._changed = threading.Condition()  # guards the rest
        self._answer: Any = None
        self._is_closed = False

    def take(self, answer: SnapshotReader | str) -> None:
        with self._changed:
            self._answer = answer
            self._changed.notify_all()
            is_late = self._is_closed
        if is_late:
            self.close()

    def wait(self, seconds: float) -> SnapshotReader | str | None:
        """What has been answered; None if nothing has within that time."""
        with self._changed:
            self._changed.wait_for(lambda: self._answer is not None, seconds)
            answer: SnapshotReader | str | None = self._answer
            return answer

    def close(self) -> None:
        """Nobody wants it any more."""
        with self._changed:
            self._is_closed = True
            answer, self._answer = self._answer, None
        if answer is not None and not isinstance(answer, str):
            answer.close()
