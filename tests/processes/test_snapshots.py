"""Real nodes that save their state and forget their log, while they are written to and killed."""

from __future__ import annotations

import re
import time
from collections import deque
from concurrent.futures import Future
from pathlib import Path

from tests.processes.conftest import MakeCluster
from tests.support.processes import Cluster, size_of, wait_until

SMALL = {"SNAPSHOT_LOG_BYTES": 20_000, "KEPT_LOG_BYTES": 10_000, "SEGMENT_BYTES": 8192}


def bytes_in(directory: Path) -> int:
    return sum(map(size_of, directory.iterdir()))


def overwrite(cluster: Cluster, count: int, keys: int = 100) -> None:
    """So many writes, a thousand at a time."""
    with cluster.client(timeout=60.0) as client:
        waiting: deque[Future[None]] = deque()
        for n in range(count):
            waiting.append(client.set_async(f"key-{n % keys}", f"{n:0100}"))
            if len(waiting) == 1000:
                waiting.popleft().result()
        for future in waiting:
            future.result()


def test_to_overwrite_100_keys_a_million_times_leaves_a_small_directory_and_a_quick_start(
    make_cluster: MakeCluster,
) -> None:
    cluster: Cluster = make_cluster(size=1)
    cluster.start()
    overwrite(cluster, 1_000_000)
    assert bytes_in(cluster[1].data_dir) < 64_000_000
    cluster[1].kill()
    began = time.monotonic()
    cluster[1].start()
    with cluster.client() as client:
        assert client.get("key-99") == f"{999_999:0100}".encode()
        assert time.monotonic() - began < 5.0
        assert len(client.keys()) == 100
        [status] = client.status()
    assert status.snapshot_index > 0
    assert 1 < status.first_log_index <= status.snapshot_index + 1


def test_every_member_keeps_its_directory_small(make_cluster: MakeCluster) -> None:
    """Followers save their own state, and forget their own log."""
    cluster: Cluster = make_cluster(size=3, settings=SMALL)
    cluster.start()
    overwrite(cluster, 20_000)
    cluster.wait_caught_up()
    for node in cluster.nodes:
        wait_until(lambda node=node: bytes_in(node.data_dir) < 200_000, f"{node} forgets its log")  # type: ignore[misc]
        status = node.status()
        assert status is not None
        assert status.first_log_index > 1


def test_nodes_that_are_killed_while_they_save_lose_nothing(make_cluster: MakeCluster) -> None:
    cluster: Cluster = make_cluster(size=3, settings=SMALL)
    cluster.start()
    with cluster.client() as client:
        for round in range(6):
            futures = [client.set_async(f"key-{n}", f"{round} {n:0200}") for n in range(300)]
            futures[len(futures) // 2].result()
            cluster.leader().kill()
            for future in futures:
                future.result()
            for node in cluster.nodes:
                if not node.is_running:
                    node.start()
            cluster.leader()
        for n in range(300):
            assert client.get(f"key-{n}") == f"5 {n:0200}".encode()
        wait_until(lambda: all(status.snapshot_index > 0 for status in client.status()), "every node saves its state")
    cluster.wait_caught_up()
    for node in cluster.nodes:
        node.kill()
        node.start()
    with cluster.client() as client:
        assert client.get("key-299") == f"5 {299:0200}".encode()


def test_a_node_does_not_start_on_a_damaged_snapshot(make_cluster: MakeCluster) -> None:
    cluster: Cluster = make_cluster(size=1, settings=SMALL)
    cluster.start()
    overwrite(cluster, 2000)
    wait_until(lambda: "has saved its state" in cluster[1].log, "there is a snapshot")
    cluster[1].kill()
    # Killed just then, it may have left the one before, too, or what has been cut down of that, to nothing at last.
    for path in filter(size_of, cluster[1].data_dir.glob("snapshot-*")):
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(bytes(content))
    cluster[1].start(wait=False)
    finished = cluster[1].wait()
    assert finished.status == 1
    [line] = finished.stderr.splitlines()
    assert re.search(r"snapshot-[0-9]+: damaged", line)
    assert "start this node from a copy" in line
