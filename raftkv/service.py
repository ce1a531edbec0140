"""The calls that a node answers: theory of operation.

A call between members becomes a message for the algorithm, and waits for the reply. A client's call is checked first,
*completely*: what is refused (INVALID_ARGUMENT, RESOURCE_EXHAUSTED, FAILED_PRECONDITION; or success=false, on a member
that does not lead) has changed nothing. Once a write has been proposed the answer is its result or, if that does not
come in time or can't be known any more, a status that means *unknown* (UNAVAILABLE, DEADLINE_EXCEEDED).

The methods run in the threads of server.py and take the turn if it is free (turn.py). No thread waits for a client's
write: whoever holds the turn when it has been applied sends the answer. What waits to be committed is bounded in bytes,
and refused before it is proposed (hazard 50); and so are answers that are not sent, before their values are copied
(bounds.py). Streams of a client's requests are in client_stream.py.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, Generic, NamedTuple, Protocol, TypeVar

import grpc

from raftkv import __version__, transport
from raftkv.bounds import AnswerBudget, ByteBudget, Refusal
from raftkv.kv import Found, StateMachine, keys_with_prefix
from raftkv.operations import (
    NO_SPACE_TEXT,
    Code,
    Malformed,
    Operation,
    Result,
    SizeLimits,
    Status,
    find_refused,
    is_text_write,
    is_word,
    parse_text,
)
from raftkv.raft.messages import AppendEntriesReply, Reply
from raftkv.raft.types import Configuration, EntryKind, Proposal
from raftkv.replica import (
    Applied,
    Input,
    NotLeader,
    NotTransferred,
    Outcome,
    Query,
    Refused,
    TransferOutcome,
    Transferred,
    TransferRequest,
    Unknown,
    Write,
)
from raftkv.replica import Status as ReplicaStatus
from raftkv.snapshot_transfer import Offer, offer_from_wire
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
    max_unsent_bytes: int
    """Of answers that are not sent."""
    call_timeout: float
    """For a client's call that has no deadline of its own."""
    peer_timeout: float

    def check_batch(self, data: bytes) -> dict[int, str]:
        """The operations of a batch that may not be proposed, by position, in order, with the reason. Raises Refusal if
        nothing of the batch may be."""
        if len(data) > self.max_batch_bytes:
            raise invalid(f"the batch has {len(data)} bytes; at most {self.max_batch_bytes} are allowed")
        try:
            count, refused = find_refused(data, SizeLimits(self.max_key_bytes, self.max_value_bytes))
        except Malformed as error:
            raise invalid(str(error)) from None
        if not count:
            raise invalid("the batch has no operations")
        if count > self.max_batch_operations:
            raise invalid(f"the batch has {count} operations; at most {self.max_batch_operations} are allowed")
        return refused

    def check_key(self, key: bytes) -> None:
        """Raises Refusal."""
        if not key:
            raise invalid("a key must not be empty")
        if len(key) > self.max_key_bytes:
            raise invalid(f"the key has {len(key)} bytes; at most {self.max_key_bytes} are allowed")

    def check_keys(self, keys: Sequence[bytes]) -> dict[int, str]:
        """Those of some keys that can't be read, by position, in order, with the reason. Raises Refusal if none may
        be: there are as many as would hold up the turn."""
        if len(keys) > self.max_batch_operations:
            raise invalid(f"the request has {len(keys)} keys; at most {self.max_batch_operations} are allowed")
        refused: dict[int, str] = {}
        for position, key in enumerate(keys):
            if not 0 < len(key) <= self.max_key_bytes:
                try:
                    self.check_key(key)
                except Refusal as refusal:
                    refused[position] = refusal.details
        return refused

    def check_operation(self, operation: Operation) -> None:
        """Raises Refusal."""
        self.check_key(operation.key)
        for value in (operation.value, operation.expected):
            if len(value) > self.max_value_bytes:
                raise invalid(f"the value has {len(value)} bytes; at most {self.max_value_bytes} are allowed")


class Counts(NamedTuple):
    """What there is of the state."""

    keys: int
    revision: int
    state_bytes: int
    quota_bytes: int
    """0: without limit."""


class Host(Protocol):
    """What the service asks of its node."""

    @property
    def membership(self) -> Membership: ...

    def bring(self, item: Input) -> None:
        """Hand an input to the replica."""

    def leave(self, item: Input) -> None:
        """The same, for another thread to work on."""

    def read_under_lease(self, keys: Sequence[bytes]) -> Found | None: ...

    def status(self) -> ReplicaStatus: ...

    def count(self) -> Counts: ...

    def lacks_room_for(self, operation: Operation) -> bool:
        """Whether this node leads, and an operation would be answered with NO_SPACE now. A guess, made without the
        turn."""

    def note_stranger(self, claimed_id: int, where: str, why: str) -> None:
        """A peer was refused that says it is member `claimed_id`."""


class Receiver(Protocol):
    """Takes in snapshots (snapshot_receiver.py)."""

    def receive(
        self,
        offer: Offer,
        chunks: Iterator[wire.InstallSnapshotRequest],
        wait: Callable[[float], Reply | None],
    ) -> Iterator[wire.InstallSnapshotReply]:
        """The answers to a stream that has begun with `offer`; `wait` waits so many seconds for the algorithm's answer
        to the offer's message. Raises Refusal."""


def members_to_wire(membership: Membership, configuration: Configuration) -> list[wire.Member]:
    """All members, by id."""
    joined = dict(configuration.joined)
    return [
        wire.Member(
            id=id,
            address=address,
            is_learner=id in configuration.learners,
            is_wiped=id in membership.wiped,
            joined=joined.get(id, 0),
            disk=configuration.disk_of(id),
        )
        for id, address in sorted(membership.addresses.items())
    ]


def _no_space() -> Refusal:
    return Refusal(grpc.StatusCode.RESOURCE_EXHAUSTED, f"{NO_SPACE_TEXT}; nothing has been done")


def invalid(details: str) -> Refusal:
    return Refusal(grpc.StatusCode.INVALID_ARGUMENT, details)


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


class WaitingCaller:
    """A caller (replica.Caller) whose thread waits for the outcome, in `slot`."""

    def __init__(self) -> None:
        self.slot = Slot[Outcome]()

    def is_wanted(self) -> bool:
        return True

    def answer(self, outcome: Outcome) -> None:
        self.slot.answer(outcome)


# ---- calls that wait -------------------------------------------------------------------------------------------------


class Response(Protocol):
    """The answer to a client's call, which is yet to be made. From any thread, without waiting."""

    def admit(self, size: int) -> None:
        """So many bytes are about to be copied for it. Raises Refusal."""

    def respond(self, outcome: wire.ServeClientReply | Refusal) -> None:
        """Answer; once."""


Finish = Callable[[Any], wire.ServeClientReply]
"""Makes the reply out of a write's results, or of what a query has read. May raise Refusal."""

Aside = Callable[[Callable[[], None]], object]
"""Has a function run in another thread."""

_WRITE_UNKNOWN: Final = "whether the write was or will be applied is unknown"
_NOTHING_READ: Final = "nothing was read"


class _Pending:
    """A client's call that waits for the replica. Its bytes count until that has answered, even if the client has been
    told before that the time is over."""

    __slots__ = ("_answered", "_aside", "_finish", "_meaning", "_respond", "_service", "_size")

    def __init__(
        self, service: Service, size: int, response: Response, finish: Finish, meaning: str, aside: Aside | None
    ) -> None:
        """`meaning` is what it means for the client if there is no answer. `aside` finishes it in another thread."""
        self._service = service
        self._aside = aside
        self._size = size
        self._respond = response.respond
        self._finish = finish
        self._meaning = meaning
        self._answered = threading.Lock()
        """Acquired, for good, by whoever answers first."""

    def is_wanted(self) -> bool:
        return not self._answered.locked()

    def answer(self, outcome: Outcome) -> None:
        if self._aside is None:
            self._answer(outcome)
        else:
            self._aside(lambda: self._answer(outcome))

    def _answer(self, outcome: Outcome) -> None:
        self._service.budget.give_back(self._size)
        if self._answered.acquire(blocking=False):
            self._respond(self._reply_to(outcome))

    def expire(self) -> None:
        """The time is over."""
        if self._answered.acquire(blocking=False):
            details = f"no answer from a quorum in time; {self._meaning}"
            self._respond(Refusal(grpc.StatusCode.DEADLINE_EXCEEDED, details))

    def _reply_to(self, outcome: Outcome) -> wire.ServeClientReply | Refusal:
        if isinstance(outcome, Unknown):
            return Refusal(grpc.StatusCode.UNAVAILABLE, f"{outcome.reason}; {self._meaning}")
        if isinstance(outcome, NotLeader):
            return self._service.redirect(outcome.leader_id)
        assert not isinstance(outcome, Refused), "changes of the configuration are asked for elsewhere"
        try:
            return self._finish(outcome.results if isinstance(outcome, Applied) else outcome.value)
        except Refusal as refusal:
            return refusal


class _Overdue:
    """Ends calls after a time that is the same for all of them; and those whose client has taken nothing of the answer
    for so long, while others need the room. A thread of its own: the one that holds the turn may be waiting for a disk
    that hangs."""

    def __init__(self, seconds: float, answers: AnswerBudget) -> None:
        self._seconds = seconds
        self._answers = answers
        self._calls: deque[tuple[float, _Pending]] = deque()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="overdue", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopping.set()

    def watch(self, call: _Pending) -> None:
        self._calls.append((time.monotonic() + self._seconds, call))

    def _watch(self) -> None:
        while not self._stopping.wait(min(self._seconds / 10, 0.25)):
            now = time.monotonic()
            while self._calls and (self._calls[0][0] <= now or not self._calls[0][1].is_wanted()):
                self._calls.popleft()[1].expire()
            self._answers.disconnect_stuck(now - self._seconds)


# ---- the service -----------------------------------------------------------------------------------------------------


class Service:
    """Each public method answers one kind of call, in the thread of its caller; raises Refusal."""

    def __init__(self, host: Host, limits: ServiceLimits, aside: Aside, receiver: Receiver) -> None:
        """`aside` gets what would take the turn for too long, `receiver` the snapshots that leaders send."""
        self.host = host
        self.limits = limits
        self.budget = ByteBudget(limits.max_waiting_bytes)
        self.answers = AnswerBudget(limits.max_unsent_bytes)
        self.aside = aside
        self._receiver = receiver
        self._overdue = _Overdue(limits.call_timeout, self.answers)
        self._peer_calls: dict[int, Callable[[Reply], None]] = {}
        """By the number that the request took with it. Single operations on a dict are atomic."""
        self._call_numbers = itertools.count(1)

    def start(self) -> None:
        self._overdue.start()

    def stop(self) -> None:
        self._overdue.stop()

    # ---- between members ---------------------------------------------------------------------------------------------

    def append_entries(
        self, request: wire.AppendEntriesRequest, context: grpc.ServicerContext
    ) -> wire.AppendEntriesReply:
        """Answered by the thread that has taken it."""
        reply = self._answer_peer(request, transport.append_entries_from_wire, request.leader_id, context)
        assert isinstance(reply, wire.AppendEntriesReply)
        return reply

    def request_vote(self, request: wire.RequestVoteRequest, context: grpc.ServicerContext) -> wire.RequestVoteReply:
        reply = self._answer_peer(request, transport.request_vote_from_wire, request.candidate_id, context)
        assert isinstance(reply, wire.RequestVoteReply)
        return reply

    def timeout_now(self, request: wire.TimeoutNowRequest, context: grpc.ServicerContext) -> wire.TimeoutNowReply:
        reply = self._answer_peer(request, transport.timeout_now_from_wire, request.leader_id, context)
        assert isinstance(reply, wire.TimeoutNowReply)
        return reply

    def begin_append(
        self,
        request: wire.AppendEntriesRequest,
        context: grpc.ServicerContext,
        answer: Callable[[wire.AppendEntriesReply], None],
    ) -> None:
        """`append_entries` without waiting: the reply goes to `answer`, by whoever holds the turn then. A heartbeat's
        thread never is the one who does. It could be held up by the disk, and with it the heartbeats behind this one,
        which a member that was slow has to find when it asks itself whether there still is a leader (hazard 17)."""

        def take(reply: Reply) -> None:
            assert isinstance(reply, AppendEntriesReply)
            message = self._reply_to_wire(reply)
            assert isinstance(message, wire.AppendEntriesReply)
            answer(message)

        bring = self.host.bring if request.entries else self.host.leave
        self._bring_request(request, transport.append_entries_from_wire, request.leader_id, context, take, bring)

    def deliver(self, reply: Reply) -> None:
        """The replica's reply to a peer's request. By whoever holds the turn."""
        take = self._peer_calls.pop(reply.call, None)
        if take is not None:
            take(reply)

    def _answer_peer(
        self,
        request: Any,
        from_wire: Callable[[Any, int, int], transport.Request],
        claimed_id: int,
        context: grpc.ServicerContext,
    ) -> transport.WireReply:
        remaining, longest = remaining_time(context), self.limits.peer_timeout
        slot = Slot[Reply]()
        call = self._bring_request(request, from_wire, claimed_id, context, slot.answer, self.host.bring)
        reply = slot.wait(longest if remaining is None else min(remaining, longest))
        if reply is None:
            self._peer_calls.pop(call, None)
            raise Refusal(grpc.StatusCode.DEADLINE_EXCEEDED, "the node is too busy to answer")
        assert isinstance(reply, transport.Reply)
        return self._reply_to_wire(reply)

    def _reply_to_wire(self, reply: transport.Reply) -> transport.WireReply:
        membership = self.host.membership
        return transport.reply_to_wire(reply, membership.incarnation, membership.directory_joined)

    def _bring_request(
        self,
        request: Any,
        from_wire: Callable[[Any, int, int], transport.Request],
        claimed_id: int,
        context: grpc.ServicerContext,
        take: Callable[[Reply], None],
        bring: Callable[[Input], None],
    ) -> int:
        """Hand a peer's request to the replica, by `bring`; `take` gets the reply. The number of the call."""
        call = next(self._call_numbers)
        membership = self.host.membership
        try:
            membership.admit(request)
            message = from_wire(request, membership.me, call)
        except (transport.Malformed, transport.Stranger) as error:
            raise self._refusal(error, claimed_id, context) from None
        self._peer_calls[call] = take
        bring(message)
        return call

    def _refusal(
        self, error: transport.Malformed | transport.Stranger, claimed_id: int, context: grpc.ServicerContext
    ) -> Refusal:
        """Of a peer's call whose request is malformed, or a stranger's."""
        if isinstance(error, transport.Malformed):
            return invalid(str(error))
        self.host.note_stranger(claimed_id, context.peer(), str(error))
        return Refusal(grpc.StatusCode.FAILED_PRECONDITION, str(error))

    def install_snapshot(
        self,
        first: wire.InstallSnapshotRequest,
        chunks: Iterator[wire.InstallSnapshotRequest],
        context: grpc.ServicerContext,
    ) -> Iterator[wire.InstallSnapshotReply]:
        """Takes in a leader's snapshot in the calling thread; see snapshot_receiver.py."""
        call = next(self._call_numbers)
        try:
            self.host.membership.admit(first)
            offer = offer_from_wire(first, self.host.membership.me, call)
        except (transport.Malformed, transport.Stranger) as error:
            raise self._refusal(error, first.leader_id, context) from None
        slot = Slot[Reply]()
        self._peer_calls[call] = slot.answer
        try:
            yield from self._receiver.receive(offer, chunks, slot.wait)
        finally:
            self._peer_calls.pop(call, None)

    # ---- clients -----------------------------------------------------------------------------------------------------

    def serve_client(self, request: wire.ServeClientRequest, context: grpc.ServicerContext, response: Response) -> None:
        """Begin to carry out a client's request. What can be refused at once is raised; every other answer goes to
        `response`."""
        forms = [bool(request.request), bool(request.batch), request.HasField("get"), request.HasField("keys")]
        if sum(forms) != 1:
            raise invalid("a request has exactly one of the fields request, batch, get and keys, and it is not empty")
        call = _Begun(response, has_deadline=remaining_time(context) is not None)
        if request.batch:
            self._serve_batch(request.batch, call)
        elif request.HasField("get"):
            self._read_key(request.get, call, lambda value: self._done(values=[] if value is None else [value]))
        elif request.HasField("keys"):
            self._list_keys(request.keys, call, lambda keys: self._done(values=keys))
        else:
            self._serve_text(request.request, call)

    def status(self, _: wire.StatusRequest, context: grpc.ServicerContext) -> wire.StatusReply:
        """What this member thinks of itself and of the cluster."""
        status, membership = self.host.status(), self.host.membership
        counts = self.host.count()
        return wire.StatusReply(
            id=membership.me,
            role=status.role,
            term=status.term,
            leader_id=status.leader_id,
            commit_index=status.commit_index,
            applied_index=status.applied_index,
            last_log_index=status.last_log_index,
            cluster_id=membership.cluster_id,
            members=members_to_wire(membership, status.configuration),
            version=__version__,
            keys=counts.keys,
            revision=counts.revision,
            serving=status.serving,
            log_syncs=status.log_syncs,
            first_log_index=status.first_log_index,
            snapshot_index=status.snapshot_index,
            state_bytes=counts.state_bytes,
            quota_bytes=counts.quota_bytes,
            membership=status.membership_of(membership.me),
            members_digest=membership.digest,
        )

    def transfer_leadership(
        self, request: wire.TransferLeadershipRequest, context: grpc.ServicerContext
    ) -> wire.TransferLeadershipReply:
        """Have another member lead. Waits until it does; there is one such call at a time, or it is refused."""
        remaining, longest = remaining_time(context), self.limits.call_timeout
        slot = Slot[TransferOutcome]()
        self.host.bring(TransferRequest(request.target, slot.answer))
        outcome = slot.wait(longest if remaining is None else min(remaining, longest))
        if isinstance(outcome, NotTransferred):
            code = grpc.StatusCode.FAILED_PRECONDITION if outcome.was_refused else grpc.StatusCode.ABORTED
            raise Refusal(code, outcome.reason + ("; nothing has been done" if outcome.was_refused else ""))
        if outcome is None:
            raise Refusal(grpc.StatusCode.DEADLINE_EXCEEDED, "no other leader is known yet")
        leader_id = outcome.leader_id
        address = self.host.membership.addresses.get(leader_id, "")
        return wire.TransferLeadershipReply(
            success=isinstance(outcome, Transferred), leader_id=leader_id, leader_address=address
        )

    # ---- the extended form -------------------------------------------------------------------------------------------

    def _serve_batch(self, data: bytes, call: _Begun) -> None:
        for reason in self.limits.check_batch(data).values():
            raise invalid(reason)
        self._write(Proposal(EntryKind.BATCH, data), call, self._results)

    def _results(self, results: Sequence[Result]) -> wire.ServeClientReply:
        return self._done(results=[wire.OperationResult(status=r.status, value=r.value) for r in results])

    # ---- the text form -----------------------------------------------------------------------------------------------

    def _serve_text(self, text: str, call: _Begun) -> None:
        command, _, rest = text.partition(" ")
        if is_text_write(text):
            self._serve_text_write(text, call)
        elif command.upper() == "GET":
            self._serve_text_get(rest, call)
        elif command.upper() == "KEYS":
            self._list_keys(
                rest.encode(),
                call,
                lambda keys: self._done(data="\n".join(_as_text(key, "a key", "keys") for key in keys)),
            )
        else:
            raise invalid(f"unknown command {command[:20]!r}: expected SET, GET, DEL, SETNX, CAS or KEYS")

    def _serve_text_write(self, text: str, call: _Begun) -> None:
        try:
            operation = parse_text(text)
        except Malformed as error:
            raise invalid(str(error)) from None
        self.limits.check_operation(operation)
        # Not so with batches: in a session the refusal has to be remembered, and that goes through the log.
        if self.host.lacks_room_for(operation):
            raise _no_space()

        def finish(results: Sequence[Result]) -> wire.ServeClientReply:
            if results[0].status is Status.NO_SPACE:
                raise _no_space()
            if operation.code is Code.SET:
                return self._done()
            return self._done(data="1" if results[0].status is Status.DONE else "0")

        self._write(Proposal(EntryKind.TEXT, text.encode()), call, finish)

    def _serve_text_get(self, key: str, call: _Begun) -> None:
        if key == RESERVED_WORD:
            leader_id = self.host.status().leader_id
            address = self.host.membership.addresses.get(leader_id, "")
            call.response.respond(
                wire.ServeClientReply(
                    success=bool(leader_id), data=address, leader_id=leader_id, leader_address=address
                )
            )
            return
        if not is_word(key):
            raise invalid("expected GET key")

        def finish(value: bytes | None) -> wire.ServeClientReply:
            if value is None:
                raise Refusal(grpc.StatusCode.NOT_FOUND, f"there is no key {key!r}")
            return self._done(data=_as_text(value, "the value", "get"))

        self._read_key(key.encode(), call, finish)

    # ---- the replica -------------------------------------------------------------------------------------------------

    def _write(self, proposal: Proposal, call: _Begun, finish: Finish) -> None:
        self.host.bring(Write(proposal, self._pend(len(proposal.payload), call, finish, _WRITE_UNKNOWN)))

    def _read_key(self, key: bytes, call: _Begun, finish: Finish) -> None:
        def finish_found(found: Found) -> wire.ServeClientReply:
            call.response.admit(found.size)
            return finish(found.values()[0])

        self.limits.check_key(key)
        found = self.host.read_under_lease([key])
        if found is not None:
            call.response.respond(finish_found(found))
        else:
            self._query(lambda machine: machine.find_each([key]), call, finish_found)

    def _list_keys(self, prefix: bytes, call: _Begun, finish: Finish) -> None:
        def finish_all(all_keys: Sequence[bytes]) -> wire.ServeClientReply:
            keys = keys_with_prefix(all_keys, prefix)
            call.response.admit(count_keys(keys))
            return finish(keys)

        # Searched and sorted aside: many keys and callers would hold the turn for too long.
        self._query(StateMachine.all_keys, call, finish_all, self.aside)

    def _query(
        self, read: Callable[[StateMachine], Any], call: _Begun, finish: Finish, aside: Aside | None = None
    ) -> None:
        self.host.bring(Query(read, self._pend(0, call, finish, _NOTHING_READ, aside)))

    def _pend(
        self, payload_bytes: int, call: _Begun, finish: Finish, meaning: str, aside: Aside | None = None
    ) -> _Pending:
        pending = _Pending(self, self.budget.take(payload_bytes), call.response, finish, meaning, aside)
        if not call.has_deadline:
            self._overdue.watch(pending)
        return pending

    # ---- replies -----------------------------------------------------------------------------------------------------

    def _done(
        self, data: str = "", results: Sequence[wire.OperationResult] = (), values: Sequence[bytes] = ()
    ) -> wire.ServeClientReply:
        membership = self.host.membership
        return wire.ServeClientReply(
            success=True,
            data=data,
            leader_id=membership.me,
            leader_address=membership.addresses[membership.me],
            results=results,
            values=values,
        )

    def redirect(self, leader_id: int) -> wire.ServeClientReply:
        """Nothing has been done: another member leads, or none (0)."""
        address = self.host.membership.addresses.get(leader_id, "")
        return wire.ServeClientReply(success=False, leader_id=leader_id, leader_address=address)


class _Begun(NamedTuple):
    """A client's call before it waits for anything."""

    response: Response
    has_deadline: bool


def remaining_time(context: grpc.ServicerContext) -> float | None:
    """Seconds until the call's deadline; None if it has none (gRPC then says: in a few hundred years)."""
    remaining = context.time_remaining()
    return None if remaining is None or remaining > _FOREVER else remaining


_FOREVER: Final = 10 * 365 * 86400.0
"""Seconds."""


def count_keys(keys: Sequence[bytes]) -> int:
    """How many bytes an answer takes that lists them."""
    return sum(map(len, keys)) + _LISTED_KEY * len(keys)


_LISTED_KEY: Final = 3
"""Bytes, besides a key of any ordinary length."""


def _as_text(data: bytes, what: str, field: str) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise Refusal(
            grpc.StatusCode.FAILED_PRECONDITION, f"{what} is not UTF-8 text: ask with the field `{field}`"
        ) from None
