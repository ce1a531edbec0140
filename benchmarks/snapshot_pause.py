"""How long do writes wait while a node saves its state?

    python -m benchmarks.snapshot_pause [--keys N] [--members N] [--dir PATH]

Starts a cluster on this machine, fills it with keys until the log is about to be compacted, then writes one key after
the other and notes how long each write took: some seconds without, and as long as a snapshot is being saved with one.
Then the leader is killed and started again. Needs the test dependencies.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections import deque
from concurrent.futures import Future
from pathlib import Path

from raftkv import Client
from tests.support.processes import Cluster

_VALUE_BYTES = 100
_ENTRY_BYTES = 150
"""What a write takes in the log, about."""


def main() -> int:
    parser = argparse.ArgumentParser(description="How long do writes wait while a node saves its state?")
    parser.add_argument("--keys", type=int, default=1_000_000)
    parser.add_argument("--members", type=int, default=1)
    parser.add_argument("--dir", type=Path, help="where the nodes keep their data (default: a temporary directory)")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.dir) as directory:
        settings = {"SNAPSHOT_LOG_BYTES": arguments.keys * _ENTRY_BYTES, "SNAPSHOT_LOG_ENTRIES": 10**9}
        with Cluster(Path(directory, "cluster"), size=arguments.members, settings=settings) as cluster:
            cluster.start()
            with cluster.client(timeout=60.0) as client:
                _measure(cluster, client, arguments.keys)
    return 0


def _measure(cluster: Cluster, client: Client, keys: int) -> None:
    began = time.monotonic()
    _fill(client, range(keys))
    print(f"{keys:,} keys written in {time.monotonic() - began:.1f} s")
    _show("writes without a snapshot", [_timed_write(client, n) for n in range(2000)])
    waits: list[float] = []
    leader = cluster.leader()
    extra = 0
    while not (_saves(leader.data_dir) or _saved(leader.log)):  # fill the log up to where the save begins
        _fill(client, range(extra, extra + 1000))
        extra += 1000
    began = time.monotonic()
    while not _saved(leader.log):
        waits.append(_timed_write(client, len(waits)))
    print(f"saved in {time.monotonic() - began:.1f} s: {_saved(leader.log)}")
    _show("writes while the state is saved and adopted", waits)
    _show("writes afterwards", [_timed_write(client, n) for n in range(2000)])
    leader.kill()
    began = time.monotonic()
    leader.start()
    print(f"the leader started again within {time.monotonic() - began:.1f} s")


def _saves(directory: Path) -> bool:
    return any(path.name.startswith("new-snapshot-") for path in directory.iterdir())


def _saved(log: str) -> str:
    return next((line.partition("INFO ")[2] for line in log.splitlines() if "has saved its state" in line), "")


def _timed_write(client: Client, number: int) -> float:
    began = time.perf_counter()
    client.set(f"key-{number:012}", b"w" * _VALUE_BYTES)
    return time.perf_counter() - began


def _fill(client: Client, numbers: range) -> None:
    waiting: deque[Future[None]] = deque()
    for number in numbers:
        waiting.append(client.set_async(f"key-{number:012}", b"v" * _VALUE_BYTES))
        if len(waiting) == 2000:
            waiting.popleft().result()
    for future in waiting:
        future.result()


def _show(what: str, waits: list[float]) -> None:
    if not waits:
        return
    milliseconds = sorted(1000 * wait for wait in waits)
    at = [milliseconds[min(int(share * len(waits)), len(waits) - 1)] for share in (0.5, 0.99, 0.999)]
    figures = f"p50 {at[0]:.1f}, p99 {at[1]:.1f}, p99.9 {at[2]:.1f}, longest {milliseconds[-1]:.1f} ms"
    print(f"{what}: {len(waits):,}; {figures}")


if __name__ == "__main__":
    raise SystemExit(main())
