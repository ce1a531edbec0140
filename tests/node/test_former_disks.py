"""A machine that was given up comes back with the directory of a member that has been removed and added again since."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from raftkv.client import Client
from raftkv.joining import find_place
from raftkv.node import RaftNode, recover
from raftkv.raft.roles import Follower
from raftkv.replica import Unreachable
from raftkv.server import Server
from raftkv.settings import server_limits
from raftkv.storage import Storage, read_identity
from tests.node.members import STEADY, Members
from tests.support.processes import wait_until


@pytest.fixture
def members(tmp_path: Path) -> Iterator[Members]:
    members = Members(tmp_path, 3, STEADY)
    yield members
    members.close()


def test_it_does_not_elect_who_lacks_what_its_successor_has_acknowledged(members: Members, tmp_path: Path) -> None:
    members.start()
    leader = members.elect(1)
    with Client([members.addresses[1]]) as client:
        client.set("a", "1")
        members.stop(2)  # for good, so it is thought
        client.remove_member(2)
        client.add_member(2, members.addresses[2])
        join(members, 2, tmp_path / "2, the new one")
        wait_until(lambda: members.nodes[3].status().membership_of(2) == "voter", "the new one has a vote")
        members.stop(3)
        client.set("a", "2")
    assert members.nodes[2].status().last_log_index == leader.status().last_log_index
    members.stop()

    members.start(2, 3)  # the old one
    stand(members.nodes[3])
    wait_until(lambda: 2 in members.nodes[3].membership.wiped, "node 3 has got an answer of the old one")
    assert members.nodes[3].status().role != "leader"
    members.stop(2)

    join(members, 2, tmp_path / "2, the new one")
    assert members.ask(members.elect(2), "GET a").data == "2"


def join(members: Members, id: int, directory: Path) -> None:
    """Start a node as `--join` does."""
    fail = members.failures[id].append
    place = find_place(id, read_identity(directory), members.addresses.values())
    server = Server(server_limits(members.config), len(members.addresses) - 1, fail)
    server.listen(place.address)
    storage = Storage(
        directory, member_id=id, members=None, cluster_id=place.cluster_id, address=place.address, joined=place.joined
    )
    machine = recover(storage, lambda done, total: None)
    members.nodes[id] = RaftNode(members.config, storage, machine, server, fail)
    members.nodes[id].start()


def stand(node: RaftNode) -> None:
    """Have it ask for votes now."""
    role = node._replica.raft.role
    assert isinstance(role, Follower)
    role.election_deadline = 0.0
    node.bring(Unreachable(node.membership.me))  # any input will do
