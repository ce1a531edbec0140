"""The client library: blocking calls, safe from any thread: theory of operation.

A call is tried until it is answered or its time is over: `Router` finds the leader, the request is sent to it, and what
comes back is one of

* an answer, and the call is done;
* "nothing has been done": not the leader, overloaded; or refused for good, and the call fails as `NotApplied`;
* anything else, a lost connection above all: nobody knows. A write is then in *doubt*, and is sent again all the same,
  for its session makes that harmless. If no answer comes in time, it fails as `OutcomeUnknown`.

While an answer is awaited, the router is asked now and then whether another member leads; if so, the attempt is given
up and the write sent there. That is how a leader that hangs is left.

Sessions (dissertation, 6.3). The first write opens one through the log; each write takes the next sequence number and
keeps it through all its attempts. With each batch goes the lowest number still in use by any thread. A number is in use
until its call returns, *however* it returns: a call that was given up in doubt never sends its number again, and when
the mark has passed it the state machine refuses whatever copy of it may still be on its way. So a write in doubt is
applied at most once, and never after a later write of the same client has been applied with the mark above it.

An expired session can't tell whether an operation was applied before. If the refused attempt is the only one that
may have reached the log, the write has not been applied and goes out anew in a new session; if not, it is unknown.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Iterable
from contextlib import suppress
from types import TracebackType
from typing import Final, NamedTuple

import grpc

from raftkv.config import ConfigError, parse_members
from raftkv.errors import Error, NotApplied, OutcomeUnknown, WrongType, WrongValue
from raftkv.operations import Batch, Code, Operation, Result, Status, encode_batch
from raftkv.routing import FIRST_ROUND_S, LONGEST_ROUND_S, Backoff, Member, NodeStatus, Router
from raftkv.wire.raft_pb2 import ServeClientReply, ServeClientRequest

__all__ = ["Client", "Error", "NodeStatus", "NotApplied", "OutcomeUnknown", "WrongType", "WrongValue"]

_SLOW_S: Final = 0.3
"""An answer that takes longer makes the client ask whether another member leads."""
_CLOSE_S: Final = 0.5
"""How long `close` may take to say goodbye."""

# Statuses that a member gives before it has proposed anything. The first kind is final, the second passes.
_REFUSED: Final = (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.FAILED_PRECONDITION)
_BUSY: Final = grpc.StatusCode.RESOURCE_EXHAUSTED
_TOO_LARGE_BYTES: Final = 4 << 20
"""A larger request that gets the status _BUSY is refused for its size, by gRPC itself: it would be for ever."""


class Client:
    """A connection to the cluster.

        with Client(["127.0.0.1:50051", "127.0.0.1:50052"]) as client:
            client.set("key", "value")

    Keys and values are `bytes`, or `str` taken as UTF-8. A call that fails raises `NotApplied` (definite) or, if it is
    a write, `OutcomeUnknown`; an argument that can't be used raises a `NotApplied` that is also a ValueError or a
    TypeError. No call takes longer than the timeout.

    A signal's exception that breaks off a call (KeyboardInterrupt) may leave gRPC's own state in pieces: make a new
    client to go on with.
    """

    def __init__(self, addresses: Iterable[str], timeout: float = 10.0) -> None:
        """A client of the cluster that the members at `addresses` (`host:port`) belong to; any one of them will do.

        `timeout` is in seconds and holds for each call. Connects to nobody before the first call.
        """
        self._timeout = _checked_timeout(timeout)
        self._router = Router(_checked_addresses(addresses))
        self._session: _Session | None = None
        self._opening = threading.Lock()
        """Held by the one thread that opens a session."""

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def set(self, key: str | bytes, value: str | bytes) -> None:
        """Give the key this value."""
        self._write(Operation(Code.SET, _bytes("key", key), _bytes("value", value)))

    def get(self, key: str | bytes) -> bytes | None:
        """The key's value, None if there is no such key. Linearizable."""
        reply = self._read(ServeClientRequest(get=_bytes("key", key)))
        return reply.values[0] if reply.values else None

    def delete(self, key: str | bytes) -> bool:
        """Remove the key. Whether it existed."""
        return self._write(Operation(Code.DELETE, _bytes("key", key)))

    def set_if_absent(self, key: str | bytes, value: str | bytes) -> bool:
        """Give the key this value if it does not exist. Whether that was done."""
        return self._write(Operation(Code.SET_IF_ABSENT, _bytes("key", key), _bytes("value", value)))

    def compare_and_set(self, key: str | bytes, expected: str | bytes, new: str | bytes) -> bool:
        """Give the key the value `new` if it exists and has the value `expected`. Whether that was done."""
        key, expected, new = _bytes("key", key), _bytes("expected", expected), _bytes("new", new)
        return self._write(Operation(Code.COMPARE_AND_SET, key, new, expected))

    def keys(self, prefix: str | bytes = b"") -> list[bytes]:
        """The keys that begin with `prefix`, sorted. Linearizable."""
        return list(self._read(ServeClientRequest(keys=_bytes("prefix", prefix))).values)

    def status(self) -> list[NodeStatus]:
        """A row for every member, in the order of ids. A member that does not answer within a second has the role
        "unreachable"; if none does, the rows are those of the addresses known, without ids."""
        if self._router.closed.is_set():
            raise NotApplied("the client is closed", "CANCELLED")
        return self._router.status(time.monotonic() + self._timeout)

    def close(self) -> None:
        """End the session, if that is quickly done, and the connections. Calls under way in other threads fail."""
        self._router.closed.set()
        session, leader = self._session, self._router.known_leader()
        self._session = None
        if session is not None and leader is not None:
            goodbye = session.batch(Operation(Code.CLOSE_SESSION), session.take())
            with suppress(grpc.RpcError):  # if it does not arrive, the session expires
                leader.stub.ServeClient(ServeClientRequest(batch=goodbye), timeout=min(_CLOSE_S, self._timeout))
        self._router.close()

    # ---- one call ----------------------------------------------------------------------------------------------------

    def _read(self, request: ServeClientRequest) -> ServeClientReply:
        return self._exchange(request, _Call(self._timeout, self._router.closed, "nothing was read"))

    def _write(self, operation: Operation) -> bool:
        """Carry out an operation. Whether its condition held."""
        call = _Call(self._timeout, self._router.closed, "the write was not applied")
        expired = None
        while True:
            session = self._open_session(call, expired)
            status = self._write_in_session(session, operation, call)
            if status in (Status.DONE, Status.NOT_DONE):
                return status is Status.DONE
            if status is not Status.SESSION_UNKNOWN or call.doubt:
                raise call.error("ABORTED", _REASONS[status])
            call.trouble = ("ABORTED", _REASONS[status])
            expired = session
            call.pause()

    def _open_session(self, call: _Call, expired: _Session | None) -> _Session:
        """The session to write in, which is not `expired`. One thread opens it for all."""
        session = self._session
        if session is not None and session is not expired:
            return session
        if not self._opening.acquire(timeout=call.remaining()):
            raise call.gave_up("UNAVAILABLE", "no session could be opened")
        try:
            if self._session is None or self._session is expired:
                # Opened twice does no harm: the one that nobody uses expires. So this leaves no doubt about the write.
                opened = self._append(encode_batch(Batch([Operation(Code.OPEN_SESSION)])), call, is_write=False)
                if opened.status is not Status.DONE:
                    raise call.error("INTERNAL", _REASONS[opened.status])
                self._session = _Session(opened.value)
            return self._session
        finally:
            self._opening.release()

    def _write_in_session(self, session: _Session, operation: Operation, call: _Call) -> Status:
        """The status with which the operation was applied or refused. It has one sequence number in all attempts."""
        sequence = session.take()
        try:
            while True:
                status = self._append(session.batch(operation, sequence), call, is_write=True).status
                if status is not Status.TOO_MANY_UNANSWERED:
                    return status
                # Other threads' calls hold back the mark; the next attempt carries it as it is then.
                call.trouble = ("RESOURCE_EXHAUSTED", _REASONS[status])
                call.pause()
        finally:
            session.settle(sequence)

    def _append(self, batch: bytes, call: _Call, is_write: bool) -> Result:
        """The result of a batch of one operation, from the state machine. Raises an `Error`."""
        reply = self._exchange(ServeClientRequest(batch=batch), call, is_write)
        try:
            (result,) = reply.results
            return Result(Status(result.status), result.value)
        except ValueError:
            call.doubt = call.doubt or is_write
            raise call.error("INTERNAL", "the answer can't be understood: is the server of another version?") from None

    def _exchange(self, request: ServeClientRequest, call: _Call, is_write: bool = False) -> ServeClientReply:
        """Send a request to the leader, again and again until it is answered with success. Raises an `Error`.

        `is_write`: doubt about this request is doubt about the call.
        """
        while True:
            try:
                leader = self._router.leader(call.deadline)
            except NotApplied as error:
                raise call.gave_up(error.code, str(error)) from None
            answer = self._attempt(leader, request, call)
            if isinstance(answer, ServeClientReply):
                self._router.heard(leader)
                return answer
            call.trouble = (answer.code.name, f"{leader.address}: {answer.details}")
            call.doubt = call.doubt or (is_write and not answer.nothing_done)
            if answer.code in _REFUSED:
                raise call.error(*call.trouble)
            if answer.code is not _BUSY:
                self._router.doubt(leader)
            call.pause()

    def _attempt(self, leader: Member, request: ServeClientRequest, call: _Call) -> ServeClientReply | _Failure:
        """Send the request once, and wait for the answer unless the time is over or another member leads."""
        try:
            attempt = leader.stub.ServeClient.future(request, timeout=call.remaining())
        except ValueError:
            return _Failure(grpc.StatusCode.CANCELLED, "the client has been closed", nothing_done=True)
        done = threading.Event()
        attempt.add_done_callback(lambda _: done.set())
        wait, patience = _SLOW_S, FIRST_ROUND_S
        try:
            while not done.wait(min(wait, call.remaining())):
                if call.remaining() == 0:
                    return _Failure(grpc.StatusCode.DEADLINE_EXCEEDED, "no answer in time")
                if self._router.superseded(leader, time.monotonic() + min(patience, call.remaining())):
                    return _Failure(grpc.StatusCode.ABORTED, "no answer, and another member leads now")
                wait, patience = patience, min(patience * 1.5, LONGEST_ROUND_S)
        finally:
            attempt.cancel()
        if attempt.code() is grpc.StatusCode.OK:
            reply: ServeClientReply = attempt.result()
            return reply if reply.success else _NOT_LEADER
        return _failure(attempt.code(), " ".join((attempt.details() or "").split()), request)


class _Failure(NamedTuple):
    """What an attempt came to that was not answered with success."""

    code: grpc.StatusCode
    details: str
    nothing_done: bool = False


_NOT_LEADER: Final = _Failure(grpc.StatusCode.UNAVAILABLE, "does not lead any more", nothing_done=True)


def _failure(code: grpc.StatusCode, details: str, request: ServeClientRequest) -> _Failure:
    if code is _BUSY and request.ByteSize() > _TOO_LARGE_BYTES:
        code = grpc.StatusCode.INVALID_ARGUMENT
    return _Failure(code, details, nothing_done=code in (*_REFUSED, _BUSY))


class _Call:
    """A caller's call: its time, and what is to be said if it fails."""

    def __init__(self, timeout: float, stop: threading.Event, nothing_done: str) -> None:
        self.deadline = time.monotonic() + timeout
        self.doubt = False
        """An attempt may have been carried out though it was not answered."""
        self.trouble = ("UNAVAILABLE", "")
        """Why the last attempt failed: code and text."""
        self._timeout = timeout
        self._stop = stop
        self._nothing_done = nothing_done
        self._backoff: Backoff | None = None

    def remaining(self) -> float:
        return max(0.0, self.deadline - time.monotonic())

    def pause(self) -> None:
        """Wait before the next attempt. Raises an `Error` if there can be none."""
        self._backoff = self._backoff or Backoff(self.deadline, self._stop)
        if not self._backoff.pause():
            raise self.gave_up(*self.trouble)

    def gave_up(self, code: str, text: str) -> Error:
        """The error for a call whose time is over, or whose client has been closed."""
        if self._stop.is_set():
            return self.error("CANCELLED", "the client is closed")
        return self.error(code, f"{text} (gave up after {self._timeout:g} s)")

    def error(self, code: str, text: str) -> Error:
        """The error that says what is certain about the call."""
        if self.doubt:
            return OutcomeUnknown(f"{text}; the write may have been applied", code)
        kind = WrongValue if code == "INVALID_ARGUMENT" else NotApplied
        return kind(f"{text}; {self._nothing_done}", code)


class _Session:
    """A session's id and its sequence numbers. Safe from any thread."""

    def __init__(self, session_id: int) -> None:
        self._id = session_id
        self._lock = threading.Lock()
        self._next = 1
        self._in_use: dict[int, None] = {}
        """In the order in which they were taken, so the first is the lowest."""

    def take(self) -> int:
        """The next sequence number, in use from now on."""
        with self._lock:
            sequence = self._next
            self._next += 1
            self._in_use[sequence] = None
            return sequence

    def settle(self, sequence: int) -> None:
        """The number will not be sent any more."""
        with self._lock:
            del self._in_use[sequence]

    def batch(self, operation: Operation, sequence: int) -> bytes:
        """The operation as a batch, with the mark as it stands now."""
        with self._lock:
            lowest_unanswered = next(iter(self._in_use), self._next)
        return encode_batch(Batch([operation._replace(sequence=sequence)], self._id, lowest_unanswered))


_REASONS: Final = {
    Status.MALFORMED: "the state machine could not decode the operation",
    Status.SESSION_UNKNOWN: "the session has expired",
    Status.SEQUENCE_STALE: "the operation's sequence number is below the session's mark",
    Status.TOO_MANY_UNANSWERED: "the session keeps as many answers as it may",
}


def _bytes(name: str, argument: str | bytes) -> bytes:
    if isinstance(argument, bytes):
        return argument
    if not isinstance(argument, str):
        raise WrongType(f"{name} must be str or bytes, not {type(argument).__name__}", "INVALID_ARGUMENT")
    try:
        return argument.encode()
    except UnicodeEncodeError as error:
        raise WrongValue(f"{name} can't be written as UTF-8: {error.reason}", "INVALID_ARGUMENT") from None


def _checked_addresses(addresses: Iterable[str]) -> list[str]:
    if isinstance(addresses, str) or not isinstance(addresses, Iterable):
        raise WrongType("addresses must be a list of host:port", "INVALID_ARGUMENT")
    checked: list[str] = []
    for address in addresses:
        if not isinstance(address, str):
            raise WrongType(f"an address must be str, not {type(address).__name__}", "INVALID_ARGUMENT")
        try:
            checked += parse_members([address]).values()
        except ConfigError as error:
            raise WrongValue(str(error), "INVALID_ARGUMENT") from None
    if not checked:
        raise WrongValue("no member's address is given", "INVALID_ARGUMENT")
    return checked


def _checked_timeout(timeout: float) -> float:
    if not isinstance(timeout, int | float):
        raise WrongType(f"timeout must be a number of seconds, not {type(timeout).__name__}", "INVALID_ARGUMENT")
    if not (math.isfinite(timeout) and 0 < timeout <= threading.TIMEOUT_MAX):
        raise WrongValue(f"timeout must be a number of seconds above 0, not {timeout}", "INVALID_ARGUMENT")
    return float(timeout)
