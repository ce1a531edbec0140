"""A node without an algorithm, and a client that knows nothing but the contract."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import grpc

from raftkv.backup import Backups
from raftkv.kv import Found, StateMachine
from raftkv.memory_storage import MemoryStorage
from raftkv.operations import Operation, Result
from raftkv.raft.messages import (
    AppendEntries,
    AppendEntriesReply,
    InstallSnapshot,
    InstallSnapshotReply,
    RequestVote,
    RequestVoteReply,
    TimeoutNowReply,
)
from raftkv.raft.types import Entry
from raftkv.replica import Applied, Input, NotLeader, Query, Served, SnapshotReceived, Status, Write
from raftkv.server import Server, ServerLimits
from raftkv.service import Counts, Service, ServiceLimits
from raftkv.snapshot_receiver import SnapshotReceiver
from raftkv.snapshot_transfer import Staging
from raftkv.transport import Membership, Request
from raftkv.wire import raft_pb2 as wire
from tests.support.processes import free_port

LIMITS = ServiceLimits(
    max_key_bytes=10,
    max_value_bytes=20,
    max_batch_bytes=200,
    max_batch_operations=6,
    max_waiting_bytes=1100,
    max_unsent_bytes=64 << 20,
    call_timeout=5.0,
    peer_timeout=5.0,
)

SERVER_LIMITS = {"client_threads": 4, "max_waiting_calls": 100, "max_streams": 10, "max_message_bytes": 1 << 20}


class FakeHost:
    """Leads a cluster of three by itself: what is written is applied at once, unless the test says otherwise."""

    def __init__(self) -> None:
        self.membership = Membership(1, {1: "one:1", 2: "two:2", 3: "three:3"}, b"c" * 16)
        self.machine = StateMachine()
        self.brought: list[Input] = []
        self.left: list[Input] = []
        """Those of them that were not to be worked on by who had them."""
        self.leader_id = 1
        self.term = 1
        self.has_lease = False
        self.guesses_room = True
        self.bring_instead: Callable[[Input], None] | None = None
        self.strangers: list[tuple[int, str, str]] = []
        self.service: Service | None = None
        self._turn = threading.Lock()
        """Writes may come from several threads, and one is applied after the other."""

    def bring(self, item: Input) -> None:
        self.brought.append(item)
        if self.bring_instead is not None:
            self.bring_instead(item)
        elif isinstance(item, Write):
            item.caller.answer(Applied(self.apply(item)) if item.caller.is_wanted() else NotLeader(1))
        elif isinstance(item, Query):
            item.caller.answer(Served(item.read(self.machine)))
        elif isinstance(item, Request | InstallSnapshot):
            self.reply(item)
        elif isinstance(item, SnapshotReceived):
            self.reply(item.message)

    def leave(self, item: Input) -> None:
        self.left.append(item)
        self.bring(item)

    def apply(self, write: Write) -> list[Result]:
        proposal = write.proposal
        with self._turn:
            return self.machine.apply(Entry(self.machine.applied_index + 1, 1, proposal.kind, proposal.payload))

    def reply(self, message: Request | InstallSnapshot) -> None:
        assert self.service is not None
        if isinstance(message, InstallSnapshot):
            success, last = message.term >= self.term, message.snapshot.last.index
            self.service.deliver(InstallSnapshotReply(1, message.sender, self.term, success, last, message.call))
        elif isinstance(message, AppendEntries):
            self.service.deliver(AppendEntriesReply(1, message.sender, 1, True, message.round, call=message.call))
        elif not isinstance(message, RequestVote):
            self.service.deliver(TimeoutNowReply(1, message.sender, 2, True, message.call))
        else:
            self.service.deliver(RequestVoteReply(1, message.sender, 1, True, call=message.call))

    def read_under_lease(self, keys: Sequence[bytes]) -> Found | None:
        return self.machine.find_each(keys) if self.has_lease else None

    def status(self) -> Status:
        return Status("leader", self.term, self.leader_id, 1, 1, 1, serving=True)

    def count(self) -> Counts:
        machine = self.machine
        return Counts(len(machine), machine.revision, machine.state_bytes, machine.max_state_bytes)

    def lacks_room_for(self, operation: Operation) -> bool:
        return self.guesses_room and not self.machine.has_room_for(operation)

    def note_stranger(self, claimed_id: int, where: str, why: str) -> None:
        self.strangers.append((claimed_id, where, why))

    @property
    def writes(self) -> list[Write]:
        return [item for item in self.brought if isinstance(item, Write)]


@dataclass
class FakeNode:
    """A fake host behind a real server."""

    host: FakeHost
    service: Service
    server: Server
    channel: grpc.Channel
    bugs: list[BaseException]
    address: str
    receiver: SnapshotReceiver
    storage: MemoryStorage
    """Where snapshots go that come in."""
    notes: list[str]

    def call(self, method: str, request: Any, reply_type: Any, timeout: float | None = 10.0) -> Any:
        return self.begin(method, request, reply_type, timeout).result()

    def begin(self, method: str, request: Any, reply_type: Any, timeout: float | None = 10.0) -> Any:
        """The same without waiting."""
        multi: Any = self.channel.unary_unary(
            f"/RaftNode/{method}", lambda message: message.SerializeToString(), reply_type.FromString
        )
        return multi.future(request, timeout=timeout)

    def serve(self, timeout: float | None = 10.0, **fields: Any) -> wire.ServeClientReply:
        reply: wire.ServeClientReply = self.call(
            "ServeClient", wire.ServeClientRequest(**fields), wire.ServeClientReply, timeout
        )
        return reply

    def refusal(self, timeout: float | None = 10.0, **fields: Any) -> tuple[grpc.StatusCode, str]:
        """The status and details of a call that is not to succeed."""
        error = self.begin("ServeClient", wire.ServeClientRequest(**fields), wire.ServeClientReply, timeout).exception()
        assert error is not None, "the call has succeeded"
        return error.code(), error.details()


@contextmanager
def fake_node(
    limits: ServiceLimits = LIMITS,
    **server_limits: int,
) -> Iterator[FakeNode]:
    host, bugs, storage, notes = FakeHost(), list[BaseException](), MemoryStorage(), list[str]()
    server = Server(
        ServerLimits(**{**SERVER_LIMITS, **server_limits}),
        peers=2,
        fail=bugs.append,
    )
    receiver = SnapshotReceiver(host, Staging(lambda: storage.begin_snapshot()), notes.append)
    service = host.service = Service(host, limits, server.aside, receiver)
    address = f"127.0.0.1:{free_port()}"
    server.listen(address)
    server.serve(service, Backups(host, timeout=5.0))
    service.start()
    channel = grpc.insecure_channel(address, options=[("grpc.use_local_subchannel_pool", 1)])
    node = FakeNode(host, service, server, channel, bugs, address, receiver, storage, notes)
    yield node
    node.channel.close()
    receiver.close()
    server.drain(0)
    service.stop()
    server.stop()


# ---- the contract's first three fields, and no generated code --------------------------------------------------------


class PlainReply(NamedTuple):
    data: str
    leader_id: int
    success: bool


def plain_call(channel: grpc.Channel, request: str, timeout: float = 10.0) -> PlainReply:
    """ServeClientRequest: 1 request. ServeClientReply: 1 data, 2 leader_id, 3 success. Everything else is skipped."""
    call: Any = channel.unary_unary("/RaftNode/ServeClient")
    text = request.encode()
    fields = dict(_fields(call(b"\x0a" + _varint(len(text)) + text, timeout=timeout)))
    return PlainReply(fields.get(1, b"").decode(), fields.get(2, 0), bool(fields.get(3, 0)))


def _varint(number: int) -> bytes:
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    return bytes([*out, number])


def _fields(data: bytes) -> Iterator[tuple[int, Any]]:
    """(number, value) of each field of a protobuf message that has only varints and lengths."""
    offset = 0

    def varint() -> int:
        nonlocal offset
        number = shift = 0
        while True:
            byte = data[offset]
            offset += 1
            number |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return number

    while offset < len(data):
        tag = varint()
        if tag & 7 == 0:
            yield tag >> 3, varint()
        else:
            length = varint()
            yield tag >> 3, data[offset : offset + length]
            offset += length
