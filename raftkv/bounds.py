"""What clients may make a node hold is bounded in bytes: theory of operation.

Two things could grow without end (hazard 50). Writes that wait for a quorum are counted by a `ByteBudget`, before they
are proposed. Answers that clients do not take are counted by the `AnswerBudget`, from before the values are copied
until gRPC has handed the last byte to the system or the call has ended: so long they are in this process's memory, once
here or in gRPC, or in both. (Behind that there are only the network's buffers, whose size the system bounds.)

Who reads its answers should not suffer from those who don't:

* a stream that has MAX_UNSENT_OF_STREAM of answers unsent takes no further request until its client has read some;
* half of the room is for small answers alone, however much large ones have: one of these may exceed all bounds by
  itself. When half is taken, room is *short*: streams take one request after the other, as long as their answers are
  large. So small answers hardly ever find no room;
* nobody waits for room, since others would wait behind: who finds none is refused at once, and asks again later;
* while room is short, whoever takes nothing of what it has asked for is disconnected. That an answer is being taken is
  seen only when all of it has been: so whoever has much unsent has the more time, as over a slow link.

Who takes room gives it back: a call at its end, a stream with each answer that is sent, and the rest at its end.
"""

from __future__ import annotations

import threading
from typing import Final, Protocol

import grpc

_LEAST_BYTES: Final = 512
"""What a call takes that waits, however short it is."""

MAX_UNSENT_OF_STREAM: Final = 8 << 20
"""Bytes of answers, with which a stream takes no further request."""
SMALL_ANSWER_BYTES: Final = 64 << 10
SLOWEST_BYTES_PER_S: Final = 256 << 10
"""A client that takes its answers more slowly counts as taking nothing."""


class Refusal(Exception):
    """A call that ends with a status other than OK."""

    def __init__(self, code: grpc.StatusCode, details: str) -> None:
        super().__init__(details)
        self.code = code
        self.details = details


class ByteBudget:
    """A bound on the bytes of what waits for the replica."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._used = 0
        self._lock = threading.Lock()

    def take(self, payload_bytes: int) -> int:
        """Make room; what is to be given back. Raises Refusal if there is none."""
        amount = max(payload_bytes, _LEAST_BYTES)
        with self._lock:
            if self._used + amount <= self._limit:
                self._used += amount
                return amount
        raise Refusal(
            grpc.StatusCode.RESOURCE_EXHAUSTED,
            "too much waits for a quorum (MAX_WAITING_BYTES); nothing has been done: try again later",
        )

    def give_back(self, amount: int) -> None:
        with self._lock:
            self._used -= amount


class Holder(Protocol):
    """A stream, or a call, that may have answers to send."""

    def unsent(self) -> tuple[int, float]:
        """How many bytes of answers the client has not taken, and when it took the last one, or the first of these was
        made (time.monotonic)."""

    def disconnect(self) -> None:
        """End it, without waiting, and give back its room."""


class AnswerBudget:
    """A bound on the bytes of answers that are not sent. Safe from any thread."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._half = limit // 2
        self._used = [0, 0]
        """By small answers, and by large ones."""
        self._lock = threading.Lock()  # guards the above
        self._holders: set[Holder] = set()
        """Single operations on a set are atomic."""

    @property
    def is_short(self) -> bool:
        """Whether only small answers have room. A guess."""
        return sum(self._used) >= self._half

    def take(self, size: int) -> None:
        """Make room for an answer that is about to be made. Raises Refusal if there is none. A large answer may exceed
        the bound by itself: else the largest could never be given."""
        with self._lock:
            if self._has_room_for(size):
                self._used[size > SMALL_ANSWER_BYTES] += size
                return
        raise Refusal(
            grpc.StatusCode.RESOURCE_EXHAUSTED,
            "too many answers wait for clients that do not take them (MAX_UNSENT_BYTES); nothing has been done: "
            "take the answers that have come, and try again later",
        )

    def count(self, size: int, taken: int = 0) -> None:
        """Of an answer that is sent in any case, instead of what has been taken for it."""
        with self._lock:
            self._used[taken > SMALL_ANSWER_BYTES] -= taken
            self._used[size > SMALL_ANSWER_BYTES] += size

    def give_back(self, size: int) -> None:
        """Of one answer: it is sent, or never will be."""
        with self._lock:
            self._used[size > SMALL_ANSWER_BYTES] -= size

    def _has_room_for(self, size: int) -> bool:
        if size > SMALL_ANSWER_BYTES:
            return not self.is_short
        small, large = self._used
        return not size or small + min(large, self._half) + size <= self._limit

    # ---- who holds them ----------------------------------------------------------------------------------------------

    def watch(self, holder: Holder) -> None:
        """Until `forget`."""
        self._holders.add(holder)

    def forget(self, holder: Holder) -> None:
        self._holders.discard(holder)

    def disconnect_stuck(self, since: float) -> None:
        """While room is short: those who had taken nothing for long at that time."""
        for holder in self._holders.copy():
            if not self.is_short:
                return
            size, stands_since = holder.unsent()
            if size > SMALL_ANSWER_BYTES and stands_since + size / SLOWEST_BYTES_PER_S < since:
                holder.disconnect()
