"""Closed and open loops in Python: theory of operation.

A closed loop keeps N operations in flight: the answer to one begins the next. An open loop begins operation `i` at
its intended time, i / rate, whatever has become of the others, and latency counts from there, so that a stall shows in
all the operations that it has kept waiting and not only in the one that met it.

What a loop costs is taken from what is measured, for load and cluster share the machine. So keys are made beforehand,
times go into arrays, and the path of one operation makes no object of its own but the client's future.

Four ways to call a client, and so four closed loops: futures, a thread for each caller, asyncio tasks, and (an open
loop) futures by the clock.
"""

from __future__ import annotations

import asyncio
import itertools
import threading
import time
from collections.abc import Callable
from typing import Any, Final

from benchmarks.work import Order, Record, key, read_index, reads_in, value

_TICK_S: Final = 0.0002
"""How often an open loop looks at the clock."""
_LAST_ANSWERS_S: Final = 15.0
"""How long what is in flight may take when the load has ended."""


class Load:
    """One round's keys, times and errors. A client has `set(key, value)` and `get(key)`, or the same with _async."""

    def __init__(self, order: Order, client: Any) -> None:
        self.order = order
        self.client = client
        self.record = Record.empty(order.max_ops)
        self.keys: list[bytes] = [
            key(order.read_prefix, read_index(i, order.read_keys)) if self.reads(i) else key(order.prefix, i)
            for i in range(order.max_ops)
        ]
        self.value = value(order.prefix, order.value_bytes)
        self.numbers = itertools.count()
        """Taking the next one is atomic."""
        self.stopped = False
        self.errors = 0
        self.first_error = ""
        self.idle = threading.Event()
        """Everything has been answered."""
        self._running = 0
        self._lock = threading.Lock()

    def reads(self, i: int) -> bool:
        return reads_in(self.order.work, i)

    def begin(self) -> None:
        """Start the loop that the order names, in the background; `idle` is set at its end."""
        raise NotImplementedError

    def count(self) -> int:
        """How many operations were begun. Once; ends the numbering."""
        return min(next(self.numbers), self.order.max_ops)

    def wait(self) -> None:
        """Wait until what is in flight has been answered. What is not, in time, counts as an error."""
        self.stopped = True
        if not self.idle.wait(_LAST_ANSWERS_S):
            self.failed(TimeoutError("operations in flight were never answered"))

    def failed(self, error: BaseException) -> None:
        self.errors += 1
        self.first_error = self.first_error or f"{type(error).__name__}: {error}"

    def check_read(self, i: int, answer: bytes | None) -> None:
        """A read of a key that was written must find it, or the figure would be that of something else."""
        if answer is None and self.reads(i):
            raise LookupError("a key that was written is not there")

    def lanes_begin(self, count: int) -> None:
        self._running = count

    def lane_ended(self) -> None:
        with self._lock:
            self._running -= 1
            if self._running == 0:
                self.idle.set()


class Futures(Load):
    """N futures in flight from one thread's view: each one's callback begins the next operation."""

    def begin(self) -> None:
        self.lanes_begin(self.order.in_flight)
        for _ in range(self.order.in_flight):
            _Lane(self).next()


class _Lane:
    """One operation in flight."""

    __slots__ = ("_done", "_i", "_load")

    def __init__(self, load: Load) -> None:
        self._load = load
        self._i = 0
        self._done = self.done

    def next(self) -> None:
        load = self._load
        self._i = i = next(load.numbers)
        if load.stopped or i >= load.order.max_ops:
            load.lane_ended()
            return
        load.record.starts[i] = time.perf_counter()
        try:
            if load.reads(i):
                future = load.client.get_async(load.keys[i])
            else:
                future = load.client.set_async(load.keys[i], load.value)
        except Exception as error:
            load.failed(error)
            load.lane_ended()
            return
        future.add_done_callback(self._done)

    def done(self, future: Any) -> None:
        load = self._load
        try:
            load.check_read(self._i, future.result())
        except Exception as error:
            # A system that refuses at once would make this a loop without a wait: the lane ends, and it is told.
            load.failed(error)
            load.lane_ended()
            return
        load.record.ends[self._i] = time.perf_counter()
        self.next()


class Threads(Load):
    """A thread for each caller, each in a blocking call."""

    def begin(self) -> None:
        self.lanes_begin(self.order.in_flight)
        for _ in range(self.order.in_flight):
            threading.Thread(target=self._call, daemon=True).start()

    def _call(self) -> None:
        client, keys, val, numbers, clock = self.client, self.keys, self.value, self.numbers, time.perf_counter
        starts, ends, most = self.record.starts, self.record.ends, self.order.max_ops
        try:
            while not self.stopped and (i := next(numbers)) < most:
                starts[i] = clock()
                if self.reads(i):
                    self.check_read(i, client.get(keys[i]))
                else:
                    client.set(keys[i], val)
                ends[i] = clock()
        except Exception as error:
            self.failed(error)
        finally:
            self.lane_ended()


class Tasks(Load):
    """A task of an asyncio loop for each caller. `client` makes the client inside of the loop."""

    def begin(self) -> None:
        threading.Thread(target=lambda: asyncio.run(self._run(self.client)), daemon=True).start()

    async def _run(self, make_client: Callable[[], Any]) -> None:
        self.lanes_begin(self.order.in_flight)
        try:
            async with make_client() as client:
                await asyncio.gather(*(self._call(client) for _ in range(self.order.in_flight)))
        except Exception as error:
            self.failed(error)
            self.idle.set()

    async def _call(self, client: Any) -> None:
        try:
            while not self.stopped and (i := next(self.numbers)) < self.order.max_ops:
                self.record.starts[i] = time.perf_counter()
                if self.reads(i):
                    self.check_read(i, await client.get(self.keys[i]))
                else:
                    await client.set(self.keys[i], self.value)
                self.record.ends[i] = time.perf_counter()
        except Exception as error:
            self.failed(error)
        finally:
            self.lane_ended()


class OpenLoop(Load):
    """Operations begin by the clock, as futures. At most `in_flight` wait; what would be more counts as an error."""

    def begin(self) -> None:
        self.waiting = 0
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        began, begun, most = time.perf_counter(), 0, self.order.max_ops
        while not self.stopped and begun < most:
            due = due_by(time.perf_counter() - began, self.order.rate, most)
            for i in range(begun, due):
                self._start(i, began + intended_at(i, self.order.rate))
            begun = max(begun, due)
            time.sleep(_TICK_S)
        self.numbers = itertools.count(begun)
        deadline = time.perf_counter() + _LAST_ANSWERS_S
        while self.waiting and time.perf_counter() < deadline:
            time.sleep(_TICK_S)
        if not self.waiting:
            self.idle.set()

    def _start(self, i: int, intended: float) -> None:
        self.record.starts[i] = intended
        if self.waiting >= self.order.in_flight:
            self.failed(OverflowError(f"{self.waiting} operations wait: the system does not keep up with the load"))
            return
        with self._lock:
            self.waiting += 1
        call = self.client.get_async if self.reads(i) else self.client.set_async
        arguments = (self.keys[i],) if self.reads(i) else (self.keys[i], self.value)
        try:
            call(*arguments).add_done_callback(lambda future: self._done(i, future))
        except Exception as error:
            self._ended(error)

    def _done(self, i: int, future: Any) -> None:
        try:
            self.check_read(i, future.result())
        except Exception as error:
            self._ended(error)
            return
        self.record.ends[i] = time.perf_counter()
        self._ended(None)

    def _ended(self, error: Exception | None) -> None:
        with self._lock:
            self.waiting -= 1
        if error is not None:
            self.failed(error)


def intended_at(i: int, rate: float) -> float:
    """When operation `i` of an open loop is to begin, in seconds after the loop did."""
    return i / rate


def due_by(elapsed: float, rate: float, most: int) -> int:
    """How many operations of an open loop are to have begun after so many seconds."""
    return min(int(elapsed * rate) + 1, most)
