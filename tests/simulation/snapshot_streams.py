"""Snapshots on their way from one member to another: theory of operation.

What a node does with threads and streams of gRPC (`raftkv.snapshot_sender`, `raftkv.snapshot_receiver`) is done here
in events of the world, around the same `Outgoing` and `Staging`. A stream is a number; its requests and answers are
packets like all others, so they get lost, doubled, late, and sent again long after. Much of that gRPC rules out within
a stream: here the two ends must do without. Whoever waits in vain gives up, as a node does when a connection breaks.

All that the follower does with its disk passes boundaries, at which the process can crash, with turns in between; and
the disk may be full or failing, which costs the transfer and nothing else. Each transfer ends in one input for the
algorithm that has asked for it: the follower's answer, or that it is unreachable.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from raftkv.kv_snapshot import decode
from raftkv.log_storage import SnapshotReader, StorageError
from raftkv.raft.messages import InstallSnapshot, InstallSnapshotReply
from raftkv.replica import SnapshotReceived, Unreachable
from raftkv.snapshot_sender import MAX_TRANSFERS
from raftkv.snapshot_transfer import (
    BrokenOff,
    Offer,
    Outgoing,
    Staging,
    arrived_to_wire,
    checksum_of,
    install_reply_to_wire,
    offer_from_wire,
)
from raftkv.transport import Malformed
from raftkv.wire import raft_pb2 as wire
from tests.simulation.world import Violation

if TYPE_CHECKING:
    from raftkv.storage import Storage
    from tests.simulation.member import Member

_PATIENCE = 4
"""Steps, on average, after which an end that has heard nothing gives up."""


@dataclass(frozen=True, slots=True)
class ToFollower:
    """A request of a stream."""

    stream: int
    request: wire.InstallSnapshotRequest

    def __str__(self) -> str:
        request = self.request
        if request.size:
            what = f"up to {request.last_index} of term {request.last_term}, {request.size} bytes, term {request.term}"
        else:
            what = f"{len(request.data)} bytes from {request.offset} on"
        return f"snapshot, stream {self.stream}: {what}"


@dataclass(frozen=True, slots=True)
class ToLeader:
    """An answer of a stream; None: it is broken off."""

    stream: int
    reply: wire.InstallSnapshotReply | None

    def __str__(self) -> str:
        reply = self.reply
        if reply is None:
            what = "broken off"
        elif reply.done:
            what = f"taken, has {reply.match_index}" if reply.success else f"refused, term {reply.term}"
        else:
            what = f"the first {reply.next_offset} bytes are here"
        return f"snapshot, stream {self.stream}: {what}"


SnapshotPacket = ToFollower | ToLeader


@dataclass(eq=False, slots=True)
class _Sending:
    """A transfer at the leader's end."""

    peer: int
    stream: int
    term: int
    outgoing: Outgoing
    reader: SnapshotReader
    has_begun: bool = False
    """The follower has said from where on it wants the snapshot."""
    is_of_the_past: bool = False
    """In a later term another one has been asked for."""


@dataclass(eq=False, slots=True)
class _Receiving:
    """A stream at the follower's end."""

    source: str
    stream: int
    number: int
    """The stream's, in `Staging`."""
    offer: Offer
    is_complete: bool = False


class SnapshotStreams:
    """Those of one life of a member, both ends."""

    def __init__(self, member: Member, storage: Storage, step: float, pace: float, chunk_bytes: int) -> None:
        """`pace`: seconds that a thread takes for anything, on average."""
        self._member = member
        self._storage = storage
        self._step = step
        self._pace = pace
        self._chunk_bytes = chunk_bytes
        self._sending: dict[int, _Sending] = {}
        """By peer."""
        self._staging = Staging(partial(storage.begin_snapshot, at_disks_pace=True))
        self._receiving: dict[tuple[str, int], _Receiving] = {}
        """By (source, stream)."""
        self._asked: dict[int, tuple[str, int]] = {}
        """By call: the stream whose last answer the algorithm is to give."""

    @property
    def is_receiving(self) -> bool:
        """Some of a snapshot is coming in."""
        return bool(self._receiving)

    def receive(self, source: str, packet: SnapshotPacket) -> None:
        """A packet has arrived."""
        if isinstance(packet, ToLeader):
            sending = self._of(packet.stream)
            if sending is not None:
                self._answered(sending, packet.reply)
        elif packet.request.size:
            self._open(source, packet)
        elif (source, packet.stream) in self._receiving:
            self._take(self._receiving[source, packet.stream], packet.request)

    # ---- the leader's end --------------------------------------------------------------------------------------------

    def send(self, message: InstallSnapshot) -> None:
        """The algorithm wants a snapshot sent."""
        peer, member = message.recipient, self._member
        if peer in self._sending:
            self._sending[peer].is_of_the_past |= message.term > self._sending[peer].term
            return
        if len(self._sending) >= MAX_TRANSFERS:
            self._count("put off, as there are too many")
            member.bring(Unreachable(peer))
            return
        reader = self._storage.open_snapshot()
        outgoing = Outgoing(message, reader, checksum_of(reader), wire.Identity(), self._chunk_bytes)
        sending = self._sending[peer] = _Sending(peer, member.new_stream(), message.term, outgoing, reader)
        self._count("begun")
        member.post(f"n{peer}", ToFollower(sending.stream, outgoing.first()))
        self._watch(sending)

    def lost(self, packet: SnapshotPacket) -> None:
        """The connection of a packet's stream has failed, and its sender knows."""
        sending = self._of(packet.stream) if isinstance(packet, ToFollower) else None
        if sending is not None:
            self._give_up(sending, "broken off by the network")

    def _of(self, stream: int) -> _Sending | None:
        return next((sending for sending in self._sending.values() if sending.stream == stream), None)

    def _watch(self, sending: _Sending) -> None:
        """Give up if nothing comes for a while."""
        before = (sending.has_begun, sending.outgoing.acknowledged)

        def look() -> None:
            if self._sending.get(sending.peer) is sending:
                if (sending.has_begun, sending.outgoing.acknowledged) == before:
                    self._give_up(sending, "given up, as nothing came")
                else:
                    self._watch(sending)

        self._member.later(_PATIENCE * self._step, look)

    def _answered(self, sending: _Sending, reply: wire.InstallSnapshotReply | None) -> None:
        if reply is None or not self._member.leads(sending.term):
            self._give_up(sending, "given up, as the term was over" if reply else "broken off by the follower")
            return
        chunks: list[wire.InstallSnapshotRequest] | None = None
        with self._member.aside(), suppress(StorageError):
            chunks = list(sending.outgoing.answered(reply))
        if chunks is None:
            if self._member.is_up:
                self._give_up(sending, "given up, as the disk failed")
            return
        if not sending.has_begun and reply.next_offset and not reply.done:
            self._count("gone on with where another had stopped")
        sending.has_begun = True
        for chunk in chunks:
            self._member.post(f"n{sending.peer}", ToFollower(sending.stream, chunk))
        if sending.outgoing.answer is not None:
            self._end(sending, "answered")
            self._member.bring(sending.outgoing.answer)
            if sending.is_of_the_past:
                self._member.bring(Unreachable(sending.peer))

    def _give_up(self, sending: _Sending, why: str) -> None:
        self._end(sending, why)
        self._member.bring(Unreachable(sending.peer))

    def _end(self, sending: _Sending, how: str) -> None:
        del self._sending[sending.peer]
        sending.reader.close()
        self._count(how)

    # ---- the follower's end ------------------------------------------------------------------------------------------

    def _open(self, source: str, packet: ToFollower) -> None:
        with self._refusing(source, packet.stream):
            offer = offer_from_wire(packet.request, self._member.id, call=0)
            status, message = self._member.status(), offer.message
            if message.term < status.term or message.snapshot.last.index <= status.commit_index:
                self._count("not wanted")
                self._asked[self._member.bring_request(message)] = source, packet.stream
                return
            if any(each.is_complete for each in self._receiving.values()):
                self._count("begun while another was being installed")
            number, arrived = self._staging.open(offer)
            receiving = self._receiving[source, packet.stream] = _Receiving(source, packet.stream, number, offer)
            self._member.post(source, ToLeader(packet.stream, arrived_to_wire(status.term, arrived)))
            self._finish_if_complete(receiving)  # another stream may have brought all of it

    def _take(self, receiving: _Receiving, request: wire.InstallSnapshotRequest) -> None:
        if receiving.is_complete:
            return  # a chunk that was doubled
        with self._refusing(receiving.source, receiving.stream):
            arrived = self._staging.take(receiving.number, request)
            reply = arrived_to_wire(self._member.status().term, arrived)
            self._member.post(receiving.source, ToLeader(receiving.stream, reply))
            self._finish_if_complete(receiving)

    def _finish_if_complete(self, receiving: _Receiving) -> None:
        if self._staging.is_complete(receiving.number):
            receiving.is_complete = True
            self._member.later(self._pace, lambda: self._finish(receiving))

    def _finish(self, receiving: _Receiving) -> None:
        """As `SnapshotReceiver` does when all is there."""
        message = receiving.offer.message
        self._receiving.pop((receiving.source, receiving.stream), None)
        with self._refusing(receiving.source, receiving.stream):
            writer = self._staging.finish(receiving.number)
            meta, state = decode(writer)
            if meta != message.snapshot:
                raise Violation(f"{self._member.name} is sent {meta}, which is not {message.snapshot}")
            call = self._member.bring_request(message, lambda message: SnapshotReceived(message, writer, state))
            self._asked[call] = receiving.source, receiving.stream

    def committed(self, index: int) -> None:
        """The member has everything up to there."""
        if 0 < self._staging.last_index <= index:
            self._member.later(self._pace, lambda: self._forget_up_to(index))

    def _forget_up_to(self, index: int) -> None:
        if 0 < self._staging.last_index <= index:
            self._count("thrown away, as it had become superfluous")
            with self._member.aside():
                self._staging.forget_up_to(index)

    @contextmanager
    def _refusing(self, source: str, stream: int) -> Iterator[None]:
        """Break the stream off if something is wrong with it, or with this member's disk."""
        why = ""
        with self._member.aside():
            try:
                yield
            except BrokenOff:
                why = "refused, as the chunks do not follow each other"
            except Malformed as error:
                raise Violation(f"{self._member.name} finds that a snapshot is damaged: {error}") from None
            except StorageError:
                why = "refused, as the disk failed"
        if why and self._member.is_up:
            self._count(why)
            self._receiving.pop((source, stream), None)
            self._member.post(source, ToLeader(stream, None))

    def answer(self, reply: InstallSnapshotReply) -> tuple[str, ToLeader]:
        """The algorithm's reply: to whom it goes, and in which form."""
        source, stream = self._asked.pop(reply.call)
        return source, ToLeader(stream, install_reply_to_wire(reply, reply.incarnation))

    def _count(self, what: str) -> None:
        self._member.count("snapshots sent", what)
