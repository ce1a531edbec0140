"""A node that runs short of something: file descriptors, room for waiting calls (hazards 19, 49, 50)."""

from __future__ import annotations

import contextlib
import os
import resource
import socket
import time
from concurrent.futures import ThreadPoolExecutor

import grpc

from raftkv import Error
from tests.processes.conftest import MakeCluster
from tests.support.processes import Cluster, unexpected_in


def open_files(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


def test_a_node_takes_all_the_file_descriptors_that_it_may_have(make_cluster: MakeCluster) -> None:
    cluster: Cluster = make_cluster(size=1)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard - 1, hard))
    try:
        cluster.start()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert resource.prlimit(cluster[1].pid, resource.RLIMIT_NOFILE) == (hard, hard)


def test_a_node_out_of_file_descriptors_loses_nothing_and_goes_on_when_it_has_some_again(
    make_cluster: MakeCluster,
) -> None:
    """Hazard 19: connections use them all up. New ones are refused; what is connected goes on, and so does the node: it
    hands leadership over and takes it up again, each of which has to be written down."""
    cluster: Cluster = make_cluster(size=3)
    cluster.start()
    leader = cluster.leader()
    with cluster.client() as client:
        client.set("before", "v")
        soft, hard = resource.prlimit(leader.pid, resource.RLIMIT_NOFILE)
        resource.prlimit(leader.pid, resource.RLIMIT_NOFILE, (open_files(leader.pid) + 8, hard))
        host, _, port = leader.address.rpartition(":")
        with contextlib.ExitStack() as connections:
            for _ in range(40):
                connection = connections.enter_context(socket.socket())
                connection.setblocking(False)
                connection.connect_ex((host, int(port)))
            for i in range(20):
                client.set(f"during-{i}", "v")
            for _ in range(2):
                with contextlib.suppress(Error):
                    client.transfer_leadership()
                cluster.leader()
        assert leader.is_running, leader.log
        resource.prlimit(leader.pid, resource.RLIMIT_NOFILE, (soft, hard))
        cluster.wait_caught_up()
        assert len(client.keys()) == 21
    for node in cluster.nodes:
        assert not unexpected_in(node.whole_log)


def test_twice_as_many_calls_as_a_node_holds_are_refused_and_start_no_election(make_cluster: MakeCluster) -> None:
    """Hazards 49 and 50: the rest is answered RESOURCE_EXHAUSTED, before anything is done for it."""
    cluster: Cluster = make_cluster(size=3, settings={"MAX_WAITING_CALLS": 50, "CLIENT_THREADS": 16})
    cluster.start()
    leader = cluster.leader()
    before = leader.status()
    assert before is not None
    caller = cluster.caller(leader.address)
    codes: list[grpc.StatusCode | None] = []

    def flood() -> None:
        until = time.monotonic() + 3
        while time.monotonic() < until:
            calls = [caller.begin("SET k v", timeout=10) for _ in range(60)]
            for call in calls:
                error = call.exception(timeout=10)
                codes.append(error.code() if error is not None else None)  # type: ignore[attr-defined]

    with ThreadPoolExecutor(4) as pool:
        for done in [pool.submit(flood) for _ in range(4)]:
            done.result()
    assert None in codes, "nothing was served"
    assert set(codes) <= {None, grpc.StatusCode.RESOURCE_EXHAUSTED}
    after = leader.status()
    assert after is not None
    assert (after.term, after.role) == (before.term, "leader"), "the flood has caused an election"
    assert after.revision - before.revision == codes.count(None), "a refused write was applied"


def test_the_largest_value_in_many_writes_at_once_reaches_all_members(make_cluster: MakeCluster) -> None:
    """Hazards 15 and 58: gRPC's messages end at 4 MiB by default, in each direction."""
    cluster: Cluster = make_cluster(size=3)
    cluster.start()
    value = os.urandom(1024 * 1024)
    with cluster.client(timeout=30) as client:
        with ThreadPoolExecutor(8) as pool:
            for done in [pool.submit(client.set, f"k{i}", value) for i in range(12)]:
                done.result()
        assert all(client.get(f"k{i}") == value for i in range(12))
        try:
            client.set("k", value + b"x")
        except Error as error:
            assert error.code == "INVALID_ARGUMENT"  # noqa: PT017  (the class is the library's to choose)
        else:
            raise AssertionError("one byte more was taken")
    cluster.wait_caught_up()
    cluster.kill()
    cluster.start()
    with cluster.client() as client:
        assert client.get("k11") == value
