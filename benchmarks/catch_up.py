"""How long a member that was wiped takes to catch up, and what that costs the others.

    python -m benchmarks.catch_up [--megabytes 500]

Three nodes with a state of so many megabytes. One of them is removed, wiped, added again and started with nothing,
while a client writes as fast as it gets answers; how many writes a second go through is compared with before, when all
three did nothing else. Exit status 0 if at least 70% of the writes went on.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from raftkv import Client, Error
from tests.support.processes import ROOT, Cluster

PROMISED_SHARE: Final = 0.7
"""Of the rate of writes that has to be left while a member catches up."""
_VALUE_BYTES: Final = 1000
_BATCH: Final = 500
_IN_FLIGHT: Final = 100
_SPAN: Final = 10.0
"""Seconds over which the rate is taken before and after."""


def fill(cluster: Cluster, megabytes: float) -> int:
    """Write that much. How many keys it takes."""
    keys = int(megabytes * 1e6) // (_VALUE_BYTES + 16)
    with cluster.client(timeout=60.0) as client:
        for first in range(0, keys, _BATCH):
            futures = [
                client.set_async(f"fill-{n:010}", b"x" * _VALUE_BYTES) for n in range(first, min(first + _BATCH, keys))
            ]
            for future in futures:
                future.result()
    return keys


@dataclass
class Load:
    """A process that writes all the time, and says after every half second how many writes there have been."""

    process: subprocess.Popen[str]
    path: Path

    def counts(self) -> list[tuple[float, int]]:
        """(when, how many writes by then)."""
        return [
            (float(when), int(count)) for line in self.path.read_text().splitlines() for when, count in [line.split()]
        ]

    def rate(self, since: float, until: float) -> float:
        """Writes a second between two moments."""
        inside = [(when, count) for when, count in self.counts() if since <= when <= until]
        (first, count), (last, end) = inside[0], inside[-1]
        return (end - count) / (last - first)

    def slowest(self, since: float, until: float) -> float:
        """The longest time between two that had seen no write."""
        longest, begin = 0.0, since
        previous = -1
        for when, count in self.counts():
            if when < since or when > until:
                continue
            if count != previous:
                previous, begin = count, when
            longest = max(longest, when - begin)
        return longest


def start_load(cluster: Cluster) -> Load:
    path = cluster.directory / "load"
    command = [sys.executable, "-m", "benchmarks.catch_up", "--write", str(path), *cluster.addresses]
    return Load(subprocess.Popen(command, cwd=ROOT, text=True), path)


def write_all_the_time(path: Path, addresses: Sequence[str]) -> None:
    """What the process does."""
    counts = [0]
    with Client(addresses, timeout=30.0) as client, path.open("w", buffering=1) as out:

        def again(number: int) -> None:
            future = client.set_async(f"load-{number % 1000}", b"y" * 100)

            def done(_: object) -> None:
                try:
                    future.result()
                    counts[0] += 1
                except Error as error:
                    print(error, file=sys.stderr)
                again(number + _IN_FLIGHT)

            future.add_done_callback(done)

        for number in range(_IN_FLIGHT):
            again(number)
        while True:
            out.write(f"{time.monotonic()} {counts[0]}\n")
            time.sleep(0.5)


def wait_for(condition: Callable[[], bool], seconds: float) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, f"not within {seconds} s"
        time.sleep(0.1)


def catch_up(megabytes: float) -> bool:
    """Whether it goes as is promised. Prints the figures, and the nodes' logs to stderr."""
    with tempfile.TemporaryDirectory() as directory, Cluster(Path(directory), 3) as cluster:
        cluster.start()
        cluster.leader()
        keys = fill(cluster, megabytes)
        cluster.wait_caught_up(120)
        print(f"{keys} keys with values of {_VALUE_BYTES} bytes: {megabytes:g} MB", flush=True)
        load = start_load(cluster)
        try:
            return _measure(cluster, load)
        finally:
            load.process.kill()
            load.process.wait()


def _measure(cluster: Cluster, load: Load) -> bool:
    time.sleep(3.0)
    before = time.monotonic()
    time.sleep(_SPAN)
    node = cluster.followers()[0]
    with cluster.client(timeout=60.0) as client:
        client.remove_member(node.id)
        node.kill()
        shutil.rmtree(node.data_dir)
        away = time.monotonic()
        time.sleep(_SPAN)
        began = time.monotonic()
        client.add_member(node.id, node.address)
        node.joins = True
        node.start()
        wait_for(lambda: "replaces its log" in node.log, 600)
        installed = time.monotonic()
        cluster.wait_voter(client, node, 600)
        ended = time.monotonic()
    time.sleep(_SPAN)
    rates = [
        load.rate(before, away),
        load.rate(away, began),
        load.rate(began, ended),
        load.rate(ended, time.monotonic()),
    ]
    print(f"the snapshot was there after {installed - began:.1f} s, and it had its vote after {ended - began:.1f} s")
    names = ["with all three", "with two", "while it caught up", "afterwards"]
    for name, rate in zip(names, rates, strict=True):
        print(f"    {rate:8.0f} writes a second {name}")
    print(f"    longest time without a write meanwhile: less than {load.slowest(began, ended) + 0.5:.1f} s")
    print(f"    {rates[2] / rates[0]:.0%} of the writes went on")
    for line in sorted(line for each in cluster.nodes for line in each.whole_log.splitlines()):
        print(line, file=sys.stderr)
    return rates[2] >= PROMISED_SHARE * rates[0]


def main() -> int:
    """Exit status 0: as good as promised; 1: not."""
    formatter = argparse.RawTextHelpFormatter
    parser = argparse.ArgumentParser(prog="catch_up", description=__doc__, formatter_class=formatter)
    parser.add_argument("--megabytes", type=float, default=500.0)
    parser.add_argument("--write", nargs="+", metavar="WORD", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.write:
        write_all_the_time(Path(arguments.write[0]), arguments.write[1:])
    return 0 if catch_up(arguments.megabytes) else 1


if __name__ == "__main__":
    sys.exit(main())
