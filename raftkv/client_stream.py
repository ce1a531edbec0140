"""A client's stream of requests, at the server: theory of operation.

A stream carries many operations in one message, and its answers in any order. One thread belongs to it: it reads
requests and hands them to the replica. Answers are sent by whoever has them, without waiting. A request is taken only
when few enough are unanswered, and few enough bytes of answers unsent, so that a client that does not read its answers
can't make the node grow. What waits for a quorum, and what is unsent, is bounded for all clients together (bounds.py);
room for the values of a read is taken before they are copied. A read that finds none is refused at once: what comes
behind it must not wait for it.

Writes are proposed in the order in which they were sent, and none may overtake an earlier one. So once a write has not
been carried out (not the leader any more, no room) the stream takes no further ones, and those that are under way are
refused when their turn comes (`is_wanted`). The client opens another stream and repeats what it has to.

Answers have the codes of ServeClient. Those of writes that mean "nothing has been done": INVALID_ARGUMENT,
RESOURCE_EXHAUSTED, and FAILED_PRECONDITION, which says that this member does not lead.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

import grpc
from google.protobuf.message import DecodeError

from raftkv.bounds import MAX_UNSENT_OF_STREAM, SMALL_ANSWER_BYTES, Refusal
from raftkv.kv import Found, StateMachine, keys_with_prefix
from raftkv.operations import REFUSED, Result, decode_batch, encode_operations
from raftkv.raft.types import EntryKind, Proposal
from raftkv.replica import Applied, NotLeader, Outcome, Query, Refused, Unknown, Write
from raftkv.service import Aside, Service, count_keys, invalid
from raftkv.wire import raft_pb2 as wire

MAX_UNANSWERED_REQUESTS: Final = 64
"""Of one stream. A client needs few: what waits in it goes into the next one."""

MISSING, FOUND, ASK_AGAIN = 0, 1, 2
"""What `ClientReply.found` says of a key. The last: the values before it were MAX_READ_BYTES already, or too many
answers are unsent."""


class ClientStream:
    """One stream. `read` takes its requests to their end."""

    def __init__(
        self, service: Service, send: Callable[[bytes], None], end: Callable[[], object], cancel: Callable[[], object]
    ) -> None:
        """`send` sends an answer without waiting; `sent` is to be called when it is on its way. `end` ends the call
        from this side; it is called when the stream has been closed and everything is answered. `cancel` breaks it
        off."""
        self.is_broken = False
        """A write has not been carried out; no later one may be. Only ever set."""
        self._service = service
        self._send = send
        self._end = end
        self._cancel = cancel
        self._changed = threading.Condition()  # guards the rest
        self._unsent = 0
        """Requests that have been taken and whose answers are not on their way."""
        self._unsent_bytes = 0
        """Of answers. As many are this stream's part of `AnswerBudget`."""
        self._sizes: list[int] = []
        """Of each."""
        self._stands_since = 0.0
        """When an answer was last on its way, or the first of those that are unsent was made."""
        self._is_closing = False
        """No more requests are taken."""
        self._is_closed = False
        """By this side."""
        self._has_gone = False

    def read(self, requests: Iterator[bytes]) -> None:
        """Take requests until there are no more or the stream is closed, and wait until their answers are sent."""
        self._service.answers.watch(self)
        try:
            self._read(requests)
        finally:
            self._service.answers.forget(self)

    def _read(self, requests: Iterator[bytes]) -> None:
        try:
            for data in requests:
                if not self._make_room():
                    break
                self._take(data)
        except grpc.RpcError:
            self.vanish()
        with self._changed:
            self._is_closing = True
            self._changed.wait_for(lambda: self._has_gone or not self._unsent)

    def sent(self, size: int) -> None:
        """An answer of so many bytes is on its way, or never will be."""
        with self._changed:
            self._unsent -= 1
            if self._has_gone:
                size = 0  # `vanish` has given it back
            elif size:
                self._sizes.remove(size)
            self._unsent_bytes -= size
            self._stands_since = time.monotonic()
            self._changed.notify_all()
            is_over = self._is_closed and not self._unsent
        self._service.answers.give_back(size)
        if is_over:
            self._end()

    def close(self) -> None:
        """Take no more requests, and end the call as soon as everything is answered."""
        with self._changed:
            self._is_closed = self._is_closing = True
            self._changed.notify_all()
            is_over = not self._unsent
        if is_over:
            self._end()

    def vanish(self) -> None:
        """The client has gone: nothing more can be sent, and what has not been proposed need not be."""
        self.is_broken = True
        with self._changed:
            self._is_closing = self._has_gone = True
            sizes, self._sizes, self._unsent_bytes = self._sizes, [], 0
            self._changed.notify_all()
        for size in sizes:
            self._service.answers.give_back(size)

    def unsent(self) -> tuple[int, float]:
        with self._changed:
            return self._unsent_bytes, self._stands_since

    def disconnect(self) -> None:
        self._cancel()
        self.vanish()

    def answer(self, reply: wire.ClientReply, taken: int = 0) -> None:
        """Send an answer, for which so many bytes have been taken of the budget."""
        data = reply.SerializeToString()
        with self._changed:
            size = 0 if self._has_gone else len(data)
            if not self._unsent_bytes:
                self._stands_since = time.monotonic()
            if size:
                self._sizes.append(size)
            self._unsent_bytes += size
        self._service.answers.count(size, taken)
        self._send(data)

    def announce(self, members: Sequence[wire.Member]) -> None:
        """Tell the client of new members and addresses: when those it knows are gone, it can't ask any more."""
        with self._changed:
            if self._is_closing:
                return
            self._unsent += 1  # since `sent` will be called for it, as for an answer
        self.answer(wire.ClientReply(members=members))

    def refuse(self, id: int, code: grpc.StatusCode, details: str) -> None:
        self.answer(wire.ClientReply(id=id, code=code.value[0], details=details))

    def _make_room(self) -> bool:
        """Wait until one more request may be taken. Whether any may be."""
        with self._changed:
            self._changed.wait_for(
                lambda: self._is_closing or (self._unsent < MAX_UNANSWERED_REQUESTS and not self._is_full())
            )
            self._unsent += not self._is_closing
            return not self._is_closing

    def _is_full(self) -> bool:
        """Whether the client has to read first what there is for it. May end by itself; else when something is sent."""
        unsent = self._unsent_bytes
        return unsent >= SMALL_ANSWER_BYTES and (unsent >= MAX_UNSENT_OF_STREAM or self._service.answers.is_short)

    def give_back(self, size: int) -> None:
        """What was taken of the service's budget."""
        self._service.budget.give_back(size)

    # ---- requests ----------------------------------------------------------------------------------------------------

    def _take(self, data: bytes) -> None:
        request = wire.ClientRequest()
        try:
            request.ParseFromString(data)
            forms = bool(request.batch), bool(request.get), request.HasField("keys")
            if sum(forms) != 1:
                raise invalid("a request has exactly one of the fields batch, get and keys, and it is not empty")
            if request.batch:
                self._write(request.id, request.batch)
            elif request.get:
                self._read_keys(request.id, request.get, len(data))
            else:
                self._list_keys(request.id, request.keys)
        except DecodeError:
            self.is_broken = True  # who knows what it was
            self.refuse(0, grpc.StatusCode.INVALID_ARGUMENT, "not a ClientRequest")
        except Refusal as refusal:
            self.is_broken = self.is_broken or bool(request.batch)
            self.refuse(request.id, refusal.code, refusal.details)

    def _write(self, id: int, batch: bytes) -> None:
        if self.is_broken:
            raise Refusal(grpc.StatusCode.FAILED_PRECONDITION, "an earlier write of this stream was not carried out")
        refused = self._service.limits.check_batch(batch)
        if refused:
            batch = _without(batch, refused)

        def finish(results: Sequence[Result]) -> None:
            self.answer(_results(id, results, refused))

        if batch:
            caller = _Caller(self, id, self._service.budget.take(len(batch)), finish, is_write=True)
            self._service.host.bring(Write(Proposal(EntryKind.BATCH, batch), caller))
        else:
            finish([])

    def _read_keys(self, id: int, keys: Sequence[bytes], size: int) -> None:
        refused = self._service.limits.check_keys(keys)

        def finish(found: Found) -> None:
            if self._is_full():  # other requests have been answered since this one was taken
                found = Found([], 0)
            self._service.answers.take(found.size)
            self.answer(_values(id, len(keys), found.values(), refused), found.size)

        found = self._service.host.read_under_lease(keys)
        if found is not None:
            finish(found)
        else:
            self._query(id, lambda machine: machine.find_each(keys), finish, size)

    def _list_keys(self, id: int, prefix: bytes) -> None:
        def finish(all_keys: Sequence[bytes]) -> None:
            keys = keys_with_prefix(all_keys, prefix)
            size = count_keys(keys)
            self._service.answers.take(size)
            self.answer(wire.ClientReply(id=id, values=keys), size)

        # Searched and sorted aside: many keys and callers would hold the turn for too long.
        self._query(id, StateMachine.all_keys, finish, len(prefix), self._service.aside)

    def _query(
        self,
        id: int,
        read: Callable[[StateMachine], Any],
        finish: Callable[[Any], None],
        size: int,
        aside: Aside | None = None,
    ) -> None:
        caller = _Caller(self, id, self._service.budget.take(size), finish, is_write=False, aside=aside)
        self._service.host.bring(Query(read, caller))


class _Caller:
    """Of a write or a query (replica.Caller)."""

    __slots__ = ("_aside", "_finish", "_id", "_is_write", "_size", "_stream")

    def __init__(
        self,
        stream: ClientStream,
        id: int,
        size: int,
        finish: Callable[[Any], None],
        is_write: bool,
        aside: Aside | None = None,
    ) -> None:
        """`finish` gets a write's results or a query's value, and answers or raises Refusal; in another thread, with
        `aside`."""
        self._stream = stream
        self._id = id
        self._size = size
        self._finish = finish
        self._is_write = is_write
        self._aside = aside

    def is_wanted(self) -> bool:
        return not self._stream.is_broken

    def answer(self, outcome: Outcome) -> None:
        if self._is_write and isinstance(outcome, NotLeader | Unknown):
            self._stream.is_broken = True
        if self._aside is None:
            self._answer(outcome)
        else:
            self._aside(lambda: self._answer(outcome))

    def _answer(self, outcome: Outcome) -> None:
        stream = self._stream
        stream.give_back(self._size)
        if isinstance(outcome, Unknown):
            stream.refuse(self._id, grpc.StatusCode.UNAVAILABLE, outcome.reason)
        elif isinstance(outcome, NotLeader):
            stream.refuse(self._id, grpc.StatusCode.FAILED_PRECONDITION, "does not lead any more")
        else:
            assert not isinstance(outcome, Refused), "no stream asks for changes of the configuration"
            try:
                self._finish(outcome.results if isinstance(outcome, Applied) else outcome.value)
            except Refusal as refusal:
                stream.refuse(self._id, refusal.code, refusal.details)


# ---- batches and answers ---------------------------------------------------------------------------------------------


def _without(batch: bytes, refused: Mapping[int, str]) -> bytes:
    """The batch with the rest of its operations; empty if there are none."""
    decoded = decode_batch(batch)
    rest = [operation for position, operation in enumerate(decoded.operations) if position not in refused]
    return encode_operations(rest, decoded.session, decoded.lowest_unanswered) if rest else b""


def _results(id: int, results: Sequence[Result], refused: Mapping[int, str]) -> wire.ClientReply:
    statuses = bytearray([result.status for result in results])
    for position in refused:
        statuses.insert(position, REFUSED)
    session = max([result.value for result in results], default=0)
    return wire.ClientReply(id=id, statuses=bytes(statuses), session=session, refused=list(refused.values()))


def _values(id: int, count: int, values: Sequence[bytes | None], refused: Mapping[int, str]) -> wire.ClientReply:
    """The answer to a `get` of so many keys, the first of which have these values."""
    found = bytearray(MISSING if value is None else FOUND for value in values)
    found += bytes([ASK_AGAIN]) * (count - len(values))
    for position in refused:
        found[position] = REFUSED
    # A key that is refused may exist all the same, from before a limit was lowered.
    present = [value for position, value in enumerate(values) if value is not None and position not in refused]
    return wire.ClientReply(id=id, found=bytes(found), values=present, refused=list(refused.values()))
