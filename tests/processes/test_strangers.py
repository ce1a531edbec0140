"""Nodes that meet by mistake: hazards 46, 52 and 57, and rule 11 of the design (identity)."""

from __future__ import annotations

import shutil

from raftkv import Client
from tests.processes.conftest import MakeCluster
from tests.processes.test_bad_arguments import assert_one_line
from tests.support.processes import Cluster, Node, free_addresses, wait_until

PATIENT = {"ELECTION_TIMEOUT": 2}
"""Where a test counts elections, a machine that is busy for half a second must not be the reason for one."""


def terms(cluster: Cluster) -> list[int]:
    return [status.term for node in cluster.nodes if (status := node.status())]


def test_a_second_node_on_a_port_that_is_taken_is_refused_and_the_first_goes_on(make_cluster: MakeCluster) -> None:
    cluster: Cluster = make_cluster(size=1)
    cluster.start()
    second: Cluster = make_cluster(addresses=cluster.addresses)
    second[1].start(wait=False)
    assert_one_line(second[1].wait(), 1, cluster[1].address)
    with cluster.client() as client:
        for i in range(20):
            client.set(f"k{i}", "all of them reach the first one")
        assert len(client.keys()) == 20


def test_a_node_with_another_list_of_members_is_refused_by_a_cluster_that_works(make_cluster: MakeCluster) -> None:
    """Node 3 of a new cluster is given the first two addresses of one that has been at work for a while."""
    works: Cluster = make_cluster(size=3, settings=PATIENT)
    works.start()
    with works.client() as client:
        client.set("k", "v")
    works.wait_caught_up()
    before = terms(works)
    stranger: Cluster = make_cluster(addresses=[*works.addresses[:2], *free_addresses(1)])
    stranger[3].start()
    wait_until(lambda: "refuse" in stranger[3].log, "the stranger says that it is refused")
    wait_until(
        lambda: any("another list of members" in node.log for node in works.nodes), "a node says who was refused"
    )
    with works.client() as client:
        assert client.get("k") == b"v"
        client.set("k", "w")
    assert terms(works) == before, "the stranger has caused an election"
    status = stranger[3].status()
    assert status is not None
    assert (status.role, status.commit_index) != ("leader", 0)
    assert status.last_log_index == 0, "it has taken entries of a cluster that is not its own"


def test_two_clusters_that_are_new_do_not_mix(make_cluster: MakeCluster) -> None:
    """Both have never run; each thinks the shared address is its own. Whoever listens there belongs to one of them."""
    shared = free_addresses(1)
    first: Cluster = make_cluster(addresses=[*shared, *free_addresses(2)], settings=PATIENT)
    second: Cluster = make_cluster(addresses=[*shared, *free_addresses(2)], settings=PATIENT)
    first.start()
    second.start([second[2], second[3]])
    # Two of three are a majority: the second cluster works too, without its node 1.
    leaders = first.leader(), second.leader()
    first.caller(leaders[0].address).ask("SET whose the first one's")
    second.caller(leaders[1].address).ask("SET whose the second one's")
    assert first.caller(leaders[0].address).ask("GET whose").data == "the first one's"
    assert second.caller(leaders[1].address).ask("GET whose").data == "the second one's"
    first.wait_caught_up()
    replies = [node.status() for node in (*first.nodes, second[2], second[3])]
    ids = [reply.cluster_id for reply in replies if reply]
    assert len(set(ids[:3])) == 1
    assert len(set(ids[3:])) == 1
    assert ids[0] != ids[3]


def test_a_client_of_one_cluster_never_writes_into_another_one_that_its_members_name(make_cluster: MakeCluster) -> None:
    """As above, seen by a client: the list that it learns from its members leads to a leader that is not its own."""
    shared = free_addresses(1)
    first: Cluster = make_cluster(addresses=[*shared, *free_addresses(2)])
    second: Cluster = make_cluster(addresses=[*shared, *free_addresses(2)])
    first.start()
    second.start([second[2], second[3]])
    for _ in range(5):
        with Client(second.addresses[1:]) as client:
            client.set("whose", "the second one's")
            assert client.get("whose") == b"the second one's"
        with Client(first.addresses[1:]) as client:
            assert client.get("whose") is None


def test_two_clusters_with_the_same_addresses_do_not_mix_though_both_have_a_past(make_cluster: MakeCluster) -> None:
    """The same list of addresses, used twice: only the cluster's id, made by its first leader, tells them apart."""
    first: Cluster = make_cluster(size=3)
    first.start()
    with first.client() as client:
        client.set("whose", "the first one's")
    first.wait_caught_up()
    first.kill()
    second: Cluster = make_cluster(addresses=first.addresses)
    second.start()
    with second.client() as client:
        for i in range(5):
            client.set("whose", f"the second one's {i}")
    second.wait_caught_up()
    second.kill()
    # Nodes 1 and 2 of the first, node 3 of the second.
    intruder: Node = second[3]
    first.start([first[1], first[2]])
    first.leader()
    intruder.start()
    wait_until(lambda: "belongs to another cluster" in first[1].log + first[2].log + intruder.log, "somebody says so")
    with first.client() as client:
        assert client.get("whose") == b"the first one's"
        client.set("whose", "still the first one's")
    first.kill()
    second.start([second[1], second[2]])
    second.wait_caught_up()
    with second.client() as client:
        assert client.get("whose") == b"the second one's 4"


def test_a_member_started_on_the_copy_of_anothers_directory_is_refused(make_cluster: MakeCluster) -> None:
    cluster: Cluster = make_cluster(size=3)
    cluster.start()
    with cluster.client() as client:
        client.set("k", "v")
    cluster[3].kill()
    shutil.rmtree(cluster[3].data_dir)
    shutil.copytree(cluster[1].data_dir, cluster[3].data_dir)
    cluster[3].start(wait=False)
    assert_one_line(cluster[3].wait(), 1, str(cluster[3].data_dir), "node 1")
