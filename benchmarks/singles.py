"""What is measured once: starting on a long log, memory, and what is left when everything has been killed.

Each gives a row with the keys of all rows, and some of its own.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from benchmarks.clusters import Ours, PySyncObj, System
from benchmarks.long_log import lengthen
from benchmarks.machine import memory_mb
from benchmarks.plan import cluster_of
from benchmarks.rows import Case, Round, Row, pool
from benchmarks.runner import Failure, Runner, follow
from benchmarks.work import Order, Record, reads_in
from tests.support.processes import ROOT, wait_until

_FILL_S: Final = 150.0
"""How long the filling may take; what is there by then is what is measured, and the row says how much that is."""
_REPLAY_S: Final = 300.0
_NO_SNAPSHOTS: Final[dict[str, object]] = {"SNAPSHOT_LOG_BYTES": 1 << 40, "SNAPSHOT_LOG_ENTRIES": 10**12}
"""Or a node would start from one that stands for most of its log."""
_MOST_SINGLE: Final = 300_000
_KILL_AFTER_S: Final = 1.0


def _plain_row(case: Case) -> Row:
    """The keys that all rows have."""
    (row,) = pool([Round(case, 0.0, [], 0)])
    return row


@contextmanager
def _filled(
    runner: Runner, directory: Path, members: int, fill: int, settings: dict[str, object] | None = None
) -> Iterator[tuple[Ours, int]]:
    """A cluster of our own with so many keys, and how many there are."""
    case = Case("ours", members, "set", "stream", 1000)
    place = cluster_of(case)
    system = Ours(directory / f"filled-{members}", members, settings)
    with system:
        outer, runner.systems[place] = runner.systems.get(place), system
        try:
            told = runner.fill(case, max_ops=fill, seconds=_FILL_S)
            yield system, told["count"]
        finally:
            runner.systems.pop(place)
            if outer is not None:
                runner.systems[place] = outer


def memory(runner: Runner, directory: Path, fill: int) -> Row:
    """Resident memory of each of three nodes that hold so many keys of 16 bytes with values of 100."""
    with _filled(runner, directory, 3, fill) as (system, keys):
        system.cluster.wait_caught_up(seconds=_REPLAY_S)
        used = {part: round(memory_mb(pid), 1) for part, pid in system.pids().items()}
    row = _plain_row(Case("ours", 3, "memory", "stream", 0))
    return {**row, "keys": keys, "mb_per_node": max(used.values()), "mb": used}


def replay(runner: Runner, directory: Path, fill: int) -> Row:
    """How fast one node starts on a log of so many writes, as a busy client's batches leave it."""
    with _filled(runner, directory, 1, fill, _NO_SNAPSHOTS) as (system, writes):
        last = system.cluster.wait_caught_up(seconds=_REPLAY_S)
        system.kill()
        return {**_plain_row(Case("ours", 1, "replay", "stream", 0)), **start_on_log(system, last, writes)}


def replay_single(directory: Path, fill: int) -> Row:
    """The same where every write is an entry and a batch of its own, as a client leaves it that is alone."""
    writes = min(fill, _MOST_SINGLE)
    system = Ours(directory / "single", 1, _NO_SNAPSHOTS)
    with system:
        system.kill()
        node = system.cluster[1]
        last = lengthen(node.data_dir, node.id, node.address, writes, "single")
        return {
            **_plain_row(Case("ours", 1, "replay of single writes", "stream", 1)),
            **start_on_log(system, last, writes),
        }


def start_on_log(system: Ours, last: int, writes: int) -> Row:
    """Start the one node of a cluster that is down: how long it takes from exec until it serves with all applied up to
    entry `last`. Raises Failure if it was not the log alone that it started from."""
    node = system.cluster[1]
    began = time.monotonic()
    node.start(wait=False)

    def replayed() -> tuple[float, int] | None:
        status = node.status(timeout=5.0) if f"node {node.id} ready" in node.output else None
        if status is None or not status.serving or status.applied_index < last:
            return None
        return time.monotonic() - began, status.snapshot_index

    seconds, snapshot = wait_until(replayed, "the node has replayed its log", _REPLAY_S)
    if snapshot:
        raise Failure(f"it started from a snapshot, which stands for {snapshot} entries")
    return {"writes": writes, "entries": last, "seconds": round(seconds, 3), "ops_per_s": round(writes / seconds, 1)}


# ---- kill -9 of everything -------------------------------------------------------------------------------------------


def kill_all(runner: Runner, case: Case) -> Row:
    """Kill all members at once in the middle of writing, start them again, and look for every acknowledged write of the
    run. `case` says by which interface."""
    place = cluster_of(case)
    system = runner.systems[place]
    if isinstance(system, PySyncObj):
        acknowledged, missing = _after_killing_pysyncobj(runner, system, place)
    else:
        _kill_under_load(runner, case, system)
        acknowledged, missing = _checked(runner, case, system, place)
    row = _plain_row(case)
    return {**row, "work": "kill -9 of all", "acknowledged": acknowledged, "missing": missing}


def _kill_under_load(runner: Runner, case: Case, system: System) -> None:
    order = runner.order(case, seconds=2 * _KILL_AFTER_S, warm_up_s=0.0, max_ops=300_000)
    begun = threading.Event()
    with runner.generator(order, system) as (stdout, _), ThreadPoolExecutor(1) as listener:
        # The listener is the thread aside, not the killer: members die with the *thread* that has started them.
        heard = listener.submit(follow, stdout, begun.set)
        begun.wait(_REPLAY_S)
        time.sleep(_KILL_AFTER_S)
        system.kill()
        system.start()
        heard.result()  # it has errors, or none if the client was patient: what failed was not acknowledged
    runner.records.setdefault(cluster_of(case), []).append(Path(order.record))


def _checked(runner: Runner, case: Case, system: System, place: tuple[str, int]) -> tuple[int, int]:
    api = "python" if case.system == "etcd" else "stream"
    records = [str(path) for path in runner.records[place]]
    order = Order(case.system, api, "check", system.addresses(), acknowledged=records)
    command = [sys.executable, "-m", "benchmarks.load", order.to_json()]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=_REPLAY_S, check=False)
    if done.returncode:
        raise Failure((done.stderr.strip().splitlines() or ["the check ended without a word"])[-1])
    said: dict[str, Any] = json.loads(done.stdout)
    return said["acknowledged"], said["missing"]


def _after_killing_pysyncobj(runner: Runner, system: PySyncObj, place: tuple[str, int]) -> tuple[int, int]:
    """Its load is made inside a member, so it is killed after the load; and keys are counted, not compared."""
    acknowledged = 0
    for path in runner.records[place]:
        work = path.name.split("-")[2]
        acknowledged += sum(1 for i in Record.read(path).acknowledged() if not reads_in(work, i))
    system.kill()
    system.start()
    return acknowledged, max(0, acknowledged - system.keys())
