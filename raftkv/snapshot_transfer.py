"""A snapshot on its way from a leader to a follower (section 7, figure 13): theory of operation.

The two ends of the stream InstallSnapshot, without threads or a network: `Outgoing` decides what the leader sends next,
`Staging` keeps what the follower has got of it.

    leader                                           follower
    first: who, term, which snapshot      ----->     is it of use? how much of it is here already?
                                          <-----     from where on it is wanted
    chunks, at most WINDOW unanswered     ----->     checked, and appended to a file beside everything else
                                          <-----     up to where it has arrived
    ...
                                          <-----     the algorithm's answer, once all has been checked and synced

What goes wrong on the way costs nothing but the way: until all of it is there the file is only a file, which belongs to
`Staging` alone. When a stream breaks off, it is kept, and the next stream that brings the same snapshot goes on where
that one stopped; one that brings another begins a new file. Who brings it does not matter: two snapshots are the same
if they end at the same entry and have the same size and checksum. A newer stream takes over from an older one, so that
chunks which were long under way can't come between.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import google_crc32c

from raftkv.log_storage import SnapshotReader, SnapshotWriter
from raftkv.raft.configuration import MalformedConfiguration, decode_configuration
from raftkv.raft.messages import InstallSnapshot, InstallSnapshotReply
from raftkv.raft.types import LogPosition, SnapshotMeta
from raftkv.transport import Malformed, require_possible
from raftkv.wire import raft_pb2 as wire

CHUNK_BYTES: Final = 256 << 10
WINDOW: Final = 4
"""Chunks that are not acknowledged yet: what a transfer takes of the memory of either side, and of the network's."""


class BrokenOff(Exception):
    """This stream can't go on; another one may."""


def checksum_of(reader: SnapshotReader) -> int:
    """CRC32C of a whole snapshot. Reads all of it. Raises StorageError."""
    checksum = 0
    for offset in range(0, reader.size, CHUNK_BYTES):
        checksum = google_crc32c.extend(checksum, reader.read(offset, CHUNK_BYTES))
    return checksum


# ---- the leader's end ------------------------------------------------------------------------------------------------


class Outgoing:
    """One stream, as the leader sees it."""

    def __init__(
        self,
        message: InstallSnapshot,
        reader: SnapshotReader,
        checksum: int,
        identity: wire.Identity,
        chunk_bytes: int = CHUNK_BYTES,
        window: int = WINDOW,
    ) -> None:
        """`message` speaks of the snapshot that `reader` has; `checksum` is `checksum_of` it."""
        self._message = message
        self._reader = reader
        self._checksum = checksum
        self._identity = identity
        self._chunk_bytes = chunk_bytes
        self._window = window
        self._has_begun = False
        self._sent = 0
        """Where the next chunk begins."""
        self.acknowledged = 0
        """Up to where the follower has it."""
        self.answer: InstallSnapshotReply | None = None
        """The algorithm's, once it has come: the stream is done then."""

    def first(self) -> wire.InstallSnapshotRequest:
        """What the stream begins with. Chunks go out only in answer to answers."""
        message, snapshot = self._message, self._message.snapshot
        return wire.InstallSnapshotRequest(
            term=message.term,
            leader_id=message.sender,
            last_index=snapshot.last.index,
            last_term=snapshot.last.term,
            time_ms=snapshot.time_ms,
            configuration=snapshot.configuration,
            size=self._reader.size,
            checksum=self._checksum,
            identity=self._identity,
        )

    def answered(self, reply: wire.InstallSnapshotReply) -> list[wire.InstallSnapshotRequest]:
        """Take in an answer; the chunks to send next, in order. Raises Malformed, StorageError."""
        if reply.done:
            self.answer = install_reply_from_wire(reply, self._message)
            return []
        limit = self._sent if self._has_begun else self._reader.size
        if reply.next_offset > limit:
            raise Malformed(f"{reply.next_offset} bytes have arrived of {limit} that were sent")
        if not self._has_begun:
            self._has_begun = True
            self._sent = reply.next_offset
        self.acknowledged = max(self.acknowledged, reply.next_offset)
        chunks = []
        while self._sent < min(self._reader.size, self.acknowledged + self._window * self._chunk_bytes):
            chunks.append(self._next_chunk())
        return chunks

    def _next_chunk(self) -> wire.InstallSnapshotRequest:
        data = self._reader.read(self._sent, self._chunk_bytes)
        offset, self._sent = self._sent, self._sent + len(data)
        return wire.InstallSnapshotRequest(offset=offset, data=data, data_checksum=google_crc32c.value(data))


# ---- the follower's end ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Offer:
    """What the first request of a stream says."""

    message: InstallSnapshot
    """For the algorithm, when all of the snapshot is there."""
    size: int
    checksum: int

    @property
    def snapshot_id(self) -> tuple[LogPosition, int, int]:
        """The same for two offers exactly if they offer the same bytes."""
        return self.message.snapshot.last, self.size, self.checksum


def offer_from_wire(request: wire.InstallSnapshotRequest, me: int, call: int) -> Offer:
    """The first request of a stream; `call` is for the algorithm's answer to find its way. Raises Malformed."""
    require_possible(request.term, request.last_index, request.size, request.time_ms)
    if not 0 < request.last_term <= request.term or not request.last_index:
        raise Malformed(f"a leader of term {request.term} has no snapshot of entry {request.last_index}")
    if not request.size:
        raise Malformed("no snapshot is empty")
    if request.configuration:
        try:
            decode_configuration(request.configuration)
        except MalformedConfiguration as error:
            raise Malformed(f"a configuration that can't be read: {error}") from None
    last = LogPosition(request.last_term, request.last_index)
    snapshot = SnapshotMeta(last, request.time_ms, request.configuration)
    return Offer(InstallSnapshot(request.leader_id, me, request.term, snapshot, call), request.size, request.checksum)


class Staging:
    """What this member has got of a snapshot that is being sent to it: one at a time. Safe from any thread."""

    def __init__(self, begin: Callable[[], SnapshotWriter]) -> None:
        """`begin` makes a file (`LogStorage.begin_snapshot`)."""
        self._begin = begin
        self._lock = threading.Lock()
        self._stream = 0
        """The number of the one that may add to the file."""
        self._offer: Offer | None = None
        self._writer: SnapshotWriter | None = None
        self._checksum = 0
        """Of what is in the file."""

    def open(self, offer: Offer) -> tuple[int, int]:
        """A stream begins: its number, and from where on the snapshot is wanted. Raises StorageError; then it costs
        nothing but this stream."""
        with self._lock:
            self._stream += 1
            if self._writer is None or self._offer is None or self._offer.snapshot_id != offer.snapshot_id:
                self._forget()
                self._writer = self._begin()
            self._offer = offer
            return self._stream, self._writer.size

    def take(self, stream: int, request: wire.InstallSnapshotRequest) -> int:
        """Take in a chunk: up to where the snapshot has arrived.

        Raises BrokenOff if the stream has been taken over by another, or if something is missing before the chunk;
        Malformed for a chunk that is damaged; StorageError, which costs the file.
        """
        data, end = request.data, request.offset + len(request.data)
        with self._lock:
            writer, offer = self._require(stream)
            if end <= writer.size:
                return writer.size  # it has arrived before
            if request.offset != writer.size:
                raise BrokenOff(f"the chunk at {request.offset} does not follow what ends at {writer.size}")
            if end > offer.size or google_crc32c.value(data) != request.data_checksum:
                raise Malformed(f"the chunk at {request.offset} is damaged")
            try:
                writer.write(data)
            except BaseException:
                self._forget()
                raise
            self._checksum = google_crc32c.extend(self._checksum, data)
            return writer.size

    def is_complete(self, stream: int) -> bool:
        """Whether all has arrived. Raises BrokenOff, as `take`."""
        with self._lock:
            writer, offer = self._require(stream)
            return writer.size == offer.size

    def finish(self, stream: int) -> SnapshotWriter:
        """All has arrived: make it durable. The file is the caller's from here on. Raises BrokenOff, Malformed if what
        has arrived is not what was offered, StorageError; the last two cost the file."""
        with self._lock:
            writer, offer = self._require(stream)
            if self._checksum != offer.checksum:
                self._forget()
                raise Malformed("what has arrived is not the snapshot that was offered")
            self._writer = self._offer = None
            self._checksum = 0
        try:
            writer.finish()
        except BaseException:
            writer.discard()
            raise
        return writer

    @property
    def last_index(self) -> int:
        """Up to where the snapshot reaches that is coming in; 0: there is none."""
        offer = self._offer  # looked at once: it may go at any moment
        return 0 if offer is None else offer.message.snapshot.last.index

    def forget_up_to(self, index: int) -> None:
        """Give up what is here if it reaches no further than this: this member has all that by now, whoever it has got
        it from, and half of a snapshot would lie about for good."""
        with self._lock:
            if self._offer is not None and self._offer.message.snapshot.last.index <= index:
                self._forget()

    def close(self) -> None:
        """Give up what is here."""
        with self._lock:
            self._stream += 1
            self._forget()

    def _require(self, stream: int) -> tuple[SnapshotWriter, Offer]:
        if stream != self._stream or self._writer is None or self._offer is None:
            raise BrokenOff("a newer stream has taken over")
        return self._writer, self._offer

    def _forget(self) -> None:
        writer, self._writer, self._offer = self._writer, None, None
        self._checksum = 0
        if writer is not None:
            writer.discard()


# ---- answers ---------------------------------------------------------------------------------------------------------


def arrived_to_wire(term: int, next_offset: int) -> wire.InstallSnapshotReply:
    """An answer before the last one."""
    return wire.InstallSnapshotReply(term=term, next_offset=next_offset)


def install_reply_to_wire(
    reply: InstallSnapshotReply, incarnation: bytes = b"", joined: int = 0
) -> wire.InstallSnapshotReply:
    """The algorithm's answer, which is the last one."""
    return wire.InstallSnapshotReply(
        term=reply.term,
        success=reply.success,
        match_index=reply.match_index,
        done=True,
        incarnation=incarnation,
        joined=joined,
    )


def install_reply_from_wire(reply: wire.InstallSnapshotReply, request: InstallSnapshot) -> InstallSnapshotReply:
    """The last answer to a stream that began with `request`. Raises Malformed."""
    require_possible(reply.term, reply.match_index)
    return InstallSnapshotReply(
        request.recipient,
        request.sender,
        reply.term,
        reply.success,
        reply.match_index,
        incarnation=reply.incarnation,
        joined=reply.joined,
        asked_in=request.asked_in,
    )
