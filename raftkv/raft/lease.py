"""Who may serve a read without asking anybody, and until when: theory of operation.

A leader holds a lease while a majority of the voters has promised to let nobody else serve. Two things make it safe
on clocks that only agree on how fast time passes, within an assumed drift (dissertation, 6.4.1):

* the leader counts from when the acknowledged request was *sent* and takes the drift off (`Rounds`, `Grant`);
* a voter counts from when it *received* it and puts the drift on (`Promises`).

A voter votes freely. But its vote carries what remains of its promises, and the winner neither commits, acknowledges
nor serves before the longest of them has run out. Any two majorities share a voter, so no lease is overlooked.

All times are seconds of the member's own clock. Only durations travel.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Collection
from dataclasses import dataclass

from raftkv.raft.quorum import majority, reached_by_majority
from raftkv.raft.types import Leadership


@dataclass(frozen=True, slots=True)
class Grant:
    """The leader's lease, as published: whoever finds it valid may serve what has been applied."""

    term: int
    until: float

    def is_valid(self, now: float) -> bool:
        return now < self.until


class Promises:
    """What a voter has promised to leaders. Kept in every role, and also where the voter's own leases are off."""

    def __init__(self, clock_drift: float) -> None:
        self._clock_drift = clock_drift
        self._until: dict[Leadership, float] = {}
        """To whom -> end of the promise. By leader and term, since a transfer releases exactly one."""

    def promise(self, leader: int, term: int, duration_ms: int, now: float) -> None:
        """Promise `duration_ms` from now. A promise only ever grows (hazard 59)."""
        for whom in [whom for whom, until in self._until.items() if until <= now]:
            del self._until[whom]
        whom, until = Leadership(leader, term), now + duration_ms / 1000 * (1 + self._clock_drift)
        self._until[whom] = max(until, self._until.get(whom, until))

    def until(self, released: Leadership | None = None) -> float:
        """When the last promise ends, leaving out the one to `released`, which has no use for it any more (hazard 40);
        -inf if there is none."""
        return max((until for whom, until in self._until.items() if whom != released), default=-math.inf)

    def remaining_ms(self, now: float, released: Leadership | None = None) -> int:
        """What remains of the longest promise, but for the one to `released`; milliseconds, rounded up."""
        until = self.until(released)
        return max(0, math.ceil((until - now) * 1000)) if until > now else 0


class Rounds:
    """A leader's rounds of requests in its term: when each began, and which one each voter has acknowledged.

    One count serves three ends: the lease (a majority acknowledged a round that began then), ReadIndex (a majority
    acknowledged a round that began after the read arrived) and CheckQuorum (when did a majority last answer).
    """

    def __init__(self, me: int, now: float) -> None:
        self._me = me
        self.current = 1
        self._began: deque[tuple[int, float]] = deque([(1, now)])
        """Rounds from the last one that a majority acknowledged."""
        self._acknowledged: dict[int, int] = {}
        self._since = now
        self._answered_at: dict[int, float] = {}
        """When a voter last acknowledged a round that it had not acknowledged before."""

    def begin(self, now: float) -> None:
        self.current += 1
        self._began.append((self.current, now))

    def acknowledge(self, voter: int, round: int, now: float) -> bool:
        """The voter has answered a request of that round: whether that is news. Of each round it is once; and an answer
        that comes late changes nothing (hazard 38)."""
        if not self._acknowledged.get(voter, 0) < round <= self.current:
            return False
        self._acknowledged[voter] = round
        self._answered_at[voter] = now
        return True

    def by_majority(self, voters: Collection[int]) -> int:
        """The last round that a majority has acknowledged, the leader itself included."""
        reached = reached_by_majority(voters, self._acknowledged | {self._me: self.current})
        while self._began[0][0] < reached:
            self._began.popleft()
        return reached

    def majority_answered_at(self, voters: Collection[int], now: float) -> float:
        """When a majority had last answered, the leader itself (now) included; before any had, when the term began.

        For CheckQuorum, which asks whether the others are there. A leader whose own disk was slow has heard from them
        when it comes back, though the round that they answered began long ago.
        """
        answered = [now if voter == self._me else self._answered_at.get(voter, self._since) for voter in voters]
        return sorted(answered, reverse=True)[majority(voters) - 1]

    def has_answered_since(self, voter: int, since: float) -> bool:
        """Whether the voter has acknowledged a new round since then."""
        return self._answered_at.get(voter, -math.inf) >= since

    def majority_heard_at(self, voters: Collection[int]) -> float:
        """When the last round that a majority has acknowledged began. Before any was: when the term did.

        -inf if that is not known any more: the voters are others than before, and what a majority of *these* has
        acknowledged is older than what the former majority had.
        """
        reached = self.by_majority(voters)
        round, began = self._began[0]
        return began if round <= max(reached, 1) else -math.inf
