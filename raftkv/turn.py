"""The turn, the right to run the replica: theory of operation.

The replica has one owner at a time, but no thread of its own. Whoever brings an input puts it into the inbox and tries
for the turn without waiting. If the turn is taken, its holder will see the input; if not, the bringer holds it now: it
takes all inputs that have arrived, has the replica work on them, and again, until nothing is left to do; it gives the
turn back *and looks into the inbox once more*. An input that arrived between the last look and the return found the
turn taken, so nobody else would ever come for it.

So a batch is what arrived while the last one was being worked on, without timers, and a write needs no hand-over
between threads to reach the disk (docs/architecture.md has the figures).

    inbox       anybody appends; the holder of the turn takes (a deque: both are atomic)
    the turn    a lock; whoever holds it owns everything that `work` touches
    deadline    when the replica wants to be called though nothing has arrived; the holder writes it
    timer       one thread: sleeps until the deadline and brings, as it were, time

A thread that has other things to do (a caller's, a peer's answers) keeps the turn for a bounded number of rounds, then
hands it over to the timer. One that must not be held up at all (a peer's heartbeats) only leaves its input in the
inbox. An exception in a round ends it all: `fail` is called to stop the node, and there is never another round, so
nothing that depended on the failed one can leave.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import Final, Generic, Protocol, TypeVar

Input = TypeVar("Input")

_LONGEST_SLEEP: Final = 60.0
"""Seconds. Any bound will do; it keeps the timer's waits within what the operating system takes."""


class Worker(Protocol[Input]):
    """What is run under the turn."""

    def turn(self, inputs: list[Input], now: float, /) -> bool:
        """One round. Whether there is more to do at once, without input."""

    def deadline(self) -> float:
        """When the next round is due even without input, seconds of the same clock as `now`."""


class Turn(Generic[Input]):
    def __init__(
        self,
        worker: Worker[Input],
        clock: Callable[[], float],
        fail: Callable[[BaseException], None],
        max_rounds: int = 4,
    ) -> None:
        """`fail` is called, once, by the thread whose round raised, and is to stop the node. `max_rounds` is how many
        rounds a thread that brought an input works before it hands over."""
        self._worker = worker
        self._clock = clock
        self._fail = fail
        self._max_rounds = max_rounds
        self._inbox: deque[Input] = deque()
        self._lock = threading.Lock()
        self._holder = 0
        self._deadline = worker.deadline()
        self._unfinished = False
        """The last round said that there is more to do. Written by the holder."""
        self._failed = False
        """A round has raised. Written by the holder, who is then the last one."""
        self._wake = threading.Event()
        self._sleeps_until = 0.0
        """What the timer sleeps until; 0 while it is awake."""
        self._stopping = False
        self._timer = threading.Thread(target=self._keep_time, name="timer", daemon=True)

    def start(self) -> None:
        """Start the timer. Inputs may be brought before, too."""
        self._timer.start()

    def bring(self, item: Input) -> None:
        """Hand in an input, and work on all there is if nobody else does. From any thread; never waits for the turn."""
        self._inbox.append(item)
        self._run()

    def leave(self, item: Input) -> None:
        """Hand in an input for others to work on: whoever holds the turn, or else the timer. For a thread that must not
        be held up by what there is to be done, be it its own input or another's. No input is missed: who gives the turn
        back looks into the inbox once more, and so does the timer before it sleeps."""
        self._inbox.append(item)
        if self._stopping:
            self._run()  # there is no timer any more, and nothing left that takes long
        elif not self._lock.locked():
            self._wake.set()

    def is_held_here(self) -> bool:
        """Whether the calling thread holds the turn (for assertions)."""
        return self._holder == threading.get_ident()

    def finish(self, last_worker: Callable[[], Worker[Input]]) -> None:
        """Stop the timer, let the round that is under way end, and have all further inputs go to the worker that
        `last_worker`, called with the turn, makes."""
        self._stopping = True
        self._wake.set()
        if self._timer.is_alive():
            self._timer.join()
        with self._lock:
            self._worker = last_worker()
            self._deadline = self._worker.deadline()
            self._unfinished = False
        self._run()

    # ---- holding the turn --------------------------------------------------------------------------------------------

    def _run(self) -> None:
        while self._inbox and not self._failed and self._lock.acquire(blocking=False):
            if not self._work_and_release():
                return

    def _work_and_release(self) -> bool:
        """Work, as the holder of the lock, and release it. Whether the caller is to look into the inbox once more; if
        not, the timer does."""
        self._holder = threading.get_ident()
        try:
            rounds = 0
            while not self._failed and rounds < self._max_rounds and self._has_work(rounds):
                self._unfinished = self._round()
                rounds += 1
            self._deadline = deadline = self._worker.deadline()
            handed_over = self._unfinished or bool(self._inbox)
        except BaseException as error:
            self._failed = True
            self._fail(error)
            return False
        finally:
            self._holder = 0
            self._lock.release()
        if handed_over or deadline < self._sleeps_until:
            self._wake.set()
        return not handed_over or self._stopping  # then there may be no timer any more

    def _has_work(self, rounds: int) -> bool:
        return bool(self._inbox) or self._unfinished or (rounds == 0 and self._clock() >= self._deadline)

    def _round(self) -> bool:
        inputs = [self._inbox.popleft() for _ in range(len(self._inbox))]
        return self._worker.turn(inputs, self._clock())

    # ---- the timer ---------------------------------------------------------------------------------------------------

    def _keep_time(self) -> None:
        """The timer's thread. It may wait for the turn: it has nothing else to do."""
        while True:
            self._sleep()
            if self._stopping or self._failed:
                return
            self._lock.acquire()
            self._work_and_release()

    def _sleep(self) -> None:
        """Until the deadline, or until there is something to do. No wake-up is lost: the holder writes the deadline
        before it looks at `_sleeps_until`, here it is the other way round."""
        self._sleeps_until = self._clock() + _LONGEST_SLEEP
        if not (self._inbox or self._unfinished):
            self._sleeps_until = self._deadline
            self._wake.wait(min(max(self._deadline - self._clock(), 0.0), _LONGEST_SLEEP))
        self._wake.clear()
        self._sleeps_until = 0.0
