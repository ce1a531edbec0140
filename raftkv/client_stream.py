"""A client's stream of requests, at the server: theory of operation.

A stream carries many operations in one message, and its answers in any order. One thread belongs to it: it reads
requests and hands them to the replica. Answers are sent by whoever has them, without waiting. A request is read only
when few enough are unanswered or unsent, so that a client that does not read its answers can't make the node grow; and
what waits for a quorum is bounded as it is for all clients.

Writes are proposed in the order in which they were sent, and none may overtake an earlier one. So once a write has not
been carried out (not the leader any more, no room) the stream takes no further ones, and those that are under way are
refused when their turn comes (`is_wanted`). The client opens another stream and repeats what it has to.

Answers have the codes of ServeClient. Those of writes that mean "nothing has been done": INVALID_ARGUMENT,
RESOURCE_EXHAUSTED, and FAILED_PRECONDITION, which says that this member does not lead.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

import grpc
from google.protobuf.message import DecodeError

from raftkv.kv import StateMachine, keys_with_prefix
from raftkv.operations import REFUSED, Result, decode_batch, encode_operations
from raftkv.raft.types import EntryKind, Proposal
from raftkv.replica import Applied, NotLeader, Outcome, Query, Refused, Unknown, Write
from raftkv.service import Aside, Refusal, Service, invalid
from raftkv.wire import raft_pb2 as wire

MAX_UNANSWERED_REQUESTS: Final = 64
"""Of one stream. A client needs few: what waits in it goes into the next one."""

MISSING, FOUND, ASK_AGAIN = 0, 1, 2
"""What `ClientReply.found` says of a key. The last: the values before it were MAX_READ_BYTES already."""


class ClientStream:
    """One stream. `read` takes its requests to their end."""

    def __init__(self, service: Service, send: Callable[[bytes], None], end: Callable[[], object]) -> None:
        """`send` sends an answer without waiting; `sent` is to be called when it is on its way. `end` ends the call
        from this side; it is called when the stream has been closed and everything is answered."""
        self.is_broken = False
        """A write has not been carried out; no later one may be. Only ever set."""
        self._service = service
        self._send = send
        self._end = end
        self._changed = threading.Condition()  # guards the rest
        self._unsent = 0
        """Requests that have been taken and whose answers are not on their way."""
        self._is_closing = False
        """No more requests are taken."""
        self._is_closed = False
        """By this side."""
        self._has_gone = False

    def read(self, requests: Iterator[bytes]) -> None:
        """Take requests until there are no more or the stream is closed, and wait until their answers are sent."""
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

    def sent(self) -> None:
        """An answer is on its way."""
        with self._changed:
            self._unsent -= 1
            self._changed.notify_all()
            is_over = self._is_closed and not self._unsent
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
            self._changed.notify_all()

    def answer(self, reply: wire.ClientReply) -> None:
        self._send(reply.SerializeToString())

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
            self._changed.wait_for(lambda: self._is_closing or self._unsent < MAX_UNANSWERED_REQUESTS)
            self._unsent += not self._is_closing
            return not self._is_closing

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

        def finish(results: Sequence[Result]) -> wire.ClientReply:
            return _results(id, results, refused)

        if batch:
            caller = _Caller(self, id, self._service.budget.take(len(batch)), finish, is_write=True)
            self._service.host.bring(Write(Proposal(EntryKind.BATCH, batch), caller))
        else:
            self.answer(finish([]))

    def _read_keys(self, id: int, keys: Sequence[bytes], size: int) -> None:
        refused = self._service.limits.check_keys(keys)
        values = self._service.host.read_under_lease(keys)
        if values is not None:
            self.answer(_values(id, len(keys), values, refused))
        else:
            self._query(
                id,
                lambda machine: machine.get_each(keys),
                lambda values: _values(id, len(keys), values, refused),
                size,
            )

    def _list_keys(self, id: int, prefix: bytes) -> None:
        # Searched and sorted aside: many keys and callers would hold the turn for too long.
        self._query(
            id,
            StateMachine.all_keys,
            lambda keys: wire.ClientReply(id=id, values=keys_with_prefix(keys, prefix)),
            len(prefix),
            self._service.aside,
        )

    def _query(
        self,
        id: int,
        read: Callable[[StateMachine], Any],
        finish: Callable[[Any], wire.ClientReply],
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
        finish: Callable[[Any], wire.ClientReply],
        is_write: bool,
        aside: Aside | None = None,
    ) -> None:
        """`finish` makes the reply out of a write's results or a query's value; in another thread, with `aside`."""
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
            stream.answer(self._finish(outcome.results if isinstance(outcome, Applied) else outcome.value))


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
