"""How a node that joins finds its place, against members that the test plays."""

from __future__ import annotations

import pytest

from raftkv import joining
from raftkv.joining import CannotJoin, Place, find_place
from raftkv.log_storage import Identity
from tests.client.fake_cluster import FakeCluster
from tests.support.processes import free_addresses

CLUSTER = b"the tests' own !"


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(joining, "FIRST_TIME_S", 1.0)
    monkeypatch.setattr(joining, "AGAIN_S", 0.5)


def known(member: int, address: str = "", cluster_id: bytes = CLUSTER) -> Identity:
    return Identity(member, {}, b"i" * 16, cluster_id, address)


def test_the_leader_says_where_a_node_belongs() -> None:
    with FakeCluster() as cluster:
        (asked,) = (member.address for member in cluster.members.values() if member.id == 2)
        assert find_place(3, None, [asked]) == Place(cluster.members[3].address, CLUSTER, is_said=True)
        assert find_place(3, known(3, "old:1"), [asked]) == Place(cluster.members[3].address, CLUSTER, is_said=True)


def test_a_new_node_that_finds_no_leader_can_not_join() -> None:
    with pytest.raises(CannotJoin, match=r"cannot join the cluster: no member answers at .*; name members that are"):
        find_place(3, None, free_addresses(1))


def test_a_node_that_knows_its_place_needs_nobody() -> None:
    assert find_place(3, known(3, "here:1"), free_addresses(1)) == Place("here:1", CLUSTER)
    founder = Identity(3, {1: "a:1", 3: "c:1"}, b"i" * 16, CLUSTER)
    assert find_place(3, founder, free_addresses(1)) == Place("c:1", CLUSTER)


def test_who_is_no_member_can_not_join() -> None:
    with FakeCluster() as cluster, pytest.raises(CannotJoin, match=r"node 9 is not one of its members .*ADD 9=<host>"):
        find_place(9, None, cluster.addresses)


def test_a_directory_of_another_cluster_can_not_join() -> None:
    with FakeCluster() as cluster, pytest.raises(CannotJoin, match="this node's directory belongs to another one"):
        find_place(3, known(3, "c:1", b"another cluster!"), cluster.addresses)
