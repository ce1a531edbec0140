"""The follower's side of InstallSnapshot: theory of operation.

A leader's stream is read by the thread that has taken it in. It puts the chunks into a file (`Staging`,
snapshot_transfer.py), acknowledges each, and when all is there decodes it. Nothing of this takes the turn: this member
goes on hearing its leader. Only then does the algorithm get the message, together with the file and the state, which
takes the place of the present one in the same turn, if the algorithm wants it at all.

So a transfer that breaks off, a file that is damaged, a disk without room cost nothing but the transfer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final, Protocol

import grpc

from raftkv.bounds import Refusal
from raftkv.kv_snapshot import decode
from raftkv.log_storage import SnapshotWriter, StorageError
from raftkv.raft.messages import InstallSnapshot, InstallSnapshotReply, Reply
from raftkv.replica import Input, SnapshotReceived
from raftkv.replica import Status as ReplicaStatus
from raftkv.snapshot_transfer import BrokenOff, Offer, Staging, arrived_to_wire, install_reply_to_wire
from raftkv.transport import Malformed, Membership
from raftkv.wire import raft_pb2 as wire

_PATIENCE: Final = 60.0
"""Seconds that the replica may take to install a snapshot which is durable already."""


class Host(Protocol):
    """What the receiver asks of its node."""

    @property
    def membership(self) -> Membership: ...

    def bring(self, item: Input) -> None: ...

    def status(self) -> ReplicaStatus: ...


class SnapshotReceiver:
    """Takes in the streams of leaders, each in the thread of its caller."""

    def __init__(
        self,
        host: Host,
        staging: Staging,
        note: Callable[[str], None],
    ) -> None:
        self._host = host
        self._staging = staging
        self._note = note
        self._closed = False

    def committed(self, index: int, aside: Callable[[Callable[[], None]], object]) -> None:
        """This member has everything up to `index`: what is coming in and reaches no further is given up, `aside`. By
        whoever holds the turn."""
        if 0 < self._staging.last_index <= index:
            aside(lambda: self._staging.forget_up_to(index))

    def close(self) -> None:
        """Take in nothing more."""
        self._closed = True
        self._staging.close()

    def receive(
        self, offer: Offer, chunks: Iterator[wire.InstallSnapshotRequest], wait: Callable[[float], Reply | None]
    ) -> Iterator[wire.InstallSnapshotReply]:
        """See `service.Receiver`."""
        status = self._host.status()
        if offer.message.term < status.term or offer.message.snapshot.last.index <= status.commit_index:
            # The algorithm will not want it, and only has to say so.
            self._host.bring(offer.message)
            yield self._final(wait(_PATIENCE))
            return
        try:
            stream, arrived = self._staging.open(offer)
            if not arrived:
                self._note(f"gets a snapshot of {offer.size:,} bytes from node {offer.message.sender}")
            yield arrived_to_wire(status.term, arrived)
            while not self._staging.is_complete(stream):
                chunk = next(chunks, None)
                if chunk is None:
                    raise Refusal(grpc.StatusCode.CANCELLED, "the stream ends before the snapshot does")
                yield arrived_to_wire(status.term, self._staging.take(stream, chunk))
            self._host.bring(self._finish(stream, offer.message))
            yield self._final(wait(_PATIENCE))
        except BrokenOff as error:
            raise Refusal(grpc.StatusCode.ABORTED, str(error)) from None
        except Malformed as error:
            raise Refusal(grpc.StatusCode.DATA_LOSS, str(error)) from None
        except StorageError as error:
            self._note(f"can't take in a snapshot: {error}")
            raise Refusal(grpc.StatusCode.RESOURCE_EXHAUSTED, str(error)) from None

    def _finish(self, stream: int, message: InstallSnapshot) -> SnapshotReceived:
        writer = self._staging.finish(stream)
        try:
            meta, state = decode(_Abandonable(writer, lambda: self._closed))
            if meta != message.snapshot:
                raise StorageError(f"{writer.name}: holds the state after {meta.last}, not {message.snapshot.last}")
        except BaseException:
            writer.discard()
            raise
        return SnapshotReceived(message, writer, state)

    def _final(self, reply: Reply | None) -> wire.InstallSnapshotReply:
        if not isinstance(reply, InstallSnapshotReply):
            raise Refusal(grpc.StatusCode.DEADLINE_EXCEEDED, "the node is too busy to answer")
        membership = self._host.membership
        return install_reply_to_wire(reply, membership.incarnation, membership.directory_joined)


@dataclass(slots=True)
class _Abandonable:
    """A reader that stops in the middle when the node does: a large snapshot takes a while."""

    reader: SnapshotWriter
    is_abandoned: Callable[[], bool]

    @property
    def name(self) -> str:
        return self.reader.name

    @property
    def size(self) -> int:
        return self.reader.size

    def read(self, offset: int, length: int) -> bytes:
        if self.is_abandoned():
            raise BrokenOff("the node is stopping")
        return self.reader.read(offset, length)
