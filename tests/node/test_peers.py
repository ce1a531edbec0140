"""Where a node sends what is for a peer that moves."""

from __future__ import annotations

from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

import pytest

from raftkv.log_storage import Identity
from raftkv.peers import Peers
from raftkv.raft.types import Configuration
from raftkv.transport import Membership
from tests.support.processes import wait_until

FOUNDERS = {1: "a:1", 2: "a:2", 3: "a:3"}


@dataclass(eq=False, slots=True)
class FakeSender:
    address: str
    has_answered: bool = False
    is_silent: bool = False
    is_closed: bool = False

    def introduce(self, membership: Membership) -> None:
        pass

    def close(self) -> None:
        self.is_closed = True


class Node:
    """Node 1's view of the others."""

    def __init__(self, address: str = FOUNDERS[2]) -> None:
        """The log says so already of node 2."""
        self.made: list[FakeSender] = []
        self.configuration = Configuration(frozenset(FOUNDERS), addresses=tuple({**FOUNDERS, 2: address}.items()))
        storage: Any = SimpleNamespace(identity=Identity(1, FOUNDERS, b"disk of node 1.."))
        self.peers = Peers(storage, self, self.connect, lambda members: None, False)  # type: ignore[arg-type]

    def connect(self, peer: int, membership: Membership) -> Any:
        self.made.append(FakeSender(membership.addresses[peer]))
        return self.made[-1]

    def move(self, address: str) -> None:
        """The log says where node 2 is to be from now on."""
        self.configuration = replace(self.configuration, addresses=tuple({**FOUNDERS, 2: address}.items()))
        self.peers.follow_configuration()

    def add_again(self, address: str) -> None:
        """The log says that another node 2 is there."""
        self.configuration = replace(
            self.configuration,
            voters=frozenset({1, 3}),
            learners=frozenset({2}),
            addresses=tuple({**FOUNDERS, 2: address}.items()),
            joined=((2, 17),),
        )
        self.peers.follow_configuration()

    def remove(self) -> None:
        self.configuration = replace(
            self.configuration, voters=frozenset({1, 3}), addresses=((1, FOUNDERS[1]), (3, FOUNDERS[3]))
        )
        self.peers.follow_configuration()

    def sender(self) -> FakeSender:
        sender: Any = self.peers.sender(2)
        return sender  # type: ignore[no-any-return]


@pytest.fixture
def node() -> Node:
    node = Node()
    assert node.sender().address == "a:2"
    return node


def test_who_moves_is_sent_to_where_it_was_as_long_as_it_is_there(node: Node) -> None:
    node.move("b:2")
    assert node.sender().address == "a:2"
    node.made[0].is_silent = True
    assert node.sender().address == "b:2"
    node.made[0].is_silent = False
    assert node.sender().address == "a:2", "it may have come back there, and know nothing of the move"


def test_once_it_has_been_heard_where_it_is_to_be_it_is_nowhere_else(node: Node) -> None:
    node.move("b:2")
    node.made[0].is_silent = True
    node.sender().has_answered = True
    node.made[0].is_silent = False
    assert node.sender().address == "b:2"
    wait_until(lambda: node.made[0].is_closed, "the sender to its former address is closed")


def test_who_is_moved_twice_is_sent_to_where_it_was_last_heard(node: Node) -> None:
    node.move("b:2")
    node.move("c:2")
    assert node.sender().address == "a:2"
    node.made[0].is_silent = True
    assert node.sender().address == "c:2"
    node.sender().has_answered = True
    node.move("d:2")
    assert node.sender().address == "c:2"
    wait_until(
        lambda: [sender.address for sender in node.made if sender.is_closed] == ["a:2", "b:2"], "both are closed"
    )


def test_a_node_to_which_nothing_was_sent_yet_is_sent_to_where_it_was_as_well() -> None:
    node = Node()
    node.move("b:2")
    assert node.sender().address == "a:2"


def test_where_founding_members_were_long_ago_does_not_matter_to_a_node_that_starts() -> None:
    assert Node("b:2").sender().address == "b:2"


@pytest.mark.parametrize("at_once", [False, True])
@pytest.mark.parametrize("address", ["a:2", "b:2"])
def test_who_is_added_again_is_not_where_its_predecessor_was(node: Node, at_once: bool, address: str) -> None:
    node.move("c:2")
    if not at_once:
        node.remove()
        assert node.sender().address == "a:2", "it is still told that it has been removed"
    node.add_again(address)
    assert node.sender().address == address
    assert node.sender() is node.made[-1], "another one, which has never been heard"
    wait_until(lambda: node.made[0].is_closed, "the sender to its predecessor is closed")
