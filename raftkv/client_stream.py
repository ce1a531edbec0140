"""A client's stream of requests, at the server: theory of operation.

A stream carries many operations in one message, and its answers in any order. Two threads belong to it: one reads
requests and hands them to the replica, the other sends what has been answered; whoever holds the turn only puts an
outcome into a queue. A request is read only when few enough are unanswered, so that a client that does not read its
answers can't make the node grow; and what waits for a quorum is bounded as it is for all clients.

Writes are proposed in the order in which they were sent, and none may overtake an earlier one. So once a write has not
been carried out (not the leader any more, no room) the stream takes no further ones, and those that are under way are
refused when their turn comes (`is_wanted`). The client opens another stream and repeats what it has to.

Answers have the codes of ServeClient. Those of writes that mean "nothing has been done": INVALID_ARGUMENT,
RESOURCE_EXHAUSTED, and FAILED_PRECONDITION, which says that this member does not lead.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from queue import SimpleQueue
from typing import Any, Final

import grpc
from google.protobuf.message import DecodeError

from raftkv.kv import StateMachine, keys_with_prefix
from raftkv.operations import REFUSED, Result, decode_batch, encode_operations
from raftkv.raft.types import EntryKind, Proposal
from raftkv.replica import Applied, NotLeader, Outcome, Query, Unknown, Write
from raftkv.service import Refusal, Service, invalid
from raftkv.wire import raft_pb2 as wire

MAX_UNANSWERED_REQUESTS: Final = 64
"""Of one stream. A client needs few: what waits in it goes into the next one."""

MISSING, FOUND, ASK_AGAIN = 0, 1, 2
"""What `ClientReply.found` says of a key. The last: the values before it were MAX_READ_BYTES already."""

Answer = Callable[[], wire.ClientReply]
"""Makes the message, in the thread that sends it."""


class ClientStream:
    """One stream. `read` takes requests to their end, in one thread; another sends `replies`."""

    def __init__(self, service: Service) -> None:
        self.is_broken = False
        """A write has not been carried out; no later one may be. Only ever set."""
        self._service = service
        self._answers: SimpleQueue[Answer | None] = SimpleQueue()
        """None: look whether this is the end."""
        self._room = threading.Semaphore(MAX_UNANSWERED_REQUESTS)
        self._taken = 0
        """Requests; counted by the reader. Each is answered."""
        self._is_closing = False
        self._is_abandoned = False

    def read(self, requests: Iterator[bytes]) -> None:
        """Take requests until there are no more, or the stream is closed."""
        try:
            for data in requests:
                self._room.acquire()
                # Counted first: `replies` looks in the other order, so it never ends before what has been taken.
                self._taken += 1
                if self._is_closing:
                    self._taken -= 1
                    return
                self._take(data)
        except grpc.RpcError:
            pass  # the client has gone
        finally:
            self.close()

    def replies(self) -> Iterator[bytes]:
        """The answers, until the stream is closed and everything that was taken is answered."""
        sent = 0
        while not (self._is_abandoned or (self._is_closing and sent == self._taken)):
            answer = self._answers.get()
            if answer is not None:
                yield answer().SerializeToString()
                sent += 1
                self._room.release()

    def close(self) -> None:
        """Take no more requests. From any thread."""
        self._is_closing = True
        self._answers.put(None)
        self._room.release()

    def abandon(self) -> None:
        """The client has gone: nobody is to be told anything any more, and what has not been proposed need not be. From
        any thread."""
        self.is_broken = self._is_abandoned = True
        self.close()

    def answer(self, answer: Answer) -> None:
        self._answers.put(answer)

    def give_back(self, size: int) -> None:
        """What was taken of the service's budget."""
        self._service.budget.give_back(size)

    def refuse(self, id: int, code: grpc.StatusCode, details: str) -> None:
        self.answer(lambda: wire.ClientReply(id=id, code=code.value[0], details=details))

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
            self.answer(lambda: finish([]))

    def _read_keys(self, id: int, keys: Sequence[bytes], size: int) -> None:
        refused = self._service.limits.check_keys(keys)
        values = self._service.host.read_under_lease(keys)
        if values is not None:
            self.answer(lambda: _values(id, len(keys), values, refused))
        else:
            self._query(
                id,
                lambda machine: machine.get_each(keys),
                lambda values: _values(id, len(keys), values, refused),
                size,
            )

    def _list_keys(self, id: int, prefix: bytes) -> None:
        self._query(
            id,
            StateMachine.all_keys,
            lambda keys: wire.ClientReply(id=id, values=keys_with_prefix(keys, prefix)),
            len(prefix),
        )

    def _query(
        self, id: int, read: Callable[[StateMachine], Any], finish: Callable[[Any], wire.ClientReply], size: int
    ) -> None:
        caller = _Caller(self, id, self._service.budget.take(size), finish, is_write=False)
        self._service.host.bring(Query(read, caller))


class _Caller:
    """Of a write or a query (replica.Caller)."""

    __slots__ = ("_finish", "_id", "_is_write", "_size", "_stream")

    def __init__(
        self, stream: ClientStream, id: int, size: int, finish: Callable[[Any], wire.ClientReply], is_write: bool
    ) -> None:
        """`finish` makes the reply out of a write's results or a query's value, in the sending thread."""
        self._stream = stream
        self._id = id
        self._size = size
        self._finish = finish
        self._is_write = is_write

    def is_wanted(self) -> bool:
        return not self._stream.is_broken

    def answer(self, outcome: Outcome) -> None:
        stream, finish = self._stream, self._finish
        stream.give_back(self._size)
        if isinstance(outcome, NotLeader | Unknown):
            stream.is_broken = stream.is_broken or self._is_write
            if isinstance(outcome, Unknown):
                stream.refuse(self._id, grpc.StatusCode.UNAVAILABLE, outcome.reason)
            else:
                stream.refuse(self._id, grpc.StatusCode.FAILED_PRECONDITION, "does not lead any more")
        else:
            answer = outcome.results if isinstance(outcome, Applied) else outcome.value
            stream.answer(lambda: finish(answer))


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
    session = max((result.value for result in results), default=0)
    return wire.ClientReply(id=id, statuses=bytes(statuses), session=session, refused=list(refused.values()))


def _values(id: int, count: int, values: Sequence[bytes | None], refused: Mapping[int, str]) -> wire.ClientReply:
    """The answer to a `get` of so many keys, the first of which have these values."""
    found = bytearray(MISSING if value is None else FOUND for value in values)
    found += bytes([ASK_AGAIN]) * (count - len(values))
    for position in refused:
        found[position] = REFUSED
    present = [value for value in values if value is not None]
    return wire.ClientReply(id=id, found=bytes(found), values=present, refused=list(refused.values()))
