"""Virtual time and the story of a run: theory of operation.

A `World` is a queue of events in the order of their time, and of their making where times are equal. Nothing happens
between events, so a simulated minute takes as long as its events take to compute. All randomness of a run comes from
`World.random(name)`: a generator of its own for each purpose, so that a change in one part of the simulator leaves the
dice of the others alone. Only arithmetic that is the same on every machine is used on these numbers (no powers, no
logarithms), and no order ever comes from a set of strings: one seed is one run, byte for byte.

An event may itself call `run`: that is how a thread of a member is stopped in the middle of a read while the rest of
the world goes on.
"""

from __future__ import annotations

import heapq
import random
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

from raftkv import clock as node_clock

_EVENTS_MAX = 500_000
"""Of one run. The longest have a tenth of it."""


class Violation(Exception):
    """Something has happened that must never happen. The message says what, in one line."""


class World:
    def __init__(self, seed: int, write: Callable[[str], None] | None = None) -> None:
        """`write` takes the lines of the trace; None: there is none."""
        self.seed = seed
        self.now = 0.0
        """True time, seconds. Members only see their clocks."""
        self.events = 0
        self.counts: Counter[tuple[str, str]] = Counter()
        """What has been done, for the summary: (table, row) -> how often."""
        self.is_traced = write is not None
        self.is_nested = False
        """An event has not ended yet, but others happen meanwhile."""
        self._write = write
        self._queue: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self._made = 0

    def random(self, name: str) -> random.Random:
        """The dice for one purpose."""
        return random.Random(f"{self.seed}/{name}")

    def at(self, time: float, action: Callable[..., None], *arguments: Any) -> None:
        """Have `action(*arguments)` happen at `time`; now, if that has passed."""
        self._made += 1
        heapq.heappush(self._queue, (max(time, self.now), self._made, action, arguments))

    def after(self, delay: float, action: Callable[..., None], *arguments: Any) -> None:
        """Have `action(*arguments)` happen `delay` seconds from now."""
        self.at(self.now + delay, action, *arguments)

    def run(self, until: float) -> None:
        """Let everything happen that happens up to the time `until`."""
        queue = self._queue
        while queue and queue[0][0] <= until:
            if self.events == _EVENTS_MAX:
                raise Violation(f"{_EVENTS_MAX} events, and no end: something goes on and on")
            moment, _, action, arguments = heapq.heappop(queue)
            self.now = max(self.now, moment)
            self.events += 1
            action(*arguments)
        self.now = max(self.now, until)

    def nothing_happened(self) -> None:
        """The present event turns out to be none: a timer that was set anew, say."""
        self.events -= 1

    def run_nested(self, until: float) -> None:
        """The same, from within an event."""
        self.is_nested = True
        self.run(until)
        self.is_nested = False

    def count(self, table: str, row: str, times: int = 1) -> None:
        """Note for the summary that something has been done."""
        self.counts[table, row] += times

    def tell(self, who: str, text: str) -> None:
        """Write one line of the story. Callers ask `is_traced` first where making the text costs anything."""
        if self._write is not None:
            self._write(f"{self.now:11.6f}  {who:<7} {text}")


class Clock:
    """A machine's clocks. Both run at a rate of the machine's own; the one that counts from its start never jumps, the
    wall clock does. Which of them a member looks at is up to the real code (raftkv/clock.py)."""

    def __init__(self, world: World, rate: float, start: float) -> None:
        self._world = world
        self._rate = rate
        self._start = start
        self._jumped = 0.0
        """How far the wall clock has got from the other."""

    def read(self) -> float:
        """What a member on this machine takes for the time, seconds."""
        surroundings = vars(node_clock)
        surroundings["time"] = self
        try:
            return node_clock.now()
        finally:
            surroundings["time"] = time

    def clock_gettime(self, clock: int) -> float:
        """What the operating system answers on this machine."""
        steady = self._start + self._world.now * self._rate
        return steady + self._jumped if clock == time.CLOCK_REALTIME else steady

    def true_time(self, shown: float) -> float:
        """The true time at which a sleep ends that a member begins now and means to end when it sees `shown`."""
        # A hair later, since rounding must not make a timer ring before its time.
        return self._world.now + (shown - self.read()) / self._rate + 1e-6

    def jump(self, seconds: float) -> None:
        """Set the wall clock forward, or with a negative number back."""
        self._jumped += seconds

    def reboot(self) -> None:
        """Start from 0, as after a loss of power."""
        self._start = -self._world.now * self._rate
