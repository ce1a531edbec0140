"""How long a failover takes, and whether load alone causes elections: measurements of real processes on this machine.

    python -m tests.nemesis.measure failover [--kills 20]      kill -9 of the leader, time to the next write
    python -m tests.nemesis.measure rolling [--rounds 10]      restarts of all nodes in turn, while clients write
    python -m tests.nemesis.measure load [--minutes 10]        as many writes as go through, and nothing else

Default configuration, 5 nodes. Each prints its figures, and exits 0 only if they are as good as promised: a median of
less than a second and never more than three; no failed call and never 200 ms without an acknowledged write; no
election.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Final

from raftkv import Client, Error
from tests.support.processes import ROOT, Cluster, Finished, Node
from tests.support.rolling import Writers, restart_each

MEDIAN_SECONDS: Final = 1.0
LONGEST_SECONDS: Final = 3.0
LONGEST_GAP_SECONDS: Final = 0.2

_LOAD_PROCESSES: Final = 2
_LOAD_IN_FLIGHT: Final = 500
"""Of each of them."""
_LOAD_KEYS: Final = 16_000
"""Written over and over again."""
_LOAD_VALUE: Final = b"x" * 100


# ---- failover --------------------------------------------------------------------------------------------------------


def measure_failovers(cluster: Cluster, kills: int) -> list[float]:
    """Kill the leader that often; seconds from each kill to the next acknowledged write."""
    measured = []
    with cluster.client(timeout=20.0) as client:
        for i in range(kills):
            cluster.wait_caught_up()
            leader = cluster.leader()
            client.set("before", str(i))
            began = time.monotonic()
            leader.kill()
            client.set("after", str(i))
            measured.append(time.monotonic() - began)
            print(f"kill {i + 1:2}: {measured[-1]:.2f} s", flush=True)
            leader.start()
    return measured


def failover(kills: int, nodes: int) -> bool:
    """Whether the failovers are as fast as promised."""
    with tempfile.TemporaryDirectory() as directory, Cluster(Path(directory), nodes) as cluster:
        cluster.start()
        measured = measure_failovers(cluster, kills)
    median, longest = statistics.median(measured), max(measured)
    print(f"{kills} kills of the leader of {nodes} nodes: median {median:.2f} s, longest {longest:.2f} s")
    return median < MEDIAN_SECONDS and longest <= LONGEST_SECONDS


# ---- rolling restarts ------------------------------------------------------------------------------------------------


def rolling(rounds: int, nodes: int) -> bool:
    """Whether clients notice as little of rolling restarts as promised."""
    gaps, failed, hand_overs, restarts = [], 0, 0, 0

    def stopped(node: Node, finished: Finished) -> None:
        nonlocal hand_overs, restarts
        restarts += 1
        hand_overs += "has handed over to" in finished.stderr

    with tempfile.TemporaryDirectory() as directory, Cluster(Path(directory), nodes) as cluster:
        cluster.start()
        cluster.leader()
        for i in range(rounds):
            with Writers(cluster.addresses) as noticed:
                began = time.monotonic()
                restart_each(cluster, stopped)
                ended = time.monotonic()
            gap, at = noticed.longest_gap(began, ended)
            gaps.append(gap)
            failed += len(noticed.failed)
            written = len(noticed.acknowledged_at)
            print(
                f"round {i + 1:2}: {ended - began:.1f} s, {written} writes, {len(noticed.failed)} failed, longest gap "
                f"{1000 * gap:.0f} ms, {at - began:.1f} s after the start",
                flush=True,
            )
            for error in noticed.failed:
                print(error)
    median, longest = statistics.median(gaps), max(gaps)
    print(
        f"{restarts} restarts of {nodes} nodes, {hand_overs} of them of the leader: {failed} calls failed; longest gap "
        f"of a round {1000 * median:.0f} ms in the median, {1000 * longest:.0f} ms at most"
    )
    return not failed and longest <= LONGEST_GAP_SECONDS


# ---- load ------------------------------------------------------------------------------------------------------------


def load(minutes: float, nodes: int) -> bool:
    """Whether no election came while the cluster had as much to do as it could."""
    with tempfile.TemporaryDirectory() as directory, Cluster(Path(directory), nodes) as cluster:
        cluster.start()
        cluster.leader()
        cluster.wait_caught_up()
        before, logs_before = _terms(cluster), [len(node.whole_log) for node in cluster.nodes]
        command = [sys.executable, "-m", "tests.nemesis.measure", "writer", "--minutes", str(minutes)]
        writers = [
            subprocess.Popen([*command, *cluster.addresses], cwd=ROOT, stdout=subprocess.PIPE, text=True)
            for _ in range(_LOAD_PROCESSES)
        ]
        said = [writer.communicate()[0] for writer in writers]
        after = _terms(cluster)
        written, failed = (sum(int(line.split()[column]) for line in said) for column in (0, 1))
        logs = [node.whole_log[begin:] for node, begin in zip(cluster.nodes, logs_before, strict=True)]
    rate = written / (minutes * 60)
    print(f"{written} writes in {minutes:g} minutes ({rate:.0f}/s), {failed} failed; terms {before} -> {after}")
    for line in sorted(line for log in logs for line in log.splitlines()):
        print(line)
    return before == after and not failed


def _terms(cluster: Cluster) -> list[int]:
    """Of every node that answers."""
    cluster.leader()
    return sorted({reply.term for node in cluster.nodes if (reply := node.status(timeout=5.0))})


def write_for(minutes: float, addresses: Sequence[str]) -> None:
    """One process's share of the load. Prints how many writes were acknowledged, and how many failed."""
    until = time.monotonic() + minutes * 60
    written = failed = 0
    in_flight: deque[Future[None]] = deque()
    with Client(addresses) as client:
        for i in itertools.count():
            if time.monotonic() < until:
                in_flight.append(client.set_async(f"key/{i % _LOAD_KEYS}", _LOAD_VALUE))
                if len(in_flight) < _LOAD_IN_FLIGHT:
                    continue
            elif not in_flight:
                break
            try:
                in_flight.popleft().result()
                written += 1
            except Error as error:
                failed += 1
                print(error, file=sys.stderr)
    print(written, failed)


def main() -> int:
    """Exit status 0: as good as promised; 1: not; 2: wrong usage."""
    parser = argparse.ArgumentParser(prog="measure", description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    failovers = commands.add_parser("failover")
    failovers.add_argument("--kills", type=int, default=20)
    rolled = commands.add_parser("rolling")
    rolled.add_argument("--rounds", type=int, default=10)
    loaded = commands.add_parser("load")
    for command in (failovers, rolled, loaded):
        command.add_argument("--nodes", type=int, default=5)
    writer = commands.add_parser("writer")
    for command in (loaded, writer):
        command.add_argument("--minutes", type=float, default=10.0)
    writer.add_argument("addresses", nargs="+")
    arguments = parser.parse_args()
    if arguments.command == "writer":
        write_for(arguments.minutes, arguments.addresses)
        return 0
    if arguments.command == "failover":
        return 0 if failover(arguments.kills, arguments.nodes) else 1
    if arguments.command == "rolling":
        return 0 if rolling(arguments.rounds, arguments.nodes) else 1
    return 0 if load(arguments.minutes, arguments.nodes) else 1


if __name__ == "__main__":
    sys.exit(main())
