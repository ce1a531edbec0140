"""A client's stream to the leader, and the messages on it that are not answered yet.

The pipeline (pipeline.py) owns them, under its lock; the other end of the stream is client_stream.py.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from itertools import chain, islice
from typing import Final

from raftkv.calls import KEYS, OVER, Call
from raftkv.client_stream import ASK_AGAIN, FOUND, MISSING
from raftkv.operations import REFUSED, Status
from raftkv.routing import Backoff, Member
from raftkv.streams import Stream
from raftkv.wire.raft_pb2 import ClientReply, ClientRequest

MAX_MESSAGES: Final = 2
"""Of each kind under way at once. More of them would be smaller ones."""
MIN_CALLS: Final = 300
"""In a message that does not wait for the one before it: a small one gains nothing by it, for it costs the servers a
round of its own, and the calls behind it wait for that."""
_LATE_S: Final = 0.02
"""What waits behind a message that takes longer than this does not wait for it any more, however small it is."""

_STATUSES: Final = frozenset([*Status, REFUSED])
_FOUND: Final = frozenset([MISSING, FOUND, ASK_AGAIN, REFUSED])


class Message:
    """A message that is not answered yet."""

    __slots__ = ("calls", "is_write", "mark", "sent_at")

    def __init__(self, calls: list[Call], is_write: bool, mark: int = 0) -> None:
        self.calls = calls
        """Empty: it opens the session."""
        self.is_write = is_write
        self.mark = mark
        """The lowest number in use when it was sent."""
        self.sent_at = time.monotonic()

    @property
    def reach(self) -> int:
        """How far its numbers reach above the mark."""
        return int(self.calls[-1].sequence) - self.mark + 1

    @property
    def size(self) -> int:
        return sum(len(call.key) + len(call.value) + len(call.expected) for call in self.calls)

    def is_answered_by(self, reply: ClientReply) -> bool:
        """Whether a successful answer fits the message."""
        if not self.calls:
            return bool(reply.session)
        if self.is_write:
            is_right = len(reply.statuses) == len(self.calls) and _STATUSES.issuperset(reply.statuses)
            return is_right and reply.statuses.count(REFUSED) == len(reply.refused)
        if self.calls[0].code == KEYS:
            return True
        found = reply.found
        is_right = len(found) == len(self.calls) and _FOUND.issuperset(found)
        return is_right and (found.count(FOUND), found.count(REFUSED)) == (len(reply.values), len(reply.refused))


class Connection:
    """A stream to a leader."""

    def __init__(self, leader: Member) -> None:
        self.leader = leader
        self.stream: Stream | None = None
        """None while it is being opened."""
        self.under_way: dict[int, Message] = {}
        """By id; in the order of sending."""
        self.counts = {True: 0, False: 0}
        """How many of them are writes, and reads."""
        self.sent_at = {True: 0.0, False: 0.0}
        """When the last one of each kind was."""
        self.is_ending = False
        """Nothing more is sent: the stream is left as soon as all is answered."""
        self.reads_backoff: Backoff | None = None
        """Since the leader had no room for the answer to a read, until it has had some."""
        self.reads_not_before = 0.0
        """When the next read may go out, if that is held back (time.monotonic)."""
        self.is_full = False
        """The next write has to wait for an answer, or for a call to be given up."""
        self.is_answered = False
        """The leader has taken the stream."""
        self.proven = 1
        """So far above the mark may numbers reach: the servers have taken such. What reaches further may be refused in
        part (TOO_MANY_UNANSWERED), and must have nothing behind it that might be taken all the same."""
        self.probe: Message | None = None
        """Reaches further."""
        self.last_id = 0

    def has_room(self, is_write: bool, waiting: int) -> bool:
        """Whether one more message of this kind may go out, with so many calls waiting for it."""
        if not is_write and self.reads_not_before and time.monotonic() < self.reads_not_before:
            return False
        under_way = self.counts[is_write]
        if not under_way or under_way >= MAX_MESSAGES:
            return not under_way
        return waiting >= MIN_CALLS or time.monotonic() - self.sent_at[is_write] > _LATE_S

    def send(self, message: Message, request: ClientRequest) -> None:
        assert self.stream is not None
        self.last_id = request.id = self.last_id + 1
        self.under_way[request.id] = message
        self.counts[message.is_write] += 1
        self.sent_at[message.is_write] = message.sent_at
        self.stream.send(request.SerializeToString())

    def answered(self, id: int) -> Message | None:
        """The message that has this id; it is not under way any more."""
        message = self.under_way.pop(id, None)
        if message is not None:
            self.counts[message.is_write] -= 1
            self.is_answered, self.is_full = True, False
            if message is self.probe:
                self.probe = None
        return message

    def writes_under_way(self) -> Iterable[Call]:
        return chain.from_iterable(message.calls for message in self.under_way.values() if message.is_write)

    def calls(self) -> Iterable[Call]:
        """All that are under way."""
        return chain.from_iterable(message.calls for message in self.under_way.values())

    def oldest_calls(self) -> Iterable[Call]:
        """The first of each message that is not over: those behind it were submitted later."""
        for message in self.under_way.values():
            yield from islice((call for call in message.calls if call.state is not OVER), 1)
