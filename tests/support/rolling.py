"""A rolling restart under the load of library clients, and what they notice of it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from raftkv import Client, Error
from tests.support.processes import Cluster, Finished, Node, wait_until


@dataclass
class Noticed:
    """By all writers together."""

    acknowledged_at: list[float] = field(default_factory=list)
    """Seconds (`time.monotonic`), in order."""
    failed: list[str] = field(default_factory=list)

    def longest_gap(self, since: float, until: float) -> tuple[float, float]:
        """(seconds, when it began): the longest time between two acknowledged writes, within these bounds."""
        times = [since, *(t for t in sorted(self.acknowledged_at) if since <= t <= until), until]
        return max((later - earlier, earlier) for earlier, later in pairwise(times))


class Writers:
    """Threads that write, one call after the other, from the beginning to the end of a `with` block."""

    def __init__(self, addresses: Sequence[str], clients: int = 2, threads: int = 2, timeout: float = 10.0) -> None:
        """`threads` for each of the `clients`; `timeout` of a call, seconds."""
        self.noticed = Noticed()
        self._clients = [Client(addresses, timeout) for _ in range(clients)]
        self._stopping = threading.Event()
        self._threads = [
            threading.Thread(target=self._write, args=(client, f"{i}/{j}"))
            for i, client in enumerate(self._clients)
            for j in range(threads)
        ]

    def __enter__(self) -> Noticed:
        for thread in self._threads:
            thread.start()
        wait_until(lambda: len(self.noticed.acknowledged_at) > 20 * len(self._threads), "writes go through")
        return self.noticed

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        for thread in self._threads:
            thread.join()
        for client in self._clients:
            client.close()

    def _write(self, client: Client, name: str) -> None:
        i = 0
        while not self._stopping.is_set():
            i += 1
            try:
                client.set(f"{name}/{i % 100}", str(i))
                self.noticed.acknowledged_at.append(time.monotonic())
            except Error as error:
                self.noticed.failed.append(f"{error.code}: {error}")


def restart_each(cluster: Cluster, stopped: Callable[[Node, Finished], None] = lambda node, finished: None) -> None:
    """SIGTERM, wait for the end, start again and wait until it has caught up; one node after the other. `stopped` is
    told of each end."""
    for node in cluster.nodes:
        stopped(node, node.stop())
        node.start()
        wait_until(lambda node=node: _has_caught_up(cluster, node), f"{node} has caught up")  # type: ignore[misc]


def _has_caught_up(cluster: Cluster, node: Node) -> bool:
    leader = cluster.find_leader()
    theirs = leader.status() if leader is not None else None
    ours = node.status()
    return theirs is not None and ours is not None and ours.commit_index >= theirs.commit_index - 100
