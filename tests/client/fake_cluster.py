"""A cluster to test clients against, in this process: theory of operation.

Real gRPC servers on real ports, with one real state machine behind all of them in place of consensus: what the leader
takes is applied at once. So "applied exactly once" can be read off the state machine, and the test decides who leads,
who is down or stopped, and what becomes of each call. `next_calls` scripts the coming ServeClient calls, whichever
member they reach; when the script is used up the members do as they should:

    answer            as it should
    lose_reply        carry the request out, and answer UNAVAILABLE
    lose_request      answer UNAVAILABLE, having done nothing
    hang              carry the request out, and never answer
    hang_undone       never answer, having done nothing
    refuse(code)      answer a gRPC status, having done nothing
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import Any, NoReturn

import grpc

from raftkv.kv import StateMachine, keys_with_prefix
from raftkv.operations import Batch, decode_batch
from raftkv.raft.types import EntryKind
from raftkv.wire.raft_pb2 import (
    Member,
    OperationResult,
    ServeClientReply,
    ServeClientRequest,
    StatusReply,
    StatusRequest,
)
from raftkv.wire.raft_pb2_grpc import RaftNodeServicer, add_RaftNodeServicer_to_server
from tests.kv.driving import SETTINGS, Driver
from tests.support.processes import free_port

Context = Any
Step = Callable[["FakeMember", ServeClientRequest, Context], ServeClientReply]


class FakeMember(RaftNodeServicer):
    """One member. `down` and `paused` are what kill -9 and SIGSTOP do to a process."""

    def __init__(self, cluster: FakeCluster, member_id: int) -> None:
        self.cluster = cluster
        self.id = member_id
        self.address = f"127.0.0.1:{free_port()}"
        self.resumed = threading.Event()
        self.resumed.set()
        self.calls = 0
        """ServeClient calls that have arrived."""
        self.status_calls = 0
        self._server: grpc.Server | None = None

    def start(self) -> None:
        options = (("grpc.so_reuseport", 0), ("grpc.max_receive_message_length", 8 << 20))
        self._server = grpc.server(ThreadPoolExecutor(64), options=options)
        add_RaftNodeServicer_to_server(self, self._server)
        assert self._server.add_insecure_port(self.address)
        self._server.start()

    def kill(self) -> None:
        """Every connection is reset."""
        if self._server is not None:
            self._server.stop(None).wait()
            self._server = None

    def pause(self) -> None:
        self.resumed.clear()

    def resume(self) -> None:
        self.resumed.set()

    def AppendEntries(self, request: object, context: Context) -> NoReturn:  # noqa: N802
        raise NotImplementedError

    RequestVote = AppendEntries

    def ServeClient(self, request: ServeClientRequest, context: Context) -> ServeClientReply:  # noqa: N802
        self.resumed.wait()
        self.calls += 1
        return self.cluster.next_step()(self, request, context)

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

    def __post_init__(self) -> None:
        self.lock = threading.Lock()
        self.leader_id = 1
        self.term = 1
        self.hint = True
        """Whether the other members know who leads."""
        self.deluded = 0
        """This member says that it leads in term 1, whatever the others say."""
        self.stranger = 0
        """This member says that it is of another cluster."""
        self.arrived: list[Arrived] = []
        self.released = threading.Event()
        """Set at the end: what hangs may go."""
        self._script: deque[Step] = deque()
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
            cluster_id=b"another cluster!" if member.id == self.stranger else b"the tests' own !",
            members=[Member(id=m.id, address=m.address) for m in self.members.values()],
            version="fake",
            keys=len(machine),
            revision=machine.revision,
            serving=leads,
        )

    def carry_out(self, member: FakeMember, request: ServeClientRequest) -> ServeClientReply:
        """What the member should do with a request."""
        with self.lock:
            if member.id != self.leader_id:
                return ServeClientReply(success=False, leader_id=self.leader_id if self.hint else 0)
            if request.HasField("get"):
                value = self.machine.get(request.get)
                return ServeClientReply(success=True, values=[] if value is None else [value])
            if request.HasField("keys"):
                return ServeClientReply(success=True, values=keys_with_prefix(self.machine.all_keys(), request.keys))
            self.arrived.append(Arrived(member.id, decode_batch(request.batch)))
            results = self.driver.apply(EntryKind.BATCH, request.batch)
            return ServeClientReply(
                success=True, results=[OperationResult(status=r.status, value=r.value) for r in results]
            )


# ---- what can become of a call ---------------------------------------------------------------------------------------


def answer(member: FakeMember, request: ServeClientRequest, context: Context) -> ServeClientReply:
    return member.cluster.carry_out(member, request)


def lose_reply(member: FakeMember, request: ServeClientRequest, context: Context) -> ServeClientReply:
    answer(member, request, context)
    return lose_request(member, request, context)


def lose_request(member: FakeMember, request: ServeClientRequest, context: Context) -> ServeClientReply:
    context.abort(grpc.StatusCode.UNAVAILABLE, "connection reset by the test")
    raise AssertionError


def hang(member: FakeMember, request: ServeClientRequest, context: Context) -> ServeClientReply:
    answer(member, request, context)
    return hang_undone(member, request, context)


def hang_undone(member: FakeMember, request: ServeClientRequest, context: Context) -> ServeClientReply:
    given_up = threading.Event()
    context.add_callback(given_up.set)
    while not member.cluster.released.is_set() and not given_up.wait(0.05):
        pass
    return ServeClientReply()


def refuse(code: grpc.StatusCode, details: str = "refused by the test") -> Step:
    def step(member: FakeMember, request: ServeClientRequest, context: Context) -> ServeClientReply:
        context.abort(code, details)
        raise AssertionError

    return step


def wait_for(event: threading.Event) -> Step:
    """Carry the request out once the event is set."""

    def step(member: FakeMember, request: ServeClientRequest, context: Context) -> ServeClientReply:
        assert event.wait(30)
        return answer(member, request, context)

    return step


def then(first: Callable[[], object], step: Step) -> Step:
    """Do something to the cluster, then take the step."""

    def steps(member: FakeMember, request: ServeClientRequest, context: Context) -> ServeClientReply:
        first()
        return step(member, request, context)

    return steps
