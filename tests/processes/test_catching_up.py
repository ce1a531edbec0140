"""Real nodes that lack what the others have forgotten: they are sent a snapshot, whatever is killed meanwhile."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping
from concurrent.futures import Future
from pathlib import Path

from raftkv import Client
from tests.processes.conftest import MakeCluster
from tests.support.processes import Cluster, Node, size_of, unexpected_in, wait_until

SMALL = {"SNAPSHOT_LOG_BYTES": 20_000, "KEPT_LOG_BYTES": 10_000, "SEGMENT_BYTES": 8192}
LARGE = {"SNAPSHOT_LOG_BYTES": 2_000_000, "KEPT_LOG_BYTES": 1_000_000, "SEGMENT_BYTES": 1_000_000}
VALUE = "v" * 500_000
VALUES = 80
"""With values of that size: some 40 MB, of which the transfer takes long enough to be caught in the middle."""


def without(cluster: Cluster, node: Node) -> list[Node]:
    return [other for other in cluster.nodes if other is not node]


def write(client: Client, count: int, value: str = "v" * 200, mark: str = "") -> None:
    """So many keys, each once."""
    waiting: deque[Future[None]] = deque()
    for n in range(count):
        waiting.append(client.set_async(f"key-{n}", mark + value))
        if len(waiting) == 20:
            waiting.popleft().result()
    for future in waiting:
        future.result()


def wait_compacted(cluster: Cluster, nodes: list[Node]) -> None:
    """Until all of these have forgotten the beginning of their log, which a node that begins anew would need."""

    def is_compacted(node: Node) -> bool:
        status = node.status()
        return status is not None and status.first_log_index > 3

    wait_until(lambda: all(map(is_compacted, nodes)), "the log has been compacted", 30)


def coming_in(node: Node) -> Path | None:
    """The file of a snapshot that comes in, when some of it is there."""
    for path in node.data_dir.glob("new-snapshot-*.tmp"):
        if size_of(path) > 1_000_000:
            return path
    return None


def expect_all_the_same(cluster: Cluster, keys: int, value: str) -> None:
    """All nodes have all of it, also when they have all been killed and started again."""
    cluster.wait_caught_up(60)
    cluster.kill()
    cluster.start()
    cluster.leader()
    with cluster.client() as client:
        assert client.get(f"key-{keys - 1}") == value.encode()
        assert len(client.keys("key-")) == keys
        wait_until(lambda: {status.keys for status in client.status()} == {len(client.keys())}, "all have all keys")
    for node in cluster.nodes:
        assert not unexpected_in(node.whole_log)
        # One may be there while the node saves its state, as it may have to when it has just started.
        wait_until(lambda node=node: not list(node.data_dir.glob("new-snapshot-*")), "nothing half done is left")  # type: ignore[misc]


def make_cluster_without_3(make_cluster: MakeCluster, settings: Mapping[str, object]) -> Cluster:
    """Nodes 1 and 2 of three run; node 3 has never been started."""
    cluster: Cluster = make_cluster(size=3, settings=settings)
    cluster.start(cluster.nodes[:2])
    cluster.leader()
    return cluster


def test_a_node_that_was_down_while_the_log_was_compacted_catches_up(make_cluster: MakeCluster) -> None:
    cluster: Cluster = make_cluster(size=3, settings=SMALL)
    cluster.start()
    with cluster.client() as client:
        write(client, 50, mark="old ")
        down = cluster.followers()[0]
        down.kill()
        write(client, 300)
        wait_compacted(cluster, without(cluster, down))
        began = time.monotonic()
        down.start()
        wait_until(lambda: "replaces its log" in down.log, "the snapshot is installed")
        cluster.wait_caught_up()
        assert time.monotonic() - began < 10.0
        assert "gets a snapshot of" in down.log
    expect_all_the_same(cluster, 300, "v" * 200)


def test_a_new_node_gets_everything_while_writes_go_on(make_cluster: MakeCluster) -> None:
    cluster = make_cluster_without_3(make_cluster, LARGE)
    with cluster.client() as client:
        write(client, VALUES, VALUE)
        wait_compacted(cluster, cluster.nodes[:2])
        cluster[3].start()
        while "replaces its log" not in cluster[3].log:
            client.set("beside", f"{time.monotonic()}")
        client.set("beside", "last")
        cluster.wait_caught_up(30)
        term = cluster.leader().status()
        assert term is not None
        assert term.term <= 2, "nobody was held up for so long that it sought an election"
        client.delete("beside")
    expect_all_the_same(cluster, VALUES, VALUE)


def test_a_follower_that_is_killed_in_the_middle_begins_again(make_cluster: MakeCluster) -> None:
    cluster = make_cluster_without_3(make_cluster, LARGE)
    with cluster.client() as client:
        write(client, VALUES, VALUE)
        wait_compacted(cluster, cluster.nodes[:2])
        for _ in range(2):
            cluster[3].start(wait=False)
            half = wait_until(lambda: coming_in(cluster[3]), "some of the snapshot is there", 30)
            cluster[3].kill()
            assert half.exists() or "replaces its log" in cluster[3].log
        cluster[3].start()
        cluster.wait_caught_up(30)
        assert not half.exists()
    expect_all_the_same(cluster, VALUES, VALUE)


def test_a_leader_that_is_killed_in_the_middle_is_replaced_and_so_is_its_snapshot(make_cluster: MakeCluster) -> None:
    cluster: Cluster = make_cluster(size=4, settings=LARGE)  # three of four make a majority, so the first three run
    cluster.start(cluster.nodes[:3])
    first = cluster.leader()
    with cluster.client(timeout=30.0) as client:
        write(client, VALUES, VALUE)
        wait_compacted(cluster, cluster.nodes[:3])
        cluster[4].start(wait=False)
        wait_until(lambda: coming_in(cluster[4]), "some of the snapshot is there", 30)
        first.kill()
        write(client, VALUES, VALUE)  # needs node 4, since only it makes the remaining two a majority
        assert cluster.leader() is not first
        first.start()
    expect_all_the_same(cluster, VALUES, VALUE)


def test_a_follower_that_stands_still_in_the_middle_catches_up_later(make_cluster: MakeCluster) -> None:
    # A chunk counts as lost after five times the time that other requests have.
    cluster = make_cluster_without_3(make_cluster, {**LARGE, "PEER_TIMEOUT": 0.5})
    with cluster.client(timeout=30.0) as client:
        write(client, VALUES, VALUE)
        wait_compacted(cluster, cluster.nodes[:2])
        cluster[3].start(wait=False)
        wait_until(lambda: coming_in(cluster[3]), "some of the snapshot is there", 30)
        cluster[3].pause()
        client.set("key-0", VALUE)
        leader = cluster.leader()
        wait_until(lambda: "has not arrived" in leader.log, "the leader has given up", 30)
        client.set("key-0", VALUE)
        cluster[3].resume()
        cluster.wait_caught_up(30)
    expect_all_the_same(cluster, VALUES, VALUE)
