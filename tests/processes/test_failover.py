"""What clients see while nodes die, hang and come back."""

from __future__ import annotations

import itertools
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack

import grpc
import pytest

from raftkv import Client, Error, NotApplied
from tests.processes.conftest import MakeCluster
from tests.support.processes import Cluster, Node, unexpected_in, wait_until
from tests.support.ways import WAYS, Futures

FAILOVER_SECONDS = 3.0
"""From kill -9 of the leader to the next acknowledged write, at most."""


def seconds_to_next_write(cluster: Cluster, client: Client, key: str) -> float:
    """Kill the leader, and write."""
    leader = cluster.leader()
    began = time.monotonic()
    leader.kill()
    client.set(key, "written after the kill")
    return time.monotonic() - began


def test_a_write_is_acknowledged_within_three_seconds_after_the_leader_was_killed(make_cluster: MakeCluster) -> None:
    cluster: Cluster = make_cluster(size=5)
    cluster.start()
    with cluster.client() as client:
        for i in range(3):
            assert seconds_to_next_write(cluster, client, f"k{i}") <= FAILOVER_SECONDS
            cluster.start()
            cluster.wait_caught_up()
        assert [client.get(f"k{i}") for i in range(3)] == [b"written after the kill"] * 3


def test_every_acknowledged_write_survives_kill_9_of_all(make_cluster: MakeCluster) -> None:
    """The kill comes in the middle of the writing, which is done in all three ways."""
    cluster: Cluster = make_cluster(size=3)
    cluster.start()
    acknowledged: dict[type[Client], list[str]] = {way: [] for way in WAYS}

    def write(way: type[Client]) -> None:
        with way(cluster.addresses, timeout=1.5) as client:
            for i in itertools.count():
                client.set(f"{way.__name__}/{i}", str(i))
                acknowledged[way].append(f"{way.__name__}/{i}")

    with ThreadPoolExecutor(len(WAYS)) as writers:
        writing = [writers.submit(write, way) for way in WAYS]
        wait_until(lambda: min(map(len, acknowledged.values())) >= 200, "200 writes of each way are acknowledged")
        cluster.kill()
        assert all(isinstance(written.exception(), Error) for written in writing)
    cluster.start()
    with cluster.client() as client:
        keys = list(itertools.chain(*acknowledged.values()))
        missing = [key for key in keys if client.get(key) != key.partition("/")[2].encode()]
    assert not missing


class Chain:
    """Writes each of which needs the one before it: one that is missing, applied twice or out of order breaks it."""

    def __init__(self, client: Client, key: str) -> None:
        self.length = 0
        self.key = key
        self.never_sent: list[str] = []
        """Keys of writes that were cancelled, and of which it is certain that they were not applied."""
        self._client = client

    def lengthen_until(self, stopping: threading.Event) -> None:
        self._client.set(self.key, "0")
        while not stopping.is_set():
            done = self._in_flight(self._client) if isinstance(self._client, Futures) else [self._link(self._client)]
            assert all(done), f"{self.key} is broken after {self.length + done.index(False)}"
            self.length += len(done)

    def _link(self, client: Client) -> bool:
        return client.compare_and_set(self.key, str(self.length), str(self.length + 1))

    def _in_flight(self, client: Futures) -> list[bool]:
        """Many at once, and others among them that are given up, whether they have been sent by then or not."""
        links: list[Future[bool]] = []
        others: dict[str, Future[None]] = {}
        for i in range(self.length, self.length + 50):
            links.append(client.compare_and_set_async(self.key, str(i), str(i + 1)))
            others[f"{self.key}/{i}"] = client.set_async(f"{self.key}/{i}", "")
        given_up = [key for key, other in others.items() if other.cancel()]
        if client.cancelled is NotApplied:
            self.never_sent += given_up
        return [link.result(60.0) for link in links]


def test_each_way_applies_a_write_once_and_in_order_whoever_is_killed(make_cluster: MakeCluster) -> None:
    cluster: Cluster = make_cluster(size=3)
    cluster.start()
    with ExitStack() as opened:
        chains = [
            Chain(opened.enter_context(way(cluster.addresses, timeout=30.0)), f"chain of {way.__name__}")
            for way in WAYS
        ]
        stopping = threading.Event()
        with ThreadPoolExecutor(len(chains)) as pool:
            working = [pool.submit(chain.lengthen_until, stopping) for chain in chains]
            try:
                for fault in ("the leader", "all"):
                    lengths = [chain.length for chain in chains]
                    wait_until(
                        lambda lengths=lengths: all(c.length > n + 5 for c, n in zip(chains, lengths, strict=True)),  # type: ignore[misc]
                        f"all go on, and {fault} can be killed",
                        30.0,
                    )
                    cluster.kill([cluster.leader()] if fault == "the leader" else cluster.nodes)
                    cluster.start()
            finally:
                stopping.set()
            for done in working:
                done.result()
        with cluster.client() as client:
            assert [client.get(chain.key) for chain in chains] == [str(chain.length).encode() for chain in chains]
            there = {key.decode() for key in client.keys("chain of ")}
        assert not there & {key for chain in chains for key in chain.never_sent}


def test_a_minority_that_is_dead_is_not_missed_and_a_majority_is(make_cluster: MakeCluster) -> None:
    cluster: Cluster = make_cluster(size=5)
    cluster.start()
    one, two, three, four = cluster.followers()
    cluster.kill([one, two])
    with cluster.client() as client:
        client.set("k", "three of five")
        cluster.kill([three])
        with Client(cluster.addresses, timeout=1.5) as impatient:
            with pytest.raises(Error):
                impatient.set("k", "two of five")
            with pytest.raises(NotApplied):
                impatient.get("k")
        cluster.start()
        assert client.get("k") in (b"three of five", b"two of five")
    assert four.is_running


@pytest.mark.parametrize("leases", ["on", "off"])
def test_a_leader_paused_past_its_lease_never_answers_with_an_old_value(make_cluster: MakeCluster, leases: str) -> None:
    """Hazards 41 and 60. Reads are sent to it while it stands still, so it finds them when it wakes up, in whatever
    state it was stopped in; others follow as fast as it answers."""
    cluster: Cluster = make_cluster(size=3, settings={"LEASES": leases})
    cluster.start()
    with cluster.client() as client:
        for attempt in range(3):
            client.set("k", f"old {attempt}")
            paused = cluster.leader()
            bound = cluster.caller(paused.address)
            assert bound.ask("GET k").data == f"old {attempt}"
            paused.pause()
            reads = [bound.begin("GET k", timeout=20) for _ in range(20)]
            client.set("k", f"new {attempt}")
            paused.resume()
            until = time.monotonic() + 0.5
            while time.monotonic() < until:
                reads.append(bound.begin("GET k", timeout=20))
                reads[-1].exception(timeout=20)
            served = [
                read.result().data for read in reads if read.exception(timeout=20) is None and read.result().success
            ]
            assert set(served) <= {f"new {attempt}"}, "a stale read"
    for node in cluster.nodes:
        assert not unexpected_in(node.whole_log)


def test_a_follower_paused_for_long_comes_back_without_an_election(make_cluster: MakeCluster) -> None:
    """PreVote and leader stickiness: whoever was away disturbs nobody."""
    cluster: Cluster = make_cluster(size=3)
    cluster.start()
    leader = cluster.leader()
    before = leader.status()
    away, _ = cluster.followers()
    away.pause()
    with cluster.client() as client:
        until = time.monotonic() + 2.5  # longer than the longest election timeout
        while time.monotonic() < until:
            client.set("k", "v")
    away.resume()
    cluster.wait_caught_up()
    after = leader.status()
    assert before is not None
    assert after is not None
    assert (after.term, after.leader_id) == (before.term, before.leader_id)


def test_a_member_that_was_away_is_there_again_within_seconds_of_its_restart(make_cluster: MakeCluster) -> None:
    """Hazard 58: gRPC's own back-off would reach two minutes."""
    cluster: Cluster = make_cluster(size=3)
    cluster.start()
    away = cluster.followers()[0]
    away.kill()
    with cluster.client() as client:
        until = time.monotonic() + 4
        while time.monotonic() < until:
            client.set("k", "v")
    away.start()
    cluster.wait_caught_up(seconds=3)


def test_a_write_on_a_follower_does_nothing_and_names_the_leader(make_cluster: MakeCluster) -> None:
    cluster: Cluster = make_cluster(size=3)
    cluster.start()
    leader = cluster.leader()
    follower = cluster.followers()[0]
    wait_until(lambda: (s := follower.status()) and s.leader_id == leader.id, "the follower knows its leader")
    for request in ("SET k v", "GET k", "DEL k", "SETNX k v", "CAS k v w", "KEYS", "GET LEADER"):
        reply = cluster.caller(follower.address).ask(request)
        assert reply.leader_id == leader.id, request
        assert reply.success is (request == "GET LEADER"), request
    with pytest.raises(grpc.RpcError) as missing:
        cluster.caller(leader.address).ask("GET k")
    assert missing.value.code() is grpc.StatusCode.NOT_FOUND


def leader_with_the_longest_lease(cluster: Cluster, settings: dict[str, object]) -> Node:
    """A leader with these settings, while the others' leases are short, or off. An election may come in between, on a
    busy machine: then all begins anew."""
    while True:
        cluster.configure(settings)
        cluster.start()
        leader = cluster.leader()
        for node, leases in zip(cluster.followers(), ("on", "off"), strict=True):
            cluster.configure({**settings, "LEASE_DURATION": 0.1, "LEASES": leases})
            node.kill()
            node.start()
        cluster.wait_caught_up()
        if cluster.leader() is leader:
            return leader
        cluster.kill()


def test_members_with_different_leases_keep_the_longest_promise(make_cluster: MakeCluster) -> None:
    """Hazard 59. The leader's lease is long, the others' are short or off: what was promised to it still binds them."""
    lease_s = 3.0
    cluster: Cluster = make_cluster(size=3)
    leader = leader_with_the_longest_lease(cluster, {"LEASE_DURATION": lease_s, "ELECTION_TIMEOUT": 1})
    with cluster.client() as client:
        client.set("k", "old")
        leader.pause()  # its lease runs on, and it does not know that it is alone
        paused_at = time.monotonic()
        client.set("k", "new")
        waited = time.monotonic() - paused_at
    heartbeat_s = 0.1  # that much of the lease may have been gone
    assert waited >= lease_s - 2 * heartbeat_s, "the new leader has not waited for the old one's lease"
    assert "lease" in "".join(node.log for node in cluster.nodes), "nor has it said that it waits"
