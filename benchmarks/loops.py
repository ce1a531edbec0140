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
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Any, Final

import grpc

from benchmarks.work import Order, Record, key, read_index, reads_in, value

_TICK_S: Final = 0.0005
"""How often an open loop looks at the clock."""
_SWITCH_S: Final = 0.001
"""How long the clock's thread may have to wait for the client's, which would be counted as latency of the system."""
_LAST_ANSWERS_S: Final = 15.0
"""How long what is in flight may take when the load has ended."""


class Load:
    """One round's keys, times and errors. A client has `set(key, value)` and `get(key)`, or the same with _async."""

    def __init__(self, order: Order, client: Any) -> None:
        self.order = order
        self.client = client
        self.record = Record.empty(order.max_ops)
        self.is_read = bytes(reads_in(order.work, i) for i in range(order.max_ops))
        self.keys: list[bytes] = [
            key(order.read_prefix, read_index(i, order.read_keys)) if reads else key(order.prefix, i)
            for i, reads in enumerate(self.is_read)
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
        if not self.first_error:
            text = f"{error.code()} {error.details()}" if isinstance(error, grpc.Call) else str(error)
            self.first_error = f"{type(error).__name__}: {text}"

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
            self._lane()()

    def _lane(self) -> Callable[[], None]:
        """One operation in flight: what begins its next one. A closure: its variables are the cheapest to reach."""
        client, keys, val, is_read, most = self.client, self.keys, self.value, self.is_read, self.order.max_ops
        starts, ends, take, clock = self.record.starts, self.record.ends, self.numbers.__next__, time.perf_counter
        set_async = client.set_async
        i = 0

        def begin_next() -> None:
            nonlocal i
            i = take()
            if i >= most or self.stopped:
                self.lane_ended()
                return
            starts[i] = clock()
            try:
                future = client.get_async(keys[i]) if is_read[i] else set_async(keys[i], val)
            except Exception as error:
                end(error)
                return
            future.add_done_callback(done)

        def done(future: Any) -> None:
            now = clock()
            try:
                if future.result() is None and is_read[i]:
                    raise _missing()
            except Exception as error:
                end(error)
                return
            ends[i] = now
            begin_next()

        def end(error: Exception) -> None:
            # A system that refuses at once would make this a loop without a wait: the lane ends, and it is told.
            self.failed(error)
            self.lane_ended()

        return begin_next


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
                if self.is_read[i]:
                    if client.get(keys[i]) is None:
                        raise _missing()
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
                if self.is_read[i]:
                    if await client.get(self.keys[i]) is None:
                        raise _missing()
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
        self._ended: list[int] = []
        """The numbers of the operations that wait no more: appending is atomic, and its length counts them."""
        self._begun = 0
        self._began = time.perf_counter()
        sys.setswitchinterval(_SWITCH_S)
        threading.Thread(target=self._run, daemon=True).start()

    def wait(self) -> None:
        super().wait()
        for i in range(self._begun):
            self.record.starts[i] = self._began + intended_at(i, self.order.rate)

    def _run(self) -> None:
        rate, most, start = self.order.rate, self.order.max_ops, self._starter()
        is_last = False
        while not is_last and self._begun < most:
            is_last = self.stopped  # before the clock: what was due when the time ended is begun, however late
            due = due_by(time.perf_counter() - self._began, rate, most)
            room_until = self.order.in_flight + len(self._ended)
            for i in range(self._begun, min(due, room_until)):
                start(i)
            for i in range(max(self._begun, room_until), due):
                self._fail(i, OverflowError("too many operations wait: the system does not keep up with the load"))
            self._begun = max(self._begun, due)
            time.sleep(_TICK_S)
        self.numbers = itertools.count(self._begun)
        deadline = time.perf_counter() + _LAST_ANSWERS_S
        while len(self._ended) < self._begun and time.perf_counter() < deadline:
            time.sleep(_TICK_S)
        if len(self._ended) == self._begun:
            self.idle.set()

    def _starter(self) -> Callable[[int], None]:
        """What begins an operation. A closure, as in `Futures`."""
        client, keys, val, is_read, ends = self.client, self.keys, self.value, self.is_read, self.record.ends
        ended, clock = self._ended.append, time.perf_counter

        def start(i: int) -> None:
            try:
                future = client.get_async(keys[i]) if is_read[i] else client.set_async(keys[i], val)
            except Exception as error:
                self._fail(i, error)
                return
            future.add_done_callback(partial(done, i))

        def done(i: int, future: Any) -> None:
            now = clock()
            try:
                if future.result() is None and is_read[i]:
                    raise _missing()
            except Exception as error:
                self._fail(i, error)
                return
            ends[i] = now
            ended(i)

        return start

    def _fail(self, i: int, error: Exception) -> None:
        self.failed(error)
        self._ended.append(i)


def _missing() -> LookupError:
    """A read of a key that was written must find it, or the figure would be that of something else."""
    return LookupError("a key that was written is not there")


def intended_at(i: int, rate: float) -> float:
    """When operation `i` of an open loop is to begin, in seconds after the loop did."""
    return i / rate


def due_by(elapsed: float, rate: float, most: int) -> int:
    """How many operations of an open loop are to have begun after so many seconds."""
    return min(int(elapsed * rate) + 1, most)
