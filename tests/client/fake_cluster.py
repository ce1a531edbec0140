"""A cluster to test clients against, in this process: theory of operation.

Real gRPC servers on real ports, with one real state machine behind all of them in place of consensus: what the leader
takes is applied at once. So "applied exactly once" can be read off the state machine, and the test decides who leads,
who is down or stopped, and what becomes of each request. `next_calls` scripts the coming requests of clients' streams,
whichever member they reach; when the script is used up the members do as they should:

    answer            as it should
    lose_reply        carry the request out, and end the stream with UNAVAILABLE
    lose_request      end the stream with UNAVAILABLE, having done nothing
    hang              carry the request out, and never answer
    hang_undone       never answer, having done nothing
    refuse(code)      answer a gRPC status, having done nothing
    doubtful          carry the request out, and answer UNAVAILABLE: the stream goes on

As at a real server, a stream takes no further write once one has been refused. What hangs holds up nobody else.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from queue import SimpleQueue
from types import TracebackType
from typing import Any, NoReturn

import grpc

from raftkv.client_stream import _results, _values, _without
from raftkv.kv import StateMachine, keys_with_prefix
from raftkv.operations import Batch, SizeLimits, decode_batch, find_refused
from raftkv.raft.types import EntryKind
from raftkv.wire.raft_pb2 import (
    BackupReply,
    ChangeMembershipReply,
    ChangeMembershipRequest,
    ClientReply,
    ClientRequest,
    Member,
    ServeClientReply,
    ServeClientRequest,
    StatusReply,
    StatusRequest,
    TransferLeadershipReply,
    TransferLeadershipRequest,
)
from raftkv.wire.raft_pb2_grpc import RaftNodeServicer, add_RaftNodeServicer_to_server
from tests.kv.driving import SETTINGS, Driver
from tests.support.processes import free_port

Context = Any
Step = Callable[["FakeMember", ClientRequest, "FakeStream"], ClientReply | None]
"""The answer to a request; None: none, or none yet."""

_MAX_MESSAGE_BYTES = 8 << 20


class FakeStream:
    """A client's stream at a member."""

    def __init__(self) -> None:
        self.is_broken = False
        """A write has been refused; no more is taken."""
        self.ended = threading.Event()
        self._out: SimpleQueue[ClientReply | tuple[grpc.StatusCode, str] | None] = SimpleQueue()

    def answer(self, reply: ClientReply) -> None:
        self._out.put(reply)

    def end(self, code: grpc.StatusCode, details: str) -> None:
        """Take no more, and give the stream this status once everything has been sent."""
        self.ended.set()
        self._out.put((code, details))

    def close(self) -> None:
        self.ended.set()
        self._out.put(None)

    def replies(self, context: Context) -> Iterator[ClientReply]:
        while (item := self._out.get()) is not None:
            if isinstance(item, ClientReply):
                yield item
            else:
                context.abort(*item)


class FakeMember(RaftNodeServicer):
    """One member. `down` and `paused` are what kill -9 and SIGSTOP do to a process."""

    def __init__(self, cluster: FakeCluster, member_id: int) -> None:
        self.cluster = cluster
        self.id = member_id
        self.address = f"127.0.0.1:{free_port()}"
        self.resumed = threading.Event()
        self.resumed.set()
        self.calls = 0
        """Requests of clients' streams that have arrived."""
        self.streams = 0
        """Of clients, that have been opened."""
        self.last_stream: FakeStream | None = None
        """Of these."""
        self.status_calls = 0
        self.backups = 0
        self._server: grpc.Server | None = None

    def start(self) -> None:
        options = (("grpc.so_reuseport", 0), ("grpc.max_receive_message_length", _MAX_MESSAGE_BYTES))
        self._server = grpc.server(ThreadPoolExecutor(64), options=options)
        add_RaftNodeServicer_to_server(self, self._server)
        assert self._server.add_insecure_port(self.address)
        self._server.start()

    def kill(self) -> None:
        """Every connection is reset."""
        if self._server is not None:
            self._server.stop(None).wait()
            self._server = None

    def move(self) -> None:
        """To another address, at which it is started anew."""
        self.kill()
        self.address = f"127.0.0.1:{free_port()}"
        self.start()

    def pause(self) -> None:
        self.resumed.clear()

    def resume(self) -> None:
        self.resumed.set()

    def AppendEntries(self, request: object, context: Context) -> NoReturn:  # noqa: N802
        raise NotImplementedError

    def AppendEntriesStream(self, requests: object, context: Context) -> NoReturn:  # noqa: N802
        raise NotImplementedError

    RequestVote = TimeoutNow = AppendEntries

    def ServeClient(self, request: ServeClientRequest, context: Context) -> ServeClientReply:  # noqa: N802
        """Only a read is understood."""
        self.resumed.wait()
        assert request.HasField("get")
        value = self.cluster.machine.get(request.get)
        leads, values = self.id == self.cluster.leader_id, [] if value is None else [value]
        return ServeClientReply(success=leads, leader_id=self.cluster.leader_id, values=values if leads else [])

    def InstallSnapshot(self, requests: object, context: Context) -> NoReturn:  # noqa: N802
        raise NotImplementedError

    def Backup(self, request: object, context: Context) -> Iterator[BackupReply]:  # noqa: N802
        self.backups += 1
        yield from self.cluster.next_backup(self, context)

    def ServeClientStream(  # noqa: N802
        self, requests: Iterator[ClientRequest], context: Context
    ) -> Iterator[ClientReply]:
        stream = self.last_stream = FakeStream()
        self.streams += 1
        context.add_callback(stream.close)
        threading.Thread(target=self._read, args=(requests, stream), daemon=True).start()
        yield from stream.replies(context)

    def _read(self, requests: Iterator[ClientRequest], stream: FakeStream) -> None:
        try:
            for request in requests:
                self.resumed.wait()
                if stream.ended.is_set():
                    return
                self.calls += 1
                reply = self._take(request, stream)
                if reply is not None:
                    stream.answer(reply)
            stream.close()
        except grpc.RpcError:
            stream.close()  # the client has gone

    def _take(self, request: ClientRequest, stream: FakeStream) -> ClientReply | None:
        if request.batch and stream.is_broken:
            return refusal(request, grpc.StatusCode.FAILED_PRECONDITION, "an earlier write was not carried out")
        reply = self.cluster.next_step()(self, request, stream)
        stream.is_broken = stream.is_broken or bool(request.batch and reply is not None and reply.code)
        return reply

    def TransferLeadership(  # noqa: N802
        self, request: TransferLeadershipRequest, context: Context
    ) -> TransferLeadershipReply:
        return self.cluster.transfer(self, request.target, context)

    def ChangeMembership(  # noqa: N802
        self, request: ChangeMembershipRequest, context: Context
    ) -> ChangeMembershipReply:
        return self.cluster.change_membership(self, request, context)

    def Status(self, request: StatusRequest, context: Context) -> StatusReply:  # noqa: N802
        self.resumed.wait()
        self.status_calls += 1
        return self.cluster.status_of(self)


@dataclass(slots=True)
class Arrived:
    """A batch as it arrived at the leader, whether or not it was answered."""

    member: int
    batch: Batch


@dataclass
class FakeCluster:
    size: int = 3
    driver: Driver = field(default_factory=lambda: Driver(replace(SETTINGS, max_unanswered=1000)))
    """The log and the state machine of them all."""
    limits: SizeLimits = field(
        default_factory=lambda: SizeLimits(max_key_bytes=1024, max_value_bytes=_MAX_MESSAGE_BYTES)
    )
    max_operations: int = 10_000
    """Of a batch, and keys of a read."""

    def __post_init__(self) -> None:
        self.lock = threading.Lock()
        self.leader_id = 1
        self.term = 1
        self.hint = True
        """Whether the other members know who leads."""
        self.deluded = 0
        """This member says that it leads in term 1, whatever the others say."""
        self.cluster_id = b"the tests' own !"
        """b"": the first leader has yet to commit it."""
        self.stranger = 0
        """This member says that it is of another cluster."""
        self.transfers: list[int] = []
        """The targets that the leader has been asked to hand over to."""
        self.transfer_script: list[tuple[grpc.StatusCode, str]] = []
        """How such calls fail."""
        self.transfers_in_spite = False
        """Those that fail are carried out."""
        self.arrived: list[Arrived] = []
        self.changes: list[ChangeMembershipRequest] = []
        """Of the membership, as far as they have arrived."""
        self.before_change: Callable[[], None] = lambda: None
        self.change_refusals: deque[tuple[grpc.StatusCode, str]] = deque()
        self.learners: set[int] = set()
        self.joined: dict[int, int] = {}
        self.wiped: set[int] = set()
        self.disks: dict[int, bytes] = {}
        """Which entry has brought in those who are no founding members."""
        self.released = threading.Event()
        """Set at the end: what hangs may go."""
        self._script: deque[Step] = deque()
        self.next_backup: Callable[[FakeMember, Context], Iterator[BackupReply]] = lambda member, context: iter(())
        self.members = {i: FakeMember(self, i) for i in range(1, self.size + 1)}
        for member in self.members.values():
            member.start()

    def __enter__(self) -> FakeCluster:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.released.set()
        for member in self.members.values():
            member.resume()
            member.kill()

    @property
    def addresses(self) -> list[str]:
        return [member.address for member in self.members.values()]

    @property
    def machine(self) -> StateMachine:
        return self.driver.machine

    @property
    def leader(self) -> FakeMember:
        return self.members[self.leader_id]

    def elect(self, member_id: int) -> None:
        """This member leads from now on; 0: nobody does."""
        with self.lock:
            self.leader_id = member_id
            self.term += bool(member_id)

    def transfer(self, member: FakeMember, target: int, context: Context) -> TransferLeadershipReply:
        if member.id != self.leader_id:
            return TransferLeadershipReply(success=False, leader_id=self.leader_id)
        self.transfers.append(target)
        target = target or member.id % self.size + 1
        failure = self.transfer_script.pop(0) if self.transfer_script else None
        if failure is None or self.transfers_in_spite:
            self.elect(target)
        if failure is not None:
            context.abort(*failure)
        return TransferLeadershipReply(success=True, leader_id=target)

    def next_calls(self, *steps: Step) -> None:
        self._script.extend(steps)

    def expire_sessions(self) -> None:
        """Log time goes on until all sessions have expired."""
        with self.lock:
            self.driver.time_ms += 1_000_000
            self.driver.text("DEL nothing")

    def next_step(self) -> Step:
        with self.lock:
            return self._script.popleft() if self._script else answer

    def status_of(self, member: FakeMember) -> StatusReply:
        leads = member.id in (self.leader_id, self.deluded)
        machine = self.machine
        return StatusReply(
            id=member.id,
            role="leader" if leads else "follower",
            term=1 if member.id == self.deluded else self.term,
            leader_id=self.leader_id if leads or self.hint else 0,
            commit_index=machine.applied_index,
            applied_index=machine.applied_index,
            last_log_index=machine.applied_index,
            cluster_id=b"another cluster!" if member.id == self.stranger else self.cluster_id,
            members=self.named_members(),
            version="fake",
            keys=len(machine),
            revision=machine.revision,
            serving=leads,
        )

    def named_members(self) -> list[Member]:
        """As the members name them."""
        return [
            Member(
                id=m.id,
                address=m.address,
                is_learner=m.id in self.learners,
                is_wiped=m.id in self.wiped,
                joined=self.joined.get(m.id, 0),
                disk=self.disks.get(m.id, b""),
            )
            for m in self.members.values()
        ]

    def change_membership(
        self, member: FakeMember, request: ChangeMembershipRequest, context: Context
    ) -> ChangeMembershipReply:
        """What the test has said, for each call in turn; then success, of the leader."""
        self.changes.append(request)
        self.before_change()
        if self.change_refusals:
            context.abort(*self.change_refusals.popleft())
        return ChangeMembershipReply(success=member.id == self.leader_id, leader_id=self.leader_id)

    def carry_out(self, member: FakeMember, request: ClientRequest) -> ClientReply:
        """What the member should do with a request."""
        with self.lock:
            if member.id != self.leader_id:
                return refusal(request, grpc.StatusCode.FAILED_PRECONDITION, "does not lead any more")
            if request.HasField("keys"):
                return ClientReply(id=request.id, values=keys_with_prefix(self.machine.all_keys(), request.keys))
            if request.batch:
                return self._write(member, request)
            if len(request.get) > self.max_operations:
                return refusal(request, grpc.StatusCode.INVALID_ARGUMENT, f"{len(request.get)} keys are too many")
            most = self.limits.max_key_bytes
            refused = {i: f"the key has {len(k)} bytes" for i, k in enumerate(request.get) if not 0 < len(k) <= most}
            return _values(request.id, len(request.get), self.machine.find_each(request.get).values(), refused)

    def _write(self, member: FakeMember, request: ClientRequest) -> ClientReply:
        count, refused = find_refused(request.batch, self.limits)
        if count > self.max_operations:
            return refusal(request, grpc.StatusCode.INVALID_ARGUMENT, f"{count} operations are too many")
        self.arrived.append(Arrived(member.id, decode_batch(request.batch)))
        batch = _without(request.batch, refused) if refused else request.batch
        results = self.driver.apply(EntryKind.BATCH, batch) if batch else []
        return _results(request.id, results, refused)


# ---- what can become of a request ------------------------------------------------------------------------------------


def refusal(request: ClientRequest, code: grpc.StatusCode, details: str) -> ClientReply:
    return ClientReply(id=request.id, code=code.value[0], details=details)


def answer(member: FakeMember, request: ClientRequest, stream: FakeStream) -> ClientReply | None:
    return member.cluster.carry_out(member, request)


def lose_reply(member: FakeMember, request: ClientRequest, stream: FakeStream) -> ClientReply | None:
    answer(member, request, stream)
    return lose_request(member, request, stream)


def lose_request(member: FakeMember, request: ClientRequest, stream: FakeStream) -> ClientReply | None:
    stream.end(grpc.StatusCode.UNAVAILABLE, "connection reset by the test")
    return None


def doubtful(member: FakeMember, request: ClientRequest, stream: FakeStream) -> ClientReply | None:
    answer(member, request, stream)
    return refusal(request, grpc.StatusCode.UNAVAILABLE, "nobody knows")


def hang(member: FakeMember, request: ClientRequest, stream: FakeStream) -> ClientReply | None:
    answer(member, request, stream)
    return None


def hang_undone(member: FakeMember, request: ClientRequest, stream: FakeStream) -> ClientReply | None:
    return None


def refuse(code: grpc.StatusCode, details: str = "refused by the test") -> Step:
    def step(member: FakeMember, request: ClientRequest, stream: FakeStream) -> ClientReply | None:
        return refusal(request, code, details)

    return step


def wait_for(event: threading.Event) -> Step:
    """Carry the request out once the event is set; those behind it do not wait."""

    def step(member: FakeMember, request: ClientRequest, stream: FakeStream) -> ClientReply | None:
        def later() -> None:
            assert event.wait(30)
            reply = answer(member, request, stream)
            if reply is not None:
                stream.answer(reply)

        threading.Thread(target=later, daemon=True).start()
        return None

    return step


def then(first: Callable[[], object], step: Step) -> Step:
    """Do something to the cluster, then take the step."""

    def steps(member: FakeMember, request: ClientRequest, stream: FakeStream) -> ClientReply | None:
        first()
        return step(member, request, stream)

    return steps
