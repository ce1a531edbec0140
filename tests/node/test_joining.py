"""How a node that joins finds its place, against members that the test plays."""

from __future__ import annotations

from dataclasses import replace

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
        cluster.learners = {3}
        (asked,) = (member.address for member in cluster.members.values() if member.id == 2)
        assert find_place(3, None, [asked]) == Place(cluster.members[3].address, CLUSTER, is_said=True)
        assert find_place(3, known(3, "old:1"), [asked]) == Place(cluster.members[3].address, CLUSTER, is_said=True)


def test_a_new_node_keeps_which_entry_has_brought_it_in() -> None:
    with FakeCluster() as cluster:
        cluster.driver.text("SET k v")
        cluster.learners, cluster.joined = {3}, {3: cluster.machine.applied_index}
        assert find_place(3, None, cluster.addresses).joined == cluster.machine.applied_index > 0


def test_a_leader_that_serves_nobody_is_not_asked_who_has_been_added() -> None:
    """It may have been stopped or cut off, and tell of an earlier member with this id."""
    with FakeCluster() as cluster:
        cluster.elect(0)
        cluster.deluded = 2
        with pytest.raises(CannotJoin, match=r"none leads \(gave up after 1 s\); name members that are"):
            find_place(3, None, cluster.addresses)


def test_an_adding_that_is_not_committed_does_not_count() -> None:
    """The member may yet be added by another entry, with a lower index."""
    with FakeCluster() as cluster:
        cluster.learners, cluster.joined = {3}, {3: cluster.machine.applied_index + 1}
        with pytest.raises(CannotJoin, match="that node 3 is added has not been committed yet"):
            find_place(3, None, cluster.addresses)


def test_an_empty_directory_can_not_stand_for_that_of_a_member_with_a_vote() -> None:
    with FakeCluster() as cluster:
        cluster.driver.text("SET k v")
        cluster.joined = {3: 1}
        with pytest.raises(CannotJoin, match=r"node 3 has a vote.*\(REMOVE 3, ADD 3=<address>\)$"):
            find_place(3, None, cluster.addresses)
        assert find_place(3, known(3), cluster.addresses)


def test_nor_for_that_of_a_founding_member_which_may_never_have_run() -> None:
    with FakeCluster() as cluster:
        says = r"node 3 has a vote.*\(REMOVE 3, ADD 3=<address>\); a founding member that has never run is started with"
        with pytest.raises(CannotJoin, match=says):
            find_place(3, None, cluster.addresses)


def test_nor_for_that_of_a_learner_which_has_lost_one_already() -> None:
    with FakeCluster() as cluster:
        cluster.driver.text("SET k v")
        cluster.learners, cluster.joined, cluster.wiped = {3}, {3: 1}, {3}
        with pytest.raises(CannotJoin, match=r"node 3 has lost its directory already.*\(REMOVE 3, ADD 3=<address>\)$"):
            find_place(3, None, cluster.addresses)


def test_a_directory_that_was_made_for_a_founding_member_and_never_used_is_no_newcomers() -> None:
    with FakeCluster() as cluster:
        founder = Identity(3, {3: "c:1"}, b"i" * 16)
        assert find_place(3, founder, cluster.addresses)
        cluster.driver.text("SET k v")
        cluster.learners, cluster.joined = {3}, {3: 1}
        with pytest.raises(CannotJoin, match="made for a founding member, but node 3 was added later; delete"):
            find_place(3, founder, cluster.addresses)


def test_a_directory_can_not_stand_for_the_one_with_which_the_member_has_its_vote() -> None:
    with FakeCluster() as cluster:
        cluster.driver.text("SET k v")
        cluster.joined, cluster.disks = {3: 1}, {3: b"i" * 16}
        assert find_place(3, known(3), cluster.addresses)
        cluster.disks = {3: b"another one's..."}
        with pytest.raises(
            CannotJoin, match=r"not the one with which node 3 has its vote.*\(REMOVE 3, ADD 3=<address>"
        ):
            find_place(3, known(3), cluster.addresses)


def test_a_leader_that_does_not_know_of_this_directorys_adding_says_nothing_of_its_disk() -> None:
    """It was stopped or cut off before."""
    with FakeCluster() as cluster:
        cluster.driver.text("SET k v")
        cluster.joined, cluster.disks = {3: 1}, {3: b"another one's..."}
        assert find_place(3, replace(known(3), joined=2), cluster.addresses)


def test_a_new_node_that_finds_no_leader_can_not_join() -> None:
    with pytest.raises(CannotJoin, match=r"cannot join the cluster: no member answers at .*; name members that are"):
        find_place(3, None, free_addresses(1))


def test_a_node_that_knows_its_place_needs_nobody() -> None:
    assert find_place(3, known(3, "here:1"), free_addresses(1)) == Place("here:1", CLUSTER)
    founder = Identity(3, {1: "a:1", 3: "c:1"}, b"i" * 16, CLUSTER)
    assert find_place(3, founder, free_addresses(1)) == Place("c:1", CLUSTER)


def test_who_is_no_member_can_not_join() -> None:
    with (
        FakeCluster() as cluster,
        pytest.raises(CannotJoin, match=r"node 9 is not one of its members .*ADD 9=<address>"),
    ):
        find_place(9, None, cluster.addresses)


def test_a_directory_of_another_cluster_can_not_join() -> None:
    with FakeCluster() as cluster, pytest.raises(CannotJoin, match="this node's directory belongs to another one"):
        find_place(3, known(3, "c:1", b"another cluster!"), cluster.addresses)
