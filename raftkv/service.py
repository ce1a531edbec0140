"""The calls that a node answers: theory of operation.

A call between members becomes a message for the algorithm, and waits for the reply. A client's call is checked first,
*completely*: what is refused (INVALID_ARGUMENT, RESOURCE_EXHAUSTED, FAILED_PRECONDITION; or success=false, on a member
that does not lead) has changed nothing. Once a write has been proposed the answer is its result or, if that does not
come in time or can't be known any more, a status that means *unknown* (UNAVAILABLE, DEADLINE_EXCEEDED).

The methods run in the threads of server.py, take the turn if it is free (turn.py), and then wait for their answer with
a deadline. What waits to be committed is bounded in bytes, and refused before it is proposed (hazard 50).
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Generic, Protocol, TypeVar

import grpc

from raftkv import __version__, transport
from raftkv.kv import StateMachine, keys_with_prefix
from raftkv.operations import (
    Code,
    Malformed,
    Operation,
    Result,
    Status,
    decode_batch,
    is_text_write,
    is_word,
    parse_text,
)
from raftkv.raft.messages import Reply, Request
from raftkv.raft.types import EntryKind, Proposal
from raftkv.replica import Applied, Input, NotLeader, Outcome, Query, Served, Unknown, Write
from raftkv.replica import Status as ReplicaStatus
from raftkv.transport import Membership
from raftkv.wire import raft_pb2 as wire

Answer = TypeVar("Answer")

RESERVED_WORD: Final = "LEADER"
"""`GET LEADER` asks for the leader and reads no key; in the text form only."""


@dataclass(frozen=True, slots=True)
class ServiceLimits:
    """What a client may ask for. Sizes in bytes, times in seconds."""

    max_key_bytes: int
    max_value_bytes: int
    max_batch_bytes: int
    max_batch_operations: int
    max_waiting_bytes: int
    """Of what has been handed to the replica and is not answered yet."""
    call_timeout: float
    """For a client's call that has no deadline of its own."""
    peer_timeout: float


class Host(Protocol):
    """What the service asks of its node."""

    @property
    def membership(self) -> Membership: ...

    def bring(self, item: Input) -> None:
        """Hand an input to the replica."""

    def read_under_lease(self, key: bytes) -> Served | None: ...

    def status(self) -> ReplicaStatus: ...

    def count(self) -> tuple[int, int]:
        """How many keys there are, and the state machine's revision."""

    def note_stranger(self, claimed_id: int, where: str, why: str) -> None:
        """A peer was refused that says it is member `claimed_id`."""


class Refusal(Exception):
    """A call that ends with a status other than OK."""

    def __init__(self, code: grpc.StatusCode, details: str) -> None:
        super().__init__(details)
        self.code = code
        self.details = details


class Slot(Generic[Answer]):
    """Holds one answer for the one thread that waits for it: a bare lock, the cheapest hand-over there is."""

    __slots__ = ("_answer", "_answered")

    def __init__(self) -> None:
        self._answered = threading.Lock()
        self._answered.acquire()
        self._answer: Answer | None = None

    def answer(self, answer: Answer) -> None:
        """Once, from any thread; never waits."""
        self._answer = answer
        self._answered.release()

    def wait(self, timeout: float) -> Answer | None:
        """The answer; None if there is none within `timeout` seconds."""
        return self._answer if self._answered.acquire(timeout=max(timeout, 0.0)) else None


class ByteBudget:
    """A bound on bytes that wait."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._used = 0
        self._lock = threading.Lock()

    def take(self, amount: int) -> bool:
        """Whether there was room; if so, `amount` is taken."""
        with self._lock:
            if self._used + amount > self._limit:
                return False
            self._used += amount
            return True

    def give_back(self, amount: int) -> None:
        with self._lock:
            self._used -= amount


_LEAST_BYTES: Final = 512
"""What a call takes that waits, however short it is."""


class _Waiting(Slot[Outcome]):
    """The caller of a write or a query. Its bytes count until the replica has answered, even if nobody waits for that
    any more."""

    __slots__ = ("_budget", "_size")

    def __init__(self, budget: ByteBudget, size: int) -> None:
        super().__init__()
        self._budget = budget
        self._size = size

    def answer(self, outcome: Outcome) -> None:
        self._budget.give_back(self._size)
        super().answer(outcome)


class _NotHere(Exception):
    """Another member leads, or none. Nothing has been done."""

    def __init__(self, leader_id: int) -> None:
        super().__init__(leader_id)
        self.leader_id = leader_id


class Service:
    """Each public method answers one kind of call, in the thread of its caller; raises Refusal."""

    def __init__(self, host: Host, limits: ServiceLimits) -> None:
        self._host = host
        self._limits = limits
        self._budget = ByteBudget(limits.max_waiting_bytes)
        self._peer_calls: dict[int, Slot[Reply]] = {}
        """By the number that the request took with it. Single operations on a dict are atomic."""
        self._call_numbers = itertools.count(1)

    # ---- between members ---------------------------------------------------------------------------------------------

    def append_entries(
        self, request: wire.AppendEntriesRequest, context: grpc.ServicerContext
    ) -> wire.AppendEntriesReply:
        reply = self._answer_peer(request, transport.append_entries_from_wire, request.leader_id, context)
        assert isinstance(reply, wire.AppendEntriesReply)
        return reply

    def request_vote(self, request: wire.RequestVoteRequest, context: grpc.ServicerContext) -> wire.RequestVoteReply:
        reply = self._answer_peer(request, transport.request_vote_from_wire, request.candidate_id, context)
        assert isinstance(reply, wire.RequestVoteReply)
        return reply

    def deliver(self, reply: Reply) -> None:
        """The replica's reply to a peer's request. By whoever holds the turn."""
        slot = self._peer_calls.pop(reply.call, None)
        if slot is not None:
            slot.answer(reply)

    def _answer_peer(
        self,
        request: Any,
        from_wire: Callable[[Any, int, int], Request],
        claimed_id: int,
        context: grpc.ServicerContext,
    ) -> transport.WireReply:
        call, slot = next(self._call_numbers), Slot[Reply]()
        try:
            self._host.membership.admit(request)
            message = from_wire(request, self._host.membership.me, call)
        except transport.Malformed as error:
            raise Refusal(grpc.StatusCode.INVALID_ARGUMENT, str(error)) from None
        except transport.Stranger as error:
            self._host.note_stranger(claimed_id, context.peer(), str(error))
            raise Refusal(grpc.StatusCode.FAILED_PRECONDITION, str(error)) from None
        self._peer_calls[call] = slot
        try:
            self._host.bring(message)
            reply = slot.wait(_patience(context, self._limits.peer_timeout))
        finally:
            self._peer_calls.pop(call, None)
        if reply is None:
            raise Refusal(grpc.StatusCode.DEADLINE_EXCEEDED, "the node is too busy to answer")
        return transport.reply_to_wire(reply)

    # ---- clients -----------------------------------------------------------------------------------------------------

    def serve_client(self, request: wire.ServeClientRequest, context: grpc.ServicerContext) -> wire.ServeClientReply:
        patience = _patience(context, self._limits.call_timeout)
        forms = [bool(request.request), bool(request.batch), request.HasField("get"), request.HasField("keys")]
        if sum(forms) != 1:
            raise _invalid("a request has exactly one of the fields request, batch, get and keys, and it is not empty")
        try:
            if request.batch:
                return self._serve_batch(request.batch, patience)
            if request.HasField("get"):
                value = self._read_key(request.get, patience)
                return self._done(values=[] if value is None else [value])
            if request.HasField("keys"):
                return self._done(values=self._read_keys(request.keys, patience))
            return self._serve_text(request.request, patience)
        except _NotHere as elsewhere:
            return self._redirect(elsewhere.leader_id)

    def status(self, _: wire.StatusRequest, context: grpc.ServicerContext) -> wire.StatusReply:
        """What this member thinks of itself and of the cluster."""
        status, membership = self._host.status(), self._host.membership
        keys, revision = self._host.count()
        return wire.StatusReply(
            id=membership.me,
            role=status.role,
            term=status.term,
            leader_id=status.leader_id,
            commit_index=status.commit_index,
            applied_index=status.applied_index,
            last_log_index=status.last_log_index,
            cluster_id=membership.cluster_id,
            members=[wire.Member(id=id, address=address) for id, address in sorted(membership.addresses.items())],
            version=__version__,
            keys=keys,
            revision=revision,
            serving=status.serving,
        )

    # ---- the extended form -------------------------------------------------------------------------------------------

    def _serve_batch(self, data: bytes, patience: float) -> wire.ServeClientReply:
        if len(data) > self._limits.max_batch_bytes:
            raise _invalid(f"the batch has {len(data)} bytes; at most {self._limits.max_batch_bytes} are allowed")
        try:
            batch = decode_batch(data)
        except Malformed as error:
            raise _invalid(str(error)) from None
        if not batch.operations:
            raise _invalid("the batch has no operations")
        if len(batch.operations) > self._limits.max_batch_operations:
            most = self._limits.max_batch_operations
            raise _invalid(f"the batch has {len(batch.operations)} operations; at most {most} are allowed")
        for operation in batch.operations:
            self._check(operation)
        results = self._write(Proposal(EntryKind.BATCH, data), patience)
        return self._done(results=[wire.OperationResult(status=r.status, value=r.value) for r in results])

    # ---- the text form -----------------------------------------------------------------------------------------------

    def _serve_text(self, text: str, patience: float) -> wire.ServeClientReply:
        if is_text_write(text):
            return self._serve_text_write(text, patience)
        command, _, rest = text.partition(" ")
        if command.upper() == "GET":
            return self._serve_text_get(rest, patience)
        if command.upper() == "KEYS":
            keys = self._read_keys(rest.encode(), patience)
            return self._done(data="\n".join(_as_text(key, "a key", "keys") for key in keys))
        raise _invalid(f"unknown command {command[:20]!r}: expected SET, GET, DEL, SETNX, CAS or KEYS")

    def _serve_text_write(self, text: str, patience: float) -> wire.ServeClientReply:
        try:
            operation = parse_text(text)
        except Malformed as error:
            raise _invalid(str(error)) from None
        self._check(operation)
        (result,) = self._write(Proposal(EntryKind.TEXT, text.encode()), patience)
        if operation.code is Code.SET:
            return self._done()
        return self._done(data="1" if result.status is Status.DONE else "0")

    def _serve_text_get(self, key: str, patience: float) -> wire.ServeClientReply:
        if key == RESERVED_WORD:
            leader_id = self._host.status().leader_id
            address = self._host.membership.addresses.get(leader_id, "")
            return wire.ServeClientReply(
                success=bool(leader_id), data=address, leader_id=leader_id, leader_address=address
            )
        if not is_word(key):
            raise _invalid("expected GET key")
        value = self._read_key(key.encode(), patience)
        if value is None:
            raise Refusal(grpc.StatusCode.NOT_FOUND, f"there is no key {key!r}")
        return self._done(data=_as_text(value, "the value", "get"))

    # ---- checks ------------------------------------------------------------------------------------------------------

    def _check(self, operation: Operation) -> None:
        if operation.code not in (Code.OPEN_SESSION, Code.CLOSE_SESSION):
            self._check_key(operation.key)
        for value in (operation.value, operation.expected):
            if len(value) > self._limits.max_value_bytes:
                raise _invalid(f"the value has {len(value)} bytes; at most {self._limits.max_value_bytes} are allowed")

    def _check_key(self, key: bytes) -> None:
        if not key:
            raise _invalid("a key must not be empty")
        if len(key) > self._limits.max_key_bytes:
            raise _invalid(f"the key has {len(key)} bytes; at most {self._limits.max_key_bytes} are allowed")

    # ---- the replica -------------------------------------------------------------------------------------------------

    def _write(self, proposal: Proposal, patience: float) -> Sequence[Result]:
        caller = self._admit(len(proposal.payload))
        self._host.bring(Write(proposal, caller))
        outcome = self._wait(caller, patience, "whether the write was or will be applied is unknown")
        assert isinstance(outcome, Applied)
        return outcome.results

    def _read_key(self, key: bytes, patience: float) -> bytes | None:
        self._check_key(key)
        served = self._host.read_under_lease(key)
        if served is not None:
            value: bytes | None = served.value
            return value
        return self._query(lambda machine: machine.get(key), patience)

    def _read_keys(self, prefix: bytes, patience: float) -> list[bytes]:
        # Searched and sorted here, in the caller's thread: many keys and callers would hold the turn for too long.
        return keys_with_prefix(self._query(StateMachine.all_keys, patience), prefix)

    def _query(self, read: Callable[[StateMachine], Answer], patience: float) -> Answer:
        caller = self._admit(0)
        self._host.bring(Query(read, caller))
        outcome = self._wait(caller, patience, "nothing was read")
        assert isinstance(outcome, Served)
        value: Answer = outcome.value
        return value

    def _admit(self, payload_bytes: int) -> _Waiting:
        size = max(payload_bytes, _LEAST_BYTES)
        if not self._budget.take(size):
            raise Refusal(
                grpc.StatusCode.RESOURCE_EXHAUSTED,
                "too much waits for a quorum (MAX_WAITING_BYTES); nothing has been done: try again later",
            )
        return _Waiting(self._budget, size)

    def _wait(self, caller: Slot[Outcome], patience: float, meaning: str) -> Applied | Served:
        outcome = caller.wait(patience)
        if outcome is None:
            raise Refusal(grpc.StatusCode.DEADLINE_EXCEEDED, f"no answer from a quorum in time; {meaning}")
        if isinstance(outcome, Unknown):
            raise Refusal(grpc.StatusCode.UNAVAILABLE, f"{outcome.reason}; {meaning}")
        if isinstance(outcome, NotLeader):
            raise _NotHere(outcome.leader_id)
        return outcome

    # ---- replies -----------------------------------------------------------------------------------------------------

    def _done(
        self, data: str = "", results: Sequence[wire.OperationResult] = (), values: Sequence[bytes] = ()
    ) -> wire.ServeClientReply:
        membership = self._host.membership
        return wire.ServeClientReply(
            success=True,
            data=data,
            leader_id=membership.me,
            leader_address=membership.addresses[membership.me],
            results=results,
            values=values,
        )

    def _redirect(self, leader_id: int) -> wire.ServeClientReply:
        address = self._host.membership.addresses.get(leader_id, "")
        return wire.ServeClientReply(success=False, leader_id=leader_id, leader_address=address)


def _invalid(details: str) -> Refusal:
    return Refusal(grpc.StatusCode.INVALID_ARGUMENT, details)


def _patience(context: grpc.ServicerContext, without_deadline: float) -> float:
    """Seconds until the call's deadline; `without_deadline` if it has none (gRPC then says: in a few hundred years)."""
    remaining = context.time_remaining()
    return without_deadline if remaining is None or remaining > _FOREVER else remaining


_FOREVER: Final = 10 * 365 * 86400.0
"""Seconds; also below what a lock's `acquire` takes for a timeout."""


def _as_text(data: bytes, what: str, field: str) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise Refusal(
            grpc.StatusCode.FAILED_PRECONDITION, f"{what} is not UTF-8 text: ask with the field `{field}`"
        ) from None
