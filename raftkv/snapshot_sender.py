"""The leader's side of InstallSnapshot: theory of operation.

The algorithm says that a follower needs a snapshot; here it is sent, by a thread that lives as long as the transfer and
has a connection of its own, so that bulk never stands in the way of heartbeats and entries. What to send next is
decided by `Outgoing` (snapshot_transfer.py); the thread reads the file, sends, and waits for answers.

Every transfer that the algorithm asks for ends in one input for it: the follower's answer, or `Unreachable`. Then the
algorithm asks again as soon as the follower answers a heartbeat, so nothing is repeated here. There is at most one
transfer a follower, and few altogether: another one that is asked for has failed, at once or when the first one ends. A
transfer is given up when its term is over.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import Final, Protocol

import grpc
from google.protobuf.message import DecodeError

from raftkv.log_storage import SnapshotReader, StorageError
from raftkv.raft.messages import InstallSnapshot, InstallSnapshotReply
from raftkv.raft.types import SnapshotMeta
from raftkv.snapshot_transfer import Outgoing, checksum_of
from raftkv.streams import Stream
from raftkv.transport import Malformed, Membership
from raftkv.wire import raft_pb2 as wire

INSTALL_SNAPSHOT: Final = "/RaftNode/InstallSnapshot"

MAX_TRANSFERS: Final = 2
"""At a time. More followers that are far behind wait for their turn, so that those who keep up are not held up."""

_INSTALL_PATIENCE: Final = 600.0
"""Seconds that it may take to sync a snapshot and make a state machine of it."""
_AGAIN_AFTER: Final = 60.0
"""Seconds before a follower that has refused a snapshot is sent it again: it will most likely say the same."""


class Host(Protocol):
    """What the senders ask of their node."""

    @property
    def membership(self) -> Membership: ...

    def open_snapshot(self, meta: SnapshotMeta) -> SnapshotReader | None:
        """Open this snapshot; None if a later one has just taken its place. In the turn. Raises StorageError."""

    def leads(self, term: int) -> bool:
        """Whether this member leads that term. From any thread."""

    def bring(self, item: InstallSnapshotReply) -> None: ...

    def unreachable(self, peer: int) -> None: ...

    def now(self) -> float: ...


class _GivenUp(Exception):
    """The transfer can't go on. The text is for people."""


@dataclass(slots=True)
class _Ended:
    """The stream has ended, with this status."""

    code: grpc.StatusCode
    details: str


class SnapshotSenders:
    """All transfers of one node."""

    def __init__(
        self,
        host: Host,
        channel_options: list[tuple[str, int]],
        patience: float,
        note: Callable[[str], None],
        fail: Callable[[BaseException], None],
    ) -> None:
        """`patience`: seconds that a follower may take to acknowledge a chunk."""
        self._host = host
        self._channel_options = channel_options
        self._patience = patience
        self._note = note
        self._fail = fail
        self._lock = threading.Lock()  # guards the rest
        self._under_way: dict[int, _Transfer] = {}
        """By peer."""
        self._refused_until: dict[tuple[int, str], float] = {}
        """By peer and address: when it may be tried again."""
        self._closed = False

    def send(self, message: InstallSnapshot, address: str) -> None:
        """Begin to send a snapshot to a follower, who is at `address`. By whoever holds the turn; never waits."""
        peer = message.recipient
        with self._lock:
            if peer in self._under_way:
                self._under_way[peer].is_asked_for_again(message.term)
                return  # its end will be told
            is_possible = (
                not self._closed
                and len(self._under_way) < MAX_TRANSFERS
                and self._refused_until.get((peer, address), 0.0) <= self._host.now()
            )
            reader = self._host.open_snapshot(message.snapshot) if is_possible else None
            if reader is not None:
                transfer = self._under_way[peer] = _Transfer(
                    self._host, message, address, reader, self._channel_options, self._patience
                )
                thread = threading.Thread(target=self._run, args=(transfer,), name=f"transfer-{peer}", daemon=True)
        if reader is not None:
            thread.start()
        else:
            self._host.unreachable(peer)

    def close(self) -> None:
        """Give up all transfers, for good."""
        with self._lock:
            self._closed = True
            transfers = list(self._under_way.values())
        for transfer in transfers:
            transfer.cancel()

    def _run(self, transfer: _Transfer) -> None:
        """The thread of a transfer."""
        peer, name = transfer.peer, transfer.name
        answer, again_at = None, 0.0
        try:
            try:
                self._note(f"sends {name} a snapshot up to entry {transfer.last_index} ({transfer.size:,} bytes)")
                answer = transfer.run()
                self._note(f"{name} has the log up to entry {answer.match_index} by a snapshot")
            except (_GivenUp, StorageError, Malformed, DecodeError, ValueError) as error:
                if not self._closed:
                    self._note(f"the snapshot for {name} has not arrived: {error}")
                if isinstance(error, _GivenUp) and transfer.is_refused:
                    again_at = self._host.now() + _AGAIN_AFTER
            finally:
                transfer.close()
                with self._lock:
                    del self._under_way[peer]
                    self._refused_until[peer, transfer.address] = again_at
            if answer is not None:
                self._host.bring(answer)
            if answer is None or transfer.is_of_the_past:
                self._host.unreachable(peer)
        except BaseException as bug:
            self._fail(bug)


class _Transfer:
    """One transfer: its file, its connection, its stream."""

    def __init__(
        self,
        host: Host,
        message: InstallSnapshot,
        address: str,
        reader: SnapshotReader,
        channel_options: list[tuple[str, int]],
        patience: float,
    ) -> None:
        membership = host.membership
        self.peer = message.recipient
        self.address = address
        self.name = f"node {self.peer} at {address}"
        self.last_index = message.snapshot.last.index
        self.size = reader.size
        self.is_refused = False
        """By the follower, for a reason that will not pass soon."""
        self.is_of_the_past = False
        """In a later term another one has been asked for, which this one's answer says nothing about."""
        self._host = host
        self._message = message
        self._patience = patience
        self._identity = membership.identity_for(self.peer)
        self._reader = reader
        self._channel = grpc.insecure_channel(address, options=channel_options)
        self._events: SimpleQueue[bytes | _Ended] = SimpleQueue()

    def is_asked_for_again(self, term: int) -> None:
        self.is_of_the_past = self.is_of_the_past or term > self._message.term

    def run(self) -> InstallSnapshotReply:
        """Send it all: the answer of the follower's algorithm. Raises _GivenUp, StorageError, Malformed."""
        outgoing = Outgoing(self._message, self._reader, checksum_of(self._reader), self._identity)
        stream = Stream(
            self._channel,
            INSTALL_SNAPSHOT,
            self._events.put,
            lambda code, details: self._events.put(_Ended(code, details)),
        )
        stream.send(outgoing.first().SerializeToString())
        while outgoing.answer is None:
            is_all = outgoing.acknowledged == self.size
            data = self._next_answer(_INSTALL_PATIENCE if is_all else self._patience)
            for chunk in outgoing.answered(wire.InstallSnapshotReply.FromString(data)):
                stream.send(chunk.SerializeToString())
        return outgoing.answer

    def _next_answer(self, patience: float) -> bytes:
        try:
            event = self._events.get(timeout=patience)
        except Empty:
            raise _GivenUp(f"no answer for {patience:g} s") from None
        if isinstance(event, _Ended):
            self.is_refused = event.code in _REFUSALS
            raise _GivenUp(event.details or event.code.name)
        if not self._host.leads(self._message.term):
            raise _GivenUp(f"term {self._message.term} is over")
        return event

    def cancel(self) -> None:
        """End it from another thread."""
        self._events.put(_Ended(grpc.StatusCode.CANCELLED, "the node is stopping"))

    def close(self) -> None:
        """Let go of everything. By the thread that ran it."""
        self._channel.close()
        self._reader.close()


_REFUSALS: Final = (
    grpc.StatusCode.FAILED_PRECONDITION,
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
    grpc.StatusCode.UNIMPLEMENTED,
)
