"""The turn: one owner at a time, nothing stranded, bounded for those who have other things to do."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from raftkv import clock
from raftkv.turn import Turn
from tests.support.processes import wait_until

NEVER = math.inf


class Worker:
    """Notes what it is given and by whom; fails the test if two threads are in it at once."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.threads: list[str] = []
        self.more = 0
        """How many more rounds it will ask for."""
        self.wanted_at = NEVER
        self.during: Callable[[], None] = lambda: None
        """What happens within a round."""
        self.overlaps = 0
        self._entered = threading.Lock()

    def turn(self, inputs: list[int], now: float) -> bool:
        if not self._entered.acquire(blocking=False):
            self.overlaps += 1
            return False
        try:
            self.batches.append(inputs)
            self.threads.append(threading.current_thread().name)
            if now >= self.wanted_at:
                self.wanted_at = NEVER
            self.during()
            self.more -= 1
            return self.more > 0
        finally:
            self._entered.release()

    def deadline(self) -> float:
        return self.wanted_at

    def wait_for_rounds(self, count: int) -> None:
        wait_until(lambda: len(self.batches) == count, f"round {count}")

    @property
    def seen(self) -> list[int]:
        return [item for batch in self.batches for item in batch]


class Running:
    """A turn with its worker, started."""

    def __init__(self, max_rounds: int = 4) -> None:
        self.worker = Worker()
        self.failures: list[BaseException] = []
        self.turn: Turn[int] = Turn(self.worker, clock.now, self.failures.append, max_rounds)
        self.turn.start()

    def bring_from_another_thread(self, item: int) -> threading.Thread:
        thread = threading.Thread(target=self.turn.bring, args=(item,), name=f"bringer of {item}")
        thread.start()
        return thread

    @contextmanager
    def at_work_on(self, item: int) -> Iterator[None]:
        """Until the end of the block another thread holds the turn, in its round with this input."""
        gate = Gate()
        self.worker.during = gate
        holder = self.bring_from_another_thread(item)
        assert gate.reached.wait(10)
        self.worker.during = lambda: None
        try:
            yield
        finally:
            gate.open()
            holder.join(10)


class Gate:
    """Holds up whoever passes, until it is opened."""

    def __init__(self) -> None:
        self.reached = threading.Event()
        self._open = threading.Event()

    def __call__(self) -> None:
        self.reached.set()
        assert self._open.wait(10), "nobody opened the gate"

    def open(self) -> None:
        self._open.set()


@pytest.fixture
def running() -> Iterator[Running]:
    running = Running()
    yield running
    running.turn.finish(Worker)
    assert running.worker.overlaps == 0, "two threads held the turn at once"


def test_an_input_is_worked_on_by_the_thread_that_brings_it(running: Running) -> None:
    running.turn.bring(1)
    assert running.worker.batches == [[1]]
    assert running.worker.threads == [threading.current_thread().name]


def test_an_input_that_is_left_is_worked_on_by_the_timer(running: Running) -> None:
    running.turn.leave(1)
    running.worker.wait_for_rounds(1)
    running.turn.leave(2)
    running.worker.wait_for_rounds(2)
    assert running.worker.batches == [[1], [2]]
    assert running.worker.threads == ["timer"] * 2


def test_who_leaves_an_input_while_the_turn_is_taken_does_not_wait_and_the_holder_sees_it(running: Running) -> None:
    with running.at_work_on(1):
        running.turn.leave(2)
        running.turn.leave(3)
        assert running.worker.batches == [[1]]
    assert running.worker.batches == [[1], [2, 3]]


def test_what_is_left_before_the_start_or_after_the_end_is_worked_on_too() -> None:
    worker, last = Worker(), Worker()
    turn: Turn[int] = Turn(worker, clock.now, lambda error: pytest.fail(str(error)))
    turn.leave(1)
    turn.start()
    worker.wait_for_rounds(1)
    turn.finish(lambda: last)
    turn.leave(2)
    assert (worker.seen, last.seen) == ([1], [2])


def test_after_the_end_whoever_brings_an_input_works_until_none_is_left() -> None:
    """There is no timer any more to hand over to."""
    last = Worker()
    turn: Turn[int] = Turn(Worker(), clock.now, lambda error: pytest.fail(str(error)), max_rounds=2)
    turn.start()
    turn.finish(lambda: last)
    more = iter(range(2, 8))

    def bring_the_next() -> None:
        for item in more:
            turn.bring(item)
            return

    last.during = bring_the_next
    turn.bring(1)
    assert last.seen == [1, 2, 3, 4, 5, 6, 7]


def test_the_holder_is_known_while_it_holds_the_turn_and_not_afterwards(running: Running) -> None:
    held: list[bool] = []
    running.worker.during = lambda: held.append(running.turn.is_held_here())
    running.turn.bring(1)
    assert held == [True]
    assert not running.turn.is_held_here()


def test_who_finds_the_turn_taken_does_not_wait_and_the_holder_sees_the_input(running: Running) -> None:
    with running.at_work_on(1):
        running.turn.bring(2)  # returns though the holder is still at work
        assert running.worker.batches == [[1]]
    assert running.worker.batches == [[1], [2]]
    assert running.worker.threads == ["bringer of 1"] * 2


def test_all_that_arrives_during_a_round_is_the_next_batch(running: Running) -> None:
    with running.at_work_on(0):
        for item in range(1, 6):
            running.turn.bring(item)
    assert running.worker.batches == [[0], [1, 2, 3, 4, 5]]


def test_a_rounds_time_is_not_before_its_inputs() -> None:
    """Hazard 41: the process may be stopped for any time between two statements. Were the clock looked at first, a read
    that arrives during the stop would be judged by the lease as it was before."""
    arrived: list[float] = []
    rounds: list[tuple[list[int], float]] = []

    class Reader:
        def turn(self, inputs: list[int], now: float) -> bool:
            rounds.append((inputs, now))
            return False

        def deadline(self) -> float:
            return NEVER

    def now_and_a_stop() -> float:
        now = clock.now()
        if not arrived:  # the stop: by the time that it is over the time is no longer what it was
            arrived.append(clock.now())
            turn.bring(2)
        return now

    turn: Turn[int] = Turn(Reader(), now_and_a_stop, lambda error: None)
    turn.bring(1)
    assert [inputs for inputs, _ in rounds] == [[1], [2]]
    assert rounds[1][1] >= arrived[0]


def test_an_input_brought_from_within_a_round_is_worked_on_after_it(running: Running) -> None:
    """As when a call to a peer fails at once, in the very thread that sends."""
    running.worker.during = lambda: running.turn.bring(2) if running.worker.seen == [1] else None
    running.turn.bring(1)
    assert running.worker.batches == [[1], [2]]


@pytest.mark.parametrize("max_rounds", [1, 4])
def test_nothing_is_stranded_however_many_bring_at_once(max_rounds: int) -> None:
    """No deadline ever comes here, so an input that is overlooked once stays in the inbox."""
    running = Running(max_rounds)
    threads, each = 8, 1500
    start = threading.Barrier(threads)

    def bring_many(first: int) -> None:
        start.wait()
        for item in range(first, first + each):
            running.turn.bring(item)

    bringers = [threading.Thread(target=bring_many, args=(k * each,)) for k in range(threads)]
    for bringer in bringers:
        bringer.start()
    for bringer in bringers:
        bringer.join()
    wait_until(lambda: len(running.worker.seen) == threads * each, "every input is taken")
    assert sorted(running.worker.seen) == list(range(threads * each))
    assert running.worker.overlaps == 0
    running.turn.finish(Worker)


class LockWithAVisitor:
    """A lock at whose release somebody else comes by: between the holder's last look and the moment it is free."""

    def __init__(self, visit: Callable[[], None]) -> None:
        self._visit = visit
        self._lock = threading.Lock()

    def acquire(self, blocking: bool = True) -> bool:
        return self._lock.acquire(blocking)

    def release(self) -> None:
        self._visit()
        self._lock.release()


@pytest.mark.parametrize("holder", ["bringer", "timer"])
def test_an_input_that_comes_just_as_the_turn_is_given_back_is_not_stranded(holder: str) -> None:
    running = Running()
    visits = [2]

    def visit() -> None:
        if visits and running.worker.threads == ["timer" if holder == "timer" else "bringer of 1"]:
            running.bring_from_another_thread(visits.pop()).join(10)

    running.turn._lock = LockWithAVisitor(visit)  # type: ignore[assignment]
    if holder == "timer":
        running.worker.wanted_at = clock.now()
        running.turn._wake.set()
    else:
        running.bring_from_another_thread(1)
    wait_until(lambda: 2 in running.worker.seen, "the input that came last")
    running.turn._lock = threading.Lock()
    running.turn.finish(Worker)


def test_a_bringer_hands_over_to_the_timer_after_a_few_rounds(running: Running) -> None:
    running.worker.more = 50
    running.turn.bring(1)
    assert running.worker.threads[:4] == [threading.current_thread().name] * 4
    wait_until(lambda: len(running.worker.batches) == 50, "the timer goes on")
    assert set(running.worker.threads[4:]) == {"timer"}


def test_a_bringer_hands_over_though_inputs_go_on_coming(running: Running) -> None:
    def bring_another() -> None:
        if len(running.worker.batches) < 50:
            running.turn.bring(len(running.worker.batches))

    running.worker.during = bring_another
    running.turn.bring(0)
    running.worker.wait_for_rounds(50)
    assert running.worker.threads.count(threading.current_thread().name) <= 4


def test_what_was_handed_over_is_not_lost_if_nothing_else_ever_comes(running: Running) -> None:
    for rounds in range(1, 12):
        running.worker.more = rounds
        running.turn.bring(rounds)
        running.worker.wait_for_rounds(sum(range(rounds + 1)))


def test_a_round_comes_at_the_deadline_without_any_input(running: Running) -> None:
    running.worker.wanted_at = due = clock.now() + 0.05
    running.turn.bring(1)  # the holder tells the timer
    wait_until(lambda: len(running.worker.batches) == 2, "the timer's round")
    assert clock.now() >= due
    assert running.worker.batches == [[1], []]
    assert running.worker.threads[1] == "timer"


def test_a_deadline_that_gets_earlier_wakes_the_timer(running: Running) -> None:
    running.worker.wanted_at = clock.now() + 30
    running.turn.bring(1)
    running.worker.wanted_at = clock.now() + 0.05
    running.turn.bring(2)
    wait_until(lambda: len(running.worker.batches) == 3, "the timer's round", seconds=5)


@pytest.mark.parametrize("by_the_timer", [False, True])
def test_an_exception_ends_it_all(by_the_timer: bool) -> None:
    """Hazards 13 and 51: after a failed round there is never another one."""
    running = Running()

    def fail() -> None:
        raise OSError("the disk is gone")

    if by_the_timer:
        running.worker.wanted_at = clock.now() + 0.03
        running.turn.bring(0)
    running.worker.during = fail
    if not by_the_timer:
        running.turn.bring(1)
    wait_until(lambda: running.failures, "the failure is told")
    rounds = len(running.worker.batches)
    running.worker.during = lambda: None
    running.turn.bring(2)
    running.turn.bring(3)
    assert len(running.worker.batches) == rounds
    assert [str(error) for error in running.failures] == ["the disk is gone"]
    running.turn.finish(Worker)


def test_after_the_end_all_inputs_go_to_the_last_worker(running: Running) -> None:
    running.turn.bring(1)
    last = Worker()
    running.turn.finish(lambda: last)
    running.turn.bring(2)
    assert (running.worker.seen, last.seen) == ([1], [2])


def test_the_end_waits_for_the_round_that_is_under_way_and_leaves_nothing_in_the_inbox(running: Running) -> None:
    gate = Gate()
    running.worker.during = gate
    holder = running.bring_from_another_thread(1)
    assert gate.reached.wait(10)
    last = Worker()
    ending = threading.Thread(target=running.turn.finish, args=(lambda: last,))
    ending.start()
    running.turn.bring(2)
    assert ending.is_alive()
    gate.open()
    ending.join(10)
    holder.join(10)
    assert sorted(running.worker.seen + last.seen) == [1, 2]
