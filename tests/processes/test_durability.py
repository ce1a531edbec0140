"""That a write is acknowledged only when it is on the disks of a majority, seen from the system calls (rule 2).

A program's own word is not good enough for this one: strace makes syncs take long, and writes down when each ended.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from raftkv import Client
from tests.processes.conftest import MakeCluster
from tests.support import strace
from tests.support.processes import Cluster, Node, unexpected_in

pytestmark = pytest.mark.skipif(bool(strace.why_not()), reason=strace.why_not())

PATIENT = {"ELECTION_TIMEOUT": 1.5, "HEARTBEAT_INTERVAL": 0.3, "LEASE_DURATION": 0.5, "PEER_TIMEOUT": 10}
"""A disk that takes half a second is no reason for an election here."""

DELAY = 0.5
"""Seconds that a slow sync takes."""


def seconds_to_write(client: Client, value: str) -> float:
    began = time.monotonic()
    client.set("key", value)
    return time.monotonic() - began


@contextlib.contextmanager
def slow_syncs(nodes: Sequence[Node], directory: Path, seconds: float = DELAY):  # type: ignore[no-untyped-def]
    """The disks of these nodes are slow."""
    with contextlib.ExitStack() as stack:
        for node in nodes:
            output = directory / f"trace-{node.id}"
            stack.enter_context(strace.Strace(node.pid, output, strace.delay(seconds)))
        yield


def test_a_write_waits_for_the_disks_of_a_majority_and_not_for_a_minority(
    make_cluster: MakeCluster, tmp_path: Path
) -> None:
    cluster: Cluster = make_cluster(size=5, settings=PATIENT)
    cluster.start()
    leader = cluster.leader()
    one, two, three, four = cluster.followers()
    with cluster.client(timeout=20) as client:
        client.set("key", "a session is opened")
        with slow_syncs([one, two], tmp_path):
            assert seconds_to_write(client, "two of five are slow") < DELAY
        with slow_syncs([one, two, three], tmp_path):
            assert seconds_to_write(client, "three of five are slow") >= DELAY
        with slow_syncs([leader, three, four], tmp_path):
            assert seconds_to_write(client, "three of five are slow, the leader among them") >= DELAY
        assert client.get("key") == b"three of five are slow, the leader among them"
    for node in cluster.nodes:
        assert not unexpected_in(node.whole_log)


def test_a_cluster_of_one_waits_for_its_own_disk(make_cluster: MakeCluster, tmp_path: Path) -> None:
    """Hazard 7."""
    cluster: Cluster = make_cluster(size=1, settings=PATIENT)
    cluster.start()
    with cluster.client(timeout=20) as client:
        client.set("key", "a session is opened")
        with slow_syncs(cluster.nodes, tmp_path):
            assert seconds_to_write(client, "slow") >= DELAY


def synced_at(trace: strace.Strace, value: str) -> float:
    """When the node's file with this value was on its disk: the end of the first sync of that file which began after
    the value had been written into it; infinitely late if there was none."""
    calls = sorted(trace.calls(), key=lambda call: call.began)
    written = next((c for c in calls if c.name in strace.WRITES and value in c.text and not c.failed), None)
    if written is None:
        return float("inf")
    syncs = [c for c in calls if c.name in strace.SYNCS and c.path == written.path and c.began >= written.ended]
    return next((call.ended for call in syncs if not call.failed), float("inf"))


def test_a_write_is_acknowledged_only_after_the_sync_that_follows_it_has_ended_on_a_majority(
    make_cluster: MakeCluster, tmp_path: Path
) -> None:
    """Each sync takes 50 ms longer than usual, so an acknowledgement that did not wait would be seen to come first."""
    cluster: Cluster = make_cluster(size=3, settings=PATIENT)
    cluster.start()
    cluster.leader()
    with cluster.client(timeout=20) as client, contextlib.ExitStack() as stack:
        client.set("key", "a session is opened")
        traces = []
        for node in cluster.nodes:
            trace = strace.Strace(
                node.pid, tmp_path / f"{node.id}", strace.delay(0.05), trace=[*strace.SYNCS, *strace.WRITES]
            )
            traces.append(stack.enter_context(trace))
        acknowledged = {}
        for i in range(5):
            client.set("key", f"the value number {i}")
            acknowledged[f"the value number {i}"] = time.time()
        cluster.wait_caught_up()
        stack.close()
    for value, moment in acknowledged.items():
        durable = [synced_at(trace, value) for trace in traces]
        assert sum(ended <= moment for ended in durable) >= 2, (
            f"{value!r}: acknowledged at {moment}, synced at {durable}"
        )
        assert max(durable) < float("inf"), "a member that has applied it has never synced it"


@pytest.mark.parametrize(("failure", "call"), [("EIO", "fdatasync"), ("ENOSPC", "pwrite64"), ("EIO", "pwrite64")])
def test_a_leader_whose_disk_fails_stops_with_one_line_and_the_others_go_on(
    make_cluster: MakeCluster, tmp_path: Path, failure: str, call: str
) -> None:
    """Hazards 13, 17 and 18. The write in question is acknowledged by the next leader, or not at all."""
    cluster: Cluster = make_cluster(size=3)
    cluster.start()
    leader = cluster.leader()
    calls = strace.SYNCS if call == "fdatasync" else strace.WRITES
    with cluster.client() as client:
        client.set("before", "v")
        # gRPC wakes its threads by writing to descriptors, and must not be hit: only files below the data directory.
        files = sorted(str(path) for path in leader.data_dir.iterdir())
        paths = [word for path in files for word in ("--trace-path", path)]
        with strace.Strace(leader.pid, tmp_path / "trace", strace.error(failure, calls), trace=calls, options=paths):
            client.set("during", "v")
            finished = leader.wait()
        assert finished.status == 1
        assert not unexpected_in(finished.stderr)
        last = finished.stderr.splitlines()[-1]
        assert str(leader.data_dir) in last
        assert {"EIO": "Input/output error", "ENOSPC": "No space left on device"}[failure] in last
        leader.start()
        cluster.wait_caught_up()
        client.set("after", "v")
        assert client.keys() == [b"after", b"before", b"during"]


def test_a_leader_whose_disk_hangs_is_replaced(make_cluster: MakeCluster, tmp_path: Path) -> None:
    """Hazard 17."""
    cluster: Cluster = make_cluster(size=3)
    cluster.start()
    leader = cluster.leader()
    with cluster.client() as client:
        client.set("before", "v")
        with slow_syncs([leader], tmp_path, seconds=5):
            assert seconds_to_write(client, "written while the leader's disk hangs") < 4
        cluster.wait_caught_up()
        assert client.get("key") == b"written while the leader's disk hangs"
