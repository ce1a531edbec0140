"""The process that makes the load in Python: `python -m benchmarks.load ORDER`, an `Order` as JSON.

It says `begin` and `end` on stdout around the part that is measured, so that whoever started it can look at the
members' processes at these moments, and then one line of JSON: `from` and `to` (the measured part, in the clock of the
record), how many operations were begun (`count`), and what went wrong (`errors`, `first_error`). The times of all
operations go into the order's record file. etcd_load.go does the same.
"""

from __future__ import annotations

import gc
import json
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, Final

from benchmarks import echo, etcd, ours
from benchmarks.loops import Futures, Load, OpenLoop, Tasks, Threads
from benchmarks.work import PUTS_IN_TRANSACTION, Order, Record, key, reads_in, value

_READS_IN_FLIGHT: Final = 200
"""Of a check."""


def main(argument: str) -> int:
    order = Order.from_json(argument)
    if order.work == "check":
        print(json.dumps(check(order)), flush=True)
        return 0
    with _client(order) as client:
        print(json.dumps(run(_loop(order)(order, client))), flush=True)
    return 0


def _client(order: Order) -> AbstractContextManager[Any]:
    """What the loops call."""
    address = order.addresses[0]
    match order.system, order.api:
        case "ours", "stream" | "threads":
            return ours.client(order.addresses)
        case "ours", "asyncio":
            return nullcontext(lambda: ours.asyncio_client(order.addresses))
        case "ours", "unary":
            return ours.UnaryCaller(address)
        case "etcd", "python":
            return etcd.PythonCaller(address)
        case "grpcio", "unary":
            return echo.Caller(address)
        case "grpcio", "stream":
            return echo.StreamCaller(address)
    raise ValueError(f"nothing is known of {order.system} by {order.api}")


def _loop(order: Order) -> type[Load]:
    if order.rate:
        return OpenLoop
    if order.api == "asyncio":
        return Tasks
    return Futures if order.api == "stream" and order.in_flight > 1 else Threads


def run(load: Load) -> dict[str, Any]:
    """Make the load, announce the measured part, write the record; what is to be told of it."""
    order = load.order
    gc.collect()
    gc.freeze()  # the keys are no garbage: nobody should look at them again and again
    load.begin()
    since = _pause(load, order.warm_up_s, "begin")
    until = _pause(load, order.seconds, "end")
    load.wait()
    count = load.count()
    if order.record:
        load.record.write(Path(order.record), count)
    return {"from": since, "to": until, "count": count, "errors": load.errors, "first_error": load.first_error}


def _pause(load: Load, seconds: float, word: str) -> float:
    """Wait so long, or until the load has ended by itself; say the word; tell the time."""
    load.idle.wait(seconds)
    now = time.perf_counter()
    print(word, flush=True)
    return now


# ---- is everything there that was acknowledged? ----------------------------------------------------------------------


def check(order: Order) -> dict[str, Any]:
    """Read every acknowledged key. How many there are, and how many are missing or have another value."""
    acknowledged = missing = 0
    for path in order.acknowledged:
        prefix, size, numbers = _written(Path(path))
        acknowledged += len(numbers)
        with _client(order) as client:
            found = _read_etcd if order.system == "etcd" else _read_ours
            missing += len(numbers) - found(client, prefix, size, numbers)
    return {"acknowledged": acknowledged, "missing": missing}


def _written(path: Path) -> tuple[str, int, list[int]]:
    """Of a record with the name `PREFIX-BYTES-WORK...`: prefix, size of the values, and numbers of the keys written."""
    prefix, size, work = path.name.split("-")[:3]
    answered = Record.read(path).acknowledged()
    if work == "set_txn64":
        return prefix, int(size), [i * PUTS_IN_TRANSACTION + k for i in answered for k in range(PUTS_IN_TRANSACTION)]
    return prefix, int(size), [i for i in answered if not reads_in(work, i)]


def _read_etcd(client: etcd.PythonCaller, prefix: str, size: int, numbers: list[int]) -> int:
    """How many of the keys are there with their value."""
    right = value(prefix, size)
    wanted = {key(prefix, i) for i in numbers}
    return sum(1 for k, v in client.all_with_prefix(prefix.encode()) if k in wanted and v == right)


def _read_ours(client: Any, prefix: str, size: int, numbers: list[int]) -> int:
    """The same, read key by key with many reads in flight."""
    right, found = value(prefix, size), 0
    free, lock = threading.Semaphore(_READS_IN_FLIGHT), threading.Lock()

    def done(future: Any) -> None:
        nonlocal found
        is_right = future.exception() is None and future.result() == right
        with lock:
            found += is_right
        free.release()

    for k in _keys(prefix, numbers):
        free.acquire()
        client.get_async(k).add_done_callback(done)
    for _ in range(_READS_IN_FLIGHT):
        free.acquire()
    return found


def _keys(prefix: str, numbers: list[int]) -> Iterator[bytes]:
    return (key(prefix, i) for i in numbers)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
