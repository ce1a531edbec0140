"""One round: a load generator in a process of its own, and what the machine did meanwhile.

The generator says when the measured part begins and ends; at these two moments the processor time of every process is
read, and the disk's count of flushes. The entries of the log and the syncs that a member counts itself are read before
and after the whole round.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from array import array
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import IO, Any, Final

from benchmarks.clusters import Counters, PySyncObj, System
from benchmarks.machine import Usage
from benchmarks.plan import OPEN_CALLERS, cluster_of, max_ops, warm_up
from benchmarks.rows import OPEN, Case, Round
from benchmarks.work import READ_KEYS, Order, Record, read_prefix
from tests.support.processes import ROOT

_SPARE_S: Final = 60.0
"""How much longer than asked a generator may take before it is killed."""
_TRIES: Final = 3
_GO_CONNECTIONS: Final = 10
"""For many callers, as etcd's own benchmark has it; more or fewer change little."""


class Failure(Exception):
    """A generator that has not done what it was told; the text is one line."""


class Runner:
    """Knows the running clusters and what has been written to them."""

    def __init__(self, directory: Path, seconds: float, generator: Sequence[str]) -> None:
        """`directory` is for the records; `generator` the command of etcd's generator in Go, if there is one."""
        self._directory = directory
        self._seconds = seconds
        self._generator = list(generator)
        self._rounds = 0
        self.systems: dict[tuple[str, int], System] = {}
        self.records: dict[tuple[str, int], list[Path]] = {}
        """Of the rounds that wrote, by cluster: what must be there at the end."""

    # ---- rounds ------------------------------------------------------------------------------------------------------

    def measure(self, case: Case, rate: float = 0.0) -> Round:
        """One round. A failure makes a round without operations, which says what went wrong."""
        order = self.order(case, rate=rate)
        try:
            return self._measured(case, order)
        except (Failure, AssertionError, OSError) as error:
            return Round(case, self._seconds, [], 0, 1, _one_line(error), rate)

    def order(self, case: Case, **more: Any) -> Order:
        """What the load generator of a case is told."""
        self._rounds += 1
        prefix = f"w{self._rounds:05d}"
        system = self.systems[cluster_of(case)]
        callers = OPEN_CALLERS if case.mode == OPEN else case.in_flight
        order = Order(
            system=case.system,
            api=case.api,
            work=case.work,
            addresses=system.addresses(),
            in_flight=callers,
            connections=_GO_CONNECTIONS if callers >= 100 else 1,
            value_bytes=case.value_bytes,
            prefix=prefix,
            read_prefix=read_prefix(case.value_bytes),
            max_ops=max_ops(case, self._seconds),
            warm_up_s=warm_up(self._seconds),
            seconds=self._seconds,
            record=str(self._directory / f"{prefix}-{case.value_bytes}-{case.work}"),
        )
        return replace(order, **more)

    def _measured(self, case: Case, order: Order) -> Round:
        system = self.systems[cluster_of(case)]
        pids, before = system.pids(), system.counters()
        usages: list[Usage] = []
        with self.generator(order, system) as (stdout, own):
            parts = pids | own
            told = follow(stdout, lambda: usages.append(Usage.of(parts, self._directory)))
        after = system.counters()
        record = Record.read(Path(order.record))
        self._keep(case, Path(order.record))
        began, ended = usages
        since, until = told["from"], told["to"]
        return Round(
            case,
            until - since,
            latencies_of(case, record, since, until),
            told["count"],
            told["errors"],
            _one_line(told["first_error"]),
            order.rate,
            {part: ended.cpu[part] - began.cpu[part] for part in parts},
            _difference(began.flushes, ended.flushes),
            *_counted(before, after),
            answered=record.count_answered(since, until),
        )

    def _keep(self, case: Case, record: Path) -> None:
        if case.work == "get" or case.system == "grpcio":
            record.unlink()
        else:
            self.records.setdefault(cluster_of(case), []).append(record)

    # ---- generators --------------------------------------------------------------------------------------------------

    @contextmanager
    def generator(self, order: Order, system: System) -> Iterator[tuple[IO[str], dict[str, int]]]:
        """A generator at work: its stdout, and its process among the parts. It must be heard to its end."""
        if isinstance(system, PySyncObj):
            yield _begin_in_member(system, order), {}
            return
        command = self.command(order)
        process = subprocess.Popen(
            [*command, order.to_json()], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        watchdog = threading.Timer(order.warm_up_s + order.seconds + _SPARE_S, process.kill)
        watchdog.daemon = True
        watchdog.start()
        assert process.stdout is not None
        assert process.stderr is not None
        try:
            yield process.stdout, {"client": process.pid}
        except Failure:
            process.kill()
            lines = process.stderr.read().strip().splitlines() or ["it was killed: it took too long"]
            raise Failure(lines[-1]) from None
        finally:
            watchdog.cancel()
            process.kill()
            process.wait()
            process.stdout.close()
            process.stderr.close()

    def command(self, order: Order) -> list[str]:
        """How the generator of an order is started."""
        if order.api == "go":
            return self._generator
        by_library = order.system == "ours" and order.api != "unary"
        return [sys.executable, "-m", "benchmarks.library_load" if by_library else "benchmarks.load"]

    # ---- what is not measured ----------------------------------------------------------------------------------------

    def fill(self, case: Case, **more: Any) -> dict[str, Any]:
        """Write, without measuring it. What the generator tells. Raises Failure."""
        order = self.order(case, **{"warm_up_s": 0.0, "seconds": 60.0, **more})
        with self.generator(order, self.systems[cluster_of(case)]) as (stdout, _):
            told = follow(stdout)
        if told["errors"]:
            raise Failure(_one_line(told["first_error"]))
        Path(order.record).unlink()
        return told

    def fill_for_reads(self, case: Case) -> None:
        """Write the keys that are going to be read, by the interface that the case uses."""
        api = "threads" if case.api in ("asyncio", "unary") else case.api
        filler = replace(case, work="set", api=api, in_flight=32, mode="closed")
        for attempt in range(_TRIES):
            try:
                self.fill(filler, prefix=read_prefix(case.value_bytes), max_ops=READ_KEYS)
                return
            except Failure:
                # Many clusters start at the same time here, and on a busy machine one of them may elect once more.
                if attempt + 1 == _TRIES:
                    raise


def _begin_in_member(system: PySyncObj, order: Order) -> IO[str]:
    """PySyncObj's clients are its members: the leader makes the load."""
    leader = system.leader_process()
    assert leader.stdin is not None
    assert leader.stdout is not None
    leader.stdin.write(order.to_json() + "\n")
    leader.stdin.flush()
    return leader.stdout


def follow(stdout: IO[str], at_mark: Callable[[], object] = lambda: None) -> dict[str, Any]:
    """Listen to a generator until it has told what it did. `at_mark` is called when the measured part begins and
    when it ends."""
    for line in stdout:
        if line.strip() in ("begin", "end"):
            at_mark()
        else:
            told: dict[str, Any] = json.loads(line)
            return told
    raise Failure("the load generator ended without a word")


def latencies_of(case: Case, record: Record, since: float, until: float) -> array[float]:
    """Those that count of a round that was measured from `since` to `until`, in whatever language it was made. All are
    kept until the run ends, hence an array."""
    latencies = record.latencies_of_intended_ms if case.mode == OPEN else record.latencies_ms
    return array("d", latencies(since, until))


def _difference(before: int | None, after: int | None) -> int | None:
    return None if before is None or after is None else after - before


def _counted(before: Counters, after: Counters) -> tuple[int | None, int | None]:
    """Entries and syncs between."""
    return _difference(before.entries, after.entries), _difference(before.syncs, after.syncs)


def _one_line(error: object) -> str:
    return " ".join(str(error).split())[:200]
