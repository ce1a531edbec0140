"""What a client still has to send, in order, and the session that numbers its writes: theory of operation.

Two queues, writes and reads, and a third, of writes that come back from a stream without an answer: these have their
numbers already, and go first. The outbox says which calls the next message takes along, gives each write its number
when it is sent for the first time, and knows the mark: the lowest number that may still be sent (dissertation, 6.3).
A write keeps its number through all attempts in its session; in a new session it gets a new one.

A write that was given up after it had been sent may still arrive, long after its stream has been left: it may lie in a
buffer on the way. The state machine refuses it once the mark has passed its number, and until then would apply it,
behind everything that went out meanwhile. So nothing with a higher number is sent before the mark is higher, too:
before those with lower numbers are answered, or given up themselves. On the stream that it is on itself nothing can
overtake it, and nothing waits.

It has no thread of its own. It belongs to the pipeline (pipeline.py), under its lock, but for the ends of `writes` and
`reads`: there any thread may append, and has what it appends counted.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterable
from itertools import chain
from typing import Final

from raftkv.calls import FLYING, KEYS, OVER, WAITING, Call
from raftkv.connection import Connection, Message

MAX_CALLS: Final = 500
"""In one message."""
MAX_BYTES: Final = 1 << 20
"""Of keys and values in one message; a single write may have more."""
MAX_WAITING: Final = 100_000
"""Calls of either kind that wait in the client. One more is refused at once: back-pressure, where growth would only
hide the overload."""
MAX_WAITING_BYTES: Final = 256 << 20
"""Of what they carry together, likewise."""
SMALL_BYTES: Final = MAX_WAITING_BYTES // MAX_WAITING
"""Calls that carry no more than this are not counted for it: their number bounds them."""
MAX_UNANSWERED: Final = 1000
"""Writes between the lowest number in use and the highest: what the servers keep answers for (MAX_UNANSWERED)."""


class Outbox:
    def __init__(self) -> None:
        self.writes: deque[Call] = deque()
        self.retries: deque[Call] = deque()
        """Writes that have a number already, in the order of numbers; they go first."""
        self.reads: deque[Call] = deque()
        self.large_bytes = 0
        """Carried by the calls in `writes` and `reads` that are larger than SMALL_BYTES."""
        self._counting = threading.RLock()  # not a Lock: a finalizer that runs while it is held may make a call
        self.session = 0
        """0: none is open."""
        self.next_sequence = 1
        self.given_up: set[int] = set()
        """Numbers that have been sent in this session and will not be sent again; the mark may have passed some."""
        self._next_order = 1
        self.max_calls, self.max_bytes, self.max_unanswered = MAX_CALLS, MAX_BYTES, MAX_UNANSWERED
        """Of this cluster, as far as it has said so."""

    def begin_session(self, session: int) -> list[Call]:
        """A new session. The writes that are over with the old one: whether they were applied in it nobody can tell."""
        self.session, self.next_sequence = session, 1
        self.given_up.clear()
        lost = [call for call in self.retries if call.doubt and call.state is not OVER]
        for call in lost:
            call.state = OVER
        return lost

    # ---- how much may wait -------------------------------------------------------------------------------------------

    def count(self, call: Call, size: int) -> bool:
        """Whether there is room for a call that is larger than SMALL_BYTES. Then it counts until it is taken off its
        queue. Any thread."""
        with self._counting:
            if self.large_bytes >= MAX_WAITING_BYTES:
                return False
            self.large_bytes += size
        call.counted = size
        return True

    def _uncount(self, call: Call) -> None:
        with self._counting:
            self.large_bytes -= call.counted
        call.counted = 0

    def _take_first(self, queue: deque[Call]) -> Call:
        call = queue.popleft()
        if call.counted:
            self._uncount(call)
        return call

    # ---- what goes out -----------------------------------------------------------------------------------------------

    def has_something_for(self, connection: Connection) -> bool:
        """Whether a message may go out now. Without the lock too, so it looks at nothing that must not change
        meanwhile."""
        reads, writes = len(self.reads), len(self.retries) + len(self.writes)
        return (reads > 0 and connection.has_room(False, reads)) or (
            writes > 0 and not connection.is_full and connection.has_room(True, writes)
        )

    def take_reads(self) -> list[Call]:
        """Those of the next message; empty if nobody wants an answer any more. A search among the keys goes alone."""
        calls: list[Call] = []
        size = 0
        while self.reads and len(calls) < self.max_calls:
            size += len(self.reads[0].key)
            if calls and (self.reads[0].code == KEYS or size > self.max_bytes):
                break
            call = self._take_first(self.reads)
            if call.state is WAITING:
                call.state = FLYING
                calls.append(call)
                if call.code == KEYS:
                    break
        return calls

    def take_writes(self, connection: Connection) -> Message | None:
        """The next message, with a number for each write; None if there is nothing to send. If it is for want of
        numbers that it takes no more, or for the sake of one that was given up, the connection is full."""
        calls: list[Call] = []
        size = 0
        session, retries, writes, room = self.session, self.retries, self.writes, self.max_calls
        mark = self._lowest_unanswered(connection)
        end = self._end_of_numbers(connection, mark)
        while room and (queue := retries or writes):
            call = queue[0]
            if call.state is WAITING:
                size += len(call.key) + len(call.value) + len(call.expected)
                if size > self.max_bytes and calls:
                    break
                is_new = call.session != session
                if (self.next_sequence if is_new else call.sequence) >= end:
                    connection.is_full = True
                    break
                if is_new:
                    call.session, call.sequence = session, self.next_sequence
                    self.next_sequence += 1
                    if not call.order:
                        call.order = self._next_order
                        self._next_order += 1
                call.state = FLYING
                calls.append(call)
                room -= 1
            self._take_first(queue)
        return Message(calls, is_write=True, mark=mark) if calls else None

    def _lowest_unanswered(self, connection: Connection) -> int:
        """The lowest number in use; the next one if there is none. Numbers rise from what is under way to what is to be
        sent again, to what is new."""
        for call in chain(connection.writes_under_way(), self.retries):
            if call.state is not OVER and call.session == self.session:
                return call.sequence
        return self.next_sequence

    def _end_of_numbers(self, connection: Connection, mark: int) -> int:
        """Those from here on may not be sent with this mark: the servers keep no answers for them, or one before them
        was given up, has been sent elsewhere than on this connection, and could overtake them."""
        end = mark + self.max_unanswered
        if not self.given_up:
            return end
        self.given_up = {number for number in self.given_up if number >= mark}
        return min([end, *self.given_up.difference(call.sequence for call in connection.writes_under_way())])

    def give_up(self, call: Call) -> None:
        """It is not to be sent any more. Where it has been, it may still arrive."""
        call.state = OVER
        if call.doubt and call.is_write and call.session == self.session:
            self.given_up.add(call.sequence)

    # ---- what comes back ---------------------------------------------------------------------------------------------

    def send_again(self, calls: list[Call]) -> None:
        """These have been under way, and are before everything that has not; in the order of their submission, which
        for reads is that of their deadlines: who looks for the next deadline looks at the first of the queue."""
        for call in calls:
            call.state = WAITING
        writes = [call for call in calls if call.is_write]
        self.retries = deque(sorted([*self.retries, *writes], key=lambda call: call.order))
        reads = [call for call in calls if not call.is_write]
        last = max((call.deadline for call in reads), default=0.0)
        while self.reads and self.reads[0].deadline < last:  # has been sent again itself, of an earlier message
            reads.append(self.reads.popleft())
        self.reads.extendleft(sorted(reads, key=lambda call: call.deadline, reverse=True))

    # ---- what is there -----------------------------------------------------------------------------------------------

    def is_empty(self) -> bool:
        return not (self.writes or self.retries or self.reads)

    def calls(self) -> Iterable[Call]:
        # Copies: any thread may append meanwhile.
        return chain(self.retries.copy(), self.writes.copy(), self.reads.copy())

    def oldest_calls(self) -> Iterable[Call]:
        """The first of each queue that is not over: those behind it were submitted later."""
        for queue in (self.retries, self.writes, self.reads):
            while queue and queue[0].state is OVER:
                self._take_first(queue)
            if queue:
                yield queue[0]
