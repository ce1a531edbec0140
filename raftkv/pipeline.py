"""A client's calls on their way to the leader and back: theory of operation.

Calls wait in two queues, writes and reads (outbox.py). What waits goes out as one message on one stream to the leader,
a few messages at a time (connection.py); what comes meanwhile waits for the next one, so that messages grow with the
load and nothing ever waits for a timer. A message of writes is a batch: one entry of the log. Whoever submits a call
sends, if nobody else does just then; answers are taken by gRPC's thread, which finishes the calls. Two threads are the
pipeline's own. One ends calls whose time is over, and never waits for anything else. The other asks the members, which
may take long when they do not answer: it finds the leader, opens the stream, and watches over it.

Order. Writes are numbered in the order of their submission, sent in that order, and proposed in that order; the server
takes no write of a stream after one that it has refused. When a stream ends, however it does, everything on it that is
not answered goes back to the front of the queue. So the writes of one client are applied in the order in which they
were submitted. A read sees every write that was answered before the read was submitted.

Exactly once (dissertation, 6.3). A write keeps its number through all attempts, and its batch carries the lowest number
that may still be sent. A call that has been given up never sends its number again, and when the mark has passed it the
state machine refuses whatever copy may still be on its way; until then, once the stream of that copy has been left,
nothing is sent that was submitted later (outbox.py). An expired session can't tell whether a write was applied before:
if no attempt but the refused one may have reached the log it goes out anew in a new session; if not, it is unknown.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from itertools import chain
from typing import Any, Final

import grpc
from google.protobuf.message import DecodeError

from raftkv.calls import FLYING, KEYS, OVER, WAITING, Call
from raftkv.client_stream import ASK_AGAIN, FOUND
from raftkv.connection import MIN_CALLS, Connection, Message
from raftkv.errors import Error, NotApplied
from raftkv.operations import NO_SPACE_TEXT, REFUSED, Code, Operation, Status, encode_operations
from raftkv.outbox import MAX_WAITING, MAX_WAITING_BYTES, SMALL_BYTES, Outbox
from raftkv.routing import FIRST_ROUND_S, LONGEST_ROUND_S, Backoff, Router, gave_up
from raftkv.streams import Stream
from raftkv.wire.raft_pb2 import ClientReply, ClientRequest

METHOD: Final = "/RaftNode/ServeClientStream"

_SLOW_S: Final = 0.3
"""An answer that takes longer makes the client ask whether another member leads."""
_TICK_S: Final = 0.05
_STAY_AWAKE_S: Final = 1.0
"""How long the pipeline's threads go on ticking when there are no calls."""
_SEARCH_S: Final = 0.25
"""How long a search for the leader may take at least, whoever's time ends meanwhile."""
_CLOSE_S: Final = 0.5
"""How long closing the session may take."""
_NEVER: Final = float("inf")

_INVALID, _EXHAUSTED, _ELSEWHERE = (
    code.value[0]
    for code in (
        grpc.StatusCode.INVALID_ARGUMENT,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        grpc.StatusCode.FAILED_PRECONDITION,
    )
)
"""Answers that mean that nothing has been done."""
_NOTHING_DONE: Final = (_INVALID, _EXHAUSTED, _ELSEWHERE)
NOT_TAKEN: Final = "nothing has been done"
"""What a member says that takes no more streams."""
_TOO_LARGE: Final = "larger than max"
"""What gRPC says of a message that is larger than the server takes."""
# Bare numbers: to compare with a member of an Enum takes three times as long.
_DONE: Final = int(Status.DONE)
_NOT_DONE: Final = int(Status.NOT_DONE)
_CODE_NAMES: Final = {code.value[0]: code.name for code in grpc.StatusCode}

_REASONS: Final = {
    Status.MALFORMED: ("INTERNAL", "the state machine could not decode the operation"),
    Status.SESSION_UNKNOWN: ("ABORTED", "the session has expired"),
    Status.SEQUENCE_STALE: ("ABORTED", "the operation's sequence number is below the session's mark"),
}

Finished = list[tuple[Call, Any]]
"""Calls that are over, each with its answer or its Error."""


class Pipeline:
    """Safe from any thread. `_lock` guards everything, what the outbox and the connection hold included, but for the
    ends of the queues, where any thread may append."""

    def __init__(self, router: Router, timeout: float, delivered: Callable[[], None] = lambda: None) -> None:
        """`timeout` is that of every call, in seconds. `delivered` is called after each lot of calls has been finished,
        by the thread that did it."""
        self._router = router
        self._timeout = timeout
        self._delivered = delivered
        self._lock = threading.Lock()
        self._outbox = Outbox()
        self._writes, self._reads = self._outbox.writes, self._outbox.reads
        """The outbox's own, at hand for every call."""
        self._connection: Connection | None = None
        self._delivering: set[int] = set()
        """The threads that finish calls just now; what these submit in turn goes out as one message afterwards."""
        self._trouble: tuple[str, str] | None = None
        """Why the last attempt failed, if one did since the last that did not."""
        self._backoff: Backoff | None = None
        """Since an attempt failed."""
        self._not_before = 0.0
        """When there may be another one."""
        self._threads: tuple[threading.Thread, ...] = ()
        self._wake = threading.Event()
        self._is_asleep = False
        """The thread that ends calls waits to be woken."""
        self._ask = threading.Event()
        """Set: the other thread is to see what there is to be asked of the members."""

    # ---- what callers do ---------------------------------------------------------------------------------------------

    def submit(self, call: Call) -> None:
        """Have the call carried out; it is finished later, by another thread. Raises NotApplied."""
        self.enqueue(call)
        if not self._delivering:  # else nothing may be sent now, and who delivers looks afterwards
            self._push()
        self._have_it_watched()

    def enqueue(self, call: Call) -> None:
        """`submit` without sending: `flush` has to follow."""
        if self._router.closed.is_set():
            raise call.error("CANCELLED", "the client is closed")
        queue = self._writes if call.code > 0 else self._reads
        if len(queue) >= MAX_WAITING:
            raise call.error("RESOURCE_EXHAUSTED", f"{MAX_WAITING} calls wait in this client already")
        size = len(call.key) + len(call.value) + len(call.expected)
        if size > SMALL_BYTES and not self._outbox.count(call, size):
            raise call.error("RESOURCE_EXHAUSTED", f"calls with {MAX_WAITING_BYTES} bytes wait in this client already")
        queue.append(call)
        if self._router.closed.is_set() and self.cancel(call):  # closed meanwhile, and `close` has not seen it
            raise call.error("CANCELLED", "the client is closed")

    def flush(self) -> None:
        """Send what waits, as far as there is room. Never waits: who has the lock looks once more when it lets go."""
        self._push()
        self._have_it_watched()

    def _have_it_watched(self) -> None:
        """See to it that the threads look after what waits: for a connection, and for the calls' deadlines."""
        if self._is_asleep or (self._connection is None and not self._ask.is_set()):
            self._wake_up()

    def cancel(self, call: Call) -> bool:
        """Give up a call that has never been sent. Whether that could be done: then it will not be finished."""
        with self._lock:
            is_in_time = call.state is WAITING and not call.doubt
            if is_in_time:
                call.state = OVER
        self._push()
        return is_in_time

    def abandon(self, call: Call) -> Error | None:
        """Give up a call in any state: the error that says what is certain; None if it is being finished just now."""
        with self._lock:
            error = self._give_up(call) if call.state is not OVER else None
        self._push()
        return error

    def is_delivering_here(self) -> bool:
        """Whether this thread is finishing calls: it must not wait for one, for it would be waiting for itself."""
        return threading.get_ident() in self._delivering

    def close(self) -> None:
        """End the session, if that is quickly done, and fail all calls."""
        goodbye = self._say_goodbye()
        if goodbye is not None:
            goodbye.wait(min(_CLOSE_S, self._timeout))
        self._router.closed.set()
        self._wake_up()
        self._ask.set()
        with self._lock:
            connection, self._connection = self._connection, None
            calls = [*self._all_calls(connection)]
            finished: Finished = []
            for call in calls:
                if call.state is not OVER:
                    call.doubt = call.doubt or call.state is FLYING
                    finished.append((call, call.error("CANCELLED", "the client is closed")))
                    call.state = OVER
        if connection is not None and connection.stream is not None:
            connection.stream.cancel()
        self._deliver(finished)

    # ---- sending: with the lock --------------------------------------------------------------------------------------

    def _push(self) -> None:
        """Without the lock. Everybody who gives the lock back does this afterwards: others may have come in vain."""
        while self._can_send() and self._lock.acquire(blocking=False):
            try:
                self._send_what_waits()
            finally:
                self._lock.release()

    def _can_send(self) -> bool:
        """Without the lock too, so it looks at nothing that must not change meanwhile."""
        connection = self._connection
        if connection is None or connection.stream is None or connection.is_ending or self._delivering:
            return False
        return self._outbox.has_something_for(connection)

    def _send_what_waits(self) -> None:
        outbox = self._outbox
        while self._can_send():
            connection = self._connection
            assert connection is not None
            if outbox.reads and connection.has_room(False, len(outbox.reads)):
                self._send_reads(connection)
            elif connection.counts[True] and (not outbox.session or connection.probe is not None):
                connection.is_full = True
            elif not outbox.session:
                opening = encode_operations([Operation(Code.OPEN_SESSION)], 0, 0)
                connection.send(Message([], is_write=True), ClientRequest(batch=opening))
            else:
                self._send_writes(connection)

    def _send_reads(self, connection: Connection) -> None:
        calls = self._outbox.take_reads()
        if calls and calls[0].code == KEYS:
            connection.send(Message(calls, is_write=False), ClientRequest(keys=calls[0].key))
        elif calls:
            connection.send(Message(calls, is_write=False), ClientRequest(get=[call.key for call in calls]))

    def _send_writes(self, connection: Connection) -> None:
        message = self._outbox.take_writes(connection)
        if message is not None:
            if message.reach > connection.proven:
                connection.probe = message
            batch = encode_operations(message.calls, self._outbox.session, message.mark)
            connection.send(message, ClientRequest(batch=batch))

    # ---- what comes back: gRPC's thread ------------------------------------------------------------------------------

    def _received(self, connection: Connection, data: bytes) -> None:
        try:
            reply = ClientReply.FromString(data)
        except DecodeError:
            self._ended(connection, grpc.StatusCode.INTERNAL, "the answer can't be understood")
            return
        if reply.members:
            self._router.announced(reply.members)
        with self._lock:
            message = connection.answered(reply.id) if connection is self._connection else None
            finished = self._take_answer(connection, message, reply) if message is not None else []
        self._deliver(finished)

    def _take_answer(self, connection: Connection, message: Message, reply: ClientReply) -> Finished:
        """With the lock. What the answer is to the calls, which are to be told without it."""
        self._router.heard(connection.leader)
        finished = self._settle(connection, message, reply)
        if connection.is_ending and not connection.under_way:
            self._leave(connection)
        elif len(self._writes if message.is_write else self._reads) >= MIN_CALLS:
            self._send_what_waits()  # else what the finished calls lead to may go along
        return finished

    def _deliver(self, finished: Finished) -> None:
        self._delivering.add(threading.get_ident())
        try:
            for call, answer in finished:
                if isinstance(answer, Error):
                    call.fail(answer)
                else:
                    call.finish(answer)
            self._delivered()
        finally:
            self._delivering.discard(threading.get_ident())
            self.flush()

    def _settle(self, connection: Connection, message: Message, reply: ClientReply) -> Finished:
        """Take an answer apart."""
        if reply.code:
            return self._settle_refused(connection, message, reply)
        if not message.is_answered_by(reply):
            return self._settle_nonsense(connection, message)
        if not message.calls:
            return self._settle_opened(reply.session)
        if message.is_write:
            return self._settle_writes(connection, message, reply)
        return self._settle_reads(connection, message.calls, reply)

    def _settle_opened(self, session: int) -> Finished:
        """A new session: whether what is in doubt was applied in the old one nobody can tell any more."""
        lost = self._outbox.begin_session(session)
        return [(call, call.error(*_REASONS[Status.SESSION_UNKNOWN])) for call in lost]

    def _settle_writes(self, connection: Connection, message: Message, reply: ClientReply) -> Finished:
        finished: Finished = []
        again: list[Call] = []
        is_expired = False
        is_too_far = Status.TOO_MANY_UNANSWERED in reply.statuses
        reasons = iter(reply.refused)
        for call, status in zip(message.calls, reply.statuses, strict=True):
            reason = next(reasons) if status == REFUSED else ""
            if call.state is OVER:
                continue
            if status <= _NOT_DONE:
                finished.append((call, status == _DONE))
            elif status == REFUSED:
                finished.append((call, call.error("INVALID_ARGUMENT", f"{connection.leader.address}: {reason}")))
                self._outbox.give_up(call)  # this copy is nowhere; an earlier one may still arrive
            elif status == Status.NO_SPACE:
                # Definite, whatever the call's doubt: the session would know if it had ever been applied.
                finished.append((call, NotApplied(f"{NO_SPACE_TEXT}; the write was not applied", "RESOURCE_EXHAUSTED")))
            elif status == Status.TOO_MANY_UNANSWERED:
                again.append(call)
                continue
            elif status == Status.SESSION_UNKNOWN and not call.doubt:
                is_expired = is_expired or call.session == self._outbox.session
                again.append(call)
                continue
            else:
                is_expired = is_expired or (status == Status.SESSION_UNKNOWN and call.session == self._outbox.session)
                call.doubt = call.doubt or status != Status.MALFORMED
                finished.append((call, call.error(*_REASONS[Status(status)])))
            call.state = OVER
        if is_too_far:
            first = message.calls[reply.statuses.index(Status.TOO_MANY_UNANSWERED)]
            self._outbox.max_unanswered = max(1, first.sequence - message.mark)
        else:
            connection.proven = max(connection.proven, message.reach)
        if is_expired:
            self._outbox.session = 0
            self._failed(*_REASONS[Status.SESSION_UNKNOWN])
        else:
            self._succeeded()
        if again:
            connection.is_ending = True  # what was sent after these must not be carried out before them
            self._outbox.send_again(again)
        return finished

    def _settle_reads(self, connection: Connection, calls: list[Call], reply: ClientReply) -> Finished:
        self._succeeded()
        connection.reads_backoff, connection.reads_not_before = None, 0.0
        finished: Finished = []
        again: list[Call] = []
        values = iter(reply.values)
        if calls[0].code == KEYS:
            if calls[0].state is not OVER:
                calls[0].state = OVER
                finished.append((calls[0], list(values)))
            return finished
        reasons = iter(reply.refused)
        for call, found in zip(calls, reply.found, strict=True):
            answer: Any = next(values) if found == FOUND else None
            if found == REFUSED:
                answer = call.error("INVALID_ARGUMENT", f"{connection.leader.address}: {next(reasons)}")
            if call.state is OVER:
                continue
            if found == ASK_AGAIN:
                again.append(call)
            else:
                call.state = OVER
                finished.append((call, answer))
        self._outbox.send_again(again)
        return finished

    def _settle_refused(self, connection: Connection, message: Message, reply: ClientReply) -> Finished:
        """The message has come to nothing, or to nobody knows what."""
        live = [call for call in message.calls if call.state is not OVER]
        trouble = (_CODE_NAMES.get(reply.code, "UNKNOWN"), f"{connection.leader.address}: {reply.details}")
        if reply.code == _EXHAUSTED and not message.is_write:
            self._trouble = trouble
            self._hold_reads_back(connection, live)
            return []
        if reply.code == _INVALID and len(message.calls) == 1:
            connection.is_ending = connection.is_ending or message.is_write
            for call in live:
                self._outbox.give_up(call)
            return [(call, call.error(*trouble)) for call in live]
        if reply.code == _INVALID and message.calls:
            self._outbox.max_calls = len(message.calls) // 2
        elif not connection.is_ending:  # what follows the first failure says nothing new
            self._failed(*trouble)
            if reply.code != _EXHAUSTED:
                self._router.doubt(connection.leader)
        if reply.code not in _NOTHING_DONE:
            for call in live:
                call.doubt = True
        connection.is_ending = True
        self._outbox.send_again(live)
        return []

    def _hold_reads_back(self, connection: Connection, refused: list[Call]) -> None:
        """For a while, that grows: the leader has no room for what they ask for. Writes and their order are not
        concerned, so the stream goes on."""
        self._outbox.send_again(refused)
        connection.reads_backoff, connection.reads_not_before = self._pause(connection.reads_backoff)

    def _settle_nonsense(self, connection: Connection, message: Message) -> Finished:
        """The answer does not fit the request."""
        text = f"{connection.leader.address}: the answer can't be understood: is the server of another version?"
        self._failed("INTERNAL", text)
        connection.is_ending = True
        live = [call for call in message.calls if call.state is not OVER]
        for call in live:
            call.doubt = True
            self._outbox.give_up(call)
        return [(call, call.error("INTERNAL", text)) for call in live]

    def _failed(self, code: str, text: str) -> None:
        """An attempt did; the next one has to wait."""
        self._trouble = code, text
        self._backoff, self._not_before = self._pause(self._backoff)

    def _pause(self, backoff: Backoff | None) -> tuple[Backoff, float]:
        """Since a failure, or one more with the same backoff: until when."""
        backoff = backoff or Backoff(_NEVER, self._router.closed)
        return backoff, time.monotonic() + backoff.next_seconds()

    def _succeeded(self) -> None:
        self._trouble = self._backoff = None

    def _ended(self, connection: Connection, code: grpc.StatusCode, details: str) -> None:
        finished: Finished = []
        with self._lock:
            if connection is not self._connection:
                return
            # A server that stops cancels its streams, for which gRPC has no words of its own.
            words = "the connection was ended" if code is grpc.StatusCode.CANCELLED else " ".join(details.split())
            text = f"{connection.leader.address}: {words}"
            self._failed(code.name if code is not grpc.StatusCode.OK else "UNAVAILABLE", text)
            self._router.doubt(connection.leader)
            is_refused = code is grpc.StatusCode.RESOURCE_EXHAUSTED and not connection.is_answered
            # Without these words gRPC has made the status of what a proxy said, or refuses one message of several.
            is_refused = is_refused and NOT_TAKEN in details
            if code is grpc.StatusCode.RESOURCE_EXHAUSTED and _TOO_LARGE in details and connection.under_way:
                finished = self._drop_largest(connection, text)
            self._leave(connection, is_refused)
        self._deliver(finished)

    def _drop_largest(self, connection: Connection, text: str) -> Finished:
        """gRPC itself has refused a message for its size, and ended the stream."""
        id, message = max(connection.under_way.items(), key=lambda item: item[1].size)
        if len(message.calls) > 1:
            self._outbox.max_bytes = message.size // 2
            return []
        del connection.under_way[id]
        live = [call for call in message.calls if call.state is not OVER]
        for call in live:
            self._outbox.give_up(call)
        return [(call, call.error("INVALID_ARGUMENT", text)) for call in live]

    def _leave(self, connection: Connection, is_refused: bool = False) -> None:
        """Have done with a stream; what has not been answered is to be sent again. With the lock."""
        self._connection = None
        live = [call for call in connection.calls() if call.state is not OVER]
        for call in live:
            call.doubt = call.doubt or not is_refused
        self._outbox.send_again(live)
        if connection.stream is not None:
            connection.stream.cancel()

    # ---- the pipeline's threads --------------------------------------------------------------------------------------

    def _wake_up(self) -> None:
        if not self._threads:
            with self._lock:
                if not self._threads and not self._router.closed.is_set():
                    self._threads = (
                        threading.Thread(target=self._end_calls, name="raftkv-client", daemon=True),
                        threading.Thread(target=self._ask_members, name="raftkv-search", daemon=True),
                    )
                    for thread in self._threads:
                        thread.start()
        self._wake.set()

    def _end_calls(self) -> None:
        """The thread that ends calls in time, and has the other one look after the rest."""
        idle_since = time.monotonic()
        while not self._router.closed.is_set():
            now = time.monotonic()
            wait = min(_TICK_S, self._timeout / 4)
            if self._has_calls():
                idle_since = now
                wait = min(wait, self._expire(now) - now)
                if self._connection is not None or now >= self._not_before:
                    self._ask.set()
                else:
                    wait = min(wait, self._not_before - now)
                self._push()
            self._is_asleep = time.monotonic() - idle_since > _STAY_AWAKE_S
            if not self._is_asleep or not self._has_calls():
                self._wake.wait(None if self._is_asleep else wait)
            self._wake.clear()

    def _ask_members(self) -> None:
        """The thread that waits for what the members say, and for nobody who holds it up otherwise."""
        while self._ask.wait() and not self._router.closed.is_set():
            self._ask.clear()
            connection = self._connection
            if connection is not None:
                self._look_after(connection)
                self._router.look_around()
            else:
                self._connect()
            self._push()

    def _has_calls(self) -> bool:
        connection = self._connection
        return not self._outbox.is_empty() or (connection is not None and bool(connection.under_way))

    def _connect(self) -> None:
        with self._lock:
            deadline = self._next_deadline()
        if deadline == _NEVER:
            return
        # The call whose time ends next must not cut the search short for those behind it, again and again.
        deadline = max(deadline, time.monotonic() + _SEARCH_S)
        try:
            leader = self._router.leader(deadline)
        except NotApplied:
            self._trouble = None  # the router's words are fresher
            self._expire(deadline)
            return
        connection = Connection(leader)
        self._connection = connection
        try:
            stream = Stream(
                leader.channel,
                METHOD,
                lambda data: self._received(connection, data),
                lambda code, details: self._ended(connection, code, details),
            )
        except ValueError:  # the channel has just been closed
            self._connection = None
            return
        with self._lock:
            connection.stream = stream
            is_current = self._connection is connection
        if not is_current:
            stream.cancel()

    def _look_after(self, connection: Connection) -> None:
        """If an answer takes long: somebody else may lead by now."""
        with self._lock:
            oldest = next(iter(connection.under_way.values()), None)
            deadline = self._next_deadline(if_none=0.0)
        now = time.monotonic()
        if oldest is None or now - oldest.sent_at < _SLOW_S:
            return
        patience = min(max(FIRST_ROUND_S, (now - oldest.sent_at) / 3), LONGEST_ROUND_S)
        until = min(now + patience, max(deadline, now + FIRST_ROUND_S))
        if self._router.superseded(connection.leader, until):
            trouble = ("ABORTED", f"{connection.leader.address}: no answer, and another member leads now")
        elif now - oldest.sent_at > self._timeout:
            trouble = ("DEADLINE_EXCEEDED", f"{connection.leader.address}: no answer in time")
        else:
            return
        with self._lock:
            if connection is self._connection:
                self._trouble = trouble
                self._leave(connection)

    def _expire(self, until: float) -> float:
        """Fail the calls whose deadline is not after `until`. The next one's."""
        finished: Finished = []
        with self._lock:
            if (deadline := self._next_deadline()) <= until:
                for call in self._all_calls(self._connection):
                    if call.state is not OVER and call.deadline <= until:
                        finished.append((call, self._give_up(call)))
                deadline = self._next_deadline()
        if finished:
            self._deliver(finished)
        return deadline

    def _next_deadline(self, if_none: float = _NEVER) -> float:
        """With the lock."""
        return min((call.deadline for call in self._oldest_calls()), default=if_none)

    def _give_up(self, call: Call) -> Error:
        """With the lock."""
        connection = self._connection
        if connection is not None and (call.state is FLYING or self._trouble is None):
            code, text = "DEADLINE_EXCEEDED", f"{connection.leader.address}: no answer in time"
        elif self._trouble is not None:
            code, text = self._trouble
        else:
            text, code = self._router.why_no_leader()
        if connection is not None:
            connection.is_full = False
        call.doubt = call.doubt or call.state is FLYING
        self._outbox.give_up(call)
        return call.error(code, gave_up(text, self._timeout))

    def _oldest_calls(self) -> Iterable[Call]:
        """Those that were submitted before all others of their queue or message, and are not over."""
        return chain(self._outbox.oldest_calls(), self._connection.oldest_calls() if self._connection else ())

    def _all_calls(self, connection: Connection | None) -> Iterable[Call]:
        return chain(connection.calls() if connection is not None else (), self._outbox.calls())

    def _say_goodbye(self) -> threading.Event | None:
        """Close the session, if nothing is under way. What is returned is set when that has been answered."""
        with self._lock:
            connection = self._connection
            if not self._outbox.session or connection is None or connection.stream is None or self._has_calls():
                return None
            goodbye = _Goodbye(self._outbox.session, self._outbox.next_sequence)
            goodbye.state = FLYING
            batch = encode_operations([goodbye], self._outbox.session, goodbye.sequence)
            connection.send(Message([goodbye], is_write=True), ClientRequest(batch=batch))
            return goodbye.done


class _Goodbye(Call):
    """Closes the session. If it does not arrive, the session expires."""

    __slots__ = ("done",)

    def __init__(self, session: int, sequence: int) -> None:
        super().__init__(Code.CLOSE_SESSION, b"", b"", b"", time.monotonic() + _CLOSE_S)
        self.session, self.sequence = session, sequence
        self.done = threading.Event()

    def finish(self, answer: Any) -> None:
        self.done.set()

    def fail(self, error: Error) -> None:
        self.done.set()
