"""Bidirectional gRPC calls that nobody waits for: theory of operation.

A `Stream` is such a call as its caller sees it: it sends without waiting, and hands what arrives to a function.
`Answers` is the server's side: it sends without waiting too. Where each message gets one answer, and nothing comes
unasked, the call may be `paired`, and `Exchange` is the server's side of it.

gRPC's own interface for such calls needs a thread that takes messages out of an iterator, and at the caller one more
that iterates over the answers; each costs a hand-over on the way of every message. So where gRPC lets it, the
operations are started here: a message is sent by the thread that has it, and at the caller received by gRPC's thread
that has read it. A round trip then takes two thirds of the time (docs/performance.md). The objects that this needs are
not part of gRPC's promises, so there is the promised way too, taken if they should ever be missing; the tests run both.

At most one message of a call is being sent; those behind it wait here, in order.

That a message is on its way is told by gRPC's thread, too. To be woken for it costs that thread some 20 us of a
processor, which whoever has the message would have better use for. Of paired messages that can be done without:
operations that begin together are told of together, so a message is sent together with receiving what comes next, the
answer to it at the caller and the next request at the server. Until that is there nothing else can be sent. So the
server does so only with the last answer that it owes, and the caller with a small message, if nothing else is under way
and the last answer came quickly: what has to wait behind it does not wait for long.
"""

from __future__ import annotations

import importlib
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from queue import SimpleQueue
from typing import Any, Final, Protocol

import grpc

try:
    cygrpc: Any = importlib.import_module("grpc._cython.cygrpc")
except ImportError:
    cygrpc = None

Done = Callable[[Any], tuple[None, tuple[()]]]
"""Called by gRPC's thread at a server with what has become of operations; what it returns: the call goes on."""

PING_TIMEOUT: Final = ("grpc.http2.ping_timeout_ms", 10_000)
"""An option of a connection. It counts where TCP sees nothing wrong (a proxy that hangs), and is a minute otherwise.
Not shorter: on a slow link the answer to a ping stands behind all that TCP has taken, some MB."""

_QUICK_S: Final = 0.002
"""An answer that comes within this time is worth waiting for, once."""
_SMALL_BYTES: Final = 32 << 10
"""Of a message. A larger one takes its receiver so long that the next one should be there by then."""


class Stream:
    """A call under way. `send` and `cancel` may be called from any thread; the functions are called by gRPC's threads,
    one at a time for each function, and should not raise."""

    def __init__(
        self,
        channel: grpc.Channel,
        method: str,
        received: Callable[[bytes], None],
        ended: Callable[[grpc.StatusCode, str], None],
        is_paired: bool = False,
    ) -> None:
        """Begin a call of `method`. `received` gets each message; `ended`, once, the status with which the call ended,
        and its details. `is_paired`: each message gets one answer, and nothing comes unasked; who sends more than that
        is not found out at once, for what is surplus is taken for the next answer. Raises ValueError if the channel has
        been closed."""
        self._lock = threading.Lock()
        self._unsent: deque[bytes] = deque()
        self._is_sending = False
        requests: SimpleQueue[bytes | None] = SimpleQueue()
        begin: Any = channel.stream_stream(method)
        self._call = begin(self._take_from(requests))
        self._transfer: _Transfer = _choose_transfer(self._call, requests, self._sent, is_paired)
        self._call.add_done_callback(lambda call: self._finish(call, requests, ended))
        self._transfer.receive(received)

    def send(self, data: bytes) -> None:
        """Send a message, after those that are waiting. Lost without a word if the call has ended."""
        with self._lock:
            if self._is_sending:
                self._unsent.append(data)
                return
            self._is_sending = True
        self._transfer.send(data)

    def cancel(self) -> None:
        """End the call. `ended` will be called."""
        self._call.cancel()

    def _sent(self) -> None:
        with self._lock:
            data = self._unsent.popleft() if self._unsent else None
            self._is_sending = data is not None
        if data is not None:
            self._transfer.send(data)

    def _take_from(self, requests: SimpleQueue[bytes | None]) -> Iterator[bytes]:
        """What gRPC asks for requests: nothing at all with direct transfer."""
        while (data := requests.get()) is not None:
            yield data
            self._sent()  # gRPC comes back only when it has sent the message

    def _finish(
        self, call: Any, requests: SimpleQueue[bytes | None], ended: Callable[[grpc.StatusCode, str], None]
    ) -> None:
        requests.put(None)
        ended(call.code(), call.details() or "")


class Answers:
    """What a server sends on a stream, whoever has it. Safe from any thread; ends with the call."""

    def __init__(self, context: Any, sent: Callable[[int], None]) -> None:
        """`sent` gets the size of each message, by gRPC's thread, when it is on its way, and when it never will be. On
        its way it is when the system has taken the last byte: before that the other side had to make room for it."""
        context.send_initial_metadata(())
        self._call = context._rpc_event.call
        self._sent = sent
        self._lock = threading.Lock()
        self._unsent: deque[bytes] = deque()
        self._is_sending = False
        self._size = 0
        """Of the message that is being sent."""
        self._has_ended = False

    @staticmethod
    def are_possible(context: Any) -> bool:
        """Whether this gRPC lets messages be sent in this way."""
        call = getattr(getattr(context, "_rpc_event", None), "call", None)
        return hasattr(call, "start_server_batch") and hasattr(cygrpc, "SendMessageOperation")

    def send(self, data: bytes) -> None:
        """Send a message, after those that are waiting."""
        with self._lock:
            if self._is_sending:
                self._unsent.append(data)
                return
            self._is_sending = True
        self._start(data)

    def _start(self, data: bytes) -> None:
        self._size = len(data)
        if not self._has_ended and _begin_at_server(self._call, (cygrpc.SendMessageOperation(data, 0),), self._done):
            return
        self._has_ended = True
        self._next()

    def _done(self, event: Any) -> tuple[None, tuple[()]]:
        """Called by gRPC's thread; what it returns says that the call goes on."""
        self._has_ended = self._has_ended or not event.success
        self._next()
        return None, ()

    def _next(self) -> None:
        self._sent(self._size)
        with self._lock:
            data = self._unsent.popleft() if self._unsent else None
            self._is_sending = data is not None
        if data is not None:
            self._start(data)


class Exchange:
    """A paired call at the server: an iterator over its requests, for one thread; and `send` for the answers, one to
    each request and in their order, from any thread. Possible where `Answers` are; ends with the call."""

    def __init__(self, context: Any) -> None:
        context.send_initial_metadata(())
        self._call = context._rpc_event.call
        self._arrived: SimpleQueue[bytes | None] = SimpleQueue()
        """A request that has not been taken yet; None at the end."""
        self._lock = threading.Lock()  # guards the rest
        self._unsent: deque[bytes] = deque()
        self._unanswered = 0
        """Requests that have arrived, and whose answers have not begun to be sent."""
        self._is_sending = False
        self._is_receiving = False
        # gRPC knows nothing of what begins here: once a call has ended, or the server, that may never be done.
        if not context.add_callback(self._end):
            self._end()

    def __iter__(self) -> Exchange:
        return self

    def __next__(self) -> bytes:
        with self._lock:
            is_due = not self._is_receiving
            self._is_receiving = True
        if is_due:
            self._start((cygrpc.ReceiveMessageOperation(0),), self._received)
        data = self._arrived.get()
        if data is None:
            raise StopIteration
        return data

    def send(self, data: bytes) -> None:
        """Send an answer, after those that are waiting."""
        with self._lock:
            self._unsent.append(data)
        self._send_next()

    def _send_next(self) -> None:
        with self._lock:
            if self._is_sending or not self._unsent:
                return
            data = self._unsent.popleft()
            self._unanswered -= 1
            self._is_sending = True
            # Another answer could not be sent before the next request is there: so only with the last one.
            is_paired = not self._unanswered and not self._is_receiving
            self._is_receiving = self._is_receiving or is_paired
        if is_paired:
            operations = cygrpc.SendMessageOperation(data, 0), cygrpc.ReceiveMessageOperation(0)
            self._start(operations, self._sent_and_received)
        else:
            self._start((cygrpc.SendMessageOperation(data, 0),), self._sent)

    def _start(self, operations: tuple[Any, ...], done: Done) -> None:
        if not _begin_at_server(self._call, operations, done):
            self._end()

    def _end(self) -> None:
        self._arrived.put(None)

    # ---- called by gRPC's thread; what they return says that the call goes on ----------------------------------------

    def _sent(self, event: Any) -> tuple[None, tuple[()]]:
        with self._lock:
            self._is_sending = False
        if event.success:
            self._send_next()
        return None, ()

    def _received(self, event: Any) -> tuple[None, tuple[()]]:
        with self._lock:
            self._is_receiving = False
            self._unanswered += 1
        self._arrived.put(event.batch_operations[-1].message())
        return None, ()

    def _sent_and_received(self, event: Any) -> tuple[None, tuple[()]]:
        with self._lock:
            self._is_sending = False
        return self._received(event)


def receive_once(rpc_event: Any, received: Callable[[bytes | None], None]) -> bool:
    """At a server: have the first message of a call handed over by gRPC's thread, or None if there is none. Whether
    this gRPC lets that be; if not, nothing has been done. `received` must neither wait nor raise."""

    def arrived(event: Any) -> tuple[None, tuple[()]]:
        received(event.batch_operations[0].message())
        return None, ()

    call: Any = getattr(rpc_event, "call", None)
    if not hasattr(call, "start_server_batch") or not hasattr(cygrpc, "ReceiveMessageOperation"):
        return False
    return _begin_at_server(call, (cygrpc.ReceiveMessageOperation(0),), arrived)


def _begin_at_server(call: Any, operations: tuple[Any, ...], done: Done) -> bool:
    """Whether gRPC takes the operations; if not, since the call has ended, `done` is never called."""
    try:
        return not call.start_server_batch(operations, done)  # it gives a code, 0 if all is well
    except ValueError:
        return False


class _Transfer(Protocol):
    def send(self, data: bytes) -> None: ...
    def receive(self, received: Callable[[bytes], None]) -> None: ...


def _choose_transfer(
    call: Any, requests: SimpleQueue[bytes | None], sent: Callable[[], None], is_paired: bool
) -> _Transfer:
    if _Direct.is_possible(call):
        return _Paired(call, sent) if is_paired else _Direct(call, sent)
    return _Promised(call, requests)


class _Direct:
    """Starts gRPC's operations from whatever thread has a message. A function that is handed to gRPC with an operation
    is called when that is done, and returns whether the whole call is: whether none is under way any more, of gRPC's
    own (`due`) or ours. gRPC's thread ends with the last call, and whatever were left then would never be done, which
    is what closing the channel waits for."""

    def __init__(self, call: Any, sent: Callable[[], None]) -> None:
        self._operate = call._call.operate
        self._state = call._state
        self._sent = sent

    @staticmethod
    def is_possible(call: Any) -> bool:
        operations = ("SendMessageOperation", "ReceiveMessageOperation")
        return (
            hasattr(getattr(call, "_call", None), "operate")
            and hasattr(getattr(call, "_state", None), "due")
            and all(hasattr(cygrpc, name) for name in operations)
        )

    def send(self, data: bytes) -> None:
        def done(event: Any) -> None:
            if event.success:
                self._sent()

        self._begin((cygrpc.SendMessageOperation(data, 0),), done)

    def receive(self, received: Callable[[bytes], None]) -> None:
        def done(event: Any) -> None:
            data = event.batch_operations[0].message()
            if data is not None:
                received(data)
                self._begin(operations, done)

        operations = (cygrpc.ReceiveMessageOperation(0),)
        self._begin(operations, done)

    def _begin(self, operations: tuple[Any, ...], done: Callable[[Any], None]) -> None:
        state, token = self._state, object()

        def finished(event: Any) -> bool:
            done(event)
            with state.condition:
                state.due.discard(token)
                return not state.due

        with state.condition:
            if self._operate(operations, finished):
                state.due.add(token)


class _Paired(_Direct):
    """For a paired call: receives as long as an answer is due, and if it can, sends and receives with one operation."""

    def __init__(self, call: Any, sent: Callable[[], None]) -> None:
        super().__init__(call, sent)
        self._received: Callable[[bytes], None]
        self._lock = threading.Lock()  # guards the rest
        self._unanswered = 0
        """While there are any, something is being received."""
        self._waits_since = 0.0
        """When the oldest of them was sent, if nothing was unanswered then; else 0."""
        self._last_wait = float("inf")
        """Seconds that the last answer took that was waited for alone."""

    def receive(self, received: Callable[[bytes], None]) -> None:
        self._received = received

    def send(self, data: bytes) -> None:
        with self._lock:
            is_alone = not self._unanswered
            self._unanswered += 1
            if is_alone:
                self._waits_since = time.monotonic()
            together = is_alone and self._last_wait < _QUICK_S and len(data) <= _SMALL_BYTES
        if together:
            operations = cygrpc.SendMessageOperation(data, 0), cygrpc.ReceiveMessageOperation(0)
            self._begin(operations, self._exchanged)
            return
        if is_alone:
            self._begin((cygrpc.ReceiveMessageOperation(0),), self._answered)
        super().send(data)

    def _exchanged(self, event: Any) -> None:
        if event.success:
            self._sent()
        self._answered(event)

    def _answered(self, event: Any) -> None:
        data = event.batch_operations[-1].message()
        if data is None:
            return  # the call has ended
        with self._lock:
            if self._waits_since:
                self._last_wait, self._waits_since = time.monotonic() - self._waits_since, 0.0
            self._unanswered -= 1
            is_more_due = self._unanswered > 0
        if is_more_due:
            self._begin((cygrpc.ReceiveMessageOperation(0),), self._answered)
        self._received(data)


class _Promised:
    """gRPC's own threads take the messages from a queue, and one of ours iterates over the answers."""

    def __init__(self, call: Any, requests: SimpleQueue[bytes | None]) -> None:
        self._call = call
        self._requests = requests

    def send(self, data: bytes) -> None:
        self._requests.put(data)

    def receive(self, received: Callable[[bytes], None]) -> None:
        threading.Thread(target=self._pass_on, args=(received,), name="answers", daemon=True).start()

    def _pass_on(self, received: Callable[[bytes], None]) -> None:
        try:
            for data in self._call:
                received(data)
        except grpc.RpcError:
            pass  # `ended` tells
